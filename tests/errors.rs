//! Every error code of the JSON protocol that this version can give. An error never closes the
//! connection, and it carries the command's `id` whenever there was a usable one.

mod common;

use common::{Server, client::Client};
use serde_json::{Value, json};
use tokio_tungstenite::tungstenite::Message;

/// The answer to `text` is an error with `code` and no id, and the connection lives.
async fn fails_without_id(client: &mut Client, text: &str, code: &str) {
    client.send_text(text).await;
    let error = client.expect("error").await;
    assert_eq!(error["code"], code, "{text} got {}", error.text);
    assert!(error["id"].is_null(), "{text} got {}", error.text);
    assert!(error["message"].is_string(), "{text} got {}", error.text);
    client.assert_quiet().await;
}

#[tokio::test]
async fn what_is_not_json_is_a_parse_error() {
    let server = Server::quiet(&[]);
    let mut alice = Client::connect(&server, "alice").await;
    let texts = [
        "",
        " ",
        "hello",
        "{",
        "}",
        r#"{"type":"ping""#,
        r#"{"type":"ping"}}"#,
        r#"{"type":"ping"} x"#,
        r#"{"type":'ping'}"#,
        r#"{"type":"ping",}"#,
        r#"{type:"ping"}"#,
        r#"{"type":"publish","room":"x","data":}"#,
        r#"{"type":"publish","room":"x","data":{]}"#,
        r#"{"type":"publish","room":"x","data":01}"#,
        r#"{"type":"publish","room":"x","data":nul}"#,
        r#"{"type":"echo","data":"\x"}"#,
        r#"{"type":"echo","data":"\ud800"#,
        "{\"type\":\"echo\",\"data\":\"a\nb\"}",
        "[",
        r#"[{"type":"ping"}"#,
    ];
    for text in texts {
        fails_without_id(&mut alice, text, "PARSE_ERROR").await;
    }
}

