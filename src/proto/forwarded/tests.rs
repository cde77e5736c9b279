//! Both fields, as proxies write them and as those write them who want to be someone else.

use proptest::prelude::*;

use super::*;
use crate::proto::http1::{HeadLimits, HeadReader};

/// The client as `fields` name it, to one who trusts 10.0.0.0/8 and fd00::/8.
fn client_of(field: Field, fields: &str) -> Result<Option<SocketAddr>, ForwardedError> {
    let head = format!("GET / HTTP/1.1\r\nHost: a\r\n{fields}\r\n");
    let mut reader = HeadReader::new();
    let limits = HeadLimits {
        head_bytes_max: 1 << 20,
        headers_max: 1000,
        ..HeadLimits::default()
    };
    let (head, _) = reader
        .handle_input(head.as_bytes(), &limits)
        .expect("a good head")
        .expect("a whole one");
    client(&head, field, |ip| match ip {
        IpAddr::V4(ip) => ip.octets()[0] == 10,
        IpAddr::V6(ip) => ip.octets()[0] == 0xfd,
    })
}

fn named(text: &str) -> Result<Option<SocketAddr>, ForwardedError> {
    Ok(Some(text.parse().unwrap()))
}

#[test]
fn the_last_address_that_is_not_trusted_is_the_client() {
    let cases = [
        ("192.0.2.1", "192.0.2.1:0"),
        ("192.0.2.1:4711", "192.0.2.1:4711"),
        ("2001:db8::1", "[2001:db8::1]:0"),
        ("[2001:db8::1]", "[2001:db8::1]:0"),
        ("[2001:db8::1]:443", "[2001:db8::1]:443"),
        ("::ffff:192.0.2.1", "192.0.2.1:0"),
        // What the client sent stands in front of what the proxy added.
        ("127.0.0.1, 198.51.100.7, 192.0.2.1", "192.0.2.1:0"),
        ("<script>, \"\x09 , 192.0.2.1", "192.0.2.1:0"),
        ("192.0.2.1, 10.0.0.1,10.0.0.2 ,\tfd00::1", "192.0.2.1:0"),
        ("192.0.2.1, 10.0.0.1, , ", "192.0.2.1:0"),
        ("192.0.2.1\r\nX-Forwarded-For: 10.0.0.1", "192.0.2.1:0"),
        ("nonsense\r\nx-forwarded-for: 192.0.2.1", "192.0.2.1:0"),
        // All are trusted: the first of them began it.
        ("10.0.0.9, 10.0.0.1", "10.0.0.9:0"),
        // A trusted one does not tell whom it was asked by.
        ("192.0.2.1, unknown, 10.0.0.1", "10.0.0.1:0"),
        ("192.0.2.1, _hidden, 10.0.0.1", "10.0.0.1:0"),
    ];
    for (value, client) in cases {
        let fields = format!("X-Forwarded-For: {value}\r\n");
        let found = client_of(Field::XForwardedFor, &fields);
        assert_eq!(found, named(client), "{value}");
        // The other field is not looked at.
        assert_eq!(client_of(Field::Forwarded, &fields), Ok(None), "{value}");
    }
    for fields in [
        "",
        "X-Forwarded-For: \r\n",
        "X-Forwarded-For: unknown\r\n",
        "X-Forwarded-For: 192.0.2.1, UNKNOWN\r\n",
        "Forwarded: for=192.0.2.1\r\n",
    ] {
        assert_eq!(
            client_of(Field::XForwardedFor, fields),
            Ok(None),
            "{fields}"
        );
    }
}

#[test]
fn addresses_that_are_none_are_refused_where_they_count() {
    for value in [
        "192.0.2",
        "192.0.2.256",
        "192.0.2.01",
        "192.0.2.1:",
        "192.0.2.1:65536",
        "192.0.2.1:+1",
        "192.0.2.1 10.0.0.1",
        "for=192.0.2.1",
        "\"192.0.2.1\"",
        "[2001:db8::1",
        "[2001:db8::1]443",
        "[192.0.2.1]",
        "fe80::1%eth0",
        "example.com",
        "_",
        "\u{661}",
    ] {
        let refused = Err(ForwardedError::MalformedXForwardedFor);
        for value in [value.to_owned(), format!("{value}, 10.0.0.1")] {
            let fields = format!("X-Forwarded-For: {value}\r\n");
            let found = client_of(Field::XForwardedFor, &fields);
            assert_eq!(found, refused, "{value}");
        }
        // Behind somebody who is not trusted it is anyone's invention.
        let fields = format!("X-Forwarded-For: {value}, 192.0.2.7\r\n");
        let found = client_of(Field::XForwardedFor, &fields);
        assert_eq!(found, named("192.0.2.7:0"), "{value}");
    }
}

