//! UTF-8, checked as it arrives (RFC 6455 §8.1, RFC 3629).
//!
//! simdutf8 checks the bulk; only the bytes of a character that a chunk cuts are walked one by
//! one, so that the first byte that no valid text has in its place is refused at once.

use super::error::WsError;

/// Checks text that comes in chunks cut anywhere.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Utf8Validator {
    /// The first bytes of a character that the last chunk cut; all of them may stand there.
    carry: [u8; 3],
    carry_len: u8,
    /// Bytes accepted so far, the carried ones included.
    offset: u64,
}

impl Utf8Validator {
    /// A validator at the start of a text.
    #[must_use]
    pub const fn new() -> Self {
        Self {
            carry: [0; 3],
            carry_len: 0,
            offset: 0,
        }
    }

    /// Accepts the next chunk.
    ///
    /// # Errors
    ///
    /// [`WsError::InvalidUtf8`] at the first byte that no valid text has in this place. The
    /// validator is of no use afterwards.
    pub fn push(&mut self, chunk: &[u8]) -> Result<(), WsError> {
        let mut rest = chunk;
        while self.carry_len > 0 {
            let Some((byte, tail)) = rest.split_first() else {
                return Ok(());
            };
            self.step(*byte)?;
            rest = tail;
        }
        let valid = match simdutf8::compat::from_utf8(rest) {
            Ok(_) => rest.len(),
            Err(error) => error.valid_up_to(),
        };
        self.offset += valid as u64;
        // Either an error, found within four bytes, or a character that the chunk cuts.
        for byte in &rest[valid..] {
            self.step(*byte)?;
        }
        Ok(())
    }

    /// Ends the text.
    ///
    /// # Errors
    ///
    /// [`WsError::InvalidUtf8`] with the text's length, where it ends inside a character.
    pub fn finish(self) -> Result<(), WsError> {
        if self.carry_len > 0 {
            return Err(self.error());
        }
        Ok(())
    }

    /// Accepts one byte after the carried ones.
    fn step(&mut self, byte: u8) -> Result<(), WsError> {
        let carried = usize::from(self.carry_len);
        let may_follow = match carried {
            0 => char_len(byte) != 0,
            1 => may_be_second(self.carry[0], byte),
            _ => is_continuation(byte),
        };
        if !may_follow {
            return Err(self.error());
        }
        self.offset += 1;
        let lead = if carried == 0 { byte } else { self.carry[0] };
        if carried + 1 == char_len(lead) {
            self.carry_len = 0;
        } else {
            self.carry[carried] = byte;
            self.carry_len += 1;
        }
        Ok(())
    }

    fn error(&self) -> WsError {
        WsError::InvalidUtf8 {
            offset: self.offset,
        }
    }
}

/// Checks a whole text in one pass.
///
/// # Errors
///
/// [`WsError::InvalidUtf8`], the same as [`Utf8Validator`] gives.
#[inline]
pub fn check(text: &[u8]) -> Result<&str, WsError> {
    simdutf8::basic::from_utf8(text).map_err(|_| locate(text))
}

/// As [`check`], for a caller that needs no `str`: quicker for the short ASCII that is most traffic.
///
/// # Errors
///
/// Those of [`check`].
#[inline]
pub fn validate(text: &[u8]) -> Result<(), WsError> {
    if text.len() <= SHORT_BYTES && text.is_ascii() {
        return Ok(());
    }
    check(text).map(|_| ())
}

/// Where a text that is known to be bad goes wrong.
#[cold]
fn locate(text: &[u8]) -> WsError {
    let mut validator = Utf8Validator::new();
    match validator.push(text) {
        Err(error) => error,
        Ok(()) => validator.error(),
    }
}

/// Bytes of the character that `lead` begins; 0 where no character begins with it.
fn char_len(lead: u8) -> usize {
    match lead {
        0x00..=0x7F => 1,
        0xC2..=0xDF => 2,
        0xE0..=0xEF => 3,
        0xF0..=0xF4 => 4,
        _ => 0,
    }
}

/// RFC 3629 §4: the second byte excludes overlong forms, surrogates and what is over U+10FFFF.
fn may_be_second(lead: u8, byte: u8) -> bool {
    match lead {
        0xE0 => (0xA0..=0xBF).contains(&byte),
        0xED => (0x80..=0x9F).contains(&byte),
        0xF0 => (0x90..=0xBF).contains(&byte),
        0xF4 => (0x80..=0x8F).contains(&byte),
        _ => is_continuation(byte),
    }
}

fn is_continuation(byte: u8) -> bool {
    byte & 0xC0 == 0x80
}

