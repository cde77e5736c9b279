//! Messages of rooms: one order, nothing lost, nothing doubled, whatever happens beside them.

use std::{
    cell::Cell,
    collections::{BTreeMap, BTreeSet},
};

use serde_json::{Value, json};

use super::net::{JSON, Net, RAW, SimWorker};
use crate::{
    base::rng::Rng,
    config::ByteSize,
    engine::sim::{Faults, SimConfig, replay::for_each_seed},
};

/// What has been seen of each room: by place, the message as it came.
pub(super) type Seen = BTreeMap<(String, u64), Value>;

/// Checks one client's view of its rooms against everyone's, and its answers against its view.
/// Gives the last place it saw in each room.
pub(super) fn check_view(net: &Net, client: usize, seen: &mut Seen) -> BTreeMap<String, u64> {
    let messages = net.clients[client].messages();
    let mut last = BTreeMap::new();
    let mut mine = BTreeMap::new();
    let mut answered = BTreeSet::new();
    for message in &messages {
        match message["type"].as_str().unwrap() {
            "message" => {
                let room = message["room"].as_str().unwrap().to_owned();
                let seq = message["seq"].as_u64().unwrap();
                if let Some(before) = last.insert(room.clone(), seq) {
                    assert_eq!(seq, before + 1, "a gap or a repetition in {room}");
                }
                let first = seen.entry((room, seq)).or_insert_with(|| message.clone());
                assert_eq!(first, message, "two members see two orders");
                if let Some(mid) = message["mid"].as_str() {
                    mine.insert(mid.to_owned(), seq);
                }
            }
            "ok" => {
                let id = message["id"].as_str().unwrap();
                assert!(answered.insert(id.to_owned()), "answered twice");
                if let (Some(seq), None) = (message["seq"].as_u64(), message["members"].as_u64()) {
                    // The `mid`s here name the publisher and its command.
                    let own = mine.get(&format!("{client}/{id}"));
                    assert_eq!(own, Some(&seq), "an ok overtook its own message");
                }
            }
            "connected" | "user_joined" | "user_left" => {}
            other => panic!("unexpected: {other}: {message}"),
        }
    }
    last
}

pub(super) fn publish(net: &mut Net, client: usize, room: &str, pad: usize) -> String {
    let state = &mut net.clients[client];
    let data = format!("{client}:{}", "x".repeat(pad));
    let mut command = state.numbered(json!({"type": "publish", "room": room, "data": data}));
    let id = command["id"].as_str().unwrap().to_owned();
    command["mid"] = json!(format!("{client}/{id}"));
    state.text(&command.to_string());
    id
}

