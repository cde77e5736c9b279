//! Another configuration while the gateway runs: asked for by SIGHUP, or noticed in its files.

mod common;

use std::{
    fs,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
};

use common::{Server, client::Client};
use serde_json::json;

/// A directory of this test's own with a main file in it.
struct Files {
    directory: PathBuf,
    main: PathBuf,
}

impl Files {
    fn new(name: &str, text: &str) -> Self {
        let directory = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("reload-{name}"));
        let _ = fs::remove_dir_all(&directory);
        fs::create_dir_all(&directory).expect("the target directory can be written");
        let main = directory.join("tidegate.toml");
        fs::write(&main, text).expect("the target directory can be written");
        Self { directory, main }
    }

    /// Replaces the main file in one step, as editors do.
    fn replace(&self, text: &str) {
        let draft = self.directory.join("draft");
        fs::write(&draft, text).expect("the target directory can be written");
        fs::rename(&draft, &self.main).expect("a file can be renamed");
    }

    /// A gateway on the file, that announces nothing.
    fn start(&self, args: &[&str]) -> Server {
        let path = self.main.to_str().expect("the target directory is UTF-8");
        let mut all = vec!["--config", path];
        all.extend_from_slice(args);
        Server::quiet(&all)
    }
}

/// Files are left unwatched, so that only a signal can be what had an effect.
const UNWATCHED: [&str; 2] = ["--set", "server.reload_on_change=false"];

fn rooms_per_client(rooms: u32) -> String {
    format!("[limits]\nrooms_per_client = {rooms}\n")
}

async fn reloaded(server: &Server, times: u64) {
    let wanted = format!("{times} reloads on both cores");
    server
        .wait(&wanted, |now| {
            now.process("reloads_total") == times
                && now.per_core("reloads_total").iter().all(|n| *n == times)
        })
        .await;
}

#[tokio::test]
async fn a_signal_brings_new_limits_to_open_connections() {
    let files = Files::new("limits", &rooms_per_client(1));
    let server = files.start(&UNWATCHED);
    let mut alice = Client::connect(&server, "alice").await;
    alice.join("one").await;
    let second = json!({"type": "join", "room": "two"});
    alice.fails(second.clone(), "TOO_MANY_ROOMS").await;
    files.replace(&rooms_per_client(2));
    server.signal("HUP");
    reloaded(&server, 1).await;
    // The same connection, still in its room.
    alice.ok(second).await;
    alice.publish("one", json!("still here")).await;
    files.replace(&format!("{}room_members_max = 1\n", rooms_per_client(2)));
    server.signal("HUP");
    reloaded(&server, 2).await;
    let mut bob = Client::connect(&server, "bob").await;
    bob.fails(json!({"type": "join", "room": "one"}), "ROOM_FULL")
        .await;
}

#[tokio::test]
async fn a_rate_reaches_open_connections() {
    let files = Files::new("rates", "");
    let path = files.main.to_str().expect("the target directory is UTF-8");
    // The usual starters switch rates off by options, which no file can change.
    let route = |rate: &str| {
        format!("[[routes]]\npath = \"/ws\"\nmode = \"rooms\"\n[routes.limits]\n{rate}\n")
    };
    files.replace(&route("messages_per_second = 0"));
    let mut all = vec!["--config", path];
    all.extend_from_slice(&UNWATCHED);
    let server = Server::start(&all);
    let mut alice = Client::connect(&server, "alice").await;
    let mut pings = 0;
    let mut refused_of_20 = async |alice: &mut Client| {
        let ids: Vec<String> = (0..20).map(|n| format!("{}", pings + n)).collect();
        pings += ids.len();
        for id in &ids {
            alice.send(json!({"type": "ping", "id": id})).await;
        }
        let mut refused = 0;
        for id in &ids {
            let answer = alice.answer(id).await;
            refused += usize::from(answer.json["code"] == "RATE_LIMITED");
        }
        refused
    };
    assert_eq!(refused_of_20(&mut alice).await, 0);
    files.replace(&route(
        "messages_per_second = 1\nmessages_burst = 1\nrate_breaches_max = 100",
    ));
    server.signal("HUP");
    reloaded(&server, 1).await;
    let refused = refused_of_20(&mut alice).await;
    assert!(refused >= 10, "{refused} of 20 refused");
    assert_eq!(server.counters().total("upgraded_total"), 1);
}

#[tokio::test]
async fn a_route_taken_away_closes_its_connections_and_no_others() {
    let route = |path: &str| format!("[[routes]]\npath = \"{path}\"\nmode = \"rooms\"\n");
    let files = Files::new(
        "routes",
        &format!(
            "[drain]\nnotice = \"0s\"\n{}{}",
            route("/ws"),
            route("/old")
        ),
    );
    let server = files.start(&UNWATCHED);
    let mut stays = Client::connect(&server, "stays").await;
    stays.join("room").await;
    let mut leaves = Client::connect_to(&server, "/old?user=leaves").await;
    leaves.join("room").await;
    files.replace(&format!("[drain]\nnotice = \"0s\"\n{}", route("/ws")));
    server.signal("HUP");
    let (code, reason) = leaves.closed().await;
    assert_eq!(code, 1012, "{reason}");
    assert!(reason.starts_with("restart;retry-after="), "{reason}");
    stays.publish("room", json!("untouched")).await;
    // Any of the two may be asked.
    reloaded(&server, 1).await;
    assert_eq!(common::get(server.addr, "/old").0, 404);
    assert_eq!(server.counters().total("drained_total"), 1);
}

