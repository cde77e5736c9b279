use proptest::prelude::*;

use super::super::HeadReader;
use super::*;

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
        ("GET / HTTP/1.2", 505),
        ("GET / HTTP/2.0", 505),
        ("GET / HTTP/0.9", 505),
    ] {
        assert_eq!(
            status(&format!("{line}\r\nHost: a\r\n\r\n")),
            expected,
            "{line}"
        );
    }
    assert_eq!(status("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"), 505);
    assert_eq!(status("\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n"), 400);
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

#[test]
fn bounds_are_exact() {
    let head = "GET /abc HTTP/1.1\r\nHost: a\r\nB: c\r\n\r\n";
    let exact = HeadLimits {
        head_bytes_max: head.len(),
        headers_max: 2,
        target_bytes_max: 4,
    };
    let with = |change: fn(&mut HeadLimits)| {
        let mut limits = exact;
        change(&mut limits);
        answer(head.as_bytes(), &limits)
            .unwrap()
            .map(|seen| seen.length)
    };
    assert_eq!(with(|_| ()), Ok(head.len()));
    assert_eq!(
        with(|limits| limits.head_bytes_max -= 1),
        Err(HeadError::HeadTooLarge)
    );
    assert_eq!(
        with(|limits| limits.headers_max -= 1),
        Err(HeadError::TooManyHeaders)
    );
    assert_eq!(
        with(|limits| limits.target_bytes_max -= 1),
        Err(HeadError::TargetTooLong)
    );
    assert_eq!(
        with(|limits| limits.head_bytes_max = 0),
        Err(HeadError::HeadTooLarge)
    );
    // What follows the head does not count.
    let longer = format!("{head}{head}");
    assert!(answer(longer.as_bytes(), &exact).unwrap().is_ok());
}

#[test]
fn bounds_hold_for_heads_that_never_end() {
    let limits = HeadLimits::default();
    let target = format!("GET /{}", "a".repeat(limits.target_bytes_max));
    assert_eq!(
        answer(target.as_bytes(), &limits),
        Some(Err(HeadError::TargetTooLong))
    );
    assert_eq!(
        answer(&target.as_bytes()[..target.len() - 1], &limits),
        None
    );
    let field = format!("GET / HTTP/1.1\r\nX: {}", "a".repeat(limits.head_bytes_max));
    assert_eq!(
        answer(field.as_bytes(), &limits),
        Some(Err(HeadError::HeadTooLarge))
    );
    let fields = format!("GET / HTTP/1.1\r\n{}", "A: b\r\n".repeat(65));
    assert_eq!(
        answer(fields.as_bytes(), &limits),
        Some(Err(HeadError::TooManyHeaders))
    );
    let method = "A".repeat(33);
    assert_eq!(
        answer(method.as_bytes(), &limits),
        Some(Err(HeadError::MalformedRequestLine))
    );
}

/// Small bounds, so that random heads meet them.
fn small_limits() -> HeadLimits {
    HeadLimits {
        head_bytes_max: 96,
        headers_max: 3,
        target_bytes_max: 12,
    }
}

/// Pieces of heads in a random order: mostly wrong, often nearly right.
fn head_soup() -> impl Strategy<Value = Vec<u8>> {
    let pieces = prop::sample::select(vec![
        &b"GET / HTTP/1.1\r\n"[..],
        b"GET ws://h/p?q HTTP/1.1\r\n",
        b"Host: a\r\n",
        b"Connection: Upgrade, x\r\n",
        b"Content-Length: 0\r\n",
        b"Transfer-Encoding: chunked\r\n",
        b"\r\n",
        b"\n",
        b"\r",
        b" ",
        b":",
        b"/",
        b"aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa",
        b"HTTP/2.0",
        b"\0",
        b"\xff",
    ]);
    prop::collection::vec(pieces, 0..10).prop_map(|pieces| pieces.concat())
}

/// The same behind a good request line and host, so that the fields are reached.
fn begun_head() -> impl Strategy<Value = Vec<u8>> {
    head_soup().prop_map(|soup| [&b"GET / HTTP/1.1\r\nHost: a\r\n"[..], &soup].concat())
}

fn pieces<'b>(bytes: &'b [u8], cuts: &[prop::sample::Index]) -> Vec<&'b [u8]> {
    let mut cuts: Vec<_> = cuts.iter().map(|cut| cut.index(bytes.len() + 1)).collect();
    cuts.sort_unstable();
    cuts.push(bytes.len());
    let mut from = 0;
    let mut piece = |to| {
        let piece = &bytes[from..to];
        from = to;
        piece
    };
    cuts.into_iter().map(&mut piece).collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn the_cuts_do_not_change_the_answer(
        mut bytes in prop_oneof![head_soup(), begun_head()],
        cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..6),
    ) {
        // While a line goes on, a reader may not have looked at the end of it yet.
        bytes.push(b'\n');
        let limits = small_limits();
        let whole = answer(&bytes, &limits);
        let cut = feed(pieces(&bytes, &cuts), &limits);
        prop_assert_eq!(whole, cut);
    }

    #[test]
    fn what_is_accepted_another_parser_reads_alike(bytes in begun_head()) {
        if let Some(Ok(seen)) = feed([&bytes[..]], &HeadLimits::default()) {
            let mut headers = [httparse::EMPTY_HEADER; 64];
            let mut other = httparse::Request::new(&mut headers);
            prop_assert_eq!(other.parse(&bytes), Ok(httparse::Status::Complete(seen.length)));
            let fields: Vec<_> = other
                .headers
                .iter()
                .map(|field| (field.name.to_owned(), field.value.to_owned()))
                .collect();
            prop_assert_eq!(seen.fields, fields);
        }
    }

    #[test]
    fn garbage_never_panics_nor_is_hoarded(
        bytes in prop::collection::vec(any::<u8>(), 0..200),
        cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..6),
    ) {
        let _ = feed(pieces(&bytes, &cuts), &small_limits());
    }
}
