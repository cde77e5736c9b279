//! The figures of a run: as JSON, and as a table for people.

use std::{fmt::Write as _, time::Duration};

use hdrhistogram::Histogram;
use serde::Serialize;

use super::{
    args::{Mode, Settings},
    crowd::End,
    inflated::DeflateFigures,
    process::{Memory, Used},
    tally::Faults,
    tls::TlsFigures,
};

/// All that a run has found out. Fields without a meaning in a mode are absent.
#[derive(Debug, Serialize)]
pub(crate) struct Report {
    version: u32,
    mode: Mode,
    url: String,
    settings: Settings,
    /// How input and output were done.
    engine: &'static str,
    pub(crate) server: ServerFigures,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) messages: Option<Messages>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) publishes: Option<Publishes>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) connections: Option<Connections>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) latency_us: Option<Latency>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) slow: Option<Slow>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) tls: Option<TlsFigures>,
    /// Deliveries that came compressed in the measured time.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) deflate: Option<DeflateFigures>,
    pub(crate) generator: GeneratorFigures,
    pub(crate) faults: Faults,
    pub(crate) notes: Vec<String>,
}

/// What the run cost the server.
#[derive(Debug, Default, Serialize)]
pub(crate) struct ServerFigures {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) pid: Option<i32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) cpu_us_per_message: Option<CpuFigure>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) cpu_us_per_connection: Option<CpuFigure>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) user_bytes_per_connection: Option<f64>,
    /// Cores used, of which 1 is a whole one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) cpu_share: Option<f64>,
    /// Time for which its threads could run and others ran, by the measured time.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) waited_share: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) memory: Option<Memory>,
    /// Memory before the connections were opened.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) memory_before: Option<Memory>,
    /// Connections that were ready, and `rss_anon` then.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(crate) growth: Vec<(u32, u64)>,
}

/// Microseconds of CPU time.
#[derive(Clone, Copy, Debug, Serialize)]
pub(crate) struct CpuFigure {
    pub(crate) total: f64,
    pub(crate) user: f64,
    pub(crate) system: f64,
}

/// Messages of the measured time; deliveries in fanout and slow.
#[derive(Clone, Copy, Debug, Serialize)]
pub(crate) struct Messages {
    pub(crate) sent: u64,
    pub(crate) received: u64,
    pub(crate) per_second: f64,
}

/// Publishes of the measured time.
#[derive(Clone, Copy, Debug, Serialize)]
pub(crate) struct Publishes {
    pub(crate) sent: u64,
    pub(crate) per_second: f64,
}

/// Connections that were opened; in `connect` those of the measured time.
#[derive(Clone, Copy, Debug, Serialize)]
pub(crate) struct Connections {
    pub(crate) opened: u64,
    pub(crate) per_second: f64,
}

/// How long messages took, in microseconds.
#[derive(Clone, Copy, Debug, Serialize)]
pub(crate) struct Latency {
    p50: f64,
    p90: f64,
    pub(crate) p99: f64,
    p999: f64,
    max: f64,
    mean: f64,
    #[serde(rename = "loop")]
    kind: &'static str,
}

/// What became of the members that did not read.
#[derive(Clone, Debug, Default, Serialize)]
pub(crate) struct Slow {
    pub(crate) members: u32,
    /// Those that the server ended.
    pub(crate) evicted: u32,
    /// By a close frame of this code.
    pub(crate) close_codes: std::collections::BTreeMap<u16, u32>,
    /// By a reset, without a close frame.
    pub(crate) reset: u32,
    pub(crate) still_connected: u32,
    /// How long after they stopped reading the first and the last of them were ended.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) evicted_after_ms: Option<Span>,
    /// Deliveries that they got after all.
    pub(crate) received: u64,
    /// Deliveries that they did not get.
    pub(crate) missed: u64,
    /// Messages that told of a gap.
    pub(crate) gaps: u64,
}

/// From the first to the last.
#[derive(Clone, Copy, Debug, Serialize)]
pub(crate) struct Span {
    pub(crate) first: f64,
    pub(crate) last: f64,
}

/// What the run cost the generator.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub(crate) struct GeneratorFigures {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) cpu_us_per_message: Option<f64>,
    /// CPU time by the measured time.
    pub(crate) busy: f64,
    /// How much later than due messages were sent, at the 99th percentile (open loop).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) late_us_p99: Option<f64>,
    /// Arrivals that found no receive buffer at once.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) buffer_waits: Option<u64>,
}

