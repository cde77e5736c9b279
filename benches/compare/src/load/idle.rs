//! Many connections that do nothing: what each of them costs the server in memory.

use std::{
    collections::VecDeque,
    io::Write,
    net::TcpStream,
    time::{Duration, Instant},
};

use anyhow::{Context, bail, ensure};
use memchr::memmem;
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags};
use serde_json::{Value, json};

use crate::{
    connect::{self, Target},
    frame::{self, BINARY, CLOSE, Frame, PING, PONG, TEXT},
    server::{Cpu, Memory, descriptors},
    socket::Scratch,
};

/// How many connections, and what they do once.
#[derive(Debug)]
pub(crate) struct Load {
    pub(crate) connections: u32,
    pub(crate) rate: u32,
    pub(crate) join: bool,
    pub(crate) hold: Option<Duration>,
}

/// Opens the connections, waits until the server's memory rests, and checks that all of them live.
pub(crate) fn run(target: &Target, pid: i32, load: &Load) -> anyhow::Result<Value> {
    let before = Memory::of(pid)?;
    let descriptors_before = descriptors(pid)?;
    let mut crowd = Crowd {
        epoll: Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?,
        clients: Vec::with_capacity(load.connections as usize),
        scratch: Scratch::new(),
        join: load.join,
        ready: 0,
        alive: 0,
        messages: 0,
        pings: 0,
        growth: Vec::new(),
    };
    let begin = Instant::now();
    crowd.grow(target, pid, load)?;
    let opened_s = begin.elapsed().as_secs_f64();
    let after = crowd.rest(pid)?;
    let descriptors_after = descriptors(pid)?;
    ensure!(
        descriptors_after >= descriptors_before + load.connections as usize,
        "the server holds {descriptors_after} descriptors, too few for the connections"
    );
    let settled_s = begin.elapsed().as_secs_f64() - opened_s;
    let held = match load.hold {
        Some(hold) => crowd.hold(pid, hold)?,
        None => Value::Null,
    };
    let pings = crowd.pings;
    crowd.check_alive()?;
    let growth = after.anonymous.saturating_sub(before.anonymous);
    Ok(json!({
        "mode": "idle",
        "connections": load.connections,
        "join": load.join,
        "opened_s": opened_s,
        "settled_s": settled_s,
        "messages_received": crowd.messages,
        "pings_answered": pings,
        "before": before.json(),
        "after": after.json(),
        "growth": crowd.growth,
        "held": held,
        "user_bytes_per_connection": growth as f64 / f64::from(load.connections),
    }))
}

struct Crowd {
    epoll: Epoll,
    clients: Vec<Client>,
    scratch: Scratch,
    join: bool,
    /// Clients that have got as far as they shall.
    ready: usize,
    /// Clients that answered the last ping.
    alive: usize,
    messages: u64,
    pings: u64,
    /// Clients that were ready, and the server's anonymous memory then.
    growth: Vec<Value>,
}

struct Client {
    stream: TcpStream,
    carry: Vec<u8>,
    stage: Stage,
}

/// ```text
/// Upgrading ──101────────────────────────────────▶ Ready ──ping──▶ Pinged ──pong──▶ Alive
///     └──101, with --join──▶ Greeting ──▶ Joining ──▲
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    Upgrading,
    /// Waits for `connected`.
    Greeting,
    /// Waits for the join's `ok`.
    Joining,
    Ready,
    Pinged,
    Alive,
}

impl Crowd {
    fn grow(&mut self, target: &Target, pid: i32, load: &Load) -> anyhow::Result<()> {
        let begin = Instant::now();
        let count = load.connections as usize;
        let deadline = begin
            + Duration::from_secs_f64(f64::from(load.connections) / f64::from(load.rate))
            + GROW_GRACE;
        while self.ready < count {
            let now = Instant::now();
            ensure!(
                now < deadline,
                "only {} of {count} connections were ready in time",
                self.ready
            );
            let allowed = (now - begin).as_secs_f64() * f64::from(load.rate);
            while self.clients.len() < count
                && self.clients.len() - self.ready < OPENING_MAX
                && (self.clients.len() as f64) < allowed
            {
                self.open(target)?;
            }
            self.turn(1)?;
            if self.ready >= (self.growth.len() + 1) * GROWTH_STEP {
                let memory = Memory::of(pid)?;
                self.growth.push(json!([self.ready, memory.anonymous]));
            }
        }
        Ok(())
    }

