//! What waits to be sent to one client: short frames in one run, long and shared ones by
//! reference.
//!
//! The bound is the owner's: [`Outbound::buffered_bytes`] is compared with
//! `limits.buffered_bytes_high` before anything more is queued.

use smallvec::SmallVec;

use crate::base::{
    limits::{
        COALESCE_BYTES_MAX, COALESCED_RUN_BYTES_MAX, SEND_BATCH_BYTES_MAX, SEND_SEGMENTS_MAX,
        SPARE_BUFFER_BYTES_MAX, SPARE_BUFFERS_MAX,
    },
    segments::{Segment, SendBatch, SharedFrame},
};

/// Empty buffers of a core, to be filled by whichever client has something to say.
#[derive(Debug, Default)]
pub struct SpareBuffers(Vec<Vec<u8>>);

impl SpareBuffers {
    fn take(&mut self) -> Vec<u8> {
        self.0.pop().unwrap_or_default()
    }

    fn put(&mut self, mut buf: Vec<u8>) {
        if self.0.len() < SPARE_BUFFERS_MAX
            && (1..=SPARE_BUFFER_BYTES_MAX).contains(&buf.capacity())
        {
            buf.clear();
            self.0.push(buf);
        }
    }

    /// Gives the buffers' memory back.
    pub fn trim(&mut self) {
        self.0 = Vec::new();
    }

    /// Takes a sent batch apart and keeps the buffers that are worth it.
    pub fn reclaim(&mut self, batch: SendBatch) {
        for segment in batch.into_segments() {
            if let Segment::Owned { buf, .. } = segment {
                self.put(buf);
            }
        }
    }
}

/// One client's queue. An empty one owns no memory.
#[derive(Debug, Default)]
pub struct Outbound {
    segments: SmallVec<[Segment; 1]>,
    queued: usize,
    in_flight: usize,
}

impl Outbound {
    /// Bytes queued or handed over, and not yet taken by the kernel: `bufferedAmount`.
    pub const fn buffered_bytes(&self) -> usize {
        self.queued + self.in_flight
    }

    /// Whether nothing waits to be handed over.
    pub const fn is_empty(&self) -> bool {
        self.queued == 0
    }

    /// Whether nothing waits and nothing is on its way.
    pub const fn is_drained(&self) -> bool {
        self.buffered_bytes() == 0
    }

    /// Queues bytes by writing them to the end of the last run.
    pub fn write(&mut self, spare: &mut SpareBuffers, write: impl FnOnce(&mut Vec<u8>)) {
        let run = self.open_run(spare);
        let before = run.len();
        write(run);
        self.queued += run.len() - before;
    }

    /// Queues a frame that others get too: short ones are copied behind others, since one run
    /// costs the kernel less than many; long ones and a first one go by reference.
    #[inline]
    pub fn push_shared(&mut self, spare: &mut SpareBuffers, frame: &SharedFrame) {
        if self.segments.is_empty() || frame.len() > COALESCE_BYTES_MAX {
            self.queued += frame.len();
            self.segments.push(Segment::Shared(frame.clone()));
        } else {
            self.write(spare, |run| run.extend_from_slice(frame.as_slice()));
        }
    }

    /// Queues a buffer of this client alone, from `start` on.
    pub fn push_owned(&mut self, buf: Vec<u8>, start: usize) {
        let segment = Segment::Owned { buf, start };
        self.queued += segment.len();
        self.segments.push(segment);
    }

    /// What to send next, marked as on its way; none if nothing waits.
    pub fn take_batch(&mut self) -> Option<SendBatch> {
        if self.queued == 0 {
            return None;
        }
        let mut batch = SendBatch::default();
        if self.segments.len() <= SEND_SEGMENTS_MAX && self.queued <= SEND_BATCH_BYTES_MAX {
            for segment in self.segments.drain(..) {
                batch.push(segment);
            }
            // A long queue's memory does not outlive the queue.
            self.segments.shrink_to_fit();
        } else {
            let mut count = 0;
            let mut bytes = 0;
            for segment in self.segments.iter().take(SEND_SEGMENTS_MAX) {
                if count > 0 && bytes + segment.len() > SEND_BATCH_BYTES_MAX {
                    break;
                }
                bytes += segment.len();
                count += 1;
            }
            for segment in self.segments.drain(..count) {
                batch.push(segment);
            }
        }
        self.queued -= batch.remaining();
        self.in_flight += batch.remaining();
        Some(batch)
    }

