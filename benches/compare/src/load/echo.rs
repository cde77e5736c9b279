//! Closed-loop echo: every connection keeps a fixed number of messages in flight.
//!
//! A message holds its number (8 bytes), its connection's (4) and a filler that all share, so each
//! echo can be told from every other one. All frames are built before the load starts. A
//! connection has as many as may be in flight, and sends one again, with the next number, only
//! once its echo is back.

use std::{
    io::{self, IoSlice, Write},
    net::TcpStream,
    time::{Duration, Instant},
};

use anyhow::{Context, bail, ensure};
use hdrhistogram::Histogram;
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags};
use serde_json::{Value, json};

use crate::{
    connect::Target,
    frame::{self, BINARY, CLOSE, PING},
    server::{Cpu, ms},
    socket::{Scratch, is_retry},
};

/// What to send, and for how long.
#[derive(Debug)]
pub(crate) struct Load {
    pub(crate) connections: u32,
    pub(crate) depth: usize,
    pub(crate) payload_bytes: usize,
    pub(crate) warm_up: Duration,
    pub(crate) duration: Duration,
}

/// Loads the server and answers the figures of the measured time.
pub(crate) fn run(target: &Target, pid: i32, load: &Load) -> anyhow::Result<Value> {
    let filler = filler(load.payload_bytes - TAG_BYTES);
    let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?;
    let mut connections = Vec::with_capacity(load.connections as usize);
    for id in 0..load.connections {
        let (stream, early) = target
            .open_and_wait()
            .with_context(|| format!("connection {id}"))?;
        epoll.add(&stream, EpollEvent::new(EpollFlags::EPOLLIN, id.into()))?;
        connections.push(Connection::new(id, stream, early, &filler, load.depth));
    }
    let mut generator = Generator {
        epoll,
        connections,
        filler,
        scratch: Scratch::new(),
        tally: Tally {
            echoes: 0,
            in_flight: 0,
            latency: Histogram::new_with_bounds(1, LATENCY_NS_MAX, 3)?,
            is_measuring: false,
            is_sending: true,
        },
    };
    generator.start()?;
    generator.go_on_for(load.warm_up)?;

    let (server_before, own_before) = (Cpu::of(pid)?, Cpu::of_self()?);
    let (begin, echoes_before) = (Instant::now(), generator.tally.echoes);
    generator.tally.is_measuring = true;
    generator.go_on_for(load.duration)?;
    let (server_after, own_after) = (Cpu::of(pid)?, Cpu::of_self()?);
    let elapsed = begin.elapsed();
    generator.tally.is_measuring = false;
    let messages = generator.tally.echoes - echoes_before;

    generator.drain()?;
    ensure!(messages > 0, "no message came back in the measured time");
    let per_message = |used: Duration| used.as_secs_f64() * 1e6 / messages as f64;
    let latency = &generator.tally.latency;
    let us = |quantile: f64| latency.value_at_quantile(quantile) as f64 / 1e3;
    Ok(json!({
        "mode": "echo",
        "connections": load.connections,
        "depth": load.depth,
        "payload_bytes": load.payload_bytes,
        "measured_s": elapsed.as_secs_f64(),
        "messages": messages,
        "checked": generator.tally.echoes,
        "rate_per_s": messages as f64 / elapsed.as_secs_f64(),
        "cpu_us_per_message": per_message(server_after.total.saturating_sub(server_before.total)),
        "generator_cpu_us_per_message": per_message(own_after.total.saturating_sub(own_before.total)),
        "latency_us": { "p50": us(0.5), "p99": us(0.99), "p99_9": us(0.999), "max": us(1.0) },
        "elapsed_ms": ms(elapsed),
        "server": server_after.since(&server_before),
        "generator": own_after.since(&own_before),
    }))
}

struct Generator {
    epoll: Epoll,
    connections: Vec<Connection>,
    filler: Vec<u8>,
    scratch: Scratch,
    tally: Tally,
}

struct Tally {
    echoes: u64,
    in_flight: u64,
    latency: Histogram<u64>,
    is_measuring: bool,
    is_sending: bool,
}

