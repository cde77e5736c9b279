//! Which engine runs, who chooses it, and that one that is forbidden is not even tried. Where
//! io_uring is forbidden is made here, by a seccomp filter (`seccomp.py`).
//!
//! That both engines serve clients alike is the business of all other tests: `tests/run` runs them
//! once per engine.

mod common;

use std::{os::unix::process::ExitStatusExt, path::Path, process::Command};

use common::{Finished, Server, client::Client, cores, program, run};
use serde_json::json;

/// What the filter does about io_uring.
#[derive(Clone, Copy)]
enum Filter {
    Refuse,
    Kill,
}

/// The gateway's command line, run under a filter.
fn under(filter: Filter, args: &[&str]) -> Command {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/seccomp.py");
    let gateway = Server::command("127.0.0.1:0", args);
    let mut command = program("python3");
    command
        .arg(script)
        .arg(match filter {
            Filter::Refuse => "refuse",
            Filter::Kill => "kill",
        })
        .arg(gateway.get_program())
        .args(gateway.get_args());
    command
}

fn engine_line(server: &Server) -> &str {
    let mut lines = server.banner.iter().map(|line| line.trim());
    lines
        .find_map(|line| line.strip_prefix("engine "))
        .expect("the banner names the engine")
        .trim()
}

/// Clients on both cores hear each other, small and large messages alike; then the gateway ends.
async fn serves(mut server: Server) {
    let mut alice = Client::connect(&server, "alice").await;
    let mut others = Vec::new();
    // Enough of them that both cores have some.
    for n in 0..8 {
        let mut other = Client::connect(&server, &format!("client-{n}")).await;
        other.join("lobby").await;
        others.push(other);
    }
    alice.join("lobby").await;
    let large = "x".repeat(60_000);
    for data in [json!("small"), json!(large)] {
        alice.publish("lobby", data.clone()).await;
        for other in &mut others {
            let message = loop {
                let next = other.next().await;
                if next.kind() == "message" {
                    break next;
                }
            };
            assert_eq!(message.json["data"], data);
        }
    }
    let counters = server.counters();
    assert_eq!(counters.total("missed_wakes_total"), 0);
    drop((alice, others));
    server.wait("nothing left", common::Counters::is_idle).await;
    let status = server.terminate();
    assert_eq!(status.code(), Some(0), "{}", server.stderr());
}

#[tokio::test]
async fn where_io_uring_is_forbidden_the_gateway_says_so_and_serves_by_epoll() {
    let server = Server::start_by(under(Filter::Refuse, &["--set", "engine.kind=auto"]));
    assert_eq!(
        engine_line(&server),
        "epoll (io_uring is forbidden here: Operation not permitted (os error 1))"
    );
    let log = server.stderr();
    let warnings: Vec<&str> = log.lines().filter(|line| line.contains("WARN")).collect();
    let [warning] = warnings[..] else {
        panic!("not one warning: {warnings:?}");
    };
    assert!(warning.contains("io_uring is forbidden here"), "{warning}");
    serves(server).await;
}

#[test]
fn who_demands_io_uring_where_it_is_forbidden_is_told_what_to_do() {
    let Finished {
        code,
        stdout,
        stderr,
    } = run(&mut under(Filter::Refuse, &["--set", "engine.kind=uring"]));
    assert_eq!(code, Some(1), "{stderr}");
    assert_eq!(stdout, "");
    for said in [
        "io_uring is forbidden here",
        "io_uring_setup, io_uring_enter and io_uring_register",
        "engine.kind",
    ] {
        assert!(stderr.contains(said), "{said:?} is not in {stderr:?}");
    }
}

#[tokio::test]
async fn with_epoll_no_call_of_io_uring_is_ever_made() {
    let server = Server::start_by(under(Filter::Kill, &["--set", "engine.kind=epoll"]));
    assert!(engine_line(&server).starts_with("epoll (Linux "));
    assert_eq!(server.stderr().matches("WARN").count(), 0);
    serves(server).await;
}

/// The filter of the test before is able to fail it.
#[test]
fn the_filter_kills_who_tries_io_uring() {
    let mut gateway = under(Filter::Kill, &["--set", "engine.kind=auto"]);
    let status = gateway.spawn().expect("python3 is there").wait();
    let status = status.expect("it ends");
    assert_eq!(status.signal(), Some(libc::SIGSYS), "{status:?}");
}

#[test]
fn an_unknown_engine_is_the_operators_mistake() {
    let mut gateway = Server::command("127.0.0.1:0", &["--set", "engine.kind=iocp"]);
    let Finished { code, stderr, .. } = run(&mut gateway);
    assert_eq!(code, Some(2), "{stderr}");
    assert!(stderr.contains("engine.kind"), "{stderr}");
}

/// A worker that looks about before it waits turns often after each event, and waits in the end.
#[tokio::test]
async fn busy_polling_goes_on_for_its_time_and_no_longer() {
    let one_core = cores(1);
    let args = ["--cores", &one_core, "--set", "engine.busy_poll=100ms"];
    let server = Server::quiet(&args);
    let mut alice = Client::connect(&server, "alice").await;
    let turns = || server.counters().total("turns_total");
    for _ in 0..3 {
        let before = turns();
        alice.assert_quiet().await;
        // A worker that waits makes a handful of turns for a ping.
        server
            .wait("many turns", |now| now.total("turns_total") > before + 200)
            .await;
        let (mut last, mut quiet) = (turns(), 0);
        // Some looks in a row see next to no turns; the watchdog's are allowed.
        server
            .wait("an end of them", |now| {
                let now = now.total("turns_total");
                quiet = if now - last < 5 { quiet + 1 } else { 0 };
                last = now;
                quiet == 5
            })
            .await;
    }
    assert_eq!(server.counters().total("missed_wakes_total"), 0);
}
