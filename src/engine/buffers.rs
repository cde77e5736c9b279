//! The receive buffers that all connections of a core share, and who still needs each of them.
//!
//! A buffer is filled piece behind piece or in one go, as its kernel does it. A piece is handed out
//! as a [`Chunk`], to be worked on in place; what is to be sent from where it was received is *lent*
//! ([`Lender::lend`]) and outlives the chunk. A buffer goes back to its kernel once the kernel is done
//! with it and no piece of it is in use:
//!
//! ```text
//!   idle ──begin──▶ being filled ──the last piece──▶ full ──no chunk, no loan──▶ idle
//!                        │ a piece: a chunk is out       ▲ a loan may outlive its chunk
//! ```
//!
//! The unsafe code here is what hands out views of the one block of memory. It rests on this: a piece
//! is written by the kernel before its chunk exists, through [`Pool::chunk_mut`] while the pool is
//! borrowed, and by nobody once it has been lent and its chunk released; and a buffer is filled again
//! only when every chunk and loan of it is gone.

use std::{
    alloc::{self, Layout},
    cell::{Cell, RefCell},
    ptr::NonNull,
    rc::Rc,
};

use super::Chunk;

/// All buffers of one core.
#[derive(Debug)]
pub(super) struct Pool {
    shared: Rc<Shared>,
}

/// What the pool and its loans share.
#[derive(Debug)]
struct Shared {
    memory: NonNull<u8>,
    buffer_bytes: u32,
    states: Box<[Cell<State>]>,
    /// Buffers that nobody needs, the last one last.
    idle: RefCell<Vec<u16>>,
    /// Buffers that a loan is of.
    lent: Cell<u16>,
    /// What a late reader of a buffer would find is plainly not the data.
    poisons: bool,
}

#[derive(Clone, Copy, Debug, Default)]
struct State {
    /// How much of it is filled.
    filled: u32,
    /// Who needs it: whoever fills it, each chunk, each loan.
    uses: u32,
    /// The loans among them.
    loans: u32,
}

/// Bytes that were received and are to be sent from where they are. Dropping it gives them back.
#[derive(Debug)]
struct Loan {
    shared: Rc<Shared>,
    buffer: u16,
    start: u32,
    len: u32,
}

/// Lends parts of one chunk, as long as the pool can do without them.
#[derive(Clone, Debug)]
pub struct Lender {
    shared: Rc<Shared>,
    buffer: u16,
    start: u32,
    len: u32,
}

impl Pool {
    /// `count` buffers of `buffer_bytes` each, all idle. Their memory is there from the start: it counts
    /// against the core's budget anyway, and no arrival has to wait for a page.
    pub(super) fn new(count: u16, buffer_bytes: u32) -> Self {
        Self::with_poison(count, buffer_bytes, false)
    }

    /// As [`Pool::new`], for tests: an idle buffer is overwritten.
    pub(super) fn poisoning(count: u16, buffer_bytes: u32) -> Self {
        Self::with_poison(count, buffer_bytes, true)
    }

    fn with_poison(count: u16, buffer_bytes: u32, poisons: bool) -> Self {
        assert!(
            count > 0 && buffer_bytes > 0,
            "invariant: checked by config"
        );
        let layout = layout(count, buffer_bytes);
        // SAFETY: the layout's size is above zero.
        let memory = unsafe { alloc::alloc_zeroed(layout) };
        let Some(memory) = NonNull::new(memory) else {
            alloc::handle_alloc_error(layout)
        };
        for page in (0..layout.size()).step_by(PAGE_BYTES) {
            // SAFETY: within the memory that was just allocated.
            unsafe { memory.as_ptr().add(page).write_volatile(0) };
        }
        Self {
            shared: Rc::new(Shared {
                memory,
                buffer_bytes,
                states: vec![Cell::default(); usize::from(count)].into(),
                idle: RefCell::new((0..count).rev().collect()),
                lent: Cell::new(0),
                poisons,
            }),
        }
    }

