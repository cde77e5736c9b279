//! Certificates as an operator and clients meet them: renewed while connections are open, broken,
//! several for several hosts, and those that clients show. The clients are OpenSSL and rustls, not the
//! gateway's own code.

mod common;

use std::{
    fs::{self, File},
    net::SocketAddr,
    os::unix::fs::{PermissionsExt as _, symlink},
    path::{Path, PathBuf},
    sync::Arc,
    time::Instant,
};

use common::{
    DEADLINE, Finished, Server,
    certs::{Authority, EXPIRED, Issued, NOW, replace},
    program, run, tidegate, within,
};
use futures_util::{SinkExt as _, StreamExt as _};
use rcgen::SanType;
use rustls::{
    ClientConfig, HandshakeKind, RootCertStore,
    client::Resumption,
    crypto::aws_lc_rs,
    pki_types::{CertificateDer, PrivateKeyDer, ServerName, pem::PemObject as _},
};
use serde_json::Value;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};
use tokio_rustls::{TlsConnector, client::TlsStream};
use tokio_tungstenite::{
    WebSocketStream, client_async,
    tungstenite::{self, Message},
};

/// A directory of this test's own, with authorities and a configuration in it.
struct World {
    directory: PathBuf,
    servers: Authority,
    clients: Authority,
}

impl World {
    fn new(name: &str) -> Self {
        let directory = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("certificates-{name}"));
        let _ = fs::remove_dir_all(&directory);
        fs::create_dir_all(&directory).expect("the target directory can be written");
        let world = Self {
            directory,
            servers: Authority::new("servers"),
            clients: Authority::new("clients"),
        };
        replace(&world.path("servers.pem"), &world.servers.pem());
        replace(&world.path("clients.pem"), &world.clients.pem());
        world
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.join(name)
    }

    fn shown(&self, name: &str) -> String {
        self.path(name)
            .to_str()
            .expect("the path is UTF-8")
            .to_owned()
    }

    /// Issues and writes a server's certificate.
    fn server(&self, name: &str, hosts: &[&str]) -> Issued {
        let issued = self.servers.server(hosts, NOW);
        issued.write(&self.directory, name);
        issued
    }

    /// Writes the configuration: what `[tls]` says, and pairs of files.
    fn configure(&self, tls: &str, pairs: &[&str]) {
        let mut text = format!("[tls]\nlisten = \"127.0.0.1:0\"\n{tls}\n");
        for name in pairs {
            text += &format!(
                "[[tls.certificates]]\ncertificate = \"{name}.pem\"\nkey = \"{name}.key\"\n"
            );
        }
        replace(&self.path("tidegate.toml"), &text);
    }

    fn start(&self, args: &[&str]) -> Server {
        let config = self.shown("tidegate.toml");
        let mut all = vec!["--config", &config, "--demo"];
        all.extend_from_slice(args);
        Server::quiet(&all)
    }

    /// A client that trusts the servers' authority, and shows `own`.
    fn client(&self, own: Option<&Issued>) -> Arc<ClientConfig> {
        let mut roots = RootCertStore::empty();
        let root = CertificateDer::from_pem_slice(self.servers.pem().as_bytes());
        roots
            .add(root.expect("it is a certificate"))
            .expect("it is an authority");
        let builder = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
            .with_safe_default_protocol_versions()
            .expect("the provider has both")
            .with_root_certificates(roots);
        Arc::new(match own {
            None => builder.with_no_client_auth(),
            Some(own) => {
                let key = PrivateKeyDer::try_from(own.key.serialize_der()).expect("it is a key");
                let chain = vec![own.certificate.der().clone()];
                builder.with_client_auth_cert(chain, key).expect("they fit")
            }
        })
    }

    /// A client to which each handshake shows a certificate: it takes up no session.
    fn unresuming(&self) -> Arc<ClientConfig> {
        let mut client = Arc::unwrap_or_clone(self.client(None));
        client.resumption = Resumption::disabled();
        Arc::new(client)
    }

    /// OpenSSL's client: sends a request and reads until the gateway closes.
    fn openssl(&self, addr: SocketAddr, target: &str, args: &[&str]) -> Finished {
        let request = self.path("request");
        let text = format!("GET {target} HTTP/1.1\r\nHost: edge\r\n\r\n");
        fs::write(&request, text).expect("the target directory can be written");
        let mut command = program("openssl");
        command.args(["s_client", "-ign_eof", "-verify_return_error"]);
        command.args([
            "-connect",
            &addr.to_string(),
            "-CAfile",
            &self.shown("servers.pem"),
        ]);
        command.args(args);
        run(command.stdin(File::open(request).expect("it was just written")))
    }
}