impl Generator {
    fn start(&mut self) -> anyhow::Result<()> {
        for connection in &mut self.connections {
            self.tally.in_flight += connection.queue_free_slots(Instant::now());
            connection.flush(&self.epoll)?;
        }
        Ok(())
    }

    fn go_on_for(&mut self, time: Duration) -> anyhow::Result<()> {
        let end = Instant::now() + time;
        let mut last = (Instant::now(), self.tally.echoes);
        loop {
            let now = Instant::now();
            if now >= end {
                return Ok(());
            }
            if self.tally.echoes != last.1 {
                last = (now, self.tally.echoes);
            }
            ensure!(
                now - last.0 < SILENCE_MAX,
                "no echo came for {SILENCE_MAX:?}"
            );
            self.turn()?;
        }
    }

    /// Sends no more, and waits for what is still in flight.
    fn drain(&mut self) -> anyhow::Result<()> {
        self.tally.is_sending = false;
        let deadline = Instant::now() + SILENCE_MAX;
        while self.tally.in_flight > 0 {
            ensure!(
                Instant::now() < deadline,
                "{} messages were lost: their echoes did not come within {SILENCE_MAX:?}",
                self.tally.in_flight
            );
            self.turn()?;
        }
        Ok(())
    }

    fn turn(&mut self) -> anyhow::Result<()> {
        let mut events = [EpollEvent::empty(); TURN_EVENTS_MAX];
        let count = match self.epoll.wait(&mut events, WAIT_MS) {
            Ok(count) => count,
            Err(nix::errno::Errno::EINTR) => 0,
            Err(e) => return Err(e).context("waiting for events"),
        };
        for event in &events[..count] {
            let id = event.data() as usize;
            let connection = &mut self.connections[id];
            connection
                .handle_ready(
                    &self.epoll,
                    &mut self.scratch,
                    &self.filler,
                    &mut self.tally,
                )
                .with_context(|| format!("connection {id}"))?;
        }
        Ok(())
    }
}

struct Connection {
    id: u32,
    stream: TcpStream,
    depth: usize,
    frame_bytes: usize,
    /// Where the payload begins in each frame.
    payload_at: usize,
    /// `depth` frames, one behind the other. Message `n` is frame `n % depth`.
    frames: Box<[u8]>,
    queued_at: Box<[Instant]>,
    /// Messages put into `frames` so far, and those that came back.
    queued: u64,
    echoed: u64,
    /// Bytes of messages that were sent so far.
    sent_bytes: u64,
    /// Answers to pings, sent between two messages.
    control: Vec<u8>,
    /// The beginning of a frame that has not arrived whole.
    carry: Vec<u8>,
    waits_to_write: bool,
}

impl Connection {
    fn new(id: u32, stream: TcpStream, early: Vec<u8>, filler: &[u8], depth: usize) -> Self {
        let mut payload = vec![0; TAG_BYTES];
        payload[8..].copy_from_slice(&id.to_le_bytes());
        payload.extend_from_slice(filler);
        let mut frames = Vec::new();
        let payload_at = frame::write_masked(&mut frames, BINARY, MASK, &payload);
        let frame_bytes = frames.len();
        let frames = frames.repeat(depth);
        let mut carry = early;
        carry.reserve(frame_bytes + frame::SERVER_HEADER_BYTES_MAX);
        Self {
            id,
            stream,
            depth,
            frame_bytes,
            payload_at,
            frames: frames.into_boxed_slice(),
            queued_at: vec![Instant::now(); depth].into_boxed_slice(),
            queued: 0,
            echoed: 0,
            sent_bytes: 0,
            control: Vec::new(),
            carry,
            waits_to_write: false,
        }
    }

    fn handle_ready(
        &mut self,
        epoll: &Epoll,
        scratch: &mut Scratch,
        filler: &[u8],
        tally: &mut Tally,
    ) -> anyhow::Result<()> {
        if let Some(bytes) = scratch.receive(&mut self.stream, &mut self.carry)? {
            let now = Instant::now();
            self.handle_bytes(bytes, filler, tally, now)?;
            if tally.is_sending {
                tally.in_flight += self.queue_free_slots(now);
            }
        }
        self.flush(epoll)
    }

