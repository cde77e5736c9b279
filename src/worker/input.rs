//! What clients send: heads, frames, and what follows from them.

use std::{rc::Rc, time::Duration};

use tracing::{debug, info};

use super::{
    Action, Core,
    conn::{Counting, DirectLoan, Mode, Receive, StallCause, State},
    deflate::{Recipient, inflate},
    http::{Decision, Target, decide},
    origin::named_client,
    proof::proven,
    routes::{Route, RouteId},
};
use crate::{
    base::{
        ids::{ClientId, Encoding, SessionKey},
        limits::{
            CLOSING_BYTES_MAX, DIRECT_RECEIVE_BYTES_MIN, FRAGMENT_COST_BYTES,
            FRAGMENTS_PER_MESSAGE, FRAGMENTS_PER_PAUSE, INFLATED_BYTES_PER_MESSAGE,
            LINGER_BYTES_MAX,
        },
        segments::Lent,
    },
    engine::{CloseMode, ConnKey, Lender},
    handler::rooms::Rooms,
    hub::wire::LeaveReason,
    proto::{
        http1::Response,
        ws::{
            CloseCode, Connection, Direct, Event, Input, Message, OpCode, Part, Role, WsError,
            deflate::Agreed, header::push_frame,
        },
    },
    session::{
        Session,
        outbound::{Outbound, SpareBuffers},
        rates::Meter,
    },
    tls::stream::is_client_hello,
};

/// The rooms handler over a core's parts. A macro, since a method would borrow the connection too.
macro_rules! rooms {
    ($core:expr, $route:expr) => {
        Rooms {
            now: $core.now,
            hub: &mut $core.hub,
            sessions: &mut $core.sessions,
            out: &mut $core.out,
            hello: &$route.hello,
            rooms_per_client: $route.limits.rooms_per_client,
            errors: 0,
            too_many_rooms: 0,
        }
    };
}

impl Core {
    /// Bytes arrived, in the buffer in which they will be worked on.
    /// Parts of them may be lent.
    #[inline]
    pub(super) fn on_bytes(&mut self, conn: ConnKey, bytes: &mut [u8], lender: Option<&Lender>) {
        self.on_bytes_from::<false>(conn, bytes, lender);
    }

    /// What bytes of a TLS connection say.
    pub(super) fn on_decrypted(&mut self, conn: ConnKey, bytes: &mut [u8]) {
        self.on_bytes_from::<true>(conn, bytes, None);
    }

    #[inline]
    fn on_bytes_from<const DECRYPTED: bool>(
        &mut self,
        conn: ConnKey,
        bytes: &mut [u8],
        lender: Option<&Lender>,
    ) {
        let Some(state) = self.conns.get_mut(conn) else {
            return;
        };
        state.last_read = self.now.mono;
        if !DECRYPTED && state.is_tls && state.tls().is_some() {
            return self.on_tls_bytes(conn, bytes);
        }
        if let Some(stall) = state.stalled() {
            stall.bytes.extend_from_slice(bytes);
            return;
        }
        match &mut state.state {
            State::Preface(_) => self.on_preface_bytes(conn, bytes),
            State::Head(_) => self.on_head_bytes(conn, bytes),
            State::Open { .. } => self.feed(conn, None, bytes, lender),
            State::Closing { discarded, .. } => {
                *discarded += bytes.len();
                if *discarded > CLOSING_BYTES_MAX {
                    return self.cut_off(conn);
                }
                self.feed(conn, None, bytes, lender);
            }
            State::Lingering { discarded, .. } => {
                *discarded += bytes.len();
                if *discarded > LINGER_BYTES_MAX {
                    self.cut_off(conn);
                }
            }
        }
    }

    /// It does not stop sending, although its end has come.
    fn cut_off(&mut self, conn: ConnKey) {
        self.counters.sent_after_end_total.inc();
        self.drop_conn(conn, CloseMode::Reset);
    }

