//! Clients that have agreed on compression, each in its own way, among others that have not.

use std::{cell::Cell, sync::Arc};

use serde_json::json;

use super::{
    net::{JSON, Net, RAW},
    rooms::{Seen, check_view, publish},
};
use crate::{
    base::{limits::TURN_DEFLATE_BYTES_MAX, rng::Rng},
    config::{ByteSize, Config},
    engine::sim::replay::for_each_seed,
    proto::ws::{
        OpCode,
        deflate::{Deflater, Offer},
    },
};

fn offer(rng: &mut Rng) -> Option<Offer> {
    let bits = |rng: &mut Rng| rng.one_in(2).then(|| 9 + rng.below(7) as u8);
    (!rng.one_in(4)).then(|| Offer {
        server_no_context_takeover: rng.one_in(3),
        client_no_context_takeover: rng.one_in(3),
        server_max_window_bits: bits(rng),
        client_max_window_bits: rng.one_in(2).then(|| bits(rng)),
    })
}

fn draw(config: &mut Config, seed: u64) {
    let mut rng = Rng::new(seed ^ 0xDEF1A7E);
    config.server.demo = true;
    let deflate = &mut config.deflate;
    deflate.message_bytes_min = ByteSize(1 + rng.below(1500) as usize);
    deflate.binary = rng.one_in(2);
    deflate.level = 1 + rng.below(9) as u16;
    deflate.window_bits = 9 + rng.below(7) as u16;
    deflate.mem_level = 1 + rng.below(9) as u16;
    deflate.server_context_takeover = rng.one_in(2);
    deflate.client_context_takeover = rng.one_in(2);
    // The cap may leave out some; memory levels above the default do not fit at all.
    deflate.takeover_bytes_per_core = ByteSize(1 << (17 + rng.below(6)));
}

fn connect(net: &mut Net, path: &str, subprotocol: &str) -> usize {
    let client = net.connect(path, subprotocol);
    if let Some(offer) = offer(&mut net.rng) {
        net.clients[client].offer(offer);
    }
    client
}

/// Sends a text compressed, if that was agreed on and chance has it.
fn say(net: &mut Net, client: usize, text: &str) {
    if net.clients[client].codec.is_some() && !net.rng.one_in(3) {
        let bytes_max = 1 + net.rng.below(400) as usize;
        net.clients[client].send_compressed(OpCode::Text, text.as_bytes(), bytes_max);
    } else {
        net.clients[client].text(text);
    }
}

#[test]
fn members_of_all_kinds_see_the_same() {
    let compressed = Cell::new(0);
    let all = for_each_seed("worker::tests::deflate::members_of_all_kinds", 40, |seed| {
        let mut net = Net::new(seed, |config| {
            draw(config, seed);
            config.rooms.coalesce_ms = if seed % 4 == 0 { 2 } else { 0 };
        });
        let count = 3 + net.rng.below(8) as usize;
        for _ in 0..count {
            connect(&mut net, "/ws?user=u", JSON);
        }
        let raws: Vec<usize> = (0..3).map(|_| connect(&mut net, "/ws/room", RAW)).collect();
        net.until_open();
        for client in 0..count {
            net.clients[client].command(json!({"type": "join", "room": "room"}));
        }
        net.settle();
        let coalesces = seed % 4 == 0;
        let mut published = 0;
        for _ in 0..150 {
            let client = net.rng.below(count as u64) as usize;
            let pad = net.rng.below(3000) as usize;
            if net.rng.one_in(4) {
                publish(&mut net, client, "room", pad);
                published += 1;
            } else if net.rng.one_in(4) {
                // What comes back to it alone goes through its own history, if it keeps one.
                let echo = json!({"type": "echo", "data": "y".repeat(pad)});
                let echo = net.clients[client].numbered(echo).to_string();
                say(&mut net, client, &echo);
            }
            net.step();
        }
        net.settle();
        if !coalesces {
            let mut seen = Seen::new();
            for client in 0..count {
                let last = check_view(&net, client, &mut seen);
                let all = last.get("room").copied().unwrap_or_default();
                assert_eq!(all, published, "seed {seed}");
            }
            let first = net.clients[raws[0]].texts.clone();
            assert_eq!(first.len() as u64, published);
            for raw in &raws {
                assert_eq!(net.clients[*raw].texts, first);
            }
        }
        let received = net
            .clients
            .iter()
            .filter_map(|client| client.codec.as_ref());
        let count: usize = received.map(|codec| codec.received).sum();
        compressed.set(compressed.get() + count);
        assert_eq!(net.total(|c| c.protocol_errors_total.get()), 0);
        assert_eq!(net.total(|c| c.deflate_invalid_total.get()), 0);
        net.end();
    });
    assert!(
        !all || compressed.get() > 1000,
        "{compressed:?} compressed messages"
    );
}

