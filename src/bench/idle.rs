//! Connections that do nothing: what each of them costs the server in memory, and all of them in
//! CPU time.

use std::{collections::VecDeque, time::Duration};

use crate::engine::slots::SystemKernel;

use super::{
    BenchError,
    args::Settings,
    crowd::{Crowd, Silence},
    process::Memory,
    report::{Connections, Messages, Report},
    run::Reading,
};

/// Opens the connections, waits until the server's memory rests, and checks that all of them live.
///
/// # Errors
/// If a connection can't be opened, or the server's process can't be looked at.
pub(crate) fn run<K: SystemKernel>(
    settings: &Settings,
    mut crowd: Crowd<K>,
    pid: Option<i32>,
    report: &mut Report,
) -> Result<(), BenchError> {
    let mut quiet = Silence::default();
    let memory = |pid| Memory::of(pid).map_err(BenchError::system("reading the server's memory"));
    let before = pid.map(memory).transpose()?;
    let growth = &mut report.server.growth;
    let opened = crowd.open(settings, &mut quiet, |ready| {
        let is_step = ready as usize >= (growth.len() + 1) * GROWTH_STEP;
        if is_step && let Some(Ok(memory)) = pid.map(Memory::of) {
            growth.push((ready, memory.rss_anon));
        }
    })?;
    report.connections = Some(Connections {
        opened: u64::from(settings.connections),
        per_second: f64::from(settings.connections) / opened.as_secs_f64(),
    });
    if let Some(pid) = pid {
        let after = rest(&mut crowd, &mut quiet, pid, report)?;
        let before = before.unwrap_or(after);
        let growth = after.rss_anon.saturating_sub(before.rss_anon);
        report.server.user_bytes_per_connection =
            Some(growth as f64 / f64::from(settings.connections));
        report.server.memory_before = Some(before);
        report.server.memory = Some(after);
    }
    if let Some(hold) = settings.hold {
        let (messages, pings) = (quiet.received, crowd.pings());
        let reading = Reading::take(&crowd, pid)?;
        wait(&mut crowd, &mut quiet, hold, "holding");
        let measured = Reading::take(&crowd, pid)?.since(&reading);
        report.set_cpu(&measured, 0);
        let received = quiet.received - messages;
        report.messages = Some(Messages {
            sent: 0,
            received,
            per_second: received as f64 / measured.elapsed.as_secs_f64(),
        });
        let pings = crowd.pings() - pings;
        report.notes.push(format!(
            "{pings} pings of the server were answered while idle"
        ));
    }
    report.faults.ended = u64::from(crowd.count_dead(&mut quiet, settings.timeout));
    crowd.progress.clear();
    report.tls = crowd.tls_figures();
    report.note_ends(&quiet.ends);
    Ok(())
}

fn wait<K: SystemKernel>(
    crowd: &mut Crowd<K>,
    quiet: &mut Silence,
    time: Duration,
    what: &'static str,
) {
    let begin = crowd.now();
    let end = begin + time.as_nanos() as u64;
    while crowd.now() < end {
        let step = (crowd.now() + SHOW_NS).min(end);
        crowd.run_while(quiet, step, |_, _| true);
        let now = crowd.now();
        let share = (now - begin) as f64 / (end - begin) as f64;
        crowd.progress.show(now, what, share, quiet.received);
    }
}

/// Waits until the server's memory no longer changes.
fn rest<K: SystemKernel>(
    crowd: &mut Crowd<K>,
    quiet: &mut Silence,
    pid: i32,
    report: &mut Report,
) -> Result<Memory, BenchError> {
    let deadline = crowd.now() + REST_TIMEOUT.as_nanos() as u64;
    let mut samples = VecDeque::with_capacity(REST_SAMPLES);
    loop {
        wait(crowd, quiet, SAMPLE_INTERVAL, "settling");
        let memory = Memory::of(pid).map_err(BenchError::system("reading the server's memory"))?;
        if samples.len() == REST_SAMPLES {
            samples.pop_front();
        }
        samples.push_back(memory.rss_anon);
        let low = samples.iter().copied().min().unwrap_or(0);
        let high = samples.iter().copied().max().unwrap_or(0);
        if samples.len() == REST_SAMPLES && high - low <= REST_BYTES {
            return Ok(memory);
        }
        if crowd.now() > deadline {
            report.notes.push(format!(
                "the server's memory did not come to rest: {low} to {high} bytes in the last samples"
            ));
            return Ok(memory);
        }
    }
}

/// The server's memory is noted each time this many more connections are ready.
const GROWTH_STEP: usize = 1000;
const SAMPLE_INTERVAL: Duration = Duration::from_millis(250);
/// Memory rests if this many samples differ by no more than [`REST_BYTES`].
const REST_SAMPLES: usize = 9;
const REST_BYTES: u64 = 64 * 1024;
const REST_TIMEOUT: Duration = Duration::from_secs(30);
const SHOW_NS: u64 = 100_000_000;
