//! Rooms that drop: whoever reads when it likes, on however many cores, knows of every place.

use std::{
    cell::Cell,
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use serde_json::{Value, json};

use super::net::{JSON, Net, RAW};
use crate::{
    config::{ByteSize, Config},
    engine::sim::replay::for_each_seed,
};

const ROOMS: [&str; 4] = ["oldest", "newest", "conflate", "board"];

const HIGH: usize = 64 * 1024;

const OPTIONS: &str = r#"
    [[rooms.match]]
    name = "oldest"
    slow_client = "drop_oldest"
    [[rooms.match]]
    name = "newest"
    slow_client = "drop_newest"
    [[rooms.match]]
    name = "conflate"
    slow_client = "conflate"
    [[rooms.match]]
    name = "board"
    slow_client = "drop_oldest"
    coalesce_ms = 40
"#;

fn options(config: &mut Config) {
    let read = Config::load(Some(("options", OPTIONS)), &[]).unwrap();
    config.rooms.matches = read.rooms.matches;
    config.limits.buffered_bytes_high = ByteSize(HIGH);
    config.limits.buffered_bytes_low = ByteSize(16 * 1024);
}

/// One client and what it asked for.
struct Reader {
    client: usize,
    /// By id: what was asked, and of which room.
    asked: BTreeMap<String, (&'static str, &'static str)>,
    joined: BTreeSet<&'static str>,
}

impl Reader {
    fn ask(&mut self, net: &mut Net, kind: &'static str, room: &'static str) {
        let id = net.clients[self.client].command(json!({"type": kind, "room": room}));
        self.asked.insert(id, (kind, room));
    }

    fn publish(&mut self, net: &mut Net, room: &'static str) {
        let key = ["a", "b", "c"][net.rng.below(3) as usize];
        let pad = "x".repeat(net.rng.below(4000) as usize);
        let mut command = json!({"type": "publish", "room": room, "data": pad});
        match net.rng.below(10) {
            0 => command["ephemeral"] = json!(true),
            1 => {}
            _ => command["key"] = json!(key),
        }
        let is_placed = command.get("ephemeral").is_none();
        let kind = if is_placed { "publish" } else { "ephemeral" };
        let id = net.clients[self.client].command(command);
        self.asked.insert(id, (kind, room));
    }

    /// Walks through all that came. Where it stands in each room that it is in, and how many gaps
    /// it was told of.
    fn check(&self, net: &Net) -> (BTreeMap<&'static str, u64>, u64) {
        let mut last: BTreeMap<&'static str, u64> = BTreeMap::new();
        let mut gaps = 0;
        let items = net.clients[self.client].messages();
        let items = items.into_iter().flat_map(|message| match message {
            Value::Array(items) => items.into_iter().map(|item| (item, true)).collect(),
            item => vec![(item, false)],
        });
        for (item, is_batched) in items {
            let of_room = item["room"].as_str().unwrap_or_default();
            match item["type"].as_str().unwrap() {
                "message" => {
                    let place = last.get_mut(room_named(of_room)).expect("not a member");
                    if let Some(seq) = item["seq"].as_u64() {
                        assert_eq!(seq, *place + 1, "untold in {of_room}");
                        *place = seq;
                    }
                }
                "gap" => {
                    gaps += u64::from(!is_batched);
                    let place = last.get_mut(room_named(of_room)).expect("not a member");
                    *place += item["dropped"].as_u64().unwrap();
                    assert_eq!(item["next_seq"], *place + 1, "a wrong gap in {of_room}");
                }
                "ok" => {
                    let (kind, room) = self.asked[item["id"].as_str().unwrap()];
                    match kind {
                        "join" => {
                            assert_eq!(item["gap_free"], matches!(room, "oldest" | "newest"));
                            last.insert(room, item["seq"].as_u64().unwrap());
                        }
                        "leave" => assert!(last.remove(room).is_some()),
                        "publish" if room != "board" => {
                            assert_eq!(item["seq"], last[room], "an ok out of its place");
                        }
                        _ => {}
                    }
                }
                "connected" | "user_joined" | "user_left" => {}
                other => panic!("unexpected: {other}: {item}"),
            }
        }
        (last, gaps)
    }
}

/// The longest queue on any core is within its bound: one frame may go beyond it, and a gap of
/// each room.
fn check_queues(net: &Net) {
    for worker in &net.workers {
        let conns = &worker.core.conns;
        let keys = (0..conns.index_bound()).filter_map(|index| conns.key_at(index));
        for conn in keys.filter_map(|key| conns.get(key)) {
            let buffered = conn.outbound.buffered_bytes();
            assert!(buffered <= HIGH + 32 * 1024, "{buffered} bytes wait");
        }
    }
}

fn room_named(name: &str) -> &'static str {
    ROOMS.into_iter().find(|room| *room == name).unwrap()
}

