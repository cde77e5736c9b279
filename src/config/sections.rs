//! The sections of the main file, but for rooms and routes.

use std::net::SocketAddr;

use ipnet::IpNet;
use serde::Deserialize;

use super::{ByteSize, Span, schema::table};

const KIB: u64 = 1024;
const MIB: u64 = 1024 * KIB;
const GIB: u64 = 1024 * MIB;
const MILLISECOND: u64 = 1_000;
const SECOND: u64 = 1_000 * MILLISECOND;
const YEAR: u64 = 365 * 86_400 * SECOND;
const MONTH: u64 = 30 * 86_400 * SECOND;

table! {
    /// `[server]`
    #[derive(Clone, Debug, PartialEq)]
    pub struct Server {
        /// Where clients connect.
        pub listen: Listen = Restart;
        /// The processors to use, as `"0-3,6"`; `"all"` is every one that the process may use.
        pub cores: String = Restart;
        /// The node's name in `connected`; empty takes the host's name.
        pub node: String = Restart;
        /// Networks of balancers whose connections begin with a PROXY header.
        pub proxy_protocol: Vec<IpNet> = New;
        /// What names the client of a request from `trusted_proxies`.
        pub client_address: ClientAddress = New;
        /// Networks of proxies that are believed when they say whom a request is from.
        pub trusted_proxies: Vec<IpNet> = New;
        /// Connections that the kernel queues per core before they are accepted.
        pub backlog: u32 = Restart in 1 => 65_535;
        /// Whether the demo page and `/echo` are served.
        pub demo: bool = New;
        /// Whether a change of the configuration's files is taken up without being asked.
        pub reload_on_change: bool = Restart;
    }
}

/// Addresses to listen at: one, or a list.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(from = "OneOrMany")]
pub struct Listen(pub Vec<SocketAddr>);

#[derive(Deserialize)]
#[serde(
    untagged,
    expecting = "an address and port such as \"0.0.0.0:8080\", or a list of them"
)]
enum OneOrMany {
    One(SocketAddr),
    Many(Vec<SocketAddr>),
}

impl From<OneOrMany> for Listen {
    fn from(listen: OneOrMany) -> Self {
        match listen {
            OneOrMany::One(address) => Self(vec![address]),
            OneOrMany::Many(addresses) => Self(addresses),
        }
    }
}

/// What names the client of a request.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ClientAddress {
    /// The connection: its other end, or whom its PROXY header names.
    #[default]
    Peer,
    /// The `Forwarded` header (RFC 7239).
    Forwarded,
    /// The `X-Forwarded-For` header.
    XForwardedFor,
}

table! {
    /// `[limits]` (protocol §7). A rate or a number of 0 is no limit where that is said.
    #[derive(Clone, Debug, PartialEq)]
    pub struct Limits {
        /// Longest message from a client; judged from its header.
        pub message_bytes_max: ByteSize = New in 1 => GIB;
        /// How long a message may take without being finished or getting on; 0 is for ever.
        pub message_timeout: Span = Open in 0 => YEAR;
        /// Messages that a client may send each second; 0 is no limit.
        pub messages_per_second: u32 = Open;
        /// Messages that it may send at once after a silence.
        pub messages_burst: u32 = Open in 1 => u64::MAX;
        /// Messages refused within 10 s after which it is closed.
        pub rate_breaches_max: u32 = Open in 1 => u64::MAX;
        /// Bytes that a client may send each second before reading pauses; 0 is no limit.
        pub bytes_per_second: ByteSize = Open;
        /// Bytes that it may send at once after a silence.
        pub bytes_burst: ByteSize = Open in KIB => u64::MAX;
        /// Pings and pongs that a client may send each second; 0 is no limit.
        pub control_frames_per_second: u32 = Open;
        /// Bytes queued for a client at which its rooms' `slow_client` decides.
        pub buffered_bytes_high: ByteSize = Open in 4 * KIB => u64::MAX;
        /// Bytes queued for a client below which it counts as keeping up again.
        pub buffered_bytes_low: ByteSize = Open;
        /// How long a client may stay above `buffered_bytes_high`, or a send make no progress.
        pub buffered_time_max: Span = Open in MILLISECOND => YEAR;
        /// Rooms that one client may be in.
        pub rooms_per_client: u32 = Open in 1 => u64::MAX;
        /// Members that one room may have.
        pub room_members_max: u32 = Open in 1 => u64::MAX;
        /// How long a request head may take to arrive.
        pub handshake_timeout: Span = New in MILLISECOND => YEAR;
        /// Longest request head.
        pub head_bytes_max: ByteSize = New in 256 => MIB;
        /// Most header fields of a request.
        pub headers_max: u32 = New in 1 => 1024;
        /// Longest request target.
        pub target_bytes_max: ByteSize = New in 1 => MIB;
        /// A client that sent nothing for so long is pinged.
        pub ping_interval: Span = Open in MILLISECOND => YEAR;
        /// How long a pinged client may take to send anything.
        pub pong_timeout: Span = Open in MILLISECOND => MONTH;
        /// How long a connection may last; 0 is for ever.
        pub connection_lifetime: Span = New in 0 => YEAR;
        /// Connections from one address (IPv4) or one /64 (IPv6); 0 is no limit.
        pub connections_per_ip: u32 = New;
        /// New connections from one address or /64 each second; 0 is no limit.
        pub handshakes_per_ip_per_second: u32 = New;
        /// Networks whose addresses are not counted: proxies that stand for many clients.
        pub ip_exempt: Vec<IpNet> = New;
        /// Connections of one core; unset takes what its share of the descriptors allows.
        pub connections_max: Option<u32> = New in 1 => u64::MAX;
        /// Connections of one core whose request is not complete.
        pub handshakes_inflight_max: u32 = New in 1 => u64::MAX;
        /// Bytes of memory that one core's clients may take; unset takes a share of the machine's.
        pub memory_budget: Option<ByteSize> = Open in 64 * KIB => u64::MAX;
    }
}

