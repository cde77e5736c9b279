//! What a connection sends of its own: pieces of receive buffers, by one send.

use crate::ring::{Buffers, Ring};

/// Pieces that are waiting or being sent. Kept and used again: connections that have nothing to say
/// own none.
pub(crate) struct Out {
    pieces: Vec<Piece>,
    /// Those before are sent.
    done: usize,
    vectors: Vec<libc::iovec>,
    header: libc::msghdr,
}

struct Piece {
    bytes: *const u8,
    len: usize,
    memory: Memory,
}

/// Whose the bytes are.
enum Memory {
    Buffer(u16),
    /// Only kept.
    Own(#[expect(dead_code, reason = "the piece's bytes lie in it")] Box<[u8]>),
}

impl Out {
    pub(crate) fn new() -> Box<Self> {
        Box::new(Self {
            pieces: Vec::with_capacity(4),
            done: 0,
            vectors: Vec::new(),
            // SAFETY: all-zero is a valid msghdr.
            header: unsafe { std::mem::zeroed() },
        })
    }

    /// Adds a piece of a receive buffer, which is held until it is sent.
    #[inline]
    pub(crate) fn push(&mut self, bytes: *const u8, len: usize, buffer: u16) {
        self.pieces.push(Piece {
            bytes,
            len,
            memory: Memory::Buffer(buffer),
        });
    }

    /// Adds bytes of its own.
    pub(crate) fn push_own(&mut self, bytes: Box<[u8]>) {
        self.pieces.push(Piece {
            bytes: bytes.as_ptr(),
            len: bytes.len(),
            memory: Memory::Own(bytes),
        });
    }

    /// Sends all pieces that are left.
    ///
    /// # Safety
    /// It must stay untouched until the completion.
    #[inline]
    pub(crate) unsafe fn send(&mut self, ring: &mut Ring, connection: u32, tag: u64) {
        let pieces = &self.pieces[self.done..];
        // SAFETY: pieces lie in buffers that are held, or that the piece owns; the header and its
        // vector stand in this box, which the caller leaves alone.
        unsafe {
            if let [piece] = pieces {
                let bytes = std::ptr::slice_from_raw_parts(piece.bytes, piece.len);
                ring.send(connection, bytes, tag);
                return;
            }
            self.vectors.clear();
            let vectors = pieces.iter().map(|piece| libc::iovec {
                iov_base: piece.bytes.cast_mut().cast(),
                iov_len: piece.len,
            });
            self.vectors.extend(vectors.take(VECTORS_MAX));
            self.header.msg_iov = self.vectors.as_mut_ptr();
            self.header.msg_iovlen = self.vectors.len() as _;
            ring.send_many(connection, &raw const self.header, tag);
        }
    }

    /// So many bytes are sent: gives their buffers back. Answers whether something is left.
    #[inline]
    pub(crate) fn on_sent(&mut self, mut len: usize, buffers: &mut Buffers) -> bool {
        while let Some(piece) = self.pieces.get_mut(self.done) {
            if len < piece.len {
                // SAFETY: `len` is within the piece.
                piece.bytes = unsafe { piece.bytes.add(len) };
                piece.len -= len;
                return true;
            }
            len -= piece.len;
            if let Memory::Buffer(buffer) = piece.memory {
                buffers.release(buffer);
            }
            self.done += 1;
        }
        self.pieces.clear();
        self.done = 0;
        false
    }

    /// Drops what is left.
    pub(crate) fn abandon(&mut self, buffers: &mut Buffers) {
        self.on_sent(usize::MAX, buffers);
    }
}

/// The kernel takes 1024 at once.
const VECTORS_MAX: usize = 1024;
