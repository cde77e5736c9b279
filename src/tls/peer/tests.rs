//! Names that certificates hold, and those that they should not.

use rcgen::{CertificateParams, DnType, DnValue, SanType, string::Ia5String};

use super::*;
use crate::tls::fixtures::{Authority, named};

fn named_by(params: &CertificateParams, from: ClientUser) -> Result<Option<String>, PeerError> {
    let pair = Authority::new("issuer").issue(params);
    user(pair.certificate.der(), from)
}

fn ia5(text: &str) -> Ia5String {
    Ia5String::try_from(text).unwrap()
}

#[test]
fn the_part_that_is_asked_for_is_the_user() {
    let mut params = named("Alice Öhm");
    params.subject_alt_names = vec![
        SanType::IpAddress([192, 0, 2, 1].into()),
        SanType::URI(ia5("spiffe://example.com/alice")),
        SanType::URI(ia5("spiffe://example.com/other")),
        SanType::Rfc822Name(ia5("alice@example.com")),
        SanType::DnsName(ia5("alice.example.com")),
        SanType::DnsName(ia5("other.example.com")),
    ];
    for (from, wanted) in [
        (ClientUser::None, None),
        (ClientUser::CommonName, Some("Alice Öhm")),
        (ClientUser::Dns, Some("alice.example.com")),
        (ClientUser::Email, Some("alice@example.com")),
        (ClientUser::Uri, Some("spiffe://example.com/alice")),
    ] {
        let user = named_by(&params, from).unwrap();
        assert_eq!(user.as_deref(), wanted, "{from:?}");
    }
}

#[test]
fn the_most_specific_of_several_common_names_counts() {
    let mut params = named("Users");
    params
        .distinguished_name
        .push(DnType::OrganizationalUnitName, "Sales");
    // rcgen keeps one of each kind, so the second one is written as a kind of its own.
    let common_name = DnType::CustomDnType(vec![2, 5, 4, 3]);
    params.distinguished_name.push(common_name, "alice");
    let user = named_by(&params, ClientUser::CommonName).unwrap();
    assert_eq!(user.as_deref(), Some("alice"));
}

#[test]
fn a_certificate_without_the_part_names_nobody() {
    let mut nothing = CertificateParams::default();
    nothing.distinguished_name = rcgen::DistinguishedName::new();
    for from in [
        ClientUser::CommonName,
        ClientUser::Dns,
        ClientUser::Email,
        ClientUser::Uri,
    ] {
        let error = named_by(&nothing, from).unwrap_err();
        assert!(matches!(error, PeerError::Missing(_)), "{from:?}: {error}");
    }
    let error = named_by(&named("alice"), ClientUser::Dns).unwrap_err();
    let text = "the client's certificate has no DNS name to take the user's name from";
    assert_eq!(error.to_string(), text);
    assert_eq!(named_by(&nothing, ClientUser::None), Ok(None));
}

#[test]
fn what_is_no_users_name_is_refused() {
    let refused = |name: &str| {
        let user = named_by(&named(name), ClientUser::CommonName);
        assert_eq!(user, Err(PeerError::Unusable("common name")), "{name:?}");
    };
    refused("");
    refused("alice\nbob");
    refused("alice\0");
    refused("\u{85}alice");
    refused(&"x".repeat(USER_NAME_BYTES_MAX + 1));
    // 65 characters of two bytes each.
    refused(&"é".repeat(65));
    let most = "x".repeat(USER_NAME_BYTES_MAX);
    let user = named_by(&named(&most), ClientUser::CommonName).unwrap();
    assert_eq!(user, Some(most));
    let mut params = named("alice");
    params.subject_alt_names = vec![SanType::URI(ia5("a\r\nb"))];
    let user = named_by(&params, ClientUser::Uri);
    assert_eq!(user, Err(PeerError::Unusable("URI")));
}

/// An encoding that is not text is no name, and no earlier name steps in its place.
#[test]
fn a_name_in_a_strange_encoding_is_refused() {
    let mut params = named("admin");
    let common_name = DnType::CustomDnType(vec![2, 5, 4, 3]);
    let strange = DnValue::BmpString(rcgen::string::BmpString::try_from("bob").unwrap());
    params.distinguished_name.push(common_name, strange);
    let user = named_by(&params, ClientUser::CommonName);
    assert_eq!(user, Err(PeerError::Unusable("common name")));
}

#[test]
fn what_is_no_certificate_is_unreadable() {
    let pair = Authority::new("issuer").issue(&named("alice"));
    let der = pair.certificate.der().as_ref();
    let longer = [der, &[0]].concat();
    for bytes in [&[][..], b"x", &der[..der.len() - 1], &longer] {
        let user = user(&CertificateDer::from(bytes), ClientUser::CommonName);
        assert_eq!(user, Err(PeerError::Unreadable));
    }
}

#[test]
fn where_certificates_name_users_nothing_else_does() {
    let pair = Authority::new("issuer").issue(&named("alice"));
    let certificate = Some(pair.certificate.der());
    let nameless = Authority::new("issuer").issue(&named(""));
    let nameless = Some(nameless.certificate.der());
    let alice = || Some(Arc::from("alice"));
    let bob = || Some(Arc::from("bob"));
    let asked = ClientUser::CommonName;
    for (certificate, from, claimed, wanted) in [
        (certificate, asked, None, Ok(alice())),
        (certificate, asked, alice(), Ok(alice())),
        (certificate, asked, bob(), Err(PeerError::Contradicted)),
        (None, asked, None, Ok(None)),
        (None, asked, alice(), Err(PeerError::Unproven)),
        (
            nameless,
            asked,
            None,
            Err(PeerError::Unusable("common name")),
        ),
        (
            certificate,
            ClientUser::Dns,
            None,
            Err(PeerError::Missing("DNS name")),
        ),
        // Certificates that only let in say nothing of the user.
        (certificate, ClientUser::None, bob(), Ok(bob())),
        (certificate, ClientUser::None, None, Ok(None)),
        (None, ClientUser::None, bob(), Ok(bob())),
    ] {
        let text = format!("{from:?}, {claimed:?}");
        assert_eq!(user_of(certificate, from, claimed), wanted, "{text}");
    }
}
