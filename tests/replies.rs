//! How commands are answered: one answer per `id`, none without, in batches and pipelined, and
//! the `ok` of a publish at its place in the stream.

mod common;

use std::collections::HashSet;

use common::{Server, client::Client};
use serde_json::{Value, json};

#[tokio::test]
async fn connected_comes_first_and_describes_the_connection() {
    let server = Server::quiet(&["--set", "limits.rooms_per_client=7"]);
    let alice = Client::connect(&server, "alice").await;
    let hello = &alice.connected;
    assert!(!alice.id.is_empty());
    assert_eq!(hello["user"], "alice");
    assert_eq!(hello["resumed"], false);
    assert_eq!(hello["heartbeat"]["interval_ms"], 25_000);
    assert_eq!(hello["heartbeat"]["timeout_ms"], 10_000);
    assert_eq!(hello["limits"]["message_bytes_max"], 64 * 1024);
    assert_eq!(hello["limits"]["rooms_max"], 7);
    assert!(hello["node"].is_string(), "{}", hello.text);
    assert!(
        hello["ts"].as_u64() > Some(1_700_000_000_000),
        "{}",
        hello.text
    );

    let nobody = Client::connect_to(&server, "/ws").await;
    assert_ne!(nobody.id, alice.id);
    assert!(nobody.connected["user"].is_null());
    let escaped = Client::connect_to(&server, "/ws?user=caf%C3%A9%20%26%20co").await;
    assert_eq!(escaped.connected["user"], "café & co");
}

#[tokio::test]
async fn publish_without_an_id_is_not_answered() {
    let server = Server::quiet(&[]);
    let mut alice = Client::connect(&server, "alice").await;
    alice.join("quiet").await;
    for n in 1..=3 {
        alice
            .send(json!({"type": "publish", "room": "quiet", "data": n}))
            .await;
        assert_eq!(alice.expect("message").await.seq(), n);
    }
    alice.assert_quiet().await;
    alice.send(json!({"type": "leave", "room": "quiet"})).await;
    alice.send(json!({"type": "join", "room": "quiet"})).await;
    alice.send(json!({"type": "echo", "data": 1})).await;
    // The room answers in order, so these would have come before.
    let info = alice
        .ok(json!({"type": "room_info", "room": "quiet"}))
        .await;
    assert_eq!(info["members"], 1);
    alice.assert_quiet().await;
}

/// An `ok` of a publish stands where its message stands: with `echo:false` in the message's
/// place, otherwise next to it.
#[tokio::test]
async fn ok_stands_at_its_place_in_the_stream() {
    const EACH: u64 = 60;
    let server = Server::quiet(&[]);
    for echo in [false, true] {
        for room in ["place-a", "place-b", "place-c", "place-d"] {
            let room = &format!("{room}-{echo}");
            let mut pair = Vec::new();
            for n in 0..3 {
                let mut client = Client::connect(&server, &format!("user-{n}")).await;
                client.join(room).await;
                pair.push(client);
            }
            for n in 0..EACH {
                for client in &mut pair {
                    client
                        .send(
                            json!({"type": "publish", "room": room, "data": n, "echo": echo,
                            "id": format!("p{n}")}),
                        )
                        .await;
                }
            }
            for client in &mut pair {
                let mut seqs = Vec::new();
                let wanted = 3 * EACH + if echo { EACH } else { 0 };
                for _ in 0..wanted {
                    let message = client.next().await;
                    assert!(
                        ["ok", "message"].contains(&message.kind()),
                        "{}",
                        message.text
                    );
                    if !echo && message.kind() == "message" {
                        assert_ne!(message["from"]["client"], client.id.as_str());
                    }
                    seqs.push(message.seq());
                }
                assert!(seqs.is_sorted(), "echo {echo}: {seqs:?}");
                seqs.dedup();
                assert!(
                    seqs.iter().copied().eq(1..=3 * EACH),
                    "echo {echo}: {seqs:?}"
                );
                client.assert_quiet().await;
            }
        }
    }
}

