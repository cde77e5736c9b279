//! What waits to be sent to one client: short frames in one run, long and shared ones by
//! reference.
//!
//! A room's message that its policy may drop is *offered* ([`Outbound::offer`]). While the client
//! keeps up it is queued like everything else. Behind a client that does not, a second list
//! (`pending`) opens; from then on everything waits there in one order, and moves to the queue as
//! that empties:
//!
//! ```text
//!   offer ──┬──keeps up──────────────────▶ segments ──take_batch──▶ in flight
//!           └──behind──▶ pending ──refill──▶  ▲
//!   write ──┬──▶ pending, if there is one     │
//!           └─────────────────────────────────┘
//! ```
//!
//! The bound on what can't be dropped is the owner's: [`Outbound::firm_bytes`] is compared with
//! `limits.buffered_bytes_high` before anything more is queued.

mod pending;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use self::pending::{Pending, Taken};
use super::LocalRoomKey;
use crate::{
    base::{
        limits::{
            BORROWED_BYTES_MAX, COALESCED_RUN_BYTES_MAX, PENDING_MOVES_MAX, SEND_BATCH_BYTES_MAX,
            SEND_SEGMENTS_MAX, SPARE_BATCHES_MAX, SPARE_BUFFER_BYTES_MAX, SPARE_BUFFERS_MAX,
        },
        segments::{Lent, Segment, SendBatch, SharedFrame},
    },
    config::SlowClient,
};

/// What the queues of a core share: empty buffers, to be filled by whichever client has something
/// to say, and the tally of what was dropped.
#[derive(Debug)]
pub struct SpareBuffers {
    empty: Vec<Vec<u8>>,
    #[allow(
        clippy::vec_box,
        reason = "a queue takes the box as it is: making one is what this saves"
    )]
    batches: Vec<Box<SendBatch>>,
    tally: Tally,
    coalesce_bytes_max: usize,
}

/// What the queues of a core have dropped since the start, in messages; and what they told of it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// Dropped after having waited, for want of room.
    pub dropped_oldest: u64,
    /// Dropped as they came, for want of room.
    pub dropped_newest: u64,
    /// Dropped because a newer one of the same key came.
    pub conflated: u64,
    /// Gaps queued.
    pub gaps: u64,
}

impl SpareBuffers {
    /// None yet. A frame of up to `coalesce_bytes_max` bytes is copied behind others; a longer
    /// one goes by reference.
    pub const fn new(coalesce_bytes_max: usize) -> Self {
        Self {
            empty: Vec::new(),
            batches: Vec::new(),
            tally: Tally {
                dropped_oldest: 0,
                dropped_newest: 0,
                conflated: 0,
                gaps: 0,
            },
            coalesce_bytes_max,
        }
    }

    /// See [`SpareBuffers::new`].
    #[inline]
    pub const fn coalesce_bytes_max(&self) -> usize {
        self.coalesce_bytes_max
    }

    /// What was dropped so far.
    pub const fn tally(&self) -> Tally {
        self.tally
    }

    /// An empty buffer.
    pub fn take(&mut self) -> Vec<u8> {
        self.empty.pop().unwrap_or_default()
    }

    /// Gives a buffer back, to be kept if it is worth it.
    pub fn put(&mut self, mut buf: Vec<u8>) {
        if self.empty.len() < SPARE_BUFFERS_MAX
            && (1..=SPARE_BUFFER_BYTES_MAX).contains(&buf.capacity())
        {
            buf.clear();
            self.empty.push(buf);
        }
    }

    /// An empty batch.
    #[inline]
    pub fn take_batch(&mut self) -> Box<SendBatch> {
        self.batches.pop().unwrap_or_default()
    }

    /// Gives the buffers' memory back.
    pub fn trim(&mut self) {
        self.empty = Vec::new();
        self.batches = Vec::new();
    }

    /// Takes a sent batch apart and keeps of it what is worth it.
    #[inline]
    pub fn reclaim(&mut self, mut batch: Box<SendBatch>) {
        for segment in batch.drain() {
            if let Segment::Owned { buf, .. } = segment {
                self.put(buf);
            }
        }
        if self.batches.len() < SPARE_BATCHES_MAX && !batch.is_spilled() {
            self.batches.push(batch);
        }
    }
}

/// How a member takes a room's frame.
#[derive(Clone, Copy, Debug)]
pub enum Handling<'a> {
    /// It must not be dropped.
    Firm,
    /// It is worth something only at once: a client that is behind does not get it.
    Ephemeral,
    /// It may be dropped, and a gap then tells.
    Droppable(Droppable<'a>),
}

/// What is known of a frame that may be dropped.
#[derive(Clone, Copy, Debug)]
pub struct Droppable<'a> {
    /// Its room.
    pub room: LocalRoomKey,
    /// The room's name.
    pub name: &'a Arc<str>,
    /// What is dropped when not everything fits; not `evict`.
    pub policy: SlowClient,
    /// Its place in the room, or the last one if it holds several messages.
    pub last: u64,
    /// How many messages it stands for.
    pub count: u64,
    /// Its conflation key.
    pub key: Option<&'a str>,
}

