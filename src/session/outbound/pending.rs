//! What waits behind a slow client's queue and may still be dropped from it.
//!
//! One list in the order of sending. An entry is a room's message, which the room's policy may
//! turn into a gap, or a gap, or something fixed: an answer, an announcement, a message of a room
//! that evicts. Two lists run through the entries, all of them and each room's own, so that
//! dropping, merging and sending take the same time however much waits.
//!
//! ```text
//!   offered ──▶ Message ──made ready──▶ the queue
//!                  │ dropped                 ▲
//!                  ▼                         │ as a `gap` message
//!                 Gap ◀──▶ merged with its neighbours
//! ```
//!
//! A gap stands where its messages stood. Two of one room become one if nothing fixed lies
//! between them: else it could be told on the wrong side of a `join`'s `ok`. So there are never
//! more gaps of a room than other entries, and each counts towards the client's bound.

#[cfg(test)]
mod tests;

use std::sync::Arc;

use compact_str::CompactString;
use hashbrown::HashMap;

use super::{Droppable, SpareBuffers, Tally, Terms};
use crate::{
    base::{
        limits::{COALESCED_RUN_BYTES_MAX, PENDING_ENTRY_BYTES},
        segments::{Segment, SharedFrame},
    },
    config::SlowClient,
    session::LocalRoomKey,
};

/// See the module.
#[derive(Debug)]
pub(super) struct Pending {
    terms: Terms,
    nodes: Vec<Node>,
    /// Unused nodes, linked by `next`.
    free: u32,
    all: Ends,
    rooms: HashMap<LocalRoomKey, Room, foldhash::fast::RandomState>,
    /// No message stands before this entry.
    oldest: u32,
    /// How many fixed entries came so far: gaps with the same count are not kept apart by one.
    fixed_count: u32,
    /// What gaps and fixed entries cost.
    firm: usize,
    /// What messages cost.
    droppable: usize,
}

/// What a room has waiting for this client.
#[derive(Debug)]
struct Room {
    name: Arc<str>,
    /// What one gap of it costs.
    gap_cost: usize,
    ends: Ends,
    /// No message of the room stands before this entry.
    oldest: u32,
    droppable: usize,
    /// The newest message of each key, in a room that conflates.
    by_key: HashMap<CompactString, u32, ahash::RandomState>,
}

#[derive(Debug)]
struct Node {
    all: Links,
    room: Links,
    fixed_count: u32,
    entry: Entry,
}

#[derive(Debug)]
enum Entry {
    Unused,
    Fixed(Segment),
    Message {
        room: LocalRoomKey,
        /// The last place that the frame holds, and how many it holds.
        last: u64,
        count: u64,
        key: Option<CompactString>,
        frame: SharedFrame,
    },
    Gap {
        room: LocalRoomKey,
        dropped: u64,
        next_seq: u64,
    },
}

/// First and last entry of a list.
#[derive(Clone, Copy, Debug)]
struct Ends {
    head: u32,
    tail: u32,
}

/// An entry's neighbours in a list.
#[derive(Clone, Copy, Debug)]
struct Links {
    prev: u32,
    next: u32,
}

/// An entry taken from the front.
#[derive(Debug)]
pub(super) enum Taken {
    Segment(Segment),
    Message(SharedFrame),
    Gap {
        room: Arc<str>,
        dropped: u64,
        next_seq: u64,
    },
}

const NONE: u32 = u32::MAX;
const UNLINKED: Links = Links {
    prev: NONE,
    next: NONE,
};
const EMPTY: Ends = Ends {
    head: NONE,
    tail: NONE,
};

/// A `gap` in its frame, without the room's name: two numbers of 20 digits at most.
const GAP_FRAME_BYTES: usize = 89;

impl Pending {
    pub(super) fn new(terms: Terms) -> Self {
        Self {
            terms,
            nodes: Vec::new(),
            free: NONE,
            all: EMPTY,
            rooms: HashMap::default(),
            oldest: NONE,
            fixed_count: 0,
            firm: 0,
            droppable: 0,
        }
    }

    pub(super) const fn is_empty(&self) -> bool {
        self.all.head == NONE
    }

    /// What everything that waits here costs, in bytes.
    pub(super) const fn cost(&self) -> usize {
        self.firm + self.droppable
    }

    /// The part of it that can't be dropped.
    pub(super) const fn firm(&self) -> usize {
        self.firm
    }

    pub(super) const fn terms(&self) -> Terms {
        self.terms
    }

