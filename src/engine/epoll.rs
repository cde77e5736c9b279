//! The kernel where io_uring is forbidden: readiness by epoll, turned into completions.
//!
//! An operation is tried when there is reason to think that it succeeds, and else waits for the
//! system's word; either way it ends as a completion, so that [`super::slots`] drives this kernel
//! as it drives a ring. Nothing is in flight behind anybody's back: a cancel takes hold at once.
//!
//! - A socket is registered once, edge-triggered, when it first waits for something, and goes
//!   from the set with its descriptor. What the edges told is remembered per socket.
//! - A read that does not fill its buffer has emptied the socket, a write that is not taken whole
//!   has filled it: no call is made only to hear `EAGAIN`. Where the peer has ended or reset the
//!   connection, reads go on until they say so.
//! - Nobody is served twice before who waits is served once: a socket has [`READS_PER_ENTER_MAX`]
//!   reads, then queues behind the others; an entry makes [`ENTER_COMPLETIONS_MAX`] completions.
//! - Buffers are taken last in, first out, so what is in use stays in the cache. A read that
//!   finds none because this kernel itself has filled them all waits for the next entry;
//!   `ENOBUFS` is only where the owner holds them.
//!
//! What was left for the next entry is announced by no wake: whoever waits asks
//! [`Kernel::has_work`] first.

mod link;
#[cfg(test)]
mod tests;

use std::{
    collections::VecDeque,
    io::{self, ErrorKind, Read, Write},
    net::{Shutdown, SocketAddr, TcpStream},
    os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd},
    rc::Rc,
    time::Duration,
};

use hashbrown::HashMap;
use mio::{Events, Interest, Poll, Token, net::TcpListener, unix::SourceFd};

use self::link::{Link, Receiving};
use super::{
    Chunk, Lender, ListenerId,
    buffers::{self, Pool},
    slots::{Completion, Kernel, Received, SystemKernel, Tag},
    socket,
};
use crate::base::{limits::SEND_SEGMENTS_MAX, paged::Paged, segments::SendBatch, slab::Key};

/// The sizes of one core's engine.
#[derive(Clone, Copy, Debug)]
pub struct EpollConfig {
    /// Shared receive buffers.
    pub recv_buffers: u16,
    /// Bytes of each; of large ones there are more and smaller ones in the same memory.
    pub recv_buffer_bytes: u32,
    /// Connections that one entry accepts of each listener.
    pub accept_batch: u32,
}

/// An epoll set with its buffers, listeners and waiting operations.
#[derive(Debug)]
pub struct EpollKernel {
    poll: Poll,
    events: Events,
    buffers: Pool,
    listeners: Vec<Listener>,
    accept_batch: u32,
    /// By slot index.
    links: Paged<Link>,
    /// Slots that can get on, each once.
    ready: VecDeque<u32>,
    /// Single receives that wait, by slot index: few, so a map.
    receives: HashMap<u32, SingleReceive>,
    /// Sends that wait for room, by slot index: few, so a map.
    blocked: HashMap<u32, Box<SendBatch>>,
    completions: VecDeque<Completion<EpollSocket>>,
    /// Filled buffers among them.
    filled: usize,
    enter_failures: u64,
}

/// A connected socket.
#[derive(Clone, Debug)]
pub struct EpollSocket(Rc<TcpStream>);

#[derive(Debug)]
struct Listener {
    /// None once it is closed.
    socket: Option<TcpListener>,
    is_armed: bool,
    is_readable: bool,
}

#[derive(Debug)]
struct SingleReceive {
    buf: Vec<u8>,
    bytes_max: usize,
}

/// What became of a write.
enum Written {
    /// So many bytes were taken of so many offered.
    Taken(usize, usize),
    Blocked,
    Failed(i32),
}

/// Reads of one socket before the next has its turn.
const READS_PER_ENTER_MAX: usize = 4;
/// Bytes that one single receive takes before the next has its turn.
const SINGLE_RECEIVE_BYTES_MAX: usize = 256 * 1024;
/// Completions of receives and sends made in one entry, give or take one socket's.
const ENTER_COMPLETIONS_MAX: usize = 256;
/// Edges taken from the system in one entry.
const ENTER_EVENTS_MAX: usize = 1024;

