//! A part of a message, as it is handed out by a connection that relays (RFC 6455 §5.4: who relays may
//! change how a message is cut into frames).

use super::event::MessageKind;
use super::header::{HEADER_BYTES_MAX, OpCode, encode};

/// The next bytes of a message: unmasked and, where it is text, checked as far as they go.
///
/// They lie in the input, often with room for a header in front of them.
#[derive(Debug)]
pub struct Part<'s> {
    kind: MessageKind,
    is_first: bool,
    is_last: bool,
    /// The room, and the payload behind it.
    bytes: &'s mut [u8],
    room: usize,
}

impl<'s> Part<'s> {
    /// `bytes` from `room` on; what lies before may be overwritten.
    pub(super) const fn new(
        kind: MessageKind,
        (is_first, is_last): (bool, bool),
        bytes: &'s mut [u8],
        room: usize,
    ) -> Self {
        Self {
            kind,
            is_first,
            is_last,
            bytes,
            room,
        }
    }

    /// Whether it begins its message.
    #[inline]
    #[must_use]
    pub const fn is_first(&self) -> bool {
        self.is_first
    }

    /// Whether it ends its message. Only then it may be empty.
    #[inline]
    #[must_use]
    pub const fn is_last(&self) -> bool {
        self.is_last
    }

    /// The opcode of the frame that passes it on.
    #[inline]
    #[must_use]
    pub fn opcode(&self) -> OpCode {
        if self.is_first {
            self.kind.opcode()
        } else {
            OpCode::Continuation
        }
    }

    /// Its bytes; text may end in the middle of a character.
    #[inline]
    #[must_use]
    pub fn payload(&self) -> &[u8] {
        &self.bytes[self.room..]
    }

    /// The unmasked header of the frame that passes it on, and its length.
    #[must_use]
    pub fn header(&self) -> ([u8; HEADER_BYTES_MAX], usize) {
        let mut header = [0; HEADER_BYTES_MAX];
        let payload_len = self.payload().len() as u64;
        let len = encode(self.is_last, self.opcode(), payload_len, None, &mut header);
        (header, len)
    }

    /// Writes that header right before the payload, which is not copied; gives the whole frame.
    ///
    /// # Errors
    ///
    /// Gives the part back where there is no room for a header.
    pub fn into_frame(self) -> Result<&'s [u8], Self> {
        let (header, len) = self.header();
        let Some(start) = self.room.checked_sub(len) else {
            return Err(self);
        };
        self.bytes[start..self.room].copy_from_slice(&header[..len]);
        Ok(&self.bytes[start..])
    }
}
