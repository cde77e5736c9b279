//! What every black-box test needs: a gateway of its own on free ports, its counters, its
//! memory and descriptors, and its end. Clients are in [`client`] (JSON) and [`raw`] (bytes), what
//! measures an attack in [`attack`].
//!
//! Nothing here knows the gateway's insides: it is started as a program and watched from outside.

// Each test file compiles this module for itself and uses a part of it.
#![allow(dead_code)]

pub(crate) mod attack;
pub(crate) mod certs;
pub(crate) mod client;
pub(crate) mod raw;

use std::{
    future::Future,
    io::{BufRead, BufReader, Read, Write},
    net::{SocketAddr, TcpStream},
    path::PathBuf,
    process::{Child, Command, ExitStatus, Stdio},
    sync::{Arc, Mutex, mpsc},
    thread,
    time::{Duration, Instant},
};

use nix::{
    sched::{CpuSet, sched_getaffinity},
    sys::resource::{Resource, getrlimit, setrlimit},
    unistd::Pid,
};
use serde_json::Value;

/// How long any single event may take. Generous, because it is only ever used up by a failure.
pub(crate) const DEADLINE: Duration = Duration::from_secs(20);

/// A running gateway. Dropping it kills the process.
pub(crate) struct Server {
    child: Child,
    /// Where clients connect.
    pub(crate) addr: SocketAddr,
    /// All addresses where they do, that one first.
    pub(crate) addresses: Vec<SocketAddr>,
    /// Where its counters are.
    pub(crate) admin: SocketAddr,
    /// What it wrote to stdout, up to `ready`.
    pub(crate) banner: Vec<String>,
    stderr: Arc<Mutex<String>>,
}

impl Server {
    /// Starts a gateway on free ports and on two cores, with `args` added to the command line,
    /// and waits until it says `ready`.
    pub(crate) fn start(args: &[&str]) -> Self {
        Self::start_at("127.0.0.1:0", args)
    }

    /// A gateway that doesn't announce joins and leaves, so that a test sees exactly the stream
    /// that it caused.
    pub(crate) fn quiet(args: &[&str]) -> Self {
        let mut all = vec!["--set", "rooms.announce_members_max=0"];
        all.extend_from_slice(args);
        Self::start(&all)
    }

    /// Like [`Server::start`], listening at `listen`.
    pub(crate) fn start_at(listen: &str, args: &[&str]) -> Self {
        Self::start_by(Self::command(listen, args))
    }

    /// Starts a gateway by a command line made of [`Server::command`].
    pub(crate) fn start_by(mut command: Command) -> Self {
        let mut child = command.spawn().expect("the gateway's binary starts");
        // A test may have given it another.
        let stderr = child.stderr.take().map_or_else(Arc::default, collect);
        let banner = match read_banner(&mut child) {
            Ok(banner) => banner,
            Err(lines) => {
                let _ = child.kill();
                let status = child.wait();
                let log = stderr.lock().map(|log| log.clone()).unwrap_or_default();
                panic!("no `ready` from {command:?} ({status:?})\nstdout: {lines:?}\nstderr: {log}")
            }
        };
        Self {
            child,
            addr: banner.listening[0],
            addresses: banner.listening,
            admin: banner.admin,
            banner: banner.lines,
            stderr,
        }
    }

    /// The command line that the other starters run, for tests of what happens before `ready`.
    pub(crate) fn command(listen: &str, args: &[&str]) -> Command {
        let mut command = tidegate();
        command.args(["serve", "--listen", listen]);
        if !args.contains(&"--cores") {
            command.args(["--cores", &cores(2)]);
        }
        // Rates are off unless a test asks for them: most want to be quick.
        for rate in [
            "messages_per_second",
            "bytes_per_second",
            "control_frames_per_second",
        ] {
            command.args(["--set", &format!("limits.{rate}=0")]);
        }
        command.args(["--set", "admin.listen=127.0.0.1:0"]);
        if let Some(engine) = engine() {
            command.args(["--set", &format!("engine.kind={engine}")]);
        }
        // Last, so that a test has its own way.
        command.args(args);
        command
    }

