//! `Forwarded` and `X-Forwarded-For`: whatever a client invents in front of what a trusted proxy has added,
//! it is who that proxy says.

use std::net::IpAddr;

use tidegate::proto::forwarded::{Field, client};
use tidegate::proto::http1::{HeadLimits, HeadReader};

use super::script::{Script, seed};

pub(super) fn run(input: &[u8]) {
    let mut script = Script::new(input);
    let options = script.byte();
    let (field, name) = if options & 1 == 0 {
        (Field::XForwardedFor, "X-Forwarded-For")
    } else {
        (Field::Forwarded, "Forwarded")
    };
    // Each line is a field of its own.
    let values: Vec<&[u8]> = script.rest().split(|byte| *byte == b'\n').collect();
    let Some(answer) = ask(field, name, &values) else {
        return;
    };
    match answer {
        Ok(Some(found)) if !is_trusted(found.ip()) => {
            // The client itself cannot become someone else, neither in front of the first field nor in
            // one before it. What is no `Forwarded` field may have it refused, to nobody's harm.
            for invention in [
                "198.51.100.7",
                "for=198.51.100.7",
                "for=unknown;by=x",
                "nonsense",
                "\"",
            ] {
                let before = [&[invention.as_bytes()], &values[..]].concat();
                assert_eq!(ask(field, name, &before), Some(answer), "{invention}");
                let first = [invention.as_bytes(), b", ", values[0]].concat();
                let within = [&[first.as_slice()], &values[1..]].concat();
                let asked = ask(field, name, &within);
                let is_refused = field == Field::Forwarded && matches!(asked, Some(Err(_)));
                assert!(
                    is_refused || asked == Some(answer),
                    "{invention}: {asked:?}"
                );
            }
        }
        Ok(_) => {}
        Err(error) => assert_eq!(error.status(), 400),
    }
}

type Answer = Result<Option<std::net::SocketAddr>, tidegate::proto::forwarded::ForwardedError>;

/// The client of a request with these fields; none if it is no request.
fn ask(field: Field, name: &str, values: &[&[u8]]) -> Option<Answer> {
    let mut head = b"GET / HTTP/1.1\r\nHost: a\r\n".to_vec();
    for value in values {
        head.extend_from_slice(&[name.as_bytes(), b": ", value, b"\r\n"].concat());
    }
    head.extend_from_slice(b"\r\n");
    let limits = HeadLimits {
        head_bytes_max: 1 << 20,
        headers_max: 1000,
        ..HeadLimits::default()
    };
    let mut reader = HeadReader::new();
    let (head, _) = reader.handle_input(&head, &limits).ok()??;
    Some(client(&head, field, is_trusted))
}

fn is_trusted(ip: IpAddr) -> bool {
    match ip {
        IpAddr::V4(ip) => ip.octets()[0] == 10,
        IpAddr::V6(ip) => ip.octets()[0] == 0xFD,
    }
}

pub(super) fn seeds() -> Vec<Vec<u8>> {
    let mut seeds = Vec::new();
    for value in [
        "192.0.2.1",
        "192.0.2.1:4711, 10.0.0.1",
        "[2001:db8::1]:443, fd00::1 , 10.1.2.3",
        "10.0.0.1\n192.0.2.1, 10.0.0.2\n10.0.0.3",
        "unknown, 10.0.0.1",
        "::ffff:192.0.2.1,,",
    ] {
        seeds.push(seed(&[0], value));
    }
    for value in [
        "for=192.0.2.1;proto=https;by=10.0.0.1",
        "for=\"[2001:db8::1]:443\", for=10.0.0.1",
        "for=unknown, For=_hidden;host=\"a, b;\\\"c\"",
        "for=192.0.2.1:80\nfor=\"10.0.0.1:_x\"",
        "by=x;host=y, for=10.0.0.2",
        "for=192.0.2.1;for=10.0.0.1",
    ] {
        seeds.push(seed(&[1], value));
    }
    seeds
}
