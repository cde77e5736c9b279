//! The end of many connections, spread over time: of all when the gateway stops, of those whose
//! route is gone after a reload (design §8).
//!
//! ```text
//!   all:  Telling ──everyone told──▶ Waiting ──nobody left, or the deadline──▶ Ending ──▶ finished
//! ```
//!
//! While it drains a worker goes on serving whom it has not told yet, and everyone's rooms. It
//! goes on accepting too, to say 503 in words.

use std::time::Duration;

use tracing::info;

use super::{Core, conn::State};
use crate::{
    base::{
        bucket::{Bucket, Rate},
        limits::{DRAIN_CLOSES_PER_SECOND_MIN, MESSAGE_PATIENCE, TURN_CLOSES_MAX},
        time::Instant,
    },
    config,
    engine::{CloseMode, ConnKey},
    handler::reply,
    hub::wire::LeaveReason,
    proto::ws::{CloseCode, OpCode, header::push_frame},
};

/// A worker's end, under way.
#[derive(Debug)]
pub(super) struct Drain {
    deadline: Instant,
    phase: Phase,
    sweep: Sweep,
    /// Clients that were cut at the deadline.
    pub(super) cut: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Telling,
    Waiting,
    Ending,
}

/// One way through all connections, at a pace: an even schedule, and a bucket that bounds how fast
/// lost time is made up for.
#[derive(Debug)]
pub(super) struct Sweep {
    started: Instant,
    per_second: u64,
    told: u64,
    cap: Rate,
    bucket: Bucket,
    /// Connections below this position have been told.
    cursor: usize,
    next_at: Instant,
}

impl Sweep {
    /// A way past `clients` clients in the time of `drain`.
    fn new(now: Instant, clients: u32, drain: &config::Drain) -> Self {
        let window = drain.window.0.as_nanos().max(1);
        let spread = (u128::from(clients) * NANOS_PER_SECOND).div_ceil(window);
        let mut per_second = u64::try_from(spread)
            .unwrap_or(u64::MAX)
            .max(DRAIN_CLOSES_PER_SECOND_MIN);
        let mut most = per_second.saturating_mul(5) / 4;
        if drain.closes_per_second_max > 0 {
            most = most.min(drain.closes_per_second_max.into());
            per_second = per_second.min(most);
        }
        // A sixteenth of a second at once: who looks a little late has lost nothing.
        let cap = Rate::new(most, (most / 16).max(1));
        Self {
            started: now,
            per_second,
            told: 0,
            cap: cap.expect("invariant: a pace is at least 1"),
            bucket: Bucket::default(),
            cursor: 0,
            next_at: now,
        }
    }

    /// Whether one more may be told now; if not, it notes when.
    fn may_tell(&mut self, now: Instant) -> bool {
        let after = u128::from(self.told) * NANOS_PER_SECOND / u128::from(self.per_second);
        let after = Duration::from_nanos(u64::try_from(after).unwrap_or(u64::MAX));
        let scheduled = self.started.plus(after);
        if now < scheduled {
            self.next_at = scheduled;
            return false;
        }
        match self.bucket.try_take(now, self.cap, 1) {
            Ok(()) => {
                self.told += 1;
                true
            }
            Err(wait) => {
                self.next_at = now.plus(wait);
                false
            }
        }
    }
}

const NANOS_PER_SECOND: u128 = 1_000_000_000;

impl Core {
    /// Begins the end.
    pub(super) fn begin_drain(&mut self) {
        if self.drain.is_some() {
            return;
        }
        let now = self.now.mono;
        let clients = self.routes.connections();
        info!(core = self.mesh.core(), clients, "draining");
        self.drain = Some(Drain {
            deadline: now.plus(self.config.drain.deadline.0),
            phase: Phase::Telling,
            sweep: Sweep::new(now, clients, &self.config.drain),
            cut: 0,
        });
    }