impl EpollKernel {
    /// Makes the set and the buffers.
    ///
    /// # Errors
    /// If the system gives no descriptor for it.
    pub fn new(config: EpollConfig) -> io::Result<Self> {
        Ok(Self {
            poll: Poll::new()?,
            events: Events::with_capacity(ENTER_EVENTS_MAX),
            // A buffer holds one arrival.
            buffers: {
                let (count, bytes) = buffers::cut(config.recv_buffers, config.recv_buffer_bytes);
                Pool::new(count, bytes)
            },
            listeners: Vec::new(),
            accept_batch: config.accept_batch.max(1),
            links: Paged::new(),
            ready: VecDeque::new(),
            receives: HashMap::new(),
            blocked: HashMap::new(),
            completions: VecDeque::new(),
            filled: 0,
            enter_failures: 0,
        })
    }

    /// Takes a listening socket and starts accepting on it.
    ///
    /// # Errors
    /// If the system refuses to watch it.
    pub fn listen(&mut self, socket: OwnedFd) -> io::Result<ListenerId> {
        let socket = std::net::TcpListener::from(socket);
        socket.set_nonblocking(true)?;
        let mut socket = TcpListener::from_std(socket);
        let listener = self.listeners.len() as ListenerId;
        let token = Token(LISTENER_TOKEN | usize::from(listener));
        let registry = self.poll.registry();
        registry.register(&mut socket, token, Interest::READABLE)?;
        self.listeners.push(Listener {
            socket: Some(socket),
            is_armed: true,
            is_readable: false,
        });
        Ok(listener)
    }

