//! Balancers and proxies in front: PROXY headers, `Forwarded`, `X-Forwarded-For`; who is believed, and
//! whom limits and logs are about. Addresses of 127.0.0.0/8 play the parts.

mod common;

use std::{
    io::{Read, Write},
    net::TcpStream,
    path::Path,
    sync::Arc,
    time::Duration,
};

use common::{
    Server, TempFile,
    certs::{self, Authority},
    cores,
    raw::{FIN, Raw, TEXT, frame, upgrade_request, upgrade_request_with},
};
use rustls::{
    ClientConfig, ClientConnection, RootCertStore, StreamOwned,
    pki_types::{CertificateDer, pem::PemObject},
};
use socket2::SockRef;

/// The last part of the address of the balancer or proxy, and of somebody else.
const TRUSTED: u8 = 2;
const STRANGER: u8 = 3;

const BALANCER: [&str; 1] = ["server.proxy_protocol=[\"127.0.0.2/32\"]"];
const X_FORWARDED_FOR: [&str; 2] = [
    "server.client_address=x-forwarded-for",
    "server.trusted_proxies=[\"127.0.0.2/32\", \"10.0.0.0/8\"]",
];
const FORWARDED: [&str; 2] = [
    "server.client_address=forwarded",
    "server.trusted_proxies=[\"127.0.0.2/32\", \"10.0.0.0/8\"]",
];

fn start(on: usize, settings: &[&[&str]]) -> Server {
    let cores = cores(on);
    let mut args = vec!["--demo", "--cores", &cores];
    for setting in settings.iter().copied().flatten() {
        args.extend_from_slice(&["--set", setting]);
    }
    Server::quiet(&args)
}

/// Nobody but the two that the test names is exempt, and a rate is nobody's concern.
const COUNTED: [&str; 3] = [
    "limits.connections_per_ip=2",
    "limits.handshakes_per_ip_per_second=0",
    "limits.ip_exempt=[]",
];

fn v1(client: &str) -> Vec<u8> {
    format!("PROXY TCP4 {client} 127.0.0.1 40000 8080\r\n").into_bytes()
}

fn v2(client: [u8; 4], fields: &[u8]) -> Vec<u8> {
    let mut header = b"\r\n\r\n\0\r\nQUIT\n\x21\x11".to_vec();
    header.extend((12 + fields.len() as u16).to_be_bytes());
    header.extend(client);
    header.extend([127, 0, 0, 1, 0x9c, 0x40, 0x1f, 0x90]);
    header.extend(fields);
    header
}

/// A field of version 2 that nobody reads.
const FIELD: &[u8] = b"\x05\0\x04name";

/// What comes of a request from 127.0.0.`host` behind `first`, with these lines.
fn status(server: &Server, host: u8, first: &[u8], lines: &str) -> (u16, Raw) {
    let mut raw = Raw::connect_from(host, server.addr);
    let request = upgrade_request_with("/ws", lines);
    raw.try_send(&[first, request.as_bytes()].concat());
    let status = raw.response().status;
    (status, raw)
}

#[test]
fn a_header_may_be_cut_anywhere() {
    let server = start(2, &[&BALANCER]);
    for header in [v1("192.0.2.1"), v2([192, 0, 2, 1], FIELD)] {
        let mut bytes = header.clone();
        bytes.extend(upgrade_request("/echo").into_bytes());
        bytes.extend(frame(FIN | TEXT, b"behind it"));
        let cuts = (1..header.len() + 3).chain([bytes.len() - 1]);
        for cut in cuts {
            let mut raw = Raw::connect_from(TRUSTED, server.addr);
            let (front, back) = bytes.split_at(cut);
            raw.send(front);
            raw.send(back);
            assert_eq!(raw.response().status, 101, "cut at {cut}");
            assert_eq!(raw.expect_text(), "behind it", "cut at {cut}");
        }
        let mut raw = Raw::connect_from(TRUSTED, server.addr);
        for byte in &bytes {
            raw.send(&[*byte]);
        }
        assert_eq!(raw.response().status, 101);
        assert_eq!(raw.expect_text(), "behind it");
    }
    server.wait_blocking("every gauge at zero", common::Counters::is_idle);
    assert_eq!(server.counters().total("proxy_headers_refused_total"), 0);
}