    pub(super) fn on_head_bytes(&mut self, conn: ConnKey, bytes: &mut [u8]) {
        let stopping = self.is_draining().then(|| self.retry_after());
        let short_of_credit = self.mesh.is_short_of_credit();
        let Some(state) = self.conns.get_mut(conn) else {
            return;
        };
        let State::Head(reader) = &mut state.state else {
            return;
        };
        if reader.is_empty() && !state.is_tls && bytes.first().copied().is_some_and(is_client_hello)
        {
            return self.on_tls_on_plain(conn);
        }
        let is_awaited = state.counting == Counting::Awaited;
        let mut named = None;
        let decided = match reader.handle_input(bytes, &self.head_limits) {
            Ok(None) => return,
            Ok(Some((head, used))) => {
                let deflate = &mut self.deflate;
                named = is_awaited.then(|| named_client(&head, &self.config.server));
                Ok((decide(&head, &self.routes, deflate, stopping), used))
            }
            Err(error) => Err(Response::new(error.status()).body(error.to_string())),
        };
        let (decision, used) = match decided {
            Ok(decided) => decided,
            Err(response) => return self.respond(conn, &response),
        };
        if let Some(named) = named
            && !self.on_named(conn, named, bytes)
        {
            return;
        }
        let Some(state) = self.conns.get_mut(conn) else {
            return;
        };
        let decision = proven(decision, state, self.config.tls.client_user);
        match decision {
            Decision::Respond(response) => self.respond(conn, &response),
            // A raw client joins as it opens, which takes a credit like any command.
            Decision::Upgrade {
                target: Target::Rooms { room: Some(_), .. },
                ..
            } if short_of_credit => {
                self.counters.overloaded_total.inc();
                let response = self.busy_response("the room is behind; try again");
                self.respond(conn, &response);
            }
            Decision::Upgrade {
                response,
                route,
                target,
                deflate,
            } => {
                state
                    .outbound
                    .write(&mut self.spare, |run| run.extend_from_slice(&response));
                self.open(conn, route, target, deflate);
                let rest = &mut bytes[used..];
                if !rest.is_empty() {
                    self.feed(conn, None, rest, None);
                }
            }
        }
    }

    /// Answers a request and ends the connection.
    pub(super) fn respond(&mut self, conn: ConnKey, response: &Response) {
        if response.status() >= 400 {
            self.counters.refused_total.inc();
        }
        if matches!(response.status(), 414 | 431) {
            self.counters.heads_too_large_total.inc();
        }
        debug!(conn = conn.index, status = response.status(), "response");
        if let Some(state) = self.conns.get_mut(conn) {
            state
                .outbound
                .write(&mut self.spare, |run| response.write_to(run));
            self.linger(conn, false);
        }
    }

    fn open(&mut self, conn: ConnKey, id: RouteId, target: Target, deflate: Option<Agreed>) {
        let route = Rc::clone(&self.routes[id]);
        let mut ws = Connection::new(Role::Server, route.limits.message_bytes_max.0);
        ws.set_relaying(matches!(target, Target::Echo));
        ws.set_deflate(deflate.is_some());
        let mut app_heartbeat = false;
        let (mode, room) = match target {
            Target::Echo => (Mode::Echo, None),
            Target::Rooms {
                encoding,
                user,
                room,
                app_heartbeat: app,
            } => {
                app_heartbeat = app;
                let client = ClientId {
                    core: self.mesh.core(),
                    session: self.sessions.next_key(),
                };
                let mut session = Session::new(client, user, encoding, conn);
                let bits = deflate.map(|agreed| agreed.server_window_bits());
                session.takes_deflated = bits.is_some_and(|bits| self.deflate.reads_shared(bits));
                (Mode::Rooms(self.sessions.insert(session)), room)
            }
        };
        let Some(state) = self.conns.get_mut(conn) else {
            return;
        };
        state.state = State::Open { ws, mode };
        state.route = id;
        state.app_heartbeat = app_heartbeat;
        if let Some(agreed) = &deflate {
            self.deflate.open(state, agreed);
            self.counters.deflate_agreed_total.inc();
        }
        self.routes.enter(id);
        self.heads -= 1;
        let peer = state.peer.address();
        self.counters.upgraded_total.inc();
        debug!(conn = conn.index, ?peer, ?mode, "upgraded");
        self.mark_dirty(conn);
        self.set_timer(conn, route.limits.ping_interval.0);
        self.plan_end(conn);
        if let Mode::Rooms(session) = mode {
            self.with_rooms(&route, |rooms| rooms.on_open(session, room.as_deref()));
            self.drain_outputs();
        }
    }

