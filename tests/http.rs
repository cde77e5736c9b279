//! Request heads: what is upgraded, what is answered, what is refused and with which status.
//! Raw TCP throughout, because no client library sends a bad head.

mod common;

use std::time::Duration;

use common::{
    Server, get,
    raw::{FIN, PING, PONG, Raw, Response, TEXT, frame, upgrade_request, upgrade_request_with},
};

/// Sends `head`, wants `status`, and wants the connection closed after it.
fn refused(server: &Server, head: &[u8], status: u16) -> Response {
    refused_with(server, head, &[status])
}

/// The same where more than one status is right.
fn refused_with(server: &Server, head: &[u8], statuses: &[u16]) -> Response {
    let shown = String::from_utf8_lossy(&head[..head.len().min(200)]).into_owned();
    let mut raw = Raw::connect(server.addr);
    raw.try_send(head);
    let response = raw.response();
    assert!(
        statuses.contains(&response.status),
        "{shown:?}: wanted {statuses:?}, got {response:?}"
    );
    raw.expect_end();
    response
}

/// Every connection that this test made is gone, in all of the gateway's gauges.
fn settles(server: &Server) {
    server.wait_blocking("every gauge at zero", common::Counters::is_idle);
}

#[test]
fn upgrade_is_answered_as_the_rfc_computes_it() {
    let server = Server::start(&[]);
    let mut raw = Raw::connect(server.addr);
    raw.send(upgrade_request("/ws").as_bytes());
    let response = raw.response();
    assert_eq!(response.status, 101, "{response:?}");
    // The key and its answer are those of RFC 6455 §1.3.
    assert_eq!(
        response.header("sec-websocket-accept"),
        Some("s3pPLMBiTxaQ9kYGzzhZRbK+xOo=")
    );
    let upgrade = response.header("upgrade").unwrap_or_default();
    assert!(upgrade.eq_ignore_ascii_case("websocket"), "{response:?}");
    let connection = response.header("connection").unwrap_or_default();
    assert!(connection.eq_ignore_ascii_case("upgrade"), "{response:?}");
    assert_eq!(response.header("sec-websocket-protocol"), None);
    assert_eq!(response.header("sec-websocket-extensions"), None);
    assert!(raw.expect_text().contains("\"connected\""));
    drop(raw);
    settles(&server);
}

#[test]
fn header_names_and_tokens_ignore_case_and_lists_are_searched() {
    let server = Server::start(&[]);
    let heads = [
        "GET /ws HTTP/1.1\r\nhost: x\r\nupgrade: WebSocket\r\nconnection: keep-alive, Upgrade\r\n\
         sec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\nsec-websocket-version: 13\r\n\r\n",
        "GET /ws HTTP/1.1\r\nHOST:x\r\nUPGRADE:websocket\r\nCONNECTION:upgrade\r\n\
         SEC-WEBSOCKET-KEY:   dGhlIHNhbXBsZSBub25jZQ==  \r\nSEC-WEBSOCKET-VERSION:\t13\r\n\r\n",
    ];
    for head in heads {
        let mut raw = Raw::connect(server.addr);
        raw.send(head.as_bytes());
        assert_eq!(raw.response().status, 101, "{head:?}");
    }
}

#[test]
fn head_may_come_byte_by_byte() {
    let server = Server::start(&["--demo"]);
    let mut raw = Raw::connect(server.addr);
    let mut bytes = upgrade_request("/echo").into_bytes();
    bytes.extend(frame(FIN | TEXT, b"slow but sure"));
    for byte in bytes {
        raw.send(&[byte]);
    }
    assert_eq!(raw.response().status, 101);
    assert_eq!(raw.expect_text(), "slow but sure");
}

#[test]
fn head_may_be_split_anywhere() {
    let server = Server::start(&["--demo"]);
    let mut bytes = upgrade_request("/echo").into_bytes();
    bytes.extend(frame(FIN | TEXT, b"split"));
    for at in 1..bytes.len() {
        let mut raw = Raw::connect(server.addr);
        let (front, back) = bytes.split_at(at);
        raw.send(front);
        raw.send(back);
        assert_eq!(raw.response().status, 101, "split at {at}");
        assert_eq!(raw.expect_text(), "split", "split at {at}");
    }
    settles(&server);
}

