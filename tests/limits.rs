//! Every limit at its edge: one below, at it, one above, on one core and on two.

mod common;

use std::{
    net::SocketAddr,
    thread,
    time::{Duration, Instant},
};

use common::{
    DEADLINE, Server,
    client::Client,
    cores,
    raw::{BINARY, CONTINUATION, FIN, PING, PONG, Raw, TEXT, frame, header, masked},
};
use serde_json::json;

/// A gateway on so many cores with these settings.
fn start(on: usize, settings: &[&str]) -> Server {
    let cores = cores(on);
    let mut args = vec!["--demo", "--cores", &cores];
    for setting in settings {
        args.extend_from_slice(&["--set", setting]);
    }
    Server::quiet(&args)
}

fn text(raw: &mut Raw, text: &str) {
    raw.send(&frame(FIN | TEXT, text.as_bytes()));
}

/// The close frame that comes after whatever else does.
fn close(raw: &mut Raw) -> (u16, String) {
    loop {
        if let Some(close) = raw.expect_frame().close() {
            return close;
        }
    }
}

#[tokio::test]
async fn messages_beyond_the_burst_are_refused_and_too_many_of_them_close() {
    for on in [1, 2] {
        let server = start(
            on,
            &[
                "limits.messages_per_second=1",
                "limits.messages_burst=5",
                "limits.rate_breaches_max=3",
            ],
        );
        let mut client = Client::connect(&server, "u").await;
        assert_eq!(client.connected.json["limits"]["messages_per_second"], 1);
        let started = Instant::now();
        for _ in 0..5 {
            client.ok(json!({"type": "echo", "data": 1})).await;
        }
        for n in 0..3 {
            // A second has not passed, or one more is let through; then the test says nothing.
            if started.elapsed() > Duration::from_millis(900) {
                eprintln!("too slow to tell");
                break;
            }
            let error = client
                .fails(json!({"type": "echo", "data": n}), "RATE_LIMITED")
                .await;
            let wait = error.json["retry_after_ms"].as_u64().expect("a time");
            assert!((1..=1000).contains(&wait), "{wait}");
            if n == 2 {
                assert_eq!(client.closed().await, (4029, "rate limit".to_owned()));
                let counters = server.counters();
                assert_eq!(counters.total("rate_limited_total"), 3);
                assert_eq!(counters.total("rate_closed_total"), 1);
            }
        }
    }
}

#[tokio::test]
async fn who_waits_as_told_is_served() {
    let server = start(
        1,
        &["limits.messages_per_second=20", "limits.messages_burst=1"],
    );
    let mut client = Client::connect(&server, "u").await;
    let mut refused = 0;
    let mut served = 0;
    while served < 8 {
        let answer = client.call(json!({"type": "echo", "data": 1})).await;
        if answer.kind() == "ok" {
            served += 1;
            continue;
        }
        refused += 1;
        let wait = answer.json["retry_after_ms"].as_u64().expect("a time");
        // What is waited for here is the passing of time itself.
        tokio::time::sleep(Duration::from_millis(wait)).await;
        let answer = client.call(json!({"type": "echo", "data": 2})).await;
        assert_eq!(answer.kind(), "ok", "{}", answer.text);
        served += 1;
    }
    assert!(refused > 0);
}

#[test]
fn each_command_of_a_batch_counts() {
    for on in [1, 2] {
        let server = start(
            on,
            &["limits.messages_per_second=1", "limits.messages_burst=5"],
        );
        let mut raw = Raw::upgraded(server.addr, "/ws");
        raw.expect_text();
        let commands: Vec<_> = (0..7)
            .map(|n| json!({"type": "echo", "data": n, "id": n.to_string()}))
            .collect();
        text(&mut raw, &json!(commands).to_string());
        for n in 0..7 {
            let answer: serde_json::Value =
                serde_json::from_str(&raw.expect_text()).expect("answers are JSON");
            assert_eq!(answer["id"], n.to_string());
            let kind = if n < 5 { "ok" } else { "error" };
            assert_eq!(answer["type"], kind, "{answer}");
        }
        // What can't be read counts too.
        text(&mut raw, "not JSON");
        assert!(raw.expect_text().contains("RATE_LIMITED"));
    }
}