#[tokio::test]
async fn echo_ping_and_pong_are_answered_at_once() {
    let server = Server::quiet(&[]);
    let mut alice = Client::connect(&server, "alice").await;
    assert_eq!(
        alice.ok(json!({"type": "echo", "data": [null, {}]})).await["data"],
        json!([null, {}])
    );
    let pong = alice.call(json!({"type": "ping"})).await;
    assert_eq!(pong.kind(), "pong");
    alice.send(json!({"type": "ping"})).await;
    let pong = alice.expect("pong").await;
    assert!(pong["id"].is_null(), "{}", pong.text);
    alice.send(json!({"type": "pong"})).await;
    alice.assert_quiet().await;
}

#[tokio::test]
async fn commands_may_be_pipelined() {
    let server = Server::quiet(&[]);
    for n in 0..8 {
        let mut alice = Client::connect(&server, "alice").await;
        let room = format!("hurry-{n}");
        let commands = [
            json!({"type": "join", "room": room, "id": "1"}),
            json!({"type": "publish", "room": room, "data": "x", "echo": false, "id": "2"}),
            json!({"type": "room_info", "room": room, "id": "3"}),
            json!({"type": "leave", "room": room, "id": "4"}),
        ];
        for command in commands {
            alice.send(command).await;
        }
        for id in ["1", "2", "3", "4"] {
            let answer = alice.expect("ok").await;
            assert_eq!(answer["id"], id, "{}", answer.text);
        }
    }
}

#[tokio::test]
async fn batches_are_carried_out_in_order() {
    let server = Server::quiet(&[]);
    let mut alice = Client::connect(&server, "alice").await;
    alice
        .send(json!([
            {"type": "join", "room": "batch", "id": "join"},
            {"type": "publish", "room": "batch", "data": 1, "echo": false, "id": "one"},
            {"type": "nonsense", "id": "bad"},
            {"type": "publish", "room": "batch", "data": 2, "echo": false, "id": "two"},
        ]))
        .await;
    let mut answers = Vec::new();
    for _ in 0..4 {
        let answer = alice.next().await;
        answers.push((answer["id"].clone(), answer.kind().to_owned()));
    }
    assert!(
        answers.contains(&(json!("bad"), "error".to_owned())),
        "{answers:?}"
    );
    answers.retain(|(id, _)| id != "bad");
    let wanted = ["join", "one", "two"].map(|id| (json!(id), "ok".to_owned()));
    assert_eq!(answers, wanted);

    let most: Vec<Value> = (0..256)
        .map(|n| json!({"type": "echo", "data": n, "id": format!("e{n}")}))
        .collect();
    alice.send(json!(most)).await;
    for n in 0..256 {
        let answer = alice.expect("ok").await;
        assert_eq!(answer["id"], format!("e{n}"));
    }
    alice.assert_quiet().await;
}

/// One answer per id, whatever the command and wherever its room lives.
#[tokio::test]
async fn every_id_is_answered_exactly_once() {
    let server = Server::quiet(&[]);
    let mut alice = Client::connect(&server, "alice").await;
    let rooms: Vec<String> = (0..10).map(|n| format!("once-{n}")).collect();
    for room in &rooms {
        alice.join(room).await;
    }
    let mut open = HashSet::new();
    for n in 0..150 {
        let (room, id) = (&rooms[n % rooms.len()], format!("id-{n}"));
        let command = match n % 8 {
            0 => json!({"type": "publish", "room": room, "data": n, "echo": false}),
            1 => json!({"type": "presence", "room": room}),
            2 => json!({"type": "room_info", "room": room}),
            3 => json!({"type": "send", "to": {"user": "nobody"}, "data": n}),
            4 => json!({"type": "echo", "data": n}),
            5 => json!({"type": "nonsense"}),
            6 => json!({"type": "publish", "room": "not-joined", "data": n}),
            _ => json!({"type": "join", "room": room}),
        };
        let mut command = command;
        command["id"] = json!(id);
        open.insert(id);
        alice.send(command).await;
    }
    while !open.is_empty() {
        let answer = alice.next().await;
        assert!(["ok", "error"].contains(&answer.kind()), "{}", answer.text);
        let id = answer["id"].as_str().expect("an answer has an id");
        assert!(open.remove(id), "answered twice: {}", answer.text);
    }
    alice.assert_quiet().await;
}
