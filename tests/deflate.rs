//! Compression over real sockets: what is answered to which offer, what comes back, and what a
//! client that does wrong meets. The bytes are made by hand, or by zlib's own rules where they are
//! plain: a stored block, and a run of one byte.

mod common;

use common::{
    Server,
    raw::{self, Raw, frame},
};

/// RFC 7692 §7.2.3.1: "Hello".
const HELLO: &[u8] = b"\xf2\x48\xcd\xc9\xc9\x07\x00";
const FIN: u8 = 0x80;
const RSV1: u8 = 0x40;
const TEXT: u8 = 1;
const BINARY: u8 = 2;

fn offering(server: &Server, target: &str, offer: &str) -> (Raw, Option<String>) {
    let mut client = Raw::connect(server.addr);
    let lines = format!("Sec-WebSocket-Extensions: {offer}\r\n");
    client.send(raw::upgrade_request_with(target, &lines).as_bytes());
    let response = client.response();
    assert_eq!(response.status, 101, "{offer}");
    let answer = response
        .header("sec-websocket-extensions")
        .map(str::to_owned);
    (client, answer)
}

/// `text` in one block that is not compressed.
fn stored(text: &[u8]) -> Vec<u8> {
    let len = text.len() as u16;
    let mut wire = vec![0];
    wire.extend_from_slice(&len.to_le_bytes());
    wire.extend_from_slice(&(!len).to_le_bytes());
    wire.extend_from_slice(text);
    wire.push(0);
    wire
}

/// Many zero bytes: a block of fixed codes, each of whose pairs of bits makes 258 of them.
///
/// One zero, 00110000, and then 258 bytes from one byte back again and again: 11000101 00000, which
/// is 13 bits. Eight of those are 13 bytes for 2064.
fn zeros(runs: usize) -> Vec<u8> {
    let mut bits = BitWriter::default();
    bits.push(&[0, 1, 0]);
    bits.push(&[0, 0, 1, 1, 0, 0, 0, 0]);
    for _ in 0..runs {
        bits.push(&[1, 1, 0, 0, 0, 1, 0, 1]);
        bits.push(&[0, 0, 0, 0, 0]);
    }
    // The block's end, and an empty one as every message ends with.
    bits.push(&[0, 0, 0, 0, 0, 0, 0]);
    bits.push(&[0, 0, 0]);
    bits.bytes
}

#[derive(Default)]
struct BitWriter {
    bytes: Vec<u8>,
    used: usize,
}

impl BitWriter {
    fn push(&mut self, bits: &[u8]) {
        for bit in bits {
            if self.used.is_multiple_of(8) {
                self.bytes.push(0);
            }
            if let Some(last) = self.bytes.last_mut() {
                *last |= bit << (self.used % 8);
            }
            self.used += 1;
        }
    }
}

#[test]
fn offers_and_their_answers() {
    let server = Server::start(&["--demo"]);
    let none = "; server_no_context_takeover; client_no_context_takeover";
    let table = [
        ("permessage-deflate", Some(none)),
        ("permessage-deflate; client_max_window_bits", Some(none)),
        (
            "permessage-deflate; server_max_window_bits=\"10\"",
            Some(
                "; server_no_context_takeover; client_no_context_takeover; server_max_window_bits=10",
            ),
        ),
        ("permessage-deflate; server_max_window_bits=8", None),
        (
            "permessage-deflate; nonsense, permessage-deflate",
            Some(none),
        ),
        ("permessage-bzip2", None),
    ];
    for (offer, expected) in table {
        for target in ["/ws", "/echo"] {
            let (_, answer) = offering(&server, target, offer);
            let expected = expected.map(|params| format!("permessage-deflate{params}"));
            assert_eq!(answer, expected, "{offer}");
        }
    }
    let mut client = Raw::connect(server.addr);
    let lines = "Sec-WebSocket-Extensions: permessage-deflate;=1\r\n";
    client.send(raw::upgrade_request_with("/echo", lines).as_bytes());
    assert_eq!(client.response().status, 400);

    let off = Server::start(&["--demo", "--set", "deflate.enabled=false"]);
    let (mut client, answer) = offering(&off, "/echo", "permessage-deflate");
    assert_eq!(answer, None);
    client.send(&frame(FIN | RSV1 | TEXT, HELLO));
    client.expect_close(1002);
}

