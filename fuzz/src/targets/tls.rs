//! TLS records: split anywhere, with key updates between them, through both of rustls' interfaces, the same
//! plaintext; changed on their way, never anything that was not said.
//!
//! The only target with randomness that is not its input's: keys are rustls' own.

use std::io::{Read, Write};
use std::sync::{Arc, OnceLock};

use rustls::crypto::aws_lc_rs;
use rustls::pki_types::PrivatePkcs8KeyDer;
use rustls::{ClientConfig, ClientConnection, RootCertStore, ServerConfig, version};
use tidegate::tls::stream::{CARRIED_BYTES_MAX, Interface, Stream};

use super::script::{Cut, Script, seed};

pub(super) fn run(input: &[u8]) {
    let mut script = Script::new(input);
    let options = script.byte();
    let interface = if options & 1 == 0 {
        Interface::Unbuffered
    } else {
        Interface::Buffered
    };
    let configs = configs(options & 2 != 0);
    let cut = Cut::Seeded(script.byte());
    if options & 4 == 0 {
        talk(configs, interface, cut, &mut script);
    } else {
        listen(configs, interface, cut, script.rest());
    }
}

/// What is no client's.
fn listen((server, _): &Configs, interface: Interface, cut: Cut, bytes: &[u8]) {
    let failed = [Cut::Whole, Cut::Bytes, cut].map(|cut| {
        let mut stream = Stream::new(Arc::clone(server), interface).expect("it is configured");
        let mut heard = Vec::new();
        for piece in cut.pieces(bytes) {
            let mut piece = piece.to_vec();
            if stream.handle_input(&mut piece, &mut heard).is_err() {
                break;
            }
            assert!(stream.buffered_bytes() <= 4 * CARRIED_BYTES_MAX);
        }
        assert!(heard.is_empty() && stream.is_handshaking() && !stream.may_send());
        stream.has_failed()
    });
    assert!(failed.iter().all(|one| *one == failed[0]), "{failed:?}");
}

/// A client's words, as the script has them.
fn talk((server, client): &Configs, interface: Interface, cut: Cut, script: &mut Script<'_>) {
    let name = "localhost".try_into().expect("it is a name");
    let mut pair = Pair {
        client: ClientConnection::new(Arc::clone(client), name).expect("it is configured"),
        server: Stream::new(Arc::clone(server), interface).expect("it is configured"),
        cut,
        heard: Vec::new(),
        answered: Vec::new(),
    };
    pair.exchange();
    assert!(!pair.server.is_handshaking() && !pair.client.is_handshaking());
    let (mut said, mut told) = (Vec::new(), Vec::new());
    for _ in 0..STEPS_MAX {
        if script.is_empty() {
            break;
        }
        match script.byte() % 5 {
            0 => {
                let len = usize::from(script.byte()) * usize::from(script.byte());
                let words = vec![script.byte(); len];
                pair.client
                    .writer()
                    .write_all(&words)
                    .expect("there is room");
                said.extend_from_slice(&words);
                pair.exchange();
            }
            1 => {
                let (a, b) = (script.byte(), script.byte());
                let pieces = [
                    vec![a; usize::from(b)],
                    vec![b; usize::from(a) * 90],
                    vec![a],
                ];
                let (mut out, mut staging) = (Vec::new(), Vec::new());
                let words = pieces.iter().map(Vec::as_slice);
                let sent = pair.server.encrypt(words, &mut staging, &mut out);
                sent.expect("it is open");
                assert!(staging.is_empty());
                told.extend(pieces.concat());
                pair.answer(&out);
            }
            2 => {
                // TLS 1.2 has none.
                let _ = pair.client.refresh_traffic_keys();
                pair.exchange();
            }
            3 => {
                // Changed on its way: nothing comes out that was not said. A record's version is
                // ignored (RFC 8446 §5.1), so all of it may.
                pair.client
                    .writer()
                    .write_all(b"secret")
                    .expect("there is room");
                let mut records = pair.records();
                let at = usize::from(script.byte()) % records.len();
                records[at] ^= 1 << (script.byte() % 8);
                let _ = pair.deliver(&records);
                said.extend_from_slice(b"secret");
                assert!(said.starts_with(&pair.heard));
                return;
            }
            _ => {
                pair.server.close();
                pair.client.send_close_notify();
                pair.exchange();
                assert!(pair.server.peer_has_closed() && !pair.server.may_send());
                break;
            }
        }
        assert_eq!(pair.heard, said);
        assert_eq!(pair.answered, told);
        assert!(pair.server.buffered_bytes() <= IDLE_BYTES_MAX);
    }
}

