//! The state machine over the simulated network: whatever the kernel does, every byte arrives
//! once and in order, and nothing is left behind.

use std::{collections::HashMap, net::SocketAddr};

use super::*;
use crate::{
    base::{
        rng::Rng,
        segments::{Segment, SharedFrame},
    },
    engine::sim::{Faults, PeerId, PeerRead, SimConfig, SimKernel, replay::for_each_seed},
};

/// A random walk over everything that an engine's user and its peers may do.
struct World {
    rng: Rng,
    engine: Slots<SimKernel>,
    links: Vec<Link>,
    by_addr: HashMap<SocketAddr, usize>,
    by_conn: HashMap<ConnKey, usize>,
    dead: Vec<ConnKey>,
    held: Vec<Chunk>,
    accept_failed: bool,
    paused: bool,
    events: Vec<Event>,
}

/// What is known of one connection, from both ends.
struct Link {
    peer: PeerId,
    conn: Option<ConnKey>,
    receive: Mode,
    /// Counted in bytes of a stream whose content follows from its position.
    written: usize,
    received: usize,
    given: usize,
    taken: usize,
    read: usize,
    sending: bool,
    is_shut: bool,
    peer_ended: bool,
    peer_gone: bool,
    reset: bool,
    send_failed: bool,
    closing: Option<CloseMode>,
    is_closed: bool,
}

/// Enough for all bytes in flight through one buffer of the smallest size.
const POLLS_MAX: usize = 50_000;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mode {
    Off,
    On,
    Pausing,
    Into,
    Ended,
}

fn byte(link: usize, position: usize, is_up: bool) -> u8 {
    let x = (link as u64 * 31 + position as u64 * 2 + u64::from(is_up))
        .wrapping_mul(0x9e37_79b9_7f4a_7c15);
    (x >> 56) as u8
}

fn bytes(link: usize, from: usize, len: usize, is_up: bool) -> Vec<u8> {
    (from..from + len).map(|at| byte(link, at, is_up)).collect()
}

impl World {
    fn new(seed: u64, config: SimConfig) -> Self {
        let rng = Rng::new(seed);
        let engine = Slots::new(SimKernel::new(seed ^ 0x5eed, config), seed as u32);
        Self {
            rng,
            engine,
            links: Vec::new(),
            by_addr: HashMap::new(),
            by_conn: HashMap::new(),
            dead: Vec::new(),
            held: Vec::new(),
            accept_failed: false,
            paused: false,
            events: Vec::new(),
        }
    }

    fn connect(&mut self) -> usize {
        let peer = self.engine.kernel_mut().connect(0).unwrap();
        self.by_addr.insert(peer.addr(), self.links.len());
        self.links.push(Link {
            peer,
            conn: None,
            receive: Mode::Off,
            written: 0,
            received: 0,
            given: 0,
            taken: 0,
            read: 0,
            sending: false,
            is_shut: false,
            peer_ended: false,
            peer_gone: false,
            reset: false,
            send_failed: false,
            closing: None,
            is_closed: false,
        });
        self.links.len() - 1
    }

    fn poll(&mut self) {
        let max = 1 + self.rng.below(20) as usize;
        let mut events = std::mem::take(&mut self.events);
        let said = self.engine.poll(&mut events, max);
        assert_eq!(said, events.len());
        for event in events.drain(..) {
            self.on_event(event);
        }
        self.events = events;
        self.engine.submit();
    }

    fn link(&mut self, conn: ConnKey) -> (usize, &mut Link) {
        let n = *self
            .by_conn
            .get(&conn)
            .expect("an event of a connection that is gone");
        (n, &mut self.links[n])
    }

