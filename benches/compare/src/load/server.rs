//! The server's process as /proc and its CPU clock show it.

use std::{fs, time::Duration};

use anyhow::{Context, ensure};
use nix::{
    time::{ClockId, clock_getcpuclockid, clock_gettime},
    unistd::Pid,
};
use serde_json::{Value, json};

/// CPU time that a process has used so far.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Cpu {
    /// By the process's CPU clock: exact, and with the threads that have ended.
    pub(crate) total: Duration,
    /// Sum over the living threads' schedstat; a running thread's last tick may be missing.
    schedstat: Duration,
    /// How long its threads were ready to run and another ran in their place.
    pub(crate) waited: Duration,
    /// User and system time in clock ticks, from /proc/PID/stat.
    ticks: (u64, u64),
}

impl Cpu {
    /// Reads the clocks of process `pid`.
    pub(crate) fn of(pid: i32) -> anyhow::Result<Self> {
        let clock = clock_getcpuclockid(Pid::from_raw(pid)).context("the server's CPU clock")?;
        Self::read(pid, clock)
    }

    /// Reads the clocks of this process.
    pub(crate) fn of_self() -> anyhow::Result<Self> {
        let pid = i32::try_from(std::process::id())?;
        Self::read(pid, ClockId::CLOCK_PROCESS_CPUTIME_ID)
    }

    fn read(pid: i32, clock: ClockId) -> anyhow::Result<Self> {
        let total = Duration::from(clock_gettime(clock).context("reading a CPU clock")?);
        let (mut ran, mut waited) = (0, 0);
        for entry in fs::read_dir(format!("/proc/{pid}/task"))? {
            // A thread may end meanwhile.
            let Ok(text) = fs::read_to_string(entry?.path().join("schedstat")) else {
                continue;
            };
            let mut numbers = text.split_ascii_whitespace().map(str::parse::<u64>);
            ran += numbers.next().context("schedstat is empty")??;
            waited += numbers.next().context("schedstat is short")??;
        }
        let stat = fs::read_to_string(format!("/proc/{pid}/stat"))?;
        // The name in parentheses may hold anything; `utime` and `stime` are fields 14 and 15.
        let (_, fields) = stat.rsplit_once(')').context("stat has no name")?;
        let mut fields = fields.split_ascii_whitespace().skip(11);
        let mut next =
            || -> anyhow::Result<u64> { Ok(fields.next().context("stat is short")?.parse()?) };
        Ok(Self {
            total,
            schedstat: Duration::from_nanos(ran),
            waited: Duration::from_nanos(waited),
            ticks: (next()?, next()?),
        })
    }

    /// What was used since `before`, as JSON.
    pub(crate) fn since(&self, before: &Self) -> Value {
        json!({
            "cpu_ms": ms(self.total.saturating_sub(before.total)),
            "schedstat_ms": ms(self.schedstat.saturating_sub(before.schedstat)),
            "user_ticks": self.ticks.0.saturating_sub(before.ticks.0),
            "system_ticks": self.ticks.1.saturating_sub(before.ticks.1),
            "waited_for_cpu_ms": ms(self.waited.saturating_sub(before.waited)),
        })
    }
}

/// Memory that a process holds, in bytes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Memory {
    /// Its own pages: heap, stacks.
    pub(crate) anonymous: u64,
    /// The part of them that lies in huge pages, which grow by 2 MiB at a time.
    huge: u64,
    resident: u64,
    peak: u64,
}

impl Memory {
    /// Reads /proc/PID/status, and smaps_rollup for the huge pages.
    pub(crate) fn of(pid: i32) -> anyhow::Result<Self> {
        let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
        let rollup = fs::read_to_string(format!("/proc/{pid}/smaps_rollup"))?;
        Ok(Self {
            anonymous: field(&status, "RssAnon")?,
            huge: field(&rollup, "AnonHugePages")?,
            resident: field(&status, "VmRSS")?,
            peak: field(&status, "VmHWM")?,
        })
    }

    /// As JSON.
    pub(crate) fn json(&self) -> Value {
        json!({
            "rss_anon": self.anonymous,
            "huge_pages": self.huge,
            "rss": self.resident,
            "rss_peak": self.peak,
        })
    }
}

/// A line of /proc as `Name:   123 kB`, in bytes.
fn field(text: &str, name: &str) -> anyhow::Result<u64> {
    let line = text
        .lines()
        .find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))
        .with_context(|| format!("/proc has no {name}"))?;
    let kib: u64 = line.trim().trim_end_matches(" kB").parse()?;
    Ok(kib * 1024)
}

/// Descriptors that a process has open.
pub(crate) fn descriptors(pid: i32) -> anyhow::Result<usize> {
    let count = fs::read_dir(format!("/proc/{pid}/fd"))?.count();
    ensure!(count > 0, "process {pid} has no descriptors");
    Ok(count)
}

pub(crate) fn ms(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1e3
}
