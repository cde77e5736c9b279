//! The edges of HTTP: requests as they should not be, as they may just be, and what is no request at
//! all. Each is sent whole and byte by byte, and gets the same answer.

mod common;

use common::{
    Server,
    raw::{CLOSE, FIN, PING, PONG, Raw, TEXT, close_payload, frame, upgrade_request},
};

const KEY: &str = "dGhlIHNhbXBsZSBub25jZQ==";

/// A request for the echo that a WebSocket comes of, to be changed.
fn good() -> String {
    upgrade_request("/echo")
}

/// The same with `from`, which is there, written as `to`.
fn with(from: &str, to: &str) -> String {
    let good = good();
    assert!(good.contains(from), "{from:?} is not in {good:?}");
    good.replacen(from, to, 1)
}

/// The same with more field lines.
fn adding(lines: &str) -> String {
    with("\r\n\r\n", &format!("\r\n{lines}\r\n"))
}

/// A plain request without a body.
fn plain(request_line: &str) -> String {
    format!("{request_line}\r\nHost: localhost\r\n\r\n")
}

/// Sends `head`, whole or in pieces, and wants `status`. What answers 101 is a WebSocket, and what
/// comes right behind the head belongs to it; any other answer is the last.
fn expect(server: &Server, head: &[u8], status: u16) {
    let upgrades = status == 101;
    let mut bytes = head.to_vec();
    if upgrades {
        bytes.extend(frame(FIN | TEXT, b"right behind"));
    }
    for piece in [bytes.len(), 1] {
        let shown = String::from_utf8_lossy(&head[..head.len().min(300)]);
        let mut raw = Raw::connect(server.addr);
        for piece in bytes.chunks(piece) {
            raw.try_send(piece);
        }
        let response = raw.response();
        assert_eq!(response.status, status, "{shown:?}: {response:?}");
        if upgrades {
            assert_eq!(raw.expect_text(), "right behind", "{shown:?}");
            continue;
        }
        let options = response.header("connection").unwrap_or_default();
        assert!(options.ends_with("close"), "{shown:?}: {response:?}");
        // Nothing of what was sent comes back: it may hold markup, or a secret.
        let text = response.text();
        assert!(text.len() < 200 && text.is_ascii(), "{shown:?}: {text:?}");
        raw.expect_end();
    }
}

/// All of `cases` at one gateway, of which nothing is left afterwards.
fn expect_all<T: AsRef<[u8]>>(cases: &[(T, u16)]) {
    let server = Server::start(&["--demo"]);
    for (head, status) in cases {
        expect(&server, head.as_ref(), *status);
    }
    server.wait_blocking("every gauge at zero", common::Counters::is_idle);
    assert_eq!(server.counters().total("panics_total"), 0);
}

#[test]
fn there_is_one_host_and_it_is_one() {
    let host = |value: &str| with("Host: localhost", &format!("Host: {value}"));
    expect_all(&[
        (with("Host: localhost\r\n", ""), 400),
        (with("Host: localhost", "Host: a\r\nHost: a"), 400),
        (with("Host: localhost", "Host: a\r\nhOST:"), 400),
        (host("a, b"), 400),
        (host("a b"), 400),
        (host("user@a"), 400),
        (host("a/b"), 400),
        (host("a:b"), 400),
        (host("a:65536"), 400),
        (host("a:80:80"), 400),
        (host("[::1"), 400),
        (host("::1"), 400),
        (host("[a]"), 400),
        (host("a%zz"), 400),
        (host("\u{e9}"), 400),
        (host("a\tb"), 400),
        (host("http://a"), 400),
        (host(""), 101),
        (host("a:"), 101),
        (host("[::1]:8080"), 101),
        (host("xn--bcher-kva.example:443"), 101),
        (host("  a \t"), 101),
        // An absolute-form target does not make up for a missing one.
        (
            with("Host: localhost\r\n", "").replacen("/echo", "http://a/echo", 1),
            400,
        ),
    ]);
}

