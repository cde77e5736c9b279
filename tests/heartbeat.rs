//! Who answers pings stays, who sends anything at all stays, and who is silent is let go.

mod common;

use common::{
    Server,
    client::Client,
    raw::{FIN, Frame, PING, PONG, Raw, TEXT, frame, header, masked, upgrade_request_with},
};
use serde_json::json;

const QUICK: [&str; 4] = [
    "--set",
    "limits.ping_interval=300ms",
    "--set",
    "limits.pong_timeout=300ms",
];
/// Longer than anyone would be kept who had fallen silent.
const ROUNDS: usize = 8;

/// The next frame, which must be a ping.
fn ping(raw: &mut Raw) -> Frame {
    let frame = raw.expect_frame();
    assert_eq!(frame.first, FIN | PING, "{frame:?}");
    frame
}

fn member(server: &Server) -> Raw {
    let mut raw = Raw::upgraded(server.addr, "/ws?user=raw");
    let connected = raw.expect_text();
    assert!(connected.contains("\"interval_ms\":300"), "{connected}");
    assert!(connected.contains("\"timeout_ms\":300"), "{connected}");
    raw
}

#[test]
fn silence_ends_with_4009() {
    let server = Server::start(&QUICK);
    let mut raw = member(&server);
    ping(&mut raw);
    assert_eq!(raw.expect_close(4009), "heartbeat timeout");
    server.wait_blocking("every gauge at zero", common::Counters::is_idle);
    assert_eq!(server.counters().total("heartbeat_timeouts_total"), 1);
}

#[test]
fn pongs_keep_a_connection() {
    let server = Server::start(&QUICK);
    let mut raw = member(&server);
    for _ in 0..ROUNDS {
        let asked = ping(&mut raw);
        raw.send(&frame(FIN | PONG, &asked.payload));
    }
    raw.send(&frame(FIN | TEXT, br#"{"type":"ping","id":"x"}"#));
    assert!(raw.expect_text().contains("\"pong\""));
    assert_eq!(server.counters().total("heartbeat_timeouts_total"), 0);
}

/// Any received byte proves life: here one byte per ping, of a message that is never finished
/// in time.
#[test]
fn any_byte_keeps_a_connection() {
    let server = Server::start(&QUICK);
    let mut raw = member(&server);
    let text = br#"{"type":"ping","id":"late"}"#;
    let mut bytes = header(FIN | TEXT, text.len() as u64);
    bytes.extend(masked(text));
    let (slowly, rest) = bytes.split_at(ROUNDS);
    for byte in slowly {
        ping(&mut raw);
        raw.send(&[*byte]);
    }
    raw.send(rest);
    let answer = loop {
        let frame = raw.expect_frame();
        if frame.first != FIN | PING {
            break frame;
        }
    };
    assert!(String::from_utf8_lossy(&answer.payload).contains("\"late\""));
    assert_eq!(server.counters().total("heartbeat_timeouts_total"), 0);
}

/// The same server, the same moment: the silent one goes, the answering one is told and stays.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_others_learn_that_someone_timed_out() {
    let server = Server::start(&QUICK);
    // tungstenite answers pings by itself whenever it reads.
    let mut alice = Client::connect(&server, "alice").await;
    alice.join("beat").await;
    let mut silent_ones = Vec::new();
    for round in 0..3 {
        let address = server.addr;
        let silent = tokio::task::spawn_blocking(move || {
            let mut raw = Raw::upgraded(address, "/ws?user=silent");
            raw.expect_text();
            let join = br#"{"type":"join","room":"beat","id":"j"}"#;
            raw.send(&frame(FIN | TEXT, join));
            assert!(raw.expect_text().contains("\"ok\""));
            ping(&mut raw);
            raw.expect_close(4009);
        });
        alice.expect("user_joined").await;
        let left = alice.expect("user_left").await;
        assert_eq!(left["user"], "silent", "round {round}");
        assert_eq!(left["reason"], "timed_out", "round {round}");
        // Waited for below: while she waits for anything else, alice does not answer pings.
        silent_ones.push(silent);
    }
    let info = alice.ok(json!({"type": "room_info", "room": "beat"})).await;
    assert_eq!(info["members"], 1);
    for silent in silent_ones {
        silent.await.expect("the silent one was closed");
    }
    assert_eq!(server.counters().total("heartbeat_timeouts_total"), 3);
}

/// A peer that is not even there any more, as after a cable was pulled, is let go too, although
/// the close can't be answered.
#[test]
fn a_client_that_reads_nothing_is_let_go() {
    let server = Server::start(&QUICK);
    let clients: Vec<Raw> = (0..20).map(|_| member(&server)).collect();
    server.wait_blocking("every gauge at zero", common::Counters::is_idle);
    assert_eq!(server.counters().total("heartbeat_timeouts_total"), 20);
    drop(clients);
}

/// A client that never sees frames asks for pings as messages; any message answers them.
#[test]
fn pings_may_be_messages() {
    let server = Server::start(&QUICK);
    let mut raw = Raw::upgraded(server.addr, "/ws?user=app&heartbeat=app");
    raw.expect_text();
    for round in 0..ROUNDS {
        let ping: serde_json::Value =
            serde_json::from_str(&raw.expect_text()).expect("messages are JSON");
        assert_eq!(ping["type"], "ping", "round {round}");
        assert!(ping["ts"].as_u64().is_some_and(|ts| ts > 0), "{ping}");
        raw.send(&frame(FIN | TEXT, br#"{"type":"pong"}"#));
    }
    // And silence ends it as any other.
    raw.expect_text();
    assert_eq!(raw.expect_close(4009), "heartbeat timeout");
    assert_eq!(server.counters().total("heartbeat_timeouts_total"), 1);
}

#[test]
fn a_heartbeat_that_can_not_be_is_refused() {
    let server = Server::start(&[]);
    for (target, subprotocol) in [
        ("/ws?heartbeat=never", ""),
        (
            "/ws/room?heartbeat=app",
            "Sec-WebSocket-Protocol: tidegate.v1.raw\r\n",
        ),
    ] {
        let mut raw = Raw::connect(server.addr);
        raw.send(upgrade_request_with(target, subprotocol).as_bytes());
        let response = raw.response();
        assert_eq!(response.status, 400, "{target}");
        assert!(response.text().contains("heartbeat"), "{}", response.text());
    }
}
