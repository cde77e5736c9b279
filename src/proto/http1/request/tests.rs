//! Heads that are read and heads that are refused, however they are cut.

use super::super::HeadReader;
use super::*;

mod bounds;
mod properties;

/// What a test compares: the parts of a head, and the bytes it took.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Seen {
    request: String,
    fields: Vec<(String, Vec<u8>)>,
    length: usize,
}

/// Feeds pieces until there is an answer; `None` when they do not suffice.
fn feed<'i>(
    pieces: impl IntoIterator<Item = &'i [u8]>,
    limits: &HeadLimits,
) -> Option<Result<Seen, HeadError>> {
    let mut reader = HeadReader::new();
    let mut fed = 0;
    for piece in pieces {
        match reader.handle_input(piece, limits) {
            Ok(None) => {}
            Ok(Some((head, length))) => return Some(Ok(seen(&head, fed + length))),
            Err(error) => return Some(Err(error)),
        }
        fed += piece.len();
        assert_eq!(reader.buffered_bytes(), fed);
        assert!(fed < limits.head_bytes_max);
        assert_eq!(reader.is_empty(), fed == 0);
    }
    None
}

fn seen(head: &Head<'_>, length: usize) -> Seen {
    Seen {
        request: format!(
            "{} {} {} {:?} {}",
            head.method, head.target, head.path, head.query, head.version_minor
        ),
        fields: head
            .headers()
            .map(|(name, value)| (name.to_owned(), value.to_owned()))
            .collect(),
        length,
    }
}

/// Feeds whole and byte by byte; both must agree.
fn answer(bytes: &[u8], limits: &HeadLimits) -> Option<Result<Seen, HeadError>> {
    let whole = feed([bytes], limits);
    assert_eq!(
        whole,
        feed(bytes.chunks(1), limits),
        "{}",
        bytes.escape_ascii()
    );
    whole
}

fn status(head: &str) -> u16 {
    match answer(head.as_bytes(), &HeadLimits::default()) {
        Some(Ok(_)) => 200,
        Some(Err(error)) => error.status(),
        None => 0,
    }
}

#[test]
fn a_head_is_read() {
    let bytes = b"GET /room/a%20b?token=x&y HTTP/1.1\r\nHost: example.com:80\r\nA:\r\n\
                  cookie:  a=b; c=\xe9 \t\r\nCOOKIE: d\r\n\r\n\x81\x05rest";
    let limits = HeadLimits::default();
    let mut reader = HeadReader::new();
    let (head, length) = reader.handle_input(bytes, &limits).unwrap().unwrap();
    assert_eq!(length, bytes.len() - 6);
    assert_eq!(head.method, "GET");
    assert_eq!(head.path, "/room/a%20b");
    assert_eq!(head.query, Some("token=x&y"));
    assert_eq!(head.version_minor, 1);
    assert_eq!(head.authority(), Some("example.com:80"));
    assert_eq!(head.header("a"), Some(&b""[..]));
    assert_eq!(head.header("b"), None);
    let cookies: Vec<_> = head.header_values("Cookie").collect();
    assert_eq!(cookies, [&b"a=b; c=\xe9"[..], b"d"]);
    assert!(!format!("{head:?}").contains("token"));
    answer(bytes, &limits).unwrap().unwrap();
}

#[test]
fn a_head_in_one_piece_is_not_copied() {
    let bytes = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n";
    let mut reader = HeadReader::new();
    {
        let head = reader.handle_input(bytes, &HeadLimits::default());
        let (head, _) = head.unwrap().unwrap();
        assert!(bytes.as_ptr_range().contains(&head.target.as_ptr()));
    }
    assert_eq!(reader.buffer_capacity(), 0);
}

#[test]
fn lists_are_searched() {
    let bytes = b"GET / HTTP/1.1\r\nHost: a\r\nConnection: keep-alive ,  UPGRADE\r\n\
                  connection: x-y\r\n\r\n";
    let mut reader = HeadReader::new();
    let (head, _) = reader
        .handle_input(bytes, &HeadLimits::default())
        .unwrap()
        .unwrap();
    assert!(head.list_contains("Connection", "upgrade"));
    assert!(head.list_contains("Connection", "X-Y"));
    assert!(!head.list_contains("Connection", "keep"));
    assert!(!head.list_contains("Upgrade", "upgrade"));
}

#[test]
fn a_reader_goes_on_to_the_next_head() {
    let limits = HeadLimits::default();
    let mut reader = HeadReader::new();
    for _ in 0..2 {
        assert!(reader.is_empty());
        assert!(
            reader
                .handle_input(b"GET / HTTP/1.1\r\nHo", &limits)
                .unwrap()
                .is_none()
        );
        assert!(!reader.is_empty());
        let (head, length) = reader
            .handle_input(b"st: a\r\n\r\nGET", &limits)
            .unwrap()
            .unwrap();
        assert_eq!((head.authority(), length), (Some("a"), 9));
    }
}