/// Files are left unwatched, so that only a signal can be what had an effect.
const UNWATCHED: [&str; 2] = ["--set", "server.reload_on_change=false"];

async fn connect(
    addr: SocketAddr,
    host: &'static str,
    client: &Arc<ClientConfig>,
) -> std::io::Result<TlsStream<TcpStream>> {
    let stream = TcpStream::connect(addr).await?;
    let name = ServerName::try_from(host).expect("it is a name");
    let connector = TlsConnector::from(Arc::clone(client));
    within("the TLS handshake", connector.connect(name, stream)).await
}

type WebSocket = WebSocketStream<TlsStream<TcpStream>>;

async fn open(
    addr: SocketAddr,
    target: &str,
    client: &Arc<ClientConfig>,
) -> Result<WebSocket, tungstenite::Error> {
    let stream = connect(addr, "edge.example", client).await?;
    let request = format!("wss://edge.example{target}");
    let (ws, _) = within("the upgrade", client_async(request, stream)).await?;
    Ok(ws)
}

async fn echoes(ws: &mut WebSocket, text: &str) {
    ws.send(Message::text(text)).await.expect("it is open");
    let answer = within("the echo", ws.next()).await;
    let answer = answer.expect("it is open").expect("it is a message");
    assert_eq!(answer, Message::text(text));
}

/// What the server shows to a client that comes now.
async fn shown_now(addr: SocketAddr, client: &Arc<ClientConfig>) -> CertificateDer<'static> {
    let stream = connect(addr, "edge.example", client)
        .await
        .expect("TLS is served");
    let chain = stream
        .get_ref()
        .1
        .peer_certificates()
        .expect("it has shown one");
    chain[0].clone()
}

async fn reloaded(server: &Server, times: u64) {
    let wanted = format!("{times} reloads of certificates");
    server
        .wait(&wanted, |now| now.process("tls_reloads_total") == times)
        .await;
}

async fn refused(server: &Server, times: u64) {
    let wanted = format!("{times} refusals");
    server
        .wait(&wanted, |now| now.process("reload_failures_total") == times)
        .await;
}

/// Tries until it is so.
fn until(what: &str, is_so: impl Fn() -> bool) {
    let end = Instant::now() + DEADLINE;
    while !is_so() {
        assert!(Instant::now() < end, "{what}: not within {DEADLINE:?}");
    }
}

/// Waits until each worker shows `wanted`: it takes what it is told between two turns.
async fn shows(addr: SocketAddr, client: &Arc<ClientConfig>, wanted: &Issued) {
    let all = async {
        let mut in_a_row = 0;
        while in_a_row < 8 {
            let is_it = shown_now(addr, client).await == *wanted.certificate.der();
            in_a_row = if is_it { in_a_row + 1 } else { 0 };
        }
    };
    within("the certificate at every worker", all).await;
}

