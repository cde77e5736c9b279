//! L4: one worker per core. It owns its listener, its connections, its slice of the rooms, its
//! timers and its buffers, and shares none of them.
//!
//! [`Worker::turn`] is the loop's body and knows no thread, no runtime and no clock, so that a
//! simulation drives it as [`run`] does. A turn takes completions, then what other cores sent,
//! then due timers, hands out to rooms, and ends with one send for each connection that has
//! something to say. Every step is bounded (`base::limits`).

mod admission;
mod conn;
mod deflate;
mod drain;
mod gauges;
mod http;
mod input;
mod memory;
pub mod mesh;
mod origin;
mod output;
mod proof;
mod routes;
pub mod run;
mod stalls;
#[cfg(test)]
mod tests;
mod timers;
mod tls;

use std::{collections::VecDeque, panic::AssertUnwindSafe, sync::Arc};

use tracing::{debug, error, warn};

use self::{
    conn::{Conns, Receive, State},
    deflate::Deflate,
    drain::{Drain, Sweep},
    memory::{Accepting, Memory},
    mesh::{Item, Mesh},
    routes::Routes,
    tls::Records,
};
use crate::{
    base::{
        counters::Counters,
        ids::CoreId,
        limits::{
            ACCEPT_PAUSE, ROOM_TIMER_WEIGHT, TURN_COMPLETIONS_MAX, TURN_DEFLATE_BYTES_MAX,
            TURN_DELIVERIES_MAX, TURN_MESH_BATCHES_MAX, TURN_RESUMES_MAX, TURN_TIMERS_MAX,
        },
        rng::Rng,
        sampler::Sampler,
        slab::Slab,
        time::{Instant, Now},
        wheel::Wheel,
    },
    config::{Config, CoreLimits, MachineShare},
    engine::{Chunk, CloseMode, ConnKey, Engine, Event, ListenerId},
    hub::{
        Hub, Outputs,
        edge::Sessions,
        wire::{Delivery, HomeRoomKey},
    },
    proto::http1::HeadLimits,
    session::{addresses::Addresses, outbound::SpareBuffers},
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
    /// What TLS connections are served with; needed if there is a TLS listener.
    pub tls: Option<Arc<rustls::ServerConfig>>,
    /// Which of the engine's listeners speak TLS, by their number there; none beyond its end does.
    pub tls_listeners: Vec<bool>,
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
    /// Connections that have arrived and not been looked at yet, in order, and where.
    arrivals: VecDeque<(ConnKey, ListenerId)>,
    /// Of these, how many a turn takes up.
    accept_batch: u32,
}

/// A worker without its engine: what it knows, and what it wants done.
#[derive(Debug)]
struct Core {
    now: Now,
    config: Arc<Config>,
    share: MachineShare,
    core_limits: CoreLimits,
    head_limits: HeadLimits,
    routes: Routes,
    conns: Conns,
    /// Connections whose request is not complete.
    heads: u32,
    /// Connections that were refused and have not gone yet.
    refusals: u32,
    /// The addresses whose connections this core counts.
    addresses: Addresses,
    memory: Memory,
    sessions: Sessions,
    hub: Hub,
    out: Outputs,
    mesh: Mesh,
    wheel: Wheel<Timer>,
    spare: SpareBuffers,
    deflate: Deflate,
    /// Connections that have something to say.
    dirty: Vec<ConnKey>,
    /// What the engine is to do, in order.
    actions: VecDeque<Action>,
    /// Members found too slow while a room was handed out.
    slow: Vec<ConnKey>,
    /// Connections whose input waits for a credit, in order.
    short_of_credit: VecDeque<ConnKey>,
    /// Connections whose own backlog has gone down, and those that have been let in.
    caught_up: VecDeque<ConnKey>,
    /// Connections that had their share of a turn, and of which.
    deferred: VecDeque<(u32, ConnKey)>,
    /// The turn's number, and the messages handled in it so far.
    turn: u32,
    turn_messages: u32,
    /// What new TLS connections are served with.
    tls: Option<Arc<rustls::ServerConfig>>,
    tls_listeners: Vec<bool>,
    /// Connections that speak TLS.
    tls_open: usize,
    /// Connections that wait for a step, and some that can't go on, in order.
    tls_waiting: VecDeque<ConnKey>,
    records: Records,
    drain: Option<Drain>,
    /// Under way if a reload has taken routes away from connections.
    retiring: Option<Sweep>,
    refusal_log: Sampler,
    breach_log: Sampler,
    eviction_log: Sampler,
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
    StopAccepting,
}

