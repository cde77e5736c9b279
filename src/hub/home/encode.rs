//! A room's messages as frames: once per encoding, whoever gets them.

use std::sync::Arc;

use bytes::{Buf, Bytes};

use super::Room;
use crate::{
    base::ids::{ClientId, Encoding},
    config,
    hub::wire::{Frames, LeaveReason, Payload},
    proto::{
        envelope::json::{self, Object},
        ws::{
            deflate::{Compression, WINDOW_BITS_MAX},
            header::{self, HEADER_BYTES_MAX, OpCode, RSV1, UNMASKED_HEADER_BYTES_MAX, push_frame},
        },
    },
    session::deflate::is_worthwhile,
};

/// What an envelope adds to its data at most: names, ids and numbers at their limits, with room
/// for escapes.
pub(super) const MESSAGE_ENVELOPE_BYTES: usize = 512;

/// A message that has its place.
#[derive(Clone, Copy, Debug)]
pub(super) struct Message<'a> {
    /// None if it is ephemeral.
    pub(super) seq: Option<u64>,
    pub(super) ts: u64,
    pub(super) client: ClientId,
    pub(super) user: Option<&'a str>,
    pub(super) payload: Payload,
    pub(super) data: &'a [u8],
    pub(super) mid: Option<&'a str>,
    pub(super) key: Option<&'a str>,
}

impl Message<'_> {
    /// The frame of this message alone for a room's JSON members.
    pub(super) fn json_frame(&self, prefix: &[u8]) -> Bytes {
        let bytes = prefix.len() + self.data.len() + MESSAGE_ENVELOPE_BYTES / 2;
        encode(OpCode::Text, bytes, |out| self.write_json(prefix, out))
    }

    /// The frame of this message alone for raw members.
    pub(super) fn raw_frame(&self) -> Bytes {
        encode(self.raw_opcode(), self.data.len(), |out| {
            out.extend_from_slice(self.data);
        })
    }

    fn write_json(&self, prefix: &[u8], out: &mut Vec<u8>) {
        out.extend_from_slice(prefix);
        let mut object = Object::resume(out);
        if let Some(seq) = self.seq {
            object = object.number("seq", seq);
        }
        object = object
            .optional("mid", self.mid)
            .number("ts", self.ts)
            .identity("from", self.client, self.user)
            .optional("key", self.key);
        let text = match self.payload {
            Payload::Json => return object.raw("data", self.data).end(),
            Payload::RawText => std::str::from_utf8(self.data).ok(),
            Payload::RawBinary => None,
        };
        match text {
            Some(text) => object.string("data", text),
            // Bytes have no JSON of their own: base64, as in a data URL.
            None => {
                use base64::{Engine, prelude::BASE64_STANDARD};
                object.string("data", &BASE64_STANDARD.encode(self.data))
            }
        }
        .end();
    }

    const fn raw_opcode(&self) -> OpCode {
        match self.payload {
            Payload::Json | Payload::RawText => OpCode::Text,
            Payload::RawBinary => OpCode::Binary,
        }
    }
}

