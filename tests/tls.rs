//! The encrypted port, through openssl, curl and clients that know nothing of the gateway; what it does
//! with those who speak something else; and what an idle connection takes.

mod common;

use std::{
    io::{Read, Write},
    net::TcpStream,
    process::{Child, ChildStdin, Command, Stdio},
    sync::{Arc, mpsc},
    thread,
    time::Instant,
};

use common::{DEADLINE, Finished, certs::Tls, raise_fd_limit, run, within};
use futures_util::{SinkExt, StreamExt};
use tokio_rustls::{
    TlsConnector,
    client::TlsStream,
    rustls::{
        ClientConfig, RootCertStore,
        crypto::aws_lc_rs,
        pki_types::{CertificateDer, ServerName, pem::PemObject},
    },
};
use tokio_tungstenite::{WebSocketStream, client_async, tungstenite::Message};

const REQUEST: &str = "GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n";

/// `openssl s_client` with its standard input held, and everything that it says.
struct OpenSsl {
    child: Child,
    stdin: Option<ChildStdin>,
    lines: mpsc::Receiver<Vec<u8>>,
    said: String,
}

impl OpenSsl {
    fn start(tls: &Tls, args: &[&str]) -> Self {
        let mut child = Command::new("openssl")
            .args(["s_client", "-connect", &tls.addr.to_string(), "-CAfile"])
            .arg(tls.trusted())
            .args(["-verify_return_error", "-verify_ip", "127.0.0.1"])
            .args(args)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("openssl is installed");
        let (sender, lines) = mpsc::channel();
        let stdout = child.stdout.take().expect("it is piped");
        let stderr = child.stderr.take().expect("it is piped");
        let pipes: [Box<dyn Read + Send>; 2] = [Box::new(stdout), Box::new(stderr)];
        for mut pipe in pipes {
            let sender = sender.clone();
            thread::spawn(move || {
                let mut piece = [0; 4096];
                while let Ok(n @ 1..) = pipe.read(&mut piece) {
                    let _ = sender.send(piece[..n].to_vec());
                }
            });
        }
        let stdin = child.stdin.take();
        Self {
            child,
            stdin,
            lines,
            said: String::new(),
        }
    }

    fn write(&mut self, text: &str) {
        let stdin = self.stdin.as_mut().expect("it is open");
        stdin.write_all(text.as_bytes()).expect("openssl reads");
        stdin.flush().expect("openssl reads");
    }

    /// Reads on until it has said `text`, and forgets everything up to there.
    fn until(&mut self, text: &str) -> String {
        let end = Instant::now() + DEADLINE;
        loop {
            if let Some(at) = self.said.find(text) {
                let rest = self.said.split_off(at + text.len());
                return std::mem::replace(&mut self.said, rest);
            }
            let left = end.saturating_duration_since(Instant::now());
            match self.lines.recv_timeout(left) {
                Ok(piece) => self.said.push_str(&String::from_utf8_lossy(&piece)),
                Err(_) => panic!("openssl never said {text:?}: {}", self.said),
            }
        }
    }
}

