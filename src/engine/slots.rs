//! The life of a connection between submissions and completions.
//!
//! One state machine for every kernel that completes operations, or does as if. The receiving side of a slot:
//!
//! ```text
//!            resume                 pause              last completion
//!   Off ───────────────▶ Armed ───────────▶ Pausing ───────────────────▶ Off
//!    │ ▲                  │ ▲                  │
//!    │ │ done      ENOBUFS│ │buffers came back │ end of stream, error
//!    ▼ │                  ▼ │                  ▼
//!   Into                Starved              Ended
//! ```
//!
//! Where a receive ends without the cancel's completion, it is `Halted` between `Pausing` and `Off`
//! until its owner has been handed the news.
//!
//! Rules that hold whatever the kernel does:
//!
//! - A slot lives until the last completion of everything in flight; only then is its socket
//!   closed, and only when the close has completed is its key reused, under a new generation.
//! - A completion whose tag is not the slot's present generation is dropped, its buffer recycled.
//! - Buffers in flight belong to the kernel side and come back with the completion.
//! - One send in flight per connection; a short send continues where it stopped.
//! - Receives that found no buffer are armed again in order of arrival, those that got nothing
//!   since they were armed first, never more of them than there are buffers.

mod accepting;
mod adopted;
mod starved;
#[cfg(test)]
mod tests;

use std::{collections::VecDeque, net::SocketAddr};

pub use self::adopted::SystemKernel;
use self::{accepting::Accepting, starved::Starved};
use super::{Chunk, CloseMode, ConnKey, Engine, Event, Lender, ListenerId};
use crate::base::{
    segments::SendBatch,
    slab::{Key, Slab},
};

/// Which slot an operation belongs to; what survives of a [`Key`] in a completion's user data.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tag {
    /// The slot's index.
    pub index: u32,
    /// The low [`Tag::GENERATION_BITS`] bits of its generation.
    pub generation: u32,
}

impl Tag {
    /// How many bits of the generation fit beside the index and the operation.
    pub const GENERATION_BITS: u32 = 24;

    /// The tag of `key`.
    pub const fn of(key: Key) -> Self {
        Self {
            index: key.index,
            generation: key.generation & ((1 << Self::GENERATION_BITS) - 1),
        }
    }
}

/// What a multishot receive brought.
#[derive(Debug)]
pub enum Received {
    /// Bytes.
    Data(Chunk),
    /// The peer ended its side.
    Eof,
    /// An error, by its number.
    Failed(i32),
}

/// A finished operation, or one shot of it.
#[derive(Debug)]
pub enum Completion<S> {
    /// A multishot accept brought a socket or an error number.
    Accept {
        /// Which listener.
        listener: ListenerId,
        /// The new socket.
        result: Result<S, i32>,
        /// Whether the operation goes on.
        more: bool,
    },
    /// A multishot receive brought something.
    Receive {
        /// Which slot.
        tag: Tag,
        /// What.
        received: Received,
        /// Whether the operation goes on.
        more: bool,
    },
    /// A single receive ended.
    ReceiveInto {
        /// Which slot.
        tag: Tag,
        /// The buffer, longer by what was received.
        buf: Vec<u8>,
        /// How many bytes, or an error number.
        result: Result<usize, i32>,
    },
    /// A send ended.
    Send {
        /// Which slot.
        tag: Tag,
        /// What was being sent.
        batch: Box<SendBatch>,
        /// How many bytes the kernel took, or an error number.
        result: Result<usize, i32>,
    },
    /// A close ended; errors mean nothing, the descriptor is gone.
    Close {
        /// Which slot.
        tag: Tag,
    },
}

/// What the state machine needs of a completion-based kernel. Buffers move in with an operation
/// and out with its completion, so no implementation can be asked to touch memory that is gone.
pub trait Kernel {
    /// A connected socket; dropping it closes it.
    type Socket;