struct Pair {
    client: ClientConnection,
    server: Stream,
    cut: Cut,
    heard: Vec<u8>,
    answered: Vec<u8>,
}

impl Pair {
    /// Both talk until neither has anything to say.
    fn exchange(&mut self) {
        loop {
            let records = self.records();
            self.deliver(&records).expect("it is sound");
            let mut output = Vec::new();
            self.server.take_output(&mut output);
            self.answer(&output);
            if records.is_empty() && output.is_empty() {
                return;
            }
        }
    }

    /// What the client has to say.
    fn records(&mut self) -> Vec<u8> {
        let mut records = Vec::new();
        while self.client.wants_write() {
            self.client.write_tls(&mut records).expect("it is a buffer");
        }
        records
    }

    fn deliver(&mut self, records: &[u8]) -> Result<(), tidegate::tls::stream::TlsError> {
        for piece in self.cut.pieces(records) {
            let mut piece = piece.to_vec();
            self.server.handle_input(&mut piece, &mut self.heard)?;
        }
        Ok(())
    }

    fn answer(&mut self, records: &[u8]) {
        let mut records = records;
        while !records.is_empty() {
            self.client.read_tls(&mut records).expect("it is a buffer");
            let state = self.client.process_new_packets().expect("it is sound");
            let mut plain = vec![0; state.plaintext_bytes_to_read()];
            let mut reader = self.client.reader();
            reader.read_exact(&mut plain).expect("it is there");
            self.answered.extend(plain);
        }
    }
}

type Configs = (Arc<ServerConfig>, Arc<ClientConfig>);

/// Of TLS 1.3 or of 1.2; made once.
fn configs(is_old: bool) -> &'static Configs {
    static MADE: OnceLock<[Configs; 2]> = OnceLock::new();
    let made = MADE.get_or_init(|| {
        let own = rcgen::generate_simple_self_signed(["localhost".to_owned()]);
        let own = own.expect("a key can be made");
        let certificate = own.cert.der().clone();
        [&version::TLS13, &version::TLS12].map(|version| {
            let key = PrivatePkcs8KeyDer::from(own.signing_key.serialize_der());
            let provider = Arc::new(aws_lc_rs::default_provider());
            let server = ServerConfig::builder_with_provider(Arc::clone(&provider))
                .with_protocol_versions(&[version])
                .expect("it is known")
                .with_no_client_auth()
                .with_single_cert(vec![certificate.clone()], key.into())
                .expect("they belong together");
            let mut roots = RootCertStore::empty();
            roots.add(certificate.clone()).expect("it is one");
            let client = ClientConfig::builder_with_provider(provider)
                .with_protocol_versions(&[version])
                .expect("it is known")
                .with_root_certificates(roots)
                .with_no_client_auth();
            (Arc::new(server), Arc::new(client))
        })
    });
    &made[usize::from(is_old)]
}

const STEPS_MAX: usize = 20;
/// What a stream keeps between records.
const IDLE_BYTES_MAX: usize = 1024;

pub(super) fn seeds() -> Vec<Vec<u8>> {
    let mut seeds = Vec::new();
    for options in 0..4 {
        seeds.push(seed(
            &[options, 9],
            [0, 3, 4, b'a', 1, 7, 200, 2, 0, 255, 255, b'b', 4],
        ));
        seeds.push(seed(
            &[options, 200],
            [2, 2, 1, 200, 5, 0, 0, 0, 0, 3, 7, 1],
        ));
        seeds.push(seed(&[options, 40], [0, 100, 200, b'c', 3, 0, 4]));
        let options = options | 4;
        seeds.push(seed(&[options, 3], b"GET / HTTP/1.1\r\n\r\n"));
        seeds.push(seed(
            &[options, 3],
            b"\x16\x03\x01\x00\x05\x01\x00\x00\x01\x00",
        ));
        seeds.push(seed(&[options, 3], b"\x16\x03\x03\x48\x00"));
        seeds.push(seed(&[options, 3], b"\x15\x03\x03\x00\x02\x02\x28"));
        seeds.push(seed(
            &[options, 3],
            b"\x14\x03\x03\x00\x01\x01\x17\x03\x03\x00\x01x",
        ));
    }
    seeds
}
