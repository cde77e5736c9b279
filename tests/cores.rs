//! Which processors the workers run on, and where each of them listens.

mod common;

use common::{Server, cores, raw::Raw, run};

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
