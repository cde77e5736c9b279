//! What a room's options do to real clients: members that stop reading and go on later, bursts
//! that a board puts together, and who may publish.

mod common;

use std::collections::BTreeMap;

use common::{Server, client::Client, raw::stopped_reader};
use futures_util::future::join_all;
use serde_json::{Value, json};

const FAST: usize = 5;
const PAYLOAD_BYTES: usize = 16 * 1024;
/// What the kernel may hold for one connection, on both sides, is a few MiB; this is far more.
const MESSAGES_MAX: u64 = 2000;
const KEYS: u64 = 5;

/// A gateway on so many cores, none of whose limits but the queues' are in the way.
fn server(cores: usize, args: &[&str]) -> Server {
    let cores = common::cores(cores);
    let mut all = vec![
        "--cores",
        &cores,
        "--set",
        "limits.messages_per_second=0",
        "--set",
        "limits.bytes_per_second=0B",
        "--set",
        "limits.buffered_bytes_high=256KiB",
        "--set",
        "limits.buffered_bytes_low=64KiB",
        "--set",
        "limits.buffered_time_max=600s",
        "--set",
        "limits.ping_interval=600s",
    ];
    all.extend_from_slice(args);
    Server::quiet(&all)
}

/// What a member saw of a room, from its join at place 0.
#[derive(Debug, Default)]
struct View {
    place: u64,
    gaps: u64,
    dropped: u64,
    /// The newest place seen of each key.
    newest: BTreeMap<String, u64>,
    /// Places that came as messages.
    seen: Vec<u64>,
}

impl View {
    fn take(&mut self, item: &Value) {
        match item["type"].as_str() {
            Some("message") => {
                let seq = item["seq"].as_u64().expect("it has a place");
                assert_eq!(seq, self.place + 1, "lost untold, or doubled: {item}");
                self.place = seq;
                self.seen.push(seq);
                if let Some(key) = item["key"].as_str() {
                    self.newest.insert(key.to_owned(), seq);
                }
            }
            Some("gap") => {
                let dropped = item["dropped"].as_u64().expect("a number");
                assert!(dropped > 0, "{item}");
                self.gaps += 1;
                self.dropped += dropped;
                self.place += dropped;
                assert_eq!(item["next_seq"], self.place + 1, "{item}");
            }
            other => panic!("unexpected: {other:?}: {item}"),
        }
    }
}

async fn say(talker: &mut Client, room: &str, n: u64, payload: &str) {
    let key = format!("k{}", n % KEYS);
    let ok = talker
        .ok(json!({"type": "publish", "room": room, "data": payload, "key": key, "echo": false}))
        .await;
    assert_eq!(ok.seq(), n);
}

/// Every client receives this message next, and nothing else.
async fn all_receive(clients: &mut [Client], seq: u64) {
    let each = clients.iter_mut().map(|client| async move {
        assert_eq!(client.expect("message").await.seq(), seq);
    });
    join_all(each).await;
}