#[test]
fn fields_have_one_form() {
    expect_all(&[
        (adding("X: a\r\n b\r\n"), 400),
        (adding("X: a\r\n\tb\r\n"), 400),
        (adding("X:\r\n a\r\n"), 400),
        (with("Host:", " X: a\r\nHost:"), 400),
        (with("Host:", "\tX: a\r\nHost:"), 400),
        (adding("X : a\r\n"), 400),
        (adding("X\t: a\r\n"), 400),
        (adding(": a\r\n"), 400),
        (adding("X\r\n"), 400),
        (adding("X Y: a\r\n"), 400),
        (adding("X(y): a\r\n"), 400),
        (adding("X\u{e9}: a\r\n"), 400),
        (adding("X: a\0b\r\n"), 400),
        (adding("X\0: a\r\n"), 400),
        (adding("X: a\x08b\r\n"), 400),
        (adding("X: a\x7fb\r\n"), 400),
        // RFC 9110 §5.5: bytes above ASCII may stand in a value, and mean nothing.
        (adding("X: \u{e9}\r\n"), 101),
        (adding("X:\r\n"), 101),
        (adding("X: \t a \t \r\n"), 101),
        (adding("X!#$%&'*+-.^_`|~1: a\r\n"), 101),
    ]);
}

#[test]
fn lines_end_with_cr_lf_and_with_nothing_else() {
    expect_all(&[
        (good().replace("\r\n", "\n"), 400),
        (good().replace("\r\n", "\r"), 400),
        (good().replace("\r\n", "\n\r"), 400),
        (with("HTTP/1.1\r\n", "HTTP/1.1\n"), 400),
        (with("HTTP/1.1\r\n", "HTTP/1.1\r\r\n"), 400),
        (with("localhost\r\n", "localhost\n"), 400),
        (with("localhost\r\n", "localhost\r"), 400),
        (with("localhost\r\n", "localhost\r\r\n"), 400),
        (adding("X: a\rb\r\n"), 400),
        (adding("X: a\r b\r\n"), 400),
        (adding("X: a\nY: b\r\n"), 400),
        (adding("X\r: a\r\n"), 400),
        (with("GET ", "GET\r"), 400),
        (with("GET ", "GET\n"), 400),
        (with("/echo ", "/ec\rho "), 400),
        (with("\r\n\r\n", "\r\n\n"), 400),
        (with("\r\n\r\n", "\n\r\n"), 400),
    ]);
}

#[test]
fn no_body_comes_unannounced_and_none_is_taken() {
    let length = |value: &str| adding(&format!("Content-Length: {value}\r\n"));
    expect_all(&[
        (length("0"), 101),
        (length("00"), 101),
        (adding("Content-Length: 0\r\nContent-Length: 0\r\n"), 101),
        (length("5"), 413),
        (length("18446744073709551615"), 413),
        (adding("Content-Length: 5\r\nContent-Length: 5\r\n"), 413),
        (adding("Content-Length: 0\r\nContent-Length: 5\r\n"), 400),
        (length("0, 0"), 400),
        (length("+0"), 400),
        (length("-1"), 400),
        (length("0x0"), 400),
        (length("0 0"), 400),
        (length(""), 400),
        (length("18446744073709551616"), 400),
        (adding("Transfer-Encoding: chunked\r\n"), 413),
        (adding("Transfer-Encoding: identity\r\n"), 413),
        (adding("Transfer-Encoding: xchunked\r\n"), 413),
        (
            adding("Content-Length: 0\r\nTransfer-Encoding: chunked\r\n"),
            400,
        ),
        (
            adding("Transfer-Encoding: chunked\r\nContent-Length: 0\r\n"),
            400,
        ),
        (
            "GET /healthz HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n".to_owned(),
            400,
        ),
        // RFC 9110 §10.1.1: without a body there is nothing to be told to go on with.
        (adding("Expect: 100-continue\r\n"), 101),
        (adding("Expect: 100-continue\r\nContent-Length: 5\r\n"), 413),
    ]);
}