/// simdutf8's vector loop takes 64 bytes at a time; shorter texts are checked by scalar code.
const SHORT_BYTES: usize = 64;

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// The first bad byte according to the standard library; the length, if text is cut.
    fn reference(text: &[u8]) -> Option<u64> {
        let error = std::str::from_utf8(text).err()?;
        let at = error.valid_up_to();
        let bad = match error.error_len() {
            None => text.len(),
            Some(_) if char_len(text[at]) == 0 => at,
            Some(len) => at + len,
        };
        Some(bad as u64)
    }

    fn in_chunks<'a>(chunks: impl IntoIterator<Item = &'a [u8]>) -> Result<(), WsError> {
        let mut validator = Utf8Validator::new();
        for chunk in chunks {
            validator.push(chunk)?;
        }
        validator.finish()
    }

    #[test]
    fn fails_at_the_first_bad_byte_even_at_the_end_of_a_chunk() {
        let table: &[(&[u8], u64)] = &[
            (b"\x80", 0),
            (b"\xc0", 0),
            (b"\xc1", 0),
            (b"\xf5", 0),
            (b"\xff", 0),
            (b"\xed\xa0", 1),
            (b"\xf4\x90", 1),
            (b"\xe0\x80", 1),
            (b"\xe0\x9f", 1),
            (b"\xf0\x8f", 1),
            (b"\xc2\x41", 1),
            (b"\xe2\x82\x41", 2),
            (b"\xf0\x9f\x98\x41", 3),
            (b"abc\xed\xa0", 4),
        ];
        for (text, offset) in table {
            let expected = Err(WsError::InvalidUtf8 { offset: *offset });
            let mut validator = Utf8Validator::new();
            assert_eq!(validator.push(text), expected, "{text:x?}");
            let mut validator = Utf8Validator::new();
            let (last, head) = text.split_last().unwrap();
            assert_eq!(validator.push(head), Ok(()), "{text:x?}");
            assert_eq!(validator.push(&[*last]), expected, "{text:x?}");
            assert_eq!(check(text).map(|_| ()), expected);
        }
    }

    #[test]
    fn an_unfinished_character_is_an_error_at_the_end_only() {
        for text in [&b"\xc2"[..], b"\xe2\x82", b"\xed\x9f", b"a\xf0\x9f\x98"] {
            let mut validator = Utf8Validator::new();
            assert_eq!(validator.push(text), Ok(()));
            let offset = text.len() as u64;
            assert_eq!(validator.finish(), Err(WsError::InvalidUtf8 { offset }));
            assert_eq!(check(text), Err(WsError::InvalidUtf8 { offset }));
        }
    }

    #[test]
    fn every_sequence_of_up_to_three_bytes_agrees_with_the_standard_library() {
        // One byte per class that UTF-8 tells apart, and the edges of each.
        let bytes = [
            0x00, 0x7F, 0x80, 0x8F, 0x90, 0x9F, 0xA0, 0xBF, 0xC0, 0xC1, 0xC2, 0xDF, 0xE0, 0xE1,
            0xEC, 0xED, 0xEE, 0xEF, 0xF0, 0xF1, 0xF3, 0xF4, 0xF5, 0xFF,
        ];
        for a in bytes {
            for b in bytes {
                for c in bytes {
                    for text in [&[a][..], &[a, b], &[a, b, c], &[a, b, c, 0x80]] {
                        let expected = reference(text)
                            .map_or(Ok(()), |offset| Err(WsError::InvalidUtf8 { offset }));
                        assert_eq!(in_chunks([text]), expected, "{text:x?}");
                        assert_eq!(in_chunks(text.chunks(1)), expected, "{text:x?}");
                        assert_eq!(check(text).map(|_| ()), expected, "{text:x?}");
                    }
                }
            }
        }
    }

    /// Mostly valid text, with a byte overwritten now and then.
    fn text() -> impl Strategy<Value = Vec<u8>> {
        let chars = prop_oneof![
            Just("plain ascii text, long enough for a vector".to_string()),
            any::<char>().prop_map(String::from),
            Just("é€😀".to_string()),
        ];
        let spoil = prop::option::of((any::<prop::sample::Index>(), any::<u8>()));
        (proptest::collection::vec(chars, 1..12), spoil).prop_map(|(parts, spoil)| {
            let mut bytes = parts.concat().into_bytes();
            if let Some((at, byte)) = spoil {
                let at = at.index(bytes.len());
                bytes[at] = byte;
            }
            bytes
        })
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(256))]
        #[test]
        fn agrees_with_the_standard_library_however_cut(text in text(), size in 1usize..40) {
            let expected =
                reference(&text).map_or(Ok(()), |offset| Err(WsError::InvalidUtf8 { offset }));
            prop_assert_eq!(in_chunks([&text[..]]), expected.clone());
            prop_assert_eq!(in_chunks(text.chunks(size)), expected.clone());
            prop_assert_eq!(in_chunks(text.chunks(1)), expected.clone());
            prop_assert_eq!(validate(&text), expected.clone());
            prop_assert_eq!(check(&text).map(|_| ()), expected);
        }
    }
}