    /// Bytes of each buffer.
    pub(super) fn buffer_bytes(&self) -> u32 {
        self.shared.buffer_bytes
    }

    /// How many buffers there are.
    pub(super) fn count(&self) -> u16 {
        self.shared.states.len() as u16
    }

    /// How many are idle.
    pub(super) fn idle(&self) -> usize {
        self.shared.idle.borrow().len()
    }

    /// Takes an idle buffer to be filled from its beginning. It is in use until its last piece has
    /// been told ([`Pool::piece`]), or until it is given back unfilled ([`Pool::give_back`]).
    pub(super) fn begin(&mut self) -> Option<u16> {
        let buffer = self.shared.idle.borrow_mut().pop()?;
        self.shared.state(buffer).set(State {
            uses: 1,
            ..State::default()
        });
        Some(buffer)
    }

    /// A buffer that was begun is not filled after all.
    pub(super) fn give_back(&mut self, buffer: u16) {
        self.shared.release(buffer, false);
    }

    /// Where a buffer lies, for a kernel that fills it by itself.
    pub(super) fn address(&self, buffer: u16) -> *mut u8 {
        self.shared.at(buffer, 0)
    }

    /// The whole space of a buffer that was begun and has no piece yet.
    pub(super) fn space_mut(&mut self, buffer: u16) -> &mut [u8] {
        let state = self.shared.state(buffer).get();
        assert!(state.uses == 1 && state.filled == 0, "a buffer in use");
        // SAFETY: within the memory; nobody else sees it, as it is neither idle nor has a piece, and
        // the pool is borrowed as long as the view lives.
        unsafe {
            std::slice::from_raw_parts_mut(
                self.shared.at(buffer, 0),
                self.shared.buffer_bytes as usize,
            )
        }
    }

    /// The next `len` bytes of a buffer have been filled; `more` if others will follow in it.
    pub(super) fn piece(&mut self, buffer: u16, len: u32, more: bool) -> Chunk {
        let cell = self.shared.state(buffer);
        let mut state = cell.get();
        let start = state.filled;
        assert!(
            state.uses > 0 && len <= self.shared.buffer_bytes - start,
            "a piece beyond its buffer"
        );
        state.filled += len;
        // What the filling held passes to the last piece.
        state.uses += u32::from(more);
        cell.set(state);
        Chunk { buffer, start, len }
    }

    /// A chunk's bytes.
    pub(super) fn chunk_mut(&mut self, chunk: &Chunk) -> &mut [u8] {
        let state = self.shared.state(chunk.buffer).get();
        assert!(
            state.uses > 0 && chunk.start + chunk.len <= state.filled,
            "a chunk is used after it was released"
        );
        // SAFETY: within the memory, as just checked; the kernel has filled these bytes and does not
        // touch them again before the buffer has been idle; chunks do not overlap; a loan of this
        // very chunk is not read before the chunk is released (see the module).
        unsafe {
            std::slice::from_raw_parts_mut(
                self.shared.at(chunk.buffer, chunk.start),
                chunk.len as usize,
            )
        }
    }

    /// A chunk is no longer needed.
    pub(super) fn release(&mut self, chunk: &Chunk) {
        self.shared.release(chunk.buffer, false);
    }

    /// Who lends parts of `chunk`.
    pub(super) fn lender(&self, chunk: &Chunk) -> Lender {
        Lender {
            shared: Rc::clone(&self.shared),
            buffer: chunk.buffer,
            start: chunk.start,
            len: chunk.len,
        }
    }

    /// Never frees the memory: something may still write to it.
    pub(super) fn leak(&self) {
        std::mem::forget(Rc::clone(&self.shared));
    }
}

