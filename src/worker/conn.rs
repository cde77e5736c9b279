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

use std::{net::SocketAddr, time::Duration};

use super::routes::{NO_ROUTE, RouteId};
use crate::{
    base::{
        ids::SessionKey,
        limits::{TURN_CLIENT_MESSAGES_MAX, TURN_CLIENT_MESSAGES_MIN, TURN_MESSAGES_MAX},
        paged::Paged,
        slab::Key,
        time::Instant,
        wheel::TimerKey,
    },
    engine::ConnKey,
    proto::{http1::HeadReader, ws::Connection},
    session::{addresses::AddressKey, outbound::Outbound, rates::Rates},
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
    /// Since when its queue has been at `limits.buffered_bytes_high`.
    pub(super) above_high_since: Option<Instant>,
    pub(super) timer: Option<TimerKey>,
    /// When the timer fires.
    pub(super) timer_at: Instant,
    /// When it is to be closed whatever it does: its lifetime's end, or its turn in a drain.
    pub(super) ends_at: Instant,
    /// Until when reading pauses, for having sent too much.
    pub(super) throttled_until: Option<Instant>,
    pub(super) rates: Rates,
    /// The last turn in which it sent messages, and how many in it.
    pub(super) turn: u32,
    pub(super) turn_messages: u32,
    /// Bytes of a message's own buffer when it was last lent for receiving.
    pub(super) direct_len: usize,
    /// Bytes of such a buffer while it is lent.
    pub(super) lent_bytes: usize,
    /// Its route, once it has one.
    pub(super) route: RouteId,
    /// What it counts as, if its address is counted.
    pub(super) address: Option<AddressKey>,
    /// Bytes that it is charged in the core's memory.
    pub(super) charged: usize,
    /// Bytes that the kernel had taken and not sent when it was last asked.
    pub(super) unsent: usize,
    /// When it was last asked.
    pub(super) unsent_at: Instant,
    /// Seconds after which it is told to come back.
    pub(super) retry_after: u16,
    pub(super) peer: Option<SocketAddr>,
    pub(super) sending: bool,
    pub(super) dirty: bool,
    /// The peer has ended its side.
    pub(super) ended: bool,
    /// Its turn in a drain has come.
    pub(super) is_draining: bool,
    /// It was refused before its request was read.
    pub(super) is_refused: bool,
    /// It is listed among those with a backlog.
    pub(super) is_backlogged: bool,
    /// It asked for pings as messages.
    pub(super) app_heartbeat: bool,
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
    /// It has had its share of this turn.
    Turn,
}

impl Conn {
    pub(super) fn new(now: Instant, peer: Option<SocketAddr>) -> Self {
        Self {
            state: State::Head(HeadReader::new()),
            outbound: Outbound::default(),
            receive: Receive::Off,
            stalled: None,
            ping: Ping::None,
            last_read: now,
            last_progress: now,
            above_high_since: None,
            timer: None,
            timer_at: Instant::NEVER,
            ends_at: Instant::NEVER,
            throttled_until: None,
            rates: Rates::default(),
            turn: 0,
            turn_messages: 0,
            direct_len: 0,
            lent_bytes: 0,
            route: NO_ROUTE,
            address: None,
            charged: 0,
            unsent: 0,
            unsent_at: now,
            retry_after: 0,
            peer,
            sending: false,
            dirty: false,
            ended: false,
            is_draining: false,
            is_refused: false,
            is_backlogged: false,
            app_heartbeat: false,
        }
    }

    /// Whether its request is still to come.
    pub(super) const fn is_head(&self) -> bool {
        matches!(self.state, State::Head(_))
    }

    /// Bytes that it has sent in part, or that nobody has looked at yet.
    pub(super) fn input_bytes(&self) -> usize {
        let partial = match &self.state {
            State::Head(reader) => reader.buffered_bytes(),
            State::Open { ws, .. } | State::Closing { ws } => ws.buffered_bytes(),
            State::Lingering { .. } => 0,
        };
        partial
            + self.lent_bytes
            + self
                .stalled
                .as_ref()
                .map_or(0, |stall| stall.bytes.capacity())
    }

    /// Whether it has had its share of turn number `turn`, in which `all` messages of whomever
    /// were handled so far.
    #[inline]
    pub(super) const fn has_had_its_turn(&mut self, turn: u32, all: u32) -> bool {
        if self.turn != turn {
            self.turn = turn;
            self.turn_messages = 0;
        }
        let share = if all < TURN_MESSAGES_MAX {
            TURN_CLIENT_MESSAGES_MAX
        } else {
            TURN_CLIENT_MESSAGES_MIN
        };
        self.turn_messages >= share
    }

    /// When it counts as stuck if nothing changes: its send has made no progress for so long, or
    /// its queue has been full for so long.
    pub(super) fn stuck_at(&self, patience: Duration) -> Option<Instant> {
        let progress = self.sending.then(|| self.last_progress.plus(patience));
        let above = self.above_high_since.map(|since| since.plus(patience));
        [progress, above].into_iter().flatten().min()
    }

    /// Whether it is.
    pub(super) fn is_stuck(&self, now: Instant, patience: Duration) -> bool {
        self.stuck_at(patience).is_some_and(|at| now >= at)
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

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn at(millis: u64) -> Instant {
        Instant::from_nanos(millis * 1_000_000)
    }

    proptest! {
        /// Stuck is who has not moved for as long as the patience lasts, and nobody earlier.
        #[test]
        fn who_does_not_move_is_stuck_when_patience_ends(
            progress in 0u64..10_000,
            above in proptest::option::of(0u64..10_000),
            is_sending in any::<bool>(),
            patience in 1u64..10_000,
            now in 0u64..30_000,
        ) {
            let mut conn = Conn::new(at(0), None);
            conn.sending = is_sending;
            conn.last_progress = at(progress);
            conn.above_high_since = above.map(at);
            let patience = Duration::from_millis(patience);
            let since = |then: u64| at(now).since(at(then)) >= patience && now >= then;
            let expected = (is_sending && since(progress)) || above.is_some_and(since);
            prop_assert_eq!(conn.is_stuck(at(now), patience), expected);
            // The time that it tells is the first at which it is.
            if let Some(when) = conn.stuck_at(patience) {
                prop_assert!(conn.is_stuck(when, patience));
                let before = Instant::from_nanos(when.as_nanos() - 1);
                prop_assert!(!conn.is_stuck(before, patience));
            }
        }
    }
}
