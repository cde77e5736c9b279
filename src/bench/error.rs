//! Why a load can't be run.

use std::{io, net::SocketAddr, path::PathBuf, time::Duration};

use crate::{engine::uring::UringError, proto::handshake::HandshakeError};

/// Why a load can't be run. What goes wrong while it runs are faults, which it counts.
///
/// Each says all of it in its own line, so none names a source that would be told again.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BenchError {
    /// The command line does not fit together.
    #[error("{0}")]
    Usage(String),
    /// The server's name has no address.
    #[error("looking up {host}: {error}")]
    Resolve {
        /// The name.
        host: String,
        /// Why.
        error: io::Error,
    },
    /// A connection could not be begun.
    #[error("connection {conn} to {addr}: {error}")]
    Connect {
        /// Its number.
        conn: u32,
        /// Where to.
        addr: SocketAddr,
        /// Why.
        error: io::Error,
    },
    /// The file of `--ca` is of no use.
    #[error("--ca {}: {why}", file.display())]
    Ca {
        /// Its name.
        file: PathBuf,
        /// Why.
        why: String,
    },
    /// A connection could not be secured.
    #[error("connection {conn}: TLS: {error}{}", advice(error))]
    Tls {
        /// Its number.
        conn: u32,
        /// Why.
        error: rustls::Error,
    },
    /// The server did not accept the upgrade.
    #[error("connection {conn}: {error}")]
    Upgrade {
        /// Its number.
        conn: u32,
        /// Why.
        error: HandshakeError,
    },
    /// The server went without compression.
    #[error("connection {conn}: --deflate: the server does not accept permessage-deflate")]
    NoDeflate {
        /// Its number.
        conn: u32,
    },
    /// A connection did not become ready.
    #[error("connection {conn} did not become ready: {why}")]
    Early {
        /// Its number.
        conn: u32,
        /// Why.
        why: String,
    },
    /// Some connections did not become ready in time.
    #[error(
        "only {ready} of {count} connections were ready, and no other became so for {timeout:?}"
    )]
    NotReady {
        /// How many were.
        ready: u32,
        /// How many there shall be.
        count: u32,
        /// How long it was waited.
        timeout: Duration,
    },
    /// The system allows too few descriptors.
    #[error("this needs {needed} descriptors and the system allows {hard} (ulimit -n)")]
    Descriptors {
        /// How many are needed.
        needed: u64,
        /// How many there may be.
        hard: u64,
    },
    /// io_uring was demanded and can't be had.
    #[error(transparent)]
    Uring(#[from] UringError),
    /// The server's process can't be looked at.
    #[error("the server's process {pid}: {error}")]
    Process {
        /// Its number.
        pid: i32,
        /// Why.
        error: io::Error,
    },
    /// The system refused something.
    #[error("{action}: {error}")]
    System {
        /// What was being done.
        action: &'static str,
        /// How it failed.
        error: io::Error,
    },
    /// Something that should not happen.
    #[error("internal error: {0}")]
    Internal(String),
}

impl BenchError {
    /// For `map_err`: the system refused `action`.
    pub(crate) fn system(action: &'static str) -> impl FnOnce(io::Error) -> Self {
        move |error| Self::System { action, error }
    }

    /// Whether the command line is to blame.
    pub fn is_usage(&self) -> bool {
        matches!(self, Self::Usage(_))
    }
}

/// What may help.
fn advice(error: &rustls::Error) -> &'static str {
    use rustls::{CertificateError, Error};
    match error {
        Error::InvalidCertificate(
            CertificateError::UnknownIssuer | CertificateError::BadSignature,
        ) => {
            "; --ca names a file with the certificate that has signed the server's, --insecure takes \
             any"
        }
        Error::InvalidMessage(_) => "; is it TLS that the server speaks at this port?",
        _ => "",
    }
}
