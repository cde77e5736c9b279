//! L6: puts the gateway together, starts it, waits for its end.

use std::{
    fmt::{self, Write as _},
    io,
    net::{SocketAddr, TcpListener},
    os::fd::OwnedFd,
    sync::Arc,
    time::{Duration, Instant},
};

use nix::{
    sched::{CpuSet, sched_getaffinity},
    sys::resource::{Resource, getrlimit, setrlimit},
    unistd::Pid,
};
use signal_hook::{
    consts::{SIGINT, SIGTERM},
    iterator::Signals,
};
use socket2::{Domain, Protocol, Socket, Type};
use tracing::{info, warn};

use crate::{
    base::{counters::Counters, limits::SHUTDOWN_TIMEOUT, rng::Rng, time::Now},
    bridge::{Control, Report},
    config::{Config, ConfigError, MachineShare},
    control::admin,
    engine::uring::UringError,
    hub::{Hub, Routes},
    worker::{
        Parts, mesh,
        run::{self, EngineChoice, Thread},
    },
};

/// Why the gateway did not start, or did not end well.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ServerError {
    /// The operator's configuration.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The operator's choice of cores.
    #[error("server.cores = {cores:?}: {message}")]
    Cores {
        /// As configured.
        cores: String,
        /// What is wrong with it.
        message: String,
    },
    /// An address can't be had.
    #[error("{address}: {}", listen_error(.source))]
    Listen {
        /// Which.
        address: SocketAddr,
        /// Why.
        source: io::Error,
    },
    /// The environment lacks io_uring.
    #[error(transparent)]
    Uring(#[from] UringError),
    /// A worker failed.
    #[error("core {core}: {message}")]
    Worker {
        /// Which.
        core: u16,
        /// How.
        message: String,
    },
    /// The system refused something else.
    #[error("{action}: {source}")]
    System {
        /// What was asked for.
        action: &'static str,
        /// How it was refused.
        source: io::Error,
    },
}

impl ServerError {
    /// Whether the operator's input is to blame, and not the environment.
    pub const fn is_usage(&self) -> bool {
        matches!(self, Self::Config(_) | Self::Cores { .. })
    }
}

fn listen_error(source: &io::Error) -> String {
    match source.kind() {
        io::ErrorKind::AddrInUse => "the address is in use by another process".to_owned(),
        io::ErrorKind::AddrNotAvailable => "no interface has this address".to_owned(),
        io::ErrorKind::PermissionDenied => "no permission to listen here".to_owned(),
        _ => source.to_string(),
    }
}

/// A gateway that is running.
#[derive(Debug)]
pub struct Server {
    address: SocketAddr,
    admin: Option<SocketAddr>,
    cpus: Vec<usize>,
    controls: Vec<flume::Sender<Control>>,
    reports: flume::Receiver<Report>,
    counters: Vec<Arc<Counters>>,
    descriptors: u64,
    engine: EngineChoice,
    config: Arc<Config>,
}

impl Server {
    /// Starts the gateway: returns when every worker accepts connections.
    ///
    /// # Errors
    /// [`ServerError`] says what is missing and whose it is.
    pub fn start(config: Config) -> Result<Self, ServerError> {
        config.validate()?;
        let config = Arc::new(config);
        let descriptors = raise_descriptor_limit();
        let cpus = choose_cpus(&config.server.cores)?;
        let engine = run::choose_engine(config.engine.kind)?;
        let cores = cpus.len() as u16;
        let (address, listeners) = listen(config.server.listen.0[0], cores, config.server.backlog)?;
        let admin = config.admin.listen.map(bind_admin).transpose()?;
        let seed = random_seed()?;
        let node = node_name(&config);
        let (report_sender, reports) = flume::bounded(4 * cpus.len() + 4);
        let counters: Vec<Arc<Counters>> = cpus.iter().map(|_| Arc::default()).collect();
        let mut controls = Vec::new();
        let ends = mesh::connect(cores).into_iter().zip(listeners);
        for (core, ((mesh, listener), cpu)) in ends.zip(&cpus).enumerate() {
            let own_config = Arc::clone(&config);
            let own_node = node.clone();
            let own_counters = Arc::clone(&counters[core]);
            let own_seed = seed[0] ^ (core as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15);
            let core = core as u16;
            let parts = move || {
                let mut rng = Rng::new(own_seed);
                let routes = Routes::new(cores, seed);
                let hub_rng = Rng::new(rng.next_u64());
                Parts {
                    core,
                    hub: Hub::new(core, routes, Arc::clone(&own_config), hub_rng),
                    config: own_config,
                    share: MachineShare {
                        connections: u32::MAX,
                        memory_bytes: usize::MAX,
                    },
                    node: own_node,
                    mesh,
                    counters: own_counters,
                    rng,
                    now: Now::default(),
                }
            };
            let (control, orders) = flume::bounded(4);
            controls.push(control);
            let thread = Thread {
                cpu: *cpu,
                listeners: vec![listener],
                engine: engine.applied_to(&config.engine),
                control: orders,
                reports: report_sender.clone(),
            };
            run::spawn(core, parts, thread).map_err(system("starting a worker's thread"))?;
        }
        for _ in &cpus {
            match reports.recv() {
                Ok(Report::Ready(_)) => {}
                Ok(Report::Failed(core, message)) => {
                    return Err(ServerError::Worker { core, message });
                }
                Ok(Report::Finished { .. } | Report::Signal(_)) | Err(_) => {
                    unreachable!("invariant: a worker's first report is ready or failed")
                }
            }
        }
        let admin = match admin {
            Some((address, listener)) => {
                let counters = counters.clone();
                admin::spawn(listener, counters).map_err(system("starting the admin interface"))?;
                Some(address)
            }
            None => None,
        };
        watch_signals(report_sender).map_err(system("watching for signals"))?;
        info!(%address, cores, engine = engine.name(), "listening");
        Ok(Self {
            address,
            admin,
            cpus,
            controls,
            reports,
            counters,
            descriptors,
            engine,
            config,
        })
    }

