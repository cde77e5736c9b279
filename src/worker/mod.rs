//! L4: one worker per core. It owns its listener, its connections, its slice of the rooms, its
//! timers and its buffers, and shares none of them.
//!
//! [`Worker::turn`] is the loop's body and knows no thread, no runtime and no clock, so that a
//! simulation drives it as [`run`] does. A turn takes completions, then what other cores sent,
//! then due timers, hands out to rooms, and ends with one send for each connection that has
//! something to say. Every step is bounded (`base::limits`).

mod conn;
mod http;
mod input;
pub mod mesh;
mod output;
pub mod run;
#[cfg(test)]
mod tests;
mod timers;

use std::{collections::VecDeque, panic::AssertUnwindSafe, rc::Rc, sync::Arc};

use tracing::{debug, error, warn};

use self::{
    conn::{Conn, Conns, Receive, State},
    http::Serving,
    mesh::{Item, Mesh},
};
use crate::{
    base::{
        counters::Counters,
        ids::CoreId,
        limits::{
            ACCEPT_PAUSE, ROOM_TIMER_WEIGHT, SHUTDOWN_TIMEOUT, TURN_CLOSES_MAX,
            TURN_COMPLETIONS_MAX, TURN_DELIVERIES_MAX, TURN_MESH_BATCHES_MAX, TURN_RESUMES_MAX,
            TURN_TIMERS_MAX,
        },
        rng::Rng,
        slab::Slab,
        time::{Instant, Now},
        wheel::Wheel,
    },
    config::{Config, MachineShare},
    engine::{Chunk, CloseMode, ConnKey, Engine, Event, ListenerId},
    handler::reply::Hello,
    hub::{
        Hub, Outputs,
        edge::Sessions,
        wire::{Delivery, HomeRoomKey},
    },
    proto::http1::HeadLimits,
    session::outbound::SpareBuffers,
};

/// Everything a worker is made from, beside its engine.
#[derive(Debug)]
pub struct Parts {
    /// Its core.
    pub core: CoreId,
    /// The validated configuration.
    pub config: Arc<Config>,
    /// What the machine has for it.
    pub share: MachineShare,
    /// The node's name.
    pub node: String,
    /// Its rooms.
    pub hub: Hub,
    /// Its end of the mesh.
    pub mesh: Mesh,
    /// What it counts.
    pub counters: Arc<Counters>,
    /// Its own generator.
    pub rng: Rng,
    /// When it starts.
    pub now: Now,
}

/// One core's worker.
#[derive(Debug)]
pub struct Worker<E> {
    engine: E,
    core: Core,
    events: Vec<Event>,
    completions: usize,
}

/// A worker without its engine: what it knows, and what it wants done.
#[derive(Debug)]
struct Core {
    now: Now,
    config: Arc<Config>,
    head_limits: HeadLimits,
    hello: Rc<Hello>,
    conns: Conns,
    sessions: Sessions,
    hub: Hub,
    out: Outputs,
    mesh: Mesh,
    wheel: Wheel<Timer>,
    spare: SpareBuffers,
    /// Connections that have something to say.
    dirty: Vec<ConnKey>,
    /// What the engine is to do, in order.
    actions: VecDeque<Action>,
    /// Members found too slow while a room was handed out.
    slow: Vec<ConnKey>,
    /// Connections whose input waits for a credit, in order.
    short_of_credit: VecDeque<ConnKey>,
    /// Connections whose own backlog has gone down.
    caught_up: VecDeque<ConnKey>,
    stopping: Option<Stopping>,
    counters: Arc<Counters>,
    rng: Rng,
    messages_out: u64,
}

/// What a timer is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Timer {
    Conn(ConnKey),
    ResumeAccept(ListenerId),
    /// An interval of a coalescing room is over.
    Room(HomeRoomKey),
}

/// What the engine is asked for.
#[derive(Debug)]
enum Action {
    ResumeReceive(ConnKey),
    PauseReceive(ConnKey),
    ReceiveInto(ConnKey, Vec<u8>, usize),
    ShutdownWrite(ConnKey),
    Close(ConnKey, CloseMode),
}

