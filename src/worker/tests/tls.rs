//! Clients that speak TLS, over the faulty network.
//!
//! Many other tests let some of their clients do so too (`Net::new` draws it). What rustls encrypts
//! with is not drawn from the seed, so where bytes are cut may differ when a seed is replayed.

use std::{
    io::{Read, Write},
    sync::{Arc, LazyLock},
    time::Duration,
};

use rustls::{
    AlertDescription, ClientConfig, ClientConnection, Error, RootCertStore, ServerConfig,
    crypto::aws_lc_rs, pki_types::PrivatePkcs8KeyDer, version::TLS12,
};

use super::net::{JSON, Net, RAW};
use crate::{
    base::rng::Rng,
    config::{ByteSize, Span},
    engine::sim::{PeerId, PeerRead, SimConfig, SimKernel, replay::for_each_seed},
    proto::ws::OpCode,
};

type Configs = (Arc<ServerConfig>, Arc<ClientConfig>, Arc<ClientConfig>);

/// The server's, and clients': of whichever version, and of 1.2.
static CONFIGS: LazyLock<Configs> = LazyLock::new(|| {
    let made = rcgen::generate_simple_self_signed(["sim".to_owned()]).unwrap();
    let certificate = made.cert.der().clone();
    let key = PrivatePkcs8KeyDer::from(made.signing_key.serialize_der());
    let provider = Arc::new(aws_lc_rs::default_provider());
    let mut server = ServerConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![certificate.clone()], key.into())
        .unwrap();
    server.ticketer = aws_lc_rs::Ticketer::new().unwrap();
    let mut roots = RootCertStore::empty();
    roots.add(certificate).unwrap();
    let client = |old: bool| {
        let builder = ClientConfig::builder_with_provider(Arc::clone(&provider));
        let builder = match old {
            true => builder.with_protocol_versions(&[&TLS12]).unwrap(),
            false => builder.with_safe_default_protocol_versions().unwrap(),
        };
        let config = builder
            .with_root_certificates(roots.clone())
            .with_no_client_auth();
        Arc::new(config)
    };
    (Arc::new(server), client(false), client(true))
});

pub(super) fn server_config() -> Arc<ServerConfig> {
    Arc::clone(&CONFIGS.0)
}

/// A client's side of TLS.
pub(super) struct TlsClient {
    connection: ClientConnection,
    /// Records on their way.
    wire: Vec<u8>,
    /// The fatal alert that it was sent.
    pub(super) alert: Option<AlertDescription>,
    /// It was told that nothing more comes.
    pub(super) is_told_the_end: bool,
}

impl Default for TlsClient {
    fn default() -> Self {
        Self::new(false)
    }
}

impl TlsClient {
    fn new(old: bool) -> Self {
        let config = if old { &CONFIGS.2 } else { &CONFIGS.1 };
        let name = "sim".try_into().unwrap();
        let mut connection = ClientConnection::new(Arc::clone(config), name).unwrap();
        connection.set_buffer_limit(None);
        Self {
            connection,
            wire: Vec::new(),
            alert: None,
            is_told_the_end: false,
        }
    }

    /// Has these bytes stand in front of its handshake, which it has not begun to write.
    pub(super) fn say_first(&mut self, bytes: &[u8]) {
        assert!(self.wire.is_empty());
        self.wire.extend_from_slice(bytes);
    }

    pub(super) fn has_more_to_say(&self) -> bool {
        !self.wire.is_empty() || self.connection.wants_write()
    }

    /// Takes some of what there is to say.
    pub(super) fn say(&mut self, plain: &mut Vec<u8>) {
        if self.wire.is_empty() && !self.connection.is_handshaking() {
            let len = plain.len().min(20_000);
            self.connection.writer().write_all(&plain[..len]).unwrap();
            plain.drain(..len);
        }
    }

    /// Writes what it can; whether that was anything.
    pub(super) fn write(&mut self, kernel: &mut SimKernel, peer: PeerId) -> bool {
        while self.connection.wants_write() {
            self.connection.write_tls(&mut self.wire).unwrap();
        }
        if self.wire.is_empty() {
            return false;
        }
        match kernel.peer_write(peer, &self.wire) {
            Ok(n) => {
                self.wire.drain(..n);
                n > 0
            }
            Err(_) => {
                self.wire.clear();
                false
            }
        }
    }

