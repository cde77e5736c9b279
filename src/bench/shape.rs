//! Where the payload stands in what a server delivers.
//!
//! A server may put anything around it, such as a growing number. The place is learned from the
//! first delivery, from the message's front and from its back, looked at in both, and searched
//! again where it is in neither.

use std::rc::Rc;

use memchr::memmem::Finder;

use super::tag::{TAG_BYTES, Tag};

/// What a message is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Found {
    /// A payload, whole and unchanged.
    Payload(Tag),
    /// A payload that was changed; its tag if that can be read.
    Broken(Option<Tag>),
    /// Something else.
    Other,
}

/// What is known of deliveries.
#[derive(Debug)]
pub(crate) struct Shape {
    /// What stands before the tag of a payload, and what behind it.
    lead: &'static [u8],
    filler: Rc<[u8]>,
    /// For the beginning of the filler.
    finder: Finder<'static>,
    /// Bytes before the tag.
    front: Option<usize>,
    /// Bytes behind the payload.
    back: usize,
    /// Whether every message is a payload and nothing else.
    is_bare: bool,
}

impl Shape {
    /// Deliveries whose payloads begin with `lead` and end in `filler`; `is_bare` ones have nothing
    /// around them.
    pub(crate) fn new(lead: &'static [u8], filler: &Rc<[u8]>, is_bare: bool) -> Self {
        let beginning = &filler[..filler.len().min(NEEDLE_BYTES_MAX)];
        Self {
            finder: Finder::new(beginning).into_owned(),
            filler: Rc::clone(filler),
            front: is_bare.then_some(lead.len()),
            lead,
            back: 0,
            is_bare,
        }
    }

    /// Looks for a payload from `origin`.
    #[inline]
    pub(crate) fn find(&mut self, message: &[u8], origin: u32) -> Found {
        if let Some(front) = self.front {
            let payload_bytes = TAG_BYTES + self.filler.len();
            let by_back = message.len().checked_sub(payload_bytes + self.back);
            if by_back == Some(front) || self.is_bare {
                return match self.at(message, front, origin) {
                    // Nothing may stand behind one that is bare.
                    Found::Payload(tag) if by_back != Some(front) => Found::Broken(Some(tag)),
                    Found::Other if self.is_bare => Found::Broken(None),
                    Found::Other => self.search(message, origin),
                    found => found,
                };
            }
            if let Some(at) = by_back
                && let found @ Found::Payload(_) = self.at(message, at, origin)
            {
                self.front = Some(at);
                return found;
            }
            return match self.search(message, origin) {
                Found::Other => match by_back.map(|at| self.at(message, at, origin)) {
                    Some(broken @ Found::Broken(_)) => broken,
                    _ => match self.at(message, front, origin) {
                        broken @ Found::Broken(_) => broken,
                        _ => Found::Other,
                    },
                },
                found => found,
            };
        }
        self.search(message, origin)
    }

    /// Judges the payload at `at`: broken if only its tag or only its filler is right.
    #[inline]
    fn at(&self, message: &[u8], at: usize, origin: u32) -> Found {
        let Some(rest) = message.get(at..) else {
            return Found::Other;
        };
        let tag = Tag::read(rest).filter(|tag| tag.origin == origin);
        let filler = rest.get(TAG_BYTES..TAG_BYTES + self.filler.len());
        let is_filler = filler == Some(&*self.filler) && message[..at].ends_with(self.lead);
        match tag {
            Some(tag) if is_filler => Found::Payload(tag),
            Some(_) => Found::Broken(tag),
            // A short filler may stand anywhere by chance.
            None if is_filler && self.filler.len() >= TELLING_BYTES_MIN => Found::Broken(None),
            None => Found::Other,
        }
    }

    fn search(&mut self, message: &[u8], origin: u32) -> Found {
        let Some(last) = message.len().checked_sub(TAG_BYTES + self.filler.len()) else {
            return Found::Other;
        };
        let mut from = 0;
        while from <= last {
            let Some(at) = self.finder.find(&message[from + TAG_BYTES..]) else {
                break;
            };
            from += at;
            if let found @ Found::Payload(_) = self.at(message, from, origin) {
                self.front = Some(from);
                self.back = last - from;
                return found;
            }
            from += 1;
        }
        Found::Other
    }
}

