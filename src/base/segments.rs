//! What goes out in one send: a short list of byte runs, owned or shared.
//!
//! A run is either bytes that only one connection will send, or a frame that many send and
//! nobody copies. The list moves into the engine with the send and comes back with its last
//! completion, so whatever the kernel reads stays in place until it has been read.

use std::{fmt, rc::Rc};

use bytes::Bytes;
use smallvec::SmallVec;

/// A frame encoded once for many receivers of one core.
///
/// The inner [`Bytes`] crosses cores (one atomic clone per core); within a core the clone is a
/// plain counter.
#[derive(Clone, Debug)]
pub struct SharedFrame(Rc<Bytes>);

impl SharedFrame {
    /// Shares `frame` within this core.
    pub fn new(frame: Bytes) -> Self {
        Self(Rc::new(frame))
    }

    /// The encoded bytes.
    pub fn as_slice(&self) -> &[u8] {
        &self.0
    }

    /// Length in bytes.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether the frame has no bytes.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

/// Bytes that lie where they were received, and are sent from there. Dropping them gives the place
/// back.
pub struct Lent(Box<dyn AsRef<[u8]>>);

impl Lent {
    /// What an engine has lent.
    pub const fn new(bytes: Box<dyn AsRef<[u8]>>) -> Self {
        Self(bytes)
    }

    /// The bytes.
    pub fn as_slice(&self) -> &[u8] {
        (*self.0).as_ref()
    }
}

impl fmt::Debug for Lent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Lent")
            .field("bytes", &self.as_slice().len())
            .finish()
    }
}

/// One run of bytes to send.
#[derive(Debug)]
pub enum Segment {
    /// Bytes of this connection alone, from `start` on: what lies before is spare headroom.
    Owned {
        /// The buffer.
        buf: Vec<u8>,
        /// Where the bytes to send begin.
        start: usize,
    },
    /// A frame that others send too.
    Shared(SharedFrame),
    /// A frame where it was received, or the payload of one.
    Lent {
        /// The bytes.
        bytes: Lent,
        /// They are the payload of a frame whose header ends the segment before: both go in one batch,
        /// so that a batch always ends with a frame.
        is_glued: bool,
    },
}

impl Segment {
    /// The bytes to send.
    pub fn as_slice(&self) -> &[u8] {
        match self {
            Self::Owned { buf, start } => &buf[*start..],
            Self::Shared(frame) => frame.as_slice(),
            Self::Lent { bytes, .. } => bytes.as_slice(),
        }
    }

    /// How many bytes there are to send.
    pub fn len(&self) -> usize {
        match self {
            Self::Owned { buf, start } => buf.len() - start,
            Self::Shared(frame) => frame.len(),
            Self::Lent { bytes, .. } => bytes.as_slice().len(),
        }
    }

    /// Whether there is nothing to send.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    fn is_shared_up_to(&self, bytes_max: usize) -> bool {
        matches!(self, Self::Shared(frame) if frame.len() <= bytes_max)
    }
}

/// The segments of one send, with a mark of how far the kernel has taken them.
///
/// It is filled where it waits and travels to the kernel and back as a box: what is handed on is a
/// pointer, and a queue with nothing in it is a null.
#[derive(Debug, Default)]
pub struct SendBatch {
    segments: SmallVec<[Segment; 1]>,
    /// Segments taken whole.
    done: usize,
    /// Bytes taken of the segment at `done`.
    offset: usize,
    remaining: usize,
}

impl SendBatch {
    /// Adds a segment at the end.
    pub fn push(&mut self, segment: Segment) {
        self.remaining += segment.len();
        self.segments.push(segment);
    }

    /// Adds bytes behind the last ones: `write` appends to the last segment if that is an owned run
    /// of less than `run_bytes_max`, else to a buffer that `new_run` gives. A shared frame of up to
    /// `copied_bytes_max` that stands last is copied there first: one run costs the kernel less than
    /// two.
    #[inline]
    pub fn append(
        &mut self,
        run_bytes_max: usize,
        copied_bytes_max: usize,
        new_run: impl FnOnce() -> Vec<u8>,
        write: impl FnOnce(&mut Vec<u8>),
    ) {
        match self.segments.last_mut() {
            Some(Segment::Owned { buf, .. }) if buf.len() < run_bytes_max => {
                let before = buf.len();
                write(buf);
                self.remaining += buf.len() - before;
            }
            Some(last) if last.is_shared_up_to(copied_bytes_max) => {
                let mut buf = new_run();
                buf.extend_from_slice(last.as_slice());
                let before = buf.len();
                write(&mut buf);
                self.remaining += buf.len() - before;
                *last = Segment::Owned { buf, start: 0 };
            }
            _ => {
                let mut buf = new_run();
                write(&mut buf);
                self.push(Segment::Owned { buf, start: 0 });
            }
        }
    }

