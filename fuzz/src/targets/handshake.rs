//! Both ends of the opening handshake, against each other and against tungstenite.

use tidegate::proto::handshake::{
    ClientHandshake, HandshakeError, Subprotocol, Upgrade, write_switching_protocols,
};
use tidegate::proto::http1::{HeadLimits, HeadReader};
use tidegate::proto::ws::deflate::{Offer, Policy, negotiate};
use tungstenite::handshake::derive_accept_key;

use super::head::UPGRADE;
use super::script::{Script, seed};

pub(super) fn run(input: &[u8]) {
    let mut script = Script::new(input);
    match script.byte() % 3 {
        0 => serve(script.rest()),
        1 => read_response(script.rest()),
        _ => ask(&mut script),
    }
}

const KNOWN: &[&str] = &["tidegate.v1.json", "tidegate.v1.raw"];

const POLICY: Policy = Policy {
    window_bits: 12,
    server_context_takeover: true,
    client_context_takeover: true,
};

/// A request's head: what the server makes of it, and what a client makes of the answer.
fn serve(bytes: &[u8]) {
    let mut reader = HeadReader::new();
    let limits = HeadLimits::default();
    let Ok(Some((head, _))) = reader.handle_input(bytes, &limits) else {
        return;
    };
    let upgrade = match Upgrade::from_head(&head) {
        Ok(upgrade) => upgrade,
        Err(error) => {
            let status = error.status();
            assert!((400..500).contains(&status), "{error}: {status}");
            let mut out = Vec::new();
            error.response().write_to(&mut out);
            let start = format!("HTTP/1.1 {status} ");
            assert!(out.starts_with(start.as_bytes()));
            return;
        }
    };
    // RFC 6455 §4.2.1.
    assert_eq!((head.method, head.version_minor), ("GET", 1));
    assert!(head.list_contains("upgrade", "websocket"));
    assert!(head.list_contains("connection", "upgrade"));
    assert_eq!(head.header("sec-websocket-version"), Some(&b"13"[..]));
    let mut offers: Vec<&str> = upgrade.subprotocols().collect();
    let chosen = match upgrade.choose(KNOWN) {
        Subprotocol::Chosen(chosen) => {
            assert!(offers.contains(&chosen));
            Some(chosen)
        }
        _ => None,
    };
    let mut answer = Vec::new();
    let agreed = negotiate(upgrade.extensions(), &POLICY).map(|agreed| agreed.to_value());
    write_switching_protocols(&mut answer, upgrade.key(), chosen, agreed.as_deref());
    let text = std::str::from_utf8(&answer).expect("an answer is text");
    let accept = derive_accept_key(upgrade.key().as_bytes());
    assert!(text.contains(&format!(": {accept}\r\n")), "{text}");
    offers.sort_unstable();
    offers.dedup();
    assert_eq!(offers.len(), upgrade.subprotocols().count(), "distinct");
}

fn client(subprotocols: &[&str]) -> ClientHandshake {
    ClientHandshake {
        host: "example.com".to_owned(),
        path: "/ws".to_owned(),
        key: *b"the sample nonce",
        subprotocols: subprotocols.iter().map(|name| (*name).to_owned()).collect(),
        deflate: None,
    }
}

/// A server's answer, as it grows: a verdict stands.
fn read_response(bytes: &[u8]) {
    let client = ClientHandshake {
        deflate: Some(Offer::default()),
        ..client(KNOWN)
    };
    let whole = client.validate_response(bytes);
    let mut earlier = None;
    for end in 0..bytes.len().min(600) {
        match client.validate_response(&bytes[..end]) {
            Ok(None) => assert_eq!(earlier, None, "{end} bytes"),
            verdict => {
                let earlier = earlier.get_or_insert_with(|| verdict.clone());
                assert_eq!(verdict, *earlier, "{end} bytes");
                assert_eq!(whole, *earlier, "{end} bytes");
            }
        }
    }
    match whole {
        Ok(Some(accepted)) => {
            assert!(accepted.head_len <= bytes.len());
            let head = String::from_utf8_lossy(&bytes[..accepted.head_len]);
            assert!(head.contains(&derive_accept_key(b"dGhlIHNhbXBsZSBub25jZQ==")));
            let subprotocol = accepted.subprotocol;
            assert!(subprotocol.is_none_or(|name| KNOWN.contains(&name.as_str())));
        }
        Ok(None) => {}
        Err(HandshakeError::Refused(status)) => assert_ne!(status, 101),
        Err(_) => {}
    }
}

