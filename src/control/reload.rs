//! Another configuration while the gateway runs: when it is asked for (SIGHUP) or its files
//! change, it is read, checked, compared with the running one, and handed to every worker. So are the
//! certificates that it names: all of it is taken up, or nothing.
//!
//! ```text
//!   asked, or files changed and then left alone ──▶ load ──▶ wrong: told, counted, the old one stays
//!                                                    │
//!                        told, counted, handed out ◀─┴──▶ the same: nothing
//! ```
//!
//! What only a restart can change keeps its running value and is named in a warning. Directories
//! are watched, not files: editors replace files, and Kubernetes replaces the link that leads to
//! them.

use std::{
    collections::BTreeSet,
    fmt, io,
    path::PathBuf,
    sync::Arc,
    time::{Duration, Instant},
};

use flume::{Receiver, RecvTimeoutError, Sender, TrySendError};
use notify::{
    EventKind, RecommendedWatcher, RecursiveMode, Watcher,
    event::{AccessKind, AccessMode},
};
use tracing::{debug, error, info, warn};

use super::process::ProcessCounters;
use crate::{
    base::limits::{RELOAD_PATIENCE, RELOAD_QUIET, RELOAD_QUIET_MAX, RELOAD_RETRY},
    bridge::{Control, Report},
    config::{Admin, Config, ConfigError, CoreFile, Engine, Log, Provenance, Server, Tls},
    tls::server_config::{Material, Serving},
};

/// A configuration, and what is in the files that it names.
#[derive(Clone, Debug, Default)]
pub struct Loaded {
    /// What is configured.
    pub config: Config,
    /// Where each value of it comes from.
    pub provenance: Provenance,
    /// What TLS is served with; none if no certificate is named.
    pub tls: Option<Material>,
}

/// What came of reading a configuration.
#[derive(Debug)]
pub struct Attempt {
    /// It, or everything that is wrong.
    pub result: Result<Loaded, ConfigError>,
    /// The directories in which a change may lead to another result.
    pub directories: Vec<PathBuf>,
}

/// Where another configuration comes from.
pub struct Reloader {
    /// Reads it as it is now, from all that it is made of.
    pub load: Box<dyn Fn() -> Attempt + Send>,
    /// The directories of the running one.
    pub directories: Vec<PathBuf>,
}

impl fmt::Debug for Reloader {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Reloader").finish_non_exhaustive()
    }
}

/// Why the configuration is read again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trigger {
    /// Somebody asks for it.
    Asked,
    /// Something in its directories has changed.
    Changed,
}

/// Triggers that may wait. One that finds no place is not needed: what waits leads to a load that
/// is still to come.
const TRIGGERS_MAX: usize = 16;

/// A channel for triggers. `try_send` on it is enough.
pub fn triggers() -> (Sender<Trigger>, Receiver<Trigger>) {
    flume::bounded(TRIGGERS_MAX)
}

/// What a reload works with.
#[derive(Debug)]
pub struct Parts {
    /// Where configurations come from.
    pub reloader: Reloader,
    /// The validated one that runs.
    pub running: Arc<Config>,
    /// What TLS is served with, if it is.
    pub tls: Option<Serving>,
    /// Where triggers arrive.
    pub triggers: Receiver<Trigger>,
    /// Where changes of files are noted, if they are to be watched for.
    pub watch: Option<Sender<Trigger>>,
    /// The workers, by core.
    pub workers: Vec<Sender<Control>>,
    /// Who waits for the end, to know by which configuration.
    pub reports: Sender<Report>,
    /// What is counted.
    pub counters: Arc<ProcessCounters>,
}

/// Reloads from a thread of its own, for as long as the process lives.
///
/// # Errors
/// If the system gives no thread.
pub fn spawn(parts: Parts) -> io::Result<()> {
    // Watched from now on, not from whenever the thread first runs.
    let watch = parts.watch.clone().map(Watch::new);
    let mut reload = Reload {
        behind: vec![false; parts.workers.len()],
        behind_tls: vec![false; parts.workers.len()],
        late_at: None,
        told: String::new(),
        watch,
        parts,
    };
    reload.watch_directories();
    if let Some(trigger) = &reload.parts.watch {
        // What changed between the first load and the watch.
        let _ = trigger.try_send(Trigger::Changed);
    }
    std::thread::Builder::new()
        .name("tidegate-reload".to_owned())
        .spawn(move || reload.run())?;
    Ok(())
}

