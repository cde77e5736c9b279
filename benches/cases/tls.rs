//! What TLS costs: signatures, a handshake's expensive step, records.
//!
//! By the stopwatch alone: signing and key exchange take randomness, so their instructions differ from
//! call to call.

use std::{hint::black_box, sync::Arc};

use rustls::{
    ClientConfig, ClientConnection, RootCertStore, ServerConfig, SignatureScheme,
    crypto::aws_lc_rs,
    pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer},
};
use tidegate::tls::stream::{Interface, Stream};

use super::{Call, Case, case};

pub(super) const CASES: &[Case] = &[
    case("tls/sign-ecdsa-p256", 4, |n| sign(n, Key::Ecdsa)),
    case("tls/sign-rsa-2048", 1, |n| sign(n, Key::Rsa)),
    case("tls/hello-ecdsa-p256", 4, |n| hello(n, Key::Ecdsa, false)),
    case("tls/hello-rsa-2048", 1, |n| hello(n, Key::Rsa, false)),
    case("tls/hello-resumed", 4, |n| hello(n, Key::Ecdsa, true)),
    case("tls/encrypt-20", 64, |n| encrypt(n, 20)),
    case("tls/encrypt-1k", 64, |n| encrypt(n, 1024)),
    case("tls/encrypt-16k", 16, |n| encrypt(n, 16 * 1024)),
    case("tls/encrypt-128k", 4, |n| encrypt(n, 128 * 1024)),
];

#[derive(Clone, Copy)]
enum Key {
    Ecdsa,
    Rsa,
}

fn certified(key: Key) -> (CertificateDer<'static>, PrivateKeyDer<'static>) {
    let key = match key {
        Key::Ecdsa => rcgen::KeyPair::generate(),
        Key::Rsa => {
            rcgen::KeyPair::generate_rsa_for(&rcgen::PKCS_RSA_SHA256, rcgen::RsaKeySize::_2048)
        }
    };
    let key = key.expect("there is randomness");
    let params = rcgen::CertificateParams::new(["localhost".to_owned()]).expect("it is a name");
    let certificate = params.self_signed(&key).expect("the parameters are valid");
    let key = PrivatePkcs8KeyDer::from(key.serialize_der());
    (certificate.der().clone(), key.into())
}

fn configs(key: Key) -> (Arc<ServerConfig>, Arc<ClientConfig>) {
    let (certificate, key) = certified(key);
    let provider = Arc::new(aws_lc_rs::default_provider());
    let mut server = ServerConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()
        .expect("the provider has them")
        .with_no_client_auth()
        .with_single_cert(vec![certificate.clone()], key)
        .expect("they belong together");
    server.ticketer = aws_lc_rs::Ticketer::new().expect("there is randomness");
    let mut roots = RootCertStore::empty();
    roots.add(certificate).expect("it is a certificate");
    let client = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("the provider has them")
        .with_root_certificates(roots)
        .with_no_client_auth();
    (Arc::new(server), Arc::new(client))
}

fn sign(n: u32, key: Key) -> Call {
    let (_, key) = certified(key);
    let key = aws_lc_rs::sign::any_supported_type(&key).expect("the provider knows it");
    let offered = [
        SignatureScheme::ECDSA_NISTP256_SHA256,
        SignatureScheme::RSA_PSS_SHA256,
    ];
    let signer = key.choose_scheme(&offered).expect("it is offered");
    Box::new(move || {
        for _ in 0..n {
            // As long as what TLS 1.3 has signed.
            let signed = signer.sign(black_box(&[0x20; 130]));
            black_box(signed.expect("it can sign"));
        }
    })
}

fn client_records(client: &mut ClientConnection) -> Vec<u8> {
    let mut records = Vec::new();
    while client.wants_write() {
        client.write_tls(&mut records).expect("a vector takes it");
    }
    records
}

/// A connection whose handshake is over.
fn open(server: &Arc<ServerConfig>, client: &Arc<ClientConfig>) -> Stream {
    let name = "localhost".try_into().expect("it is a name");
    let mut client = ClientConnection::new(Arc::clone(client), name).expect("it is valid");
    let mut stream = Stream::new(Arc::clone(server), Interface::Unbuffered).expect("it is valid");
    while stream.is_handshaking() || stream.has_output() {
        let mut records = client_records(&mut client);
        let mut output = Vec::new();
        let heard = stream.handle_input(&mut records, &mut Vec::new());
        heard.expect("the client keeps to TLS");
        stream.take_output(&mut output);
        let mut output = output.as_slice();
        while !output.is_empty() {
            client.read_tls(&mut output).expect("it is read");
            client.process_new_packets().expect("it is good");
        }
    }
    stream
}

/// From a ClientHello to the server's whole flight, the connection's beginning included: what a client
/// can make the server do with some hundred bytes.
fn hello(n: u32, key: Key, is_resumed: bool) -> Call {
    let (server, client) = configs(key);
    if is_resumed {
        open(&server, &client);
    }
    let name = "localhost".try_into().expect("it is a name");
    let mut client = ClientConnection::new(client, name).expect("it is valid");
    let hello = client_records(&mut client);
    Box::new(move || {
        for _ in 0..n {
            let mut stream =
                Stream::new(Arc::clone(&server), Interface::Unbuffered).expect("it is valid");
            let mut hello = black_box(&hello).clone();
            let heard = stream.handle_input(&mut hello, &mut Vec::new());
            heard.expect("the client keeps to TLS");
            assert!(stream.has_output());
            black_box(stream);
        }
    })
}

fn encrypt(n: u32, bytes: usize) -> Call {
    let (server, client) = configs(Key::Ecdsa);
    let mut stream = open(&server, &client);
    let plain = vec![0x5a; bytes];
    let (mut out, mut staging) = (Vec::new(), Vec::new());
    Box::new(move || {
        for _ in 0..n {
            out.clear();
            let pieces = [black_box(plain.as_slice())];
            let result = stream.encrypt(pieces.into_iter(), &mut staging, &mut out);
            result.expect("it is open");
            black_box(&mut out);
        }
    })
}
