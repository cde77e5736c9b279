//! The end of a gateway with many clients: spread evenly, under its cap, and nobody is cut in the
//! middle of a message.

mod common;

use std::{
    net::SocketAddr,
    time::{Duration, Instant},
};

use common::{
    Server, TempFile,
    client::Client,
    get, raise_fd_limit,
    raw::{FIN, Raw, TEXT, frame, upgrade_request},
    try_get,
};
use futures_util::future::join_all;
use serde_json::json;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

const CLIENTS: usize = 10_000;
const WINDOW: Duration = Duration::from_secs(4);
/// Of each of two cores.
const CLOSES_PER_SECOND_MAX: u32 = 1_600;

/// The `N` of `restart;retry-after=N`.
fn retry_after(reason: &str) -> u64 {
    reason
        .strip_prefix("restart;retry-after=")
        .and_then(|seconds| seconds.parse().ok())
        .unwrap_or_else(|| panic!("not a restart: {reason:?}"))
}

/// An echo client that reads frames without a library: ten thousand of them cost little.
struct Echo {
    stream: TcpStream,
    unread: Vec<u8>,
}

/// What came of a client.
struct Closed {
    code: u16,
    reason: String,
    echoes: usize,
}

impl Echo {
    async fn connect(server: &Server) -> Self {
        let mut stream = TcpStream::connect(server.addr).await.expect("it accepts");
        stream
            .write_all(upgrade_request("/echo").as_bytes())
            .await
            .expect("it reads");
        let mut unread = Vec::new();
        while !unread.windows(4).any(|end| end == b"\r\n\r\n") {
            let count = stream.read_buf(&mut unread).await.expect("it answers");
            assert!(count > 0, "closed before the 101");
        }
        assert!(unread.starts_with(b"HTTP/1.1 101"));
        unread.clear();
        Self { stream, unread }
    }

    /// The next frame's opcode and payload.
    async fn frame(&mut self) -> Option<(u8, Vec<u8>)> {
        loop {
            if let Some((opcode, payload, used)) = parse(&self.unread) {
                self.unread.drain(..used);
                return Some((opcode, payload));
            }
            let count = self.stream.read_buf(&mut self.unread).await.unwrap_or(0);
            if count == 0 {
                assert!(
                    self.unread.is_empty(),
                    "it was cut in the middle of a frame"
                );
                return None;
            }
        }
    }

    /// Says `messages` again and again, with so many on their way, until the close comes.
    async fn until_closed(mut self, in_flight: usize) -> Closed {
        let message = frame(FIN | TEXT, "again and again ".repeat(20).as_bytes());
        for _ in 0..in_flight {
            let _ = self.stream.write_all(&message).await;
        }
        let mut echoes = 0;
        while let Some((opcode, payload)) = self.frame().await {
            if opcode == 8 {
                let code = u16::from_be_bytes([payload[0], payload[1]]);
                let reason = String::from_utf8_lossy(&payload[2..]).into_owned();
                let mut answer = vec![0x88, 0x82, 0, 0, 0, 0];
                answer.extend_from_slice(&payload[..2]);
                let _ = self.stream.write_all(&answer).await;
                assert_eq!(self.frame().await, None, "something came after the close");
                return Closed {
                    code,
                    reason,
                    echoes,
                };
            }
            assert_eq!(payload.len(), 320, "a message is whole");
            echoes += 1;
            let _ = self.stream.write_all(&message).await;
        }
        panic!("it ended without a close");
    }
}

