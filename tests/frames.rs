//! Frames as RFC 6455 §5 wants them, and what a client hears that sends others. All bytes are
//! made by hand here, because no client library sends a bad frame.

mod common;

use common::{
    Random, Server,
    raw::{
        BINARY, CLOSE, CONTINUATION, FIN, NO_CODE, PING, PONG, Raw, TEXT, close_payload, frame,
        header, header_16, header_64, masked,
    },
};

/// A gateway, and a connection next to the faulty ones that must not notice them.
struct Bench {
    server: Server,
    neighbour: Raw,
    cases: u32,
}

impl Bench {
    fn new() -> Self {
        let server = Server::start(&["--demo"]);
        let neighbour = Raw::upgraded(server.addr, "/echo");
        Self {
            server,
            neighbour,
            cases: 0,
        }
    }

    /// `bytes` after an upgrade end the connection with `code`: sent whole, then byte by byte, at
    /// a route that echoes and at one that parses.
    fn fails(&mut self, what: &str, bytes: &[u8], code: u16) {
        self.fails_with(what, bytes, &[code]);
    }

    /// The same where more than one code is right.
    fn fails_with(&mut self, what: &str, bytes: &[u8], codes: &[u16]) {
        for (target, split) in [
            ("/echo", false),
            ("/echo", true),
            ("/ws", false),
            ("/ws", true),
        ] {
            eprintln!("case: {what} at {target}, byte by byte: {split}");
            let mut raw = Raw::upgraded(self.server.addr, target);
            if target == "/ws" {
                assert!(raw.expect_text().contains("\"connected\""));
            }
            if split {
                bytes.iter().for_each(|byte| raw.try_send(&[*byte]));
            } else {
                raw.try_send(bytes);
            }
            let frame = raw.expect_frame();
            let (code, reason) = frame
                .close()
                .unwrap_or_else(|| panic!("{what}: not a close but {frame:?}"));
            assert!(
                codes.contains(&code),
                "{what}: wanted {codes:?}, got {code} {reason:?}"
            );
            raw.expect_end();
            self.neighbour_lives();
        }
    }

    fn neighbour_lives(&mut self) {
        self.cases += 1;
        let text = format!("after case {}", self.cases);
        self.neighbour.send(&frame(FIN | TEXT, text.as_bytes()));
        assert_eq!(self.neighbour.expect_text(), text);
    }

    /// Nothing is left behind of any case.
    fn finish(self) {
        drop(self.neighbour);
        self.server
            .wait_blocking("every gauge at zero", common::Counters::is_idle);
        let counters = self.server.counters();
        assert_eq!(counters.total("panics_total"), 0);
        assert_eq!(counters.total("missed_wakes_total"), 0);
    }
}

#[test]
fn malformed_headers_are_1002() {
    let mut bench = Bench::new();
    let mut unmasked = vec![FIN | TEXT, 5];
    unmasked.extend(b"hello");
    bench.fails("an unmasked frame", &unmasked, 1002);
    bench.fails("an unmasked empty frame", &[FIN | TEXT, 0], 1002);
    for bit in [0x40, 0x20, 0x10, 0x70] {
        let bytes = frame(FIN | bit | TEXT, b"x");
        bench.fails(&format!("reserved bits {bit:#x}"), &bytes, 1002);
        let ping = frame(FIN | bit | PING, b"");
        bench.fails(&format!("a ping with reserved bits {bit:#x}"), &ping, 1002);
    }
    for opcode in [0x3, 0x4, 0x5, 0x6, 0x7, 0xb, 0xc, 0xd, 0xe, 0xf] {
        let bytes = frame(FIN | opcode, b"x");
        bench.fails(&format!("opcode {opcode:#x}"), &bytes, 1002);
    }
    bench.finish();
}