    /// Works through received frames, up to the end of the input or until it must wait. `direct`
    /// is payload that was received into its message's own buffer, ahead of `bytes`; parts of those may be
    /// lent.
    pub(super) fn feed(
        &mut self,
        conn: ConnKey,
        direct: Option<Direct>,
        bytes: &mut [u8],
        lender: Option<&Lender>,
    ) {
        let mut input = Input::pausing(bytes, FRAGMENTS_PER_PAUSE);
        self.work_through(conn, direct, &mut input, lender);
        if input.fragments() > 0 {
            self.charge_bytes(conn, input.fragments() as usize * FRAGMENT_COST_BYTES);
        }
    }

    fn work_through(
        &mut self,
        conn: ConnKey,
        direct: Option<Direct>,
        input: &mut Input<'_>,
        lender: Option<&Lender>,
    ) {
        let mut direct = direct;
        let now = self.now.mono;
        let Some(route) = self.route_of(conn) else {
            return;
        };
        let high = route.limits.buffered_bytes_high.0;
        loop {
            let short_of_credit = self.mesh.is_short_of_credit();
            let Some(state) = self.conns.get_mut(conn) else {
                return;
            };
            let has_had_its_turn = state.has_had_its_turn(self.turn, self.turn_messages);
            let (ws, mode) = match &mut state.state {
                State::Open { ws, mode } => (ws, Some(*mode)),
                State::Closing { ws, .. } => (ws, None),
                State::Preface(_) | State::Head(_) | State::Lingering { .. } => return,
            };
            let waits = direct.is_none() && mode.is_some();
            if waits && state.outbound.firm_bytes() >= high {
                return self.stall(conn, input.remaining(), StallCause::Backlog);
            }
            let asks = matches!(mode, Some(Mode::Rooms(_))) && !input.is_empty();
            if waits && asks && short_of_credit {
                return self.stall(conn, input.remaining(), StallCause::Credit);
            }
            if waits && !input.is_empty() && has_had_its_turn {
                return self.stall(conn, input.remaining(), StallCause::Turn);
            }
            count(&mut state.turn_messages, 1);
            self.turn_messages += 1;
            let limit = ws.message_bytes_max();
            let polled = match direct.take() {
                Some(direct) => ws.handle_direct(direct),
                // After payload of its own the input may be empty, and the frame unfinished.
                None => ws.poll_event(input),
            };
            let mut inflated = None;
            let polled = match polled {
                Ok(Some(Event::Compressed(message))) => {
                    // After its close nobody looks at what a client says.
                    if mode.is_none() {
                        continue;
                    }
                    let (inflation, rare) = (&mut self.deflate.inflation, &mut state.rare);
                    let wire = message.payload().len();
                    inflate(inflation, &message, rare, limit, &self.counters).map(|message| {
                        inflated = Some((wire, message.payload().len()));
                        Some(Event::Message(message))
                    })
                }
                polled => polled,
            };
            match polled {
                // Fragments, which end nothing and so are no messages, but take their time.
                Ok(None) => {
                    if input.is_empty() {
                        break;
                    }
                    count(
                        &mut state.turn_messages,
                        FRAGMENTS_PER_PAUSE / FRAGMENTS_PER_MESSAGE,
                    );
                    self.turn_messages += FRAGMENTS_PER_PAUSE / FRAGMENTS_PER_MESSAGE;
                }
                Ok(Some(Event::Message(message))) => {
                    let Some(mode) = mode else { continue };
                    self.counters.messages_in_total.inc();
                    let mut meter = Meter::new(now, &mut state.rates, &route.rates);
                    match mode {
                        Mode::Echo => {
                            if meter.on_message().is_ok() {
                                self.messages_out += 1;
                                let to = Recipient {
                                    outbound: &mut state.outbound,
                                    rare: &mut state.rare,
                                    deflate_bits: state.deflate_bits,
                                };
                                let compression = &mut self.deflate.compression;
                                let back = (message.kind().opcode(), message.payload());
                                to.send(&mut self.spare, compression, &self.deflate.config, back);
                                if !std::mem::replace(&mut state.dirty, true) {
                                    self.dirty.push(conn);
                                }
                            }
                        }
                        Mode::Rooms(session) => {
                            let mut rooms = rooms!(self, route);
                            on_message(&mut rooms, session, &message, &mut meter);
                            let (errors, too_many) = (rooms.errors, rooms.too_many_rooms);
                            self.counters.command_errors_total.add(errors);
                            self.counters.too_many_rooms_total.add(too_many);
                        }
                    }
                    let (refused, is_over) = (meter.refused, meter.is_over);
                    // A batch is as many messages as it has commands.
                    let mut more = meter.seen.saturating_sub(1);
                    if let Some((_, bytes)) = inflated {
                        more += (bytes / INFLATED_BYTES_PER_MESSAGE) as u32;
                    }
                    count(&mut state.turn_messages, more);
                    self.turn_messages += more;
                    self.drain_outputs();
                    if refused > 0 {
                        self.on_rate_breach(conn, refused, is_over);
                    }
                    // What came out of it is charged like what came in.
                    if let Some((wire, bytes)) = inflated {
                        self.charge_bytes(conn, bytes.saturating_sub(wire));
                    }
                }
                // Decompressed above.
                Ok(Some(Event::Compressed(_))) => {}
                // Only echoes are passed on in parts.
                Ok(Some(Event::Part(part))) => {
                    if mode.is_none() {
                        continue;
                    }
                    let mut meter = Meter::new(now, &mut state.rates, &route.rates);
                    if part.is_first() {
                        self.counters.messages_in_total.inc();
                        state.drops_parts = meter.on_message().is_err();
                    }
                    if !state.drops_parts {
                        self.messages_out += u64::from(part.is_last());
                        let is_lent = echo_part(&mut state.outbound, &mut self.spare, part, lender);
                        self.counters.lent_parts_total.add(u64::from(is_lent));
                        if !std::mem::replace(&mut state.dirty, true) {
                            self.dirty.push(conn);
                        }
                    }
                    let (refused, is_over) = (meter.refused, meter.is_over);
                    if refused > 0 {
                        self.on_rate_breach(conn, refused, is_over);
                    }
                }
                Ok(Some(Event::Ping(_) | Event::Pong(_)))
                    if mode.is_some() && state.rates.on_control_frame(now, &route.rates) =>
                {
                    self.counters.control_floods_total.inc();
                    let code = CloseCode::POLICY_VIOLATION;
                    self.begin_close(conn, code, "policy", LeaveReason::Disconnected);
                }
                Ok(Some(Event::Ping(payload))) => {
                    if mode.is_some() {
                        state.outbound.write(&mut self.spare, |run| {
                            push_frame(run, OpCode::Pong, payload);
                        });
                        self.mark_dirty(conn);
                    }
                }
                // Any byte received has proved life already.
                Ok(Some(Event::Pong(_))) => {}
                Ok(Some(Event::Close(frame))) => {
                    let code = frame.code;
                    return self.on_close_frame(conn, code);
                }
                Err(error) => return self.on_breach(conn, &error),
            }
        }
        self.after_input(conn, route.limits.message_timeout.0);
    }

