//! What is wrong with files is told in words that say what to do.

use std::fmt::Write as _;

use base64::Engine as _;
use rcgen::string::Ia5String;
use rcgen::{
    CertificateParams, KeyPair, PKCS_ECDSA_P256_SHA256, PKCS_ECDSA_P384_SHA384, PKCS_ED25519,
    PKCS_RSA_SHA256, SanType, date_time_ymd,
};
use rustls::crypto::aws_lc_rs;
use x509_parser::asn1_rs::{self, FromDer as _};

use super::*;
use crate::{
    base::limits::PEM_FILE_BYTES_MAX,
    tls::fixtures::{Authority, Directory, Pair, named},
};

/// 2026-01-01.
const NOW: i64 = 1_767_225_600;

fn load(directory: &Directory, certificate: &str, key: &str) -> Result<Identity, String> {
    let path = |name: &str| directory.0.join(name);
    let provider = aws_lc_rs::default_provider();
    let loaded = Identity::load(&path(certificate), &path(key), &provider, NOW);
    loaded.map_err(|errors| {
        errors
            .iter()
            .fold(String::new(), |mut text, (part, error)| {
                let _ = writeln!(text, "{part:?}: {error}");
                text
            })
    })
}

#[test]
fn pairs_of_every_kind_are_served() {
    let directory = Directory::new("kinds");
    for (name, algorithm) in [
        ("p256", &PKCS_ECDSA_P256_SHA256),
        ("p384", &PKCS_ECDSA_P384_SHA384),
        ("ed25519", &PKCS_ED25519),
        ("rsa", &PKCS_RSA_SHA256),
    ] {
        Pair::new(&["A.example", "*.b.example", "192.0.2.1"], algorithm).write(&directory.0, name);
        let identity = load(&directory, &format!("{name}.pem"), &format!("{name}.key")).unwrap();
        assert_eq!(identity.names, ["a.example", "*.b.example"], "{name}");
        assert_eq!(identity.warnings, Vec::<String>::new(), "{name}");
        assert!(
            identity.to_string().contains("good until 4096-01-01"),
            "{identity}"
        );
    }
}

/// What a PKCS #8 key (RFC 5208 §5) wraps: PKCS #1, or SEC 1.
fn unwrapped(key: &KeyPair) -> Vec<u8> {
    let der = key.serialize_der();
    let (_, outer) = asn1_rs::Sequence::from_der(&der).unwrap();
    let (rest, _) = asn1_rs::Integer::from_der(&outer.content).unwrap();
    let (rest, _) = asn1_rs::Any::from_der(rest).unwrap();
    asn1_rs::OctetString::from_der(rest)
        .unwrap()
        .1
        .as_ref()
        .to_vec()
}

fn pem_of(name: &str, der: &[u8]) -> String {
    let text = base64::engine::general_purpose::STANDARD.encode(der);
    let lines: Vec<&str> = text
        .as_bytes()
        .chunks(64)
        .map(|line| str::from_utf8(line).unwrap())
        .collect();
    format!(
        "-----BEGIN {name}-----\n{}\n-----END {name}-----\n",
        lines.join("\n")
    )
}

#[test]
fn keys_are_read_in_all_three_forms_and_a_file_may_hold_both() {
    let directory = Directory::new("forms");
    for (form, algorithm) in [
        ("RSA PRIVATE KEY", &PKCS_RSA_SHA256),
        ("EC PRIVATE KEY", &PKCS_ECDSA_P256_SHA256),
    ] {
        let pair = Pair::new(&["a.example"], algorithm);
        let key = pem_of(form, &unwrapped(&pair.key));
        // As `openssl ecparam -genkey` has it in front.
        let key = pem_of("EC PARAMETERS", b"\x06\x08*\x86H\xce=\x03\x01\x07") + &key;
        let certificate = pair.certificate.pem();
        directory.write("a.pem", &certificate);
        directory.write("a.key", &key);
        load(&directory, "a.pem", "a.key").unwrap();
        // Text around sections, and lines as other systems end them.
        let both = format!("Bag Attributes\n{certificate}\nkey:\n{key}").replace('\n', "\r\n");
        directory.write("both.pem", both);
        load(&directory, "both.pem", "both.pem").unwrap();
    }
}