    fn on_event(&mut self, event: Event) {
        match event {
            Event::Accepted { conn, listener } => {
                assert_eq!(listener, 0);
                let addr = self.engine.peer_addr(conn).unwrap();
                let n = self.by_addr[&addr];
                assert_eq!(self.links[n].conn, None, "accepted twice");
                self.links[n].conn = Some(conn);
                assert_eq!(self.by_conn.insert(conn, n), None, "a key is used twice");
                assert!(!self.dead.contains(&conn), "a dead key is used again");
            }
            Event::AcceptFailed { errno, .. } => {
                assert_eq!(errno, libc::EMFILE);
                self.accept_failed = true;
            }
            Event::Received { conn, chunk } => {
                assert!(!chunk.is_empty());
                let got = self.engine.chunk_mut(&chunk).to_vec();
                let (n, link) = self.link(conn);
                assert!(link.closing.is_none(), "data after the close was asked for");
                assert!(
                    matches!(link.receive, Mode::On | Mode::Pausing),
                    "{:?}",
                    link.receive
                );
                assert_eq!(got, bytes(n, link.received, got.len(), true));
                link.received += got.len();
                self.held.push(chunk);
            }
            Event::ReceivedInto { conn, buf } => {
                let (n, link) = self.link(conn);
                assert!(link.closing.is_none());
                assert_eq!(link.receive, Mode::Into);
                link.receive = Mode::Off;
                let (before, got) = buf.split_at(3);
                assert_eq!(before, b"old");
                assert_eq!(got, bytes(n, link.received, got.len(), true));
                link.received += got.len();
            }
            Event::ReceivePaused { conn } => {
                let (_, link) = self.link(conn);
                if link.closing.is_none() {
                    assert_eq!(link.receive, Mode::Pausing);
                    link.receive = Mode::Off;
                }
            }
            Event::ReceiveEnded { conn, errno } => {
                let (_, link) = self.link(conn);
                assert!(link.closing.is_none());
                assert_ne!(link.receive, Mode::Ended, "ended twice");
                assert_ne!(link.receive, Mode::Off, "ended without a receive");
                match errno {
                    None => assert_eq!(link.received, link.written, "the end overtook data"),
                    Some(errno) => assert_eq!(errno, libc::ECONNRESET),
                }
                link.receive = Mode::Ended;
            }
            Event::Sent { conn, bytes, done } => {
                let (_, link) = self.link(conn);
                assert!(link.sending && link.closing.is_none());
                link.taken += bytes;
                assert_eq!(done.is_some(), link.taken == link.given);
                link.sending = done.is_none();
            }
            Event::SendFailed { conn, .. } => {
                let (_, link) = self.link(conn);
                assert!(link.sending && link.closing.is_none());
                assert!(
                    link.peer_gone || link.is_shut,
                    "a send failed for no reason"
                );
                link.sending = false;
                link.send_failed = true;
            }
            Event::Closed { conn } => {
                let (_, link) = self.link(conn);
                assert!(link.closing.is_some() && !link.is_closed);
                link.is_closed = true;
                self.by_conn.remove(&conn);
                self.dead.push(conn);
            }
        }
    }

    fn read(&mut self, n: usize, max: usize) -> PeerRead {
        let link = &mut self.links[n];
        let mut out = Vec::new();
        let read = self.engine.kernel_mut().peer_read(link.peer, &mut out, max);
        assert_eq!(out, bytes(n, link.read, out.len(), false));
        link.read += out.len();
        // Of a send in flight the kernel may have taken more than it has told.
        assert!(link.read <= link.given);
        link.reset |= read == PeerRead::Reset;
        read
    }

    fn send(&mut self, n: usize) {
        let link = &mut self.links[n];
        let Some(conn) = link.conn else { return };
        if link.sending || link.closing.is_some() || link.send_failed {
            return;
        }
        let mut batch = Box::<SendBatch>::default();
        for _ in 0..=self.rng.below(4) {
            let len = 1 + self.rng.below(3000) as usize;
            let mut run = bytes(n, link.given, len, false);
            link.given += len;
            if self.rng.one_in(2) {
                batch.push(Segment::Shared(SharedFrame::new(run.into())));
            } else {
                run.splice(0..0, *b"head");
                batch.push(Segment::Owned { buf: run, start: 4 });
            }
        }
        link.sending = true;
        self.engine.send(conn, batch);
    }

