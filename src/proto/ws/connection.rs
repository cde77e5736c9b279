//! One connection's receiving side: bytes in, events out (RFC 6455 §5, §6.2, §7.1.5).
//!
//! ```text
//!                 ┌───────────── whole frame in the input: event, in place ────────────┐
//!                 ▼                                                                    │
//!   bytes ──▶  BETWEEN FRAMES ──── header read and judged ──▶  (payload at hand?) ─────┘
//!              │   ▲     ▲                                           │ no, or a fragment
//!   input ends │   │     │ data frame done, FIN: message event       ▼
//!   in header  ▼   │     │ control frame done: its event     INSIDE A FRAME ──┐ input ends:
//!       header bytes     │ data frame done, no FIN: nothing    │   ▲  ▲  ▲    │ payload so far
//!       kept             └─────────────────────────────────────┘   │  │  └────┘ is kept
//!                                                     take_direct ▼  │ handle_direct
//!                                                               LENT OUT
//!
//!   a Close frame, or any error, from anywhere ──▶ CLOSED: input is consumed and ignored
//! ```
//!
//! A fragmented message may be in progress in each of these states, and control frames interleave
//! with it. All that is in progress lies in one box, which exists only while it is needed. What to
//! answer, and when to hang up, is for the caller to decide.

mod direct;
mod headers;
pub(super) mod progress;
mod relay;
#[cfg(test)]
mod tests;

use super::close;
use super::error::WsError;
pub use super::event::{Compressed, Direct, Event, Input, Message, MessageKind};
use super::header::{self, FrameHeader, OpCode};
use super::mask::apply_mask;
use super::message::{Growth, MessageBuf};
use super::partial::{Assembly, Frame, Partial};
use super::utf8::{self, Utf8Validator};

/// Which end of the connection this is (§5.1): clients mask their frames, servers do not.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Role {
    /// The end that opened the connection; it receives unmasked frames.
    Client,
    /// The end that accepted the connection; it receives masked frames.
    Server,
}

/// The receiving state of one connection, of either role.
///
/// It owns no heap unless it is in the middle of a frame or message.
#[derive(Debug)]
pub struct Connection {
    partial: Option<Box<Partial>>,
    message_bytes_max: u32,
    role: Role,
    closed: bool,
    /// Long messages are handed out part by part.
    relays: bool,
    /// permessage-deflate is agreed on.
    deflates: bool,
}

impl Connection {
    /// A connection right after its opening handshake.
    ///
    /// Messages of more than `message_bytes_max` bytes are refused, and any of 4 GiB or more.
    #[must_use]
    pub const fn new(role: Role, message_bytes_max: usize) -> Self {
        Self {
            partial: None,
            message_bytes_max: saturate(message_bytes_max),
            role,
            closed: false,
            relays: false,
            deflates: false,
        }
    }

    /// Changes the limit; it judges the frames whose headers are read from now on.
    pub const fn set_message_bytes_max(&mut self, n: usize) {
        self.message_bytes_max = saturate(n);
    }

    /// The longest message that it takes.
    #[inline]
    #[must_use]
    pub const fn message_bytes_max(&self) -> usize {
        self.message_bytes_max as usize
    }

    /// Takes compressed messages from now on (RFC 7692), and hands them out as
    /// [`Event::Compressed`]; or refuses them again.
    pub const fn set_deflate(&mut self, deflates: bool) {
        self.deflates = deflates;
    }

    /// Whether it takes compressed messages.
    #[inline]
    #[must_use]
    pub const fn deflates(&self) -> bool {
        self.deflates
    }

