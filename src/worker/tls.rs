//! TLS connections: from bytes as they arrive to what the rest of the worker reads, and from what it
//! has to say to records.
//!
//! A connection of a TLS listener is in state `Head` while its handshake goes on, and its one timer
//! covers that. Admission has come before: nothing of a connection is read, and no key is used, until
//! it has been let in. A step of a handshake may cost a signature, so who has sent enough for one waits in
//! line, its bytes kept, and at its very end a turn takes [`TURN_TLS_STEPS_MAX`] steps.
//!
//! What a connection has queued is encrypted as it is handed to the kernel, and no earlier, so that
//! everything about queues holds here as elsewhere; [`Outbound`] counts the records on their way.
//!
//! [`Outbound`]: crate::session::outbound::Outbound

use std::sync::Arc;

use tracing::debug;

use super::{
    Core,
    conn::{Conn, State},
    output::write_gap,
};
use crate::{
    base::{
        limits::{
            SPARE_BUFFER_BYTES_MAX, SPARE_RECORD_BUFFERS_MAX, TLS_HEAD_BYTES_MAX,
            TLS_PLAIN_BYTES_KEPT, TLS_SEND_BYTES_MAX, TURN_TLS_STEPS_MAX,
        },
        segments::{Segment, SendBatch},
        time::Instant,
    },
    engine::{CloseMode, ConnKey},
    hub::wire::LeaveReason,
    proto::http1::Response,
    session::outbound::SpareBuffers,
    tls::stream::{BareAlert, Failure, Interface, Stream, TlsError},
};

/// What a connection has beyond others if it speaks TLS.
#[derive(Debug)]
pub(super) struct Tls {
    pub(super) stream: Stream,
    /// Handed over, and encrypted in part: what is left of it goes first.
    sealing: Option<Box<SendBatch>>,
    /// When its request must be complete.
    head_by: Instant,
    /// It stands in line for a step of its handshake.
    waits: bool,
    is_handshaking: bool,
}

/// What the TLS connections of a core share.
#[derive(Debug, Default)]
pub(super) struct Records {
    /// What has been decrypted, while it is being looked at.
    plain: Vec<u8>,
    /// Short pieces on their way into one record.
    staging: Vec<u8>,
    /// Empty buffers for many records; those for few are shared with everyone's.
    spare: Vec<Vec<u8>>,
}

impl Records {
    fn take(&mut self, bytes: usize, spare: &mut SpareBuffers) -> Vec<u8> {
        if bytes <= SPARE_BUFFER_BYTES_MAX {
            return spare.take();
        }
        self.spare.pop().unwrap_or_default()
    }

    /// Takes a sent batch apart and keeps of it what is worth it.
    pub(super) fn reclaim(&mut self, batch: Box<SendBatch>, spare: &mut SpareBuffers) {
        let mut batch = batch;
        for segment in batch.drain() {
            let Segment::Owned { mut buf, .. } = segment else {
                continue;
            };
            let is_long = buf.capacity() > SPARE_BUFFER_BYTES_MAX;
            if is_long
                && buf.capacity() <= 2 * TLS_SEND_BYTES_MAX
                && self.spare.len() < SPARE_RECORD_BUFFERS_MAX
            {
                buf.clear();
                self.spare.push(buf);
            } else {
                spare.put(buf);
            }
        }
        spare.reclaim(batch);
    }

    /// Gives memory back that nobody uses at the moment.
    pub(super) fn trim(&mut self) {
        *self = Self::default();
    }
}

impl Tls {
    /// Bytes that it holds beside its own and what is queued.
    pub(super) fn buffered_bytes(&self) -> usize {
        self.stream.buffered_bytes()
    }

    /// Whether something waits to be sent that the connection's queue does not know of.
    pub(super) const fn has_output(&self) -> bool {
        self.stream.has_output() || self.sealing.is_some()
    }

    /// Whether its handshake goes on.
    pub(super) const fn is_handshaking(&self) -> bool {
        self.is_handshaking
    }

