//! The gateway's answers as JSON messages (protocol §4).

use crate::{
    base::ids::ClientId,
    hub::wire::{DirectMessage, MemberList, Reply},
    proto::envelope::{CommandError, json::Object},
};

/// What `connected` tells beside the client's name.
#[derive(Clone, Debug)]
pub struct Hello {
    /// The node's name.
    pub node: String,
    /// After how much silence a client is pinged, in milliseconds.
    pub ping_interval_ms: u64,
    /// How long it may take to answer, in milliseconds.
    pub pong_timeout_ms: u64,
    /// Longest message from the client, in bytes.
    pub message_bytes_max: u64,
    /// Rooms that the client may be in.
    pub rooms_max: u64,
    /// Messages that it may send each second; 0 is no limit.
    pub messages_per_second: u64,
}

/// Writes `connected`, always a client's first message.
pub fn connected(out: &mut Vec<u8>, hello: &Hello, client: ClientId, user: Option<&str>, ts: u64) {
    let mut heartbeat = Vec::new();
    open(&mut heartbeat, "interval_ms", hello.ping_interval_ms);
    next(&mut heartbeat, "timeout_ms", hello.pong_timeout_ms);
    heartbeat.push(b'}');
    let mut limits = Vec::new();
    open(&mut limits, "message_bytes_max", hello.message_bytes_max);
    next(&mut limits, "rooms_max", hello.rooms_max);
    if hello.messages_per_second > 0 {
        next(
            &mut limits,
            "messages_per_second",
            hello.messages_per_second,
        );
    }
    limits.push(b'}');
    Object::new(out, "connected")
        .string("client", &client.to_string())
        .boolean("resumed", false)
        .optional("user", user)
        .string("node", &hello.node)
        .raw("heartbeat", &heartbeat)
        .raw("limits", &limits)
        .number("ts", ts)
        .end();
}

/// Writes `reconnect`: a planned close follows, and the client is to wait that long before it
/// connects again.
pub fn reconnect(out: &mut Vec<u8>, after_ms: u64, reason: &str) {
    Object::new(out, "reconnect")
        .number("after_ms", after_ms)
        .string("reason", reason)
        .end();
}

/// Writes an application ping, for a client that asked for them.
pub fn ping(out: &mut Vec<u8>, ts: u64) {
    Object::new(out, "ping").number("ts", ts).end();
}

fn open(out: &mut Vec<u8>, name: &str, value: u64) {
    out.extend_from_slice(format!("{{\"{name}\":{value}").as_bytes());
}

fn next(out: &mut Vec<u8>, name: &str, value: u64) {
    out.extend_from_slice(format!(",\"{name}\":{value}").as_bytes());
}

/// Writes the answer to a command. Nothing if it succeeded and its client gave no `id`.
pub fn reply(out: &mut Vec<u8>, id: Option<&str>, reply: &Reply) {
    match reply {
        Reply::Error(error) | Reply::JoinRefused(error) => self::error(out, id, error),
        _ if id.is_none() => {}
        Reply::Joined(joined) => {
            let object = Object::new(out, "ok")
                .optional("id", id)
                .string("epoch", &joined.epoch)
                .number("seq", joined.seq)
                .number("members", joined.members.into())
                .boolean("recovered", joined.recovered)
                .number("missed", 0)
                .boolean("gap_free", joined.gap_free);
            match &joined.users {
                Some(users) => list(object, "users", users).end(),
                None => object.end(),
            }
        }
        Reply::Left => Object::new(out, "ok").optional("id", id).end(),
        Reply::Published { seq, epoch } => {
            let object = Object::new(out, "ok").optional("id", id);
            match seq {
                Some(seq) => object.number("seq", *seq).string("epoch", epoch).end(),
                None => object.end(),
            }
        }
        Reply::Info(info) => {
            Object::new(out, "ok")
                .optional("id", id)
                .number("members", info.members.into())
                .number("users", info.users.into())
                .number("seq", info.seq)
                .string("epoch", &info.epoch)
                .end();
        }
        Reply::Presence(presence) => {
            let object = Object::new(out, "ok").optional("id", id);
            list(object, "members", &presence.members)
                .number("count", presence.count.into())
                .number("users", presence.users.into())
                .end();
        }
        Reply::Queued(queued) => {
            Object::new(out, "ok")
                .optional("id", id)
                .number("queued", (*queued).into())
                .end();
        }
    }
}

fn list<'a>(object: Object<'a>, name: &'static str, members: &MemberList) -> Object<'a> {
    let object = object.raw(name, &members.json);
    if members.truncated {
        object.boolean("truncated", true)
    } else {
        object
    }
}

/// Writes an `error`.
pub fn error(out: &mut Vec<u8>, id: Option<&str>, error: &CommandError) {
    let object = Object::new(out, "error")
        .optional("id", id)
        .string("code", error.code.as_str())
        .string("message", &error.message);
    match error.retry_after_ms {
        Some(after) => object.number("retry_after_ms", after).end(),
        None => object.end(),
    }
}

/// Writes a direct message, the session's `n`th.
pub fn direct(out: &mut Vec<u8>, n: u64, message: &DirectMessage) {
    Object::new(out, "direct")
        .number("n", n)
        .identity("from", message.from, message.user.as_deref())
        .optional("mid", message.mid.as_deref())
        .number("ts", message.ts)
        .raw("data", &message.data)
        .end();
}