impl<E: Engine> Worker<E> {
    /// A worker over `engine`.
    pub fn new(engine: E, parts: Parts) -> Self {
        let own = parts.config.core(parts.core);
        let core_limits = own.limits(parts.share);
        let buffers = usize::from(own.engine.recv_buffers) * own.engine.recv_buffer_bytes.0;
        let mut rng = parts.rng;
        let core = Core {
            now: parts.now,
            share: parts.share,
            core_limits,
            head_limits: head_limits(&parts.config),
            routes: Routes::new(&parts.config, &own, parts.node),
            conns: Conns::default(),
            heads: 0,
            refusals: 0,
            addresses: Addresses::default(),
            memory: Memory::new(core_limits.memory_budget, buffers),
            // Another start in each process: a client id of an earlier one finds nobody.
            sessions: Slab::new(rng.next_u64() as u32),
            hub: parts.hub,
            out: Outputs::new(),
            mesh: parts.mesh,
            wheel: Wheel::new(parts.now.mono),
            spare: SpareBuffers::new(own.engine.coalesce.0),
            deflate: Deflate::new(&parts.config.deflate),
            dirty: Vec::new(),
            actions: VecDeque::new(),
            slow: Vec::new(),
            short_of_credit: VecDeque::new(),
            caught_up: VecDeque::new(),
            deferred: VecDeque::new(),
            turn: 0,
            turn_messages: 0,
            tls: parts.tls,
            tls_listeners: parts.tls_listeners,
            tls_open: 0,
            tls_waiting: VecDeque::new(),
            records: Records::default(),
            drain: None,
            retiring: None,
            refusal_log: Sampler::new(LOG_LINES_PER_SECOND),
            breach_log: Sampler::new(LOG_LINES_PER_SECOND),
            eviction_log: Sampler::new(LOG_LINES_PER_SECOND),
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
            arrivals: VecDeque::new(),
            accept_batch: own.engine.accept_batch,
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
        self.core.turn = self.core.turn.wrapping_add(1);
        self.core.turn_messages = 0;
        self.core.deflate.begin_turn();
        self.core.hub.allow_compression(TURN_DEFLATE_BYTES_MAX);
        self.core.counters.turns_total.inc();
        // What other cores sent before these completions were found comes first: what a client
        // asks for comes after what its answers have told it of.
        self.completions = self.engine.poll(&mut self.events, TURN_COMPLETIONS_MAX);
        let mut busy = self.core.take_mesh();
        busy |= self.work_on_completions();
        busy |= self.take_arrivals();
        busy |= self.resume_stalled();
        busy |= self.fire_timers();
        busy |= self.core.hand_out();
        busy |= self.core.go_on_draining();
        self.watch_memory();
        self.run_actions();
        // Before anyone can have heard of it: who reads the counters after an answer finds its
        // effect. The last turn before a wait finds nothing to do and publishes the rest.
        self.publish_gauges();
        // Other cores hear first, then the clients: what a client does once it has its answer, on
        // whichever core, comes after what the answer tells of.
        busy |= self.core.mesh.flush();
        busy |= self.flush();
        self.engine.submit();
        // Behind everything that clients wait for: it may take as long as all of that.
        if self.core.step_handshakes() {
            busy = true;
            self.run_actions();
            // What has arrived meanwhile comes before the next step.
            self.engine.catch_up();
        }
        busy
    }

    /// When the next turn is due even if nothing happens.
    pub fn next_wake(&self) -> Option<Instant> {
        let timer = self.core.wheel.next_wake();
        let drain = self.core.drain_wake();
        let mesh = self.core.mesh.is_waiting().then(|| {
            let soon = std::time::Duration::from_millis(1);
            self.core.now.mono.plus(soon)
        });
        [timer, drain, mesh].into_iter().flatten().min()
    }

    /// Takes up another configuration, which has been validated.
    pub fn reload(&mut self, config: Arc<Config>) {
        let core = &mut self.core;
        let own = config.core(core.mesh.core());
        core.hub.set_config(Arc::clone(&config));
        core.core_limits = own.limits(core.share);
        core.memory.set_budget(core.core_limits.memory_budget);
        core.head_limits = head_limits(&config);
        core.deflate.reload(&config.deflate);
        core.config = Arc::clone(&config);
        if core.routes.reload(&config, &own) {
            core.begin_retiring();
        }
        core.counters.reloads_total.inc();
    }

    /// Serves new TLS connections with `config`.
    pub fn set_tls(&mut self, config: Arc<rustls::ServerConfig>) {
        self.core.set_tls(config);
    }

    /// Clients that were cut at the end, their close not answered.
    pub fn cut(&self) -> u64 {
        self.core.drain.as_ref().map_or(0, |drain| drain.cut)
    }

    /// Begins the end: no new clients, and a close for every client, spread over the drain's
    /// window.
    pub fn begin_draining(&mut self) {
        self.core.begin_drain();
    }

    /// Whether the end has come: everyone closed, or their time over. The worker still serves the
    /// rooms that have their home here.
    pub fn is_drained(&self) -> bool {
        self.core.is_drained(self.engine.slots_open())
    }

    fn work_on_completions(&mut self) -> bool {
        let mut events = std::mem::take(&mut self.events);
        for event in events.drain(..) {
            self.on_event(event);
        }
        self.events = events;
        self.completions > 0
    }

    /// Takes up connections that have arrived: no more than a batch, so that a rush of them does
    /// not delay those who are here already.
    fn take_arrivals(&mut self) -> bool {
        let before = self.arrivals.len();
        for _ in 0..self.accept_batch {
            let Some((conn, listener)) = self.arrivals.pop_front() else {
                break;
            };
            let peer = self.engine.peer_addr(conn);
            self.core.on_accepted(conn, listener, peer);
        }
        self.run_actions();
        before > 0
    }

    fn on_event(&mut self, event: Event) {
        match event {
            Event::Received { conn, chunk } => self.on_received(conn, chunk),
            Event::Sent { conn, bytes, done } => self.core.on_sent(conn, bytes, done),
            Event::Accepted { conn, listener } => self.arrivals.push_back((conn, listener)),
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

    fn on_received(&mut self, conn: ConnKey, chunk: Chunk) {
        let core = &mut self.core;
        core.counters.bytes_in_total.add(chunk.len() as u64);
        // What is shorter is copied.
        let lender = (chunk.len() > core.spare.coalesce_bytes_max())
            .then(|| self.engine.lender(&chunk))
            .flatten();
        let bytes = self.engine.chunk_mut(&chunk);
        guarded(core, conn, |core| {
            core.on_bytes(conn, bytes, lender.as_ref());
            core.charge_bytes(conn, bytes.len());
            core.recharge(conn);
        });
        self.engine.release(chunk);
    }

    fn watch_memory(&mut self) {
        match self.core.watch_memory() {
            Accepting::GoesOn => {}
            Accepting::Pauses => self.engine.pause_accepting(),
            Accepting::Resumes => self.engine.resume_accepting(),
        }
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
        while budget > 0
            && let Some(conn) = core.next_deferred()
        {
            budget -= 1;
            guarded(core, conn, |core| core.resume_stalled(conn));
        }
        self.run_actions();
        budget < TURN_RESUMES_MAX || !self.core.deferred.is_empty()
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
                Action::StopAccepting => self.engine.stop_accepting(),
            }
        }
    }

    fn flush(&mut self) -> bool {
        let mut dirty = std::mem::take(&mut self.core.dirty);
        let any = !dirty.is_empty();
        for conn in dirty.drain(..) {
            if let Some(batch) = self.core.next_batch(conn) {
                self.engine.send(conn, batch);
            } else if self.core.wants_unsent(conn) {
                let unsent = self.engine.unsent_bytes(conn);
                self.core.set_unsent(conn, unsent);
            }
        }
        self.core.dirty = dirty;
        any
    }
}

fn head_limits(config: &Config) -> HeadLimits {
    let limits = &config.limits;
    HeadLimits {
        head_bytes_max: limits.head_bytes_max.0,
        headers_max: limits.headers_max as usize,
        target_bytes_max: limits.target_bytes_max.0,
    }
}

/// Lines about peers' noise that one worker writes each second, of each kind.
const LOG_LINES_PER_SECOND: u64 = 5;

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
                    Item::Admit { conn, address } => self.on_admit(from, conn, address),
                    Item::Admitted {
                        conn,
                        address,
                        verdict,
                    } => self.on_admission(conn, address, verdict),
                    Item::Departed { address } => {
                        self.addresses.depart(self.now.mono, address);
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
            routes: &self.routes,
            messages_out: &mut self.messages_out,
        };
        self.hub
            .edge_mut()
            .run(budget, &mut self.sessions, &mut receivers, &mut self.out)
    }

    /// A connection that had its share of an earlier turn.
    fn next_deferred(&mut self) -> Option<ConnKey> {
        let (turn, _) = self.deferred.front()?;
        if *turn == self.turn {
            return None;
        }
        self.deferred.pop_front().map(|(_, conn)| conn)
    }

    fn set_unsent(&mut self, conn: ConnKey, bytes: usize) {
        if let Some(state) = self.conns.get_mut(conn) {
            state.rare_mut().unsent = bytes;
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
        if state.is_tls {
            self.on_tls_stream_ended(conn, errno.is_none());
        }
        let Some(state) = self.conns.get_mut(conn) else {
            return;
        };
        let lingers = matches!(state.state, State::Lingering { .. });
        if lingers && errno.is_none() && !state.is_drained() {
            // Its end may have overtaken our last words: they still go out.
            return;
        }
        if errno.is_none() && state.is_stalled() {
            // What it said before its end is still to be looked at.
            return;
        }
        self.drop_conn(conn, CloseMode::Orderly);
    }
}
