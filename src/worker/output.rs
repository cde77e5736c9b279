//! What clients get: answers, room messages, closes, and the one send of a turn.

use std::time::Duration;

use tracing::{debug, info};

use super::{
    Action, Core, Timer,
    conn::{Conns, Ping, Receive, StallCause, State},
};
use crate::{
    base::{
        counters::Counters,
        ids::SessionKey,
        limits::{CLOSE_TIMEOUT, EVICTION_LINGER, LINGER},
        segments::{SendBatch, SharedFrame},
    },
    engine::{CloseMode, ConnKey},
    handler::{
        reply,
        rooms::{Answer, answer},
    },
    hub::{
        Output,
        edge::Receivers,
        wire::{DirectMessage, LeaveReason, Reply},
    },
    proto::{
        envelope::{ErrorCode, json},
        http1::Response,
        ws::{CloseCode, OpCode, close, header::push_frame},
    },
    session::{
        Session,
        outbound::{Gap, Handling, SpareBuffers, Terms},
    },
};

/// Where a room's messages go.
pub(super) struct Members<'a> {
    pub(super) conns: &'a mut Conns,
    pub(super) spare: &'a mut SpareBuffers,
    pub(super) dirty: &'a mut Vec<ConnKey>,
    pub(super) slow: &'a mut Vec<ConnKey>,
    pub(super) counters: &'a Counters,
    pub(super) buffered_bytes_high: usize,
    pub(super) buffered_bytes_low: usize,
    pub(super) messages_out: &'a mut u64,
}

impl Receivers for Members<'_> {
    #[inline]
    fn deliver(&mut self, to: &Session, frame: &SharedFrame, handling: &Handling<'_>) {
        let key = to.transport;
        let Some(conn) = self.conns.get_mut(key) else {
            return;
        };
        match handling {
            // At the mark it takes no more: what is queued beyond it is at most one frame.
            Handling::Firm => {
                if conn.outbound.firm_bytes() >= self.buffered_bytes_high {
                    self.counters.delivery_skipped_total.inc();
                    if self.slow.last() != Some(&key) {
                        self.slow.push(key);
                    }
                    return;
                }
                conn.outbound.push_shared(self.spare, frame);
            }
            Handling::Ephemeral => {
                if conn.outbound.is_behind(self.buffered_bytes_low) {
                    return self.counters.dropped_ephemeral_total.inc();
                }
                conn.outbound.push_shared(self.spare, frame);
            }
            Handling::Droppable(message) => {
                let terms = Terms {
                    high: self.buffered_bytes_high,
                    low: self.buffered_bytes_low,
                    tells_gaps: to.encoding.has_envelope(),
                };
                if !conn.outbound.offer(self.spare, frame, message, terms) {
                    // The gap goes behind something that is being sent already.
                    return;
                }
            }
        }
        *self.messages_out += 1;
        self.counters.delivered_total.inc();
        if !std::mem::replace(&mut conn.dirty, true) {
            self.dirty.push(key);
        }
    }
}

/// Writes a `gap` as its client reads it.
fn write_gap(run: &mut Vec<u8>, gap: Gap<'_>) {
    let mut payload = Vec::new();
    json::push_gap(&mut payload, gap.room, gap.dropped, gap.next_seq);
    push_frame(run, OpCode::Text, &payload);
}

impl Core {
    /// Does what the hub and the handlers have said.
    pub(super) fn drain_outputs(&mut self) {
        let here = self.mesh.core();
        while let Some(output) = self.out.pop_front() {
            match output {
                Output::Request { to, request } if to == here => {
                    self.hub
                        .handle_request(self.now, here, request, &self.sessions, &mut self.out);
                }
                Output::Request { to, request } => self.mesh.request(to, request),
                Output::Deliver { to, delivery } if to == here => {
                    self.take_delivery(here, delivery);
                }
                Output::Deliver { to, delivery } => self.mesh.deliver(to, delivery),
                Output::ReturnWindow { to, bytes } if to == here => {
                    self.hub.return_window(to, bytes);
                }
                Output::ReturnWindow { to, bytes } => self.mesh.return_window(to, bytes),
                Output::WakeRoom { room, after_ms } => {
                    let after = Duration::from_millis(after_ms.into());
                    self.wheel.arm(self.now.mono.plus(after), Timer::Room(room));
                }
                Output::Message { to, payload } => self.send_text(to, &payload),
                Output::Reply { to, id, reply } => self.send_reply(to, id.as_deref(), &reply),
                Output::Direct { to, message } => self.send_direct(to, &message),
            }
        }
    }

    fn transport_of(&self, session: SessionKey) -> Option<ConnKey> {
        self.sessions.get(session).map(|s| s.transport)
    }

    fn send_text(&mut self, to: SessionKey, payload: &[u8]) {
        let Some(conn) = self.transport_of(to) else {
            return;
        };
        if let Some(state) = self.conns.get_mut(conn) {
            state.outbound.write(&mut self.spare, |run| {
                push_frame(run, OpCode::Text, payload);
            });
            self.messages_out += 1;
            self.mark_dirty(conn);
        }
    }