/// One text message for all of `messages`, which follow the place `sent`: an array, with a `gap`
/// before each message that others are missing before. One to which nothing is missing stands by
/// itself.
pub(super) fn json_batch(room: &str, prefix: &[u8], sent: u64, messages: &[Message<'_>]) -> Bytes {
    if let [only] = messages
        && only.seq.is_none_or(|seq| seq == sent + 1)
    {
        return only.json_frame(prefix);
    }
    let data: usize = messages.iter().map(|message| message.data.len()).sum();
    let bytes = data + messages.len() * (prefix.len() + MESSAGE_ENVELOPE_BYTES / 2);
    encode(OpCode::Text, bytes, |out| {
        let mut next = sent + 1;
        out.push(b'[');
        for (n, message) in messages.iter().enumerate() {
            if n > 0 {
                out.push(b',');
            }
            if let Some(seq) = message.seq {
                if seq > next {
                    json::push_gap(out, room, seq - next, seq);
                    out.push(b',');
                }
                next = seq + 1;
            }
            message.write_json(prefix, out);
        }
        out.push(b']');
    })
}

/// The frames of all `messages`, one behind the other, for raw members.
pub(super) fn raw_batch(messages: &[Message<'_>]) -> Bytes {
    let bytes = |message: &Message<'_>| UNMASKED_HEADER_BYTES_MAX + message.data.len();
    let mut frames = Vec::with_capacity(messages.iter().map(bytes).sum());
    for message in messages {
        push_frame(&mut frames, message.raw_opcode(), message.data);
    }
    frames.into()
}

/// Compresses what all of a room's members get: once, and so that each message can be read without
/// those before it.
#[derive(Debug)]
pub(super) struct Deflating<'a> {
    pub(super) compression: &'a mut Compression,
    pub(super) config: &'a config::Deflate,
    /// Whether some client may take the result.
    pub(super) is_on: bool,
}

impl Deflating<'_> {
    /// Adds to `frames` what the members of `room` that take compressed frames get in place of others,
    /// where that is shorter.
    #[inline]
    pub(super) fn add(&mut self, room: &Room, frames: &mut Frames) {
        let min = self.config.message_bytes_min.0;
        let is_long = |frame: &Option<Bytes>| frame.as_ref().is_some_and(|f| f.len() >= min);
        if self.is_on && frames.by_encoding.iter().any(is_long) {
            self.add_long(room, frames);
        }
    }

    #[cold]
    fn add_long(&mut self, room: &Room, frames: &mut Frames) {
        for encoding in Encoding::ALL {
            let index = encoding.index();
            if room.wants_deflated(encoding)
                && let Some(frame) = &frames.by_encoding[index]
                && let Some(deflated) = self.compress(frame)
            {
                frames.deflated.get_or_insert_default()[index] = Some(deflated);
            }
        }
    }

    /// The unmasked frames of `frames`, those that are worth it compressed; none if no one is.
    fn compress(&mut self, frames: &[u8]) -> Option<Bytes> {
        let (first, header_len) = header::decode(frames).ok()??;
        let payload = &frames[header_len..];
        if payload.len() as u64 > first.payload_len {
            return self.compress_several(frames);
        }
        if !is_worthwhile(self.config, first.opcode, payload.len()) {
            return None;
        }
        let wire = self.compression.compress(payload, WINDOW_BITS_MAX, None)?;
        let mut header = [0; HEADER_BYTES_MAX];
        let len = header::encode(true, first.opcode, wire.len() as u64, None, &mut header);
        header[0] |= RSV1;
        Some([&header[..len], wire].concat().into())
    }

    /// As [`Deflating::compress`], for several frames in a row.
    fn compress_several(&mut self, frames: &[u8]) -> Option<Bytes> {
        let mut out = Vec::new();
        let mut is_smaller = false;
        let mut rest = frames;
        while let Ok(Some((frame, header_len))) = header::decode(rest) {
            let (whole, after) = rest.split_at_checked(header_len + frame.payload_len as usize)?;
            rest = after;
            let payload = &whole[header_len..];
            if is_worthwhile(self.config, frame.opcode, payload.len()) {
                let message = (frame.opcode, payload);
                is_smaller |=
                    self.compression
                        .push_message(&mut out, message, None, WINDOW_BITS_MAX, None);
            } else {
                out.extend_from_slice(whole);
            }
        }
        is_smaller.then(|| Bytes::from(out))
    }
}

/// `{"type":"message","room":"…"`: how all messages of a room begin.
pub(super) fn message_prefix(room: &str) -> Box<[u8]> {
    let mut prefix = Vec::new();
    prefix.extend_from_slice(b"{\"type\":\"message\",\"room\":");
    json::push_string(&mut prefix, room);
    prefix.into_boxed_slice()
}

/// `user_joined` or `user_left`.
pub(super) fn announcement(
    room: &Room,
    kind: &'static str,
    client: ClientId,
    user: &Option<Arc<str>>,
    reason: Option<LeaveReason>,
) -> Frames {
    let frame = encode(OpCode::Text, MESSAGE_ENVELOPE_BYTES, |out| {
        Object::new(out, kind)
            .string("room", &room.name)
            .optional("user", user.as_deref())
            .string("client", &client.to_string())
            .number("members", room.members.len() as u64)
            .optional("reason", reason.map(LeaveReason::as_str))
            .end();
    });
    let mut frames = Frames::default();
    frames.by_encoding[Encoding::Json.index()] = Some(frame);
    frames
}

/// Encodes one unmasked frame whose payload `write` appends: about `payload_bytes` long.
fn encode(opcode: OpCode, payload_bytes: usize, write: impl FnOnce(&mut Vec<u8>)) -> Bytes {
    // The header's length depends on the payload's: the payload is written behind the longest
    // header, and the header then right before it.
    let mut buf = Vec::with_capacity(UNMASKED_HEADER_BYTES_MAX + payload_bytes);
    buf.resize(UNMASKED_HEADER_BYTES_MAX, 0);
    write(&mut buf);
    let payload_len = (buf.len() - UNMASKED_HEADER_BYTES_MAX) as u64;
    let mut header = [0; HEADER_BYTES_MAX];
    let header_len = header::encode(true, opcode, payload_len, None, &mut header);
    let start = UNMASKED_HEADER_BYTES_MAX - header_len;
    buf[start..UNMASKED_HEADER_BYTES_MAX].copy_from_slice(&header[..header_len]);
    let mut frame = Bytes::from(buf);
    frame.advance(start);
    frame
}