    /// Encrypts what comes next: what the stream has to say by itself, then a part of what is
    /// queued.
    fn seal(
        &mut self,
        records: &mut Records,
        spare: &mut SpareBuffers,
    ) -> Result<Vec<u8>, TlsError> {
        let Some(sealing) = &mut self.sealing else {
            let mut out = Vec::new();
            self.stream.take_output(&mut out);
            return Ok(out);
        };
        let bytes = sealing.remaining().min(TLS_SEND_BYTES_MAX);
        let mut out = records.take(bytes + bytes / 64 + 64, spare);
        let mut left = bytes;
        let pieces = sealing.pending().map_while(|piece| {
            let piece = &piece[..piece.len().min(left)];
            left -= piece.len();
            (!piece.is_empty()).then_some(piece)
        });
        let result = self.stream.encrypt(pieces, &mut records.staging, &mut out);
        sealing.advance(bytes);
        if sealing.remaining() == 0
            && let Some(batch) = self.sealing.take()
        {
            spare.reclaim(batch);
        }
        result.map(|()| out)
    }
}

/// What to hand to the kernel for a TLS connection; an error if it can't go on.
pub(super) fn next_sealed(
    state: &mut Conn,
    records: &mut Records,
    spare: &mut SpareBuffers,
) -> Result<Option<Box<SendBatch>>, TlsError> {
    let Some((tls, outbound)) = state.tls_and_outbound() else {
        return Ok(None);
    };
    if tls.sealing.is_none() && tls.stream.may_send() {
        tls.sealing = outbound.take_batch(spare, write_gap);
    }
    let unsealed = |tls: &Tls| tls.sealing.as_ref().map_or(0, |batch| batch.remaining());
    let before = unsealed(tls);
    let buf = tls.seal(records, spare)?;
    if buf.is_empty() {
        return Ok(None);
    }
    outbound.on_sealed(before - unsealed(tls), buf.len());
    let mut batch = spare.take_batch();
    batch.push(Segment::Owned { buf, start: 0 });
    Ok(Some(batch))
}

impl Core {
    /// A connection of a TLS listener is let in.
    pub(super) fn begin_tls(&mut self, conn: ConnKey) {
        let by = self.now.mono.plus(self.config.tls.handshake_timeout.0);
        let interface = match self.config.tls.buffered {
            true => Interface::Buffered,
            false => Interface::Unbuffered,
        };
        let stream = self
            .tls
            .clone()
            .ok_or(TlsError::NotOpen)
            .and_then(|config| Stream::new(config, interface));
        let Some(state) = self.conns.get_mut(conn) else {
            return;
        };
        match stream {
            Ok(stream) => {
                // The time for the request is from the accept, and its timer runs.
                let head_by = state.timer_at;
                state.tls = Some(Box::new(Tls {
                    stream,
                    sealing: None,
                    head_by,
                    waits: false,
                    is_handshaking: true,
                }));
                self.tls_open += 1;
                self.arm_by(conn, by);
            }
            Err(error) => {
                debug!(conn = conn.index, %error, "no TLS");
                self.refuse_tls(conn, BareAlert::InternalError);
            }
        }
    }

    /// Ends a connection of a TLS listener before anything of it is read. It gets an alert, the one
    /// thing it can read: a response would have to be encrypted, and a handshake for that is what
    /// the refusal saves.
    pub(super) fn refuse_tls(&mut self, conn: ConnKey, alert: BareAlert) {
        self.counters.refused_total.inc();
        self.end_with_alert(conn, alert);
    }

    /// A client has begun a handshake where there is no TLS.
    pub(super) fn on_tls_on_plain(&mut self, conn: ConnKey) {
        self.counters.tls_on_plain_total.inc();
        self.end_with_alert(conn, BareAlert::HandshakeFailure);
    }

    fn end_with_alert(&mut self, conn: ConnKey, alert: BareAlert) {
        let Some(state) = self.conns.get_mut(conn) else {
            return;
        };
        state.is_tls = false;
        state.outbound.write(&mut self.spare, |run| {
            run.extend_from_slice(&alert.record());
        });
        self.counters.tls_alerts_sent_total.inc();
        debug!(conn = conn.index, ?alert, "alert sent");
        self.linger(conn, false);
    }