    /// The kernel took `bytes` of what is on its way.
    pub const fn on_sent(&mut self, bytes: usize) {
        self.in_flight = self.in_flight.saturating_sub(bytes);
    }

    /// Drops what was not handed over yet, and says how many bytes that was. What is on its way
    /// stays, so the stream still ends at a frame's boundary.
    pub fn clear_queued(&mut self) -> usize {
        self.segments = SmallVec::new();
        std::mem::take(&mut self.queued)
    }

    fn open_run(&mut self, spare: &mut SpareBuffers) -> &mut Vec<u8> {
        let open = matches!(
            self.segments.last(),
            Some(Segment::Owned { buf, .. }) if buf.len() < COALESCED_RUN_BYTES_MAX
        );
        if !open {
            self.segments.push(Segment::Owned {
                buf: spare.take(),
                start: 0,
            });
        }
        match self.segments.last_mut() {
            Some(Segment::Owned { buf, .. }) => buf,
            _ => unreachable!("invariant: an open run is the last segment"),
        }
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn short_frames_make_one_run_and_long_ones_go_by_reference() {
        let mut spare = SpareBuffers::default();
        let mut out = Outbound::default();
        let short = SharedFrame::new(Bytes::from_static(b"short"));
        let long = SharedFrame::new(Bytes::from(vec![7; COALESCE_BYTES_MAX + 1]));
        out.push_shared(&mut spare, &short);
        out.push_shared(&mut spare, &short);
        out.write(&mut spare, |run| run.extend_from_slice(b"own"));
        out.push_shared(&mut spare, &long);
        let batch = out.take_batch().unwrap();
        assert_eq!(batch.segments(), 3);
        assert_eq!(batch.remaining(), 5 + 5 + 3 + long.len());
        assert!(out.is_empty() && !out.is_drained());
        out.on_sent(batch.remaining());
        assert!(out.is_drained());
        assert!(out.take_batch().is_none());
    }

    #[test]
    fn clearing_keeps_what_is_on_its_way() {
        let mut spare = SpareBuffers::default();
        let mut out = Outbound::default();
        out.write(&mut spare, |run| run.extend_from_slice(b"gone"));
        let batch = out.take_batch().unwrap();
        out.write(&mut spare, |run| run.extend_from_slice(b"dropped"));
        assert_eq!(out.clear_queued(), 7);
        assert_eq!(out.buffered_bytes(), 4);
        spare.reclaim(batch);
        assert_eq!(spare.0.len(), 1);
    }

    proptest! {
        #[test]
        fn whatever_the_mix_every_byte_leaves_once_and_in_order(
            pieces in proptest::collection::vec((0u8..3, 1usize..40_000), 1..60)
        ) {
            let mut spare = SpareBuffers::default();
            let mut out = Outbound::default();
            let (mut want, mut got) = (Vec::new(), Vec::new());
            for (n, (kind, len)) in pieces.into_iter().enumerate() {
                let bytes = vec![n as u8; len];
                want.extend_from_slice(&bytes);
                match kind {
                    0 => out.write(&mut spare, |run| run.extend_from_slice(&bytes)),
                    1 => out.push_owned(bytes, 0),
                    _ => out.push_shared(&mut spare, &SharedFrame::new(bytes.into())),
                }
                prop_assert_eq!(out.buffered_bytes(), want.len());
            }
            while let Some(batch) = out.take_batch() {
                prop_assert!(batch.segments() <= SEND_SEGMENTS_MAX);
                prop_assert!(batch.segments() == 1 || batch.remaining() <= SEND_BATCH_BYTES_MAX);
                for run in batch.pending() {
                    got.extend_from_slice(run);
                }
                out.on_sent(batch.remaining());
                spare.reclaim(batch);
            }
            prop_assert_eq!(got, want);
            prop_assert!(out.is_drained());
        }
    }
}