    /// Where clients connect.
    pub const fn address(&self) -> SocketAddr {
        self.address
    }

    /// What each worker counts, by core.
    pub fn counters(&self) -> &[Arc<Counters>] {
        &self.counters
    }

    /// What an operator should see first, as text for people. Its last line is `ready`.
    pub fn banner(&self) -> String {
        let mut text = format!("tidegate {}\n", env!("CARGO_PKG_VERSION"));
        let mut line = |name: &str, value: &dyn fmt::Display| {
            let _ = writeln!(text, "  {name:<11} {value}");
        };
        line("listening", &format_args!("ws://{}/ws", self.address));
        if self.config.server.demo {
            line("echo", &format_args!("ws://{}/echo", self.address));
        }
        if let Some(admin) = self.admin {
            line("admin", &format_args!("http://{admin}"));
        }
        let cpus: Vec<String> = self.cpus.iter().map(usize::to_string).collect();
        let noun = if cpus.len() == 1 { "worker" } else { "workers" };
        line(
            "cores",
            &format_args!("{} ({} {noun})", cpus.join(","), cpus.len()),
        );
        line("engine", &self.engine);
        line("limits", &format_args!("{} descriptors", self.descriptors));
        text.push_str("  ready\n");
        text
    }

    /// Waits for SIGTERM or SIGINT, then closes every client with 1012 and returns.
    ///
    /// # Errors
    /// If a worker fails.
    pub fn wait(self) -> Result<(), ServerError> {
        loop {
            match self.reports.recv() {
                Ok(Report::Signal(signal)) => {
                    info!(signal, "stopping: clients are told to come back");
                    break;
                }
                Ok(Report::Failed(core, message)) => {
                    return Err(ServerError::Worker { core, message });
                }
                Ok(Report::Ready(_) | Report::Finished { .. }) | Err(_) => {}
            }
        }
        for control in &self.controls {
            // A worker that does not take orders is waited for no longer than the others.
            let _ = control.try_send(Control::Drain);
        }
        let deadline = Instant::now() + SHUTDOWN_TIMEOUT + Duration::from_secs(2);
        let mut running = self.controls.len();
        while running > 0 {
            match self.reports.recv_deadline(deadline) {
                Ok(Report::Finished { .. }) => running -= 1,
                Ok(Report::Failed(core, message)) => {
                    return Err(ServerError::Worker { core, message });
                }
                Ok(Report::Signal(signal)) => {
                    warn!(signal, "a second signal: ending at once");
                    std::process::exit(1);
                }
                Ok(Report::Ready(_)) => {}
                Err(_) => {
                    warn!(running, "workers did not finish in time");
                    break;
                }
            }
        }
        info!("stopped");
        Ok(())
    }
}

fn random_seed() -> Result<[u64; 4], ServerError> {
    let mut seed = [0; 4];
    for word in &mut seed {
        *word = getrandom::u64()
            .map_err(|e| system("asking the system for randomness")(io::Error::other(e)))?;
    }
    Ok(seed)
}

fn node_name(config: &Config) -> String {
    if !config.server.node.is_empty() {
        return config.server.node.clone();
    }
    nix::unistd::gethostname().map_or_else(
        |_| "tidegate".to_owned(),
        |name| name.to_string_lossy().into_owned(),
    )
}

/// Raises the soft limit on descriptors to the hard one; says what holds now.
fn raise_descriptor_limit() -> u64 {
    match getrlimit(Resource::RLIMIT_NOFILE) {
        Ok((_, hard)) if setrlimit(Resource::RLIMIT_NOFILE, hard, hard).is_ok() => hard,
        Ok((soft, _)) => soft,
        Err(_) => 0,
    }
}