#[test]
fn from_a_balancer_comes_a_header_or_the_end() {
    let server = start(2, &[&BALANCER, &["limits.handshake_timeout=400ms"]]);
    let mut long = v2([192, 0, 2, 1], b"");
    long[14..16].copy_from_slice(&u16::MAX.to_be_bytes());
    let cases: [&[u8]; 8] = [
        upgrade_request("/ws").as_bytes(),
        b"\x16\x03\x01\0\xc8\x01",
        b"PROXY TCP4 192.0.2.1 127.0.0.1 040000 8080\r\n",
        b"PROXY TCP6 192.0.2.1 127.0.0.1 40000 8080\r\n",
        b"PROXY TCP4 192.0.2.1 127.0.0.1 40000 8080\n",
        &[b"PROXY UNKNOWN ", &[b'x'; 200][..]].concat(),
        b"\r\n\r\n\0\r\nQUIT\n\x31\x11\0\x0c",
        &long,
    ]
    .map(<[u8]>::to_vec)
    .map(|bytes| &*bytes.leak());
    for (n, bytes) in cases.iter().enumerate() {
        for piece in [bytes.len(), 1] {
            let mut raw = Raw::connect_from(TRUSTED, server.addr);
            for piece in bytes.chunks(piece) {
                raw.try_send(piece);
            }
            // No answer in a language that the other end may not speak.
            assert_eq!(raw.rest(), b"", "{bytes:?}");
        }
        let refused = 2 * (n as u64 + 1);
        server.wait_counter_blocking("proxy_headers_refused_total", refused);
    }
    server.wait_log("what is wrong", |log| log.contains("PROXY header"));
    // Slow ones, and those who say nothing.
    for begun in [
        &b""[..],
        b"PROXY TCP4 192.0.2.1",
        &v2([192, 0, 2, 1], b"")[..20],
    ] {
        let mut raw = Raw::connect_from(TRUSTED, server.addr);
        raw.send(begun);
        assert_eq!(raw.rest(), b"", "{begun:?}");
    }
    server.wait_counter_blocking("handshake_timeouts_total", 3);
    // The time is one: it doesn't begin anew behind the header.
    let mut raw = Raw::connect_from(TRUSTED, server.addr);
    raw.send(&v1("192.0.2.1"));
    assert_eq!(raw.response().status, 408);
    drop(raw);
    server.wait_blocking("every gauge at zero", common::Counters::is_idle);
    assert_eq!(server.counters().total("proxy_headers_total"), 1);
}

#[test]
fn from_anyone_else_a_header_is_no_http() {
    let server = start(2, &[&BALANCER, &COUNTED]);
    for header in [v1("192.0.2.1"), v2([192, 0, 2, 1], b"")] {
        assert_eq!(status(&server, STRANGER, &header, "").0, 400);
        server.wait_blocking("it is gone", |c| c.total("connections_open") == 0);
    }
    // Its own address counts, and no other.
    let held: Vec<_> = (0..2).map(|_| status(&server, STRANGER, b"", "")).collect();
    assert!(held.iter().all(|(status, _)| *status == 101));
    assert_eq!(status(&server, STRANGER, b"", "").0, 429);
    assert_eq!(server.counters().total("proxy_headers_total"), 0);
}

