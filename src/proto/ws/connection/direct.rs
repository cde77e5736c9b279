//! Payload received straight into the buffer of its message, which is lent out for it
//! (RFC 6455 §5.2 allows frames far longer than any receive buffer).

use super::super::error::WsError;
use super::super::event::{Direct, Event};
use super::super::message::{Growth, MessageBuf};
use super::super::partial::Frame;
use super::Connection;

impl Connection {
    /// Bytes of payload still to come of the data frame that is being read; 0 outside of one.
    #[must_use]
    pub fn frame_remaining(&self) -> usize {
        self.data_frame().map_or(0, |frame| frame.remaining)
    }

    /// Lends out the buffer of the message whose frame is being read, so that more of its payload
    /// is received straight into it.
    ///
    /// The buffer has room for at least a part of what remains. At most 256 KiB, or half of what
    /// has arrived where that is more, is reserved at once, so a long frame takes several turns.
    /// `None` where no payload of a data frame is awaited.
    pub fn take_direct(&mut self) -> Option<Direct> {
        let limit = self.message_bytes_max as usize;
        let frame = *self.data_frame()?;
        let partial = self.partial.as_mut()?;
        let assembly = partial.message.as_mut()?;
        if frame.remaining == 0 || partial.lent_len.is_some() {
            return None;
        }
        assembly.buf.grow(Growth {
            needed: frame.remaining.min(DIRECT_SPARE_BYTES_MIN),
            ahead: frame.remaining.min(DIRECT_AHEAD_BYTES_MAX),
            limit: frame.message_bytes_max(&assembly.buf, limit),
        });
        let buf = std::mem::take(&mut assembly.buf).into_raw();
        partial.lent_len = Some(buf.len());
        Some(Direct {
            buf,
            remaining: frame.remaining,
        })
    }

    /// Takes the buffer back, with no more than [`Direct::remaining`] bytes appended, still
    /// masked; they are unmasked and checked in place. Gives the message where it is complete.
    ///
    /// # Errors
    ///
    /// [`WsError::InvalidUtf8`]. The connection is closed then.
    ///
    /// # Panics
    ///
    /// Where the buffer is not the one lent out, has lost bytes or has more than remained.
    pub fn handle_direct(&mut self, direct: Direct) -> Result<Option<Event<'_>>, WsError> {
        let done = self.absorb_direct(direct.buf);
        match self.fail_on_error(done)? {
            true => Ok(self.end_data_frame()),
            false => Ok(None),
        }
    }

    /// As [`Connection::absorb`], for payload that lies in the message's own buffer already.
    fn absorb_direct(&mut self, buf: Vec<u8>) -> Result<bool, WsError> {
        let partial = self.partial.as_mut();
        let partial = partial.expect("handle_direct follows take_direct");
        let lent_len = partial.lent_len.take();
        let (Some(lent_len), Some(frame), Some(assembly)) =
            (lent_len, &mut partial.frame, &mut partial.message)
        else {
            panic!("handle_direct follows take_direct");
        };
        assert!(
            (lent_len..=lent_len + frame.remaining).contains(&buf.len()),
            "a lent buffer grows by no more than the bytes that remain"
        );
        let mut buf = buf;
        let payload = &mut buf[lent_len..];
        let done = payload.len() == frame.remaining;
        frame.unmask(payload);
        assembly.check(payload, done && frame.fin)?;
        assembly.buf = MessageBuf::from_raw(buf);
        Ok(done)
    }

    fn data_frame(&self) -> Option<&Frame> {
        let frame = self.partial.as_ref()?.frame.as_ref()?;
        (!frame.opcode.is_control() && !self.is_relayed(frame)).then_some(frame)
    }
}

/// What is reserved on the strength of an announced length alone, in a buffer that is lent out.
pub(super) const DIRECT_AHEAD_BYTES_MAX: usize = 256 << 10;
/// A lent buffer with less room than this, and than the frame needs, grows first.
const DIRECT_SPARE_BYTES_MIN: usize = 16 << 10;
