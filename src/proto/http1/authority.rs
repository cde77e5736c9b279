//! The host and port of a request (RFC 9110 §7.2, RFC 3986 §3.2.2, §3.2.3). It knows no fields or targets.

use std::net::Ipv6Addr;

/// Whether bytes are a host and, behind a colon, a port. The host may be empty, as it is in the `Host` of a
/// request for something without one; user information is no part of either.
pub(super) fn is_authority(bytes: &[u8]) -> bool {
    let Ok(text) = std::str::from_utf8(bytes) else {
        return false;
    };
    match text.strip_prefix('[') {
        Some(rest) => rest.split_once(']').is_some_and(|(literal, rest)| {
            let is_rest = rest.is_empty() || rest.strip_prefix(':').is_some_and(is_port);
            is_rest && is_ip_literal(literal)
        }),
        None => match text.split_once(':') {
            Some((name, port)) => is_name(name) && is_port(port),
            None => is_name(text),
        },
    }
}

/// `*DIGIT`, as far as there are such ports.
fn is_port(text: &str) -> bool {
    let is_number = text.bytes().all(|byte| byte.is_ascii_digit());
    is_number && (text.is_empty() || text.parse::<u16>().is_ok())
}

/// What stands in brackets: an IPv6 address, or one of a later kind.
fn is_ip_literal(text: &str) -> bool {
    let Some(later) = text.strip_prefix(['v', 'V']) else {
        return text.parse::<Ipv6Addr>().is_ok();
    };
    later.split_once('.').is_some_and(|(version, address)| {
        let is_hex = !version.is_empty() && version.bytes().all(|b| b.is_ascii_hexdigit());
        let is_address = |byte: u8| byte == b':' || is_name_byte(byte);
        is_hex && !address.is_empty() && address.bytes().all(is_address)
    })
}

/// `*( unreserved / pct-encoded / sub-delims )`: names, and IPv4 addresses.
fn is_name(text: &str) -> bool {
    let mut rest = text.as_bytes();
    while let [byte, tail @ ..] = rest {
        rest = match (byte, tail) {
            (b'%', [high, low, tail @ ..])
                if high.is_ascii_hexdigit() && low.is_ascii_hexdigit() =>
            {
                tail
            }
            (byte, tail) if is_name_byte(*byte) => tail,
            _ => return false,
        };
    }
    true
}

fn is_name_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"-._~!$&'()*+,;=".contains(&byte)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_and_ports_are_what_the_rfc_says() {
        for good in [
            "",
            ":80",
            "a",
            "a:",
            "a:65535",
            "example.com:080",
            "192.0.2.1:8080",
            "999.1.1.1",
            "[::1]",
            "[::1]:8080",
            "[::ffff:192.0.2.1]",
            "[v1.fe80::a+en1]",
            "b%C3%BCcher.example",
            "a_b~c!$&'()*+,;=",
        ] {
            assert!(is_authority(good.as_bytes()), "{good}");
        }
        for bad in [
            "a b",
            "a/b",
            "u@a",
            "a:b",
            "a:65536",
            "a:-1",
            "a:+1",
            "a:80:80",
            "::1",
            "[::1",
            "::1]",
            "[::1]a",
            "[::1]:x",
            "[]",
            "[a]",
            "[192.0.2.1]",
            "[v.a]",
            "[v1.]",
            "[vg.a]",
            "a%",
            "a%4",
            "a%4g",
            "\u{e4}",
            "a#",
            "a?b",
            "a\\b",
            "[::1%25eth0]",
            "[::1%eth0]",
        ] {
            assert!(!is_authority(bad.as_bytes()), "{bad}");
        }
        assert!(!is_authority(b"\xff"));
    }
}
