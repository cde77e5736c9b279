//! A worker on its thread: pinned to a core, inside a monoio runtime, over a ring of its own.
//!
//! monoio owns the thread's waiting; one task drives the engine. While there is work the task
//! turns without waiting, and yields to the runtime every few turns *through the eventfd*: a task
//! that merely wakes itself would be put at the queue's front and starve the others. When a turn
//! found nothing, the ring has just been entered and its completion queue seen empty, so whatever
//! comes later signals the eventfd.

use std::{
    fs::File,
    future::{Future, poll_fn},
    os::fd::{AsFd, OwnedFd},
    pin::Pin,
    rc::Rc,
    sync::Arc,
    task::Poll,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use anyhow::Context;
use monoio::{IoUringDriver, RuntimeBuilder};
use tracing::{error, warn};

use super::{Parts, Worker, mesh::Batch};
use crate::{
    base::{
        abort::AbortOnUnwind,
        counters::Counters,
        ids::CoreId,
        limits::{TURNS_PER_YIELD_MAX, WATCHDOG_INTERVAL, YIELD_AFTER},
        time::{Instant, Now},
    },
    bridge::{Control, Report},
    config,
    engine::{
        slots::Slots,
        uring::{UringConfig, UringKernel},
    },
};

/// The engine of the product.
pub type UringEngine = Slots<UringKernel>;

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
        if let Err(error) = serve(parts(), thread) {
            // The receiver is gone only if the process is ending anyway.
            let _ = reports.send(Report::Failed(core, format!("{error:#}")));
        }
        // The ring's buffers must outlive what is in flight: the thread keeps them until the
        // process ends.
        loop {
            std::thread::park();
        }
    })?;
    Ok(())
}

fn serve(mut parts: Parts, thread: Thread) -> anyhow::Result<()> {
    let core = parts.core;
    if let Err(error) = pin(thread.cpu) {
        warn!(core, cpu = thread.cpu, %error, "not pinned");
    }
    let mut runtime = RuntimeBuilder::<IoUringDriver>::new()
        .with_entries(256)
        .enable_timer()
        .build()
        .context("starting the runtime")?;
    let engine = &thread.engine;
    let mut kernel = UringKernel::new(UringConfig {
        ring_entries: engine.ring_entries,
        cq_entries: engine.cq_entries,
        recv_buffers: engine.recv_buffers,
        recv_buffer_bytes: engine.recv_buffer_bytes.0 as u32,
    })?;
    for listener in thread.listeners {
        kernel.listen(listener);
    }
    let eventfd = kernel
        .eventfd()
        .try_clone_to_owned()
        .context("sharing the eventfd")?;
    let clock = Clock::default();
    parts.now = clock.now();
    let counters = Arc::clone(&parts.counters);
    let first_generation = parts.rng.next_u64() as u32;
    let worker = Worker::new(Slots::new(kernel, first_generation), parts);
    let _ = thread.reports.send(Report::Ready(core));
    let (control, reports) = (thread.control, thread.reports);
    let driven = drive(worker, eventfd, control, reports, clock, counters);
    let worker = runtime.block_on(driven);
    // Neither the ring nor the runtime is dropped with operations in flight.
    std::mem::forget(worker);
    std::mem::forget(runtime);
    Ok(())
}

fn pin(cpu: usize) -> nix::Result<()> {
    let mut set = nix::sched::CpuSet::new();
    set.set(cpu)?;
    nix::sched::sched_setaffinity(nix::unistd::Pid::from_raw(0), &set)
}

/// Why the task goes on.
enum Woken {
    /// The ring has something.
    Engine,
    /// Another core has sent something.
    Batch(Batch),
    /// The outside wants something.
    Control(Control),
    /// Time has passed.
    Timer,
}

/// Reads of the eventfd, one after the other: one is always waiting in the runtime's own ring.
struct Eventfd {
    file: Rc<monoio::fs::File>,
    raw: OwnedFd,
    read: Pin<Box<dyn Future<Output = ()>>>,
}

impl Eventfd {
    fn new(fd: OwnedFd) -> std::io::Result<Self> {
        let raw = fd.try_clone()?;
        let file = Rc::new(monoio::fs::File::from_std(File::from(fd))?);
        let read = Self::read(Rc::clone(&file));
        Ok(Self { file, raw, read })
    }

    fn read(file: Rc<monoio::fs::File>) -> Pin<Box<dyn Future<Output = ()>>> {
        Box::pin(async move {
            let (result, _) = file.read_at(vec![0u8; 8], 0).await;
            if let Err(error) = result {
                error!(%error, "reading the eventfd");
            }
        })
    }

