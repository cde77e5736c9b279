//! A core's memory budget and what is done as it runs out (design §6).
//!
//! | used | what happens |
//! |---|---|
//! | 80 % | spare memory is given back |
//! | 90 % | new connections get 503 |
//! | 95 % | the clients that take the most are closed, largest first |
//! | 98 % | accepting pauses, until less than 95 % are used |
//!
//! What is counted is what clients cause: their state, what waits to be sent to them and what they
//! have sent in part. It is reckoned from lengths and known sizes, not asked of the allocator,
//! so it is exact in what grows and approximate in what does not.

use tracing::{info, warn};

use super::{
    Core,
    conn::{Conn, State},
};
use crate::{
    base::{
        limits::{
            BACKLOG_BYTES_MIN, TRIM_INTERVAL, TURN_BACKLOGS_COMPARED_MAX, TURN_MEMORY_EVICTIONS_MAX,
        },
        time::Instant,
    },
    engine::{CloseMode, ConnKey},
    hub::wire::LeaveReason,
    proto::ws::CloseCode,
    session::Session,
};

/// What one core's clients take, and what they may.
#[derive(Debug)]
pub(super) struct Memory {
    budget: usize,
    /// The receive buffers that all connections share.
    fixed: usize,
    /// What waits for clients, and what they have sent in part.
    charged: usize,
    used: usize,
    /// Of `charged`, what comes back by itself: the kernel holds it for clients that were closed.
    leaving: usize,
    /// Connections that are charged [`BACKLOG_BYTES_MIN`] or more, and some that were.
    backlogged: Vec<ConnKey>,
    cursor: usize,
    trimmed_at: Option<Instant>,
    is_accept_paused: bool,
}

/// What the turn is to do about it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Accepting {
    GoesOn,
    Pauses,
    Resumes,
}

impl Memory {
    pub(super) const fn new(budget: usize, fixed: usize) -> Self {
        Self {
            budget,
            fixed,
            charged: 0,
            used: fixed,
            leaving: 0,
            backlogged: Vec::new(),
            cursor: 0,
            trimmed_at: None,
            is_accept_paused: false,
        }
    }

    pub(super) const fn set_budget(&mut self, budget: usize) {
        self.budget = budget;
    }

    /// Bytes used.
    pub(super) const fn used(&self) -> usize {
        self.used
    }

    /// Whether no connection is charged anything.
    #[cfg(test)]
    pub(super) const fn is_discharged(&self) -> bool {
        self.charged == 0
    }

    /// Whether `percent` of the budget or more are used.
    fn is_at(&self, percent: usize) -> bool {
        self.used >= share(self.budget, percent)
    }

    /// Whether new connections are refused.
    pub(super) fn refuses(&self) -> bool {
        self.is_at(90)
    }

    /// A connection is charged what it takes now.
    fn charge(&mut self, conn: ConnKey, state: &mut Conn, bytes: usize) {
        // A client has far less: a gigabyte to receive, one to send.
        let charged = u32::try_from(bytes).unwrap_or(u32::MAX);
        self.charged = self.charged - state.charged as usize + charged as usize;
        if state.is_leaving {
            self.leaving = self.leaving - state.charged as usize + charged as usize;
        }
        state.charged = charged;
        if bytes >= BACKLOG_BYTES_MIN && !std::mem::replace(&mut state.is_backlogged, true) {
            self.backlogged.push(conn);
        }
    }

    /// A connection was closed to free what it is charged.
    const fn leave(&mut self, state: &mut Conn) {
        if !std::mem::replace(&mut state.is_leaving, true) {
            self.leaving += state.charged as usize;
        }
    }

    /// A connection has gone.
    pub(super) const fn discharge(&mut self, state: &Conn) {
        self.charged -= state.charged as usize;
        if state.is_leaving {
            self.leaving -= state.charged as usize;
        }
    }
}

const fn share(budget: usize, percent: usize) -> usize {
    budget / 100 * percent + budget % 100 * percent / 100
}

impl Core {
    /// Charges a connection what it takes now.
    pub(super) fn recharge(&mut self, conn: ConnKey) {
        if let Some(state) = self.conns.get_mut(conn) {
            state.tidy();
            let bytes = state.outbound.buffered_bytes() + state.input_bytes();
            if bytes != state.charged as usize {
                self.memory.charge(conn, state, bytes);
            }
        }
    }

    /// Reckons what is used and does what that calls for.
    pub(super) fn watch_memory(&mut self) -> Accepting {
        self.memory.used = self.memory.fixed
            + self.conns.len() * CONN_BYTES
            + self.sessions.len() * size_of::<Session>()
            + self.hub.edge().memberships() * MEMBERSHIP_BYTES
            + (self.hub.rooms_open() + self.hub.edge().len()) * ROOM_BYTES
            + self.hub.window_bytes() as usize
            + self.tls_open * TLS_BYTES
            + self.hub.compression_bytes()
            + self.deflate.memory_bytes()
            + self.memory.charged;
        if !self.memory.is_at(80) && !self.memory.is_accept_paused {
            return Accepting::GoesOn;
        }
        self.trim();
        // What the kernel still holds of those who were closed comes back within a second: nobody else
        // has to go for it.
        if self.memory.used - self.memory.leaving >= share(self.memory.budget, 95) {
            self.evict_largest();
        }
        let core = self.mesh.core();
        let used = self.memory.used;
        if self.memory.is_at(98) && !self.memory.is_accept_paused {
            self.memory.is_accept_paused = true;
            self.counters.accept_pauses_total.inc();
            warn!(core, used, "memory is used up: accepting pauses");
            return Accepting::Pauses;
        }
        if self.memory.is_accept_paused && !self.memory.is_at(95) {
            self.memory.is_accept_paused = false;
            info!(core, used, "memory is free again: accepting goes on");
            return Accepting::Resumes;
        }
        Accepting::GoesOn
    }