#[test]
fn targets_have_two_forms() {
    let target = |target: &str| with("/echo", target);
    expect_all(&[
        (target("http://localhost/echo"), 101),
        (target("WS://localhost:80/echo?a=b"), 101),
        // RFC 9112 §3.2.2: the target's host counts, and `Host` is ignored.
        (target("http://other.example/echo"), 101),
        (target("wss://[::1]/echo"), 101),
        (target("ftp://localhost/echo"), 400),
        (target("http:/echo"), 400),
        (target("http:///echo"), 400),
        (target("http://:80/echo"), 400),
        (target("http://user:secret@localhost/echo"), 400),
        (target("http://a b/echo"), 400),
        (target("http://[::1/echo"), 400),
        (target("//localhost/echo"), 404),
        (target("localhost:80"), 400),
        (target("echo"), 400),
        (target("*"), 400),
        (target("/echo#part"), 400),
        (target("?a=b"), 400),
        (target("/echo?"), 101),
        (target("/echo?a=b?c/d"), 101),
        (target("/ec\u{e9}ho"), 400),
        (target("/ec\0ho"), 400),
        (target("/ec\tho"), 400),
        (plain("OPTIONS * HTTP/1.1"), 400),
        (plain("CONNECT localhost:443 HTTP/1.1"), 400),
        (plain("CONNECT /echo HTTP/1.1"), 405),
        (plain("GET  HTTP/1.1"), 400),
    ]);
}

#[test]
fn a_path_means_one_thing() {
    let path = |path: &str| with("/echo", path);
    expect_all(&[
        // RFC 3986 §2.3: letters mean the same, encoded or not.
        (path("/%65cho"), 101),
        (path("/%65%63%68%6F"), 101),
        (path("/ECHO"), 404),
        (path("/echo/"), 404),
        (path("//echo"), 404),
        (path("/echo;a=b"), 404),
        (path("/echo%3Fa"), 404),
        (path("/ec\\ho"), 404),
        (path("/./echo"), 400),
        (path("/../echo"), 400),
        (path("/x/../echo"), 400),
        (path("/echo/."), 400),
        (path("/%2e/echo"), 400),
        (path("/x/%2E%2e/echo"), 400),
        (path("/.%2e/echo"), 400),
        (path("/%2fecho"), 400),
        (path("/x%2f..%2fecho"), 400),
        (path("/%00"), 400),
        (path("/echo%0d%0aX:%20a"), 400),
        (path("/%c0%ae%c0%ae/echo"), 400),
        (path("/%ff"), 400),
        (path("/%"), 400),
        (path("/%6"), 400),
        (path("/%6g"), 400),
        (path("/%u0065cho"), 400),
        // Encoded twice is decoded once.
        (path("/%2565cho"), 404),
        (path("/..."), 404),
    ]);
}

#[test]
fn floods_are_cut_off_where_the_limit_is() {
    const KIB: usize = 1024;
    let long = |len: usize| "x".repeat(len);
    let many = |count: usize| "X: y\r\n".repeat(count);
    expect_all(&[
        // The head that there is has five fields.
        (adding(&many(59)), 101),
        (adding(&many(60)), 431),
        (adding(&many(2000)), 431),
        (adding(&format!("X: {}\r\n", long(15 * KIB))), 101),
        (adding(&format!("X: {}\r\n", long(16 * KIB))), 431),
        (adding(&format!("{}: y\r\n", long(16 * KIB))), 431),
        // They never end.
        (format!("GET /echo HTTP/1.1\r\nX: {}", long(17 * KIB)), 431),
        (format!("GET /echo HTTP/1.1\r\n{}", long(17 * KIB)), 431),
        (format!("GET /{}", long(9 * KIB)), 414),
        (format!("GET /echo HTTP/1.1{}", "1".repeat(17 * KIB)), 400),
        (long(17 * KIB), 400),
        (with("/echo", &format!("/echo?{}", long(8 * KIB - 6))), 101),
        (with("/echo", &format!("/echo?{}", long(8 * KIB - 5))), 414),
        (with("GET", &long(32)), 405),
        (with("GET", &long(33)), 400),
    ]);
}

#[test]
fn versions_are_told_apart() {
    let version = |version: &str| with("HTTP/1.1", version);
    expect_all(&[
        ("GET /healthz HTTP/1.0\r\n\r\n".to_owned(), 200),
        (plain("GET /healthz HTTP/1.0"), 200),
        (version("HTTP/1.0"), 400),
        ("GET /healthz\r\n".to_owned(), 400),
        ("GET /healthz\r\n\r\n".to_owned(), 400),
        (version("HTTP/0.9"), 400),
        (version("HTTP/1.2"), 400),
        (version("HTTP/1.10"), 400),
        (version("HTTP/01.1"), 400),
        (version("HTTP/2"), 400),
        (version("HTTP/2.0"), 400),
        (version("HTTP/3.0"), 400),
        (version("http/1.1"), 400),
        (version("HTTP 1.1"), 400),
        (version("HTTP/1.1 "), 400),
        (version(" HTTP/1.1"), 400),
        (
            "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0".to_owned(),
            400,
        ),
    ]);
}

