//! The product's kernel: a raw io_uring ring, entered by its own worker alone.
//!
//! `SINGLE_ISSUER | DEFER_TASKRUN | COOP_TASKRUN`: completions are made when this thread enters
//! the ring, so nothing interrupts a turn. One multishot accept per listener, one multishot
//! receive per connection into a ring of shared buffers, one send per connection. An eventfd is
//! signalled when there is something to enter for; whoever awaits it must enter before it waits
//! again ([`UringKernel::enter`] always passes GETEVENTS).
//!
//! All unsafe code of the ring is in this file and its own module for buffers. What the kernel may touch is owned here while
//! it may: buffers move in with an operation and out with its completion. If the ring is dropped
//! with operations in flight, their memory is leaked rather than freed under the kernel's hands.

mod error;
mod recv_buffers;

use std::{
    io,
    net::{SocketAddr, TcpStream},
    os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, IntoRawFd, OwnedFd},
    ptr,
    time::Duration,
};

use hashbrown::HashMap;
use io_uring::{IoUring, cqueue, opcode, register::Probe, squeue, types};
use nix::sys::eventfd::{EfdFlags, EventFd};

use super::{
    Chunk, Lender, ListenerId,
    slots::{Completion, Kernel, Received, SystemKernel, Tag},
    socket,
};
use crate::base::{limits::SEND_SEGMENTS_MAX, paged::Paged, segments::SendBatch, slab::Key};

use recv_buffers::RecvBuffers;

pub use error::{KERNEL_MIN, UringError};
use error::{missing, other, setup_error};

/// The sizes of one core's ring.
#[derive(Clone, Copy, Debug)]
pub struct UringConfig {
    /// Submission entries; a full queue is handed over early.
    pub ring_entries: u32,
    /// Completion entries; beyond them the kernel queues on its side.
    pub cq_entries: u32,
    /// Shared receive buffers, a power of two.
    pub recv_buffers: u16,
    /// Bytes of each. Where the kernel can't fill a buffer piece behind piece (before Linux 6.12)
    /// there are more and smaller ones in the same memory.
    pub recv_buffer_bytes: u32,
}

/// Looks whether this system has all that the ring needs, by making one and asking it.
///
/// # Errors
/// Says in one sentence what is missing and what to do.
pub fn probe() -> Result<(), UringError> {
    let config = UringConfig {
        ring_entries: 8,
        cq_entries: 16,
        recv_buffers: 4,
        recv_buffer_bytes: 4096,
    };
    UringKernel::new(config).map(drop)
}

/// A ring with its buffers, listeners and operations in flight.
#[derive(Debug)]
pub struct UringKernel {
    ring: IoUringDebug,
    eventfd: EventFd,
    buffers: RecvBuffers,
    listeners: Vec<Option<OwnedFd>>,
    /// Sends in flight by slot index.
    sends: Paged<Option<Box<SendBatch>>>,
    /// For those of several runs, where these are: few, so a map.
    vectors: HashMap<u32, Box<Vectors>>,
    #[allow(
        clippy::vec_box,
        reason = "the kernel reads vectors where they stand: they must not move"
    )]
    spare_vectors: Vec<Box<Vectors>>,
    /// Single receives in flight by slot index: few, so a map.
    receives: HashMap<u32, Vec<u8>>,
    /// Operations whose completion without `F_MORE` is still to come.
    in_flight: usize,
    enter_failures: u64,
}

/// `IoUring` has no `Debug` of its own.
struct IoUringDebug(IoUring);

impl std::fmt::Debug for IoUringDebug {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("IoUring")
            .field("fd", &self.0.as_raw_fd())
            .finish()
    }
}

/// What tells the kernel where the runs of a send are.
struct Vectors {
    header: libc::msghdr,
    runs: [libc::iovec; SEND_SEGMENTS_MAX],
}

