//! Reads an input as a script: its first bytes choose, the rest is what is fed.

/// An input, read from its front. Past its end there are zeros.
pub(super) struct Script<'a> {
    rest: &'a [u8],
}

impl<'a> Script<'a> {
    pub(super) const fn new(input: &'a [u8]) -> Self {
        Self { rest: input }
    }

    /// The next byte.
    pub(super) fn byte(&mut self) -> u8 {
        match self.rest.split_first() {
            Some((first, rest)) => {
                self.rest = rest;
                *first
            }
            None => 0,
        }
    }

    /// One of several.
    pub(super) fn pick<T: Copy>(&mut self, of: &[T]) -> T {
        of[usize::from(self.byte()) % of.len()]
    }

    /// Up to the next `end`, which is consumed, or all.
    pub(super) fn until(&mut self, end: u8) -> &'a [u8] {
        let at = self.rest.iter().position(|byte| *byte == end);
        let (piece, rest) = self.rest.split_at(at.unwrap_or(self.rest.len()));
        self.rest = rest.get(1..).unwrap_or_default();
        piece
    }

    /// Everything that is left.
    pub(super) const fn rest(&self) -> &'a [u8] {
        self.rest
    }

    pub(super) const fn is_empty(&self) -> bool {
        self.rest.is_empty()
    }
}

/// How an input reaches a parser.
#[derive(Clone, Copy, Debug)]
pub(super) enum Cut {
    /// In one piece.
    Whole,
    /// Byte by byte.
    Bytes,
    /// In pieces whose lengths follow from the seed: mostly short ones.
    Seeded(u8),
}

impl Cut {
    /// Cuts `bytes` up.
    pub(super) fn pieces(self, bytes: &[u8]) -> impl Iterator<Item = &[u8]> {
        let mut rest = bytes;
        let mut state = match self {
            Self::Seeded(seed) => u32::from(seed) + 1,
            Self::Whole | Self::Bytes => 0,
        };
        std::iter::from_fn(move || {
            if rest.is_empty() {
                return None;
            }
            let len = match self {
                Self::Whole => rest.len(),
                Self::Bytes => 1,
                Self::Seeded(_) => {
                    // A linear congruential generator: what matters is that it varies.
                    state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                    let bits = state >> 24;
                    1 + (bits as usize % 16) * if bits > 192 { 97 } else { 1 }
                }
            };
            let (piece, later) = rest.split_at(len.min(rest.len()));
            rest = later;
            Some(piece)
        })
    }
}

/// The front of an input, then what is fed.
pub(super) fn seed(front: &[u8], rest: impl AsRef<[u8]>) -> Vec<u8> {
    [front, rest.as_ref()].concat()
}
