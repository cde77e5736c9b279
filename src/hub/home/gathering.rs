//! What a coalescing room keeps for the end of its interval: the newest message of each key.
//!
//! ```text
//!   quiet ──a publish: sent at once──▶ gathering ◀──┐ more came: one frame, another interval
//!     ▲                                   │  │      │
//!     │                                   │  └──────┘
//!     └──────nothing came meanwhile───────┘
//! ```
//!
//! A room has a [`Gathering`] exactly while a timer of its is on its way.

use std::sync::Arc;

use bytes::Bytes;
use compact_str::CompactString;
use hashbrown::HashMap;

use super::encode::{MESSAGE_ENVELOPE_BYTES, Message};
use crate::{
    base::{
        ids::ClientId,
        limits::{ROOM_COALESCE_BYTES_MAX, ROOM_COALESCE_KEYS_MAX},
    },
    hub::wire::{Payload, PublishRef},
};

/// See the module.
#[derive(Debug)]
pub(super) struct Gathering {
    waiting: HashMap<Slot, Waiting, ahash::RandomState>,
    bytes: usize,
    arrivals: u64,
    /// The last place handed out: what follows it waits here, or was replaced.
    pub(super) sent: u64,
}

/// What replaces what.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Slot {
    ephemeral: bool,
    key: Option<CompactString>,
}

/// A message that waits.
#[derive(Debug)]
pub(super) struct Waiting {
    arrival: u64,
    seq: Option<u64>,
    ts: u64,
    client: ClientId,
    user: Option<Arc<str>>,
    payload: Payload,
    data: Bytes,
    mid: Option<CompactString>,
    key: Option<CompactString>,
}

impl Slot {
    pub(super) fn of(publish: &PublishRef<'_>) -> Self {
        Self {
            ephemeral: publish.ephemeral,
            key: publish.key.map(CompactString::from),
        }
    }
}

impl Waiting {
    pub(super) fn message(&self) -> Message<'_> {
        Message {
            seq: self.seq,
            ts: self.ts,
            client: self.client,
            user: self.user.as_deref(),
            payload: self.payload,
            data: &self.data,
            mid: self.mid.as_deref(),
            key: self.key.as_deref(),
        }
    }
}

impl Gathering {
    /// Nothing waits; `sent` is the last place handed out.
    pub(super) fn new(sent: u64) -> Self {
        Self {
            waiting: HashMap::default(),
            bytes: 0,
            arrivals: 0,
            sent,
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    /// What it will take of a window as one frame, at most.
    pub(super) fn payload_bytes_max(&self) -> usize {
        // Each message may have a gap before it.
        self.bytes + self.waiting.len() * 2 * MESSAGE_ENVELOPE_BYTES
    }

    /// Whether a message of `bytes` may wait here too.
    pub(super) fn has_room_for(&self, slot: &Slot, bytes: usize) -> bool {
        let (keys, replaced) = match self.waiting.get(slot) {
            Some(replaced) => (self.waiting.len(), replaced.data.len()),
            None => (self.waiting.len() + 1, 0),
        };
        self.is_empty()
            || (keys <= ROOM_COALESCE_KEYS_MAX
                && self.bytes - replaced + bytes <= ROOM_COALESCE_BYTES_MAX)
    }

    /// Keeps a message, in place of an older one of its slot if there is one. Whether there was.
    pub(super) fn put(
        &mut self,
        slot: Slot,
        seq: Option<u64>,
        ts: u64,
        publish: &PublishRef<'_>,
        user: Option<Arc<str>>,
    ) -> bool {
        self.arrivals += 1;
        self.bytes += publish.data.len();
        let waiting = Waiting {
            arrival: self.arrivals,
            seq,
            ts,
            client: publish.client,
            user,
            payload: publish.payload,
            data: Bytes::copy_from_slice(publish.data),
            mid: publish.mid.map(CompactString::from),
            key: slot.key.clone(),
        };
        match self.waiting.insert(slot, waiting) {
            Some(replaced) => {
                self.bytes -= replaced.data.len();
                true
            }
            None => false,
        }
    }

    /// Gives up all that waits, in order of arrival, and the place behind which it begins.
    /// `last` is the last place assigned.
    pub(super) fn take(&mut self, last: u64) -> (u64, Vec<Waiting>) {
        let mut waiting: Vec<Waiting> = self.waiting.drain().map(|(_, waiting)| waiting).collect();
        waiting.sort_unstable_by_key(|waiting| waiting.arrival);
        self.bytes = 0;
        (std::mem::replace(&mut self.sent, last), waiting)
    }
}