    /// Encrypted bytes arrived.
    pub(super) fn on_tls_bytes(&mut self, conn: ConnKey, bytes: &mut [u8]) {
        let Some(state) = self.conns.get_mut(conn) else {
            return;
        };
        if matches!(state.state, State::Lingering { .. }) {
            // Nothing but the end is awaited.
            return self.on_decrypted(conn, bytes);
        }
        let is_head = state.is_head();
        let Some(tls) = state.tls_mut() else {
            return;
        };
        if tls.stream.received() == 0
            && let Some(first) = bytes.first()
            && first.is_ascii_uppercase()
        {
            return self.on_plain_on_tls(conn);
        }
        // Before it has a route, no rate holds for it.
        if is_head && tls.stream.received() as usize + bytes.len() > TLS_HEAD_BYTES_MAX {
            return self.on_tls_failed(conn, &TlsError::TooLong);
        }
        if tls.is_handshaking && (tls.waits || tls.stream.would_advance(bytes)) {
            let kept = tls.stream.keep_input(bytes);
            if !std::mem::replace(&mut tls.waits, true) {
                let is_first = self.tls_waiting.is_empty();
                self.counters
                    .tls_steps_deferred_total
                    .add(u64::from(!is_first));
                self.tls_waiting.push_back(conn);
            }
            if let Err(error) = kept {
                self.on_tls_failed(conn, &error);
            }
            return;
        }
        self.advance_tls(conn, bytes);
    }

    /// Goes on with handshakes that stand in line, and ends connections that could not go on. Says
    /// whether there were any.
    pub(super) fn step_handshakes(&mut self) -> bool {
        let any = !self.tls_waiting.is_empty();
        let mut steps = 0;
        while steps < TURN_TLS_STEPS_MAX
            && let Some(conn) = self.tls_waiting.pop_front()
        {
            let Some(tls) = self.conns.get_mut(conn).and_then(Conn::tls_mut) else {
                continue;
            };
            tls.waits = false;
            if tls.stream.has_failed() {
                self.drop_conn(conn, CloseMode::Reset);
                continue;
            }
            steps += 1;
            super::guarded(self, conn, |core| core.advance_tls(conn, &mut []));
            self.recharge(conn);
        }
        any
    }

    /// Decrypts what arrived and has it looked at.
    fn advance_tls(&mut self, conn: ConnKey, bytes: &mut [u8]) {
        let Some(tls) = self.conns.get_mut(conn).and_then(Conn::tls_mut) else {
            return;
        };
        let mut plain = std::mem::take(&mut self.records.plain);
        let result = tls.stream.handle_input(bytes, &mut plain);
        let is_established = tls.is_handshaking && !tls.stream.is_handshaking();
        let peer_has_closed = tls.stream.peer_has_closed();
        let has_output = tls.stream.has_output();
        if has_output {
            self.mark_dirty(conn);
        }
        if is_established {
            self.on_tls_established(conn);
        }
        if !plain.is_empty() {
            self.on_decrypted(conn, &mut plain);
        }
        plain.clear();
        plain.shrink_to(TLS_PLAIN_BYTES_KEPT);
        self.records.plain = plain;
        match result {
            Err(error) => self.on_tls_failed(conn, &error),
            Ok(()) if peer_has_closed => self.on_tls_closed(conn),
            Ok(()) => {}
        }
    }

    fn on_tls_established(&mut self, conn: ConnKey) {
        let now = self.now.mono;
        let Some(tls) = self.conns.get_mut(conn).and_then(Conn::tls_mut) else {
            return;
        };
        tls.is_handshaking = false;
        self.counters.tls_handshakes_total.inc();
        let is_resumed = tls.stream.is_resumed();
        self.counters
            .tls_handshakes_resumed_total
            .add(u64::from(is_resumed));
        debug!(
            conn = conn.index,
            version = ?tls.stream.version(),
            is_resumed,
            "TLS established"
        );
        let left = tls.head_by.since(now);
        self.set_timer(conn, left);
    }