impl std::fmt::Debug for Vectors {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Vectors")
            .field("count", &self.header.msg_iovlen)
            .finish_non_exhaustive()
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
enum Operation {
    Accept = 1,
    Receive,
    ReceiveInto,
    Send,
    Close,
    Cancel,
}

impl Operation {
    const fn from_byte(byte: u8) -> Option<Self> {
        Some(match byte {
            1 => Self::Accept,
            2 => Self::Receive,
            3 => Self::ReceiveInto,
            4 => Self::Send,
            5 => Self::Close,
            6 => Self::Cancel,
            _ => return None,
        })
    }

    /// Operation (8 bits), generation (24), index (32).
    const fn tagged(self, tag: Tag) -> u64 {
        ((self as u64) << 56) | ((tag.generation as u64) << 32) | tag.index as u64
    }
}

const BUFFER_GROUP: u16 = 0;

impl UringKernel {
    /// Makes the ring on the calling thread, which must be the one that uses it.
    ///
    /// # Errors
    /// [`UringError`] says what this system lacks.
    pub fn new(config: UringConfig) -> Result<Self, UringError> {
        let mut builder = IoUring::builder();
        builder
            .setup_single_issuer()
            .setup_defer_taskrun()
            .setup_coop_taskrun()
            // See `has_work`.
            .setup_taskrun_flag()
            .setup_submit_all()
            .setup_clamp()
            .setup_cqsize(config.cq_entries);
        // One read less for each submission, since Linux 6.6.
        let without_array = builder
            .clone()
            .setup_no_sqarray()
            .build(config.ring_entries);
        let ring = match without_array {
            Err(error) if error.raw_os_error() == Some(libc::EINVAL) => {
                builder.build(config.ring_entries)
            }
            made => made,
        }
        .map_err(setup_error)?;
        let mut probe = Probe::new();
        ring.submitter()
            .register_probe(&mut probe)
            .map_err(other("asking the ring for its operations"))?;
        for (code, feature) in [
            (opcode::RecvMulti::CODE, "io_uring receive"),
            (opcode::AcceptMulti::CODE, "io_uring accept"),
            (opcode::Send::CODE, "io_uring send"),
            (opcode::SendMsg::CODE, "io_uring sendmsg"),
            (opcode::Close::CODE, "io_uring close"),
            (opcode::AsyncCancel::CODE, "io_uring cancel"),
        ] {
            if !probe.is_supported(code) {
                return Err(missing(feature));
            }
        }
        if !ring.params().is_feature_nodrop() || !ring.params().is_feature_submit_stable() {
            return Err(missing("io_uring's NODROP and SUBMIT_STABLE"));
        }
        let buffers = RecvBuffers::new(&ring, config.recv_buffers, config.recv_buffer_bytes)?;
        let eventfd = EventFd::from_flags(EfdFlags::EFD_CLOEXEC)
            .map_err(|errno| other("making an eventfd")(errno.into()))?;
        ring.submitter()
            .register_eventfd(eventfd.as_fd().as_raw_fd())
            .map_err(other("registering the eventfd"))?;
        Ok(Self {
            ring: IoUringDebug(ring),
            eventfd,
            buffers,
            listeners: Vec::new(),
            sends: Paged::new(),
            vectors: HashMap::new(),
            spare_vectors: Vec::new(),
            receives: HashMap::new(),
            in_flight: 0,
            enter_failures: 0,
        })
    }

    /// Takes a listening socket and starts accepting on it.
    pub fn listen(&mut self, socket: OwnedFd) -> ListenerId {
        let listener = self.listeners.len() as ListenerId;
        self.listeners.push(Some(socket));
        self.accept(listener);
        listener
    }

    /// Signalled when entering the ring will find something.
    pub fn eventfd(&self) -> BorrowedFd<'_> {
        self.eventfd.as_fd()
    }

    fn push(&mut self, entry: &squeue::Entry) {
        loop {
            // SAFETY: every entry built in this file points only at memory that this kernel owns
            // until the operation's last completion (`sends`, `receives`, `buffers`) or at none.
            if unsafe { self.ring.0.submission().push(entry) }.is_ok() {
                return;
            }
            // The queue is full: hand it over. The kernel always takes at least one entry.
            self.enter();
        }
    }

