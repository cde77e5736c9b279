//! Every command of the JSON protocol that this version knows, as an application would use it.
//! The gateway runs on two cores, so that rooms have their home on either. What goes wrong, and
//! with which code, is in `tests/errors.rs`.

mod common;

use std::collections::HashSet;

use common::{
    Server,
    client::{Client, open},
    within,
};
use futures_util::{SinkExt, StreamExt};
use serde_json::{Value, json};
use tokio_tungstenite::tungstenite::Message;

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
async fn join_answers_with_the_rooms_position() {
    let server = Server::quiet(&[]);
    let mut alice = Client::connect(&server, "alice").await;
    let first = alice.join("lobby").await;
    assert_eq!((&first["seq"], &first["members"]), (&json!(0), &json!(1)));
    assert!(
        first["epoch"]
            .as_str()
            .is_some_and(|epoch| !epoch.is_empty())
    );
    alice.publish("lobby", json!(1)).await;
    alice.publish("lobby", json!(2)).await;

    let mut bob = Client::connect(&server, "bob").await;
    let second = bob.join("lobby").await;
    assert_eq!((&second["seq"], &second["members"]), (&json!(2), &json!(2)));
    assert_eq!(second["epoch"], first["epoch"]);
    // What was published before isn't for bob.
    bob.assert_quiet().await;

    let again = bob.join("lobby").await;
    assert_eq!(again["members"], 2, "a second join is the same membership");
}

#[tokio::test]
async fn join_with_presence_lists_that_very_moment() {
    let server = Server::quiet(&[]);
    let mut clients = Vec::new();
    for n in 0..5 {
        let mut client = Client::connect(&server, &format!("user-{n}")).await;
        let ok = client
            .ok(json!({"type": "join", "room": "list", "presence": true}))
            .await;
        clients.push(client);
        let mut listed = names(&ok["users"], "client");
        listed.sort();
        let mut wanted: Vec<String> = clients.iter().map(|client| client.id.clone()).collect();
        wanted.sort();
        assert_eq!(listed, wanted, "{}", ok.text);
        assert_eq!(ok["members"], wanted.len());
    }
    let plain = clients[0].join("elsewhere").await;
    assert!(plain["users"].is_null(), "{}", plain.text);
}

#[tokio::test]
async fn join_since_recovers_nothing_where_there_is_no_history() {
    let server = Server::quiet(&[]);
    let mut alice = Client::connect(&server, "alice").await;
    alice.join("past").await;
    alice.publish("past", json!("old")).await;
    let mut bob = Client::connect(&server, "bob").await;
    let since = json!({"epoch": "another", "seq": 0});
    let ok = bob
        .ok(json!({"type": "join", "room": "past", "since": since}))
        .await;
    assert_eq!(ok["recovered"], false, "{}", ok.text);
    bob.assert_quiet().await;
}

