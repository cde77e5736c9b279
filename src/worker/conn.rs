//! One connection of a worker, from its first byte to its last.
//!
//! ```text
//! Preface                                (only from balancers that send a PROXY header)
//!    │ a PROXY header, an address that is let in
//!    ▼
//!   Head ──101──▶ Open ──our close──▶ Closing ──the peer's close──▶ Lingering ──▶ gone
//!    │             │                                                    ▲
//!    │             └──the peer's close, a breach of RFC 6455────────────┤
//!    └──any other response──────────────────────────────────────────────┘
//! ```
//!
//! A session ends when its connection leaves `Open`, so nobody is a member while it is closing.

use std::{
    net::{Ipv4Addr, SocketAddr, SocketAddrV6},
    time::Duration,
};

use super::{
    routes::{NO_ROUTE, RouteId},
    tls::Tls,
};
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
    proto::{
        http1::HeadReader,
        proxy_header::ProxyHeaderReader,
        ws::{Connection, deflate::Takeover},
    },
    session::{outbound::Outbound, rates::Rates},
};

/// A connection. There may be millions: what few have at a time lies in a box ([`Conn::rare`]), and
/// what is left takes less than 192 bytes.
#[derive(Debug)]
pub(super) struct Conn {
    pub(super) state: State,
    pub(super) outbound: Outbound,
    pub(super) rare: Option<Box<Rare>>,
    /// What it speaks TLS with: for few connections or for all.
    pub(super) tls: Option<Box<Tls>>,
    /// Of its key.
    generation: u32,
    pub(super) last_read: Instant,
    /// When the kernel last took bytes, or was last given some with none on their way.
    pub(super) last_progress: Instant,
    /// When the timer fires.
    pub(super) timer_at: Instant,
    pub(super) timer: Option<TimerKey>,
    /// When it is to be closed whatever it does: its lifetime's end, or its turn in a drain.
    pub(super) ends_at: Instant,
    pub(super) rates: Rates,
    pub(super) peer: Peer,
    /// When the kernel took the ping of [`Ping::Sent`]: the low bits of [`Instant::as_millis`].
    pinged_at: u32,
    /// The low bits of the last turn in which it sent messages, and how many in it, as far as can be
    /// counted: a turn's share is far less. Who was silent for a whole cycle may wait for one turn.
    turn: u16,
    pub(super) turn_messages: u16,
    /// Bytes that it is charged in the core's memory.
    pub(super) charged: u32,
    /// Its route, once it has one.
    pub(super) route: RouteId,
    /// The window that messages to it may be compressed with; 0 if nothing was agreed on.
    pub(super) deflate_bits: u8,
    pub(super) receive: Receive,
    pub(super) ping: Ping,
    pub(super) sending: bool,
    pub(super) dirty: bool,
    /// The peer has ended its side.
    pub(super) ended: bool,
    /// Its turn in a drain has come.
    pub(super) is_draining: bool,
    /// It was refused before its request was read.
    pub(super) is_refused: bool,
    /// Whether it counts among its address's connections.
    pub(super) counting: Counting,
    /// It was closed to free the memory that it takes.
    pub(super) is_leaving: bool,
    /// It is listed among those with a backlog.
    pub(super) is_backlogged: bool,
    /// It asked for pings as messages.
    pub(super) app_heartbeat: bool,
    /// The message that is being passed on in parts was one too many.
    pub(super) drops_parts: bool,
    /// It speaks TLS ([`Conn::tls`]), or will once it is let in.
    pub(super) is_tls: bool,
}

/// What few connections have at a time.
#[derive(Debug, Default)]
pub(super) struct Rare {
    /// Input not looked at yet, while it must wait.
    pub(super) stalled: Option<Stall>,
    /// Since when its queue has been at `limits.buffered_bytes_high`.
    pub(super) above_high_since: Option<Instant>,
    /// Until when reading pauses, for having sent too much.
    pub(super) throttled_until: Option<Instant>,
    /// What was lent for [`Receive::Direct`].
    pub(super) direct: DirectLoan,
    /// Bytes that the kernel had taken and not sent when it was last asked.
    pub(super) unsent: usize,
    /// When it was last asked.
    pub(super) unsent_at: Instant,
    /// Seconds after which it is told to come back; 0 before its turn in a drain.
    pub(super) retry_after: u16,
    /// What it keeps to compress and decompress; as long as it lives.
    pub(super) takeover: Option<Box<Takeover>>,
}

