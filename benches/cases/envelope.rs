//! The client protocol as JSON: commands read, answers written.

use std::{hint::black_box, sync::Arc};

use bytes::Bytes;
use tidegate::{
    base::{ids::ClientId, slab::Key},
    handler::reply::{self, Hello},
    hub::wire::{DirectMessage, Joined, Reply},
    proto::envelope::{CommandError, ErrorCode, json},
};

use super::{Call, Case, case};

pub(super) const CASES: &[Case] = &[
    case("envelope/publish", 16, |n| {
        decode(
            n,
            r#"{"type":"publish","room":"lobby","data":{"text":"hello"}}"#,
        )
    }),
    case("envelope/publish-all-fields", 16, |n| {
        decode(
            n,
            r#"{"type":"publish","id":"42","room":"caf\u00e9","mid":"018f","key":"price:1","echo":false,"ephemeral":false,"data":[1,2,3]}"#,
        )
    }),
    case("envelope/publish-1k", 16, |n| {
        let text = "hello, world; ".repeat(72);
        decode(
            n,
            &format!(r#"{{"type":"publish","room":"lobby","data":"{text}"}}"#),
        )
    }),
    case("envelope/join", 16, |n| {
        decode(n, r#"{"type":"join","room":"lobby","id":"1"}"#)
    }),
    case("envelope/join-since", 16, |n| {
        decode(
            n,
            r#"{"type":"join","room":"lobby","id":"1","presence":true,"since":{"epoch":"38wd6se6","seq":1234},"state":{"status":"away"}}"#,
        )
    }),
    case("envelope/leave", 16, |n| {
        decode(n, r#"{"type":"leave","room":"lobby","id":"7"}"#)
    }),
    case("envelope/send", 16, |n| {
        decode(
            n,
            r#"{"type":"send","to":{"user":"bob"},"data":"psst","id":"5"}"#,
        )
    }),
    case("envelope/presence", 16, |n| {
        decode(n, r#"{"type":"presence","room":"lobby","id":"3"}"#)
    }),
    case("envelope/ping", 16, |n| decode(n, r#"{"type":"ping"}"#)),
    case("envelope/unknown", 16, |n| {
        decode(n, r#"{"type":"subscribe","room":"lobby","id":"9"}"#)
    }),
    case("envelope/batch", 16, decode_batch),
    case("envelope/write-object", 16, write_object),
    case("reply/published", 16, |n| {
        let reply = Reply::Published {
            seq: Some(1234),
            epoch: "38wd6se6".into(),
        };
        write_reply(n, reply)
    }),
    case("reply/joined", 16, |n| {
        let joined = Joined {
            home: NO_KEY,
            epoch: "38wd6se6".into(),
            seq: 1234,
            members: 17,
            recovered: false,
            gap_free: true,
            users: None,
        };
        write_reply(n, Reply::Joined(Box::new(joined)))
    }),
    case("reply/error", 16, |n| {
        let error = CommandError::new(ErrorCode::NotJoined, "join the room first");
        write_reply(n, Reply::Error(error))
    }),
    case("reply/connected", 16, write_connected),
    case("reply/direct", 16, write_direct),
];

const NO_KEY: Key = Key {
    index: 0,
    generation: 0,
};

const CLIENT: ClientId = ClientId {
    core: 1,
    session: Key {
        index: 12_345,
        generation: 678,
    },
};

fn decode(n: u32, text: &str) -> Call {
    let text = text.to_owned();
    Box::new(move || {
        for _ in 0..n {
            // An error is an answer too.
            let _ = black_box(json::decode(black_box(&text)));
        }
    })
}

/// One array of commands, taken apart and read one by one.
fn decode_batch(n: u32) -> Call {
    let command = r#"{"type":"publish","room":"lobby","data":{"text":"hello"}}"#;
    let commands = vec![command; n as usize];
    let batch = format!("[{}]", commands.join(","));
    Box::new(move || {
        let commands = json::split(black_box(&batch)).expect("the batch is right");
        for command in commands {
            black_box(json::decode(command)).expect("the command is right");
        }
    })
}

/// Each field that a `message` may have.
fn write_object(n: u32) -> Call {
    let mut out = Vec::new();
    Box::new(move || {
        out.clear();
        for _ in 0..n {
            json::Object::new(&mut out, "message")
                .string("room", black_box("lobby"))
                .number("seq", black_box(1234))
                .optional("mid", black_box(Some("018f")))
                .number("ts", black_box(1_790_000_000_000))
                .identity("from", black_box(CLIENT), black_box(Some("alice")))
                .raw("data", black_box(br#"{"text":"hello"}"#))
                .end();
        }
        black_box(&mut out);
    })
}

fn write_reply(n: u32, reply: Reply) -> Call {
    let mut out = Vec::new();
    Box::new(move || {
        out.clear();
        for _ in 0..n {
            reply::reply(&mut out, black_box(Some("42")), black_box(&reply));
        }
        black_box(&mut out);
    })
}

fn write_connected(n: u32) -> Call {
    let hello = Hello {
        node: "node-1".to_owned(),
        ping_interval_ms: 25_000,
        pong_timeout_ms: 10_000,
        message_bytes_max: 65_536,
        rooms_max: 100,
        messages_per_second: 100,
    };
    let mut out = Vec::new();
    Box::new(move || {
        out.clear();
        for _ in 0..n {
            let ts = black_box(1_790_000_000_000);
            reply::connected(&mut out, black_box(&hello), CLIENT, Some("alice"), ts);
        }
        black_box(&mut out);
    })
}

fn write_direct(n: u32) -> Call {
    let message = DirectMessage {
        from: CLIENT,
        user: Some(Arc::from("alice")),
        data: Bytes::from_static(br#""psst""#),
        mid: None,
        ts: 1_790_000_000_000,
    };
    let mut out = Vec::new();
    Box::new(move || {
        out.clear();
        for i in 0..n {
            reply::direct(&mut out, u64::from(i), black_box(&message));
        }
        black_box(&mut out);
    })
}