#[tokio::test]
async fn publish_reaches_every_member_with_the_same_bytes() {
    let server = Server::quiet(&[]);
    let mut members = Vec::new();
    for n in 0..6 {
        let mut member = Client::connect(&server, &format!("user-{n}")).await;
        member.join("town").await;
        members.push(member);
    }
    let mut outsider = Client::connect(&server, "outsider").await;
    outsider.join("elsewhere").await;

    let command = json!({"type": "publish", "room": "town", "data": {"hello": [1, 2]},
        "mid": "m-1", "key": "k-1"});
    let ok = members[0].ok(command).await;
    let mut texts = HashSet::new();
    for member in &mut members {
        let message = member.expect("message").await;
        assert_eq!(message["room"], "town");
        assert_eq!(message["seq"], 1);
        assert_eq!(message["data"], json!({"hello": [1, 2]}));
        assert_eq!(
            (&message["mid"], &message["key"]),
            (&json!("m-1"), &json!("k-1"))
        );
        assert_eq!(message["from"]["user"], "user-0");
        assert!(message["ts"].is_u64(), "{}", message.text);
        assert!(message["id"].is_null(), "{}", message.text);
        texts.insert(message.text.clone());
    }
    assert_eq!(texts.len(), 1, "{texts:?}");
    let from = members[0].id.clone();
    assert!(texts.iter().all(|text| text.contains(&from)));
    assert_eq!((&ok["seq"], ok["epoch"].is_string()), (&json!(1), true));
    outsider.assert_quiet().await;
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
async fn ephemeral_messages_take_no_position() {
    let server = Server::quiet(&[]);
    let mut alice = Client::connect(&server, "alice").await;
    let mut bob = Client::connect(&server, "bob").await;
    alice.join("cursors").await;
    bob.join("cursors").await;
    alice.publish("cursors", json!("first")).await;
    for n in 0..3 {
        alice
            .send(json!({"type": "publish", "room": "cursors", "data": n, "ephemeral": true}))
            .await;
    }
    alice.publish("cursors", json!("second")).await;
    for client in [&mut alice, &mut bob] {
        assert_eq!(client.expect("message").await.seq(), 1);
        for n in 0..3 {
            let message = client.expect("message").await;
            assert_eq!(message["data"], n);
            assert!(message["seq"].is_null(), "{}", message.text);
        }
        assert_eq!(client.expect("message").await.seq(), 2);
    }
    let info = alice
        .ok(json!({"type": "room_info", "room": "cursors"}))
        .await;
    assert_eq!(info.seq(), 2);
}

#[tokio::test]
async fn nothing_of_a_room_follows_the_ok_of_leave() {
    let server = Server::quiet(&[]);
    for n in 0..8 {
        let room = &format!("left-{n}");
        let mut talker = Client::connect(&server, "talker").await;
        let mut leaver = Client::connect(&server, "leaver").await;
        talker.join(room).await;
        leaver.join(room).await;
        for m in 0..50 {
            talker
                .send(
                    json!({"type": "publish", "room": room, "data": m, "echo": false,
                    "id": format!("p{m}")}),
                )
                .await;
        }
        leaver
            .send(json!({"type": "leave", "room": room, "id": "bye"}))
            .await;
        for m in 50..100 {
            talker
                .send(
                    json!({"type": "publish", "room": room, "data": m, "echo": false,
                    "id": format!("p{m}")}),
                )
                .await;
        }
        talker.answer("p99").await;
        // The second join is answered by the room's home, behind all that it had sent before.
        leaver
            .send(json!({"type": "join", "room": room, "id": "back"}))
            .await;
        let mut left = false;
        loop {
            let message = leaver.next().await;
            match message["id"].as_str() {
                Some("bye") => {
                    assert_eq!(message.kind(), "ok", "{}", message.text);
                    left = true;
                }
                Some("back") => break,
                _ => assert!(!left, "after the ok of leave: {}", message.text),
            }
        }
        assert!(left, "leave was answered before the later join");
    }
}

#[tokio::test]
async fn send_reaches_every_session_of_a_user_or_one_client() {
    let server = Server::quiet(&[]);
    let mut alice = Client::connect(&server, "alice").await;
    let mut phone = Client::connect(&server, "bob").await;
    let mut laptop = Client::connect(&server, "bob").await;

    let ok = alice
        .ok(json!({"type": "send", "to": {"user": "bob"}, "data": {"n": 1}, "mid": "d-1"}))
        .await;
    assert_eq!(ok["queued"], 2);
    for client in [&mut phone, &mut laptop] {
        let direct = client.expect("direct").await;
        assert_eq!(direct["n"], 1);
        assert_eq!(direct["data"], json!({"n": 1}));
        assert_eq!(direct["mid"], "d-1");
        assert_eq!(direct["from"], json!({"client": alice.id, "user": "alice"}));
        assert!(direct["ts"].is_u64(), "{}", direct.text);
    }
    for n in 2..6 {
        let to = json!({"client": phone.id});
        let ok = alice.ok(json!({"type": "send", "to": to, "data": n})).await;
        assert_eq!(ok["queued"], 1);
        let direct = phone.expect("direct").await;
        assert_eq!((&direct["n"], &direct["data"]), (&json!(n), &json!(n)));
    }
    laptop.assert_quiet().await;
    alice.assert_quiet().await;

    let ok = alice
        .ok(json!({"type": "send", "to": {"user": "carol"}, "data": 0}))
        .await;
    assert_eq!(ok["queued"], 0);
    phone.close().await;
    laptop.close().await;
    server.wait_counter("sessions_open", 1).await;
    let ok = alice
        .ok(json!({"type": "send", "to": {"user": "bob"}, "data": 0}))
        .await;
    assert_eq!(ok["queued"], 0);
}

#[tokio::test]
async fn presence_and_room_info_count_members_and_users() {
    let server = Server::quiet(&[]);
    let mut alice = Client::connect(&server, "alice").await;
    let mut bob = Client::connect(&server, "bob").await;
    let mut second_bob = Client::connect(&server, "bob").await;
    for client in [&mut alice, &mut bob, &mut second_bob] {
        client.join("count").await;
    }
    let presence = alice.ok(json!({"type": "presence", "room": "count"})).await;
    assert_eq!(
        (&presence["count"], &presence["users"]),
        (&json!(3), &json!(2))
    );
    let mut clients = names(&presence["members"], "client");
    clients.sort();
    let mut wanted = vec![alice.id.clone(), bob.id.clone(), second_bob.id.clone()];
    wanted.sort();
    assert_eq!(clients, wanted);
    let mut users = names(&presence["members"], "user");
    users.sort();
    assert_eq!(users, ["alice", "bob", "bob"]);

    let info = alice
        .ok(json!({"type": "room_info", "room": "count"}))
        .await;
    assert_eq!((&info["members"], &info["users"]), (&json!(3), &json!(2)));
    assert_eq!((&info["seq"], info["epoch"].is_string()), (&json!(0), true));

    second_bob
        .ok(json!({"type": "leave", "room": "count"}))
        .await;
    let info = alice
        .ok(json!({"type": "room_info", "room": "count"}))
        .await;
    assert_eq!((&info["members"], &info["users"]), (&json!(2), &json!(2)));
    bob.ok(json!({"type": "leave", "room": "count"})).await;
    let info = alice
        .ok(json!({"type": "room_info", "room": "count"}))
        .await;
    assert_eq!((&info["members"], &info["users"]), (&json!(1), &json!(1)));
}

#[tokio::test]
async fn joins_and_leaves_are_announced_to_the_others() {
    let server = Server::start(&[]);
    let mut alice = Client::connect(&server, "alice").await;
    alice.join("door").await;
    alice.assert_quiet().await;

    let mut bob = Client::connect(&server, "bob").await;
    bob.join("door").await;
    bob.assert_quiet().await;
    let joined = alice.expect("user_joined").await;
    assert_eq!(
        (&joined["room"], &joined["user"]),
        (&json!("door"), &json!("bob"))
    );
    assert_eq!(
        (&joined["client"], &joined["members"]),
        (&json!(bob.id), &json!(2))
    );

    bob.ok(json!({"type": "leave", "room": "door"})).await;
    bob.assert_quiet().await;
    let left = alice.expect("user_left").await;
    assert_eq!(
        (&left["room"], &left["user"]),
        (&json!("door"), &json!("bob"))
    );
    assert_eq!(
        (&left["client"], &left["members"]),
        (&json!(bob.id), &json!(1))
    );
    assert_eq!(left["reason"], "left");

    bob.join("door").await;
    alice.expect("user_joined").await;
    let gone = bob.id.clone();
    bob.close().await;
    let left = alice.expect("user_left").await;
    assert_eq!(
        (&left["client"], &left["reason"]),
        (&json!(gone), &json!("disconnected"))
    );
}

#[tokio::test]
async fn crowded_rooms_announce_nobody() {
    let server = Server::start(&["--set", "rooms.announce_members_max=2"]);
    let mut alice = Client::connect(&server, "alice").await;
    let mut bob = Client::connect(&server, "bob").await;
    let mut carol = Client::connect(&server, "carol").await;
    alice.join("crowd").await;
    bob.join("crowd").await;
    assert_eq!(alice.expect("user_joined").await["members"], 2);
    assert_eq!(carol.join("crowd").await["members"], 3);
    // A message of the room comes behind whatever the join would have caused.
    carol.publish("crowd", json!("hello")).await;
    alice.expect("message").await;
    bob.expect("message").await;
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
async fn all_reaches_every_client_where_it_is_allowed() {
    let server = Server::quiet(&["--set", "rooms.all_publish_by=anyone"]);
    let mut clients = Vec::new();
    for n in 0..12 {
        clients.push(Client::connect(&server, &format!("user-{n}")).await);
    }
    let per_core = server.counters().per_core("sessions_open");
    assert_eq!(per_core.iter().sum::<u64>(), 12);
    for n in 0..3 {
        clients[0]
            .send(json!({"type": "publish", "room": "@all", "data": n}))
            .await;
    }
    for client in &mut clients {
        for n in 0..3 {
            let message = client.expect("message").await;
            assert_eq!(
                (&message["room"], &message["data"]),
                (&json!("@all"), &json!(n))
            );
            assert_eq!(message["from"]["user"], "user-0");
        }
    }
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
async fn rooms_live_on_both_cores_and_end_with_their_last_member() {
    const ROOMS: usize = 64;
    let server = Server::quiet(&[]);
    let mut alice = Client::connect(&server, "alice").await;
    for n in 0..ROOMS {
        alice.join(&format!("home-{n}")).await;
    }
    let counters = server.counters();
    assert_eq!(counters.total("rooms_open"), ROOMS as u64);
    let homes = counters.per_core("rooms_open");
    assert!(
        homes.len() == 2 && homes.iter().all(|rooms| *rooms > 0),
        "{homes:?}"
    );
    for n in 0..ROOMS {
        let room = format!("home-{n}");
        alice.publish(&room, json!(n)).await;
        assert_eq!(alice.expect("message").await["room"], room.as_str());
        alice.ok(json!({"type": "leave", "room": room})).await;
    }
    server.wait_counter("rooms_open", 0).await;
    server.wait_counter("memberships_open", 0).await;
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

    let send = async |ws: &mut common::client::WebSocket, message: Message| {
        within("sending", ws.send(message)).await.expect("it opens");
    };
    let next = async |ws: &mut common::client::WebSocket| loop {
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

/// One field of every entry of a list.
fn names(list: &Value, field: &str) -> Vec<String> {
    list.as_array()
        .unwrap_or_else(|| panic!("not a list: {list}"))
        .iter()
        .map(|entry| entry[field].as_str().unwrap_or_default().to_owned())
        .collect()
}