    /// Arms the multishot accept of a listener.
    fn accept(&mut self, listener: ListenerId);
    /// Cancels it; the listener stays open, and is armed again only after the last completion.
    fn cancel_accept(&mut self, listener: ListenerId);
    /// Cancels it, and closes the listener with its last completion.
    fn stop_listener(&mut self, listener: ListenerId);
    /// How many listeners there are.
    fn listeners(&self) -> ListenerId;
    /// Arms a multishot receive into the shared buffers.
    fn receive(&mut self, socket: &Self::Socket, key: Key);
    /// Receives once to the end of `buf`, at most `bytes_max`.
    fn receive_into(&mut self, socket: &Self::Socket, key: Key, buf: Vec<u8>, bytes_max: usize);
    /// Cancels the slot's multishot receive.
    fn cancel_receive(&mut self, key: Key);
    /// Cancels the slot's single receive.
    fn cancel_receive_into(&mut self, key: Key);
    /// Sends the pending bytes of `batch`.
    fn send(&mut self, socket: &Self::Socket, key: Key, batch: Box<SendBatch>);
    /// Cancels the slot's send.
    fn cancel_send(&mut self, key: Key);
    /// Ends the sending side.
    fn shutdown_write(&mut self, socket: &Self::Socket);
    /// Makes the close to come a reset.
    fn set_reset(&mut self, socket: &Self::Socket);
    /// Closes.
    fn close(&mut self, socket: Self::Socket, key: Key);
    /// The peer's address.
    fn peer_addr(&self, socket: &Self::Socket) -> Option<SocketAddr>;
    /// Bytes taken and not sent yet.
    fn unsent_bytes(&self, socket: &Self::Socket) -> usize;
    /// Hands over what was asked for and lets finished work become completions.
    fn enter(&mut self);
    /// Whether something was asked for and not handed over yet.
    fn has_submissions(&mut self) -> bool;
    /// Whether it can get on without news from outside, so that no wake announces it.
    fn has_work(&self) -> bool;
    /// The next completion that is ready.
    fn next_completion(&mut self) -> Option<Completion<Self::Socket>>;
    /// A chunk's bytes.
    fn chunk_mut(&mut self, chunk: &Chunk) -> &mut [u8];
    /// Takes a chunk back.
    fn recycle(&mut self, chunk: Chunk);
    /// Who lends parts of a chunk, if it lends any.
    fn lender(&self, _: &Chunk) -> Option<Lender> {
        None
    }
    /// Buffers that a receive could use now.
    fn buffers_free(&mut self) -> usize;
    /// Overflows of the completion queue, since the start.
    fn overflows(&self) -> u64;
    /// Times that entering was refused for the time being, since the start.
    fn enter_failures(&self) -> u64;
}

/// An [`Engine`] over a completion-based kernel.
#[derive(Debug)]
pub struct Slots<K: Kernel> {
    kernel: K,
    slots: Slab<Slot<K::Socket>>,
    starved: Starved,
    /// Connections whose receive is halted, to be told of it.
    halted: VecDeque<ConnKey>,
    accepting: Accepting,
    sends_in_flight: usize,
    buffers_out: usize,
    enobufs: u64,
}

#[derive(Debug)]
struct Slot<S> {
    /// None once its close is in flight.
    socket: Option<S>,
    receive: Receive,
    /// The receive has brought something since it was armed.
    fed: bool,
    sending: bool,
    closing: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Receive {
    Off,
    Armed,
    Pausing,
    /// Nothing is in flight any more, and the owner is about to be told.
    Halted,
    Starved,
    Into,
    Ended,
}

impl Receive {
    const fn in_flight(self) -> bool {
        matches!(self, Self::Armed | Self::Pausing | Self::Into)
    }
}

impl<K: Kernel> Slots<K> {
    /// An engine over `kernel`, whose first keys carry `first_generation`.
    pub fn new(kernel: K, first_generation: u32) -> Self {
        Self {
            accepting: Accepting::new(kernel.listeners()),
            kernel,
            slots: Slab::new(first_generation),
            starved: Starved::default(),
            halted: VecDeque::new(),
            sends_in_flight: 0,
            buffers_out: 0,
            enobufs: 0,
        }
    }

    /// The kernel underneath.
    pub const fn kernel(&self) -> &K {
        &self.kernel
    }

    /// The kernel underneath, for what only its own kind offers.
    pub const fn kernel_mut(&mut self) -> &mut K {
        &mut self.kernel
    }

    fn key_of(&self, tag: Tag) -> Option<ConnKey> {
        let key = self.slots.key_at(tag.index as usize)?;
        (Tag::of(key) == tag).then_some(key)
    }

