//! Headers whole, byte by byte and split at random: the same answer each time.

use proptest::prelude::*;
use proxy_header::{ProxiedAddress, SslInfo};

use super::*;

type Answer = Result<Option<(Source, usize)>, ProxyHeaderError>;

/// What a reader says to `pieces`; the length counts from the first byte.
fn feed<'i>(pieces: impl IntoIterator<Item = &'i [u8]>) -> Answer {
    let mut reader = ProxyHeaderReader::new();
    let mut before = 0;
    for piece in pieces {
        match reader.handle_input(piece) {
            Ok(None) => before += piece.len(),
            Ok(Some((source, used))) => return Ok(Some((source, before + used))),
            Err(error) => return Err(error),
        }
        assert!(reader.buffered_bytes() <= 2 * V2_BYTES_MAX);
    }
    Ok(None)
}

fn answer(bytes: &[u8]) -> Answer {
    let whole = feed([bytes]);
    assert_eq!(feed(bytes.chunks(1)), whole, "{bytes:?}");
    whole
}

fn client(text: &str) -> Source {
    Source::Client(text.parse().unwrap())
}

#[test]
fn lines_of_version_1_are_read() {
    let cases = [
        (
            "TCP4 192.0.2.1 198.51.100.1 56324 443",
            client("192.0.2.1:56324"),
        ),
        ("TCP4 192.0.2.1 198.51.100.1 0 65535", client("192.0.2.1:0")),
        ("TCP6 2001:db8::1 ::1 1 2", client("[2001:db8::1]:1")),
        (
            "TCP6 ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff \
             65535 65535",
            client("[ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff]:65535"),
        ),
        ("UNKNOWN", Source::Unnamed),
        ("UNKNOWN ffff::1 whatever 1 2", Source::Unnamed),
    ];
    for (line, source) in cases {
        let header = format!("PROXY {line}\r\n");
        let expected = Ok(Some((source, header.len())));
        assert_eq!(answer(header.as_bytes()), expected, "{line}");
        let more = format!("{header}GET / HTTP/1.1\r\n");
        assert_eq!(answer(more.as_bytes()), expected, "{line}");
        let less = &header[..header.len() - 1];
        assert_eq!(answer(less.as_bytes()), Ok(None), "{line}");
    }
    // The longest that there can be.
    let unknown = format!("PROXY UNKNOWN {}\r\n", "f".repeat(91));
    assert_eq!(unknown.len(), V1_BYTES_MAX);
    assert_eq!(answer(unknown.as_bytes()), Ok(Some((Source::Unnamed, 107))));
}

#[test]
fn other_lines_are_refused() {
    for line in [
        "",
        "TCP4",
        "TCP4 192.0.2.1 198.51.100.1 56324",
        "TCP4 192.0.2.1 198.51.100.1 56324 443 1",
        "TCP4 192.0.2.1 198.51.100.1 56324 443 ",
        "TCP4  192.0.2.1 198.51.100.1 56324 443",
        "TCP4 192.0.2.1 198.51.100.1 056324 443",
        "TCP4 192.0.2.1 198.51.100.1 +563 443",
        "TCP4 192.0.2.1 198.51.100.1 65536 443",
        "TCP4 192.0.2.1 198.51.100.1 -1 443",
        "TCP4 192.0.2.01 198.51.100.1 1 443",
        "TCP4 192.0.2 198.51.100.1 1 443",
        "TCP4 ::1 ::1 1 443",
        "TCP6 192.0.2.1 198.51.100.1 1 443",
        "TCP6 fe80::1%eth0 ::1 1 443",
        "TCP6 [::1] ::1 1 443",
        "UDP4 192.0.2.1 198.51.100.1 1 443",
        "tcp4 192.0.2.1 198.51.100.1 1 443",
        "UNKNOWNS",
        "UNKNOWN \r",
        "UNKNOWN a\rb",
        "TCP4 192.0.2.1 198.51.100.1 1 443\r",
        "TCP4\x00192.0.2.1 198.51.100.1 1 443",
    ] {
        let header = format!("PROXY {line}\r\n");
        let refused = Err(ProxyHeaderError::MalformedV1);
        assert_eq!(answer(header.as_bytes()), refused, "{line}");
    }
    let malformed = Err(ProxyHeaderError::MalformedV1);
    assert_eq!(
        answer(b"PROXY TCP4 192.0.2.1 198.51.100.1 1 443\n"),
        malformed
    );
    let long = format!("PROXY UNKNOWN {}\r\n", "f".repeat(92));
    assert_eq!(answer(long.as_bytes()), malformed);
    let endless = format!("PROXY UNKNOWN {}", "f".repeat(500));
    assert_eq!(answer(endless.as_bytes()), malformed);
}

