//! The ring and its receive buffers: what the server asks of the kernel, and what comes back.

use std::{
    alloc::{Layout, alloc_zeroed, handle_alloc_error},
    io,
    ptr::NonNull,
    sync::atomic::{AtomicU16, Ordering},
};

use io_uring::{IoUring, cqueue, opcode, squeue, types};

/// What an operation was, in the upper byte of its user data.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Operation {
    Accept,
    Receive,
    /// A connection's own send.
    Send,
    /// A send from a room's log; names the room and the place in it.
    Deliver,
    Cancel,
    Close,
}

impl Operation {
    const ALL: [Self; 6] = [
        Self::Accept,
        Self::Receive,
        Self::Send,
        Self::Deliver,
        Self::Cancel,
        Self::Close,
    ];

    /// Operation (8 bits), room (24), connection or place in the room (32).
    pub(crate) const fn tag(self, room: u32, index: u32) -> u64 {
        ((self as u64) << 56) | ((room as u64) << 32) | index as u64
    }
}

/// One completion.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Completion {
    pub(crate) operation: Operation,
    pub(crate) room: u32,
    pub(crate) index: u32,
    pub(crate) result: i32,
    /// The receive buffer that was filled.
    pub(crate) buffer: Option<u16>,
    /// The kernel goes on filling that buffer.
    pub(crate) buffer_more: bool,
    /// More completions of the same operation follow.
    pub(crate) more: bool,
}

/// A ring that one thread enters.
pub(crate) struct Ring {
    ring: IoUring,
}

impl Ring {
    /// Makes the ring, with room for `connections` direct descriptors.
    pub(crate) fn new(connections: u32) -> io::Result<Self> {
        let ring = IoUring::builder()
            .setup_single_issuer()
            .setup_defer_taskrun()
            .setup_coop_taskrun()
            .setup_submit_all()
            .setup_no_sqarray()
            .setup_cqsize(CQ_ENTRIES)
            .build(SQ_ENTRIES)?;
        ring.submitter().register_files_sparse(connections)?;
        Ok(Self { ring })
    }

