//! A process as /proc and its CPU clock show it: the server, and the generator itself.

use std::{
    collections::BTreeSet,
    fs, io,
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use nix::{
    time::{ClockId, clock_getcpuclockid, clock_gettime},
    unistd::Pid,
};
use serde::Serialize;

/// CPU time that a process has used so far.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Cpu {
    /// By the process's CPU clock: exact, and with the threads that have ended.
    pub(crate) total: Duration,
    /// How long its threads were ready to run and another ran in their place.
    pub(crate) waited: Duration,
    /// User and system time in clock ticks.
    ticks: (u64, u64),
}

impl Cpu {
    /// Reads the clocks of process `pid`.
    pub(crate) fn of(pid: i32) -> io::Result<Self> {
        let clock = clock_getcpuclockid(Pid::from_raw(pid))?;
        Self::read(pid, clock)
    }

    /// Reads the clocks of this process.
    pub(crate) fn of_self() -> io::Result<Self> {
        let pid = std::process::id() as i32;
        Self::read(pid, ClockId::CLOCK_PROCESS_CPUTIME_ID)
    }

    fn read(pid: i32, clock: ClockId) -> io::Result<Self> {
        let total = Duration::from(clock_gettime(clock)?);
        let mut waited = 0;
        for entry in fs::read_dir(format!("/proc/{pid}/task"))? {
            // A thread may end meanwhile; a kernel may keep no such account.
            let Ok(text) = fs::read_to_string(entry?.path().join("schedstat")) else {
                continue;
            };
            let wait = text.split_ascii_whitespace().nth(1);
            waited += wait.and_then(|n| n.parse::<u64>().ok()).unwrap_or(0);
        }
        let stat = fs::read_to_string(format!("/proc/{pid}/stat"))?;
        Ok(Self {
            total,
            waited: Duration::from_nanos(waited),
            ticks: ticks(&stat).ok_or_else(|| unreadable("stat"))?,
        })
    }

    /// What was used since `before`.
    pub(crate) fn since(&self, before: &Self) -> Used {
        let total = self.total.saturating_sub(before.total);
        let user = self.ticks.0.saturating_sub(before.ticks.0) as f64;
        let system = self.ticks.1.saturating_sub(before.ticks.1) as f64;
        let user_share = if user + system > 0.0 {
            user / (user + system)
        } else {
            0.0
        };
        Used {
            total,
            user: total.mul_f64(user_share),
            system: total.mul_f64(1.0 - user_share),
            waited: self.waited.saturating_sub(before.waited),
        }
    }
}

/// CPU time used in a while. The whole is exact; user and system time are shares of it by the
/// kernel's clock ticks.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Used {
    pub(crate) total: Duration,
    pub(crate) user: Duration,
    pub(crate) system: Duration,
    pub(crate) waited: Duration,
}

impl Used {
    /// The same without user time that was spent doing nothing.
    pub(crate) const fn without_idle(self, idle: Duration) -> Self {
        Self {
            total: self.total.saturating_sub(idle),
            user: self.user.saturating_sub(idle),
            ..self
        }
    }
}

/// `utime` and `stime`, fields 14 and 15 of /proc/PID/stat.
fn ticks(stat: &str) -> Option<(u64, u64)> {
    // The name in parentheses may hold anything.
    let (_, fields) = stat.rsplit_once(')')?;
    let mut fields = fields.split_ascii_whitespace().skip(11);
    Some((fields.next()?.parse().ok()?, fields.next()?.parse().ok()?))
}

/// Memory that a process holds, in bytes.
#[derive(Clone, Copy, Debug, Serialize)]
pub(crate) struct Memory {
    /// Its own pages: heap, stacks.
    pub(crate) rss_anon: u64,
    /// The part of them that lies in huge pages, which grow by 2 MiB at a time.
    pub(crate) huge_pages: u64,
    pub(crate) rss: u64,
    pub(crate) rss_peak: u64,
}

impl Memory {
    /// Reads /proc/PID/status, and smaps_rollup for the huge pages.
    pub(crate) fn of(pid: i32) -> io::Result<Self> {
        let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
        let rollup = fs::read_to_string(format!("/proc/{pid}/smaps_rollup"))?;
        let field = |text, name| field(text, name).ok_or_else(|| unreadable(name));
        Ok(Self {
            rss_anon: field(&status, "RssAnon")?,
            huge_pages: field(&rollup, "AnonHugePages")?,
            rss: field(&status, "VmRSS")?,
            rss_peak: field(&status, "VmHWM")?,
        })
    }
}

/// A line of /proc as `Name:   123 kB`, in bytes.
fn field(text: &str, name: &str) -> Option<u64> {
    let value = text
        .lines()
        .find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))?;
    let kib: u64 = value.trim().trim_end_matches(" kB").parse().ok()?;
    Some(kib * 1024)
}