#[tokio::test]
async fn a_renewal_is_noticed_and_open_connections_stay() {
    let world = World::new("renewal");
    let first = world.servers.server(&["edge.example"], (-86_400, 3_600));
    first.write(&world.directory, "a");
    world.configure("", &["a"]);
    let server = world.start(&[]);
    let addr = server.tls_addr();
    let client = world.unresuming();
    assert_eq!(shown_now(addr, &client).await, *first.certificate.der());
    let before = server.counters().process("tls_certificate_expires_at");
    let mut ws = open(addr, "/echo", &client).await.expect("it is served");
    echoes(&mut ws, "before").await;

    let second = world.server("a", &["edge.example"]);
    reloaded(&server, 1).await;
    shows(addr, &client, &second).await;
    let counters = server.counters();
    let after = counters.process("tls_certificate_expires_at");
    // The second one was issued somewhat later.
    let later = (after - before).checked_sub(86_400 - 3_600);
    let is_it = later.is_some_and(|later| later <= DEADLINE.as_secs());
    assert!(is_it, "the gauge follows: {before}, {after}");
    assert_eq!(
        counters.process("reloads_total"),
        0,
        "the configuration is the same"
    );
    echoes(&mut ws, "after").await;
}

#[tokio::test]
async fn a_broken_pair_changes_nothing_and_a_signal_brings_the_mended_one() {
    let world = World::new("broken");
    let first = world.server("a", &["edge.example"]);
    world.configure("", &["a"]);
    let server = world.start(&UNWATCHED);
    let addr = server.tls_addr();
    let client = world.unresuming();
    let mut ws = open(addr, "/echo", &client).await.expect("it is served");

    let second = world.servers.server(&["edge.example"], NOW);
    replace(&world.path("a.pem"), &second.certificate.pem());
    server.signal("HUP");
    refused(&server, 1).await;
    shows(addr, &client, &first).await;
    replace(&world.path("a.pem"), "-----BEGIN CERTIFICATE-----\nAAAA\n");
    server.signal("HUP");
    refused(&server, 2).await;
    fs::remove_file(world.path("a.key")).expect("it was there");
    server.signal("HUP");
    refused(&server, 3).await;
    shows(addr, &client, &first).await;
    echoes(&mut ws, "untouched").await;
    let log = server.stderr();
    for wanted in [
        "tls.certificates[0].key = \\\"a.key\\\"",
        "this key does not belong to the certificate",
        "line 1: `-----BEGIN CERTIFICATE-----` is not followed",
        "this can't be read: No such file or directory",
    ] {
        let plain = wanted.replace("\\\"", "\"");
        assert!(
            log.contains(&plain) || log.contains(wanted),
            "{wanted} not in {log}"
        );
    }
    for secret in first
        .key
        .serialize_pem()
        .lines()
        .filter(|line| !line.starts_with('-'))
    {
        assert!(!log.contains(secret), "nothing of a key is told");
    }

    second.write(&world.directory, "a");
    server.signal("HUP");
    reloaded(&server, 1).await;
    shows(addr, &client, &second).await;
    echoes(&mut ws, "still untouched").await;
    assert_eq!(server.counters().total("upgraded_total"), 1);
}

/// Kubernetes mounts files as links to links, and swaps the one in the middle.
#[tokio::test]
async fn a_swapped_link_is_noticed() {
    let world = World::new("link");
    let mounted = world.path("mounted");
    for generation in ["1", "2"] {
        fs::create_dir_all(mounted.join(generation)).expect("the target directory can be written");
    }
    let first = world.servers.server(&["edge.example"], NOW);
    first.write(&mounted.join("1"), "tls");
    symlink("1", mounted.join("data")).expect("links can be made");
    for name in ["tls.pem", "tls.key"] {
        let to = Path::new("data").join(name);
        symlink(to, mounted.join(name)).expect("links can be made");
    }
    world.configure("", &["mounted/tls"]);
    let server = world.start(&[]);
    let client = world.unresuming();
    shows(server.tls_addr(), &client, &first).await;
    let second = world.servers.server(&["edge.example"], NOW);
    second.write(&mounted.join("2"), "tls");
    symlink("2", mounted.join("new")).expect("links can be made");
    fs::rename(mounted.join("new"), mounted.join("data")).expect("links can be renamed");
    reloaded(&server, 1).await;
    shows(server.tls_addr(), &client, &second).await;
}