    fn start(&mut self, operation: Operation, tag: Tag, entry: squeue::Entry) {
        self.in_flight += 1;
        self.push(&entry.user_data(operation.tagged(tag)));
    }

    fn cancel(&mut self, operation: Operation, tag: Tag) {
        // Its own completion says only whether something was found; what matters is the last
        // completion of the operation itself.
        let entry = opcode::AsyncCancel::new(operation.tagged(tag)).build();
        self.start(Operation::Cancel, tag, entry);
    }

    fn on_entry(&mut self, entry: &cqueue::Entry) -> Option<Completion<OwnedFd>> {
        let user_data = entry.user_data();
        let tag = Tag {
            index: user_data as u32,
            generation: (user_data >> 32) as u32 & ((1 << Tag::GENERATION_BITS) - 1),
        };
        let operation = Operation::from_byte((user_data >> 56) as u8)?;
        let more = cqueue::more(entry.flags());
        if !more {
            self.in_flight -= 1;
        }
        let result = entry.result();
        let length = || usize::try_from(result).map_err(|_| -result);
        match operation {
            Operation::Cancel => None,
            Operation::Close => Some(Completion::Close { tag }),
            Operation::Accept => {
                let result = if result < 0 {
                    Err(-result)
                } else {
                    // SAFETY: a successful accept completion carries a descriptor that was made
                    // for this completion and that nobody else knows.
                    Ok(unsafe { OwnedFd::from_raw_fd(result) })
                };
                Some(Completion::Accept {
                    listener: tag.index as ListenerId,
                    result,
                    more,
                })
            }
            Operation::Receive => {
                let chunk = cqueue::buffer_select(entry.flags()).map(|buffer| {
                    let len = u32::try_from(result).unwrap_or(0);
                    let more = cqueue::buffer_more(entry.flags());
                    self.buffers.on_filled(buffer, len, more)
                });
                let received = match (result, chunk) {
                    (1.., Some(chunk)) => Received::Data(chunk),
                    (other, chunk) => {
                        if let Some(chunk) = chunk {
                            self.recycle(chunk);
                        }
                        if other == 0 {
                            Received::Eof
                        } else {
                            Received::Failed(other.saturating_neg())
                        }
                    }
                };
                Some(Completion::Receive {
                    tag,
                    received,
                    more,
                })
            }
            Operation::ReceiveInto => {
                let mut buf = self.receives.remove(&tag.index)?;
                let result = length();
                if let Ok(n) = result {
                    debug_assert!(buf.len() + n <= buf.capacity());
                    // SAFETY: the kernel was given the spare capacity of this very buffer and
                    // says that it wrote `n` bytes there.
                    unsafe { buf.set_len(buf.len() + n) };
                }
                Some(Completion::ReceiveInto { tag, buf, result })
            }
            Operation::Send => {
                let batch = self.sends.get_mut(tag.index as usize)?.take()?;
                if single(&batch).is_none()
                    && let Some(vectors) = self.vectors.remove(&tag.index)
                    && self.spare_vectors.len() < SPARE_VECTORS_MAX
                {
                    self.spare_vectors.push(vectors);
                }
                Some(Completion::Send {
                    tag,
                    batch,
                    result: length(),
                })
            }
        }
    }
}

/// Vectors kept for the next sends that need some.
const SPARE_VECTORS_MAX: usize = 1024;

impl Kernel for UringKernel {
    type Socket = OwnedFd;

    fn accept(&mut self, listener: ListenerId) {
        let Some(Some(socket)) = self.listeners.get(listener as usize) else {
            return;
        };
        // Blocking on purpose: io_uring answers EAGAIN for non-blocking sockets instead of
        // waiting for them.
        let entry = opcode::AcceptMulti::new(types::Fd(socket.as_raw_fd()))
            .flags(libc::SOCK_CLOEXEC)
            .build();
        self.start(Operation::Accept, listener_tag(listener), entry);
    }

    fn cancel_accept(&mut self, listener: ListenerId) {
        self.cancel(Operation::Accept, listener_tag(listener));
    }