    /// Moves segments from the front of `from` to the end of this one: at most `segments_max` of
    /// them, and beyond the first no more than `bytes_max` bytes. Neither has been sent in part.
    pub fn take_front(&mut self, from: &mut Self, segments_max: usize, bytes_max: usize) {
        debug_assert!(from.done == 0 && from.offset == 0);
        let mut bytes = 0;
        let fitting = from
            .segments
            .iter()
            .take(segments_max)
            .take_while(|segment| {
                let fits = bytes == 0 || bytes + segment.len() <= bytes_max;
                bytes += segment.len();
                fits
            });
        let mut count = fitting.count();
        let is_glued = |at: usize| {
            let next = from.segments.get(at);
            next.is_some_and(|next| matches!(next, Segment::Lent { is_glued: true, .. }))
        };
        if is_glued(count) {
            count -= 1;
        }
        if count == 0 {
            // A header alone: with its payload, whatever the bounds.
            count = 2;
        }
        for segment in from.segments.drain(..count) {
            from.remaining -= segment.len();
            self.remaining += segment.len();
            self.segments.push(segment);
        }
    }

    /// Bytes not yet taken.
    #[inline]
    pub const fn remaining(&self) -> usize {
        self.remaining
    }

    /// How many segments it was made of.
    pub fn segments(&self) -> usize {
        self.segments.len()
    }

    /// The byte runs not yet taken, in order.
    pub fn pending(&self) -> impl Iterator<Item = &[u8]> {
        let offset = self.offset;
        self.segments[self.done..]
            .iter()
            .enumerate()
            .map(move |(n, segment)| {
                let bytes = segment.as_slice();
                if n == 0 { &bytes[offset..] } else { bytes }
            })
            .filter(|bytes| !bytes.is_empty())
    }

    /// Marks the next `n` bytes as taken; more than [`SendBatch::remaining`] counts as all.
    pub fn advance(&mut self, n: usize) {
        let mut n = n.min(self.remaining);
        self.remaining -= n;
        while let Some(segment) = self.segments.get(self.done) {
            let left = segment.len() - self.offset;
            if n < left {
                self.offset += n;
                break;
            }
            n -= left;
            self.offset = 0;
            self.done += 1;
        }
    }

    /// Takes the segments out, for their buffers to be used again; the batch is as new then.
    pub fn drain(&mut self) -> impl Iterator<Item = Segment> {
        (self.done, self.offset, self.remaining) = (0, 0, 0);
        self.segments.drain(..)
    }

    /// Whether it has the memory of a batch of many segments.
    pub fn is_spilled(&self) -> bool {
        self.segments.spilled()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn batch() -> SendBatch {
        let mut batch = SendBatch::default();
        batch.push(Segment::Owned {
            buf: b"..abc".to_vec(),
            start: 2,
        });
        batch.push(Segment::Shared(SharedFrame::new(Bytes::from_static(
            b"defg",
        ))));
        batch.push(Segment::Owned {
            buf: b"h".to_vec(),
            start: 0,
        });
        batch
    }

    #[test]
    fn any_split_of_advances_sends_every_byte_once() {
        for step in 1..9 {
            let mut batch = batch();
            let mut sent = Vec::new();
            while batch.remaining() > 0 {
                let pending: Vec<u8> = batch.pending().flatten().copied().collect();
                assert_eq!(pending.len(), batch.remaining());
                let n = step.min(pending.len());
                sent.extend_from_slice(&pending[..n]);
                batch.advance(n);
            }
            assert_eq!(sent, b"abcdefgh");
            assert_eq!(batch.pending().count(), 0);
        }
    }

    #[test]
    fn a_header_and_its_payload_are_never_parted() {
        for (segments_max, bytes_max, taken) in [(1, 100, 2), (2, 100, 2), (3, 100, 2), (4, 5, 2)] {
            let mut from = SendBatch::default();
            for _ in 0..2 {
                let buf = b"hd".to_vec();
                from.push(Segment::Owned { buf, start: 0 });
                from.push(Segment::Lent {
                    bytes: Lent::new(Box::new(b"load".to_vec())),
                    is_glued: true,
                });
            }
            let mut batch = SendBatch::default();
            batch.take_front(&mut from, segments_max, bytes_max);
            assert_eq!(batch.segments(), taken, "{segments_max} {bytes_max}");
            assert_eq!((batch.remaining(), from.remaining()), (6, 6));
        }
    }

    #[test]
    fn advancing_too_far_stops_at_the_end() {
        let mut batch = batch();
        batch.advance(1_000);
        assert_eq!(batch.remaining(), 0);
        assert_eq!(batch.drain().count(), 3);
        assert_eq!(batch.drain().count(), 0);
    }
}