#[tokio::test]
async fn a_bad_file_keeps_the_old_configuration_and_says_why() {
    let files = Files::new("bad", &rooms_per_client(1));
    let server = files.start(&UNWATCHED);
    let mut alice = Client::connect(&server, "alice").await;
    alice.join("one").await;
    let bad = [
        ("[limits]\nrooms_per_clientt = 5\n", "rooms_per_clientt"),
        ("[limits]\nrooms_per_client = 0\n", "rooms_per_client"),
        ("[limits\n", "tidegate.toml"),
    ];
    for (n, (text, named)) in (1..).zip(bad) {
        files.replace(text);
        server.signal("HUP");
        server
            .wait("a failed reload", |now| {
                now.process("reload_failures_total") == n
            })
            .await;
        server
            .wait("the reason", |_| {
                let log = server.stderr();
                let lines = log.split("ERROR").skip(n as usize);
                lines.into_iter().any(|line| line.contains(named))
            })
            .await;
        let second = json!({"type": "join", "room": "two"});
        alice.fails(second, "TOO_MANY_ROOMS").await;
    }
    fs::remove_file(&files.main).expect("the file is there");
    server.signal("HUP");
    server
        .wait("one more", |now| now.process("reload_failures_total") == 4)
        .await;
    assert_eq!(server.counters().process("reloads_total"), 0);
    // A good one is taken up as if nothing had been.
    files.replace(&rooms_per_client(2));
    server.signal("HUP");
    reloaded(&server, 1).await;
    alice.join("two").await;
}

#[tokio::test]
async fn what_needs_a_restart_is_named_and_the_rest_taken_up() {
    let files = Files::new("restart", &rooms_per_client(1));
    let server = files.start(&UNWATCHED);
    files.replace(&format!(
        "[server]\nbacklog = 77\nnode = \"other\"\n{}",
        rooms_per_client(2)
    ));
    server.signal("HUP");
    reloaded(&server, 1).await;
    server
        .wait("the warning", |_| {
            let log = server.stderr();
            log.lines()
                .any(|line| line.contains("WARN") && line.contains("server.node, server.backlog"))
        })
        .await;
    let alice = Client::connect(&server, "alice").await;
    assert_ne!(alice.connected.json["node"], "other");
    // The same again changes nothing and is no failure.
    server.signal("HUP");
    server
        .wait("the warning again", |_| {
            server.stderr().matches("server.backlog").count() == 2
        })
        .await;
    let counters = server.counters();
    assert_eq!(counters.process("reloads_total"), 1);
    assert_eq!(counters.process("reload_failures_total"), 0);
}

#[tokio::test]
async fn a_file_that_is_replaced_is_noticed() {
    let files = Files::new("noticed", &rooms_per_client(1));
    let server = files.start(&[]);
    let mut alice = Client::connect(&server, "alice").await;
    for rooms in 2..5 {
        files.replace(&rooms_per_client(rooms));
        reloaded(&server, u64::from(rooms) - 1).await;
    }
    // Written in place, too.
    fs::write(&files.main, rooms_per_client(5)).expect("the file can be written");
    reloaded(&server, 4).await;
    for room in ["a", "b", "c", "d", "e"] {
        alice.join(room).await;
    }
    let sixth = json!({"type": "join", "room": "f"});
    alice.fails(sixth, "TOO_MANY_ROOMS").await;
}

/// Kubernetes: the file is a link through `..data`, which is a link to a directory, and an update
/// swaps `..data`.
#[tokio::test]
async fn a_swapped_link_is_noticed() {
    let files = Files::new("swapped", "");
    let version = |n: u32| {
        let directory = files.directory.join(format!("..version-{n}"));
        fs::create_dir_all(&directory).expect("the target directory can be written");
        fs::write(directory.join("tidegate.toml"), rooms_per_client(n))
            .expect("the target directory can be written");
        let draft = files.directory.join("..data_tmp");
        symlink(format!("..version-{n}"), &draft).expect("a link can be made");
        fs::rename(draft, files.directory.join("..data")).expect("a link can be renamed");
    };
    version(1);
    fs::remove_file(&files.main).expect("the file is there");
    symlink("..data/tidegate.toml", &files.main).expect("a link can be made");
    let server = files.start(&[]);
    for n in 2..4 {
        version(n);
        fs::remove_dir_all(files.directory.join(format!("..version-{}", n - 1)))
            .expect("the old version is there");
        reloaded(&server, u64::from(n) - 1).await;
    }
    let mut alice = Client::connect(&server, "alice").await;
    for room in ["a", "b", "c"] {
        alice.join(room).await;
    }
}