    fn stop_listener(&mut self, listener: ListenerId) {
        if let Some(socket) = self
            .listeners
            .get_mut(listener as usize)
            .and_then(Option::take)
        {
            self.cancel(Operation::Accept, listener_tag(listener));
            // The cancel must reach the kernel while the descriptor is still this listener.
            self.enter();
            drop(socket);
        }
    }

    fn listeners(&self) -> ListenerId {
        self.listeners.len() as ListenerId
    }

    fn receive(&mut self, socket: &OwnedFd, key: Key) {
        let entry = opcode::RecvMulti::new(types::Fd(socket.as_raw_fd()), BUFFER_GROUP).build();
        self.start(Operation::Receive, Tag::of(key), entry);
    }

    fn receive_into(&mut self, socket: &OwnedFd, key: Key, mut buf: Vec<u8>, bytes_max: usize) {
        buf.reserve(1);
        let spare = buf.spare_capacity_mut();
        let len = spare.len().min(bytes_max).min(u32::MAX as usize) as u32;
        let entry = opcode::Recv::new(
            types::Fd(socket.as_raw_fd()),
            spare.as_mut_ptr().cast::<u8>(),
            len,
        )
        .build();
        self.receives.insert(key.index, buf);
        self.start(Operation::ReceiveInto, Tag::of(key), entry);
    }

    fn cancel_receive(&mut self, key: Key) {
        self.cancel(Operation::Receive, Tag::of(key));
    }

    fn cancel_receive_into(&mut self, key: Key) {
        self.cancel(Operation::ReceiveInto, Tag::of(key));
    }

    fn send(&mut self, socket: &OwnedFd, key: Key, batch: Box<SendBatch>) {
        let fd = types::Fd(socket.as_raw_fd());
        let entry = if let Some(run) = single(&batch) {
            opcode::Send::new(fd, run.as_ptr(), run.len().min(u32::MAX as usize) as u32)
                .flags(libc::MSG_NOSIGNAL)
                .build()
        } else {
            let mut vectors = self.spare_vectors.pop().unwrap_or_else(Vectors::boxed);
            let mut count = 0;
            for run in batch.pending().take(SEND_SEGMENTS_MAX) {
                vectors.runs[count] = libc::iovec {
                    iov_base: run.as_ptr().cast_mut().cast(),
                    iov_len: run.len(),
                };
                count += 1;
            }
            vectors.header.msg_iov = vectors.runs.as_mut_ptr();
            vectors.header.msg_iovlen = count as _;
            let entry = opcode::SendMsg::new(fd, &raw const vectors.header)
                .flags(libc::MSG_NOSIGNAL as u32)
                .build();
            self.vectors.insert(key.index, vectors);
            entry
        };
        let index = key.index as usize;
        self.sends.grow_to(index, || None);
        debug_assert!(self.sends[index].is_none());
        self.sends[index] = Some(batch);
        self.start(Operation::Send, Tag::of(key), entry);
    }

    fn cancel_send(&mut self, key: Key) {
        self.cancel(Operation::Send, Tag::of(key));
    }

    fn shutdown_write(&mut self, socket: &OwnedFd) {
        // A peer that is gone already needs no end.
        let _ = socket2::SockRef::from(socket).shutdown(std::net::Shutdown::Write);
    }

    fn set_reset(&mut self, socket: &OwnedFd) {
        // Without it the close is an orderly one, which is no worse than the peer deserves.
        let _ = socket2::SockRef::from(socket).set_linger(Some(Duration::ZERO));
    }

    fn close(&mut self, socket: OwnedFd, key: Key) {
        // The descriptor's ownership passes to the kernel with the close operation.
        let entry = opcode::Close::new(types::Fd(socket.into_raw_fd())).build();
        self.start(Operation::Close, Tag::of(key), entry);
    }

    fn peer_addr(&self, socket: &OwnedFd) -> Option<SocketAddr> {
        socket2::SockRef::from(socket).peer_addr().ok()?.as_socket()
    }

    fn unsent_bytes(&self, socket: &OwnedFd) -> usize {
        socket::unsent_bytes(socket.as_fd())
    }