#[test]
fn what_is_sent_compressed_comes_back() {
    let server = Server::start(&["--demo", "--set", "deflate.message_bytes_min=5"]);
    let (mut client, _) = offering(&server, "/echo", "permessage-deflate");
    // A short text does not become smaller, so it comes back as it is.
    client.send(&frame(FIN | RSV1 | TEXT, HELLO));
    assert_eq!(client.expect_text(), "Hello");
    // In fragments, with a ping in between.
    client.send(&frame(RSV1 | TEXT, &HELLO[..3]));
    client.send(&frame(FIN | 9, b"p"));
    assert_eq!(client.expect_frame().opcode(), 10);
    client.send(&frame(0, b""));
    client.send(&frame(FIN, &HELLO[3..]));
    assert_eq!(client.expect_text(), "Hello");
    // A long one comes back compressed, however little that was done to it before.
    let long = b"tide ".repeat(400);
    client.send(&frame(FIN | RSV1 | TEXT, &stored(&long)));
    let back = client.expect_frame();
    assert_eq!(back.first, FIN | RSV1 | TEXT);
    assert!(back.payload.len() < 100, "{}", back.payload.len());
    // And goes in again, as the same message.
    client.send(&frame(FIN | RSV1 | TEXT, &back.payload));
    let again = client.expect_frame();
    assert_eq!(again.payload, back.payload);
    // Bytes are not, unless that is asked for.
    client.send(&frame(FIN | RSV1 | BINARY, &stored(&long)));
    let back = client.expect_frame();
    assert_eq!((back.first, back.payload), (FIN | BINARY, long.clone()));
    client.send(&frame(FIN | RSV1 | TEXT, b"\x00"));
    assert_eq!(client.expect_text(), "");
    // What comes as it is, is passed on as it is.
    client.send(&frame(FIN | TEXT, &long));
    assert_eq!(client.expect_frame().first, FIN | TEXT);
    let counters = server.counters();
    assert_eq!(counters.total("deflate_agreed_total"), 1);
    assert_eq!(counters.total("deflate_in_messages_total"), 6);
    assert_eq!(counters.total("deflate_out_messages_total"), 2);
}

#[test]
fn broken_messages_have_their_close_codes() {
    let server = Server::start(&["--demo"]);
    let table: &[(&[u8], u16)] = &[
        (&frame(FIN | RSV1 | TEXT, b"\x07"), 1007),
        (&frame(FIN | RSV1 | TEXT, &HELLO[..4]), 1007),
        (&frame(FIN | RSV1 | TEXT, b""), 1007),
        (&frame(FIN | RSV1 | TEXT, &stored(b"a\xff")), 1007),
        (&frame(FIN | RSV1 | TEXT, &stored(b"a\xc3")), 1007),
        (&frame(FIN | RSV1 | 9, b""), 1002),
        (&frame(FIN | RSV1 | 8, b""), 1002),
        (&frame(FIN | 0x20 | TEXT, b""), 1002),
        (&frame(FIN | 0x30 | RSV1 | TEXT, b""), 1002),
        (&[frame(TEXT, b"a"), frame(FIN | RSV1, b"b")].concat(), 1002),
        (
            &[frame(RSV1 | TEXT, HELLO), frame(FIN | RSV1, b"\x00")].concat(),
            1002,
        ),
    ];
    for (bytes, code) in table {
        for target in ["/ws", "/echo"] {
            let (mut client, answer) = offering(&server, target, "permessage-deflate");
            assert!(answer.is_some());
            if target == "/ws" {
                assert!(client.expect_text().contains("connected"));
            }
            client.send(bytes);
            client.expect_close(*code);
        }
    }
    server.wait_counter_blocking("deflate_invalid_total", 6);
    assert_eq!(server.counters().total("panics_total"), 0);
}

#[test]
fn a_bomb_is_defused_at_the_limit_to_the_byte() {
    let args = ["--demo", "--set", "limits.bytes_per_second=0B"];
    let server = Server::start(&args);
    // 1 + 258 × 254 = 65533, three short of the limit.
    let (mut client, _) = offering(&server, "/echo", "permessage-deflate");
    client.send(&frame(FIN | RSV1 | BINARY, &zeros(254)));
    let (_, back) = client.expect_message();
    assert_eq!(back, vec![0; 65_533]);
    client.send(&frame(FIN | RSV1 | BINARY, &zeros(255)));
    client.expect_close(1009);
    // Two hundred of those, of 10 MiB each, take neither memory nor more than a moment.
    let bomb = frame(FIN | RSV1 | TEXT, &zeros(40_000));
    assert!(bomb.len() < 66_000);
    let before = server.rss_bytes();
    let started = std::time::Instant::now();
    for _ in 0..200 {
        let (mut client, _) = offering(&server, "/echo", "permessage-deflate");
        client.send(&bomb);
        client.expect_close(1009);
    }
    let grown = server.rss_bytes().saturating_sub(before);
    assert!(grown < 8 << 20, "{grown} bytes more");
    println!(
        "two hundred bombs: {:?}, {grown} bytes more",
        started.elapsed()
    );
    server.wait_counter_blocking("deflate_bombs_total", 201);
}