    fn handle_bytes(
        &mut self,
        bytes: &[u8],
        filler: &[u8],
        tally: &mut Tally,
        now: Instant,
    ) -> anyhow::Result<()> {
        let mut rest = bytes;
        while let Some(frame) = frame::parse(rest, filler.len() + TAG_BYTES)? {
            match frame.opcode {
                BINARY => {
                    self.check(frame.payload, filler)?;
                    let slot = (self.echoed % self.depth as u64) as usize;
                    if tally.is_measuring {
                        let nanos = (now - self.queued_at[slot]).as_nanos() as u64;
                        tally.latency.saturating_record(nanos);
                    }
                    self.echoed += 1;
                    tally.echoes += 1;
                    tally.in_flight -= 1;
                }
                PING => {
                    ensure!(
                        self.control.len() <= CONTROL_QUEUE_BYTES_MAX,
                        "too many pings"
                    );
                    frame::write_masked(&mut self.control, frame::PONG, MASK, frame.payload);
                }
                CLOSE => bail!(
                    "the server closed: {:?}",
                    frame.payload.escape_ascii().to_string()
                ),
                opcode => bail!("frame with opcode {opcode:#x}, which nobody sent"),
            }
            rest = &rest[frame.bytes..];
        }
        self.carry.extend_from_slice(rest);
        Ok(())
    }

    /// Whether this is the oldest message in flight, whole and unchanged.
    fn check(&self, payload: &[u8], filler: &[u8]) -> anyhow::Result<()> {
        ensure!(
            self.echoed < self.queued,
            "an echo of a message that was not sent"
        );
        ensure!(
            payload.len() == TAG_BYTES + filler.len(),
            "an echo of {} bytes, {} were sent",
            payload.len(),
            TAG_BYTES + filler.len()
        );
        let (tag, rest) = payload.split_at(TAG_BYTES);
        let (number, id) = tag.split_at(8);
        ensure!(
            number == self.echoed.to_le_bytes(),
            "wrong order: message {} was due, its echo says {:?}",
            self.echoed,
            number
        );
        ensure!(
            id == self.id.to_le_bytes(),
            "an echo of another connection's message"
        );
        ensure!(rest == filler, "message {} came back changed", self.echoed);
        Ok(())
    }

    /// Numbers new messages until `depth` are in flight; answers how many.
    fn queue_free_slots(&mut self, now: Instant) -> u64 {
        let before = self.queued;
        while self.queued - self.echoed < self.depth as u64 {
            let slot = (self.queued % self.depth as u64) as usize;
            let at = slot * self.frame_bytes + self.payload_at;
            let number = self.queued.to_le_bytes();
            for (i, byte) in number.iter().enumerate() {
                self.frames[at + i] = byte ^ MASK[i % 4];
            }
            self.queued_at[slot] = now;
            self.queued += 1;
        }
        self.queued - before
    }

    /// Sends what is queued, as far as the socket takes it.
    fn flush(&mut self, epoll: &Epoll) -> anyhow::Result<()> {
        let is_blocked = loop {
            match self.write_some() {
                Ok(0) => break false,
                Ok(_) => {}
                Err(e) if is_retry(&e) => break true,
                Err(e) => return Err(e).context("sending"),
            }
        };
        if is_blocked != self.waits_to_write {
            self.waits_to_write = is_blocked;
            let mut flags = EpollFlags::EPOLLIN;
            flags.set(EpollFlags::EPOLLOUT, is_blocked);
            epoll.modify(&self.stream, &mut EpollEvent::new(flags, self.id.into()))?;
        }
        Ok(())
    }