    /// Takes a message that may be dropped, with `committed` bytes in the queue before all this.
    /// Whether it waits here now.
    pub(super) fn offer(
        &mut self,
        committed: usize,
        frame: &SharedFrame,
        message: &Droppable<'_>,
        terms: Terms,
        tally: &mut Tally,
    ) -> bool {
        self.terms = terms;
        let cost = message_cost(frame);
        if self.make_room(committed, cost, message, tally) {
            self.push_message(frame, message);
            return true;
        }
        tally.dropped_newest += message.count;
        if terms.tells_gaps {
            self.push_gap(message);
        }
        false
    }

    /// Drops what the room's policy gives up for a new message. Whether that fits now.
    fn make_room(
        &mut self,
        committed: usize,
        cost: usize,
        message: &Droppable<'_>,
        tally: &mut Tally,
    ) -> bool {
        let high = self.terms.high;
        let (room, keeps_newest) = (message.room, message.policy != SlowClient::DropNewest);
        let (given_up, gap_cost) = match self.rooms.get(&room) {
            Some(of_room) if keeps_newest => (of_room.droppable, of_room.gap_cost),
            _ => (0, 0),
        };
        if committed + self.cost() - given_up + gap_cost + cost > high
            && committed + self.cost() + cost > high
        {
            // Not even all of the room's messages would make room for it.
            return false;
        }
        if message.policy == SlowClient::Conflate
            && let Some(key) = message.key
            && let Some(replaced) = self.rooms.get(&room).and_then(|r| r.by_key.get(key))
        {
            tally.conflated += self.drop_message(*replaced);
        }
        while committed + self.cost() + cost > high {
            match self.oldest_of(room) {
                Some(oldest) if keeps_newest => {
                    tally.dropped_oldest += self.drop_message(oldest);
                }
                _ => return false,
            }
        }
        true
    }

    /// Appends bytes that must not be dropped; those right behind others make one run.
    pub(super) fn write(&mut self, spare: &mut SpareBuffers, write: impl FnOnce(&mut Vec<u8>)) {
        if !self.ends_in_open_run() {
            let buf = spare.take();
            self.push_fixed(Segment::Owned { buf, start: 0 });
        }
        if let Entry::Fixed(Segment::Owned { buf, .. }) = &mut self.node_mut(self.all.tail).entry {
            let before = buf.len();
            write(buf);
            let written = buf.len() - before;
            self.firm += written;
        }
    }

    /// Appends a frame that others get too, and that must not be dropped.
    pub(super) fn push_shared(&mut self, spare: &mut SpareBuffers, frame: &SharedFrame) {
        if frame.len() <= spare.coalesce_bytes_max() && self.ends_in_open_run() {
            self.write(spare, |run| run.extend_from_slice(frame.as_slice()));
        } else {
            self.push_fixed(Segment::Shared(frame.clone()));
        }
    }

    /// Appends what must not be dropped.
    pub(super) fn push_fixed(&mut self, segment: Segment) {
        self.fixed_count = self.fixed_count.wrapping_add(1);
        self.firm += segment.len() + PENDING_ENTRY_BYTES;
        self.append(Entry::Fixed(segment));
    }

    /// What was appended and can't be dropped makes room for itself: by the oldest messages,
    /// whatever their room.
    pub(super) fn shed(&mut self, committed: usize, tally: &mut Tally) {
        while committed + self.cost() > self.terms.high
            && let Some(oldest) = self.oldest_of_all()
        {
            tally.dropped_oldest += self.drop_message(oldest);
        }
    }

    /// How many bytes the first entry will be as it is sent, about.
    pub(super) fn front_bytes(&self) -> Option<usize> {
        let node = self.nodes.get(self.all.head as usize)?;
        Some(match &node.entry {
            Entry::Fixed(segment) => segment.len(),
            Entry::Message { frame, .. } => frame.len(),
            Entry::Gap { .. } | Entry::Unused => GAP_FRAME_BYTES,
        })
    }

    /// Takes the first entry.
    pub(super) fn pop_front(&mut self) -> Option<Taken> {
        if self.is_empty() {
            return None;
        }
        let at = self.all.head;
        let name = match &self.node(at).entry {
            Entry::Gap { room, .. } => Some(Arc::clone(&self.room(*room).name)),
            _ => None,
        };
        match (self.remove(at), name) {
            (Entry::Fixed(segment), _) => Some(Taken::Segment(segment)),
            (Entry::Message { frame, .. }, _) => Some(Taken::Message(frame)),
            (
                Entry::Gap {
                    dropped, next_seq, ..
                },
                Some(room),
            ) => Some(Taken::Gap {
                room,
                dropped,
                next_seq,
            }),
            (Entry::Gap { .. } | Entry::Unused, _) => None,
        }
    }