    fn on_completion(&mut self, completion: Completion<K::Socket>) -> Option<Event> {
        match completion {
            Completion::Accept {
                listener,
                result,
                more,
            } => self.on_accept(listener, result, more),
            Completion::Receive {
                tag,
                received,
                more,
            } => self.on_receive(tag, received, more),
            Completion::ReceiveInto { tag, buf, result } => self.on_receive_into(tag, buf, result),
            Completion::Send { tag, batch, result } => self.on_send(tag, batch, result),
            Completion::Close { tag } => {
                let conn = self.key_of(tag)?;
                self.slots.remove(conn);
                Some(Event::Closed { conn })
            }
        }
    }

    fn on_accept(
        &mut self,
        listener: ListenerId,
        result: Result<K::Socket, i32>,
        more: bool,
    ) -> Option<Event> {
        if !more {
            self.accepting.ended(listener);
        }
        match result {
            Ok(socket) => {
                self.arm_accept(listener);
                let conn = self.slots.insert(Slot {
                    socket: Some(socket),
                    receive: Receive::Off,
                    fed: false,
                    sending: false,
                    closing: false,
                });
                Some(Event::Accepted { conn, listener })
            }
            // The peer gave up, or the call was disturbed or cancelled by a pause that is over:
            // the next accept may do better.
            Err(
                libc::ECANCELED | libc::ECONNABORTED | libc::EINTR | libc::EAGAIN | libc::EPROTO,
            ) => {
                self.arm_accept(listener);
                None
            }
            Err(errno) => (!more).then_some(Event::AcceptFailed { listener, errno }),
        }
    }

    fn on_receive(&mut self, tag: Tag, received: Received, more: bool) -> Option<Event> {
        if matches!(received, Received::Data(_)) {
            self.buffers_out += 1;
        }
        let Some(conn) = self.key_of(tag) else {
            self.recycle(received);
            return None;
        };
        let slot = self.slots.get_mut(conn)?;
        if slot.closing {
            if !more {
                slot.receive = Receive::Ended;
            }
            self.recycle(received);
            self.close_if_idle(conn);
            return None;
        }
        let pausing = slot.receive == Receive::Pausing;
        match received {
            Received::Data(chunk) => {
                slot.fed = true;
                if !more {
                    // The kernel may end a multishot receive with data in hand.
                    if pausing {
                        slot.receive = Receive::Halted;
                        self.halted.push_back(conn);
                    } else {
                        self.arm_receive(conn);
                    }
                }
                Some(Event::Received { conn, chunk })
            }
            Received::Failed(libc::ECANCELED | libc::ENOBUFS) if pausing && !more => {
                slot.receive = Receive::Off;
                Some(Event::ReceivePaused { conn })
            }
            Received::Failed(libc::ENOBUFS) => {
                self.enobufs += 1;
                if !more {
                    slot.receive = Receive::Starved;
                    let fed = slot.fed;
                    self.starved.push(conn, fed);
                }
                None
            }
            Received::Failed(libc::EINTR | libc::EAGAIN | libc::ECANCELED) if !pausing => {
                if !more {
                    self.arm_receive(conn);
                }
                None
            }
            Received::Eof => {
                slot.receive = Receive::Ended;
                Some(Event::ReceiveEnded { conn, errno: None })
            }
            Received::Failed(errno) => {
                slot.receive = Receive::Ended;
                let errno = Some(errno);
                Some(Event::ReceiveEnded { conn, errno })
            }
        }
    }

    fn on_receive_into(
        &mut self,
        tag: Tag,
        buf: Vec<u8>,
        result: Result<usize, i32>,
    ) -> Option<Event> {
        let conn = self.key_of(tag)?;
        let slot = self.slots.get_mut(conn)?;
        slot.receive = Receive::Off;
        if slot.closing {
            self.close_if_idle(conn);
            return None;
        }
        match result {
            Ok(0) => {
                slot.receive = Receive::Ended;
                Some(Event::ReceiveEnded { conn, errno: None })
            }
            // An empty addition: the owner decides whether to ask again.
            Ok(_) | Err(libc::EINTR | libc::EAGAIN | libc::ECANCELED) => {
                Some(Event::ReceivedInto { conn, buf })
            }
            Err(errno) => {
                slot.receive = Receive::Ended;
                let errno = Some(errno);
                Some(Event::ReceiveEnded { conn, errno })
            }
        }
    }