#[test]
fn raw_and_echo_clients_lose_what_is_too_much_and_are_closed() {
    for target in ["/ws/room", "/echo"] {
        let server = start(
            2,
            &[
                "limits.messages_per_second=1",
                "limits.messages_burst=5",
                "limits.rate_breaches_max=2",
            ],
        );
        let mut raw = Raw::connect(server.addr);
        let subprotocol = if target == "/echo" {
            ""
        } else {
            "Sec-WebSocket-Protocol: tidegate.v1.raw\r\n"
        };
        raw.send(common::raw::upgrade_request_with(target, subprotocol).as_bytes());
        assert_eq!(raw.response().status, 101);
        for n in 0..7 {
            text(&mut raw, &n.to_string());
        }
        if target == "/echo" {
            for n in 0..5 {
                assert_eq!(raw.expect_text(), n.to_string());
            }
        }
        assert_eq!(close(&mut raw), (4029, "rate limit".to_owned()));
        assert_eq!(server.counters().total("rate_limited_total"), 2);
    }
}

#[test]
fn bytes_beyond_the_burst_pause_reading_and_lose_nothing() {
    const KIB: usize = 1024;
    for on in [1, 2] {
        let server = start(
            on,
            &["limits.bytes_per_second=1MiB", "limits.bytes_burst=128KiB"],
        );
        let mut echo = Raw::upgraded(server.addr, "/echo");
        let message = vec![b'x'; 16 * KIB];
        let exchange = |echo: &mut Raw, times: usize| {
            for _ in 0..times {
                echo.send(&frame(FIN | BINARY, &message));
            }
            for _ in 0..times {
                assert_eq!(echo.expect_message().1.len(), message.len());
            }
        };
        // Seven messages with their headers are less than the burst.
        exchange(&mut echo, 7);
        assert_eq!(server.counters().total("throttled_total"), 0);
        let started = Instant::now();
        for _ in 0..8 {
            exchange(&mut echo, 16);
        }
        let took = started.elapsed();
        // 2 MiB at 1 MiB a second, less the burst and the last exchange, which may be owed: what
        // has been received already is taken.
        assert!(took >= Duration::from_millis(1700), "{took:?}");
        assert!(server.counters().total("throttled_total") > 0);
    }
}

#[test]
fn a_long_message_that_is_passed_on_is_slowed_down_too() {
    let server = start(
        1,
        &[
            "limits.bytes_per_second=1MiB",
            "limits.bytes_burst=64KiB",
            "limits.message_bytes_max=4MiB",
            "limits.buffered_bytes_high=16MiB",
        ],
    );
    let mut echo = Raw::upgraded(server.addr, "/echo");
    // Three seconds' worth, of which the burst and what the receive buffers hold, 1 MiB, come at once.
    let message = vec![b'x'; 3 << 20];
    let mut writer = echo.stream.try_clone().expect("a second handle");
    let bytes = frame(FIN | BINARY, &message);
    let started = Instant::now();
    let sender = thread::spawn(move || std::io::Write::write_all(&mut writer, &bytes));
    assert_eq!(echo.expect_message().1.len(), message.len());
    sender.join().expect("no panic").expect("it is taken");
    let took = started.elapsed();
    assert!(took >= Duration::from_millis(1500), "{took:?}");
}

#[test]
fn control_frames_beyond_a_second_s_worth_close_with_1008() {
    for on in [1, 2] {
        for kind in [PING, PONG] {
            let server = start(on, &["limits.control_frames_per_second=5"]);
            let mut raw = Raw::upgraded(server.addr, "/echo");
            for n in 0..5 {
                raw.send(&frame(FIN | kind, &[n]));
            }
            if kind == PING {
                for n in 0..5 {
                    assert_eq!(raw.expect_frame().payload, [n]);
                }
            }
            text(&mut raw, "still here");
            assert_eq!(raw.expect_text(), "still here");
            for _ in 0..5 {
                raw.send(&frame(FIN | kind, b""));
            }
            assert_eq!(close(&mut raw), (1008, "policy".to_owned()));
            assert_eq!(server.counters().total("control_floods_total"), 1);
        }
    }
}

#[tokio::test]
async fn a_connection_s_lifetime_ends_with_4006_and_a_word_before_it() {
    for on in [1, 2] {
        let server = start(on, &["limits.connection_lifetime=1s"]);
        let started = Instant::now();
        let mut client = Client::connect(&server, "u").await;
        let reconnect = client.expect("reconnect").await;
        assert_eq!(reconnect.json["after_ms"], 0);
        assert_eq!(reconnect.json["reason"], "connection lifetime");
        let close = client.closed().await;
        assert_eq!(close, (4006, "connection lifetime".to_owned()));
        let lived = started.elapsed();
        assert!(lived >= Duration::from_millis(890), "{lived:?}");
        assert_eq!(server.counters().total("lifetimes_total"), 1);
    }
}