    /// What received records say.
    pub(super) fn read(&mut self, records: &[u8]) -> Vec<u8> {
        let mut records = records;
        let mut plain = Vec::new();
        while !records.is_empty() && self.alert.is_none() {
            self.connection.read_tls(&mut records).unwrap();
            match self.connection.process_new_packets() {
                Ok(io) => {
                    let before = plain.len();
                    plain.resize(before + io.plaintext_bytes_to_read(), 0);
                    let space = &mut plain[before..];
                    self.connection.reader().read_exact(space).unwrap();
                    self.is_told_the_end |= io.peer_has_closed();
                }
                Err(Error::AlertReceived(alert)) => self.alert = Some(alert),
                Err(error) => panic!("the gateway keeps to TLS: {error}"),
            }
        }
        plain
    }
}

/// Echoes of any size come back as they went, over either interface of rustls and either version, with
/// updates of keys between, and everything ends as TLS asks for it.
#[test]
fn what_goes_out_encrypted_comes_back() {
    for_each_seed("worker::tests::tls::what_goes_out", 40, |seed| {
        let mut net = Net::new(seed, |config| {
            config.server.demo = true;
            config.limits.message_bytes_max = ByteSize(1 << 20);
            config.limits.buffered_bytes_high = ByteSize(300 * 1024);
            config.limits.buffered_bytes_low = ByteSize(50 * 1024);
            config.tls.buffered = seed % 3 == 0;
        });
        let mut sent: Vec<Vec<Vec<u8>>> = vec![Vec::new(); 3];
        for client in 0..3 {
            let core = net.rng.below(net.cores() as u64) as usize;
            net.connect_by(core, "/echo", JSON, true);
            if net.rng.one_in(2) {
                net.clients[client].tls = Some(TlsClient::new(true));
            }
        }
        net.until_open();
        for n in 0..6 {
            for (client, mine) in sent.iter_mut().enumerate() {
                let most = if net.rng.one_in(2) { 250_000 } else { 2_000 };
                let len = net.rng.below(most) as usize;
                let message: Vec<u8> = (0..len).map(|at| (at * 7 + n + at / 251) as u8).collect();
                net.clients[client].send(OpCode::Binary, &message);
                mine.push(message);
                if net.rng.one_in(3)
                    && let Some(tls) = &mut net.clients[client].tls
                    && tls.connection.protocol_version() != Some(TLS12.version)
                {
                    tls.connection.refresh_traffic_keys().unwrap();
                }
            }
            if net.rng.one_in(2) {
                net.settle();
            }
        }
        net.settle();
        for (client, mine) in sent.iter().enumerate() {
            assert!(
                net.clients[client].binaries == *mine,
                "client {client} got something else"
            );
        }
        let failed = net.total(|c| c.tls_broken_total.get());
        assert_eq!(
            (net.total(|c| c.tls_handshakes_total.get()), failed),
            (3, 0)
        );
        // Nothing is held for who says nothing.
        for worker in &mut net.workers {
            assert_eq!(worker.core.conns.len(), worker.core.tls_open);
            assert!(worker.core.memory.is_discharged(), "something is held");
        }
        for client in &mut net.clients {
            client.begin_close();
        }
        net.settle();
        for client in &net.clients {
            assert_eq!(
                (client.close, client.end),
                (Some(1000), Some(PeerRead::Ended))
            );
            assert!(client.tls.as_ref().unwrap().is_told_the_end);
        }
        assert_eq!(net.total(|c| c.tls_truncated_total.get()), 0);
        net.end();
    });
}

/// A turn takes one step of a handshake, so those who are served already wait for no more than that.
#[test]
fn a_storm_of_handshakes_has_its_share_of_each_turn() {
    for_each_seed("worker::tests::tls::a_storm", 6, |seed| {
        let sim = SimConfig {
            buffer_bytes: 16 * 1024,
            buffers: 64,
            ..SimConfig::default()
        };
        let mut net = Net::with(Rng::new(seed), 1, &sim, |config| {
            config.server.demo = true;
        });
        let talker = net.connect_by(0, "/echo", JSON, false);
        net.until_open();
        const STORM: usize = 60;
        for _ in 0..STORM {
            net.connect_by(0, "/ws/s", RAW, true);
        }
        for client in 1..=STORM {
            net.pump(client);
        }
        let steps = |net: &Net| net.total(|c| c.tls_handshakes_total.get());
        let mut turns = 0_usize;
        while steps(&net) < STORM as u64 {
            turns += 1;
            assert!(turns < 1_000, "{} handshakes", steps(&net));
            let before = steps(&net);
            net.clients[talker].send(OpCode::Binary, b"still there?");
            net.pump(talker);
            net.turn(0);
            assert!(steps(&net) <= before + 1);
            // Who is served already is answered however many stand in line.
            net.turn(0);
            net.pump(talker);
            assert_eq!(net.clients[talker].binaries.len(), turns);
            for client in 0..=STORM {
                net.pump(client);
            }
        }
        // Two steps each.
        assert!(turns >= STORM, "{turns} rounds of two turns");
        assert!(net.total(|c| c.tls_steps_deferred_total.get()) > 0);
        net.until_open();
        assert!(net.clients[talker].is_open());
        net.end();
    });
}

