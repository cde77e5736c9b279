//! What a change comes to, how long files must rest, and workers that do not listen.

use std::{cell::RefCell, thread};

use super::*;
use crate::config::{EngineKind, Listen, LogFormat};

fn address(text: &str) -> Listen {
    Listen(vec![text.parse().unwrap()])
}

#[test]
fn nothing_changed_is_no_change() {
    let mut running = Config::default();
    running.cores.insert(1, CoreFile::default());
    let change = Change::between(&running, running.clone());
    assert_eq!(change.sections, Vec::<&str>::new());
    assert_eq!(change.needs_restart, Vec::<String>::new());
    assert_eq!(change.config, running);
}

#[test]
fn what_needs_a_restart_keeps_its_value_and_is_named() {
    let running = Config::default();
    let mut next = running.clone();
    next.server.listen = address("127.0.0.1:1");
    next.server.cores = "physical".to_owned();
    next.server.node = "other".to_owned();
    next.server.backlog += 1;
    next.engine.kind = EngineKind::Epoll;
    next.engine.recv_buffers *= 2;
    next.log.format = LogFormat::Json;
    next.log.level = "debug".to_owned();
    next.admin.listen = Some("127.0.0.1:2".parse().unwrap());
    next.limits.headers_max += 1;
    let own = CoreFile {
        cpu: Some(3),
        listen: Some(address("127.0.0.1:3")),
        connections_max: Some(9),
        ..CoreFile::default()
    };
    next.cores.insert(1, own);
    let unreachable = CoreFile {
        ring_entries: Some(64),
        ..CoreFile::default()
    };
    next.cores.insert(2, unreachable);
    let change = Change::between(&running, next.clone());
    assert_eq!(
        change.needs_restart,
        [
            "server.listen",
            "server.cores",
            "server.node",
            "server.backlog",
            "engine.kind",
            "engine.recv_buffers",
            "log.format",
            "log.level",
            "admin.listen",
            "cores.1.cpu",
            "cores.1.listen",
            "cores.2.ring_entries",
        ]
    );
    assert_eq!(change.sections, ["limits", "cores"]);
    let config = change.config;
    assert_eq!(config.limits, next.limits);
    assert_eq!(config.engine, running.engine);
    assert_eq!(config.server, running.server);
    let kept = CoreFile {
        connections_max: Some(9),
        ..CoreFile::default()
    };
    assert_eq!(config.cores.get(&1), Some(&kept));
    assert_eq!(config.cores.get(&2), None);
}

#[test]
fn a_file_taken_away_keeps_only_what_needs_a_restart() {
    let mut running = Config::default();
    let own = CoreFile {
        cpu: Some(1),
        routes: Some(vec!["/ws".to_owned()]),
        ..CoreFile::default()
    };
    running.cores.insert(0, own);
    let change = Change::between(&running, Config::default());
    assert_eq!(change.needs_restart, ["cores.0.cpu"]);
    assert_eq!(change.sections, ["cores"]);
    let kept = change.config.core(0);
    assert_eq!((kept.cpu, kept.routes), (Some(1), None));
}

#[test]
fn files_of_workers_that_do_not_exist_are_told() {
    let mut config = Config::default();
    for core in [0, 2, 7] {
        config.cores.insert(core, CoreFile::default());
    }
    let told = strays(&config, 2);
    assert_eq!(told.lines().count(), 2, "{told}");
    assert_eq!(strays(&config, 8), "");
}

#[test]
fn reading_is_no_change() {
    assert!(!is_change(EventKind::Access(AccessKind::Open(
        AccessMode::Any
    ))));
    assert!(!is_change(EventKind::Access(AccessKind::Close(
        AccessMode::Read
    ))));
    assert!(is_change(EventKind::Access(AccessKind::Close(
        AccessMode::Write
    ))));
    assert!(is_change(EventKind::Any));
}

const LONG: Duration = Duration::from_secs(3600);
const SHORT: Duration = Duration::from_millis(1);

#[test]
fn who_asks_is_not_kept_waiting() {
    let (sender, receiver) = triggers();
    let begun = Instant::now();
    assert_eq!(
        settle(Trigger::Asked, &receiver, LONG, LONG),
        Trigger::Asked
    );
    sender.send(Trigger::Changed).unwrap();
    sender.send(Trigger::Asked).unwrap();
    sender.send(Trigger::Changed).unwrap();
    let trigger = settle(Trigger::Changed, &receiver, LONG, LONG);
    assert_eq!(trigger, Trigger::Asked);
    assert!(receiver.is_empty(), "one load answers all");
    assert!(begun.elapsed() < LONG);
}

