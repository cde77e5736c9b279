//! Collects the bytes of a head until it is whole.
//!
//! A head that arrives in one piece, as almost all do, is read where it lies. Otherwise its bytes
//! are buffered, never beyond the bound, and looked at again only when a line has ended or a bound
//! is reached, so that a peer that sends single bytes buys no more work than one that does not.

use memchr::memchr;

use super::request::{Head, HeadError, HeadLimits, Progress, parse};

/// Reads request heads from input that is cut up anyhow. An idle reader owns no heap memory.
///
/// ```text
///            whole head                    whole head
///   Empty ──────────────► (Head)  Partial ────────────► (Head); Empty at the next input
///     └──── incomplete ─────────────►┘└─ incomplete ─┘
/// ```
#[derive(Debug, Default)]
pub struct HeadReader {
    /// What there is of a head that came in pieces.
    partial: Option<Box<Partial>>,
}

#[derive(Debug, Default)]
struct Partial {
    buffer: Vec<u8>,
    /// The length of the buffer at which a bound is reached though no line has ended.
    next_check: usize,
    /// The buffer holds a head that has been handed out.
    is_complete: bool,
}

impl HeadReader {
    /// A reader that has received nothing.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Whether nothing of a head has been received yet; a head that was handed out does not count.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.partial.as_ref().is_none_or(|p| p.is_complete)
    }

    /// Takes input; gives the head once it is whole, and how many bytes of this `input` belong to
    /// it. The rest of the input is left to the caller. `None`: all of `input` was buffered, and
    /// more is needed.
    ///
    /// # Errors
    /// [`HeadError`] as soon as the bytes cannot become an acceptable head. The reader is of no
    /// further use then.
    pub fn handle_input<'a>(
        &'a mut self,
        input: &'a [u8],
        limits: &HeadLimits,
    ) -> Result<Option<(Head<'a>, usize)>, HeadError> {
        if self.is_empty() {
            self.partial = None;
        }
        if input.is_empty() {
            return Ok(None);
        }
        if self.partial.is_none() {
            let next_check = match parse(input, limits)? {
                Progress::Complete(head, length) => return Ok(Some((head, length))),
                Progress::Partial { next_check } => next_check,
            };
            self.partial = Some(Box::new(Partial {
                buffer: input.to_vec(),
                next_check,
                is_complete: false,
            }));
            return Ok(None);
        }
        let Some(partial) = &mut self.partial else {
            return Ok(None);
        };
        let buffered = partial.buffer.len();
        let room = limits.head_bytes_max.saturating_sub(buffered);
        partial
            .buffer
            .extend_from_slice(&input[..input.len().min(room)]);
        if partial.buffer.len() < partial.next_check && memchr(b'\n', input).is_none() {
            return Ok(None);
        }
        if let Progress::Partial { next_check } = parse(&partial.buffer, limits)? {
            partial.next_check = next_check;
            return Ok(None);
        }
        // Read again to hand it out: the borrow checker does not let the arm above write to it
        // while the other returns what borrows from it. Only heads in several pieces come here.
        partial.is_complete = true;
        match parse(&partial.buffer, limits)? {
            Progress::Complete(head, length) => Ok(Some((head, length - buffered))),
            Progress::Partial { .. } => Ok(None),
        }
    }

    /// Bytes held for a head that is not whole.
    #[must_use]
    pub fn buffered_bytes(&self) -> usize {
        self.partial.as_ref().map_or(0, |p| p.buffer.len())
    }

    #[cfg(test)]
    pub(super) fn buffer_capacity(&self) -> usize {
        self.partial.as_ref().map_or(0, |p| p.buffer.capacity())
    }
}