/// The end of a worker, under way.
#[derive(Clone, Copy, Debug)]
struct Stopping {
    deadline: Instant,
    /// Connections below this position have been told.
    cursor: usize,
}

impl<E: Engine> Worker<E> {
    /// A worker over `engine`.
    pub fn new(engine: E, parts: Parts) -> Self {
        let limits = &parts.config.limits;
        let head_limits = HeadLimits {
            head_bytes_max: limits.head_bytes_max.0,
            headers_max: limits.headers_max as usize,
            target_bytes_max: limits.target_bytes_max.0,
        };
        let hello = Rc::new(Hello {
            node: parts.node,
            ping_interval_ms: limits.ping_interval.0.as_millis() as u64,
            pong_timeout_ms: limits.pong_timeout.0.as_millis() as u64,
            message_bytes_max: limits.message_bytes_max.0 as u64,
            rooms_max: limits.rooms_per_client.into(),
        });
        let mut rng = parts.rng;
        let core = Core {
            now: parts.now,
            head_limits,
            hello,
            conns: Conns::default(),
            // Another start in each process: a client id of an earlier one finds nobody.
            sessions: Slab::new(rng.next_u64() as u32),
            hub: parts.hub,
            out: Outputs::new(),
            mesh: parts.mesh,
            wheel: Wheel::new(parts.now.mono),
            spare: SpareBuffers::default(),
            dirty: Vec::new(),
            actions: VecDeque::new(),
            slow: Vec::new(),
            short_of_credit: VecDeque::new(),
            caught_up: VecDeque::new(),
            stopping: None,
            counters: parts.counters,
            rng,
            messages_out: 0,
            config: parts.config,
        };
        Self {
            engine,
            core,
            events: Vec::with_capacity(TURN_COMPLETIONS_MAX),
            completions: 0,
        }
    }

    /// Its engine.
    pub const fn engine(&self) -> &E {
        &self.engine
    }

    /// Its engine.
    pub const fn engine_mut(&mut self) -> &mut E {
        &mut self.engine
    }

    /// Its end of the mesh.
    pub const fn mesh_mut(&mut self) -> &mut Mesh {
        &mut self.core.mesh
    }

    /// Events that the last turn took from its engine.
    pub const fn completions(&self) -> usize {
        self.completions
    }

    /// One turn. Says whether it found anything to do; if not, it may wait.
    pub fn turn(&mut self, now: Now) -> bool {
        self.core.now = now;
        self.core.counters.turns_total.inc();
        let mut busy = self.take_completions();
        busy |= self.core.take_mesh();
        busy |= self.resume_stalled();
        busy |= self.fire_timers();
        busy |= self.core.hand_out();
        busy |= self.core.go_on_stopping();
        self.run_actions();
        // Before anyone can have heard of it: who reads the counters after an answer finds its
        // effect. The last turn before a wait finds nothing to do and publishes the rest.
        self.publish_gauges();
        // Other cores hear first, then the clients: what a client does once it has its answer, on
        // whichever core, comes after what the answer tells of.
        busy |= self.core.mesh.flush();
        busy |= self.flush();
        self.engine.submit();
        busy
    }

    /// When the next turn is due even if nothing happens.
    pub fn next_wake(&self) -> Option<Instant> {
        let timer = self.core.wheel.next_wake();
        let stopping = self.core.stopping.map(|stopping| stopping.deadline);
        let mesh = self.core.mesh.is_waiting().then(|| {
            let soon = std::time::Duration::from_millis(1);
            self.core.now.mono.plus(soon)
        });
        [timer, stopping, mesh].into_iter().flatten().min()
    }

    /// Takes up another configuration, which has been validated.
    pub fn reload(&mut self, config: Arc<Config>) {
        self.core.hub.set_config(Arc::clone(&config));
        self.core.config = config;
    }

    /// Clients that were cut at the end, their close not answered.
    pub const fn cut(&self) -> u64 {
        0
    }