#[test]
fn a_lifetime_does_not_end_in_the_middle_of_a_message() {
    let server = start(1, &["limits.connection_lifetime=500ms"]);
    let mut echo = Raw::upgraded(server.addr, "/echo");
    let end = Instant::now() + Duration::from_millis(700);
    echo.send(&frame(TEXT, b"be"));
    // A message that is begun before the lifetime's end and finished after it.
    while Instant::now() < end {
        thread::sleep(Duration::from_millis(50));
    }
    echo.send(&frame(FIN | CONTINUATION, b"gun"));
    assert_eq!(echo.expect_text(), "begun");
    assert_eq!(close(&mut echo).0, 4006);
}

#[test]
fn connections_beyond_a_core_s_most_get_503() {
    let server = start(1, &["limits.connections_max=3"]);
    let mut held: Vec<Raw> = (0..3).map(|_| Raw::upgraded(server.addr, "/ws")).collect();
    let mut refused = Raw::connect(server.addr);
    // Without a request: it is not even read.
    let response = refused.response();
    assert_eq!(response.status, 503);
    let after = response.header("retry-after").and_then(|s| s.parse().ok());
    assert!(
        after.is_some_and(|s: u64| (1..=10).contains(&s)),
        "{response:?}"
    );
    refused.expect_end();
    assert_eq!(server.counters().total("refused_connections_total"), 1);
    drop(refused);
    drop(held.pop());
    server.wait_counter_blocking("connections_open", 2);
    Raw::upgraded(server.addr, "/ws");
}

#[test]
fn two_cores_have_their_most_each() {
    let server = start(2, &["limits.connections_max=3"]);
    let mut held = Vec::new();
    let refused = loop {
        let mut raw = Raw::connect(server.addr);
        raw.upgrade_or_refusal("/ws");
        let response = raw.response();
        if response.status == 503 {
            break response;
        }
        held.push(raw);
        assert!(held.len() <= 6, "more than both may have");
    };
    assert!(refused.header("retry-after").is_some());
    let open = server.counters().per_core("sessions_open");
    assert!(
        open.iter().all(|open| *open <= 3) && open.contains(&3),
        "{open:?}"
    );
}

#[test]
fn unfinished_requests_beyond_their_most_get_503() {
    let server = start(1, &["limits.handshakes_inflight_max=2"]);
    let mut silent: Vec<Raw> = (0..2).map(|_| Raw::connect(server.addr)).collect();
    server.wait_counter_blocking("handshakes_inflight", 2);
    let mut refused = Raw::connect(server.addr);
    assert_eq!(refused.response().status, 503);
    assert_eq!(server.counters().total("refused_handshakes_total"), 1);
    // One that finishes makes room.
    silent[0].upgrade("/ws");
    server.wait_counter_blocking("handshakes_inflight", 1);
    let _other = Raw::upgraded(server.addr, "/ws");
    server.wait_counter_blocking("sessions_open", 2);
}

fn status_from(host: u8, to: SocketAddr) -> (u16, Raw) {
    let mut raw = Raw::connect_from(host, to);
    raw.upgrade_or_refusal("/ws");
    let status = raw.response().status;
    (status, raw)
}

#[test]
fn connections_of_one_address_are_counted_exactly_on_any_core() {
    for on in [1, 2] {
        let server = start(
            on,
            &[
                "limits.connections_per_ip=20",
                "limits.handshakes_per_ip_per_second=0",
                "limits.ip_exempt=[\"127.0.0.9/32\"]",
            ],
        );
        let addr = server.addr;
        let attempts: Vec<_> = (0..4)
            .map(|_| {
                thread::spawn(move || (0..10).map(|_| status_from(1, addr)).collect::<Vec<_>>())
            })
            .collect();
        let mut all: Vec<(u16, Raw)> = attempts
            .into_iter()
            .flat_map(|thread| thread.join().expect("no panic"))
            .collect();
        let open = all.iter().filter(|(status, _)| *status == 101).count();
        assert_eq!(open, 20, "on {on} cores");
        assert!(all.iter().all(|(status, _)| matches!(status, 101 | 429)));
        let counters = server.counters();
        assert_eq!(counters.total("refused_ip_connections_total"), 20);
        // Another address has its own count, an exempt one none.
        assert_eq!(status_from(2, addr).0, 101);
        let exempt: Vec<_> = (0..25).map(|_| status_from(9, addr)).collect();
        assert!(exempt.iter().all(|(status, _)| *status == 101));
        drop(exempt);
        // Who goes makes room for one.
        let at = all
            .iter()
            .position(|(status, _)| *status == 101)
            .expect("some");
        drop(all.remove(at));
        server.wait_counter_blocking("sessions_open", 19);
        let (first, _held) = status_from(1, addr);
        assert_eq!(first, 101);
        assert_eq!(status_from(1, addr).0, 429);
        drop(all);
        drop(_held);
        server.wait_counter_blocking("sessions_open", 0);
    }
}

