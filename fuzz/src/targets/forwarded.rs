//! `Forwarded` and `X-Forwarded-For`: whatever a client sends, the word of the trusted proxy behind it counts, or
//! nothing does.

use std::net::{IpAddr, SocketAddr};

use tidegate::proto::{
    forwarded::{Field, ForwardedError, client},
    http1::{HeadLimits, HeadReader},
};

use super::script::{Script, seed};

pub(super) fn run(input: &[u8]) {
    let mut script = Script::new(input);
    let field = script.pick(&[Field::Forwarded, Field::XForwardedFor]);
    let separator = script.pick(&[", ", ",", "\r\n"]);
    let invented = script.rest();
    let Some(alone) = client_of(field, &[name(field), invented].concat()) else {
        return;
    };
    if let Ok(Some(address)) = alone {
        // Written as read.
        let written = match field {
            Field::Forwarded => format!("for=\"{address}\""),
            Field::XForwardedFor => address.to_string(),
        };
        let again = client_of(field, &[name(field), written.as_bytes()].concat());
        assert_eq!(again, Some(alone));
    }
    for (added, proxies) in [("192.0.2.1", ""), ("[2001:db8::7]:80", ", 10.0.0.1")] {
        let expected = match added {
            "192.0.2.1" => "192.0.2.1:0",
            _ => added,
        };
        let expected: SocketAddr = expected.parse().expect("an address");
        let added = match field {
            Field::Forwarded => format!("for=\"{added}\"{}", proxies.replace(", ", ", for=")),
            Field::XForwardedFor => format!("{added}{proxies}"),
        };
        let own_line = match separator {
            "\r\n" => [b"\r\n", name(field)].concat(),
            comma => comma.as_bytes().to_vec(),
        };
        let lines = [name(field), invented, &own_line, added.as_bytes()].concat();
        let found = client_of(field, &lines).expect("a head as before");
        let is_apart = field == Field::XForwardedFor || separator == "\r\n";
        match found {
            Ok(found) => assert_eq!(found, Some(expected)),
            // A quote that the client opens, or more than is read.
            Err(ForwardedError::MalformedForwarded | ForwardedError::TooManyElements)
                if !is_apart => {}
            Err(error) => panic!("{error}"),
        }
    }
}

fn name(field: Field) -> &'static [u8] {
    match field {
        Field::Forwarded => b"Forwarded: ",
        Field::XForwardedFor => b"X-Forwarded-For: ",
    }
}

/// The client to one who trusts 10.0.0.0/8; nothing if `lines` make no head.
fn client_of(field: Field, lines: &[u8]) -> Option<Result<Option<SocketAddr>, ForwardedError>> {
    let head = [b"GET / HTTP/1.1\r\nHost: a\r\n", lines, b"\r\n\r\n"].concat();
    let mut reader = HeadReader::new();
    let limits = HeadLimits {
        head_bytes_max: 1 << 20,
        headers_max: 1000,
        ..HeadLimits::default()
    };
    let read = reader.handle_input(&head, &limits);
    let (head, length) = read.ok()??;
    // The invention may hold a line of its own, or the head's end: then it is another case.
    let is_whole = length == head_bytes(lines) && head.header_values(header(field)).count() <= 2;
    let trusts = |ip: IpAddr| matches!(ip, IpAddr::V4(ip) if ip.octets()[0] == 10);
    is_whole.then(|| client(&head, field, trusts))
}

const fn head_bytes(lines: &[u8]) -> usize {
    b"GET / HTTP/1.1\r\nHost: a\r\n".len() + lines.len() + 4
}

const fn header(field: Field) -> &'static str {
    match field {
        Field::Forwarded => "forwarded",
        Field::XForwardedFor => "x-forwarded-for",
    }
}

pub(super) fn seeds() -> Vec<Vec<u8>> {
    let forwarded = [
        "for=192.0.2.60;proto=http;by=203.0.113.43",
        "For=\"[2001:db8:cafe::17]:4711\"",
        "for=unknown, for=_hidden;host=\"a\\\"b\"",
        "for=10.0.0.1, for=\"10.0.0.2:_port\";;, ,",
        "for=\"open, for=198.51.100.1",
        "for=1.1.1.1;for=2.2.2.2",
    ]
    .map(|value| seed(&[0, 0], value));
    let x_forwarded_for = [
        "203.0.113.1, 10.0.0.1",
        "2001:db8::1, [2001:db8::2]:80 ,unknown",
        "<script>, \"",
        "",
    ]
    .map(|value| seed(&[1, 1], value));
    let own_line = [seed(&[0, 2], "for=\"open"), seed(&[1, 2], "nonsense")];
    [&forwarded[..], &x_forwarded_for, &own_line].concat()
}
