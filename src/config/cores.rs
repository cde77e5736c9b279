//! `cores/<n>.toml`: what one worker does differently.

use std::net::SocketAddr;

use super::{ByteSize, Config, Engine, EngineKind, Listen, Span, schema::table};

table! {
    /// One worker's file. What is given replaces what the main file says for all.
    #[derive(Clone, Debug, Default, PartialEq)]
    pub struct CoreFile {
        /// The processor it runs on, in place of its share of `server.cores`.
        pub cpu: Option<u32> = Restart;
        /// Where it accepts connections, in place of `server.listen`.
        pub listen: Option<Listen> = Restart replaces "server.listen";
        /// Where it accepts encrypted connections, in place of `tls.listen`.
        pub tls_listen: Option<Listen> = Restart replaces "tls.listen";
        /// The paths of the routes that it serves, in place of all.
        pub routes: Option<Vec<String>> = New;
        /// In place of `server.backlog`.
        pub backlog: Option<u32> = Restart replaces "server.backlog";
        /// In place of `engine.kind`.
        pub engine: Option<EngineKind> = Restart replaces "engine.kind";
        /// In place of `engine.ring_entries`.
        pub ring_entries: Option<u32> = Restart replaces "engine.ring_entries";
        /// In place of `engine.cq_entries`.
        pub cq_entries: Option<u32> = Restart replaces "engine.cq_entries";
        /// In place of `engine.recv_buffers`.
        pub recv_buffers: Option<u16> = Restart replaces "engine.recv_buffers";
        /// In place of `engine.recv_buffer_bytes`.
        pub recv_buffer_bytes: Option<ByteSize> = Restart replaces "engine.recv_buffer_bytes";
        /// In place of `engine.accept_batch`.
        pub accept_batch: Option<u32> = Restart replaces "engine.accept_batch";
        /// In place of `engine.busy_poll`.
        pub busy_poll: Option<Span> = Restart replaces "engine.busy_poll";
        /// In place of `engine.coalesce`.
        pub coalesce: Option<ByteSize> = Restart replaces "engine.coalesce";
        /// In place of `limits.connections_max`.
        pub connections_max: Option<u32> = New replaces "limits.connections_max";
        /// In place of `limits.handshakes_inflight_max`.
        pub handshakes_inflight_max: Option<u32> = New replaces "limits.handshakes_inflight_max";
        /// In place of `limits.memory_budget`.
        pub memory_budget: Option<ByteSize> = Open replaces "limits.memory_budget";
    }
}

impl CoreFile {
    /// Forgets what stands in place of `main`, a key of the main sections; gives the names of
    /// the keys forgotten.
    pub(super) fn forget(&mut self, main: &str) -> Option<&'static str> {
        match main {
            "server.listen" => self.listen.take().map(|_| "listen"),
            "tls.listen" => self.tls_listen.take().map(|_| "tls_listen"),
            "server.backlog" => self.backlog.take().map(|_| "backlog"),
            "engine.kind" => self.engine.take().map(|_| "engine"),
            "engine.ring_entries" => self.ring_entries.take().map(|_| "ring_entries"),
            "engine.cq_entries" => self.cq_entries.take().map(|_| "cq_entries"),
            "engine.recv_buffers" => self.recv_buffers.take().map(|_| "recv_buffers"),
            "engine.recv_buffer_bytes" => {
                self.recv_buffer_bytes.take().map(|_| "recv_buffer_bytes")
            }
            "engine.accept_batch" => self.accept_batch.take().map(|_| "accept_batch"),
            "engine.busy_poll" => self.busy_poll.take().map(|_| "busy_poll"),
            "engine.coalesce" => self.coalesce.take().map(|_| "coalesce"),
            "limits.connections_max" => self.connections_max.take().map(|_| "connections_max"),
            "limits.handshakes_inflight_max" => self
                .handshakes_inflight_max
                .take()
                .map(|_| "handshakes_inflight_max"),
            "limits.memory_budget" => self.memory_budget.take().map(|_| "memory_budget"),
            _ => None,
        }
    }
}