#[test]
fn methods_and_what_may_stand_before_them() {
    expect_all(&[
        (with("GET", "get"), 405),
        (with("GET", "POST"), 405),
        (with("GET", "BREW"), 405),
        (plain("get /healthz HTTP/1.1"), 405),
        (plain("TRACE /echo HTTP/1.1"), 405),
        (plain("G@T /echo HTTP/1.1"), 400),
        (plain("G\u{e9}T /echo HTTP/1.1"), 400),
        // RFC 9112 §2.2: one empty line may come first, and nothing else.
        (format!("\r\n{}", good()), 101),
        (format!("\r\n\r\n{}", good()), 400),
        (format!("\n{}", good()), 400),
        (format!("\r{}", good()), 400),
        (format!(" {}", good()), 400),
        (format!("\t{}", good()), 400),
        (format!(" \r\n{}", good()), 400),
        (format!("\0{}", good()), 400),
        (format!("\u{feff}{}", good()), 400),
    ]);
}

#[test]
fn what_speaks_something_else_is_told_so() {
    expect_all(&[
        // SSL 2.
        (&b"\x80\x2e\x01\x03\x01"[..], 400),
        (b"SSH-2.0-OpenSSH_9.2p1\r\n", 400),
        (b"EHLO example.com\r\n", 400),
        (b"*1\r\n$4\r\nPING\r\n", 400),
        (b"\0\0\0\x08\x04\xd2\x16\x2f", 400),
        // The beginning of every connection, from those who are to send it; this address is not.
        (
            b"PROXY TCP4 192.0.2.1 192.0.2.2 1 2\r\nGET /healthz HTTP/1.1\r\nHost: a\r\n\r\n",
            400,
        ),
        (
            b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c\xc0\0\x02\x01\xc0\0\x02\x02\0\x01\0\x02",
            400,
        ),
        (b"\xff\xf4\xff\xfd\x06", 400),
    ]);
}

#[test]
fn who_speaks_tls_here_is_told_in_its_own_words() {
    let server = Server::start(&[]);
    for piece in [TLS_CLIENT_HELLO.len(), 1] {
        let mut raw = Raw::connect(server.addr);
        for piece in TLS_CLIENT_HELLO.chunks(piece) {
            raw.try_send(piece);
        }
        // RFC 8446 §6: a fatal alert, handshake_failure.
        assert_eq!(raw.rest(), [21, 3, 3, 0, 2, 2, 40]);
    }
    server.wait_blocking("every gauge at zero", common::Counters::is_idle);
    assert_eq!(server.counters().total("tls_on_plain_total"), 2);
}

/// The start of a ClientHello as browsers send it to a port that they take for TLS.
const TLS_CLIENT_HELLO: &[u8] = b"\x16\x03\x01\x00\xc8\x01\x00\x00\xc4\x03\x03\x52\x53\x7f\x0a\
    \x9b\x2e\x1d\x44\x8c\x30\x51\x6f\x77\xa1\xe2\x05\xbb\x19\xd6\x3a\x08\xf4\x5c\x61\x93\x27\xee";

