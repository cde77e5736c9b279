//! Runs of the load generator, and servers for it that do wrong on purpose.

// Each test file compiles this module for itself and uses a part of it.
#![allow(dead_code)]

pub(crate) mod compressing;
pub(crate) mod faulty;

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

use serde_json::Value;

use crate::common::{Finished, engine, run, tidegate};

use faulty::Fault;

/// Runs the load generator; `line` is its command line behind the URL.
pub(crate) fn bench(url: &str, line: &str) -> Finished {
    let mut command = tidegate();
    command.args(["bench", url, "--quiet"]);
    if let Some(engine) = engine() {
        command.args(["--engine", &engine]);
    }
    run(command.args(line.split_ascii_whitespace()))
}

/// Runs to exit code `code`, and gives the figures.
pub(crate) fn figures(url: &str, line: &str, code: i32) -> Value {
    let finished = bench(url, &format!("--json - {line}"));
    assert_eq!(finished.code, Some(code), "{url} {line}: {finished:?}");
    serde_json::from_str(&finished.stdout).expect("the figures are JSON")
}

/// Wrong, lost, doubled, reordered, ended.
pub(crate) fn faults(report: &Value) -> [u64; 5] {
    ["wrong", "lost", "doubled", "reordered", "ended"]
        .map(|name| report["faults"][name].as_u64().expect("a count"))
}

/// Two modes in which an echo is what shall come: fan-out with one member to a room is one too, and
/// goes another way through the checks.
pub(crate) const ECHO: &str = "--mode echo --connections 2";
pub(crate) const FANOUT: &str = "--mode fanout --connections 2 --rooms 2";

/// What is wrong, lost, doubled, out of order or ended by each fault.
pub(crate) const FAULTS: [(Fault, [u64; 5]); 9] = [
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

/// Runs a load against a server with a fault, and looks that it is seen once.
pub(crate) fn check_fault(
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
