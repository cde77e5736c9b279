//! A gateway under attack: beside the attackers an honest client, and what the gateway took meanwhile.
//!
//! What is asserted is memory, counters and processor time for what the attackers sent. The honest
//! client must be answered, however long that takes: its times are told, not judged.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use super::{
    Counters, Server, cores,
    raw::{FIN, PING, PONG, Raw, TEXT, frame},
    rss_bytes,
};

/// Between two messages of the honest client.
const PAUSE: Duration = Duration::from_millis(20);

/// A gateway on one core with the rates that it has by default, and its honest client.
pub(crate) struct Siege {
    pub(crate) server: Server,
    honest: Honest,
    before: Counters,
    cpu_before: Duration,
    rss_before: u64,
    started: Instant,
}

/// What an attack has cost.
#[derive(Debug)]
pub(crate) struct Toll {
    /// Processor time of the gateway.
    pub(crate) cpu: Duration,
    /// Resident memory before, its highest and after, in bytes.
    pub(crate) rss_before: u64,
    pub(crate) rss_peak: u64,
    pub(crate) rss_after: u64,
    /// Bytes that were received.
    pub(crate) bytes_in: u64,
    before: Counters,
    after: Counters,
}

impl Siege {
    /// With these settings, as `limits.message_timeout=1s`.
    pub(crate) fn begin(settings: &[&str]) -> Self {
        let core = cores(1);
        let mut args = vec!["--demo", "--cores", &core];
        let rates = [
            "limits.messages_per_second=100",
            "limits.bytes_per_second=1MiB",
            "limits.control_frames_per_second=20",
        ];
        for setting in rates.iter().chain(settings) {
            args.extend_from_slice(&["--set", setting]);
        }
        Self::around(Server::start(&args))
    }

    /// Around a gateway that runs.
    pub(crate) fn around(server: Server) -> Self {
        let honest = Honest::begin(server.addr, server.pid());
        // It has come in, so whatever a first client makes is made.
        Self {
            before: server.counters(),
            cpu_before: server.cpu_time(),
            rss_before: server.rss_bytes(),
            started: Instant::now(),
            server,
            honest,
        }
    }

    /// How much a counter has grown since the beginning.
    pub(crate) fn grown(&self, name: &str) -> u64 {
        self.server.counters().total(name) - self.before.total(name)
    }

    /// Waits until a counter has grown by `wanted`.
    pub(crate) fn wait_grown(&self, name: &str, wanted: u64) {
        let before = self.before.total(name);
        self.server
            .wait_blocking(&format!("{name} grown by {wanted}"), |now| {
                now.total(name) >= before + wanted
            });
    }

    /// The attackers are gone, or about to be: waits for that, and says what they have cost.
    pub(crate) fn end(self, what: &str, attackers: usize) -> Toll {
        self.server
            .wait_blocking("only the honest client is left", |now| {
                now.total("connections_open") == 1 && now.total("slots_open") == 1
            });
        let took = self.started.elapsed();
        let (mut times, rss_peak) = self.honest.end();
        let after = self.server.counters();
        let toll = Toll {
            cpu: self.server.cpu_time() - self.cpu_before,
            rss_before: self.rss_before,
            rss_peak,
            rss_after: self.server.rss_bytes(),
            bytes_in: after.total("bytes_in_total") - self.before.total("bytes_in_total"),
            before: self.before,
            after,
        };
        times.sort_unstable();
        let at = |percent: usize| times[(times.len() - 1) * percent / 100];
        eprintln!(
            "{what}: {attackers} attackers, {took:.1?}, {} KiB received\n  \
             memory {} KiB before, {} at most, {} after\n  \
             processor {:?}: {:.1} ns per byte received, {:.1} % of a core\n  \
             honest client: {} exchanges, p50 {:?}, p99 {:?}, most {:?}",
            toll.bytes_in >> 10,
            toll.rss_before >> 10,
            toll.rss_peak >> 10,
            toll.rss_after >> 10,
            toll.cpu,
            toll.nanos_per_byte(),
            toll.cpu.as_secs_f64() / took.as_secs_f64() * 100.0,
            times.len(),
            at(50),
            at(99),
            at(100),
        );
        for name in ["panics_total", "missed_wakes_total"] {
            assert_eq!(toll.after.total(name), 0, "{name}");
        }
        toll
    }
}

impl Toll {
    /// How much a counter has grown.
    pub(crate) fn grown(&self, name: &str) -> u64 {
        self.after.total(name) - self.before.total(name)
    }

    /// By how much resident memory has grown at most.
    pub(crate) fn growth(&self) -> u64 {
        self.rss_peak.saturating_sub(self.rss_before)
    }

    /// Processor time for each byte received.
    pub(crate) fn nanos_per_byte(&self) -> f64 {
        self.cpu.as_nanos() as f64 / self.bytes_in.max(1) as f64
    }
}

/// Publishes to a room of its own and reads what comes back, over and over.
struct Honest {
    is_over: Arc<AtomicBool>,
    thread: JoinHandle<(Vec<Duration>, u64)>,
}

impl Honest {
    fn begin(addr: SocketAddr, pid: u32) -> Self {
        let mut raw = Raw::upgraded(addr, "/ws?user=honest");
        assert!(text(&mut raw).contains("\"connected\""));
        command(&mut raw, r#"{"type":"join","room":"honest","id":"j"}"#);
        assert!(text(&mut raw).contains("\"ok\""));
        let is_over = Arc::new(AtomicBool::new(false));
        let flag = Arc::clone(&is_over);
        let thread = thread::spawn(move || {
            let (mut times, mut rss_peak) = (Vec::new(), 0);
            loop {
                let started = Instant::now();
                let publish = r#"{"type":"publish","room":"honest","data":"still here","id":"p"}"#;
                command(&mut raw, publish);
                assert!(text(&mut raw).contains("still here"));
                assert!(text(&mut raw).contains("\"ok\""));
                times.push(started.elapsed());
                rss_peak = rss_peak.max(rss_bytes(pid));
                if flag.load(Ordering::Relaxed) {
                    return (times, rss_peak);
                }
                thread::park_timeout(PAUSE);
            }
        });
        Self { is_over, thread }
    }

    fn end(self) -> (Vec<Duration>, u64) {
        self.is_over.store(true, Ordering::Relaxed);
        self.thread.thread().unpark();
        self.thread.join().expect("the honest client was served")
    }
}

/// Sends a command.
pub(crate) fn command(raw: &mut Raw, text: &str) {
    raw.send(&frame(FIN | TEXT, text.as_bytes()));
}

/// The next text; pings before it are answered.
pub(crate) fn text(raw: &mut Raw) -> String {
    loop {
        let next = raw.expect_frame();
        match next.first {
            PINGED => raw.send(&frame(FIN | PONG, &next.payload)),
            _ => {
                assert_eq!(next.first, FIN | TEXT, "{next:?}");
                return String::from_utf8(next.payload).expect("text is UTF-8");
            }
        }
    }
}

/// The code of the close frame that comes after whatever else does; none where the connection ends
/// without one.
pub(crate) fn close_code(raw: &mut Raw) -> Option<u16> {
    while let Some(next) = raw.frame() {
        if let Some((code, _)) = next.close() {
            return Some(code);
        }
    }
    None
}

/// A client that has been told `connected`.
pub(crate) fn client(addr: SocketAddr) -> Raw {
    let mut raw = Raw::upgraded(addr, "/ws");
    assert!(text(&mut raw).contains("\"connected\""));
    raw
}

const PINGED: u8 = FIN | PING;