    fn open(&mut self, target: &Target) -> anyhow::Result<()> {
        let id = self.clients.len();
        let stream = target.open().with_context(|| format!("connection {id}"))?;
        self.epoll
            .add(&stream, EpollEvent::new(EpollFlags::EPOLLIN, id as u64))?;
        self.clients.push(Client {
            stream,
            carry: Vec::new(),
            stage: Stage::Upgrading,
        });
        Ok(())
    }

    /// Waits until the server's memory no longer changes.
    fn rest(&mut self, pid: i32) -> anyhow::Result<Memory> {
        let deadline = Instant::now() + REST_TIMEOUT;
        let mut samples = VecDeque::with_capacity(REST_SAMPLES);
        loop {
            let next = Instant::now() + SAMPLE_INTERVAL;
            while Instant::now() < next {
                self.turn(20)?;
            }
            let memory = Memory::of(pid)?;
            if samples.len() == REST_SAMPLES {
                samples.pop_front();
            }
            samples.push_back(memory.anonymous);
            let low = samples.iter().copied().min().unwrap_or(0);
            let high = samples.iter().copied().max().unwrap_or(0);
            if samples.len() == REST_SAMPLES && high - low <= REST_BYTES {
                return Ok(memory);
            }
            ensure!(
                Instant::now() < deadline,
                "the server's memory did not come to rest: {low} to {high} bytes in the last samples"
            );
        }
    }

    /// Does nothing but answer pings for so long, and says what that cost the server.
    fn hold(&mut self, pid: i32, hold: Duration) -> anyhow::Result<Value> {
        let (before, pings) = (Cpu::of(pid)?, self.pings);
        let begin = Instant::now();
        while begin.elapsed() < hold {
            self.turn(20)?;
        }
        let seconds = begin.elapsed().as_secs_f64();
        let after = Cpu::of(pid)?;
        let used = after.total.saturating_sub(before.total).as_secs_f64();
        Ok(json!({
            "seconds": seconds,
            "pings_answered": self.pings - pings,
            "server": after.since(&before),
            "core_percent": used / seconds * 100.0,
        }))
    }

    /// Pings every client's connection and waits for the pongs.
    fn check_alive(&mut self) -> anyhow::Result<()> {
        for id in 0..self.clients.len() {
            let client = &mut self.clients[id];
            client.send(PING, &(id as u64).to_le_bytes())?;
            client.stage = Stage::Pinged;
            if id % OPENING_MAX == 0 {
                self.turn(0)?;
            }
        }
        let deadline = Instant::now() + ALIVE_TIMEOUT;
        while self.alive < self.clients.len() {
            ensure!(
                Instant::now() < deadline,
                "{} connections did not answer a ping",
                self.clients.len() - self.alive
            );
            self.turn(20)?;
        }
        Ok(())
    }

    fn turn(&mut self, wait_ms: u16) -> anyhow::Result<()> {
        let mut events = [EpollEvent::empty(); TURN_EVENTS_MAX];
        let count = match self.epoll.wait(&mut events, wait_ms) {
            Ok(count) => count,
            Err(nix::errno::Errno::EINTR) => 0,
            Err(e) => return Err(e).context("waiting for events"),
        };
        for event in &events[..count] {
            let id = event.data() as usize;
            self.handle_ready(id)
                .with_context(|| format!("connection {id}"))?;
        }
        Ok(())
    }