#[test]
fn who_reads_when_it_likes_knows_of_every_place() {
    let told = Cell::new(0);
    let tally = Cell::new([0; 5]);
    let all = for_each_seed("worker::tests::policies::who_reads", 50, |seed| {
        let mut net = Net::new(seed, options);
        let mut readers: Vec<Reader> = (0..3 + net.rng.below(4))
            .map(|_| Reader {
                client: net.connect("/ws", JSON),
                asked: BTreeMap::new(),
                joined: BTreeSet::new(),
            })
            .collect();
        // One stays everywhere and always reads.
        for room in ROOMS {
            readers[0].ask(&mut net, "join", room);
        }
        let raw: Vec<(usize, &str)> = ROOMS
            .into_iter()
            .map(|room| (net.connect(&format!("/ws/{room}"), RAW), room))
            .collect();
        net.settle();
        for _ in 0..700 {
            let who = net.rng.below(readers.len() as u64) as usize;
            let room = ROOMS[net.rng.below(4) as usize];
            match net.rng.below(20) {
                0..12 if readers[0].client == who => {
                    readers[0].publish(&mut net, room);
                }
                0..3 if who > 0 => {
                    let kind = if readers[who].joined.remove(room) {
                        "leave"
                    } else {
                        readers[who].joined.insert(room);
                        "join"
                    };
                    readers[who].ask(&mut net, kind, room);
                }
                3..6 if readers[who].joined.contains(room) => {
                    readers[who].publish(&mut net, room);
                }
                6 => net.clients[readers[who].client].reads ^= who > 0,
                7 => {
                    let (client, _) = raw[net.rng.below(4) as usize];
                    net.clients[client].reads ^= true;
                }
                _ => {}
            }
            for _ in 0..net.rng.below(8) {
                net.step();
            }
            check_queues(&net);
        }
        let clients: Vec<usize> = readers.iter().map(|reader| reader.client).collect();
        for client in clients
            .into_iter()
            .chain(raw.iter().map(|(client, _)| *client))
        {
            net.clients[client].reads = true;
        }
        net.settle();
        assert_eq!(net.total(|c| c.evicted_slow_total.get()), 0);
        let ids = ROOMS.map(|room| {
            net.clients[readers[0].client].command(json!({"type": "room_info", "room": room}))
        });
        net.settle();
        let mut heads: BTreeMap<&str, u64> = BTreeMap::new();
        for (id, room) in ids.into_iter().zip(ROOMS) {
            let answer = net.clients[readers[0].client].answer(&id).unwrap();
            heads.insert(room, answer["seq"].as_u64().unwrap());
            readers[0].asked.insert(id, ("room_info", room));
        }
        let mut gaps = 0;
        for reader in &readers {
            let (last, told) = reader.check(&net);
            gaps += told;
            for (room, place) in last {
                assert_eq!(place, heads[room], "the end of {room} is missing");
            }
        }
        assert_eq!(net.total(|c| c.gaps_total.get()), gaps);
        told.set(told.get() + gaps);
        let [a, b, c, d, e] = tally.get();
        tally.set([
            a + net.total(|c| c.dropped_oldest_total.get()),
            b + net.total(|c| c.dropped_newest_total.get()),
            c + net.total(|c| c.conflated_total.get()),
            d + net.total(|c| c.coalesced_total.get()),
            e + net.total(|c| c.dropped_ephemeral_total.get()),
        ]);
        net.end();
    });
    assert!(!all || told.get() > 0, "nobody was ever behind");
    assert!(!all || tally.get().iter().all(|n| *n > 0), "{tally:?}");
}

#[test]
fn who_does_not_read_stays_and_nobody_else_loses_anything() {
    for_each_seed("worker::tests::policies::who_does_not_read", 40, |seed| {
        let mut net = Net::new(seed, options);
        let room = ROOMS[net.rng.below(3) as usize];
        let mut readers: Vec<Reader> = (0..4)
            .map(|_| Reader {
                client: net.connect("/ws", JSON),
                asked: BTreeMap::new(),
                joined: BTreeSet::new(),
            })
            .collect();
        for reader in &mut readers {
            reader.ask(&mut net, "join", room);
        }
        net.settle();
        net.clients[readers[0].client].reads = false;
        for _ in 0..150 {
            let fast: Vec<(usize, usize)> = readers[1..]
                .iter()
                .map(|reader| (reader.client, net.clients[reader.client].texts.len()))
                .collect();
            readers[1].publish(&mut net, room);
            // None of them is behind when the next one goes out. The publisher is answered too.
            net.until("all have it", |net| {
                let has = |(n, (client, before)): (usize, &(usize, usize))| {
                    net.clients[*client].texts.len() == before + 1 + usize::from(n == 0)
                };
                fast.iter().enumerate().all(has)
            });
        }
        net.settle();
        for reader in &readers[1..] {
            let (_, gaps) = reader.check(&net);
            assert_eq!(gaps, 0, "a fast reader lost something in {room}");
        }
        net.clients[readers[0].client].reads = true;
        net.settle();
        let (last, gaps) = readers[0].check(&net);
        assert_eq!(last[room], readers[1].check(&net).0[room]);
        assert!(gaps > 0 && net.clients[readers[0].client].is_open());
        net.end();
    });
}