    fn send_reply(&mut self, to: SessionKey, id: Option<&str>, reply: &Reply) {
        let Some(session) = self.sessions.get(to) else {
            return;
        };
        if let Reply::Error(error) | Reply::JoinRefused(error) = reply {
            self.counters.command_errors_total.inc();
            if error.code == ErrorCode::Overloaded {
                self.counters.overloaded_total.inc();
            }
        }
        let mut payload = Vec::new();
        match answer(session, id, reply, &mut payload) {
            Answer::Message => self.send_text(to, &payload),
            Answer::Nothing => {}
            Answer::Dropped => self.counters.raw_dropped_total.inc(),
            Answer::Close(code, reason) => {
                let conn = session.transport;
                self.begin_close(conn, code, reason, LeaveReason::Disconnected);
            }
        }
    }

    fn send_direct(&mut self, to: SessionKey, message: &DirectMessage) {
        let Some(session) = self.sessions.get_mut(to) else {
            return;
        };
        if !session.encoding.has_envelope() {
            return;
        }
        let conn = session.transport;
        let full = self.conns.get(conn).is_some_and(|state| {
            state.outbound.firm_bytes() >= self.config.limits.buffered_bytes_high.0
        });
        if full {
            return self.evict(conn);
        }
        session.directs += 1;
        let mut payload = Vec::new();
        reply::direct(&mut payload, session.directs, message);
        self.send_text(to, &payload);
    }

    /// What to hand to the kernel for one connection, if it has anything and nothing is in
    /// flight.
    pub(super) fn next_batch(&mut self, conn: ConnKey) -> Option<SendBatch> {
        let state = self.conns.get_mut(conn)?;
        state.dirty = false;
        if state.sending {
            return None;
        }
        let batch = state.outbound.take_batch(&mut self.spare, write_gap)?;
        state.sending = true;
        state.last_progress = self.now.mono;
        // Once nothing is left behind it, the ping is in this batch.
        if state.ping == Ping::Queued && state.outbound.is_empty() {
            state.ping = Ping::Sending;
        }
        Some(batch)
    }

    pub(super) fn on_sent(&mut self, conn: ConnKey, bytes: usize, done: Option<SendBatch>) {
        self.counters.bytes_out_total.add(bytes as u64);
        let finished = done.is_some();
        if let Some(batch) = done {
            self.spare.reclaim(batch);
        }
        let Some(state) = self.conns.get_mut(conn) else {
            return;
        };
        state.outbound.on_sent(bytes);
        state.last_progress = self.now.mono;
        if finished {
            state.sending = false;
            let pinged = state.ping == Ping::Sending;
            if pinged {
                state.ping = Ping::Sent(self.now.mono);
            }
            let is_awaited = pinged && matches!(state.state, State::Open { .. });
            if !state.outbound.is_empty() {
                self.mark_dirty(conn);
            }
            if is_awaited {
                self.set_timer(conn, self.config.limits.pong_timeout.0);
            }
        }
        self.after_progress(conn);
    }

    fn after_progress(&mut self, conn: ConnKey) {
        let Some(state) = self.conns.get_mut(conn) else {
            return;
        };
        let low = self.config.limits.buffered_bytes_low.0;
        let waits = |stall: &super::conn::Stall| stall.cause == StallCause::Backlog;
        if state.stalled.as_deref().is_some_and(waits) && state.outbound.firm_bytes() <= low {
            self.caught_up.push_back(conn);
        }
        if state.outbound.is_drained()
            && let State::Lingering { is_shut, .. } = &mut state.state
        {
            if !std::mem::replace(is_shut, true) {
                self.actions.push_back(Action::ShutdownWrite(conn));
            }
            if state.ended {
                self.drop_conn(conn, CloseMode::Orderly);
            }
        }
    }

    /// Queues a close frame.
    pub(super) fn write_close(&mut self, conn: ConnKey, code: CloseCode, reason: &str) {
        if let Some(state) = self.conns.get_mut(conn) {
            let payload = close::payload(code, reason);
            state.outbound.write(&mut self.spare, |run| {
                push_frame(run, OpCode::Close, &payload);
            });
            self.mark_dirty(conn);
        }
    }

    /// Closes a WebSocket from this side and waits for the peer's answer.
    pub(super) fn begin_close(
        &mut self,
        conn: ConnKey,
        code: CloseCode,
        reason: &str,
        left: LeaveReason,
    ) {
        if !self.end_session(conn, left) {
            return;
        }
        self.write_close(conn, code, reason);
        self.set_timer(conn, CLOSE_TIMEOUT);
    }

