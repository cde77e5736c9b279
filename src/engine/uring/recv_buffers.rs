//! The ring through which the kernel takes receive buffers.
//!
//! Since Linux 6.12 the kernel fills a buffer piece behind piece, whatever connection the bytes are
//! for (`IOU_PBUF_RING_INC`): many small messages share a few cache lines and never find all buffers
//! taken, and a large one comes in few pieces. Before, a buffer holds one arrival, so the same memory
//! is cut into more of them.

use std::{
    alloc::{self, Layout},
    io,
    ptr::NonNull,
    sync::atomic::{AtomicU16, Ordering},
};

use io_uring::{IoUring, types};

use super::{
    BUFFER_GROUP,
    error::{UringError, missing, other},
};
use crate::engine::{
    Chunk, Lender,
    buffers::{self, Pool},
};

/// The receive buffers, and the ring through which the kernel takes them.
#[derive(Debug)]
pub(super) struct RecvBuffers {
    pool: Pool,
    entries: NonNull<types::BufRingEntry>,
    count: u16,
    tail: u16,
    /// Buffers that the kernel may still fill.
    with_kernel: u16,
    leaked: bool,
}

impl RecvBuffers {
    /// Makes `count` buffers of `bytes` each, or more and smaller ones, and gives them to the kernel.
    pub(super) fn new(ring: &IoUring, count: u16, bytes: u32) -> Result<Self, UringError> {
        assert!(
            count.is_power_of_two() && bytes > 0,
            "invariant: checked by config"
        );
        match Self::register(ring, count, bytes, FILLED_BY_PIECES) {
            Err(error) if error.raw_os_error() == Some(libc::EINVAL) => {
                let (count, bytes) = buffers::cut(count, bytes);
                Self::register(ring, count, bytes, 0)
            }
            made => made,
        }
        .map_err(|error| match error.raw_os_error() {
            Some(libc::EINVAL) => missing("io_uring buffer rings"),
            Some(libc::ENOMEM) => UringError::Memory(error),
            _ => other("registering the receive buffers")(error),
        })
    }

    fn register(ring: &IoUring, count: u16, bytes: u32, flags: u16) -> io::Result<Self> {
        let layout = entries_layout(count);
        // SAFETY: the layout's size is above zero.
        let entries = unsafe { alloc::alloc_zeroed(layout) };
        let Some(entries) = NonNull::new(entries.cast::<types::BufRingEntry>()) else {
            alloc::handle_alloc_error(layout)
        };
        let mut buffers = Self {
            pool: Pool::new(count, bytes),
            entries,
            count,
            tail: 0,
            with_kernel: 0,
            leaked: false,
        };
        // SAFETY: the entries are page-aligned, `count` of them, and live until the ring is gone:
        // `UringKernel` drops its ring first (field order) and leaks them if anything is in flight.
        unsafe {
            ring.submitter().register_buf_ring_with_flags(
                entries.as_ptr() as u64,
                count,
                BUFFER_GROUP,
                flags,
            )
        }?;
        buffers.provide_idle();
        Ok(buffers)
    }

    /// The kernel has filled the next `len` bytes of a buffer; `more` if it goes on with it.
    #[inline]
    pub(super) fn on_filled(&mut self, buffer: u16, len: u32, more: bool) -> Chunk {
        self.with_kernel -= u16::from(!more);
        self.pool.piece(buffer, len, more)
    }

    pub(super) fn chunk_mut(&mut self, chunk: &Chunk) -> &mut [u8] {
        self.pool.chunk_mut(chunk)
    }

    #[inline]
    pub(super) fn release(&mut self, chunk: &Chunk) {
        self.pool.release(chunk);
        self.provide_idle();
    }

    pub(super) fn lender(&self, chunk: &Chunk) -> Lender {
        self.pool.lender(chunk)
    }

    /// Buffers that the kernel may still fill, those that loans have given back included.
    pub(super) fn free(&mut self) -> usize {
        self.provide_idle();
        usize::from(self.with_kernel)
    }

    /// Never frees what the kernel may still write to.
    pub(super) fn leak(&mut self) {
        self.leaked = true;
        self.pool.leak();
    }

    /// Gives the kernel all buffers that nobody needs.
    fn provide_idle(&mut self) {
        let before = self.tail;
        while let Some(buffer) = self.pool.begin() {
            let slot = usize::from(self.tail & (self.count - 1));
            // SAFETY: `slot` is below `count`; the kernel reads an entry only after the tail, stored
            // below with release, has passed it, and this thread alone writes both.
            let entry = unsafe { &mut *self.entries.as_ptr().add(slot) };
            entry.set_addr(self.pool.address(buffer) as u64);
            entry.set_len(self.pool.buffer_bytes());
            entry.set_bid(buffer);
            self.tail = self.tail.wrapping_add(1);
            self.with_kernel += 1;
        }
        if self.tail != before {
            // SAFETY: the tail lies in the first entry.
            unsafe {
                let tail = types::BufRingEntry::tail(self.entries.as_ptr());
                AtomicU16::from_ptr(tail.cast_mut()).store(self.tail, Ordering::Release);
            }
        }
    }
}

impl Drop for RecvBuffers {
    fn drop(&mut self) {
        if !self.leaked {
            let layout = entries_layout(self.count);
            // SAFETY: allocated in `register` with this very layout, and the kernel does not use it
            // any more: `UringKernel` leaks it otherwise.
            unsafe { alloc::dealloc(self.entries.as_ptr().cast(), layout) };
        }
    }
}

fn entries_layout(count: u16) -> Layout {
    let bytes = size_of::<types::BufRingEntry>() * usize::from(count);
    Layout::from_size_align(bytes, buffers::PAGE_BYTES).expect("invariant: config bounds the sizes")
}

/// `IOU_PBUF_RING_INC`.
const FILLED_BY_PIECES: u16 = 2;
