//! What an echo must be, compared as it arrives: no message is put together first, however large
//! it is and wherever it is cut.

use std::{ops::Range, rc::Rc};

use super::{
    tag::{NUMBER_DIGITS, TAG_BYTES, Tag, number_digits},
    template::Rendered,
};

/// The message that is expected, whatever its number.
#[derive(Clone, Debug)]
pub(crate) struct Expect {
    bytes: Rc<[u8]>,
    /// The places that change with each message, in order.
    held: Rc<[Range<usize>]>,
    /// Where the tag begins among the bytes that are held.
    tag_at: usize,
    /// Where it ends in the message.
    tag_end: usize,
}

/// Where the comparison of one message stands.
#[derive(Clone, Debug)]
pub(crate) struct Comparison {
    at: usize,
    is_right: bool,
    /// What stood at the places that change.
    held: [u8; HELD_BYTES_MAX],
}

/// Bytes that may change with each message: a tag, and `{seq}` [`NUMBERS_MAX`] times.
const HELD_BYTES_MAX: usize = TAG_BYTES + NUMBERS_MAX * NUMBER_DIGITS;
/// How often `{seq}` may occur in a message.
pub(crate) const NUMBERS_MAX: usize = 4;

impl Expect {
    /// Expects `message`, which has a payload.
    pub(crate) fn new(message: &Rendered) -> Self {
        let payload_at = message.payload_at.unwrap_or(0);
        let numbers = message.numbers_at.iter().take(NUMBERS_MAX);
        let mut held: Vec<_> = numbers.map(|at| *at..at + NUMBER_DIGITS).collect();
        held.push(payload_at..payload_at + TAG_BYTES);
        held.sort_unstable_by_key(|range| range.start);
        let before = held.iter().take_while(|range| range.start < payload_at);
        Self {
            tag_end: payload_at + TAG_BYTES,
            tag_at: before.map(ExactSizeIterator::len).sum(),
            bytes: message.bytes.as_slice().into(),
            held: held.into(),
        }
    }

    /// Goes on comparing with the next part.
    #[inline]
    pub(crate) fn compare(&self, comparison: &mut Comparison, part: &[u8]) {
        let begin = comparison.at;
        comparison.at = begin + part.len();
        if comparison.at > self.bytes.len() {
            return self.compare_longer(comparison, begin, part);
        }
        let end = comparison.at;
        let mut at = begin;
        let mut held_at = 0;
        for range in &*self.held {
            if range.start >= end {
                break;
            }
            if range.end > at {
                if at < range.start {
                    comparison.is_right &=
                        part[at - begin..range.start - begin] == self.bytes[at..range.start];
                    at = range.start;
                }
                let stop = range.end.min(end);
                let to = held_at + at - range.start;
                comparison.held[to..to + stop - at]
                    .copy_from_slice(&part[at - begin..stop - begin]);
                at = stop;
            }
            held_at += range.len();
        }
        comparison.is_right &= part[at - begin..] == self.bytes[at..end];
    }

    /// Compares as much of a message as there should be of it: its tag may be right.
    #[cold]
    fn compare_longer(&self, comparison: &mut Comparison, begin: usize, part: &[u8]) {
        let end = comparison.at;
        comparison.is_right = false;
        if let Some(left) = self.bytes.len().checked_sub(begin) {
            comparison.at = begin;
            self.compare(comparison, &part[..left]);
            comparison.at = end;
        }
    }

    /// The tag, and whether all of the message was as it must be.
    #[inline]
    pub(crate) fn conclude(&self, comparison: &Comparison) -> (Option<Tag>, bool) {
        let held = &comparison.held;
        // In a message that is shorter there stands that of the one before.
        let is_tagged = comparison.at >= self.tag_end;
        let tag = Tag::read(&held[self.tag_at..]).filter(|_| is_tagged);
        let is_whole = comparison.is_right && comparison.at == self.bytes.len();
        if !is_whole || self.held.len() == 1 {
            return (tag, is_whole && tag.is_some());
        }
        let digits = number_digits(tag.map_or(0, |tag| tag.number));
        let mut at = 0;
        let mut is_right = tag.is_some();
        for range in &*self.held {
            if at != self.tag_at {
                is_right &= held[at..at + NUMBER_DIGITS] == digits;
            }
            at += range.len();
        }
        (tag, is_right)
    }
}