    /// Payload arrived in its message's own buffer.
    pub(super) fn on_received_into(&mut self, conn: ConnKey, buf: Vec<u8>) {
        let Some(state) = self.conns.get_mut(conn) else {
            return;
        };
        if state.receive != Receive::Direct {
            return;
        }
        state.receive = Receive::Off;
        state.last_read = self.now.mono;
        let loan = std::mem::take(&mut state.rare_mut().direct);
        let remaining = loan.remaining;
        let received = buf.len().saturating_sub(loan.len);
        self.counters.direct_receives_total.inc();
        self.counters.bytes_in_total.add(received as u64);
        self.charge_bytes(conn, received);
        self.feed(conn, Some(Direct { buf, remaining }), &mut [], None);
        self.go_on_receiving(conn);
        self.recharge(conn);
    }

    pub(super) fn on_receive_paused(&mut self, conn: ConnKey) {
        if let Some(state) = self.conns.get_mut(conn) {
            state.receive = Receive::Off;
            if let Some(stall) = state.stalled() {
                // Nothing is added to it any more.
                stall.bytes.shrink_to_fit();
            }
            self.go_on_receiving(conn);
            self.recharge(conn);
        }
    }

    /// Receiving is off: takes it up again in whichever way suits, unless the input must wait.
    pub(super) fn go_on_receiving(&mut self, conn: ConnKey) {
        let Some(state) = self.conns.get_mut(conn) else {
            return;
        };
        let waits = state.is_stalled() || state.throttled_until().is_some();
        if state.receive != Receive::Off || waits {
            return;
        }
        let route = self.routes.get(state.route);
        let high = route.map_or(usize::MAX, |r| r.limits.buffered_bytes_high.0);
        if matches!(state.state, State::Open { .. }) && state.outbound.firm_bytes() >= high {
            return self.stall(conn, &[], StallCause::Backlog);
        }
        let direct = match &mut state.state {
            State::Open { ws, .. }
                if !state.is_tls && ws.frame_remaining() >= DIRECT_RECEIVE_BYTES_MIN =>
            {
                ws.take_direct()
            }
            _ => None,
        };
        match direct {
            Some(Direct { buf, remaining }) => {
                state.receive = Receive::Direct;
                state.rare_mut().direct = DirectLoan {
                    remaining,
                    len: buf.len(),
                    capacity: buf.capacity(),
                };
                self.actions
                    .push_back(Action::ReceiveInto(conn, buf, remaining));
            }
            None => {
                state.receive = Receive::On;
                self.actions.push_back(Action::ResumeReceive(conn));
            }
        }
    }