    /// Begins the end of the connections whose route is gone.
    pub(super) fn begin_retiring(&mut self) {
        let clients = self.routes.connections();
        self.retiring = Some(Sweep::new(self.now.mono, clients, &self.config.drain));
    }

    /// Whether the worker accepts no more.
    pub(super) fn is_ending(&self) -> bool {
        let ending = |drain: &Drain| drain.phase == Phase::Ending;
        self.drain.as_ref().is_some_and(ending)
    }

    /// When the next one is to be told, or the end has come.
    pub(super) fn drain_wake(&self) -> Option<Instant> {
        let drain = self.drain.as_ref().and_then(|drain| match drain.phase {
            Phase::Telling => Some(drain.sweep.next_at.min(drain.deadline)),
            Phase::Waiting => Some(drain.deadline),
            Phase::Ending => (self.now.mono < drain.deadline).then_some(drain.deadline),
        });
        let retiring = self.retiring.as_ref().map(|sweep| sweep.next_at);
        [drain, retiring].into_iter().flatten().min()
    }

    /// Goes on with the ends under way. Says whether there was anything to do.
    pub(super) fn go_on_draining(&mut self) -> bool {
        let mut busy = false;
        if let Some(mut sweep) = self.retiring.take() {
            let before = sweep.cursor;
            if !self.sweep(&mut sweep, false) {
                busy |= sweep.cursor != before;
                self.retiring = Some(sweep);
            }
        }
        if let Some(mut drain) = self.drain.take() {
            busy |= self.go_on_with(&mut drain);
            self.drain = Some(drain);
        }
        busy
    }

    fn go_on_with(&mut self, drain: &mut Drain) -> bool {
        let phase = drain.phase;
        let before = drain.sweep.cursor;
        if phase == Phase::Telling && self.sweep(&mut drain.sweep, true) {
            drain.phase = Phase::Waiting;
        }
        if phase == Phase::Waiting && self.conns.len() == self.heads as usize {
            self.begin_ending(drain);
        }
        if phase != Phase::Ending && self.now.mono >= drain.deadline {
            self.cut_everyone(drain);
            self.begin_ending(drain);
        }
        if drain.phase == Phase::Ending {
            self.end_heads(&mut drain.sweep);
        }
        drain.phase != phase || drain.sweep.cursor != before
    }

    /// Tells connections that their end has come, as many as the pace allows now: all, or those
    /// whose route is gone. Says whether everyone has been told.
    fn sweep(&mut self, sweep: &mut Sweep, all: bool) -> bool {
        let now = self.now.mono;
        let mut looked_at = 0;
        while looked_at < TURN_CLOSES_MAX {
            if sweep.cursor >= self.conns.index_bound() {
                return true;
            }
            looked_at += 1;
            if let Some(conn) = self.conns.key_at(sweep.cursor)
                && let Some(state) = self.conns.get(conn)
                && matches!(state.state, State::Open { .. })
                && (all || !self.routes[state.route].is_served)
            {
                if !sweep.may_tell(now) {
                    return false;
                }
                self.announce_end(conn);
            }
            sweep.cursor += 1;
        }
        sweep.next_at = now;
        false
    }

    /// Tells a client that its connection will be closed, and closes it a moment later.
    fn announce_end(&mut self, conn: ConnKey) {
        let notice = self.config.drain.notice.0;
        let retry_after = self.retry_after();
        let at = self.now.mono.plus(notice);
        let Some(state) = self.conns.get_mut(conn) else {
            return;
        };
        state.is_draining = true;
        state.rare_mut().retry_after = retry_after as u16;
        state.ends_at = state.ends_at.min(at);
        if notice.is_zero() {
            return self.end_planned(conn);
        }
        self.say_reconnect(conn, retry_after * 1000, "restart");
        self.arm_by(conn, at);
    }