#[test]
fn lengths_that_are_not_the_shortest_are_1002() {
    let mut bench = Bench::new();
    for len in [0, 1, 125] {
        let mut bytes = header_16(FIN | TEXT, len);
        bytes.extend(masked(&vec![b'x'; len as usize]));
        bench.fails(&format!("{len} in 16 bits"), &bytes, 1002);
    }
    for len in [0, 125, 126, 1000] {
        let mut bytes = header_64(FIN | BINARY, len);
        bytes.extend(masked(&vec![b'x'; len as usize]));
        bench.fails(&format!("{len} in 64 bits"), &bytes, 1002);
    }
    // RFC 6455 §5.2: the top bit of a 64-bit length is 0. It is as much too big as malformed.
    let bytes = header_64(FIN | BINARY, 1 << 63);
    bench.fails_with("a length with its top bit set", &bytes, &[1002, 1009]);
    bench.finish();
}

#[test]
fn malformed_control_frames_are_1002() {
    let mut bench = Bench::new();
    for (name, opcode) in [("ping", PING), ("pong", PONG), ("close", CLOSE)] {
        let payload = close_payload(1000, b"");
        bench.fails(
            &format!("a fragmented {name}"),
            &frame(opcode, &payload),
            1002,
        );
        // The header alone is enough to see it.
        let long = header(FIN | opcode, 126);
        bench.fails(&format!("a {name} of 126 bytes"), &long, 1002);
        let huge = header(FIN | opcode, 70_000);
        bench.fails(&format!("a {name} of 70,000 bytes"), &huge, 1002);
    }
    bench.finish();
}

#[test]
fn broken_fragmentation_is_1002() {
    let mut bench = Bench::new();
    bench.fails(
        "a continuation of nothing",
        &frame(FIN | CONTINUATION, b"x"),
        1002,
    );
    bench.fails(
        "an unfinished continuation of nothing",
        &frame(CONTINUATION, b"x"),
        1002,
    );
    for opcode in [TEXT, BINARY] {
        let bytes = [frame(opcode, b"a"), frame(FIN | TEXT, b"b")].concat();
        bench.fails("a new message inside a message", &bytes, 1002);
    }
    bench.finish();
}

#[test]
fn invalid_utf8_is_1007() {
    let mut bench = Bench::new();
    let cases: [(&str, &[u8]); 8] = [
        ("a lone continuation byte", b"ok \x80"),
        ("an overlong slash", b"\xc0\xaf"),
        ("an overlong NUL in three bytes", b"\xe0\x80\x80"),
        ("a surrogate", b"\xed\xa0\x80"),
        ("beyond U+10FFFF", b"\xf4\x90\x80\x80"),
        ("a byte that never occurs", b"hello \xff"),
        ("a sequence cut by the end", b"euro \xe2\x82"),
        ("a sequence cut by ASCII", b"\xe2\x82x"),
    ];
    for (what, bytes) in cases {
        bench.fails(what, &frame(FIN | TEXT, bytes), 1007);
    }
    let split = [
        frame(TEXT, b"\xe2"),
        frame(CONTINUATION, b""),
        frame(FIN | CONTINUATION, b"\x28"),
    ]
    .concat();
    bench.fails("a sequence broken across fragments", &split, 1007);
    let reason = frame(FIN | CLOSE, &close_payload(1000, b"\xff"));
    bench.fails("a close reason", &reason, 1007);
    bench.finish();
}

#[test]
fn invalid_utf8_fails_before_the_frame_ends() {
    let mut bench = Bench::new();
    let mut bytes = header(FIN | TEXT, 1000);
    bytes.extend(masked(b"good so far \xff"));
    bench.fails("a bad byte in an unfinished frame", &bytes, 1007);
    let mut bytes = header(TEXT, 1000);
    bytes.extend(masked(b"\xf4\x90"));
    bench.fails("a bad prefix in an unfinished fragment", &bytes, 1007);
    bench.finish();
}

#[test]
fn too_big_is_1009_by_the_header_alone() {
    let mut bench = Bench::new();
    for len in [64 * 1024 + 1, 1 << 20, 1 << 40, (1 << 63) - 1] {
        for opcode in [TEXT, BINARY] {
            let bytes = header(FIN | opcode, len);
            bench.fails(&format!("{len} bytes announced"), &bytes, 1009);
        }
    }
    bench.finish();
}

