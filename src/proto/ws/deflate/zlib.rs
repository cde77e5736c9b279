//! zlib's streams of raw DEFLATE data (RFC 1951), as values that can't be used wrongly.
//!
//! Everything unsafe about compression is here: a stream lives in a box of its own, since zlib
//! keeps its address; pointers are set for each call from slices that outlive it; and what a call
//! has written is what it says it has written. What the bytes mean is for others.

use std::ffi::{c_int, c_void};
use std::mem::{MaybeUninit, size_of};

use libz_sys as z;

/// What a call came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Status {
    /// It went on, or could not go on without more input or more room.
    Ok,
    /// The input's final block has ended.
    StreamEnd,
    /// The input is not DEFLATE data.
    DataError,
    /// There is no memory for the window.
    OutOfMemory,
}

/// A stream that compresses.
#[derive(Debug)]
pub(super) struct Deflate(Box<Stream>);

/// A stream that decompresses.
#[derive(Debug)]
pub(super) struct Inflate(Box<Stream>);

/// zlib's part. It is never moved, and nothing but zlib changes its fields between calls.
#[repr(transparent)]
struct Stream(z::z_stream);

impl std::fmt::Debug for Stream {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Stream").finish_non_exhaustive()
    }
}

// SAFETY: zlib keeps nothing by thread; all that a stream points to belongs to it alone.
unsafe impl Send for Stream {}

impl Stream {
    /// A stream to be initialised, with zlib's own allocator.
    fn new() -> Box<Self> {
        let mut stream = Box::new(MaybeUninit::<Self>::zeroed());
        let at: *mut z::z_stream = stream.as_mut_ptr().cast();
        // SAFETY: `at` points into the box, which is live and large enough: `Stream` is a
        // transparent wrapper. Functions must not be null in a value of
        // their type, so they are written before the value is made.
        unsafe {
            (&raw mut (*at).zalloc).write(alloc);
            (&raw mut (*at).zfree).write(free);
            stream.assume_init()
        }
    }

    /// Points the stream at `input` and at `room` bytes behind what `out` holds, which it has.
    fn aim(&mut self, input: &[u8], out: &mut Vec<u8>, room: usize) -> (u32, u32) {
        let spare = out.spare_capacity_mut();
        let avail_out = u32::try_from(spare.len().min(room)).unwrap_or(u32::MAX);
        let avail_in = u32::try_from(input.len()).unwrap_or(u32::MAX);
        // zlib's input is not `const` in this binding, but zlib does not write to it.
        self.0.next_in = input.as_ptr().cast_mut();
        self.0.avail_in = avail_in;
        self.0.next_out = spare.as_mut_ptr().cast();
        self.0.avail_out = avail_out;
        (avail_in, avail_out)
    }

    /// Takes over what a call has read and written, given what [`Stream::aim`] gave.
    fn settle(&mut self, (avail_in, avail_out): (u32, u32), input: &mut &[u8], out: &mut Vec<u8>) {
        let read = (avail_in - self.0.avail_in) as usize;
        let written = (avail_out - self.0.avail_out) as usize;
        *input = &input[read..];
        // SAFETY: `aim` gave zlib `avail_out` bytes of the spare capacity, of which it has written
        // the first `written`.
        unsafe { out.set_len(out.len() + written) };
        self.0.next_in = std::ptr::null_mut();
        self.0.next_out = std::ptr::null_mut();
        self.0.avail_in = 0;
        self.0.avail_out = 0;
    }
}

impl Deflate {
    /// `None` if there is no memory, or a parameter is out of its range: levels are 1 to 9, windows
    /// 9 to 15 bits, memory levels 1 to 9.
    pub(super) fn new(level: u8, window_bits: u8, mem_level: u8) -> Option<Self> {
        let mut stream = Stream::new();
        // SAFETY: the stream is zeroed but for its allocator, which is what zlib asks for; its
        // address does not change, as it is in a box that `Deflate` never opens. Negative bits are
        // raw data. The size and version are those of the very zlib that is linked.
        let status = unsafe {
            z::deflateInit2_(
                &raw mut stream.0,
                c_int::from(level),
                z::Z_DEFLATED,
                -c_int::from(window_bits),
                c_int::from(mem_level),
                z::Z_DEFAULT_STRATEGY,
                z::zlibVersion(),
                size_of::<z::z_stream>() as c_int,
            )
        };
        // Where this fails there is nothing to end: the stream is dropped as it is.
        (status == z::Z_OK).then_some(Self(stream))
    }

