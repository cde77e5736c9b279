//! Limits under every schedule: memory, rates, addresses, and the pace of the end.

use std::{cell::Cell, time::Duration};

use serde_json::json;

use super::net::{JSON, Net, RAW};
use crate::{
    base::rng::Rng,
    config::{ByteSize, Span},
    engine::sim::{Faults, SimConfig, replay::for_each_seed},
    proto::ws::OpCode,
};

const KIB: usize = 1024;

/// A message that is begun and never finished.
fn begin_message(net: &mut Net, client: usize, bytes: usize) {
    net.clients[client].send(OpCode::Binary, &vec![7; bytes]);
    net.clients[client].cut_off_the_end();
}

#[test]
fn the_budget_holds_whatever_slow_dead_and_flooding_clients_do() {
    let (evicted, trims, refused, pauses) =
        (Cell::new(0), Cell::new(0), Cell::new(0), Cell::new(0));
    let all = for_each_seed("worker::tests::limits::the_budget_holds", 30, |seed| {
        const BUDGET: usize = 800 * KIB;
        let mut rng = Rng::new(seed);
        let cores = 1 + rng.below(2) as u16;
        let sim = SimConfig {
            faults: Faults::draw(&mut rng),
            socket_bytes: 2048 << rng.below(4),
            ..SimConfig::default()
        };
        let mut net = Net::with(rng, cores, &sim, |config| {
            config.limits.memory_budget = Some(ByteSize(BUDGET));
            config.limits.message_bytes_max = ByteSize(256 * KIB);
            // Nobody is evicted for its queue alone.
            config.limits.buffered_bytes_high = ByteSize(64 << 20);
            config.limits.buffered_bytes_low = ByteSize(32 << 20);
            config.engine.recv_buffers = 1;
            config.engine.recv_buffer_bytes = ByteSize(KIB);
        });
        // Two that behave, and beside them some that do not read, some that never say a word, and
        // some that send messages without an end.
        let (good, slow) = (2, 3);
        for client in 0..good + slow {
            net.connect("/ws", JSON);
            net.clients[client].command(json!({"type": "join", "room": "r"}));
        }
        net.until("all are in", |net| {
            net.clients.iter().all(|c| c.answer("1").is_some())
        });
        for client in good..good + slow {
            net.clients[client].reads = false;
            net.clients[client].answers = false;
        }
        for _ in 0..3 {
            let dead = net.connect("/ws", JSON);
            net.clients[dead].say_nothing();
        }
        let mut most = 0;
        let mut sent = 0;
        while sent < 120 {
            if net.rng.one_in(6) && net.clients.len() < 40 {
                net.connect("/ws", JSON);
            }
            if net.rng.one_in(6) {
                let from = (good + slow) as u64;
                let client = from + net.rng.below(net.clients.len() as u64 - from);
                if net.clients[client as usize].is_open() {
                    begin_message(&mut net, client as usize, 100 * KIB);
                }
            }
            let data = "x".repeat(4000);
            let publish = json!({"type": "publish", "room": "r", "data": data});
            let id = net.clients[0].command(publish);
            sent += 1;
            net.until("it is answered", |net| net.clients[0].answer(&id).is_some());
            for worker in &net.workers {
                most = most.max(worker.core.memory.used());
            }
        }
        net.settle();
        // What one turn can add lies above it: here a message for each slow one, and buffers for
        // the messages that were begun.
        assert!(most < BUDGET * 5 / 4, "{most} used of {BUDGET}");
        for client in 0..good {
            assert!(net.clients[client].is_open(), "one that behaves was closed");
            let messages = net.clients[client].messages();
            let seqs: Vec<u64> = messages
                .iter()
                .filter(|m| m["type"] == "message")
                .map(|m| m["seq"].as_u64().unwrap())
                .collect();
            assert_eq!(seqs, (1..=120).collect::<Vec<u64>>());
        }
        evicted.set(evicted.get() + net.total(|c| c.evicted_memory_total.get()));
        trims.set(trims.get() + net.total(|c| c.memory_trims_total.get()));
        refused.set(refused.get() + net.total(|c| c.refused_memory_total.get()));
        pauses.set(pauses.get() + net.total(|c| c.accept_pauses_total.get()));
        net.end();
    });
    if all {
        for (what, count) in [
            ("evicted", evicted.get()),
            ("trimmed", trims.get()),
            ("refused", refused.get()),
            ("paused", pauses.get()),
        ] {
            assert!(count > 0, "in no seed was anything {what}");
        }
    }
}