#[test]
fn a_room_is_compressed_once_and_everyone_reads_the_same() {
    let server = Server::start(&["--cores", &common::cores(2)]);
    let plain = |target: &str| Raw::upgraded(server.addr, target);
    let compressed = |target: &str, params: &str| {
        let offer = format!("permessage-deflate{params}");
        let (client, answer) = offering(&server, target, &offer);
        assert!(answer.is_some());
        client
    };
    let mut members = Vec::new();
    for _ in 0..4 {
        members.push((plain("/ws"), false));
        members.push((compressed("/ws", ""), true));
        members.push((compressed("/ws", "; server_max_window_bits=12"), false));
    }
    for (member, _) in &mut members {
        member.expect_text();
        member.send(&frame(
            FIN | TEXT,
            br#"{"type":"join","room":"bay","id":"j"}"#,
        ));
        while !member.expect_text().contains("\"id\":\"j\"") {}
    }
    let before = server.counters().total("deflate_out_messages_total");
    let text = "ebb and flow ".repeat(300);
    let publish = format!(r#"{{"type":"publish","room":"bay","data":"{text}"}}"#);
    members[0].0.send(&frame(FIN | TEXT, publish.as_bytes()));
    let mut forms = [Vec::new(), Vec::new()];
    for (member, is_compressed) in &mut members {
        let frame = loop {
            let frame = member.expect_frame();
            if frame.first & RSV1 != 0 || frame.payload.starts_with(b"{\"type\":\"message\"") {
                break frame;
            }
        };
        assert_eq!(frame.first & RSV1 != 0, *is_compressed);
        forms[usize::from(*is_compressed)].push(frame.payload);
    }
    for form in &forms {
        assert!(form.iter().all(|payload| *payload == form[0]));
    }
    assert!(forms[1][0].len() * 10 < forms[0][0].len());
    let after = server.counters().total("deflate_out_messages_total");
    assert_eq!(after - before, 1, "compressed for each member anew");
    // What the compressed form says is what the other says: the gateway reads it back.
    let server = Server::start(&["--demo", "--set", "deflate.enabled=true"]);
    let (mut echo, _) = offering(
        &server,
        "/echo",
        "permessage-deflate; server_max_window_bits=9",
    );
    echo.send(&frame(FIN | RSV1 | BINARY, &forms[1][0]));
    let (_, back) = echo.expect_message();
    assert!(back == forms[0][0]);
}

#[test]
fn history_is_kept_where_it_is_configured() {
    let server = Server::start(&[
        "--demo",
        "--set",
        "deflate.server_context_takeover=true",
        "--set",
        "deflate.client_context_takeover=true",
        "--set",
        "deflate.message_bytes_min=100",
    ]);
    let (mut client, answer) = offering(&server, "/echo", "permessage-deflate");
    assert_eq!(answer.as_deref(), Some("permessage-deflate"));
    // RFC 7692 §7.2.3.2: the second refers to the first.
    for wire in [HELLO, b"\xf2\x00\x11\x00\x00"] {
        client.send(&frame(FIN | RSV1 | TEXT, wire));
        assert_eq!(client.expect_text(), "Hello");
    }
    let long = "a text that is said twice, and is then found where it was. ".repeat(3);
    let mut lens = Vec::new();
    for _ in 0..2 {
        client.send(&frame(FIN | RSV1 | TEXT, &stored(long.as_bytes())));
        let back = client.expect_frame();
        assert_eq!(back.first, FIN | RSV1 | TEXT);
        lens.push(back.payload.len());
    }
    assert!(lens[1] * 2 < lens[0], "{lens:?}");
    assert!(server.counters().total("deflate_takeover_bytes") > 300_000);
    drop(client);
    server.wait_counter_blocking("deflate_takeover_bytes", 0);
}