    fn write(&mut self, n: usize) {
        let len = 1 + self.rng.below(6000) as usize;
        let link = &mut self.links[n];
        let run = bytes(n, link.written, len, true);
        match self.engine.kernel_mut().peer_write(link.peer, &run) {
            Ok(written) => link.written += written,
            Err(_) => link.reset |= !link.peer_ended,
        }
    }

    fn close(&mut self, n: usize, mode: CloseMode) {
        let link = &mut self.links[n];
        if let Some(conn) = link.conn {
            self.engine.close(conn, mode);
            link.closing.get_or_insert(mode);
        }
    }

    fn step(&mut self) {
        if self.links.is_empty() || (self.links.len() < 12 && self.rng.one_in(20)) {
            self.connect();
        }
        if self.rng.one_in(30) {
            self.pause_accepting(!self.paused);
        }
        let n = self.rng.below(self.links.len() as u64) as usize;
        let conn = self.links[n].conn;
        let link = &mut self.links[n];
        match (self.rng.below(20), conn) {
            (0..4, _) => self.write(n),
            (4..7, _) => {
                let max = 1 + self.rng.below(5000) as usize;
                self.read(n, max);
            }
            (7..9, Some(conn)) => {
                self.engine.resume_receive(conn);
                if link.receive == Mode::Off && link.closing.is_none() {
                    link.receive = Mode::On;
                }
            }
            (9, Some(conn)) => {
                self.engine.pause_receive(conn);
                if link.receive == Mode::On && link.closing.is_none() {
                    link.receive = Mode::Pausing;
                }
            }
            (10, Some(conn)) if link.receive == Mode::Off => {
                let mut buf = Vec::with_capacity(3 + 1 + self.rng.below(9000) as usize);
                buf.extend_from_slice(b"old");
                let bytes_max = 1 + self.rng.below(9000) as usize;
                self.engine.receive_into(conn, buf, bytes_max);
                if link.closing.is_none() {
                    link.receive = Mode::Into;
                }
            }
            (11..13, Some(_)) => self.send(n),
            (13..17, _) if !self.held.is_empty() => {
                let at = self.rng.below(self.held.len() as u64) as usize;
                let chunk = self.held.swap_remove(at);
                self.engine.release(chunk);
            }
            (17, Some(conn)) if self.rng.one_in(8) => {
                let mode = match self.rng.below(3) {
                    0 if !link.sending => {
                        self.engine.shutdown_write(conn);
                        link.is_shut = true;
                        return;
                    }
                    1 => CloseMode::Reset,
                    _ => CloseMode::Orderly,
                };
                self.close(n, mode);
            }
            (18, _) if self.rng.one_in(8) => {
                let kernel = self.engine.kernel_mut();
                match self.rng.below(3) {
                    0 => kernel.peer_shutdown(link.peer),
                    1 => kernel.peer_close(link.peer),
                    _ => kernel.peer_reset(link.peer),
                }
                link.peer_gone |= kernel.is_gone(link.peer);
                link.peer_ended = true;
            }
            (19, _) => {
                if std::mem::take(&mut self.accept_failed) {
                    self.engine.resume_accept(0);
                }
                if let Some(dead) = self.dead.last().copied() {
                    self.use_dead_key(dead);
                }
            }
            _ => {}
        }
    }

    fn pause_accepting(&mut self, pause: bool) {
        self.paused = pause;
        if pause {
            self.engine.pause_accepting();
        } else {
            self.engine.resume_accepting();
        }
    }

    /// Nothing that is asked for under a key whose connection is gone reaches its successor.
    fn use_dead_key(&mut self, dead: ConnKey) {
        let mut batch = Box::<SendBatch>::default();
        batch.push(Segment::Owned {
            buf: b"to nobody".to_vec(),
            start: 0,
        });
        self.engine.send(dead, batch);
        self.engine.resume_receive(dead);
        self.engine.pause_receive(dead);
        self.engine.shutdown_write(dead);
        self.engine.close(dead, CloseMode::Reset);
        assert_eq!(self.engine.peer_addr(dead), None);
    }

