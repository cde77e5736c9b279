//! The connections of a load: opening, upgrading, joining, and one turn after the other until the
//! load has had enough.
//!
//! ```text
//!   Upgrading ──101──▶ Ready
//!       └──101, with --join──▶ Joining ──the answer──▶ Ready
//! ```
//!
//! It knows frames and sockets; what messages mean is the [`Load`]'s business.

mod client;
mod compressed;
mod sealed;
mod wake;

use std::{net::SocketAddr, time::Duration};

use crate::{
    base::segments::Segment,
    engine::{
        CloseMode, ConnKey, Engine, Event,
        slots::{Slots, SystemKernel},
    },
};

use self::client::Clients;
pub(crate) use self::{
    client::{End, KEY},
    wake::Wake,
};
use super::{
    BenchError,
    args::Settings,
    clock::Clock,
    inflated::DeflateFigures,
    progress::Progress,
    reader::Part,
    target::{self, Tuning},
    tls::{Tls, TlsFigures},
};

/// What is done with connections that are ready.
pub(crate) trait Load {
    /// Part of a message came.
    fn on_part(&mut self, conn: u32, part: &Part<'_>, now: u64, wake: &mut Wake);

    /// What the connection shall send now.
    fn take(&mut self, conn: u32, now: u64) -> Option<Segment>;

    /// The kernel has taken what [`Load::take`] gave.
    fn give_back(&mut self, conn: u32, buf: Vec<u8>);

    /// The connection has ended.
    fn on_ended(&mut self, conn: u32, end: End, now: u64, wake: &mut Wake);

    /// A turn has come; connections that have something to send are to be woken.
    fn on_turn(&mut self, now: u64, wake: &mut Wake);

    /// When it needs the next turn, whatever comes.
    fn next_at(&self) -> Option<u64>;

    /// What the progress bar counts: messages received so far.
    fn progress(&self) -> u64;
}

/// A load that does nothing.
#[derive(Debug, Default)]
pub(crate) struct Silence {
    pub(crate) received: u64,
    pub(crate) ends: Vec<(u32, End)>,
}

impl Load for Silence {
    fn on_part(&mut self, _: u32, part: &Part<'_>, _: u64, _: &mut Wake) {
        self.received += u64::from(part.is_last);
    }

    fn take(&mut self, _: u32, _: u64) -> Option<Segment> {
        None
    }

    fn give_back(&mut self, _: u32, _: Vec<u8>) {}

    fn on_ended(&mut self, conn: u32, end: End, _: u64, _: &mut Wake) {
        self.ends.push((conn, end));
    }

    fn on_turn(&mut self, _: u64, _: &mut Wake) {}

    fn next_at(&self) -> Option<u64> {
        None
    }

    fn progress(&self) -> u64 {
        self.received
    }
}

/// Connections over one engine.
pub(crate) struct Crowd<K: SystemKernel> {
    engine: Slots<K>,
    events: Vec<Event>,
    clock: Clock,
    addr: SocketAddr,
    clients: Clients,
    /// The break between two looks at what has come, in place of waiting.
    poll_ns: Option<u64>,
    /// Time spent in such breaks.
    spun_ns: u64,
    pub(crate) progress: Progress,
}

impl<K: SystemKernel> Crowd<K> {
    /// Nobody yet.
    pub(crate) fn new(
        engine: Slots<K>,
        addr: SocketAddr,
        settings: &Settings,
        tls: Option<Tls>,
        progress: Progress,
    ) -> Self {
        Self {
            engine,
            events: Vec::with_capacity(TURN_EVENTS_MAX),
            clock: Clock::start(),
            addr,
            clients: Clients::new(settings, tls),
            poll_ns: settings.poll.map(|poll| poll.as_nanos() as u64),
            spun_ns: 0,
            progress,
        }
    }

    /// The time now.
    pub(crate) fn now(&self) -> u64 {
        self.clock.now()
    }

    /// Time spent without sleeping and without doing anything, so far.
    pub(crate) const fn spun(&self) -> Duration {
        Duration::from_nanos(self.spun_ns)
    }

    /// Arrivals that found no receive buffer so far.
    pub(crate) fn buffer_waits(&self) -> u64 {
        self.engine.enobufs()
    }

