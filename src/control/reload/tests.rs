//! What a change comes to, how long files must rest, and workers that do not listen.

use std::{cell::RefCell, thread};

use rcgen::PKCS_ECDSA_P256_SHA256;

use super::*;
use crate::{
    config::{EngineKind, Listen, LogFormat, TlsCertificate},
    tls::fixtures::{Directory, Pair},
};

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
    next.tls.listen = address("127.0.0.1:4");
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
        tls_listen: Some(address("127.0.0.1:5")),
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
            "tls.listen",
            "engine.kind",
            "engine.recv_buffers",
            "log.format",
            "log.level",
            "admin.listen",
            "cores.1.cpu",
            "cores.1.listen",
            "cores.1.tls_listen",
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
    let loaded = |config| Loaded {
        config,
        ..Loaded::default()
    };
    reload_with(loads.into_iter().map(loaded).collect())
}

/// The same with what was read for TLS.
fn reload_with(loads: Vec<Loaded>) -> (Reload, Vec<Receiver<Control>>, Receiver<Report>) {
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
                    result: Ok(loads.borrow_mut().next().unwrap()),
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

/// A configuration with what its certificate's files hold.
fn with_tls(directory: &Directory, headers_max: u32) -> Loaded {
    let mut config = with_headers(headers_max);
    config.tls.certificates = vec![TlsCertificate {
        certificate: "a.pem".to_owned(),
        key: "a.key".to_owned(),
    }];
    let tls = Material::load(&config.tls, &directory.0).unwrap();
    Loaded {
        config,
        tls,
        ..Loaded::default()
    }
}

fn is_tls(order: &Control) -> bool {
    matches!(order, Control::Tls(_))
}

#[test]
fn a_renewed_certificate_is_handed_out_alone_and_once() {
    let directory = Directory::new("reload-renewed");
    let renew = || Pair::new(&["a.example"], &PKCS_ECDSA_P256_SHA256).write(&directory.0, "a");
    renew();
    let first = with_tls(&directory, 64);
    renew();
    let second = with_tls(&directory, 64);
    let loads = vec![first.clone(), first, second.clone(), second];
    let (mut reload, orders, reported) = reload_with(loads);
    reload.reload();
    // The certificate is new, and so is the key of the configuration that names it.
    let of_each = |orders: &[Receiver<Control>]| -> Vec<Vec<bool>> {
        let taken = |one: &Receiver<Control>| one.try_iter().map(|order| is_tls(&order)).collect();
        orders.iter().map(taken).collect()
    };
    assert_eq!(of_each(&orders), [[false], [false]]);
    reload.hand_out();
    assert_eq!(of_each(&orders), [[true], [true]]);
    // Nothing has changed.
    reload.reload();
    assert_eq!(of_each(&orders), [[], []] as [[bool; 0]; 2]);
    // Only the files have.
    reload.reload();
    assert_eq!(of_each(&orders), [[true], [true]]);
    reload.reload();
    assert_eq!(of_each(&orders), [[], []] as [[bool; 0]; 2]);
    assert_eq!(reported.len(), 1, "the configuration was taken up once");
    let counters = &reload.parts.counters;
    assert_eq!(counters.reloads_total.get(), 1);
    assert_eq!(counters.tls_reloads_total.get(), 2);
    // 4096-01-01.
    assert_eq!(counters.tls_certificate_expires_at.get(), 67_090_118_400);
}

#[test]
fn a_worker_that_is_late_gets_the_newest_certificates_behind_the_configuration() {
    let directory = Directory::new("reload-late");
    let renew = || Pair::new(&["a.example"], &PKCS_ECDSA_P256_SHA256).write(&directory.0, "a");
    renew();
    let first = with_tls(&directory, 5);
    renew();
    let second = with_tls(&directory, 6);
    let (mut reload, orders, _reported) = reload_with(vec![first, second]);
    reload.reload();
    assert_eq!(headers(&orders[1].try_recv().unwrap()), 5);
    reload.reload();
    assert_eq!(reload.behind, [true, false]);
    assert_eq!(reload.behind_tls, [true, true]);
    assert!(reload.late_at.is_some());
    assert_eq!(headers(&orders[0].try_recv().unwrap()), 5);
    assert_eq!(headers(&orders[1].try_recv().unwrap()), 6);
    reload.hand_out();
    assert_eq!(headers(&orders[0].try_recv().unwrap()), 6);
    reload.hand_out();
    let serving = reload.parts.tls.as_ref().unwrap().config();
    for one in &orders {
        let Control::Tls(config) = one.try_recv().unwrap() else {
            panic!("the configuration has been handed out");
        };
        assert!(Arc::ptr_eq(&config, serving), "the newest");
        assert!(one.is_empty());
    }
    assert!(!reload.is_anyone_behind());
    assert_eq!(reload.late_at, None);
}

/// Addresses stay until the next start, and who comes there is still served.
#[test]
fn certificates_that_are_named_no_more_serve_on() {
    let directory = Directory::new("reload-gone");
    Pair::new(&["a.example"], &PKCS_ECDSA_P256_SHA256).write(&directory.0, "a");
    let first = with_tls(&directory, 64);
    let without = Loaded::default();
    let (mut reload, orders, _reported) = reload_with(vec![first, without]);
    reload.reload();
    for one in &orders {
        assert!(!is_tls(&one.try_recv().unwrap()));
    }
    reload.hand_out();
    for one in &orders {
        assert!(is_tls(&one.try_recv().unwrap()));
    }
    reload.reload();
    for one in &orders {
        assert!(!is_tls(&one.try_recv().unwrap()));
        assert!(one.is_empty());
    }
    assert!(reload.parts.tls.is_some());
}