    /// Peers read everything, the engine receives everything: what both sides have sent arrives.
    fn drain(&mut self) {
        self.pause_accepting(false);
        for _ in 0..POLLS_MAX {
            for chunk in std::mem::take(&mut self.held) {
                self.engine.release(chunk);
            }
            if std::mem::take(&mut self.accept_failed) {
                self.engine.resume_accept(0);
            }
            let mut waits = false;
            for n in 0..self.links.len() {
                self.read(n, usize::MAX);
                let link = &mut self.links[n];
                if link.closing.is_some() || link.peer_gone {
                    continue;
                }
                waits |= link.conn.is_none() || link.sending || link.received < link.written;
                if let Some(conn) = link.conn
                    && link.receive == Mode::Off
                {
                    link.receive = Mode::On;
                    self.engine.resume_receive(conn);
                }
                if !link.sending {
                    assert!(link.send_failed || link.read == link.given);
                }
            }
            if !waits {
                return;
            }
            self.poll();
        }
        panic!("bytes were lost, or something is stuck");
    }

    fn finish(&mut self) {
        for n in 0..self.links.len() {
            let mode = if self.rng.one_in(2) {
                CloseMode::Orderly
            } else {
                CloseMode::Reset
            };
            self.close(n, mode);
        }
        self.engine.stop_accepting();
        for _ in 0..POLLS_MAX {
            for chunk in std::mem::take(&mut self.held) {
                self.engine.release(chunk);
            }
            self.poll();
            for n in 0..self.links.len() {
                // One that was accepted at the very end.
                self.close(n, CloseMode::Orderly);
            }
            let done = self.engine.slots_open() == 0;
            if done
                && self
                    .links
                    .iter()
                    .all(|link| self.engine.kernel().is_closed(link.peer))
            {
                break;
            }
        }
        for _ in 0..200 {
            self.poll();
        }
        assert_eq!(self.engine.slots_open(), 0);
        assert_eq!(self.engine.sends_in_flight(), 0);
        assert_eq!(self.engine.buffers_out(), 0);
        assert!(self.by_conn.is_empty());
        self.engine.kernel().assert_quiet();
        for n in 0..self.links.len() {
            let end = self.read(n, usize::MAX);
            let end = if matches!(end, PeerRead::Data(_)) {
                self.read(n, 1)
            } else {
                end
            };
            let link = &self.links[n];
            match (end, link.closing) {
                (PeerRead::Ended, Some(_)) => {
                    assert!(link.read >= link.taken, "reported as sent, and lost");
                }
                (PeerRead::Reset, _) => {}
                other => panic!("a peer hangs: {other:?}"),
            }
        }
    }
}

#[test]
fn a_random_walk_loses_nothing_and_leaves_nothing_behind() {
    for_each_seed("engine::slots::tests::a_random_walk", 300, |seed| {
        let mut rng = Rng::new(seed);
        let config = SimConfig {
            listeners: 1,
            buffers: 1 + rng.below(6) as u16,
            buffer_bytes: 64 + rng.below(4000) as usize,
            socket_bytes: 500 + rng.below(20_000) as usize,
            faults: Faults {
                accept_abort: 0,
                ..Faults::draw(&mut rng)
            },
        };
        let mut world = World::new(seed, config);
        for _ in 0..400 {
            world.step();
            if world.rng.one_in(3) {
                world.poll();
            }
        }
        world.drain();
        world.finish();
    });
}