    /// The set itself: readable while it holds edges that no entry has taken.
    pub fn poll_fd(&self) -> BorrowedFd<'_> {
        socket::poll_fd(&self.poll)
    }

    /// The slot's link, registered with the set from its first use on.
    fn link(&mut self, socket: &EpollSocket, tag: Tag) -> Result<&mut Link, i32> {
        let index = tag.index as usize;
        self.links.grow_to(index, Link::default);
        let link = &mut self.links[index];
        if link.socket.is_none() {
            let fd = socket.0.as_raw_fd();
            let both = Interest::READABLE | Interest::WRITABLE;
            let registry = self.poll.registry();
            registry
                .register(&mut SourceFd(&fd), token(tag), both)
                .map_err(|error| errno(&error))?;
            link.open(socket.clone(), tag);
        }
        Ok(link)
    }

    /// Queues a slot that can get on.
    fn queue(&mut self, index: u32) {
        if let Some(link) = self.links.get_mut(index as usize)
            && !std::mem::replace(&mut link.is_queued, true)
        {
            self.ready.push_back(index);
        }
    }

    fn take_edges(&mut self, timeout: Duration) {
        match self.poll.poll(&mut self.events, Some(timeout)) {
            Ok(()) => {}
            Err(error) if error.kind() == ErrorKind::Interrupted => return,
            Err(_) => {
                self.enter_failures += 1;
                return;
            }
        }
        let events = std::mem::replace(&mut self.events, Events::with_capacity(0));
        for event in &events {
            let Token(token) = event.token();
            if token & LISTENER_TOKEN != 0 {
                if let Some(listener) = self.listeners.get_mut(token & !LISTENER_TOKEN) {
                    listener.is_readable = true;
                }
                continue;
            }
            let index = token as u32;
            let generation = (token >> 32) as u32;
            let Some(link) = self.links.get_mut(index as usize) else {
                continue;
            };
            if link.generation != generation || link.socket.is_none() {
                continue;
            }
            let is_over = event.is_read_closed() || event.is_write_closed() || event.is_error();
            link.has_ended |= is_over;
            link.is_readable |= event.is_readable() || is_over;
            link.is_writable |= event.is_writable() || is_over;
            if link.can_get_on() {
                self.queue(index);
            }
        }
        self.events = events;
    }

    fn accept_all(&mut self) {
        for (id, listener) in self.listeners.iter_mut().enumerate() {
            let id = id as ListenerId;
            let mut left = self.accept_batch;
            while left > 0
                && listener.is_armed
                && listener.is_readable
                && let Some(socket) = &listener.socket
            {
                left -= 1;
                let (result, more) = match socket.accept() {
                    Ok((stream, _)) => (Ok(EpollSocket(Rc::new(stream.into()))), true),
                    Err(error) => match error.kind() {
                        ErrorKind::WouldBlock => {
                            listener.is_readable = false;
                            break;
                        }
                        // Of that connection alone.
                        ErrorKind::ConnectionAborted | ErrorKind::Interrupted => {
                            (Err(errno(&error)), true)
                        }
                        _ => (Err(errno(&error)), false),
                    },
                };
                listener.is_armed = more;
                self.completions.push_back(Completion::Accept {
                    listener: id,
                    result,
                    more,
                });
            }
        }
    }

    /// Lets the slots that can get on do so, in order, each its share.
    fn serve_ready(&mut self) {
        // Beside those of accepts: a flood of connections holds up none that is there.
        let completions_max = self.completions.len() + ENTER_COMPLETIONS_MAX;
        for _ in 0..self.ready.len() {
            let no_buffer_yet = self.buffers.idle() == 0 && self.filled > 0;
            if no_buffer_yet || self.completions.len() >= completions_max {
                return;
            }
            let Some(index) = self.ready.pop_front() else {
                return;
            };
            self.links[index as usize].is_queued = false;
            self.go_on_sending(index);
            match self.links[index as usize].receiving {
                Receiving::Off => {}
                Receiving::Shots => self.receive_shots(index),
                Receiving::Single => self.receive_once(index),
            }
            if self.links[index as usize].can_get_on() {
                self.queue(index);
            }
        }
    }

    fn receive_shots(&mut self, index: u32) {
        for _ in 0..READS_PER_ENTER_MAX {
            let link = &mut self.links[index as usize];
            let Some(socket) = link.socket.clone() else {
                return;
            };
            if !link.is_readable {
                return;
            }
            let Some(buffer) = self.buffers.begin() else {
                if self.filled == 0 {
                    self.end_shots(index, Received::Failed(libc::ENOBUFS));
                }
                return;
            };
            let space = self.buffers.space_mut(buffer);
            let len = space.len();
            let read = link
                .take_error()
                .map_or_else(|| (&*socket.0).read(space), Err);
            match read {
                Ok(n @ 1..) => {
                    link.is_readable = n == len || link.has_ended;
                    let tag = link.tag(index);
                    let chunk = self.buffers.piece(buffer, n as u32, false);
                    self.filled += 1;
                    self.completions.push_back(Completion::Receive {
                        tag,
                        received: Received::Data(chunk),
                        more: true,
                    });
                }
                otherwise => {
                    self.buffers.give_back(buffer);
                    match otherwise {
                        Ok(_) => return self.end_shots(index, Received::Eof),
                        Err(error) => match error.kind() {
                            ErrorKind::WouldBlock => {
                                link.is_readable = false;
                                return;
                            }
                            ErrorKind::Interrupted => {}
                            _ => return self.end_shots(index, Received::Failed(errno(&error))),
                        },
                    }
                }
            }
        }
    }

    fn receiving(&self, key: Key) -> Receiving {
        let link = self.links.get(key.index as usize);
        link.map_or(Receiving::Off, |link| link.receiving)
    }

    fn end_shots(&mut self, index: u32, received: Received) {
        let link = &mut self.links[index as usize];
        link.receiving = Receiving::Off;
        let tag = link.tag(index);
        self.completions.push_back(Completion::Receive {
            tag,
            received,
            more: false,
        });
    }

    fn receive_once(&mut self, index: u32) {
        let link = &mut self.links[index as usize];
        let (Some(socket), true) = (&link.socket, link.is_readable) else {
            return;
        };
        let socket = socket.clone();
        let Some(SingleReceive { buf, bytes_max }) = self.receives.get_mut(&index) else {
            return;
        };
        let result = match link.take_error() {
            Some(error) => Err(error),
            None => {
                let before = buf.len();
                let max = (*bytes_max)
                    .min(buf.capacity() - before)
                    .min(SINGLE_RECEIVE_BYTES_MAX);
                // Reads to the limit, the socket's end or an error, and keeps what it has read.
                let read = (&*socket.0).take(max as u64).read_to_end(buf);
                match (read, buf.len() - before) {
                    (Ok(_), n) => {
                        link.has_ended |= n < max;
                        Ok(n)
                    }
                    (Err(error), n) if error.kind() == ErrorKind::WouldBlock => {
                        link.is_readable = false;
                        if n == 0 {
                            return;
                        }
                        Ok(n)
                    }
                    (Err(error), 0) => Err(error),
                    (Err(error), n) => {
                        // The system tells it once; the next receive hears it from here.
                        link.keep_error(&error);
                        Ok(n)
                    }
                }
            }
        };
        self.end_single(index, result.map_err(|error| errno(&error)));
    }

    fn end_single(&mut self, index: u32, result: Result<usize, i32>) {
        let Some(SingleReceive { buf, .. }) = self.receives.remove(&index) else {
            return;
        };
        let link = &mut self.links[index as usize];
        link.receiving = Receiving::Off;
        let tag = link.tag(index);
        self.completions
            .push_back(Completion::ReceiveInto { tag, buf, result });
    }

    /// Sends on where a send waited for room and there is some.
    fn go_on_sending(&mut self, index: u32) {
        let link = &mut self.links[index as usize];
        if !link.is_sending || !link.is_writable {
            return;
        }
        let (Some(socket), Some(batch)) = (link.socket.clone(), self.blocked.remove(&index)) else {
            return;
        };
        link.is_sending = false;
        let tag = link.tag(index);
        self.write(&socket, tag, batch);
    }

    /// Writes what the socket takes of `batch`, or leaves the send waiting for room.
    fn write(&mut self, socket: &EpollSocket, tag: Tag, batch: Box<SendBatch>) {
        let result = match write_batch(&socket.0, &batch) {
            Written::Taken(n, offered) => {
                if n < offered
                    && let Some(link) = self.links.get_mut(tag.index as usize)
                {
                    link.is_writable = false;
                }
                Ok(n)
            }
            Written::Blocked => match self.link(socket, tag) {
                Ok(link) => {
                    link.is_writable = false;
                    link.is_sending = true;
                    self.blocked.insert(tag.index, batch);
                    return;
                }
                Err(errno) => Err(errno),
            },
            Written::Failed(errno) => Err(errno),
        };
        self.completions
            .push_back(Completion::Send { tag, batch, result });
    }
}

