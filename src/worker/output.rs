//! What clients get: answers, room messages, closes, and the one send of a turn.

use std::{rc::Rc, time::Duration};

use tracing::{debug, info};

use super::{
    Action, Core, Timer,
    conn::{Conns, Counting, Ping, Receive, StallCause, State},
    deflate::{Recipient, takeover},
    routes::{NO_ROUTE, Routes},
    tls::next_sealed,
};
use crate::{
    base::{
        counters::Counters,
        ids::SessionKey,
        limits::{CLOSE_TIMEOUT, EVICTION_LINGER, LINGER, UNSENT_INTERVAL},
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
        ws::{
            CloseCode, OpCode, close,
            header::{RSV1, push_frame},
        },
    },
    session::{
        Session,
        addresses::AddressKey,
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
    pub(super) routes: &'a Routes,
    pub(super) messages_out: &'a mut u64,
}

impl Receivers for Members<'_> {
    #[inline]
    fn deliver(
        &mut self,
        to: &Session,
        frame: &SharedFrame,
        messages: u32,
        handling: &Handling<'_>,
    ) {
        let messages = u64::from(messages);
        let key = to.transport;
        let Some(conn) = self.conns.get_mut(key) else {
            return;
        };
        let Some(route) = self.routes.get(conn.route) else {
            return;
        };
        let high = route.limits.buffered_bytes_high.0;
        let low = route.limits.buffered_bytes_low.0;
        if to.takes_deflated
            && frame
                .as_slice()
                .first()
                .is_some_and(|first| first & RSV1 != 0)
            && let Some(keeps) = takeover(&mut conn.rare)
        {
            keeps.on_shared_message();
        }
        match handling {
            // At the mark it takes no more: what is queued beyond it is at most one frame. What
            // the kernel holds unsent counts once the queue itself has begun to grow.
            Handling::Firm => {
                if conn.outbound.evicting_bytes(conn.unsent()) >= high {
                    self.counters.delivery_skipped_total.add(messages);
                    if self.slow.last() != Some(&key) {
                        self.slow.push(key);
                    }
                    return;
                }
                conn.outbound.push_shared(self.spare, frame);
            }
            Handling::Ephemeral => {
                if conn.outbound.is_behind(low) {
                    return self.counters.dropped_ephemeral_total.inc();
                }
                conn.outbound.push_shared(self.spare, frame);
            }
            Handling::Droppable(message) => {
                let terms = Terms {
                    high,
                    low,
                    tells_gaps: to.encoding.has_envelope(),
                };
                if !conn.outbound.offer(self.spare, frame, message, terms) {
                    // The gap goes behind something that is being sent already.
                    return;
                }
            }
        }
        *self.messages_out += messages;
        self.counters.delivered_total.add(messages);
        if !std::mem::replace(&mut conn.dirty, true) {
            self.dirty.push(key);
        }
    }
}