/// The processors of `spec`, or all that the process may use.
fn choose_cpus(spec: &str) -> Result<Vec<usize>, ServerError> {
    let wrong = |message: String| ServerError::Cores {
        cores: spec.to_owned(),
        message,
    };
    let allowed = sched_getaffinity(Pid::from_raw(0))
        .map_err(|e| system("asking which cores may be used")(e.into()))?;
    let may_use = |cpu: &usize| allowed.is_set(*cpu).unwrap_or(false);
    let usable: Vec<usize> = (0..CpuSet::count()).filter(may_use).collect();
    if spec.trim() == "all" {
        return Ok(usable);
    }
    let listed: Vec<String> = usable.iter().map(usize::to_string).collect();
    let listed = listed.join(",");
    let mut cpus = Vec::new();
    for part in spec.split(',').map(str::trim) {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let (Ok(first), Ok(last)) = (first.trim().parse(), last.trim().parse()) else {
            return Err(wrong(
                "expected \"all\" or a list such as \"0-3,6\"".to_owned(),
            ));
        };
        for cpu in first..=last {
            if !may_use(&cpu) {
                return Err(wrong(format!(
                    "core {cpu} may not be used here; may be used: {listed}"
                )));
            }
            if cpus.contains(&cpu) {
                return Err(wrong(format!("core {cpu} is listed twice")));
            }
            cpus.push(cpu);
        }
    }
    if cpus.is_empty() {
        return Err(wrong("no core is listed".to_owned()));
    }
    Ok(cpus)
}

/// One listening socket per core, all on one address.
fn listen(
    address: SocketAddr,
    cores: u16,
    backlog: u32,
) -> Result<(SocketAddr, Vec<OwnedFd>), ServerError> {
    let failed = |source| ServerError::Listen { address, source };
    refuse_a_busy_port(address).map_err(failed)?;
    let mut actual = address;
    let mut listeners = Vec::new();
    for _ in 0..cores {
        let socket = bind(actual).map_err(failed)?;
        // Accepted connections inherit it: frames go out as soon as they are written.
        socket.set_tcp_nodelay(true).map_err(failed)?;
        socket
            .listen(i32::try_from(backlog).unwrap_or(i32::MAX))
            .map_err(failed)?;
        if actual.port() == 0 {
            let bound = socket.local_addr().map_err(failed)?;
            actual = bound.as_socket().unwrap_or(actual);
        }
        listeners.push(socket.into());
    }
    Ok((actual, listeners))
}

fn bind(address: SocketAddr) -> io::Result<Socket> {
    let domain = Domain::for_address(address);
    let socket = Socket::new(domain, Type::STREAM.cloexec(), Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    socket.set_reuse_port(true)?;
    socket.bind(&address.into())?;
    Ok(socket)
}

/// SO_REUSEPORT would let a second gateway share the port in silence, each getting a part of the
/// clients. So the port is first asked for without it.
///
/// A ring's teardown outlives its process for a moment and holds the listening socket: an
/// address in use is asked for again for a while.
fn refuse_a_busy_port(address: SocketAddr) -> io::Result<()> {
    if address.port() == 0 {
        return Ok(());
    }
    let deadline = Instant::now() + BUSY_PORT_PATIENCE;
    loop {
        let domain = Domain::for_address(address);
        let socket = Socket::new(domain, Type::STREAM.cloexec(), Some(Protocol::TCP))?;
        socket.set_reuse_address(true)?;
        match socket.bind(&address.into()) {
            Ok(()) => return Ok(()),
            Err(error) if error.kind() == io::ErrorKind::AddrInUse && Instant::now() < deadline => {
                std::thread::sleep(Duration::from_millis(20));
            }
            Err(error) => return Err(error),
        }
    }
}

const BUSY_PORT_PATIENCE: Duration = Duration::from_secs(1);

fn bind_admin(address: SocketAddr) -> Result<(SocketAddr, TcpListener), ServerError> {
    let failed = |source| ServerError::Listen { address, source };
    let listener = TcpListener::bind(address).map_err(failed)?;
    let actual = listener.local_addr().map_err(failed)?;
    Ok((actual, listener))
}

fn watch_signals(reports: flume::Sender<Report>) -> io::Result<()> {
    let mut signals = Signals::new([SIGTERM, SIGINT])?;
    std::thread::Builder::new()
        .name("tidegate-signals".to_owned())
        .spawn(move || {
            for signal in signals.forever() {
                if reports.send(Report::Signal(signal)).is_err() {
                    return;
                }
            }
        })?;
    Ok(())
}

fn system(action: &'static str) -> impl FnOnce(io::Error) -> ServerError {
    move |source| ServerError::System { action, source }
}
