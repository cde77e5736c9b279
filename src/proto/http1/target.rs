//! Request targets: their forms, their path and their query (RFC 9112 §3.2, RFC 3986 §2.1).
//!
//! It knows nothing of routes. Everything here borrows from the target unless an escape has to be
//! undone. A path that could mean two things to two programs (dot segments, encoded slashes,
//! control characters) is refused rather than normalised.

use std::borrow::Cow;

use smallvec::SmallVec;

use super::authority::is_authority;

/// Why a request target, or a part of it, was refused. The blame is always the peer's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum TargetError {
    /// Neither origin-form nor an absolute-form of a scheme this server speaks (RFC 9112 §3.2).
    #[error("the request target is neither a path nor an http, https, ws or wss URL")]
    UnsupportedForm,
    /// A fragment is never sent (RFC 9112 §3.2, RFC 3986 §3.5).
    #[error("the request target contains a fragment")]
    Fragment,
    /// An absolute-form target with an empty host or with user information (RFC 9110 §4.2.4).
    #[error("the host of the request target is not valid")]
    InvalidAuthority,
    /// A `%` without two hexadecimal digits after it (RFC 3986 §2.1).
    #[error("invalid percent-encoding in the request target")]
    InvalidPercent,
    /// The decoded bytes are not UTF-8.
    #[error("the request target does not decode to UTF-8")]
    InvalidUtf8,
    /// A control character, plain or encoded.
    #[error("control character in the request target")]
    ControlCharacter,
    /// A `.` or `..` segment, plain or encoded (RFC 3986 §3.3).
    #[error("dot segment in the path")]
    DotSegment,
    /// A `%2F` inside a segment: it would read as one segment here and as two elsewhere.
    #[error("encoded slash in the path")]
    EncodedSlash,
    /// A path that does not start with `/`.
    #[error("the path does not start with a slash")]
    RelativePath,
}

impl TargetError {
    /// The HTTP status that answers this error: always 400.
    #[must_use]
    pub fn status(&self) -> u16 {
        400
    }
}

/// The parts of a request target, as sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Target<'a> {
    /// The host and port of an absolute-form target.
    pub authority: Option<&'a str>,
    /// The path, never empty, still encoded.
    pub path: &'a str,
    /// What follows the first `?`, still encoded.
    pub query: Option<&'a str>,
}

/// Splits a request target in origin-form or absolute-form (RFC 9112 §3.2.1, §3.2.2).
///
/// # Errors
/// [`TargetError`] on authority-form, asterisk-form, unknown schemes, an unusable authority or a
/// fragment.
pub fn split_target(target: &str) -> Result<Target<'_>, TargetError> {
    if target.contains('#') {
        return Err(TargetError::Fragment);
    }
    let (authority, rest) = if target.starts_with('/') {
        (None, target)
    } else {
        let (scheme, rest) = target
            .split_once("://")
            .ok_or(TargetError::UnsupportedForm)?;
        if !SCHEMES
            .iter()
            .any(|known| scheme.eq_ignore_ascii_case(known))
        {
            return Err(TargetError::UnsupportedForm);
        }
        let end = rest.find(['/', '?']).unwrap_or(rest.len());
        let (authority, rest) = rest.split_at(end);
        // RFC 9110 §4.2.1: an http URL with an empty host is invalid, whatever its port.
        let has_host = !authority.is_empty() && !authority.starts_with(':');
        if !has_host || !is_authority(authority.as_bytes()) {
            return Err(TargetError::InvalidAuthority);
        }
        (Some(authority), rest)
    };
    let (path, query) = match rest.split_once('?') {
        Some((path, query)) => (path, Some(query)),
        None => (rest, None),
    };
    // RFC 9112 §3.2.1: an empty path of an absolute URL is sent, and means, "/".
    let path = if path.is_empty() { "/" } else { path };
    Ok(Target {
        authority,
        path,
        query,
    })
}

/// Undoes percent-encoding (RFC 3986 §2.1); borrows when there is nothing to undo.
///
/// `plus_is_space` also turns `+` into a space, as HTML forms encode queries.
///
/// # Errors
/// [`TargetError`] on a malformed escape, on bytes that are not UTF-8, and on control characters
/// whether plain or encoded.
pub fn percent_decode(encoded: &str, plus_is_space: bool) -> Result<Cow<'_, str>, TargetError> {
    let special = |&byte: &u8| byte == b'%' || (plus_is_space && byte == b'+');
    let decoded = match encoded.bytes().position(|byte| special(&byte)) {
        None => Cow::Borrowed(encoded),
        Some(first) => Cow::Owned(decode_from(encoded, first, plus_is_space)?),
    };
    if decoded.chars().any(char::is_control) {
        return Err(TargetError::ControlCharacter);
    }
    Ok(decoded)
}