#[test]
fn a_message_has_its_time_and_its_memory_comes_back() {
    for_each_seed(
        "worker::tests::limits::a_message_has_its_time",
        20,
        |seed| {
            let mut net = Net::new(seed, |config| {
                config.limits.message_timeout = Span(Duration::from_secs(8));
                config.limits.message_bytes_max = ByteSize(256 * KIB);
            });
            let bytes = [1, 60 * KIB, 200 * KIB];
            let begun: Vec<usize> = bytes.map(|_| net.connect("/ws", JSON)).to_vec();
            let slow = net.connect("/ws", JSON);
            net.until_open();
            for (client, bytes) in begun.iter().zip(bytes) {
                begin_message(&mut net, *client, bytes);
            }
            // Split by the pause, and finished in time.
            let command = net.clients[slow]
                .numbered(json!({"type": "echo", "data": 7}))
                .to_string();
            net.clients[slow].text(&command);
            let last = net.clients[slow].keep_back_the_end();
            let started = net.now_ms;
            net.settle();
            // What is encrypted takes its time on a slow network.
            let settled = net.now_ms - started;
            net.pass(7_000_u64.saturating_sub(settled), 100);
            net.clients[slow].write(&last);
            net.until("it is answered", |net| {
                net.clients[slow].answer("1").is_some()
            });
            let is_closed = |net: &Net, client: &usize| net.clients[*client].close.is_some();
            assert!(
                !begun.iter().any(|client| is_closed(&net, client)),
                "too early"
            );
            net.pass(3_000, 100);
            net.until("they are closed", |net| {
                begun.iter().all(|client| is_closed(net, client))
            });
            for client in begun {
                assert_eq!(net.clients[client].close, Some(1008));
                assert_eq!(net.clients[client].close_reason, "message timeout");
            }
            assert!(net.clients[slow].is_open());
            assert_eq!(net.total(|c| c.message_timeouts_total.get()), 3);
            net.end();
        },
    );
}

#[test]
fn a_flood_is_slowed_to_its_rate_and_loses_nothing() {
    let throttled = Cell::new(0);
    let all = for_each_seed("worker::tests::limits::a_flood_is_slowed", 20, |seed| {
        let mut rng = Rng::new(seed);
        let sim = SimConfig {
            faults: Faults::draw(&mut rng),
            buffers: 4,
            buffer_bytes: 1024,
            socket_bytes: 4 * KIB,
            ..SimConfig::default()
        };
        let mut net = Net::with(rng, 1, &sim, |config| {
            config.server.demo = true;
            config.limits.bytes_per_second = ByteSize(10 * KIB);
            config.limits.bytes_burst = ByteSize(20 * KIB);
        });
        let flood = net.connect("/echo", JSON);
        net.until_open();
        let count = 100;
        for n in 0..count {
            net.clients[flood].send(OpCode::Binary, &vec![n as u8; KIB]);
        }
        let started = net.now_ms;
        let mut rounds = 0;
        while net.clients[flood].binaries.len() < count {
            net.pass(50, 10);
            rounds += 1;
            assert!(rounds < 1000, "it never gets through");
        }
        let took = net.now_ms - started;
        // The burst is free, and what the buffers hold when the last pause begins is still owed.
        let owed = 20 + 4;
        assert!(took >= (count as u64 - owed) * 1000 / 10, "{took} ms");
        for (n, message) in net.clients[flood].binaries.iter().enumerate() {
            assert_eq!(message, &vec![n as u8; KIB]);
        }
        // In some seeds the network is slower than the limit.
        throttled.set(throttled.get() + net.total(|c| c.throttled_total.get()));
        assert!(net.clients[flood].is_open());
        net.end();
    });
    assert!(!all || throttled.get() > 0, "nothing was ever slowed down");
}