impl Lender {
    /// Lends `bytes`, which must lie in the chunk, to be sent from where they are, unless three
    /// quarters of the buffers are lent already: the others are for what comes in. The bytes must not
    /// be written to any more.
    pub fn lend(&self, bytes: &[u8]) -> Option<Box<dyn AsRef<[u8]>>> {
        let shared = &self.shared;
        let base = shared.at(self.buffer, self.start) as usize;
        let offset = (bytes.as_ptr() as usize).checked_sub(base)?;
        if offset + bytes.len() > self.len as usize {
            return None;
        }
        let cell = shared.state(self.buffer);
        let mut state = cell.get();
        if state.loans == 0 {
            if usize::from(shared.lent.get()) >= shared.states.len() * 3 / 4 {
                return None;
            }
            shared.lent.set(shared.lent.get() + 1);
        }
        state.loans += 1;
        state.uses += 1;
        cell.set(state);
        Some(Box::new(Loan {
            shared: Rc::clone(shared),
            buffer: self.buffer,
            start: self.start + offset as u32,
            len: bytes.len() as u32,
        }))
    }
}

impl AsRef<[u8]> for Loan {
    fn as_ref(&self) -> &[u8] {
        // SAFETY: within the memory, as `lend` has checked; nobody writes to what is lent.
        unsafe {
            std::slice::from_raw_parts(self.shared.at(self.buffer, self.start), self.len as usize)
        }
    }
}

impl Drop for Loan {
    fn drop(&mut self) {
        self.shared.release(self.buffer, true);
    }
}

impl Shared {
    fn state(&self, buffer: u16) -> &Cell<State> {
        &self.states[usize::from(buffer)]
    }

    fn at(&self, buffer: u16, start: u32) -> *mut u8 {
        assert!(usize::from(buffer) < self.states.len() && start <= self.buffer_bytes);
        let offset = usize::from(buffer) * self.buffer_bytes as usize + start as usize;
        // SAFETY: within the memory or at its end, as just checked.
        unsafe { self.memory.as_ptr().add(offset) }
    }

    fn release(&self, buffer: u16, is_loan: bool) {
        let cell = self.state(buffer);
        let mut state = cell.get();
        assert!(state.uses > 0, "a buffer is released twice");
        state.uses -= 1;
        if is_loan {
            state.loans -= 1;
            if state.loans == 0 {
                self.lent.set(self.lent.get() - 1);
            }
        }
        cell.set(state);
        if state.uses == 0 {
            if self.poisons {
                // SAFETY: the whole buffer, which nobody needs any more.
                unsafe {
                    self.at(buffer, 0)
                        .write_bytes(0xdb, self.buffer_bytes as usize);
                }
            }
            self.idle.borrow_mut().push(buffer);
        }
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        let layout = layout(self.states.len() as u16, self.buffer_bytes);
        // SAFETY: allocated in `Pool::new` with this very layout; no view of it is left.
        unsafe { alloc::dealloc(self.memory.as_ptr(), layout) };
    }
}

/// As much memory in buffers that hold one arrival each.
pub(super) fn cut(count: u16, bytes: u32) -> (u16, u32) {
    let mut cut = (count, bytes);
    while cut.1 >= 2 * ARRIVAL_BYTES && cut.0 <= u16::MAX / 4 {
        cut = (cut.0 * 2, cut.1 / 2);
    }
    cut
}

fn layout(count: u16, buffer_bytes: u32) -> Layout {
    Layout::from_size_align(usize::from(count) * buffer_bytes as usize, PAGE_BYTES)
        .expect("invariant: config bounds the sizes")
}

/// Enough for most of what arrives at once.
const ARRIVAL_BYTES: u32 = 16 * 1024;
/// Bytes of a page, to which what the kernel uses is aligned.
pub(super) const PAGE_BYTES: usize = 4096;

#[cfg(test)]
mod tests {
    use super::*;

    /// Fills the next bytes of `buffer`.
    fn fill(pool: &mut Pool, buffer: u16, bytes: &[u8], more: bool) -> Chunk {
        let chunk = pool.piece(buffer, bytes.len() as u32, more);
        pool.chunk_mut(&chunk).copy_from_slice(bytes);
        chunk
    }