#[test]
fn a_head_can_be_read_again() {
    let limits = HeadLimits::default();
    let bytes = b"GET / HTTP/1.1\r\nHost: a\r\n\r\nmore";
    for cut in 0..bytes.len() - 4 {
        let mut reader = HeadReader::new();
        assert!(matches!(
            reader.handle_input(&bytes[..cut], &limits),
            Ok(None)
        ));
        let read = reader
            .handle_input(&bytes[cut..], &limits)
            .is_ok_and(|read| read.is_some());
        assert!(read, "cut at {cut}");
        let mut again = reader.take_earlier();
        again.extend_from_slice(&bytes[cut..]);
        assert_eq!(again, bytes, "cut at {cut}");
        assert_eq!(reader.buffered_bytes(), 0);
    }
}

#[test]
fn a_cr_alone_is_refused_at_the_byte_behind_it() {
    let limits = HeadLimits::default();
    for (head, at) in [
        ("GET / HTTP/1.1\rHost", 16),
        ("GET / HTTP/1.1\r\nHost: a\rb", 25),
        ("GET / HTTP/1.1\r\nHost: a\r\r", 25),
    ] {
        for cut in 1..at {
            let (front, back) = head.as_bytes()[..at].split_at(cut);
            let mut reader = HeadReader::new();
            let is_open = matches!(reader.handle_input(front, &limits), Ok(None));
            assert!(is_open, "{head:?} cut at {cut}");
            let is_refused = reader.handle_input(back, &limits).is_err();
            assert!(is_refused, "{head:?} cut at {cut}");
        }
    }
}

#[test]
fn good_request_lines() {
    for line in [
        "GET / HTTP/1.1",
        "BREW /pot?a?b HTTP/1.1",
        "M-SEARCH /%zz HTTP/1.1",
        "GET ws://h:1/p HTTP/1.1",
        "GET HTTPS://h HTTP/1.0",
    ] {
        assert_eq!(status(&format!("{line}\r\nHost: a\r\n\r\n")), 200, "{line}");
        assert_eq!(status(&format!("{line}\r\nHost: a\r\n")), 0, "{line}");
    }
}

#[test]
fn bad_request_lines() {
    for (line, expected) in [
        ("", 400),
        ("GET", 400),
        ("GET /", 400),
        ("GET / ", 400),
        ("GET  HTTP/1.1", 400),
        ("GET  / HTTP/1.1", 400),
        ("GET /  HTTP/1.1", 400),
        ("GET / HTTP/1.1 ", 400),
        (" GET / HTTP/1.1", 400),
        ("GET\t/ HTTP/1.1", 400),
        ("G@T / HTTP/1.1", 400),
        ("GET /\u{e9} HTTP/1.1", 400),
        ("GET /a\0b HTTP/1.1", 400),
        ("GET /a\rb HTTP/1.1", 400),
        ("GET / http/1.1", 400),
        ("GET / HTTP/1.10", 400),
        ("GET / HTTP/11", 400),
        ("GET /#f HTTP/1.1", 400),
        ("OPTIONS * HTTP/1.1", 400),
        ("CONNECT a:443 HTTP/1.1", 400),
        ("ABCDEFGHIJKLMNOPQRSTUVWXYZABCDEFG / HTTP/1.1", 400),
        ("GET / HTTP/1.2", 400),
        ("GET / HTTP/2.0", 400),
        ("GET / HTTP/0.9", 400),
    ] {
        assert_eq!(
            status(&format!("{line}\r\nHost: a\r\n\r\n")),
            expected,
            "{line}"
        );
    }
}

#[test]
fn refused_request_lines_are_told_apart() {
    use HeadError as E;
    let long = "a".repeat(HeadLimits::default().target_bytes_max);
    for (head, error) in [
        ("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", E::UnsupportedVersion),
        ("GET / HTTP/1.2\r\n", E::UnsupportedVersion),
        ("GET /a b HTTP/1.1\r\n", E::MalformedRequestLine),
        ("GET / HTML/1.1\r\n", E::MalformedRequestLine),
        ("GET /\u{e9} HTTP/1.1\r\n", E::MalformedRequestLine),
        ("G@T / HTTP/1.1\r\n", E::MalformedRequestLine),
        ("@ / HTTP/1.1\r\n", E::NotHttp),
        ("GET / HTTP/1.1\n", E::InvalidLineEnd),
        ("GET / HTTP/1.1\r\r\n", E::InvalidLineEnd),
        // What is wrong first decides.
        (&format!("G@T /{long} HTTP/1.1\n"), E::MalformedRequestLine),
        (&format!("GET /{long} HTTP/2.0\n"), E::TargetTooLong),
        (&format!("GET /\u{e9}{long}\n"), E::MalformedRequestLine),
        (&format!("GET /{long}\u{e9}\n"), E::TargetTooLong),
        ("GET / HTTP/2.0\n", E::UnsupportedVersion),
    ] {
        let answer = answer(head.as_bytes(), &HeadLimits::default());
        assert_eq!(answer, Some(Err(error)), "{head:.20}");
        assert_ne!(error.status(), 505);
    }
}