    /// One send; zero bytes if there is nothing left.
    fn write_some(&mut self) -> io::Result<usize> {
        let frame_bytes = self.frame_bytes as u64;
        let is_between_frames = self.sent_bytes.is_multiple_of(frame_bytes);
        if !self.control.is_empty() && is_between_frames {
            let n = self.stream.write(&self.control)?;
            self.control.drain(..n);
            // Rest of a control frame: `control` stays non-empty, so it goes before the next message.
            return Ok(n);
        }
        let end = if self.control.is_empty() {
            self.queued * frame_bytes
        } else {
            self.sent_bytes.next_multiple_of(frame_bytes)
        };
        let pending = (end - self.sent_bytes) as usize;
        if pending == 0 {
            return Ok(0);
        }
        let begin = (self.sent_bytes % self.frames.len() as u64) as usize;
        let tail = pending.min(self.frames.len() - begin);
        let n = if tail == pending {
            self.stream.write(&self.frames[begin..begin + tail])?
        } else {
            let (front, back) = (&self.frames[..pending - tail], &self.frames[begin..]);
            self.stream
                .write_vectored(&[IoSlice::new(back), IoSlice::new(front)])?
        };
        self.sent_bytes += n as u64;
        Ok(n)
    }
}

/// Bytes without a pattern that a lazy copy could hit by chance (xorshift).
fn filler(len: usize) -> Vec<u8> {
    let mut state = 0x9E37_79B9_7F4A_7C15_u64;
    std::iter::repeat_with(|| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 32) as u8
    })
    .take(len)
    .collect()
}

/// A message's number and its connection's.
const TAG_BYTES: usize = 12;
/// The same for all frames: no server can gain by it, and they can be built beforehand.
const MASK: [u8; 4] = [0x5A, 0xC3, 0x17, 0xE9];
const TURN_EVENTS_MAX: usize = 256;
const WAIT_MS: u16 = 50;
/// How long an echo may take before it counts as lost.
const SILENCE_MAX: Duration = Duration::from_secs(5);
const LATENCY_NS_MAX: u64 = 60_000_000_000;
const CONTROL_QUEUE_BYTES_MAX: usize = 4096;

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;

    fn connection() -> (Connection, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let stream = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (peer, _) = listener.accept().unwrap();
        (Connection::new(7, stream, Vec::new(), &filler(8), 2), peer)
    }

    fn echo(number: u64, id: u32) -> Vec<u8> {
        let mut bytes = vec![0x82, 20];
        bytes.extend_from_slice(&number.to_le_bytes());
        bytes.extend_from_slice(&id.to_le_bytes());
        bytes.extend_from_slice(&filler(8));
        bytes
    }

    fn tally() -> Tally {
        Tally {
            echoes: 0,
            in_flight: 2,
            latency: Histogram::new_with_bounds(1, LATENCY_NS_MAX, 3).unwrap(),
            is_measuring: true,
            is_sending: true,
        }
    }

    #[test]
    fn takes_right_echoes_and_nothing_else() {
        let right = [echo(0, 7), echo(1, 7)].concat();
        let mut changed = echo(0, 7);
        changed[17] ^= 1;
        let cases = [
            (right.clone(), ""),
            (echo(1, 7), "wrong order"),
            (echo(0, 8), "another connection"),
            (changed, "changed"),
            ([right, echo(2, 7)].concat(), "not sent"),
            (vec![0x82, 2, 0, 0], "2 bytes"),
            (vec![0x88, 2, 3, 232], "closed"),
        ];
        for (bytes, expected) in cases {
            for cut in 0..=bytes.len() {
                let (mut connection, _peer) = connection();
                connection.queue_free_slots(Instant::now());
                let mut tally = tally();
                let mut feed = |part: &[u8]| {
                    let whole = [std::mem::take(&mut connection.carry), part.to_vec()].concat();
                    connection.handle_bytes(&whole, &filler(8), &mut tally, Instant::now())
                };
                let result = feed(&bytes[..cut]).and_then(|()| feed(&bytes[cut..]));
                match result {
                    Ok(()) => assert!(expected.is_empty(), "{expected} was not seen"),
                    Err(e) => assert!(
                        !expected.is_empty() && e.to_string().contains(expected),
                        "{e}"
                    ),
                }
            }
        }
    }
}
