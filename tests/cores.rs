//! Which processors the workers run on, where each of them listens, and what its file decides.

mod common;

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use common::{Finished, Server, cores, get, raw::Raw, run};

/// The CPUs that this process may use, the first `n`.
fn cpus(n: usize) -> Vec<String> {
    cores(n).split(',').map(str::to_owned).collect()
}

#[test]
fn each_worker_is_pinned_to_its_place_in_the_list() {
    let cpus = cpus(2);
    let reversed = format!("{},{}", cpus[1], cpus[0]);
    for list in [cores(2), reversed] {
        let server = Server::start(&["--cores", &list]);
        for (worker, cpu) in list.split(',').enumerate() {
            let pinned = server.cpus_of(&format!("tidegate-{worker}"));
            assert_eq!(pinned.as_deref(), Some(cpu), "worker {worker} of {list}");
        }
    }
}

#[test]
fn all_and_physical_start_workers_of_their_own_choice() {
    for choice in ["all", "physical"] {
        let server = Server::start(&["--cores", choice]);
        assert!(server.cpus_of("tidegate-0").is_some(), "{choice}");
        Raw::upgraded(server.addr, "/ws").expect_text();
    }
}

#[test]
fn a_core_that_may_not_be_used_is_named() {
    let finished = run(&mut Server::command("127.0.0.1:0", &["--cores", "4000"]));
    assert_eq!(finished.code, Some(2), "{finished:?}");
    assert!(finished.stderr.contains("core 4000"), "{finished:?}");
}

#[test]
fn every_address_is_served_by_every_worker() {
    let listen = "server.listen=[\"127.0.0.1:0\", \"127.0.0.2:0\"]";
    let mut command = common::tidegate();
    command.args(["--cores", &cores(2), "--set", listen]);
    command.args(["--set", "admin.listen=127.0.0.1:0"]);
    let server = Server::start_by(command);
    let hosts: Vec<String> = server
        .addresses
        .iter()
        .map(|a| a.ip().to_string())
        .collect();
    assert_eq!(hosts, ["127.0.0.1", "127.0.0.2"]);
    for address in &server.addresses {
        // The kernel spreads them by a hash, so that many find both workers.
        let before = server.counters().per_core("upgraded_total");
        let _held: Vec<Raw> = (0..64).map(|_| Raw::upgraded(*address, "/ws")).collect();
        let after = server.counters().per_core("upgraded_total");
        let grown: Vec<u64> = after.iter().zip(&before).map(|(a, b)| a - b).collect();
        assert_eq!(grown.iter().sum::<u64>(), 64, "{address}");
        assert!(grown.iter().all(|n| *n > 0), "{address}: {grown:?}");
    }
}

/// A main file in a directory of this test's own, and a file for each worker beside it.
struct Files(PathBuf);

impl Files {
    fn new(name: &str, main: &str, files: &[&str]) -> Self {
        let directory = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("cores-{name}"));
        let _ = fs::remove_dir_all(&directory);
        fs::create_dir_all(directory.join("cores")).expect("the target directory can be written");
        let main = format!(
            "[server]\nlisten = \"127.0.0.1:0\"\n[admin]\nlisten = \"127.0.0.1:0\"\n{main}"
        );
        fs::write(directory.join("tidegate.toml"), main).expect("the directory can be written");
        let written = Self(directory);
        for (worker, text) in files.iter().enumerate() {
            written.write(worker, text);
        }
        written
    }

    /// Replaces a worker's file in one step.
    fn write(&self, worker: usize, text: &str) {
        let draft = self.0.join("draft");
        fs::write(&draft, text).expect("the directory can be written");
        let file = self.0.join(format!("cores/{worker}.toml"));
        fs::rename(draft, file).expect("a file can be renamed");
    }

    /// A gateway with two workers. Its addresses are the files' alone.
    fn command(&self) -> Command {
        let mut command = common::tidegate();
        let main = self.0.join("tidegate.toml");
        command
            .arg("--config")
            .arg(main)
            .args(["--cores", &cores(2)]);
        command
    }

    fn start(&self) -> Server {
        Server::start_by(self.command())
    }

    fn ends(&self) -> Finished {
        run(&mut self.command())
    }
}

