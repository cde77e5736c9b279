//! Attacks through what clients may say: names chosen to collide, JSON made to hurt, rooms that come and go,
//! publishing to those who do not read. docs/THREATS.md has the measured figures.

mod common;

use std::{
    collections::HashMap,
    fmt::Write,
    hash::{DefaultHasher, Hasher},
    time::Duration,
};

use common::{
    Server,
    attack::{Siege, client, close_code, command, text},
    cores,
    raw::{Raw, stopped_reader},
};
use serde_json::{Value, json};

const MIB: u64 = 1024 * 1024;
/// Names of one kind.
const NAMES: usize = 2048;
/// Commands in one batch.
const BATCH: usize = 256;

/// Sends commands in batches and reads an answer for each.
fn in_batches(raw: &mut Raw, commands: &[String]) {
    for batch in commands.chunks(BATCH) {
        command(raw, &format!("[{}]", batch.join(",")));
        for _ in batch {
            let answer = text(raw);
            assert!(answer.contains("\"ok\""), "{answer}");
        }
    }
}

/// Names that all have the same hash where each byte is added to 31 times what was before (Java, Go's
/// older maps, many scripts): "Aa" and "BB" do, and so do all rows of them.
fn colliding_by_31() -> Vec<String> {
    (0..NAMES)
        .map(|n| {
            let pairs = NAMES.ilog2();
            (0..pairs)
                .map(|bit| if n >> bit & 1 == 0 { "Aa" } else { "BB" })
                .collect()
        })
        .collect()
}

/// Names that fall into the same place of a table of 2048 where `hash` is used without a key of one's own.
fn colliding_by(kind: &str, hash: impl Fn(&str) -> u64) -> Vec<String> {
    let mut name = String::new();
    (0u64..)
        .filter_map(|n| {
            name.clear();
            write!(name, "{kind}-{n}").expect("text can be written");
            (hash(&name) % NAMES as u64 == 7).then(|| name.clone())
        })
        .take(NAMES)
        .collect()
}

fn any_names(round: usize) -> Vec<String> {
    (0..NAMES).map(|n| format!("any-{round}-{n}")).collect()
}

/// Processor time for joining and leaving all of `names`.
fn cost_of(server: &Server, raw: &mut Raw, names: &[String]) -> Duration {
    let all = |kind: &str| -> Vec<String> {
        let command = |name| json!({"type": kind, "room": name, "id": "x"}).to_string();
        names.iter().map(command).collect()
    };
    let (joins, leaves) = (all("join"), all("leave"));
    let before = server.cpu_time();
    in_batches(raw, &joins);
    in_batches(raw, &leaves);
    server.cpu_time() - before
}

/// What a client chooses is hashed with a key that it does not know.
#[test]
fn names_that_collide_elsewhere_cost_what_any_do() {
    let fixed = ahash::RandomState::with_seeds(0, 0, 0, 0);
    let kinds = HashMap::from([
        ("31", colliding_by_31()),
        (
            "SipHash without a key",
            colliding_by("sip", |name| {
                let mut hasher = DefaultHasher::new();
                hasher.write(name.as_bytes());
                hasher.finish()
            }),
        ),
        (
            "ahash without a key",
            colliding_by("ahash", |name| fixed.hash_one(name)),
        ),
    ]);
    let core = cores(1);
    let rooms = format!("limits.rooms_per_client={NAMES}");
    let server = Server::quiet(&["--cores", &core, "--set", &rooms]);
    let mut raw = client(server.addr);
    // What the first makes is there for all others.
    cost_of(&server, &mut raw, &any_names(0));
    let mut any = Duration::MAX;
    let mut chosen: HashMap<&str, Duration> = HashMap::new();
    for round in 1..4 {
        any = any.min(cost_of(&server, &mut raw, &any_names(round)));
        for (kind, names) in &kinds {
            let cost = cost_of(&server, &mut raw, names);
            let least = chosen.entry(kind).or_insert(cost);
            *least = cost.min(*least);
        }
    }
    eprintln!("{NAMES} rooms joined and left: any names {any:?}, names that collide by {chosen:?}");
    for (kind, cost) in chosen {
        assert!(cost < any * 3, "{kind}: {cost:?}, and any others {any:?}");
    }
    server.wait_blocking("they are gone", |now| now.total("rooms_open") == 0);
}

/// A text of this length: `before`, `unit` as often as it fits, `after`.
fn filled(before: &str, unit: &str, after: &str) -> String {
    let times = (BYTES - before.len() - after.len()) / unit.len();
    format!("{before}{}{after}", unit.repeat(times))
}

const BYTES: usize = 60_000;
/// Far above what any of it takes in a build that was not optimised.
const NANOS_PER_BYTE_MAX: f64 = 2000.0;