#[test]
fn whatever_is_sent_to_echo_comes_back() {
    for_each_seed("worker::tests::deflate::whatever_is_sent", 30, |seed| {
        let mut net = Net::new(seed, |config| draw(config, seed));
        let client = connect(&mut net, "/echo", JSON);
        net.until_open();
        let mut expected = Vec::new();
        for n in 0..40 {
            let long = net.rng.below(20_000) as usize;
            let text = format!("{n} {}", "wave ".repeat(long / 5));
            let has_codec = net.clients[client].codec.is_some();
            match net.rng.below(3) {
                0 => net.clients[client].text(&text),
                _ => say(&mut net, client, &text),
            }
            expected.push(text);
            if has_codec && net.rng.one_in(3) {
                let bytes = vec![n as u8; long];
                net.clients[client].send_compressed(OpCode::Binary, &bytes, 1000);
            }
            for _ in 0..net.rng.below(20) {
                net.step();
            }
        }
        net.settle();
        assert_eq!(net.clients[client].texts, expected);
        net.end();
    });
}

#[test]
fn a_bomb_costs_no_more_than_the_longest_message() {
    let limit = 64 << 10;
    let mut bomb = Vec::new();
    let mut deflater = Deflater::new(9, 15, 9).unwrap();
    assert!(deflater.compress(&vec![0; 8 << 20], &mut bomb, limit));
    for_each_seed("worker::tests::deflate::a_bomb", 20, |seed| {
        let mut net = Net::new(seed, |config| {
            draw(config, seed);
            config.limits.message_bytes_max = ByteSize(limit);
        });
        let client = net.connect(["/ws", "/echo"][seed as usize % 2], JSON);
        let other = net.connect("/ws", JSON);
        net.clients[client].offer(Offer::default());
        net.until_open();
        let bytes_max = 100 + net.rng.below(5000) as usize;
        net.clients[client].send_wire(OpCode::Binary, &bomb, bytes_max);
        net.settle();
        assert_eq!(net.clients[client].close, Some(1009));
        assert!(net.clients[other].is_open());
        assert_eq!(net.total(|c| c.deflate_bombs_total.get()), 1);
        assert_eq!(net.total(|c| c.messages_too_big_total.get()), 1);
        for worker in &net.workers {
            let taken = worker.core.deflate.inflation.memory_bytes();
            assert!(taken <= limit + (48 << 10), "{taken}");
        }
        net.end();
    });
}

#[test]
fn what_comes_out_of_messages_is_charged_like_what_comes_in() {
    for_each_seed("worker::tests::deflate::what_comes_out", 10, |seed| {
        let mut net = Net::new(seed, |config| {
            config.limits.bytes_per_second = ByteSize(64 << 10);
            config.limits.bytes_burst = ByteSize(64 << 10);
        });
        let client = net.connect("/ws/room", RAW);
        net.clients[client].offer(Offer::default());
        net.until_open();
        for _ in 0..20 {
            net.clients[client].send_compressed(OpCode::Binary, &[7; 32 << 10], 10_000);
        }
        net.pass(500, 10);
        assert!(net.total(|c| c.throttled_total.get()) > 0);
        net.end();
    });
}

#[test]
fn messages_that_are_broken_or_no_text_end_the_connection() {
    for_each_seed("worker::tests::deflate::messages_that", 20, |seed| {
        let mut net = Net::new(seed, |config| draw(config, seed));
        let path = ["/ws", "/echo"][seed as usize % 2];
        for (opcode, wire, code) in [
            (OpCode::Text, &b"\x07"[..], 1007),
            (OpCode::Binary, b"\xf2\x48\xcd", 1007),
            // "h\xff", not compressed.
            (OpCode::Text, b"\x00\x02\x00\xfd\xff\x68\xff\x00", 1007),
            // A control frame is never compressed.
            (OpCode::Ping, b"\x00", 1002),
        ] {
            let client = net.connect(path, JSON);
            net.clients[client].offer(Offer::default());
            net.until("it opens", |net| net.clients[client].is_open());
            net.clients[client].send_wire(opcode, wire, 100);
            net.settle();
            assert_eq!(net.clients[client].close, Some(code), "{wire:x?}");
        }
        assert_eq!(net.total(|c| c.deflate_invalid_total.get()), 2);
        net.end();
    });
}