#[test]
fn what_is_no_header_is_told_at_its_first_wrong_byte() {
    for (bytes, at) in [
        (&b"GET /ws HTTP/1.1\r\n\r\n"[..], 1),
        (b"POST /", 2),
        (b"PROXYTCP4 1.2.3.4", 6),
        (b"\x16\x03\x01", 1),
        (b"\r\nGET / HTTP/1.1", 3),
        (b"\r\n\r\n\0\r\nQUIT\r\n", 12),
        (b"\0", 1),
    ] {
        assert_eq!(answer(bytes), Err(ProxyHeaderError::Missing), "{bytes:?}");
        assert_eq!(answer(&bytes[..at - 1]), Ok(None), "{bytes:?}");
        let refused = Err(ProxyHeaderError::Missing);
        assert_eq!(answer(&bytes[..at]), refused, "{bytes:?}");
    }
}

/// A header of version 2.
fn v2(command: u8, family: u8, rest: &[u8]) -> Vec<u8> {
    let len = (rest.len() as u16).to_be_bytes();
    [V2_SIGNATURE, &[command, family], &len, rest].concat()
}

const V4: [u8; 12] = [192, 0, 2, 1, 198, 51, 100, 1, 0xdc, 4, 1, 0xbb];

#[test]
fn headers_of_version_2_are_read() {
    let mut v6 = [0; 36];
    (v6[0], v6[15], v6[31], v6[33]) = (0x20, 7, 1, 80);
    let unix = [b'/'; 216];
    let with_field = [&V4[..], &[0x04, 0, 2, 0, 0]].concat();
    let with_bad_name = [&V4[..], &[0x02, 0, 1, 0xff]].concat();
    let first = client("192.0.2.1:56324");
    let cases: [(u8, u8, &[u8], Source); 11] = [
        (V2_PROXY, 0x11, &V4, first),
        (V2_PROXY, 0x12, &V4, first),
        (V2_PROXY, 0x11, &with_field, first),
        (V2_PROXY, 0x11, &with_bad_name, first),
        (V2_PROXY, 0x21, &v6, client("[2000::7]:80")),
        (V2_PROXY, 0x31, &unix, Source::Unnamed),
        (V2_PROXY, 0x00, b"", Source::Unnamed),
        (V2_LOCAL, 0x00, b"", Source::Unnamed),
        // Whatever a connection of the balancer's own says is ignored.
        (V2_LOCAL, 0x11, &V4, Source::Unnamed),
        (V2_LOCAL, 0x11, b"", Source::Unnamed),
        (V2_LOCAL, 0xff, &[0x03, 0xff], Source::Unnamed),
    ];
    for (command, family, rest, source) in cases {
        let header = v2(command, family, rest);
        let expected = Ok(Some((source, header.len())));
        assert_eq!(answer(&header), expected, "{header:?}");
        let more = [&header[..], b"GET /"].concat();
        assert_eq!(answer(&more), expected, "{header:?}");
        assert_eq!(answer(&header[..header.len() - 1]), Ok(None), "{header:?}");
    }
}

