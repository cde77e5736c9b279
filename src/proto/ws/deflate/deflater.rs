//! Messages compressed, one after the other (RFC 7692 §7.2.1).

use super::zlib::Deflate;
use super::{DEFLATE_WINDOW_BITS_MIN, TAIL, WINDOW_BITS_MAX};

/// What compresses the messages of one direction.
///
/// Between two messages it keeps the last window of what it has compressed, unless it is
/// [reset](Deflater::reset): then the next message can be read without those before.
#[derive(Debug)]
pub struct Deflater {
    stream: Deflate,
}

impl Deflater {
    /// Compresses with a window of `window_bits`, 9 to 15; level and memory level are zlib's, 1 to 9.
    ///
    /// `None` if there is no memory, or a parameter is out of its range.
    #[must_use]
    pub fn new(level: u8, window_bits: u8, mem_level: u8) -> Option<Self> {
        let fits = (1..=9).contains(&level)
            && (DEFLATE_WINDOW_BITS_MIN..=WINDOW_BITS_MAX).contains(&window_bits)
            && (1..=9).contains(&mem_level);
        let stream = fits.then(|| Deflate::new(level, window_bits, mem_level))??;
        Some(Self { stream })
    }

    /// Appends `payload` to `out`, compressed and without the tail that is left out on the wire, if
    /// that takes no more than `bytes_max` bytes. Whether it did.
    ///
    /// If not, nothing is appended and the deflater is reset: the peer never sees this message
    /// compressed, so nothing may refer to it.
    pub fn compress(&mut self, payload: &[u8], out: &mut Vec<u8>, bytes_max: usize) -> bool {
        if payload.is_empty() {
            // §7.2.3.6. zlib refuses to flush twice with nothing in between.
            out.extend_from_slice(&[0x00][..bytes_max.min(1)]);
            return bytes_max > 0;
        }
        let start = out.len();
        // zlib takes a buffer that it has filled to the end for one that was too small.
        let room = bytes_max.saturating_add(TAIL.len() + 1);
        out.reserve(room.min(payload.len() + payload.len() / 8 + 64));
        let mut input = payload;
        let is_whole = self.stream.flush(&mut input, out, room);
        let body = out[start..].strip_suffix(&TAIL).map(<[u8]>::len);
        match body.filter(|len| is_whole && *len <= bytes_max) {
            Some(len) => {
                out.truncate(start + len);
                true
            }
            None => {
                out.truncate(start);
                self.reset();
                false
            }
        }
    }

    /// Forgets what it has compressed.
    pub fn reset(&mut self) {
        self.stream.reset();
    }

    /// Bytes that one with these parameters takes, as zconf.h has it.
    #[must_use]
    pub const fn memory_bytes(window_bits: u8, mem_level: u8) -> usize {
        (1 << (window_bits + 2)) + (1 << (mem_level + 9)) + STATE_BYTES
    }
}

/// zlib's own state beside its tables, about.
const STATE_BYTES: usize = 6 << 10;
