//! A flood on one connection, and what the others on the same core notice of it.

mod common;

use std::{
    io::Write,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use common::{
    Server, cores,
    raw::{BINARY, FIN, Raw, TEXT, frame},
};

const CLIENTS: usize = 20;
/// Exchanges of each client in one window: 2000 samples, of which 20 lie above the p99.
const EXCHANGES: usize = 100;
const WINDOWS: usize = 7;
/// By how much the flood may move the others' p99.
const MOVED_MAX: Duration = Duration::from_millis(2);

/// The 99th percentile of the time that one small echo takes, over all clients in turn.
fn p99(clients: &mut [Raw]) -> Duration {
    let message = frame(FIN | TEXT, b"twenty bytes of text");
    let mut times = Vec::with_capacity(clients.len() * EXCHANGES);
    for _ in 0..EXCHANGES {
        for client in &mut *clients {
            let started = Instant::now();
            client.send(&message);
            client.expect_text();
            times.push(started.elapsed());
        }
    }
    times.sort_unstable();
    times[times.len() * 99 / 100]
}

/// Sends as much as the gateway takes, and reads as much as it sends back, while `on` holds.
fn flood(server: &Server, message: &[u8], on: &Arc<AtomicBool>, end: &Arc<AtomicBool>) {
    let raw = Raw::upgraded(server.addr, "/echo");
    let mut writer = raw.stream.try_clone().expect("a second handle");
    let mut reader = raw.stream;
    let flood = frame(FIN | BINARY, message).repeat(1 + 65_536 / message.len());
    let (on, end) = (Arc::clone(on), Arc::clone(end));
    thread::spawn(move || {
        while !end.load(Ordering::Relaxed) {
            if on.load(Ordering::Relaxed) {
                if writer.write_all(&flood).is_err() {
                    return;
                }
            } else {
                thread::park_timeout(Duration::from_millis(1));
            }
        }
    });
    thread::spawn(move || {
        // Its end is the gateway's.
        let _ = std::io::copy(&mut reader, &mut std::io::sink());
    });
}

fn median(mut all: Vec<Duration>) -> Duration {
    all.sort_unstable();
    all[all.len() / 2]
}

/// Windows with and without the flood in turns, so that whatever else the machine does falls on
/// both.
fn measure(settings: &[&str], message: &[u8]) {
    let core = cores(1);
    let mut args = vec!["--demo", "--cores", &core];
    for setting in settings {
        args.extend_from_slice(&["--set", setting]);
    }
    let server = Server::start(&args);
    let mut clients: Vec<Raw> = (0..CLIENTS)
        .map(|_| Raw::upgraded(server.addr, "/echo"))
        .collect();
    let on = Arc::new(AtomicBool::new(false));
    let end = Arc::new(AtomicBool::new(false));
    flood(&server, message, &on, &end);
    p99(&mut clients);
    let (mut without, mut with) = (Vec::new(), Vec::new());
    for _ in 0..WINDOWS {
        without.push(p99(&mut clients));
        let before = server.counters().total("bytes_in_total");
        on.store(true, Ordering::Relaxed);
        server.wait_blocking("the flood", |c| {
            c.total("bytes_in_total") >= before + 64 * 1024
        });
        with.push(p99(&mut clients));
        on.store(false, Ordering::Relaxed);
    }
    end.store(true, Ordering::Relaxed);
    let (without, with) = (median(without), median(with));
    eprintln!("{settings:?}: p99 {without:?} without the flood, {with:?} with it");
    assert!(
        with.saturating_sub(without) < MOVED_MAX,
        "p99 {without:?} without the flood, {with:?} with it"
    );
}

#[test]
fn a_flood_of_bytes_within_its_limit_is_hardly_noticed() {
    measure(
        &["limits.bytes_per_second=1MiB", "limits.bytes_burst=2MiB"],
        &[0; 16 * 1024],
    );
}

#[test]
fn a_flood_of_refused_messages_is_hardly_noticed() {
    measure(
        &[
            "limits.messages_per_second=1000",
            "limits.messages_burst=1000",
            // Else it is over after ten of them.
            "limits.rate_breaches_max=4000000000",
            "limits.bytes_per_second=1MiB",
            "limits.bytes_burst=2MiB",
        ],
        b"twenty bytes of text",
    );
}
