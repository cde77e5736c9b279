//! A deterministic network in place of the kernel, for tests of everything above it.
//!
//! [`SimKernel`] completes operations as io_uring may: late, out of order between connections,
//! in part, or with an error; what exactly follows from a seed. The clients' ends of its
//! connections are the tests' own ([`PeerId`]). Its rules, which it checks as it goes:
//!
//! - What a send was reported to take is what the peer reads, in order, unless a reset cuts it
//!   short. What the peer wrote is received in order, once, or dropped with the connection.
//! - A cancel may come too late: the operation then ends by itself, and brings data before.
//! - At most one receive and one send are in flight on a socket, none when it is closed, and
//!   every shared buffer comes back exactly once. Whoever breaks this panics.

mod peer;
pub mod replay;
mod steps;
mod stream;

use std::{
    collections::{HashMap, VecDeque},
    net::SocketAddr,
};

pub use self::peer::{Broken, PeerId, PeerRead};
use self::stream::{Pending, ReceiveKind, Sending, SocketState, Stream};
use super::{
    Chunk, Lender, ListenerId,
    buffers::Pool,
    slots::{Completion, Kernel, Tag},
};
use crate::base::{rng::Rng, segments::SendBatch, slab::Key};

/// How the simulated network is made.
#[derive(Clone, Debug)]
pub struct SimConfig {
    /// Listeners, all accepting from the start.
    pub listeners: ListenerId,
    /// Shared receive buffers.
    pub buffers: u16,
    /// Bytes of each of them.
    pub buffer_bytes: usize,
    /// Bytes that a socket holds in each direction.
    pub socket_bytes: usize,
    /// What goes wrong.
    pub faults: Faults,
}

/// What goes wrong, and how often: each number is the `n` of "once in `n` times"; 0 is never.
#[derive(Clone, Debug, Default)]
pub struct Faults {
    /// Entries that an operation waits between steps, at most.
    pub delay_max: u64,
    /// Entries before a cancel takes hold, at most.
    pub cancel_delay_max: u64,
    /// Finished work stays unseen for another entry.
    pub late_completion: u64,
    /// A receive takes a random part of what is there.
    pub split: u64,
    /// A multishot receive or accept ends although it brought something.
    pub early_end: u64,
    /// A send takes a random part, and ends.
    pub short_send: u64,
    /// A receive finds no buffer although there is one.
    pub no_buffer: u64,
    /// An accept fails for want of descriptors.
    pub accept_limit: u64,
    /// A connection is gone before it is accepted.
    pub accept_abort: u64,
}

/// What happened, so that a test can tell that it met what it is about.
#[derive(Clone, Copy, Debug, Default)]
#[allow(missing_docs, reason = "named as the faults they count")]
pub struct SimStats {
    pub enters: u64,
    pub early_ends: u64,
    pub short_sends: u64,
    pub no_buffers: u64,
    pub cancels: u64,
    pub late_cancels: u64,
    pub accept_errors: u64,
}

/// A simulated kernel with its network.
#[derive(Debug)]
pub struct SimKernel {
    rng: Rng,
    config: SimConfig,
    pool: Pool,
    listeners: Vec<Listener>,
    streams: Vec<Stream>,
    /// Streams that the gateway can still do something with.
    live: Vec<usize>,
    /// Whose socket the gateway calls by which name.
    by_tag: HashMap<(u32, u32), usize>,
    submissions: Vec<Submission>,
    /// Finished work that is not visible yet, in order.
    posted: VecDeque<Completion<SimSocket>>,
    ready: VecDeque<Completion<SimSocket>>,
    stats: SimStats,
}

/// A connected socket of the simulated network.
#[derive(Debug)]
pub struct SimSocket(usize);

#[derive(Debug)]
struct Listener {
    backlog: VecDeque<usize>,
    accept: Option<Pending<()>>,
    /// An accept was asked for or is in flight: its last completion was not seen.
    owes_accept: bool,
    is_stopping: bool,
    is_closed: bool,
}