#[test]
fn a_file_moves_its_worker_to_another_cpu() {
    let cpus = cpus(2);
    let cpu = |n: usize| format!("cpu = {}\n", cpus[n]);
    let files = Files::new("swapped", "", &[&cpu(1), &cpu(0)]);
    let server = files.start();
    assert_eq!(server.cpus_of("tidegate-0").as_ref(), Some(&cpus[1]));
    assert_eq!(server.cpus_of("tidegate-1").as_ref(), Some(&cpus[0]));
}

#[test]
fn a_worker_with_its_own_address_is_found_only_there() {
    let files = Files::new(
        "listen",
        "[[routes]]\npath = \"/ws\"\nmode = \"rooms\"\n\
         [[routes]]\npath = \"/own\"\nmode = \"rooms\"\n",
        &[
            "",
            "listen = \"127.0.0.2:0\"\nroutes = [\"/own\"]\nconnections_max = 3\n",
        ],
    );
    let server = files.start();
    let [first, second] = server.addresses[..] else {
        panic!("{:?}", server.addresses);
    };
    let held: Vec<Raw> = (0..32).map(|_| Raw::upgraded(first, "/ws")).collect();
    assert_eq!(server.counters().per_core("upgraded_total"), [32, 0]);
    // What its file says holds for that worker alone.
    assert_eq!(get(second, "/ws").0, 404);
    server.wait_blocking("its end", |now| now.per_core("connections_open") == [32, 0]);
    let own: Vec<Raw> = (0..3).map(|_| Raw::upgraded(second, "/own")).collect();
    let mut fourth = Raw::connect(second);
    fourth.upgrade_or_refusal("/own");
    assert_eq!(fourth.response().status, 503);
    assert_eq!(server.counters().per_core("upgraded_total"), [32, 3]);
    drop((held, own));
}

#[test]
fn two_workers_share_the_port_that_both_name() {
    let listen = "listen = [\"127.0.0.2:0\", \"127.0.0.3:0\"]\n";
    let files = Files::new("shared", "", &[listen, listen]);
    let server = files.start();
    let hosts: Vec<String> = server
        .addresses
        .iter()
        .map(|a| a.ip().to_string())
        .collect();
    assert_eq!(hosts, ["127.0.0.2", "127.0.0.3"]);
    for address in &server.addresses {
        let before = server.counters().per_core("upgraded_total");
        let _held: Vec<Raw> = (0..64).map(|_| Raw::upgraded(*address, "/ws")).collect();
        let after = server.counters().per_core("upgraded_total");
        assert!(
            after.iter().zip(&before).all(|(a, b)| a > b),
            "{address}: {before:?} {after:?}"
        );
    }
}

#[test]
fn everything_that_does_not_fit_is_told_at_once() {
    let first = format!("cpu = {}\n", cpus(2)[0]);
    let files = Files::new("wrong", "", &["", &first, "", "backlog = 9\n"]);
    let finished = files.ends();
    assert_eq!(finished.code, Some(2), "{finished:?}");
    for told in ["cores/2.toml", "cores/3.toml", "workers 0 and 1"] {
        assert!(finished.stderr.contains(told), "{told}: {finished:?}");
    }
    let files = Files::new("absent", "", &["cpu = 4000\n"]);
    let finished = files.ends();
    assert_eq!(finished.code, Some(2), "{finished:?}");
    assert!(finished.stderr.contains("cpu = 4000"), "{finished:?}");
}

#[test]
fn a_changed_file_of_a_worker_is_noticed() {
    let own = |connections: u32| format!("connections_max = {connections}\n");
    let alone = "listen = \"127.0.0.2:0\"\n";
    let files = Files::new("changed", "", &["", &format!("{alone}{}", own(1))]);
    let server = files.start();
    let address = server.addresses[1];
    let _first = Raw::upgraded(address, "/ws");
    let mut refused = Raw::connect(address);
    refused.upgrade_or_refusal("/ws");
    assert_eq!(refused.response().status, 503);
    files.write(1, &format!("{alone}{}", own(9)));
    server.wait_blocking("a reload on both cores", |now| {
        now.per_core("reloads_total") == [1, 1]
    });
    let _second = Raw::upgraded(address, "/ws");
    // A file for a worker that is not there is refused, and what runs stays.
    files.write(7, "");
    server.wait_blocking("a refusal", |now| now.process("reload_failures_total") == 1);
    let _third = Raw::upgraded(address, "/ws");
}