/// Each is answered, none harms anyone, none costs more than its bytes.
#[test]
fn json_made_to_hurt_is_answered_at_the_cost_of_its_bytes() {
    let nested = |open: &str, close: &str| {
        let depth = (BYTES - 40) / (open.len() + close.len());
        let (opened, closed) = (open.repeat(depth), close.repeat(depth));
        format!(r#"{{"type":"echo","id":"x","data":{opened}1{closed}}}"#)
    };
    let echo = r#"{"type":"echo","id":"x","data":"#;
    let cases: Vec<(&str, String, &str)> = vec![
        ("64 KiB of [", "[".repeat(64 << 10), "PARSE_ERROR"),
        (
            "arrays that never end",
            filled(echo, "[", ""),
            "PARSE_ERROR",
        ),
        (
            "objects that never end",
            filled(echo, r#"{"a":"#, ""),
            "PARSE_ERROR",
        ),
        ("deep arrays", nested("[", "]"), "ok"),
        ("deep objects", nested(r#"{"a":"#, "}"), "ok"),
        (
            "deep, in a field that is read",
            filled(r#"{"type":"echo","id":"#, "[", ""),
            "PARSE_ERROR",
        ),
        (
            "deep, in an unknown field",
            filled(r#"{"zzz":"#, r#"{"a":"#, ""),
            "PARSE_ERROR",
        ),
        ("a number of 60,000 digits", filled(echo, "9", "}"), "ok"),
        (
            "a number of 60,000 decimals",
            filled(&format!("{echo}0."), "9", "}"),
            "ok",
        ),
        (
            "an exponent of 60,000 digits",
            filled(&format!("{echo}1e"), "9", "}"),
            "ok",
        ),
        (
            "a string without an end",
            filled(&format!("{echo}\""), "x", ""),
            "PARSE_ERROR",
        ),
        (
            "zeros, escaped",
            filled(&format!("{echo}\""), "\\u0000", "\"}"),
            "ok",
        ),
        (
            "zeros, escaped, as a name",
            filled(r#"{"type":"join","id":"x","room":""#, "\\u0000", "\"}"),
            "INVALID_MESSAGE",
        ),
        (
            "lone surrogates in data",
            filled(&format!("{echo}\""), "\\ud800", "\"}"),
            "ok",
        ),
        (
            "lone surrogates as a name",
            filled(r#"{"type":"join","id":"x","room":""#, "\\ud800", "\"}"),
            "INVALID_MESSAGE",
        ),
        (
            "the same key over and over",
            filled(r#"{"type":"ping""#, r#","type":"ping""#, "}"),
            "INVALID_MESSAGE",
        ),
        (
            "the same unknown key over and over",
            filled(r#"{"type":"echo","id":"x","data":1"#, r#","a":1"#, "}"),
            "ok",
        ),
        (
            "data over and over",
            filled(r#"{"type":"echo","id":"x""#, r#","data":1"#, "}"),
            "INVALID_MESSAGE",
        ),
        (
            "a batch of numbers",
            filled("[1", ",1", "]"),
            "INVALID_MESSAGE",
        ),
        (
            "a batch of empty objects",
            filled("[{}", ",{}", "]"),
            "INVALID_MESSAGE",
        ),
        (
            "a batch of batches",
            filled("[[]", ",[]", "]"),
            "INVALID_MESSAGE",
        ),
        ("blanks", filled("", " ", ""), "PARSE_ERROR"),
        (
            "blanks around a command",
            filled("", " ", r#"{"type":"echo","id":"x","data":1}"#),
            "ok",
        ),
    ];
    let siege = Siege::begin(&["limits.bytes_per_second=0B"]);
    let mut worst = (0.0, "");
    for (what, message, expected) in &cases {
        let mut raw = client(siege.server.addr);
        let before = siege.server.cpu_time();
        const TIMES: usize = 5;
        for _ in 0..TIMES {
            command(&mut raw, message);
            // Not read as JSON: what is echoed is deeper than most parsers go.
            let answer = text(&mut raw);
            let is_expected = match *expected {
                "ok" => answer.starts_with(r#"{"type":"ok""#),
                code => answer.contains(&format!(r#""code":"{code}""#)),
            };
            assert!(is_expected, "{what}: {}", &answer[..answer.len().min(200)]);
        }
        let nanos = (siege.server.cpu_time() - before).as_nanos() as f64;
        let each = nanos / (TIMES * message.len()) as f64;
        eprintln!("  {each:7.2} ns a byte  {what}");
        if each > worst.0 {
            worst = (each, what);
        }
        // It is a client like any other still.
        command(&mut raw, r#"{"type":"ping","id":"still"}"#);
        assert!(text(&mut raw).contains("still"), "{what}");
    }
    assert!(worst.0 < NANOS_PER_BYTE_MAX, "{worst:?}");
    let toll = siege.end("JSON", cases.len());
    assert!(toll.growth() < 32 * MIB, "{} bytes", toll.growth());
}

/// A batch is a message to send and many to answer: each of its commands counts.
#[test]
fn batches_of_tiny_commands_count_as_what_they_are() {
    let siege = Siege::begin(&[]);
    let mut raw = client(siege.server.addr);
    command(
        &mut raw,
        &format!("[{}]", vec![r#"{"type":"ping"}"#; BATCH].join(",")),
    );
    assert_eq!(close_code(&mut raw), Some(4029));
    drop(raw);
    let toll = siege.end("a batch", 1);
    assert_eq!(toll.grown("rate_closed_total"), 1);
    assert_eq!(toll.grown("rate_limited_total"), 10);
}

/// Rooms come to be and go by the thousand; nothing of them stays.
#[test]
fn rooms_that_come_and_go_leave_nothing() {
    const ROUNDS: usize = 8;
    let siege = Siege::begin(&[
        "limits.messages_per_second=0",
        "limits.bytes_per_second=0B",
        "limits.rooms_per_client=1000",
    ]);
    let mut raw = client(siege.server.addr);
    let mut after_two = 0;
    for round in 0..ROUNDS {
        let all = |kind: &str| -> Vec<String> {
            (0..1000)
                .map(|n| {
                    let room = format!("{}-{round}-{n}", "room".repeat(25));
                    json!({"type": kind, "room": room, "id": "x"}).to_string()
                })
                .collect()
        };
        in_batches(&mut raw, &all("join"));
        assert_eq!(siege.server.counters().total("rooms_open"), 1001);
        command(
            &mut raw,
            r#"{"type":"join","room":"one too many","id":"x"}"#,
        );
        assert!(text(&mut raw).contains("TOO_MANY_ROOMS"));
        in_batches(&mut raw, &all("leave"));
        siege.server.wait_counter_blocking("rooms_open", 1);
        if round == 1 {
            after_two = siege.server.rss_bytes();
        }
    }
    drop(raw);
    let toll = siege.end("rooms", 1);
    let leaked = toll.rss_after.saturating_sub(after_two);
    assert!(
        leaked < 4 * MIB,
        "{leaked} bytes more than after two rounds"
    );
}

/// What one sends goes to all: its rate holds, those who do not read are evicted, all others have every
/// message, and what waits is one copy for all.
#[test]
fn publishing_to_those_who_do_not_read_costs_them_and_nobody_else() {
    const SLOW: usize = 30;
    const MESSAGES: usize = 100;
    let siege = Siege::begin(&[
        "limits.buffered_bytes_high=256KiB",
        "limits.buffered_bytes_low=64KiB",
        "limits.bytes_per_second=16MiB",
        "rooms.announce_members_max=0",
    ]);
    let slow: Vec<Raw> = (0..SLOW)
        .map(|_| stopped_reader(siege.server.addr, "loud"))
        .collect();
    let mut publisher = client(siege.server.addr);
    command(&mut publisher, r#"{"type":"join","room":"loud","id":"j"}"#);
    assert!(text(&mut publisher).contains("\"ok\""));
    let data = "x".repeat(60_000);
    for n in 1..=MESSAGES {
        let publish = json!({"type": "publish", "room": "loud", "data": data, "id": "p"});
        command(&mut publisher, &publish.to_string());
        let message: Value = serde_json::from_str(&text(&mut publisher)).expect("it is JSON");
        assert_eq!(message["seq"], n);
        assert!(text(&mut publisher).contains("\"ok\""));
    }
    // And now as fast as it can: it is told so, and then it has to go.
    let publish = json!({"type": "publish", "room": "loud", "data": 1, "echo": false}).to_string();
    for _ in 0..400 {
        publisher.try_send(&common::raw::frame(0x81, publish.as_bytes()));
    }
    assert_eq!(close_code(&mut publisher), Some(4029));
    siege.wait_grown("evicted_slow_total", SLOW as u64);
    drop((slow, publisher));
    let toll = siege.end("publishing to who does not read", SLOW + 1);
    assert_eq!(toll.grown("evicted_slow_total"), SLOW as u64);
    let each = toll.growth() / SLOW as u64;
    assert!(each < 3 * MIB, "{each} bytes for each");
}

#[test]
fn nobody_publishes_to_everyone() {
    let siege = Siege::begin(&[]);
    let mut raw = client(siege.server.addr);
    for _ in 0..100 {
        command(
            &mut raw,
            r#"{"type":"publish","room":"@all","data":1,"id":"x"}"#,
        );
        assert!(text(&mut raw).contains("FORBIDDEN"));
        command(&mut raw, r#"{"type":"join","room":"@all","id":"x"}"#);
        assert!(text(&mut raw).contains("FORBIDDEN"));
    }
    drop(raw);
    let toll = siege.end("@all", 1);
    // What was delivered is the honest client's own.
    assert_eq!(toll.grown("delivered_total"), toll.grown("published_total"));
}