#[test]
fn other_headers_are_refused() {
    let field = |bytes: &[u8]| [&V4[..], bytes].concat();
    for (command, family, rest) in [
        (0x11, 0x11, V4.to_vec()),
        (0x22, 0x11, V4.to_vec()),
        (0x00, 0x00, vec![]),
        (V2_PROXY, 0x13, V4.to_vec()),
        (V2_PROXY, 0x41, V4.to_vec()),
        (V2_PROXY, 0x11, V4[..11].to_vec()),
        (V2_PROXY, 0x21, V4.to_vec()),
        (V2_PROXY, 0x31, vec![b'/'; 215]),
        (V2_PROXY, 0x11, field(&[0x04])),
        (V2_PROXY, 0x11, field(&[0x04, 0])),
        (V2_PROXY, 0x11, field(&[0x04, 0, 1])),
        (V2_PROXY, 0x11, field(&[0x04, 0, 0, 0x04, 0xff, 0xff, 0])),
        (V2_PROXY, 0x11, field(&[0x03, 0, 3, 0, 0, 0])),
    ] {
        let header = v2(command, family, &rest);
        let refused = Err(ProxyHeaderError::MalformedV2);
        assert_eq!(answer(&header), refused, "{header:?}");
    }
    // Judged from the length alone: nothing of it is waited for.
    let long = v2(V2_PROXY, 0x11, &[0; V2_BYTES_MAX - 15]);
    assert_eq!(answer(&long[..16]), Err(ProxyHeaderError::TooLong));
    // A field that fills all there may be.
    let mut longest = V4.to_vec();
    let len = V2_BYTES_MAX - V2_FIXED_BYTES - V4.len() - 3;
    longest.extend([0x04, (len >> 8) as u8, len as u8]);
    longest.resize(longest.len() + len, 0);
    let longest = v2(V2_PROXY, 0x11, &longest);
    let read = Ok(Some((client("192.0.2.1:56324"), V2_BYTES_MAX)));
    assert_eq!(feed([&longest[..]]), read);
    let split = [&longest[..20], &longest[20..], b"more"];
    assert_eq!(feed(split), read);
}

#[test]
fn a_checksum_is_checked() {
    let address = ProxiedAddress::stream(
        "192.0.2.1:1".parse().unwrap(),
        "198.51.100.1:2".parse().unwrap(),
    );
    let fields = [
        Tlv::UniqueId(b"id"[..].into()),
        Tlv::Crc32c(0),
        Tlv::Ssl(SslInfo::new(true, true, false, 0)),
    ];
    let mut header = Vec::new();
    ProxyHeader::with_tlvs(Some(address), fields)
        .encode_v2(&mut header)
        .unwrap();
    let at = 16 + 12 + 5 + 3;
    assert_eq!(&header[at - 3..at + 4], [0x03, 0, 4, 0, 0, 0, 0]);
    assert_eq!(answer(&header), Err(ProxyHeaderError::Checksum));
    let sum = crc32c(&[&header]);
    header[at..at + 4].copy_from_slice(&sum.to_be_bytes());
    let read = Ok(Some((client("192.0.2.1:1"), header.len())));
    assert_eq!(answer(&header), read);
    for bit in 0..8 {
        // In the client's address.
        header[17] ^= 1 << bit;
        assert_eq!(answer(&header), Err(ProxyHeaderError::Checksum));
        header[17] ^= 1 << bit;
    }
}

proptest! {
    #[test]
    fn what_is_written_is_read_however_it_is_cut(
        v4 in any::<bool>(),
        octets in any::<[u8; 16]>(),
        port in any::<u16>(),
        is_v1 in any::<bool>(),
        id in proptest::collection::vec(any::<u8>(), 0..40),
        cuts in proptest::collection::vec(1usize..60, 0..8),
        rest in proptest::collection::vec(any::<u8>(), 0..20),
    ) {
        let ip = if v4 {
            std::net::IpAddr::from([octets[0], octets[1], octets[2], octets[3]])
        } else {
            octets.into()
        };
        let source = SocketAddr::new(ip, port);
        let mut header = ProxyHeader::with_address(ProxiedAddress::stream(source, source));
        let mut bytes = Vec::new();
        if is_v1 {
            header.encode_v1(&mut bytes).unwrap();
        } else {
            header.append_tlv(Tlv::UniqueId(id.into()));
            header.encode_v2(&mut bytes).unwrap();
        }
        let len = bytes.len();
        bytes.extend(rest);
        let mut left = &bytes[..];
        let mut pieces = Vec::new();
        for cut in cuts {
            let (piece, after) = left.split_at(cut.min(left.len()));
            pieces.push(piece);
            left = after;
        }
        pieces.push(left);
        prop_assert_eq!(feed(pieces), Ok(Some((Source::Client(source), len))));
    }

    #[test]
    fn anything_gets_the_same_answer_however_it_is_cut(
        start in 0usize..4,
        bytes in proptest::collection::vec(any::<u8>(), 0..300),
    ) {
        let start: &[u8] = [b"", V1_START, V2_SIGNATURE, b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x20"][start];
        let _same = answer(&[start, &bytes].concat());
    }
}