#[test]
fn while_accepting_is_paused_connections_wait_and_none_is_lost() {
    for_each_seed("engine::slots::tests::while_accepting", 100, |seed| {
        let mut rng = Rng::new(seed);
        let config = SimConfig {
            faults: Faults {
                accept_abort: 0,
                ..Faults::draw(&mut rng)
            },
            ..SimConfig::default()
        };
        let mut world = World::new(seed, config);
        for n in 0..20 {
            if world.rng.one_in(2) {
                world.connect();
            }
            world.pause_accepting(n % 2 == 0);
            if world.rng.one_in(3) {
                world.poll();
            }
        }
        world.pause_accepting(true);
        // The cancel may come late, and take connections with it.
        for _ in 0..60 {
            world.poll();
        }
        let late = world.connect();
        for _ in 0..60 {
            world.poll();
        }
        assert_eq!(world.links[late].conn, None, "accepted during a pause");
        world.engine.resume_accept(0);
        for _ in 0..60 {
            world.poll();
        }
        assert_eq!(
            world.links[late].conn, None,
            "a failure's end ended the pause"
        );
        // Resumed, everybody who waits is accepted; stopped, nobody is left hanging.
        if world.rng.one_in(2) {
            world.drain();
            assert!(world.links.iter().all(|link| link.conn.is_some()));
        }
        world.finish();
    });
}

#[test]
fn unsent_bytes_are_those_that_the_peer_has_not_read() {
    let mut world = World::new(1, SimConfig::default());
    let n = world.connect();
    while world.links[n].conn.is_none() {
        world.poll();
    }
    let conn = world.links[n].conn.unwrap();
    world.send(n);
    while world.links[n].sending {
        world.poll();
    }
    assert_eq!(world.engine.unsent_bytes(conn), world.links[n].given);
    world.drain();
    assert_eq!(world.engine.unsent_bytes(conn), 0);
    world.finish();
    assert_eq!(world.engine.unsent_bytes(conn), 0, "a dead key has none");
}

#[test]
fn starved_receives_get_buffers_in_order_of_arrival() {
    for_each_seed("engine::slots::tests::starved", 20, |seed| {
        let config = SimConfig {
            buffers: 1,
            buffer_bytes: 8192,
            ..SimConfig::default()
        };
        let mut world = World::new(seed, config);
        for n in 0..5 {
            world.connect();
            while world.links[n].conn.is_none() {
                world.poll();
            }
            world.links[n].receive = Mode::On;
            let conn = world.links[n].conn.unwrap();
            world.engine.resume_receive(conn);
            world.write(n);
            // The first takes the only buffer, the others find none.
            for _ in 0..5 {
                world.poll();
            }
        }
        assert!(world.engine.enobufs() >= 4);
        for n in 1..5 {
            assert_eq!(world.links[n].received, 0);
            let chunk = world.held.pop().unwrap();
            world.engine.release(chunk);
            while world.held.is_empty() {
                world.poll();
            }
            assert!(world.links[n].received > 0, "{n} was passed over");
        }
        world.drain();
        world.finish();
    });
}

#[test]
fn a_late_completion_never_reaches_the_slots_next_tenant() {
    for_each_seed("engine::slots::tests::a_late_completion", 100, |seed| {
        let faults = Faults {
            delay_max: 5,
            cancel_delay_max: 8,
            late_completion: 2,
            split: 2,
            ..Faults::default()
        };
        let config = SimConfig {
            faults,
            ..SimConfig::default()
        };
        let mut world = World::new(seed, config);
        for n in 0..8 {
            world.connect();
            while world.links[n].conn.is_none() {
                world.poll();
            }
            world.links[n].receive = Mode::On;
            let conn = world.links[n].conn.unwrap();
            assert_eq!(conn.index, 0, "the slot is used again");
            world.engine.resume_receive(conn);
            world.write(n);
            world.send(n);
            for _ in 0..world.rng.below(6) {
                world.poll();
            }
            // With both directions in flight; nothing of it may reach the next.
            world.close(n, CloseMode::Orderly);
            while world.engine.slots_open() > 0 {
                for chunk in std::mem::take(&mut world.held) {
                    world.engine.release(chunk);
                }
                world.poll();
            }
        }
        world.finish();
    });
}
