//! What goes into a [`Connection`] and what comes out of it (RFC 6455 §6.2).
//!
//! [`Connection`]: super::Connection

use super::close::CloseFrame;
use super::header::OpCode;
use super::message::MessageBuf;
use super::part::Part;

/// Received bytes, consumed from the front.
///
/// Payloads are unmasked in place, so the bytes are borrowed mutably.
#[derive(Debug)]
pub struct Input<'a> {
    bytes: &'a mut [u8],
    fragments: u32,
    pause_at: u32,
    pause_every: u32,
}

impl<'a> Input<'a> {
    /// Wraps bytes in the order in which they were received.
    #[inline]
    #[must_use]
    pub fn new(bytes: &'a mut [u8]) -> Self {
        Self::pausing(bytes, u32::MAX)
    }

    /// The same, in which a poll ends after so many fragments even if there is more to read: they may be
    /// tiny and without an end.
    #[inline]
    #[must_use]
    pub fn pausing(bytes: &'a mut [u8], fragments: u32) -> Self {
        Self {
            bytes,
            fragments: 0,
            pause_at: fragments,
            pause_every: fragments,
        }
    }

    /// Frames in it so far that are not whole messages: what they cost is not in their bytes.
    #[inline]
    #[must_use]
    pub fn fragments(&self) -> u32 {
        self.fragments
    }

    pub(super) fn count_fragment(&mut self) {
        self.fragments += 1;
    }

    /// Whether the poll is to end here.
    pub(super) fn takes_pause(&mut self) -> bool {
        let pauses = self.fragments >= self.pause_at;
        if pauses {
            self.pause_at = self.fragments.saturating_add(self.pause_every);
        }
        pauses
    }

    /// What is not consumed yet.
    #[inline]
    #[must_use]
    pub fn remaining(&self) -> &[u8] {
        self.bytes
    }

    /// Bytes not consumed yet.
    #[inline]
    #[must_use]
    pub fn len(&self) -> usize {
        self.bytes.len()
    }

    /// Whether everything is consumed.
    #[inline]
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    /// Consumes the first `n` bytes, of which there must be as many.
    #[inline]
    pub(super) fn take(&mut self, n: usize) -> &'a mut [u8] {
        let (front, rest) = std::mem::take(&mut self.bytes).split_at_mut(n);
        self.bytes = rest;
        front
    }
}

/// Something that the peer said.
#[derive(Debug)]
pub enum Event<'s> {
    /// A whole message (§5.6).
    Message(Message<'s>),
    /// A whole message that is compressed still, from a connection that has agreed on
    /// permessage-deflate ([`Connection::set_deflate`]): [`Inflation`] makes a [`Message`] of it.
    ///
    /// [`Connection::set_deflate`]: super::Connection::set_deflate
    /// [`Inflation`]: super::deflate::Inflation
    Compressed(Compressed<'s>),
    /// The next part of a message, from a connection that relays ([`Connection::set_relaying`]).
    ///
    /// [`Connection::set_relaying`]: super::Connection::set_relaying
    Part(Part<'s>),
    /// A Ping and its payload, to be answered with a Pong of the same payload (§5.5.2).
    Ping(&'s [u8]),
    /// A Pong and its payload (§5.5.3).
    Pong(&'s [u8]),
    /// A Close frame, after which nothing else comes (§5.5.1).
    Close(CloseFrame<'s>),
}

/// The two kinds of message (§5.6).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum MessageKind {
    /// UTF-8 text.
    Text,
    /// Any bytes.
    Binary,
}

impl MessageKind {
    /// The opcode of a frame that carries such a message.
    #[inline]
    #[must_use]
    pub fn opcode(self) -> OpCode {
        match self {
            Self::Text => OpCode::Text,
            Self::Binary => OpCode::Binary,
        }
    }
}

/// A whole message: unmasked and, where it is text, checked.
///
/// It lies in the input, or in a buffer of its own where it came in pieces.
#[derive(Debug)]
pub struct Message<'s> {
    kind: MessageKind,
    place: Place<'s>,
}

#[derive(Debug)]
enum Place<'s> {
    Input(&'s mut [u8]),
    Own(&'s mut MessageBuf),
}

impl<'s> Message<'s> {
    #[inline]
    pub(super) fn in_input(kind: MessageKind, payload: &'s mut [u8]) -> Self {
        Self {
            kind,
            place: Place::Input(payload),
        }
    }

    #[inline]
    pub(super) fn assembled(kind: MessageKind, message: &'s mut MessageBuf) -> Self {
        Self {
            kind,
            place: Place::Own(message),
        }
    }
}

impl Message<'_> {
    /// Text or binary.
    #[inline]
    #[must_use]
    pub fn kind(&self) -> MessageKind {
        self.kind
    }

    /// The message's bytes; UTF-8 where it is text.
    #[inline]
    #[must_use]
    pub fn payload(&self) -> &[u8] {
        match &self.place {
            Place::Input(payload) => payload,
            Place::Own(message) => message.payload(),
        }
    }

    /// The message's bytes, to change in place.
    #[inline]
    pub fn payload_mut(&mut self) -> &mut [u8] {
        match &mut self.place {
            Place::Input(payload) => payload,
            Place::Own(message) => message.payload_mut(),
        }
    }

    /// Takes the buffer that the message was assembled in.
    ///
    /// # Errors
    ///
    /// Gives the message back where it lies in the input and so has no buffer of its own.
    #[inline]
    pub fn take_owned(self) -> Result<MessageBuf, Self> {
        match self.place {
            Place::Input(_) => Err(self),
            Place::Own(message) => Ok(std::mem::take(message)),
        }
    }
}

/// A whole message as it came off the wire (RFC 7692 §6): unmasked, not decompressed, not checked.
#[derive(Debug)]
pub struct Compressed<'s>(Message<'s>);

impl<'s> Compressed<'s> {
    pub(super) fn new(message: Message<'s>) -> Self {
        Self(message)
    }
}

impl Compressed<'_> {
    /// Text or binary.
    #[must_use]
    pub fn kind(&self) -> MessageKind {
        self.0.kind()
    }

    /// The compressed bytes, of all its frames, without the tail that is left out on the wire.
    #[must_use]
    pub fn payload(&self) -> &[u8] {
        self.0.payload()
    }
}

/// A message's own buffer, lent out so that its payload is received straight into it.
///
/// The receiver appends at most `remaining` bytes to `buf`, as they come from the wire, leaves
/// what is in it alone and gives it back to [`Connection::handle_direct`].
///
/// [`Connection::handle_direct`]: super::Connection::handle_direct
#[derive(Debug)]
pub struct Direct {
    /// Where to append; it has spare capacity for some of `remaining`.
    pub buf: Vec<u8>,
    /// Bytes of the frame's payload still to come.
    pub remaining: usize,
}