    /// Reads on from what is kept and the front of `input`, up to the next event.
    ///
    /// `None`: all of `input` is consumed, or as many fragments as it is to pause after
    /// ([`Input::pausing`]). Must not be called between [`Connection::take_direct`]
    /// and [`Connection::handle_direct`].
    ///
    /// # Errors
    ///
    /// The first breach of the protocol, once. The connection is closed then.
    #[inline]
    pub fn poll_event<'s>(
        &'s mut self,
        input: &'s mut Input<'_>,
    ) -> Result<Option<Event<'s>>, WsError> {
        if self.partial.is_none()
            && !self.closed
            && let Some(frame) = self.small_frame(input.remaining())
        {
            return self.take_small(frame, input).map(Some);
        }
        self.poll_any(input)
    }

    /// Whether a Close frame was received or an error returned; input is then ignored.
    #[inline]
    #[must_use]
    pub fn is_closed(&self) -> bool {
        self.closed
    }

    /// Whether the input so far ends in the middle of a frame or message.
    #[inline]
    #[must_use]
    pub fn has_partial(&self) -> bool {
        self.partial.as_ref().is_some_and(|p| !p.is_idle())
    }

    /// Bytes of heap that a partial message holds, less a buffer that is lent out.
    #[must_use]
    pub fn buffered_bytes(&self) -> usize {
        self.partial.as_ref().map_or(0, |p| p.heap_bytes())
    }
}

/// The path of small messages that come whole.
impl Connection {
    /// Recognises a whole, final data frame with a short length, which nothing precedes.
    #[inline]
    fn small_frame(&self, bytes: &[u8]) -> Option<SmallFrame> {
        let &[first, second, ..] = bytes else {
            return None;
        };
        let kind = match first {
            FINAL_TEXT => MessageKind::Text,
            FINAL_BINARY => MessageKind::Binary,
            _ => return None,
        };
        // A mask bit that the role does not expect leaves the length out of range.
        let (masked, header_len) = match self.role {
            Role::Server => (0x80, 6),
            Role::Client => (0, 2),
        };
        let len = usize::from(second ^ masked);
        let fits =
            len <= header::CONTROL_PAYLOAD_BYTES_MAX && len <= self.message_bytes_max as usize;
        (fits && bytes.len() >= header_len + len).then_some(SmallFrame {
            kind,
            header_len,
            len,
        })
    }

    #[inline]
    fn take_small<'s>(
        &mut self,
        frame: SmallFrame,
        input: &'s mut Input<'_>,
    ) -> Result<Event<'s>, WsError> {
        let bytes = input.take(frame.header_len + frame.len);
        let (header, payload) = bytes.split_at_mut(frame.header_len);
        if let &mut [_, _, a, b, c, d] = header {
            apply_mask(payload, [a, b, c, d], 0);
        }
        self.message_in_place(frame.kind, payload)
    }

    #[inline]
    fn message_in_place<'s>(
        &mut self,
        kind: MessageKind,
        payload: &'s mut [u8],
    ) -> Result<Event<'s>, WsError> {
        if kind == MessageKind::Text
            && let Err(error) = utf8::validate(payload)
        {
            return Err(self.fail(error));
        }
        Ok(Event::Message(Message::in_input(kind, payload)))
    }
}