/// Who may publish to `@all`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum AllPublishBy {
    /// No client.
    Nobody,
    /// Every client.
    Anyone,
}

/// Which engine talks to the kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum EngineKind {
    /// io_uring where the system allows it, else epoll.
    Auto,
    /// io_uring, or no start.
    Uring,
    /// epoll.
    Epoll,
}

table! {
    /// `[engine]`
    #[derive(Clone, Debug, PartialEq)]
    pub struct Engine {
        /// Which one.
        pub kind: EngineKind = Restart;
        /// Submission entries of each core's ring.
        pub ring_entries: u32 = Restart in 8 => 32_768;
        /// Completion entries of each core's ring.
        pub cq_entries: u32 = Restart in 8 => 65_536;
        /// Receive buffers shared by a core's connections; a power of two.
        pub recv_buffers: u16 = Restart in 1 => 32_768;
        /// Bytes of each.
        pub recv_buffer_bytes: ByteSize = Restart in KIB => MIB;
        /// New connections that a core takes up in one turn.
        pub accept_batch: u32 = Restart in 1 => 65_536;
        /// How long an idle core goes on looking before it waits; 0 waits at once.
        pub busy_poll: Span = Restart in 0 => SECOND;
        /// A frame up to this length is copied behind others; a longer one goes by reference.
        pub coalesce: ByteSize = Restart in 0 => MIB;
    }
}

table! {
    /// `[drain]`
    #[derive(Clone, Debug, PartialEq)]
    pub struct Drain {
        /// Over how long the closes are spread.
        pub window: Span = Open in 0 => YEAR;
        /// When everything still open is cut; from the signal.
        pub deadline: Span = Open in MILLISECOND => YEAR;
        /// How long before its close a client is told of it.
        pub notice: Span = Open in 0 => YEAR;
        /// Most closes per second of one core; 0 is no limit but the window.
        pub closes_per_second_max: u32 = Open;
        /// Clients are told to come back after 1 s up to this.
        pub retry_after_max: Span = Open in SECOND => YEAR;
        /// Whether the node stops for good: clients are told 1001 and not when to come back.
        pub is_final as "final": bool = Open;
    }
}

table! {
    /// `[deflate]`: messages compressed one by one (RFC 7692).
    #[derive(Clone, Debug, PartialEq)]
    pub struct Deflate {
        /// Whether it is agreed on with clients that offer it.
        pub enabled: bool = New;
        /// Shorter messages to clients go as they are.
        pub message_bytes_min: ByteSize = Open in 1 => GIB;
        /// Whether binary messages to clients are compressed too.
        pub binary: bool = Open;
        /// zlib's level.
        pub level: u16 = Restart in 1 => 9;
        /// The largest window, as a power of two.
        pub window_bits: u16 = Restart in 9 => 15;
        /// zlib's memory level.
        pub mem_level: u16 = Restart in 1 => 9;
        /// Whether what was sent to a client is kept to compress what follows.
        pub server_context_takeover: bool = New;
        /// Whether what a client has sent is kept so that it may do the same.
        pub client_context_takeover: bool = New;
        /// Most bytes that both together may keep for one connection.
        pub takeover_bytes_per_connection: ByteSize = New;
        /// Most bytes that both together may keep for all connections of a core.
        pub takeover_bytes_per_core: ByteSize = New;
    }
}

/// How log lines are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// For people.
    Text,
    /// One JSON object a line.
    Json,
}

table! {
    /// `[log]`
    #[derive(Clone, Debug, PartialEq)]
    pub struct Log {
        /// How lines are written.
        pub format: LogFormat = Restart;
        /// What is written: `error`, `warn`, `info`, `debug`, or a `tracing` filter.
        pub level: String = Restart;
    }
}

table! {
    /// `[admin]`
    #[derive(Clone, Debug, Default, PartialEq)]
    pub struct Admin {
        /// Where the operator's interface listens; nowhere if unset.
        pub listen: Option<SocketAddr> = Restart;
    }
}