    #[test]
    fn cutting_keeps_the_memory() {
        assert_eq!(cut(16, 64 << 10), (64, 16 << 10));
        assert_eq!(cut(64, 16 << 10), (64, 16 << 10));
        assert_eq!(cut(4, 4096), (4, 4096));
        assert_eq!(cut(1 << 15, 64 << 10), (1 << 15, 64 << 10));
    }

    #[test]
    fn pieces_of_a_buffer_lie_one_behind_the_other() {
        let mut pool = Pool::poisoning(2, 16);
        let buffer = pool.begin().unwrap();
        let first = fill(&mut pool, buffer, b"abc", true);
        let second = fill(&mut pool, buffer, b"defg", false);
        assert_eq!(pool.chunk_mut(&first), b"abc");
        pool.release(&first);
        assert_eq!(pool.chunk_mut(&second), b"defg");
        assert_eq!(pool.idle(), 1);
        pool.release(&second);
        assert_eq!(pool.idle(), 2);
    }

    #[test]
    fn a_loan_outlives_its_chunk_and_keeps_the_buffer() {
        let mut pool = Pool::poisoning(4, 16);
        let buffer = pool.begin().unwrap();
        let chunk = fill(&mut pool, buffer, b"header payload", false);
        let lender = pool.lender(&chunk);
        let loan = lender.lend(&pool.chunk_mut(&chunk)[7..]).unwrap();
        let other = lender.lend(&pool.chunk_mut(&chunk)[..6]).unwrap();
        pool.release(&chunk);
        assert_eq!(pool.idle(), 3);
        assert_eq!((*loan).as_ref(), b"payload");
        drop(loan);
        assert_eq!((*other).as_ref(), b"header");
        drop(other);
        assert_eq!(pool.idle(), 4);
        assert_eq!(pool.shared.lent.get(), 0);
    }

    #[test]
    fn a_quarter_of_the_buffers_is_never_lent() {
        let mut pool = Pool::new(4, 8);
        let mut loans = Vec::new();
        let chunks: Vec<Chunk> = (0..4)
            .map(|_| {
                let buffer = pool.begin().unwrap();
                let chunk = fill(&mut pool, buffer, b"12345678", false);
                let lender = pool.lender(&chunk);
                loans.push(lender.lend(pool.chunk_mut(&chunk)));
                chunk
            })
            .collect();
        let lent: Vec<bool> = loans.iter().map(Option::is_some).collect();
        assert_eq!(lent, [true, true, true, false]);
        // Another part of a buffer that is lent already costs nothing.
        assert!(
            pool.lender(&chunks[0])
                .lend(&pool.chunk_mut(&chunks[0])[..1])
                .is_some()
        );
        loans.clear();
        assert!(
            pool.lender(&chunks[3])
                .lend(pool.chunk_mut(&chunks[3]))
                .is_some()
        );
    }

    #[test]
    fn what_is_not_of_the_chunk_is_not_lent() {
        let mut pool = Pool::new(2, 8);
        let buffer = pool.begin().unwrap();
        let first = fill(&mut pool, buffer, b"1234", true);
        let second = fill(&mut pool, buffer, b"5678", false);
        assert!(pool.lender(&first).lend(b"1234").is_none());
        assert!(pool.lender(&first).lend(pool.chunk_mut(&second)).is_none());
        assert!(pool.lender(&second).lend(pool.chunk_mut(&first)).is_none());
    }

    #[test]
    fn loans_may_outlive_the_pool() {
        let mut pool = Pool::new(2, 8);
        let buffer = pool.begin().unwrap();
        let chunk = fill(&mut pool, buffer, b"1234", false);
        let loan = pool.lender(&chunk).lend(pool.chunk_mut(&chunk)).unwrap();
        drop(pool);
        assert_eq!((*loan).as_ref(), b"1234");
    }

    #[test]
    #[should_panic(expected = "released twice")]
    fn a_buffer_is_not_released_twice() {
        let mut pool = Pool::new(1, 8);
        let buffer = pool.begin().unwrap();
        let chunk = fill(&mut pool, buffer, b"1", false);
        pool.release(&chunk);
        pool.release(&chunk);
    }
}