#[test]
fn every_member_sees_one_order_without_a_gap() {
    for_each_seed("worker::tests::rooms::every_member", 60, |seed| {
        let mut net = Net::new(seed, |_| {});
        let rooms: Vec<String> = (0..1 + net.rng.below(4))
            .map(|n| format!("room {n}"))
            .collect();
        let count = 3 + net.rng.below(10) as usize;
        let mut joined: Vec<Vec<String>> = Vec::new();
        let mut asked: Vec<Vec<String>> = vec![Vec::new(); count];
        for (client, asked) in asked.iter_mut().enumerate() {
            net.connect("/ws?user=u", JSON);
            let mine: Vec<String> = rooms
                .iter()
                .filter(|_| !net.rng.one_in(3))
                .cloned()
                .collect();
            for room in &mine {
                let join = json!({"type": "join", "room": room, "presence": true});
                asked.push(net.clients[client].command(join));
            }
            joined.push(mine);
        }
        let raw: Vec<(usize, String)> = rooms
            .iter()
            .map(|room| {
                let path = format!("/ws/{}", room.replace(' ', "%20"));
                (net.connect(&path, RAW), room.clone())
            })
            .collect();
        let mut published: BTreeMap<String, u64> = BTreeMap::new();
        for _ in 0..300 {
            let client = net.rng.below(count as u64) as usize;
            if net.rng.one_in(3) && !joined[client].is_empty() {
                let at = net.rng.below(joined[client].len() as u64) as usize;
                let room = joined[client][at].clone();
                let pad = net.rng.below(2000) as usize;
                asked[client].push(publish(&mut net, client, &room, pad));
                *published.entry(room).or_default() += 1;
            }
            net.step();
        }
        net.settle();
        let mut seen = Seen::new();
        for client in 0..count {
            let last = check_view(&net, client, &mut seen);
            for id in &asked[client] {
                let answer = net.clients[client]
                    .answer(id)
                    .expect("every command is answered");
                assert_eq!(answer["type"], "ok", "{answer}");
            }
            for room in &joined[client] {
                let all = published.get(room).copied().unwrap_or(0);
                let heard = last.get(room).copied();
                // It may have joined after the last one.
                assert!(
                    heard.is_none_or(|last| last == all),
                    "the end of {room} is missing"
                );
            }
        }
        assert_eq!(seen.len() as u64, published.values().sum::<u64>());
        for (client, room) in raw {
            let all: Vec<String> = seen
                .iter()
                .filter(|((in_room, _), _)| *in_room == room)
                .map(|(_, message)| message["data"].to_string())
                .collect();
            let heard = &net.clients[client].texts;
            assert!(
                all.ends_with(heard),
                "a raw member of {room} sees another order"
            );
        }
        net.end();
    });
}

#[test]
fn who_does_not_read_is_evicted_and_nobody_else_loses_anything() {
    for_each_seed("worker::tests::rooms::who_does_not_read", 40, |seed| {
        let mut net = Net::new(seed, |config| {
            config.limits.buffered_bytes_high = ByteSize(192 * 1024);
            config.limits.buffered_bytes_low = ByteSize(64 * 1024);
        });
        let count = 3 + net.rng.below(4) as usize;
        for client in 0..count {
            net.connect("/ws", JSON);
            net.clients[client].command(json!({"type": "join", "room": "r"}));
        }
        net.until("all are in", |net| {
            net.clients.iter().all(|c| c.answer("1").is_some())
        });
        let slow = 0;
        net.clients[slow].reads = false;
        net.clients[slow].answers = false;
        let mut sent = 0;
        while sent < 110 {
            let id = publish(&mut net, 1, "r", 4000);
            sent += 1;
            if sent % 4 == 0 {
                net.until("published", |net| net.clients[1].answer(&id).is_some());
            }
            net.step();
        }
        net.settle();
        assert_eq!(net.total(|c| c.evicted_slow_total.get()), 1);
        let mut seen = Seen::new();
        for client in 1..count {
            let last = check_view(&net, client, &mut seen);
            assert_eq!(last["r"], 110);
            let left = net.clients[client].messages();
            let left = left.iter().filter(|m| m["type"] == "user_left").count();
            assert_eq!(left, 1, "those who stay hear of it");
        }
        net.pass(3_000, 100);
        net.clients[slow].reads = true;
        net.settle();
        let slow = &net.clients[slow];
        assert!(slow.end.is_some());
        assert!(matches!(slow.close, None | Some(4008)));
        net.end();
    });
}