fn unreadable(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("/proc has no {what}"))
}

/// The process that listens at an address of this machine.
///
/// # Errors
/// Says why it can't be told.
pub(crate) fn listening_at(addr: SocketAddr) -> Result<i32, String> {
    if !addr.ip().is_loopback() {
        return Err("the server is not on a loopback address".to_owned());
    }
    let mut inodes = BTreeSet::new();
    for table in ["/proc/net/tcp", "/proc/net/tcp6"] {
        if let Ok(text) = fs::read_to_string(table) {
            inodes.extend(text.lines().filter_map(|line| listening_inode(line, addr)));
        }
    }
    if inodes.is_empty() {
        return Err(format!("no socket listens at {addr}"));
    }
    let mut pids = BTreeSet::new();
    let processes = fs::read_dir("/proc").map_err(|error| format!("/proc: {error}"))?;
    for entry in processes.flatten() {
        let Some(pid) = entry
            .file_name()
            .to_str()
            .and_then(|name| name.parse().ok())
        else {
            continue;
        };
        if holds_any(pid, &inodes) {
            pids.insert(pid);
        }
    }
    match pids.len() {
        1 => Ok(pids.pop_first().unwrap_or_default()),
        0 => Err(format!(
            "the process that listens at {addr} is another user's"
        )),
        n => Err(format!("{n} processes listen at {addr}")),
    }
}

/// The inode of a line of /proc/net/tcp that is a socket listening at `addr` or everywhere.
fn listening_inode(line: &str, addr: SocketAddr) -> Option<u64> {
    let mut fields = line.split_ascii_whitespace();
    let (host, port) = fields.nth(1)?.split_once(':')?;
    let state = fields.nth(1)?;
    let inode = fields.nth(5)?.parse().ok()?;
    let is_everywhere = host.bytes().all(|digit| digit == b'0');
    let fits = is_everywhere || host == hex_of(addr.ip());
    (fits && state == LISTEN && u16::from_str_radix(port, 16) == Ok(addr.port())).then_some(inode)
}

/// As /proc/net/tcp has it: 32-bit words in the machine's order.
fn hex_of(ip: IpAddr) -> String {
    let words = |octets: &[u8]| {
        let (words, _) = octets.as_chunks::<4>();
        let hex = |word: &[u8; 4]| format!("{:08X}", u32::from_ne_bytes(*word));
        words.iter().map(hex).collect()
    };
    match ip {
        IpAddr::V4(ip) => words(&ip.octets()),
        IpAddr::V6(ip) => words(&ip.octets()),
    }
}

const LISTEN: &str = "0A";

fn holds_any(pid: i32, inodes: &BTreeSet<u64>) -> bool {
    let Ok(descriptors) = fs::read_dir(format!("/proc/{pid}/fd")) else {
        return false;
    };
    descriptors.flatten().any(|entry| {
        let target = fs::read_link(entry.path()).ok();
        let inode = target
            .as_ref()
            .and_then(|path| path.to_str()?.strip_prefix("socket:[")?.strip_suffix(']'))
            .and_then(|inode| inode.parse().ok());
        inode.is_some_and(|inode| inodes.contains(&inode))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_process_behind_a_listener_is_found() {
        for addr in ["127.0.0.1:0", "[::1]:0"] {
            let Ok(listener) = std::net::TcpListener::bind(addr) else {
                continue;
            };
            let addr = listener.local_addr().unwrap();
            assert_eq!(listening_at(addr), Ok(std::process::id() as i32));
            drop(listener);
            assert!(listening_at(addr).is_err());
        }
        let elsewhere = "192.0.2.1:80".parse().unwrap();
        assert!(listening_at(elsewhere).unwrap_err().contains("loopback"));
    }

    #[test]
    fn the_clocks_of_this_process_go_on() {
        let before = Cpu::of_self().unwrap();
        let mut work = 0_u64;
        while Cpu::of_self().unwrap().total - before.total < Duration::from_millis(30) {
            work = work.wrapping_add(1);
        }
        let used = Cpu::of_self().unwrap().since(&before);
        assert!(used.total >= Duration::from_millis(30), "{work}");
        assert!((used.user + used.system).abs_diff(used.total) < Duration::from_micros(1));
        assert!(Memory::of(std::process::id() as i32).unwrap().rss_anon > 0);
        assert!(Cpu::of(i32::MAX).is_err());
    }

    #[test]
    fn a_name_with_parentheses_is_passed_over() {
        let stat = "1 (a) b) S 1 2 3 4 5 6 7 8 9 10 41 42 0";
        assert_eq!(ticks(stat), Some((41, 42)));
    }
}
