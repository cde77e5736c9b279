//! A load from its warm-up to the last message: what is measured when.

use std::time::Duration;

use crate::engine::slots::SystemKernel;

use super::{
    BenchError,
    args::Settings,
    crowd::{Crowd, End, Load},
    inflated::DeflateFigures,
    process::{Cpu, Used},
    tally::Tally,
};

/// A load that sends messages and counts what comes.
pub(crate) trait Loaded: Load {
    /// What it has counted.
    fn tally(&self) -> &Tally;

    /// For setting what is measured.
    fn tally_mut(&mut self) -> &mut Tally;

    /// Connections that ended, and how.
    fn ends(&self) -> &[(u32, End)];

    /// An open loop's first message is due at `begin`.
    fn start_at(&mut self, begin: u64);

    /// Lets a closed loop send, or no longer.
    fn turn_on(&mut self, on: bool);

    /// Whether nothing is on its way or waits to be sent.
    fn is_idle(&self) -> bool;

    /// Gives up messages that were not over for so long; whom that lets send is named in `wake`.
    fn give_up_stalled(&mut self, now: u64, timeout_ns: u64, wake: &mut Vec<u32>);

    /// Looks whether connections that are not read have been ended.
    fn watch(&mut self, _now: u64, _is_cut: &dyn Fn(u32) -> bool) {}

    /// Counts what was due and has not been sent, with the time that it has waited by `now`.
    fn count_overdue(&mut self, now: u64) -> u64;
}

/// What was used in the measured time.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Measured {
    pub(crate) elapsed: Duration,
    pub(crate) server: Option<Used>,
    pub(crate) generator: Used,
    /// Messages that were due and could not be sent to the end.
    pub(crate) overdue: u64,
    /// What was inflated, if compression was asked for.
    pub(crate) deflate: Option<DeflateFigures>,
}

/// Clocks read at one moment.
#[derive(Debug)]
pub(crate) struct Reading {
    at: u64,
    server: Option<Cpu>,
    generator: Cpu,
    /// What the generator has spent without doing anything.
    spun: Duration,
    deflate: Option<DeflateFigures>,
}

impl Reading {
    /// Reads the clocks of the server, unless it is gone, and of this process.
    ///
    /// # Errors
    /// If this process's can't be read.
    pub(crate) fn take<K: SystemKernel>(
        crowd: &Crowd<K>,
        pid: Option<i32>,
    ) -> Result<Self, BenchError> {
        let mut reading = Self::at(crowd.now(), pid)?;
        reading.spun = crowd.spun();
        reading.deflate = crowd.inflated();
        Ok(reading)
    }

    /// The same at a time of the generator's clock.
    pub(crate) fn at(now: u64, pid: Option<i32>) -> Result<Self, BenchError> {
        Ok(Self {
            server: pid.and_then(|pid| Cpu::of(pid).ok()),
            generator: Cpu::of_self().map_err(BenchError::system("reading the CPU clock"))?,
            at: now,
            spun: Duration::ZERO,
            deflate: None,
        })
    }

    /// What was used since.
    pub(crate) fn since(&self, before: &Self) -> Measured {
        Measured {
            elapsed: Duration::from_nanos(self.at - before.at),
            server: self
                .server
                .zip(before.server)
                .map(|(now, then)| now.since(&then)),
            generator: self
                .generator
                .since(&before.generator)
                .without_idle(self.spun.saturating_sub(before.spun)),
            overdue: 0,
            deflate: self
                .deflate
                .zip(before.deflate)
                .map(|(now, then)| now.since(&then)),
        }
    }
}

/// Runs `load` over connections that are ready.
///
/// # Errors
/// If the generator's own clocks can't be read.
pub(crate) fn run<K: SystemKernel, L: Loaded>(
    crowd: &mut Crowd<K>,
    load: &mut L,
    settings: &Settings,
    pid: Option<i32>,
) -> Result<Measured, BenchError> {
    let start = crowd.now() + LEAD_NS;
    let begin = start + settings.warm_up.as_nanos() as u64;
    let end = begin + settings.duration.as_nanos() as u64;
    let timeout_ns = settings.timeout.as_nanos() as u64;
    load.tally_mut().set_times(begin, end);
    load.start_at(start);
    load.turn_on(true);
    crowd.wake_all();
    go_on(crowd, load, begin, timeout_ns, "warming up");
    let before = Reading::take(crowd, pid)?;
    load.tally_mut().set_measuring(true);
    go_on(crowd, load, end, timeout_ns, "measuring");
    let after = Reading::take(crowd, pid)?;
    load.tally_mut().set_measuring(false);
    load.turn_on(false);
    let mut measured = after.since(&before);
    measured.overdue = drain(crowd, load, timeout_ns);
    Ok(measured)
}

/// Runs until `end`, and gives up what stalls meanwhile.
fn go_on<K: SystemKernel, L: Loaded>(
    crowd: &mut Crowd<K>,
    load: &mut L,
    end: u64,
    timeout_ns: u64,
    what: &'static str,
) {
    let begin = crowd.now();
    loop {
        let now = crowd.now();
        if now >= end {
            return;
        }
        let step = (now + STEP_NS).min(end);
        crowd.run_while(load, step, |_, _| true);
        give_up(crowd, load, timeout_ns);
        load.watch(crowd.now(), &|conn| crowd.is_cut(conn));
        let share = (crowd.now() - begin) as f64 / (end - begin).max(1) as f64;
        let now = crowd.now();
        crowd.progress.show(now, what, share, load.progress());
    }
}

fn give_up<K: SystemKernel, L: Loaded>(crowd: &mut Crowd<K>, load: &mut L, timeout_ns: u64) {
    let mut wake = Vec::new();
    load.give_up_stalled(crowd.now(), timeout_ns, &mut wake);
    for conn in wake {
        crowd.wake(conn);
    }
}

/// Waits for what is on its way. What has not come by then is lost; gives how many messages
/// were due and could not even be sent.
fn drain<K: SystemKernel, L: Loaded>(crowd: &mut Crowd<K>, load: &mut L, timeout_ns: u64) -> u64 {
    let last = crowd.now() + timeout_ns * DRAIN_TIMEOUTS_MAX;
    while !load.is_idle() && crowd.now() < last {
        let step = crowd.now() + STEP_NS;
        crowd.run_while(load, step, |load, _| !load.is_idle());
        give_up(crowd, load, timeout_ns);
    }
    let now = crowd.now();
    let overdue = load.count_overdue(now);
    load.give_up_stalled(u64::MAX, 0, &mut Vec::new());
    overdue
}

/// A load begins so long after it was called for.
const LEAD_NS: u64 = 5_000_000;
/// How often it is looked for what stalls.
const STEP_NS: u64 = 20_000_000;
/// A server that is behind has so many timeouts to catch up.
const DRAIN_TIMEOUTS_MAX: u64 = 4;
