//! Compressed messages made whole again (RFC 7692), for all connections of a run together.
//!
//! The server is asked for messages that stand by themselves, so one inflater serves everybody, and
//! what was inflated a moment ago need not be inflated again: a room's members get the same bytes,
//! and bytes that are the same as those before say the same. So every member's copy is compared whole,
//! and a generator of one thread keeps up with a server that compresses once.

use serde::Serialize;

use crate::proto::ws::deflate::{InflateError, Inflater, WINDOW_BITS_MAX};

/// What was inflated.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub(crate) struct DeflateFigures {
    /// Messages that came compressed.
    pub(crate) messages: u64,
    /// Their payloads as they came.
    pub(crate) wire_bytes: u64,
    /// What they said.
    pub(crate) message_bytes: u64,
}

/// The inflater, and the messages that came last.
#[derive(Debug)]
pub(crate) struct Inflated {
    inflater: Inflater,
    recent: [Entry; RECENT],
    /// The one that came last.
    newest: usize,
    message_bytes_max: usize,
    figures: DeflateFigures,
}

#[derive(Debug, Default)]
struct Entry {
    wire: Vec<u8>,
    message: Vec<u8>,
}

impl Inflated {
    /// One that gives no more than a byte above `message_bytes_max` of a message; none if there is
    /// no memory.
    pub(crate) fn new(message_bytes_max: usize) -> Option<Self> {
        Some(Self {
            inflater: Inflater::new(WINDOW_BITS_MAX)?,
            recent: Default::default(),
            newest: 0,
            message_bytes_max,
            figures: DeflateFigures::default(),
        })
    }

    /// What has been inflated so far.
    pub(crate) const fn figures(&self) -> DeflateFigures {
        self.figures
    }

    /// Inflates the payload of a message; what is too long is cut a byte above the bound.
    ///
    /// # Errors
    /// If it is no DEFLATE data.
    pub(crate) fn inflate(&mut self, wire: &[u8]) -> Result<&[u8], InflateError> {
        let known = (0..RECENT)
            .map(|age| (self.newest + RECENT - age) % RECENT)
            .find(|at| self.recent[*at].wire == wire && !wire.is_empty());
        let at = match known {
            Some(at) => at,
            None => {
                let at = (self.newest + 1) % RECENT;
                let entry = &mut self.recent[at];
                entry.wire.clear();
                entry.message.clear();
                self.inflater.reset();
                let bound = self.message_bytes_max + 1;
                match self.inflater.inflate(wire, &mut entry.message, bound) {
                    Ok(()) | Err(InflateError::TooLong) => {}
                    Err(error) => return Err(error),
                }
                entry.wire.extend_from_slice(wire);
                self.newest = at;
                at
            }
        };
        let message = &self.recent[at].message;
        self.figures.messages += 1;
        self.figures.wire_bytes += wire.len() as u64;
        self.figures.message_bytes += message.len() as u64;
        Ok(message)
    }
}

impl DeflateFigures {
    /// What came since.
    pub(crate) const fn since(&self, before: &Self) -> Self {
        Self {
            messages: self.messages - before.messages,
            wire_bytes: self.wire_bytes - before.wire_bytes,
            message_bytes: self.message_bytes - before.message_bytes,
        }
    }

    /// For people.
    pub(crate) fn line(&self) -> String {
        let share = self.wire_bytes as f64 / (self.message_bytes as f64).max(1.0) * 100.0;
        format!("{} messages, to {share:.0} % of their size", self.messages)
    }
}

/// Messages that are remembered: those of one room that are on their way at a time.
const RECENT: usize = 8;

#[cfg(test)]
mod tests {
    use super::*;

    /// RFC 7692 §7.2.3.1.
    const HELLO: [u8; 7] = [0xF2, 0x48, 0xCD, 0xC9, 0xC9, 0x07, 0x00];

    /// A stored block, without a compressor's help.
    fn stored(text: &[u8]) -> Vec<u8> {
        let len = text.len() as u16;
        let mut out = vec![0];
        out.extend_from_slice(&len.to_le_bytes());
        out.extend_from_slice(&(!len).to_le_bytes());
        out.extend_from_slice(text);
        out.push(0);
        out
    }

    #[test]
    fn messages_are_inflated_whatever_came_before() {
        let mut inflated = Inflated::new(100).unwrap();
        for _ in 0..3 {
            assert_eq!(inflated.inflate(&HELLO), Ok(&b"Hello"[..]));
            for n in 0..2 * RECENT as u8 {
                assert_eq!(inflated.inflate(&stored(&[n; 9])), Ok(&[n; 9][..]));
                assert_eq!(inflated.inflate(&stored(&[0; 9])), Ok(&[0; 9][..]));
            }
        }
        let figures = inflated.figures();
        assert_eq!(figures.messages, 3 * (1 + 4 * RECENT as u64));
        assert_eq!(figures.wire_bytes, 3 * (7 + 4 * RECENT as u64 * 15));
        assert_eq!(figures.message_bytes, 3 * (5 + 4 * RECENT as u64 * 9));
        assert_eq!(figures.since(&figures), DeflateFigures::default());
    }

    #[test]
    fn what_is_broken_is_refused_and_forgotten() {
        let mut inflated = Inflated::new(100).unwrap();
        let mut broken = stored(b"some text");
        broken[3] ^= 1;
        for _ in 0..2 {
            assert_eq!(inflated.inflate(&broken), Err(InflateError::Corrupt));
            assert_eq!(inflated.inflate(&[0x07]), Err(InflateError::Corrupt));
        }
        assert_eq!(inflated.inflate(&HELLO), Ok(&b"Hello"[..]));
        assert_eq!(inflated.figures().messages, 1);
    }

    #[test]
    fn what_is_too_long_is_cut() {
        let mut inflated = Inflated::new(100).unwrap();
        assert_eq!(inflated.inflate(&stored(&[1; 100])), Ok(&[1; 100][..]));
        for _ in 0..2 {
            assert_eq!(inflated.inflate(&stored(&[1; 5000])), Ok(&[1; 101][..]));
        }
    }
}
