//! L6: puts the gateway together, starts it, waits for its end.

mod banner;
mod cpus;
mod listen;
mod signals;

use std::{
    io,
    net::SocketAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use flume::{RecvTimeoutError, TrySendError};
use tracing::{info, warn};

use self::{
    banner::Banner,
    cpus::Choice,
    listen::{Address, Plan},
};
use crate::{
    base::{counters::Counters, limits::SHUTDOWN_GRACE, rng::Rng, time::Now},
    bridge::{Control, Report},
    config::{Config, ConfigError, MachineShare},
    control::{
        admin::{self, Counted},
        process::ProcessCounters,
        reload::{self, Loaded, Reloader},
    },
    engine::uring::UringError,
    hub::{Hub, Routes},
    machine::Machine,
    tls::server_config::{Material, Serving},
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
    /// Workers that can't have the processors that the operator gives them, all of them.
    #[error("{}", .0.join("\n"))]
    Placement(Vec<String>),
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
        matches!(
            self,
            Self::Config(_) | Self::Cores { .. } | Self::Placement(_)
        )
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

/// How the gateway ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Every client was told, and gone in time.
    Drained,
    /// The drain's deadline came first.
    Cut {
        /// Clients that were still there.
        clients: u64,
        /// Workers that did not come to their end.
        workers: usize,
    },
    /// Another signal came before the drain's end.
    Interrupted,
}

impl Outcome {
    /// The process's exit code for it; docs/OPERATIONS.md lists them all.
    pub const fn exit_code(self) -> u8 {
        match self {
            Self::Drained => 0,
            Self::Cut { .. } => 3,
            Self::Interrupted => 4,
        }
    }
}

/// A gateway that is running.
#[derive(Debug)]
pub struct Server {
    addresses: Vec<Address>,
    admin: Option<SocketAddr>,
    choice: Choice,
    share: MachineShare,
    engine: EngineChoice,
    descriptors: u64,
    controls: Vec<flume::Sender<Control>>,
    reports: flume::Receiver<Report>,
    counters: Vec<Arc<Counters>>,
    config: Arc<Config>,
    tls: Option<Serving>,
    /// A signal to end that came while it started.
    early: Option<i32>,
}

impl Server {
    /// Starts the gateway on a configuration and what it was read with: returns when every worker
    /// accepts connections. With a `reloader`, SIGHUP and, if so configured, changed files lead to
    /// another configuration.
    ///
    /// # Errors
    /// [`ServerError`] says what is missing and whose it is.
    pub fn start(loaded: Loaded, reloader: Option<Reloader>) -> Result<Self, ServerError> {
        loaded.config.validate()?;
        let config = Arc::new(loaded.config);
        let tls = loaded.tls.map(prepare_tls).transpose()?;
        let machine = Machine::here().map_err(system("asking which cores may be used"))?;
        let choice = place(&config, &machine)?;
        let cores = choice.cpus.len();
        let share = cpus::share(&machine, cores);
        let engine = run::choose_engine(config.engine.kind)?;
        let (report_sender, reports) = flume::bounded(4 * cores + 4);
        let (trigger, triggers) = reload::triggers();
        // Early: a signal must not end the process otherwise, while it waits for its port or
        // once there are clients.
        let on_hangup = reloader.is_some().then(|| trigger.clone());
        signals::watch(report_sender.clone(), on_hangup).map_err(system("watching for signals"))?;
        let listeners = listen::open(&Plan::new(&config, cores as u16), &config)?;
        let admin = config.admin.listen.map(listen::open_admin).transpose()?;
        let mut server = Self {
            addresses: listeners.addresses,
            admin: admin.as_ref().map(|(address, _)| *address),
            choice,
            share,
            descriptors: machine.descriptors,
            engine,
            controls: Vec::with_capacity(cores),
            reports,
            counters: (0..cores).map(|_| Arc::default()).collect(),
            config,
            tls,
            early: None,
        };
        server.spawn_workers(listeners.by_worker, &report_sender)?;
        server.await_workers()?;
        let process = Arc::new(ProcessCounters::default());
        if let Some(tls) = &server.tls {
            process.set_expiry(tls.material());
        }
        if let Some((_, listener)) = admin {
            let counted = Counted {
                cores: server.counters.clone(),
                process: Arc::clone(&process),
            };
            admin::spawn(listener, counted).map_err(system("starting the admin interface"))?;
        }
        server.say_listening();
        if let Some(reloader) = reloader {
            let watches = server.config.server.reload_on_change;
            reload::spawn(reload::Parts {
                reloader,
                running: Arc::clone(&server.config),
                tls: server.tls.clone(),
                triggers,
                watch: watches.then_some(trigger),
                workers: server.controls.clone(),
                reports: report_sender,
                counters: process,
            })
            .map_err(system("starting to watch the configuration"))?;
        }
        Ok(server)
    }

    fn spawn_workers(
        &mut self,
        listeners: Vec<listen::Own>,
        reports: &flume::Sender<Report>,
    ) -> Result<(), ServerError> {
        let cores = self.choice.cpus.len() as u16;
        let seed = random_seed()?;
        let node = node_name(&self.config);
        let ends = mesh::connect(cores).into_iter().zip(listeners);
        for (core, ((mesh, listeners), cpu)) in ends.zip(&self.choice.cpus).enumerate() {
            let config = Arc::clone(&self.config);
            let node = node.clone();
            let counters = Arc::clone(&self.counters[core]);
            let own_seed = seed[0] ^ (core as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15);
            let core = core as u16;
            let share = self.share;
            let tls = self.tls.as_ref().map(|tls| Arc::clone(tls.config()));
            if tls.is_none() && listeners.are_tls.contains(&true) {
                return Err(ConfigError::Invalid {
                    origin: "tls.certificates".to_owned(),
                    message: "no certificate has been read".to_owned(),
                }
                .into());
            }
            let parts = move || {
                let mut rng = Rng::new(own_seed);
                let routes = Routes::new(cores, seed);
                let hub_rng = Rng::new(rng.next_u64());
                Parts {
                    core,
                    hub: Hub::new(core, routes, Arc::clone(&config), hub_rng),
                    config,
                    share,
                    node,
                    mesh,
                    counters,
                    rng,
                    tls,
                    tls_listeners: listeners.are_tls,
                    now: Now::default(),
                }
            };
            let (control, orders) = flume::bounded(CONTROLS_MAX);
            self.controls.push(control);
            let thread = Thread {
                cpu: *cpu,
                listeners: listeners.sockets,
                engine: self.engine.applied_to(&self.config.core(core).engine),
                control: orders,
                reports: reports.clone(),
            };
            run::spawn(core, parts, thread).map_err(system("starting a worker's thread"))?;
        }
        Ok(())
    }

    fn await_workers(&mut self) -> Result<(), ServerError> {
        let mut starting = self.controls.len();
        while starting > 0 {
            match self.reports.recv() {
                Ok(Report::Ready(_)) => starting -= 1,
                Ok(Report::Failed(core, message)) => {
                    return Err(ServerError::Worker { core, message });
                }
                Ok(Report::Signal(signal)) => self.early = Some(signal),
                Ok(Report::Finished { .. } | Report::Reloaded(_)) | Err(_) => {
                    unreachable!("invariant: a worker's first report is ready or failed")
                }
            }
        }
        Ok(())
    }

    fn say_listening(&self) {
        let cores = self.choice.cpus.len();
        for address in &self.addresses {
            info!(address = %address.socket, tls = address.is_tls, cores, engine = self.engine.name(), "listening");
        }
        if let Some(tls) = &self.tls {
            for warning in tls.material().warnings() {
                warn!("{warning}");
            }
        }
        let cpus = cpus::numbers(&self.choice.cpus);
        if let Some(why) = &self.choice.why {
            info!(cpus, why, "cores chosen");
        }
        if let Some(warning) = &self.choice.warning {
            warn!(cpus, "{warning}");
        }
    }

    /// Where clients connect: every address with whether it is for encrypted connections, the first
    /// worker's first.
    pub fn addresses(&self) -> impl Iterator<Item = (SocketAddr, bool)> {
        let addresses = self.addresses.iter();
        addresses.map(|address| (address.socket, address.is_tls))
    }

    /// What each worker counts, by core.
    pub fn counters(&self) -> &[Arc<Counters>] {
        &self.counters
    }

    /// What an operator should see first, as text for people. Its last line is `ready`.
    pub fn banner(&self) -> String {
        let banner = Banner {
            config: &self.config,
            addresses: &self.addresses,
            admin: self.admin,
            cpus: &self.choice.cpus,
            why: self.choice.why.as_deref(),
            engine: &self.engine,
            descriptors: self.descriptors,
            share: self.share,
        };
        banner.text()
    }

    /// Waits for SIGTERM or SIGINT, then for the workers to close every client, for
    /// `drain.deadline` and a grace at most. Says how that went.
    ///
    /// # Errors
    /// If a worker fails.
    pub fn wait(mut self) -> Result<Outcome, ServerError> {
        let signal = self.await_signal()?;
        info!(signal, "stopping: clients are told to come back");
        let outcome = self.drain()?;
        match outcome {
            Outcome::Drained => info!("stopped"),
            Outcome::Cut { clients, workers } => {
                warn!(
                    clients,
                    workers, "stopped by the deadline, not everyone was gone"
                );
            }
            Outcome::Interrupted => warn!("a second signal: ending at once"),
        }
        Ok(outcome)
    }

    fn await_signal(&mut self) -> Result<i32, ServerError> {
        if let Some(signal) = self.early.take() {
            return Ok(signal);
        }
        loop {
            match self.reports.recv() {
                Ok(Report::Signal(signal)) => return Ok(signal),
                Ok(Report::Reloaded(config)) => self.config = config,
                Ok(Report::Failed(core, message)) => {
                    return Err(ServerError::Worker { core, message });
                }
                Ok(Report::Ready(_) | Report::Finished { .. }) => {}
                Err(_) => unreachable!("invariant: the signals' thread holds a sender for ever"),
            }
        }
    }

    fn drain(&mut self) -> Result<Outcome, ServerError> {
        let deadline = Instant::now() + self.config.drain.deadline.0 + SHUTDOWN_GRACE;
        let mut untold = self.controls.clone();
        let mut workers = self.controls.len();
        let mut clients = 0;
        while workers > 0 {
            untold.retain(|worker| {
                matches!(worker.try_send(Control::Drain), Err(TrySendError::Full(_)))
            });
            let until = if untold.is_empty() {
                deadline
            } else {
                deadline.min(Instant::now() + DRAIN_ORDER_RETRY)
            };
            match self.reports.recv_deadline(until) {
                Ok(Report::Finished { cut, .. }) => {
                    workers -= 1;
                    clients += cut;
                }
                Ok(Report::Failed(core, message)) => {
                    return Err(ServerError::Worker { core, message });
                }
                Ok(Report::Signal(_)) => return Ok(Outcome::Interrupted),
                Ok(Report::Ready(_) | Report::Reloaded(_)) => {}
                Err(RecvTimeoutError::Timeout) if Instant::now() < deadline => {}
                Err(_) => break,
            }
        }
        Ok(if workers == 0 && clients == 0 {
            Outcome::Drained
        } else {
            Outcome::Cut { clients, workers }
        })
    }
}

/// Orders that wait for one worker. A reload finds another way when there is no place, a drain
/// tries again.
const CONTROLS_MAX: usize = 4;

/// How soon the order to drain is offered again to a worker that had no place for it.
const DRAIN_ORDER_RETRY: Duration = Duration::from_millis(20);

/// Each worker's processor.
fn place(config: &Config, machine: &Machine) -> Result<Choice, ServerError> {
    let spec = &config.server.cores;
    let mut choice = cpus::choose(spec, machine).map_err(|message| ServerError::Cores {
        cores: spec.clone(),
        message,
    })?;
    choice.cpus = cpus::assign(&choice.cpus, config, machine).map_err(ServerError::Placement)?;
    Ok(choice)
}

fn prepare_tls(material: Material) -> Result<Serving, ServerError> {
    Serving::new(material).map_err(|error| system("preparing TLS")(io::Error::other(error)))
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

fn system(action: &'static str) -> impl FnOnce(io::Error) -> ServerError {
    move |source| ServerError::System { action, source }
}