    fn enter(&mut self) {
        let to_submit = self.ring.0.submission().len() as u32;
        let flags = io_uring::EnterFlags::GETEVENTS.bits();
        loop {
            // SAFETY: no argument structure is passed; the entries in the queue are covered by
            // the reasoning at `push`.
            let entered = unsafe {
                let submitter = self.ring.0.submitter();
                submitter.enter::<libc::sigset_t>(to_submit, 0, flags, None)
            };
            match entered {
                Ok(_) => return,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                // EBUSY: the completion queue must be emptied first, which the caller does next.
                // EAGAIN: memory is short; the entries stay queued for the next enter.
                Err(_) => {
                    self.enter_failures += 1;
                    return;
                }
            }
        }
    }

    fn has_submissions(&mut self) -> bool {
        !self.ring.0.submission().is_empty()
    }

    fn has_work(&self) -> bool {
        // The eventfd is signalled only by what becomes ready while nothing else is, and one enter works
        // off no more than 20 (since Linux 6.13). What is left, some of which ends without a
        // completion, is told by a flag alone; without it the next to become ready would wake nobody.
        // SAFETY: no other view of the submission queue exists while `self` is borrowed here, and the
        // shared view only reads the flag.
        unsafe { self.ring.0.submission_shared() }.taskrun()
    }

    fn next_completion(&mut self) -> Option<Completion<OwnedFd>> {
        loop {
            let entry = self.ring.0.completion().next()?;
            if let Some(completion) = self.on_entry(&entry) {
                return Some(completion);
            }
        }
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
        self.buffers.free()
    }

    fn enter_failures(&self) -> u64 {
        self.enter_failures
    }

    fn overflows(&self) -> u64 {
        // SAFETY: no other view of the completion queue exists while `self` is borrowed here, and
        // the shared view only reads the overflow counter.
        u64::from(unsafe { self.ring.0.completion_shared() }.overflow())
    }
}

impl SystemKernel for UringKernel {
    fn adopt(stream: TcpStream) -> io::Result<OwnedFd> {
        // Blocking on purpose, as accepted sockets are: the ring waits, no thread does.
        stream.set_nonblocking(false)?;
        Ok(stream.into())
    }

    fn wait(&mut self, timeout: Duration) {
        if timeout.is_zero() {
            return self.enter();
        }
        // What is queued is in the ring's memory once its view is dropped.
        drop(self.ring.0.submission());
        let timespec = types::Timespec::from(timeout);
        let args = types::SubmitArgs::new().timespec(&timespec);
        if let Err(error) = self.ring.0.submitter().submit_with_args(1, &args)
            && !matches!(error.raw_os_error(), Some(libc::ETIME | libc::EINTR))
        {
            self.enter_failures += 1;
        }
    }
}

impl Drop for UringKernel {
    fn drop(&mut self) {
        if self.in_flight > 0 {
            self.buffers.leak();
            for batch in self.sends.iter_mut().filter_map(Option::take) {
                // Its bytes are its segments', wherever the batch itself is.
                Box::leak(batch);
            }
            for (_, vectors) in self.vectors.drain() {
                Box::leak(vectors);
            }
            for (_, buf) in self.receives.drain() {
                buf.leak();
            }
        }
    }
}

impl Vectors {
    fn boxed() -> Box<Self> {
        Box::new(Self {
            // SAFETY: all-zero is a valid msghdr and a valid iovec: null pointers with length 0.
            header: unsafe { std::mem::zeroed() },
            runs: [libc::iovec {
                iov_base: ptr::null_mut(),
                iov_len: 0,
            }; SEND_SEGMENTS_MAX],
        })
    }
}

/// The batch's pending bytes if they are one run.
fn single(batch: &SendBatch) -> Option<&[u8]> {
    let mut runs = batch.pending();
    let first = runs.next()?;
    runs.next().is_none().then_some(first)
}

const fn listener_tag(listener: ListenerId) -> Tag {
    Tag {
        index: listener as u32,
        generation: 0,
    }
}

#[cfg(test)]
mod tests;
