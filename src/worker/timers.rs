//! What happens when a connection's time has come: one timer each, whatever its state.

use std::sync::Arc;

use tracing::debug;

use super::{
    Core,
    conn::{Ping, State},
};
use crate::{
    engine::{CloseMode, ConnKey},
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
            State::Head(_) => {
                self.counters.handshake_timeouts_total.inc();
                let response = Response::new(408).body("the request took too long to arrive");
                self.respond(conn, &response);
            }
            State::Open { .. } => self.check_heartbeat(conn),
            // The peer did not answer our close.
            State::Closing { .. } => self.drop_conn(conn, CloseMode::Orderly),
            State::Lingering { is_reset, .. } => {
                let is_stuck = *is_reset || !state.outbound.is_drained();
                let mode = if is_stuck {
                    CloseMode::Reset
                } else {
                    CloseMode::Orderly
                };
                self.drop_conn(conn, mode);
            }
        }
    }

    /// A client is pinged after a while of silence, and closed if it stays silent. Any byte
    /// proves life; the deadline begins when the kernel has taken the ping.
    fn check_heartbeat(&mut self, conn: ConnKey) {
        let config = Arc::clone(&self.config);
        let limits = &config.limits;
        let now = self.now.mono;
        let Some(state) = self.conns.get_mut(conn) else {
            return;
        };
        if state.sending && now.since(state.last_progress) >= limits.buffered_time_max.0 {
            return self.evict(conn);
        }
        if state.stalled.is_some() {
            // It may have answered: nobody has looked.
            state.last_read = now;
            return self.set_timer(conn, limits.ping_interval.0);
        }
        let idle = now.since(state.last_read);
        if let Ping::Sent(at) = state.ping {
            let waited = now.since(at);
            if state.last_read < at && waited >= limits.pong_timeout.0 {
                debug!(conn = conn.index, "no pong");
                self.counters.heartbeat_timeouts_total.inc();
                // Whoever sends nothing will not answer a close either.
                self.end_session(conn, LeaveReason::TimedOut);
                self.write_close(conn, CloseCode::HEARTBEAT_TIMEOUT, "heartbeat timeout");
                return self.linger(conn, true);
            }
            if state.last_read < at {
                return self.set_timer(conn, limits.pong_timeout.0.saturating_sub(waited));
            }
            state.ping = Ping::None;
        }
        if idle < limits.ping_interval.0 {
            return self.set_timer(conn, limits.ping_interval.0.saturating_sub(idle));
        }
        if state.ping == Ping::None {
            state.ping = Ping::Queued;
            state
                .outbound
                .write(&mut self.spare, |run| push_frame(run, OpCode::Ping, b""));
            self.mark_dirty(conn);
        }
        // If the ping can't be written, its time is that of a send without progress.
        self.set_timer(conn, limits.pong_timeout.0.min(limits.buffered_time_max.0));
    }
}