    fn ends_in_open_run(&self) -> bool {
        self.nodes.get(self.all.tail as usize).is_some_and(|node| {
            matches!(
                &node.entry,
                Entry::Fixed(Segment::Owned { buf, .. }) if buf.len() < COALESCED_RUN_BYTES_MAX
            )
        })
    }

    fn push_message(&mut self, frame: &SharedFrame, message: &Droppable<'_>) {
        let cost = message_cost(frame);
        let key = match message.policy {
            SlowClient::Conflate => message.key.map(CompactString::from),
            _ => None,
        };
        let at = self.append_in_room(
            message,
            Entry::Message {
                room: message.room,
                last: message.last,
                count: message.count,
                key: key.clone(),
                frame: frame.clone(),
            },
        );
        self.droppable += cost;
        if self.oldest == NONE {
            self.oldest = at;
        }
        let room = self.room_mut(message.room);
        room.droppable += cost;
        if room.oldest == NONE {
            room.oldest = at;
        }
        if let Some(key) = key {
            room.by_key.insert(key, at);
        }
    }

    /// Appends a gap for a message that does not wait here at all.
    fn push_gap(&mut self, message: &Droppable<'_>) {
        let at = self.append_in_room(
            message,
            Entry::Gap {
                room: message.room,
                dropped: message.count,
                next_seq: message.last + 1,
            },
        );
        self.firm += self.room(message.room).gap_cost;
        let before = self.node(at).room.prev;
        self.merge(before, at);
    }

    /// Drops what waits: where it stood stands a gap. Says how many messages it stood for.
    fn drop_message(&mut self, at: u32) -> u64 {
        if !self.terms.tells_gaps {
            return match self.remove(at) {
                Entry::Message { count, .. } => count,
                _ => unreachable!("invariant: only messages are dropped"),
            };
        }
        let Entry::Message {
            room,
            last,
            count,
            key,
            frame,
        } = std::mem::replace(&mut self.node_mut(at).entry, Entry::Unused)
        else {
            unreachable!("invariant: only messages are dropped");
        };
        self.forget_message(room, at, key.as_deref(), &frame);
        self.firm += self.room(room).gap_cost;
        let node = self.node_mut(at);
        node.entry = Entry::Gap {
            room,
            dropped: count,
            next_seq: last + 1,
        };
        let Links { prev, next } = node.room;
        self.merge(at, next);
        self.merge(prev, at);
        count
    }

    /// Makes one gap of two neighbours of a room, at the first one's place, if they are two and
    /// nothing fixed lies between them.
    fn merge(&mut self, first: u32, second: u32) {
        if first == NONE || second == NONE {
            return;
        }
        let (a, b) = (self.node(first), self.node(second));
        if a.fixed_count != b.fixed_count {
            return;
        }
        if let (Entry::Gap { .. }, Entry::Gap { .. }) = (&a.entry, &b.entry)
            && let Entry::Gap {
                dropped: more,
                next_seq: end,
                ..
            } = self.remove(second)
            && let Entry::Gap {
                dropped, next_seq, ..
            } = &mut self.node_mut(first).entry
        {
            *dropped += more;
            *next_seq = end;
        }
    }

    fn oldest_of(&mut self, room: LocalRoomKey) -> Option<u32> {
        let of_room = self.rooms.get_mut(&room)?;
        // Only ever forward, so each entry is passed once.
        while let Some(node) = self.nodes.get(of_room.oldest as usize) {
            if matches!(node.entry, Entry::Message { .. }) {
                return Some(of_room.oldest);
            }
            of_room.oldest = node.room.next;
        }
        None
    }

    fn oldest_of_all(&mut self) -> Option<u32> {
        while let Some(node) = self.nodes.get(self.oldest as usize) {
            if matches!(node.entry, Entry::Message { .. }) {
                return Some(self.oldest);
            }
            self.oldest = node.all.next;
        }
        None
    }

    /// The books on a message that is one no more.
    fn forget_message(
        &mut self,
        key: LocalRoomKey,
        at: u32,
        conflation_key: Option<&str>,
        frame: &SharedFrame,
    ) {
        let cost = message_cost(frame);
        self.droppable -= cost;
        let room = self.room_mut(key);
        room.droppable -= cost;
        if let Some(conflation_key) = conflation_key
            && room.by_key.get(conflation_key) == Some(&at)
        {
            room.by_key.remove(conflation_key);
        }
    }