/// What holds for one client's queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Terms {
    /// `limits.buffered_bytes_high`: beyond it messages are dropped.
    pub high: usize,
    /// `limits.buffered_bytes_low`: beyond it messages wait where they can still be dropped.
    pub low: usize,
    /// Whether the client is told of what was dropped.
    pub tells_gaps: bool,
}

/// Dropped messages, as a client is told of them.
#[derive(Clone, Copy, Debug)]
pub struct Gap<'a> {
    /// The room's name.
    pub room: &'a str,
    /// How many are missing.
    pub dropped: u64,
    /// The place behind the last of them.
    pub next_seq: u64,
}

/// One client's queue. An empty one owns no memory.
#[derive(Debug, Default)]
pub struct Outbound {
    /// What is sent next, built as the batch that the kernel is given; never empty.
    next: Option<Box<SendBatch>>,
    /// What comes after it, behind a client that does not keep up. Never empty.
    pending: Option<Box<Pending>>,
    /// Bytes handed over and not taken yet. One batch: [`SEND_BATCH_BYTES_MAX`] or one message.
    in_flight: u32,
}

impl Outbound {
    /// Bytes queued or handed over, and not yet taken by the kernel: `bufferedAmount`. What may
    /// still be dropped counts, with what it takes beside its bytes.
    pub const fn buffered_bytes(&self) -> usize {
        let pending = match &self.pending {
            Some(pending) => pending.cost(),
            None => 0,
        };
        self.committed() + pending
    }

    /// The part of [`Outbound::buffered_bytes`] that can't be dropped.
    #[inline]
    pub const fn firm_bytes(&self) -> usize {
        let pending = match &self.pending {
            Some(pending) => pending.firm(),
            None => 0,
        };
        self.committed() + pending
    }

    /// What decides on eviction: what can't be dropped, and the `unsent` bytes that the kernel holds.
    /// Those do not count once droppable messages wait: then the kernel's buffer is full by nature,
    /// and the client's rooms have said that it is not to be evicted for being behind.
    #[inline]
    pub const fn evicting_bytes(&self, unsent: usize) -> usize {
        match self.pending {
            Some(_) => self.firm_bytes(),
            None => self.firm_bytes() + unsent,
        }
    }

    const fn queued(&self) -> usize {
        match &self.next {
            Some(next) => next.remaining(),
            None => 0,
        }
    }

    const fn committed(&self) -> usize {
        self.queued() + self.in_flight as usize
    }

    /// Whether nothing waits to be handed over.
    pub const fn is_empty(&self) -> bool {
        self.next.is_none() && self.pending.is_none()
    }

    /// Whether nothing waits and nothing is on its way.
    pub const fn is_drained(&self) -> bool {
        self.is_empty() && self.in_flight == 0
    }

    /// Whether the client is so far behind that what is worth something only at once is lost on
    /// it.
    pub const fn is_behind(&self, low: usize) -> bool {
        self.pending.is_some() || self.committed() >= low
    }

    /// Queues a frame that may be dropped, or what the room's policy makes of it. Whether the
    /// frame is queued; if not, a gap stands where it would have stood.
    pub fn offer(
        &mut self,
        spare: &mut SpareBuffers,
        frame: &SharedFrame,
        message: &Droppable<'_>,
        terms: Terms,
    ) -> bool {
        let committed = self.committed();
        // What is queued for good stays below the mark, so that little of it is not droppable.
        let keeps_up = committed == 0 || committed + frame.len() <= terms.low;
        if keeps_up && self.pending.is_none() {
            self.push_shared(spare, frame);
            return true;
        }
        let pending = self
            .pending
            .get_or_insert_with(|| Box::new(Pending::new(terms)));
        let taken = pending.offer(committed, frame, message, terms, &mut spare.tally);
        if pending.is_empty() {
            self.pending = None;
        }
        taken
    }

    /// Queues bytes by writing them to the end of the last run.
    pub fn write(&mut self, spare: &mut SpareBuffers, write: impl FnOnce(&mut Vec<u8>)) {
        let committed = self.committed();
        if let Some(pending) = &mut self.pending {
            pending.write(spare, write);
            return pending.shed(committed, &mut spare.tally);
        }
        self.append(spare, write);
    }

    #[inline]
    fn append(&mut self, spare: &mut SpareBuffers, write: impl FnOnce(&mut Vec<u8>)) {
        let next = match &mut self.next {
            Some(next) => next,
            none => none.insert(spare.take_batch()),
        };
        let copied = spare.coalesce_bytes_max;
        next.append(COALESCED_RUN_BYTES_MAX, copied, || spare.take(), write);
    }

    fn push(&mut self, spare: &mut SpareBuffers, segment: Segment) {
        let next = match &mut self.next {
            Some(next) => next,
            none => none.insert(spare.take_batch()),
        };
        next.push(segment);
    }

