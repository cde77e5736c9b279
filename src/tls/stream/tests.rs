//! Streams against clients of rustls, through both of rustls' interfaces.

mod raw;
mod wrong;

use std::sync::Arc;

use proptest::prelude::*;
use rustls::{
    ClientConfig, ClientConnection, RootCertStore, ServerConfig, SupportedProtocolVersion,
    crypto::aws_lc_rs, pki_types::PrivatePkcs8KeyDer, version,
};

use super::*;

/// A server's configuration, and that of clients that trust it.
pub(super) fn configs(
    versions: &[&'static SupportedProtocolVersion],
) -> (Arc<ServerConfig>, Arc<ClientConfig>) {
    let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    let certificate = made.cert.der().clone();
    let key = PrivatePkcs8KeyDer::from(made.signing_key.serialize_der());
    let provider = Arc::new(aws_lc_rs::default_provider());
    let mut server = ServerConfig::builder_with_provider(Arc::clone(&provider))
        .with_protocol_versions(versions)
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![certificate.clone()], key.into())
        .unwrap();
    server.alpn_protocols = vec![b"http/1.1".to_vec()];
    server.ticketer = aws_lc_rs::Ticketer::new().unwrap();
    let mut roots = RootCertStore::empty();
    roots.add(certificate).unwrap();
    let mut client = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(versions)
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    client.enable_secret_extraction = true;
    (Arc::new(server), Arc::new(client))
}

pub(super) const BOTH: [Interface; 2] = [Interface::Unbuffered, Interface::Buffered];

/// A server's stream and a client, and what each has heard.
pub(super) struct Pair {
    pub(super) client: ClientConnection,
    pub(super) server: Stream,
    /// Of the server, as plaintext.
    pub(super) heard: Vec<u8>,
    /// Of the client.
    pub(super) answers: Vec<u8>,
    /// The client has been told that nothing more comes.
    pub(super) is_told_the_end: bool,
}

impl Pair {
    pub(super) fn new(
        (server, client): &(Arc<ServerConfig>, Arc<ClientConfig>),
        interface: Interface,
    ) -> Self {
        let name = "localhost".try_into().unwrap();
        Self {
            client: ClientConnection::new(Arc::clone(client), name).unwrap(),
            server: Stream::new(Arc::clone(server), interface).unwrap(),
            heard: Vec::new(),
            answers: Vec::new(),
            is_told_the_end: false,
        }
    }

    /// What the client has to say.
    pub(super) fn client_records(&mut self) -> Vec<u8> {
        let mut records = Vec::new();
        while self.client.wants_write() {
            self.client.write_tls(&mut records).unwrap();
        }
        records
    }

    /// The server gets `bytes` in the pieces that `split` says, in turn.
    pub(super) fn deliver(&mut self, bytes: &[u8], split: &[usize]) -> Result<(), TlsError> {
        let mut bytes = bytes.to_vec();
        let mut rest = bytes.as_mut_slice();
        let mut split = split.iter().copied().chain([usize::MAX]).cycle();
        while !rest.is_empty() {
            let len = split.next().unwrap().clamp(1, rest.len());
            let (piece, after) = rest.split_at_mut(len);
            self.server.handle_input(piece, &mut self.heard)?;
            rest = after;
        }
        Ok(())
    }

    /// The client gets what the server has to say.
    pub(super) fn answer(&mut self, records: &[u8]) {
        let mut records = records;
        while !records.is_empty() {
            self.client.read_tls(&mut records).unwrap();
            let io = self.client.process_new_packets().unwrap();
            let mut plain = vec![0; io.plaintext_bytes_to_read()];
            std::io::Read::read_exact(&mut self.client.reader(), &mut plain).unwrap();
            self.answers.extend(plain);
            self.is_told_the_end |= io.peer_has_closed();
        }
    }

    /// Both talk until neither has anything to say.
    pub(super) fn talk(&mut self, split: &[usize]) -> Result<(), TlsError> {
        loop {
            let records = self.client_records();
            self.deliver(&records, split)?;
            let mut output = Vec::new();
            self.server.take_output(&mut output);
            self.answer(&output);
            if records.is_empty() && output.is_empty() {
                return Ok(());
            }
        }
    }

