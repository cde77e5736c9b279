//! Channels against the library's own server, in memory.

use std::{
    io::{Read, Write},
    sync::Arc,
};

use rustls::{
    ClientConfig, HandshakeKind, ServerConfig, ServerConnection, SupportedProtocolVersion,
    client::Resumption,
    crypto::aws_lc_rs,
    pki_types::{PrivateKeyDer, ServerName},
    version::{TLS12, TLS13},
};

use super::*;
use crate::bench::tls::{tickets::Tickets, trust};

/// A server, what it has read, and a client's settings.
struct Pair {
    server: ServerConnection,
    client: Arc<ClientConfig>,
    read: Vec<u8>,
}

fn server(versions: &[&'static SupportedProtocolVersion]) -> Arc<ServerConfig> {
    let key = rcgen::KeyPair::generate().unwrap();
    let names = vec!["localhost".to_owned()];
    let certificate = rcgen::CertificateParams::new(names).unwrap();
    let certificate = certificate.self_signed(&key).unwrap();
    let key = PrivateKeyDer::try_from(key.serialize_der()).unwrap();
    let config = ServerConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_protocol_versions(versions)
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![certificate.der().clone()], key)
        .unwrap();
    Arc::new(config)
}

fn client() -> Arc<ClientConfig> {
    let provider = Arc::new(aws_lc_rs::default_provider());
    let verifier = trust::verifier(None, &provider).unwrap();
    let mut config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .dangerous()
        .with_custom_certificate_verifier(verifier)
        .with_no_client_auth();
    config.resumption = Resumption::store(Arc::new(Tickets::default()));
    Arc::new(config)
}

