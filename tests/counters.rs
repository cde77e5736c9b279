//! `/counters` of the admin interface: every name is there for every core and in total, and what
//! clients do is what it counts.

mod common;

use tidegate::{base::counters::Counters, control::process::ProcessCounters};

use common::{
    Server,
    raw::{FIN, Raw, TEXT, frame},
};

const COUNTERS: [&str; 10] = [
    "accepted_total",
    "upgraded_total",
    "closed_total",
    "messages_in_total",
    "messages_out_total",
    "evicted_slow_total",
    "panics_total",
    "missed_wakes_total",
    "heartbeat_timeouts_total",
    "protocol_errors_total",
];

#[test]
fn every_name_is_there_and_the_total_is_the_sum_of_the_cores() {
    let server = Server::start(&[]);
    let counters = server.counters();
    let gauges = counters.gauges();
    let names = gauges.iter().map(|(name, _)| *name).chain(COUNTERS);
    for name in names {
        let per_core = counters.per_core(name);
        assert_eq!(per_core.len(), 2, "{name}");
        assert_eq!(counters.total(name), per_core.iter().sum::<u64>(), "{name}");
        assert_eq!(counters.total(name), 0, "{name} before anyone came");
    }
}

#[test]
fn connections_messages_and_faults_are_counted() {
    let server = Server::start(&["--demo"]);
    let mut clients: Vec<Raw> = (0..10)
        .map(|_| Raw::upgraded(server.addr, "/echo"))
        .collect();
    server.wait_counter_blocking("connections_open", 10);
    for client in &mut clients {
        for n in 0..5 {
            client.send(&frame(FIN | TEXT, format!("{n}").as_bytes()));
            assert_eq!(client.expect_text(), format!("{n}"));
        }
    }
    for client in clients.iter_mut().take(3) {
        client.send(&frame(FIN | 0x3, b"reserved"));
        client.expect_close(1002);
    }
    // This one never becomes a WebSocket.
    let mut refused = Raw::connect(server.addr);
    refused.send(b"GET /nope HTTP/1.1\r\nHost: x\r\n\r\n");
    assert_eq!(refused.response().status, 404);
    drop((clients, refused));
    server.wait_blocking("every gauge at zero", common::Counters::is_idle);
    let counters = server.counters();
    for (name, wanted) in [
        ("accepted_total", 11),
        ("upgraded_total", 10),
        ("closed_total", 11),
        ("messages_in_total", 50),
        ("messages_out_total", 50),
        ("protocol_errors_total", 3),
        ("panics_total", 0),
    ] {
        assert_eq!(counters.total(name), wanted, "{name}: {counters:?}");
    }
}

/// docs/OPERATIONS.md says what each means, and speaks of none that is not there.
#[test]
fn every_counter_is_documented() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/OPERATIONS.md");
    let text = std::fs::read_to_string(path).expect("the document is there");
    let of_cores = Counters::NAMES.iter().map(|(name, _)| *name);
    let of_the_process = ProcessCounters::default().snapshot();
    let of_the_process = of_the_process.iter().map(|(name, _)| *name);
    let counted: std::collections::BTreeSet<&str> = of_cores.chain(of_the_process).collect();
    let documented: std::collections::BTreeSet<&str> = text
        .lines()
        .filter_map(|line| line.strip_prefix("| `"))
        .filter_map(|row| row.split(" |").next())
        .flat_map(|cell| cell.split(", "))
        .map(|name| name.trim_matches('`'))
        .filter(|name| name.ends_with("_total") || counted.contains(name))
        .collect();
    let both = [
        ("is not documented", &counted, &documented),
        ("does not exist", &documented, &counted),
    ];
    let faults: Vec<String> = both
        .into_iter()
        .flat_map(
            |(fault, these, those): (_, &std::collections::BTreeSet<&str>, _)| {
                these
                    .difference(those)
                    .map(move |name| format!("{name} {fault}"))
            },
        )
        .collect();
    assert!(faults.is_empty(), "{faults:#?}");
}