#[test]
fn too_big_is_1009_by_the_running_total() {
    let bench = Bench::new();
    for (first, announced) in [(60 * 1024, 4 * 1024 + 1), (1, 64 * 1024), (64 * 1024, 1)] {
        let mut raw = Raw::upgraded(bench.server.addr, "/echo");
        raw.send(&frame(BINARY, &vec![7; first]));
        raw.send(&header(FIN | CONTINUATION, announced));
        // A long first fragment is on its way back already; nothing of the second is.
        let passed_on = raw.expect_close_after_parts(1009);
        assert!([0, first].contains(&passed_on.len()), "{}", passed_on.len());
    }
    // Empty fragments add nothing, and are neither a fault nor a message.
    let mut raw = Raw::upgraded(bench.server.addr, "/echo");
    raw.send(&frame(BINARY, &vec![7; 64 * 1024]));
    raw.send(&frame(CONTINUATION, b"").repeat(10));
    raw.send(&frame(FIN | CONTINUATION, b""));
    assert_eq!(raw.expect_message(), (BINARY, vec![7; 64 * 1024]));
    drop(raw);
    bench.finish();
}

#[test]
fn every_length_form_is_echoed() {
    let server = Server::start(&["--demo", "--set", "limits.message_bytes_max=1MiB"]);
    let mut raw = Raw::upgraded(server.addr, "/echo");
    for len in [
        0,
        1,
        124,
        125,
        126,
        127,
        128,
        65_535,
        65_536,
        65_537,
        1 << 20,
    ] {
        for opcode in [TEXT, BINARY] {
            let payload: Vec<u8> = (0..len).map(|n| b'a' + (n % 23) as u8).collect();
            raw.send(&frame(FIN | opcode, &payload));
            let (got, echoed) = raw.expect_message();
            assert_eq!((got, echoed.len()), (opcode, len));
            assert!(echoed == payload, "{len} bytes came back changed");
        }
    }
    raw.send(&header(FIN | BINARY, (1 << 20) + 1));
    raw.expect_close(1009);
}

#[test]
fn fragments_become_one_message() {
    let server = Server::start(&["--demo"]);
    let mut raw = Raw::upgraded(server.addr, "/echo");
    // A euro sign and an emoji, each cut by a fragment's end.
    let pieces: [&[u8]; 6] = [
        b"\xe2",
        b"\x82\xac and ",
        b"",
        b"\xf0\x9f",
        b"\x8c\x8a",
        b"",
    ];
    for (n, piece) in pieces.iter().enumerate() {
        let opcode = if n == 0 { TEXT } else { CONTINUATION };
        raw.send(&frame(opcode, piece));
    }
    raw.send(&frame(FIN | CONTINUATION, b""));
    let (opcode, payload) = raw.expect_message();
    assert_eq!((opcode, payload.as_slice()), (TEXT, "€ and 🌊".as_bytes()));
}

#[test]
fn pings_are_answered_between_fragments() {
    let server = Server::start(&["--demo"]);
    let mut raw = Raw::upgraded(server.addr, "/echo");
    for payload in [b"".as_slice(), b"hello", &[0xff; 125]] {
        raw.send(&frame(FIN | PING, payload));
        let pong = raw.expect_frame();
        assert_eq!((pong.first, pong.payload.as_slice()), (FIN | PONG, payload));
    }
    raw.send(&frame(TEXT, b"before "));
    raw.send(&frame(FIN | PING, b"in between"));
    let pong = raw.expect_frame();
    assert_eq!(
        (pong.first, pong.payload.as_slice()),
        (FIN | PONG, b"in between".as_slice())
    );
    raw.send(&frame(FIN | CONTINUATION, b"after"));
    assert_eq!(raw.expect_message(), (TEXT, b"before after".to_vec()));
}

#[test]
fn unasked_pongs_are_ignored() {
    let server = Server::start(&["--demo"]);
    for target in ["/echo", "/ws"] {
        let mut raw = Raw::upgraded(server.addr, target);
        if target == "/ws" {
            raw.expect_text();
        }
        raw.send(&frame(FIN | PONG, b"nobody asked"));
        raw.send(&frame(FIN | PING, b"next"));
        let pong = raw.expect_frame();
        assert_eq!(
            (pong.first, pong.payload.as_slice()),
            (FIN | PONG, b"next".as_slice())
        );
    }
}

