//! Which certificate whom gets.

use rcgen::{PKCS_ECDSA_P256_SHA256, PKCS_RSA_SHA256};

use super::*;
use crate::tls::fixtures::Pair;

const ECDSA: &[SignatureScheme] = &[SignatureScheme::ECDSA_NISTP256_SHA256];
const RSA: &[SignatureScheme] = &[SignatureScheme::RSA_PSS_SHA256];
const BOTH: &[SignatureScheme] = &[
    SignatureScheme::RSA_PSS_SHA256,
    SignatureScheme::ECDSA_NISTP256_SHA256,
];

fn ecdsa(names: &[&str]) -> Identity {
    Pair::new(names, &PKCS_ECDSA_P256_SHA256).identity()
}

/// The position of what serves `name`.
fn served(identities: &[Identity], name: Option<&str>, schemes: &[SignatureScheme]) -> usize {
    let resolver = Resolver::new(identities);
    let chosen = resolver.choose(name, schemes).unwrap();
    let mut all = identities.iter();
    all.position(|one| Arc::ptr_eq(&one.certified, chosen))
        .unwrap()
}

#[test]
fn names_lead_to_certificates() {
    let identities = [
        ecdsa(&["default.example"]),
        ecdsa(&["*.example.com", "example.com"]),
        ecdsa(&["a.example.com", "UPPER.example"]),
        ecdsa(&["xn--bcher-kva.example", "*.xn--bcher-kva.example"]),
        ecdsa(&["*.a.example.com", "192.0.2.1"]),
    ];
    for (name, wanted) in [
        (None, 0),
        (Some("default.example"), 0),
        // Exact, and before a wildcard.
        (Some("example.com"), 1),
        (Some("a.example.com"), 2),
        // By wildcard, for one label and no more.
        (Some("b.example.com"), 1),
        (Some("b.c.example.com"), 0),
        (Some("b.a.example.com"), 4),
        // Whatever the case, on either side.
        (Some("A.Example.COM"), 2),
        (Some("B.EXAMPLE.com"), 1),
        (Some("upper.example"), 2),
        // With the root's dot.
        (Some("a.example.com."), 2),
        (Some("b.example.com."), 1),
        (Some("a.example.com.."), 0),
        // Internationalised names are as they stand on the wire.
        (Some("xn--bcher-kva.example"), 3),
        (Some("www.XN--bcher-kva.example"), 3),
        (Some("bücher.example"), 0),
        // Nobody's.
        (Some("other.example"), 0),
        (Some("com"), 0),
        (Some("*.example.com"), 1),
        (Some("192.0.2.1"), 0),
        (Some(""), 0),
        (Some("."), 0),
    ] {
        assert_eq!(served(&identities, name, BOTH), wanted, "{name:?}");
    }
}

#[test]
fn of_several_for_a_name_the_first_that_the_client_can_check_serves() {
    let rsa = |names: &[&str]| Pair::new(names, &PKCS_RSA_SHA256).identity();
    let identities = [
        ecdsa(&["default.example"]),
        rsa(&["a.example"]),
        ecdsa(&["a.example"]),
        rsa(&["*.b.example"]),
        ecdsa(&["c.b.example"]),
    ];
    let a = Some("a.example");
    assert_eq!(served(&identities, a, BOTH), 1);
    assert_eq!(served(&identities, a, RSA), 1);
    assert_eq!(served(&identities, a, ECDSA), 2);
    // An exact name of no use gives way to the wildcard, and the default to any other.
    assert_eq!(served(&identities, Some("c.b.example"), BOTH), 4);
    assert_eq!(served(&identities, Some("c.b.example"), RSA), 3);
    assert_eq!(served(&identities, None, RSA), 1);
    // Nothing that fits at all: the handshake says so.
    let strange = &[SignatureScheme::ED448];
    assert_eq!(served(&identities, a, strange), 0);
}

#[test]
fn no_key_is_parsed_for_a_client() {
    let identities = [ecdsa(&["a.example"])];
    let resolver = Resolver::new(&identities);
    let one = resolver.choose(Some("a.example"), BOTH).unwrap();
    let two = resolver.choose(Some("other.example"), BOTH).unwrap();
    assert!(Arc::ptr_eq(one, &identities[0].certified));
    assert!(Arc::ptr_eq(&one.key, &two.key));
}

#[test]
fn without_certificates_there_is_none() {
    assert!(Resolver::new(&[]).choose(None, BOTH).is_none());
}
