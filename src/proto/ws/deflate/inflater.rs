//! Messages decompressed, one after the other, never beyond a bound (RFC 7692 §7.2.2).

use super::zlib::{Inflate, Status};
use super::{DEFLATE_WINDOW_BITS_MIN, TAIL, WINDOW_BITS_MAX};

/// What decompresses the messages of one direction.
///
/// Between two messages it keeps the last window of what came out, unless it is
/// [reset](Inflater::reset).
#[derive(Debug)]
pub struct Inflater {
    stream: Inflate,
    /// The last block was a final one (§7.2.3.4): what follows begins another stream.
    has_ended: bool,
}

/// Why a message can't be decompressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum InflateError {
    /// It would be longer than the bound.
    #[error("the message is longer than it may be")]
    TooLong,
    /// It is not DEFLATE data, or ends in the middle of a block.
    #[error("the message is not DEFLATE data")]
    Corrupt,
    /// There is no memory to decompress it with.
    #[error("there is no memory to decompress the message with")]
    OutOfMemory,
}

impl Inflater {
    /// Decompresses what was compressed with a window of up to `window_bits`, 8 to 15.
    ///
    /// `None` if there is no memory, or the window is out of its range.
    #[must_use]
    pub fn new(window_bits: u8) -> Option<Self> {
        // A larger window reads whatever a smaller one does; zlib's smallest for raw data is 9.
        let window_bits = window_bits.max(DEFLATE_WINDOW_BITS_MIN);
        let stream = (window_bits <= WINDOW_BITS_MAX).then(|| Inflate::new(window_bits))??;
        Some(Self {
            stream,
            has_ended: false,
        })
    }

    /// Decompresses a whole message, as it comes off the wire, and appends to `out`: no byte beyond a
    /// length of `len_max`.
    ///
    /// # Errors
    ///
    /// [`InflateError`]. Nothing but a reset is of use then.
    pub fn inflate(
        &mut self,
        wire: &[u8],
        out: &mut Vec<u8>,
        len_max: usize,
    ) -> Result<(), InflateError> {
        let mut input = wire;
        while !self.step(&mut input, out, len_max)? {}
        let mut tail = Tail::default();
        while !self.finish(&mut tail, out, len_max)? {}
        Ok(())
    }

    /// Decompresses from the front of `input`, a part of a message, and appends to `out`: at most
    /// 32 KiB, and no byte beyond a length of `len_max`. Whether all of `input` is used up; if not,
    /// there is more to come out of it.
    ///
    /// # Errors
    ///
    /// [`InflateError`]. Nothing but a reset is of use then.
    pub(super) fn step(
        &mut self,
        input: &mut &[u8],
        out: &mut Vec<u8>,
        len_max: usize,
    ) -> Result<bool, InflateError> {
        if std::mem::replace(&mut self.has_ended, false) {
            if input.is_empty() {
                self.has_ended = true;
                return Ok(true);
            }
            self.stream.resume();
        }
        let len = out.len();
        let room = len_max.saturating_sub(len).min(STEP_BYTES_MAX);
        make_room(out, room, len_max);
        match self.stream.run(input, out, room) {
            Status::Ok => {}
            Status::StreamEnd => self.has_ended = true,
            Status::DataError => return Err(InflateError::Corrupt),
            Status::OutOfMemory => return Err(InflateError::OutOfMemory),
        }
        let is_full = out.len() - len == room;
        if room == 0 && !input.is_empty() && !self.has_ended {
            // zlib reads on as long as nothing comes out of it.
            return Err(InflateError::TooLong);
        }
        // A full buffer may hide more, except at the bound: there the next byte of input tells.
        Ok(input.is_empty() && (!is_full || room == 0 || self.has_ended))
    }

    /// Ends a message, after all of it has gone through [`Inflater::step`]. Whether the end is
    /// reached; if not, there is more to come out, so this is to be called again.
    ///
    /// # Errors
    ///
    /// [`InflateError`]; [`InflateError::Corrupt`] where the message ends in the middle of a block.
    pub(super) fn finish(
        &mut self,
        tail: &mut Tail,
        out: &mut Vec<u8>,
        len_max: usize,
    ) -> Result<bool, InflateError> {
        if self.has_ended && tail.is_whole() {
            // Its last block was a final one, so there is nothing that a tail would have ended.
            // Correct peers send one more byte (§7.2.3.4), but nothing is lost on the others.
            return Ok(true);
        }
        if !self.step(&mut tail.rest, out, len_max)? {
            return Ok(false);
        }
        if self.has_ended || self.stream.is_at_boundary() {
            Ok(true)
        } else {
            Err(InflateError::Corrupt)
        }
    }

    /// Forgets what it has decompressed.
    pub fn reset(&mut self) {
        self.has_ended = false;
        self.stream.reset();
    }

    /// Bytes that one with this window takes.
    #[must_use]
    pub const fn memory_bytes(window_bits: u8) -> usize {
        (1 << window_bits) + STATE_BYTES
    }
}

/// The tail of a message that is left out on the wire, and how much of it was read.
#[derive(Debug, Clone, Copy)]
pub(super) struct Tail {
    rest: &'static [u8],
}

impl Default for Tail {
    fn default() -> Self {
        Self { rest: &TAIL }
    }
}

impl Tail {
    const fn is_whole(&self) -> bool {
        self.rest.len() == TAIL.len()
    }
}

/// Makes room for `room` bytes and, as the whole grows, for as much again, up to a length of
/// `len_max`: what is copied stays in proportion.
fn make_room(out: &mut Vec<u8>, room: usize, len_max: usize) {
    if out.capacity() - out.len() < room {
        let most = len_max.saturating_sub(out.len());
        out.reserve_exact(room.max(out.len()).min(most));
    }
}

/// What comes out in one step: a caller that looks at each step's output stops at bad text
/// before the next.
const STEP_BYTES_MAX: usize = 32 << 10;
/// zlib's own state beside the window, about.
const STATE_BYTES: usize = 10 << 10;