#[test]
fn what_is_wrong_is_told_by_file_and_line() {
    let directory = Directory::new("wrong");
    let pair = Pair::new(&["a.example"], &PKCS_ECDSA_P256_SHA256);
    pair.write(&directory.0, "a");
    Pair::new(&["b.example"], &PKCS_ECDSA_P256_SHA256).write(&directory.0, "b");
    let (pem, key) = (pair.certificate.pem(), pair.key.serialize_pem());
    let body = |text: &str| text.lines().nth(1).unwrap().to_owned();
    let authority = Authority::new("issuer");
    let issued = authority.issue(&CertificateParams::new(vec!["c.example".to_owned()]).unwrap());
    directory.write(
        "upside-down.pem",
        authority.certificate.pem() + &issued.certificate.pem(),
    );
    directory.write("issued.key", issued.key.serialize_pem());
    directory.write("empty", "");
    directory.write("text", "hello\n");
    directory.write("der", pair.certificate.der());
    directory.write("long", vec![b'x'; PEM_FILE_BYTES_MAX as usize + 1]);
    directory.write(
        "unclosed",
        format!("\n{}", pem.replace("-----END", "----END")),
    );
    directory.write(
        "no-base64",
        format!("x\n\n{}", pem.replace(&body(&pem), "!!!!")),
    );
    directory.write("cut", pem.replace(&body(&pem), ""));
    directory.write("many", pem.repeat(17));
    directory.write(
        "second-is-none",
        format!("{pem}-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"),
    );
    directory.write("two-keys", key.repeat(2));
    directory.write("encrypted", key.replace("PRIVATE", "ENCRYPTED PRIVATE"));
    directory.write(
        "old-encrypted",
        "-----BEGIN RSA PRIVATE KEY-----\nProc-Type: 4,ENCRYPTED\nDEK-Info: AES-256-CBC,00\n\n\
         AAAA\n-----END RSA PRIVATE KEY-----\n",
    );
    directory.write("bad-key", key.replace(&body(&key), "AAAA"));
    for (certificate, key, wanted) in [
        (
            "none.pem",
            "a.key",
            "Certificate: this can't be read: No such file or directory",
        ),
        ("a.pem", "none.key", "Key: this can't be read: No such file"),
        (
            ".",
            "a.key",
            "Certificate: this can't be read: Is a directory",
        ),
        (
            "long",
            "a.key",
            "Certificate: this file is longer than 1048576 bytes",
        ),
        (
            "empty",
            "a.key",
            "Certificate: there is no certificate in it; expected `-----BEGIN",
        ),
        (
            "text",
            "a.key",
            "Certificate: there is no certificate in it; expected",
        ),
        (
            "der",
            "a.key",
            "Certificate: there is no certificate in it, and it looks like DER",
        ),
        (
            "a.key",
            "a.key",
            "Certificate: there is no certificate in it, only PRIVATE KEY; expected",
        ),
        (
            "a.pem",
            "a.pem",
            "Key: there is no private key in it, only CERTIFICATE; expected",
        ),
        (
            "unclosed",
            "a.key",
            "Certificate: line 2: `-----BEGIN CERTIFICATE-----` is not followed",
        ),
        (
            "no-base64",
            "a.key",
            "Certificate: line 3: what `-----BEGIN CERTIFICATE-----` opens is",
        ),
        (
            "cut",
            "a.key",
            "Certificate: certificate 1 in it can't be understood",
        ),
        (
            "second-is-none",
            "a.key",
            "Certificate: certificate 2 in it can't be understood",
        ),
        (
            "many",
            "a.key",
            "Certificate: there are 17 certificates in it; expected 16 at most",
        ),
        (
            "a.pem",
            "two-keys",
            "Key: there are 2 private keys in it; expected one",
        ),
        ("a.pem", "encrypted", "Key: line 1: the key is encrypted"),
        (
            "a.pem",
            "old-encrypted",
            "Key: line 1: the key is encrypted",
        ),
        ("a.pem", "bad-key", "Key: this key can't be used"),
        (
            "a.pem",
            "b.key",
            "Key: this key does not belong to the certificate\n",
        ),
        (
            "upside-down.pem",
            "issued.key",
            "Key: this key does not belong to the certificate, which must come first in its file: \
             the key is that of certificate 2 there",
        ),
    ] {
        let told = load(&directory, certificate, key).unwrap_err();
        assert!(told.starts_with(wanted), "{certificate}, {key}: {told}");
        assert_eq!(told.lines().count(), 1, "{told}");
        assert!(!told.contains("AAAA"), "no part of a key is told: {told}");
    }
    let both = load(&directory, "none.pem", "encrypted").unwrap_err();
    assert_eq!(both.lines().count(), 2, "both files are told of: {both}");
}

