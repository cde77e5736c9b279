//! L6: what an operator sees first.

use std::{
    fmt::{self, Write as _},
    net::SocketAddr,
};

use super::{cpus::numbers, listen::Address};
use crate::{
    config::{Config, CoreLimits, MachineShare, Mode},
    worker::run::EngineChoice,
};

/// What it is made of.
#[derive(Debug)]
pub(super) struct Banner<'a> {
    pub(super) config: &'a Config,
    pub(super) addresses: &'a [Address],
    pub(super) admin: Option<SocketAddr>,
    pub(super) cpus: &'a [usize],
    /// What decided on them, if it was not the operator alone.
    pub(super) why: Option<&'a str>,
    pub(super) engine: &'a EngineChoice,
    pub(super) descriptors: u64,
    pub(super) share: MachineShare,
}

impl Banner<'_> {
    /// As text for people. Its last line is `ready`.
    pub(super) fn text(&self) -> String {
        let mut text = format!("tidegate {}\n", env!("CARGO_PKG_VERSION"));
        let mut line = |name: &str, value: &dyn fmt::Display| {
            let _ = writeln!(text, "  {name:<11} {value}");
        };
        for address in self.addresses {
            line("listening", &format_args!("{address}/ws"));
        }
        if !self.config.routes.is_empty() {
            line("routes", &self.routes());
        } else if self.config.has_demo()
            && let Some(first) = self.addresses.first()
        {
            let page = if first.is_tls { "https" } else { "http" };
            line("demo", &format_args!("{page}://{}/", first.socket));
            line("echo", &format_args!("{first}/echo"));
        }
        if let Some(admin) = self.admin {
            line("admin", &format_args!("http://{admin}"));
        }
        line("cores", &self.cores());
        line("engine", self.engine);
        line("limits", &format_args!("{} descriptors", self.descriptors));
        for (workers, limits) in self.limits() {
            let connections = limits.connections_max;
            let memory = bytes(limits.memory_budget);
            line(
                "",
                &format_args!("{workers}: {connections} connections, {memory} for clients"),
            );
        }
        text.push_str("  ready\n");
        text
    }

    fn cores(&self) -> String {
        let noun = if self.cpus.len() == 1 {
            "worker"
        } else {
            "workers"
        };
        let mut text = format!("{} ({} {noun}", numbers(self.cpus), self.cpus.len());
        if let Some(why) = self.why {
            let _ = write!(text, ": {why}");
        }
        text.push(')');
        text
    }

    fn routes(&self) -> String {
        let routes = self.config.effective_routes();
        let routes = routes.iter().map(|route| {
            let mode = match route.mode {
                Mode::Rooms => "rooms",
                Mode::Echo => "echo",
            };
            format!("{} ({mode})", route.path)
        });
        routes.collect::<Vec<_>>().join(", ")
    }

    /// The limits of the workers, those with the same ones together.
    fn limits(&self) -> Vec<(String, CoreLimits)> {
        let mut groups: Vec<(Vec<usize>, CoreLimits)> = Vec::new();
        for worker in 0..self.cpus.len() {
            let limits = self.config.core(worker as u16).limits(self.share);
            match groups.iter_mut().find(|(_, known)| *known == limits) {
                Some((workers, _)) => workers.push(worker),
                None => groups.push((vec![worker], limits)),
            }
        }
        let all = groups.len() == 1;
        let named = groups.into_iter().map(|(workers, limits)| {
            let name = if all {
                "each worker".to_owned()
            } else {
                format!("worker {}", numbers(&workers))
            };
            (name, limits)
        });
        named.collect()
    }
}

/// A size for people: the largest unit of which there is at least one, to a tenth.
fn bytes(bytes: usize) -> String {
    if bytes == usize::MAX {
        return "all memory".to_owned();
    }
    for (unit, shift) in [("GiB", 30), ("MiB", 20), ("KiB", 10)] {
        if bytes >> shift > 0 {
            let tenths = (bytes as u128 * 10) >> shift;
            return format!("{}.{} {unit}", tenths / 10, tenths % 10);
        }
    }
    format!("{bytes} B")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        config::{CoreFile, EngineKind},
        worker::run::choose_engine,
    };

    #[test]
    fn sizes_are_for_people() {
        for (size, text) in [
            (0, "0 B"),
            (1023, "1023 B"),
            (1024, "1.0 KiB"),
            (1_572_864, "1.5 MiB"),
            (6 << 30, "6.0 GiB"),
            (usize::MAX - 1, "17179869183.9 GiB"),
            (usize::MAX, "all memory"),
        ] {
            assert_eq!(bytes(size), text);
        }
    }

    #[test]
    fn it_tells_what_was_decided() {
        let mut config = Config::default();
        let own = CoreFile {
            connections_max: Some(5),
            ..CoreFile::default()
        };
        config.cores.insert(1, own);
        let address = |socket: &str, is_tls| Address {
            socket: socket.parse().unwrap(),
            is_tls,
        };
        let addresses = [address("127.0.0.1:1", false), address("[::1]:2", true)];
        let banner = Banner {
            config: &config,
            addresses: &addresses,
            admin: None,
            cpus: &[0, 3, 4],
            why: Some("3 of 8 because of the CPU quota of 2.5"),
            engine: &choose_engine(EngineKind::Epoll).unwrap(),
            descriptors: 4096,
            share: MachineShare {
                connections: 1000,
                memory_bytes: 1 << 30,
            },
        };
        let text = banner.text();
        for line in [
            "  listening   ws://127.0.0.1:1/ws\n  listening   wss://[::1]:2/ws\n",
            "  cores       0,3,4 (3 workers: 3 of 8 because of the CPU quota of 2.5)\n",
            "  limits      4096 descriptors\n",
            "              worker 0,2: 1000 connections, 1.0 GiB for clients\n",
            "              worker 1: 5 connections, 1.0 GiB for clients\n",
        ] {
            assert!(text.contains(line), "{line:?} not in {text}");
        }
        assert!(text.ends_with("  ready\n"), "{text}");
    }
}