    fn append_in_room(&mut self, message: &Droppable<'_>, entry: Entry) -> u32 {
        let at = self.append(entry);
        let room = self
            .rooms
            .entry(message.room)
            .or_insert_with(|| Room::new(message.name));
        let prev = room.ends.tail;
        room.ends.tail = at;
        if prev == NONE {
            room.ends.head = at;
        }
        self.node_mut(at).room.prev = prev;
        if prev != NONE {
            self.node_mut(prev).room.next = at;
        }
        at
    }

    fn append(&mut self, entry: Entry) -> u32 {
        let prev = self.all.tail;
        let node = Node {
            all: Links { prev, next: NONE },
            room: UNLINKED,
            fixed_count: self.fixed_count,
            entry,
        };
        let at = if self.free == NONE {
            self.nodes.push(node);
            (self.nodes.len() - 1) as u32
        } else {
            let at = self.free;
            self.free = self.node(at).all.next;
            *self.node_mut(at) = node;
            at
        };
        if prev == NONE {
            self.all.head = at;
        } else {
            self.node_mut(prev).all.next = at;
        }
        self.all.tail = at;
        at
    }

    /// Takes an entry out of the lists and the books.
    fn remove(&mut self, at: u32) -> Entry {
        let node = self.node_mut(at);
        let entry = std::mem::replace(&mut node.entry, Entry::Unused);
        let (all, of_room) = (node.all, node.room);
        match &entry {
            Entry::Fixed(segment) => self.firm -= segment.len() + PENDING_ENTRY_BYTES,
            Entry::Message {
                room, key, frame, ..
            } => {
                self.forget_message(*room, at, key.as_deref(), frame);
                self.unlink_from_room(*room, at, of_room);
            }
            Entry::Gap { room, .. } => {
                self.firm -= self.room(*room).gap_cost;
                self.unlink_from_room(*room, at, of_room);
            }
            Entry::Unused => unreachable!("invariant: a linked entry is in use"),
        }
        match all.prev {
            NONE => self.all.head = all.next,
            prev => self.node_mut(prev).all.next = all.next,
        }
        match all.next {
            NONE => self.all.tail = all.prev,
            next => self.node_mut(next).all.prev = all.prev,
        }
        if self.oldest == at {
            self.oldest = all.next;
        }
        let free = self.free;
        self.node_mut(at).all.next = free;
        self.free = at;
        entry
    }

    fn unlink_from_room(&mut self, key: LocalRoomKey, at: u32, links: Links) {
        let room = self.room_mut(key);
        if links.prev == NONE {
            room.ends.head = links.next;
        }
        if links.next == NONE {
            room.ends.tail = links.prev;
        }
        if room.oldest == at {
            room.oldest = links.next;
        }
        if links.prev != NONE {
            self.node_mut(links.prev).room.next = links.next;
        }
        if links.next != NONE {
            self.node_mut(links.next).room.prev = links.prev;
        }
        if links.prev == NONE && links.next == NONE {
            self.rooms.remove(&key);
        }
    }

    fn node(&self, at: u32) -> &Node {
        &self.nodes[at as usize]
    }

    fn node_mut(&mut self, at: u32) -> &mut Node {
        &mut self.nodes[at as usize]
    }

    fn room(&self, key: LocalRoomKey) -> &Room {
        self.rooms
            .get(&key)
            .expect("invariant: a room is known while it has entries")
    }

    fn room_mut(&mut self, key: LocalRoomKey) -> &mut Room {
        self.rooms
            .get_mut(&key)
            .expect("invariant: a room is known while it has entries")
    }
}

impl Room {
    fn new(name: &Arc<str>) -> Self {
        // Names have no control characters: these two are all that JSON escapes.
        let escapes = name.bytes().filter(|b| matches!(b, b'"' | b'\\')).count();
        Self {
            name: Arc::clone(name),
            gap_cost: GAP_FRAME_BYTES + name.len() + escapes + 2 + PENDING_ENTRY_BYTES,
            ends: EMPTY,
            oldest: NONE,
            droppable: 0,
            by_key: HashMap::default(),
        }
    }
}

/// Always more than a gap's in the same room: its envelope holds more than a gap does.
fn message_cost(frame: &SharedFrame) -> usize {
    frame.len() + PENDING_ENTRY_BYTES
}
