//! L4: completions in, submissions out.
//!
//! [`Engine`] is all that a worker knows of the kernel. Behind it stands one state machine for
//! the life of a connection ([`slots`]), driven by a kernel of one's choice: [`uring`] is the
//! product, [`epoll`] serves where io_uring is forbidden, [`sim`] is a deterministic network for
//! tests.
//!
//! An engine knows sockets and buffers; it must not know frames, sessions or rooms.

#[allow(unsafe_code, reason = "hands out views of one block of memory")]
pub mod buffers;
pub mod epoll;
pub mod sim;
pub mod slots;
#[allow(
    unsafe_code,
    reason = "asks the system about descriptors that it borrows"
)]
pub mod socket;
#[allow(
    unsafe_code,
    reason = "the kernel reads and writes memory that this file lends it"
)]
pub mod uring;

#[cfg(test)]
mod tests;

use std::net::SocketAddr;

use crate::base::{segments::SendBatch, slab::Key};

/// Names a connection. A key whose connection is gone is refused, however late it comes.
pub type ConnKey = Key;

/// Names a listener of one engine, in order of arrival from 0.
pub type ListenerId = u16;

pub use buffers::Lender;

/// Received bytes in a buffer that the engine lends until [`Engine::release`].
#[derive(Debug)]
#[must_use = "a chunk that is not released is a receive buffer lost"]
pub struct Chunk {
    pub(crate) buffer: u16,
    pub(crate) start: u32,
    pub(crate) len: u32,
}

impl Chunk {
    /// Length in bytes.
    pub const fn len(&self) -> usize {
        self.len as usize
    }

    /// Whether it holds no bytes; engines never hand out such a chunk.
    pub const fn is_empty(&self) -> bool {
        self.len == 0
    }
}

/// What happened since the last [`Engine::poll`].
#[derive(Debug)]
pub enum Event {
    /// A connection arrived. It does not receive until [`Engine::resume_receive`].
    Accepted {
        /// Its key from now on.
        conn: ConnKey,
        /// Where it arrived.
        listener: ListenerId,
    },
    /// Accepting stopped on an error (an errno) that more accepts would meet too; it goes on
    /// with [`Engine::resume_accept`].
    AcceptFailed {
        /// Which listener.
        listener: ListenerId,
        /// The system's error number.
        errno: i32,
    },
    /// Bytes arrived.
    Received {
        /// Where.
        conn: ConnKey,
        /// The bytes.
        chunk: Chunk,
    },
    /// Bytes were received into the buffer lent by [`Engine::receive_into`]. Receiving is off.
    ReceivedInto {
        /// Where.
        conn: ConnKey,
        /// The buffer, longer than it was.
        buf: Vec<u8>,
    },
    /// Nothing more arrives until [`Engine::resume_receive`] or [`Engine::receive_into`].
    ReceivePaused {
        /// Where.
        conn: ConnKey,
    },
    /// Nothing more ever arrives.
    ReceiveEnded {
        /// Where.
        conn: ConnKey,
        /// None if the peer ended its side in order.
        errno: Option<i32>,
    },
    /// The kernel took bytes of a send.
    Sent {
        /// Where.
        conn: ConnKey,
        /// How many.
        bytes: usize,
        /// The batch, once it was taken whole; until then the engine goes on by itself.
        done: Option<Box<SendBatch>>,
    },
    /// The send failed; nothing more can be sent.
    SendFailed {
        /// Where.
        conn: ConnKey,
        /// The system's error number.
        errno: i32,
    },
    /// The connection is gone, its key dead, its buffers back.
    Closed {
        /// Which.
        conn: ConnKey,
    },
}

/// How [`Engine::close`] ends a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CloseMode {
    /// What the kernel has taken is still delivered.
    Orderly,
    /// The peer gets a reset; nothing more is delivered.
    Reset,
}

/// What a worker asks of the system. All calls return at once.
///
/// A call with a dead key does nothing, except that buffers handed over are dropped.
pub trait Engine {
    /// Appends at most `max` events and says how many. Lets the kernel finish work first if
    /// nothing is ready.
    fn poll(&mut self, events: &mut Vec<Event>, max: usize) -> usize;

    /// Hands everything asked for since to the kernel.
    fn submit(&mut self);

    /// The same, and has the kernel tell what has become ready, so that the next [`Engine::poll`] finds
    /// it among what was ready before: for whoever has been at something else for long.
    fn catch_up(&mut self);

    /// Whether it has work at hand that no wake will announce: who would wait polls again first.
    fn has_work(&self) -> bool;

    /// The bytes of `chunk`, to be worked on in place.
    fn chunk_mut(&mut self, chunk: &Chunk) -> &mut [u8];

    /// Who lends parts of `chunk`, for what is to be sent from where it was received; none if this
    /// engine lends nothing.
    fn lender(&self, chunk: &Chunk) -> Option<Lender>;

    /// Gives a chunk back. Its buffer is used again once all of it is back, loans included.
    fn release(&mut self, chunk: Chunk);

    /// Takes accepting up again after [`Event::AcceptFailed`]; does nothing while it is paused.
    fn resume_accept(&mut self, listener: ListenerId);

    /// Stops taking connections on every listener without closing any: the kernel queues them.
    /// What was accepted before the pause holds still comes as [`Event::Accepted`].
    fn pause_accepting(&mut self);

    /// Takes connections again on every listener after [`Engine::pause_accepting`].
    fn resume_accepting(&mut self);

    /// Ends accepting on every listener for good and closes them.
    fn stop_accepting(&mut self);

    /// The peer's address; none if it is gone already.
    fn peer_addr(&self, conn: ConnKey) -> Option<SocketAddr>;

    /// Bytes that the kernel has taken and not sent yet; 0 if the connection is gone already. Costs a
    /// system call.
    fn unsent_bytes(&self, conn: ConnKey) -> usize;

    /// Receives until told otherwise.
    fn resume_receive(&mut self, conn: ConnKey);

    /// Stops receiving. Chunks may still come, then [`Event::ReceivePaused`] (or
    /// [`Event::ReceiveEnded`]). A receive into a buffer ends with that buffer as it is.
    fn pause_receive(&mut self, conn: ConnKey);

    /// Receives once, at most `bytes_max`, to the end of `buf`. Only while paused.
    fn receive_into(&mut self, conn: ConnKey, buf: Vec<u8>, bytes_max: usize);

    /// Sends a batch. Only while no other send of the connection is in flight.
    fn send(&mut self, conn: ConnKey, batch: Box<SendBatch>);

    /// Ends the sending side; the peer sees the end after everything sent before.
    fn shutdown_write(&mut self, conn: ConnKey);

    /// Ends the connection: cancels what is in flight, then closes. [`Event::Closed`] follows.
    fn close(&mut self, conn: ConnKey, mode: CloseMode);

    /// Slots in use: connections, and those being closed.
    fn slots_open(&self) -> usize;

    /// Sends in flight.
    fn sends_in_flight(&self) -> usize;

    /// Chunks lent and not released.
    fn buffers_out(&self) -> usize;

    /// Receives that found no buffer, since the start.
    fn enobufs(&self) -> u64;

    /// Overflows of the completion queue, since the start.
    fn overflows(&self) -> u64;

    /// Times that the system refused to be entered for the time being, since the start.
    fn enter_failures(&self) -> u64;
}