/// Where the configuration leads to a directory that nobody watched, what comes into it is seen.
#[tokio::test]
async fn certificates_may_come_after_the_configuration_that_names_them() {
    let world = World::new("late");
    world.server("a", &["edge.example"]);
    world.configure("", &["a"]);
    let server = world.start(&[]);
    fs::create_dir(world.path("new")).expect("the target directory can be written");
    world.configure("", &["new/b"]);
    refused(&server, 1).await;
    let second = world.servers.server(&["edge.example"], NOW);
    second.write(&world.path("new"), "b");
    reloaded(&server, 1).await;
    shows(server.tls_addr(), &world.unresuming(), &second).await;
}

#[test]
fn hosts_have_certificates_of_their_own() {
    let world = World::new("hosts");
    for (name, host) in [
        ("a", "a.example"),
        ("b", "*.b.example"),
        ("c", "c.b.example"),
    ] {
        world.server(name, &[host]);
    }
    world.configure("", &["a", "b", "c"]);
    let server = world.start(&[]);
    for (asked, wanted) in [
        (Some("a.example"), "a.example"),
        (Some("x.b.example"), "*.b.example"),
        (Some("c.b.example"), "c.b.example"),
        (Some("C.B.EXAMPLE"), "c.b.example"),
        (Some("other.example"), "a.example"),
        (None, "a.example"),
    ] {
        let mut args = match asked {
            Some(host) => vec!["-servername", host],
            None => vec!["-noservername"],
        };
        // The certificate as text, its names in it.
        args.extend(["-showcerts", "-verify_hostname", wanted]);
        let finished = world.openssl(server.tls_addr(), "/healthz", &args);
        let told = &finished.stdout;
        assert!(told.contains("Verification: OK"), "{asked:?}: {finished:?}");
        assert!(told.contains("HTTP/1.1 200 OK"), "{asked:?}: {finished:?}");
    }
}

#[test]
fn a_client_that_speaks_only_http_2_is_told() {
    let world = World::new("alpn");
    world.server("a", &["edge.example"]);
    world.configure("", &["a"]);
    let server = world.start(&[]);
    let finished = world.openssl(server.tls_addr(), "/healthz", &["-alpn", "h2"]);
    assert!(finished.stderr.contains("alert number 120"), "{finished:?}");
    let finished = world.openssl(server.tls_addr(), "/healthz", &["-alpn", "h2,http/1.1"]);
    assert!(
        finished.stdout.contains("ALPN protocol: http/1.1"),
        "{finished:?}"
    );
    assert!(finished.stdout.contains("HTTP/1.1 200 OK"), "{finished:?}");
}