fn decode_from(encoded: &str, first: usize, plus_is_space: bool) -> Result<String, TargetError> {
    let (plain, mut rest) = encoded.as_bytes().split_at(first);
    let mut decoded = Vec::with_capacity(encoded.len());
    decoded.extend_from_slice(plain);
    while let Some((&byte, tail)) = rest.split_first() {
        rest = tail;
        match byte {
            b'%' => {
                let [high, low, tail @ ..] = tail else {
                    return Err(TargetError::InvalidPercent);
                };
                let high = hex_digit(*high).ok_or(TargetError::InvalidPercent)?;
                let low = hex_digit(*low).ok_or(TargetError::InvalidPercent)?;
                decoded.push(high << 4 | low);
                rest = tail;
            }
            b'+' if plus_is_space => decoded.push(b' '),
            other => decoded.push(other),
        }
    }
    String::from_utf8(decoded).map_err(|_| TargetError::InvalidUtf8)
}

/// A decoded name and value of a query.
pub type QueryPair<'a> = (Cow<'a, str>, Cow<'a, str>);

/// The decoded `name=value` pairs of a query, in order (the URL standard's
/// `application/x-www-form-urlencoded`).
///
/// Empty pieces (`a=1&&b=2`) are skipped; a piece without `=` is a name with an empty value.
pub fn query_pairs(query: &str) -> impl Iterator<Item = Result<QueryPair<'_>, TargetError>> {
    query
        .split('&')
        .filter(|piece| !piece.is_empty())
        .map(|piece| {
            let (name, value) = piece.split_once('=').unwrap_or((piece, ""));
            Ok((percent_decode(name, true)?, percent_decode(value, true)?))
        })
}

/// The decoded segments of an absolute path (RFC 3986 §3.3).
///
/// `/` has no segments; `/a/` has `a` and an empty one; empty segments in the middle are kept, so
/// that a router decides what they mean.
///
/// # Errors
/// [`TargetError`] on a path that does not start with `/`, on dot segments, encoded slashes,
/// control characters and malformed escapes.
pub fn path_segments(path: &str) -> Result<SmallVec<[Cow<'_, str>; 4]>, TargetError> {
    let rest = path.strip_prefix('/').ok_or(TargetError::RelativePath)?;
    let mut segments = SmallVec::new();
    if rest.is_empty() {
        return Ok(segments);
    }
    for encoded in rest.split('/') {
        let segment = percent_decode(encoded, false)?;
        if segment == "." || segment == ".." {
            return Err(TargetError::DotSegment);
        }
        if segment.contains('/') {
            return Err(TargetError::EncodedSlash);
        }
        segments.push(segment);
    }
    Ok(segments)
}

fn hex_digit(byte: u8) -> Option<u8> {
    match byte {
        b'0'..=b'9' => Some(byte - b'0'),
        b'a'..=b'f' => Some(byte - b'a' + 10),
        b'A'..=b'F' => Some(byte - b'A' + 10),
        _ => None,
    }
}