impl Kernel for EpollKernel {
    type Socket = EpollSocket;

    fn accept(&mut self, listener: ListenerId) {
        if let Some(listener) = self.listeners.get_mut(usize::from(listener)) {
            listener.is_armed = true;
        }
    }

    fn cancel_accept(&mut self, listener: ListenerId) {
        let state = self.listeners.get_mut(usize::from(listener));
        if state.is_some_and(|state| std::mem::take(&mut state.is_armed)) {
            self.completions.push_back(Completion::Accept {
                listener,
                result: Err(libc::ECANCELED),
                more: false,
            });
        }
    }

    fn stop_listener(&mut self, listener: ListenerId) {
        self.cancel_accept(listener);
        if let Some(state) = self.listeners.get_mut(usize::from(listener)) {
            // It goes from the set with its descriptor.
            state.socket = None;
        }
    }

    fn listeners(&self) -> ListenerId {
        self.listeners.len() as ListenerId
    }

    fn receive(&mut self, socket: &EpollSocket, key: Key) {
        match self.link(socket, Tag::of(key)) {
            Ok(link) => {
                link.receiving = Receiving::Shots;
                if link.can_get_on() {
                    self.queue(key.index);
                }
            }
            Err(errno) => self.completions.push_back(Completion::Receive {
                tag: Tag::of(key),
                received: Received::Failed(errno),
                more: false,
            }),
        }
    }

    fn receive_into(&mut self, socket: &EpollSocket, key: Key, mut buf: Vec<u8>, bytes_max: usize) {
        buf.reserve(1);
        match self.link(socket, Tag::of(key)) {
            Ok(link) => {
                link.receiving = Receiving::Single;
                let can_get_on = link.can_get_on();
                self.receives
                    .insert(key.index, SingleReceive { buf, bytes_max });
                if can_get_on {
                    self.queue(key.index);
                }
            }
            Err(errno) => self.completions.push_back(Completion::ReceiveInto {
                tag: Tag::of(key),
                buf,
                result: Err(errno),
            }),
        }
    }

    fn cancel_receive(&mut self, key: Key) {
        if self.receiving(key) == Receiving::Shots {
            self.end_shots(key.index, Received::Failed(libc::ECANCELED));
        }
    }

    fn cancel_receive_into(&mut self, key: Key) {
        if self.receiving(key) == Receiving::Single {
            self.end_single(key.index, Err(libc::ECANCELED));
        }
    }

    fn send(&mut self, socket: &EpollSocket, key: Key, batch: Box<SendBatch>) {
        let link = self.links.get_mut(key.index as usize);
        match link {
            Some(link) if link.socket.is_some() && !link.is_writable => {
                link.is_sending = true;
                self.blocked.insert(key.index, batch);
            }
            _ => self.write(socket, Tag::of(key), batch),
        }
    }