#[test]
fn handshakes_of_one_address_come_back_with_time() {
    for on in [1, 2] {
        let server = start(
            on,
            &[
                "limits.connections_per_ip=0",
                "limits.handshakes_per_ip_per_second=5",
                "limits.ip_exempt=[]",
            ],
        );
        let started = Instant::now();
        let mut statuses = Vec::new();
        for _ in 0..6 {
            // Not even asked for: a connection counts, whatever comes of it.
            let mut raw = Raw::connect_from(3, server.addr);
            raw.upgrade_or_refusal("/ws");
            let response = raw.response();
            if response.status == 429 {
                assert_eq!(response.header("retry-after"), Some("1"));
            }
            statuses.push(response.status);
        }
        if started.elapsed() < Duration::from_millis(200) {
            assert_eq!(statuses, [101, 101, 101, 101, 101, 429]);
            assert_eq!(server.counters().total("refused_ip_handshakes_total"), 1);
        }
        let end = Instant::now() + DEADLINE;
        while status_from(3, server.addr).0 != 101 {
            assert!(Instant::now() < end, "they never come back");
        }
    }
}

#[test]
fn a_full_memory_refuses_the_new_and_then_closes_the_largest() {
    const MIB: usize = 1 << 20;
    // 1 MiB of it are the receive buffers.
    let server = start(
        1,
        &[
            "limits.memory_budget=16MiB",
            "limits.message_bytes_max=8MiB",
            "limits.buffered_bytes_high=32MiB",
        ],
    );
    // A message that is begun and not finished takes its memory.
    let begin = |raw: &mut Raw, bytes: usize| {
        let mut sent = header(FIN | BINARY, bytes as u64);
        sent.extend_from_slice(&masked(&vec![0; bytes - 1]));
        raw.send(&sent);
    };
    let open = || {
        let mut raw = Raw::upgraded(server.addr, "/ws");
        raw.expect_text();
        raw
    };
    let used_at_least = |bytes: usize| {
        server.wait_blocking(&format!("{bytes} used"), |c| {
            c.total("memory_used_bytes") >= bytes as u64
        });
    };
    let mut clients: Vec<Raw> = (0..5).map(|_| open()).collect();
    let [large, small, other, third, fourth] = clients.as_mut_slice() else {
        unreachable!("there are five");
    };
    begin(large, 7 * MIB);
    used_at_least(8 * MIB);
    assert_eq!(server.counters().total("memory_trims_total"), 0);
    // 80 % are 12.8 MiB, 90 % 14.4, 95 % 15.2.
    begin(small, 4 * MIB);
    begin(other, 2 * MIB);
    used_at_least(14 * MIB);
    server.wait_blocking("a trim", |c| c.total("memory_trims_total") > 0);
    drop(open());
    // Above 90 %: nobody is let in any more.
    begin(third, MIB * 6 / 10);
    used_at_least(MIB * 144 / 10);
    let mut refused = Raw::connect(server.addr);
    assert_eq!(refused.response().status, 503);
    let counters = server.counters();
    assert_eq!(counters.total("refused_memory_total"), 1);
    assert_eq!(counters.total("evicted_memory_total"), 0);
    // Above 95 %: it is the largest that goes.
    begin(fourth, MIB);
    server.wait_counter_blocking("evicted_memory_total", 1);
    assert_eq!(close(large), (1013, "try again later".to_owned()));
    server.wait_blocking("memory is back", |c| {
        c.total("memory_used_bytes") < 10 * MIB as u64
    });
    drop(open());
    // The others finish what they began.
    for raw in [small, other, third, fourth] {
        raw.send(&[0]);
        assert!(raw.expect_text().contains("INVALID_MESSAGE"));
    }
    server.wait_blocking("what they held is back", |c| {
        c.total("memory_used_bytes") < 2 * MIB as u64
    });
}
