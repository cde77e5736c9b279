//! Frames (RFC 6455 §5.2), turned from a client's into a server's where they lie.
//!
//! A server's header is four bytes shorter, so a run of frames only ever moves to the front, and all
//! that came together leaves as one piece of the buffer that it came in.

use crate::mask::unmask;

pub(crate) const CLOSE: u8 = 0x8;
pub(crate) const PING: u8 = 0x9;
pub(crate) const PONG: u8 = 0xA;

/// The longest header, a client's with 64 bits of length.
pub(crate) const HEADER_BYTES_MAX: usize = 14;

/// A client's header.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Header {
    /// FIN, reserved bits and opcode.
    pub(crate) first: u8,
    pub(crate) key: u32,
    pub(crate) payload: u64,
}

impl Header {
    pub(crate) fn opcode(&self) -> u8 {
        self.first & 0xF
    }

    /// Bytes of the header whose first two bytes are given.
    fn bytes(second: u8) -> usize {
        match second & 0x7F {
            126 => 8,
            127 => 14,
            _ => 6,
        }
    }

    /// Reads one that begins `bytes`, and says how many bytes it has; none if it is not whole.
    #[inline]
    pub(crate) fn read(bytes: &[u8]) -> Option<(Self, usize)> {
        let [first, second, ..] = *bytes else {
            return None;
        };
        let len = Self::bytes(second);
        let bytes = bytes.get(..len)?;
        let payload = match len {
            6 => u64::from(second & 0x7F),
            8 => u64::from(u16::from_be_bytes([bytes[2], bytes[3]])),
            _ => bytes[2..10].iter().fold(0, |n, b| n << 8 | u64::from(*b)),
        };
        let key = [
            bytes[len - 4],
            bytes[len - 3],
            bytes[len - 2],
            bytes[len - 1],
        ];
        let header = Self {
            first,
            key: u32::from_le_bytes(key),
            payload,
        };
        Some((header, len))
    }

    /// Bytes of the same frame's header without a mask.
    #[inline]
    pub(crate) fn unmasked_bytes(&self) -> usize {
        match self.payload {
            0..=125 => 2,
            126..=0xFFFF => 4,
            _ => 10,
        }
    }

    /// Writes it without a mask; `first` replaces the first byte.
    ///
    /// # Safety
    /// `to` must be writable for [`Header::unmasked_bytes`].
    #[inline]
    pub(crate) unsafe fn write_unmasked(&self, to: *mut u8, first: u8) {
        // SAFETY: as the caller promises.
        unsafe {
            *to = first;
            match self.payload {
                0..=125 => *to.add(1) = self.payload as u8,
                126..=0xFFFF => {
                    *to.add(1) = 126;
                    to.add(2)
                        .cast::<[u8; 2]>()
                        .write_unaligned((self.payload as u16).to_be_bytes());
                }
                _ => {
                    *to.add(1) = 127;
                    to.add(2)
                        .cast::<[u8; 8]>()
                        .write_unaligned(self.payload.to_be_bytes());
                }
            }
        }
    }
}

/// Where an echoing connection is in its stream of frames.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Echo {
    /// Payload bytes of the current frame that have not come yet.
    remaining: u64,
    key: u32,
    /// The beginning of a header that has not come whole.
    carry: [u8; HEADER_BYTES_MAX],
    carried: u8,
    is_dropped: bool,
    is_closing: bool,
}

/// What [`Echo::turn_around`] made of a buffer.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Turned {
    /// A header to send first: it came in two pieces, so there is no room for it in this one.
    pub(crate) head: Option<Head>,
    /// Where the bytes to send begin.
    pub(crate) begin: *mut u8,
    pub(crate) len: usize,
    /// A close has passed; nothing more is to be read.
    pub(crate) is_closed: bool,
}

/// A header that stands alone.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Head {
    bytes: [u8; 10],
    len: usize,
}

impl Head {
    pub(crate) fn bytes(&self) -> &[u8] {
        &self.bytes[..self.len]
    }
}

impl Echo {
    /// Before the first frame.
    pub(crate) const NEW: Self = Self {
        remaining: 0,
        key: 0,
        carry: [0; HEADER_BYTES_MAX],
        carried: 0,
        is_dropped: false,
        is_closing: false,
    };

    /// Turns `len` bytes at `start` around, in place. `out` is where output that lies right before
    /// `start` begins already, if there is any.
    ///
    /// # Safety
    /// `start` must be readable and writable for `len` bytes, and the output before may be so.
    #[inline]
    pub(crate) unsafe fn turn_around(
        &mut self,
        start: *mut u8,
        len: usize,
        out: Option<*mut u8>,
    ) -> Turned {
        let mut begin = out;
        let mut write = start;
        let mut head = None;
        let mut at = 0;
        while at < len {
            // SAFETY: `at` and `at + n` are at most `len`. `write` is never beyond what has been
            // read: it is set to `read` or to where a whole header's unmasked form has room before it,
            // and then grows by what was read less the four bytes of each mask.
            unsafe {
                let read = start.add(at);
                if self.remaining > 0 {
                    let n = usize::try_from(self.remaining).map_or(len - at, |r| r.min(len - at));
                    if !self.is_dropped {
                        if begin.is_none() {
                            begin = Some(read);
                            write = read;
                        }
                        self.key = unmask(read, write, n, self.key);
                        write = write.add(n);
                    }
                    self.remaining -= n as u64;
                    at += n;
                    continue;
                }
                let rest = std::slice::from_raw_parts(read, len - at);
                let is_cut = self.carried > 0;
                let Some((header, used)) = self.header(rest) else {
                    break;
                };
                at += used;
                self.remaining = header.payload;
                self.key = header.key;
                self.is_dropped = header.opcode() == PONG;
                self.is_closing |= header.opcode() == CLOSE;
                if self.is_dropped {
                    continue;
                }
                let first = match header.opcode() {
                    PING => header.first & 0xF0 | PONG,
                    _ => header.first,
                };
                let len = header.unmasked_bytes();
                if is_cut {
                    // Only the first header of a piece can have begun in the one before.
                    let mut bytes = [0; 10];
                    header.write_unmasked(bytes.as_mut_ptr(), first);
                    head = Some(Head { bytes, len });
                } else {
                    if begin.is_none() {
                        write = start.add(at).sub(len);
                        begin = Some(write);
                    }
                    header.write_unmasked(write, first);
                    write = write.add(len);
                }
            }
            if self.is_closing && self.remaining == 0 {
                break;
            }
        }
        let begin = begin.unwrap_or(write);
        Turned {
            head,
            begin,
            len: write as usize - begin as usize,
            is_closed: self.is_closing && self.remaining == 0,
        }
    }