/// A message's own buffer, lent for receiving.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct DirectLoan {
    /// Bytes of the frame that were still to come.
    pub(super) remaining: usize,
    /// The buffer's length then.
    pub(super) len: usize,
    /// Its capacity while it is lent, else 0.
    pub(super) capacity: usize,
}

/// Who is at the other end.
#[derive(Debug)]
pub(super) enum Peer {
    /// Gone before it was asked.
    Unknown,
    V4(Ipv4Addr, u16),
    V6(Box<SocketAddrV6>),
}

/// Whether a connection counts among those of [`Conn::peer`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Counting {
    Not,
    /// Its request tells whose it is: it comes from a trusted proxy.
    Awaited,
    Counted,
}

impl Peer {
    pub(super) fn new(address: Option<SocketAddr>) -> Self {
        match address {
            None => Self::Unknown,
            Some(SocketAddr::V4(v4)) => Self::V4(*v4.ip(), v4.port()),
            Some(SocketAddr::V6(v6)) => Self::V6(Box::new(v6)),
        }
    }

    /// Its address.
    pub(super) fn address(&self) -> Option<SocketAddr> {
        match self {
            Self::Unknown => None,
            Self::V4(ip, port) => Some(SocketAddr::new((*ip).into(), *port)),
            Self::V6(v6) => Some(SocketAddr::V6(**v6)),
        }
    }
}

#[derive(Debug)]
pub(super) enum State {
    /// Its PROXY header is not complete.
    Preface(ProxyHeaderReader),
    /// Its request head is not complete.
    Head(HeadReader),
    /// A WebSocket.
    Open { ws: Connection, mode: Mode },
    /// A WebSocket that was sent a close frame and has not answered.
    Closing {
        ws: Connection,
        /// Input since, in bytes.
        discarded: usize,
    },
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
    /// Into a message's own buffer ([`Rare::direct`]).
    Direct,
    Ended,
}

/// A ping on its way, or answered by silence so far.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Ping {
    None,
    Queued,
    Sending,
    /// At [`Conn::pinged_at`].
    Sent,
}

/// Input that waits, and what for.
#[derive(Debug)]
pub(super) struct Stall {
    pub(super) bytes: Vec<u8>,
    /// How many of them have been looked at.
    pub(super) at: usize,
    pub(super) cause: StallCause,
}

