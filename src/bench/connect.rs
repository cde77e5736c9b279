//! Connections that open and close, as fast as possible or at a rate: TCP, TLS, the upgrade, the end.
//!
//! ```text
//!   Upgrading ──101, by reset──────────────▶ gone
//!       └──101, by handshake──▶ Closing ──the server's close and its end──▶ gone
//! ```

mod sealed;

use std::net::SocketAddr;

use bytes::Bytes;

use crate::{
    base::segments::{Segment, SendBatch, SharedFrame},
    engine::{
        CloseMode, ConnKey, Engine, Event,
        slots::{Slots, SystemKernel},
    },
    proto::{
        handshake::ClientHandshake,
        ws::{CloseCode, OpCode, close, header::push_masked_frame},
    },
};

use super::{
    BenchError,
    args::{Closing, Settings},
    clock::Clock,
    crowd::{KEY, wait_for},
    frames::MASK,
    progress::Progress,
    reader::{Piece, Reader},
    report::{Connections, Latency, Report},
    run::Reading,
    schedule::Schedule,
    tally::Tally,
    target,
    tls::{Channel, Tls},
};

/// Runs the load.
///
/// # Errors
/// If not even one connection can be opened, or the generator's own clocks can't be read.
pub(crate) fn run<K: SystemKernel>(
    settings: &Settings,
    engine: Slots<K>,
    addr: SocketAddr,
    tls: Option<Tls>,
    pid: Option<i32>,
    mut progress: Progress,
    report: &mut Report,
) -> Result<(), BenchError> {
    let mut turnstile = Turnstile::new(settings, engine, addr, tls)?;
    let start = turnstile.clock.now();
    let begin = start + settings.warm_up.as_nanos() as u64;
    let end = begin + settings.duration.as_nanos() as u64;
    turnstile.start_at(start, begin, end);
    turnstile.go_on(begin, &mut progress, "warming up")?;
    let before = Reading::at(turnstile.clock.now(), pid)?;
    turnstile.tally.set_measuring(true);
    turnstile.go_on(end, &mut progress, "measuring")?;
    let measured = Reading::at(turnstile.clock.now(), pid)?.since(&before);
    turnstile.tally.set_measuring(false);
    turnstile.drain()?;
    progress.clear();

    let tally = &turnstile.tally;
    report.set_cpu(&measured, tally.received);
    report.connections = Some(Connections {
        opened: tally.received,
        per_second: tally.received as f64 / measured.elapsed.as_secs_f64(),
    });
    report.latency_us = Latency::of(&tally.latency, settings.rate.is_some());
    report.faults = tally.faults;
    report.tls = turnstile.tls.map(|tls| tls.figures);
    report.notes.append(&mut turnstile.reasons);
    Ok(())
}

struct Turnstile<'s, K: SystemKernel> {
    settings: &'s Settings,
    engine: Slots<K>,
    events: Vec<Event>,
    clock: Clock,
    addr: SocketAddr,
    handshake: ClientHandshake,
    /// What all connections say first, if it is the same.
    request: Option<SharedFrame>,
    farewell: SharedFrame,
    tls: Option<Tls>,
    /// A response that was found to be right.
    accepted: Vec<u8>,
    schedule: Option<Schedule>,
    /// By the engine's slots.
    visits: Vec<Option<Visit>>,
    in_flight: u32,
    begun: u64,
    is_on: bool,
    /// Buffers for responses.
    spare: Vec<Vec<u8>>,
    tally: Tally,
    reasons: Vec<String>,
    first_failure: Option<BenchError>,
    swept_at: u64,
}

struct Visit {
    key: ConnKey,
    conn: u32,
    /// When it was begun, or due.
    since: u64,
    begun_at: u64,
    /// Reads what follows the response; none before.
    reader: Option<Reader>,
    is_closing: bool,
    /// What is said goes through it, if the connection is TLS.
    sealed: Option<Box<Sealed>>,
}

/// A connection's TLS.
struct Sealed {
    channel: Box<Channel>,
    /// What came and is not understood yet.
    plain: Vec<u8>,
    /// What waits for the send before it.
    pending: Vec<u8>,
    is_sending: bool,
    has_asked: bool,
}