#[test]
fn its_own_answers_stall_a_client_that_a_room_keeps_busy() {
    for_each_seed("worker::tests::policies::its_own_answers", 30, |seed| {
        let mut net = Net::new(seed, options);
        let room = ROOMS[net.rng.below(3) as usize];
        let mut readers: Vec<Reader> = (0..2)
            .map(|_| Reader {
                client: net.connect("/ws", JSON),
                asked: BTreeMap::new(),
                joined: BTreeSet::new(),
            })
            .collect();
        for reader in &mut readers {
            reader.ask(&mut net, "join", room);
        }
        net.settle();
        let slow = readers[0].client;
        net.clients[slow].reads = false;
        let echoed = "x".repeat(2000);
        for _ in 0..100 {
            let id = net.clients[slow].command(json!({"type": "echo", "data": echoed}));
            readers[0].asked.insert(id, ("echo", room));
            readers[1].publish(&mut net, room);
            for _ in 0..net.rng.below(4) {
                net.round();
            }
            check_queues(&net);
        }
        net.settle();
        check_queues(&net);
        assert!(net.total(|c| c.stalls_total.get()) > 0);
        assert_eq!(net.total(|c| c.evicted_slow_total.get()), 0);
        // It goes on reading while the room goes on, and is heard again.
        net.clients[slow].reads = true;
        for _ in 0..50 {
            readers[1].publish(&mut net, room);
            net.round();
        }
        net.settle();
        let place = readers[0].check(&net).0[room];
        assert_eq!(place, readers[1].check(&net).0[room]);
        for id in readers[0].asked.keys() {
            assert!(net.clients[slow].answer(id).is_some(), "{id} is unanswered");
        }
        net.end();
    });
}

#[test]
fn a_policy_changes_under_its_members() {
    for_each_seed("worker::tests::policies::a_policy_changes", 20, |seed| {
        let mut net = Net::new(seed, |config| {
            options(config);
            config.rooms.matches.clear();
        });
        let room = ROOMS[0];
        let mut readers: Vec<Reader> = (0..2)
            .map(|_| Reader {
                client: net.connect("/ws", JSON),
                asked: BTreeMap::new(),
                joined: BTreeSet::new(),
            })
            .collect();
        for reader in &mut readers {
            reader.ask(&mut net, "join", room);
        }
        net.settle();
        let mut config = Config::default();
        options(&mut config);
        let config = Arc::new(config);
        for worker in &mut net.workers {
            worker.reload(Arc::clone(&config));
        }
        net.clients[readers[0].client].reads = false;
        for _ in 0..120 {
            readers[1].publish(&mut net, room);
            net.round();
        }
        net.settle();
        assert_eq!(net.total(|c| c.evicted_slow_total.get()), 0);
        net.clients[readers[0].client].reads = true;
        net.settle();
        assert!(readers[0].check(&net).1 > 0, "nothing was dropped");
        net.end();
    });
}

#[test]
fn a_board_says_at_most_one_thing_an_interval() {
    for_each_seed("worker::tests::policies::a_board", 30, |seed| {
        let mut net = Net::new(seed, options);
        let mut readers: Vec<Reader> = (0..3)
            .map(|_| Reader {
                client: net.connect("/ws", JSON),
                asked: BTreeMap::new(),
                joined: BTreeSet::new(),
            })
            .collect();
        for reader in &mut readers {
            reader.ask(&mut net, "join", "board");
        }
        net.settle();
        let count = |net: &Net, client: usize| {
            let texts = &net.clients[client].texts;
            let is_of_room =
                |text: &&String| text.starts_with('[') || text.starts_with("{\"type\":\"message\"");
            texts.iter().filter(is_of_room).count()
        };
        let begin = net.now_ms;
        for _ in 0..200 {
            readers[0].publish(&mut net, "board");
            net.round();
        }
        net.settle();
        let intervals = (net.now_ms - begin) as usize / 40;
        for reader in &readers {
            assert!(count(&net, reader.client) <= 2 + intervals);
            reader.check(&net);
        }
        assert!(net.total(|c| c.coalesced_total.get()) > 0);
        net.end();
    });
}