impl Stall {
    /// Gives the memory of what has been looked at back, once that is half of it.
    pub(super) fn give_back(&mut self) {
        if self.at > self.bytes.len() / 2 {
            self.bytes.drain(..self.at);
            self.bytes.shrink_to_fit();
            self.at = 0;
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum StallCause {
    /// Another core owes too many answers.
    Credit,
    /// The client's own backlog is at its mark.
    Backlog,
    /// It has had its share of this turn.
    Turn,
    /// The core that counts its address is asked whether it is let in.
    Admission,
}

impl Conn {
    pub(super) fn new(now: Instant, peer: Option<SocketAddr>) -> Self {
        Self {
            state: State::Head(HeadReader::new()),
            outbound: Outbound::default(),
            rare: None,
            tls: None,
            generation: 0,
            last_read: now,
            last_progress: now,
            pinged_at: 0,
            timer_at: Instant::NEVER,
            timer: None,
            ends_at: Instant::NEVER,
            rates: Rates::default(),
            peer: Peer::new(peer),
            turn: 0,
            turn_messages: 0,
            charged: 0,
            route: NO_ROUTE,
            deflate_bits: 0,
            receive: Receive::Off,
            ping: Ping::None,
            sending: false,
            dirty: false,
            ended: false,
            is_draining: false,
            is_refused: false,
            counting: Counting::Not,
            is_leaving: false,
            is_backlogged: false,
            app_heartbeat: false,
            drops_parts: false,
            is_tls: false,
        }
    }

    /// What few connections have, made if it is not there.
    pub(super) fn rare_mut(&mut self) -> &mut Rare {
        self.rare.get_or_insert_default()
    }

    /// Gives the memory of what few connections have back, once it has none of it any more.
    #[inline]
    pub(super) fn tidy(&mut self) {
        if let Some(rare) = &self.rare
            && rare.is_idle()
            && self.outbound.is_empty()
        {
            self.rare = None;
        }
    }

    /// Input that waits.
    #[inline]
    pub(super) fn stalled(&mut self) -> Option<&mut Stall> {
        self.rare.as_mut()?.stalled.as_mut()
    }

    #[inline]
    pub(super) fn is_stalled(&self) -> bool {
        self.rare
            .as_ref()
            .is_some_and(|rare| rare.stalled.is_some())
    }

    pub(super) fn take_stalled(&mut self) -> Option<Stall> {
        self.rare.as_mut()?.stalled.take()
    }

    #[inline]
    pub(super) fn above_high_since(&self) -> Option<Instant> {
        self.rare.as_ref()?.above_high_since
    }

    /// Its queue is at `limits.buffered_bytes_high`, since `now` if it was not before; or it is not.
    #[inline]
    pub(super) fn set_above_high(&mut self, now: Option<Instant>) {
        if let Some(now) = now {
            self.rare_mut().above_high_since.get_or_insert(now);
        } else if let Some(rare) = &mut self.rare {
            rare.above_high_since = None;
        }
    }

    #[inline]
    pub(super) fn throttled_until(&self) -> Option<Instant> {
        self.rare.as_ref()?.throttled_until
    }

    pub(super) fn end_throttle(&mut self) {
        if let Some(rare) = &mut self.rare {
            rare.throttled_until = None;
        }
    }

    /// Bytes that the kernel had taken and not sent when it was last asked.
    #[inline]
    pub(super) fn unsent(&self) -> usize {
        self.rare.as_ref().map_or(0, |rare| rare.unsent)
    }

    /// What the kernel holds does not matter any more.
    #[inline]
    pub(super) fn forget_unsent(&mut self) {
        if let Some(rare) = &mut self.rare {
            rare.unsent = 0;
        }
    }

    /// What it speaks TLS with.
    #[inline]
    pub(super) fn tls_mut(&mut self) -> Option<&mut Tls> {
        self.tls.as_deref_mut()
    }

    /// The same, and its queue.
    pub(super) fn tls_and_outbound(&mut self) -> Option<(&mut Tls, &mut Outbound)> {
        let tls = self.tls.as_deref_mut()?;
        Some((tls, &mut self.outbound))
    }

    /// What it speaks TLS with.
    #[inline]
    pub(super) fn tls(&self) -> Option<&Tls> {
        self.tls.as_deref()
    }

    /// Whether something waits to be handed over.
    #[inline]
    pub(super) fn has_output(&self) -> bool {
        !self.outbound.is_empty() || self.is_tls && self.tls().is_some_and(Tls::has_output)
    }

    /// Whether everything has been handed over and taken.
    pub(super) fn is_drained(&self) -> bool {
        self.outbound.is_drained() && !self.has_output()
    }

    /// Whether its request is still to come.
    pub(super) const fn is_head(&self) -> bool {
        matches!(self.state, State::Preface(_) | State::Head(_))
    }

    /// Bytes that it has sent in part, or that nobody has looked at yet.
    pub(super) fn input_bytes(&self) -> usize {
        let partial = match &self.state {
            State::Preface(reader) => reader.buffered_bytes(),
            State::Head(reader) => reader.buffered_bytes(),
            State::Open { ws, .. } | State::Closing { ws, .. } => ws.buffered_bytes(),
            State::Lingering { .. } => 0,
        };
        let partial = partial + self.tls().map_or(0, Tls::buffered_bytes);
        let Some(rare) = &self.rare else {
            return partial;
        };
        let stalled = rare.stalled.as_ref();
        partial + rare.direct.capacity + stalled.map_or(0, |stall| stall.bytes.capacity())
    }

    /// Seconds after which it is told to come back; 0 before its turn in a drain.
    pub(super) fn retry_after(&self) -> u16 {
        self.rare.as_ref().map_or(0, |rare| rare.retry_after)
    }

    /// The kernel has taken the ping.
    pub(super) const fn set_pinged(&mut self, now: Instant) {
        self.ping = Ping::Sent;
        self.pinged_at = now.as_millis() as u32;
    }

    /// When that was, less than a millisecond early; within 49 days before `now`.
    pub(super) const fn pinged_at(&self, now: Instant) -> Instant {
        let now = now.as_millis();
        let age = (now as u32).wrapping_sub(self.pinged_at);
        Instant::from_millis(now.saturating_sub(age as u64))
    }

    /// Whether it has had its share of turn number `turn`, in which `all` messages of whomever
    /// were handled so far.
    #[inline]
    pub(super) const fn has_had_its_turn(&mut self, turn: u32, all: u32) -> bool {
        if self.turn != turn as u16 {
            self.turn = turn as u16;
            self.turn_messages = 0;
        }
        let share = if all < TURN_MESSAGES_MAX {
            TURN_CLIENT_MESSAGES_MAX
        } else {
            TURN_CLIENT_MESSAGES_MIN
        };
        (self.turn_messages as u32) >= share
    }

    /// When it counts as stuck if nothing changes: its send has made no progress for so long, or
    /// its queue has been full for so long.
    pub(super) fn stuck_at(&self, patience: Duration) -> Option<Instant> {
        let progress = self.sending.then(|| self.last_progress.plus(patience));
        let above = self.above_high_since().map(|since| since.plus(patience));
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

impl Rare {
    /// Whether nothing in it matters any more, as long as nothing is queued.
    const fn is_idle(&self) -> bool {
        self.stalled.is_none()
            && self.above_high_since.is_none()
            && self.throttled_until.is_none()
            && self.direct.capacity == 0
            && self.unsent == 0
            && self.retry_after == 0
            && self.takeover.is_none()
    }
}

/// A worker's connections, at the positions of the engine's slots.
#[derive(Debug, Default)]
pub(super) struct Conns {
    slots: Paged<Option<Conn>>,
    len: usize,
}

impl Conns {
    pub(super) fn insert(&mut self, key: ConnKey, mut conn: Conn) {
        let index = key.index as usize;
        self.slots.grow_to(index, || None);
        conn.generation = key.generation;
        self.slots[index] = Some(conn);
        self.len += 1;
    }

    #[inline]
    pub(super) fn get_mut(&mut self, key: ConnKey) -> Option<&mut Conn> {
        match self.slots.get_mut(key.index as usize)? {
            Some(conn) if conn.generation == key.generation => Some(conn),
            _ => None,
        }
    }

    pub(super) fn get(&self, key: ConnKey) -> Option<&Conn> {
        match self.slots.get(key.index as usize)? {
            Some(conn) if conn.generation == key.generation => Some(conn),
            _ => None,
        }
    }

    pub(super) fn remove(&mut self, key: ConnKey) -> Option<Conn> {
        self.get(key)?;
        self.len -= 1;
        self.slots[key.index as usize].take()
    }

    pub(super) const fn len(&self) -> usize {
        self.len
    }

    /// The key of the connection at position `index`, if there is one.
    pub(super) fn key_at(&self, index: usize) -> Option<ConnKey> {
        let conn = self.slots.get(index)?.as_ref()?;
        Some(Key {
            index: index as u32,
            generation: conn.generation,
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

    #[test]
    fn a_connection_is_small() {
        let bytes = size_of::<Option<Conn>>();
        assert!(bytes <= 192, "{bytes} bytes");
    }

    #[test]
    fn what_few_have_is_given_back() {
        let mut conn = Conn::new(at(0), None);
        conn.set_above_high(None);
        conn.forget_unsent();
        assert!(conn.rare.is_none(), "made for nothing");
        conn.set_above_high(Some(at(1)));
        conn.set_above_high(Some(at(2)));
        assert_eq!(conn.above_high_since(), Some(at(1)));
        conn.tidy();
        assert!(conn.rare.is_some());
        conn.set_above_high(None);
        conn.tidy();
        assert!(conn.rare.is_none());
    }

    #[test]
    fn a_ping_has_its_time() {
        let mut conn = Conn::new(at(0), None);
        // Also where the bits that are kept start over.
        for pinged in [
            0,
            1,
            5_000,
            u64::from(u32::MAX),
            u64::from(u32::MAX) + 7,
            1 << 40,
        ] {
            let exact = Instant::from_nanos(at(pinged).as_nanos() + 999_999);
            conn.set_pinged(exact);
            for later in [0, 1, 10_000, 30 * 86_400_000] {
                assert_eq!(
                    conn.pinged_at(exact.plus(Duration::from_millis(later))),
                    at(pinged)
                );
            }
        }
    }

    #[test]
    fn a_peer_keeps_its_address() {
        for text in ["192.0.2.1:80", "[2001:db8::1]:443"] {
            let address: SocketAddr = text.parse().unwrap();
            assert_eq!(Peer::new(Some(address)).address(), Some(address));
        }
        assert_eq!(Peer::new(None).address(), None);
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
            conn.set_above_high(above.map(at));
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