#[derive(Debug)]
enum Submission {
    Accept(ListenerId),
    Receive(usize, Tag, ReceiveKind),
    Send(usize, Tag, Box<SendBatch>),
    CancelReceive(usize),
    CancelSend(usize),
    Close(usize, Tag),
    CancelAccept(ListenerId),
    StopListener(ListenerId),
}

impl Faults {
    /// A mix that follows from `rng`: some seeds are calm, some are nothing but trouble.
    pub fn draw(rng: &mut Rng) -> Self {
        let mut often = |most: u64| {
            if rng.one_in(3) {
                0
            } else {
                2 + rng.below(most)
            }
        };
        Self {
            late_completion: often(6),
            split: often(4),
            early_end: often(12),
            short_send: often(6),
            no_buffer: often(20),
            accept_limit: often(10),
            accept_abort: 0,
            delay_max: often(4),
            cancel_delay_max: often(5),
        }
    }
}

impl Default for SimConfig {
    fn default() -> Self {
        Self {
            listeners: 1,
            buffers: 8,
            buffer_bytes: 4096,
            socket_bytes: 64 * 1024,
            faults: Faults::default(),
        }
    }
}

impl SimKernel {
    /// A network in which everything follows from `seed` and what is done to it.
    pub fn new(seed: u64, config: SimConfig) -> Self {
        let mut kernel = Self {
            rng: Rng::new(seed),
            pool: Pool::poisoning(config.buffers, config.buffer_bytes as u32),
            listeners: Vec::new(),
            streams: Vec::new(),
            live: Vec::new(),
            by_tag: HashMap::new(),
            submissions: Vec::new(),
            posted: VecDeque::new(),
            ready: VecDeque::new(),
            stats: SimStats::default(),
            config,
        };
        for listener in 0..kernel.config.listeners {
            kernel.listeners.push(Listener {
                backlog: VecDeque::new(),
                accept: None,
                owes_accept: false,
                is_stopping: false,
                is_closed: false,
            });
            kernel.accept(listener);
        }
        kernel
    }

    /// What happened so far.
    pub const fn stats(&self) -> SimStats {
        self.stats
    }

    /// Panics unless every buffer is back, nothing is in flight and every socket is closed.
    pub fn assert_quiet(&self) {
        assert_eq!(
            self.pool.idle(),
            usize::from(self.pool.count()),
            "a buffer is leaked"
        );
        assert!(self.live.is_empty(), "sockets are open: {:?}", self.live);
        assert!(self.submissions.is_empty() && self.posted.is_empty() && self.ready.is_empty());
    }

    fn fault(&mut self, once_in: u64) -> bool {
        once_in > 0 && self.rng.one_in(once_in)
    }

    fn delay(&mut self) -> u64 {
        self.rng.below(self.config.faults.delay_max + 1)
    }

    /// A random part of `whole` now and then, never nothing of something.
    fn part(&mut self, whole: usize, once_in: u64) -> usize {
        if whole > 1 && self.fault(once_in) {
            1 + self.rng.below(whole as u64 - 1) as usize
        } else {
            whole
        }
    }

    fn named(&self, tag: Tag) -> Option<usize> {
        self.by_tag.get(&(tag.index, tag.generation)).copied()
    }

    fn name(&mut self, tag: Tag, socket: &SimSocket) {
        let named = self.by_tag.insert((tag.index, tag.generation), socket.0);
        assert!(
            named.is_none_or(|id| id == socket.0),
            "two sockets are called by one name"
        );
    }

    fn open(&mut self, socket: &SimSocket, doing: &str) -> &mut Stream {
        let stream = &mut self.streams[socket.0];
        assert_eq!(
            stream.socket,
            SocketState::Open,
            "{doing} on a closed socket"
        );
        stream
    }