    /// The next header and how many of `bytes` it took; what is not whole is kept.
    #[inline]
    fn header(&mut self, bytes: &[u8]) -> Option<(Header, usize)> {
        if self.carried == 0
            && let Some(found) = Header::read(bytes)
        {
            return Some(found);
        }
        for (n, byte) in bytes.iter().enumerate() {
            self.carry[usize::from(self.carried)] = *byte;
            self.carried += 1;
            if let Some((header, _)) = Header::read(&self.carry[..usize::from(self.carried)]) {
                self.carried = 0;
                return Some((header, n + 1));
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(first: u8, payload: &[u8], key: Option<[u8; 4]>) -> Vec<u8> {
        let mut bytes = vec![first];
        let mask = if key.is_some() { 0x80 } else { 0 };
        match payload.len() {
            n @ 0..=125 => bytes.push(mask | n as u8),
            n @ 126..=0xFFFF => {
                bytes.push(mask | 126);
                bytes.extend((n as u16).to_be_bytes());
            }
            n => {
                bytes.push(mask | 127);
                bytes.extend((n as u64).to_be_bytes());
            }
        }
        bytes.extend(key.into_iter().flatten());
        let key = key.unwrap_or([0; 4]);
        bytes.extend(payload.iter().enumerate().map(|(i, b)| b ^ key[i % 4]));
        bytes
    }

    fn payload(len: usize, seed: usize) -> Vec<u8> {
        (0..len)
            .map(|i| (i * 31 + seed * 7 + i / 251) as u8)
            .collect()
    }

    /// Feeds `input` in pieces of `step` bytes.
    fn run(input: &[u8], step: usize) -> (Vec<u8>, bool) {
        let mut echo = Echo::NEW;
        let (mut output, mut is_closed) = (Vec::new(), false);
        for piece in input.chunks(step) {
            let mut buffer = vec![0xEE; 16];
            buffer.extend(piece);
            // SAFETY: the buffer has `piece.len()` bytes there.
            unsafe {
                let start = buffer.as_mut_ptr().add(16);
                let turned = echo.turn_around(start, piece.len(), None);
                output.extend(turned.head.iter().flat_map(Head::bytes));
                output.extend(std::slice::from_raw_parts(turned.begin, turned.len));
                is_closed |= turned.is_closed;
            }
            assert_eq!(buffer[..16], [0xEE; 16], "what lies before is another's");
        }
        (output, is_closed)
    }

    #[test]
    fn frames_come_back_however_they_are_cut() {
        let (mut input, mut expected) = (Vec::new(), Vec::new());
        let lengths = [
            20, 0, 1, 125, 126, 20, 20, 300, 65535, 65536, 70000, 3, 1024,
        ];
        for (n, len) in lengths.into_iter().enumerate() {
            let payload = payload(len, n);
            let first = if n % 2 == 0 { 0x82 } else { 0x81 };
            input.extend(frame(first, &payload, Some([1, n as u8, 3, 200])));
            expected.extend(frame(first, &payload, None));
            // A ping comes back as a pong, and a pong does not.
            input.extend(frame(0x89, b"are you there", Some([9, 8, 7, n as u8])));
            expected.extend(frame(0x8A, b"are you there", None));
            input.extend(frame(0x8A, b"yes", Some([n as u8, 8, 7, 6])));
        }
        input.extend(frame(0x88, &[3, 232], Some([5, 5, 5, 5])));
        expected.extend(frame(0x88, &[3, 232], None));
        for step in [1, 2, 3, 5, 7, 13, 64, 1000, 16384, input.len()] {
            let (output, is_closed) = run(&input, step);
            assert!(output == expected, "in pieces of {step}");
            assert!(is_closed, "in pieces of {step}");
        }
    }

    #[test]
    fn goes_on_right_behind_what_stands_before() {
        let mut buffer = vec![0; 32];
        buffer.extend(frame(0x82, b"hello", Some([1, 2, 3, 4])));
        buffer[22..32].copy_from_slice(b"the answer");
        let len = buffer.len() - 32;
        // SAFETY: `len` bytes lie there, and 32 before.
        let turned = unsafe {
            let start = buffer.as_mut_ptr();
            let mut echo = Echo::NEW;
            echo.turn_around(start.add(32), len, Some(start.add(22)))
        };
        let sent = &buffer[22..22 + turned.len];
        assert_eq!(sent, [b"the answer\x82\x05hello".as_slice()].concat());
    }
}