#[test]
fn whom_a_header_names_counts_and_the_balancer_does_not() {
    for on in [1, 2] {
        let server = start(on, &[&BALANCER, &COUNTED]);
        let mut held = Vec::new();
        for host in 0..20 {
            for n in 0..3 {
                let header = if n == 1 {
                    v1(&format!("198.51.100.{host}"))
                } else {
                    v2([198, 51, 100, host], FIELD)
                };
                let (status, raw) = status(&server, TRUSTED, &header, "");
                assert_eq!(status, [101, 101, 429][n], "{host}, number {n}");
                held.push(raw);
            }
        }
        server.wait_counter_blocking("sessions_open", 40);
        let counters = server.counters();
        assert_eq!(counters.total("refused_ip_connections_total"), 20);
        assert_eq!(counters.total("addresses_known"), 20);
        // Who goes makes room for one, and only for one.
        drop(held.remove(0));
        server.wait_counter_blocking("sessions_open", 39);
        let (first, _kept) = status(&server, TRUSTED, &v1("198.51.100.0"), "");
        assert_eq!(first, 101);
        assert_eq!(status(&server, TRUSTED, &v1("198.51.100.0"), "").0, 429);
        // The balancer's own connections: as many as it likes.
        let own: [&[u8]; 2] = [b"PROXY UNKNOWN\r\n", b"\r\n\r\n\0\r\nQUIT\n\x20\0\0\0"];
        let own: Vec<_> = own.iter().cycle().take(8).collect();
        let own: Vec<_> = own
            .into_iter()
            .map(|header| status(&server, TRUSTED, header, ""))
            .collect();
        assert!(own.iter().all(|(status, _)| *status == 101));
        drop((held, own, _kept));
        server.wait_blocking("every gauge at zero", common::Counters::is_idle);
        assert_eq!(server.counters().total("accepted_total"), 60 + 2 + 8);
    }
}

#[test]
fn the_rate_of_handshakes_is_that_of_whom_a_header_names() {
    let rate = [
        "limits.connections_per_ip=0",
        "limits.handshakes_per_ip_per_second=2",
        "limits.ip_exempt=[]",
    ];
    for settings in [&BALANCER[..], &X_FORWARDED_FOR] {
        let server = start(2, &[settings, &rate]);
        let is_header = settings.len() == 1;
        let ask = |host: u8| {
            let client = format!("198.51.100.{host}");
            if is_header {
                status(&server, TRUSTED, &v1(&client), "").0
            } else {
                let line = format!("X-Forwarded-For: {client}\r\n");
                status(&server, TRUSTED, b"", &line).0
            }
        };
        // Many clients at once, each within its rate.
        assert!((0..30).all(|host| ask(host) == 101));
        // More than one may: its second's worth is soon used up.
        let refused = (0..50).map(|_| ask(200)).filter(|status| *status == 429);
        assert!(refused.count() > 0);
    }
}

/// The line of each kind that names a client.
fn line(settings: &[&str], client: &str) -> String {
    if settings == FORWARDED {
        format!("Forwarded: for=\"{client}\"\r\n")
    } else {
        format!("X-Forwarded-For: {client}\r\n")
    }
}

#[test]
fn whom_a_trusted_proxy_names_counts_and_the_proxy_does_not() {
    for settings in [&X_FORWARDED_FOR[..], &FORWARDED] {
        for on in [1, 2] {
            let server = start(on, &[settings, &COUNTED]);
            let mut held = Vec::new();
            for host in 0..20 {
                for n in 0..3 {
                    let line = line(settings, &format!("198.51.100.{host}"));
                    let (status, raw) = status(&server, TRUSTED, b"", &line);
                    assert_eq!(status, [101, 101, 429][n], "{host}, number {n}");
                    held.push(raw);
                }
            }
            server.wait_counter_blocking("sessions_open", 40);
            drop(held.remove(0));
            server.wait_counter_blocking("sessions_open", 39);
            let line = line(settings, "198.51.100.0");
            let (first, _kept) = status(&server, TRUSTED, b"", &line);
            assert_eq!(first, 101);
            assert_eq!(status(&server, TRUSTED, b"", &line).0, 429);
            // Its own requests: as many as it likes.
            let own: Vec<_> = (0..8).map(|_| status(&server, TRUSTED, b"", "")).collect();
            assert!(own.iter().all(|(status, _)| *status == 101));
            drop((held, own, _kept));
            server.wait_blocking("every gauge at zero", common::Counters::is_idle);
        }
    }
}

