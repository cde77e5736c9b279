//! A client that encrypts whatever it is told to, with the keys of a genuine handshake (TLS 1.3).

use rustls::{
    ConnectionTrafficSecrets, ContentType, ProtocolVersion, SupportedCipherSuite, Tls13CipherSuite,
    crypto::cipher::{AeadKey, Iv, MessageEncrypter, OutboundChunks, OutboundPlainMessage},
    version,
};

use super::{Interface, Pair, Stream, TlsError, configs};

pub(super) struct RawClient {
    pub(super) server: Stream,
    pub(super) heard: Vec<u8>,
    encrypter: Box<dyn MessageEncrypter>,
    next: u64,
}

impl RawClient {
    pub(super) fn open(interface: Interface) -> Self {
        let pair = Pair::open(&configs(&[&version::TLS13]), interface, &[]);
        let Some(SupportedCipherSuite::Tls13(suite)) = pair.client.negotiated_cipher_suite() else {
            panic!("TLS 1.3 it is");
        };
        #[allow(
            deprecated,
            reason = "no tickets and no updates of keys are asked for here"
        )]
        let (next, secrets) = pair.client.dangerous_extract_secrets().unwrap().tx;
        Self {
            server: pair.server,
            heard: Vec::new(),
            encrypter: encrypter(suite, secrets),
            next,
        }
    }

    /// One record.
    pub(super) fn record(&mut self, typ: ContentType, payload: &[u8]) -> Vec<u8> {
        let message = OutboundPlainMessage {
            typ,
            version: ProtocolVersion::TLSv1_2,
            payload: OutboundChunks::Single(payload),
        };
        let record = self.encrypter.encrypt(message, self.next).unwrap();
        self.next += 1;
        record.encode()
    }

    pub(super) fn says(&mut self, typ: ContentType, payload: &[u8]) -> Result<(), TlsError> {
        let mut record = self.record(typ, payload);
        self.server.handle_input(&mut record, &mut self.heard)
    }
}

fn encrypter(
    suite: &'static Tls13CipherSuite,
    secrets: ConnectionTrafficSecrets,
) -> Box<dyn MessageEncrypter> {
    let (key, iv): (AeadKey, Iv) = match secrets {
        ConnectionTrafficSecrets::Aes128Gcm { key, iv }
        | ConnectionTrafficSecrets::Aes256Gcm { key, iv }
        | ConnectionTrafficSecrets::Chacha20Poly1305 { key, iv } => (key, iv),
        _ => panic!("an unknown cipher"),
    };
    suite.aead_alg.encrypter(key, iv)
}
