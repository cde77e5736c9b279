//! Collects the bytes of a head until it is whole.
//!
//! A head that arrives in one piece, as almost all do, is read where it lies. Otherwise its bytes
//! are buffered, never beyond the bound, and looked at again only when a line has ended, or can't end
//! any more as it must, or a bound is reached, so that a peer that sends single bytes buys no more work than one that does not.

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
    /// Bytes of that head which came before the input that completed it.
    earlier: usize,
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
                earlier: 0,
            }));
            return Ok(None);
        }
        let Some(partial) = &mut self.partial else {
            return Ok(None);
        };
        let buffered = partial.buffer.len();
        let is_cr_left = partial.buffer.last() == Some(&b'\r');
        let room = limits.head_bytes_max.saturating_sub(buffered);
        partial
            .buffer
            .extend_from_slice(&input[..input.len().min(room)]);
        let is_bounded = partial.buffer.len() < partial.next_check;
        if is_bounded && !is_cr_left && !ends_a_line(input) {
            return Ok(None);
        }
        if let Progress::Partial { next_check } = parse(&partial.buffer, limits)? {
            partial.next_check = next_check;
            return Ok(None);
        }
        // Read again to hand it out: the borrow checker does not let the arm above write to it
        // while the other returns what borrows from it. Only heads in several pieces come here.
        partial.is_complete = true;
        partial.earlier = buffered;
        match parse(&partial.buffer, limits)? {
            Progress::Complete(head, length) => Ok(Some((head, length - buffered))),
            Progress::Partial { .. } => Ok(None),
        }
    }

    /// What it had buffered of the head that it has handed out, before the input that completed that
    /// head: with that input behind it, the head can be read again.
    #[must_use]
    pub fn take_earlier(&mut self) -> Vec<u8> {
        let Some(partial) = self.partial.take() else {
            return Vec::new();
        };
        let mut earlier = partial.buffer;
        earlier.truncate(partial.earlier);
        earlier
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

/// Whether a line ends in `input`, as it must or by a CR alone.
fn ends_a_line(input: &[u8]) -> bool {
    let before_last = input.split_last().map_or(input, |(_, before)| before);
    memchr(b'\n', input).is_some() || memchr(b'\r', before_last).is_some()
}