    /// Queues a frame that others get too: short ones are copied behind others, since one run
    /// costs the kernel less than many; long ones go by reference, and so does a short one as long
    /// as it is alone.
    #[inline]
    pub fn push_shared(&mut self, spare: &mut SpareBuffers, frame: &SharedFrame) {
        if self.pending.is_some() {
            return self.push_shared_behind(spare, frame);
        }
        if self.next.is_none() || frame.len() > spare.coalesce_bytes_max() {
            self.push(spare, Segment::Shared(frame.clone()));
        } else {
            self.append(spare, |run| run.extend_from_slice(frame.as_slice()));
        }
    }

    #[cold]
    fn push_shared_behind(&mut self, spare: &mut SpareBuffers, frame: &SharedFrame) {
        let committed = self.committed();
        if let Some(pending) = &mut self.pending {
            pending.push_shared(spare, frame);
            pending.shed(committed, &mut spare.tally);
        }
    }

    /// Queues a frame where it was received.
    pub fn push_lent(&mut self, spare: &mut SpareBuffers, frame: Lent) {
        self.push_last(
            spare,
            Segment::Lent {
                bytes: frame,
                is_glued: false,
            },
        );
    }

    /// Queues a frame whose payload is where it was received.
    pub fn push_lent_payload(&mut self, spare: &mut SpareBuffers, header: &[u8], payload: Lent) {
        self.write(spare, |run| run.extend_from_slice(header));
        self.push_last(
            spare,
            Segment::Lent {
                bytes: payload,
                is_glued: true,
            },
        );
    }

    /// Whether little enough waits that more may be queued where it was received: what does not go
    /// out soon would keep receive buffers from their use.
    pub fn may_borrow(&self) -> bool {
        self.pending.is_none() && self.committed() <= BORROWED_BYTES_MAX
    }

    fn push_last(&mut self, spare: &mut SpareBuffers, segment: Segment) {
        let committed = self.committed();
        if let Some(pending) = &mut self.pending {
            pending.push_fixed(segment);
            return pending.shed(committed, &mut spare.tally);
        }
        self.push(spare, segment);
    }

    /// Queues a buffer of this client alone, from `start` on.
    pub fn push_owned(&mut self, spare: &mut SpareBuffers, buf: Vec<u8>, start: usize) {
        self.push_last(spare, Segment::Owned { buf, start });
    }

    /// What to send next, marked as on its way; none if nothing waits. `write_gap` writes a gap as
    /// the client reads it.
    pub fn take_batch(
        &mut self,
        spare: &mut SpareBuffers,
        write_gap: impl Fn(&mut Vec<u8>, Gap<'_>),
    ) -> Option<Box<SendBatch>> {
        if let Some(pending) = self.pending.take() {
            self.refill(pending, spare, write_gap);
        }
        let mut batch = self.next.take()?;
        if batch.segments() > SEND_SEGMENTS_MAX
            || batch.remaining() > SEND_BATCH_BYTES_MAX && batch.segments() > 1
        {
            let mut rest = batch;
            batch = spare.take_batch();
            batch.take_front(&mut rest, SEND_SEGMENTS_MAX, SEND_BATCH_BYTES_MAX);
            self.next = (rest.remaining() > 0).then_some(rest);
        }
        self.in_flight += batch.remaining() as u32;
        Some(batch)
    }

    /// Moves what waits to the queue, as much as belongs there.
    #[cold]
    fn refill(
        &mut self,
        mut pending: Box<Pending>,
        spare: &mut SpareBuffers,
        write_gap: impl Fn(&mut Vec<u8>, Gap<'_>),
    ) {
        for _ in 0..PENDING_MOVES_MAX {
            let committed = self.committed();
            let fits = |bytes| committed == 0 || committed + bytes <= pending.terms().low;
            if !pending.front_bytes().is_some_and(fits) {
                break;
            }
            match pending.pop_front() {
                Some(Taken::Segment(segment)) => self.push(spare, segment),
                Some(Taken::Message(frame)) => self.push_shared(spare, &frame),
                Some(Taken::Gap {
                    room,
                    dropped,
                    next_seq,
                }) => {
                    spare.tally.gaps += 1;
                    let gap = Gap {
                        room: &room,
                        dropped,
                        next_seq,
                    };
                    self.write(spare, |run| write_gap(run, gap));
                }
                None => break,
            }
        }
        if !pending.is_empty() {
            self.pending = Some(pending);
        }
    }

    /// Of what is on its way, `plain` bytes have become `sealed` ones.
    pub const fn on_sealed(&mut self, plain: usize, sealed: usize) {
        self.in_flight = self.in_flight.saturating_sub(plain as u32) + sealed as u32;
    }

    /// Of what is on its way, `plain` bytes will not become any.
    pub const fn forget_unsealed(&mut self, plain: usize) {
        self.in_flight = self.in_flight.saturating_sub(plain as u32);
    }

    /// The kernel took `bytes` of what is on its way.
    pub const fn on_sent(&mut self, bytes: usize) {
        self.in_flight = self.in_flight.saturating_sub(bytes as u32);
    }

    /// Drops what was not handed over yet, and says how many bytes that was. What is on its way
    /// stays, so the stream still ends at a frame's boundary.
    pub fn clear_queued(&mut self) -> usize {
        let queued = self.next.take().map_or(0, |next| next.remaining());
        queued + self.pending.take().map_or(0, |pending| pending.cost())
    }
}
