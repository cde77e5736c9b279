//! Request targets, their escapes, paths and queries, against a plain reading of RFC 3986.

use tidegate::proto::http1::{
    TargetError, path_segments, percent_decode, query_pairs, split_target,
};

use super::script::{Script, seed};

pub(super) fn run(input: &[u8]) {
    let mut script = Script::new(input);
    let plus_is_space = script.byte() & 1 == 1;
    let Ok(text) = std::str::from_utf8(script.rest()) else {
        return;
    };
    let decoded = percent_decode(text, plus_is_space);
    match (plainly_decoded(text, plus_is_space), &decoded) {
        (Some(expected), Ok(decoded)) => assert_eq!(**decoded, expected),
        (None, Err(_)) => {}
        (Some(expected), Err(error)) => {
            let has_control = expected.chars().any(char::is_control);
            assert!(
                has_control && *error == TargetError::ControlCharacter,
                "{error} about {expected:?}"
            );
        }
        (None, Ok(decoded)) => panic!("{text:?} does not decode, not to {decoded:?} either"),
    }
    if let Ok(target) = split_target(text) {
        assert!(target.path.starts_with('/'), "{target:?}");
        let tail = match target.query {
            Some(query) => format!("{}?{query}", target.path),
            None => target.path.to_owned(),
        };
        // An absolute form may leave its path out.
        assert!(text.ends_with(&tail) || target.path == "/", "{target:?}");
        check_path(target.path);
        check_query(target.query.unwrap_or_default());
    }
    check_path(text);
    check_query(text);
}

fn check_path(path: &str) {
    let Ok(segments) = path_segments(path) else {
        return;
    };
    assert!(path.starts_with('/'));
    for segment in &segments {
        assert!(*segment != "." && *segment != "..", "{segments:?}");
        assert!(!segment.contains('/'), "{segments:?}");
        assert!(!segment.chars().any(char::is_control), "{segments:?}");
    }
}

fn check_query(query: &str) {
    for (key, value) in query_pairs(query).flatten() {
        assert!(!key.chars().any(char::is_control), "{key:?}");
        assert!(!value.chars().any(char::is_control), "{value:?}");
    }
}

/// Decoded byte by byte; none where an escape is not one or the outcome is no text.
fn plainly_decoded(text: &str, plus_is_space: bool) -> Option<String> {
    let mut out = Vec::new();
    let mut bytes = text.bytes();
    while let Some(byte) = bytes.next() {
        out.push(match byte {
            b'%' => {
                let high = char::from(bytes.next()?).to_digit(16)?;
                let low = char::from(bytes.next()?).to_digit(16)?;
                (high * 16 + low) as u8
            }
            b'+' if plus_is_space => b' ',
            other => other,
        });
    }
    String::from_utf8(out).ok()
}

pub(super) fn seeds() -> Vec<Vec<u8>> {
    [
        "/ws?room=lobby&token=a.b-c",
        "/a%20b/%C3%BC?x=1+2&y=%26&z",
        "http://example.com:80/path?q",
        "wss://example.com",
        "/a/../b",
        "/%2e%2E/x",
        "/a%2Fb",
        "/%00",
        "/%zz",
        "/%c3",
        "//a//b/",
        "*",
        "a:80",
        "/a#b",
        "http://user@host/",
        "?&&=&a=&=b",
    ]
    .iter()
    .flat_map(|target| [seed(&[0], target), seed(&[1], target)])
    .collect()
}
