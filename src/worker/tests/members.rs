//! Memberships: whoever comes and goes, and however, presence tells the truth in the end.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::json;

use super::net::{JSON, Net, RAW};
use crate::engine::sim::replay::for_each_seed;

/// A client, and the rooms that it last asked to join and not to leave.
struct Person {
    client: usize,
    rooms: BTreeSet<String>,
}

#[test]
fn presence_is_the_truth_whoever_comes_and_goes() {
    for_each_seed("worker::tests::members::presence", 80, |seed| {
        let mut net = Net::new(seed, |_| {});
        let rooms: Vec<String> = (0..1 + net.rng.below(4)).map(|n| format!("r{n}")).collect();
        // One that stays, in every room, from the beginning.
        let observer = net.connect("/ws?user=observer", JSON);
        for room in &rooms {
            net.clients[observer].command(json!({"type": "join", "room": room}));
        }
        net.settle();
        let mut people: Vec<Person> = Vec::new();
        for _ in 0..400 {
            if people.len() < 2 || (people.len() < 14 && net.rng.one_in(15)) {
                let user = net.rng.below(4);
                let room = net.rng.below(rooms.len() as u64) as usize;
                if net.rng.one_in(4) {
                    let client = net.connect(&format!("/ws/{}?user=u{user}", rooms[room]), RAW);
                    let rooms = BTreeSet::from([rooms[room].clone()]);
                    people.push(Person { client, rooms });
                } else {
                    let client = net.connect(&format!("/ws?user=u{user}"), JSON);
                    people.push(Person {
                        client,
                        rooms: BTreeSet::new(),
                    });
                }
            }
            let who = net.rng.below(people.len() as u64) as usize;
            let client = people[who].client;
            let is_raw = net.clients[client].is_raw();
            let room = rooms[net.rng.below(rooms.len() as u64) as usize].clone();
            match net.rng.below(12) {
                0..3 if !is_raw => {
                    net.clients[client].command(json!({
                        "type": "join", "room": room, "state": {"n": who},
                    }));
                    people[who].rooms.insert(room);
                }
                3..5 if !is_raw => {
                    net.clients[client].command(json!({"type": "leave", "room": room}));
                    people[who].rooms.remove(&room);
                }
                5 if !is_raw => {
                    let publish = json!({"type": "publish", "room": room, "data": 1});
                    net.clients[client].command(publish);
                }
                6 if net.rng.one_in(5) => {
                    net.cut(client);
                    people.swap_remove(who);
                }
                7 if net.rng.one_in(5) => {
                    net.clients[client].begin_close();
                    people.swap_remove(who);
                }
                _ => {}
            }
            for _ in 0..net.rng.below(12) {
                net.step();
            }
        }
        net.settle();
        check_presence(&mut net, observer, &rooms, &people);
        check_announcements(&net, observer, &rooms, &people);
        let mine: usize = people.iter().map(|person| person.rooms.len()).sum();
        let held = net.total(|c| c.memberships_open.get());
        assert_eq!(held, (mine + rooms.len()) as u64, "ghosts at the edge");
        net.end();
    });
}

/// The members of a room as its home tells, and as they asked to be.
fn check_presence(net: &mut Net, observer: usize, rooms: &[String], people: &[Person]) {
    for room in rooms {
        let id = net.clients[observer].command(json!({"type": "presence", "room": room}));
        net.settle();
        let answer = net.clients[observer].answer(&id).unwrap();
        let members = answer["members"].as_array().unwrap();
        let got: BTreeSet<String> = members
            .iter()
            .map(|member| member["client"].as_str().unwrap().to_owned())
            .collect();
        assert_eq!(answer["count"], got.len());
        let inside = people.iter().filter(|person| person.rooms.contains(room));
        assert_eq!(got.len(), inside.clone().count() + 1, "presence of {room}");
        for person in inside {
            if let Some(id) = net.clients[person.client].id() {
                assert!(got.contains(&id), "{id} is missing in {room}");
            }
        }
    }
}

/// What the observer heard balances: nobody joins twice, nobody leaves unseen.
fn check_announcements(net: &Net, observer: usize, rooms: &[String], people: &[Person]) {
    let mut inside: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for message in net.clients[observer].messages() {
        let text = |field: &str| message[field].as_str().unwrap().to_owned();
        match message["type"].as_str().unwrap() {
            "user_joined" => {
                let is_new = inside
                    .entry(text("room"))
                    .or_default()
                    .insert(text("client"));
                assert!(is_new, "joined twice: {message}");
            }
            "user_left" => {
                let was_in = inside
                    .entry(text("room"))
                    .or_default()
                    .remove(&text("client"));
                assert!(was_in, "left without having joined: {message}");
            }
            _ => {}
        }
    }
    for room in rooms {
        let heard = inside.get(room).map_or(0, BTreeSet::len);
        let truth = people
            .iter()
            .filter(|person| person.rooms.contains(room))
            .count();
        assert_eq!(heard, truth, "what was announced of {room}");
    }
}

#[test]
fn rooms_that_empty_and_fill_again_keep_no_ghosts() {
    for_each_seed("worker::tests::members::rooms_that_empty", 150, |seed| {
        let mut net = Net::new(seed, |_| {});
        let count = 2 + net.rng.below(5) as usize;
        let mut is_in = vec![false; count];
        let mut expected: Vec<(usize, String)> = Vec::new();
        for _ in 0..count {
            net.connect("/ws", JSON);
        }
        net.until_open();
        for _ in 0..120 {
            let client = net.rng.below(count as u64) as usize;
            if net.clients[client].is_gone {
                continue;
            }
            let kind = if is_in[client] { "leave" } else { "join" };
            net.clients[client].command(json!({"type": kind, "room": "r"}));
            is_in[client] ^= true;
            // A member from the moment it asked: commands are taken in order.
            if is_in[client] && net.rng.one_in(2) {
                let publish = json!({"type": "publish", "room": "r", "data": 1});
                let id = net.clients[client].command(publish);
                expected.push((client, id));
            }
            if net.rng.one_in(40) {
                net.cut(client);
                is_in[client] = false;
            }
            for _ in 0..net.rng.below(30) {
                net.step();
            }
        }
        net.settle();
        for (client, id) in expected {
            if !net.clients[client].is_gone {
                let answer = net.clients[client].answer(&id).unwrap();
                assert_eq!(answer["type"], "ok", "{answer}");
            }
        }
        let probe = net.connect("/ws", JSON);
        let id = net.clients[probe].command(json!({"type": "presence", "room": "r"}));
        net.settle();
        let answer = net.clients[probe].answer(&id).unwrap();
        let inside = is_in.iter().filter(|is_in| **is_in).count();
        assert_eq!(answer["count"], inside, "{answer}");
        net.end();
    });
}