    pub(super) fn open(
        configs: &(Arc<ServerConfig>, Arc<ClientConfig>),
        interface: Interface,
        split: &[usize],
    ) -> Self {
        let mut pair = Self::new(configs, interface);
        pair.talk(split).unwrap();
        assert!(!pair.server.is_handshaking() && !pair.client.is_handshaking());
        pair
    }

    pub(super) fn client_says(&mut self, plain: &[u8]) {
        self.client.set_buffer_limit(None);
        std::io::Write::write_all(&mut self.client.writer(), plain).unwrap();
    }

    pub(super) fn server_says(&mut self, pieces: &[&[u8]]) -> Vec<u8> {
        let (mut out, mut staging) = (Vec::new(), Vec::new());
        self.server
            .encrypt(pieces.iter().copied(), &mut staging, &mut out)
            .unwrap();
        assert!(staging.is_empty() && !self.server.has_output());
        out
    }
}

/// The plaintext bytes of records as they are told by their headers, with what each record adds.
fn record_lengths(records: &[u8]) -> Vec<usize> {
    let mut lengths = Vec::new();
    let mut rest = records;
    while !rest.is_empty() {
        let bytes = record_bytes(rest[..HEADER_BYTES].try_into().unwrap());
        lengths.push(bytes);
        rest = &rest[bytes..];
    }
    lengths
}

fn pattern(len: usize) -> Vec<u8> {
    (0..len).map(|at| (at * 31 + at / 253) as u8).collect()
}

