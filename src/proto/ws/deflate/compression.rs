//! What the connections of a core share to compress messages: one deflater for each window in use
//! and one buffer, since each message is compressed at once and, by default, by itself.

use super::super::header::{self, HEADER_BYTES_MAX, OpCode};
use super::super::mask::apply_mask;
use super::{DEFLATE_WINDOW_BITS_MIN, Deflater, Takeover, WINDOW_BITS_MAX};

/// How messages are compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Settings {
    /// zlib's level, 1 to 9.
    pub level: u8,
    /// The largest window, 9 to 15 bits.
    pub window_bits: u8,
    /// zlib's memory level, 1 to 9.
    pub mem_level: u8,
}

/// What was compressed since the start.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Tally {
    /// Messages that were.
    pub messages: u64,
    /// Their bytes before.
    pub message_bytes: u64,
    /// Their bytes after.
    pub wire_bytes: u64,
    /// Messages that would not have become smaller.
    pub not_smaller: u64,
    /// Messages that had to go as they were because enough had been compressed for the time being.
    pub gave_way: u64,
}

/// See the module.
#[derive(Debug)]
pub struct Compression {
    settings: Settings,
    /// By window, from the smallest; each made when it is first needed.
    deflaters: [Option<Deflater>; WINDOWS],
    /// The last message, compressed.
    wire: Vec<u8>,
    /// What the deflaters take.
    deflater_bytes: usize,
    budget: usize,
    tally: Tally,
}

impl Compression {
    /// None yet, and nothing may be compressed before [`Compression::allow`].
    #[must_use]
    pub const fn new(settings: Settings) -> Self {
        Self {
            settings,
            deflaters: [const { None }; WINDOWS],
            wire: Vec::new(),
            deflater_bytes: 0,
            budget: 0,
            tally: Tally {
                messages: 0,
                message_bytes: 0,
                wire_bytes: 0,
                not_smaller: 0,
                gave_way: 0,
            },
        }
    }

    /// How it compresses.
    #[must_use]
    pub const fn settings(&self) -> Settings {
        self.settings
    }

    /// From now on, `bytes` of messages may be compressed; what is more goes as it is. So a core's
    /// turn is not held up.
    pub const fn allow(&mut self, bytes: usize) {
        self.budget = bytes;
    }

    /// A message compressed with a window of up to `window_bits`; `None` where it goes as it is:
    /// it would not become smaller, or enough was compressed for the time being.
    ///
    /// `own` is what the connection keeps between its messages, where that was agreed on. Without
    /// it the message can be read whatever was sent before.
    pub fn compress(
        &mut self,
        payload: &[u8],
        window_bits: u8,
        own: Option<&mut Takeover>,
    ) -> Option<&[u8]> {
        let bytes_max = payload.len().checked_sub(1)?;
        let Some(budget) = self.budget.checked_sub(payload.len()) else {
            self.tally.gave_way += 1;
            return None;
        };
        let Settings {
            level,
            window_bits: largest,
            mem_level,
        } = self.settings;
        let deflater = match own.and_then(|own| own.deflater(level)) {
            Some(own) => own?,
            None => {
                let bits = window_bits.min(largest);
                let at = usize::from(bits.checked_sub(DEFLATE_WINDOW_BITS_MIN)?);
                let slot = self.deflaters.get_mut(at)?;
                if slot.is_none() {
                    *slot = Deflater::new(level, bits, mem_level);
                    self.deflater_bytes += Deflater::memory_bytes(bits, mem_level);
                }
                let shared = slot.as_mut()?;
                shared.reset();
                shared
            }
        };
        self.budget = budget;
        self.wire.clear();
        if !deflater.compress(payload, &mut self.wire, bytes_max) {
            self.tally.not_smaller += 1;
            return None;
        }
        self.tally.messages += 1;
        self.tally.message_bytes += payload.len() as u64;
        self.tally.wire_bytes += self.wire.len() as u64;
        Some(&self.wire)
    }

    /// Appends a message as one frame, compressed as by [`Compression::compress`] if that makes it
    /// smaller. `mask` is a client's. Whether it is compressed.
    pub fn push_message(
        &mut self,
        out: &mut Vec<u8>,
        (opcode, payload): (OpCode, &[u8]),
        mask: Option<[u8; 4]>,
        window_bits: u8,
        own: Option<&mut Takeover>,
    ) -> bool {
        let compressed = self.compress(payload, window_bits, own);
        let is_compressed = compressed.is_some();
        let body = compressed.unwrap_or(payload);
        let mut header = [0; HEADER_BYTES_MAX];
        let len = header::encode(true, opcode, body.len() as u64, mask, &mut header);
        if is_compressed {
            header[0] |= header::RSV1;
        }
        out.reserve(len + body.len());
        out.extend_from_slice(&header[..len]);
        let start = out.len();
        out.extend_from_slice(body);
        if let Some(key) = mask {
            apply_mask(&mut out[start..], key, 0);
        }
        is_compressed
    }

    /// What was compressed since the start.
    #[must_use]
    pub const fn tally(&self) -> Tally {
        self.tally
    }

    /// Bytes of memory that it takes.
    #[must_use]
    pub const fn memory_bytes(&self) -> usize {
        self.wire.capacity() + self.deflater_bytes
    }

    /// Gives its memory back.
    pub fn trim(&mut self) {
        self.deflaters = [const { None }; WINDOWS];
        self.deflater_bytes = 0;
        self.wire = Vec::new();
    }
}

const WINDOWS: usize = (WINDOW_BITS_MAX - DEFLATE_WINDOW_BITS_MIN) as usize + 1;