    /// The base address that client programs take.
    pub(crate) fn url(&self) -> String {
        format!("ws://{}", self.addr)
    }

    /// Where clients connect with TLS: the first such address.
    pub(crate) fn tls_addr(&self) -> SocketAddr {
        let mut lines = self.banner.iter();
        let host = lines.find_map(|line| line.split_once("wss://")?.1.strip_suffix("/ws"));
        let host = host.unwrap_or_else(|| panic!("no TLS in {:?}", self.banner));
        host.parse().expect("the banner names an address")
    }

    /// One reading of every counter.
    pub(crate) fn counters(&self) -> Counters {
        let (status, body) = get(self.admin, "/counters");
        assert_eq!(status, 200, "GET /counters: {body}");
        Counters(serde_json::from_str(&body).expect("/counters answers JSON"))
    }

    /// Waits until the total of `name` is `wanted`. Blocks the thread.
    pub(crate) fn wait_counter_blocking(&self, name: &str, wanted: u64) {
        self.wait_blocking(&format!("{name} = {wanted}"), |now| {
            now.total(name) == wanted
        });
    }

    /// Waits until the counters satisfy `check`. Blocks the thread.
    pub(crate) fn wait_blocking(&self, what: &str, check: impl Fn(&Counters) -> bool) {
        let mut poll = Poll::new();
        while let Some(pause) = poll.next_pause() {
            if check(&self.counters()) {
                return;
            }
            thread::sleep(pause);
        }
        panic!("never saw {what}: {:?}", self.counters());
    }

    /// Waits until the total of `name` is `wanted`.
    pub(crate) async fn wait_counter(&self, name: &str, wanted: u64) {
        self.wait(&format!("{name} = {wanted}"), |now| {
            now.total(name) == wanted
        })
        .await;
    }

    /// Waits until the counters satisfy `check`.
    pub(crate) async fn wait(&self, what: &str, mut check: impl FnMut(&Counters) -> bool) {
        let mut poll = Poll::new();
        while let Some(pause) = poll.next_pause() {
            if check(&self.counters()) {
                return;
            }
            tokio::time::sleep(pause).await;
        }
        panic!("never saw {what}: {:?}", self.counters());
    }

    /// The process's id.
    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Resident memory of the process, in bytes.
    pub(crate) fn rss_bytes(&self) -> u64 {
        rss_bytes(self.pid())
    }

    /// Processor time that its threads have taken so far, but for the operator's interface: what that takes
    /// is the test's own doing, which asks it for counters.
    pub(crate) fn cpu_time(&self) -> Duration {
        let tasks = format!("/proc/{}/task", self.pid());
        let tasks = std::fs::read_dir(tasks).expect("the gateway runs");
        let nanos = |task: std::fs::DirEntry| -> Option<u64> {
            let name = std::fs::read_to_string(task.path().join("comm")).ok()?;
            if name.trim() == "tidegate-admin" {
                return None;
            }
            let text = std::fs::read_to_string(task.path().join("schedstat")).ok()?;
            text.split(' ').next()?.parse().ok()
        };
        Duration::from_nanos(tasks.flatten().filter_map(nanos).sum())
    }

    /// Of that, what lies in huge pages, of which one byte used is all of it, in bytes.
    pub(crate) fn huge_page_bytes(&self) -> u64 {
        let path = format!("/proc/{}/smaps_rollup", self.child.id());
        let rollup = std::fs::read_to_string(&path).expect("the gateway runs");
        rollup
            .lines()
            .find_map(|line| line.strip_prefix("AnonHugePages:"))
            .and_then(|rest| rest.trim().strip_suffix("kB"))
            .and_then(|kib| kib.trim().parse::<u64>().ok())
            .map(|kib| kib * 1024)
            .expect("AnonHugePages is in smaps_rollup")
    }

