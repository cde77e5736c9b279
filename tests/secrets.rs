//! What clients say stays between them and the gateway: nothing of it is in the log, however much that
//! is to tell.

mod common;

use common::{
    Server,
    raw::{BINARY, CLOSE, FIN, PING, PONG, Raw, TEXT, close_payload, frame, upgrade_request_with},
};

/// Stands in everything that a log must not have. What is encoded has another form, and is looked for
/// too.
const SECRET: &str = "hunter2";
const ENCODED: [&str; 3] = ["hunter2", "68756e74657232", "aHVudGVyMg"];

/// Fields that carry credentials, and one that nobody knows.
fn lines() -> String {
    format!(
        "Authorization: Bearer {SECRET}\r\nCookie: id={SECRET}\r\nX-Api-Key: {SECRET}\r\n\
         Sec-WebSocket-Protocol: session.{SECRET}, tidegate.v1.json\r\n\
         Forwarded: for=192.0.2.1;secret={SECRET}\r\n"
    )
}

fn text(raw: &mut Raw, text: &str) {
    raw.send(&frame(FIN | TEXT, text.as_bytes()));
}

/// Everything up to the close of a connection that the gateway ends.
fn until_the_end(mut raw: Raw) {
    raw.rest();
}

/// Clients that are served.
fn talk(server: &Server) {
    let query = format!("token={SECRET}&session={SECRET}&user=alice");
    let mut alice = Raw::connect_from(2, server.addr);
    alice.send(upgrade_request_with(&format!("/ws?{query}"), &lines()).as_bytes());
    assert_eq!(alice.response().status, 101);
    assert!(alice.expect_text().contains("\"connected\""));
    for command in [
        format!(r#"{{"type":"join","room":"r","token":"{SECRET}","state":"{SECRET}","id":"1"}}"#),
        format!(r#"{{"type":"publish","room":"r","data":"{SECRET}","id":"2"}}"#),
        format!(r#"{{"type":"send","to":{{"user":"alice"}},"data":"{SECRET}","id":"3"}}"#),
        format!(r#"{{"type":"echo","data":"{SECRET}","id":"4"}}"#),
        format!(r#"{{"type":"{SECRET}","id":"5"}}"#),
        format!(r#"{{"type":"publish","room":7,"data":"{SECRET}"}}"#),
        format!(r#"{{"{SECRET}"#),
    ] {
        text(&mut alice, &command);
        alice.expect_text();
    }
    alice.send(&frame(FIN | PING, SECRET.as_bytes()));
    alice.send(&frame(FIN | PONG, SECRET.as_bytes()));
    alice.send(&frame(FIN | CLOSE, &close_payload(1000, SECRET.as_bytes())));
    until_the_end(alice);

    let raw_client = "Sec-WebSocket-Protocol: tidegate.v1.raw\r\n";
    let mut raw = Raw::connect(server.addr);
    raw.send(upgrade_request_with("/ws/r", raw_client).as_bytes());
    raw.send(&frame(FIN | BINARY, SECRET.as_bytes()));
    assert_eq!(raw.response().status, 101);
    drop(raw);
    let mut echo = Raw::upgraded(server.addr, &format!("/echo?{query}"));
    text(&mut echo, SECRET);
    assert_eq!(echo.expect_text(), SECRET);
}

/// Clients that do everything wrong.
fn offend(server: &Server) {
    let breaches = [
        frame(FIN | 0x3, SECRET.as_bytes()),
        frame(FIN | TEXT, &[SECRET.as_bytes(), b"\xff"].concat()),
        frame(FIN | CLOSE, &[b"\x03\xec", SECRET.as_bytes()].concat()),
        [b"\x81\x07", SECRET.as_bytes()].concat(),
        frame(FIN | TEXT, SECRET.repeat(20_000).as_bytes()),
    ];
    for bytes in breaches {
        let mut raw = Raw::upgraded(server.addr, "/echo");
        raw.try_send(&bytes);
        until_the_end(raw);
    }
    let requests = [
        format!("GET /nothing?token={SECRET} HTTP/1.1\r\nHost: a\r\nCookie: {SECRET}\r\n\r\n"),
        format!("GET /ws?user=%07{SECRET} HTTP/1.1\r\nHost: a\r\n\r\n"),
        format!(
            "GET /ws?token={SECRET}%zz HTTP/1.1\r\nHost: a\r\n{}\r\n",
            lines()
        ),
        format!("GET /ws HTTP/1.1\r\nHost: {SECRET}@a\r\n\r\n"),
        format!("GET /ws HTTP/1.1\r\nAuthorization: {SECRET}\0\r\n\r\n"),
        format!("{SECRET} /ws HTTP/1.1\r\n\r\n"),
        format!("GET http://user:{SECRET}@a/ws HTTP/1.1\r\nHost: a\r\n\r\n"),
        format!("POST /ws HTTP/1.1\r\nHost: a\r\nContent-Length: 7\r\n\r\n{SECRET}"),
        format!("PROXY TCP4 {SECRET}\r\n"),
        upgrade_request_with(
            "/ws?user=",
            &format!("Sec-WebSocket-Protocol: {SECRET}, {SECRET}\r\n"),
        ),
        SECRET.repeat(9000),
    ];
    for request in requests {
        let mut raw = Raw::connect(server.addr);
        raw.try_send(request.as_bytes());
        until_the_end(raw);
    }
    // From those who are asked for a header first, and from those whose word counts.
    let mut raw = Raw::connect_from(3, server.addr);
    raw.try_send(format!("PROXY TCP4 {SECRET}\r\n").as_bytes());
    until_the_end(raw);
    let mut raw = Raw::connect_from(2, server.addr);
    let forwarded = format!("Forwarded: for={SECRET}\r\n");
    raw.try_send(upgrade_request_with("/ws", &forwarded).as_bytes());
    assert_eq!(raw.response().status, 400);
}

#[test]
fn nothing_that_clients_say_is_in_the_log() {
    let mut server = Server::start(&[
        "--demo",
        "--set",
        // More than can be asked for of a release.
        "log.level=trace",
        "--set",
        "server.client_address=forwarded",
        "--set",
        "server.trusted_proxies=[\"127.0.0.2/32\"]",
        "--set",
        "server.proxy_protocol=[\"127.0.0.3/32\"]",
    ]);
    talk(&server);
    offend(&server);
    server.wait_blocking("every gauge at zero", common::Counters::is_idle);
    let counters = server.counters();
    assert_eq!(counters.total("panics_total"), 0);
    let closed = counters.total("closed_total");
    server.wait_log("the end of each connection", |log| {
        log.lines().filter(|line| line.contains("closed")).count() as u64 >= closed
    });
    server.terminate();
    let log = server.stderr();
    assert!(log.contains("upgraded") && log.contains("protocol error"));
    for secret in ENCODED {
        let found: Vec<&str> = log.lines().filter(|line| line.contains(secret)).collect();
        assert!(found.is_empty(), "{found:#?}");
    }
    // Nor are bytes as numbers.
    let bytes = format!("{:?}", SECRET.as_bytes());
    assert!(!log.contains(bytes.trim_matches(['[', ']'])));
}
