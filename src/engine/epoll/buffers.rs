//! The shared receive buffers: numbered, of one size, the one given back last taken first.

/// Buffers, each of which is free or in one pair of hands.
#[derive(Debug)]
pub(super) struct Buffers {
    memory: Vec<u8>,
    bytes: usize,
    free: Vec<u16>,
    count: u16,
}

impl Buffers {
    /// `count` buffers of `bytes` each. Memory that is never used is never touched.
    pub(super) fn new(count: u16, bytes: usize) -> Self {
        Self {
            memory: vec![0; usize::from(count) * bytes],
            bytes,
            free: (0..count).rev().collect(),
            count,
        }
    }

    /// A free one.
    pub(super) fn take(&mut self) -> Option<u16> {
        self.free.pop()
    }

    /// Its whole space.
    pub(super) fn bytes_mut(&mut self, buffer: u16) -> &mut [u8] {
        let start = usize::from(buffer) * self.bytes;
        &mut self.memory[start..start + self.bytes]
    }

    /// It is free again.
    pub(super) fn give_back(&mut self, buffer: u16) {
        debug_assert!(buffer < self.count && !self.free.contains(&buffer));
        self.free.push(buffer);
    }

    /// How many are free.
    pub(super) const fn free(&self) -> usize {
        self.free.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_is_in_one_pair_of_hands_and_the_warmest_goes_first() {
        let mut buffers = Buffers::new(3, 8);
        let taken: Vec<u16> = std::iter::from_fn(|| buffers.take()).collect();
        assert_eq!(taken, [0, 1, 2]);
        assert_eq!(buffers.free(), 0);
        for buffer in &taken {
            buffers.bytes_mut(*buffer).fill(*buffer as u8 + 1);
        }
        for buffer in &taken {
            assert_eq!(buffers.bytes_mut(*buffer), [*buffer as u8 + 1; 8]);
        }
        buffers.give_back(1);
        buffers.give_back(2);
        assert_eq!(buffers.take(), Some(2));
        assert_eq!(buffers.free(), 1);
    }
}