impl<'s, K: SystemKernel> Turnstile<'s, K> {
    fn new(
        settings: &'s Settings,
        engine: Slots<K>,
        addr: SocketAddr,
        tls: Option<Tls>,
    ) -> Result<Self, BenchError> {
        let subprotocol = settings.subprotocol.as_deref();
        let deflate = settings.deflate;
        let handshake = settings.target.handshake(KEY, subprotocol, deflate, 0, 0);
        let request = settings.target.is_constant().then(|| {
            let mut request = Vec::new();
            handshake.write_request(&mut request);
            SharedFrame::new(Bytes::from(request))
        });
        let mut farewell = Vec::new();
        let payload = close::payload(CloseCode::NORMAL, "");
        push_masked_frame(&mut farewell, OpCode::Close, &payload, MASK);
        Ok(Self {
            engine,
            events: Vec::with_capacity(TURN_EVENTS_MAX),
            clock: Clock::start(),
            addr,
            handshake,
            request,
            farewell: SharedFrame::new(Bytes::from(farewell)),
            tls,
            accepted: Vec::new(),
            schedule: settings.schedule(1),
            visits: Vec::new(),
            in_flight: 0,
            begun: 0,
            is_on: true,
            spare: Vec::new(),
            tally: Tally::new(settings.rate.is_some())?,
            reasons: Vec::new(),
            first_failure: None,
            swept_at: 0,
            settings,
        })
    }

    fn start_at(&mut self, start: u64, begin: u64, end: u64) {
        self.schedule = self.schedule.map(|schedule| schedule.starting_at(start));
        self.tally.set_times(begin, end);
    }

    fn go_on(
        &mut self,
        end: u64,
        progress: &mut Progress,
        what: &'static str,
    ) -> Result<(), BenchError> {
        let begin = self.clock.now();
        loop {
            let now = self.turn(end)?;
            if now >= end {
                return Ok(());
            }
            let share = (now - begin) as f64 / (end - begin) as f64;
            progress.show(now, what, share, self.tally.received_in_all);
        }
    }

    /// Begins no more, and waits for those on their way.
    fn drain(&mut self) -> Result<(), BenchError> {
        self.is_on = false;
        let end = self.clock.now() + self.settings.timeout.as_nanos() as u64;
        while self.in_flight > 0 && self.clock.now() < end {
            self.turn(end)?;
        }
        self.sweep(u64::MAX);
        Ok(())
    }

    fn turn(&mut self, until: u64) -> Result<u64, BenchError> {
        let now = self.clock.now();
        self.begin_some(now)?;
        let next = self
            .schedule
            .and_then(|schedule| schedule.next_at(self.begun));
        let next = next.filter(|_| self.is_on && self.in_flight < self.settings.in_flight);
        let until = next.unwrap_or(until).min(until);
        self.engine.wait(wait_for(until.saturating_sub(now)));
        let mut events = std::mem::take(&mut self.events);
        self.engine.poll(&mut events, TURN_EVENTS_MAX);
        for event in events.drain(..) {
            self.on_event(event);
        }
        self.events = events;
        let now = self.clock.now();
        if now - self.swept_at > SWEEP_NS {
            self.swept_at = now;
            self.sweep(now);
        }
        if self.tally.received_in_all == 0
            && let Some(failure) = self.first_failure.take()
        {
            return Err(failure);
        }
        Ok(now)
    }

    /// Begins what may be begun now; some at a time, so that answers do not wait.
    fn begin_some(&mut self, now: u64) -> Result<(), BenchError> {
        let mut left = BEGINS_PER_TURN;
        while self.is_on && left > 0 && self.in_flight < self.settings.in_flight {
            left -= 1;
            let since = match &self.schedule {
                None => self.clock.now(),
                Some(schedule) => match schedule.next_at(self.begun) {
                    Some(at) if at <= now => at,
                    _ => return Ok(()),
                },
            };
            self.begin(since)?;
        }
        Ok(())
    }