struct Reload {
    parts: Parts,
    watch: Option<Watch>,
    /// Which workers have not taken the running configuration yet.
    behind: Vec<bool>,
    /// Which have not taken what TLS is served with.
    behind_tls: Vec<bool>,
    /// When it is to be said that some have not.
    late_at: Option<Instant>,
    /// What was last said about a configuration, so that files that go on changing do not have it
    /// said again and again.
    told: String,
}

impl Reload {
    fn run(mut self) {
        loop {
            let trigger = if self.is_anyone_behind() {
                match self.parts.triggers.recv_timeout(RELOAD_RETRY) {
                    Ok(trigger) => trigger,
                    Err(RecvTimeoutError::Timeout) => {
                        self.hand_out();
                        continue;
                    }
                    Err(RecvTimeoutError::Disconnected) => return,
                }
            } else {
                match self.parts.triggers.recv() {
                    Ok(trigger) => trigger,
                    Err(_) => return,
                }
            };
            if settle(
                trigger,
                &self.parts.triggers,
                RELOAD_QUIET,
                RELOAD_QUIET_MAX,
            ) == Trigger::Asked
            {
                // Who asks is answered, whatever was said before.
                self.told.clear();
            }
            self.reload();
        }
    }

    fn reload(&mut self) {
        let loaded = self.load().and_then(|loaded| {
            loaded.config.validate()?;
            Ok(loaded)
        });
        let Loaded {
            config: next, tls, ..
        } = match loaded {
            Ok(loaded) => loaded,
            Err(error) => return self.refuse(&error.to_string()),
        };
        let strays = strays(&next, self.parts.workers.len());
        if !strays.is_empty() {
            return self.refuse(&strays);
        }
        let tls = match self.changed_tls(tls) {
            Ok(tls) => tls,
            Err(error) => return self.refuse(&format!("TLS can't be prepared: {error}")),
        };
        let change = Change::between(&self.parts.running, next);
        let keys = change.needs_restart.join(", ");
        if self.is_news(&format!("unchanged but for {keys}")) {
            if !keys.is_empty() {
                warn!(%keys, "these changes take effect only after a restart");
            }
            if change.sections.is_empty() && tls.is_none() {
                debug!("the configuration has not changed");
            }
        }
        if !change.sections.is_empty() {
            self.take_config(change);
        }
        if let Some(tls) = tls {
            self.take_tls(tls);
        }
        if self.is_anyone_behind() {
            self.late_at = Some(Instant::now() + RELOAD_PATIENCE);
            self.hand_out();
        }
    }

    /// Reads the configuration from files that are watched when they are read, so that what changes
    /// later is seen.
    fn load(&mut self) -> Result<Loaded, ConfigError> {
        // A path may lead to another directory than before.
        self.watch_directories();
        let mut attempt = (self.parts.reloader.load)();
        if attempt.directories != self.parts.reloader.directories {
            self.parts.reloader.directories = attempt.directories;
            self.watch_directories();
            attempt = (self.parts.reloader.load)();
        }
        attempt.result
    }

    /// What TLS is to be served with from now on, if that is something else than before.
    fn changed_tls(&self, next: Option<Material>) -> Result<Option<Serving>, rustls::Error> {
        let running = self.parts.tls.as_ref();
        match (running, next) {
            // Without certificates nobody listens any more after the next start; until then those
            // that there are serve on.
            (_, None) => Ok(None),
            (Some(running), Some(next)) if running.material().is_same_as(&next) => Ok(None),
            (Some(running), Some(next)) => running.replaced_by(next).map(Some),
            (None, Some(next)) => Serving::new(next).map(Some),
        }
    }

    fn take_tls(&mut self, tls: Serving) {
        let counters = &self.parts.counters;
        counters.tls_reloads_total.inc();
        counters.set_expiry(tls.material());
        let certificates = tls.material().identities().len();
        info!(certificates, "certificates reloaded");
        for warning in tls.material().warnings() {
            warn!("{warning}");
        }
        self.parts.tls = Some(tls);
        self.behind_tls.fill(true);
    }