    /// The processors on which the thread of this name may run, as the kernel lists them.
    pub(crate) fn cpus_of(&self, thread: &str) -> Option<String> {
        let tasks = format!("/proc/{}/task", self.child.id());
        let tasks = std::fs::read_dir(tasks).expect("the gateway runs");
        tasks.flatten().find_map(|task| {
            let read = |name| std::fs::read_to_string(task.path().join(name)).ok();
            let is_it = read("comm")?.trim() == thread;
            let status = is_it.then(|| read("status"))??;
            let cpus = status
                .lines()
                .find_map(|line| line.strip_prefix("Cpus_allowed_list:"))?;
            Some(cpus.trim().to_owned())
        })
    }

    /// Open descriptors of the process.
    pub(crate) fn fd_count(&self) -> usize {
        let path = format!("/proc/{}/fd", self.child.id());
        std::fs::read_dir(path).expect("the gateway runs").count()
    }

    /// Waits until the process has at most `max` descriptors open, and says how many it has. The
    /// connection that read the counters last may still be closing.
    pub(crate) async fn fds_at_most(&self, max: usize) -> usize {
        let mut poll = Poll::new();
        while let Some(pause) = poll.next_pause() {
            let open = self.fd_count();
            if open <= max {
                return open;
            }
            tokio::time::sleep(pause).await;
        }
        panic!("{max} descriptors before, {} after", self.fd_count());
    }

    /// Sends the signal with this name, such as `TERM`.
    pub(crate) fn signal(&self, name: &str) {
        // The shell's own `kill` needs neither unsafe code nor an installed program.
        let command = format!("kill -s {name} {}", self.child.id());
        let status = Command::new("sh").args(["-c", &command]).status();
        assert!(status.is_ok_and(|status| status.success()), "{command}");
        if name == "STOP" {
            self.wait_stopped();
        }
    }

    /// Waits until none of its threads runs: a signal takes hold of each when that next enters the kernel.
    fn wait_stopped(&self) {
        let tasks = format!("/proc/{}/task", self.child.id());
        let is_stopped = |task: std::fs::DirEntry| {
            let stat = std::fs::read_to_string(task.path().join("stat")).unwrap_or_default();
            // The name, in parentheses, may hold anything.
            stat.rsplit_once(") ")
                .is_none_or(|(_, rest)| rest.starts_with('T'))
        };
        let mut poll = Poll::new();
        while let Some(pause) = poll.next_pause() {
            let mut all = std::fs::read_dir(&tasks).expect("it runs").flatten();
            if all.all(is_stopped) {
                return;
            }
            thread::sleep(pause);
        }
        panic!("it does not stop");
    }

    /// What it has written to stderr so far.
    pub(crate) fn stderr(&self) -> String {
        self.stderr.lock().expect("no writer panicked").clone()
    }

    /// Waits until what it has written to stderr satisfies `check`. Blocks the thread.
    pub(crate) fn wait_log(&self, what: &str, check: impl Fn(&str) -> bool) {
        let mut poll = Poll::new();
        while let Some(pause) = poll.next_pause() {
            if check(&self.stderr()) {
                return;
            }
            thread::sleep(pause);
        }
        panic!("never logged: {what}");
    }

    /// True while the process runs.
    pub(crate) fn is_running(&mut self) -> bool {
        self.child
            .try_wait()
            .expect("a child can be waited for")
            .is_none()
    }

    /// Waits for the process to end by itself. Blocks the thread.
    pub(crate) fn wait_exit(&mut self) -> ExitStatus {
        wait_child(&mut self.child, DEADLINE)
    }

    /// SIGTERM, then waits for the end.
    pub(crate) fn terminate(&mut self) -> ExitStatus {
        self.signal("TERM");
        self.wait_exit()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if thread::panicking() {
            let log = self
                .stderr
                .lock()
                .map(|log| log.clone())
                .unwrap_or_default();
            eprintln!("--- the gateway's stderr ---\n{log}---");
        }
    }
}