#[test]
fn nobody_gets_around_its_limit_by_what_it_says() {
    for settings in [&X_FORWARDED_FOR[..], &FORWARDED] {
        let server = start(2, &[settings, &COUNTED]);
        let x = settings == X_FORWARDED_FOR;
        // A stranger's header is not read at all, whichever it is.
        let mut held = Vec::new();
        for n in 0..4 {
            let line = line(settings, &format!("198.51.100.{n}"));
            let (status, raw) = status(&server, STRANGER, b"", &line);
            assert_eq!(status, [101, 101, 429, 429][n]);
            held.push(raw);
        }
        // Through the proxy, which adds who asked it: another address each time in front of that,
        // in the same field, in one before it, and in the other header.
        for n in 0..6 {
            let invented = format!("203.0.113.{n}");
            let named = "198.51.100.77";
            let lines = match (x, n % 3) {
                (true, 0) => format!("X-Forwarded-For: {invented}, {named}\r\n"),
                (true, 1) => {
                    format!("X-Forwarded-For: {invented}\r\nX-Forwarded-For: {named}, 10.1.1.1\r\n")
                }
                (true, _) => format!("Forwarded: for={invented}\r\nX-Forwarded-For: {named}\r\n"),
                (false, 0) => format!("Forwarded: for={invented}, for={named};proto=https\r\n"),
                (false, 1) => {
                    format!("Forwarded: for={invented}\r\nForwarded: for={named}, for=10.1.1.1\r\n")
                }
                (false, _) => format!("X-Forwarded-For: {invented}\r\nForwarded: for={named}\r\n"),
            };
            let (status, raw) = status(&server, TRUSTED, b"", &lines);
            assert_eq!(status, if n < 2 { 101 } else { 429 }, "{lines}");
            held.push(raw);
        }
        drop(held);
        server.wait_blocking("every gauge at zero", common::Counters::is_idle);
    }
}

#[test]
fn what_a_trusted_proxy_writes_and_nobody_can_read_is_400() {
    let server = start(2, &[&FORWARDED, &COUNTED]);
    for value in [
        "for=",
        "for=example.com",
        "198.51.100.1",
        "for=\"203.0.113.1, for=198.51.100.1",
        &vec!["for=10.0.0.1"; 65].join(","),
    ] {
        let lines = format!("Forwarded: {value}\r\n");
        assert_eq!(status(&server, TRUSTED, b"", &lines).0, 400, "{value}");
        // A stranger's is nobody's concern.
        assert_eq!(status(&server, STRANGER, b"", &lines).0, 101, "{value}");
        server.wait_blocking("both are gone", |c| c.total("connections_open") == 0);
    }
    assert_eq!(server.counters().total("forwarded_refused_total"), 5);
    // Hidden ones count for nobody.
    for value in ["for=unknown", "for=_hidden", "proto=https"] {
        let lines = format!("Forwarded: {value}\r\n");
        let held: Vec<_> = (0..4)
            .map(|_| status(&server, TRUSTED, b"", &lines))
            .collect();
        assert!(held.iter().all(|(status, _)| *status == 101), "{value}");
    }
}

#[test]
fn a_balancer_in_front_of_proxies_and_the_log() {
    let both = [
        "server.proxy_protocol=[\"127.0.0.2/32\"]",
        "server.client_address=x-forwarded-for",
        "server.trusted_proxies=[\"10.0.0.0/8\"]",
        "log.level=debug",
    ];
    let server = start(2, &[&both, &COUNTED]);
    let mut held = Vec::new();
    for n in 0..3 {
        let lines = "X-Forwarded-For: 203.0.113.1, 198.51.100.7\r\n";
        let (status, raw) = status(&server, TRUSTED, &v1("10.0.0.9"), lines);
        assert_eq!(status, [101, 101, 429][n]);
        held.push(raw);
    }
    // Past the balancer, without a proxy: who is named there counts, whatever its request says.
    for n in 0..3 {
        let lines = format!("X-Forwarded-For: 198.51.100.{n}\r\n");
        let (status, raw) = status(&server, TRUSTED, &v1("192.0.2.44"), &lines);
        assert_eq!(status, [101, 101, 429][n]);
        held.push(raw);
    }
    // The balancer's own requests are vouched for by nobody.
    let lines = "X-Forwarded-For: 198.51.100.7\r\n";
    assert_eq!(status(&server, TRUSTED, b"PROXY UNKNOWN\r\n", lines).0, 101);
    server.wait_counter_blocking("sessions_open", 4);
    server.wait_log("all upgrades", |log| log.matches("upgraded").count() == 5);
    let log = server.stderr();
    let upgraded: Vec<&str> = log
        .lines()
        .filter(|line| line.contains("upgraded"))
        .collect();
    let of = |address: &str| {
        upgraded
            .iter()
            .filter(|line| line.contains(address))
            .count()
    };
    assert_eq!(
        (of("198.51.100.7"), of("192.0.2.44:40000")),
        (2, 2),
        "{log}"
    );
    assert!(!upgraded.iter().any(|line| line.contains("203.0.113.1")));
}

