//! PROXY headers: the same answer however the network cuts them up, and version 1 as a plain reader of its line
//! has it.

use std::net::{IpAddr, SocketAddr};

use tidegate::proto::proxy_header::{ProxyHeaderError, ProxyHeaderReader, Source, V2_BYTES_MAX};

use super::script::{Cut, Script, seed};

type Answer = Result<Option<(Source, usize)>, ProxyHeaderError>;

pub(super) fn run(input: &[u8]) {
    let mut script = Script::new(input);
    let cut = Cut::Seeded(script.byte());
    let bytes = script.rest();
    let whole = read(bytes, Cut::Whole);
    for cut in [Cut::Bytes, cut] {
        assert_eq!(read(bytes, cut), whole, "{cut:?}");
    }
    let Ok(Some((source, length))) = whole else {
        return;
    };
    // What lies behind the header is none of its own, and nothing less is one.
    assert!(length <= V2_BYTES_MAX);
    assert_eq!(read(&bytes[..length], Cut::Whole), whole);
    assert_eq!(read(&bytes[..length - 1], Cut::Whole), Ok(None));
    if let Some(line) = bytes[..length].strip_prefix(b"PROXY ") {
        assert!(length <= 107);
        assert_eq!(source, plainly(line), "{}", line.escape_ascii());
    }
}

fn read(bytes: &[u8], cut: Cut) -> Answer {
    let mut reader = ProxyHeaderReader::new();
    let mut fed = 0;
    for piece in cut.pieces(bytes) {
        match reader.handle_input(piece)? {
            None => fed += piece.len(),
            Some((source, used)) => {
                assert!(used <= piece.len());
                return Ok(Some((source, fed + used)));
            }
        }
        assert!(reader.buffered_bytes() <= 2 * V2_BYTES_MAX);
    }
    Ok(None)
}

/// Whom a good line of version 1 names.
fn plainly(line: &[u8]) -> Source {
    let line = std::str::from_utf8(line).unwrap_or("UNKNOWN\r\n");
    let line = line.strip_suffix("\r\n").expect("its end");
    if line.starts_with("UNKNOWN") {
        return Source::Unnamed;
    }
    let words: Vec<&str> = line.split(' ').collect();
    let [family, source, destination, port, other] = words[..] else {
        panic!("{line:?} has not five words");
    };
    let ip: IpAddr = source.parse().expect("an address");
    let to: IpAddr = destination.parse().expect("an address");
    assert_eq!(
        (ip.is_ipv4(), to.is_ipv4()),
        (family == "TCP4", family == "TCP4")
    );
    let number = port.parse::<u16>().expect("a port");
    assert_eq!(number.to_string(), port);
    let other_number = other.parse::<u16>().expect("a port");
    assert_eq!(other_number.to_string(), other);
    Source::Client(SocketAddr::new(ip, number))
}

pub(super) fn seeds() -> Vec<Vec<u8>> {
    let v2 = |command: u8, family: u8, rest: &[u8]| {
        let len = (rest.len() as u16).to_be_bytes();
        [b"\r\n\r\n\0\r\nQUIT\n", &[command, family][..], &len, rest].concat()
    };
    let v4 = [192, 0, 2, 1, 198, 51, 100, 1, 0x9c, 0x40, 1, 0xbb];
    let fields = [&v4[..], b"\x04\0\0\x05\0\x02id\x02\0\x01a\x03\0\x04sum!"].concat();
    [
        b"PROXY TCP4 192.0.2.1 198.51.100.1 40000 443\r\nGET / HTTP/1.1\r\n".to_vec(),
        b"PROXY TCP6 2001:db8::1 ::1 0 65535\r\n".to_vec(),
        b"PROXY UNKNOWN whatever\r\nmore".to_vec(),
        b"PROXY TCP4 192.0.2.1 198.51.100.1 040000 443\r\n".to_vec(),
        b"PROXYTCP4 ".to_vec(),
        v2(0x21, 0x11, &v4),
        v2(0x21, 0x11, &fields),
        v2(0x21, 0x21, &[7; 36]),
        v2(0x21, 0x31, &[b'/'; 216]),
        v2(0x20, 0, b""),
        v2(0x20, 0xff, b"\x03\xff"),
        v2(0x21, 0x11, &v4[..11]),
        b"GET / HTTP/1.1\r\n".to_vec(),
    ]
    .map(|header| seed(&[3], header))
    .to_vec()
}