/// A file with a name of its own, gone with its owner.
pub(crate) struct TempFile(PathBuf);

impl TempFile {
    pub(crate) fn new(name: &str, text: &str) -> Self {
        let path = std::env::temp_dir().join(format!("tidegate-{}-{name}", std::process::id()));
        std::fs::write(&path, text).expect("a temporary file can be written");
        Self(path)
    }

    /// Where it is.
    pub(crate) fn path(&self) -> &str {
        self.0.to_str().expect("it is text")
    }
}

impl Drop for TempFile {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

/// A reading of `/counters`.
#[derive(Debug)]
pub(crate) struct Counters(Value);

impl Counters {
    /// The sum over all cores.
    pub(crate) fn total(&self, name: &str) -> u64 {
        self.0["total"][name]
            .as_u64()
            .unwrap_or_else(|| panic!("no counter {name} in {}", self.0))
    }

    /// A number of the process.
    pub(crate) fn process(&self, name: &str) -> u64 {
        self.0["process"][name]
            .as_u64()
            .unwrap_or_else(|| panic!("no counter {name} of the process in {}", self.0))
    }

    /// One value per core.
    pub(crate) fn per_core(&self, name: &str) -> Vec<u64> {
        self.0["cores"]
            .as_array()
            .expect("`cores` is an array")
            .iter()
            .map(|core| {
                core[name]
                    .as_u64()
                    .unwrap_or_else(|| panic!("no counter {name} in {core}"))
            })
            .collect()
    }

    /// Every gauge that must be zero when nobody is connected, with its value.
    pub(crate) fn gauges(&self) -> Vec<(&'static str, u64)> {
        GAUGES
            .iter()
            .map(|name| (*name, self.total(name)))
            .collect()
    }