#[test]
fn balancers_and_proxies_come_and_go_by_a_reload() {
    let file = TempFile::new("proxies.toml", "[limits]\nconnections_per_ip = 1\n");
    let args = [
        "--config",
        file.path(),
        "--set",
        "server.reload_on_change=false",
    ];
    let server = Server::quiet(&args);
    let reload = |text: &str, times| {
        std::fs::write(file.path(), text).expect("it can be written");
        server.signal("HUP");
        server.wait_blocking("a reload on both cores", |now| {
            now.per_core("reloads_total").iter().all(|n| *n == times)
        });
    };
    assert_eq!(status(&server, TRUSTED, &v1("192.0.2.1"), "").0, 400);
    reload(
        "[server]\nproxy_protocol = [\"127.0.0.2/32\"]\n[limits]\nconnections_per_ip = 1\n",
        1,
    );
    let (first, _held) = status(&server, TRUSTED, &v1("192.0.2.1"), "");
    assert_eq!(first, 101);
    reload(
        "[server]\nclient_address = \"forwarded\"\ntrusted_proxies = [\"127.0.0.2/32\"]\n\
         [limits]\nconnections_per_ip = 1\n",
        2,
    );
    // It is still counted for whom it was let in.
    let lines = "Forwarded: for=192.0.2.1\r\n";
    assert_eq!(status(&server, TRUSTED, b"", lines).0, 429);
    drop(_held);
    server.wait_counter_blocking("sessions_open", 0);
    let (second, _held) = status(&server, TRUSTED, b"", lines);
    assert_eq!(second, 101);
    // One that waits for its request when its proxy stops being one: it counts for nobody.
    let mut waits = Raw::connect_from(TRUSTED, server.addr);
    server.wait_counter_blocking("handshakes_inflight", 1);
    reload("[limits]\nconnections_per_ip = 1\n", 3);
    waits.send(upgrade_request_with("/ws", lines).as_bytes());
    assert_eq!(waits.response().status, 101);
    drop((waits, _held));
    server.wait_blocking("every gauge at zero", common::Counters::is_idle);
}

#[test]
fn a_flood_through_one_balancer_leaves_its_other_clients_alone() {
    let server = start(2, &[&BALANCER, &COUNTED]);
    let addr = server.addr;
    let flood = std::thread::spawn(move || {
        let header = v1("198.51.100.66");
        (0..300)
            .filter(|_| {
                let mut raw = Raw::connect_from(TRUSTED, addr);
                raw.try_send(&header);
                raw.upgrade_or_refusal("/ws");
                raw.response().status == 101
            })
            .count()
    });
    let started = std::time::Instant::now();
    for host in 0..50 {
        let (status, _raw) = status(&server, TRUSTED, &v1(&format!("192.0.2.{host}")), "");
        assert_eq!(status, 101);
    }
    assert!(started.elapsed() < Duration::from_secs(15));
    // Each of its connections is closed before the next one comes, or refused.
    flood.join().expect("no panic");
    server.wait_blocking("every gauge at zero", common::Counters::is_idle);
}

/// Who has reset its connection has no address any more, so it could count for nobody.
#[test]
fn who_is_gone_before_it_is_asked_for_its_address_is_not_served() {
    let server = start(2, &[&COUNTED]);
    server.signal("STOP");
    for _ in 0..10 {
        let mut raw = Raw::connect_from(STRANGER, server.addr);
        raw.send(upgrade_request("/ws").as_bytes());
        SockRef::from(&raw.stream)
            .set_linger(Some(Duration::ZERO))
            .expect("a close can be a reset");
    }
    server.signal("CONT");
    server.wait_counter_blocking("gone_at_accept_total", 10);
    server.wait_blocking("every gauge at zero", common::Counters::is_idle);
    assert_eq!(server.counters().total("upgraded_total"), 0);
}