/// Bytes of filler that do not stand anywhere by chance.
const TELLING_BYTES_MIN: usize = 8;
/// Bytes of filler that are searched for.
const NEEDLE_BYTES_MAX: usize = 32;

#[cfg(test)]
mod tests {
    use super::*;

    const FILLER: &[u8] = b"0filler-0filler";

    fn payload(number: u64) -> Vec<u8> {
        [&Tag { origin: 3, number }.digits()[..], FILLER].concat()
    }

    fn envelope(seq: u64, number: u64) -> Vec<u8> {
        let payload = String::from_utf8(payload(number)).unwrap();
        format!(r#"{{"seq":{seq},"data":"{payload}"}}"#).into_bytes()
    }

    #[test]
    fn a_payload_is_found_where_it_moves_to() {
        let mut shape = Shape::new(b"", &Rc::from(FILLER), false);
        for seq in [1, 9, 10, 99, 100, 5, 1_000_000] {
            let tag = Tag {
                origin: 3,
                number: seq,
            };
            assert_eq!(shape.find(&envelope(seq, seq), 3), Found::Payload(tag));
        }
        // More behind it than before.
        let mut message = envelope(1, 7);
        message.extend_from_slice(b"   ");
        let tag = Tag {
            origin: 3,
            number: 7,
        };
        assert_eq!(shape.find(&message, 3), Found::Payload(tag));
    }

    #[test]
    fn what_is_no_payload_is_let_be() {
        let mut shape = Shape::new(b"", &Rc::from(FILLER), false);
        for _ in 0..2 {
            for message in [
                &b""[..],
                b"{}",
                br#"{"type":"user_joined","room":"r","user":"alice"}"#,
            ] {
                assert_eq!(shape.find(message, 3), Found::Other);
            }
            assert!(matches!(shape.find(&envelope(1, 1), 3), Found::Payload(_)));
        }
    }

    #[test]
    fn a_changed_payload_is_seen() {
        let mut shape = Shape::new(b"", &Rc::from(FILLER), false);
        assert!(matches!(shape.find(&envelope(1, 1), 3), Found::Payload(_)));
        let right = envelope(2, 2);
        let begin = shape.front.unwrap();
        for at in begin..begin + TAG_BYTES + FILLER.len() {
            let mut changed = right.clone();
            changed[at] ^= 0x40;
            let found = shape.find(&changed, 3);
            assert!(matches!(found, Found::Broken(_)), "{at}: {found:?}");
        }
        // Another's payload is wrong as well.
        assert_eq!(shape.find(&right, 4), Found::Broken(None));
    }

    #[test]
    fn what_leads_to_the_tag_is_compared() {
        for is_bare in [true, false] {
            let mut shape = Shape::new(b"{lead:", &Rc::from(FILLER), is_bare);
            let message = |n| [b"{lead:", &payload(n)[..]].concat();
            let tag = |number| Tag { origin: 3, number };
            assert_eq!(shape.find(&message(1), 3), Found::Payload(tag(1)));
            for at in 0..6 {
                let mut changed = message(2);
                changed[at] ^= 1;
                let found = shape.find(&changed, 3);
                assert_eq!(found, Found::Broken(Some(tag(2))), "{is_bare} {at}");
            }
            assert_eq!(shape.find(&message(3), 3), Found::Payload(tag(3)));
        }
    }

    #[test]
    fn a_bare_payload_has_nothing_around_it() {
        for filler in [FILLER, b""] {
            let mut shape = Shape::new(b"", &Rc::from(filler), true);
            let tag = Tag {
                origin: 3,
                number: 4,
            };
            let right = [&tag.digits()[..], filler].concat();
            assert_eq!(shape.find(&right, 3), Found::Payload(tag));
            let longer = [&right[..], b"x"].concat();
            assert_eq!(shape.find(&longer, 3), Found::Broken(Some(tag)));
            for wrong in [&right[1..], &[&b"x"[..], &right].concat(), b""] {
                assert!(matches!(shape.find(wrong, 3), Found::Broken(_)));
            }
        }
    }
}