    fn take_config(&mut self, change: Change) {
        self.parts.counters.reloads_total.inc();
        info!(sections = change.sections.join(", "), "reloaded");
        self.parts.running = Arc::new(change.config);
        // Nobody waits for the end only if it has come.
        let running = Arc::clone(&self.parts.running);
        let _ = self.parts.reports.send(Report::Reloaded(running));
        self.behind.fill(true);
    }

    fn refuse(&mut self, reason: &str) {
        if self.is_news(reason) {
            self.parts.counters.reload_failures_total.inc();
            // As it is: it has lines, and quotes a file's.
            error!(%reason, "not reloaded: the running configuration stays");
        }
    }

    /// Whether this was not said just before. The log may lie in a watched directory: a line for
    /// each load would lead to the next.
    fn is_news(&mut self, text: &str) -> bool {
        let is_news = self.told != text;
        if is_news {
            text.clone_into(&mut self.told);
        }
        is_news
    }

    /// Offers the running configuration to the workers that have not taken it, and then what TLS is
    /// served with. None is waited for: one that is late does not keep the others.
    fn hand_out(&mut self) {
        let offer = |behind: &mut [bool], order: Control| {
            for (behind, worker) in behind.iter_mut().zip(&self.parts.workers) {
                if *behind {
                    // One that is gone has failed, and the process ends of it.
                    *behind = matches!(worker.try_send(order.clone()), Err(TrySendError::Full(_)));
                }
            }
        };
        let running = Arc::clone(&self.parts.running);
        offer(&mut self.behind, Control::Reload(running));
        if let Some(tls) = &self.parts.tls {
            offer(&mut self.behind_tls, Control::Tls(Arc::clone(tls.config())));
        }
        if !self.is_anyone_behind() {
            self.late_at = None;
        } else if self
            .late_at
            .is_some_and(|late_at| Instant::now() >= late_at)
        {
            self.late_at = None;
            let is_behind = |core: &usize| self.behind[*core] || self.behind_tls[*core];
            let cores = (0..self.behind.len()).filter(is_behind);
            let cores: Vec<String> = cores.map(|core| core.to_string()).collect();
            let cores = cores.join(", ");
            warn!(%cores, "these workers do not take the configuration yet");
        }
    }

    fn is_anyone_behind(&self) -> bool {
        self.behind.contains(&true) || self.behind_tls.contains(&true)
    }

    fn watch_directories(&mut self) {
        if let Some(watch) = &mut self.watch {
            watch.follow(&self.parts.reloader.directories);
        }
    }
}

/// Waits until files have been left alone for `quiet`, `quiet_max` at most. Somebody who asks is
/// not kept waiting. Says why a load is due.
fn settle(
    first: Trigger,
    triggers: &Receiver<Trigger>,
    quiet: Duration,
    quiet_max: Duration,
) -> Trigger {
    let mut trigger = first;
    let end = Instant::now() + quiet_max;
    while trigger == Trigger::Changed {
        let pause = quiet.min(end.saturating_duration_since(Instant::now()));
        if pause.is_zero() {
            break;
        }
        match triggers.recv_timeout(pause) {
            Ok(next) => trigger = next,
            Err(_) => break,
        }
    }
    // What is waiting now is answered by the load to come.
    for _ in 0..TRIGGERS_MAX {
        match triggers.try_recv() {
            Ok(Trigger::Asked) => trigger = Trigger::Asked,
            Ok(Trigger::Changed) => {}
            Err(_) => break,
        }
    }
    trigger
}

/// Directories under observation.
struct Watch {
    watcher: Option<RecommendedWatcher>,
    directories: Vec<PathBuf>,
    /// Whether it was said that a directory can't be watched.
    has_complained: bool,
}

impl Watch {
    fn new(triggers: Sender<Trigger>) -> Self {
        let noted = move |event: notify::Result<notify::Event>| {
            // An error may be a lost event.
            if event.map_or(true, |event| is_change(event.kind)) {
                let _ = triggers.try_send(Trigger::Changed);
            }
        };
        let watcher = notify::recommended_watcher(noted)
            .inspect_err(|error| warn!(%error, "changes of files are not noticed; send SIGHUP"))
            .ok();
        Self {
            watcher,
            directories: Vec::new(),
            has_complained: false,
        }
    }

