//! A worker on its thread: pinned to a core, inside a monoio runtime, over an engine of its own.
//!
//! monoio owns the thread's waiting; one task drives the engine. While there is work the task
//! turns without waiting, and yields to the runtime every few turns *through a descriptor*: a task
//! that merely wakes itself would be put at the queue's front and starve the others. When a turn
//! found nothing and nothing is at hand, the kernel has just been asked, so whatever comes later
//! wakes ([`wakes`]). With `engine.busy_poll` it goes on turning for that long first.
//!
//! A worker over epoll runs in monoio's legacy driver, named as such: monoio's choice by itself
//! would try io_uring, which a system may answer by ending the process.

mod wakes;

use std::{
    convert::Infallible,
    fmt,
    future::{Future, poll_fn},
    os::fd::OwnedFd,
    sync::Arc,
    task::Poll,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use anyhow::Context;
use monoio::{IoUringDriver, LegacyDriver, RuntimeBuilder};
use tracing::warn;

use self::wakes::Wakes;
use super::{Parts, Worker, mesh::Batch};
use crate::{
    base::{
        abort::AbortOnUnwind,
        counters::Counters,
        ids::CoreId,
        limits::{TURNS_PER_YIELD_MAX, WATCHDOG_INTERVAL, YIELD_AFTER},
        rng::Rng,
        time::{Instant, Now},
    },
    bridge::{Control, Report},
    config::{self, EngineKind},
    engine::{
        Engine,
        epoll::{EpollConfig, EpollKernel},
        slots::Slots,
        uring::{self, UringConfig, UringError, UringKernel},
    },
};

/// The engine of the product.
pub type UringEngine = Slots<UringKernel>;

/// The engine where io_uring is forbidden.
pub type EpollEngine = Slots<EpollKernel>;

/// Which engine the workers run that are told to choose for themselves, and why.
#[derive(Clone, Debug)]
pub struct EngineChoice {
    kind: EngineKind,
    why_not_uring: Option<String>,
}

/// Chooses the engine for `kind`: io_uring where this system has all that it needs, which is
/// tried at once, and epoll where it has not and `kind` leaves the choice. Says so in one line
/// of the log.
///
/// # Errors
/// If `kind` demands io_uring and the system lacks something.
pub fn choose_engine(kind: EngineKind) -> Result<EngineChoice, UringError> {
    let mut choice = EngineChoice {
        kind,
        why_not_uring: None,
    };
    match kind {
        EngineKind::Epoll => {}
        EngineKind::Uring => uring::probe()?,
        EngineKind::Auto => match uring::probe() {
            Ok(()) => choice.kind = EngineKind::Uring,
            Err(error) => {
                let why = error.reason();
                warn!(engine = "epoll", why, "io_uring can't be used here");
                choice.kind = EngineKind::Epoll;
                choice.why_not_uring = Some(why);
            }
        },
    }
    Ok(choice)
}

impl EngineChoice {
    /// The engine's name, as in the configuration.
    pub const fn name(&self) -> &'static str {
        match self.kind {
            EngineKind::Epoll => "epoll",
            EngineKind::Uring | EngineKind::Auto => "uring",
        }
    }

    /// A worker's section, in which `auto` gives way to what was chosen. What names an engine
    /// stays as it is.
    #[must_use]
    pub fn applied_to(&self, engine: &config::Engine) -> config::Engine {
        let mut engine = engine.clone();
        if engine.kind == EngineKind::Auto {
            engine.kind = self.kind;
        }
        engine
    }
}

/// For the banner: the engine, and the system or why it is not the faster one.
impl fmt::Display for EngineChoice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} (", self.name())?;
        match &self.why_not_uring {
            Some(why) => write!(f, "{why})"),
            None => {
                let system = nix::sys::utsname::uname();
                let release = system.as_ref().map(|name| name.release().to_string_lossy());
                write!(
                    f,
                    "Linux {})",
                    release.as_deref().unwrap_or("of unknown release")
                )
            }
        }
    }
}

/// What a thread needs beside its worker's parts.
#[derive(Debug)]
pub struct Thread {
    /// The processor to run on.
    pub cpu: usize,
    /// Its own listening sockets.
    pub listeners: Vec<OwnedFd>,
    /// Its engine, and the sizes of it.
    pub engine: config::Engine,
    /// Where it is told what to do.
    pub control: flume::Receiver<Control>,
    /// Where it tells how it goes.
    pub reports: flume::Sender<Report>,
}

/// The clock of one thread. Its origin is the thread's own: instants do not cross cores.
#[derive(Clone, Copy, Debug)]
pub struct Clock(std::time::Instant);

impl Default for Clock {
    fn default() -> Self {
        Self(std::time::Instant::now())
    }
}