impl Drop for OpenSsl {
    fn drop(&mut self) {
        drop(self.stdin.take());
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn openssl_speaks_either_version() {
    let tls = Tls::start(&[]);
    for (version, name) in [("-tls1_2", "TLSv1.2"), ("-tls1_3", "TLSv1.3")] {
        let mut client = OpenSsl::start(&tls, &[version, "-alpn", "h2,http/1.1"]);
        let said = client.until("Verify return code: 0 (ok)");
        assert!(said.contains("ALPN protocol: http/1.1"), "{said}");
        assert!(said.contains(&format!("New, {name}, Cipher is")), "{said}");
        client.write(REQUEST);
        client.until("HTTP/1.1 200 OK");
        // Our end is told, in TLS too.
        client.until("closed");
    }
    // What is too old, or asks for another protocol, is told so.
    for (args, alert) in [
        (
            &["-tls1_1", "-cipher", "ALL:@SECLEVEL=0"][..],
            "alert handshake failure",
        ),
        (&["-alpn", "h2"], "no application protocol"),
    ] {
        let mut client = OpenSsl::start(&tls, args);
        client.until(alert);
    }
    let counters = tls.server.counters();
    assert_eq!(counters.total("tls_handshakes_total"), 2);
    assert_eq!(counters.total("tls_failed_negotiation_total"), 2);
    assert_eq!(counters.total("tls_truncated_total"), 0);
    tls.server
        .wait_blocking("every gauge at zero", common::Counters::is_idle);
}

#[test]
fn keys_are_updated_when_openssl_asks_for_it() {
    for buffered in ["false", "true"] {
        let tls = Tls::start(&["--set", &format!("tls.buffered={buffered}")]);
        let mut client = OpenSsl::start(&tls, &["-tls1_3"]);
        client.until("Verify return code: 0 (ok)");
        // Once with an answer asked for, once without; each must be a line that it reads alone.
        for command in ["K\n", "k\n", "K\n"] {
            client.write(command);
            client.until("KEYUPDATE");
        }
        client.write(REQUEST);
        client.until("HTTP/1.1 200 OK");
        assert_eq!(tls.server.counters().total("tls_broken_total"), 0);
    }
}

#[test]
fn nothing_is_negotiated_again() {
    let tls = Tls::start(&[]);
    let mut client = OpenSsl::start(&tls, &["-tls1_2"]);
    client.until("Verify return code: 0 (ok)");
    client.write("R\n");
    client.until("RENEGOTIATING");
    // The gateway declines with a warning; openssl takes that for the end.
    client.until("no renegotiation");
    tls.server
        .wait_blocking("every gauge at zero", common::Counters::is_idle);
    assert_eq!(tls.server.counters().total("tls_handshakes_total"), 1);
}

#[test]
fn sessions_are_resumed() {
    let tls = Tls::start(&[]);
    for version in ["-tls1_2", "-tls1_3"] {
        let session = tls.path("session.pem");
        let session = session.to_str().expect("it is text");
        let mut first = OpenSsl::start(&tls, &[version, "-ign_eof", "-sess_out", session]);
        first.until("Verify return code: 0 (ok)");
        first.write(REQUEST);
        first.until("HTTP/1.1 200 OK");
        first.until("closed");
        assert!(first.child.wait().is_ok());
        let mut second = OpenSsl::start(&tls, &[version, "-ign_eof", "-sess_in", session]);
        second.until("Reused, TLSv1");
        second.write(REQUEST);
        second.until("HTTP/1.1 200 OK");
    }
    let counters = tls.server.counters();
    assert_eq!(counters.total("tls_handshakes_total"), 4);
    assert_eq!(counters.total("tls_handshakes_resumed_total"), 2);
}

#[test]
fn curl_reads_the_probe() {
    let tls = Tls::start(&[]);
    let url = format!("https://localhost:{}/healthz", tls.addr.port());
    let mut curl = Command::new("curl");
    curl.args(["--silent", "--show-error", "--fail", "--cacert"])
        .arg(tls.trusted())
        .arg(url)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let Finished {
        code,
        stdout,
        stderr,
    } = run(&mut curl);
    assert_eq!((code, stdout.trim()), (Some(0), "ok"), "{stderr}");
}

/// Everything that comes back for `bytes`, up to the end.
fn answer(addr: std::net::SocketAddr, bytes: &[u8]) -> Vec<u8> {
    let mut stream = TcpStream::connect(addr).expect("the gateway listens");
    stream
        .set_read_timeout(Some(DEADLINE))
        .expect("a timeout can be set");
    stream.write_all(bytes).expect("the gateway reads");
    let mut answer = Vec::new();
    stream
        .read_to_end(&mut answer)
        .expect("the gateway ends the connection");
    answer
}

#[test]
fn who_speaks_something_else_is_told_so() {
    let tls = Tls::start(&[]);
    let told = String::from_utf8(answer(tls.addr, REQUEST.as_bytes())).expect("it is text");
    assert!(told.starts_with("HTTP/1.1 400 Bad Request\r\n"), "{told}");
    assert!(
        told.ends_with("this port speaks TLS: connect with https:// or wss://\n"),
        "{told}"
    );
    // Alerts: decode_error for what is no record, handshake_failure where no TLS is.
    assert_eq!(
        answer(tls.addr, b"\x00\x01\x02\x03\x04\x05"),
        [21, 3, 3, 0, 2, 2, 50]
    );
    let hello = [22, 3, 1, 0, 5, 1, 0, 0, 1, 3];
    assert_eq!(answer(tls.server.addr, &hello), [21, 3, 3, 0, 2, 2, 40]);
    // A record of another kind, and one that is too long.
    assert_eq!(answer(tls.addr, &[23, 3, 3, 0, 1, 0])[5..], [2, 10]);
    assert_eq!(answer(tls.addr, &[22, 3, 3, 0x50, 0])[5..], [2, 50]);
    let counters = tls.server.counters();
    assert_eq!(counters.total("plain_on_tls_total"), 1);
    assert_eq!(counters.total("tls_on_plain_total"), 1);
    assert_eq!(counters.total("tls_failed_protocol_total"), 3);
    tls.server
        .wait_blocking("every gauge at zero", common::Counters::is_idle);
}

#[test]
fn a_handshake_that_never_ends_is_ended() {
    let tls = Tls::start(&["--set", "tls.handshake_timeout=300ms"]);
    assert_eq!(answer(tls.addr, b""), b"");
    assert_eq!(answer(tls.addr, &[22, 3, 1, 2, 0, 1, 0]), b"");
    assert_eq!(
        tls.server.counters().total("tls_handshake_timeouts_total"),
        2
    );
}

#[test]
fn who_is_not_let_in_costs_no_key() {
    let tls = Tls::start(&[
        "--set",
        "limits.connections_per_ip=1",
        "--set",
        "limits.ip_exempt=[]",
    ]);
    let _first = TcpStream::connect(tls.addr).expect("the gateway listens");
    tls.server.wait_counter_blocking("tls_open", 1);
    // access_denied, before a byte of a ClientHello was read.
    assert_eq!(answer(tls.addr, b""), [21, 3, 3, 0, 2, 2, 49]);
    let counters = tls.server.counters();
    assert_eq!(counters.total("refused_ip_connections_total"), 1);
    assert_eq!(counters.total("tls_open"), 1);
}

type Secure = WebSocketStream<TlsStream<tokio::net::TcpStream>>;

fn connector(tls: &Tls) -> TlsConnector {
    let mut roots = RootCertStore::empty();
    let trusted = CertificateDer::from_pem_file(tls.trusted()).expect("it is PEM");
    roots.add(trusted).expect("it is a certificate");
    let config = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()
        .expect("the provider has them")
        .with_root_certificates(roots)
        .with_no_client_auth();
    TlsConnector::from(Arc::new(config))
}

async fn open(tls: &Tls, connector: &TlsConnector, path: &str) -> Secure {
    let tcp = tokio::net::TcpStream::connect(tls.addr)
        .await
        .expect("it listens");
    let name = ServerName::try_from("localhost").expect("it is a name");
    let stream = within("the TLS handshake", connector.connect(name, tcp)).await;
    let stream = stream.expect("the certificate is trusted");
    let url = format!("wss://localhost{path}");
    let opened = within("the upgrade", client_async(url, stream)).await;
    opened.expect("the gateway upgrades").0
}

/// Long messages over either interface, several on their way.
#[tokio::test]
async fn long_messages_come_back_as_they_went() {
    for buffered in ["false", "true"] {
        let tls = Tls::start(&[
            "--demo",
            "--set",
            "limits.message_bytes_max=8MiB",
            "--set",
            &format!("tls.buffered={buffered}"),
        ]);
        let connector = connector(&tls);
        let mut ws = open(&tls, &connector, "/echo").await;
        for len in [0, 1, 125, 16_384, 70_000, 1 << 20, 5 << 20] {
            let message: Vec<u8> = (0..len).map(|at| (at * 31 + at / 253) as u8).collect();
            let mut back = Vec::new();
            let (mut write, mut read) = ws.split();
            let writing = async {
                for _ in 0..2 {
                    let message = Message::binary(message.clone());
                    write.send(message).await.expect("it is sent");
                }
            };
            let reading = async {
                for _ in 0..2 {
                    let message = read.next().await.expect("it goes on").expect("it is good");
                    back.push(message.into_data());
                }
            };
            within("the echo", async { tokio::join!(writing, reading) }).await;
            assert!(back.iter().all(|back| *back == message), "{len} bytes");
            ws = write.reunite(read).expect("they are of one");
        }
        ws.close(None).await.expect("it is sent");
        while within("the close", ws.next()).await.is_some() {}
        tls.server
            .wait("every gauge at zero", common::Counters::is_idle)
            .await;
        let counters = tls.server.counters();
        assert_eq!(counters.total("tls_broken_total"), 0);
        assert_eq!(counters.total("tls_truncated_total"), 0);
    }
}

#[tokio::test]
async fn who_is_connected_is_told_of_the_end() {
    let mut tls = Tls::start(&[]);
    let connector = connector(&tls);
    let mut ws = open(&tls, &connector, "/ws").await;
    tls.server.signal("TERM");
    let close = loop {
        let message = within("the close", ws.next()).await;
        if let Message::Close(close) = message.expect("a close comes").expect("it is good") {
            break close.expect("it has a code");
        }
    };
    assert_eq!(u16::from(close.code), 1012);
    while within("the end", ws.next()).await.is_some() {}
    assert_eq!(tls.server.wait_exit().code(), Some(0));
}

/// In user space; what rustls takes is most of it.
#[tokio::test]
async fn an_idle_connection_takes_less_than_four_kilobytes() {
    let mut each = 0;
    for _ in 0..4 {
        let (bytes, is_exact) = bytes_of_an_idle_connection().await;
        each = bytes;
        if is_exact {
            break;
        }
    }
    println!("{each} bytes for an idle client over TLS");
    assert!(each <= 4_096, "{each} bytes");
}

/// And whether that is exact: the kernel may have given a page of 2 MiB for the first of its bytes.
async fn bytes_of_an_idle_connection() -> (u64, bool) {
    const FEW: usize = 400;
    const MANY: usize = 1_600;
    raise_fd_limit(4_096);
    let tls = Tls::start(&["--demo", "--set", "limits.ping_interval=1h"]);
    let connector = connector(&tls);
    let mut clients = Vec::new();
    let mut before = (0, 0);
    for n in 0..FEW + MANY {
        if n == FEW {
            // What is paid once has been paid.
            before = (tls.server.rss_bytes(), tls.server.huge_page_bytes());
        }
        let mut ws = open(&tls, &connector, "/echo").await;
        ws.send(Message::text("hello")).await.expect("it is sent");
        let message = within("an answer", ws.next()).await;
        message.expect("it comes").expect("it is good");
        clients.push(ws);
    }
    let all = (FEW + MANY) as u64;
    let huge = tls.server.huge_page_bytes().saturating_sub(before.1);
    let each = (tls.server.rss_bytes() - before.0).saturating_sub(huge) / MANY as u64;
    let counters = tls.server.counters();
    assert_eq!(counters.total("tls_open"), all);
    drop(clients);
    tls.server
        .wait("every gauge at zero", common::Counters::is_idle)
        .await;
    (each, huge == 0)
}