#[test]
fn upgrades_are_lists_and_keys_are_not() {
    let upgrade = |value: &str| with("Upgrade: websocket", value);
    let connection = |value: &str| with("Connection: Upgrade", value);
    let key = |key: &str| with(KEY, key);
    let version = |value: &str| with("Sec-WebSocket-Version: 13", value);
    expect_all(&[
        (upgrade("Upgrade: h2c, websocket"), 101),
        (upgrade("Upgrade: h2c\r\nUpgrade: websocket"), 101),
        (upgrade("uPGRADE: WebSocket"), 101),
        (upgrade("Upgrade: ,websocket,"), 101),
        (upgrade("Upgrade: websocket/13"), 426),
        (upgrade("Upgrade: h2c"), 426),
        (upgrade("Upgrade: websockets"), 426),
        (upgrade("Upgrade: \"websocket\""), 426),
        (upgrade("X: y"), 426),
        (connection("Connection: keep-alive, Upgrade"), 101),
        (
            connection("Connection: keep-alive\r\nConnection: upgrade"),
            101,
        ),
        (connection("Connection: close, UPGRADE"), 101),
        (connection("Connection: keep-alive"), 400),
        (connection("Connection: Upgrade-Insecure-Requests"), 400),
        (connection("X: y"), 400),
        (key(&format!(" \t{KEY} \t")), 101),
        (key("dGhlIHNhbXBsZSBub25jZQ"), 400),
        (key("dGhlIHNhbXBsZSBub25jZQ="), 400),
        (key("dGhlIHNhbXBsZSBub25jZQ==="), 400),
        (key("dGhlIHNhbXBsZSBub25jZQ== ="), 400),
        (key("dGhlIHNhbXBsZSBub25jZS4="), 400),
        (key("dGhlIHNhbXBsZSBub25j"), 400),
        (key("dGhlIHNhbXBsZSBub-_jZQ=="), 400),
        (key("\"dGhlIHNhbXBsZSBub25jZQ==\""), 400),
        (key(&format!("{KEY},{KEY}")), 400),
        (key(&format!("{KEY}\r\nSec-WebSocket-Key: {KEY}")), 400),
        (key(""), 400),
        (with(&format!("Sec-WebSocket-Key: {KEY}\r\n"), ""), 400),
        (version("Sec-WebSocket-Version: 8"), 426),
        (version("Sec-WebSocket-Version: 0"), 426),
        (version("Sec-WebSocket-Version: 013"), 426),
        (version("Sec-WebSocket-Version: 13, 8"), 426),
        (
            version("Sec-WebSocket-Version: 8\r\nSec-WebSocket-Version: 13"),
            426,
        ),
        (version("X: y"), 426),
    ]);
}

#[test]
fn a_second_request_is_not_answered() {
    let server = Server::start(&["--demo"]);
    for (first, status) in [
        (plain("GET /healthz HTTP/1.1"), 200),
        (plain("GET /nothing HTTP/1.1"), 404),
        (plain("GET /echo HTTP/1.1"), 426),
        (plain("HEAD /healthz HTTP/1.1"), 200),
    ] {
        // What would be a smuggled request, had the first one a body.
        for second in [plain("GET /readyz HTTP/1.1"), good()] {
            expect(&server, format!("{first}{second}").as_bytes(), status);
        }
    }
    server.wait_blocking("every gauge at zero", common::Counters::is_idle);
    assert_eq!(server.counters().total("upgraded_total"), 0);
}

#[test]
fn frames_right_behind_the_request_are_the_websocket_s_wherever_they_are_cut() {
    let server = Server::start(&["--demo", "--set", "limits.message_bytes_max=64KiB"]);
    let large = vec![b'l'; 9 * 1024];
    let mut bytes = good().into_bytes();
    let head = bytes.len();
    bytes.extend(frame(TEXT, b"in "));
    bytes.extend(frame(FIN | PING, b"between"));
    bytes.extend(frame(FIN, b"parts"));
    bytes.extend(frame(FIN | TEXT, &large));
    bytes.extend(frame(FIN | CLOSE, &close_payload(1000, b"")));
    let end = bytes.len();
    let cuts = (head - 5..head + 40).chain([head + 100, head + 5000, end - 9, end - 1]);
    for cut in cuts.chain([0]) {
        let mut raw = Raw::connect(server.addr);
        let (front, back) = bytes.split_at(cut);
        let (middle, back) = back.split_at(back.len().min(7));
        for piece in [front, middle, back] {
            raw.send(piece);
        }
        assert_eq!(raw.response().status, 101, "cut at {cut}");
        let pong = raw.expect_frame();
        assert_eq!(
            (pong.first, &pong.payload[..]),
            (FIN | PONG, &b"between"[..])
        );
        assert_eq!(raw.expect_message().1, b"in parts", "cut at {cut}");
        assert_eq!(raw.expect_message().1, large, "cut at {cut}");
        raw.expect_close(1000);
    }
    server.wait_blocking("every gauge at zero", common::Counters::is_idle);
}