#[test]
fn who_is_slowed_down_is_heard_when_it_answers_a_close() {
    let throttled = Cell::new(0);
    let all = for_each_seed("worker::tests::limits::who_is_slowed_down", 20, |seed| {
        let mut net = Net::new(seed, |config| {
            config.server.demo = true;
            config.limits.bytes_per_second = ByteSize(100);
            config.limits.bytes_burst = ByteSize(1000);
            config.drain.notice = Span(Duration::ZERO);
        });
        let flood = net.connect("/echo", JSON);
        net.until_open();
        net.clients[flood].send(OpCode::Binary, &[0; 8000]);
        net.pass(500, 5);
        let paused = net.total(|c| c.throttled_total.get());
        throttled.set(throttled.get() + paused);
        let started = net.now_ms;
        for worker in &mut net.workers {
            worker.begin_draining();
        }
        net.until("the end", |net| net.workers.iter().all(|w| w.is_drained()));
        let took = net.now_ms - started;
        assert!(took < 4_000, "its answer was not read: {took} ms");
        net.settle();
        net.assert_empty();
    });
    assert!(!all || throttled.get() > 0, "nothing was ever slowed down");
}

#[test]
fn a_flood_of_messages_has_its_share_of_each_turn() {
    let deferred = Cell::new(0);
    let all = for_each_seed("worker::tests::limits::a_flood_of_messages", 20, |seed| {
        let sim = SimConfig {
            socket_bytes: 256 * KIB,
            buffer_bytes: 16 * 1024,
            ..SimConfig::default()
        };
        let mut net = Net::with(Rng::new(seed), 1, &sim, |config| {
            config.server.demo = true;
        });
        let flood = net.connect("/echo", JSON);
        net.until_open();
        let count = 4000;
        for n in 0..count {
            net.clients[flood].text(&n.to_string());
        }
        for _ in 0..400 {
            let before = net.total(|c| c.messages_in_total.get());
            net.turn(0);
            let handled = net.total(|c| c.messages_in_total.get()) - before;
            assert!(handled <= 512, "{handled} in one turn");
            deferred.set(deferred.get() + net.workers[0].core.deferred.len());
            net.pump(flood);
        }
        net.settle();
        let expected: Vec<String> = (0..count).map(|n| n.to_string()).collect();
        assert_eq!(net.clients[flood].texts, expected);
        net.end();
    });
    assert!(!all || deferred.get() > 0, "nothing was ever deferred");
}

#[test]
fn what_was_said_before_an_end_is_heard() {
    for_each_seed("worker::tests::limits::what_was_said", 20, |seed| {
        let mut net = Net::new(seed, |_| {});
        let hears = net.connect("/ws", JSON);
        net.clients[hears].command(json!({"type": "join", "room": "r"}));
        // A raw client gets nothing back, so there is nothing that would make its end a reset; over TLS
        // it would get tickets.
        let core = net.rng.below(net.cores() as u64) as usize;
        let says = net.connect_by(core, "/ws/r", RAW, false);
        net.until("both are in", |net| {
            let heard = net.clients[hears].messages();
            heard.iter().any(|m| m["type"] == "user_joined")
                || heard.iter().any(|m| m["members"] == 2)
        });
        net.until_open();
        // More than a turn's share, and then the end without a close frame.
        for n in 0..1500 {
            net.clients[says].text(&n.to_string());
        }
        net.say_all_and_end(says);
        net.settle();
        let messages = net.clients[hears].messages();
        let count = messages.iter().filter(|m| m["type"] == "message").count();
        assert_eq!(count, 1500);
        net.end();
    });
}

