//! One connection at a time: panics, large messages, silence, the gateway's end.

use std::cell::Cell;

use serde_json::json;

use super::net::{JSON, Net, RAW};
use crate::{
    base::rng::Rng,
    config::ByteSize,
    engine::sim::{Faults, SimConfig, replay::for_each_seed},
    proto::ws::OpCode,
};

#[test]
fn a_panic_costs_its_connection_alone() {
    for_each_seed("worker::tests::connections::a_panic", 40, |seed| {
        let mut net = Net::new(seed, |_| {});
        for client in 0..5 {
            net.connect("/ws", JSON);
            net.clients[client].command(json!({"type": "join", "room": "r"}));
        }
        net.until("all are in", |net| {
            net.clients.iter().all(|c| c.answer("1").is_some())
        });
        net.clients[0].text(r#"{"type":"publish","room":"r","data":"panic, please"}"#);
        net.clients[0].text(r#"{"type":"publish","room":"r","data":"after it"}"#);
        net.settle();
        assert_eq!(net.clients[0].close, Some(1011));
        assert_eq!(net.total(|c| c.panics_total.get()), 1);
        for client in 1..5 {
            net.clients[client].command(json!({"type": "publish", "room": "r", "data": client}));
        }
        net.settle();
        for client in 1..5 {
            let messages = net.clients[client].messages();
            let of = |kind: &str| messages.iter().filter(|m| m["type"] == kind).count();
            assert_eq!((of("message"), of("user_left")), (4, 1));
        }
        net.end();
    });
}

#[test]
fn large_messages_come_back_as_they_went() {
    for_each_seed("worker::tests::connections::large_messages", 40, |seed| {
        let mut net = Net::new(seed, |config| {
            config.server.demo = true;
            config.limits.message_bytes_max = ByteSize(1 << 20);
            config.limits.buffered_bytes_high = ByteSize(300 * 1024);
            config.limits.buffered_bytes_low = ByteSize(50 * 1024);
            // Short parts too are lent, as the simulated receive buffers are short.
            config.engine.coalesce = ByteSize(16);
        });
        // What is encrypted is neither lent nor received directly.
        net.one_in_speaks_tls = 0;
        let mut sent: Vec<Vec<Vec<u8>>> = Vec::new();
        for client in 0..2 {
            net.connect("/echo", JSON);
            let mut mine = Vec::new();
            for n in 0..6 {
                let most = if net.rng.one_in(2) { 250_000 } else { 2_000 };
                let len = net.rng.below(most) as usize;
                let message: Vec<u8> = (0..len).map(|at| (at * 7 + n + at / 251) as u8).collect();
                net.clients[client].send(OpCode::Binary, &message);
                mine.push(message);
            }
            sent.push(mine);
        }
        // Echo offers no subprotocol: the clients ask for one and get none.
        net.settle();
        for (client, mine) in sent.iter().enumerate() {
            assert!(
                net.clients[client].binaries == *mine,
                "client {client} got something else"
            );
        }
        if sent.iter().flatten().any(|message| message.len() > 100_000) {
            assert!(net.total(|c| c.lent_parts_total.get()) > 0);
        }
        net.end();
    });
}

#[test]
fn large_messages_reach_a_room_as_they_were_sent() {
    for_each_seed(
        "worker::tests::connections::large_messages_reach",
        20,
        |seed| {
            let mut net = Net::new(seed, |config| {
                config.limits.message_bytes_max = ByteSize(1 << 20);
            });
            net.one_in_speaks_tls = 0;
            let says = net.connect("/ws/r", RAW);
            let hears = net.connect("/ws/r", RAW);
            net.settle();
            let mut sent: Vec<Vec<u8>> = Vec::new();
            for n in 0..4 {
                let len = 60_000 + net.rng.below(100_000) as usize;
                let message: Vec<u8> = (0..len).map(|at| (at * 7 + n + at / 251) as u8).collect();
                net.clients[says].send(OpCode::Binary, &message);
                sent.push(message);
            }
            net.settle();
            assert!(
                net.clients[hears].binaries == sent,
                "something else was heard"
            );
            assert!(net.total(|c| c.direct_receives_total.get()) > 0);
            net.end();
        },
    );
}

#[test]
fn silence_is_pinged_and_then_ended() {
    for_each_seed("worker::tests::connections::silence", 30, |seed| {
        let mut net = Net::new(seed, |_| {});
        let silent = net.connect("/ws", JSON);
        let alive = net.connect("/ws", JSON);
        let mute = net.connect("/ws", JSON);
        net.clients[silent].answers = false;
        net.clients[mute].say_nothing();
        net.clients[silent].command(json!({"type": "join", "room": "r"}));
        net.clients[alive].command(json!({"type": "join", "room": "r"}));
        net.settle();
        net.pass(9_000, 100);
        assert_eq!(net.clients[mute].status, None);
        net.pass(3_000, 100);
        assert_eq!(net.clients[mute].status, Some(408));
        net.pass(11_000, 100);
        assert_eq!(net.clients[silent].pings, 0, "not before its time");
        net.pass(4_000, 100);
        assert_eq!(net.clients[silent].pings, 1);
        assert_eq!(net.clients[alive].pings, 1);
        assert!(net.clients[silent].is_open());
        net.pass(12_000, 20);
        assert_eq!(net.clients[silent].close, Some(4009));
        assert!(net.clients[alive].is_open());
        assert_eq!(net.total(|c| c.heartbeat_timeouts_total.get()), 1);
        let messages = net.clients[alive].messages();
        let left = messages.iter().find(|m| m["type"] == "user_left");
        assert_eq!(left.expect("it is announced")["reason"], "timed_out");
        net.pass(60_000, 200);
        assert!(net.clients[alive].is_open() && net.clients[alive].pings >= 3);
        net.end();
    });
}

#[test]
fn stopping_closes_everyone_and_comes_to_an_end() {
    for_each_seed("worker::tests::connections::stopping", 40, |seed| {
        let mut net = Net::new(seed, |_| {});
        for client in 0..12 {
            net.connect("/ws?user=u", JSON);
            net.clients[client].command(json!({"type": "join", "room": "r"}));
        }
        net.until_open();
        // Positions that are told of the end before they are taken again.
        for client in 0..4 {
            net.cut(client);
        }
        net.settle();
        // These are accepted while it stops, and never say a word.
        let talkers = net.clients.len();
        for _ in 0..4 {
            let mute = net.connect("/ws", JSON);
            net.clients[mute].say_nothing();
        }
        let started = net.now_ms;
        for worker in &mut net.workers {
            worker.begin_draining();
        }
        net.until("the end", |net| net.workers.iter().all(|w| w.is_drained()));
        assert!(
            net.now_ms - started < 5_000,
            "it took the whole of its time"
        );
        net.settle();
        assert!(net.clients[4..].iter().all(|client| client.end.is_some()));
        for client in &net.clients[4..talkers] {
            assert_eq!(client.close, Some(1012));
            assert!(client.close_reason.starts_with("restart;retry-after="));
        }
        net.assert_empty();
    });
}

#[test]
fn a_silent_client_is_found_out_however_much_it_is_sent() {
    for_each_seed("worker::tests::connections::a_silent_client", 20, |seed| {
        let mut rng = Rng::new(seed);
        let sim = SimConfig {
            socket_bytes: 2048,
            faults: Faults {
                delay_max: rng.below(3),
                ..Faults::default()
            },
            ..SimConfig::default()
        };
        let mut net = Net::with(rng, 1, &sim, |_| {});
        let silent = net.connect("/ws", JSON);
        let talker = net.connect("/ws", JSON);
        net.clients[silent].answers = false;
        for client in [silent, talker] {
            net.clients[client].command(json!({"type": "join", "room": "r"}));
        }
        net.settle();
        for _ in 0..140 {
            let data = "x".repeat(3000);
            let publish = json!({"type": "publish", "room": "r", "data": data});
            net.clients[talker].text(&publish.to_string());
            net.pass(500, 100);
        }
        assert_eq!(net.clients[silent].close, Some(4009));
        assert!(net.clients[talker].is_open());
        net.end();
    });
}

#[test]
fn who_is_not_read_from_is_not_taken_for_dead() {
    let stalls = Cell::new(0);
    let all = for_each_seed("worker::tests::connections::who_is_not_read", 10, |seed| {
        let sim = SimConfig {
            buffer_bytes: 16 * 1024,
            ..SimConfig::default()
        };
        let mut net = Net::with(Rng::new(seed), 2, &sim, |_| {});
        for client in 0..4 {
            net.connect_to(0, "/ws", JSON);
            let room = format!("r{client}");
            net.clients[client].command(json!({"type": "join", "room": room}));
        }
        net.settle();
        for client in 0..4 {
            for _ in 0..4 {
                let publish = json!({"type": "publish", "room": format!("r{client}"), "data": 1});
                let batch = vec![publish; 250];
                net.clients[client].text(&json!(batch).to_string());
            }
        }
        // The other core is held up for longer than any client may be silent.
        for _ in 0..900 {
            net.now_ms += 100;
            for client in 0..4 {
                net.pump(client);
            }
            net.turn(0);
        }
        stalls.set(stalls.get() + net.total(|c| c.stalls_total.get()));
        net.settle();
        for client in &net.clients {
            assert!(client.is_open(), "{:?}", client.close);
        }
        net.end();
    });
    assert!(!all || stalls.get() > 0, "nobody had to wait");
}
