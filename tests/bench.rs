//! `tidegate bench` against the gateway, and against small servers that do wrong on purpose: every
//! fault must be seen, counted once, and end the run with exit code 3.

mod common;
mod load;

use std::net::TcpListener;

use common::{Server, TempFile};
use load::{
    ECHO, FANOUT, FAULTS, bench, check_fault, faults,
    faulty::{Fault, server},
    figures,
};
use serde_json::Value;

fn check_faults(mode: &str) {
    for (fault, expected) in FAULTS {
        check_fault(mode, fault, expected, |fault| {
            let (addr, pongs) = server(fault);
            (format!("ws://{addr}/"), pongs)
        });
    }
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