    /// Ends what an open WebSocket was served with; from then on only its close is awaited. Says
    /// whether it was open.
    pub(super) fn end_session(&mut self, conn: ConnKey, reason: LeaveReason) -> bool {
        let Some(state) = self.conns.get_mut(conn) else {
            return false;
        };
        if !matches!(state.state, State::Open { .. }) {
            return false;
        }
        let session = state.session();
        let lingering = State::Lingering {
            discarded: 0,
            is_shut: false,
            is_reset: false,
        };
        if let State::Open { ws, .. } = std::mem::replace(&mut state.state, lingering) {
            state.state = State::Closing { ws };
        }
        // Input that waited is not looked at any more, but the peer's close may follow it.
        let stalled = state.stalled.take();
        if let Some(mut stall) = stalled {
            self.feed(conn, None, &mut stall.bytes);
            self.resume_if_off(conn);
        }
        if let Some(session) = session.and_then(|key| self.sessions.remove(key)) {
            self.with_rooms(|rooms| rooms.on_close(session, reason));
            self.drain_outputs();
        }
        true
    }

    fn resume_if_off(&mut self, conn: ConnKey) {
        if let Some(state) = self.conns.get_mut(conn)
            && state.receive == Receive::Off
        {
            state.receive = Receive::On;
            self.actions.push_back(Action::ResumeReceive(conn));
        }
    }

    /// Nothing more is read but the end: lets what is queued go out, then ends this side and
    /// gives the peer a moment to end its own. An abrupt close would make the kernel reset the
    /// connection, and the reset could overtake our last words.
    pub(super) fn linger(&mut self, conn: ConnKey, is_reset: bool) {
        let Some(state) = self.conns.get_mut(conn) else {
            return;
        };
        if matches!(state.state, State::Lingering { .. }) {
            return;
        }
        state.state = State::Lingering {
            discarded: 0,
            is_shut: false,
            is_reset,
        };
        state.stalled = None;
        let after = if is_reset { EVICTION_LINGER } else { LINGER };
        self.resume_if_off(conn);
        self.set_timer(conn, after);
        self.mark_dirty(conn);
        self.after_progress(conn);
    }

    /// Closes a client that does not read: what is queued is dropped, what is on its way may
    /// end, then comes the close frame. If that can't be written in time, a reset.
    pub(super) fn evict(&mut self, conn: ConnKey) {
        let Some(state) = self.conns.get(conn) else {
            return;
        };
        if !matches!(state.state, State::Open { .. }) {
            return;
        }
        info!(
            conn = conn.index,
            peer = ?state.peer,
            buffered_bytes = state.outbound.buffered_bytes(),
            "slow client evicted"
        );
        self.counters.evicted_slow_total.inc();
        self.end_session(conn, LeaveReason::Evicted);
        if let Some(state) = self.conns.get_mut(conn) {
            state.outbound.clear_queued();
        }
        self.write_close(conn, CloseCode::SLOW_CLIENT, "slow client");
        self.linger(conn, true);
    }

    pub(super) fn evict_slow(&mut self) {
        while let Some(conn) = self.slow.pop() {
            self.evict(conn);
        }
    }

    /// Closes a connection whose input made the code panic.
    pub(super) fn close_after_panic(&mut self, conn: ConnKey) {
        if self.end_session(conn, LeaveReason::Disconnected) {
            self.write_close(conn, CloseCode::INTERNAL_ERROR, "internal error");
            self.linger(conn, false);
        } else {
            self.drop_conn(conn, CloseMode::Reset);
        }
    }

    /// Tells one connection that the gateway stops.
    pub(super) fn stop_conn(&mut self, conn: ConnKey) {
        match self.conns.get(conn).map(|state| &state.state) {
            Some(State::Open { .. }) => {
                // Spread, so that the clients do not come back all at once.
                let after = 1 + self.rng.below(10);
                let reason = format!("restart;retry-after={after}");
                let code = CloseCode::SERVICE_RESTART;
                self.begin_close(conn, code, &reason, LeaveReason::Disconnected);
            }
            Some(State::Head(reader)) if reader.is_empty() => {
                self.drop_conn(conn, CloseMode::Orderly);
            }
            Some(State::Head(_)) => {
                let response = Response::new(503)
                    .header("Retry-After", "1")
                    .body("the gateway is stopping");
                self.respond(conn, &response);
            }
            Some(State::Closing { .. } | State::Lingering { .. }) | None => {}
        }
    }

    /// Forgets a connection and has its socket closed.
    pub(super) fn drop_conn(&mut self, conn: ConnKey, mode: CloseMode) {
        self.end_session(conn, LeaveReason::Disconnected);
        if let Some(state) = self.conns.remove(conn) {
            if let Some(timer) = state.timer {
                let armed: Option<Timer> = self.wheel.cancel(timer);
                debug_assert!(armed.is_none_or(|timer| timer == Timer::Conn(conn)));
            }
            self.counters.closed_total.inc();
            debug!(conn = conn.index, ?mode, "closed");
            self.actions.push_back(Action::Close(conn, mode));
        }
    }
}
