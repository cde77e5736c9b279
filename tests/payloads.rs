//! What is relayed arrives as it was sent: JSON byte for byte, any name, and between members that
//! speak JSON and members that speak nothing.

mod common;

use common::{
    Server,
    client::{Client, WebSocket, open},
    within,
};
use futures_util::{SinkExt, StreamExt};
use serde_json::json;
use tokio_tungstenite::tungstenite::Message;

#[tokio::test]
async fn data_is_relayed_byte_for_byte() {
    let server = Server::quiet(&["--set", "rooms.all_publish_by=anyone"]);
    let mut alice = Client::connect(&server, "alice").await;
    let mut bob = Client::connect(&server, "bob").await;
    alice.join("bytes").await;
    bob.join("bytes").await;
    let long = format!("\"{}\"", "x".repeat(60_000));
    let payloads = [
        "null",
        "true",
        "0",
        "-0",
        "1.0",
        "1E+2",
        "0.10000000000000000000000000000000001",
        "123456789012345678901234567890",
        r#""""#,
        r#""\u00e9\/\n\ud83c\udf0a""#,
        r#""é€🌊""#,
        "\"\u{7f}\u{2028}\u{feff}\"",
        "[]",
        "[ 1 ,2,\t3 ]",
        "{\n  \"b\" : 1,\r\n  \"a\":2\n}",
        r#"{"a":1,"a":2,"":3}"#,
        r#"{"type":"leave","room":"bytes","id":"9"}"#,
        r#"{"data":{"data":[{"data":"}]"}]}}"#,
        r#""a \"quoted\" brace } and \\""#,
        &long,
    ];
    for (n, payload) in payloads.iter().enumerate() {
        // The payload stands first, last, and between unknown fields.
        let shapes = [
            format!(r#"{{"type":"publish","room":"bytes","data":{payload}}}"#),
            format!(r#"{{"data":{payload},"room":"bytes","type":"publish"}}"#),
            format!(
                r#" {{ "x" : [{{}}] , "data" : {payload} , "type":"publish","room":"bytes" }} "#
            ),
        ];
        for shape in shapes {
            alice.send_text(&shape).await;
            for client in [&mut alice, &mut bob] {
                let message = client.expect("message").await;
                assert!(
                    message.data() == *payload,
                    "{payload} became {}",
                    message.data()
                );
            }
        }
        let id = format!("e{n}");
        alice
            .send_text(&format!(
                r#"{{"type":"echo","id":"{id}","data":{payload}}}"#
            ))
            .await;
        let echo = alice.answer(&id).await;
        assert!(echo.data() == *payload, "{payload} became {}", echo.data());
        alice
            .send_text(&format!(
                r#"{{"type":"send","to":{{"user":"bob"}},"data":{payload}}}"#
            ))
            .await;
        let direct = bob.expect("direct").await;
        assert!(
            direct.data() == *payload,
            "{payload} became {}",
            direct.data()
        );
        alice
            .send_text(&format!(
                r#"{{"type":"publish","room":"@all","data":{payload}}}"#
            ))
            .await;
        for client in [&mut alice, &mut bob] {
            let all = client.expect("message").await;
            assert!(all.data() == *payload, "{payload} became {}", all.data());
        }
    }
}

#[tokio::test]
async fn names_may_be_any_text() {
    let server = Server::quiet(&[]);
    let mut alice = Client::connect(&server, "alice").await;
    let longest = "r".repeat(128);
    for room in [
        "a",
        " ",
        "\"quoted\\",
        "café 🌊",
        "a/b?c=d#e",
        "{}",
        &longest,
    ] {
        alice.join(room).await;
        alice.publish(room, json!(room)).await;
        let message = alice.expect("message").await;
        assert_eq!(
            (&message["room"], &message["data"]),
            (&json!(room), &json!(room))
        );
    }
    // An escape and the character it stands for are one name.
    alice
        .send_text(r#"{"type":"room_info","room":"caf\u00e9 \ud83c\udf0a","id":"escaped"}"#)
        .await;
    assert_eq!(alice.answer("escaped").await.seq(), 1);
    let id = "i".repeat(64);
    alice.send(json!({"type": "ping", "id": id})).await;
    assert_eq!(alice.expect("pong").await["id"], id.as_str());
}

#[tokio::test]
async fn raw_members_get_the_payload_and_nothing_else() {
    let server = Server::start(&["--set", "rooms.all_publish_by=nobody"]);
    let offer = Some("tidegate.v1.raw");
    let (mut one, chosen) = open(server.addr, "/ws?room=caf%C3%A9", offer, None)
        .await
        .expect("raw with ?room= opens");
    assert_eq!(chosen.as_deref(), offer);
    let (mut two, _) = open(server.addr, "/ws/caf%C3%A9", offer, None)
        .await
        .expect("raw with a path opens");
    let mut json = Client::connect(&server, "alice").await;
    let ok = json.join("café").await;
    assert_eq!(ok["members"], 3);

    let send = async |ws: &mut WebSocket, message: Message| {
        within("sending", ws.send(message)).await.expect("it opens");
    };
    let next = async |ws: &mut WebSocket| loop {
        match within("a raw message", ws.next()).await {
            Some(Ok(Message::Ping(_))) => {}
            other => return other.expect("it is open").expect("it is sound"),
        }
    };
    // Not JSON, and JSON that would be a command elsewhere: both are payload here.
    for text in ["plain text", r#"{"type":"leave","room":"café"}"#, ""] {
        send(&mut one, Message::text(text)).await;
        assert_eq!(next(&mut two).await, Message::text(text));
        let message = json.expect("message").await;
        assert_eq!(message["room"], "café");
        assert_eq!(message["data"], text, "{}", message.text);
    }
    send(&mut two, Message::binary(vec![0, 255, 16, 128])).await;
    assert_eq!(next(&mut one).await, Message::binary(vec![0, 255, 16, 128]));
    assert_eq!(json.expect("message").await["data"], "AP8QgA==");

    json.send_text(
        r#"{"type":"publish","room":"café","data":{ "b":1, "a": 1.0 },"echo":false,"id":"p"}"#,
    )
    .await;
    assert_eq!(json.answer("p").await.seq(), 5);
    for ws in [&mut one, &mut two] {
        assert_eq!(next(ws).await, Message::text(r#"{ "b":1, "a": 1.0 }"#));
    }
    // Announcements and answers are not for raw members: the next thing is the next payload.
    json.ok(json!({"type": "leave", "room": "café"})).await;
    send(&mut one, Message::text("last")).await;
    assert_eq!(next(&mut two).await, Message::text("last"));
    send(&mut two, Message::text("really last")).await;
    assert_eq!(next(&mut one).await, Message::text("really last"));
}
