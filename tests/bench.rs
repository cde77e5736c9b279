//! `tidegate bench` against the gateway, and against small servers that do wrong on purpose: every
//! fault must be seen, counted once, and end the run with exit code 3.

mod common;
mod faulty;

use std::{
    net::TcpListener,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use common::{Finished, Server, TempFile, engine, run, tidegate};
use faulty::{Authority, Fault, Quirk, compressing_server, secure_server, server};
use serde_json::Value;

/// Runs the load generator; `line` is its command line behind the URL.
fn bench(url: &str, line: &str) -> Finished {
    let mut command = tidegate();
    command.args(["bench", url, "--quiet"]);
    if let Some(engine) = engine() {
        command.args(["--engine", &engine]);
    }
    run(command.args(line.split_ascii_whitespace()))
}

/// Runs to exit code `code`, and gives the figures.
fn figures(url: &str, line: &str, code: i32) -> Value {
    let finished = bench(url, &format!("--json - {line}"));
    assert_eq!(finished.code, Some(code), "{url} {line}: {finished:?}");
    serde_json::from_str(&finished.stdout).expect("the figures are JSON")
}

fn faults(report: &Value) -> [u64; 5] {
    ["wrong", "lost", "doubled", "reordered", "ended"]
        .map(|name| report["faults"][name].as_u64().expect("a count"))
}

/// Two modes in which an echo is what shall come: fan-out with one member to a room is one too, and
/// goes another way through the checks.
const ECHO: &str = "--mode echo --connections 2";
const FANOUT: &str = "--mode fanout --connections 2 --rooms 2";

/// What is wrong, lost, doubled, out of order or ended by each fault.
const FAULTS: [(Fault, [u64; 5]); 9] = [
    (Fault::None, [0, 0, 0, 0, 0]),
    (Fault::Ping, [0, 0, 0, 0, 0]),
    (Fault::Stall, [0, 0, 0, 0, 0]),
    (Fault::Drop, [0, 1, 0, 0, 0]),
    (Fault::Double, [0, 0, 1, 0, 0]),
    (Fault::Swap, [0, 0, 0, 1, 0]),
    (Fault::CorruptFiller, [1, 0, 0, 0, 0]),
    (Fault::CorruptTag, [1, 0, 0, 0, 0]),
    (Fault::WrongKind, [1, 0, 0, 0, 0]),
];

fn check_faults(mode: &str) {
    for (fault, expected) in FAULTS {
        check_fault(mode, fault, expected, |fault| {
            let (addr, pongs) = server(fault);
            (format!("ws://{addr}/"), pongs)
        });
    }
}

fn check_fault(
    mode: &str,
    fault: Fault,
    expected: [u64; 5],
    server: impl Fn(Fault) -> (String, Arc<AtomicU64>),
) {
    let (url, pongs) = server(fault);
    let times = "--duration 300ms --warm-up 100ms --timeout 2s";
    let line = format!("{mode} --depth 4 --payload 40 {times}");
    let code = if expected == [0; 5] { 0 } else { 3 };
    let report = figures(&url, &line, code);
    assert_eq!(faults(&report), expected, "{mode} {fault:?}: {report}");
    let received = report["messages"]["received"].as_u64();
    assert!(received > Some(0), "{report}");
    let pinged = u64::from(fault == Fault::Ping);
    assert_eq!(pongs.load(Ordering::Relaxed), pinged, "{mode} {fault:?}");
}

#[test]
fn every_fault_of_an_echo_is_counted_once() {
    check_faults(ECHO);
}

#[test]
fn every_fault_of_a_fan_out_is_counted_once() {
    check_faults(FANOUT);
}

#[test]
fn every_fault_over_tls_is_counted_once() {
    let authority = Authority::new("localhost", true);
    let file = TempFile::new("faults-ca.pem", &authority.pem);
    let modes = [ECHO, FANOUT].map(|mode| format!("{mode} --ca {}", file.path()));
    // The checks are those of a plain connection: every other fault in either mode.
    for (n, (fault, expected)) in FAULTS.into_iter().enumerate() {
        check_fault(&modes[n % 2], fault, expected, |fault| {
            let (addr, pongs) = secure_server(&authority, fault);
            (format!("wss://localhost:{}/", addr.port()), pongs)
        });
    }
}

#[test]
fn loads_over_tls_are_measured() {
    let authority = Authority::new("localhost", true);
    let file = TempFile::new("loads-ca.pem", &authority.pem);
    let (addr, _) = secure_server(&authority, Fault::None);
    let url = format!("wss://localhost:{}/", addr.port());
    let trust = format!("--ca {}", file.path());
    for load in [
        "--connections 8 --depth 16",
        "--connections 2 --depth 4 --payload 16KiB",
        "--connections 2 --payload 200KiB",
        "--connections 4 --rate 500",
        "--connections 2 --insecure",
    ] {
        let trust = if load.contains("--insecure") {
            ""
        } else {
            &trust
        };
        let line = format!("{load} --duration 300ms --warm-up 100ms {trust}");
        let report = figures(&url, &line, 0);
        assert_eq!(faults(&report), [0; 5]);
        assert!(
            report["messages"]["received"].as_u64() > Some(0),
            "{report}"
        );
        let tls = &report["tls"];
        assert_eq!(tls["version"], "1.3", "{report}");
        assert_eq!(tls["suite"], "TLS13_AES_128_GCM_SHA256", "{report}");
        assert_eq!(tls["full"], report["connections"]["opened"], "{report}");
        assert_eq!(tls["resumed"], 0, "{report}");
    }
    let line = format!("--mode idle --connections 50 --hold 100ms {trust}");
    let report = figures(&url, &line, 0);
    assert_eq!(
        (faults(&report), &report["tls"]["full"]),
        ([0; 5], &50.into())
    );
}

#[test]
fn tls_handshakes_are_counted_and_resumed_on_demand() {
    let authority = Authority::new("localhost", true);
    let (addr, _) = secure_server(&authority, Fault::None);
    let url = format!("wss://localhost:{}/", addr.port());
    let count = |load: &str| {
        let times = "--duration 500ms --warm-up 200ms";
        let line = format!("--mode connect --insecure --in-flight 8 {times} {load}");
        let report = figures(&url, &line, 0);
        assert_eq!(faults(&report), [0; 5]);
        let opened = report["connections"]["opened"].as_u64();
        assert!(opened > Some(0), "{report}");
        let of = |name| report["tls"][name].as_u64().expect("a count");
        (of("full"), of("resumed"))
    };
    for closing in ["--closing reset", "--closing handshake"] {
        let (full, resumed) = count(closing);
        assert!(full > 0 && resumed == 0, "{full} {resumed}");
        // Every connection leaves two tickets; at first, up to eight on their way have none.
        let (full, resumed) = count(&format!("--resume {closing}"));
        assert!(full <= 8 && resumed > 0, "{full} {resumed}");
    }
}

#[test]
fn a_server_that_is_not_trusted_is_refused() {
    let authority = Authority::new("localhost", true);
    let other = Authority::new("localhost", true);
    let file = TempFile::new("ca.pem", &authority.pem);
    let wrong = TempFile::new("other.pem", &other.pem);
    let none = TempFile::new("none.pem", "nothing");
    let (addr, _) = secure_server(&authority, Fault::None);
    let (plain, _) = server(Fault::None);
    let url = format!("wss://localhost:{}/", addr.port());
    let by_address = format!("wss://127.0.0.1:{}/", addr.port());
    let no_tls = format!("wss://{plain}/");
    let secure_as_plain = format!("ws://{addr}/");
    let trust = format!("--ca {}", file.path());
    let distrust = format!("--ca {}", wrong.path());
    let nothing = format!("--ca {}", none.path());
    for (url, line, why) in [
        (&url, &distrust, "UnknownIssuer; --ca"),
        (&by_address, &trust, "certificate not valid for name"),
        (&no_tls, &trust, "TLS handshake"),
        (&url, &nothing, "no certificate"),
        (&url, &"--ca /nowhere/ca.pem".to_owned(), "/nowhere/ca.pem"),
        (&secure_as_plain, &String::new(), ""),
    ] {
        for mode in ["echo", "connect"] {
            let finished = bench(url, &format!("{line} --mode {mode}"));
            assert_eq!(finished.code, Some(1), "{url} {line}: {finished:?}");
            assert!(finished.stderr.contains(why), "{url} {line}: {finished:?}");
        }
    }
    let finished = bench(&url, "");
    assert_eq!(finished.code, Some(2), "{finished:?}");
    assert!(finished.stderr.contains("--insecure"), "{finished:?}");
}

#[test]
fn compressed_messages_are_checked() {
    let own = "--deflate --timeout 2s --duration 300ms --warm-up 0 --content json --payload 1KiB";
    for (quirk, expected) in [
        (Quirk::None, [0, 0, 0, 0, 0]),
        (Quirk::Mixed, [0, 0, 0, 0, 0]),
        (Quirk::Fragments, [0, 0, 0, 0, 0]),
        (Quirk::Changed, [1, 0, 0, 0, 0]),
        (Quirk::TooLong, [1, 0, 0, 0, 0]),
        (Quirk::Corrupt, [0, 1, 0, 0, 1]),
        (Quirk::Cut, [0, 1, 0, 0, 1]),
        (Quirk::CompressedPing, [0, 1, 0, 0, 1]),
        (Quirk::CompressedFragment, [0, 1, 0, 0, 1]),
    ] {
        for mode in [ECHO, FANOUT] {
            let mut expected = expected;
            if (mode, quirk) == (FANOUT, Quirk::TooLong) {
                // It may have been anything, so what was due did not come.
                expected[1] = 1;
            }
            let addr = compressing_server(quirk);
            let code = if expected == [0; 5] { 0 } else { 3 };
            let report = figures(&format!("ws://{addr}/"), &format!("{mode} {own}"), code);
            assert_eq!(faults(&report), expected, "{mode} {quirk:?}: {report}");
            let count = |path| {
                report
                    .pointer(path)
                    .and_then(Value::as_u64)
                    .expect("a count")
            };
            let (compressed, received) = (count("/deflate/messages"), count("/messages/received"));
            let bytes = count("/deflate/message_bytes");
            match quirk {
                Quirk::Mixed => assert!((received / 2 - 9..received).contains(&compressed)),
                Quirk::None | Quirk::Fragments => {
                    assert_eq!(compressed, received, "{report}");
                    assert_eq!(bytes, received * 1024, "{report}");
                    // A stored block and what is left of an empty one.
                    assert_eq!(count("/deflate/wire_bytes"), bytes + received * 6);
                }
                _ => assert!(compressed > 0, "{report}"),
            }
        }
    }
}

#[test]
fn compression_that_was_not_asked_for_is_refused() {
    for (answer, why) in [
        ("", "does not accept permessage-deflate"),
        ("permessage-deflate", "not requested"),
        (
            "permessage-deflate; server_no_context_takeover; client_max_window_bits=9",
            "not requested",
        ),
        ("permessage-bzip2", "not requested"),
        ("permessage-deflate;", "malformed"),
    ] {
        let addr = compressing_server(Quirk::Answers(answer));
        for mode in ["echo", "connect", "idle"] {
            let line = format!("--mode {mode} --deflate --connections 2");
            let finished = bench(&format!("ws://{addr}/"), &line);
            assert_eq!(finished.code, Some(1), "{answer}: {finished:?}");
            assert!(finished.stderr.contains(why), "{answer}: {finished:?}");
        }
    }
}

#[test]
fn connections_that_end_are_a_fault() {
    for mode in [ECHO, FANOUT] {
        for fault in [Fault::Cut, Fault::CloseFrame, Fault::Silence] {
            let (addr, _) = server(fault);
            let line = format!("{mode} --payload 40 --duration 300ms --warm-up 0 --timeout 2s");
            let report = figures(&format!("ws://{addr}/"), &line, 3);
            let [wrong, lost, doubled, reordered, ended] = faults(&report);
            let others = [wrong, doubled, reordered];
            assert_eq!(others, [0; 3], "{mode} {fault:?}: {report}");
            // The one that was on its way.
            assert_eq!(lost, 1, "{mode} {fault:?}: {report}");
            let is_end = fault != Fault::Silence;
            assert_eq!(ended, u64::from(is_end), "{mode} {fault:?}: {report}");
            let notes = report["notes"].to_string();
            let is_told = notes.contains("connection 0: the server");
            assert_eq!(is_told, is_end, "{notes}");
        }
    }
}

/// The server stalls once for 300 ms in a second with 1000 messages: 300 of them are due meanwhile,
/// and wait for 150 ms on average. A generator that waits with the server sees one.
#[test]
fn an_open_loop_counts_what_was_due_while_the_server_stalled() {
    let common = "--connections 1 --duration 1s --warm-up 0";
    let run = |rate: &str| {
        let (addr, _) = server(Fault::Stall);
        figures(&format!("ws://{addr}/"), &format!("{common} {rate}"), 0)
    };
    let ms =
        |report: &Value, name: &str| report["latency_us"][name].as_f64().expect("a figure") / 1e3;
    let report = run("--rate 1000");
    assert_eq!(report["latency_us"]["loop"], "open");
    for (name, least) in [
        ("max", 295.0),
        ("p99", 250.0),
        ("p90", 150.0),
        ("mean", 30.0),
    ] {
        assert!(ms(&report, name) >= least, "{name}: {report}");
    }
    let report = run("");
    assert_eq!(report["latency_us"]["loop"], "closed");
    assert!(ms(&report, "max") >= 295.0, "{report}");
    assert!(ms(&report, "p90") < 150.0, "{report}");
}

#[test]
fn echoes_of_the_gateway_are_measured() {
    let server = Server::start(&["--demo", "--set", "limits.message_bytes_max=2MiB"]);
    let url = format!("{}/echo", server.url());
    for load in [
        "--connections 20",
        "--connections 20 --depth 16 --payload 20",
        "--connections 4 --depth 4 --payload 16KiB",
        "--connections 2 --payload 1MiB",
        r#"--connections 4 --message {"n":"{seq}","c":{conn},"d":"{payload}"}"#,
        "--connections 4 --rate 2000",
    ] {
        let line = format!("{load} --duration 300ms --warm-up 100ms");
        let report = figures(&url, &line, 0);
        assert_eq!(report["version"], 1);
        assert_eq!(report["mode"], "echo");
        assert_eq!(report["url"], url.as_str());
        assert_eq!(faults(&report), [0; 5]);
        for path in FIGURES {
            let figure = report.pointer(path).and_then(Value::as_f64);
            let is_there = figure.is_some_and(|figure| figure > 0.0);
            assert!(is_there, "{path}: {report}");
        }
        let cpu = &report["server"]["cpu_us_per_message"];
        let of = |name: &str| cpu[name].as_f64().expect("a figure");
        let parts = of("user") + of("system");
        assert!((parts - of("total")).abs() < 0.01, "{report}");
    }
}

/// What a run of echoes always finds out.
const FIGURES: [&str; 18] = [
    "/server/pid",
    "/server/memory/rss_anon",
    "/server/cpu_us_per_message/total",
    "/server/cpu_share",
    "/messages/received",
    "/messages/sent",
    "/messages/per_second",
    "/connections/opened",
    "/connections/per_second",
    "/latency_us/p50",
    "/latency_us/p90",
    "/latency_us/p99",
    "/latency_us/p999",
    "/latency_us/max",
    "/latency_us/mean",
    "/generator/cpu_us_per_message",
    "/generator/busy",
    "/settings/connections",
];

#[test]
fn deliveries_over_two_cores_are_measured() {
    let server = Server::quiet(&[]);
    let url = format!("{}/ws", server.url());
    for load in ["--depth 1", "--depth 4", "--rate 600"] {
        let line = format!(
            "--mode fanout --preset tidegate --connections 24 --rooms 3 --duration 400ms \
             --warm-up 100ms {load}"
        );
        let report = figures(&url, &line, 0);
        assert_eq!(faults(&report), [0; 5]);
        let publishes = report["publishes"]["sent"].as_u64().expect("a count");
        let deliveries = report["messages"]["received"].as_u64().expect("a count");
        assert!(publishes > 0 && deliveries > publishes, "{report}");
        assert_eq!(report["messages"]["sent"], publishes * 8, "{report}");
    }
    // Raw clients get nothing of their own.
    let url = format!("{}/ws/raw-{{room}}", server.url());
    let line = "--mode fanout --subprotocol tidegate.v1.raw --no-self --connections 8 --rooms 2 \
                --duration 300ms --warm-up 0";
    let report = figures(&url, line, 0);
    let publishes = report["publishes"]["sent"].as_u64().expect("a count");
    assert_eq!(report["messages"]["sent"], publishes * 3, "{report}");
    assert_eq!(faults(&report), [0; 5]);
}

#[test]
fn idle_connections_are_weighed() {
    let server = Server::quiet(&[]);
    let url = format!("{}/ws", server.url());
    let line =
        "--mode idle --preset tidegate --rooms 5 --connections 300 --ramp-up 5000 --hold 300ms";
    let report = figures(&url, line, 0);
    assert_eq!(faults(&report), [0; 5]);
    assert!(
        report["server"]["user_bytes_per_connection"].is_f64(),
        "{report}"
    );
    assert!(report["server"]["cpu_share"].is_f64(), "{report}");
    assert_eq!(report["connections"]["opened"], 300);
    assert!(report.get("latency_us").is_none(), "{report}");
}

#[test]
fn connects_are_counted() {
    let server = Server::start(&["--demo"]);
    let url = format!("{}/echo", server.url());
    for load in [
        "--closing reset",
        "--closing handshake --in-flight 8",
        "--rate 200",
    ] {
        let line = format!("--mode connect --duration 300ms --warm-up 100ms {load}");
        let report = figures(&url, &line, 0);
        assert_eq!(faults(&report), [0; 5]);
        let opened = report["connections"]["opened"].as_u64();
        assert!(opened > Some(10), "{report}");
        let cpu = &report["server"]["cpu_us_per_connection"]["total"];
        assert!(cpu.as_f64() > Some(0.0), "{report}");
        assert!(report["latency_us"]["p99"].as_f64() > Some(0.0), "{report}");
    }
    server.wait_blocking("the last one's end", |counters| {
        counters.total("connections_open") == 0
    });
}

/// Two of six members do not read, in rooms of this policy.
fn with_slow_members(policy: &str) -> (Server, Value) {
    let policy = format!("rooms.slow_client={policy}");
    let server = Server::quiet(&[
        "--set",
        "limits.buffered_bytes_high=256KiB",
        "--set",
        "limits.buffered_bytes_low=64KiB",
        "--set",
        "limits.buffered_time_max=60s",
        "--set",
        &policy,
    ]);
    let url = format!("{}/ws", server.url());
    let line = "--mode slow --preset tidegate --connections 6 --slow 2 --payload 48KiB \
                --duration 3s --warm-up 0";
    let report = figures(&url, line, 0);
    assert_eq!(faults(&report), [0; 5]);
    assert_eq!(report["slow"]["members"], 2, "{report}");
    assert!(report["slow"]["missed"].as_u64() > Some(0), "{report}");
    (server, report)
}

#[test]
fn slow_members_are_seen_to_be_evicted() {
    let (server, report) = with_slow_members("evict");
    assert_eq!(report["slow"]["evicted"], 2, "{report}");
    assert_eq!(report["slow"]["still_connected"], 0, "{report}");
    assert_eq!(server.counters().total("evicted_slow_total"), 2);
}

#[test]
fn slow_members_are_seen_to_be_told_of_gaps() {
    let (server, report) = with_slow_members("drop_oldest");
    assert_eq!(report["slow"]["evicted"], 0, "{report}");
    assert_eq!(report["slow"]["still_connected"], 2, "{report}");
    assert!(report["slow"]["gaps"].as_u64() >= Some(2), "{report}");
    assert!(report["slow"]["received"].as_u64() > Some(0), "{report}");
    assert_eq!(server.counters().total("evicted_slow_total"), 0);
}

#[test]
fn a_table_is_for_people_and_a_file_for_programs() {
    let server = Server::start(&["--demo"]);
    let url = format!("{}/echo", server.url());
    let file = TempFile::new("bench.json", "");
    let line = format!(
        "--connections 2 --duration 1s --warm-up 0 --json {}",
        file.path()
    );
    let finished = bench(&url, &line);
    assert_eq!(finished.code, Some(0), "{finished:?}");
    let first = finished.stdout.lines().next().unwrap_or_default();
    let is_cpu = first.contains("server CPU") && first.contains("µs per message");
    assert!(is_cpu, "{finished:?}");
    assert!(finished.stdout.contains("faults  none"), "{finished:?}");
    let text = std::fs::read_to_string(file.path()).expect("the file is written");
    let report: Value = serde_json::from_str(&text).expect("it is JSON");
    assert_eq!(report["version"], 1);
}

#[test]
fn what_can_t_be_run_is_told() {
    let free = TcpListener::bind("127.0.0.1:0").expect("a port is free");
    let addr = free.local_addr().expect("it is bound");
    drop(free);
    let nobody = format!("ws://{addr}/");
    let server = Server::start(&[]);
    let missing = format!("{}/missing", server.url());
    let room = format!("{}/ws", server.url());
    for (url, line, why) in [
        (&nobody, "", "Connection refused"),
        (&nobody, "--mode connect", "Connection refused"),
        (&nobody, "--mode idle", "Connection refused"),
        (&missing, "", "status 404"),
        (&missing, "--mode connect", "status 404"),
        (
            &room,
            "--join nonsense --joined ok --refusal PARSE_ERROR",
            "PARSE_ERROR",
        ),
        (
            &room,
            "--join [] --joined never --ready-timeout 500ms",
            "0 of 200",
        ),
        (&room, "--pid 2147483647", "process 2147483647"),
    ] {
        let finished = bench(url, line);
        assert_eq!(finished.code, Some(1), "{url} {line}: {finished:?}");
        let told = finished.stderr.matches(why).count();
        assert_eq!(told, 1, "{url} {line}: {finished:?}");
        assert_eq!(finished.stdout, "");
    }
    for line in [
        "--payload 3",
        "--mode nonsense",
        "--rate 0",
        "--mode fanout --rooms 999",
    ] {
        let finished = bench(&nobody, line);
        assert_eq!(finished.code, Some(2), "{line}: {finished:?}");
        assert!(!finished.stderr.is_empty());
    }
    assert_eq!(bench("http://127.0.0.1:1/", "").code, Some(2));
}