/// A client's side of TLS over `raw`'s socket.
fn over_tls(raw: Raw, authority: &Authority) -> StreamOwned<ClientConnection, TcpStream> {
    let mut roots = RootCertStore::empty();
    let root = CertificateDer::from_pem_slice(authority.pem().as_bytes()).expect("it is PEM");
    roots.add(root).expect("it is an authority's");
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("the provider has some")
        .with_root_certificates(roots)
        .with_no_client_auth();
    let name = "edge.example.com".try_into().expect("it is a name");
    let client = ClientConnection::new(Arc::new(config), name).expect("the configuration is good");
    StreamOwned::new(client, raw.stream)
}

/// The status that an upgrade at `/ws` is answered with; none if the handshake fails.
fn status_over_tls(
    stream: &mut StreamOwned<ClientConnection, TcpStream>,
    lines: &str,
) -> Option<u16> {
    stream
        .write_all(upgrade_request_with("/ws", lines).as_bytes())
        .ok()?;
    let mut head = [0; 12];
    stream.read_exact(&mut head).ok()?;
    std::str::from_utf8(&head[9..]).ok()?.parse().ok()
}

#[test]
fn a_header_stands_in_front_of_tls_too() {
    let authority = Authority::new("servers");
    let directory = Path::new(env!("CARGO_TARGET_TMPDIR")).join("proxies-tls");
    std::fs::create_dir_all(&directory).expect("the target directory can be written");
    let issued = authority.server(&["edge.example.com"], certs::NOW);
    let (certificate, key) = issued.write(&directory, "edge");
    let certificates = format!(
        "tls.certificates=[{{certificate={:?}, key={:?}}}]",
        certificate, key
    );
    let both = [
        "server.proxy_protocol=[\"127.0.0.2/32\"]",
        "server.client_address=forwarded",
        "server.trusted_proxies=[\"10.0.0.0/8\"]",
        "tls.listen=127.0.0.1:0",
        &certificates,
    ];
    let server = start(2, &[&both, &COUNTED]);
    let banner = server.banner.iter();
    let encrypted = banner
        .clone()
        .find_map(|line| line.split("wss://").nth(1)?.split('/').next());
    let addr = encrypted.unwrap_or_else(|| panic!("{:?}", server.banner));
    let addr = addr.parse().expect("an address");
    let connect = |header: &[u8], cut: usize| {
        let mut raw = Raw::connect_from(TRUSTED, addr);
        let (front, back) = header.split_at(cut.min(header.len()));
        raw.send(front);
        raw.send(back);
        over_tls(raw, &authority)
    };
    // Named by the header: judged before the handshake, with an alert for the third.
    let mut held = Vec::new();
    for host in 0..12_u8 {
        for n in 0..3 {
            let mut stream = connect(&v2([198, 51, 100, host], FIELD), usize::from(host) * 3);
            let status = status_over_tls(&mut stream, "");
            assert_eq!(
                status,
                [Some(101), Some(101), None][n],
                "{host}, number {n}"
            );
            held.push(stream);
        }
    }
    // Named by the request, behind a proxy that the header names: a 429 within TLS.
    for host in 0..12_u8 {
        for n in 0..3 {
            let mut stream = connect(&v1("10.0.0.9"), usize::from(host) * 3);
            let lines = format!("Forwarded: for=192.0.2.{host}\r\n");
            let status = status_over_tls(&mut stream, &lines);
            assert_eq!(
                status,
                [Some(101), Some(101), Some(429)][n],
                "{host}, number {n}"
            );
            held.push(stream);
        }
    }
    assert_eq!(server.counters().total("refused_ip_connections_total"), 24);
    // A handshake without the header, and a header within the handshake, are none.
    assert_eq!(status_over_tls(&mut connect(b"", 0), ""), None);
    server.wait_counter_blocking("proxy_headers_refused_total", 1);
    drop(held);
    server.wait_blocking("every gauge at zero", common::Counters::is_idle);
}