/// Who is not let in gets an alert, and no key is used for it.
#[test]
fn who_is_refused_reads_an_alert() {
    for_each_seed("worker::tests::tls::who_is_refused", 20, |seed| {
        let sim = SimConfig::default();
        let mut net = Net::with(Rng::new(seed), 1, &sim, |config| {
            config.limits.connections_max = Some(1);
        });
        net.connect_by(0, "/ws", JSON, true);
        net.until_open();
        for _ in 0..3 {
            net.connect_by(0, "/ws", JSON, true);
        }
        net.settle();
        for client in &net.clients[1..] {
            let alert = client.tls.as_ref().and_then(|tls| tls.alert);
            assert_eq!(alert, Some(AlertDescription::InternalError));
            assert_eq!((client.status, client.end), (None, Some(PeerRead::Ended)));
        }
        assert_eq!(net.total(|c| c.refused_connections_total.get()), 3);
        assert_eq!(net.total(|c| c.tls_handshakes_total.get()), 1);
        net.end();
    });
}

#[test]
fn who_comes_to_the_wrong_port_is_told_so() {
    for_each_seed("worker::tests::tls::who_comes_to_the_wrong", 30, |seed| {
        let mut net = Net::new(seed, |_| {});
        let plain = net.connect_between(0, "/ws", JSON, 1, None);
        let tls = net.connect_between(0, "/ws", JSON, 0, Some(TlsClient::default()));
        net.settle();
        assert_eq!(net.clients[plain].status, Some(400));
        assert_eq!(net.clients[plain].end, Some(PeerRead::Ended));
        let alert = net.clients[tls].tls.as_ref().unwrap().alert;
        assert_eq!(alert, Some(AlertDescription::HandshakeFailure));
        assert_eq!(net.clients[tls].end, Some(PeerRead::Ended));
        let counted = |net: &Net| {
            let plain_on_tls = net.total(|c| c.plain_on_tls_total.get());
            (plain_on_tls, net.total(|c| c.tls_on_plain_total.get()))
        };
        assert_eq!(counted(&net), (1, 1));
        net.end();
    });
}

#[test]
fn a_handshake_has_its_time() {
    for_each_seed("worker::tests::tls::a_handshake_has", 10, |seed| {
        let mut net = Net::new(seed, |config| {
            config.limits.handshake_timeout = Span(Duration::from_secs(10));
            config.tls.handshake_timeout = Span(Duration::from_secs(5));
        });
        // One that says nothing at all, one that says nothing after its handshake.
        let mute = net.connect_by(0, "/ws", JSON, true);
        let idle = net.connect_by(0, "/ws", JSON, true);
        net.clients[idle].say_nothing();
        let mute_peer = net.clients[mute].peer;
        for _ in 0..450 {
            for core in 0..net.cores() {
                net.turn(core);
            }
            net.pump(idle);
            net.now_ms += 10;
        }
        assert_eq!(net.total(|c| c.tls_handshake_timeouts_total.get()), 0);
        net.pass_without(mute, 1_000);
        assert_eq!(net.total(|c| c.tls_handshake_timeouts_total.get()), 1);
        let kernel = net.workers[0].engine_mut().kernel_mut();
        assert!(kernel.is_closed(mute_peer));
        net.clients[mute].is_gone = true;
        assert_eq!(net.clients[idle].status, None);
        net.pass(5_000, 10);
        assert_eq!(net.clients[idle].status, Some(408));
        net.end();
    });
}

#[test]
fn an_end_that_nobody_vouched_for_is_counted() {
    for_each_seed("worker::tests::tls::an_end", 10, |seed| {
        let mut net = Net::new(seed, |_| {});
        let client = net.connect_by(0, "/ws", JSON, true);
        net.until_open();
        net.settle();
        net.say_all_and_end(client);
        net.settle();
        assert_eq!(net.total(|c| c.tls_truncated_total.get()), 1);
        net.end();
    });
}
