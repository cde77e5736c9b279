//! What is served with it, asked by handshakes in memory.

use std::{fs, os::unix::fs::symlink};

use rcgen::{CertificateParams, PKCS_ECDSA_P256_SHA256, date_time_ymd};
use rustls::{
    AlertDescription, ClientConfig, ClientConnection, HandshakeKind, ProtocolVersion,
    ServerConnection,
    client::{Resumption, WebPkiServerVerifier},
    pki_types::{PrivateKeyDer, ServerName},
};

use super::*;
use crate::{
    config::TlsCertificate,
    tls::fixtures::{Authority, Directory, Pair, named},
};

/// What a handshake came to, on the server's side.
#[derive(Debug)]
struct Done {
    kind: HandshakeKind,
    version: ProtocolVersion,
    alpn: Option<Vec<u8>>,
    /// The certificate that the client showed.
    client: Option<CertificateDer<'static>>,
    /// The certificate that the server showed; none when it was not needed.
    server: Option<CertificateDer<'static>>,
}

/// Lets both talk until they are done, and the client has its tickets.
fn handshake(server: &Serving, client: &Arc<ClientConfig>, name: &str) -> Result<Done, Error> {
    let name = ServerName::try_from(name.to_owned()).unwrap();
    let mut client = ClientConnection::new(Arc::clone(client), name).unwrap();
    let mut server = ServerConnection::new(Arc::clone(server.config())).unwrap();
    for _ in 0..10 {
        let mut bytes = Vec::new();
        while client.wants_write() {
            client.write_tls(&mut bytes).unwrap();
        }
        let mut rest = bytes.as_slice();
        while !rest.is_empty() {
            server.read_tls(&mut rest).unwrap();
            server.process_new_packets()?;
        }
        let mut bytes = Vec::new();
        while server.wants_write() {
            server.write_tls(&mut bytes).unwrap();
        }
        let mut rest = bytes.as_slice();
        while !rest.is_empty() {
            client.read_tls(&mut rest).unwrap();
            // What the client has against it is told by what the server gets of it.
            let _ = client.process_new_packets();
        }
    }
    let first = |all: Option<&[CertificateDer<'static>]>| all.and_then(<[_]>::first).cloned();
    Ok(Done {
        kind: server.handshake_kind().unwrap(),
        version: server.protocol_version().unwrap(),
        alpn: server.alpn_protocol().map(<[u8]>::to_vec),
        client: first(server.peer_certificates()),
        server: first(client.peer_certificates()),
    })
}

/// A directory with an authority, a server's certificate, and clients'.
struct World {
    directory: Directory,
    servers: Authority,
    clients: Authority,
    settings: Tls,
}

impl World {
    fn new(name: &str) -> Self {
        let world = Self {
            directory: Directory::new(name),
            servers: Authority::new("servers"),
            clients: Authority::new("clients"),
            settings: Tls {
                certificates: vec![pair("a")],
                ..Tls::default()
            },
        };
        world.server("a", "a.example");
        world
            .directory
            .write("ca.pem", world.clients.certificate.pem());
        world
    }

    /// Writes a certificate for `host` as `name`.
    fn server(&self, name: &str, host: &str) {
        let params = CertificateParams::new(vec![host.to_owned()]).unwrap();
        self.servers.issue(&params).write(&self.directory.0, name);
    }

    fn asking(mut self, auth: ClientAuth) -> Self {
        self.settings.client_auth = auth;
        self.settings.client_ca = Some("ca.pem".to_owned());
        self
    }

    fn load(&self) -> Material {
        Material::load(&self.settings, &self.directory.0)
            .unwrap()
            .unwrap()
    }

    fn faults(&self) -> Vec<String> {
        let faults = Material::load(&self.settings, &self.directory.0).unwrap_err();
        faults
            .iter()
            .map(|fault| format!("{} {}", fault.key, fault.message))
            .collect()
    }

    fn serving(&self) -> Serving {
        Serving::new(self.load()).unwrap()
    }

    fn client(
        &self,
        versions: &[&'static SupportedProtocolVersion],
        own: Option<&Pair>,
    ) -> ClientConfig {
        let mut roots = RootCertStore::empty();
        roots.add(self.servers.certificate.der().clone()).unwrap();
        let verifier =
            WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider()).build();
        let builder = ClientConfig::builder_with_provider(provider())
            .with_protocol_versions(versions)
            .unwrap()
            .with_webpki_verifier(verifier.unwrap());
        match own {
            None => builder.with_no_client_auth(),
            Some(own) => {
                let key = PrivateKeyDer::try_from(own.key.serialize_der()).unwrap();
                let chain = vec![own.certificate.der().clone()];
                builder.with_client_auth_cert(chain, key).unwrap()
            }
        }
    }
}

fn pair(name: &str) -> TlsCertificate {
    TlsCertificate {
        certificate: format!("{name}.pem"),
        key: format!("{name}.key"),
    }
}

const BOTH: &[&SupportedProtocolVersion] = &[&TLS13, &TLS12];

#[test]
fn both_versions_are_spoken_unless_one_is_too_old() {
    let mut world = World::new("versions");
    let serving = world.serving();
    let new = Arc::new(world.client(&[&TLS13], None));
    let old = Arc::new(world.client(&[&TLS12], None));
    let done = handshake(&serving, &new, "a.example").unwrap();
    assert_eq!(done.version, ProtocolVersion::TLSv1_3);
    let done = handshake(&serving, &old, "a.example").unwrap();
    assert_eq!(done.version, ProtocolVersion::TLSv1_2);
    world.settings.min_version = TlsVersion::V13;
    let serving = world.serving();
    handshake(&serving, &new, "a.example").unwrap();
    let error = handshake(&serving, &old, "a.example").unwrap_err();
    assert!(matches!(error, Error::PeerIncompatible(_)), "{error}");
}

#[test]
fn the_protocol_is_http_1_1_or_unsaid() {
    let world = World::new("alpn");
    let serving = world.serving();
    for (offered, wanted) in [
        (&[][..], None),
        (&["http/1.1"], Some("http/1.1")),
        (&["h2", "http/1.1"], Some("http/1.1")),
    ] {
        let mut client = world.client(BOTH, None);
        client.alpn_protocols = offered
            .iter()
            .map(|name| name.as_bytes().to_vec())
            .collect();
        let done = handshake(&serving, &Arc::new(client), "a.example").unwrap();
        assert_eq!(
            done.alpn.as_deref(),
            wanted.map(str::as_bytes),
            "{offered:?}"
        );
    }
    let mut client = world.client(BOTH, None);
    client.alpn_protocols = vec![b"h2".to_vec()];
    let error = handshake(&serving, &Arc::new(client), "a.example").unwrap_err();
    assert_eq!(error, Error::NoApplicationProtocol);
}

#[test]
fn the_host_decides_on_the_certificate() {
    let mut world = World::new("hosts");
    world.server("b", "*.b.example");
    world.settings.certificates.push(pair("b"));
    let serving = world.serving();
    let client = Arc::new(world.client(BOTH, None));
    let shown: Vec<_> = ["a.example", "www.b.example"]
        .iter()
        .map(|host| handshake(&serving, &client, host).unwrap().server.unwrap())
        .collect();
    assert_ne!(shown[0], shown[1]);
    assert_eq!(
        shown[1],
        serving.material().identities()[1].certified.cert[0]
    );
}

/// One connection to get a ticket by, and how the next one goes.
fn comes_back(
    first: &Serving,
    second: &Serving,
    client: &Arc<ClientConfig>,
) -> Result<HandshakeKind, Error> {
    let done = handshake(first, client, "a.example")?;
    assert_eq!(done.kind, HandshakeKind::Full);
    Ok(handshake(second, client, "a.example")?.kind)
}

#[test]
fn tickets_outlive_a_renewal_but_not_a_change_of_trust() {
    for versions in [&[&TLS13][..], &[&TLS12]] {
        let mut world = World::new("tickets").asking(ClientAuth::Optional);
        let own = world.clients.issue(&named("alice"));
        let serving = world.serving();
        let client = || Arc::new(world.client(versions, Some(&own)));
        let kind = comes_back(&serving, &serving, &client()).unwrap();
        assert_eq!(kind, HandshakeKind::Resumed, "{versions:?}");

        world.server("a", "a.example");
        let renewed = serving.replaced_by(world.load()).unwrap();
        assert!(!renewed.material().is_same_as(serving.material()));
        let kind = comes_back(&serving, &renewed, &client()).unwrap();
        assert_eq!(kind, HandshakeKind::Resumed, "{versions:?}");

        let other = Authority::new("other").certificate.pem();
        let whole = world.clients.certificate.pem() + &other;
        world.directory.write("ca.pem", &whole);
        let distrusting = serving.replaced_by(world.load()).unwrap();
        let kind = comes_back(&serving, &distrusting, &client()).unwrap();
        assert_eq!(kind, HandshakeKind::Full, "{versions:?}");

        world.settings.client_auth = ClientAuth::Required;
        let stricter = distrusting.replaced_by(world.load()).unwrap();
        let client = Arc::new(world.client(versions, Some(&own)));
        let kind = comes_back(&distrusting, &stricter, &client).unwrap();
        assert_eq!(kind, HandshakeKind::Full, "{versions:?}");
    }
}

#[test]
fn who_comes_back_is_still_known() {
    for versions in [&[&TLS13][..], &[&TLS12]] {
        let world = World::new("known").asking(ClientAuth::Required);
        let own = world.clients.issue(&named("alice"));
        let serving = world.serving();
        let client = Arc::new(world.client(versions, Some(&own)));
        handshake(&serving, &client, "a.example").unwrap();
        let again = handshake(&serving, &client, "a.example").unwrap();
        assert_eq!(again.kind, HandshakeKind::Resumed);
        assert_eq!(again.client.as_ref(), Some(own.certificate.der()));
    }
}

#[test]
fn without_a_lifetime_nobody_comes_back_and_nothing_is_kept() {
    for versions in [&[&TLS13][..], &[&TLS12]] {
        let mut world = World::new("no-tickets");
        world.settings.ticket_lifetime = crate::config::Span(std::time::Duration::ZERO);
        let serving = world.serving();
        let client = Arc::new(world.client(versions, None));
        let kind = comes_back(&serving, &serving, &client).unwrap();
        assert_eq!(kind, HandshakeKind::Full);
    }
}

#[test]
fn each_connection_brings_one_ticket_and_no_early_data() {
    let world = World::new("one-ticket");
    let serving = world.serving();
    let mut client = world.client(&[&TLS13], None);
    client.enable_early_data = true;
    client.resumption = Resumption::in_memory_sessions(16);
    let client = Arc::new(client);
    handshake(&serving, &client, "a.example").unwrap();
    let name = ServerName::try_from("a.example").unwrap();
    let mut second = ClientConnection::new(Arc::clone(&client), name.clone()).unwrap();
    assert!(second.early_data().is_none());
    // The ticket has been spent.
    let done = handshake(&serving, &client, "a.example").unwrap();
    assert_eq!(done.kind, HandshakeKind::Full);
}

#[test]
fn clients_need_what_is_asked_of_them() {
    use ClientAuth::{None as Never, Optional, Required};
    let world = World::new("mtls");
    let ours = world.clients.issue(&named("alice"));
    let foreign = Authority::new("clients").issue(&named("mallory"));
    let mut old = named("old");
    old.not_after = date_time_ymd(2020, 1, 1);
    let old = world.clients.issue(&old);
    let mut world = world;
    for auth in [Never, Optional, Required] {
        world = world.asking(auth);
        let serving = world.serving();
        for versions in [&[&TLS13][..], &[&TLS12]] {
            let go = |own: Option<&Pair>| {
                let client = Arc::new(world.client(versions, own));
                handshake(&serving, &client, "a.example").map(|done| done.client)
            };
            // Whoever has none.
            let none = go(None);
            match auth {
                Never | Optional => assert_eq!(none, Ok(None)),
                Required => assert_eq!(none, Err(Error::NoCertificatesPresented)),
            }
            // A good one.
            let good = go(Some(&ours)).unwrap();
            let wanted = (auth != Never).then(|| ours.certificate.der().clone());
            assert_eq!(good, wanted, "{auth:?}");
            // Others, which a gateway that does not ask never sees.
            for bad in [&foreign, &old] {
                let bad = go(Some(bad));
                match auth {
                    Never => assert_eq!(bad, Ok(None)),
                    Optional | Required => {
                        let error = bad.unwrap_err();
                        assert!(matches!(error, Error::InvalidCertificate(_)), "{error}");
                    }
                }
            }
        }
    }
}

#[test]
fn more_issuers_than_a_hint_can_name_are_not_named() {
    let world = World::new("hints").asking(ClientAuth::Required);
    let mut text = world.clients.certificate.pem();
    let name = "x".repeat(1000);
    for _ in 0..20 {
        text += &Authority::new(&name).certificate.pem();
    }
    world.directory.write("ca.pem", text);
    let material = world.load();
    assert!(material.verifier.root_hint_subjects().is_empty());
    let own = world.clients.issue(&named("alice"));
    let client = Arc::new(world.client(BOTH, Some(&own)));
    let serving = Serving::new(material).unwrap();
    let done = handshake(&serving, &client, "a.example").unwrap();
    assert!(done.client.is_some());
}

#[test]
fn everything_that_is_wrong_is_told_with_its_key() {
    let mut world = World::new("faults").asking(ClientAuth::Optional);
    world.settings.certificates = vec![pair("none"), pair("a"), pair("b")];
    world.server("b", "b.example");
    let other = Pair::new(&["c.example"], &PKCS_ECDSA_P256_SHA256);
    world.directory.write("b.key", other.key.serialize_pem());
    world.directory.write("ca.pem", "");
    let told = world.faults();
    let at = world.directory.0.display();
    let wanted = [
        format!(
            "tls.certificates[0].certificate = \"none.pem\" ({at}/none.pem): this can't be read"
        ),
        format!("tls.certificates[0].key = \"none.key\" ({at}/none.key): this can't be read"),
        format!("tls.certificates[2].key = \"b.key\" ({at}/b.key): this key does not belong"),
        format!("tls.client_ca = \"ca.pem\" ({at}/ca.pem): there is no certificate in it"),
    ];
    assert_eq!(told.len(), wanted.len(), "{told:#?}");
    for (told, wanted) in told.iter().zip(&wanted) {
        assert!(told.starts_with(wanted), "{told}\n{wanted}");
    }
    // Nobody asks for clients' certificates, so nobody needs their issuers.
    world.settings = Tls {
        certificates: vec![pair("a")],
        client_ca: Some("ca.pem".to_owned()),
        ..Tls::default()
    };
    world.load();
    world.settings.certificates.clear();
    assert!(
        Material::load(&world.settings, &world.directory.0)
            .unwrap()
            .is_none()
    );
}

#[test]
fn what_expires_first_counts_and_what_is_odd_is_told() {
    let mut world = World::new("expiry").asking(ClientAuth::Optional);
    let mut params = CertificateParams::new(vec!["b.example".to_owned()]).unwrap();
    params.not_after = date_time_ymd(2020, 1, 1);
    world.servers.issue(&params).write(&world.directory.0, "b");
    world.settings.certificates.push(pair("b"));
    let leaf = world.clients.issue(&named("alice"));
    world.directory.write("ca.pem", leaf.certificate.pem());
    let material = world.load();
    assert_eq!(material.expires_at(), 1_577_836_800);
    assert_eq!(
        material.warnings(),
        [
            "tls.certificates[1] (b.pem): the certificate expired on 2020-01-01",
            "tls.client_ca (ca.pem): certificate 1 is not one of an authority",
        ]
    );
}

#[test]
fn the_directories_of_files_and_of_what_links_lead_to_are_watched() {
    let world = World::new("links");
    let root = world.directory.0.canonicalize().unwrap();
    for name in ["live", "archive"] {
        fs::create_dir(root.join(name)).unwrap();
    }
    fs::rename(root.join("a.pem"), root.join("archive/a1.pem")).unwrap();
    symlink("../archive/a1.pem", root.join("live/a.pem")).unwrap();
    let mut settings = world.settings.clone();
    settings.certificates[0].certificate = "live/a.pem".to_owned();
    settings.client_ca = Some("elsewhere/ca.pem".to_owned());
    let wanted = ["live", "archive", "", "elsewhere"].map(|name| root.join(name));
    let mut found = directories(&settings, &root);
    found.sort();
    let mut wanted: Vec<PathBuf> = wanted
        .iter()
        .map(|path| path.components().collect())
        .collect();
    wanted.sort();
    assert_eq!(found, wanted);
    settings.certificates = vec![pair("x")];
    settings.client_ca = None;
    assert_eq!(directories(&settings, Path::new("")), [Path::new(".")]);
}

/// A client that offers only what is not spoken hears why.
#[test]
fn a_client_that_speaks_http_2_alone_gets_an_alert() {
    let world = World::new("alert");
    let mut client = world.client(BOTH, None);
    client.alpn_protocols = vec![b"h2".to_vec()];
    let name = ServerName::try_from("a.example").unwrap();
    let mut client = ClientConnection::new(Arc::new(client), name).unwrap();
    let mut server = ServerConnection::new(Arc::clone(world.serving().config())).unwrap();
    let mut bytes = Vec::new();
    client.write_tls(&mut bytes).unwrap();
    server.read_tls(&mut bytes.as_slice()).unwrap();
    server.process_new_packets().unwrap_err();
    let mut bytes = Vec::new();
    server.write_tls(&mut bytes).unwrap();
    client.read_tls(&mut bytes.as_slice()).unwrap();
    let error = client.process_new_packets().unwrap_err();
    let alert = AlertDescription::NoApplicationProtocol;
    assert_eq!(error, Error::AlertReceived(alert));
}