const SCHEMES: [&str; 4] = ["http", "https", "ws", "wss"];

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn targets_are_split() {
        let cases = [
            ("/", (None, "/", None)),
            ("/a/b?c=d?e", (None, "/a/b", Some("c=d?e"))),
            ("/?", (None, "/", Some(""))),
            ("//evil/x", (None, "//evil/x", None)),
            ("/a://b", (None, "/a://b", None)),
            ("http://h", (Some("h"), "/", None)),
            ("WSS://h:1?q", (Some("h:1"), "/", Some("q"))),
            ("ws://[::1]:80/x?y", (Some("[::1]:80"), "/x", Some("y"))),
        ];
        for (target, (authority, path, query)) in cases {
            let expected = Target {
                authority,
                path,
                query,
            };
            assert_eq!(split_target(target), Ok(expected), "{target}");
        }
    }

    #[test]
    fn other_targets_are_refused() {
        let cases = [
            ("", TargetError::UnsupportedForm),
            ("*", TargetError::UnsupportedForm),
            ("example.com:443", TargetError::UnsupportedForm),
            ("a/b", TargetError::UnsupportedForm),
            ("ftp://h/", TargetError::UnsupportedForm),
            ("http:///x", TargetError::InvalidAuthority),
            ("http://u@h/x", TargetError::InvalidAuthority),
            ("http://:80/x", TargetError::InvalidAuthority),
            ("http://h:x/", TargetError::InvalidAuthority),
            ("http://[::1/", TargetError::InvalidAuthority),
            ("/x#y", TargetError::Fragment),
        ];
        for (target, error) in cases {
            assert_eq!(split_target(target), Err(error), "{target}");
            assert_eq!(error.status(), 400);
        }
    }

    #[test]
    fn escapes_are_undone() {
        let cases = [
            ("plain", false, Ok("plain")),
            ("a%20b", false, Ok("a b")),
            ("a+b", false, Ok("a+b")),
            ("a+b%2B", true, Ok("a b+")),
            ("%c3%A9", false, Ok("é")),
            ("%25%32%35", false, Ok("%25")),
            ("%", false, Err(TargetError::InvalidPercent)),
            ("%4", false, Err(TargetError::InvalidPercent)),
            ("%4g", false, Err(TargetError::InvalidPercent)),
            ("%+1", false, Err(TargetError::InvalidPercent)),
            ("%é1", false, Err(TargetError::InvalidPercent)),
            ("%ff", false, Err(TargetError::InvalidUtf8)),
            ("%c0%af", false, Err(TargetError::InvalidUtf8)),
            ("%00", false, Err(TargetError::ControlCharacter)),
            ("%0d%0a", false, Err(TargetError::ControlCharacter)),
            ("%7F", false, Err(TargetError::ControlCharacter)),
            ("a\0", false, Err(TargetError::ControlCharacter)),
        ];
        for (encoded, plus_is_space, expected) in cases {
            let decoded = percent_decode(encoded, plus_is_space);
            assert_eq!(
                decoded.as_deref(),
                expected.as_ref().map(|s| *s),
                "{encoded}"
            );
        }
        assert!(matches!(
            percent_decode("plain", true),
            Ok(Cow::Borrowed(_))
        ));
    }

    #[test]
    fn queries_give_pairs() {
        let pairs: Result<Vec<_>, _> = query_pairs("a=1&b&&c=x+y%3D&=v&d=e=f").collect();
        let pairs = pairs.unwrap();
        let pairs: Vec<_> = pairs
            .iter()
            .map(|(n, v)| (n.as_ref(), v.as_ref()))
            .collect();
        let expected = [
            ("a", "1"),
            ("b", ""),
            ("c", "x y="),
            ("", "v"),
            ("d", "e=f"),
        ];
        assert_eq!(pairs, expected);
        assert!(query_pairs("a=%0").any(|pair| pair.is_err()));
        assert_eq!(query_pairs("").count(), 0);
    }

    #[test]
    fn paths_give_segments() {
        let cases: [(&str, &[&str]); 6] = [
            ("/", &[]),
            ("/a", &["a"]),
            ("/a/", &["a", ""]),
            ("//a", &["", "a"]),
            ("/rooms/b%20c/+", &["rooms", "b c", "+"]),
            ("/.../..a", &["...", "..a"]),
        ];
        for (path, expected) in cases {
            assert_eq!(path_segments(path).unwrap().as_slice(), expected, "{path}");
        }
        let refused = [
            ("", TargetError::RelativePath),
            ("a", TargetError::RelativePath),
            ("/a/../b", TargetError::DotSegment),
            ("/.", TargetError::DotSegment),
            ("/%2e%2E/x", TargetError::DotSegment),
            ("/.%2e", TargetError::DotSegment),
            ("/a%2fb", TargetError::EncodedSlash),
            ("/a%00", TargetError::ControlCharacter),
            ("/%zz", TargetError::InvalidPercent),
        ];
        for (path, error) in refused {
            assert_eq!(path_segments(path), Err(error), "{path}");
        }
    }

    proptest! {
        #[test]
        fn encoding_then_decoding_gives_the_text_back(text in "[^\\p{Cc}]{0,24}") {
            let encoded: String = text.bytes().map(|byte| format!("%{byte:02X}")).collect();
            let decoded = percent_decode(&encoded, true);
            prop_assert_eq!(decoded.as_deref(), Ok(text.as_str()));
        }

        #[test]
        fn no_text_makes_it_panic(text in ".{0,40}") {
            let _ = split_target(&text);
            let _ = path_segments(&text);
            let _ = query_pairs(&text).count();
        }
    }
}