    /// All input is used up. A message that it has begun has its time; where much of a frame is still
    /// to come, it is received straight into its message.
    fn after_input(&mut self, conn: ConnKey, message_timeout: Duration) {
        let now = self.now.mono;
        let Some(state) = self.conns.get_mut(conn) else {
            return;
        };
        let State::Open { ws, .. } = &mut state.state else {
            return;
        };
        let Some(since) = ws.unfinished_since(now) else {
            return;
        };
        if state.receive == Receive::On
            && !state.is_tls
            && ws.frame_remaining() >= DIRECT_RECEIVE_BYTES_MIN
        {
            state.receive = Receive::Pausing;
            self.actions.push_back(Action::PauseReceive(conn));
        }
        if !message_timeout.is_zero() {
            self.arm_by(conn, since.plus(message_timeout));
        }
    }

    fn on_close_frame(&mut self, conn: ConnKey, code: Option<CloseCode>) {
        debug!(
            conn = conn.index,
            code = code.map(|c| c.0),
            "close received"
        );
        let was_open = self.end_session(conn, LeaveReason::Disconnected);
        if was_open {
            // RFC 6455 §5.5.1: the answer typically echoes the code.
            self.write_close(conn, code.unwrap_or(CloseCode::NORMAL), "");
        }
        self.linger(conn, false);
    }

    fn on_breach(&mut self, conn: ConnKey, error: &WsError) {
        debug!(conn = conn.index, %error, "protocol error");
        self.counters.protocol_errors_total.inc();
        if error.close_code() == CloseCode::MESSAGE_TOO_BIG {
            self.counters.messages_too_big_total.inc();
        }
        let was_open = self.end_session(conn, LeaveReason::Disconnected);
        if was_open {
            self.write_close(conn, error.close_code(), &error.to_string());
        }
        self.linger(conn, false);
    }