/// A ticket of one core is good on the other, in both versions, and after a renewal.
#[tokio::test]
async fn clients_come_back_on_any_core_and_after_a_renewal() {
    let world = World::new("tickets");
    world.server("a", &["edge.example"]);
    world.configure("", &["a"]);
    let server = world.start(&UNWATCHED);
    let addr = server.tls_addr();
    let client = world.client(None);
    let mut kinds = Vec::new();
    // The kernel chooses the core; each connection brings the ticket for the next.
    for n in 0..64 {
        let mut stream = connect(addr, "edge.example", &client)
            .await
            .expect("TLS is served");
        kinds.push(stream.get_ref().1.handshake_kind().expect("it is done"));
        let request = b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n";
        stream.write_all(request).await.expect("it is open");
        let mut answer = Vec::new();
        within("the answer", stream.read_to_end(&mut answer))
            .await
            .expect("it ends well");
        let resumed = server.counters().per_core("tls_handshakes_resumed_total");
        if n > 4 && resumed.iter().all(|n| *n > 1) {
            break;
        }
    }
    assert_eq!(kinds[0], HandshakeKind::Full);
    assert!(
        kinds[1..]
            .iter()
            .all(|kind| *kind == HandshakeKind::Resumed),
        "{kinds:?}"
    );
    let resumed = server.counters().per_core("tls_handshakes_resumed_total");
    assert!(resumed.iter().all(|n| *n > 1), "both cores: {resumed:?}");

    let session = world.shown("session");
    for version in ["-tls1_2", "-tls1_3"] {
        world.openssl(addr, "/healthz", &[version, "-sess_out", &session]);
        let reused = world.openssl(addr, "/healthz", &[version, "-sess_in", &session]);
        assert!(
            reused.stdout.contains("Reused, TLSv1."),
            "{version}: {reused:?}"
        );
    }
    world.openssl(addr, "/healthz", &["-sess_out", &session]);
    world.server("a", &["edge.example"]);
    server.signal("HUP");
    reloaded(&server, 1).await;
    let reused = world.openssl(addr, "/healthz", &["-sess_in", &session]);
    assert!(reused.stdout.contains("Reused, TLSv1."), "{reused:?}");
}

/// The user that the gateway says a client is.
async fn user(addr: SocketAddr, target: &str, client: &Arc<ClientConfig>) -> Option<String> {
    let mut ws = open(addr, target, client).await.expect("it is let in");
    let connected = within("`connected`", ws.next()).await.expect("it is open");
    let connected = connected
        .expect("it is a message")
        .into_text()
        .expect("it is text");
    let connected: Value = serde_json::from_str(&connected).expect("it is JSON");
    connected["user"].as_str().map(str::to_owned)
}

/// The status of a refused upgrade, and what it says.
async fn status(addr: SocketAddr, target: &str, client: &Arc<ClientConfig>) -> (u16, String) {
    match open(addr, target, client).await {
        Err(tungstenite::Error::Http(response)) => {
            let body = response.body().clone().unwrap_or_default();
            let text = String::from_utf8(body).expect("it is text");
            (response.status().as_u16(), text)
        }
        other => panic!("{target}: expected a refusal: {other:?}"),
    }
}

#[tokio::test]
async fn the_user_is_whom_the_certificate_names() {
    let world = World::new("users");
    world.server("a", &["edge.example"]);
    let issued = world.clients.client("alice", Vec::new(), NOW);
    let alice = world.client(Some(&issued));
    let strange = world.clients.client("a\nb", Vec::new(), NOW);
    let strange = world.client(Some(&strange));
    let nobody = world.client(None);
    let optional = "client_auth = \"optional\"\nclient_ca = \"clients.pem\"\n";
    world.configure(&format!("{optional}client_user = \"common_name\""), &["a"]);
    let server = world.start(&UNWATCHED);
    let addr = server.tls_addr();
    assert_eq!(user(addr, "/ws", &alice).await.as_deref(), Some("alice"));
    assert_eq!(
        user(addr, "/ws?user=alice", &alice).await.as_deref(),
        Some("alice")
    );
    // A second time, by a ticket.
    assert_eq!(user(addr, "/ws", &alice).await.as_deref(), Some("alice"));
    assert!(server.counters().total("tls_handshakes_resumed_total") > 0);
    assert_eq!(user(addr, "/ws", &nobody).await, None);
    for (client, target, wanted) in [
        (
            &alice,
            "/ws?user=bob",
            "`user` is not the name in the client's certificate",
        ),
        (
            &nobody,
            "/ws?user=alice",
            "`user` counts only with a certificate that proves it",
        ),
        (
            &strange,
            "/ws",
            "the common name of the client's certificate is no user's name",
        ),
    ] {
        let (status, told) = status(addr, target, client).await;
        assert_eq!(status, 403, "{target}: {told}");
        assert!(told.starts_with(wanted), "{target}: {told}");
    }
    // Nor is it believed where there are no certificates at all.
    let plain = common::client::open(server.addr, "/ws?user=alice", None, None).await;
    assert!(
        matches!(plain, Err(tungstenite::Error::Http(ref response)) if response.status() == 403),
        "{plain:?}"
    );

    // Another part of the certificate, by a reload.
    let uri = "spiffe://example/carol".try_into().expect("it is a URI");
    let carol = world.clients.client("carol", vec![SanType::URI(uri)], NOW);
    let carol = world.client(Some(&carol));
    world.configure(&format!("{optional}client_user = \"uri\""), &["a"]);
    server.signal("HUP");
    server
        .wait("the reload", |now| {
            now.per_core("reloads_total").iter().all(|n| *n == 1)
        })
        .await;
    let name = user(addr, "/ws", &carol).await;
    assert_eq!(name.as_deref(), Some("spiffe://example/carol"));
    let (status, told) = status(addr, "/ws", &alice).await;
    assert_eq!(status, 403, "{told}");
}

