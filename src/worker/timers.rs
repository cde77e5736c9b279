//! What happens when a connection's time has come: one timer each, armed for whatever comes first.

use std::time::Duration;

use tracing::debug;

use super::{
    Core,
    conn::{Ping, Receive, Stall, StallCause, State},
    tls::Tls,
};
use crate::{
    base::{limits::PING_ROUNDS, time::Instant},
    config::Limits,
    engine::{CloseMode, ConnKey},
    handler::reply,
    hub::wire::LeaveReason,
    proto::{
        http1::Response,
        ws::{CloseCode, OpCode, header::push_frame},
    },
};

impl Core {
    pub(super) fn on_timer(&mut self, conn: ConnKey) {
        let Some(state) = self.conns.get_mut(conn) else {
            return;
        };
        state.timer = None;
        match &state.state {
            // Who did not come so far may not speak HTTP at all.
            State::Preface(_) => {
                self.counters.handshake_timeouts_total.inc();
                self.drop_conn(conn, CloseMode::Orderly);
            }
            State::Head(_) if state.is_tls && state.tls().is_none_or(Tls::is_handshaking) => {
                self.on_tls_timeout(conn);
            }
            State::Head(_) => {
                self.counters.handshake_timeouts_total.inc();
                let response = Response::new(408).body("the request took too long to arrive");
                self.respond(conn, &response);
            }
            State::Open { .. } => self.check_open(conn),
            // The peer did not answer our close.
            State::Closing { .. } => self.drop_conn(conn, CloseMode::Orderly),
            State::Lingering { is_reset, .. } => {
                let is_stuck = *is_reset || !state.is_drained();
                let mode = if is_stuck {
                    CloseMode::Reset
                } else {
                    CloseMode::Orderly
                };
                self.drop_conn(conn, mode);
            }
        }
    }

    /// Looks at everything that an open connection has a time for, and arms the next.
    fn check_open(&mut self, conn: ConnKey) {
        let now = self.now.mono;
        let Some(route) = self.route_of(conn) else {
            return;
        };
        let limits = &route.limits;
        let Some(state) = self.conns.get_mut(conn) else {
            return;
        };
        if now >= state.ends_at {
            self.end_planned(conn);
            return;
        }
        if state.is_stuck(now, limits.buffered_time_max.0) {
            return self.evict(conn);
        }
        if state.throttled_until().is_some_and(|until| now >= until) {
            state.end_throttle();
            // Nobody has looked at what it sent meanwhile.
            state.last_read = now;
            self.go_on_receiving(conn);
        }
        let message = self.message_ends_at(conn, limits.message_timeout.0);
        if message.is_some_and(|at| now >= at) {
            self.counters.message_timeouts_total.inc();
            let code = CloseCode::POLICY_VIOLATION;
            return self.begin_close(conn, code, "message timeout", LeaveReason::TimedOut);
        }
        let Some(heartbeat) = self.check_heartbeat(conn, limits) else {
            return;
        };
        let Some(state) = self.conns.get_mut(conn) else {
            return;
        };
        let next = [
            Some(heartbeat),
            Some(state.ends_at),
            state.throttled_until(),
            state.stuck_at(limits.buffered_time_max.0),
            message,
        ];
        if let Some(next) = next.into_iter().flatten().min() {
            self.arm_by(conn, next);
        }
    }

    /// When the message that a client has begun must be finished, or have got on. What waits here is not
    /// late; who has to wait for having sent too much may well be: of that, little was its message.
    fn message_ends_at(&mut self, conn: ConnKey, timeout: Duration) -> Option<Instant> {
        let now = self.now.mono;
        let state = self.conns.get_mut(conn)?;
        // Its turn comes at once; who always has more than its share would never be late.
        let waits_for_others = |stall: &mut Stall| stall.cause != StallCause::Turn;
        let is_stalled = state.stalled().is_some_and(waits_for_others);
        let State::Open { ws, .. } = &mut state.state else {
            return None;
        };
        if is_stalled {
            ws.forgive_pause();
        }
        let since = ws.unfinished_since(now)?;
        (!timeout.is_zero()).then(|| since.plus(timeout))
    }

    /// A client is pinged after a while of silence, and closed if it stays silent. Any byte
    /// proves life; the deadline begins when the kernel has taken the ping. Says when to look
    /// again; nothing if it was closed.
    fn check_heartbeat(&mut self, conn: ConnKey, limits: &Limits) -> Option<Instant> {
        let now = self.now.mono;
        let (interval, timeout) = (limits.ping_interval.0, limits.pong_timeout.0);
        let state = self.conns.get_mut(conn)?;
        if state.is_stalled() || state.throttled_until().is_some() {
            // It may have answered: nobody has looked.
            state.last_read = now;
            return Some(now.plus(interval));
        }
        if state.ping == Ping::Sent {
            let at = state.pinged_at(now);
            if state.last_read >= at {
                state.ping = Ping::None;
            } else if now >= at.plus(timeout) {
                debug!(conn = conn.index, "no pong");
                self.counters.heartbeat_timeouts_total.inc();
                // Whoever sends nothing will not answer a close either.
                self.end_session(conn, LeaveReason::TimedOut);
                self.write_close(conn, CloseCode::HEARTBEAT_TIMEOUT, "heartbeat timeout");
                self.linger(conn, true);
                return None;
            } else {
                return Some(at.plus(timeout));
            }
        }
        // Rounded up a little: silent clients are pinged together, and one wake serves many.
        let due = state
            .last_read
            .plus(interval)
            .rounded_up(interval / PING_ROUNDS);
        if now < due {
            return Some(due);
        }
        if state.ping == Ping::None {
            state.ping = Ping::Queued;
            if state.app_heartbeat {
                let mut payload = Vec::new();
                reply::ping(&mut payload, self.now.unix_ms);
                state.outbound.write(&mut self.spare, |run| {
                    push_frame(run, OpCode::Text, &payload);
                });
                self.messages_out += 1;
            } else {
                state
                    .outbound
                    .write(&mut self.spare, |run| push_frame(run, OpCode::Ping, b""));
            }
            self.counters.pings_total.inc();
            self.mark_dirty(conn);
        }
        // While the ping can't be written, the time that counts is that of a send without progress.
        Some(now.plus(timeout))
    }

    /// Arms the connection's timer for `at`, unless it fires earlier anyway.
    pub(super) fn arm_by(&mut self, conn: ConnKey, at: Instant) {
        if let Some(state) = self.conns.get_mut(conn)
            && (state.timer.is_none() || at < state.timer_at)
        {
            if let Some(timer) = state.timer.take() {
                self.wheel.cancel(timer);
            }
            state.timer = Some(self.wheel.arm(at, super::Timer::Conn(conn)));
            state.timer_at = at;
        }
    }

    /// Arms the connection's timer, whatever it was armed for.
    pub(super) fn set_timer(&mut self, conn: ConnKey, after: Duration) {
        if let Some(state) = self.conns.get_mut(conn)
            && let Some(timer) = state.timer.take()
        {
            self.wheel.cancel(timer);
        }
        self.arm_by(conn, self.now.mono.plus(after));
    }

    /// Receiving is taken up again whatever it waited for: nothing but the end is awaited.
    pub(super) fn resume_if_off(&mut self, conn: ConnKey) {
        if let Some(state) = self.conns.get_mut(conn) {
            state.end_throttle();
            if state.receive == Receive::Off {
                state.receive = Receive::On;
                self.actions.push_back(super::Action::ResumeReceive(conn));
            }
        }
    }
}
