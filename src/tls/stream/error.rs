//! Why a TLS connection ends, and who is to blame.

use rustls::Error;

/// Why a TLS connection is over.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TlsError {
    /// What rustls found.
    #[error(transparent)]
    Rustls(#[from] Error),
    /// A handshake message goes on for too long.
    #[error("the handshake is too long")]
    TooLong,
    /// Nothing may be sent.
    #[error("the connection is not open")]
    NotOpen,
}

/// Why, in a word: what is counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Failure {
    /// The peer does not keep to TLS.
    Protocol,
    /// No version, cipher suite, key exchange, application protocol or certificate that suits both.
    Negotiation,
    /// The client's certificate is missing, or not accepted.
    Certificate,
    /// The peer has given up and said so.
    PeerAlert,
    /// Something here.
    Internal,
}

impl TlsError {
    /// Which kind it is.
    pub const fn failure(&self) -> Failure {
        match self {
            Self::TooLong => Failure::Protocol,
            Self::NotOpen => Failure::Internal,
            Self::Rustls(error) => match error {
                Error::InappropriateMessage { .. }
                | Error::InappropriateHandshakeMessage { .. }
                | Error::InvalidMessage(_)
                | Error::DecryptError
                | Error::PeerSentOversizedRecord
                | Error::PeerMisbehaved(_) => Failure::Protocol,
                // General: on a server, that there is no certificate for the name asked for.
                Error::PeerIncompatible(_) | Error::NoApplicationProtocol | Error::General(_) => {
                    Failure::Negotiation
                }
                Error::NoCertificatesPresented | Error::InvalidCertificate(_) => {
                    Failure::Certificate
                }
                Error::AlertReceived(_) => Failure::PeerAlert,
                _ => Failure::Internal,
            },
        }
    }
}