impl Clock {
    /// Reads it.
    pub fn now(self) -> Now {
        Now {
            mono: Instant::from_nanos(self.0.elapsed().as_nanos() as u64),
            unix_ms: SystemTime::now()
                .duration_since(UNIX_EPOCH)
                .map_or(0, |since| since.as_millis() as u64),
        }
    }
}

/// Starts the thread of `core`'s worker, which makes the worker's parts there: they are not for
/// moving. It reports [`Report::Ready`] or [`Report::Failed`], and in the end
/// [`Report::Finished`].
///
/// # Errors
/// If the system gives no thread.
pub fn spawn(
    core: CoreId,
    parts: impl FnOnce() -> Parts + Send + 'static,
    thread: Thread,
) -> std::io::Result<()> {
    let name = format!("tidegate-{core}");
    std::thread::Builder::new().name(name).spawn(move || {
        // A panic that gets here has left shared state behind.
        let _guard = AbortOnUnwind;
        let reports = thread.reports.clone();
        // The receiver is gone only if the process is ending anyway.
        let Err(error) = serve(parts(), thread);
        let _ = reports.send(Report::Failed(core, format!("{error:#}")));
        // A ring's buffers must outlive what is in flight: the thread keeps them until the
        // process ends.
        loop {
            std::thread::park();
        }
    })?;
    Ok(())
}

fn serve(parts: Parts, thread: Thread) -> anyhow::Result<Infallible> {
    let core = parts.core;
    if let Err(error) = pin(thread.cpu) {
        warn!(core, cpu = thread.cpu, %error, "not pinned");
    }
    let kind = match thread.engine.kind {
        EngineKind::Auto => choose_engine(EngineKind::Auto)?.kind,
        named => named,
    };
    if kind == EngineKind::Epoll {
        serve_by_epoll(parts, thread)
    } else {
        serve_by_uring(parts, thread)
    }
}

fn serve_by_uring(mut parts: Parts, mut thread: Thread) -> anyhow::Result<Infallible> {
    let engine = &thread.engine;
    let mut kernel = UringKernel::new(UringConfig {
        ring_entries: engine.ring_entries,
        cq_entries: engine.cq_entries,
        recv_buffers: engine.recv_buffers,
        recv_buffer_bytes: engine.recv_buffer_bytes.0 as u32,
    })?;
    // After the ring, whose refusal says what to do about it.
    let mut runtime = RuntimeBuilder::<IoUringDriver>::new()
        .with_entries(RUNTIME_ENTRIES)
        .enable_timer()
        .build()
        .context("starting the runtime")?;
    for listener in thread.listeners.drain(..) {
        kernel.listen(listener);
    }
    let eventfd = kernel
        .eventfd()
        .try_clone_to_owned()
        .context("sharing the eventfd")?;
    let engine = Slots::new(kernel, first_generation(&mut parts.rng));
    let wakes = || Wakes::of_ring(eventfd);
    // Neither the runtime nor the ring is ever dropped with operations in flight.
    runtime.block_on(work(parts, thread, engine, wakes))
}

fn serve_by_epoll(mut parts: Parts, mut thread: Thread) -> anyhow::Result<Infallible> {
    let mut runtime = RuntimeBuilder::<LegacyDriver>::new()
        .with_entries(RUNTIME_ENTRIES)
        .enable_timer()
        .build()
        .context("starting the runtime")?;
    let engine = &thread.engine;
    let mut kernel = EpollKernel::new(EpollConfig {
        recv_buffers: engine.recv_buffers,
        recv_buffer_bytes: engine.recv_buffer_bytes.0 as u32,
        accept_batch: engine.accept_batch,
    })
    .context("making the epoll set")?;
    for listener in thread.listeners.drain(..) {
        kernel.listen(listener).context("watching the listener")?;
    }
    let set = kernel
        .poll_fd()
        .try_clone_to_owned()
        .context("sharing the epoll set")?;
    let engine = Slots::new(kernel, first_generation(&mut parts.rng));
    let wakes = || Wakes::of_set(set);
    runtime.block_on(work(parts, thread, engine, wakes))
}

fn first_generation(rng: &mut Rng) -> u32 {
    rng.next_u64() as u32
}

/// Runs a worker over `engine` until the process ends, inside the runtime. `wakes` needs that too.
async fn work<E: Engine>(
    mut parts: Parts,
    thread: Thread,
    engine: E,
    wakes: impl FnOnce() -> std::io::Result<Wakes>,
) -> anyhow::Result<Infallible> {
    let wakes = wakes().context("waiting for the engine")?;
    let clock = Clock::default();
    parts.now = clock.now();
    let core = parts.core;
    let mut driver = Driver {
        wakes,
        clock,
        control: thread.control,
        busy_poll: thread.engine.busy_poll.0,
        counters: Arc::clone(&parts.counters),
        reports: thread.reports,
        worker: Worker::new(engine, parts),
    };
    let _ = driver.reports.send(Report::Ready(core));
    Ok(driver.drive().await)
}

