//! Rooms as an application uses them: joining, leaving, publishing, direct messages, presence and
//! announcements. The gateway runs on two cores, so that rooms have their home on either.

mod common;

use std::collections::HashSet;

use common::{Server, client::Client};
use serde_json::{Value, json};

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
    let phone_id = phone.id.clone();
    phone.close().await;
    laptop.close().await;
    server.wait_counter("sessions_open", 1).await;
    // The directory is on another core, and hears of the end a moment after the counter does.
    for to in [json!({"user": "bob"}), json!({"client": phone_id})] {
        let deadline = std::time::Instant::now() + common::DEADLINE;
        loop {
            let ok = alice.ok(json!({"type": "send", "to": to, "data": 0})).await;
            if ok["queued"] == 0 {
                break;
            }
            assert!(std::time::Instant::now() < deadline, "{}", ok.text);
        }
    }
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

/// One field of every entry of a list.
fn names(list: &Value, field: &str) -> Vec<String> {
    list.as_array()
        .unwrap_or_else(|| panic!("not a list: {list}"))
        .iter()
        .map(|entry| entry[field].as_str().unwrap_or_default().to_owned())
        .collect()
}
