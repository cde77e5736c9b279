//! Request heads: the same answer however the network cuts them up, and the same head when written again.

use tidegate::proto::http1::{Head, HeadError, HeadLimits, HeadReader, path_segments, query_pairs};

use super::script::{Cut, Script, seed};

pub(super) fn run(input: &[u8]) {
    let mut script = Script::new(input);
    let limits = HeadLimits {
        head_bytes_max: script.pick(&[16 * 1024, 1024, 256, 64, 20]),
        headers_max: script.pick(&[64, 8, 2, 1, 0]),
        target_bytes_max: script.pick(&[8 * 1024, 64, 10, 1]),
    };
    let cut = Cut::Seeded(script.byte());
    let bytes = script.rest();
    let whole = read(bytes, Cut::Whole, &limits);
    for cut in [Cut::Bytes, cut] {
        let seen = read(bytes, cut, &limits);
        if seen == Seen::Nothing && matches!(whole, Seen::Refused(_)) {
            // What came in pieces is looked at when a line has ended, and then refused as well.
            let ended = [bytes, b"\n"].concat();
            assert_eq!(read(&ended, cut, &limits), whole, "{cut:?}, ended");
        } else {
            assert_eq!(seen, whole, "{cut:?}");
        }
    }
    if let Seen::Head { text, length, .. } = &whole {
        assert!(*length <= limits.head_bytes_max);
        // What was read, written down plainly, is read as the same.
        let Seen::Head { text: again, .. } = read(text, Cut::Whole, &LOOSE) else {
            panic!("not a head any more: {}", text.escape_ascii());
        };
        assert_eq!(again, *text);
        // A byte behind the head is none of its own.
        let longer = [&bytes[..*length], b"\x81\x80mask"].concat();
        assert_eq!(read(&longer, Cut::Whole, &limits), whole);
    }
}

/// What became of an input.
#[derive(Debug, PartialEq)]
enum Seen {
    /// More is needed.
    Nothing,
    Head {
        /// Written down plainly.
        text: Vec<u8>,
        /// What else was asked of it.
        facts: Vec<String>,
        /// Bytes of the input that belong to it.
        length: usize,
    },
    Refused(HeadError),
}

fn read(bytes: &[u8], cut: Cut, limits: &HeadLimits) -> Seen {
    let mut reader = HeadReader::new();
    let mut fed = 0;
    for piece in cut.pieces(bytes) {
        match reader.handle_input(piece, limits) {
            Ok(None) => fed += piece.len(),
            Ok(Some((head, length))) => {
                assert!(length <= piece.len());
                return Seen::Head {
                    text: text(&head),
                    facts: facts(&head),
                    length: fed + length,
                };
            }
            Err(error) => {
                assert!((400..500).contains(&error.status()), "{error}");
                return Seen::Refused(error);
            }
        }
        assert!(reader.buffered_bytes() <= limits.head_bytes_max);
        assert_eq!(reader.is_empty(), fed == 0);
    }
    Seen::Nothing
}

/// The head, as it would be sent by someone plain.
fn text(head: &Head<'_>) -> Vec<u8> {
    let mut text = format!(
        "{} {} HTTP/1.{}\r\n",
        head.method, head.target, head.version_minor
    )
    .into_bytes();
    for (name, value) in head.headers() {
        text.extend_from_slice(&[name.as_bytes(), b": ", value, b"\r\n"].concat());
    }
    text.extend_from_slice(b"\r\n");
    text
}

/// What the layers above ask of a head.
fn facts(head: &Head<'_>) -> Vec<String> {
    let mut facts = vec![
        format!("{:?}", head.authority()),
        format!("{:?}", head.list_contains("connection", "upgrade")),
        format!("{:?}", head.list_contains("upgrade", "websocket")),
        format!("{:?}", head.header("host")),
        format!("{:?}", path_segments(head.path)),
    ];
    if let Some(query) = head.query {
        facts.extend(query_pairs(query).map(|pair| format!("{pair:?}")));
    }
    for (name, value) in head.headers() {
        assert!(!name.is_empty() && name.is_ascii());
        assert!(
            !value.iter().any(|byte| matches!(byte, b'\r' | b'\n' | 0)),
            "{value:?}"
        );
        assert_ne!(value.first(), Some(&b' '));
        assert_ne!(value.last(), Some(&b' '));
    }
    facts
}

const LOOSE: HeadLimits = HeadLimits {
    head_bytes_max: 64 * 1024,
    headers_max: 128,
    target_bytes_max: 16 * 1024,
};

pub(super) const UPGRADE: &str = "GET /ws?room=lobby&user=b%C3%B6b HTTP/1.1\r\n\
    Host: example.com:8080\r\n\
    Upgrade: websocket\r\n\
    Connection: keep-alive, Upgrade\r\n\
    Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\
    Sec-WebSocket-Version: 13\r\n\
    Sec-WebSocket-Protocol: tidegate.v1.json, session.abc\r\n\
    Sec-WebSocket-Extensions: permessage-deflate; client_max_window_bits\r\n\
    Origin: https://example.com\r\n\r\n";

pub(super) fn seeds() -> Vec<Vec<u8>> {
    [
        UPGRADE,
        "GET / HTTP/1.1\r\nHost: a\r\n\r\n",
        "GET http://a.example/x?y HTTP/1.1\r\nHost: b\r\n\r\nfollows",
        "GET /healthz HTTP/1.0\r\n\r\n",
        "HEAD /a/b%20c HTTP/1.1\r\nHost: [::1]:80\r\nContent-Length: 0\r\n\r\n",
        "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nabc",
        "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a\r\n folded: x\r\n\r\n",
        "GET / HTTP/1.1\nHost: a\n\n",
        "GET /../x HTTP/1.1\r\nHost: a\r\nX: \u{ff}\t y \r\n\r\n",
        "CONNECT a:80 HTTP/1.1\r\nHost: a:80\r\n\r\n",
        "OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n",
        "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        "\x16\x03\x01\x02\0\x01\0\x01\u{fc}\x03\x03",
        "GET / HTTP/1.1\r\nHost: a\r\nX : y\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a\r\nX:\r\nY: \r\n\r\n",
    ]
    .map(|head| seed(&[0, 0, 0, 3], head))
    .into_iter()
    .chain([
        seed(&[4, 0, 0, 1], UPGRADE),
        seed(&[0, 2, 0, 1], UPGRADE),
        seed(&[0, 0, 2, 1], UPGRADE),
    ])
    .collect()
}