#[test]
fn what_clients_may_take_offence_at_is_a_warning() {
    let directory = Directory::new("warnings");
    let authority = Authority::new("one");
    let mut params = CertificateParams::new(vec!["a.example".to_owned()]).unwrap();
    params.not_before = date_time_ymd(2020, 1, 1);
    params.not_after = date_time_ymd(2025, 12, 31);
    authority.issue(&params).write(&directory.0, "expired");
    params.not_before = date_time_ymd(2026, 1, 2);
    params.not_after = date_time_ymd(2027, 1, 1);
    authority.issue(&params).write(&directory.0, "early");
    authority
        .issue(&named("only-a-common-name"))
        .write(&directory.0, "nameless");
    let mut address = named("address");
    address.subject_alt_names = vec![SanType::IpAddress([192, 0, 2, 1].into())];
    authority.issue(&address).write(&directory.0, "address");
    let mut mail = named("mail");
    mail.subject_alt_names = vec![SanType::Rfc822Name(
        Ia5String::try_from("a@b.example").unwrap(),
    )];
    authority.issue(&mail).write(&directory.0, "mail");
    let good = CertificateParams::new(vec!["a.example".to_owned()]).unwrap();
    let good = authority.issue(&good);
    good.write(&directory.0, "alone");
    let whole = good.certificate.pem() + &authority.certificate.pem();
    directory.write("whole.pem", whole);
    directory.write("whole.key", good.key.serialize_pem());
    let broken = good.certificate.pem() + &Authority::new("two").certificate.pem();
    directory.write("broken.pem", broken);
    directory.write("broken.key", good.key.serialize_pem());
    for (name, wanted) in [
        ("alone", None),
        ("whole", None),
        ("address", None),
        ("expired", Some("the certificate expired on 2025-12-31")),
        (
            "early",
            Some("the certificate is good only from 2026-01-02 on"),
        ),
        ("nameless", Some("the certificate names no host")),
        ("mail", Some("the certificate names no host")),
        (
            "broken",
            Some("certificate 2 of the chain did not issue the one before it"),
        ),
    ] {
        let identity = load(&directory, &format!("{name}.pem"), &format!("{name}.key")).unwrap();
        match wanted {
            None => assert_eq!(identity.warnings, Vec::<String>::new(), "{name}"),
            Some(wanted) => {
                let told = &identity.warnings;
                assert_eq!(told.len(), 1, "{name}: {told:?}");
                assert!(told[0].starts_with(wanted), "{name}: {told:?}");
            }
        }
    }
    let expired = load(&directory, "expired.pem", "expired.key").unwrap();
    assert_eq!(expired.validity, (1_577_836_800, 1_767_139_200));
}
