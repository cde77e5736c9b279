//! Workers, their mesh and their clients under one virtual clock and one seed.

use std::{sync::Arc, time::Duration};

use super::{
    client::Client,
    tls::{self, TlsClient},
};
use crate::{
    base::{
        counters::Counters,
        ids::CoreId,
        rng::Rng,
        time::{Instant, Now},
    },
    config::{ByteSize, Config, MachineShare},
    engine::{
        Engine, ListenerId,
        sim::{Faults, SimConfig, SimKernel},
        slots::Slots,
    },
    hub::{Hub, Routes},
    worker::{Parts, Worker, mesh},
};

pub(super) type SimWorker = Worker<Slots<SimKernel>>;

pub(super) struct Net {
    pub(super) rng: Rng,
    pub(super) workers: Vec<SimWorker>,
    pub(super) clients: Vec<Client>,
    pub(super) now_ms: u64,
    /// Of so many clients one speaks TLS; none if 0.
    pub(super) one_in_speaks_tls: u64,
}

pub(super) const JSON: &str = "tidegate.v1.json";
pub(super) const RAW: &str = "tidegate.v1.raw";

/// Rounds without any work after which nothing more is to be expected.
const QUIET_ROUNDS: u32 = 40;
const ROUNDS_MAX: u32 = 30_000;

impl Net {
    /// One to four cores with faults, all drawn from `seed`.
    pub(super) fn new(seed: u64, edit: impl FnOnce(&mut Config)) -> Self {
        let mut rng = Rng::new(seed);
        let cores = 1 + rng.below(4) as u16;
        let sim = SimConfig {
            listeners: 1,
            buffers: 2 + rng.below(12) as u16,
            buffer_bytes: 256 << rng.below(7),
            socket_bytes: 2048 << rng.below(6),
            faults: Faults::draw(&mut rng),
        };
        let one_in_speaks_tls = if rng.one_in(3) { 2 } else { 0 };
        let mut net = Self::with(rng, cores, &sim, edit);
        net.one_in_speaks_tls = one_in_speaks_tls;
        net
    }

    pub(super) fn with(
        mut rng: Rng,
        cores: u16,
        sim: &SimConfig,
        edit: impl FnOnce(&mut Config),
    ) -> Self {
        let mut config = Config::default();
        // Limits on rates are for the tests that ask for them.
        config.limits.messages_per_second = 0;
        config.limits.bytes_per_second = ByteSize(0);
        config.limits.control_frames_per_second = 0;
        edit(&mut config);
        let config = Arc::new(config);
        let seeds = [(); 4].map(|()| rng.next_u64());
        let routes = Routes::new(cores, seeds);
        let inbox_batches = 1 + rng.below(3) as usize;
        let now_ms = 1_000;
        let sim = SimConfig {
            listeners: 2,
            ..sim.clone()
        };
        let workers = mesh::connect_bounded(cores, inbox_batches)
            .into_iter()
            .zip(0..)
            .map(|(mesh, core): (_, CoreId)| {
                let hub_rng = Rng::new(rng.next_u64());
                let hub = Hub::new(core, routes.clone(), Arc::clone(&config), hub_rng);
                let kernel = SimKernel::new(rng.next_u64(), sim.clone());
                let engine = Slots::new(kernel, rng.next_u64() as u32);
                let parts = Parts {
                    core,
                    config: Arc::clone(&config),
                    share: MachineShare {
                        connections: u32::MAX,
                        memory_bytes: usize::MAX,
                    },
                    node: "sim".to_owned(),
                    hub,
                    mesh,
                    counters: Arc::new(Counters::default()),
                    rng: Rng::new(rng.next_u64()),
                    tls: Some(tls::server_config()),
                    tls_listeners: vec![false, true],
                    now: at(now_ms),
                };
                Worker::new(engine, parts)
            })
            .collect();
        Self {
            rng,
            workers,
            clients: Vec::new(),
            now_ms,
            one_in_speaks_tls: 0,
        }
    }

    pub(super) fn cores(&self) -> usize {
        self.workers.len()
    }