    /// Begins the end: no more connections, a close for every client.
    pub fn begin_stopping(&mut self) {
        if self.core.stopping.is_none() {
            self.engine.stop_accepting();
            self.core.stopping = Some(Stopping {
                deadline: self.core.now.mono.plus(SHUTDOWN_TIMEOUT),
                cursor: 0,
            });
        }
    }

    /// Whether the end has come: everything closed, or its time over.
    pub fn is_finished(&self) -> bool {
        self.core.stopping.is_some_and(|stopping| {
            let everyone_told = stopping.cursor >= self.core.conns.index_bound();
            (everyone_told && self.engine.slots_open() == 0 && !self.core.mesh.is_waiting())
                || self.core.now.mono >= stopping.deadline
        })
    }

    fn take_completions(&mut self) -> bool {
        let mut events = std::mem::take(&mut self.events);
        let found = self.engine.poll(&mut events, TURN_COMPLETIONS_MAX);
        self.completions = found;
        for event in events.drain(..) {
            self.on_event(event);
        }
        self.events = events;
        found > 0
    }

    fn on_event(&mut self, event: Event) {
        match event {
            Event::Received { conn, chunk } => self.on_received(conn, chunk),
            Event::Sent { conn, bytes, done } => self.core.on_sent(conn, bytes, done),
            Event::Accepted { conn, .. } => self.on_accepted(conn),
            Event::AcceptFailed { listener, errno } => {
                self.core.counters.accept_errors_total.inc();
                let error = std::io::Error::from_raw_os_error(errno);
                warn!(core = self.core.mesh.core(), %error, "accepting pauses");
                let at = self.core.now.mono.plus(ACCEPT_PAUSE);
                self.core.wheel.arm(at, Timer::ResumeAccept(listener));
            }
            Event::ReceivedInto { conn, buf } => {
                let core = &mut self.core;
                guarded(core, conn, |core| core.on_received_into(conn, buf));
            }
            Event::ReceivePaused { conn } => self.core.on_receive_paused(conn),
            Event::ReceiveEnded { conn, errno } => self.core.on_receive_ended(conn, errno),
            Event::SendFailed { conn, errno } => {
                debug!(conn = conn.index, errno, "send failed");
                self.core.drop_conn(conn, CloseMode::Reset);
            }
            Event::Closed { .. } => {}
        }
        self.run_actions();
    }

    fn on_accepted(&mut self, conn: ConnKey) {
        let peer = self.engine.peer_addr(conn);
        let core = &mut self.core;
        core.counters.accepted_total.inc();
        debug!(
            core = core.mesh.core(),
            conn = conn.index,
            ?peer,
            "accepted"
        );
        core.conns.insert(conn, Conn::new(core.now.mono, peer));
        if core.stopping.is_some() {
            // It came with the last accept; its position may have been told already.
            return core.stop_conn(conn);
        }
        let timeout = core.config.limits.handshake_timeout.0;
        core.set_timer(conn, timeout);
        self.engine.resume_receive(conn);
    }

    fn on_received(&mut self, conn: ConnKey, chunk: Chunk) {
        let core = &mut self.core;
        core.counters.bytes_in_total.add(chunk.len() as u64);
        let bytes = self.engine.chunk_mut(&chunk);
        guarded(core, conn, |core| core.on_bytes(conn, bytes));
        self.engine.release(chunk);
    }

    fn resume_stalled(&mut self) -> bool {
        let core = &mut self.core;
        let mut budget = TURN_RESUMES_MAX;
        while budget > 0
            && !core.mesh.is_short_of_credit()
            && let Some(conn) = core.short_of_credit.pop_front()
        {
            budget -= 1;
            guarded(core, conn, |core| core.resume_stalled(conn));
        }
        while budget > 0
            && let Some(conn) = core.caught_up.pop_front()
        {
            budget -= 1;
            guarded(core, conn, |core| core.resume_stalled(conn));
        }
        self.run_actions();
        budget < TURN_RESUMES_MAX
    }