#[tokio::test]
async fn depth_is_bounded_and_harms_nobody() {
    let server = Server::quiet(&[]);
    let mut alice = Client::connect(&server, "alice").await;
    let deep = "[".repeat(30_000) + &"]".repeat(30_000);
    alice
        .send_text(&format!(r#"{{"type":"echo","id":"deep","data":{deep}}}"#))
        .await;
    // Relayed unread or refused: either is an answer, a crash is none.
    let answer = alice.next_text().await;
    let is_answer = ["\"ok\"", "\"error\""]
        .iter()
        .any(|kind| answer.contains(kind));
    assert!(is_answer, "{answer}");
    alice.assert_quiet().await;
    assert_eq!(server.counters().total("panics_total"), 0);
}

#[tokio::test]
async fn missing_or_wrong_fields_are_invalid_and_named() {
    let server = Server::quiet(&[]);
    let mut alice = Client::connect(&server, "alice").await;
    let long_room = "r".repeat(129);
    let long_mid = "m".repeat(65);
    let cases = [
        (json!({}), "type"),
        (json!({"type": 1}), "type"),
        (json!({"type": null}), "type"),
        (json!({"type": "join"}), "room"),
        (json!({"type": "join", "room": 7}), "room"),
        (json!({"type": "join", "room": ""}), "room"),
        (json!({"type": "join", "room": long_room}), "room"),
        (json!({"type": "join", "room": "bell\u{7}"}), "room"),
        (json!({"type": "join", "room": "line\nbreak"}), "room"),
        (
            json!({"type": "join", "room": "x", "presence": "yes"}),
            "presence",
        ),
        (json!({"type": "leave"}), "room"),
        (json!({"type": "publish", "data": 1}), "room"),
        (json!({"type": "publish", "room": "x"}), "data"),
        (
            json!({"type": "publish", "room": "x", "data": 1, "mid": 1}),
            "mid",
        ),
        (
            json!({"type": "publish", "room": "x", "data": 1, "mid": long_mid}),
            "mid",
        ),
        (
            json!({"type": "publish", "room": "x", "data": 1, "echo": "no"}),
            "echo",
        ),
        (
            json!({"type": "publish", "room": "x", "data": 1, "ephemeral": 1}),
            "ephemeral",
        ),
        (
            json!({"type": "publish", "room": "x", "data": 1, "key": {}}),
            "key",
        ),
        (json!({"type": "send", "data": 1}), "to"),
        (json!({"type": "send", "to": "bob", "data": 1}), "to"),
        (json!({"type": "send", "to": {}, "data": 1}), "to"),
        (
            json!({"type": "send", "to": {"user": 1}, "data": 1}),
            "user",
        ),
        (json!({"type": "send", "to": {"user": "bob"}}), "data"),
        (json!({"type": "presence"}), "room"),
        (json!({"type": "room_info"}), "room"),
        (json!({"type": "echo"}), "data"),
    ];
    for (command, field) in cases {
        let error = alice.fails(command.clone(), "INVALID_MESSAGE").await;
        let message = error["message"].as_str().unwrap_or_default();
        assert!(
            message.contains(field),
            "{command}: {field} not in {message:?}"
        );
        fails_without_id(&mut alice, &command.to_string(), "INVALID_MESSAGE").await;
    }
}

#[tokio::test]
async fn unusable_ids_and_shapes_are_invalid() {
    let server = Server::quiet(&[]);
    let mut alice = Client::connect(&server, "alice").await;
    let long = json!({"type": "ping", "id": "i".repeat(65)}).to_string();
    let texts = [
        r#"{"type":"ping","id":7}"#,
        r#"{"type":"ping","id":{}}"#,
        &long,
        "1",
        "null",
        "\"ping\"",
        "[1]",
        r#"[["ping"]]"#,
    ];
    for text in texts {
        fails_without_id(&mut alice, text, "INVALID_MESSAGE").await;
    }
    let many: Vec<Value> = (0..257).map(|_| json!({"type": "pong"})).collect();
    fails_without_id(&mut alice, &json!(many).to_string(), "INVALID_MESSAGE").await;
}

#[tokio::test]
async fn binary_frames_are_invalid_for_json_clients() {
    let server = Server::quiet(&[]);
    let mut alice = Client::connect(&server, "alice").await;
    for bytes in [r#"{"type":"ping","id":"x"}"#.as_bytes(), b"\xff\x00", b""] {
        alice.send_message(Message::binary(bytes.to_vec())).await;
        let error = alice.expect("error").await;
        assert_eq!(error["code"], "INVALID_MESSAGE", "{}", error.text);
        alice.assert_quiet().await;
    }
}

#[tokio::test]
async fn unknown_types_are_answered_and_unknown_fields_ignored() {
    let server = Server::quiet(&[]);
    let mut alice = Client::connect(&server, "alice").await;
    alice.join("x").await;
    let later = [
        json!({"type": "resume", "rooms": {}}),
        json!({"type": "history", "room": "x"}),
        json!({"type": "ack", "room": "x", "seq": 0}),
        json!({"type": "request", "method": "m"}),
        json!({"type": "auth", "token": "t"}),
        json!({"type": "refresh", "token": "t"}),
        json!({"type": "state", "room": "x", "state": {}}),
    ];
    for command in later {
        alice.fails(command, "UNKNOWN_TYPE").await;
    }
    for kind in ["", "JOIN", "message", "connected", "joinx", "pin"] {
        alice.fails(json!({"type": kind}), "UNKNOWN_TYPE").await;
        let text = json!({"type": kind}).to_string();
        fails_without_id(&mut alice, &text, "UNKNOWN_TYPE").await;
    }
    let odd = json!({"type": "echo", "data": 1, "zzz": {"type": "leave"}, "": [], "seq": 9});
    assert_eq!(alice.ok(odd).await["data"], 1);
}

#[tokio::test]
async fn who_has_not_joined_may_not_publish_or_leave() {
    let server = Server::quiet(&[]);
    let mut alice = Client::connect(&server, "alice").await;
    let mut bob = Client::connect(&server, "bob").await;
    for n in 0..8 {
        let room = format!("club-{n}");
        bob.join(&room).await;
        let publish = json!({"type": "publish", "room": room, "data": 1});
        alice.fails(publish.clone(), "NOT_JOINED").await;
        fails_without_id(&mut alice, &publish.to_string(), "NOT_JOINED").await;
        alice
            .fails(json!({"type": "leave", "room": room}), "NOT_JOINED")
            .await;
        alice.join(&room).await;
        alice.ok(publish.clone()).await;
        alice.expect("message").await;
        alice.ok(json!({"type": "leave", "room": room})).await;
        alice.fails(publish, "NOT_JOINED").await;
        assert_eq!(bob.expect("message").await.seq(), 1);
        bob.assert_quiet().await;
    }
}

#[tokio::test]
async fn all_is_forbidden_by_default() {
    let server = Server::quiet(&[]);
    let mut alice = Client::connect(&server, "alice").await;
    let mut bob = Client::connect(&server, "bob").await;
    alice
        .fails(
            json!({"type": "publish", "room": "@all", "data": 1}),
            "FORBIDDEN",
        )
        .await;
    alice
        .ok(json!({"type": "send", "to": {"user": "bob"}, "data": "next"}))
        .await;
    bob.expect("direct").await;
    bob.assert_quiet().await;
}

#[tokio::test]
async fn rooms_and_memberships_have_limits() {
    let server = Server::quiet(&[
        "--set",
        "limits.rooms_per_client=3",
        "--set",
        "limits.room_members_max=2",
    ]);
    let mut alice = Client::connect(&server, "alice").await;
    for room in ["a", "b", "c"] {
        alice.join(room).await;
    }
    alice
        .fails(json!({"type": "join", "room": "d"}), "TOO_MANY_ROOMS")
        .await;
    // A room that it is in already costs nothing.
    alice.join("a").await;
    alice.ok(json!({"type": "leave", "room": "a"})).await;
    alice.join("d").await;

    let mut bob = Client::connect(&server, "bob").await;
    let mut carol = Client::connect(&server, "carol").await;
    bob.join("b").await;
    for _ in 0..4 {
        // A refused join leaves no trace, in the room or in the client's count of rooms.
        carol
            .fails(json!({"type": "join", "room": "b"}), "ROOM_FULL")
            .await;
    }
    carol
        .fails(
            json!({"type": "publish", "room": "b", "data": 1}),
            "NOT_JOINED",
        )
        .await;
    let info = bob.ok(json!({"type": "room_info", "room": "b"})).await;
    assert_eq!(info["members"], 2);
    bob.ok(json!({"type": "leave", "room": "b"})).await;
    for room in ["b", "x", "y"] {
        carol.join(room).await;
    }
}

/// Pipelined joins can't slip past a limit while the first ones are on their way.
#[tokio::test]
async fn limits_hold_for_pipelined_joins() {
    let server = Server::quiet(&["--set", "limits.rooms_per_client=5"]);
    let mut alice = Client::connect(&server, "alice").await;
    for n in 0..40 {
        alice
            .send(json!({"type": "join", "room": format!("room-{n}"), "id": format!("{n}")}))
            .await;
    }
    let mut joined = 0;
    for _ in 0..40 {
        let answer = alice.next().await;
        match answer.kind() {
            "ok" => joined += 1,
            _ => assert_eq!(answer["code"], "TOO_MANY_ROOMS", "{}", answer.text),
        }
    }
    assert_eq!(joined, 5);
    server.wait_counter("memberships_open", 5).await;
    alice.close().await;
    server
        .wait("every gauge at zero", common::Counters::is_idle)
        .await;
}

#[tokio::test]
async fn big_messages_close_with_1009_and_small_limits_are_announced() {
    let server = Server::quiet(&["--set", "limits.message_bytes_max=1KiB"]);
    let mut alice = Client::connect(&server, "alice").await;
    assert_eq!(alice.connected["limits"]["message_bytes_max"], 1024);
    let text = json!({"type": "echo", "data": "x".repeat(900)}).to_string();
    alice.send_text(&text).await;
    alice.send_text(&" ".repeat(1024)).await;
    assert_eq!(alice.expect("error").await["code"], "PARSE_ERROR");
    alice.send_text(&" ".repeat(1025)).await;
    assert_eq!(alice.closed().await.0, 1009);
}
