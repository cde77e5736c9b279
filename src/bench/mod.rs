//! `tidegate bench`: the project's own load generator, for any WebSocket server.
//!
//! One thread over one engine, frames built before the load, no allocation per message, every
//! byte that comes back compared. What the server pays is the first figure; a message that is
//! wrong, lost, doubled or out of order is a fault, and a run with faults fails.
//!
//! It is a client of the gateway like any other: it must not know rooms, sessions or workers.

mod args;
mod clock;
mod connect;
mod content;
mod crowd;
mod echo;
mod error;
mod expect;
mod fanout;
mod frames;
mod idle;
mod inflated;
mod order;
mod process;
mod progress;
mod publisher;
mod reader;
mod report;
mod run;
mod schedule;
mod shape;
mod slow;
mod tag;
mod tally;
mod target;
mod template;
mod tls;

use std::{
    io::{self, Write},
    net::SocketAddr,
};

use nix::sys::resource::{Resource, getrlimit, setrlimit};

pub use self::{
    args::{BenchArgs, Mode},
    error::BenchError,
};
use self::{
    args::{EngineName, Settings},
    crowd::{Crowd, Silence},
    echo::Echo,
    fanout::Fanout,
    process::Memory,
    progress::Progress,
    report::{Connections, Latency, Messages, Publishes, Report},
    run::Loaded,
    tls::Tls,
};
use crate::engine::{
    epoll::{EpollConfig, EpollKernel},
    slots::{Slots, SystemKernel},
    uring::{UringConfig, UringError, UringKernel},
};

/// Runs a load and prints its figures; gives the exit code: 0, or 3 if there were faults.
///
/// # Errors
/// [`BenchError`] if the command line is wrong or the load can't be run.
pub fn run(args: BenchArgs) -> Result<u8, BenchError> {
    let settings = Settings::new(args)?;
    if let Some(cpu) = settings.cpu {
        pin(cpu)?;
    }
    raise_descriptors(descriptors(&settings))?;
    let addr = settings
        .target
        .resolve()
        .map_err(|error| BenchError::Resolve {
            host: settings.target.authority().to_owned(),
            error,
        })?;
    let report = match settings.engine {
        EngineName::Epoll => by_epoll(&settings, addr)?,
        EngineName::Uring => by_uring(&settings, addr, uring_kernel(&settings)?)?,
        EngineName::Auto => match uring_kernel(&settings) {
            Ok(kernel) => by_uring(&settings, addr, kernel)?,
            Err(_) => by_epoll(&settings, addr)?,
        },
    };
    print(&settings, &report)?;
    Ok(if report.faults.any() { FAULTS } else { 0 })
}

fn uring_kernel(settings: &Settings) -> Result<UringKernel, UringError> {
    let (count, bytes) = buffers(settings);
    UringKernel::new(UringConfig {
        ring_entries: RING_ENTRIES,
        cq_entries: CQ_ENTRIES,
        recv_buffers: count,
        recv_buffer_bytes: bytes,
    })
}

fn by_uring(
    settings: &Settings,
    addr: SocketAddr,
    kernel: UringKernel,
) -> Result<Report, BenchError> {
    with(settings, addr, Slots::new(kernel, 1), "uring")
}

fn by_epoll(settings: &Settings, addr: SocketAddr) -> Result<Report, BenchError> {
    let (count, bytes) = buffers(settings);
    let kernel = EpollKernel::new(EpollConfig {
        recv_buffers: count,
        recv_buffer_bytes: bytes,
        accept_batch: 1,
    })
    .map_err(BenchError::system("making the epoll set"))?;
    with(settings, addr, Slots::new(kernel, 1), "epoll")
}

/// Receive buffers and the bytes of each: each about what one client gets at once, and so many that
/// what a turn brings seldom finds none (a quarter of them cost 4 % more CPU time with 16 KiB echoes).
fn buffers(settings: &Settings) -> (u16, u32) {
    let at_once = (settings.payload + ENVELOPE_BYTES) * settings.depth as usize;
    let bytes = at_once
        .next_power_of_two()
        .clamp(RECV_BUFFER_BYTES_MIN, RECV_BUFFER_BYTES_MAX);
    ((RECV_BYTES / bytes) as u16, bytes as u32)
}

fn with<K: SystemKernel>(
    settings: &Settings,
    addr: SocketAddr,
    engine: Slots<K>,
    name: &'static str,
) -> Result<Report, BenchError> {
    let tls = Tls::new(settings)?;
    let (pid, why_not) = match settings.pid {
        Some(pid) => (Some(pid), None),
        None => match process::listening_at(addr) {
            Ok(pid) => (Some(pid), None),
            Err(why) => (None, Some(why)),
        },
    };
    if let Some(pid) = pid {
        process::Cpu::of(pid).map_err(|error| BenchError::Process { pid, error })?;
    }
    let mut report = Report::new(settings, name, pid);
    if let Some(why) = why_not {
        report.notes.push(format!(
            "no figures of the server's process: {why}; --pid names it"
        ));
    }
    let progress = Progress::new(settings.quiet);
    match settings.mode {
        Mode::Echo | Mode::Fanout | Mode::Slow => {
            let crowd = Crowd::new(engine, addr, settings, tls, progress);
            load(settings, crowd, pid, &mut report)?;
        }
        Mode::Idle => {
            let crowd = Crowd::new(engine, addr, settings, tls, progress);
            idle::run(settings, crowd, pid, &mut report)?;
        }
        Mode::Connect => connect::run(settings, engine, addr, tls, pid, progress, &mut report)?,
    }
    Ok(report)
}

