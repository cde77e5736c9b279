//! Attacks by peers that do little: requests, messages and closes that never end, peers that do not read,
//! and peers that are not there any more. docs/THREATS.md has the measured figures.

mod common;

use std::{
    cell::Cell,
    thread,
    time::{Duration, Instant},
};

use common::{
    Counters, DEADLINE,
    attack::{Siege, client, close_code},
    raise_fd_limit,
    raw::{BINARY, FIN, PING, Raw, TEXT, frame, header, masked, stopped_reader},
};

const KIB: u64 = 1024;
const MIB: u64 = 1024 * KIB;

/// Between two bytes of a slow peer.
const DRIBBLE: Duration = Duration::from_millis(50);

/// Calls `act` now and then, until `is_over`.
fn now_and_then(siege: &Siege, mut act: impl FnMut(), is_over: impl Fn(&Counters) -> bool) {
    let end = Instant::now() + DEADLINE;
    loop {
        act();
        let counters = siege.server.counters();
        if is_over(&counters) {
            return;
        }
        assert!(Instant::now() < end, "it goes on for ever: {counters:?}");
        thread::park_timeout(DRIBBLE);
    }
}

#[test]
fn requests_that_never_end_get_408() {
    const ATTACKERS: usize = 500;
    raise_fd_limit(4 * ATTACKERS as u64);
    let siege = Siege::begin(&["limits.handshake_timeout=1s"]);
    let mut attackers: Vec<Raw> = (0..ATTACKERS)
        .map(|_| {
            let mut raw = Raw::connect(siege.server.addr);
            raw.send(b"GET /ws HTTP/1.1\r\nHost: slow\r\nX-Slow: ");
            raw
        })
        .collect();
    // What they are sent is read afterwards: a byte that comes after it is discarded.
    let drip = || {
        for raw in &mut attackers {
            raw.try_send(b"x");
        }
    };
    now_and_then(&siege, drip, |now| {
        now.total("handshake_timeouts_total") == ATTACKERS as u64
    });
    for mut raw in attackers {
        assert_eq!(raw.response().status, 408);
        raw.expect_end();
    }
    let toll = siege.end("slow requests", ATTACKERS);
    assert_eq!(toll.grown("handshake_timeouts_total"), ATTACKERS as u64);
    let each = toll.growth() / ATTACKERS as u64;
    assert!(each < 16 * KIB, "{each} bytes for each");
}

#[test]
fn messages_that_never_end_get_1008() {
    const ATTACKERS: usize = 200;
    raise_fd_limit(4 * ATTACKERS as u64);
    let siege = Siege::begin(&["limits.message_timeout=1s"]);
    let mut attackers: Vec<Raw> = (0..ATTACKERS)
        .map(|n| {
            let mut raw = client(siege.server.addr);
            // A header alone promises as much as it may, or its end is still to come.
            let begun = header(FIN | BINARY, 60 * KIB);
            raw.send(&begun[..begun.len() - n % 3]);
            raw
        })
        .collect();
    let drip = || {
        for raw in &mut attackers {
            raw.try_send(b"x");
        }
    };
    now_and_then(&siege, drip, |now| {
        now.total("message_timeouts_total") == ATTACKERS as u64
    });
    for mut raw in attackers {
        assert_eq!(close_code(&mut raw), Some(1008));
    }
    let toll = siege.end("slow messages", ATTACKERS);
    let each = toll.growth() / ATTACKERS as u64;
    assert!(each < 160 * KIB, "{each} bytes for each");
}

