//! A message in a buffer of its own, with room in front for the header of the frame it may be
//! sent on in (RFC 6455 §5.2).

use super::header::{HEADER_BYTES_MAX, OpCode, UNMASKED_HEADER_BYTES_MAX, encode};

/// The bytes of one message, owned, and [`HEADROOM_BYTES`] before them.
///
/// Empty ones own no heap.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct MessageBuf {
    /// Empty, or the headroom and the payload after it.
    bytes: Vec<u8>,
}

impl MessageBuf {
    /// An empty message without a heap allocation.
    #[must_use]
    pub const fn new() -> Self {
        Self { bytes: Vec::new() }
    }

    /// The message's bytes.
    #[inline]
    #[must_use]
    pub fn payload(&self) -> &[u8] {
        self.bytes.get(HEADROOM_BYTES..).unwrap_or_default()
    }

    /// The message's bytes, to change in place.
    #[inline]
    pub fn payload_mut(&mut self) -> &mut [u8] {
        self.bytes.get_mut(HEADROOM_BYTES..).unwrap_or_default()
    }

    /// Bytes of payload.
    #[inline]
    #[must_use]
    pub fn len(&self) -> usize {
        self.bytes.len().saturating_sub(HEADROOM_BYTES)
    }

    /// Whether there is no payload.
    #[inline]
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Bytes of heap held.
    #[inline]
    #[must_use]
    pub fn capacity(&self) -> usize {
        self.bytes.capacity()
    }

    /// Appends to the payload.
    pub fn extend_from_slice(&mut self, bytes: &[u8]) {
        if bytes.is_empty() {
            return;
        }
        self.ensure_headroom();
        self.bytes.extend_from_slice(bytes);
    }

    /// Writes an unmasked header of a final frame right before the payload, which is not copied.
    ///
    /// Gives the buffer and where in it the frame starts; the frame reaches to its end.
    #[must_use]
    pub fn into_frame(mut self, opcode: OpCode) -> (Vec<u8>, usize) {
        self.ensure_headroom();
        let mut header = [0; HEADER_BYTES_MAX];
        let len = encode(true, opcode, self.len() as u64, None, &mut header);
        let start = HEADROOM_BYTES - len;
        self.bytes[start..HEADROOM_BYTES].copy_from_slice(&header[..len]);
        (self.bytes, start)
    }

    /// Makes room for `plan.needed` bytes more, and for what `plan` allows beyond them.
    pub(super) fn grow(&mut self, plan: Growth) {
        self.ensure_headroom_with(plan.needed.max(plan.ahead));
        let len = self.bytes.len();
        if self.bytes.capacity() - len >= plan.needed {
            return;
        }
        // Half of what has arrived keeps the copying linear in the message, however small its
        // pieces are, and needs the peer to have sent twice as much.
        let amortized = (len / 2).min(plan.limit.saturating_sub(self.len()));
        self.bytes
            .reserve_exact(plan.needed.max(plan.ahead).max(amortized));
    }

    /// The buffer with its headroom, for bytes to be appended to it.
    pub(super) fn into_raw(self) -> Vec<u8> {
        self.bytes
    }

    /// The inverse of [`MessageBuf::into_raw`].
    pub(super) fn from_raw(bytes: Vec<u8>) -> Self {
        assert!(
            bytes.is_empty() || bytes.len() >= HEADROOM_BYTES,
            "a message's buffer keeps its headroom"
        );
        Self { bytes }
    }

    fn ensure_headroom(&mut self) {
        self.ensure_headroom_with(0);
    }

    fn ensure_headroom_with(&mut self, payload_bytes: usize) {
        if self.bytes.len() < HEADROOM_BYTES {
            self.bytes.reserve_exact(HEADROOM_BYTES + payload_bytes);
            self.bytes.resize(HEADROOM_BYTES, 0);
        }
    }
}

/// How far a message's buffer may grow at once, in bytes.
#[derive(Debug, Clone, Copy)]
pub(super) struct Growth {
    /// What is about to be appended.
    pub(super) needed: usize,
    /// What may be reserved on the strength of the announced length.
    pub(super) ahead: usize,
    /// The most payload that the message can have.
    pub(super) limit: usize,
}

/// Room for the longest unmasked header.
pub const HEADROOM_BYTES: usize = UNMASKED_HEADER_BYTES_MAX;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::ws::header::push_frame;

    #[test]
    fn a_frame_is_written_around_the_payload() {
        for len in [0, 1, 125, 126, 65535, 65536] {
            let payload = vec![0x5A; len];
            let mut message = MessageBuf::new();
            message.extend_from_slice(&payload);
            assert_eq!(message.payload(), payload);
            assert_eq!(message.len(), len);
            let at = message.payload().as_ptr();
            let (bytes, start) = message.into_frame(OpCode::Binary);
            if len > 0 {
                assert_eq!(bytes[HEADROOM_BYTES..].as_ptr(), at, "the payload moved");
            }
            let mut expected = Vec::new();
            push_frame(&mut expected, OpCode::Binary, &payload);
            assert_eq!(bytes[start..], expected);
        }
    }

    #[test]
    fn empty_messages_own_no_heap() {
        let mut message = MessageBuf::new();
        message.extend_from_slice(b"");
        assert_eq!(message.capacity(), 0);
        assert!(message.is_empty());
        assert!(message.payload_mut().is_empty());
    }

    #[test]
    fn growth_follows_what_arrived() {
        let mut message = MessageBuf::new();
        let mut moves = 0;
        let mut at = 0;
        for _ in 0..100_000 {
            message.grow(Growth {
                needed: 1,
                ahead: 1,
                limit: 1 << 20,
            });
            message.extend_from_slice(b"x");
            assert!(message.capacity() <= HEADROOM_BYTES + message.len() * 3 / 2 + 16);
            if message.capacity() != at {
                at = message.capacity();
                moves += 1;
            }
        }
        assert!(moves < 40, "{moves} reallocations");
    }
}
