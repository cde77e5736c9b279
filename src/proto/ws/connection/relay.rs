//! Messages that are passed on as they come, part by part, and never assembled (RFC 6455 §5.4).

use super::super::error::WsError;
use super::super::event::{Event, Input, MessageKind};
use super::super::header::{FrameHeader, OpCode};
use super::super::mask::apply_mask;
use super::super::part::Part;
use super::super::partial::Frame;
use super::super::utf8;
use super::{Connection, data_kind};

impl Connection {
    /// Hands long messages out as [`Event::Part`]s from the next message on, or no longer.
    ///
    /// Short ones still come as [`Event::Message`]s, and so do those that begin with a frame of up to 4
    /// KiB, unless that is all and lies whole in the input. What a part is of has been held against the limit, as far as its length is known.
    pub const fn set_relaying(&mut self, relays: bool) {
        self.relays = relays;
    }

    /// Begins a frame that is to be handed out in parts, if the next is one. Nothing is consumed if it
    /// is not.
    pub(super) fn begin_part<'s>(
        &mut self,
        input: &mut Input<'s>,
    ) -> Result<Option<Event<'s>>, WsError> {
        let Some((header, header_len)) = self.decode_header(input.remaining())? else {
            return Ok(None);
        };
        // What is compressed can't be passed on in parts: it is decompressed first.
        if header.opcode.is_control() || header.is_compressed {
            return Ok(None);
        }
        let payload_len = self.judge_len(&header)?;
        let at_hand = payload_len.min(input.len() - header_len);
        let is_whole = header.fin && at_hand == payload_len;
        let is_alone = is_whole && header.opcode != OpCode::Continuation;
        if !is_alone && !self.relays_frame(&header) {
            return Ok(None);
        }
        let bytes = input.take(header_len + at_hand);
        if is_alone && let Some(kind) = data_kind(header.opcode) {
            let payload = &mut bytes[header_len..];
            if let Some(key) = header.mask {
                apply_mask(payload, key, 0);
            }
            if kind == MessageKind::Text {
                utf8::validate(payload)?;
            }
            let part = Part::new(kind, (true, true), bytes, header_len);
            return Ok(Some(Event::Part(part)));
        }
        self.begin_frame(&header, payload_len, true);
        if !header.fin || header.opcode == OpCode::Continuation {
            input.count_fragment();
        }
        self.hand_out(bytes, header_len)
    }

    /// The next part of the frame that is being handed out; `None` if the input is used up.
    pub(super) fn next_part<'s>(
        &mut self,
        input: &mut Input<'s>,
    ) -> Result<Option<Event<'s>>, WsError> {
        let remaining = self.current_frame().map_or(0, |frame| frame.remaining);
        let bytes = input.take(input.len().min(remaining));
        self.hand_out(bytes, 0)
    }

    /// Whether the frame belongs to a message that is handed out in parts, or begins one that does not
    /// lie whole in the input.
    pub(super) fn relays_frame(&self, header: &FrameHeader) -> bool {
        if header.opcode.is_control() || header.is_compressed {
            return false;
        }
        match self.partial.as_ref().and_then(|p| p.message.as_ref()) {
            Some(message) => message.is_relayed,
            None => self.relays && header.payload_len > ASSEMBLED_BYTES_MAX as u64,
        }
    }

    /// Unmasks and checks the next bytes of the frame, which lie behind `room` bytes of `bytes`. A part
    /// of nothing is handed out only where it ends the message.
    fn hand_out<'s>(
        &mut self,
        bytes: &'s mut [u8],
        room: usize,
    ) -> Result<Option<Event<'s>>, WsError> {
        let Some(partial) = &mut self.partial else {
            return Ok(None);
        };
        let (Some(frame), Some(message)) = (&mut partial.frame, &mut partial.message) else {
            return Ok(None);
        };
        let payload = &mut bytes[room..];
        frame.unmask(payload);
        let ends_frame = frame.remaining == 0;
        let is_last = ends_frame && frame.fin;
        message.check(payload, is_last)?;
        message.relayed_bytes += payload.len();
        let kind = message.kind;
        let is_nothing = payload.is_empty() && !is_last;
        let is_first = !message.has_begun;
        message.has_begun |= !is_nothing;
        if ends_frame {
            partial.frame = None;
        }
        if is_last {
            partial.message = None;
            self.drop_idle_partial();
        }
        if is_nothing {
            return Ok(None);
        }
        let part = Part::new(kind, (is_first, is_last), bytes, room);
        Ok(Some(Event::Part(part)))
    }
}

impl Connection {
    /// Whether the frame that is being read is handed out in parts.
    pub(super) fn is_relayed(&self, frame: &Frame) -> bool {
        !frame.opcode.is_control()
            && self
                .partial
                .as_ref()
                .and_then(|p| p.message.as_ref())
                .is_some_and(|message| message.is_relayed)
    }
}

/// What begins with a frame of up to this length and does not lie whole in the input is assembled: one
/// frame of it costs less than two.
const ASSEMBLED_BYTES_MAX: usize = 4 << 10;