/// What holds for one worker.
#[derive(Clone, Debug, PartialEq)]
pub struct CoreConfig {
    /// Its processor, if its file names one.
    pub cpu: Option<u32>,
    /// Where it accepts connections.
    pub listen: Vec<SocketAddr>,
    /// Where it accepts encrypted connections.
    pub tls_listen: Vec<SocketAddr>,
    /// The paths of the routes that it serves; none is all.
    pub routes: Option<Vec<String>>,
    /// Connections that the kernel queues for it.
    pub backlog: u32,
    /// Its engine.
    pub engine: Engine,
    /// Its connections; none takes what the machine allows.
    pub connections_max: Option<u32>,
    /// Its connections whose request is not complete.
    pub handshakes_inflight_max: u32,
    /// Bytes that its clients may take; none takes a share of the machine's.
    pub memory_budget: Option<ByteSize>,
}

/// What the machine has for one worker, for what is not configured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MachineShare {
    /// Connections that its part of the descriptors allows.
    pub connections: u32,
    /// Its part of the memory, in bytes.
    pub memory_bytes: usize,
}

/// What one worker may take on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CoreLimits {
    /// Connections.
    pub connections_max: u32,
    /// Connections whose request is not complete.
    pub handshakes_inflight_max: u32,
    /// Bytes that its clients may take.
    pub memory_budget: usize,
}

impl CoreConfig {
    /// Its limits, where `machine` decides what nobody has set.
    pub fn limits(&self, machine: MachineShare) -> CoreLimits {
        CoreLimits {
            connections_max: self.connections_max.unwrap_or(machine.connections),
            handshakes_inflight_max: self.handshakes_inflight_max,
            memory_budget: self
                .memory_budget
                .map_or(machine.memory_bytes, |size| size.0),
        }
    }
}

impl Config {
    /// What holds for worker `core`.
    pub fn core(&self, core: u16) -> CoreConfig {
        let none = CoreFile::default();
        let own = self.cores.get(&core).unwrap_or(&none);
        let engine = &self.engine;
        CoreConfig {
            cpu: own.cpu,
            listen: own.listen.as_ref().unwrap_or(&self.server.listen).0.clone(),
            tls_listen: own
                .tls_listen
                .as_ref()
                .unwrap_or(&self.tls.listen)
                .0
                .clone(),
            routes: own.routes.clone(),
            backlog: own.backlog.unwrap_or(self.server.backlog),
            engine: Engine {
                kind: own.engine.unwrap_or(engine.kind),
                ring_entries: own.ring_entries.unwrap_or(engine.ring_entries),
                cq_entries: own.cq_entries.unwrap_or(engine.cq_entries),
                recv_buffers: own.recv_buffers.unwrap_or(engine.recv_buffers),
                recv_buffer_bytes: own.recv_buffer_bytes.unwrap_or(engine.recv_buffer_bytes),
                accept_batch: own.accept_batch.unwrap_or(engine.accept_batch),
                busy_poll: own.busy_poll.unwrap_or(engine.busy_poll),
                coalesce: own.coalesce.unwrap_or(engine.coalesce),
            },
            connections_max: own.connections_max.or(self.limits.connections_max),
            handshakes_inflight_max: own
                .handshakes_inflight_max
                .unwrap_or(self.limits.handshakes_inflight_max),
            memory_budget: own.memory_budget.or(self.limits.memory_budget),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_core_sets_apart_only_what_its_file_names() {
        let mut config = Config::default();
        let own = CoreFile {
            recv_buffers: Some(8),
            connections_max: Some(5),
            ..CoreFile::default()
        };
        config.cores.insert(1, own);
        let core = config.core(1);
        assert_eq!(
            (core.engine.recv_buffers, core.connections_max),
            (8, Some(5))
        );
        assert_eq!(core.engine.ring_entries, config.engine.ring_entries);
        assert_eq!(config.core(0).engine, config.engine);
    }
}