#[test]
fn files_that_rest_are_read_and_those_that_never_do_as_well() {
    let (sender, receiver) = triggers();
    let trigger = settle(Trigger::Changed, &receiver, SHORT, LONG);
    assert_eq!(trigger, Trigger::Changed);
    // Somebody writes all the time, faster than any quiet could come.
    let writer = thread::spawn(move || while sender.send(Trigger::Changed).is_ok() {});
    let trigger = settle(Trigger::Changed, &receiver, LONG, 20 * SHORT);
    assert_eq!(trigger, Trigger::Changed);
    drop(receiver);
    writer.join().unwrap();
}

/// A reload whose loads give these configurations, one after the other, and its workers' ends.
fn reload(loads: Vec<Config>) -> (Reload, Vec<Receiver<Control>>, Receiver<Report>) {
    let loads = RefCell::new(loads.into_iter());
    let (workers, orders): (Vec<_>, Vec<_>) = (0..2).map(|_| flume::bounded(1)).unzip();
    let (reports, reported) = flume::bounded(16);
    let reload = Reload {
        behind: vec![false; 2],
        behind_tls: vec![false; 2],
        late_at: None,
        told: String::new(),
        watch: None,
        parts: Parts {
            reloader: Reloader {
                load: Box::new(move || Attempt {
                    result: Ok(Loaded {
                        config: loads.borrow_mut().next().unwrap(),
                        ..Loaded::default()
                    }),
                    directories: Vec::new(),
                }),
                directories: Vec::new(),
            },
            running: Arc::default(),
            tls: None,
            triggers: triggers().1,
            watch: None,
            workers,
            reports,
            counters: Arc::default(),
        },
    };
    (reload, orders, reported)
}

fn with_headers(headers_max: u32) -> Config {
    let mut config = Config::default();
    config.limits.headers_max = headers_max;
    config
}

fn headers(order: &Control) -> u32 {
    match order {
        Control::Reload(config) => config.limits.headers_max,
        Control::Drain => panic!("nobody drains"),
        Control::Tls(_) => panic!("no certificates are read"),
    }
}

#[test]
fn a_worker_that_is_late_gets_the_newest_and_the_others_theirs_at_once() {
    let (mut reload, orders, reported) = reload(vec![with_headers(5), with_headers(6)]);
    reload.reload();
    assert_eq!(reload.behind, [false, false]);
    assert_eq!(headers(&orders[1].recv().unwrap()), 5);
    // Worker 0 has not taken the first yet.
    reload.reload();
    assert_eq!(reload.behind, [true, false]);
    assert!(reload.late_at.is_some());
    assert_eq!(headers(&orders[1].try_recv().unwrap()), 6);
    assert_eq!(headers(&orders[0].try_recv().unwrap()), 5);
    reload.hand_out();
    assert_eq!(
        (&reload.behind[..], reload.late_at),
        (&[false, false][..], None)
    );
    assert_eq!(headers(&orders[0].try_recv().unwrap()), 6);
    assert!(orders[1].is_empty());
    assert_eq!(reported.len(), 2);
    assert_eq!(reload.parts.counters.reloads_total.get(), 2);
}

#[test]
fn a_bad_one_and_the_same_one_are_handed_to_nobody() {
    let mut bad = with_headers(0);
    bad.limits.rooms_per_client = 0;
    let mut stray = Config::default();
    stray.cores.insert(2, CoreFile::default());
    let loads = vec![bad.clone(), bad, stray, Config::default()];
    let (mut reload, orders, reported) = reload(loads);
    for _ in 0..4 {
        reload.reload();
    }
    assert!(orders.iter().all(Receiver::is_empty));
    assert!(reported.is_empty());
    // The same refusal twice in a row is one.
    let counters = reload.parts.counters.snapshot();
    assert_eq!(counters.map(|(_, value)| value), [0, 2, 0, 0]);
}

#[test]
fn a_failed_worker_is_waited_for_no_longer() {
    let (mut reload, mut orders, _reported) = reload(vec![with_headers(5)]);
    orders.remove(0);
    reload.reload();
    assert_eq!(reload.behind, [false, false]);
    assert_eq!(headers(&orders[0].try_recv().unwrap()), 5);
}
