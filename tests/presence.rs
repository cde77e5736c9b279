//! Who is in a room is known exactly, however members come and go and on whichever core they
//! are: after random joins, leaves, closes, plain ends and resets, presence equals the truth,
//! every announcement had its counterpart, and no ghost is left.

mod common;

use std::collections::{BTreeMap, BTreeSet};

use common::{DEADLINE, Random, Server, client::Client};
use serde_json::{Value, json};
use tokio::time::Instant;

const ROOMS: usize = 4;
const STEPS: usize = 600;
const CLIENTS_MAX: usize = 30;

/// One client of the churn: who it is and where it is.
struct Guest {
    client: Client,
    user: String,
    rooms: BTreeSet<usize>,
}

#[tokio::test]
async fn presence_equals_the_truth_after_churn() {
    let mut random = Random::seeded();
    // The observers read only at the end, so no ping may want an answer before.
    let server = Server::start(&["--set", "limits.ping_interval=600s"]);
    // One member per room stays, and writes down what it is told.
    let mut observers = Vec::new();
    for room in 0..ROOMS {
        let mut observer = Client::connect(&server, &format!("observer-{room}")).await;
        observer.join(&name(room)).await;
        observers.push(observer);
    }

    let mut guests: Vec<Guest> = Vec::new();
    for step in 0..STEPS {
        if guests.len() < CLIENTS_MAX && random.below(3) == 0 {
            // Some users are there twice.
            let user = format!("user-{}", random.below(CLIENTS_MAX));
            guests.push(Guest {
                client: Client::connect(&server, &user).await,
                user,
                rooms: BTreeSet::new(),
            });
            continue;
        }
        if guests.is_empty() {
            continue;
        }
        let at = random.below(guests.len());
        let room = random.below(ROOMS);
        // A guest is let go before its budget of commands per second could matter.
        match random.below(12) {
            0 => guests.swap_remove(at).client.close().await,
            1 => drop(guests.swap_remove(at)),
            2 => guests.swap_remove(at).client.reset(),
            3 => {
                // Ends with a join on its way.
                let mut guest = guests.swap_remove(at);
                let join = json!({"type": "join", "room": name(room)});
                guest.client.send(join).await;
                guest.client.reset();
            }
            _ => {
                let guest = &mut guests[at];
                if guest.rooms.remove(&room) {
                    let leave = json!({"type": "leave", "room": name(room)});
                    guest.client.ok(leave).await;
                } else {
                    let joined = guest.client.join(&name(room)).await;
                    assert!(joined["members"].as_u64() >= Some(2), "step {step}");
                    guest.rooms.insert(room);
                }
            }
        }
    }

    server
        .wait_counter("sessions_open", (guests.len() + ROOMS) as u64)
        .await;
    for (room, observer) in observers.iter_mut().enumerate() {
        let mut truth: BTreeMap<String, String> = guests
            .iter()
            .filter(|guest| guest.rooms.contains(&room))
            .map(|guest| (guest.client.id.clone(), guest.user.clone()))
            .collect();
        truth.insert(observer.id.clone(), format!("observer-{room}"));
        settled(observer, room, &truth).await;
        balanced(observer, room, &truth).await;
    }

    drop(guests);
    drop(observers);
    server
        .wait("every gauge at zero", common::Counters::is_idle)
        .await;
    assert_eq!(server.counters().total("panics_total"), 0);
}

/// `presence` comes to say exactly `truth`, and `room_info` says the same.
async fn settled(observer: &mut Client, room: usize, truth: &BTreeMap<String, String>) {
    let room = name(room);
    let end = Instant::now() + DEADLINE;
    loop {
        let presence = observer.ok(json!({"type": "presence", "room": room})).await;
        let seen: BTreeMap<String, String> = presence["members"]
            .as_array()
            .expect("`members` is a list")
            .iter()
            .map(|member| (text(&member["client"]), text(&member["user"])))
            .collect();
        // The ends of killed clients travel between cores; nothing tells a client when they
        // have arrived, so this asks again until the deadline.
        if seen != *truth && Instant::now() < end {
            continue;
        }
        assert_eq!(seen, *truth, "{room}");
        assert_eq!(presence["count"], truth.len(), "{room}");
        let users: BTreeSet<&String> = truth.values().collect();
        assert_eq!(presence["users"], users.len(), "{room}");
        let info = observer
            .ok(json!({"type": "room_info", "room": room}))
            .await;
        assert_eq!(info["members"], truth.len(), "{room}");
        assert_eq!(info["users"], users.len(), "{room}");
        return;
    }
}

/// The announcements tell the same story: nobody joins twice or leaves without having joined,
/// each count is right at its moment, and what remains is the truth.
async fn balanced(observer: &mut Client, room: usize, truth: &BTreeMap<String, String>) {
    let mut present = BTreeMap::from([(observer.id.clone(), format!("observer-{room}"))]);
    observer.send(json!({"type": "ping", "id": "done"})).await;
    loop {
        let message = observer.next().await;
        let (client, user) = (text(&message["client"]), text(&message["user"]));
        match message.kind() {
            "user_joined" => {
                let before = present.insert(client, user);
                assert!(before.is_none(), "joined twice: {}", message.text);
            }
            "user_left" => {
                let before = present.remove(&client);
                assert_eq!(before.as_ref(), Some(&user), "{}", message.text);
                let reason = text(&message["reason"]);
                let known = ["left", "disconnected"].contains(&reason.as_str());
                assert!(known, "{}", message.text);
            }
            "pong" => break,
            other => panic!("{other}: {}", message.text),
        }
        assert_eq!(message["members"], present.len(), "{}", message.text);
    }
    assert_eq!(present, *truth, "{}", name(room));
}

/// Each way to end says goodbye to every room, once.
#[tokio::test]
async fn abrupt_ends_leave_no_ghosts() {
    let server = Server::start(&[]);
    let mut observer = Client::connect(&server, "observer").await;
    let rooms: Vec<String> = (0..6).map(name).collect();
    for room in &rooms {
        observer.join(room).await;
    }
    for way in ["close", "end", "reset", "leave"] {
        for _ in 0..5 {
            let mut guest = Client::connect(&server, "guest").await;
            for room in &rooms {
                guest.join(room).await;
            }
            let id = guest.id.clone();
            for _ in &rooms {
                assert_eq!(text(&observer.expect("user_joined").await["client"]), id);
            }
            let reason = match way {
                "close" => {
                    guest.close().await;
                    "disconnected"
                }
                "end" => {
                    drop(guest);
                    "disconnected"
                }
                "reset" => {
                    guest.reset();
                    "disconnected"
                }
                _ => {
                    for room in &rooms {
                        guest.ok(json!({"type": "leave", "room": room})).await;
                    }
                    drop(guest);
                    "left"
                }
            };
            let mut left = BTreeSet::new();
            for _ in &rooms {
                let message = observer.expect("user_left").await;
                assert_eq!(text(&message["client"]), id, "{way}: {}", message.text);
                assert_eq!(message["reason"], reason, "{way}: {}", message.text);
                left.insert(text(&message["room"]));
            }
            assert_eq!(left.len(), rooms.len(), "{way}: once per room");
        }
    }
    observer.assert_quiet().await;
    for room in &rooms {
        let info = observer
            .ok(json!({"type": "room_info", "room": room}))
            .await;
        assert_eq!(info["members"], 1, "{room}");
    }
}

fn name(room: usize) -> String {
    format!("presence-{room}")
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}
