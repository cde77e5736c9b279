//! The upgrade (RFC 6455 §4), with no more checks than it takes to answer.

use base64::{Engine, engine::general_purpose::STANDARD};
use sha1::{Digest, Sha1};

/// What a request asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Path<'a> {
    Echo,
    Room(&'a [u8]),
    Unknown,
}

/// A whole request.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Request<'a> {
    pub(crate) path: Path<'a>,
    /// `Sec-WebSocket-Key`, empty if there is none.
    pub(crate) key: &'a [u8],
}

/// Length of the head that begins `bytes`, its empty line included.
pub(crate) fn head_bytes(bytes: &[u8]) -> Option<usize> {
    bytes
        .windows(4)
        .position(|four| four == b"\r\n\r\n")
        .map(|at| at + 4)
}

/// Takes a whole head apart.
pub(crate) fn parse(head: &[u8]) -> Request<'_> {
    let mut lines = head.split(|byte| *byte == b'\n');
    let target = lines
        .next()
        .and_then(|line| line.split(|byte| *byte == b' ').nth(1))
        .unwrap_or_default();
    let path = match target {
        b"/echo" => Path::Echo,
        _ => match target.strip_prefix(b"/room/") {
            Some(name) if !name.is_empty() => Path::Room(name),
            _ => Path::Unknown,
        },
    };
    let key = lines
        .find_map(|line| {
            let (name, value) = line.split_at_checked(KEY.len())?;
            name.eq_ignore_ascii_case(KEY).then(|| value.trim_ascii())
        })
        .unwrap_or_default();
    Request { path, key }
}

/// The answer that accepts `key`.
pub(crate) fn accept(key: &[u8]) -> [u8; ANSWER_BYTES] {
    let hash = Sha1::new().chain_update(key).chain_update(GUID).finalize();
    let mut answer = [0; ANSWER_BYTES];
    answer[..BEFORE.len()].copy_from_slice(BEFORE);
    let encoded = STANDARD.encode_slice(hash, &mut answer[BEFORE.len()..]);
    debug_assert_eq!(encoded, Ok(28));
    answer[ANSWER_BYTES - 4..].copy_from_slice(b"\r\n\r\n");
    answer
}

const KEY: &[u8] = b"sec-websocket-key:";
const GUID: &[u8] = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11";
const BEFORE: &[u8] = b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\n\
    Connection: Upgrade\r\nSec-WebSocket-Accept: ";
pub(crate) const ANSWER_BYTES: usize = BEFORE.len() + 28 + 4;
/// To everything else.
pub(crate) const NOT_FOUND: &[u8] =
    b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\nConnection: close\r\n\r\n";
/// Heads beyond this are refused.
pub(crate) const HEAD_BYTES_MAX: usize = 16 * 1024;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_as_the_standard_shows() {
        let head = b"GET /room/a%20b HTTP/1.1\r\nHost: x\r\n\
            sec-websocket-Key:  dGhlIHNhbXBsZSBub25jZQ== \r\n\r\nrest";
        let len = head_bytes(head).expect("it is whole");
        assert_eq!(&head[len..], b"rest");
        let request = parse(&head[..len]);
        assert_eq!(request.path, Path::Room(b"a%20b"));
        let answer = accept(request.key);
        let answer = std::str::from_utf8(&answer).expect("text");
        assert!(answer.ends_with("\r\nSec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n"));
        assert!(head_bytes(&head[..len - 1]).is_none());
        assert_eq!(parse(b"GET /echo HTTP/1.1\r\n\r\n").path, Path::Echo);
        assert_eq!(parse(b"GET /room/ HTTP/1.1\r\n\r\n").path, Path::Unknown);
        assert_eq!(parse(b"\r\n\r\n").path, Path::Unknown);
    }
}
