//! What is not there: descriptors that have run out, and peers behind a network that is gone.
//! docs/THREATS.md has the measured figures.

mod common;

use std::{
    fs::File,
    net::SocketAddr,
    path::PathBuf,
    process::Command,
    thread,
    time::{Duration, Instant},
};

use common::{
    Counters, Server,
    attack::{Siege, client, command, text},
    cores, engine,
    raw::Raw,
    tidegate,
};
use nix::sched::{CloneFlags, setns};

/// Runs a program to its end; whether it succeeded.
fn runs(program: &str, args: &[&str]) -> bool {
    let output = Command::new(program).args(args).output();
    output.is_ok_and(|output| {
        if !output.status.success() {
            eprintln!(
                "{program} {args:?}: {}",
                String::from_utf8_lossy(&output.stderr)
            );
        }
        output.status.success()
    })
}

/// Without descriptors accepting pauses, the kernel queues who comes, nobody who is there notices, and
/// all goes on once there are some again.
#[test]
fn without_descriptors_accepting_pauses_and_goes_on() {
    const ATTACKERS: usize = 200;
    // Less than it takes connections: as if something else had used its descriptors up.
    const LIMIT: usize = 120;
    if !runs("prlimit", &["--version"]) {
        eprintln!("skipped: prlimit (util-linux) is not here");
        return;
    }
    let connections = format!("limits.connections_max={ATTACKERS}");
    let core = cores(1);
    let gateway = Server::command(
        "127.0.0.1:0",
        &[
            "--cores",
            &core,
            "--set",
            &connections,
            "--set",
            "limits.handshake_timeout=60s",
        ],
    );
    let mut limited = common::program("prlimit");
    limited
        .arg(format!("--nofile={LIMIT}:{LIMIT}"))
        .arg(gateway.get_program())
        .args(gateway.get_args());
    let siege = Siege::around(Server::start_by(limited));
    let started = Instant::now();
    let cpu = siege.server.cpu_time();
    let mut attackers: Vec<Raw> = (0..ATTACKERS)
        .map(|_| Raw::connect(siege.server.addr))
        .collect();
    // Its operator's interface has no descriptor either, so its log tells.
    let end = Instant::now() + common::DEADLINE;
    while siege.server.stderr().matches("accepting pauses").count() < 5 {
        assert!(
            Instant::now() < end,
            "it does not run out: {}",
            siege.server.stderr()
        );
        thread::park_timeout(Duration::from_millis(20));
    }
    let busy = (siege.server.cpu_time() - cpu).as_secs_f64() / started.elapsed().as_secs_f64();
    eprintln!("without descriptors: {:.1} % of a core", busy * 100.0);
    assert!(busy < 0.7, "it spins: {busy}");
    // Those who were accepted go, so the others are, in the order in which they came.
    let mut queued = attackers.split_off(ATTACKERS - LIMIT / 2);
    drop(attackers);
    for raw in &mut queued {
        raw.upgrade("/ws");
    }
    drop(queued);
    let toll = siege.end("descriptors", ATTACKERS);
    assert!(toll.grown("accept_errors_total") >= 5);
    assert!(toll.grown("upgraded_total") >= LIMIT as u64 / 2);
}

/// A network namespace, gone with its owner.
struct Namespace(String);

impl Namespace {
    /// None where that is not allowed.
    fn new(name: &str) -> Option<Self> {
        let name = format!("tidegate-{}-{name}", std::process::id());
        let own = runs("ip", &["netns", "add", &name]).then(|| Self(name))?;
        own.ip(&["link", "set", "lo", "up"]).then_some(own)
    }

    fn ip(&self, args: &[&str]) -> bool {
        let mut all = vec!["-n", &self.0];
        all.extend_from_slice(args);
        runs("ip", &all)
    }