#[tokio::test]
async fn who_must_show_a_certificate_is_served_only_with_a_good_one() {
    let world = World::new("required");
    world.server("a", &["edge.example"]);
    world.configure(
        "client_auth = \"required\"\nclient_ca = \"clients.pem\"",
        &["a"],
    );
    let server = world.start(&UNWATCHED);
    let addr = server.tls_addr();
    world
        .clients
        .client("alice", Vec::new(), NOW)
        .write(&world.directory, "good");
    world
        .clients
        .client("old", Vec::new(), EXPIRED)
        .write(&world.directory, "old");
    // An authority of the same name, and none of ours.
    let other = Authority::new("clients");
    other
        .client("mallory", Vec::new(), NOW)
        .write(&world.directory, "foreign");
    // A server's certificate is none for a client.
    world
        .clients
        .server(&["edge.example"], NOW)
        .write(&world.directory, "server");
    let go = |name: Option<&str>, version: &str| {
        let files = name.map(|name| {
            [
                world.shown(&format!("{name}.pem")),
                world.shown(&format!("{name}.key")),
            ]
        });
        let mut args = vec![version];
        if let Some([certificate, key]) = &files {
            args.extend(["-cert", certificate, "-key", key]);
        }
        world.openssl(addr, "/healthz", &args)
    };
    for version in ["-tls1_2", "-tls1_3"] {
        let good = go(Some("good"), version);
        assert!(good.stdout.contains("HTTP/1.1 200 OK"), "{good:?}");
        for (name, alerts) in [
            // certificate_required is TLS 1.3's; handshake_failure was there before.
            (None, &["alert number 116", "alert number 40"][..]),
            (Some("old"), &["alert number 45"]),
            // By the name it is ours, by the signature it is not.
            (
                Some("foreign"),
                &["alert number 48", "alert number 51", "alert number 42"],
            ),
            (Some("server"), &["alert number 43", "alert number 42"]),
        ] {
            let bad = go(name, version);
            assert!(!bad.stdout.contains("HTTP/1.1 200"), "{name:?}: {bad:?}");
            let told = alerts.iter().any(|alert| bad.stderr.contains(alert));
            assert!(told, "{version} {name:?}: {bad:?}");
        }
    }

    // Who issues certificates changes: an open connection stays, a ticket is worth nothing.
    let session = world.shown("session");
    let own = [world.shown("good.pem"), world.shown("good.key")];
    let own = ["-cert", &own[0], "-key", &own[1]];
    let with = |more: [&str; 2]| world.openssl(addr, "/healthz", &[&own[..], &more].concat());
    with(["-sess_out", &session]);
    let reused = with(["-sess_in", &session]);
    assert!(reused.stdout.contains("Reused, TLSv1."), "{reused:?}");
    let issued = world.clients.client("bob", Vec::new(), NOW);
    let mut ws = open(addr, "/echo", &world.client(Some(&issued)))
        .await
        .expect("it is let in");
    with(["-sess_out", &session]);
    replace(&world.path("clients.pem"), &other.pem());
    server.signal("HUP");
    reloaded(&server, 1).await;
    // Each worker takes it when it comes to it.
    until("the ticket's end", || {
        !with(["-sess_in", &session]).stdout.contains("HTTP/1.1 200")
    });
    echoes(&mut ws, "an open connection stays").await;
    until("the other authority's client", || {
        let foreign = go(Some("foreign"), "-tls1_3");
        foreign.stdout.contains("HTTP/1.1 200 OK")
    });
}

