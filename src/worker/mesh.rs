//! Between cores: one bounded inbox per core, one outbox per destination, one batch a turn.
//!
//! Nothing here blocks and nothing is dropped. An inbox that is full leaves the batch in its
//! sender's outbox, and the outbox is bounded by what may go into it: requests that are answered
//! hold a credit, deliveries a part of the window (`hub::window`), and the rest are ends of
//! memberships and comings and goings of connections, of which there are no more than there were
//! memberships and connections.

use std::collections::VecDeque;

use crate::{
    base::{
        ids::CoreId,
        limits::{
            BATCH_COMMANDS_MAX, MESH_BATCH_ITEMS_MAX, MESH_CREDITS, MESH_INBOX_BATCHES_PER_CORE,
        },
    },
    engine::ConnKey,
    hub::wire::{Delivery, Request},
    session::addresses::{AddressKey, Admission},
};

/// What one core sends another in one go.
#[derive(Debug)]
pub struct Batch {
    /// Who sends it.
    pub(super) from: CoreId,
    /// Bytes of the receiver's deliveries that the sender has handed out.
    pub(super) window: u64,
    /// In the order in which they are to be taken.
    pub(super) items: Vec<Item>,
}

/// See [`Batch::items`].
#[derive(Debug)]
pub(super) enum Item {
    Request(Request),
    Delivery(Delivery),
    /// To the core that counts an address: may this connection be taken up?
    Admit {
        conn: ConnKey,
        address: AddressKey,
    },
    /// Back from it.
    Admitted {
        conn: ConnKey,
        address: AddressKey,
        verdict: Admission,
    },
    /// To the core that counts an address: a connection that was granted has ended.
    Departed {
        address: AddressKey,
    },
}

/// One core's end of the mesh.
#[derive(Debug)]
pub struct Mesh {
    core: CoreId,
    inbox: flume::Receiver<Batch>,
    /// Taken from the inbox by whoever was woken by it.
    woken_by: VecDeque<Batch>,
    outboxes: Vec<Outbox>,
    waits: u64,
}

#[derive(Debug)]
struct Outbox {
    sender: flume::Sender<Batch>,
    items: VecDeque<Item>,
    window: u64,
    credits: u32,
}

/// The ends of a mesh over `cores` cores.
pub fn connect(cores: u16) -> Vec<Mesh> {
    connect_bounded(cores, usize::from(cores) * MESH_INBOX_BATCHES_PER_CORE)
}

/// The ends of a mesh whose inboxes hold `inbox_batches`.
pub(crate) fn connect_bounded(cores: u16, inbox_batches: usize) -> Vec<Mesh> {
    let (senders, inboxes): (Vec<_>, Vec<_>) =
        (0..cores).map(|_| flume::bounded(inbox_batches)).unzip();
    inboxes
        .into_iter()
        .enumerate()
        .map(|(core, inbox)| Mesh {
            core: core as CoreId,
            inbox,
            woken_by: VecDeque::new(),
            outboxes: senders
                .iter()
                .map(|sender| Outbox {
                    sender: sender.clone(),
                    items: VecDeque::new(),
                    window: 0,
                    credits: MESH_CREDITS,
                })
                .collect(),
            waits: 0,
        })
        .collect()
}

impl Mesh {
    /// Its core.
    pub const fn core(&self) -> CoreId {
        self.core
    }

    /// Where other cores' batches arrive, to be awaited.
    pub const fn inbox(&self) -> &flume::Receiver<Batch> {
        &self.inbox
    }

    /// Puts back a batch that was taken out of [`Mesh::inbox`] by awaiting it.
    pub fn put_back(&mut self, batch: Batch) {
        self.woken_by.push_back(batch);
    }

    pub(super) fn next_batch(&mut self) -> Option<Batch> {
        self.woken_by
            .pop_front()
            .or_else(|| self.inbox.try_recv().ok())
    }

    pub(super) fn request(&mut self, to: CoreId, request: Request) {
        let outbox = &mut self.outboxes[usize::from(to)];
        if request.is_answered() {
            // Never short: no message is taken up while any credit is below what it may need.
            debug_assert!(outbox.credits > 0);
            outbox.credits = outbox.credits.saturating_sub(1);
        }
        outbox.items.push_back(Item::Request(request));
    }

    pub(super) fn deliver(&mut self, to: CoreId, delivery: Delivery) {
        let outbox = &mut self.outboxes[usize::from(to)];
        outbox.items.push_back(Item::Delivery(delivery));
    }

    /// Sends what needs neither credit nor window.
    pub(super) fn push(&mut self, to: CoreId, item: Item) {
        self.outboxes[usize::from(to)].items.push_back(item);
    }

    pub(super) fn return_window(&mut self, to: CoreId, bytes: u64) {
        self.outboxes[usize::from(to)].window += bytes;
    }

    /// A core has answered a request.
    pub(super) fn return_credit(&mut self, from: CoreId) {
        let outbox = &mut self.outboxes[usize::from(from)];
        debug_assert!(outbox.credits < MESH_CREDITS, "an answer without a request");
        outbox.credits = (outbox.credits + 1).min(MESH_CREDITS);
    }

    /// Whether some core owes so many answers that a client's message, which may be a whole
    /// batch, must wait.
    pub(super) fn is_short_of_credit(&self) -> bool {
        self.outboxes
            .iter()
            .any(|outbox| (outbox.credits as usize) < BATCH_COMMANDS_MAX)
    }

    /// Hands each core its batch. Says whether anything was handed over; what an inbox has no
    /// room for stays.
    pub(super) fn flush(&mut self) -> bool {
        let mut sent = false;
        for (to, outbox) in self.outboxes.iter_mut().enumerate() {
            while !outbox.items.is_empty() || outbox.window > 0 {
                debug_assert_ne!(
                    to,
                    usize::from(self.core),
                    "a core does not write to itself"
                );
                let count = outbox.items.len().min(MESH_BATCH_ITEMS_MAX);
                let batch = Batch {
                    from: self.core,
                    window: std::mem::take(&mut outbox.window),
                    items: outbox.items.drain(..count).collect(),
                };
                match outbox.sender.try_send(batch) {
                    Ok(()) => sent = true,
                    Err(flume::TrySendError::Full(batch)) => {
                        self.waits += 1;
                        outbox.window = batch.window;
                        for item in batch.items.into_iter().rev() {
                            outbox.items.push_front(item);
                        }
                        break;
                    }
                    // That worker has finished: the process is about to end.
                    Err(flume::TrySendError::Disconnected(_)) => {
                        outbox.items.clear();
                    }
                }
            }
        }
        sent
    }

    /// Whether something waits for room in an inbox.
    pub(super) fn is_waiting(&self) -> bool {
        self.outboxes
            .iter()
            .any(|outbox| !outbox.items.is_empty() || outbox.window > 0)
    }

    /// Credits that are not back.
    #[cfg(test)]
    pub(super) fn credits_out(&self) -> u32 {
        let out = |outbox: &Outbox| MESH_CREDITS - outbox.credits;
        self.outboxes.iter().map(out).sum()
    }

    /// How often a batch had to wait, since the start.
    pub(super) const fn waits(&self) -> u64 {
        self.waits
    }
}