    fn fire_timers(&mut self) -> bool {
        let mut fired = 0;
        while fired < TURN_TIMERS_MAX
            && let Some(timer) = self.core.wheel.advance(self.core.now.mono)
        {
            fired += 1;
            match timer {
                Timer::Conn(conn) => self.core.on_timer(conn),
                Timer::Room(room) => {
                    fired += ROOM_TIMER_WEIGHT - 1;
                    self.core.on_room_timer(room);
                }
                Timer::ResumeAccept(listener) => self.engine.resume_accept(listener),
            }
        }
        self.run_actions();
        fired > 0
    }

    fn run_actions(&mut self) {
        while let Some(action) = self.core.actions.pop_front() {
            match action {
                Action::ResumeReceive(conn) => self.engine.resume_receive(conn),
                Action::PauseReceive(conn) => self.engine.pause_receive(conn),
                Action::ReceiveInto(conn, buf, bytes_max) => {
                    self.engine.receive_into(conn, buf, bytes_max);
                }
                Action::ShutdownWrite(conn) => self.engine.shutdown_write(conn),
                Action::Close(conn, mode) => self.engine.close(conn, mode),
            }
        }
    }

    fn flush(&mut self) -> bool {
        let mut dirty = std::mem::take(&mut self.core.dirty);
        let any = !dirty.is_empty();
        for conn in dirty.drain(..) {
            if let Some(batch) = self.core.next_batch(conn) {
                self.engine.send(conn, batch);
            }
        }
        self.core.dirty = dirty;
        any
    }

    fn publish_gauges(&self) {
        let (core, counters) = (&self.core, &self.core.counters);
        counters.connections_open.set(core.conns.len() as u64);
        counters.sessions_open.set(core.sessions.len() as u64);
        counters.rooms_open.set(core.hub.rooms_open() as u64);
        counters
            .memberships_open
            .set(core.hub.edge().memberships() as u64);
        counters.timers_open.set(core.wheel.len() as u64);
        counters
            .sends_in_flight
            .set(self.engine.sends_in_flight() as u64);
        counters.buffers_out.set(self.engine.buffers_out() as u64);
        counters.slots_open.set(self.engine.slots_open() as u64);
        counters.mesh_window_bytes.set(core.hub.window_bytes());
        counters.enobufs_total.set(self.engine.enobufs());
        counters.cq_overflows_total.set(self.engine.overflows());
        counters
            .enter_failures_total
            .set(self.engine.enter_failures());
        counters.mesh_waits_total.set(core.mesh.waits());
        counters.published_total.set(core.hub.published());
        counters.messages_out_total.set(core.messages_out);
        counters
            .announcements_suppressed_total
            .set(core.hub.announcements_suppressed());
        counters.coalesced_total.set(core.hub.coalesced());
        counters
            .coalesce_flushes_early_total
            .set(core.hub.flushed_early());
        let tally = core.spare.tally();
        counters.dropped_oldest_total.set(tally.dropped_oldest);
        counters.dropped_newest_total.set(tally.dropped_newest);
        counters.conflated_total.set(tally.conflated);
        counters.gaps_total.set(tally.gaps);
        counters
            .user_sessions_refused_total
            .set(core.hub.user_sessions_refused());
    }
}

/// Runs what depends on one connection's input. A panic there costs that connection alone.
fn guarded(core: &mut Core, conn: ConnKey, work: impl FnOnce(&mut Core)) {
    // The core's shared state is guarded by `AbortOnUnwind` wherever it is changed, so what a
    // caught panic may have left half-done is this connection's own.
    let result = std::panic::catch_unwind(AssertUnwindSafe(|| work(core)));
    if result.is_err() {
        core.counters.panics_total.inc();
        error!(
            core = core.mesh.core(),
            conn = conn.index,
            "a panic in one connection's input; the connection is closed"
        );
        core.close_after_panic(conn);
    }
}

