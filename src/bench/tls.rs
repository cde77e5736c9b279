//! TLS from the generator's side (RFC 8446, RFC 5246): what all connections of a run share, and one
//! connection's records.
//!
//! It knows records and certificates. Sockets and frames are its callers' business.

mod channel;
mod tickets;
mod trust;

use std::sync::Arc;

use rustls::{
    CipherSuite, ClientConfig, HandshakeKind, ProtocolVersion,
    client::{Resumption, UnbufferedClientConnection},
    crypto::{CryptoProvider, aws_lc_rs},
    pki_types::ServerName,
};
use serde::Serialize;

pub(crate) use self::channel::Channel;
use self::tickets::Tickets;
use super::{BenchError, args::Settings};

/// What all connections of a run share.
#[derive(Debug)]
pub(crate) struct Tls {
    config: Arc<ClientConfig>,
    name: ServerName<'static>,
    pub(crate) figures: TlsFigures,
}

/// What was agreed on.
#[derive(Clone, Debug, Default, Serialize)]
pub(crate) struct TlsFigures {
    /// Of the first connection, as all of them offer the same.
    version: String,
    suite: String,
    group: String,
    /// Handshakes with a certificate and a signature.
    pub(crate) full: u64,
    /// Handshakes that took up an earlier session.
    pub(crate) resumed: u64,
}

impl Tls {
    /// What the settings ask for; none for a URL without TLS.
    ///
    /// # Errors
    /// If the certificates to be trusted can't be read.
    pub(crate) fn new(settings: &Settings) -> Result<Option<Self>, BenchError> {
        if !settings.target.is_secure() {
            return Ok(None);
        }
        let usage = |why: String| BenchError::Usage(why);
        let host = settings.target.host();
        let name = ServerName::try_from(host.to_owned())
            .map_err(|_| usage(format!("no certificate can be for the host {host:?}")))?;
        let provider = Arc::new(provider());
        let verifier = trust::verifier(settings.ca.as_deref(), &provider)?;
        let mut config = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(|error| BenchError::Internal(error.to_string()))?
            .dangerous()
            .with_custom_certificate_verifier(verifier)
            .with_no_client_auth();
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        config.resumption = if settings.resume {
            Resumption::store(Arc::new(Tickets::default()))
        } else {
            Resumption::disabled()
        };
        Ok(Some(Self {
            config: Arc::new(config),
            name,
            figures: TlsFigures::default(),
        }))
    }

    /// Begins a handshake: the channel has something to send.
    ///
    /// # Errors
    /// If the library refuses.
    pub(crate) fn begin(&self) -> Result<Box<Channel>, rustls::Error> {
        let config = Arc::clone(&self.config);
        let connection = UnbufferedClientConnection::new(config, self.name.clone())?;
        Ok(Box::new(Channel::new(connection)?))
    }

    /// Takes note of a handshake that is over.
    pub(crate) fn on_open(&mut self, channel: &Channel) {
        let agreed = channel.agreed();
        let figures = &mut self.figures;
        match agreed.handshake_kind() {
            Some(HandshakeKind::Resumed) => figures.resumed += 1,
            _ => figures.full += 1,
        }
        if figures.version.is_empty() {
            let name = |text: Option<String>| text.unwrap_or_default();
            let suite = agreed.negotiated_cipher_suite();
            let group = agreed.negotiated_key_exchange_group();
            figures.version = version_name(agreed.protocol_version()).to_owned();
            figures.suite = name(suite.map(|suite| format!("{:?}", suite.suite())));
            figures.group = name(group.map(|group| format!("{:?}", group.name())));
        }
    }
}

impl TlsFigures {
    /// For people.
    pub(crate) fn line(&self) -> String {
        let Self {
            version,
            suite,
            group,
            full,
            resumed,
        } = self;
        format!("{version} {suite} {group}, {full} full handshakes, {resumed} resumed")
    }
}

fn version_name(version: Option<ProtocolVersion>) -> &'static str {
    match version {
        Some(ProtocolVersion::TLSv1_3) => "1.3",
        Some(ProtocolVersion::TLSv1_2) => "1.2",
        _ => "",
    }
}

/// The library's algorithms, in the order in which browsers offer the suites: AES-128 first, and so
/// every server that leaves the choice to its clients is measured with the same.
fn provider() -> CryptoProvider {
    let mut provider = aws_lc_rs::default_provider();
    let is_small = |suite: CipherSuite| {
        matches!(
            suite,
            CipherSuite::TLS13_AES_128_GCM_SHA256
                | CipherSuite::TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256
                | CipherSuite::TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256
        )
    };
    let version = |suite: &rustls::SupportedCipherSuite| suite.tls13().is_none();
    provider
        .cipher_suites
        .sort_by_key(|suite| (version(suite), !is_small(suite.suite())));
    provider
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn aes_128_is_offered_first() {
        let suites = provider().cipher_suites;
        assert_eq!(suites[0].suite(), CipherSuite::TLS13_AES_128_GCM_SHA256);
        let count = aws_lc_rs::default_provider().cipher_suites.len();
        assert_eq!(suites.len(), count);
    }
}