#[test]
fn forwarded_is_read_as_rfc_7239_writes_it() {
    let cases = [
        ("for=192.0.2.43", "192.0.2.43:0"),
        (
            "For=\"[2001:db8:cafe::17]:4711\"",
            "[2001:db8:cafe::17]:4711",
        ),
        ("for=192.0.2.60;proto=http;by=203.0.113.43", "192.0.2.60:0"),
        ("for=198.51.100.17, for=192.0.2.43", "192.0.2.43:0"),
        (
            "proto=https ; for=\"192.0.2.1:80\" ;; by=_x",
            "192.0.2.1:80",
        ),
        ("for=\"192.0.2.1:_port\"", "192.0.2.1:0"),
        ("for=\"\\1\\92.0.2.1\"", "192.0.2.1:0"),
        ("for=192.0.2.1:80", "192.0.2.1:80"),
        ("for=[2001:db8::1]", "[2001:db8::1]:0"),
        (
            "for=192.0.2.1, for=10.0.0.1;by=\"a, for=1.1.1.1\"",
            "192.0.2.1:0",
        ),
        ("for=192.0.2.1,, , for=10.0.0.1 ,", "192.0.2.1:0"),
        ("for=192.0.2.1\r\nForwarded: for=10.0.0.1", "192.0.2.1:0"),
        ("for=\"oh\r\nForwarded: for=192.0.2.1", "192.0.2.1:0"),
        ("for=192.0.2.1, for=unknown, for=10.0.0.1", "10.0.0.1:0"),
        ("for=192.0.2.1, for=_SEVKISEK, for=10.0.0.1", "10.0.0.1:0"),
        ("for=192.0.2.1, proto=http, for=10.0.0.1", "10.0.0.1:0"),
        ("for=10.0.0.3, for=10.0.0.1", "10.0.0.3:0"),
    ];
    for (value, client) in cases {
        let fields = format!("Forwarded: {value}\r\n");
        let found = client_of(Field::Forwarded, &fields);
        assert_eq!(found, named(client), "{value}");
    }
    for value in ["", ",", "for=unknown", "proto=https", ";", "for=\"_x:_y\""] {
        let fields = format!("Forwarded: {value}\r\n");
        assert_eq!(client_of(Field::Forwarded, &fields), Ok(None), "{value}");
    }
}

#[test]
fn other_forwarded_fields_are_refused() {
    for value in [
        "for",
        "for=",
        "for =192.0.2.1",
        "for= 192.0.2.1",
        "=192.0.2.1",
        "for=192.0.2.1 for=192.0.2.2",
        "for=192.0.2.1;for=192.0.2.2",
        "for=192.0.2.1;FOR=192.0.2.1",
        "for=\"192.0.2.1",
        "for=\"192.0.2.1\\",
        "for=\"192.0.2.1\"x",
        "for=2001:db8::1",
        "for=\"2001:db8::1\"",
        "for=\"[192.0.2.1]\"",
        "for=example.com",
        "for=\"\"",
        "192.0.2.1",
        // A client that opens a quote swallows what the proxy adds; it is not believed either.
        "for=\"198.51.100.1, for=192.0.2.1",
        "for=\"198.51.100.1, for=\"[2001:db8::1]\"",
    ] {
        let fields = format!("Forwarded: {value}\r\n");
        let refused = Err(ForwardedError::MalformedForwarded);
        assert_eq!(client_of(Field::Forwarded, &fields), refused, "{value}");
    }
}

#[test]
fn the_way_has_a_most() {
    let refused = Err(ForwardedError::TooManyElements);
    assert_eq!(ForwardedError::TooManyElements.status(), 400);
    for (field, name, each) in [
        (Field::XForwardedFor, "X-Forwarded-For", "10.0.0.1"),
        (Field::Forwarded, "Forwarded", "for=10.0.0.1"),
    ] {
        let list = |count| vec![each; count].join(", ");
        let one = |count| client_of(field, &format!("{name}: {}\r\n", list(count)));
        assert_eq!(one(ELEMENTS_MAX), named("10.0.0.1:0"));
        assert_eq!(one(ELEMENTS_MAX + 1), refused);
        let two = format!("{name}: {}\r\n{name}: {each}\r\n", list(ELEMENTS_MAX));
        assert_eq!(client_of(field, &two), refused);
    }
    // Whatever a client put there before does not count.
    let long = format!("X-Forwarded-For: {}192.0.2.1\r\n", "1.1.1.1, ".repeat(500));
    let found = client_of(Field::XForwardedFor, &long);
    assert_eq!(found, named("192.0.2.1:0"));
}

proptest! {
    /// Whatever a client sends, the proxy's word counts, or nothing does.
    #[test]
    fn nobody_chooses_its_own_address(
        invented in "[a-z0-9.,;:=\"\\\\\\[\\]_ ]{0,60}",
        is_for in any::<bool>(),
        is_quoted in any::<bool>(),
    ) {
        let invented = if is_for { format!("for={invented}") } else { invented };
        let x = format!("X-Forwarded-For: {invented}, 192.0.2.1, 10.0.0.1\r\n");
        prop_assert_eq!(client_of(Field::XForwardedFor, &x), named("192.0.2.1:0"));
        let added = if is_quoted { "for=\"192.0.2.1:1\"" } else { "for=192.0.2.1" };
        let port = u16::from(is_quoted);
        let f = format!("Forwarded: {invented}, {added}, for=10.0.0.1\r\n");
        match client_of(Field::Forwarded, &f) {
            Ok(found) => prop_assert_eq!(found, named(&format!("192.0.2.1:{port}")).unwrap()),
            Err(error) => prop_assert_eq!(error, ForwardedError::MalformedForwarded),
        }
    }
}