    fn take_submission(&mut self, submission: Submission) {
        let delay = self.delay();
        match submission {
            Submission::Accept(listener) => {
                let tag = Tag {
                    index: u32::from(listener),
                    generation: 0,
                };
                let listener = &mut self.listeners[usize::from(listener)];
                listener.accept = Some(Pending::new(tag, (), delay));
            }
            Submission::Receive(id, tag, kind) => {
                self.streams[id].receive = Some(Pending::new(tag, kind, delay));
            }
            Submission::Send(id, tag, batch) => {
                let sending = Sending { batch, taken: 0 };
                self.streams[id].send = Some(Pending::new(tag, sending, delay));
            }
            // Bound here to the operation that is in flight now, never to a later one.
            Submission::CancelReceive(id) => {
                let after = self.rng.below(self.config.faults.cancel_delay_max + 1);
                let pending = self.streams[id].receive.as_mut();
                self.stats.cancels += 1;
                match pending {
                    Some(pending) => pending.cancel = Some(after),
                    None => self.stats.late_cancels += 1,
                }
            }
            Submission::CancelSend(id) => {
                let after = self.rng.below(self.config.faults.cancel_delay_max + 1);
                let pending = self.streams[id].send.as_mut();
                self.stats.cancels += 1;
                match pending {
                    Some(pending) => pending.cancel = Some(after),
                    None => self.stats.late_cancels += 1,
                }
            }
            Submission::Close(id, tag) => {
                self.streams[id].close = Some(Pending::new(tag, (), delay));
            }
            Submission::CancelAccept(listener) => {
                let after = self.rng.below(self.config.faults.cancel_delay_max + 1);
                self.stats.cancels += 1;
                match &mut self.listeners[usize::from(listener)].accept {
                    Some(accept) => accept.cancel = Some(after),
                    None => self.stats.late_cancels += 1,
                }
            }
            Submission::StopListener(listener) => {
                match &mut self.listeners[usize::from(listener)].accept {
                    Some(accept) => accept.cancel = Some(delay),
                    None => self.close_listener(listener),
                }
            }
        }
    }
}

impl Kernel for SimKernel {
    type Socket = SimSocket;

    fn accept(&mut self, listener: ListenerId) {
        let state = &mut self.listeners[usize::from(listener)];
        assert!(!state.owes_accept, "two accepts are armed on one listener");
        assert!(!state.is_stopping, "an accept on a stopped listener");
        state.owes_accept = true;
        self.submissions.push(Submission::Accept(listener));
    }

    fn cancel_accept(&mut self, listener: ListenerId) {
        let state = &self.listeners[usize::from(listener)];
        assert!(state.owes_accept, "a cancel of an accept that is over");
        self.submissions.push(Submission::CancelAccept(listener));
    }

    fn stop_listener(&mut self, listener: ListenerId) {
        self.listeners[usize::from(listener)].is_stopping = true;
        self.submissions.push(Submission::StopListener(listener));
    }

    fn listeners(&self) -> ListenerId {
        self.config.listeners
    }

    fn receive(&mut self, socket: &SimSocket, key: Key) {
        let stream = self.open(socket, "a receive");
        assert!(!stream.owes_receive, "two receives are armed on one socket");
        stream.owes_receive = true;
        self.name(Tag::of(key), socket);
        let receive = Submission::Receive(socket.0, Tag::of(key), ReceiveKind::Multishot);
        self.submissions.push(receive);
    }

    fn receive_into(&mut self, socket: &SimSocket, key: Key, buf: Vec<u8>, bytes_max: usize) {
        let stream = self.open(socket, "a receive");
        assert!(!stream.owes_receive, "two receives are armed on one socket");
        stream.owes_receive = true;
        self.name(Tag::of(key), socket);
        let kind = ReceiveKind::Into { buf, bytes_max };
        let receive = Submission::Receive(socket.0, Tag::of(key), kind);
        self.submissions.push(receive);
    }

    fn cancel_receive(&mut self, key: Key) {
        if let Some(id) = self.named(Tag::of(key)) {
            self.submissions.push(Submission::CancelReceive(id));
        }
    }

    fn cancel_receive_into(&mut self, key: Key) {
        self.cancel_receive(key);
    }