    fn handle_ready(&mut self, id: usize) -> anyhow::Result<()> {
        let client = &mut self.clients[id];
        let Some(mut rest) = self
            .scratch
            .receive(&mut client.stream, &mut client.carry)?
        else {
            return Ok(());
        };
        if client.stage == Stage::Upgrading {
            let Some(len) = connect::check_response(rest)? else {
                client.carry.extend_from_slice(rest);
                return Ok(());
            };
            rest = &rest[len..];
            client.stage = if self.join {
                Stage::Greeting
            } else {
                Stage::Ready
            };
            self.ready += usize::from(client.stage == Stage::Ready);
        }
        while let Some(frame) = frame::parse(rest, MESSAGE_BYTES_MAX)? {
            rest = &rest[frame.bytes..];
            let stage = client.stage;
            match frame.opcode {
                TEXT | BINARY => self.messages += 1,
                PING => self.pings += 1,
                _ => {}
            }
            client.handle_frame(id, &frame)?;
            self.ready += usize::from(stage != client.stage && client.stage == Stage::Ready);
            self.alive += usize::from(stage != client.stage && client.stage == Stage::Alive);
        }
        if !rest.is_empty() {
            client.carry.extend_from_slice(rest);
        } else if client.carry.capacity() > 0 {
            client.carry = Vec::new();
        }
        Ok(())
    }
}

impl Client {
    fn handle_frame(&mut self, id: usize, frame: &Frame<'_>) -> anyhow::Result<()> {
        match (frame.opcode, self.stage) {
            (TEXT, _) if has(frame.payload, br#""type":"error""#) => {
                bail!("the server answered {}", frame.payload.escape_ascii())
            }
            (TEXT, Stage::Greeting) if has(frame.payload, br#""type":"connected""#) => {
                let room = id / ROOM_CLIENTS;
                // With an `id`, the gateway tells that the client is in.
                let join = format!(r#"{{"type":"join","room":"room-{room}","id":"join"}}"#);
                self.send(TEXT, join.as_bytes())?;
                self.stage = Stage::Joining;
            }
            (TEXT, Stage::Joining) if has(frame.payload, br#""type":"ok""#) => {
                self.stage = Stage::Ready;
            }
            // Others who join the room are announced.
            (TEXT | BINARY, _) => {}
            (PING, _) => self.send(PONG, frame.payload)?,
            (PONG, Stage::Pinged) => {
                ensure!(
                    frame.payload == (id as u64).to_le_bytes(),
                    "a pong for another ping"
                );
                self.stage = Stage::Alive;
            }
            (CLOSE, _) => bail!("the server closed: {}", frame.payload.escape_ascii()),
            (opcode, stage) => bail!("opcode {opcode:#x} while {stage:?}"),
        }
        Ok(())
    }

    /// Sends a short frame. The socket is empty at these moments, so it takes the frame whole.
    fn send(&mut self, opcode: u8, payload: &[u8]) -> anyhow::Result<()> {
        let mut bytes = Vec::new();
        frame::write_masked(&mut bytes, opcode, MASK, payload);
        let n = self.stream.write(&bytes).context("sending")?;
        ensure!(
            n == bytes.len(),
            "the socket took {n} of {} bytes",
            bytes.len()
        );
        Ok(())
    }
}

fn has(payload: &[u8], part: &[u8]) -> bool {
    memmem::find(payload, part).is_some()
}

const MASK: [u8; 4] = [0x5A, 0xC3, 0x17, 0xE9];
const TURN_EVENTS_MAX: usize = 256;
/// Connections that are not ready yet, at a time.
const OPENING_MAX: usize = 128;
/// The server's memory is noted each time this many more connections are ready.
const GROWTH_STEP: usize = 1000;
/// Time beyond what the rate allows.
const GROW_GRACE: Duration = Duration::from_secs(30);
const MESSAGE_BYTES_MAX: usize = 64 * 1024;
/// Members of each room.
const ROOM_CLIENTS: usize = 10;
const SAMPLE_INTERVAL: Duration = Duration::from_millis(250);
/// Memory rests if this many samples differ by no more than [`REST_BYTES`].
const REST_SAMPLES: usize = 9;
const REST_BYTES: u64 = 64 * 1024;
const REST_TIMEOUT: Duration = Duration::from_secs(30);
const ALIVE_TIMEOUT: Duration = Duration::from_secs(10);