    pub(super) fn connect(&mut self, path: &str, subprotocol: &str) -> usize {
        let core = self.rng.below(self.cores() as u64) as usize;
        self.connect_to(core, path, subprotocol)
    }

    pub(super) fn connect_to(&mut self, core: usize, path: &str, subprotocol: &str) -> usize {
        let one_in = self.one_in_speaks_tls;
        let speaks_tls = one_in > 0 && self.rng.one_in(one_in);
        self.connect_by(core, path, subprotocol, speaks_tls)
    }

    pub(super) fn connect_by(
        &mut self,
        core: usize,
        path: &str,
        subprotocol: &str,
        speaks_tls: bool,
    ) -> usize {
        let tls = speaks_tls.then(TlsClient::default);
        self.connect_between(core, path, subprotocol, speaks_tls.into(), tls)
    }

    /// Whatever the client speaks, and the listener.
    pub(super) fn connect_between(
        &mut self,
        core: usize,
        path: &str,
        subprotocol: &str,
        listener: ListenerId,
        tls: Option<TlsClient>,
    ) -> usize {
        let kernel = self.workers[core].engine_mut().kernel_mut();
        let peer = kernel.connect(listener).expect("the listener is open");
        self.clients
            .push(Client::new(core, peer, path, subprotocol, tls));
        self.clients.len() - 1
    }

    fn kernel(&mut self, client: usize) -> &mut SimKernel {
        let core = self.clients[client].core;
        self.workers[core].engine_mut().kernel_mut()
    }

    /// The client vanishes: by a reset, or by closing without a word.
    pub(super) fn cut(&mut self, client: usize) {
        let peer = self.clients[client].peer;
        self.clients[client].is_gone = true;
        if self.rng.one_in(2) {
            self.kernel(client).peer_reset(peer);
        } else {
            self.kernel(client).peer_close(peer);
        }
    }

    /// The client ends its connection behind everything it has to say.
    pub(super) fn say_all_and_end(&mut self, client: usize) {
        self.until("it is written", |net| {
            !net.clients[client].has_more_to_say()
        });
        let peer = self.clients[client].peer;
        self.clients[client].is_gone = true;
        self.kernel(client).peer_close(peer);
    }

    pub(super) fn pump(&mut self, client: usize) -> bool {
        let state = &mut self.clients[client];
        let kernel = self.workers[state.core].engine_mut().kernel_mut();
        state.pump(kernel, &mut self.rng)
    }

    pub(super) fn turn(&mut self, core: usize) -> bool {
        self.workers[core].turn(at(self.now_ms))
    }

    /// One thing happens: a turn of one worker, or something at one client.
    pub(super) fn step(&mut self) {
        let cores = self.cores() as u64;
        let clients = self.clients.len() as u64;
        if self.rng.one_in(2) || clients == 0 {
            let core = self.rng.below(cores) as usize;
            self.turn(core);
        } else {
            let client = self.rng.below(clients) as usize;
            self.pump(client);
        }
        if self.rng.one_in(20) {
            self.now_ms += 1;
        }
    }

    /// Every worker and every client once, in random order; whether anything happened.
    pub(super) fn round(&mut self) -> bool {
        let mut busy = false;
        let mut order: Vec<usize> = (0..self.cores() + self.clients.len()).collect();
        for n in (1..order.len()).rev() {
            order.swap(n, self.rng.below(n as u64 + 1) as usize);
        }
        for n in order {
            busy |= match n.checked_sub(self.cores()) {
                None => self.turn(n),
                Some(client) => self.pump(client),
            };
        }
        self.now_ms += 1;
        busy
    }

    /// Goes on until nothing happens any more.
    pub(super) fn settle(&mut self) {
        let mut quiet = 0;
        for _ in 0..ROUNDS_MAX {
            quiet = if self.round() { 0 } else { quiet + 1 };
            let soon = at(self.now_ms + 200).mono;
            let wakes_soon = |worker: &SimWorker| worker.next_wake().is_some_and(|at| at < soon);
            if quiet >= QUIET_ROUNDS && !self.workers.iter().any(wakes_soon) {
                return;
            }
        }
        panic!("the workers never come to rest");
    }

