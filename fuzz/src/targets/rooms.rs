//! What clients say, through sessions, handlers and the hubs of two cores: nobody's words break anything,
//! every command that asks for an answer gets one, and when all have gone nothing is left.

mod stand;

use std::collections::HashMap;

use serde::Deserialize;
use serde_json::value::RawValue;
use tidegate::config::Config;
use tidegate::proto::envelope::json;

use super::command::COMMANDS;
use super::script::Script;
use stand::{CLIENTS, Stand};

/// Each line is a step: `0` to `3` and a text that this client says, `+` and a client that comes, `-` and
/// one that goes, `*`: the rooms' timers fire. The first byte is the configuration.
pub(super) fn run(input: &[u8]) {
    let mut script = Script::new(input);
    let settings = script.pick(SETTINGS);
    let mut stand = Stand::new(config(settings));
    let mut asked = [0; CLIENTS];
    for client in 0..CLIENTS {
        stand.connect(client);
    }
    let mut steps = 0;
    while !script.is_empty() && steps < STEPS_MAX {
        steps += 1;
        let line = script.until(b'\n');
        let Some((step, rest)) = line.split_first() else {
            continue;
        };
        let client =
            usize::from(rest.first().copied().unwrap_or(b'0').wrapping_sub(b'0')) % CLIENTS;
        match step {
            b'+' => stand.connect(client),
            b'-' => {
                stand.disconnect(client);
                asked[client] = 0;
            }
            b'*' => stand.wake_rooms(),
            digit => {
                let Ok(text) = std::str::from_utf8(rest) else {
                    continue;
                };
                let client = usize::from(digit.wrapping_sub(b'0')) % CLIENTS;
                if stand.is_connected(client) {
                    asked[client] += answers_wanted(text);
                    stand.say(client, text);
                }
            }
        }
    }
    stand.wake_rooms();
    for (client, asked) in asked.into_iter().enumerate() {
        let heard = stand.heard(client);
        if stand.is_json(client) && stand.is_connected(client) {
            check(heard, asked);
        }
        stand.disconnect(client);
    }
    stand.assert_nothing_is_left();
}

/// How many commands of a message ask for an answer by an `id`.
fn answers_wanted(text: &str) -> usize {
    let Ok(commands) = json::split(text) else {
        return 0;
    };
    let asks = |command: &&str| match json::decode(command) {
        Ok(envelope) => envelope.id.is_some(),
        Err(unreadable) => unreadable.id.is_some(),
    };
    commands.filter(asks).count()
}

/// What one client heard, in order: messages, and batches of them.
fn check(heard: &[Vec<u8>], asked: usize) {
    let mut answers = 0;
    let mut places: HashMap<String, u64> = HashMap::new();
    for (n, text) in heard.iter().enumerate() {
        let text = std::str::from_utf8(text).expect("messages are text");
        for message in json::split(text).expect("messages are JSON") {
            let told: Told<'_> = serde_json::from_str(message).expect("messages are objects");
            assert_eq!(
                told.kind == "connected",
                n == 0,
                "it is the first: {told:?}"
            );
            match told.kind {
                "ok" | "error" | "pong" => answers += usize::from(told.id.is_some()),
                "message" => {
                    let room = told.room.expect("it says where").get();
                    if let Some(seq) = told.seq {
                        let last = places.entry(room.to_owned()).or_default();
                        assert!(seq > *last, "{seq} after {last}");
                        *last = seq;
                    }
                }
                "gap" => assert!(told.room.is_some()),
                "connected" | "direct" | "user_joined" | "user_left" => {}
                other => panic!("{other} is no message of the gateway's"),
            }
        }
    }
    assert_eq!(answers, asked, "each is answered once");
}

/// What is looked at of a message. What clients said themselves stays unread, for it may be what a reader
/// of JSON takes for too large or too deep.
#[derive(Debug, Deserialize)]
struct Told<'a> {
    #[serde(rename = "type")]
    kind: &'a str,
    #[serde(borrow)]
    id: Option<&'a RawValue>,
    #[serde(borrow)]
    room: Option<&'a RawValue>,
    seq: Option<u64>,
}

fn config(settings: &[&str]) -> Config {
    let mut all = vec![
        "limits.messages_per_second=0".to_owned(),
        "rooms.all_publish_by=\"anyone\"".to_owned(),
    ];
    all.extend(settings.iter().map(|setting| (*setting).to_owned()));
    Config::load(None, &all).expect("the settings are sound")
}

const SETTINGS: &[&[&str]] = &[
    &[],
    &["rooms.coalesce_ms=50", "deflate.message_bytes_min=1"],
    &["rooms.slow_client=conflate"],
    &["rooms.slow_client=drop_oldest", "limits.room_members_max=2"],
    &[
        "rooms.announce_members_max=0",
        "deflate.message_bytes_min=60",
    ],
    &["rooms.match=[{name=\"l*\", coalesce_ms=20, message_bytes_max=40}]"],
];

const STEPS_MAX: usize = 200;

pub(super) fn seeds() -> Vec<Vec<u8>> {
    let mut seeds = Vec::new();
    for at in 0..SETTINGS.len() {
        let mut lines = vec![at as u8];
        for (n, command) in COMMANDS.iter().enumerate() {
            lines.extend_from_slice(format!("{}{command}\n", n % 3).as_bytes());
            if n == 3 {
                lines.extend_from_slice(b"*\n");
            }
        }
        lines.extend_from_slice(b"3raw\n-1\n+1\n0[");
        lines.extend_from_slice(COMMANDS[..5].join(",").as_bytes());
        lines.extend_from_slice(b"]\n*\n");
        seeds.push(lines);
    }
    let join = COMMANDS[0];
    for text in [
        format!("\x001{join}\n2{join}\n1{join}\n-2\n1{}\n", COMMANDS[3]),
        format!(
            "\x000{join}\n1{join}\n0{}\n1{}\n3x\n-0\n*\n",
            COMMANDS[4], COMMANDS[6]
        ),
        format!("\x010{join}\n0{}\n0{}\n-0\n", COMMANDS[5], COMMANDS[5]),
        "\x000nonsense\n1{}\n3\u{1}\n".to_owned(),
    ] {
        seeds.push(text.into_bytes());
    }
    seeds
}
