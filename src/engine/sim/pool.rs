//! The shared receive buffers, each of which is in exactly one pair of hands.

use crate::engine::Chunk;

/// Buffers of one size, named by number as the kernel does.
#[derive(Debug)]
pub(super) struct Pool {
    memory: Vec<u8>,
    buffer_bytes: usize,
    free: Vec<u16>,
    is_out: Vec<bool>,
}

impl Pool {
    pub(super) fn new(count: u16, buffer_bytes: usize) -> Self {
        Self {
            memory: vec![0; usize::from(count) * buffer_bytes],
            buffer_bytes,
            free: (0..count).rev().collect(),
            is_out: vec![false; usize::from(count)],
        }
    }

    pub(super) const fn buffer_bytes(&self) -> usize {
        self.buffer_bytes
    }

    pub(super) const fn free(&self) -> usize {
        self.free.len()
    }

    pub(super) const fn count(&self) -> usize {
        self.is_out.len()
    }

    /// Fills a free buffer, if there is one.
    pub(super) fn fill(&mut self, bytes: impl ExactSizeIterator<Item = u8>) -> Option<Chunk> {
        let buffer = self.free.pop()?;
        self.is_out[usize::from(buffer)] = true;
        let len = bytes.len();
        let start = usize::from(buffer) * self.buffer_bytes;
        for (to, byte) in self.memory[start..start + len].iter_mut().zip(bytes) {
            *to = byte;
        }
        Some(Chunk {
            buffer,
            len: len as u32,
        })
    }

    pub(super) fn chunk_mut(&mut self, chunk: &Chunk) -> &mut [u8] {
        assert!(
            self.is_out[usize::from(chunk.buffer)],
            "a chunk is used after it was recycled"
        );
        let start = usize::from(chunk.buffer) * self.buffer_bytes;
        &mut self.memory[start..start + chunk.len()]
    }

    pub(super) fn recycle(&mut self, chunk: &Chunk) {
        let is_out = &mut self.is_out[usize::from(chunk.buffer)];
        assert!(*is_out, "a buffer is recycled twice");
        *is_out = false;
        // What a late reader of the buffer would find is plainly not the data.
        let start = usize::from(chunk.buffer) * self.buffer_bytes;
        self.memory[start..start + self.buffer_bytes].fill(0xdb);
        self.free.insert(0, chunk.buffer);
    }
}