    /// Runs `work` on a thread that is inside.
    fn within<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        let path = PathBuf::from("/run/netns").join(&self.0);
        thread::scope(|scope| {
            let thread = scope.spawn(|| {
                let namespace = File::open(path).expect("the namespace is there");
                setns(namespace, CloneFlags::CLONE_NEWNET).expect("it can be entered");
                work()
            });
            thread.join().expect("no panic")
        })
    }

    /// The counters of a gateway inside.
    fn counters(&self, server: &Server) -> Counters {
        self.within(|| server.counters())
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        runs("ip", &["netns", "del", &self.0]);
    }
}

/// A gateway in one namespace, clients in another, and a cable between them that is pulled.
struct Cable {
    gateway: Namespace,
    clients: Namespace,
}

impl Cable {
    fn lay() -> Option<Self> {
        let (gateway, clients) = (Namespace::new("gw")?, Namespace::new("cl")?);
        let peer = ["peer", "name", "inside", "netns", &clients.0];
        let mut add = vec!["link", "add", "inside", "type", "veth"];
        add.extend_from_slice(&peer);
        let is_up = gateway.ip(&add)
            && gateway.ip(&["addr", "add", "10.77.0.1/24", "dev", "inside"])
            && gateway.ip(&["link", "set", "inside", "up"])
            && clients.ip(&["addr", "add", "10.77.0.2/24", "dev", "inside"])
            && clients.ip(&["link", "set", "inside", "up"]);
        is_up.then_some(Self { gateway, clients })
    }

    /// A gateway at its end.
    fn server(&self, settings: &[&str]) -> Server {
        let program = tidegate();
        let mut command = common::program("ip");
        command
            .args(["netns", "exec", &self.gateway.0])
            .arg(program.get_program())
            .args(["serve", "--listen", "10.77.0.1:0", "--cores", &cores(1)])
            .args(["--set", "admin.listen=127.0.0.1:0"]);
        if let Some(engine) = engine() {
            command.args(["--set", &format!("engine.kind={engine}")]);
        }
        for setting in settings {
            command.args(["--set", setting]);
        }
        Server::start_by(command)
    }

    /// A member of a room at the other end.
    fn member(&self, addr: SocketAddr) -> Raw {
        self.clients.within(move || {
            let mut raw = client(addr);
            command(&mut raw, r#"{"type":"join","room":"far","id":"j"}"#);
            loop {
                if text(&mut raw).contains("\"ok\"") {
                    return raw;
                }
            }
        })
    }
}

/// Neither a FIN nor a reset comes of peers whose network is gone: only their silence tells.
#[test]
fn peers_whose_network_is_gone_are_let_go() {
    const ATTACKERS: usize = 100;
    let Some(cable) = Cable::lay() else {
        eprintln!("skipped: network namespaces need root and iproute2");
        return;
    };
    for (how, pull) in [
        (
            "the link is down",
            ["link", "set", "inside", "down"].as_slice(),
        ),
        (
            "the interface is deleted",
            ["link", "del", "inside"].as_slice(),
        ),
    ] {
        let server = cable.server(&[
            "limits.ping_interval=1s",
            "limits.pong_timeout=500ms",
            "rooms.announce_members_max=0",
        ]);
        let members: Vec<Raw> = (0..ATTACKERS).map(|_| cable.member(server.addr)).collect();
        let open = cable.gateway.counters(&server).total("sessions_open");
        assert_eq!(open, ATTACKERS as u64);
        let end = if how.contains("deleted") {
            &cable.gateway
        } else {
            &cable.clients
        };
        let (cpu, rss, started) = (server.cpu_time(), server.rss_bytes(), Instant::now());
        assert!(end.ip(pull), "{how}");
        cable.gateway.within(|| {
            server.wait_blocking("they are let go", |now| {
                now.is_idle() && now.total("heartbeat_timeouts_total") == ATTACKERS as u64
            });
        });
        eprintln!(
            "{how}: {ATTACKERS} peers let go within {:.1?}, processor {:?}, memory {} KiB before, {} after",
            started.elapsed(),
            server.cpu_time() - cpu,
            rss >> 10,
            server.rss_bytes() >> 10,
        );
        drop((members, server));
        if how.contains("down") {
            assert!(
                end.ip(&["link", "set", "inside", "up"]),
                "it comes up again"
            );
        }
    }
}
