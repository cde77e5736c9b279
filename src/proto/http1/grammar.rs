//! The grammar of a head's lines (RFC 9112 §2.2, §3, §5; RFC 9110 §5.5, §5.6).
//!
//! Every `read` takes the part of a line that has arrived and refuses it at its first wrong byte;
//! every `finish` is called once the line has ended. It knows lines, not heads.

use std::str::from_utf8;

use memchr::memchr;
use smallvec::SmallVec;

use super::request::{HeadError, HeadLimits};

/// A header field of a head.
#[derive(Clone, Copy)]
pub(super) struct Field<'a> {
    pub(super) name: &'a str,
    pub(super) value: &'a [u8],
}

/// Browsers send about twenty fields; more than these move to the heap.
pub(super) type Fields<'a> = SmallVec<[Field<'a>; 32]>;

/// Cuts bytes into lines.
pub(super) struct Lines<'a> {
    pub(super) rest: &'a [u8],
}

impl<'a> Lines<'a> {
    /// The next line, which may be empty and may not have ended yet.
    pub(super) fn next_line(&mut self) -> Line<'a> {
        let line_feed = memchr(b'\n', self.rest);
        let raw = &self.rest[..line_feed.unwrap_or(self.rest.len())];
        self.rest = &self.rest[line_feed.map_or(raw.len(), |at| at + 1)..];
        let carriage_return = memchr(b'\r', raw);
        let content = &raw[..carriage_return.unwrap_or(raw.len())];
        let end = match (carriage_return, line_feed) {
            (Some(at), _) if at + 1 < raw.len() => LineEnd::Invalid,
            (Some(_), Some(_)) => LineEnd::CrLf,
            (None, Some(_)) => LineEnd::Invalid,
            (_, None) => LineEnd::Missing,
        };
        Line { content, end }
    }
}

/// A line without its end.
pub(super) struct Line<'a> {
    pub(super) content: &'a [u8],
    end: LineEnd,
}

enum LineEnd {
    /// CR LF.
    CrLf,
    /// Not there yet, or only its CR is.
    Missing,
    /// LF without CR, or CR without LF.
    Invalid,
}

impl Line<'_> {
    /// Whether the line has ended. To be asked after its content was read: what is wrong there
    /// came first.
    pub(super) fn is_ended(&self) -> Result<bool, HeadError> {
        match self.end {
            LineEnd::CrLf => Ok(true),
            LineEnd::Missing => Ok(false),
            LineEnd::Invalid => Err(HeadError::InvalidLineEnd),
        }
    }
}

/// A request line, as far as it has arrived (RFC 9112 §3).
pub(super) struct RequestLine<'a> {
    method: &'a [u8],
    target: Option<&'a [u8]>,
    version: Option<&'a [u8]>,
}

impl<'a> RequestLine<'a> {
    pub(super) fn read(content: &'a [u8], limits: &HeadLimits) -> Result<Self, HeadError> {
        let length = prefix_length(content, is_tchar);
        let (method, rest) = content.split_at(length);
        let mut line = Self {
            method,
            target: None,
            version: None,
        };
        if length > METHOD_BYTES_MAX {
            return Err(HeadError::MalformedRequestLine);
        }
        let Some((&separator, rest)) = rest.split_first() else {
            return Ok(line);
        };
        if length == 0 {
            return Err(HeadError::NotHttp);
        }
        if separator != b' ' {
            return Err(HeadError::MalformedRequestLine);
        }
        let length = prefix_length(rest, |byte| byte.is_ascii_graphic());
        let (target, rest) = rest.split_at(length);
        line.target = Some(target);
        if length > limits.target_bytes_max {
            return Err(HeadError::TargetTooLong);
        }
        let Some((&separator, version)) = rest.split_first() else {
            return Ok(line);
        };
        if length == 0 || separator != b' ' || !version.iter().all(u8::is_ascii_graphic) {
            return Err(HeadError::MalformedRequestLine);
        }
        line.version = Some(version);
        Ok(line)
    }

    /// The length of a head at which the next bound is crossed, while this line goes on.
    pub(super) fn next_check(&self, limits: &HeadLimits) -> usize {
        match (self.target, self.version) {
            (None, _) => METHOD_BYTES_MAX + 1,
            (Some(_), None) => limits
                .target_bytes_max
                .saturating_add(self.method.len() + 2),
            (Some(_), Some(_)) => usize::MAX,
        }
    }

    /// The method, the target and the minor version.
    pub(super) fn finish(self) -> Result<(&'a str, &'a str, u8), HeadError> {
        let malformed = HeadError::MalformedRequestLine;
        let target = self.target.filter(|target| !target.is_empty());
        let version_minor = match self.version.ok_or(malformed)? {
            b"HTTP/1.1" => 1,
            b"HTTP/1.0" => 0,
            [b'H', b'T', b'T', b'P', b'/', major, b'.', minor]
                if major.is_ascii_digit() && minor.is_ascii_digit() =>
            {
                return Err(HeadError::UnsupportedVersion);
            }
            _ => return Err(malformed),
        };
        let method = from_utf8(self.method).map_err(|_| malformed)?;
        let target = from_utf8(target.ok_or(malformed)?).map_err(|_| malformed)?;
        Ok((method, target, version_minor))
    }
}

/// A field line, as far as it has arrived (RFC 9112 §5).
pub(super) struct FieldLine<'a> {
    name: &'a [u8],
    value: Option<&'a [u8]>,
}

impl<'a> FieldLine<'a> {
    pub(super) fn read(content: &'a [u8]) -> Result<Self, HeadError> {
        let (name, rest) = content.split_at(prefix_length(content, is_tchar));
        let value = match rest.split_first() {
            None => None,
            // RFC 9112 §5.1, §5.2: no whitespace before the colon, no folded lines. Both fail here,
            // since a space is not part of a name.
            Some((b':', value)) if !name.is_empty() && value.iter().all(is_value_byte) => {
                Some(value)
            }
            Some(_) => return Err(HeadError::MalformedHeader),
        };
        Ok(Self { name, value })
    }

    pub(super) fn finish(self) -> Result<Field<'a>, HeadError> {
        let malformed = HeadError::MalformedHeader;
        Ok(Field {
            name: from_utf8(self.name).map_err(|_| malformed)?,
            value: trim(self.value.ok_or(malformed)?),
        })
    }
}

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
fn trim(mut bytes: &[u8]) -> &[u8] {
    while let [b' ' | b'\t', rest @ ..] | [rest @ .., b' ' | b'\t'] = bytes {
        bytes = rest;
    }
    bytes
}

fn prefix_length(bytes: &[u8], is_inside: impl Fn(u8) -> bool) -> usize {
    let outside = bytes.iter().position(|byte| !is_inside(*byte));
    outside.unwrap_or(bytes.len())
}

/// RFC 9110 §5.6.2.
fn is_tchar(byte: u8) -> bool {
    TCHAR[usize::from(byte)]
}

/// RFC 9110 §5.5: visible characters, spaces, tabs and the obsolete upper half.
fn is_value_byte(byte: &u8) -> bool {
    matches!(byte, b'\t' | b' '..=b'~' | 0x80..)
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

/// No registered method is longer than 17 bytes; anything longer than this is not one.
const METHOD_BYTES_MAX: usize = 32;

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