#[test]
fn many_leave_while_a_room_is_handed_out_over_several_turns() {
    let swept = Cell::new(0);
    let all = for_each_seed("worker::tests::rooms::many_leave", 10, |seed| {
        let mut rng = Rng::new(seed);
        let cores = 1 + rng.below(2) as u16;
        let sim = SimConfig {
            faults: Faults::draw(&mut rng),
            ..SimConfig::default()
        };
        let mut net = Net::with(rng, cores, &sim, |_| {});
        let count = 80;
        for client in 0..count {
            net.connect("/ws", JSON);
            net.clients[client].command(json!({"type": "join", "room": "r"}));
        }
        net.until("all are in", |net| {
            net.clients.iter().all(|c| c.answer("1").is_some())
        });
        // More than a turn's deliveries at once, in batches.
        for client in 0..2 {
            batch(&mut net, client, "r", 220);
        }
        net.until("a fan-out goes on over turns", |net| {
            net.workers.iter().any(|w| !w.core.hub.edge().is_quiet())
        });
        for client in 3..40 {
            for _ in 0..net.rng.below(12) {
                net.step();
            }
            if net.rng.one_in(2) {
                net.cut(client);
            } else {
                net.clients[client].begin_close();
            }
            let busy = |w: &SimWorker| !w.core.hub.edge().is_quiet();
            swept.set(swept.get() + usize::from(net.workers.iter().any(busy)));
        }
        net.settle();
        let mut seen = Seen::new();
        for client in (0..3).chain(40..count) {
            let last = check_view(&net, client, &mut seen);
            assert_eq!(last["r"], 440);
        }
        let id = net.clients[0].command(json!({"type": "presence", "room": "r"}));
        net.settle();
        let answer = net.clients[0].answer(&id).unwrap();
        assert_eq!(answer["count"], count - 37);
        assert_eq!(
            net.total(|c| c.memberships_open.get()),
            count as u64 - 37,
            "ghosts"
        );
        net.end();
    });
    assert!(
        !all || swept.get() > 0,
        "in no seed did anybody leave during the fan-out"
    );
}

#[test]
fn floods_wait_for_credit_and_lose_nothing() {
    let stalls = Cell::new(0);
    let waits = Cell::new(0);
    let all = for_each_seed("worker::tests::rooms::floods", 8, |seed| {
        let rng = Rng::new(seed);
        let sim = SimConfig {
            socket_bytes: 256 * 1024,
            buffer_bytes: 16 * 1024,
            ..SimConfig::default()
        };
        let mut net = Net::with(rng, 2, &sim, |_| {});
        for client in 0..8 {
            // All on one core, so that they draw on the same credits.
            net.connect_to(0, "/ws", JSON);
            let room = format!("r{client}");
            net.clients[client].command(json!({"type": "join", "room": room}));
            for _ in 0..3 {
                batch(&mut net, client, &room, 240);
            }
        }
        // The other core is slow at first.
        for round in 0..60 {
            for client in 0..net.clients.len() {
                net.pump(client);
            }
            net.turn(0);
            // Raw clients need a credit for their very opening.
            if round >= 20 {
                for n in 0..20 {
                    net.connect_to(0, &format!("/ws/raw{round}-{n}"), RAW);
                }
            }
        }
        net.settle();
        for raw in &net.clients[8..] {
            assert!(raw.is_open() || raw.status == Some(503), "{:?}", raw.status);
        }
        for client in 0..8 {
            let messages = net.clients[client].messages();
            assert_eq!(
                check_view(&net, client, &mut Seen::new())[&format!("r{client}")],
                720
            );
            assert_eq!(messages.iter().filter(|m| m["type"] == "ok").count(), 721);
        }
        stalls.set(stalls.get() + net.total(|c| c.stalls_total.get()));
        waits.set(waits.get() + net.total(|c| c.mesh_waits_total.get()));
        net.end();
    });
    assert!(!all || stalls.get() > 0, "nobody had to wait for a credit");
    assert!(!all || waits.get() > 0, "no inbox was full");
}

/// Publishes `count` times in one message.
fn batch(net: &mut Net, client: usize, room: &str, count: usize) {
    let state = &mut net.clients[client];
    let commands: Vec<Value> = (0..count)
        .map(|_| {
            let command = json!({"type": "publish", "room": room, "data": client});
            let mut command = state.numbered(command);
            let id = command["id"].as_str().unwrap().to_owned();
            command["mid"] = json!(format!("{client}/{id}"));
            command
        })
        .collect();
    state.text(&Value::from(commands).to_string());
}