impl Report {
    /// A report without figures yet.
    pub(crate) fn new(settings: &Settings, engine: &'static str, pid: Option<i32>) -> Self {
        Self {
            version: 1,
            mode: settings.mode,
            url: settings.target.url().to_owned(),
            settings: settings.clone(),
            engine,
            server: ServerFigures {
                pid,
                ..ServerFigures::default()
            },
            messages: None,
            publishes: None,
            connections: None,
            latency_us: None,
            slow: None,
            tls: None,
            deflate: None,
            generator: GeneratorFigures::default(),
            faults: Faults::default(),
            notes: Vec::new(),
        }
    }

    /// Tells how the first connections ended.
    pub(crate) fn note_ends(&mut self, ends: &[(u32, End)]) {
        let told = ends.iter().take(ENDS_TOLD_MAX);
        let told = told.map(|(conn, end)| format!("connection {conn}: {end}"));
        self.notes.extend(told);
    }

    /// One object, with a line end.
    pub(crate) fn json(&self) -> Result<String, serde_json::Error> {
        serde_json::to_string(self).map(|text| text + "\n")
    }

    /// The table.
    pub(crate) fn table(&self) -> String {
        let mut out = String::new();
        let mut line = |name: &str, value: String| {
            if !value.is_empty() {
                // A string takes everything.
                let _ = writeln!(out, "{name:>22}  {value}");
            }
        };
        let unit = match self.mode {
            Mode::Fanout | Mode::Slow => "delivery",
            Mode::Connect => "connection",
            Mode::Echo | Mode::Idle => "message",
        };
        let server = &self.server;
        if let Some(latency) = self.latency_us.filter(|_| self.mode == Mode::Slow) {
            line(
                "fast members' p99",
                format!("{} µs", thousands(latency.p99)),
            );
        }
        if let Some(bytes) = server.user_bytes_per_connection {
            line("user memory", format!("{bytes:.0} bytes per connection"));
        }
        if let Some(cpu) = server.cpu_us_per_message.or(server.cpu_us_per_connection) {
            line("server CPU", format!("{} µs per {unit}", figure(cpu.total)));
            let (user, system) = (figure(cpu.user), figure(cpu.system));
            line("", format!("{user} user, {system} system"));
        }
        if let Some(share) = server.cpu_share {
            line(
                "server's share",
                format!("{:.1} % of a core", share * 100.0),
            );
        }
        if let Some(messages) = &self.messages {
            let what = if unit == "delivery" {
                "deliveries"
            } else {
                "messages"
            };
            let rate = thousands(messages.per_second);
            line(
                what,
                format!("{} ({rate}/s)", thousands(messages.received as f64)),
            );
        }
        if let Some(publishes) = &self.publishes {
            let rate = thousands(publishes.per_second);
            line(
                "publishes",
                format!("{} ({rate}/s)", thousands(publishes.sent as f64)),
            );
        }
        if let Some(connections) = &self.connections {
            let rate = thousands(connections.per_second);
            let opened = thousands(connections.opened as f64);
            line("connections", format!("{opened} ({rate}/s)"));
        }
        if let Some(l) = &self.latency_us {
            line("latency", format!("{} loop, in µs", l.kind));
            for (name, value) in [
                ("p50", l.p50),
                ("p90", l.p90),
                ("p99", l.p99),
                ("p99.9", l.p999),
                ("max", l.max),
                ("mean", l.mean),
            ] {
                line(name, thousands(value));
            }
        }
        if let Some(slow) = &self.slow {
            line("slow members", slow.line());
        }
        if let Some(deflate) = &self.deflate {
            line("compressed", deflate.line());
        }
        if let Some(tls) = &self.tls {
            line("TLS", tls.line());
        }
        let cost = self.generator.cpu_us_per_message;
        let cost = cost.map_or_else(String::new, |us| format!(", {} µs per {unit}", figure(us)));
        let busy = self.generator.busy * 100.0;
        if busy > 0.0 {
            line("generator", format!("{busy:.0} % busy{cost}"));
        }
        let faults = &self.faults;
        line(
            "faults",
            if faults.any() {
                format!(
                    "{} wrong, {} lost, {} doubled, {} reordered, {} connections ended",
                    faults.wrong, faults.lost, faults.doubled, faults.reordered, faults.ended
                )
            } else {
                "none".to_owned()
            },
        );
        for note in &self.notes {
            line("note", note.clone());
        }
        out
    }

