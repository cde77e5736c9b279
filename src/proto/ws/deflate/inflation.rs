//! What the connections of a core share to decompress messages: one inflater and one buffer, since
//! a message is decompressed only once it is there as a whole.

use super::super::error::WsError;
use super::super::event::{Compressed, Message, MessageKind};
use super::super::utf8::Utf8Validator;
use super::inflater::{InflateError, Inflater, Tail};
use super::{Takeover, WINDOW_BITS_MAX};

/// See the module.
#[derive(Debug, Default)]
pub struct Inflation {
    /// Made when it is first needed.
    inflater: Option<Inflater>,
    /// What came out of the last message.
    payload: Vec<u8>,
    /// Messages, their bytes on the wire, and what came out.
    tally: [u64; 3],
}

impl Inflation {
    /// None yet.
    #[must_use]
    pub const fn new() -> Self {
        Self {
            inflater: None,
            payload: Vec::new(),
            tally: [0; 3],
        }
    }

    /// Decompresses a message to at most `message_bytes_max` bytes. `own` is what the connection
    /// keeps between its messages, where that was agreed on.
    ///
    /// Text is checked as it comes out; nothing comes out beyond its first bad byte's 32 KiB.
    ///
    /// # Errors
    ///
    /// [`WsError::MessageTooBig`], [`WsError::InvalidDeflate`], [`WsError::InvalidUtf8`] or
    /// [`WsError::OutOfMemory`]; the connection is to be closed. What the connection keeps is of no
    /// use then.
    pub fn inflate<'s>(
        &'s mut self,
        compressed: &Compressed<'_>,
        own: Option<&mut Takeover>,
        message_bytes_max: usize,
    ) -> Result<Message<'s>, WsError> {
        self.payload.clear();
        let inflater = match own.and_then(Takeover::inflater) {
            Some(own) => own.ok_or(WsError::OutOfMemory)?,
            None => {
                if self.inflater.is_none() {
                    self.inflater = Inflater::new(WINDOW_BITS_MAX);
                }
                let shared = self.inflater.as_mut().ok_or(WsError::OutOfMemory)?;
                shared.reset();
                shared
            }
        };
        inflate_into(inflater, compressed, &mut self.payload, message_bytes_max)?;
        let [messages, wire, payload] = &mut self.tally;
        *messages += 1;
        *wire += compressed.payload().len() as u64;
        *payload += self.payload.len() as u64;
        Ok(Message::in_input(compressed.kind(), &mut self.payload))
    }

    /// Gives back what only a long message needs, once that has been looked at.
    pub fn shrink(&mut self) {
        if self.payload.capacity() > SPARE_BYTES_MAX {
            self.payload = Vec::new();
        }
    }

    /// Messages decompressed since the start, their bytes on the wire, and what came out of them.
    #[must_use]
    pub const fn tally(&self) -> (u64, u64, u64) {
        let [messages, wire, payload] = self.tally;
        (messages, wire, payload)
    }

    /// Bytes of memory that it takes.
    #[must_use]
    pub fn memory_bytes(&self) -> usize {
        let inflater = self.inflater.as_ref();
        self.payload.capacity() + inflater.map_or(0, |_| Inflater::memory_bytes(WINDOW_BITS_MAX))
    }

    /// Gives its memory back.
    pub fn trim(&mut self) {
        self.inflater = None;
        self.payload = Vec::new();
    }
}

fn inflate_into(
    inflater: &mut Inflater,
    compressed: &Compressed<'_>,
    out: &mut Vec<u8>,
    message_bytes_max: usize,
) -> Result<(), WsError> {
    let mut input = compressed.payload();
    let mut tail = Tail::default();
    let mut utf8 = Utf8Validator::new();
    let is_text = compressed.kind() == MessageKind::Text;
    let mut is_read = false;
    loop {
        let len = out.len();
        let step = if is_read {
            inflater.finish(&mut tail, out, message_bytes_max)
        } else {
            inflater.step(&mut input, out, message_bytes_max)
        };
        // What has come out is looked at first: the earliest fault is the one to tell.
        if is_text {
            utf8.push(&out[len..])?;
        }
        let is_done = step.map_err(|error| match error {
            InflateError::TooLong => WsError::MessageTooBig {
                len: message_bytes_max as u64 + 1,
            },
            InflateError::Corrupt => WsError::InvalidDeflate,
            InflateError::OutOfMemory => WsError::OutOfMemory,
        })?;
        if is_done && is_read {
            return if is_text { utf8.finish() } else { Ok(()) };
        }
        is_read |= is_done;
    }
}

/// A buffer of more than this is not kept.
const SPARE_BYTES_MAX: usize = 256 << 10;