/// Opens the connections, and lets them send and receive.
fn load<K: SystemKernel>(
    settings: &Settings,
    mut crowd: Crowd<K>,
    pid: Option<i32>,
    report: &mut Report,
) -> Result<(), BenchError> {
    let opened = crowd.open(settings, &mut Silence::default(), |_| {})?;
    report.connections = Some(Connections {
        opened: u64::from(settings.connections),
        per_second: f64::from(settings.connections) / opened.as_secs_f64(),
    });
    if settings.mode == Mode::Echo {
        let mut load = Echo::new(settings)?;
        let measured = run::run(&mut crowd, &mut load, settings, pid)?;
        conclude(settings, &load, &measured, report);
    } else {
        let mut load = Fanout::new(settings)?;
        slow::stop_reading(settings, &mut crowd);
        let stopped_at = crowd.now();
        let measured = run::run(&mut crowd, &mut load, settings, pid)?;
        if settings.mode == Mode::Slow {
            slow::conclude(settings, &mut crowd, &mut load, stopped_at, report);
        }
        conclude(settings, &load, &measured, report);
        report.publishes = Some(Publishes {
            sent: load.publishes,
            per_second: load.publishes as f64 / measured.elapsed.as_secs_f64(),
        });
        if let Some(text) = &load.refused {
            report
                .notes
                .push(format!("the server refused something: {text}"));
        }
    }
    crowd.progress.clear();
    report.generator.buffer_waits = Some(crowd.buffer_waits());
    report.tls = crowd.tls_figures();
    report.server.memory = pid.and_then(|pid| Memory::of(pid).ok());
    Ok(())
}

/// Writes down what a load has counted.
fn conclude(
    settings: &Settings,
    load: &impl Loaded,
    measured: &run::Measured,
    report: &mut Report,
) {
    let tally = load.tally();
    let is_open = settings.rate.is_some();
    report.set_cpu(measured, tally.received);
    report.messages = Some(Messages {
        sent: tally.sent,
        received: tally.received,
        per_second: tally.received as f64 / measured.elapsed.as_secs_f64(),
    });
    report.latency_us = Latency::of(&tally.latency, is_open);
    report.faults = tally.faults;
    report.deflate = measured.deflate;
    if is_open && !tally.lateness.is_empty() {
        report.generator.late_us_p99 = Some(tally.lateness.value_at_quantile(0.99) as f64 / 1e3);
    }
    if measured.overdue > 0 {
        report.notes.push(format!(
            "the server did not keep up: {} messages that were due could not be sent; their \
             latency counts as far as it was waited",
            measured.overdue
        ));
    }
    if tally.received == 0 {
        report
            .notes
            .push("no message came in the measured time".to_owned());
    }
    report.note_ends(load.ends());
}

fn print(settings: &Settings, report: &Report) -> Result<(), BenchError> {
    let json = || {
        report
            .json()
            .map_err(|error| BenchError::Internal(error.to_string()))
    };
    let is_stdout = settings
        .json
        .as_ref()
        .is_some_and(|path| path.as_os_str() == "-");
    let text = if is_stdout { json()? } else { report.table() };
    if let Some(path) = settings.json.as_ref().filter(|_| !is_stdout) {
        std::fs::write(path, json()?).map_err(BenchError::system("writing the JSON file"))?;
    }
    let mut out = io::stdout().lock();
    out.write_all(text.as_bytes())
        .and_then(|()| out.flush())
        .map_err(BenchError::system("writing to standard output"))
}

fn pin(cpu: usize) -> Result<(), BenchError> {
    let mut set = nix::sched::CpuSet::new();
    let this = nix::unistd::Pid::from_raw(0);
    set.set(cpu)
        .and_then(|()| nix::sched::sched_setaffinity(this, &set))
        .map_err(|errno| BenchError::Usage(format!("--cpu {cpu}: {errno}")))
}

/// Descriptors that a run needs.
fn descriptors(settings: &Settings) -> u64 {
    let connections = match settings.mode {
        Mode::Connect => settings.in_flight,
        _ => settings.connections + settings.slow,
    };
    u64::from(connections) + SPARE_DESCRIPTORS
}

fn raise_descriptors(needed: u64) -> Result<(), BenchError> {
    let limits = getrlimit(Resource::RLIMIT_NOFILE);
    let (soft, hard) = limits.map_err(|errno| BenchError::Internal(errno.to_string()))?;
    if needed <= soft {
        return Ok(());
    }
    let raised = (needed <= hard).then(|| setrlimit(Resource::RLIMIT_NOFILE, needed, hard));
    match raised {
        Some(Ok(())) => Ok(()),
        _ => Err(BenchError::Descriptors { needed, hard }),
    }
}

/// The exit code of a run with faults.
const FAULTS: u8 = 3;
const RING_ENTRIES: u32 = 1024;
const CQ_ENTRIES: u32 = 16 * 1024;
const RECV_BYTES: usize = 4 << 20;
const RECV_BUFFER_BYTES_MIN: usize = 512;
const RECV_BUFFER_BYTES_MAX: usize = 16 * 1024;
/// What a delivery may have around its payload, for sizing buffers only.
const ENVELOPE_BYTES: usize = 256;
/// Descriptors for everything but connections.
const SPARE_DESCRIPTORS: u64 = 64;