#[test]
fn a_send_without_progress_ends_in_its_time() {
    for_each_seed(
        "worker::tests::limits::a_send_without_progress",
        20,
        |seed| {
            let sim = SimConfig {
                socket_bytes: 4 * KIB,
                ..SimConfig::default()
            };
            let mut net = Net::with(Rng::new(seed), 1, &sim, |config| {
                // Nothing but the send's own time ends it.
                let hour = Span(Duration::from_secs(3600));
                config.limits.ping_interval = hour;
            });
            let slow = net.connect("/ws", JSON);
            let talker = net.connect("/ws", JSON);
            for client in [slow, talker] {
                net.clients[client].command(json!({"type": "join", "room": "r"}));
            }
            net.settle();
            net.clients[slow].reads = false;
            // One message that the socket takes only in part, and nothing after it.
            let data = "x".repeat(20 * KIB);
            net.clients[talker].command(json!({"type": "publish", "room": "r", "data": data}));
            let sent = net.now_ms;
            net.until("it is handed out", |net| {
                net.clients[talker]
                    .messages()
                    .iter()
                    .any(|m| m["type"] == "message")
            });
            let handed_out = net.now_ms;
            net.pass(sent + 9_900 - net.now_ms, 10);
            assert_eq!(net.total(|c| c.evicted_slow_total.get()), 0);
            net.pass(handed_out + 10_200 - net.now_ms, 10);
            assert_eq!(net.total(|c| c.evicted_slow_total.get()), 1);
            assert!(net.clients[talker].is_open());
            net.end();
        },
    );
}

#[test]
fn a_rush_of_connections_is_taken_up_in_batches() {
    let most = Cell::new(0);
    let all = for_each_seed("worker::tests::limits::a_rush", 10, |seed| {
        let sim = SimConfig::default();
        let mut net = Net::with(Rng::new(seed), 1, &sim, |config| {
            config.engine.accept_batch = 3;
        });
        for _ in 0..40 {
            net.connect("/ws", JSON);
        }
        let mut accepted = 0;
        for _ in 0..200 {
            net.turn(0);
            let now = net.total(|c| c.accepted_total.get());
            assert!(now - accepted <= 3, "{} in one turn", now - accepted);
            most.set(most.get().max(now - accepted));
            accepted = now;
        }
        net.until_open();
        net.end();
    });
    assert!(!all || most.get() == 3, "there was never a rush");
}

#[test]
fn who_does_not_answer_its_close_is_cut_at_the_deadline() {
    for_each_seed("worker::tests::limits::who_does_not_answer", 30, |seed| {
        let mut net = Net::new(seed, |config| {
            config.drain.window = Span(Duration::from_millis(200));
            config.drain.notice = Span(Duration::from_millis(100));
            config.drain.deadline = Span(Duration::from_secs(2));
        });
        for _ in 0..6 {
            net.connect("/ws", JSON);
        }
        net.until_open();
        net.clients[0].answers = false;
        for worker in &mut net.workers {
            worker.begin_draining();
        }
        net.until("the end", |net| net.workers.iter().all(|w| w.is_drained()));
        let cut: u64 = net.workers.iter().map(|w| w.cut()).sum();
        assert_eq!(cut, 1);
        assert_eq!(net.total(|c| c.drain_cut_total.get()), 1);
        for client in &net.clients {
            assert_eq!(client.close, Some(1012));
            let told = client.messages().iter().any(|m| m["type"] == "reconnect");
            assert!(told, "it was not told before");
        }
        net.settle();
    });
}

#[test]
fn a_route_that_is_gone_takes_its_connections_with_it() {
    for_each_seed("worker::tests::limits::a_route_that_is_gone", 20, |seed| {
        let mut net = Net::new(seed, |config| {
            config.server.demo = true;
            config.drain.window = Span(Duration::from_millis(500));
        });
        let stays = net.connect("/ws", JSON);
        let goes: Vec<usize> = (0..5).map(|_| net.connect("/echo", JSON)).collect();
        net.until_open();
        let mut config = (*net.workers[0].core.config).clone();
        config.server.demo = false;
        config.limits.rooms_per_client = 1;
        let config = std::sync::Arc::new(config);
        for worker in &mut net.workers {
            worker.reload(std::sync::Arc::clone(&config));
        }
        net.pass(4_000, 20);
        for client in goes {
            assert_eq!(net.clients[client].close, Some(1012));
        }
        assert!(net.clients[stays].is_open());
        // What else has changed holds for who is here already.
        net.clients[stays].command(json!({"type": "join", "room": "a"}));
        let second = net.clients[stays].command(json!({"type": "join", "room": "b"}));
        net.settle();
        let answer = net.clients[stays].answer(&second).unwrap();
        assert_eq!(answer["code"], "TOO_MANY_ROOMS");
        net.end();
    });
}