    /// True when nothing is left of any connection.
    pub(crate) fn is_idle(&self) -> bool {
        self.gauges().iter().all(|(_, value)| *value == 0)
    }
}

/// What happened when a program ran to its end.
#[derive(Debug)]
pub(crate) struct Finished {
    pub(crate) code: Option<i32>,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

/// The gateway's program with its pipes ready and nothing inherited that could change it. Another build
/// of it can be named by `TIDEGATE_TEST_PROGRAM`, to measure one that was optimised.
pub(crate) fn tidegate() -> Command {
    match std::env::var("TIDEGATE_TEST_PROGRAM") {
        Ok(path) => program(&path),
        Err(_) => program(env!("CARGO_BIN_EXE_tidegate")),
    }
}

/// A program with its pipes ready and nothing inherited that could change the gateway.
pub(crate) fn program(path: &str) -> Command {
    let mut command = Command::new(path);
    for (name, _) in std::env::vars() {
        if name.starts_with("TIDEGATE_") {
            command.env_remove(name);
        }
    }
    command
        .env_remove("RUST_LOG")
        // With huge pages memory comes by two MiB, and no test could tell a kilobyte for each client from none.
        .env("MIMALLOC_ALLOW_THP", "0")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    command
}

/// The engine that `TIDEGATE_TEST_ENGINE` names for this run of the tests, `uring` or `epoll`; none
/// leaves the choice to the gateway.
pub(crate) fn engine() -> Option<String> {
    std::env::var("TIDEGATE_TEST_ENGINE").ok()
}

/// Runs `command` to its end, which must come before the deadline.
pub(crate) fn run(command: &mut Command) -> Finished {
    run_for(command, DEADLINE)
}

/// Runs `command` to its end, which must come within `limit`.
pub(crate) fn run_for(command: &mut Command, limit: Duration) -> Finished {
    let mut child = command.spawn().expect("the program starts");
    let stdout = collect(child.stdout.take().expect("stdout is piped"));
    let stderr = collect(child.stderr.take().expect("stderr is piped"));
    let status = wait_child(&mut child, limit);
    // The pipes end with the process; `collect` drops its handle once it has read everything.
    let text = |shared: &Arc<Mutex<String>>| {
        let mut poll = Poll::new();
        while let Some(pause) = poll.next_pause() {
            if Arc::strong_count(shared) == 1 {
                break;
            }
            thread::sleep(pause);
        }
        shared.lock().expect("no writer panicked").clone()
    };
    Finished {
        code: status.code(),
        stdout: text(&stdout),
        stderr: text(&stderr),
    }
}

/// `n` of the CPUs this process may use, as `--cores` takes them.
pub(crate) fn cores(n: usize) -> String {
    let set = sched_getaffinity(Pid::from_raw(0)).expect("the affinity mask can be read");
    let allowed: Vec<String> = (0..CpuSet::count())
        .filter(|cpu| set.is_set(*cpu).unwrap_or(false))
        .take(n)
        .map(|cpu| cpu.to_string())
        .collect();
    assert_eq!(allowed.len(), n, "these tests need {n} CPUs");
    allowed.join(",")
}

/// Lifts this process's descriptor limit as far as it may go, for tests with many clients.
pub(crate) fn raise_fd_limit(wanted: u64) {
    let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE).expect("the limit can be read");
    assert!(
        hard >= wanted,
        "this test needs {wanted} open files and may have {hard}: raise `ulimit -Hn`"
    );
    if soft < wanted {
        setrlimit(Resource::RLIMIT_NOFILE, wanted, hard).expect("a soft limit can be raised");
    }
}

/// Resident memory of a process, in bytes.
pub(crate) fn rss_bytes(pid: u32) -> u64 {
    let path = format!("/proc/{pid}/status");
    let status = std::fs::read_to_string(&path).expect("the gateway runs");
    status
        .lines()
        .find_map(|line| line.strip_prefix("VmRSS:"))
        .and_then(|rest| rest.trim().strip_suffix("kB"))
        .and_then(|kib| kib.trim().parse::<u64>().ok())
        .map(|kib| kib * 1024)
        .expect("VmRSS is in /proc/<pid>/status")
}

/// `GET path`, answered with status and body.
pub(crate) fn get(addr: SocketAddr, path: &str) -> (u16, String) {
    try_get(addr, path).expect("an answer that ends with the connection")
}

/// The same of a gateway that may end meanwhile.
pub(crate) fn try_get(addr: SocketAddr, path: &str) -> std::io::Result<(u16, String)> {
    let mut stream = TcpStream::connect(addr)?;
    stream.set_read_timeout(Some(DEADLINE))?;
    write!(
        stream,
        "GET {path} HTTP/1.1\r\nHost: {addr}\r\nConnection: close\r\n\r\n"
    )?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer)?;
    if answer.is_empty() {
        return Err(std::io::ErrorKind::UnexpectedEof.into());
    }
    let answer = String::from_utf8(answer).expect("the answer is text");
    let (head, body) = answer
        .split_once("\r\n\r\n")
        .unwrap_or_else(|| panic!("no head in {answer:?}"));
    let status = head
        .split(' ')
        .nth(1)
        .and_then(|status| status.parse().ok())
        .unwrap_or_else(|| panic!("no status in {head:?}"));
    Ok((status, body.to_owned()))
}

/// Awaits `future` for at most [`DEADLINE`].
pub(crate) async fn within<T>(what: &str, future: impl Future<Output = T>) -> T {
    match tokio::time::timeout(DEADLINE, future).await {
        Ok(value) => value,
        Err(_) => panic!("{what}: not within {DEADLINE:?}"),
    }
}

/// A small seeded generator (xorshift64*), so that a failure can be replayed from its seed.
pub(crate) struct Random(u64);

