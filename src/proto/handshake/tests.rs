//! Upgrades that hold and upgrades that do not, from either end.

use super::*;
use crate::proto::http1::{HeadLimits, HeadReader};

const KEY: &str = "dGhlIHNhbXBsZSBub25jZQ==";

/// A request with the RFC's key, and `fields` after those that every handshake has.
fn upgrade_with<T>(
    fields: &str,
    check: impl FnOnce(&Upgrade<'_>) -> T,
) -> Result<T, HandshakeError> {
    request(
        &format!(
            "GET /chat HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
             Sec-WebSocket-Key: {KEY}\r\nSec-WebSocket-Version: 13\r\n{fields}\r\n"
        ),
        check,
    )
}

fn request<T>(text: &str, check: impl FnOnce(&Upgrade<'_>) -> T) -> Result<T, HandshakeError> {
    let mut reader = HeadReader::new();
    let head = reader.handle_input(text.as_bytes(), &HeadLimits::default());
    let (head, _) = head.unwrap().unwrap();
    Upgrade::from_head(&head).map(|upgrade| check(&upgrade))
}

#[test]
fn the_accept_key_is_that_of_the_rfc() {
    assert_eq!(&accept_key(KEY), b"s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
}

#[test]
fn the_switch_is_written() {
    let mut out = Vec::new();
    write_switching_protocols(&mut out, KEY, Some("chat"), None);
    let expected = "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\n\
                    Connection: Upgrade\r\n\
                    Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\
                    Sec-WebSocket-Protocol: chat\r\n\r\n";
    assert_eq!(String::from_utf8(out).unwrap(), expected);
}

#[test]
fn handshakes_are_read() {
    assert_eq!(
        upgrade_with("", |upgrade| upgrade.key().to_owned()).unwrap(),
        KEY
    );
    let firefox = format!(
        "GET / HTTP/1.1\r\nHost: a\r\nConnection: keep-alive, Upgrade\r\n\
         Upgrade: h2c, WebSocket\r\nsec-websocket-version: 13\r\n\
         sec-websocket-key:{KEY}\r\nSec-WebSocket-Extensions: permessage-deflate\r\n\r\n"
    );
    assert_eq!(request(&firefox, |_| ()), Ok(()));
}

#[test]
fn bad_handshakes_are_refused() {
    use HandshakeError as E;
    let good = format!(
        "GET / HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
         Sec-WebSocket-Key: {KEY}\r\nSec-WebSocket-Version: 13\r\n\r\n"
    );
    let key_line = format!("Sec-WebSocket-Key: {KEY}\r\n");
    let cases = [
        ("GET", "POST", E::MethodNotGet, 405),
        ("HTTP/1.1", "HTTP/1.0", E::HttpVersionTooLow, 400),
        ("Upgrade: websocket\r\n", "", E::NotAnUpgrade, 426),
        ("Upgrade: websocket", "Upgrade: h2c", E::NotAnUpgrade, 426),
        ("Connection: Upgrade\r\n", "", E::ConnectionNotUpgrade, 400),
        (": Upgrade", ": close", E::ConnectionNotUpgrade, 400),
        (": 13", ": 8", E::UnsupportedVersion, 426),
        (": 13", ": 013", E::UnsupportedVersion, 426),
        (": 13", ": 13, 8", E::UnsupportedVersion, 426),
        ("-Version", "-Vision", E::UnsupportedVersion, 426),
        (&key_line, "", E::MissingKey, 400),
        (&key_line, &key_line.repeat(2), E::RepeatedKey, 400),
        (KEY, "", E::InvalidKey, 400),
        (KEY, "dGhlIHNhbXBsZSBub25jZQ", E::InvalidKey, 400),
        (KEY, "dGhlIHNhbXBsZSBub25jZWE=", E::InvalidKey, 400),
        (KEY, "dGhlIHNhbXBsZSBub25jZWFi", E::InvalidKey, 400),
        (KEY, "dGhlIHNhbXBsZSBub25jZ!==", E::InvalidKey, 400),
    ];
    for (from, to, error, status) in cases {
        let text = good.replacen(from, to, 1);
        assert_eq!(request(&text, |_| ()), Err(error), "{from} -> {to}");
        assert_eq!(error.status(), status);
    }
    assert_eq!(request(&good, |_| ()), Ok(()));
}

#[test]
fn an_old_version_is_told_the_right_one() {
    for error in [
        HandshakeError::NotAnUpgrade,
        HandshakeError::UnsupportedVersion,
    ] {
        let mut out = Vec::new();
        error.response().write_to(&mut out);
        let text = String::from_utf8(out).unwrap();
        assert!(text.starts_with("HTTP/1.1 426 Upgrade Required\r\n"));
        assert!(text.contains("\r\nUpgrade: websocket\r\n"));
        assert!(text.contains("\r\nConnection: Upgrade, close\r\n"));
        assert!(text.contains("\r\nSec-WebSocket-Version: 13\r\n"));
    }
}

#[test]
fn subprotocols_are_chosen() {
    let known = ["b", "a", "session.x"];
    let cases = [
        ("", Subprotocol::NoneOffered),
        (
            "Sec-WebSocket-Protocol: session.x\r\n",
            Subprotocol::NoneOffered,
        ),
        (
            "Sec-WebSocket-Protocol: c, session.x\r\n",
            Subprotocol::NoneKnown,
        ),
        ("Sec-WebSocket-Protocol: A\r\n", Subprotocol::NoneKnown),
        (
            "Sec-WebSocket-Protocol: c ,a,b\r\n",
            Subprotocol::Chosen("a"),
        ),
        (
            "Sec-WebSocket-Protocol: c\r\nSec-WebSocket-Protocol: b, a\r\n",
            Subprotocol::Chosen("b"),
        ),
    ];
    for (fields, expected) in cases {
        let chosen = upgrade_with(fields, |upgrade| upgrade.choose(&known));
        assert_eq!(chosen, Ok(expected), "{fields}");
    }
    let fields = "Sec-WebSocket-Protocol: a, session.s3cr3t\r\n";
    let entries = upgrade_with(fields, |upgrade| {
        upgrade.subprotocols().collect::<Vec<_>>().join(" ")
    });
    assert_eq!(entries.unwrap(), "a session.s3cr3t");
}

#[test]
fn bad_subprotocols_are_refused() {
    use HandshakeError as E;
    let many: Vec<_> = (0..=SUBPROTOCOLS_MAX).map(|n| n.to_string()).collect();
    let cases = [
        ("a b", E::InvalidSubprotocol),
        ("a/b", E::InvalidSubprotocol),
        ("\u{e9}", E::InvalidSubprotocol),
        ("a, b, a", E::RepeatedSubprotocol),
        ("a\r\nSec-WebSocket-Protocol: a", E::RepeatedSubprotocol),
        (&many.join(","), E::TooManySubprotocols),
    ];
    for (value, error) in cases {
        let fields = format!("Sec-WebSocket-Protocol: {value}\r\n");
        assert_eq!(upgrade_with(&fields, |_| ()), Err(error), "{value}");
        assert_eq!(error.status(), 400);
    }
}