    /// Watches these and no others, each as its path leads to it now.
    fn follow(&mut self, directories: &[PathBuf]) {
        let Some(watcher) = &mut self.watcher else {
            return;
        };
        for old in self.directories.drain(..) {
            // It may be gone, and its watch with it.
            let _ = watcher.unwatch(&old);
        }
        for directory in directories {
            match watcher.watch(directory, RecursiveMode::NonRecursive) {
                Ok(()) => self.directories.push(directory.clone()),
                Err(error) if !self.has_complained => {
                    self.has_complained = true;
                    let directory = directory.display();
                    warn!(%directory, %error, "changes of files are not noticed; send SIGHUP");
                }
                Err(_) => {}
            }
        }
    }
}

/// Whether something is different afterwards. Reading is not: our own would never end.
const fn is_change(kind: EventKind) -> bool {
    match kind {
        EventKind::Access(AccessKind::Close(AccessMode::Write)) => true,
        EventKind::Access(_) => false,
        _ => true,
    }
}

/// The files of workers that do not exist, in words.
fn strays(config: &Config, workers: usize) -> String {
    let strays = config.cores.keys().filter(|n| usize::from(**n) >= workers);
    let strays: Vec<String> = strays
        .map(|n| format!("cores/{n}.toml: there is no worker {n}"))
        .collect();
    strays.join("\n")
}

/// What another configuration changes.
#[derive(Debug)]
struct Change {
    /// It, with the running values of what needs a restart.
    config: Config,
    /// The sections in which it then differs.
    sections: Vec<&'static str>,
    /// The keys that it would change but can't.
    needs_restart: Vec<String>,
}

/// Puts the running value of each key back into `$next`, and names those that differed. Every key of
/// the table must be among those that need a restart or those that do not, so that a new one is
/// thought of here.
macro_rules! keep {
    (
        $needs:expr, $prefix:expr, $running:expr => $next:expr,
        $table:ident { $($restart:ident),+ $(; $($open:ident),+)? }
    ) => {{
        let $table { $($restart: _,)+ $($($open: _,)+)? } = $running;
        $(if $running.$restart != $next.$restart {
            $needs.push(format!("{}.{}", $prefix, stringify!($restart)));
            $next.$restart = $running.$restart.clone();
        })+
    }};
}

impl Change {
    fn between(running: &Config, mut next: Config) -> Self {
        let mut needs = Vec::new();
        keep!(needs, "server", &running.server => next.server,
            Server { listen, cores, node, backlog, reload_on_change; demo, proxy_protocol, client_address, trusted_proxies });
        keep!(needs, "tls", &running.tls => next.tls,
            Tls { listen; min_version, handshake_timeout, ticket_lifetime, buffered, client_auth, client_ca,
                client_user, certificates });
        keep!(needs, "engine", &running.engine => next.engine,
            Engine { kind, ring_entries, cq_entries, recv_buffers, recv_buffer_bytes,
                accept_batch, busy_poll, coalesce });
        keep!(needs, "log", &running.log => next.log, Log { format, level });
        keep!(needs, "admin", &running.admin => next.admin, Admin { listen });
        let none = CoreFile::default();
        let cores = running.cores.keys().chain(next.cores.keys()).copied();
        for core in cores.collect::<BTreeSet<u16>>() {
            let before = running.cores.get(&core).unwrap_or(&none);
            let mut after = next.cores.remove(&core).unwrap_or_default();
            keep!(needs, format!("cores.{core}"), before => after,
                CoreFile { cpu, listen, tls_listen, backlog, engine, ring_entries, cq_entries, recv_buffers,
                    recv_buffer_bytes, accept_batch, busy_poll, coalesce;
                    routes, connections_max, handshakes_inflight_max, memory_budget });
            if after != none || running.cores.contains_key(&core) {
                next.cores.insert(core, after);
            }
        }
        let differs = [
            ("server", running.server != next.server),
            ("tls", running.tls != next.tls),
            ("limits", running.limits != next.limits),
            ("rooms", running.rooms != next.rooms),
            ("routes", running.routes != next.routes),
            ("drain", running.drain != next.drain),
            ("cores", running.cores != next.cores),
        ];
        let sections = differs.iter().filter(|(_, differs)| *differs);
        Self {
            sections: sections.map(|(name, _)| *name).collect(),
            needs_restart: needs,
            config: next,
        }
    }
}

#[cfg(test)]
mod tests;