    /// Submits what is queued, and waits until something has completed.
    pub(crate) fn submit_and_wait(&mut self) -> io::Result<()> {
        match self.ring.submit_and_wait(1) {
            Ok(_) => Ok(()),
            Err(error) if error.raw_os_error() == Some(libc::EINTR) => Ok(()),
            // Completions must be taken first, which the caller does next.
            Err(error) if error.raw_os_error() == Some(libc::EBUSY) => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// The next completion, if one has arrived.
    #[inline]
    pub(crate) fn completion(&mut self) -> Option<Completion> {
        let entry = self.ring.completion().next()?;
        let data = entry.user_data();
        Some(Completion {
            operation: Operation::ALL[(data >> 56) as usize],
            room: (data >> 32) as u32 & 0xFF_FFFF,
            index: data as u32,
            result: entry.result(),
            buffer: cqueue::buffer_select(entry.flags()),
            buffer_more: cqueue::buffer_more(entry.flags()),
            more: cqueue::more(entry.flags()),
        })
    }

    #[inline]
    fn push(&mut self, entry: &squeue::Entry) {
        loop {
            // SAFETY: what an entry points to is the caller's promise, made at `send` and
            // `send_many`; the other operations point to nothing.
            if unsafe { self.ring.submission().push(entry) }.is_ok() {
                return;
            }
            // The queue is full. If the kernel can't take it just now, it can a moment later.
            let _ = self.ring.submit();
        }
    }

    /// Accepts on `listener` from now on, into direct descriptors that the kernel chooses.
    pub(crate) fn accept(&mut self, listener: i32) {
        let entry = opcode::AcceptMulti::new(types::Fd(listener))
            .allocate_file_index(true)
            .build();
        self.push(&entry.user_data(Operation::Accept.tag(0, 0)));
    }

    /// Receives from a connection from now on, until no buffer is left or it ends.
    pub(crate) fn receive(&mut self, connection: u32) {
        let entry = opcode::RecvMulti::new(types::Fixed(connection), GROUP).build();
        self.push(&entry.user_data(Operation::Receive.tag(0, connection)));
    }

    /// Sends `bytes`, under the given tag.
    ///
    /// # Safety
    /// The bytes must stay where they are, and as they are, until the completion.
    #[inline]
    pub(crate) unsafe fn send(&mut self, connection: u32, bytes: *const [u8], tag: u64) {
        let len = u32::try_from(bytes.len()).unwrap_or(u32::MAX);
        let entry = opcode::Send::new(types::Fixed(connection), bytes.cast(), len)
            .flags(libc::MSG_NOSIGNAL)
            .build();
        self.push(&entry.user_data(tag));
    }

    /// Sends all that `header` names, in one go.
    ///
    /// # Safety
    /// The header, its vector and what that names must stay until the completion.
    pub(crate) unsafe fn send_many(
        &mut self,
        connection: u32,
        header: *const libc::msghdr,
        tag: u64,
    ) {
        let entry = opcode::SendMsg::new(types::Fixed(connection), header)
            .flags(libc::MSG_NOSIGNAL as u32)
            .build();
        self.push(&entry.user_data(tag));
    }

    /// Ends a receive early; its last completion follows.
    pub(crate) fn cancel_receive(&mut self, connection: u32) {
        let entry = opcode::AsyncCancel::new(Operation::Receive.tag(0, connection)).build();
        self.push(&entry.user_data(Operation::Cancel.tag(0, connection)));
    }

    /// Closes a connection that has nothing in flight.
    pub(crate) fn close(&mut self, connection: u32) {
        let entry = opcode::Close::new(types::Fixed(connection)).build();
        self.push(&entry.user_data(Operation::Close.tag(0, connection)));
    }
}

/// The shared receive buffers. All of them together stay near the size of the second-level cache.
///
/// The kernel fills them piece behind piece, whatever connection the bytes are from: many small
/// messages share a few cache lines and never find all buffers taken, and a large one comes in few
/// pieces.
pub(crate) struct Buffers {
    entries: NonNull<types::BufRingEntry>,
    memory: NonNull<u8>,
    /// Who still needs each: the kernel, as long as it fills it, and pieces that are to be sent.
    held: [u16; BUFFERS as usize],
    /// How much of each is filled.
    filled: [u32; BUFFERS as usize],
    tail: u16,
    free: u16,
}

impl Buffers {
    /// Allocates the buffers and gives them all to the ring.
    pub(crate) fn new(ring: &Ring) -> io::Result<Self> {
        let entries = allocate(size_of::<types::BufRingEntry>() * usize::from(BUFFERS)).cast();
        let memory = allocate(BUFFER_BYTES as usize * usize::from(BUFFERS));
        // SAFETY: page-aligned, zeroed, of `BUFFERS` entries, and never freed.
        unsafe {
            ring.ring.submitter().register_buf_ring_with_flags(
                entries.as_ptr() as u64,
                BUFFERS,
                GROUP,
                FILLED_BY_AND_BY,
            )?;
        }
        let mut buffers = Self {
            entries,
            memory,
            held: [0; BUFFERS as usize],
            filled: [0; BUFFERS as usize],
            tail: 0,
            free: 0,
        };
        for buffer in 0..BUFFERS {
            buffers.provide(buffer);
        }
        buffers.publish();
        Ok(buffers)
    }

    /// The kernel has put `len` bytes into a buffer, behind what it had put there before: says where.
    /// They are held until they are released.
    #[inline]
    pub(crate) fn take(&mut self, buffer: u16, len: usize, more: bool) -> *mut u8 {
        let number = usize::from(buffer);
        let at = self.filled[number] as usize;
        assert!(at + len <= BUFFER_BYTES as usize);
        self.filled[number] += len as u32;
        if more {
            self.held[number] += 1;
        } else {
            // What the kernel held is the piece's now.
            self.free -= 1;
        }
        // SAFETY: within `memory`, as just checked.
        unsafe {
            self.memory
                .as_ptr()
                .add(number * BUFFER_BYTES as usize + at)
        }
    }

    /// A piece of it is to be sent.
    #[inline]
    pub(crate) fn hold(&mut self, buffer: u16) {
        self.held[usize::from(buffer)] += 1;
    }

    /// One use of it is over; after the last one it goes back to the kernel.
    #[inline]
    pub(crate) fn release(&mut self, buffer: u16) {
        let held = &mut self.held[usize::from(buffer)];
        *held -= 1;
        if *held == 0 {
            self.provide(buffer);
        }
    }

    /// How many the kernel has, those not yet published included.
    pub(crate) fn free(&self) -> u16 {
        self.free
    }

    #[inline]
    fn provide(&mut self, buffer: u16) {
        let number = usize::from(buffer);
        // SAFETY: the buffer lies within the memory and the slot within the entries; the kernel
        // reads it only once the tail, stored by `publish`, has passed it.
        unsafe {
            let memory = self.memory.as_ptr().add(number * BUFFER_BYTES as usize);
            let slot = usize::from(self.tail & (BUFFERS - 1));
            let entry = &mut *self.entries.as_ptr().add(slot);
            entry.set_addr(memory as u64);
            entry.set_len(BUFFER_BYTES);
            entry.set_bid(buffer);
        }
        self.held[number] = 1;
        self.filled[number] = 0;
        self.tail = self.tail.wrapping_add(1);
        self.free += 1;
    }

    /// Lets the kernel see what was given back.
    #[inline]
    pub(crate) fn publish(&mut self) {
        // SAFETY: the tail lies in the first entry, which lives as long as the program.
        unsafe {
            let tail = types::BufRingEntry::tail(self.entries.as_ptr());
            AtomicU16::from_ptr(tail.cast_mut()).store(self.tail, Ordering::Release);
        }
    }
}

/// Zeroed, page-aligned, never freed.
fn allocate(bytes: usize) -> NonNull<u8> {
    let layout = Layout::from_size_align(bytes, 4096).expect("invariant: small constants");
    // SAFETY: the size is not zero.
    let memory = unsafe { alloc_zeroed(layout) };
    NonNull::new(memory).unwrap_or_else(|| handle_alloc_error(layout))
}

const GROUP: u16 = 0;
/// Small, so that it stays in the first-level cache: entering more often costs less than that.
const SQ_ENTRIES: u32 = 256;
const CQ_ENTRIES: u32 = 4096;
/// Receive buffers, a power of two, and the bytes of each: 1 MiB in all.
const BUFFERS: u16 = 16;
const BUFFER_BYTES: u32 = 64 * 1024;
/// `IOU_PBUF_RING_INC`, of Linux 6.12.
const FILLED_BY_AND_BY: u16 = 2;