#[test]
fn every_byte_may_come_alone() {
    for version in [&version::TLS12, &version::TLS13] {
        let configs = configs(&[version]);
        for interface in BOTH {
            let mut pair = Pair::open(&configs, interface, &[1]);
            assert_eq!(pair.server.version(), Some(version.version));
            pair.client_says(b"hello");
            pair.talk(&[1]).unwrap();
            pair.client_says(&pattern(40_000));
            pair.talk(&[1]).unwrap();
            assert!(pair.heard == [b"hello".as_slice(), &pattern(40_000)].concat());
            let records = pair.server_says(&[b"hi"]);
            pair.answer(&records);
            assert_eq!(pair.answers, b"hi");
            assert_eq!(pair.server.carry().len(), 0);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    /// However the stream is split, what is said is heard, both ways; also over updates of keys.
    #[test]
    fn splits_change_nothing(
        is_13 in any::<bool>(),
        is_buffered in any::<bool>(),
        split in proptest::collection::vec(1usize..9_000, 1..6),
        says in proptest::collection::vec((0usize..50_000, any::<bool>(), any::<bool>()), 1..6),
    ) {
        let configs = configs(&[if is_13 { &version::TLS13 } else { &version::TLS12 }]);
        let interface = if is_buffered { Interface::Buffered } else { Interface::Unbuffered };
        let mut pair = Pair::open(&configs, interface, &split);
        let (mut said, mut answered) = (Vec::new(), Vec::new());
        for (len, updates_keys, answers) in says {
            if updates_keys && is_13 {
                pair.client.refresh_traffic_keys().unwrap();
            }
            let message = pattern(len);
            pair.client_says(&message);
            said.extend_from_slice(&message);
            pair.talk(&split).unwrap();
            if answers {
                let cuts: Vec<&[u8]> = message.chunks(split[0]).collect();
                let records = pair.server_says(&cuts);
                pair.answer(&records);
                answered.extend_from_slice(&message);
            }
        }
        prop_assert!(pair.heard == said);
        prop_assert!(pair.answers == answered);
        prop_assert!(pair.server.buffered_bytes() == 0);
    }
}

#[test]
fn short_pieces_share_a_record_and_long_ones_fill_theirs() {
    let configs = configs(&[&version::TLS13]);
    for interface in BOTH {
        let mut pair = Pair::open(&configs, interface, &[]);
        let overhead = 22;
        let short = pattern(100);
        let records = pair.server_says(&[short.as_slice(); 50]);
        assert_eq!(record_lengths(&records), [5_000 + overhead]);
        pair.answer(&records);
        // A header, a long payload, a header: no record is begun for what is short.
        let long = pattern(40_000);
        let records = pair.server_says(&[&short[..8], &long, &short[..8]]);
        let full = RECORD_PLAIN_BYTES_MAX;
        let last = 40_016 - 2 * full + overhead;
        assert_eq!(
            record_lengths(&records),
            [full + overhead, full + overhead, last]
        );
        pair.answer(&records);
        let said = [
            short.repeat(50),
            short[..8].to_vec(),
            long,
            short[..8].to_vec(),
        ]
        .concat();
        assert!(pair.answers == said);
    }
}

#[test]
fn each_side_ends_by_itself() {
    for version in [&version::TLS12, &version::TLS13] {
        let configs = configs(&[version]);
        for interface in BOTH {
            // The client first: what it said before is heard, what it says after is not.
            let mut pair = Pair::open(&configs, interface, &[]);
            pair.client_says(b"last words");
            pair.client.send_close_notify();
            let mut records = pair.client_records();
            records.extend_from_slice(b"anything");
            pair.deliver(&records, &[7]).unwrap();
            assert!(pair.server.peer_has_closed() && pair.server.may_send());
            assert_eq!(pair.heard, b"last words");
            let records = pair.server_says(&[b"an answer"]);
            pair.answer(&records);
            pair.server.close();
            let mut output = Vec::new();
            pair.server.take_output(&mut output);
            pair.answer(&output);
            assert_eq!(pair.answers, b"an answer");
            assert!(pair.is_told_the_end);
            // The server first, and only once.
            let mut pair = Pair::open(&configs, interface, &[]);
            pair.server.close();
            pair.server.close();
            assert!(!pair.server.may_send() && !pair.server.peer_has_closed());
            let mut output = Vec::new();
            pair.server.take_output(&mut output);
            assert_eq!(record_lengths(&output).len(), 1);
            pair.answer(&output);
            assert!(pair.is_told_the_end);
            let refused =
                pair.server
                    .encrypt([b"x".as_slice()].into_iter(), &mut Vec::new(), &mut output);
            assert!(matches!(refused, Err(TlsError::NotOpen)));
            pair.client_says(b"goes on");
            pair.client.send_close_notify();
            pair.talk(&[]).unwrap();
            assert_eq!(pair.heard, b"goes on");
            assert!(pair.server.peer_has_closed());
        }
    }
}

#[test]
fn a_session_is_taken_up_again() {
    for version in [&version::TLS12, &version::TLS13] {
        for interface in BOTH {
            let configs = configs(&[version]);
            let mut first = Pair::open(&configs, interface, &[]);
            // Tickets come behind the handshake.
            first.talk(&[]).unwrap();
            assert!(!first.server.is_resumed());
            let second = Pair::open(&configs, interface, &[]);
            assert!(second.server.is_resumed());
        }
    }
}

#[test]
fn what_is_kept_is_worked_on_later() {
    let configs = configs(&[&version::TLS13]);
    for interface in BOTH {
        let mut pair = Pair::new(&configs, interface);
        let hello = pair.client_records();
        let (first, second) = hello.split_at(100);
        assert!(!pair.server.would_advance(&first[..4]));
        assert!(!pair.server.would_advance(first));
        pair.server.keep_input(first).unwrap();
        assert!(pair.server.would_advance(second));
        pair.server.keep_input(second).unwrap();
        assert!(!pair.server.has_output());
        pair.server.handle_input(&mut [], &mut pair.heard).unwrap();
        assert!(pair.server.has_output());
        let mut output = Vec::new();
        pair.server.take_output(&mut output);
        pair.answer(&output);
        pair.talk(&[]).unwrap();
        assert!(!pair.server.is_handshaking());
    }
}

#[test]
fn an_idle_stream_takes_about_two_kilobytes() {
    let bytes = size_of::<Stream>();
    println!("Stream: {bytes} bytes");
    assert!(bytes <= 1536, "{bytes} bytes");
}