#[test]
fn what_is_kept_is_bounded_and_given_back() {
    for_each_seed("worker::tests::deflate::what_is_kept", 10, |seed| {
        // A deflater and an inflater of the default size take about 304 KiB.
        let mut net = Net::new(seed, |config| {
            config.deflate.server_context_takeover = true;
            config.deflate.client_context_takeover = true;
            config.deflate.takeover_bytes_per_core = ByteSize(660 << 10);
        });
        let clients: Vec<usize> = (0..4)
            .map(|_| {
                let client = net.connect_to(0, "/ws", JSON);
                net.clients[client].offer(Offer::default());
                net.until("it opens", |net| net.clients[client].is_open());
                client
            })
            .collect();
        let keeps = |net: &Net| {
            let agreed = |c: &usize| net.clients[*c].codec.as_ref().unwrap().agreed;
            let keeps = clients.iter().map(agreed).map(|agreed| {
                (
                    !agreed.server_no_context_takeover,
                    !agreed.client_no_context_takeover,
                )
            });
            keeps.collect::<Vec<_>>()
        };
        // Both, both, only what the client sends, nothing.
        let expected = [(true, true), (true, true), (false, true), (false, false)];
        assert_eq!(keeps(&net), expected);
        assert_eq!(net.total(|c| c.deflate_takeover_refused_total.get()), 2);
        net.cut(clients[0]);
        net.settle();
        let client = net.connect_to(0, "/ws", JSON);
        net.clients[client].offer(Offer::default());
        net.until("it opens", |net| net.clients[client].is_open());
        let agreed = net.clients[client].codec.as_ref().unwrap().agreed;
        assert!(!agreed.server_no_context_takeover);
        net.end();
    });
}

#[test]
fn a_reload_holds_for_what_is_agreed_on_from_then_on() {
    for_each_seed("worker::tests::deflate::a_reload", 5, |seed| {
        let mut config = Config::default();
        config.server.demo = true;
        config.limits.messages_per_second = 0;
        let mut net = Net::new(seed, |own| *own = config.clone());
        let open = |net: &mut Net, core| {
            let client = net.connect_to(core, "/echo", JSON);
            net.clients[client].offer(Offer::default());
            net.until("it opens", |net| net.clients[client].is_open());
            client
        };
        let reload = |net: &mut Net, config: &Config| {
            for worker in &mut net.workers {
                worker.reload(Arc::new(config.clone()));
            }
        };
        let client = open(&mut net, 0);
        let text = "one of many ".repeat(200);
        let echo = |net: &mut Net| {
            let before = net.clients[client].codec.as_ref().unwrap().received;
            net.clients[client].send_compressed(OpCode::Text, text.as_bytes(), 1000);
            net.settle();
            assert_eq!(net.clients[client].texts.last(), Some(&text));
            net.clients[client].codec.as_ref().unwrap().received - before
        };
        assert_eq!(echo(&mut net), 1);
        config.deflate.message_bytes_min = ByteSize(text.len() + 1);
        reload(&mut net, &config);
        assert_eq!(echo(&mut net), 0, "the threshold holds at once");
        config.deflate = crate::config::Deflate {
            enabled: false,
            // After a restart.
            window_bits: 9,
            level: 1,
            ..crate::config::Deflate::default()
        };
        reload(&mut net, &config);
        assert_eq!(echo(&mut net), 1, "what was agreed on stays");
        let other = open(&mut net, 0);
        assert!(net.clients[other].codec.is_none(), "nothing new is");
        config.deflate.enabled = true;
        config.deflate.client_context_takeover = true;
        reload(&mut net, &config);
        let third = open(&mut net, 0);
        let agreed = net.clients[third].codec.as_ref().unwrap().agreed;
        assert!(!agreed.client_no_context_takeover);
        assert_eq!(echo(&mut net), 1);
        net.end();
    });
}

#[test]
fn compression_is_what_gives_way() {
    for_each_seed("worker::tests::deflate::compression_is", 5, |seed| {
        let mut net = Net::new(seed, |config| {
            config.server.demo = true;
            config.limits.message_bytes_max = ByteSize(1 << 20);
        });
        let client = net.connect("/echo", JSON);
        net.clients[client].offer(Offer::default());
        net.until_open();
        let fits = "z".repeat(TURN_DEFLATE_BYTES_MAX);
        let long = "z".repeat(TURN_DEFLATE_BYTES_MAX + 1);
        for text in [&fits, &long] {
            net.clients[client].send_compressed(OpCode::Text, text.as_bytes(), 1 << 20);
            net.settle();
        }
        assert_eq!(net.clients[client].texts, [fits, long]);
        assert_eq!(net.clients[client].codec.as_ref().unwrap().received, 1);
        assert_eq!(net.total(|c| c.deflate_gave_way_total.get()), 1);
        net.end();
    });
}