/// Every other path.
impl Connection {
    fn poll_any<'s>(&'s mut self, input: &'s mut Input<'_>) -> Result<Option<Event<'s>>, WsError> {
        if self.closed {
            self.partial = None;
            input.take(input.len());
            return Ok(None);
        }
        self.release_finished();
        loop {
            if let Some(frame) = self.current_frame() {
                if self.is_relayed(&frame) {
                    if input.is_empty() && frame.remaining > 0 {
                        return Ok(None);
                    }
                    let part = self.next_part(input);
                    match self.fail_on_error(part)? {
                        Some(part) => return Ok(Some(part)),
                        None => continue,
                    }
                }
                let done = self.absorb(input);
                if !self.fail_on_error(done)? {
                    return Ok(None);
                }
                if frame.opcode.is_control() {
                    return self.end_control_frame(frame.opcode).map(Some);
                }
                if frame.fin {
                    return Ok(self.end_data_frame());
                }
                self.end_data_frame();
            }
            if self.reads_parts() {
                let part = self.begin_part(input);
                if let Some(part) = self.fail_on_error(part)? {
                    return Ok(Some(part));
                }
                if input.takes_pause() {
                    return Ok(None);
                }
                if self.current_frame().is_some() {
                    continue;
                }
            }
            let header = self.read_header(input);
            let Some(header) = self.fail_on_error(header)? else {
                return Ok(None);
            };
            let payload_len = self.judge_len(&header);
            let payload_len = self.fail_on_error(payload_len)?;
            if input.len() >= payload_len && is_whole(&header) {
                let payload = input.take(payload_len);
                return self.frame_in_place(&header, payload).map(Some);
            }
            // A header that was cut is gone: such parts have no room in front.
            let is_relayed = self.relays_frame(&header);
            self.begin_frame(&header, payload_len, is_relayed);
            if !is_whole(&header) {
                input.count_fragment();
                if input.takes_pause() {
                    return Ok(None);
                }
            }
        }
    }

    /// Hands out a frame that lies whole in the input.
    fn frame_in_place<'s>(
        &mut self,
        header: &FrameHeader,
        payload: &'s mut [u8],
    ) -> Result<Event<'s>, WsError> {
        if let Some(key) = header.mask {
            apply_mask(payload, key, 0);
        }
        match data_kind(header.opcode) {
            Some(kind) if header.is_compressed => {
                let message = Message::in_input(kind, payload);
                Ok(Event::Compressed(Compressed::new(message)))
            }
            Some(kind) => self.message_in_place(kind, payload),
            None => {
                let event = control_event(header.opcode, payload);
                self.close_after(event)
            }
        }
    }

    /// Begins a frame that is not at hand as a whole or is a fragment, or one that is handed out in parts.
    fn begin_frame(&mut self, header: &FrameHeader, payload_len: usize, is_relayed: bool) {
        let partial = self.partial.get_or_insert_default();
        partial.frame = Some(Frame {
            fin: header.fin,
            opcode: header.opcode,
            mask: header.mask,
            offset: 0,
            remaining: payload_len,
        });
        if let Some(kind) = data_kind(header.opcode) {
            partial.message = Some(Assembly {
                kind,
                buf: MessageBuf::new(),
                utf8: Utf8Validator::new(),
                is_compressed: header.is_compressed,
                is_relayed,
                relayed_bytes: 0,
                has_begun: false,
            });
        }
    }

    /// Moves payload of the current frame from `input` to its buffer; whether the frame is done.
    fn absorb(&mut self, input: &mut Input<'_>) -> Result<bool, WsError> {
        let limit = self.message_bytes_max as usize;
        let Some(partial) = &mut self.partial else {
            return Ok(true);
        };
        let Some(frame) = &mut partial.frame else {
            return Ok(true);
        };
        debug_assert!(
            partial.lent_len.is_none(),
            "polled while a buffer is lent out"
        );
        let payload = input.take(input.len().min(frame.remaining));
        let done = payload.len() == frame.remaining;
        let ahead = frame.remaining.min(payload.len().max(AHEAD_BYTES_MAX));
        let message = partial.message.as_mut();
        match message.filter(|_| !frame.opcode.is_control()) {
            Some(assembly) => {
                let growth = Growth {
                    needed: payload.len(),
                    ahead,
                    limit: frame.message_bytes_max(&assembly.buf, limit),
                };
                frame.unmask(payload);
                if !payload.is_empty() {
                    assembly.buf.grow(growth);
                    assembly.buf.extend_from_slice(payload);
                }
                assembly.check(payload, done && frame.fin)?;
            }
            None => {
                frame.unmask(payload);
                partial.control.extend_from_slice(payload);
            }
        }
        Ok(done)
    }

    /// Ends the current data frame and, where it is final, the message.
    fn end_data_frame(&mut self) -> Option<Event<'_>> {
        let partial = self.partial.as_mut()?;
        let frame = partial.frame.take()?;
        if !frame.fin {
            return None;
        }
        let assembly = partial.message.take()?;
        partial.finished = assembly.buf;
        let message = Message::assembled(assembly.kind, &mut partial.finished);
        Some(if assembly.is_compressed {
            Event::Compressed(Compressed::new(message))
        } else {
            Event::Message(message)
        })
    }

    /// Ends the current control frame, which was assembled.
    fn end_control_frame(&mut self, opcode: OpCode) -> Result<Event<'_>, WsError> {
        let Some(partial) = &mut self.partial else {
            return control_event(opcode, &[]);
        };
        partial.frame = None;
        partial.finished = std::mem::take(&mut partial.control);
        // Judged before it is borrowed for the event, as the failure changes the connection.
        let judged = control_event(opcode, partial.finished.payload()).map(|_| ());
        self.fail_on_error(judged)?;
        // The event still borrows what lies there: nothing more is dropped than the next poll will.
        self.closed |= opcode == OpCode::Close;
        let payload = self.partial.as_ref().map(|p| p.finished.payload());
        control_event(opcode, payload.unwrap_or_default())
    }

    /// Drops what the last event borrowed.
    fn release_finished(&mut self) {
        if let Some(partial) = &mut self.partial {
            if partial.is_idle() {
                self.partial = None;
            } else if partial.finished.capacity() != 0 {
                partial.finished = MessageBuf::new();
            }
        }
    }

    /// Closes the connection where `event` is a Close frame or an error.
    fn close_after<'s>(&mut self, event: Result<Event<'s>, WsError>) -> Result<Event<'s>, WsError> {
        if matches!(event, Err(_) | Ok(Event::Close(_))) {
            self.close();
        }
        event
    }

    fn fail_on_error<T>(&mut self, result: Result<T, WsError>) -> Result<T, WsError> {
        result.map_err(|error| self.fail(error))
    }

    #[cold]
    fn fail(&mut self, error: WsError) -> WsError {
        self.close();
        error
    }

    fn close(&mut self) {
        self.closed = true;
        self.partial = None;
    }

    fn drop_idle_partial(&mut self) {
        if self.partial.as_ref().is_some_and(|p| p.is_idle()) {
            self.partial = None;
        }
    }

    /// Whether the next header may begin a part: one that was cut is put together first.
    fn reads_parts(&self) -> bool {
        match &self.partial {
            Some(partial) => {
                let message = partial.message.as_ref();
                partial.header_len == 0 && message.map_or(self.relays, |m| m.is_relayed)
            }
            None => self.relays,
        }
    }

    fn current_frame(&self) -> Option<Frame> {
        self.partial.as_ref()?.frame
    }
}