/// A client's request is one to the server, which answers what the client accepts.
fn ask(script: &mut Script<'_>) {
    let mut client = client(&[]);
    for byte in &mut client.key {
        *byte = script.byte();
    }
    let offered = script.byte();
    for (bit, name) in KNOWN.iter().enumerate() {
        if offered & (1 << bit) != 0 {
            client.subprotocols.push((*name).to_owned());
        }
    }
    let bits = script.byte();
    client.deflate = (offered & 4 != 0).then_some(Offer {
        server_no_context_takeover: offered & 8 != 0,
        client_no_context_takeover: offered & 16 != 0,
        server_max_window_bits: (bits & 8 != 0).then_some(8 + bits % 8),
        client_max_window_bits: (bits & 16 != 0).then_some(None),
    });
    let mut request = Vec::new();
    client.write_request(&mut request);
    let mut reader = HeadReader::new();
    let read = reader.handle_input(&request, &HeadLimits::default());
    let (head, length) = read.expect("it is sound").expect("it is whole");
    assert_eq!(length, request.len());
    let upgrade = Upgrade::from_head(&head).expect("it is an upgrade");
    let chosen = match upgrade.choose(KNOWN) {
        Subprotocol::Chosen(chosen) => Some(chosen),
        _ => None,
    };
    let agreed = negotiate(upgrade.extensions(), &POLICY);
    let value = agreed.map(|agreed| agreed.to_value());
    let mut answer = Vec::new();
    write_switching_protocols(&mut answer, upgrade.key(), chosen, value.as_deref());
    answer.extend_from_slice(script.rest());
    let verdict = client.validate_response(&answer).expect("it is accepted");
    let accepted = verdict.expect("it is whole");
    assert_eq!(&answer[accepted.head_len..], script.rest());
    assert_eq!(accepted.subprotocol.as_deref(), chosen);
    assert_eq!(accepted.deflate, agreed);
}

/// What accepts the request of [`client`], but for its end.
const ACCEPTED: &str = "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\n\
    Connection: Upgrade\r\nSec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n";

pub(super) fn seeds() -> Vec<Vec<u8>> {
    let mut seeds = vec![
        seed(&[0], UPGRADE),
        seed(&[0], UPGRADE.replace("13", "8")),
        seed(&[0], UPGRADE.replace("websocket\r\n", "h2c\r\n")),
        seed(&[0], UPGRADE.replace("NjZQ==", "NjZ")),
        seed(&[0], UPGRADE.replace("GET", "POST")),
        seed(&[0], UPGRADE.replace("HTTP/1.1", "HTTP/1.0")),
        seed(&[0], UPGRADE.replace("session.abc", "x, x, ,y;")),
        seed(&[2], b"the sample nonce\x03\x00frames"),
        seed(&[2], b"another nonce...\x00\x00"),
        seed(&[2], b"a third nonce...\x1c\x1d"),
    ];
    for rest in [
        "\r\n\x01\x02frames",
        "Sec-WebSocket-Protocol: tidegate.v1.raw\r\n\r\n",
        "Sec-WebSocket-Protocol: other\r\n\r\n",
        "Sec-WebSocket-Extensions: permessage-deflate\r\n\r\n",
        "Sec-WebSocket-Accept: twice\r\n\r\n",
        "folded\r\n\r\n",
    ] {
        seeds.push(seed(&[1], format!("{ACCEPTED}{rest}")));
    }
    seeds.push(seed(
        &[1],
        "HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n\r\n",
    ));
    seeds.push(seed(&[1], "HTTP/1.0 101 X\r\n\r\n"));
    seeds.push(seed(&[1], ACCEPTED.replace("s3pP", "s3pQ")));
    seeds
}