    /// What the server and the generator used, by `count` messages or connections.
    pub(crate) fn set_cpu(&mut self, used: &super::run::Measured, count: u64) {
        let elapsed = used.elapsed.as_secs_f64();
        let per = |time: Duration| time.as_secs_f64() * 1e6 / count as f64;
        if let Some(server) = &used.server {
            let figure = (count > 0).then(|| CpuFigure {
                total: per(server.total),
                user: per(server.user),
                system: per(server.system),
            });
            if self.mode == Mode::Connect {
                self.server.cpu_us_per_connection = figure;
            } else {
                self.server.cpu_us_per_message = figure;
            }
            self.server.cpu_share = Some(server.total.as_secs_f64() / elapsed);
            self.server.waited_share = Some(server.waited.as_secs_f64() / elapsed);
            if server.waited.as_secs_f64() > WAITED_SHARE_MAX * elapsed {
                let percent = server.waited.as_secs_f64() / elapsed * 100.0;
                self.notes.push(format!(
                    "the server waited for a processor for {percent:.0} % of the time: others ran there"
                ));
            }
        }
        if self.server.pid.is_some() && used.server.is_none() {
            let note = "the server's process ended while it was measured";
            self.notes.push(note.to_owned());
        }
        let Used { total, waited, .. } = used.generator;
        self.generator.busy = total.as_secs_f64() / elapsed;
        self.generator.cpu_us_per_message = (count > 0).then(|| per(total));
        if waited.as_secs_f64() > WAITED_SHARE_MAX * elapsed {
            let percent = waited.as_secs_f64() / elapsed * 100.0;
            self.notes.push(format!(
                "the generator waited for a processor for {percent:.0} % of the time: others ran there"
            ));
        }
        // What it waited for it would have used.
        let server = self.server.cpu_share.zip(self.server.waited_share);
        let is_server_free = server.is_none_or(|(used, waited)| used + waited < FULL_SHARE);
        if self.settings.rate.is_none() && self.generator.busy > FULL_SHARE && is_server_free {
            self.notes.push(
                "the generator was busy all the time and the server was not: the rate is the \
                 generator's, not the server's"
                    .to_owned(),
            );
        }
    }
}

impl Latency {
    /// The figures of a histogram in nanoseconds; none if it is empty.
    pub(crate) fn of(histogram: &Histogram<u64>, is_open: bool) -> Option<Self> {
        let us = |quantile| histogram.value_at_quantile(quantile) as f64 / 1e3;
        (!histogram.is_empty()).then(|| Self {
            p50: us(0.5),
            p90: us(0.9),
            p99: us(0.99),
            p999: us(0.999),
            max: histogram.max() as f64 / 1e3,
            mean: histogram.mean() / 1e3,
            kind: if is_open { "open" } else { "closed" },
        })
    }
}

impl Slow {
    fn line(&self) -> String {
        let mut out = format!("{} of {} ended by the server", self.evicted, self.members);
        for (code, count) in &self.close_codes {
            let _ = write!(out, ", {count} with {code}");
        }
        if self.reset > 0 {
            let _ = write!(out, ", {} without a close frame", self.reset);
        }
        if let Some(Span { first, last }) = self.evicted_after_ms {
            let _ = write!(out, ", after {first:.0} to {last:.0} ms");
        }
        let _ = write!(
            out,
            "; {} deliveries missed, {} gaps told",
            self.missed, self.gaps
        );
        out
    }
}

/// Three digits that count.
fn figure(value: f64) -> String {
    match value {
        0.0..10.0 => format!("{value:.2}"),
        10.0..100.0 => format!("{value:.1}"),
        _ => format!("{value:.0}"),
    }
}

/// Whole, in groups of three.
fn thousands(value: f64) -> String {
    let digits = format!("{value:.0}");
    let mut out = String::with_capacity(digits.len() * 4 / 3);
    for (i, digit) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

/// Ends of connections that are told one by one.
const ENDS_TOLD_MAX: usize = 5;
/// Waiting for a processor for more than this share of the time is told.
const WAITED_SHARE_MAX: f64 = 0.02;
/// A core that is used for this share of the time is used up.
const FULL_SHARE: f64 = 0.95;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_written_for_people() {
        assert_eq!(figure(0.384), "0.38");
        assert_eq!(figure(12.34), "12.3");
        assert_eq!(figure(384.4), "384");
        assert_eq!(thousands(1_234_567.4), "1,234,567");
        assert_eq!(thousands(999.0), "999");
    }

    #[test]
    fn a_histogram_s_figures_are_in_microseconds() {
        let mut histogram = Histogram::new_with_bounds(1, 10_000_000_000, 3).unwrap();
        assert!(Latency::of(&histogram, false).is_none());
        for us in 1..=1000_u64 {
            histogram.record(us * 1000).unwrap();
        }
        let latency = Latency::of(&histogram, true).unwrap();
        for (is, about) in [
            (latency.p50, 500.0),
            (latency.p90, 900.0),
            (latency.p99, 990.0),
            (latency.p999, 999.0),
            (latency.max, 1000.0),
            (latency.mean, 500.5),
        ] {
            assert!((is - about).abs() <= about / 500.0, "{is} {about}");
        }
        assert_eq!(latency.kind, "open");
    }
}