    /// The connection can't go on. What is left to say is an alert.
    fn on_tls_failed(&mut self, conn: ConnKey, error: &TlsError) {
        let Some(state) = self.conns.get_mut(conn) else {
            return;
        };
        let peer = state.peer.address();
        let Some(tls) = state.tls_mut() else {
            return;
        };
        debug!(conn = conn.index, ?peer, %error, "TLS failed");
        let failure = error.failure();
        let counters = &self.counters;
        if failure == Failure::PeerAlert {
            counters.tls_alerts_received_total.inc();
        }
        if tls.stream.has_output() {
            counters.tls_alerts_sent_total.inc();
        }
        match failure {
            _ if !tls.is_handshaking => counters.tls_broken_total.inc(),
            Failure::Protocol => counters.tls_failed_protocol_total.inc(),
            Failure::Negotiation => counters.tls_failed_negotiation_total.inc(),
            Failure::Certificate => counters.tls_failed_certificate_total.inc(),
            Failure::PeerAlert => counters.tls_failed_by_peer_total.inc(),
            Failure::Internal => counters.tls_failed_internal_total.inc(),
        }
        tls.is_handshaking = false;
        tls.stream.fail();
        let unsealed = tls.sealing.take().map_or(0, |batch| batch.remaining());
        let has_gone = failure == Failure::PeerAlert;
        self.end_session(conn, LeaveReason::Disconnected);
        if let Some(state) = self.conns.get_mut(conn) {
            // Nothing can be encrypted any more.
            state.outbound.clear_queued();
            state.outbound.forget_unsealed(unsealed);
            state.ended |= has_gone;
            self.linger(conn, false);
        }
    }

    /// The peer has said that nothing more comes from it. What is queued still goes out, then our
    /// own end.
    fn on_tls_closed(&mut self, conn: ConnKey) {
        let Some(state) = self.conns.get_mut(conn) else {
            return;
        };
        if std::mem::replace(&mut state.ended, true) || state.is_stalled() {
            // What it said before its end is still to be looked at.
            return;
        }
        self.end_session(conn, LeaveReason::Disconnected);
        self.linger(conn, false);
        // It may have lingered already, waiting for this.
        self.after_progress(conn);
    }

    /// A request in plain text where TLS is spoken.
    fn on_plain_on_tls(&mut self, conn: ConnKey) {
        let Some(state) = self.conns.get_mut(conn) else {
            return;
        };
        state.tls = None;
        state.is_tls = false;
        self.tls_open -= 1;
        self.counters.plain_on_tls_total.inc();
        let response =
            Response::new(400).body("this port speaks TLS: connect with https:// or wss://");
        self.respond(conn, &response);
    }

    /// The time for a handshake is over.
    pub(super) fn on_tls_timeout(&mut self, conn: ConnKey) {
        self.counters.tls_handshake_timeouts_total.inc();
        self.drop_conn(conn, CloseMode::Orderly);
    }

    /// The peer's stream has ended, in order or not, whatever TLS has to say about it.
    pub(super) fn on_tls_stream_ended(&mut self, conn: ConnKey, in_order: bool) {
        let Some(state) = self.conns.get_mut(conn) else {
            return;
        };
        let lingers = matches!(state.state, State::Lingering { .. });
        let Some(tls) = state.tls_mut() else {
            return;
        };
        if tls.is_handshaking {
            tls.is_handshaking = false;
            self.counters.tls_failed_aborted_total.inc();
        } else if in_order && !lingers && !tls.stream.peer_has_closed() {
            // RFC 8446 §6.1: the end may have been made up by whoever is between. Messages are
            // whole or not there, so nothing is lost by taking it for one.
            self.counters.tls_truncated_total.inc();
        }
    }

    /// A connection's output can't be encrypted. It is dropped in the next turn: nothing may go
    /// while sends are being made up.
    pub(super) fn on_sealing_failed(&mut self, conn: ConnKey, error: &TlsError) {
        debug!(conn = conn.index, %error, "encryption failed");
        self.counters.tls_broken_total.inc();
        if let Some(tls) = self.conns.get_mut(conn).and_then(Conn::tls_mut) {
            tls.stream.fail();
            tls.waits = true;
            self.tls_waiting.push_back(conn);
        }
    }

    /// Which configuration new connections get.
    pub(super) fn set_tls(&mut self, config: Arc<rustls::ServerConfig>) {
        self.tls = Some(config);
    }
}