/// Writes a `gap` as its client reads it.
pub(super) fn write_gap(run: &mut Vec<u8>, gap: Gap<'_>) {
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
            let to = Recipient {
                outbound: &mut state.outbound,
                rare: &mut state.rare,
                deflate_bits: state.deflate_bits,
            };
            let compression = &mut self.deflate.compression;
            let message = (OpCode::Text, payload);
            to.send(&mut self.spare, compression, &self.deflate.config, message);
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
            match error.code {
                ErrorCode::Overloaded => self.counters.overloaded_total.inc(),
                ErrorCode::RoomFull => self.counters.rooms_full_total.inc(),
                ErrorCode::TooLarge => self.counters.data_too_large_total.inc(),
                _ => {}
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
        let Some(session) = self.sessions.get(to) else {
            return;
        };
        if !session.encoding.has_envelope() {
            return;
        }
        let conn = session.transport;
        let high = self.route_of(conn).map(|r| r.limits.buffered_bytes_high.0);
        let full = self.conns.get(conn).is_some_and(|state| {
            high.is_some_and(|high| state.outbound.evicting_bytes(state.unsent()) >= high)
        });
        if full {
            return self.evict(conn);
        }
        let Some(session) = self.sessions.get_mut(to) else {
            return;
        };
        session.directs += 1;
        let mut payload = Vec::new();
        reply::direct(&mut payload, session.directs, message);
        self.send_text(to, &payload);
    }

    /// What to hand to the kernel for one connection, if it has anything and nothing is in
    /// flight.
    pub(super) fn next_batch(&mut self, conn: ConnKey) -> Option<Box<SendBatch>> {
        self.recharge(conn);
        let now = self.now.mono;
        let state = self.conns.get_mut(conn)?;
        state.dirty = false;
        let limits = self.routes.get(state.route).map(|route| &route.limits);
        let patience = limits.map(|limits| limits.buffered_time_max.0);
        let high = limits.map_or(usize::MAX, |limits| limits.buffered_bytes_high.0);
        if state.outbound.firm_bytes() >= high {
            state.set_above_high(Some(now));
        }
        if state.sending {
            return None;
        }
        let batch = if state.is_tls {
            match next_sealed(state, &mut self.records, &mut self.spare) {
                Ok(batch) => batch?,
                Err(error) => {
                    self.on_sealing_failed(conn, &error);
                    return None;
                }
            }
        } else {
            state.outbound.take_batch(&mut self.spare, write_gap)?
        };
        state.sending = true;
        state.last_progress = now;
        // Once nothing is left behind it, the ping is in this batch.
        if state.ping == Ping::Queued && !state.has_output() {
            state.ping = Ping::Sending;
        }
        let is_open = matches!(state.state, State::Open { .. });
        if let Some(patience) = patience.filter(|_| is_open) {
            self.arm_by(conn, now.plus(patience));
        }
        Some(batch)
    }

    /// Whether the kernel is to be asked how much of a connection's output it still holds: only
    /// where a queue has grown, and not often.
    pub(super) fn wants_unsent(&mut self, conn: ConnKey) -> bool {
        let now = self.now.mono;
        let Some(state) = self.conns.get_mut(conn) else {
            return false;
        };
        let Some(route) = self.routes.get(state.route) else {
            return false;
        };
        let low = route.limits.buffered_bytes_low.0;
        if state.outbound.buffered_bytes() <= low {
            return false;
        }
        let rare = state.rare_mut();
        let is_due = now.since(rare.unsent_at) >= UNSENT_INTERVAL;
        if is_due {
            rare.unsent_at = now;
        }
        is_due
    }

    pub(super) fn on_sent(&mut self, conn: ConnKey, bytes: usize, done: Option<Box<SendBatch>>) {
        self.counters.bytes_out_total.add(bytes as u64);
        let finished = done.is_some();
        let state = self.conns.get_mut(conn);
        if let Some(batch) = done {
            if state.as_ref().is_some_and(|state| state.is_tls) {
                self.records.reclaim(batch, &mut self.spare);
            } else {
                self.spare.reclaim(batch);
            }
        }
        let Some(state) = state else {
            return;
        };
        state.outbound.on_sent(bytes);
        state.last_progress = self.now.mono;
        let route = self.routes.get(state.route).map(Rc::clone);
        if let Some(route) = &route {
            let firm = state.outbound.firm_bytes();
            if firm < route.limits.buffered_bytes_high.0 {
                state.set_above_high(None);
            }
            if firm <= route.limits.buffered_bytes_low.0 {
                state.forget_unsent();
            }
        }
        if finished {
            state.sending = false;
            let pinged = state.ping == Ping::Sending;
            if pinged {
                state.set_pinged(self.now.mono);
            }
            let is_awaited = pinged && matches!(state.state, State::Open { .. });
            if state.has_output() {
                self.mark_dirty(conn);
            }
            if let Some(route) = route.filter(|_| is_awaited) {
                self.arm_by(conn, self.now.mono.plus(route.limits.pong_timeout.0));
            }
        }
        self.recharge(conn);
        self.after_progress(conn);
    }

    pub(super) fn after_progress(&mut self, conn: ConnKey) {
        let Some(state) = self.conns.get_mut(conn) else {
            return;
        };
        let low = match self.routes.get(state.route) {
            Some(route) => route.limits.buffered_bytes_low.0,
            None => 0,
        };
        let waits = |stall: &mut super::conn::Stall| stall.cause == StallCause::Backlog;
        if state.stalled().is_some_and(waits) && state.outbound.firm_bytes() <= low {
            self.caught_up.push_back(conn);
        }
        if state.is_tls
            && matches!(state.state, State::Lingering { .. })
            && state.outbound.is_drained()
            && let Some(tls) = state.tls_mut()
        {
            // Our last word, behind all others.
            tls.stream.close();
            if tls.has_output() {
                return self.mark_dirty(conn);
            }
        }
        let Some(state) = self.conns.get_mut(conn) else {
            return;
        };
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
        let (session, route) = (state.session(), state.route);
        let lingering = State::Lingering {
            discarded: 0,
            is_shut: false,
            is_reset: false,
        };
        if let State::Open { ws, .. } = std::mem::replace(&mut state.state, lingering) {
            state.state = State::Closing { ws, discarded: 0 };
        }
        // Input that waited is not looked at any more, but the peer's close may follow it.
        let stalled = state.take_stalled();
        if let Some(mut stall) = stalled {
            self.feed(conn, None, &mut stall.bytes[stall.at..], None);
        }
        self.resume_if_off(conn);
        if let Some(session) = session.and_then(|key| self.sessions.remove(key)) {
            let route = Rc::clone(&self.routes[route]);
            self.with_rooms(&route, |rooms| rooms.on_close(session, reason));
            self.drain_outputs();
        }
        true
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
        if state.is_head() {
            self.heads -= 1;
        }
        state.state = State::Lingering {
            discarded: 0,
            is_shut: false,
            is_reset,
        };
        state.take_stalled();
        state.set_above_high(None);
        if state.receive == Receive::Direct {
            // The message's buffer is not waited for until the peer sends on.
            self.actions.push_back(Action::PauseReceive(conn));
        }
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
        if let Some(suppressed) = self.eviction_log.admit(self.now.mono) {
            info!(
                conn = conn.index,
                peer = ?state.peer.address(),
                buffered_bytes = state.outbound.buffered_bytes(),
                unsent_bytes = state.unsent(),
                suppressed,
                "slow client evicted"
            );
        }
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

    /// Forgets a connection and has its socket closed.
    pub(super) fn drop_conn(&mut self, conn: ConnKey, mode: CloseMode) {
        self.end_session(conn, LeaveReason::Disconnected);
        if let Some(mut state) = self.conns.remove(conn) {
            self.memory.discharge(&state);
            self.deflate.close(&mut state);
            if state.is_head() {
                self.heads -= 1;
            }
            if state.is_refused {
                self.refusals -= 1;
            }
            if state.tls().is_some() {
                self.tls_open -= 1;
            }
            if state.route != NO_ROUTE {
                self.routes.leave(state.route);
            }
            if state.counting == Counting::Counted
                && let Some(peer) = state.peer.address()
            {
                self.depart(AddressKey::of(peer.ip()));
            }
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
