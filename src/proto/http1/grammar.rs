//! The grammar of field values (RFC 9110 §5.6, §8.6). It knows values, not fields or heads.

use std::str::from_utf8;

/// The elements of a comma-separated value, trimmed; empty ones do not count (RFC 9110 §5.6.1.2).
pub(in crate::proto) fn list_elements(value: &[u8]) -> impl Iterator<Item = &[u8]> {
    value
        .split(|&byte| byte == b',')
        .map(trim)
        .filter(|element| !element.is_empty())
}

/// Whether bytes are a token (RFC 9110 §5.6.2).
pub(in crate::proto) fn is_token(bytes: &[u8]) -> bool {
    !bytes.is_empty() && bytes.iter().all(|byte| is_tchar(*byte))
}

/// The number a `Content-Length` announces (RFC 9110 §8.6): digits and nothing else.
pub(super) fn parse_length(value: &[u8]) -> Option<u64> {
    // `u64::from_str` takes a leading plus; the field does not.
    if !value.iter().all(u8::is_ascii_digit) {
        return None;
    }
    from_utf8(value).ok()?.parse().ok()
}

/// Trims optional whitespace, which is spaces and tabs (RFC 9110 §5.6.3).
pub(in crate::proto) fn trim(mut bytes: &[u8]) -> &[u8] {
    while let [b' ' | b'\t', rest @ ..] | [rest @ .., b' ' | b'\t'] = bytes {
        bytes = rest;
    }
    bytes
}

/// Whether a byte may stand in a token (RFC 9110 §5.6.2).
pub(in crate::proto) fn is_tchar(byte: u8) -> bool {
    TCHAR[usize::from(byte)]
}

const TCHAR: [bool; 256] = {
    let mut table = [false; 256];
    let others = b"!#$%&'*+-.^_`|~";
    let mut at = 0;
    while at < table.len() {
        table[at] = (at as u8).is_ascii_alphanumeric();
        at += 1;
    }
    at = 0;
    while at < others.len() {
        table[others[at] as usize] = true;
        at += 1;
    }
    table
};

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_are_what_the_rfc_says() {
        for byte in 0..=u8::MAX {
            let is_delimiter = b"\"(),/:;<=>?@[\\]{}".contains(&byte);
            assert_eq!(is_tchar(byte), byte.is_ascii_graphic() && !is_delimiter);
        }
        assert!(is_token(b"chat.v2"));
        assert!(!is_token(b""));
        assert!(!is_token(b"a b"));
    }

    #[test]
    fn lists_are_split_and_trimmed() {
        let elements: Vec<_> = list_elements(b" a ,,\tb\t, c d ,").collect();
        assert_eq!(elements, [&b"a"[..], b"b", b"c d"]);
        assert_eq!(list_elements(b"  ").count(), 0);
    }

    #[test]
    fn lengths_are_digits() {
        assert_eq!(parse_length(b"0"), Some(0));
        assert_eq!(parse_length(b"007"), Some(7));
        for bad in ["", "+1", "-1", "1 ", "1,1", "0x1", "18446744073709551616"] {
            assert_eq!(parse_length(bad.as_bytes()), None, "{bad}");
        }
    }
}