/// Each may have a message of 64 KiB open; all of them together may not.
#[test]
fn thousands_of_unfinished_messages_keep_to_the_budget() {
    const ATTACKERS: usize = 2000;
    const BUDGET: u64 = 24 * MIB;
    raise_fd_limit(4 * ATTACKERS as u64);
    let siege = Siege::begin(&["limits.memory_budget=24MiB", "limits.message_timeout=3s"]);
    let mut begun = header(FIN | BINARY, 64 * KIB);
    begun.extend(masked(&vec![7; 32 << 10]));
    // All are in before anyone has taken anything.
    let mut attackers: Vec<Raw> = (0..ATTACKERS).map(|_| client(siege.server.addr)).collect();
    let used_most = Cell::new(0);
    for raw in &mut attackers {
        raw.try_send(&begun);
    }
    siege.server.wait_blocking("most have to go", |now| {
        used_most.set(used_most.get().max(now.total("memory_used_bytes")));
        now.total("evicted_memory_total") >= ATTACKERS as u64 / 2
    });
    let used_most = used_most.get();
    // No more have to go than the budget needs. Who is left holds no more than the budget, and not for ever.
    siege.wait_grown("message_timeouts_total", 1);
    siege.server.wait_blocking("new clients are let in", |_| {
        let mut raw = Raw::connect(siege.server.addr);
        raw.upgrade_or_refusal("/ws");
        raw.response().status == 101
    });
    let mut codes = [0; 2];
    for raw in &mut attackers {
        match close_code(raw) {
            Some(1013) => codes[0] += 1,
            Some(1008) => codes[1] += 1,
            code => panic!("{code:?}"),
        }
    }
    drop(attackers);
    let toll = siege.end("unfinished messages", ATTACKERS);
    eprintln!(
        "  budget {} KiB, {} used at most; {} closed with 1013, {} with 1008",
        BUDGET >> 10,
        used_most >> 10,
        codes[0],
        codes[1],
    );
    assert_eq!(toll.grown("evicted_memory_total"), codes[0]);
    assert_eq!(toll.grown("message_timeouts_total"), codes[1]);
    // Each is reckoned with 64 KiB: 90 % of the budget are left to about 330 of them.
    assert!(codes[1] > 200, "{} had to go for no need", codes[0]);
    assert!(used_most < BUDGET * 2, "{used_most}");
    assert!(toll.growth() < BUDGET * 5 / 2, "{} bytes", toll.growth());
}

/// They ask for as much as they may and read none of it: each costs what its queue may hold.
#[test]
fn who_never_reads_is_evicted() {
    const ATTACKERS: usize = 40;
    let siege = Siege::begin(&[
        "limits.buffered_bytes_high=256KiB",
        "limits.buffered_bytes_low=64KiB",
        "limits.buffered_time_max=1s",
    ]);
    let data = "x".repeat(50_000);
    let echo = format!(r#"{{"type":"echo","id":"e","data":"{data}"}}"#);
    let mut attackers: Vec<Raw> = (0..ATTACKERS)
        .map(|n| stopped_reader(siege.server.addr, &format!("room-{n}")))
        .collect();
    // Both kernels hold a few MiB; what is above is the gateway's.
    for raw in &mut attackers {
        raw.stream
            .set_nonblocking(true)
            .expect("a socket's mode can be set");
    }
    let echo = frame(FIN | TEXT, echo.as_bytes());
    let mut sent = vec![0; ATTACKERS];
    let ask = || {
        for (raw, sent) in attackers.iter_mut().zip(&mut sent) {
            // Whole frames, in as many pieces as it takes.
            while let Ok(n) = std::io::Write::write(&mut raw.stream, &echo[*sent..]) {
                *sent = (*sent + n) % echo.len();
            }
        }
    };
    now_and_then(&siege, ask, |now| {
        now.total("evicted_slow_total") == ATTACKERS as u64
    });
    for raw in attackers {
        raw.stream
            .set_nonblocking(false)
            .expect("a socket's mode can be set");
        let mut raw = raw;
        // It did not take the close either, or took it at the last moment.
        let code = close_code(&mut raw);
        assert!(matches!(code, None | Some(4008)), "{code:?}");
    }
    let toll = siege.end("peers that never read", ATTACKERS);
    // Its queue, and once what the receive buffers held when reading was to pause, 1 MiB.
    let each = toll.growth() / ATTACKERS as u64;
    assert!(each < 4 * MIB, "{each} bytes for each");
}

/// One never answers a close, one sends on for ever after it, one never ends its side after a response.
#[test]
fn who_does_not_end_is_ended() {
    let siege = Siege::begin(&[]);
    let flood = frame(FIN | PING, b"").repeat(100);
    let mut mute = client(siege.server.addr);
    mute.send(&flood);
    assert_eq!(close_code(&mut mute), Some(1008));

    let mut talker = client(siege.server.addr);
    talker.send(&flood);
    assert_eq!(close_code(&mut talker), Some(1008));
    let mut sent = 0;
    let message = frame(FIN | BINARY, &[0; 16 << 10]).repeat(16);
    let stopped = loop {
        use std::io::Write;
        match talker.stream.write(&message) {
            Ok(n) => sent += n as u64,
            Err(error) => break error,
        }
        assert!(sent < 64 * MIB, "it is read for ever");
    };
    eprintln!(
        "after its close one could send {} KiB: {stopped}",
        sent >> 10
    );
    siege.wait_grown("sent_after_end_total", 1);

    let mut refused = Raw::connect(siege.server.addr);
    refused.send(b"GET / HTTP/9.9\r\n\r\n");
    assert!(refused.response().status >= 400);
    // All are still connected; the gateway lets go of them.
    let toll = siege.end("peers that never end", 3);
    assert_eq!(toll.grown("control_floods_total"), 2);
    mute.expect_end();
    refused.expect_end();
}