#[test]
fn one_empty_line_may_come_first() {
    let head = "GET / HTTP/1.1\r\nHost: a\r\n\r\n";
    let limits = HeadLimits::default();
    let seen = answer(format!("\r\n{head}").as_bytes(), &limits);
    assert_eq!(seen.unwrap().unwrap().length, head.len() + 2);
    for before in [
        "\r\n\r\n", "\n", "\r", "\r\n\n", "\r\n\r", "\r\r\n", " \r\n",
    ] {
        assert_eq!(status(&format!("{before}{head}")), 400, "{before:?}");
    }
    assert_eq!(status("\r\n"), 0);
    assert_eq!(status("\r\n\r\n"), 400);
}

#[test]
fn no_control_byte_passes_wherever_it_stands() {
    // Longer than the strides in which the parser looks at bytes.
    let filler = [b'a'; 70];
    for control in (0..0x20).chain([0x7f]) {
        for at in 0..filler.len() {
            let mut value = filler;
            value[at] = control;
            let in_value = [b"GET / HTTP/1.1\r\nHost: a\r\nX: ", &value[..], b"\r\n\r\n"].concat();
            let in_target = [b"GET /", &value[..], b" HTTP/1.1\r\nHost: a\r\n\r\n"].concat();
            let whole = |head: &[u8]| feed([head], &HeadLimits::default());
            let refused = |head| matches!(whole(head), Some(Err(error)) if error.status() == 400);
            assert_eq!(refused(&in_value), control != b'\t', "{control} {at}");
            assert!(refused(&in_target), "{control} {at}");
        }
    }
}

#[test]
fn fields_are_checked() {
    for (fields, expected) in [
        ("Host: a\r\n", 200),
        ("hOsT:[::1]:8080\r\n", 200),
        ("Host:\r\n", 200),
        ("", 400),
        ("Host: a\r\nHost: a\r\n", 400),
        ("Host: a, b\r\n", 400),
        ("Host: a/b\r\n", 400),
        ("Host: u@a\r\n", 400),
        ("Host: a:80:80\r\n", 400),
        ("Host: a:99999\r\n", 400),
        ("Host: [::1\r\n", 400),
        ("Host : a\r\n", 400),
        ("Host\r\n", 400),
        (": a\r\n", 400),
        ("Host: a\r\n b\r\n", 400),
        ("Host: a\r\n\tb\r\n", 400),
        (" Host: a\r\n", 400),
        ("Host: a\n", 400),
        ("Host: a\r\nX: a\rb\r\n", 400),
        ("Host: a\r\nX: a\r\r\n", 400),
        ("Host: a\r\nX: a\0\r\n", 400),
        ("Host: a\r\nX: a\x7f\r\n", 400),
        ("Host: a\r\nX(: a\r\n", 400),
        ("Host: a\r\nContent-Length: 0\r\n", 200),
        (
            "Host: a\r\nContent-Length: 0\r\nContent-Length: 00\r\n",
            200,
        ),
        ("Host: a\r\nContent-Length: 5\r\n", 413),
        ("Host: a\r\nContent-Length: 5\r\nContent-Length: 5\r\n", 413),
        ("Host: a\r\nContent-Length: 0\r\nContent-Length: 5\r\n", 400),
        ("Host: a\r\nContent-Length: 0, 0\r\n", 400),
        ("Host: a\r\nContent-Length:\r\n", 400),
        ("Host: a\r\nContent-Length: -1\r\n", 400),
        ("Host: a\r\nContent-Length: 99999999999999999999\r\n", 400),
        ("Host: a\r\nTransfer-Encoding: chunked\r\n", 413),
        ("Host: a\r\nTransfer-Encoding: identity\r\n", 413),
        (
            "Host: a\r\nTransfer-Encoding: chunked\r\nContent-Length: 0\r\n",
            400,
        ),
        (
            "Host: a\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n",
            400,
        ),
    ] {
        let head = format!("GET / HTTP/1.1\r\n{fields}\r\n");
        assert_eq!(status(&head), expected, "{}", fields.escape_debug());
    }
    assert_eq!(status("GET / HTTP/1.1\r\nHost: a\r\n\n"), 400);
    assert_eq!(status("GET / HTTP/1.0\r\n\r\n"), 200);
    assert_eq!(status("GET / HTTP/1.0\r\nHost: a\r\nHost: b\r\n\r\n"), 400);
    assert_eq!(
        status("GET / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n"),
        400
    );
}

#[test]
fn other_protocols_are_refused_at_their_first_bytes() {
    let limits = HeadLimits::default();
    for bytes in [
        &b"\x16\x03\x01\x02\x00\x01"[..],
        b"\0",
        b"\x81\x85",
        b"GET /\0",
        b"GET / HTTP/1.1\r\nHo st",
        b"SSH-2.0-OpenSSH_9.6\r\n",
    ] {
        let error = feed([bytes], &limits).unwrap().unwrap_err();
        assert_eq!(error.status(), 400, "{}", bytes.escape_ascii());
    }
    let error = feed([&b"\x16\x03\x01"[..]], &limits).unwrap();
    assert_eq!(error, Err(HeadError::NotHttp));
}
