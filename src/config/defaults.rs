//! Every tunable number's default, in one place.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    time::Duration,
};

use ipnet::IpNet;

use super::{
    AllPublishBy, ByteSize, ClientAddress, ClientAuth, ClientUser, Deflate, Delivery, Drain,
    Engine, EngineKind, Limits, Listen, Log, LogFormat, PublishBy, Rooms, Server, SlowClient, Span,
    Tls, TlsVersion,
};

const KIB: usize = 1024;
const MIB: usize = 1024 * KIB;

const fn seconds(seconds: u64) -> Span {
    Span(Duration::from_secs(seconds))
}

impl Default for Server {
    fn default() -> Self {
        Self {
            listen: Listen(vec![SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 8080)]),
            cores: "all".to_owned(),
            node: String::new(),
            proxy_protocol: Vec::new(),
            client_address: ClientAddress::Peer,
            trusted_proxies: Vec::new(),
            backlog: 4096,
            demo: false,
            reload_on_change: true,
        }
    }
}

impl Default for Tls {
    fn default() -> Self {
        Self {
            listen: Listen(Vec::new()),
            min_version: TlsVersion::V12,
            handshake_timeout: seconds(5),
            // A client that was cut off comes back within minutes.
            ticket_lifetime: seconds(2 * 3600),
            buffered: false,
            client_auth: ClientAuth::None,
            client_ca: None,
            client_user: ClientUser::None,
            certificates: Vec::new(),
        }
    }
}

impl Default for Limits {
    fn default() -> Self {
        let loopback = [
            (IpAddr::V4(Ipv4Addr::new(127, 0, 0, 0)), 8),
            (IpAddr::V6(Ipv6Addr::LOCALHOST), 128),
        ];
        Self {
            message_bytes_max: ByteSize(64 * KIB),
            message_timeout: seconds(60),
            messages_per_second: 100,
            messages_burst: 200,
            rate_breaches_max: 10,
            bytes_per_second: ByteSize(MIB),
            bytes_burst: ByteSize(2 * MIB),
            control_frames_per_second: 20,
            buffered_bytes_high: ByteSize(MIB),
            buffered_bytes_low: ByteSize(256 * KIB),
            buffered_time_max: seconds(10),
            rooms_per_client: 100,
            room_members_max: 100_000,
            handshake_timeout: seconds(10),
            head_bytes_max: ByteSize(16 * KIB),
            headers_max: 64,
            target_bytes_max: ByteSize(8 * KIB),
            ping_interval: seconds(25),
            pong_timeout: seconds(10),
            connection_lifetime: seconds(0),
            connections_per_ip: 1000,
            handshakes_per_ip_per_second: 100,
            // A proxy on the same machine stands for many clients.
            ip_exempt: loopback
                .into_iter()
                .filter_map(|(address, prefix)| IpNet::new(address, prefix).ok())
                .collect(),
            connections_max: None,
            handshakes_inflight_max: 4096,
            memory_budget: None,
        }
    }
}

impl Default for Rooms {
    fn default() -> Self {
        Self {
            all_publish_by: AllPublishBy::Nobody,
            announce_members_max: 1000,
            publish_by: PublishBy::Members,
            slow_client: SlowClient::Evict,
            coalesce_ms: 0,
            delivery: Delivery::AtMostOnce,
            matches: Vec::new(),
        }
    }
}

impl Default for Engine {
    fn default() -> Self {
        // 64 × 16 KiB stays in the L2 cache: the kernel uses the buffers round robin, so the
        // whole ring is the footprint.
        Self {
            kind: EngineKind::Auto,
            ring_entries: 1024,
            cq_entries: 8192,
            recv_buffers: 16,
            recv_buffer_bytes: ByteSize(64 * KIB),
            accept_batch: 256,
            busy_poll: seconds(0),
            coalesce: ByteSize(KIB),
        }
    }
}

impl Default for Deflate {
    fn default() -> Self {
        Self {
            enabled: true,
            message_bytes_min: ByteSize(KIB),
            binary: false,
            level: 6,
            window_bits: 15,
            mem_level: 8,
            server_context_takeover: false,
            client_context_takeover: false,
            takeover_bytes_per_connection: ByteSize(320 * KIB),
            takeover_bytes_per_core: ByteSize(64 * MIB),
        }
    }
}

impl Default for Drain {
    fn default() -> Self {
        // Together below the 30 s that Kubernetes and others give by default.
        Self {
            window: seconds(15),
            deadline: seconds(25),
            notice: seconds(1),
            closes_per_second_max: 0,
            retry_after_max: seconds(10),
            is_final: false,
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