    fn on_send(
        &mut self,
        tag: Tag,
        mut batch: Box<SendBatch>,
        result: Result<usize, i32>,
    ) -> Option<Event> {
        self.sends_in_flight -= 1;
        let conn = self.key_of(tag)?;
        let slot = self.slots.get_mut(conn)?;
        slot.sending = false;
        if slot.closing {
            self.close_if_idle(conn);
            return None;
        }
        let taken = match result {
            Ok(bytes) => bytes,
            Err(libc::EINTR | libc::EAGAIN | libc::ENOBUFS) => 0,
            Err(errno) => return Some(Event::SendFailed { conn, errno }),
        };
        let bytes = taken.min(batch.remaining());
        batch.advance(taken);
        if batch.remaining() == 0 {
            let done = Some(batch);
            return Some(Event::Sent { conn, bytes, done });
        }
        self.send(conn, batch);
        let done = None;
        Some(Event::Sent { conn, bytes, done })
    }

    fn paused(&mut self, conn: ConnKey) -> Option<Event> {
        let slot = self.slots.get_mut(conn)?;
        if slot.receive != Receive::Halted || slot.closing {
            return None;
        }
        slot.receive = Receive::Off;
        Some(Event::ReceivePaused { conn })
    }

    fn arm_accept(&mut self, listener: ListenerId) {
        if self.accepting.arm(listener) {
            self.kernel.accept(listener);
        }
    }

    fn arm_receive(&mut self, conn: ConnKey) {
        let Some(slot) = self.slots.get_mut(conn) else {
            return;
        };
        if let Some(socket) = &slot.socket {
            slot.receive = Receive::Armed;
            slot.fed = false;
            self.kernel.receive(socket, conn);
        }
    }

    /// Arms receives that found no buffer, one per buffer that is free.
    fn feed_the_starved(&mut self) {
        let mut free = self.kernel.buffers_free();
        while free > 0 {
            let Some(conn) = self.starved.pop() else {
                return;
            };
            let starved = |slot: &Slot<K::Socket>| slot.receive == Receive::Starved;
            if self.slots.get(conn).is_some_and(starved) {
                self.arm_receive(conn);
                free -= 1;
            }
        }
    }

    fn close_if_idle(&mut self, conn: ConnKey) {
        if let Some(slot) = self.slots.get_mut(conn)
            && slot.closing
            && !slot.sending
            && !slot.receive.in_flight()
            && let Some(socket) = slot.socket.take()
        {
            self.kernel.close(socket, conn);
        }
    }

    fn recycle(&mut self, received: Received) {
        if let Received::Data(chunk) = received {
            self.release(chunk);
        }
    }
}

impl<K: Kernel> Engine for Slots<K> {
    fn poll(&mut self, events: &mut Vec<Event>, max: usize) -> usize {
        let before = events.len();
        let mut entered = false;
        while events.len() - before < max {
            if let Some(conn) = self.halted.pop_front() {
                events.extend(self.paused(conn));
            } else if let Some(completion) = self.kernel.next_completion() {
                let event = self.on_completion(completion);
                events.extend(event);
            } else if entered || events.len() > before {
                break;
            } else {
                self.feed_the_starved();
                self.kernel.enter();
                entered = true;
            }
        }
        events.len() - before
    }

    fn submit(&mut self) {
        self.feed_the_starved();
        if self.kernel.has_submissions() {
            self.kernel.enter();
        }
    }

    fn catch_up(&mut self) {
        self.feed_the_starved();
        self.kernel.enter();
    }

    fn has_work(&self) -> bool {
        !self.halted.is_empty() || self.kernel.has_work()
    }

    fn chunk_mut(&mut self, chunk: &Chunk) -> &mut [u8] {
        self.kernel.chunk_mut(chunk)
    }

    fn lender(&self, chunk: &Chunk) -> Option<Lender> {
        self.kernel.lender(chunk)
    }

    fn release(&mut self, chunk: Chunk) {
        self.buffers_out -= 1;
        self.kernel.recycle(chunk);
    }