    fn cancel_send(&mut self, key: Key) {
        if let Some(batch) = self.blocked.remove(&key.index) {
            self.links[key.index as usize].is_sending = false;
            self.completions.push_back(Completion::Send {
                tag: Tag::of(key),
                batch,
                result: Err(libc::ECANCELED),
            });
        }
    }

    fn shutdown_write(&mut self, socket: &EpollSocket) {
        // A peer that is gone already needs no end.
        let _ = socket.0.shutdown(Shutdown::Write);
    }

    fn set_reset(&mut self, socket: &EpollSocket) {
        // Without it the close is an orderly one, which is no worse than the peer deserves.
        let _ = socket2::SockRef::from(&*socket.0).set_linger(Some(Duration::ZERO));
    }

    fn close(&mut self, socket: EpollSocket, key: Key) {
        if let Some(link) = self.links.get_mut(key.index as usize) {
            link.close();
        }
        // The last holder: the descriptor closes, and goes from the set.
        drop(socket);
        let tag = Tag::of(key);
        self.completions.push_back(Completion::Close { tag });
    }

    fn peer_addr(&self, socket: &EpollSocket) -> Option<SocketAddr> {
        socket.0.peer_addr().ok()
    }

    fn unsent_bytes(&self, socket: &EpollSocket) -> usize {
        socket::unsent_bytes(socket.0.as_fd())
    }

    fn enter(&mut self) {
        self.wait(Duration::ZERO);
    }

    fn has_submissions(&mut self) -> bool {
        // Everything is tried as it is asked for, or waits for an edge.
        false
    }

    fn has_work(&self) -> bool {
        let waits = |listener: &Listener| listener.is_armed && listener.is_readable;
        !self.completions.is_empty() || !self.ready.is_empty() || self.listeners.iter().any(waits)
    }

    fn next_completion(&mut self) -> Option<Completion<EpollSocket>> {
        let completion = self.completions.pop_front()?;
        if let Completion::Receive {
            received: Received::Data(_),
            ..
        } = completion
        {
            self.filled -= 1;
        }
        Some(completion)
    }

    fn chunk_mut(&mut self, chunk: &Chunk) -> &mut [u8] {
        self.buffers.chunk_mut(chunk)
    }

    fn recycle(&mut self, chunk: Chunk) {
        self.buffers.release(&chunk);
    }

    fn lender(&self, chunk: &Chunk) -> Option<Lender> {
        Some(self.buffers.lender(chunk))
    }

    fn buffers_free(&mut self) -> usize {
        self.buffers.idle()
    }

    fn overflows(&self) -> u64 {
        0
    }

    fn enter_failures(&self) -> u64 {
        self.enter_failures
    }
}

impl SystemKernel for EpollKernel {
    fn adopt(stream: TcpStream) -> io::Result<EpollSocket> {
        stream.set_nonblocking(true)?;
        Ok(EpollSocket(Rc::new(stream)))
    }

    fn wait(&mut self, timeout: Duration) {
        // The system counts a wait in milliseconds and rounds up: below one it is better to look
        // again at once than to be late.
        let whole = Duration::from_millis(timeout.as_millis() as u64);
        self.take_edges(whole);
        self.accept_all();
        self.serve_ready();
    }
}

/// Offers the system the pending bytes of `batch`, at most [`SEND_SEGMENTS_MAX`] runs.
fn write_batch(mut socket: &TcpStream, batch: &SendBatch) -> Written {
    let mut runs = [io::IoSlice::new(&[]); SEND_SEGMENTS_MAX];
    let mut count = 0;
    let mut offered = 0;
    for (slot, run) in runs.iter_mut().zip(batch.pending()) {
        *slot = io::IoSlice::new(run);
        count += 1;
        offered += run.len();
    }
    loop {
        let written = match &runs[..count] {
            [run] => socket.write(run),
            runs => socket.write_vectored(runs),
        };
        match written {
            Ok(n) => return Written::Taken(n, offered),
            Err(error) => match error.kind() {
                ErrorKind::Interrupted => {}
                ErrorKind::WouldBlock => return Written::Blocked,
                _ => return Written::Failed(errno(&error)),
            },
        }
    }
}

fn errno(error: &io::Error) -> i32 {
    error.raw_os_error().unwrap_or(libc::EIO)
}

/// Generation (24 bits), index (32).
const fn token(tag: Tag) -> Token {
    Token(((tag.generation as usize) << 32) | tag.index as usize)
}

const LISTENER_TOKEN: usize = 1 << 63;