    /// Gives back what nobody uses at the moment.
    fn trim(&mut self) {
        let now = self.now.mono;
        let is_due = |at: Instant| now.since(at) >= TRIM_INTERVAL;
        if self.memory.is_at(80) && self.memory.trimmed_at.is_none_or(is_due) {
            self.memory.trimmed_at = Some(now);
            self.counters.memory_trims_total.inc();
            self.spare.trim();
            self.records.trim();
            self.tls_waiting.shrink_to(64);
            self.deflate.trim();
            self.hub.trim();
            self.dirty.shrink_to(64);
            self.slow.shrink_to(64);
            self.actions.shrink_to(64);
            self.out.shrink_to(64);
            self.short_of_credit.shrink_to(64);
            self.caught_up.shrink_to(64);
        }
    }

    /// Closes the clients that take the most, of a part of all that take much: in each turn
    /// another part.
    fn evict_largest(&mut self) {
        let memory = &mut self.memory;
        let mut largest: Vec<(usize, ConnKey)> = Vec::new();
        for _ in 0..TURN_BACKLOGS_COMPARED_MAX.min(memory.backlogged.len()) {
            if memory.cursor >= memory.backlogged.len() {
                memory.cursor = 0;
            }
            let Some(conn) = memory.backlogged.get(memory.cursor).copied() else {
                break;
            };
            match self.conns.get_mut(conn) {
                Some(state) if state.charged as usize >= BACKLOG_BYTES_MIN => {
                    memory.cursor += 1;
                    if matches!(state.state, State::Open { .. }) {
                        largest.push((state.charged as usize, conn));
                    }
                }
                state => {
                    if let Some(state) = state {
                        state.is_backlogged = false;
                    }
                    memory.backlogged.swap_remove(memory.cursor);
                }
            }
        }
        // Then nobody is waited for.
        let is_urgent = memory.is_at(98);
        largest.sort_unstable_by_key(|(bytes, _)| std::cmp::Reverse(*bytes));
        // Enough that new clients can be taken up again.
        let goal = share(memory.budget, 90);
        let mut excess = (memory.used - memory.leaving).saturating_sub(goal);
        for (bytes, conn) in largest.into_iter().take(TURN_MEMORY_EVICTIONS_MAX) {
            if excess == 0 {
                break;
            }
            excess = excess.saturating_sub(bytes);
            self.counters.evicted_memory_total.inc();
            let state = self.conns.get(conn);
            let queued = state.map_or(0, |s| s.outbound.buffered_bytes());
            if queued * 2 >= bytes && is_urgent && state.is_some_and(|s| s.sending) {
                // The kernel would hold what is on its way until the client reads, or a second.
                self.counters.evicted_slow_total.inc();
                self.end_session(conn, LeaveReason::Evicted);
                self.drop_conn(conn, CloseMode::Reset);
            } else if queued * 2 >= bytes {
                self.evict(conn);
            } else {
                // What it sends takes the memory, not what it does not read.
                let code = CloseCode::TRY_AGAIN_LATER;
                self.end_session(conn, LeaveReason::Evicted);
                self.write_close(conn, code, "try again later");
                self.linger(conn, true);
            }
            self.recharge(conn);
            if let Some(state) = self.conns.get_mut(conn) {
                self.memory.leave(state);
            }
        }
    }
}

/// What a connection takes whether it says anything or not: its own state, the engine's, a timer.
const CONN_BYTES: usize = size_of::<Option<Conn>>() + 72;
/// What a connection takes beyond that if it speaks TLS: as measured, rustls' part included.
const TLS_BYTES: usize = 3328;
/// What a membership takes at its room's home and on its own core.
const MEMBERSHIP_BYTES: usize = 160;
/// What a room takes, at its home or on a core with members.
const ROOM_BYTES: usize = 512;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_steps_begin_at_their_share() {
        let mut memory = Memory::new(1000, 0);
        for (used, percent, expected) in [
            (799, 80, false),
            (800, 80, true),
            (899, 90, false),
            (900, 90, true),
            (980, 98, true),
        ] {
            memory.used = used;
            assert_eq!(memory.is_at(percent), expected, "{used} {percent}");
        }
        memory.set_budget(usize::MAX);
        assert!(!memory.is_at(80));
        assert_eq!(share(usize::MAX, 100), usize::MAX);
        assert_eq!(share(150, 90), 135);
    }
}
