//! Every tunable number's default, in one place.

use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr},
    time::Duration,
};

use super::{ByteSize, Engine, Limits, Log, LogFormat, PublishBy, Rooms, Server, Span};

const KIB: usize = 1024;
const MIB: usize = 1024 * KIB;

impl Default for Server {
    fn default() -> Self {
        Self {
            listen: SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 8080),
            cores: "all".to_owned(),
            node: String::new(),
            backlog: 4096,
            demo: false,
        }
    }
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            message_bytes_max: ByteSize(64 * KIB),
            buffered_bytes_high: ByteSize(MIB),
            buffered_bytes_low: ByteSize(256 * KIB),
            buffered_time_max: Span(Duration::from_secs(10)),
            rooms_per_client: 100,
            room_members_max: 100_000,
            handshake_timeout: Span(Duration::from_secs(10)),
            head_bytes_max: ByteSize(16 * KIB),
            headers_max: 64,
            target_bytes_max: ByteSize(8 * KIB),
            ping_interval: Span(Duration::from_secs(25)),
            pong_timeout: Span(Duration::from_secs(10)),
        }
    }
}

impl Default for Rooms {
    fn default() -> Self {
        Self {
            all_publish_by: PublishBy::Nobody,
            announce_members_max: 1000,
        }
    }
}

impl Default for Engine {
    fn default() -> Self {
        // 64 × 16 KiB stays in the L2 cache: the kernel uses the buffers round robin, so the
        // whole ring is the footprint.
        Self {
            ring_entries: 1024,
            cq_entries: 8192,
            recv_buffers: 64,
            recv_buffer_bytes: ByteSize(16 * KIB),
        }
    }
}

impl Default for Log {
    fn default() -> Self {
        Self {
            format: LogFormat::Text,
            level: "info".to_owned(),
        }
    }
}