    /// What was agreed on, if connections are TLS.
    pub(crate) fn tls_figures(&self) -> Option<TlsFigures> {
        self.clients.tls_figures()
    }

    /// What has been inflated so far, if compression was asked for.
    pub(crate) fn inflated(&self) -> Option<DeflateFigures> {
        self.clients.deflate_figures()
    }

    /// Pings answered so far.
    pub(crate) fn pings(&self) -> u64 {
        self.clients.pings
    }

    /// Opens all connections of the settings and waits until they are ready. `opened` is told
    /// from time to time how many are.
    ///
    /// # Errors
    /// If one can't be opened, or ends.
    pub(crate) fn open<L: Load>(
        &mut self,
        settings: &Settings,
        load: &mut L,
        mut opened: impl FnMut(u32),
    ) -> Result<Duration, BenchError> {
        let count = settings.connections;
        let begin = self.now();
        let mut last = (begin, 0);
        while self.clients.ready < count {
            let now = self.now();
            let allowed = settings.ramp_up.map_or(f64::from(count), |rate| {
                1.0 + (now - begin) as f64 * 1e-9 * rate
            });
            while self.clients.len() < count
                && self.clients.len() - self.clients.ready < settings.in_flight
                && f64::from(self.clients.len()) < allowed
            {
                self.dial(settings, now)?;
            }
            self.turn(load, now + OPENING_WAIT_NS);
            if let Some(failure) = self.clients.failure.take() {
                return Err(failure);
            }
            let ready = self.clients.ready;
            if ready != last.1 || self.clients.len() == ready {
                last = (self.now(), ready);
            } else if self.now() - last.0 > settings.ready_timeout.as_nanos() as u64 {
                return Err(BenchError::NotReady {
                    ready,
                    count,
                    timeout: settings.ready_timeout,
                });
            }
            opened(ready);
            let share = f64::from(ready) / f64::from(count);
            self.progress
                .show(self.clock.now(), "opening", share, u64::from(ready));
        }
        self.clients.is_loaded = true;
        Ok(Duration::from_nanos(self.now() - begin))
    }

    fn dial(&mut self, settings: &Settings, now: u64) -> Result<(), BenchError> {
        let conn = self.clients.len();
        let failed = |error| BenchError::Connect {
            conn,
            addr: self.addr,
            error,
        };
        let is_slow = settings.is_slow(conn);
        let tuning = Tuning {
            nodelay: true,
            receive_bytes: is_slow.then_some(SLOW_RECEIVE_BYTES),
        };
        let stream = target::connect(self.addr, tuning).map_err(failed)?;
        let watch = if is_slow {
            Some(stream.try_clone().map_err(failed)?)
        } else {
            None
        };
        let channel = self.clients.secure()?;
        let key = self.engine.adopt(stream).map_err(failed)?;
        self.engine.resume_receive(key);
        self.clients.add(key, watch, channel, settings);
        self.clients
            .flush_one(&mut self.engine, conn, &mut Silence::default(), now);
        Ok(())
    }

    /// Turns while `goes_on` says so, until `end` at most.
    pub(crate) fn run_while<L: Load>(
        &mut self,
        load: &mut L,
        end: u64,
        mut goes_on: impl FnMut(&mut L, u64) -> bool,
    ) {
        loop {
            let now = self.turn(load, end);
            if now >= end || !goes_on(load, now) {
                return;
            }
        }
    }

    /// Does nothing until `until`, and does not sleep.
    fn spin(&mut self, since: u64, until: u64) {
        let mut now = since;
        while now < until {
            std::hint::spin_loop();
            now = self.now();
        }
        self.spun_ns += now - since;
    }

    /// Waits for something to happen, until `until` at most, and does what follows. Gives the
    /// time then.
    pub(crate) fn turn<L: Load>(&mut self, load: &mut L, until: u64) -> u64 {
        let now = self.now();
        let next = load.next_at().map_or(until, |next| next.min(until));
        let wait = match self.poll_ns {
            _ if !self.clients.wake.is_empty() => Duration::ZERO,
            None => wait_for(next.saturating_sub(now)),
            Some(poll) => {
                self.spin(now, next.min(now + poll));
                Duration::ZERO
            }
        };
        self.engine.wait(wait);
        let mut events = std::mem::take(&mut self.events);
        self.engine.poll(&mut events, TURN_EVENTS_MAX);
        for event in events.drain(..) {
            self.on_event(event, load);
        }
        self.events = events;
        let now = self.now();
        load.on_turn(now, &mut self.clients.wake);
        self.clients.flush(&mut self.engine, load, now);
        now
    }

