//! What tells each message from every other: who sent it and which of its messages it is, in
//! lower-case hexadecimal digits of fixed width, so that it survives JSON and can be changed in
//! place.

/// Digits of a message's origin: the number of its connection or room.
pub(crate) const ORIGIN_DIGITS: usize = 6;
/// Digits of a message's number.
pub(crate) const NUMBER_DIGITS: usize = 10;
/// Bytes of a tag.
pub(crate) const TAG_BYTES: usize = ORIGIN_DIGITS + NUMBER_DIGITS;
/// The number 0.
pub(crate) const PLAIN_NUMBER: [u8; NUMBER_DIGITS] = [b'0'; NUMBER_DIGITS];

/// The origin and number of a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Tag {
    pub(crate) origin: u32,
    pub(crate) number: u64,
}

impl Tag {
    /// Its digits.
    pub(crate) fn digits(self) -> [u8; TAG_BYTES] {
        let mut out = [0; TAG_BYTES];
        let (origin, number) = out.split_at_mut(ORIGIN_DIGITS);
        for (i, pair) in origin.chunks_exact_mut(2).enumerate() {
            let byte = self.origin >> (8 * (ORIGIN_DIGITS / 2 - 1 - i));
            pair.copy_from_slice(&PAIRS[(byte & 0xFF) as usize]);
        }
        number.copy_from_slice(&number_digits(self.number));
        out
    }

    /// Reads the tag at the front of `bytes`.
    #[inline]
    pub(crate) fn read(bytes: &[u8]) -> Option<Self> {
        let digits = bytes.first_chunk::<TAG_BYTES>()?;
        let (origin, number) = digits.split_at(ORIGIN_DIGITS);
        Some(Self {
            origin: read_digits(origin)? as u32,
            number: read_digits(number)?,
        })
    }
}

/// A number's digits.
#[inline]
pub(crate) fn number_digits(number: u64) -> [u8; NUMBER_DIGITS] {
    let mut out = [0; NUMBER_DIGITS];
    for (i, pair) in out.chunks_exact_mut(2).enumerate() {
        let byte = number >> (8 * (NUMBER_DIGITS / 2 - 1 - i));
        pair.copy_from_slice(&PAIRS[(byte & 0xFF) as usize]);
    }
    out
}

/// The value of lower-case hexadecimal digits.
#[inline]
fn read_digits(digits: &[u8]) -> Option<u64> {
    let mut value = 0;
    let mut bad = 0;
    for digit in digits {
        let nibble = NIBBLES[usize::from(*digit)];
        bad |= nibble;
        value = (value << 4) | u64::from(nibble & 0xF);
    }
    (bad & NO_DIGIT == 0).then_some(value)
}

const DIGITS: &[u8; 16] = b"0123456789abcdef";

/// The two digits of every byte.
const PAIRS: [[u8; 2]; 256] = {
    let mut pairs = [[0; 2]; 256];
    let mut byte = 0;
    while byte < 256 {
        pairs[byte] = [DIGITS[byte >> 4], DIGITS[byte & 0xF]];
        byte += 1;
    }
    pairs
};

const NO_DIGIT: u8 = 0x80;

/// The value of every byte that is a digit.
const NIBBLES: [u8; 256] = {
    let mut nibbles = [NO_DIGIT; 256];
    let mut value = 0;
    while value < 16 {
        nibbles[DIGITS[value] as usize] = value as u8;
        value += 1;
    }
    nibbles
};

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tag_is_read_as_it_was_written() {
        for (origin, number, text) in [
            (0, 0, "0000000000000000"),
            (1, 2, "0000010000000002"),
            (0xAB_CDEF, 0xFF_FFFF_FFFF, "abcdefffffffffff"),
        ] {
            let tag = Tag { origin, number };
            assert_eq!(tag.digits(), text.as_bytes());
            assert_eq!(Tag::read(text.as_bytes()), Some(tag));
        }
    }

    #[test]
    fn what_is_no_tag_is_refused() {
        for text in [
            "000000000000000",
            "00000000000000g0",
            "000000000000000A",
            "\"000000000000000",
        ] {
            assert_eq!(Tag::read(text.as_bytes()), None, "{text}");
        }
    }
}
