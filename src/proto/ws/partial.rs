//! What a [`Connection`] keeps while a header, a frame or a message is cut by the end of its input
//! (RFC 6455 §5.4).
//!
//! The order in which these change is the business of [`Connection`].
//!
//! [`Connection`]: super::Connection

use super::connection::progress::Mark;
use super::error::WsError;
use super::event::MessageKind;
use super::header::{HEADER_BYTES_MAX, OpCode};
use super::mask::apply_mask;
use super::message::MessageBuf;
use super::utf8::Utf8Validator;

/// What is in progress between two inputs.
#[derive(Debug, Default)]
pub(super) struct Partial {
    pub(super) header: [u8; HEADER_BYTES_MAX],
    pub(super) header_len: u8,
    /// The frame whose payload is being read.
    pub(super) frame: Option<Frame>,
    /// The data message that frames are being added to.
    pub(super) message: Option<Assembly>,
    /// The payload of a control frame that the input cut.
    pub(super) control: MessageBuf,
    /// Bytes of the message's buffer when it was lent out.
    pub(super) lent_len: Option<usize>,
    /// What the last event borrows, where it was assembled; emptied by the next poll.
    pub(super) finished: MessageBuf,
    /// How far it had come when it last had got on.
    pub(super) mark: Option<Mark>,
}

#[derive(Debug, Clone, Copy)]
pub(super) struct Frame {
    pub(super) fin: bool,
    pub(super) opcode: OpCode,
    pub(super) mask: Option<[u8; 4]>,
    /// Bytes of payload read, for the phase of the mask.
    pub(super) offset: usize,
    pub(super) remaining: usize,
}

#[derive(Debug)]
pub(super) struct Assembly {
    pub(super) kind: MessageKind,
    pub(super) buf: MessageBuf,
    pub(super) utf8: Utf8Validator,
    /// What is in `buf` is compressed: it is checked when it has been decompressed.
    pub(super) is_compressed: bool,
    /// It is handed out in parts: nothing of it is in `buf`.
    pub(super) is_relayed: bool,
    /// Bytes of it that were handed out.
    pub(super) relayed_bytes: usize,
    /// Whether a part of it was handed out.
    pub(super) has_begun: bool,
}

impl Partial {
    /// Whether nothing is in progress.
    pub(super) fn is_idle(&self) -> bool {
        self.header_len == 0 && self.frame.is_none() && self.message.is_none()
    }

    /// Bytes of the data message in progress that have been received.
    pub(super) fn received_bytes(&self) -> usize {
        let Some(message) = &self.message else {
            return 0;
        };
        self.lent_len.unwrap_or(message.buf.len()) + message.relayed_bytes
    }

    /// Bytes of heap that this and its buffers take.
    pub(super) fn heap_bytes(&self) -> usize {
        let message = self.message.as_ref();
        size_of::<Self>()
            + self.control.capacity()
            + self.finished.capacity()
            + message.map_or(0, |message| message.buf.capacity())
    }
}

impl Frame {
    /// Unmasks the next bytes of the payload and counts them.
    pub(super) fn unmask(&mut self, payload: &mut [u8]) {
        if let Some(key) = self.mask {
            apply_mask(payload, key, self.offset);
        }
        self.offset += payload.len();
        self.remaining -= payload.len();
    }

    /// The longest that the message in `buf` can become.
    pub(super) fn message_bytes_max(&self, buf: &MessageBuf, limit: usize) -> usize {
        let with_frame = buf.len() + self.remaining;
        if self.fin {
            with_frame
        } else {
            with_frame.max(limit)
        }
    }
}

impl Assembly {
    /// Checks the next bytes of a text.
    pub(super) fn check(&mut self, payload: &[u8], is_last: bool) -> Result<(), WsError> {
        if self.kind == MessageKind::Binary || self.is_compressed {
            return Ok(());
        }
        self.utf8.push(payload)?;
        if is_last { self.utf8.finish() } else { Ok(()) }
    }
}