    fn send(&mut self, socket: &SimSocket, key: Key, batch: Box<SendBatch>) {
        assert!(batch.remaining() > 0, "a send of nothing");
        let stream = self.open(socket, "a send");
        assert!(!stream.owes_send, "two sends are in flight on one socket");
        stream.owes_send = true;
        self.name(Tag::of(key), socket);
        let send = Submission::Send(socket.0, Tag::of(key), batch);
        self.submissions.push(send);
    }

    fn cancel_send(&mut self, key: Key) {
        if let Some(id) = self.named(Tag::of(key)) {
            self.submissions.push(Submission::CancelSend(id));
        }
    }

    fn shutdown_write(&mut self, socket: &SimSocket) {
        self.open(socket, "a shutdown").gateway_ended = true;
    }

    fn set_reset(&mut self, socket: &SimSocket) {
        self.open(socket, "an option").resets = true;
    }

    fn close(&mut self, socket: SimSocket, key: Key) {
        let stream = self.open(&socket, "a close");
        assert!(
            !stream.owes_receive && !stream.owes_send,
            "a socket is closed while an operation is in flight"
        );
        stream.socket = SocketState::Closing;
        self.name(Tag::of(key), &socket);
        self.submissions
            .push(Submission::Close(socket.0, Tag::of(key)));
    }

    fn peer_addr(&self, socket: &SimSocket) -> Option<SocketAddr> {
        Some(PeerId(socket.0).addr())
    }

    fn unsent_bytes(&self, socket: &SimSocket) -> usize {
        self.streams[socket.0].outbound.len()
    }

    fn enter(&mut self) {
        self.stats.enters += 1;
        for submission in std::mem::take(&mut self.submissions) {
            self.take_submission(submission);
        }
        for listener in 0..self.config.listeners {
            self.step_listener(listener);
        }
        // Another order each time, so that nothing can rely on one.
        let mut order = std::mem::take(&mut self.live);
        for n in (1..order.len()).rev() {
            order.swap(n, self.rng.below(n as u64 + 1) as usize);
        }
        for id in &order {
            if self.rng.one_in(2) {
                self.step_receive(*id);
                self.step_send(*id);
            } else {
                self.step_send(*id);
                self.step_receive(*id);
            }
            self.step_close(*id);
        }
        order.retain(|id| self.streams[*id].is_live());
        self.live = order;
        while !self.posted.is_empty() && !self.fault(self.config.faults.late_completion) {
            self.ready.extend(self.posted.pop_front());
        }
    }

    fn has_submissions(&mut self) -> bool {
        !self.submissions.is_empty()
    }

    fn has_work(&self) -> bool {
        !self.ready.is_empty()
    }

    fn next_completion(&mut self) -> Option<Completion<SimSocket>> {
        let completion = self.ready.pop_front()?;
        match &completion {
            Completion::Accept { listener, more, .. } => {
                self.listeners[usize::from(*listener)].owes_accept = *more;
            }
            Completion::Receive { tag, more, .. } => {
                if let Some(id) = self.named(*tag) {
                    self.streams[id].owes_receive = *more;
                }
            }
            Completion::ReceiveInto { tag, .. } => {
                if let Some(id) = self.named(*tag) {
                    self.streams[id].owes_receive = false;
                }
            }
            Completion::Send { tag, .. } => {
                if let Some(id) = self.named(*tag) {
                    self.streams[id].owes_send = false;
                }
            }
            Completion::Close { tag } => {
                self.by_tag.remove(&(tag.index, tag.generation));
            }
        }
        Some(completion)
    }

    fn chunk_mut(&mut self, chunk: &Chunk) -> &mut [u8] {
        self.pool.chunk_mut(chunk)
    }

    fn recycle(&mut self, chunk: Chunk) {
        self.pool.release(&chunk);
    }

    fn lender(&self, chunk: &Chunk) -> Option<Lender> {
        Some(self.pool.lender(chunk))
    }

    fn buffers_free(&mut self) -> usize {
        self.pool.idle()
    }

    fn overflows(&self) -> u64 {
        0
    }

    fn enter_failures(&self) -> u64 {
        0
    }
}