    fn resume_accept(&mut self, listener: ListenerId) {
        self.arm_accept(listener);
    }

    fn pause_accepting(&mut self) {
        for listener in self.accepting.pause() {
            self.kernel.cancel_accept(listener);
        }
    }

    fn resume_accepting(&mut self) {
        self.accepting.resume();
        for listener in 0..self.kernel.listeners() {
            self.arm_accept(listener);
        }
    }

    fn stop_accepting(&mut self) {
        if self.accepting.stop() {
            for listener in 0..self.kernel.listeners() {
                self.kernel.stop_listener(listener);
            }
        }
    }

    fn peer_addr(&self, conn: ConnKey) -> Option<SocketAddr> {
        let socket = self.slots.get(conn)?.socket.as_ref()?;
        self.kernel.peer_addr(socket)
    }

    fn unsent_bytes(&self, conn: ConnKey) -> usize {
        let socket = self.slots.get(conn).and_then(|slot| slot.socket.as_ref());
        socket.map_or(0, |socket| self.kernel.unsent_bytes(socket))
    }

    fn resume_receive(&mut self, conn: ConnKey) {
        let off = |slot: &Slot<K::Socket>| slot.receive == Receive::Off && !slot.closing;
        if self.slots.get(conn).is_some_and(off) {
            self.arm_receive(conn);
        }
    }

    fn pause_receive(&mut self, conn: ConnKey) {
        let Some(slot) = self.slots.get_mut(conn) else {
            return;
        };
        match slot.receive {
            Receive::Armed => {
                slot.receive = Receive::Pausing;
                self.kernel.cancel_receive(conn);
            }
            Receive::Starved => {
                slot.receive = Receive::Halted;
                self.halted.push_back(conn);
            }
            Receive::Into => self.kernel.cancel_receive_into(conn),
            Receive::Off | Receive::Pausing | Receive::Halted | Receive::Ended => {}
        }
    }

    fn receive_into(&mut self, conn: ConnKey, buf: Vec<u8>, bytes_max: usize) {
        if let Some(slot) = self.slots.get_mut(conn)
            && slot.receive == Receive::Off
            && !slot.closing
            && let Some(socket) = &slot.socket
        {
            slot.receive = Receive::Into;
            self.kernel.receive_into(socket, conn, buf, bytes_max);
        }
    }

    fn send(&mut self, conn: ConnKey, batch: Box<SendBatch>) {
        if let Some(slot) = self.slots.get_mut(conn)
            && !slot.closing
            && let Some(socket) = &slot.socket
        {
            assert!(
                !slot.sending,
                "invariant: one send in flight per connection"
            );
            slot.sending = true;
            self.sends_in_flight += 1;
            self.kernel.send(socket, conn, batch);
        }
    }

    fn shutdown_write(&mut self, conn: ConnKey) {
        if let Some(slot) = self.slots.get(conn)
            && let Some(socket) = &slot.socket
        {
            self.kernel.shutdown_write(socket);
        }
    }

    fn close(&mut self, conn: ConnKey, mode: CloseMode) {
        let Some(slot) = self.slots.get_mut(conn) else {
            return;
        };
        if slot.closing {
            return;
        }
        slot.closing = true;
        if mode == CloseMode::Reset
            && let Some(socket) = &slot.socket
        {
            self.kernel.set_reset(socket);
        }
        let (receive, sending) = (slot.receive, slot.sending);
        match receive {
            Receive::Armed => self.kernel.cancel_receive(conn),
            Receive::Into => self.kernel.cancel_receive_into(conn),
            Receive::Starved => slot.receive = Receive::Off,
            Receive::Off | Receive::Pausing | Receive::Halted | Receive::Ended => {}
        }
        if sending {
            self.kernel.cancel_send(conn);
        }
        self.close_if_idle(conn);
    }

    fn slots_open(&self) -> usize {
        self.slots.len()
    }

    fn sends_in_flight(&self) -> usize {
        self.sends_in_flight
    }

    fn buffers_out(&self) -> usize {
        self.buffers_out
    }

    fn enobufs(&self) -> u64 {
        self.enobufs
    }

    fn overflows(&self) -> u64 {
        self.kernel.overflows()
    }

    fn enter_failures(&self) -> u64 {
        self.kernel.enter_failures()
    }
}