/// `tidegate dev-cert`, and the gateway and a client that live by what it prints.
#[test]
fn a_certificate_for_trying_out_works_as_it_is_printed() {
    let world = World::new("dev-cert");
    let out = world.shown("");
    let make = |args: &[&str]| run(tidegate().args(["dev-cert", "--out", &out]).args(args));
    let made = make(&["Dev.Example", "192.0.2.7", "*.dev.example"]);
    assert_eq!(made.code, Some(0), "{made:?}");
    let mode = |name: &str| {
        let metadata = fs::metadata(world.path(name)).expect("it was written");
        metadata.permissions().mode() & 0o777
    };
    assert_eq!(mode("dev-key.pem"), 0o600);
    assert_eq!(
        fs::read_dir(&world.directory).expect("it is there").count(),
        4
    );
    let before = fs::read(world.path("dev-cert.pem")).expect("it was written");

    let again = make(&[]);
    assert_eq!(again.code, Some(2), "{again:?}");
    assert!(
        again.stderr.contains("dev-key.pem is there already")
            || again
                .stderr
                .contains("dev-cert.pem is there already; --force replaces it"),
        "{again:?}"
    );
    assert_eq!(
        fs::read(world.path("dev-cert.pem")).expect("it stays"),
        before
    );
    for wrong in ["bad name", "bücher.example", "a..example"] {
        let wrong = make(&["--force", wrong]);
        assert_eq!(wrong.code, Some(2), "{wrong:?}");
        assert!(
            wrong
                .stderr
                .contains("neither an address nor a host's name"),
            "{wrong:?}"
        );
    }
    let nowhere = run(tidegate().args(["dev-cert", "--out", &world.shown("none")]));
    assert_eq!(nowhere.code, Some(1), "{nowhere:?}");
    assert!(
        nowhere.stderr.contains("this can't be written"),
        "{nowhere:?}"
    );

    fs::write(world.path("tidegate.toml"), &made.stdout).expect("the directory can be written");
    let config = world.shown("tidegate.toml");
    let checked = run(tidegate().args(["check", "--config", &config]));
    let told = "# tls.certificates[0]: localhost, dev.example, *.dev.example; ECDSA; good until ";
    assert!(checked.stdout.contains(told), "{checked:?}");
    let server = world.start(&["--set", "tls.listen=127.0.0.1:0"]);
    let root = world.shown("dev-cert.pem");
    for host in ["localhost", "dev.example", "x.dev.example"] {
        let args = [
            "-servername",
            host,
            "-verify_hostname",
            host,
            "-CAfile",
            &root,
        ];
        let finished = world.openssl(server.tls_addr(), "/healthz", &args);
        assert!(
            finished.stdout.contains("HTTP/1.1 200 OK"),
            "{host}: {finished:?}"
        );
    }
    // Replaced while the gateway runs, which takes it up.
    let replaced = make(&["--force", "--days", "1"]);
    assert_eq!(replaced.code, Some(0), "{replaced:?}");
    assert_ne!(
        fs::read(world.path("dev-cert.pem")).expect("it is there"),
        before
    );
    server.wait_blocking("the new one", |now| now.process("tls_reloads_total") == 1);
}