#[test]
fn frames_right_behind_the_request_are_not_lost() {
    let server = Server::start(&["--demo"]);
    let mut bytes = upgrade_request("/echo").into_bytes();
    for n in 0..20 {
        bytes.extend(frame(FIN | TEXT, format!("early {n}").as_bytes()));
    }
    let mut raw = Raw::connect(server.addr);
    raw.send(&bytes);
    assert_eq!(raw.response().status, 101);
    for n in 0..20 {
        assert_eq!(raw.expect_text(), format!("early {n}"));
    }

    let mut bytes = upgrade_request("/ws?user=early").into_bytes();
    bytes.extend(frame(FIN | TEXT, br#"{"type":"ping","id":"p"}"#));
    bytes.extend(frame(FIN | PING, b"hello"));
    let mut raw = Raw::connect(server.addr);
    raw.send(&bytes);
    assert_eq!(raw.response().status, 101);
    assert!(raw.expect_text().contains("\"connected\""));
    let mut kinds = [raw.expect_frame(), raw.expect_frame()];
    kinds.sort_by_key(|frame| frame.first);
    let [text, pong] = kinds;
    assert!(String::from_utf8_lossy(&text.payload).contains("\"pong\""));
    assert_eq!((pong.first, pong.payload), (FIN | PONG, b"hello".to_vec()));
}

#[test]
fn health_and_readiness_are_answered_with_200() {
    let server = Server::start(&[]);
    for path in ["/healthz", "/readyz"] {
        let (status, body) = get(server.addr, path);
        assert_eq!(status, 200, "{path}: {body}");
        assert!(!body.is_empty(), "{path} answers in text");
    }
    settles(&server);
}

#[test]
fn unknown_paths_are_404() {
    let server = Server::start(&["--set", "server.demo=false"]);
    for path in ["/", "/nope", "/wsx", "/echo", "/demo/ws", "/healthz/x"] {
        refused(&server, upgrade_request(path).as_bytes(), 404);
        let plain = format!("GET {path} HTTP/1.1\r\nHost: x\r\n\r\n");
        refused(&server, plain.as_bytes(), 404);
    }
    // Two readers of such a path could take it for two different ones.
    for path in ["/..", "/ws/../ws", "/%2e%2e/ws", "/ws/a%2fb", "/ws/%00"] {
        refused(&server, upgrade_request(path).as_bytes(), 400);
    }
    settles(&server);
}

#[test]
fn other_methods_are_405_and_name_the_right_one() {
    let server = Server::start(&[]);
    for path in ["/ws", "/healthz", "/readyz"] {
        for method in ["POST", "PUT", "DELETE", "OPTIONS", "BREW"] {
            let head = format!("{method} {path} HTTP/1.1\r\nHost: x\r\n\r\n");
            let response = refused(&server, head.as_bytes(), 405);
            // RFC 9110 §15.5.6: a 405 names the methods that the target supports.
            let allow = response.header("allow").unwrap_or_default();
            assert!(allow.contains("GET"), "{method} {path}: {response:?}");
        }
    }
    // RFC 9110 §9.3.2: HEAD is as good as GET, with no content in the answer. There is no HEAD of
    // a WebSocket.
    for (path, status) in [("/ws", 405), ("/healthz", 200), ("/readyz", 200)] {
        let head = format!("HEAD {path} HTTP/1.1\r\nHost: x\r\n\r\n");
        let response = refused(&server, head.as_bytes(), status);
        assert_eq!(response.text(), "", "{path}");
    }
    let upgrade = upgrade_request("/ws").replacen("GET", "POST", 1);
    refused(&server, upgrade.as_bytes(), 405);
    settles(&server);
}

#[test]
fn announced_bodies_are_413() {
    let server = Server::start(&[]);
    for line in ["Content-Length: 5\r\n", "Transfer-Encoding: chunked\r\n"] {
        refused(&server, upgrade_request_with("/ws", line).as_bytes(), 413);
        let head = format!("GET /healthz HTTP/1.1\r\nHost: x\r\n{line}\r\nhello");
        refused(&server, head.as_bytes(), 413);
        let post = format!("POST /ws HTTP/1.1\r\nHost: x\r\n{line}\r\nhello");
        refused_with(&server, post.as_bytes(), &[405, 413]);
    }
    // A body of no bytes is none.
    let mut raw = Raw::connect(server.addr);
    raw.send(upgrade_request_with("/ws", "Content-Length: 0\r\n").as_bytes());
    assert_eq!(raw.response().status, 101);
    drop(raw);
    settles(&server);
}

#[test]
fn long_targets_are_414() {
    let server = Server::start(&[]);
    let target = format!("/ws?user=a&pad={}", "x".repeat(8 * 1024));
    refused(&server, upgrade_request(&target).as_bytes(), 414);
    settles(&server);
}

#[test]
fn missing_upgrade_and_wrong_version_are_426() {
    let server = Server::start(&[]);
    refused(&server, b"GET /ws HTTP/1.1\r\nHost: x\r\n\r\n", 426);
    for version in ["8", "12", "14", "x"] {
        let head = upgrade_request("/ws").replace("Version: 13", &format!("Version: {version}"));
        let response = refused(&server, head.as_bytes(), 426);
        // RFC 6455 §4.4: the refusal says which version would do.
        assert_eq!(response.header("sec-websocket-version"), Some("13"));
    }
    let other = upgrade_request("/ws").replace("Upgrade: websocket", "Upgrade: h2c");
    refused(&server, other.as_bytes(), 426);
    settles(&server);
}

#[test]
fn big_heads_and_many_headers_are_431() {
    let server = Server::start(&[]);
    let long = format!("X-Pad: {}\r\n", "x".repeat(17 * 1024));
    refused(&server, upgrade_request_with("/ws", &long).as_bytes(), 431);
    let many: String = (0..70).map(|n| format!("X-{n}: {n}\r\n")).collect();
    refused(&server, upgrade_request_with("/ws", &many).as_bytes(), 431);
    // A head that never ends is judged by what has come so far.
    let endless = format!("GET /ws HTTP/1.1\r\nX-Pad: {}", "x".repeat(17 * 1024));
    refused(&server, endless.as_bytes(), 431);
    settles(&server);

    let small = Server::start(&[
        "--set",
        "limits.head_bytes_max=1KiB",
        "--set",
        "limits.headers_max=8",
    ]);
    let long = format!("X-Pad: {}\r\n", "x".repeat(1024));
    refused(&small, upgrade_request_with("/ws", &long).as_bytes(), 431);
    let many: String = (0..8).map(|n| format!("X-{n}: {n}\r\n")).collect();
    refused(&small, upgrade_request_with("/ws", &many).as_bytes(), 431);
    drop(Raw::upgraded(small.addr, "/ws"));
    settles(&small);
}

#[test]
fn malformed_heads_are_400() {
    let server = Server::start(&[]);
    let good = upgrade_request("/ws");
    let without_host = good.replace("Host: localhost\r\n", "");
    let two_hosts = good.replace("Host:", "Host: a\r\nHost:");
    let without_key = good.replace("Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n", "");
    let short_key = good.replace("dGhlIHNhbXBsZSBub25jZQ==", "c2hvcnQ=");
    let bad_key = good.replace("dGhlIHNhbXBsZSBub25jZQ==", "!!!!IHNhbXBsZSBub25jZQ==");
    let two_keys = good.replace(
        "Sec-WebSocket-Key",
        "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Key",
    );
    let heads: [(&str, Vec<u8>); 16] = [
        ("nothing but an end", b"\0\0\r\n\r\n".to_vec()),
        ("no version", b"GET /ws\r\n\r\n".to_vec()),
        ("no method", b" /ws HTTP/1.1\r\n\r\n".to_vec()),
        (
            "a bad version",
            b"GET /ws HTTP/9.9\r\nHost: x\r\n\r\n".to_vec(),
        ),
        ("HTTP/1.0", good.replace("HTTP/1.1", "HTTP/1.0").into()),
        ("no host", without_host.into()),
        ("two hosts", two_hosts.into()),
        ("no key", without_key.into()),
        ("a short key", short_key.into()),
        ("a key that isn't base64", bad_key.into()),
        ("two keys", two_keys.into()),
        (
            "a space before the colon",
            good.replace("Host:", "Host :").into(),
        ),
        (
            "a folded header",
            upgrade_request_with("/ws", "X-A: b\r\n c\r\n").into(),
        ),
        (
            "a header without a colon",
            upgrade_request_with("/ws", "nonsense\r\n").into(),
        ),
        (
            "a NUL in a value",
            upgrade_request_with("/ws", "X-A: a\0b\r\n").into(),
        ),
        (
            "the HTTP/2 preface",
            b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec(),
        ),
    ];
    for (what, head) in heads {
        eprintln!("case: {what}");
        refused(&server, &head, 400);
    }
    settles(&server);
}

#[test]
fn bad_users_and_raw_without_a_room_are_400() {
    let server = Server::start(&[]);
    for target in ["/ws?user=%07", "/ws?user=%FF", "/ws?user=%0"] {
        refused(&server, upgrade_request(target).as_bytes(), 400);
    }
    let raw = "Sec-WebSocket-Protocol: tidegate.v1.raw\r\n";
    refused(&server, upgrade_request_with("/ws", raw).as_bytes(), 400);
    let empty = upgrade_request_with("/ws?room=", raw);
    refused(&server, empty.as_bytes(), 400);
    let long = upgrade_request_with(&format!("/ws?room={}", "r".repeat(129)), raw);
    refused(&server, long.as_bytes(), 400);
    settles(&server);
}

#[test]
fn unfinished_heads_time_out_with_408() {
    let server = Server::start(&["--set", "limits.handshake_timeout=300ms"]);
    refused(&server, b"GET /ws HTTP/1.1\r\nHost: x\r\n", 408);

    // A drip of bytes doesn't move the deadline.
    let mut raw = Raw::connect(server.addr);
    let drip = Duration::from_millis(25);
    raw.stream
        .set_read_timeout(Some(drip))
        .expect("a timeout can be set");
    raw.send(b"GET /ws HTTP/1.1\r\nX-Pad: ");
    let mut first = [0];
    let answered = (0..400).any(|_| {
        raw.try_send(b"x");
        // The wait for an answer is what paces the drip.
        raw.stream.peek(&mut first).is_ok()
    });
    assert!(answered, "the handshake timeout never came");
    raw.stream
        .set_read_timeout(Some(common::DEADLINE))
        .expect("a timeout can be set");
    assert_eq!(raw.response().status, 408);
    raw.expect_end();
    drop(raw);

    // Who says nothing is let go as well, with or without an answer.
    let rest = Raw::connect(server.addr).rest();
    let rest = String::from_utf8_lossy(&rest);
    assert!(rest.is_empty() || rest.contains(" 408 "), "{rest}");
    settles(&server);
}

#[test]
fn subprotocols_are_chosen_from_the_offer() {
    let server = Server::start(&[]);
    let choose = |offer: &str| {
        let lines = format!("Sec-WebSocket-Protocol: {offer}\r\n");
        let mut raw = Raw::connect(server.addr);
        raw.send(upgrade_request_with("/ws?room=lobby", &lines).as_bytes());
        let response = raw.response();
        assert_eq!(response.status, 101, "{offer}: {response:?}");
        let chosen = response.header("sec-websocket-protocol");
        chosen.map(ToOwned::to_owned)
    };
    let json = Some("tidegate.v1.json".to_owned());
    assert_eq!(choose("tidegate.v1.json"), json);
    assert_eq!(choose("graphql-ws, tidegate.v1.json"), json);
    assert_eq!(
        choose("tidegate.v1.raw"),
        Some("tidegate.v1.raw".to_owned())
    );

    let unknown = upgrade_request_with("/ws", "Sec-WebSocket-Protocol: graphql-ws, mqtt\r\n");
    let response = refused(&server, unknown.as_bytes(), 400);
    for known in ["tidegate.v1.json", "tidegate.v1.raw"] {
        assert!(
            response.text().contains(known),
            "{known} not in {response:?}"
        );
    }
    settles(&server);
}

#[test]
fn refusals_touch_no_neighbour() {
    let server = Server::start(&["--demo"]);
    let mut neighbours: Vec<Raw> = (0..8)
        .map(|_| Raw::upgraded(server.addr, "/echo"))
        .collect();
    for round in 0..10 {
        refused(&server, b"\x17\x03\x01nonsense\r\n\r\n", 400);
        refused(&server, b"GET /nope HTTP/1.1\r\nHost: x\r\n\r\n", 404);
        for neighbour in &mut neighbours {
            let text = format!("still here {round}");
            neighbour.send(&frame(FIN | TEXT, text.as_bytes()));
            assert_eq!(neighbour.expect_text(), text);
        }
    }
    drop(neighbours);
    settles(&server);
    assert_eq!(server.counters().total("panics_total"), 0);
}
