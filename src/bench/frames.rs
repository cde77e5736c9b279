//! Frames that are built before the load: a run of equal masked frames in one buffer, in which
//! only the numbers change.
//!
//! What is sent is always the end of the run, so a buffer serves any number of messages at once
//! and goes to the kernel without a copy.

use crate::{
    base::segments::Segment,
    proto::ws::{OpCode, header::push_masked_frame},
};

use super::{
    content::Content,
    tag::{NUMBER_DIGITS, ORIGIN_DIGITS, PLAIN_NUMBER, Tag, number_digits},
    template::{Rendered, Template},
};

/// The same for all frames: no server can gain by it, and they can be built beforehand.
pub(crate) const MASK: [u8; 4] = [0x5A, 0xC3, 0x17, 0xE9];

/// What all messages of a run consist of.
#[derive(Clone, Debug)]
pub(crate) struct Kind {
    pub(crate) template: Template,
    pub(crate) opcode: OpCode,
    /// What stands before the tag in every payload.
    pub(crate) lead: &'static [u8],
    /// What follows the tag in every payload.
    pub(crate) filler: Vec<u8>,
}

impl Kind {
    /// Messages with payloads of `payload_bytes`.
    pub(crate) fn new(
        template: Template,
        content: Content,
        is_text: bool,
        payload_bytes: usize,
    ) -> Self {
        let (lead, filler) = content.around(is_text, payload_bytes);
        Self {
            lead,
            filler,
            template,
            opcode: if is_text {
                OpCode::Text
            } else {
                OpCode::Binary
            },
        }
    }

    /// A message of `origin` with the number 0.
    pub(crate) fn render(&self, conn: u32, room: u32, origin: u32) -> Rendered {
        let tag = Tag { origin, number: 0 };
        let payload = [self.lead, &tag.digits(), &self.filler].concat();
        let mut rendered = self.template.render(conn, room, &payload);
        if let Some(at) = &mut rendered.payload_at {
            *at += self.lead.len();
        }
        rendered
    }
}

/// A run of frames.
#[derive(Debug)]
pub(crate) struct Frames {
    /// None while the kernel has it.
    buf: Option<Vec<u8>>,
    frame_bytes: usize,
    count: usize,
    /// Where numbers stand in a frame, and where in the mask they begin.
    places: Vec<(usize, usize)>,
}

impl Frames {
    /// A run of `count` frames that carry `message`.
    pub(crate) fn new(message: &Rendered, opcode: OpCode, count: usize) -> Self {
        let mut frame = Vec::new();
        push_masked_frame(&mut frame, opcode, &message.bytes, MASK);
        let header = frame.len() - message.bytes.len();
        let number_of_tag = message.payload_at.map(|at| at + ORIGIN_DIGITS);
        let numbers = message.numbers_at.iter().copied().chain(number_of_tag);
        let places = numbers
            .inspect(|at| debug_assert_eq!(message.bytes[*at..][..NUMBER_DIGITS], PLAIN_NUMBER))
            .map(|at| (header + at, at & 3))
            .collect();
        Self {
            frame_bytes: frame.len(),
            count,
            places,
            buf: Some(frame.repeat(count)),
        }
    }

    /// How many it can send at once.
    pub(crate) fn count(&self) -> usize {
        self.count
    }

    /// The last `count` frames, numbered from `first` on; none while they are on their way.
    pub(crate) fn take(&mut self, first: u64, count: usize) -> Option<Segment> {
        let mut buf = self.buf.take()?;
        let start = (self.count - count) * self.frame_bytes;
        for (number, frame) in (first..).zip(buf[start..].chunks_exact_mut(self.frame_bytes)) {
            let digits = number_digits(number);
            for &(at, phase) in &self.places {
                for (i, digit) in digits.iter().enumerate() {
                    frame[at + i] = digit ^ MASK[(phase + i) & 3];
                }
            }
        }
        Some(Segment::Owned { buf, start })
    }

    /// Takes the buffer back once the kernel has taken it whole.
    pub(crate) fn give_back(&mut self, buf: Vec<u8>) {
        debug_assert_eq!(buf.len(), self.frame_bytes * self.count);
        self.buf = Some(buf);
    }

    /// Whether the buffer is here.
    pub(crate) fn is_here(&self) -> bool {
        self.buf.is_some()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::ws::{header::decode, mask::apply_mask};

    #[test]
    fn frames_carry_the_numbers_they_are_given() {
        let template = Template::parse(r#"{"n":"{seq}","data":"{payload}"}"#);
        let kind = Kind::new(template, Content::Noise, true, 20);
        let mut frames = Frames::new(&kind.render(0, 0, 9), kind.opcode, 3);
        for (first, count) in [(0, 3), (3, 1), (0x1234_5678, 2)] {
            let segment = frames.take(first, count).unwrap();
            assert!(!frames.is_here());
            assert!(frames.take(0, 1).is_none());
            let mut rest = segment.as_slice();
            for number in first..first + count as u64 {
                let (header, len) = decode(rest).unwrap().unwrap();
                assert_eq!(header.opcode, OpCode::Text);
                let end = len + header.payload_len as usize;
                let mut message = rest[len..end].to_vec();
                apply_mask(&mut message, header.mask.unwrap(), 0);
                let digits = number_digits(number);
                let expected = [
                    &b"{\"n\":\""[..],
                    &digits,
                    b"\",\"data\":\"000009",
                    &digits,
                    &kind.filler,
                    b"\"}",
                ]
                .concat();
                assert_eq!(message, expected);
                rest = &rest[end..];
            }
            assert!(rest.is_empty());
            let Segment::Owned { buf, .. } = segment else {
                panic!("a run is owned");
            };
            frames.give_back(buf);
        }
    }

    #[test]
    fn a_payload_of_json_is_numbered_behind_its_lead() {
        let template = Template::parse(r#"{"data":{payload}}"#);
        let kind = Kind::new(template, Content::Json, true, 300);
        let mut frames = Frames::new(&kind.render(0, 0, 9), kind.opcode, 1);
        let segment = frames.take(0x1234, 1).unwrap();
        let (header, len) = decode(segment.as_slice()).unwrap().unwrap();
        let mut message = segment.as_slice()[len..].to_vec();
        apply_mask(&mut message, header.mask.unwrap(), 0);
        let value: serde_json::Value = serde_json::from_slice(&message).unwrap();
        assert_eq!(value["data"]["id"], "0000090000001234");
        assert_eq!(message.len(), 300 + 9);
    }
}
