//! PROXY headers: the same answer however they are cut, and the address that stands there.

use std::net::{IpAddr, Ipv6Addr, SocketAddr};

use tidegate::proto::proxy_header::{ProxyHeaderError, ProxyHeaderReader, Source, V2_BYTES_MAX};

use super::script::{Cut, Script, seed};

pub(super) fn run(input: &[u8]) {
    let mut script = Script::new(input);
    let cut = Cut::Seeded(script.byte());
    let bytes = script.rest();
    let whole = read(bytes, Cut::Whole);
    for cut in [Cut::Bytes, cut] {
        assert_eq!(read(bytes, cut), whole, "{cut:?}");
    }
    let longer = [bytes, b"GET / HTTP/1.1\r\n"].concat();
    match whole {
        Ok(Some((source, length))) => {
            assert!(length <= V2_BYTES_MAX && length <= bytes.len());
            assert_eq!(
                read(&longer, Cut::Whole),
                whole,
                "what follows does not count"
            );
            if let Source::Client(client) = source {
                assert_eq!(plainly_read(&bytes[..length]), Some(client));
            }
        }
        Ok(None) => {}
        Err(_) => assert_eq!(read(&longer, Cut::Whole), whole, "a verdict stands"),
    }
}

fn read(bytes: &[u8], cut: Cut) -> Result<Option<(Source, usize)>, ProxyHeaderError> {
    let mut reader = ProxyHeaderReader::new();
    let mut fed = 0;
    for piece in cut.pieces(bytes) {
        if let Some((source, used)) = reader.handle_input(piece)? {
            assert!(used <= piece.len());
            return Ok(Some((source, fed + used)));
        }
        fed += piece.len();
        assert!(reader.buffered_bytes() <= 2 * V2_BYTES_MAX);
    }
    Ok(None)
}

/// The client of a sound header, from where the protocol puts it.
fn plainly_read(header: &[u8]) -> Option<SocketAddr> {
    if let Ok(line) = std::str::from_utf8(header)
        && let Some(line) = line.strip_prefix("PROXY ")
    {
        let mut words = line.trim_end().split(' ');
        let (ip, port) = (words.nth(1)?, words.nth(1)?);
        return Some(SocketAddr::new(ip.parse().ok()?, port.parse().ok()?));
    }
    let at = |at: usize| header.get(at..at + 2)?.first_chunk::<2>().copied();
    let (ip, port) = match header.get(13)? >> 4 {
        1 => (
            IpAddr::from(*header.get(16..20)?.first_chunk::<4>()?),
            at(24)?,
        ),
        2 => {
            let ip = Ipv6Addr::from(*header.get(16..32)?.first_chunk::<16>()?);
            (IpAddr::V6(ip), at(48)?)
        }
        _ => return None,
    };
    Some(SocketAddr::new(ip, u16::from_be_bytes(port)))
}

pub(super) fn seeds() -> Vec<Vec<u8>> {
    let v2 = |rest: &[u8]| [&b"\r\n\r\n\0\r\nQUIT\n"[..], rest].concat();
    let v4 = b"\x21\x11\x00\x0c\xc0\x00\x02\x01\xc6\x33\x64\x01\xdc\x04\x01\xbb";
    let mut v6 = b"\x21\x21\x00\x24".to_vec();
    v6.extend_from_slice(&[0x20; 36]);
    let mut fields = v4.to_vec();
    fields[3] = 12 + 7 + 5;
    fields.extend_from_slice(b"\x03\x00\x04\x01\x02\x03\x04\x02\x00\x02ab");
    [
        b"PROXY TCP4 192.0.2.1 198.51.100.1 56324 443\r\nGET".to_vec(),
        b"PROXY TCP6 2001:db8::1 ::1 1 2\r\n".to_vec(),
        b"PROXY UNKNOWN x y\r\n".to_vec(),
        b"PROXY TCP4 192.0.2.1 198.51.100.1 +1 02\r\n".to_vec(),
        v2(v4),
        v2(&v6),
        v2(&fields),
        v2(b"\x20\x00\x00\x00"),
        v2(b"\x20\xff\x00\x03abc"),
        v2(b"\x21\x31\x00\xd8"),
        v2(b"\x21\x11\x00\x0b"),
        v2(b"\x21\x11\xff\xff"),
        b"GET / HTTP/1.1\r\n".to_vec(),
    ]
    .map(|header| seed(&[3], header))
    .to_vec()
}