/// A frame that [`Connection::small_frame`] recognised.
#[derive(Debug, Clone, Copy)]
struct SmallFrame {
    kind: MessageKind,
    header_len: usize,
    len: usize,
}

const fn saturate(n: usize) -> u32 {
    if n > u32::MAX as usize {
        u32::MAX
    } else {
        n as u32
    }
}

/// Whether the frame is an event by itself.
fn is_whole(header: &FrameHeader) -> bool {
    header.opcode.is_control() || header.fin && header.opcode != OpCode::Continuation
}

fn data_kind(opcode: OpCode) -> Option<MessageKind> {
    match opcode {
        OpCode::Text => Some(MessageKind::Text),
        OpCode::Binary => Some(MessageKind::Binary),
        _ => None,
    }
}

fn control_event(opcode: OpCode, payload: &[u8]) -> Result<Event<'_>, WsError> {
    match opcode {
        OpCode::Ping => Ok(Event::Ping(payload)),
        OpCode::Pong => Ok(Event::Pong(payload)),
        _ => close::parse(payload).map(Event::Close),
    }
}

/// The first byte of an unfragmented text message.
const FINAL_TEXT: u8 = 0x81;
/// The first byte of an unfragmented binary message.
const FINAL_BINARY: u8 = 0x82;
/// What is reserved on the strength of an announced length alone.
const AHEAD_BYTES_MAX: usize = 64 << 10;