/// A member of a room with this policy stops reading until `counter` says that `wanted` were
/// dropped, while others read along; then it reads to the end. What it saw, and the last place.
async fn stop_and_go(cores: usize, policy: &str, counter: &str, wanted: u64) -> (View, u64) {
    let room = "stream";
    let setting = format!("rooms.slow_client={policy}");
    let server = server(cores, &["--set", &setting]);
    let mut fast = Vec::new();
    for n in 0..FAST {
        let mut client = Client::connect(&server, &format!("user-{n}")).await;
        let ok = client.join(room).await;
        assert_eq!(ok["gap_free"], policy != "conflate");
        fast.push(client);
    }
    let mut stopped = stopped_reader(server.addr, room);
    let mut talker = Client::connect(&server, "talker").await;
    talker.join(room).await;
    let payload = "x".repeat(PAYLOAD_BYTES);
    let mut sent = 0;
    // The others have each message before the next one goes out, so none of them is ever behind.
    while server.counters().total(counter) < wanted {
        assert!(sent < MESSAGES_MAX, "nothing was dropped: {sent} messages");
        for _ in 0..4 {
            sent += 1;
            say(&mut talker, room, sent, &payload).await;
            all_receive(&mut fast, sent).await;
        }
    }
    talker
        .ok(json!({"type": "publish", "room": room, "data": 0, "ephemeral": true, "echo": false}))
        .await;
    for client in &mut fast {
        assert!(client.expect("message").await["seq"].is_null());
    }
    assert_eq!(server.counters().total("dropped_ephemeral_total"), 1);

    // It reads again: what waits, and then what follows.
    let before = sent;
    let reader = tokio::task::spawn_blocking(move || {
        let mut view = View::default();
        while view.place < before {
            let item: Value = serde_json::from_str(&stopped.expect_text()).expect("JSON");
            view.take(&item);
        }
        (stopped, view)
    });
    let (mut stopped, mut view) = reader.await.expect("the slow reader reads on");
    sent += 1;
    say(&mut talker, room, sent, &payload).await;
    all_receive(&mut fast, sent).await;
    let reader = tokio::task::spawn_blocking(move || {
        let item: Value = serde_json::from_str(&stopped.expect_text()).expect("JSON");
        (stopped, item)
    });
    let (stopped, next) = reader.await.expect("the slow reader reads on");
    assert_eq!(next["type"], "message", "it has caught up: {next}");
    view.take(&next);

    let counters = server.counters();
    assert_eq!(counters.total("evicted_slow_total"), 0);
    assert_eq!(counters.total("gaps_total"), view.gaps);
    let dropped: u64 = [
        "dropped_oldest_total",
        "dropped_newest_total",
        "conflated_total",
    ]
    .iter()
    .map(|name| counters.total(name))
    .sum();
    assert_eq!(dropped, view.dropped, "{counters:?}");
    drop((stopped, talker, fast));
    server
        .wait("every gauge at zero", common::Counters::is_idle)
        .await;
    (view, sent)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn drop_oldest_gives_a_slow_reader_the_newest() {
    for cores in [1, 2] {
        let (view, last) = stop_and_go(cores, "drop_oldest", "dropped_oldest_total", 20).await;
        assert_eq!(view.gaps, 1, "all that was dropped lay together");
        let tail: Vec<u64> = (last - 4..=last).collect();
        assert!(view.seen.ends_with(&tail), "{:?}", view.seen);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn drop_newest_gives_a_slow_reader_the_oldest() {
    for cores in [1, 2] {
        let (view, last) = stop_and_go(cores, "drop_newest", "dropped_newest_total", 20).await;
        assert_eq!(view.gaps, 1, "all that was dropped lay together");
        // Everything up to the gap, and then what came once it had caught up.
        let kept = last - 1 - view.dropped;
        let wanted: Vec<u64> = (1..=kept).chain([last]).collect();
        assert_eq!(view.seen, wanted);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn conflate_gives_a_slow_reader_the_newest_of_each_key() {
    for cores in [1, 2] {
        let (view, last) = stop_and_go(cores, "conflate", "conflated_total", 40).await;
        for n in 0..KEYS {
            let newest = (1..=last).rev().find(|seq| seq % KEYS == n);
            assert_eq!(view.newest.get(&format!("k{n}")).copied(), newest);
        }
    }
}

#[tokio::test]
async fn a_board_puts_a_burst_into_one_frame() {
    for cores in [1, 2] {
        let server = server(
            cores,
            &["--set", r#"rooms.match=[{name="board*", coalesce_ms=500}]"#],
        );
        let mut publisher = Client::connect(&server, "publisher").await;
        let mut member = Client::connect(&server, "member").await;
        let ok = member.join("board:1").await;
        assert_eq!(ok["gap_free"], false);
        publisher.join("board:1").await;
        let burst: Vec<Value> = (1..=21)
            .map(|n| {
                let key = format!("k{}", n % 4);
                json!({"type": "publish", "room": "board:1", "data": n, "key": key,
                       "echo": false, "id": format!("b{n}")})
            })
            .collect();
        publisher.send(Value::from(burst)).await;
        for n in 1..=21 {
            let ok = publisher.answer(&format!("b{n}")).await;
            assert_eq!(ok.seq(), n, "the number is there at once");
        }
        let late = Client::connect(&server, "late").await;
        for client in [&mut publisher, &mut member] {
            let first = client.expect("message").await;
            assert_eq!((first.seq(), first.data()), (1, "1"));
            let batch = client.next().await;
            let items = batch.as_array().expect("one frame for the rest");
            let mut view = View {
                place: 1,
                ..View::default()
            };
            for item in items {
                view.take(item);
            }
            assert_eq!((view.place, view.dropped), (21, 16));
            assert_eq!(view.seen, [18, 19, 20, 21], "the newest of each key");
            client.assert_quiet().await;
        }
        let counters = server.counters();
        assert_eq!(counters.total("coalesced_total"), 16);
        assert_eq!(counters.total("coalesce_flushes_early_total"), 0);
        drop((publisher, member, late));
        server
            .wait("every gauge at zero", common::Counters::is_idle)
            .await;
    }
}

#[tokio::test]
async fn publish_by_and_a_room_s_own_length_hold() {
    for cores in [1, 2] {
        let server = server(
            cores,
            &[
                "--set",
                r#"rooms.match=[{name="wall:*", publish_by="anyone", message_bytes_max="10B"}, {name="news:*", publish_by="backend"}]"#,
            ],
        );
        let mut outsider = Client::connect(&server, "outsider").await;
        let mut member = Client::connect(&server, "member").await;
        // Several names, so that some have their home on either core.
        for n in 0..6 {
            let wall = format!("wall:{n}");
            let publish = |data: &str| json!({"type": "publish", "room": wall, "data": data});
            let ok = outsider.ok(publish("nobody")).await;
            assert!(ok["seq"].is_null(), "nobody is there: {}", ok.text);
            member.join(&wall).await;
            assert_eq!(outsider.ok(publish("8 bytes!")).await.seq(), 1);
            let message = member.expect("message").await;
            assert_eq!(message["from"]["user"], "outsider");
            outsider.fails(publish("9 bytes !"), "TOO_LARGE").await;
            member.fails(publish("9 bytes !"), "TOO_LARGE").await;

            let news = json!({"type": "publish", "room": format!("news:{n}"), "data": 1});
            outsider.fails(news.clone(), "FORBIDDEN").await;
            member.join(&format!("news:{n}")).await;
            member.fails(news, "FORBIDDEN").await;

            let other = json!({"type": "publish", "room": format!("other:{n}"), "data": 1});
            outsider.fails(other, "NOT_JOINED").await;
        }
        let reserved = json!({"type": "publish", "room": "@other", "data": 1});
        outsider.fails(reserved, "NOT_JOINED").await;
        member.assert_quiet().await;
        outsider.assert_quiet().await;
    }
}