    /// Goes on until `done`.
    pub(super) fn until(&mut self, what: &str, done: impl Fn(&Self) -> bool) {
        for _ in 0..ROUNDS_MAX {
            if done(self) {
                return;
            }
            self.round();
        }
        panic!("waited in vain: {what}");
    }

    pub(super) fn until_open(&mut self) {
        self.until("clients open", |net| {
            net.clients.iter().all(|c| c.is_gone || c.is_open())
        });
    }

    /// Lets time pass, with a round each `step_ms`.
    pub(super) fn pass(&mut self, ms: u64, step_ms: u64) {
        let end = self.now_ms + ms;
        while self.now_ms < end {
            self.now_ms += step_ms;
            self.round();
        }
    }

    /// Lets time pass while one client does nothing.
    pub(super) fn pass_without(&mut self, mute: usize, ms: u64) {
        self.clients[mute].is_gone = true;
        self.pass(ms, 10);
        self.clients[mute].is_gone = false;
    }

    pub(super) fn total(&self, of: impl Fn(&Counters) -> u64) -> u64 {
        self.workers
            .iter()
            .map(|worker| of(&worker.core.counters))
            .sum()
    }

    /// Everyone goes, each in its own way; then nothing may be left of them anywhere.
    pub(super) fn end(mut self) {
        for client in 0..self.clients.len() {
            if self.clients[client].is_gone || self.clients[client].end.is_some() {
                continue;
            }
            self.clients[client].reads = true;
            if self.clients[client].is_open() && self.rng.one_in(2) {
                self.clients[client].begin_close();
            } else {
                self.cut(client);
            }
        }
        self.pass(2_000, 10);
        self.pass(20_000, 500);
        self.settle();
        for client in &self.clients {
            assert!(client.is_gone || client.end.is_some(), "a client hangs");
        }
        self.assert_empty();
    }

    pub(super) fn assert_empty(&self) {
        for worker in &self.workers {
            let core = &worker.core;
            let left = [
                ("connections", core.conns.len()),
                ("sessions", core.sessions.len()),
                ("memberships", core.hub.edge().memberships()),
                ("local rooms", core.hub.edge().len()),
                ("rooms", core.hub.rooms_open()),
                ("users", core.hub.users()),
                ("window bytes", core.hub.window_bytes() as usize),
                ("timers", core.wheel.len()),
                ("credits", core.mesh.credits_out() as usize),
                ("outputs", core.out.len()),
                ("dirty", core.dirty.len()),
                ("actions", core.actions.len()),
                ("slow", core.slow.len()),
                ("short of credit", core.short_of_credit.len()),
                ("caught up", core.caught_up.len()),
                ("deferred", core.deferred.len()),
                ("speaking TLS", core.tls_open),
                ("waiting for TLS", core.tls_waiting.len()),
                ("takeover bytes", core.deflate.takeover_bytes()),
                ("slots", worker.engine.slots_open()),
                ("counted connections", core.addresses.connections()),
                ("sends", worker.engine.sends_in_flight()),
                ("buffers", worker.engine.buffers_out()),
            ];
            for (what, count) in left {
                assert_eq!(count, 0, "{what} are left on core {}", core.mesh.core());
            }
            assert!(core.memory.is_discharged(), "memory is still charged");
            assert_eq!((core.heads, core.refusals), (0, 0));
            assert_eq!(core.routes.connections(), 0);
            assert!(!core.mesh.is_waiting() && core.hub.edge().is_quiet());
            worker.engine.kernel().assert_quiet();
            let counters = &core.counters;
            assert_eq!(counters.accepted_total.get(), counters.closed_total.get());
            assert_eq!(counters.timers_open.get(), 0);
        }
    }
}

pub(super) fn at(ms: u64) -> Now {
    Now {
        mono: Instant::default().plus(Duration::from_millis(ms)),
        unix_ms: 1_700_000_000_000 + ms,
    }
}