    /// Sends `reconnect` to a client that understands it.
    fn say_reconnect(&mut self, conn: ConnKey, after_ms: u64, reason: &'static str) {
        let Some(state) = self.conns.get_mut(conn) else {
            return;
        };
        let has_envelope = state
            .session()
            .and_then(|key| self.sessions.get(key))
            .is_some_and(|session| session.encoding.has_envelope());
        if has_envelope {
            let mut payload = Vec::new();
            reply::reconnect(&mut payload, after_ms, reason);
            state.outbound.write(&mut self.spare, |run| {
                push_frame(run, OpCode::Text, &payload);
            });
            self.messages_out += 1;
            self.mark_dirty(conn);
        }
    }

    /// The end that was planned for a connection has come: its lifetime is over, or it drains.
    /// Not in the middle of a message that the client has begun, if that ends soon.
    pub(super) fn end_planned(&mut self, conn: ConnKey) {
        let now = self.now.mono;
        let Some(state) = self.conns.get_mut(conn) else {
            return;
        };
        let State::Open { ws, .. } = &state.state else {
            return;
        };
        if ws.has_partial() && now.since(state.ends_at) < MESSAGE_PATIENCE {
            return self.arm_by(conn, now.plus(Duration::from_millis(20)));
        }
        if !state.is_draining {
            self.counters.lifetimes_total.inc();
            self.say_reconnect(conn, 0, "connection lifetime");
            let code = CloseCode::CONNECTION_LIFETIME;
            return self.begin_close(conn, code, "connection lifetime", LeaveReason::Disconnected);
        }
        self.counters.drained_total.inc();
        let (route, after) = (state.route, state.retry_after());
        let code = self.routes[route].drain_close_code.map(CloseCode);
        let (code, reason) = match code {
            Some(code) => (code, format!("restart;retry-after={after}")),
            None if self.config.drain.is_final && self.drain.is_some() => {
                (CloseCode::GOING_AWAY, "going away".to_owned())
            }
            None => (
                CloseCode::SERVICE_RESTART,
                format!("restart;retry-after={after}"),
            ),
        };
        if code == CloseCode::ABNORMAL {
            // Some clients come back only from an end that was not clean: what is queued goes
            // out whole, then the stream ends without a close frame.
            self.end_session(conn, LeaveReason::Disconnected);
            return self.linger(conn, false);
        }
        self.begin_close(conn, code, &reason, LeaveReason::Disconnected);
    }

    /// The deadline: who is left is told, and waited for no longer.
    fn cut_everyone(&mut self, drain: &mut Drain) {
        for index in 0..self.conns.index_bound() {
            let Some(conn) = self.conns.key_at(index) else {
                continue;
            };
            match self.conns.get_mut(conn).map(|state| &mut state.state) {
                Some(State::Open { .. }) => {
                    drain.cut += 1;
                    let code = CloseCode::SERVICE_RESTART;
                    let reason = format!("restart;retry-after={}", self.retry_after());
                    self.begin_close(conn, code, &reason, LeaveReason::Disconnected);
                }
                Some(State::Closing { .. }) => drain.cut += 1,
                Some(State::Preface(_) | State::Head(_) | State::Lingering { .. }) | None => {}
            }
        }
        self.counters.drain_cut_total.add(drain.cut);
    }

    fn begin_ending(&mut self, drain: &mut Drain) {
        drain.phase = Phase::Ending;
        drain.sweep.cursor = 0;
        self.actions.push_back(super::Action::StopAccepting);
    }

    /// Nobody is served any more: requests that have begun are answered, the others' connections
    /// closed.
    fn end_heads(&mut self, sweep: &mut Sweep) {
        let end = self.conns.index_bound();
        let to = end.min(sweep.cursor + TURN_CLOSES_MAX);
        for index in sweep.cursor.min(end)..to {
            let Some(conn) = self.conns.key_at(index) else {
                continue;
            };
            match self.conns.get(conn).map(|state| &state.state) {
                Some(State::Preface(_)) => self.drop_conn(conn, CloseMode::Orderly),
                Some(State::Head(reader)) if reader.is_empty() => {
                    self.drop_conn(conn, CloseMode::Orderly);
                }
                Some(State::Head(_)) => {
                    let response = self.busy_response("the gateway is stopping");
                    self.respond(conn, &response);
                }
                _ => {}
            }
        }
        sweep.cursor = to;
    }