    fn begin(&mut self, since: u64) -> Result<(), BenchError> {
        let conn = self.begun as u32;
        self.begun += 1;
        let failed = |error| BenchError::Connect {
            conn,
            addr: self.addr,
            error,
        };
        let sealed = self.seal(conn)?;
        let is_sealed = sealed.is_some();
        let stream = target::connect(self.addr, target::Tuning::default()).map_err(failed)?;
        let key = self.engine.adopt(stream).map_err(failed)?;
        let buf = self.spare.pop().unwrap_or_default();
        self.listen(key, buf);
        if !is_sealed {
            self.say(key, self.request_of(conn));
        }
        let index = key.index as usize;
        if self.visits.len() <= index {
            self.visits.resize_with(index + 1, || None);
        }
        self.visits[index] = Some(Visit {
            key,
            conn,
            since,
            begun_at: self.clock.now(),
            reader: None,
            is_closing: false,
            sealed,
        });
        self.in_flight += 1;
        if is_sealed {
            self.send_sealed(key);
        }
        Ok(())
    }

    /// What a connection asks for.
    fn request_of(&self, conn: u32) -> SharedFrame {
        if let Some(request) = &self.request {
            return request.clone();
        }
        let subprotocol = self.settings.subprotocol.as_deref();
        let deflate = self.settings.deflate;
        let room = self.settings.room_of(conn);
        let target = &self.settings.target;
        let handshake = target.handshake(KEY, subprotocol, deflate, conn, room);
        let mut request = Vec::new();
        handshake.write_request(&mut request);
        SharedFrame::new(Bytes::from(request))
    }

    fn listen(&mut self, key: ConnKey, mut buf: Vec<u8>) {
        let is_secure = self.tls.is_some();
        buf.reserve(if is_secure {
            FLIGHT_BYTES
        } else {
            RECEIVE_BYTES
        });
        let room = buf.capacity() - buf.len();
        self.engine.receive_into(key, buf, room);
    }

    fn say(&mut self, key: ConnKey, what: SharedFrame) {
        if self.tls.is_some() {
            return self.say_sealed(key, &what);
        }
        let mut batch = Box::<SendBatch>::default();
        batch.push(Segment::Shared(what));
        self.engine.send(key, batch);
    }

    fn visit(&mut self, key: ConnKey) -> Option<&mut Visit> {
        let visit = self.visits.get_mut(key.index as usize)?.as_mut()?;
        (visit.key == key).then_some(visit)
    }

    fn on_event(&mut self, event: Event) {
        match event {
            Event::ReceivedInto { conn, buf } => {
                let rest = self.on_received(conn, buf);
                if let Some(buf) = rest {
                    self.spare.push(buf);
                }
            }
            Event::ReceiveEnded { conn, errno } => self.on_end(conn, errno),
            Event::SendFailed { conn, errno } => self.on_end(conn, Some(errno)),
            Event::Closed { conn } => {
                if self.visit(conn).is_some() {
                    self.visits[conn.index as usize] = None;
                    self.in_flight -= 1;
                }
            }
            Event::Received { chunk, .. } => self.engine.release(chunk),
            Event::Sent {
                conn,
                done: Some(_),
                ..
            } => self.on_sent(conn),
            Event::Sent { .. }
            | Event::ReceivePaused { .. }
            | Event::Accepted { .. }
            | Event::AcceptFailed { .. } => {}
        }
    }

    /// Handles what came; gives the buffer back unless it is being received into again.
    fn on_received(&mut self, key: ConnKey, mut buf: Vec<u8>) -> Option<Vec<u8>> {
        let goes_on = match self.visit(key) {
            Some(visit) if visit.sealed.is_some() => self.on_sealed(key, &mut buf),
            Some(visit) if !visit.is_closing => self.on_plain(key, &mut buf),
            _ => false,
        };
        if goes_on {
            self.listen(key, buf);
            return None;
        }
        buf.clear();
        Some(buf)
    }