fn pin(cpu: usize) -> nix::Result<()> {
    let mut set = nix::sched::CpuSet::new();
    set.set(cpu)?;
    nix::sched::sched_setaffinity(nix::unistd::Pid::from_raw(0), &set)
}

/// Why the task goes on.
enum Woken {
    /// The engine has something.
    Engine,
    /// Another core has sent something.
    Batch(Batch),
    /// The outside wants something.
    Control(Control),
    /// Time has passed.
    Timer,
}

/// Drives a worker: turns while there is work, waits where there is none.
struct Driver<E> {
    worker: Worker<E>,
    wakes: Wakes,
    clock: Clock,
    control: flume::Receiver<Control>,
    busy_poll: Duration,
    /// Where it tells how it goes.
    reports: flume::Sender<Report>,
    counters: Arc<Counters>,
}

impl<E: Engine> Driver<E> {
    async fn drive(&mut self) -> Infallible {
        let inbox = self.worker.mesh_mut().inbox().clone();
        let control = self.control.clone();
        let mut turns = 0;
        let mut yielded = self.clock.now().mono;
        let mut last_busy = None;
        let mut by_timer = false;
        let mut reported = false;
        loop {
            let now = self.clock.now();
            let mut busy = self.worker.turn(now);
            // Its clients are gone, but not yet those of others in the rooms that live here: it
            // goes on until the process ends.
            if !reported && self.worker.is_drained() {
                reported = true;
                let (core, cut) = (self.worker.mesh_mut().core(), self.worker.cut());
                let _ = self.reports.try_send(Report::Finished { core, cut });
            }
            if std::mem::take(&mut by_timer)
                && self.worker.completions() > 0
                && self.wakes.missed_after_turn().await
            {
                self.on_missed_wake();
            }
            busy |= self.worker.engine().has_work();
            if busy {
                last_busy = Some(now.mono);
            }
            if busy || last_busy.is_some_and(|busy| now.mono.since(busy) < self.busy_poll) {
                turns += 1;
                if turns >= TURNS_PER_YIELD_MAX || now.mono.since(yielded) >= YIELD_AFTER {
                    self.wakes.pass_through_runtime().await;
                    // An order must get through to a worker that never rests.
                    if let Ok(order) = control.try_recv() {
                        self.obey(order);
                    }
                    turns = 0;
                    yielded = self.clock.now().mono;
                }
                continue;
            }
            turns = 0;
            // Once it has waited, looking about begins again with the next work.
            last_busy = None;
            let wake = self
                .worker
                .next_wake()
                .map_or(WATCHDOG_INTERVAL, |wake| wake.since(now.mono))
                .min(WATCHDOG_INTERVAL);
            let mut sleep = std::pin::pin!(monoio::time::sleep(wake));
            // Made anew for each wait. One that is kept is signalled by a message that a turn then takes
            // by itself; polled again, it looks into the channel and only then stands in line, and what
            // comes in between wakes nobody.
            let mut batches = std::pin::pin!(inbox.recv_async());
            let mut orders = std::pin::pin!(control.recv_async());
            let woken = poll_fn(|cx| {
                if self.wakes.poll(cx).is_ready() {
                    return Poll::Ready(Woken::Engine);
                }
                if let Poll::Ready(Ok(batch)) = batches.as_mut().poll(cx) {
                    return Poll::Ready(Woken::Batch(batch));
                }
                if let Poll::Ready(Ok(order)) = orders.as_mut().poll(cx) {
                    return Poll::Ready(Woken::Control(order));
                }
                sleep.as_mut().poll(cx).map(|()| Woken::Timer)
            })
            .await;
            match woken {
                Woken::Engine => {}
                Woken::Batch(batch) => {
                    self.worker.mesh_mut().put_back(batch);
                }
                Woken::Control(order) => self.obey(order),
                Woken::Timer => {
                    by_timer = true;
                    let has_work = self.worker.engine().has_work();
                    if self.wakes.missed_before_turn(has_work).await {
                        self.on_missed_wake();
                    }
                }
            }
            yielded = self.clock.now().mono;
        }
    }

    fn obey(&mut self, order: Control) {
        match order {
            Control::Drain => self.worker.begin_draining(),
            Control::Reload(config) => self.worker.reload(config),
            Control::Tls(config) => self.worker.set_tls(config),
        }
    }

    fn on_missed_wake(&self) {
        self.counters.missed_wakes_total.inc();
        warn!("a wake was missed");
    }
}

/// Operations that the runtime itself may have in flight, beside the engine's.
const RUNTIME_ENTRIES: u32 = 256;