impl Comparison {
    /// That of a message of which nothing has come.
    pub(crate) const fn new() -> Self {
        Self {
            at: 0,
            is_right: true,
            held: [0; HELD_BYTES_MAX],
        }
    }

    /// Begins with the next message.
    #[inline]
    pub(crate) fn restart(&mut self) {
        self.at = 0;
        self.is_right = true;
    }

    /// Whatever else comes, the message is wrong.
    pub(crate) fn spoil(&mut self) {
        self.is_right = false;
    }
}

#[cfg(test)]
mod tests {
    use super::super::template::Template;
    use super::*;

    fn message(number: u64) -> (Expect, Vec<u8>) {
        let payload = |number| [&Tag { origin: 7, number }.digits()[..], b"filler"].concat();
        let template = Template::parse("<{seq}|{payload}|{seq}>");
        let rendered = template.render(0, 0, &payload(0));
        let expect = Expect::new(&rendered);
        let mut bytes = template.render(0, 0, &payload(number)).bytes;
        for at in rendered.numbers_at {
            bytes[at..at + NUMBER_DIGITS].copy_from_slice(&number_digits(number));
        }
        (expect, bytes)
    }

    fn compare(expect: &Expect, parts: &[&[u8]]) -> (Option<Tag>, bool) {
        let mut comparison = Comparison::new();
        for part in parts {
            expect.compare(&mut comparison, part);
        }
        expect.conclude(&comparison)
    }

    #[test]
    fn the_right_message_is_right_however_it_is_cut() {
        let (expect, bytes) = message(0xABC);
        let tag = Some(Tag {
            origin: 7,
            number: 0xABC,
        });
        for cut in 0..=bytes.len() {
            let (front, back) = bytes.split_at(cut);
            assert_eq!(compare(&expect, &[front, back]), (tag, true), "{cut}");
        }
        let single: Vec<&[u8]> = bytes.chunks(1).collect();
        assert_eq!(compare(&expect, &single), (tag, true));
    }

    #[test]
    fn a_message_of_another_length_has_its_own_tag_or_none() {
        let (expect, bytes) = message(0xABC);
        let (_, next) = message(0xABD);
        let tag = |number| Some(Tag { origin: 7, number });
        let tag_end = 1 + NUMBER_DIGITS + 1 + TAG_BYTES;
        let mut comparison = Comparison::new();
        for len in 0..2 * next.len() {
            for cut in [0, len / 2, len] {
                comparison.restart();
                expect.compare(&mut comparison, &bytes);
                assert_eq!(expect.conclude(&comparison), (tag(0xABC), true));
                comparison.restart();
                let longer = [&next[..], &next].concat();
                expect.compare(&mut comparison, &longer[..cut]);
                expect.compare(&mut comparison, &longer[cut..len]);
                let found = expect.conclude(&comparison);
                let own = tag(0xABD).filter(|_| len >= tag_end);
                assert_eq!(found, (own, len == next.len()), "{len} {cut}");
            }
        }
    }

    #[test]
    fn every_changed_byte_is_seen() {
        let (expect, bytes) = message(5);
        for at in 0..bytes.len() {
            let mut changed = bytes.clone();
            changed[at] ^= 0x40;
            let (tag, is_right) = compare(&expect, &[&changed]);
            // A digit of the origin or the number may become another; then the tag tells.
            let is_told = tag
                != Some(Tag {
                    origin: 7,
                    number: 5,
                });
            assert!(!is_right || is_told, "{at}");
        }
        assert!(!compare(&expect, &[&bytes[1..]]).1);
        assert!(!compare(&expect, &[&bytes, b"x"]).1);
        assert!(!compare(&expect, &[]).1);
    }
}
