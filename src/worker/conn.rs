//! One connection of a worker, from its first byte to its last.
//!
//! ```text
//!   Head ──101──▶ Open ──our close──▶ Closing ──the peer's close──▶ Lingering ──▶ gone
//!    │             │                                                    ▲
//!    │             └──the peer's close, a breach of RFC 6455────────────┤
//!    └──any other response──────────────────────────────────────────────┘
//! ```
//!
//! A session ends when its connection leaves `Open`, so nobody is a member while it is closing.

use std::net::SocketAddr;

use crate::{
    base::{ids::SessionKey, paged::Paged, slab::Key, time::Instant, wheel::TimerKey},
    engine::ConnKey,
    proto::{http1::HeadReader, ws::Connection},
    session::outbound::Outbound,
};

/// A connection.
#[derive(Debug)]
pub(super) struct Conn {
    pub(super) state: State,
    pub(super) outbound: Outbound,
    pub(super) receive: Receive,
    /// Input not looked at yet, while it must wait.
    pub(super) stalled: Option<Box<Stall>>,
    pub(super) ping: Ping,
    pub(super) last_read: Instant,
    /// When the kernel last took bytes, or was last given some with none on their way.
    pub(super) last_progress: Instant,
    pub(super) timer: Option<TimerKey>,
    pub(super) peer: Option<SocketAddr>,
    pub(super) sending: bool,
    pub(super) dirty: bool,
    /// The peer has ended its side.
    pub(super) ended: bool,
}

#[derive(Debug)]
pub(super) enum State {
    /// Its request head is not complete.
    Head(HeadReader),
    /// A WebSocket.
    Open { ws: Connection, mode: Mode },
    /// A WebSocket that was sent a close frame and has not answered.
    Closing { ws: Connection },
    /// Nothing is read any more but the end.
    Lingering {
        /// Input thrown away so far, in bytes.
        discarded: usize,
        /// Whether our side is ended.
        is_shut: bool,
        /// Whether it ends with a reset if the peer does not take what is left in time.
        is_reset: bool,
    },
}

/// What a WebSocket is served with.
#[derive(Clone, Copy, Debug)]
pub(super) enum Mode {
    /// Every message goes back.
    Echo,
    /// A session in rooms.
    Rooms(SessionKey),
}

/// Where receiving stands, as far as the engine has told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Receive {
    On,
    Pausing,
    Off,
    /// Into a message's own buffer, of which so many bytes are still to come.
    Direct {
        remaining: usize,
    },
    Ended,
}

/// A ping on its way, or answered by silence so far.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Ping {
    None,
    Queued,
    Sending,
    Sent(Instant),
}

/// Input that waits, and what for.
#[derive(Debug)]
pub(super) struct Stall {
    pub(super) bytes: Vec<u8>,
    pub(super) cause: StallCause,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum StallCause {
    /// Another core owes too many answers.
    Credit,
    /// The client's own backlog is at its mark.
    Backlog,
}

impl Conn {
    pub(super) fn new(now: Instant, peer: Option<SocketAddr>) -> Self {
        Self {
            state: State::Head(HeadReader::new()),
            outbound: Outbound::default(),
            receive: Receive::On,
            stalled: None,
            ping: Ping::None,
            last_read: now,
            last_progress: now,
            timer: None,
            peer,
            sending: false,
            dirty: false,
            ended: false,
        }
    }

    /// The session it serves, if it serves one.
    pub(super) const fn session(&self) -> Option<SessionKey> {
        match &self.state {
            State::Open {
                mode: Mode::Rooms(session),
                ..
            } => Some(*session),
            _ => None,
        }
    }
}

/// A worker's connections, at the positions of the engine's slots.
#[derive(Debug, Default)]
pub(super) struct Conns {
    slots: Paged<Option<(u32, Conn)>>,
    len: usize,
}

impl Conns {
    pub(super) fn insert(&mut self, key: ConnKey, conn: Conn) {
        let index = key.index as usize;
        self.slots.grow_to(index, || None);
        self.slots[index] = Some((key.generation, conn));
        self.len += 1;
    }

    #[inline]
    pub(super) fn get_mut(&mut self, key: ConnKey) -> Option<&mut Conn> {
        match self.slots.get_mut(key.index as usize)? {
            Some((generation, conn)) if *generation == key.generation => Some(conn),
            _ => None,
        }
    }

    pub(super) fn get(&self, key: ConnKey) -> Option<&Conn> {
        match self.slots.get(key.index as usize)? {
            Some((generation, conn)) if *generation == key.generation => Some(conn),
            _ => None,
        }
    }

    pub(super) fn remove(&mut self, key: ConnKey) -> Option<Conn> {
        self.get(key)?;
        self.len -= 1;
        self.slots[key.index as usize].take().map(|(_, conn)| conn)
    }

    pub(super) const fn len(&self) -> usize {
        self.len
    }

    /// The key of the connection at position `index`, if there is one.
    pub(super) fn key_at(&self, index: usize) -> Option<ConnKey> {
        let (generation, _) = self.slots.get(index)?.as_ref()?;
        Some(Key {
            index: index as u32,
            generation: *generation,
        })
    }

    pub(super) fn index_bound(&self) -> usize {
        self.slots.len()
    }
}