    /// Whether the end has come: everything closed, or its time over.
    pub(super) fn is_drained(&self, slots_open: usize) -> bool {
        self.drain.as_ref().is_some_and(|drain| {
            drain.phase == Phase::Ending && (slots_open == 0 || self.now.mono >= drain.deadline)
        })
    }

    /// Arms what a new connection's limits ask for.
    pub(super) fn plan_end(&mut self, conn: ConnKey) {
        let Some(state) = self.conns.get_mut(conn) else {
            return;
        };
        let lifetime = self.routes[state.route].limits.connection_lifetime.0;
        if lifetime.is_zero() {
            return;
        }
        // Up to a tenth earlier, so that those who came together do not go together.
        let tenth = u64::try_from(lifetime.as_nanos() / 10).unwrap_or(u64::MAX);
        let early = Duration::from_nanos(self.rng.below(tenth.max(1)));
        let at = self.now.mono.plus(lifetime.saturating_sub(early));
        state.ends_at = at;
        self.arm_by(conn, at);
    }

    /// What a request for an upgrade is told while the worker drains.
    pub(super) const fn is_draining(&self) -> bool {
        self.drain.is_some()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::config::{Drain, Span};

    fn drain(window_ms: u64, closes_per_second_max: u32) -> Drain {
        Drain {
            window: Span(Duration::from_millis(window_ms)),
            closes_per_second_max,
            ..Drain::default()
        }
    }

    fn at(millis: u64) -> Instant {
        Instant::from_nanos(millis * 1_000_000)
    }

    #[test]
    fn few_clients_are_not_spread_over_a_long_window() {
        let mut sweep = Sweep::new(at(0), 3, &drain(60_000, 0));
        assert!(sweep.may_tell(at(0)));
        assert!(!sweep.may_tell(at(0)));
        assert_eq!(sweep.next_at, at(20));
        assert!(sweep.may_tell(at(20)) && sweep.may_tell(at(40)));
    }

    proptest! {
        /// Looked at now and then, with pauses: never more than the schedule, never above the
        /// cap, and over with the window if it is looked at often enough.
        #[test]
        fn it_keeps_to_its_schedule_and_its_cap(
            clients in 1u32..5_000,
            window_ms in 100u64..20_000,
            cap in prop_oneof![Just(0u32), 100u32..5_000],
            pauses in proptest::collection::vec(0u64..40, 2_000),
        ) {
            let drain = drain(window_ms, cap);
            let mut sweep = Sweep::new(at(0), clients, &drain);
            let spread = f64::from(clients) * 1000.0 / window_ms as f64;
            let mut per_second = spread.ceil().max(DRAIN_CLOSES_PER_SECOND_MIN as f64);
            let mut most = per_second * 1.25;
            if cap > 0 {
                most = most.min(f64::from(cap));
                per_second = per_second.min(most);
            }
            let (mut now, mut told) = (0, 0u32);
            let mut since = (0, 0);
            for pause in pauses {
                now += pause;
                while told < clients && sweep.may_tell(at(now)) {
                    told += 1;
                }
                let scheduled = now as f64 / 1000.0 * per_second + 1.0;
                prop_assert!(f64::from(told) <= scheduled + 0.001);
                if now - since.0 >= 500 {
                    let rate = f64::from(told - since.1) * 1000.0 / (now - since.0) as f64;
                    prop_assert!(rate <= most * 1.15 + 4.0, "{rate} above {most}");
                    since = (now, told);
                }
                if told < clients {
                    prop_assert!(sweep.next_at > at(now));
                }
            }
            let needed = f64::from(clients) / per_second * 1000.0;
            if now as f64 > needed + 200.0 {
                prop_assert_eq!(told, clients, "after {} of {}", now, needed);
            }
        }
    }
}