    /// `bytes` were received from a client: reading pauses if they were too many.
    pub(super) fn charge_bytes(&mut self, conn: ConnKey, bytes: usize) {
        let now = self.now.mono;
        let Some(state) = self.conns.get_mut(conn) else {
            return;
        };
        let Some(route) = self.routes.get(state.route) else {
            return;
        };
        if !matches!(state.state, State::Open { .. }) {
            return;
        }
        let Some(pause) = state.rates.on_bytes(now, bytes, &route.rates) else {
            return;
        };
        let until = now.plus(pause);
        if state.throttled_until().is_none() {
            self.counters.throttled_total.inc();
        }
        state.rare_mut().throttled_until = Some(until);
        if state.receive == Receive::On {
            state.receive = Receive::Pausing;
            self.actions.push_back(Action::PauseReceive(conn));
        }
        self.arm_by(conn, until);
    }

    /// Messages were refused for being too many.
    fn on_rate_breach(&mut self, conn: ConnKey, refused: u64, is_over: bool) {
        self.counters.rate_limited_total.add(refused);
        if is_over {
            self.counters.rate_closed_total.inc();
            if let Some(suppressed) = self.breach_log.admit(self.now.mono) {
                let peer = self.conns.get(conn).and_then(|state| state.peer.address());
                info!(
                    conn = conn.index,
                    ?peer,
                    suppressed,
                    "closed: too many messages"
                );
            }
            let code = CloseCode::RATE_LIMIT;
            self.begin_close(conn, code, "rate limit", LeaveReason::Disconnected);
        }
    }

    /// The route that a connection is served by, once it has one.
    pub(super) fn route_of(&self, conn: ConnKey) -> Option<Rc<Route>> {
        let state = self.conns.get(conn)?;
        self.routes.get(state.route).map(Rc::clone)
    }

    /// Runs the rooms handler.
    pub(super) fn with_rooms(&mut self, route: &Route, work: impl FnOnce(&mut Rooms<'_>)) {
        let mut rooms = rooms!(self, route);
        work(&mut rooms);
        let errors = rooms.errors;
        self.counters.command_errors_total.add(errors);
    }
}

fn on_message(
    rooms: &mut Rooms<'_>,
    session: SessionKey,
    message: &Message<'_>,
    meter: &mut Meter<'_>,
) {
    #[cfg(test)]
    assert!(
        !message.payload().ends_with(super::tests::PANIC),
        "asked to panic by a test"
    );
    let Some(encoding) = rooms.sessions.get(session).map(|s| s.encoding) else {
        return;
    };
    match encoding {
        Encoding::Json => rooms.on_json(session, message.kind(), message.payload(), meter),
        Encoding::Raw => rooms.on_raw(session, message.kind(), message.payload(), meter),
    }
}

/// Sends a part of a message back: a long one from where it was received, if that can be lent. Says
/// whether it was.
fn echo_part(
    outbound: &mut Outbound,
    spare: &mut SpareBuffers,
    part: Part<'_>,
    lender: Option<&Lender>,
) -> bool {
    let is_long = part.payload().len() > spare.coalesce_bytes_max();
    let lender = lender.filter(|_| is_long && outbound.may_borrow());
    let (header, len) = part.header();
    match part.into_frame() {
        Ok(frame) => match lender.and_then(|lender| lender.lend(frame)) {
            Some(lent) => {
                outbound.push_lent(spare, Lent::new(lent));
                return true;
            }
            None => outbound.write(spare, |run| run.extend_from_slice(frame)),
        },
        Err(part) => match lender.and_then(|lender| lender.lend(part.payload())) {
            Some(lent) => {
                outbound.push_lent_payload(spare, &header[..len], Lent::new(lent));
                return true;
            }
            None => outbound.write(spare, |run| {
                run.extend_from_slice(&header[..len]);
                run.extend_from_slice(part.payload());
            }),
        },
    }
    false
}

/// More messages in a turn: what does not fit is more than anyone's share.
#[inline]
fn count(messages: &mut u16, more: u32) {
    *messages = messages.saturating_add(u16::try_from(more).unwrap_or(u16::MAX));
}