    fn on_event<L: Load>(&mut self, event: Event, load: &mut L) {
        let now = self.clock.now();
        match event {
            Event::Received { conn, chunk } => {
                if let Some(conn) = self.clients.at(conn) {
                    let bytes = self.engine.chunk_mut(&chunk);
                    self.clients.on_received(conn, bytes, load, now);
                }
                self.engine.release(chunk);
            }
            Event::Sent { conn, done, .. } => {
                if let Some(conn) = self.clients.at(conn)
                    && let Some(batch) = done
                {
                    self.clients.on_sent(conn, batch, load);
                }
            }
            Event::ReceiveEnded { conn, errno } => self.on_end(conn, errno, load, now),
            Event::SendFailed { conn, errno } => self.on_end(conn, Some(errno), load, now),
            Event::ReceivePaused { .. }
            | Event::ReceivedInto { .. }
            | Event::Accepted { .. }
            | Event::AcceptFailed { .. }
            | Event::Closed { .. } => {}
        }
        for key in self.clients.gone.drain(..) {
            self.engine.close(key, CloseMode::Orderly);
        }
    }

    fn on_end<L: Load>(&mut self, key: ConnKey, errno: Option<i32>, load: &mut L, now: u64) {
        if let Some(conn) = self.clients.at(key) {
            self.clients.end(conn, End { code: None, errno }, load, now);
        }
    }

    /// Pings every connection and waits for the pongs; gives how many did not answer in time.
    pub(crate) fn count_dead<L: Load>(&mut self, load: &mut L, timeout: Duration) -> u32 {
        let end = self.now() + timeout.as_nanos() as u64;
        self.clients.alive = 0;
        let living = self.clients.living();
        // Few at a time: a flood of pings measures nothing.
        let step = PINGS_PER_TURN;
        for begin in (0..self.clients.len()).step_by(step as usize) {
            for conn in begin..(begin + step).min(self.clients.len()) {
                self.clients.ping(conn);
            }
            self.turn(load, end);
        }
        while self.clients.alive < living && self.now() < end {
            self.turn(load, end);
        }
        self.clients.len() - self.clients.alive
    }

    /// Reads nothing more of a connection.
    pub(crate) fn pause(&mut self, conn: u32) {
        self.engine.pause_receive(self.clients.key(conn));
    }

    /// Reads again.
    pub(crate) fn resume(&mut self, conn: u32) {
        self.engine.resume_receive(self.clients.key(conn));
    }

    /// Whether the server has ended a connection that is not read: its end or a reset has come.
    pub(crate) fn is_cut(&self, conn: u32) -> bool {
        self.clients.is_cut(conn)
    }

    /// Lets a connection send what it has.
    pub(crate) fn wake(&mut self, conn: u32) {
        self.clients.wake.wake(conn);
    }

    /// Lets every connection send what it has.
    pub(crate) fn wake_all(&mut self) {
        for conn in 0..self.clients.len() {
            self.clients.wake.wake(conn);
        }
    }
}

/// How long to wait for what comes in so many nanoseconds. An alarm is late by tens of
/// microseconds: the last of them are spent looking.
pub(crate) fn wait_for(nanos: u64) -> Duration {
    Duration::from_nanos(nanos)
        .min(WAIT_MAX)
        .saturating_sub(SPIN)
}

/// Completions handled in one turn.
const TURN_EVENTS_MAX: usize = 256;
/// How long one turn may wait.
const WAIT_MAX: Duration = Duration::from_millis(50);
const OPENING_WAIT_NS: u64 = 1_000_000;
/// An alarm may be late by this much.
const SPIN: Duration = Duration::from_micros(100);
const PINGS_PER_TURN: u32 = 128;
/// What the kernel keeps for a connection that is not read: little, so that it shows soon.
const SLOW_RECEIVE_BYTES: usize = 16 * 1024;