/// A whole frame of a server at the front of `bytes`: opcode, payload, and its length in all.
fn parse(bytes: &[u8]) -> Option<(u8, Vec<u8>, usize)> {
    let (first, second) = (*bytes.first()?, *bytes.get(1)?);
    let (len, start) = match second {
        126 => (
            usize::from(u16::from_be_bytes([*bytes.get(2)?, *bytes.get(3)?])),
            4,
        ),
        len => (usize::from(len), 2),
    };
    let payload = bytes.get(start..start + len)?.to_vec();
    Some((first & 0x0f, payload, start + len))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ten_thousand_clients_are_spread_over_the_window() {
    raise_fd_limit(CLIENTS as u64 + 500);
    let window = format!("drain.window={}s", WINDOW.as_secs());
    let cap = format!("drain.closes_per_second_max={CLOSES_PER_SECOND_MAX}");
    let mut server = Server::start(&[
        "--demo",
        "--set",
        &window,
        "--set",
        &cap,
        "--set",
        "drain.deadline=30s",
        "--set",
        "drain.notice=0s",
    ]);
    let mut clients = Vec::with_capacity(CLIENTS);
    for _ in 0..CLIENTS / 100 {
        clients.extend(join_all((0..100).map(|_| Echo::connect(&server))).await);
    }
    server
        .wait_counter("connections_open", CLIENTS as u64)
        .await;
    // One in fifty never stops talking.
    let closed: Vec<_> = clients
        .into_iter()
        .enumerate()
        .map(|(n, client)| {
            let in_flight = if n % 50 == 0 { 3 } else { 0 };
            tokio::spawn(client.until_closed(in_flight))
        })
        .collect();
    server
        .wait("talk", |c| c.total("messages_in_total") > 1000)
        .await;
    let admin = server.admin;
    let started = Instant::now();
    server.signal("TERM");
    let pace = tokio::task::spawn_blocking(move || watch(admin));
    let mut all = Vec::with_capacity(CLIENTS);
    for closed in closed {
        all.push(closed.await.expect("no client fails"));
    }
    let status = tokio::task::spawn_blocking(move || server.wait_exit())
        .await
        .expect("it ends");
    assert_eq!(status.code(), Some(0));

    let mut seconds = std::collections::BTreeSet::new();
    for closed in &all {
        assert_eq!(closed.code, 1012);
        seconds.insert(retry_after(&closed.reason));
    }
    assert!(
        seconds.len() >= 8,
        "they all come back at once: {seconds:?}"
    );
    let talkers = all.iter().filter(|closed| closed.echoes > 0).count();
    assert_eq!(talkers, CLIENTS / 50);

    let samples = pace.await.expect("no panic");
    assert_even(&samples, started);
}

/// So many clients had been closed at this time.
type Sample = (Instant, u64);

/// Reads how many clients have been closed, until all have been or the gateway has ended, which it does
/// once they are gone.
fn watch(admin: SocketAddr) -> Vec<Sample> {
    let mut samples = Vec::new();
    let end = Instant::now() + Duration::from_secs(30);
    while Instant::now() < end {
        let Ok((_, body)) = try_get(admin, "/counters") else {
            break;
        };
        let counters: serde_json::Value = serde_json::from_str(&body).expect("it is JSON");
        let drained = counters["total"]["drained_total"]
            .as_u64()
            .expect("a number");
        samples.push((Instant::now(), drained));
        if drained == CLIENTS as u64 {
            break;
        }
        // What is sampled is the passing of time.
        std::thread::sleep(Duration::from_millis(20));
    }
    samples
}

/// Closed at an even pace over the window, and never above the cap.
fn assert_even(samples: &[Sample], started: Instant) {
    let at = |sample: &Sample| sample.0.duration_since(started).as_secs_f64();
    let window = WINDOW.as_secs_f64();
    let tolerated = CLIENTS as f64 / 10.0;
    for sample in samples {
        let expected = (at(sample) / window).min(1.0) * CLIENTS as f64;
        let off = (sample.1 as f64 - expected).abs();
        assert!(
            off <= tolerated,
            "{} closed after {:.2} s, expected {expected:.0}",
            sample.1,
            at(sample)
        );
    }
    let last = samples.last().expect("it was watched");
    // Each of them has told of its own close; the gateway may have ended before it was asked again.
    assert!(
        last.1 as usize >= CLIENTS / 10 * 9,
        "they were not watched to the end"
    );
    assert!(at(last) > window * 0.9, "it was over too early");
    let cap = f64::from(CLOSES_PER_SECOND_MAX * 2);
    for (n, from) in samples.iter().enumerate() {
        // Over a quarter of a second and more, so that a late sample does not count.
        for to in samples[n..].iter().filter(|to| at(to) - at(from) >= 0.25) {
            let rate = (to.1 - from.1) as f64 / (at(to) - at(from));
            assert!(rate <= cap * 1.1, "{rate:.0} a second, the cap is {cap}");
        }
    }
}

#[tokio::test]
async fn clients_are_told_before_and_new_ones_are_refused_meanwhile() {
    let server = Server::start(&["--set", "drain.notice=1s", "--set", "drain.window=2s"]);
    let mut client = Client::connect(&server, "u").await;
    client.join("r").await;
    server.signal("TERM");
    let reconnect = client.expect("reconnect").await;
    let told = Instant::now();
    assert_eq!(reconnect.json["reason"], "restart");
    let after = reconnect.json["after_ms"].as_u64().expect("a time");
    assert!(after >= 1000 && after % 1000 == 0, "{after}");
    // It is still served.
    client.publish("r", json!(1)).await;
    let refused = tokio::task::spawn_blocking({
        let addr = server.addr;
        move || {
            let mut raw = Raw::connect(addr);
            raw.send(upgrade_request("/ws").as_bytes());
            let response = raw.response();
            (response, get(addr, "/readyz").0, get(addr, "/healthz").0)
        }
    });
    let (response, ready, healthy) = refused.await.expect("no panic");
    assert_eq!((response.status, ready, healthy), (503, 503, 200));
    assert!(response.header("retry-after").is_some(), "{response:?}");
    let (code, reason) = client.closed().await;
    assert_eq!(code, 1012);
    assert_eq!(retry_after(&reason) * 1000, after);
    let notice = told.elapsed();
    assert!(notice >= Duration::from_millis(900), "{notice:?}");
}

#[tokio::test]
async fn rooms_go_on_while_their_home_has_no_clients_left() {
    // On whichever core a room lives, it is served until its last client has gone.
    let server = Server::start(&["--set", "drain.notice=3s", "--set", "drain.window=1s"]);
    let mut client = Client::connect(&server, "u").await;
    server.signal("TERM");
    client.expect("reconnect").await;
    for n in 0..16 {
        client.join(&format!("room-{n}")).await;
    }
    assert_eq!(client.closed().await.0, 1012);
}

#[tokio::test]
async fn a_final_drain_says_going_away() {
    let server = Server::start(&["--set", "drain.final=true"]);
    let mut client = Client::connect(&server, "u").await;
    server.signal("TERM");
    client.expect("reconnect").await;
    assert_eq!(client.closed().await, (1001, "going away".to_owned()));
}

#[test]
fn a_route_may_close_with_its_own_code_or_without_one() {
    let file = TempFile::new(
        "drain-routes.toml",
        r#"
        [[routes]]
        path = "/ws"
        mode = "rooms"
        drain_close_code = 4100

        [[routes]]
        path = "/unclean"
        mode = "echo"
        drain_close_code = 1006
        "#,
    );
    let server = Server::start(&["--config", file.path(), "--set", "drain.notice=0s"]);
    let mut own = Raw::upgraded(server.addr, "/ws");
    own.expect_text();
    let mut unclean = Raw::upgraded(server.addr, "/unclean");
    unclean.send(&frame(FIN | TEXT, b"last"));
    assert_eq!(unclean.expect_text(), "last");
    server.signal("TERM");
    retry_after(&own.expect_close(4100));
    assert_eq!(unclean.frame(), None, "it ends without a close frame");
}