    /// Handles what the server said, and leaves in `buf` what is not complete; false if no more of
    /// it matters.
    fn on_plain(&mut self, key: ConnKey, buf: &mut Vec<u8>) -> bool {
        let is_compressible = self.settings.deflate;
        let Some(visit) = self.visit(key) else {
            return false;
        };
        let (conn, since) = (visit.conn, visit.since);
        if visit.reader.is_none() {
            let length = if !self.accepted.is_empty() && buf.starts_with(&self.accepted) {
                self.accepted.len()
            } else {
                match self.handshake.validate_response(buf) {
                    Ok(Some(accepted)) => {
                        if self.settings.deflate && accepted.deflate.is_none() {
                            self.fail(key, BenchError::NoDeflate { conn });
                            return false;
                        }
                        self.accepted = buf[..accepted.head_len].to_vec();
                        accepted.head_len
                    }
                    Ok(None) => return true,
                    Err(error) => {
                        self.fail(key, BenchError::Upgrade { conn, error });
                        return false;
                    }
                }
            };
            self.tally.on_received(since, self.clock.now());
            if self.settings.closing == Closing::Reset {
                self.close(key, CloseMode::Reset);
                return false;
            }
            self.say(key, self.farewell.clone());
            buf.drain(..length);
        }
        let Some(visit) = self.visit(key) else {
            return false;
        };
        let reader = visit.reader.get_or_insert_default();
        if is_compressible {
            reader.set_compressible();
        }
        let mut rest = buf.as_slice();
        let mut is_closed = false;
        while let Ok(Some(piece)) = reader.next(&mut rest) {
            is_closed |= matches!(piece, Piece::Control(OpCode::Close, _));
        }
        buf.clear();
        if is_closed {
            // RFC 6455 §7.1.1: the server is the first to end the stream.
            visit.is_closing = true;
        }
        true
    }

    fn on_end(&mut self, key: ConnKey, errno: Option<i32>) {
        let Some(visit) = self.visit(key) else {
            return;
        };
        if visit.is_closing {
            return self.close(key, CloseMode::Orderly);
        }
        let conn = visit.conn;
        let is_secure = visit.sealed.as_ref().map(|tls| tls.channel.is_open());
        let what = match (&visit.reader, is_secure) {
            (Some(_), _) => "no close frame",
            (None, Some(false)) => "no TLS handshake",
            (None, _) => "no response",
        };
        let why = match errno {
            Some(errno) => std::io::Error::from_raw_os_error(errno).to_string(),
            None => format!("the server ended it: {what}"),
        };
        self.fail(key, BenchError::Early { conn, why });
    }

    fn fail(&mut self, key: ConnKey, error: BenchError) {
        self.tally.faults.ended += 1;
        if self.reasons.len() < REASONS_MAX {
            self.reasons.push(error.to_string());
        }
        self.first_failure.get_or_insert(error);
        self.close(key, CloseMode::Reset);
    }

    fn close(&mut self, key: ConnKey, mode: CloseMode) {
        if let Some(visit) = self.visit(key) {
            visit.is_closing = true;
        }
        self.engine.close(key, mode);
    }

    /// Gives up those that wait for longer than the timeout.
    fn sweep(&mut self, now: u64) {
        let timeout = self.settings.timeout.as_nanos() as u64;
        let late =
            |visit: &&Visit| !visit.is_closing && now.saturating_sub(visit.begun_at) > timeout;
        let late: Vec<_> = self.visits.iter().flatten().filter(late).collect();
        let late: Vec<_> = late.iter().map(|visit| (visit.key, visit.conn)).collect();
        for (key, conn) in late {
            let why = format!("no answer within {:?}", self.settings.timeout);
            self.fail(key, BenchError::Early { conn, why });
        }
    }
}

const TURN_EVENTS_MAX: usize = 256;
const BEGINS_PER_TURN: u32 = 32;
const RECEIVE_BYTES: usize = 1024;
/// What a server sends in its TLS handshake, mostly.
const FLIGHT_BYTES: usize = 4096;
const SWEEP_NS: u64 = 100_000_000;
/// Failures that are told one by one.
const REASONS_MAX: usize = 5;