    /// Compresses `input` up to where the output can be read to its last byte, and appends at most
    /// `room` bytes to `out`, of those that it has capacity for. Whether there was room for all.
    pub(super) fn flush(&mut self, input: &mut &[u8], out: &mut Vec<u8>, room: usize) -> bool {
        let aimed = self.0.aim(input, out, room);
        // SAFETY: the stream is initialised, and `aim` has pointed it at live memory of the lengths
        // it was told, which nothing else touches during the call.
        let status = unsafe { z::deflate(&raw mut self.0.0, z::Z_SYNC_FLUSH) };
        let is_whole = status == z::Z_OK && self.0.0.avail_out > 0 && self.0.0.avail_in == 0;
        self.0.settle(aimed, input, out);
        is_whole && input.is_empty()
    }

    /// Forgets all that was compressed.
    pub(super) fn reset(&mut self) {
        // SAFETY: the stream is initialised.
        let status = unsafe { z::deflateReset(&raw mut self.0.0) };
        debug_assert_eq!(status, z::Z_OK, "an initialised stream can be reset");
    }
}

impl Drop for Deflate {
    fn drop(&mut self) {
        // SAFETY: the stream is initialised, and not used again.
        unsafe { z::deflateEnd(&raw mut self.0.0) };
    }
}

impl Inflate {
    /// `None` if there is no memory; windows are 8 to 15 bits.
    pub(super) fn new(window_bits: u8) -> Option<Self> {
        let mut stream = Stream::new();
        // SAFETY: as in `Deflate::new`.
        let status = unsafe {
            z::inflateInit2_(
                &raw mut stream.0,
                -c_int::from(window_bits),
                z::zlibVersion(),
                size_of::<z::z_stream>() as c_int,
            )
        };
        (status == z::Z_OK).then_some(Self(stream))
    }

    /// Decompresses from the front of `input` and appends at most `room` bytes to `out`, of those
    /// that it has capacity for. It goes on until it lacks one or the other.
    pub(super) fn run(&mut self, input: &mut &[u8], out: &mut Vec<u8>, room: usize) -> Status {
        let aimed = self.0.aim(input, out, room);
        // SAFETY: as in `Deflate::flush`.
        let status = unsafe { z::inflate(&raw mut self.0.0, z::Z_SYNC_FLUSH) };
        self.0.settle(aimed, input, out);
        match status {
            // A buffer error: nothing could be done without more input or more room.
            z::Z_OK | z::Z_BUF_ERROR => Status::Ok,
            z::Z_STREAM_END => Status::StreamEnd,
            z::Z_MEM_ERROR => Status::OutOfMemory,
            _ => Status::DataError,
        }
    }

    /// Whether what was read so far ends with a block, and on a byte's boundary.
    pub(super) fn is_at_boundary(&self) -> bool {
        // zlib.h, at `inflate`: 128 says that a block has just ended, 64 that it was the final one;
        // what is below them is the number of bits that are left of the last byte.
        self.0.0.data_type & (128 | 63) == 128
    }

    /// Forgets all that was decompressed.
    pub(super) fn reset(&mut self) {
        // SAFETY: the stream is initialised.
        let status = unsafe { z::inflateReset(&raw mut self.0.0) };
        debug_assert_eq!(status, z::Z_OK, "an initialised stream can be reset");
    }

    /// Goes on behind a final block: what follows may refer to what was before.
    pub(super) fn resume(&mut self) {
        // SAFETY: the stream is initialised. The function is the part of `inflateReset` that leaves
        // the window alone; zlib exports it.
        let status = unsafe { inflateResetKeep(&raw mut self.0.0) };
        debug_assert_eq!(status, z::Z_OK, "an initialised stream can be reset");
    }
}

impl Drop for Inflate {
    fn drop(&mut self) {
        // SAFETY: the stream is initialised, and not used again.
        unsafe { z::inflateEnd(&raw mut self.0.0) };
    }
}

unsafe extern "C" {
    /// Exported by every zlib since 1.2.5.1, and not in the binding.
    fn inflateResetKeep(stream: *mut z::z_stream) -> c_int;
}

/// What zlib allocates with.
extern "C" fn alloc(_: *mut c_void, items: z::uInt, size: z::uInt) -> *mut c_void {
    // SAFETY: `calloc` may be called with any two numbers, and gives null where there is no memory,
    // which is what zlib expects. Zeroed, so that zlib never reads what nobody wrote.
    unsafe { libc::calloc(items as usize, size as usize) }
}

/// What zlib frees with.
extern "C" fn free(_: *mut c_void, address: *mut c_void) {
    // SAFETY: zlib gives back what `alloc` gave, once.
    unsafe { libc::free(address) }
}