#[test]
fn close_is_answered_with_the_same_code() {
    let server = Server::start(&["--demo"]);
    for target in ["/echo", "/ws"] {
        for code in [1000, 1001, 1003, 1007, 1011, 3000, 3999, 4000, 4999] {
            let mut raw = Raw::upgraded(server.addr, target);
            if target == "/ws" {
                raw.expect_text();
            }
            raw.send(&frame(
                FIN | CLOSE,
                &close_payload(code, "bye €".as_bytes()),
            ));
            raw.expect_close(code);
        }
        let mut raw = Raw::upgraded(server.addr, target);
        if target == "/ws" {
            raw.expect_text();
        }
        raw.send(&frame(FIN | CLOSE, b""));
        let (code, _) = raw.expect_frame().close().expect("a close frame");
        // RFC 6455 §5.5.1 lets the answer say 1000 or say nothing.
        assert!([1000, NO_CODE].contains(&code), "{code}");
        raw.expect_end();
    }
    server.wait_blocking("every gauge at zero", common::Counters::is_idle);
}

#[test]
fn malformed_closes_are_1002() {
    let mut bench = Bench::new();
    bench.fails("a code of one byte", &frame(FIN | CLOSE, b"\x03"), 1002);
    for code in [
        0, 999, 1004, 1005, 1006, 1015, 1016, 1100, 2000, 2999, 5000, 65_535,
    ] {
        let bytes = frame(FIN | CLOSE, &close_payload(code, b""));
        bench.fails(&format!("code {code}"), &bytes, 1002);
    }
    bench.finish();
}

#[test]
fn nothing_is_said_after_a_close() {
    let server = Server::start(&["--demo"]);
    let mut raw = Raw::upgraded(server.addr, "/echo");
    let mut bytes = frame(FIN | TEXT, b"before");
    bytes.extend(frame(FIN | CLOSE, &close_payload(1000, b"")));
    bytes.extend(frame(FIN | TEXT, b"after"));
    bytes.extend(frame(FIN | PING, b"after"));
    raw.send(&bytes);
    assert_eq!(raw.expect_text(), "before");
    raw.expect_close(1000);
}

#[test]
fn good_messages_before_a_bad_frame_are_still_answered() {
    let server = Server::start(&["--demo"]);
    let mut raw = Raw::upgraded(server.addr, "/echo");
    let mut bytes = frame(FIN | TEXT, b"one");
    bytes.extend(frame(FIN | PING, b"two"));
    bytes.extend(frame(FIN | 0x3, b"bad"));
    bytes.extend(frame(FIN | TEXT, b"never"));
    raw.try_send(&bytes);
    assert_eq!(raw.expect_text(), "one");
    assert_eq!(raw.expect_frame().payload, b"two");
    raw.expect_close(1002);
}

#[test]
fn any_split_of_the_stream_gives_the_same_messages() {
    let mut random = Random::seeded();
    let server = Server::start(&["--demo"]);
    for _ in 0..10 {
        let mut raw = Raw::upgraded(server.addr, "/echo");
        let mut bytes = Vec::new();
        let mut wanted = Vec::new();
        for n in 0..60 {
            let len = [0, 3, 125, 126, 700, 5000][random.below(6)];
            let payload: Vec<u8> = (0..len).map(|at| b'a' + ((at + n) % 23) as u8).collect();
            if random.below(2) == 0 {
                bytes.extend(frame(FIN | TEXT, &payload));
            } else {
                let at = random.below(len + 1);
                bytes.extend(frame(TEXT, &payload[..at]));
                bytes.extend(frame(FIN | PONG, b"noise"));
                bytes.extend(frame(FIN | CONTINUATION, &payload[at..]));
            }
            wanted.push(payload);
        }
        let mut rest = bytes.as_slice();
        while !rest.is_empty() {
            let most = [1, 2, 7, 100, 4096][random.below(5)];
            let (piece, tail) = rest.split_at(rest.len().min(1 + random.below(most)));
            raw.send(piece);
            rest = tail;
        }
        for payload in &wanted {
            assert!(raw.expect_message() == (TEXT, payload.clone()));
        }
    }
}