impl Random {
    /// Takes the seed from `TIDEGATE_TEST_SEED` or from the clock, and says which.
    pub(crate) fn seeded() -> Self {
        let seed = std::env::var("TIDEGATE_TEST_SEED")
            .ok()
            .and_then(|seed| seed.parse().ok())
            .unwrap_or_else(|| {
                std::time::UNIX_EPOCH
                    .elapsed()
                    .map_or(1, |age| age.as_nanos() as u64)
            });
        eprintln!("replay with TIDEGATE_TEST_SEED={seed}");
        Self(seed | 1)
    }

    /// A number below `bound`.
    pub(crate) fn below(&mut self, bound: usize) -> usize {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        let high = self.0.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 33;
        high as usize % bound
    }
}

/// Growing pauses between two looks at something that can only be polled.
struct Poll {
    end: Instant,
    pause: Duration,
}

impl Poll {
    fn new() -> Self {
        Self::until(Instant::now() + DEADLINE)
    }

    fn until(end: Instant) -> Self {
        Self {
            end,
            pause: Duration::from_millis(2),
        }
    }

    fn next_pause(&mut self) -> Option<Duration> {
        let pause = self.pause;
        self.pause = (pause * 2).min(Duration::from_millis(100));
        (Instant::now() < self.end).then_some(pause)
    }
}

struct Banner {
    listening: Vec<SocketAddr>,
    admin: SocketAddr,
    lines: Vec<String>,
}

/// Reads stdout up to `ready`; the lines seen so far when that doesn't come.
fn read_banner(child: &mut Child) -> Result<Banner, Vec<String>> {
    let stdout = child.stdout.take().expect("stdout is piped");
    let (sender, receiver) = mpsc::channel();
    // Reads to the end, so that the gateway can never block on a full pipe.
    thread::spawn(move || {
        for line in BufReader::new(stdout).lines().map_while(Result::ok) {
            let _ = sender.send(line);
        }
    });
    let mut lines = Vec::new();
    let end = Instant::now() + DEADLINE;
    while let Ok(line) = receiver.recv_timeout(end.saturating_duration_since(Instant::now())) {
        let is_last = line.trim() == "ready";
        lines.push(line);
        if !is_last {
            continue;
        }
        let find = |key: &str, scheme: &str, path: &str| {
            let found = lines.iter().filter_map(|line| {
                let url = line.trim_start().strip_prefix(key)?.trim();
                let host = url.strip_prefix(scheme)?.strip_suffix(path)?;
                host.parse().ok()
            });
            found.collect::<Vec<SocketAddr>>()
        };
        let listening = find("listening ", "ws://", "/ws");
        let admin = find("admin ", "http://", "");
        return match (listening.is_empty(), admin.first()) {
            (false, Some(&admin)) => Ok(Banner {
                listening,
                admin,
                lines,
            }),
            _ => Err(lines),
        };
    }
    Err(lines)
}

/// Reads `pipe` to its end on a thread of its own.
fn collect(pipe: impl Read + Send + 'static) -> Arc<Mutex<String>> {
    let text = Arc::new(Mutex::new(String::new()));
    let shared = Arc::clone(&text);
    thread::spawn(move || {
        for line in BufReader::new(pipe).lines().map_while(Result::ok) {
            if let Ok(mut text) = shared.lock() {
                text.push_str(&line);
                text.push('\n');
            }
        }
    });
    text
}

fn wait_child(child: &mut Child, limit: Duration) -> ExitStatus {
    let mut poll = Poll::until(Instant::now() + limit);
    while let Some(pause) = poll.next_pause() {
        if let Some(status) = child.try_wait().expect("a child can be waited for") {
            return status;
        }
        thread::sleep(pause);
    }
    let _ = child.kill();
    let _ = child.wait();
    panic!("the process did not end within {limit:?}");
}

const GAUGES: [&str; 8] = [
    "connections_open",
    "sessions_open",
    "rooms_open",
    "memberships_open",
    "timers_open",
    "sends_in_flight",
    "buffers_out",
    "slots_open",
];