impl Core {
    /// Takes what other cores sent.
    fn take_mesh(&mut self) -> bool {
        let mut taken = 0;
        while taken < TURN_MESH_BATCHES_MAX
            && let Some(batch) = self.mesh.next_batch()
        {
            taken += 1;
            let from = batch.from;
            self.hub.return_window(from, batch.window);
            for item in batch.items {
                match item {
                    Item::Request(request) => {
                        self.hub.handle_request(
                            self.now,
                            from,
                            request,
                            &self.sessions,
                            &mut self.out,
                        );
                    }
                    Item::Delivery(delivery) => {
                        if matches!(delivery, Delivery::Reply { .. }) {
                            self.mesh.return_credit(from);
                        }
                        self.take_delivery(from, delivery);
                    }
                }
                self.drain_outputs();
            }
        }
        taken > 0
    }

    fn on_room_timer(&mut self, room: HomeRoomKey) {
        self.hub.on_room_timer(room, &mut self.out);
        self.drain_outputs();
    }

    fn take_delivery(&mut self, from: CoreId, delivery: Delivery) {
        let core = self.mesh.core();
        self.hub.edge_mut().handle_delivery(
            core,
            from,
            delivery,
            &mut self.sessions,
            &mut self.out,
        );
    }

    /// Hands out to this core's members, at most a turn's share.
    fn hand_out(&mut self) -> bool {
        if self.hub.edge().is_quiet() {
            return false;
        }
        let mut budget = TURN_DELIVERIES_MAX;
        while budget > 0 && !self.hub.edge().is_quiet() {
            budget -= self.hand_out_at_most(budget).clamp(1, budget);
            self.drain_outputs();
            self.evict_slow();
        }
        true
    }

    fn hand_out_at_most(&mut self, budget: usize) -> usize {
        let mut receivers = output::Members {
            conns: &mut self.conns,
            spare: &mut self.spare,
            dirty: &mut self.dirty,
            slow: &mut self.slow,
            counters: &self.counters,
            buffered_bytes_high: self.config.limits.buffered_bytes_high.0,
            buffered_bytes_low: self.config.limits.buffered_bytes_low.0,
            messages_out: &mut self.messages_out,
        };
        self.hub
            .edge_mut()
            .run(budget, &mut self.sessions, &mut receivers, &mut self.out)
    }

    fn go_on_stopping(&mut self) -> bool {
        let Some(mut stopping) = self.stopping else {
            return false;
        };
        let end = self.conns.index_bound();
        let from = stopping.cursor.min(end);
        let to = end.min(from + TURN_CLOSES_MAX);
        for index in from..to {
            if let Some(conn) = self.conns.key_at(index) {
                self.stop_conn(conn);
            }
        }
        stopping.cursor = to;
        self.stopping = Some(stopping);
        to > from
    }

    fn serving(&self) -> Serving {
        Serving {
            demo: self.config.server.demo,
            stopping: self.stopping.is_some(),
        }
    }

    fn set_timer(&mut self, conn: ConnKey, after: std::time::Duration) {
        if let Some(state) = self.conns.get_mut(conn) {
            if let Some(timer) = state.timer.take() {
                self.wheel.cancel(timer);
            }
            let timer = self.wheel.arm(self.now.mono.plus(after), Timer::Conn(conn));
            state.timer = Some(timer);
        }
    }

    fn mark_dirty(&mut self, conn: ConnKey) {
        if let Some(state) = self.conns.get_mut(conn)
            && !std::mem::replace(&mut state.dirty, true)
        {
            self.dirty.push(conn);
        }
    }

    fn on_receive_ended(&mut self, conn: ConnKey, errno: Option<i32>) {
        let Some(state) = self.conns.get_mut(conn) else {
            return;
        };
        state.receive = Receive::Ended;
        state.ended = true;
        let lingers = matches!(state.state, State::Lingering { .. });
        if lingers && errno.is_none() && !state.outbound.is_drained() {
            // Its end may have overtaken our last words: they still go out.
            return;
        }
        self.drop_conn(conn, CloseMode::Orderly);
    }
}