    fn poll(&mut self, cx: &mut std::task::Context<'_>) -> Poll<()> {
        let poll = self.read.as_mut().poll(cx);
        if poll.is_ready() {
            self.read = Self::read(Rc::clone(&self.file));
        }
        poll
    }

    /// Lets the runtime's other tasks run, and comes back behind them.
    async fn pass_through_runtime(&mut self) {
        // Writing fails only at the counter's end, which no number of turns reaches.
        let _ = nix::unistd::write(self.raw.as_fd(), &1u64.to_ne_bytes());
        poll_fn(|cx| self.poll(cx)).await;
    }
}

async fn drive(
    mut worker: Worker<UringEngine>,
    eventfd: OwnedFd,
    control: flume::Receiver<Control>,
    reports: flume::Sender<Report>,
    clock: Clock,
    counters: Arc<Counters>,
) -> Worker<UringEngine> {
    let mut eventfd = match Eventfd::new(eventfd) {
        Ok(eventfd) => eventfd,
        Err(error) => {
            error!(%error, "the eventfd can't be awaited");
            return worker;
        }
    };
    let inbox = worker.mesh_mut().inbox().clone();
    let mut batches = inbox.recv_async();
    let mut orders = control.recv_async();
    let mut turns = 0;
    let mut yielded = clock.now().mono;
    let mut by_timer = false;
    let mut reported = false;
    loop {
        let now = clock.now();
        let busy = worker.turn(now);
        // Its clients are gone, but not yet those of others in the rooms that live here: it goes
        // on until the process ends.
        if !reported && worker.is_drained() {
            reported = true;
            let (core, cut) = (worker.mesh_mut().core(), worker.cut());
            let _ = reports.try_send(Report::Finished { core, cut });
        }
        if std::mem::take(&mut by_timer) && worker.completions() > 0 {
            watch(&mut eventfd, &counters).await;
        }
        if busy {
            turns += 1;
            if turns >= TURNS_PER_YIELD_MAX || now.mono.since(yielded) >= YIELD_AFTER {
                eventfd.pass_through_runtime().await;
                // An order must get through to a worker that never rests.
                if let Ok(order) = control.try_recv() {
                    obey(&mut worker, order);
                }
                turns = 0;
                yielded = clock.now().mono;
            }
            continue;
        }
        turns = 0;
        let wake = worker
            .next_wake()
            .map_or(WATCHDOG_INTERVAL, |wake| wake.since(now.mono))
            .min(WATCHDOG_INTERVAL);
        let mut sleep = std::pin::pin!(monoio::time::sleep(wake));
        let woken = poll_fn(|cx| {
            if eventfd.poll(cx).is_ready() {
                return Poll::Ready(Woken::Engine);
            }
            if let Poll::Ready(Ok(batch)) = Pin::new(&mut batches).poll(cx) {
                return Poll::Ready(Woken::Batch(batch));
            }
            if let Poll::Ready(Ok(order)) = Pin::new(&mut orders).poll(cx) {
                return Poll::Ready(Woken::Control(order));
            }
            sleep.as_mut().poll(cx).map(|()| Woken::Timer)
        })
        .await;
        yielded = clock.now().mono;
        match woken {
            Woken::Engine => {}
            Woken::Batch(batch) => {
                worker.mesh_mut().put_back(batch);
                batches = inbox.recv_async();
            }
            Woken::Control(order) => {
                obey(&mut worker, order);
                orders = control.recv_async();
            }
            Woken::Timer => by_timer = true,
        }
    }
}

fn obey(worker: &mut Worker<UringEngine>, order: Control) {
    match order {
        Control::Drain => worker.begin_draining(),
        Control::Reload(config) => worker.reload(config),
    }
}

/// Completions were found although only time had passed. If the eventfd was signalled meanwhile,
/// the two coincided; if not, a wake was missed.
async fn watch(eventfd: &mut Eventfd, counters: &Counters) {
    let mut patience = std::pin::pin!(monoio::time::sleep(Duration::from_millis(5)));
    let signalled = poll_fn(|cx| {
        if eventfd.poll(cx).is_ready() {
            return Poll::Ready(true);
        }
        patience.as_mut().poll(cx).map(|()| false)
    })
    .await;
    if !signalled {
        counters.missed_wakes_total.inc();
        warn!("a wake was missed");
    }
}