impl Pair {
    fn new(versions: &[&'static SupportedProtocolVersion]) -> Self {
        Self {
            server: ServerConnection::new(server(versions)).unwrap(),
            client: client(),
            read: Vec::new(),
        }
    }

    fn dial(&self) -> Channel {
        let name = ServerName::try_from("localhost").unwrap();
        let connection = UnbufferedClientConnection::new(Arc::clone(&self.client), name);
        Channel::new(connection.unwrap()).unwrap()
    }

    /// Gives the server what the client sends, and gives what the server sends.
    fn exchange(&mut self, sent: &[u8]) -> Vec<u8> {
        let mut rest = sent;
        while !rest.is_empty() {
            self.server.read_tls(&mut rest).unwrap();
            let state = self.server.process_new_packets().unwrap();
            let mut plain = vec![0; state.plaintext_bytes_to_read()];
            self.server.reader().read_exact(&mut plain).unwrap();
            self.read.append(&mut plain);
        }
        self.sent()
    }

    fn sent(&mut self) -> Vec<u8> {
        let mut out = Vec::new();
        while self.server.wants_write() {
            self.server.write_tls(&mut out).unwrap();
        }
        out
    }

    /// What the server says now, in records.
    fn say(&mut self, plain: &[u8]) -> Vec<u8> {
        let mut out = Vec::new();
        let mut rest = plain;
        while !rest.is_empty() {
            let len = self.server.writer().write(rest).unwrap();
            rest = &rest[len..];
            out.append(&mut self.sent());
        }
        out
    }

    /// Goes through the handshake; the server's bytes come in pieces of `step`.
    fn open(&mut self, step: usize) -> Channel {
        let mut channel = self.dial();
        let mut plain = Vec::new();
        while self.server.is_handshaking() || !channel.is_open() || channel.has_out() {
            let mut sent = Vec::new();
            channel.take_out(&mut sent);
            let mut answer = self.exchange(&sent);
            for piece in answer.chunks_mut(step) {
                read(&mut channel, piece, &mut plain).unwrap();
            }
        }
        assert!(plain.is_empty());
        channel
    }
}

fn read(channel: &mut Channel, bytes: &mut [u8], plain: &mut Vec<u8>) -> Result<(), Error> {
    channel.read(bytes, &mut |part| plain.extend_from_slice(part))
}

#[test]
fn the_handshake_succeeds_however_it_is_cut() {
    for version in [&TLS12, &TLS13] {
        for step in [1, 2, 3, 5, 7, 100, 1000, usize::MAX] {
            let mut pair = Pair::new(&[version]);
            let mut channel = pair.open(step);
            let mut out = Vec::new();
            channel.write(b"hello", &mut out).unwrap();
            pair.exchange(&out);
            assert_eq!(pair.read, b"hello", "{version:?} {step}");
        }
    }
}

#[test]
fn the_same_is_read_however_it_is_cut() {
    let text: Vec<u8> = (0..700_u32).map(|n| n as u8).collect();
    for version in [&TLS12, &TLS13] {
        let mut pair = Pair::new(&[version]);
        let mut channel = pair.open(usize::MAX);
        let mut cut = 0;
        loop {
            let mut bytes = [pair.say(&text[..300]), pair.say(&text[300..])].concat();
            if cut > bytes.len() {
                break;
            }
            let mut plain = Vec::new();
            let (front, back) = bytes.split_at_mut(cut);
            read(&mut channel, front, &mut plain).unwrap();
            read(&mut channel, back, &mut plain).unwrap();
            assert_eq!(plain, text, "{version:?} {cut}");
            assert!(channel.carry.is_empty());
            cut += 1;
        }
    }
}

#[test]
fn long_messages_take_several_records() {
    let mut pair = Pair::new(&[&TLS13]);
    let mut channel = pair.open(usize::MAX);
    let text: Vec<u8> = (0..100_000_u32).map(|n| (n * 7) as u8).collect();
    let mut bytes = pair.say(&text);
    for step in [1000, 5000, 16 * 1024, usize::MAX] {
        let mut plain = Vec::new();
        for piece in bytes.chunks_mut(step) {
            read(&mut channel, piece, &mut plain).unwrap();
        }
        assert!(plain == text, "{step}");
        bytes = pair.say(&text);
    }
    let mut out = b"before".to_vec();
    channel.write(&text, &mut out).unwrap();
    assert_eq!(out[..6], *b"before");
    pair.exchange(&out[6..]);
    assert!(pair.read == text);
}

#[test]
fn keys_are_changed_when_the_server_wants_it() {
    let mut pair = Pair::new(&[&TLS13]);
    let mut channel = pair.open(usize::MAX);
    pair.server.refresh_traffic_keys().unwrap();
    let mut bytes = pair.say(b"under new keys");
    let mut plain = Vec::new();
    for piece in bytes.chunks_mut(1) {
        read(&mut channel, piece, &mut plain).unwrap();
    }
    assert_eq!(plain, b"under new keys");
    let mut out = Vec::new();
    channel.take_out(&mut out);
    channel.write(b"so be it", &mut out).unwrap();
    pair.exchange(&out);
    assert_eq!(pair.read, b"so be it");
}

#[test]
fn tickets_are_used_once_each() {
    for version in [&TLS12, &TLS13] {
        let mut pair = Pair::new(&[version]);
        let config = server(&[version]);
        let mut kinds = Vec::new();
        for _ in 0..3 {
            pair.server = ServerConnection::new(Arc::clone(&config)).unwrap();
            let channel = pair.open(usize::MAX);
            kinds.push(channel.agreed().handshake_kind());
        }
        let expected = [
            HandshakeKind::Full,
            HandshakeKind::Resumed,
            HandshakeKind::Resumed,
        ];
        assert_eq!(kinds, expected.map(Some), "{version:?}");
    }
}

#[test]
fn the_end_is_told() {
    let mut pair = Pair::new(&[&TLS13]);
    let mut channel = pair.open(usize::MAX);
    let mut bytes = pair.say(b"farewell");
    pair.server.send_close_notify();
    bytes.append(&mut pair.sent());
    let mut plain = Vec::new();
    read(&mut channel, &mut bytes, &mut plain).unwrap();
    assert_eq!(plain, b"farewell");
    assert!(channel.is_over());
}

#[test]
fn what_is_no_tls_is_refused() {
    let pair = Pair::new(&[&TLS13]);
    let mut plain = Vec::new();
    for garbage in [
        &b"HTTP/1.1 400 Bad Request\r\n\r\n"[..],
        &[0; 64],
        &[0x16, 3, 3, 0xFF, 0xFF, 0, 0],
        // An alert: handshake_failure.
        &[0x15, 3, 3, 0, 2, 2, 40],
    ] {
        let mut channel = pair.dial();
        let result = read(&mut channel, &mut garbage.to_vec(), &mut plain);
        assert!(result.is_err(), "{garbage:?}");
        let mut channel = pair.dial();
        let result = garbage
            .to_vec()
            .chunks_mut(1)
            .try_for_each(|piece| read(&mut channel, piece, &mut plain));
        assert!(result.is_err(), "{garbage:?}");
    }
    // A record whose bytes were changed on the way.
    let mut pair = Pair::new(&[&TLS13]);
    let mut channel = pair.open(usize::MAX);
    let mut bytes = pair.say(b"a secret");
    *bytes.last_mut().unwrap() ^= 1;
    assert_eq!(
        read(&mut channel, &mut bytes, &mut plain),
        Err(Error::DecryptError)
    );
    assert!(plain.is_empty());
    assert!(pair.dial().write(b"too early", &mut plain).is_err());
}
