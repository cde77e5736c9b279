//! The command line of `tidegate bench`, and what it comes to.

use std::{path::PathBuf, time::Duration};

use clap::ValueEnum;
use serde::Serialize;

use super::{
    BenchError,
    content::Content,
    expect::NUMBERS_MAX,
    frames::Kind,
    schedule::Schedule,
    target::Target,
    template::{Place, Rendered, Template},
};

/// What `tidegate bench` takes.
#[derive(Clone, Debug, clap::Args)]
pub struct BenchArgs {
    /// The server, as ws://HOST:PORT/PATH or wss://…; {room} and {conn} in it are numbers from 0.
    url: String,
    /// What to do.
    #[arg(long, value_enum, default_value_t = Mode::Echo)]
    mode: Mode,
    /// Connections to open [default: 200; idle 10000].
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=CONNECTIONS_MAX))]
    connections: Option<u32>,
    /// Messages in flight on each connection (echo) or in each room (fanout, slow).
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=DEPTH_MAX))]
    depth: u32,
    /// Messages (echo), publishes (fanout, slow) or connections (connect) a second, in all: an open
    /// loop, in which latency counts from the moment at which a message was due.
    #[arg(long, value_name = "N", value_parser = rate)]
    rate: Option<f64>,
    /// Rooms over which the connections are spread; the first of each publishes.
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=CONNECTIONS_MAX))]
    rooms: u32,
    /// Size of {payload} [default: 128 in fanout and slow, else 20].
    #[arg(long, value_name = "BYTES", value_parser = bytes)]
    payload: Option<usize>,
    /// What {payload} consists of: noise, or a JSON object (which stands in a template without quotes).
    #[arg(long, value_enum, default_value_t = Content::Noise)]
    content: Content,
    /// How long to measure.
    #[arg(long, value_name = "TIME", default_value = "5s", value_parser = time)]
    duration: Duration,
    /// How long to load before that.
    #[arg(long, value_name = "TIME", default_value = "1s", value_parser = time)]
    warm_up: Duration,
    /// Connections opened in a second, at most.
    #[arg(long, value_name = "N", value_parser = rate)]
    ramp_up: Option<f64>,
    /// Connections on their way at a time, at most.
    #[arg(long, value_name = "N", default_value_t = 128, value_parser = clap::value_parser!(u32).range(1..=4096))]
    in_flight: u32,
    /// How long to stay idle while the server's CPU time is measured (idle).
    #[arg(long, value_name = "TIME", value_parser = time)]
    hold: Option<Duration>,
    /// Members that do not read (slow).
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=1000))]
    slow: u32,
    /// How connections end (connect).
    #[arg(long, value_enum, default_value_t = Closing::Reset)]
    closing: Closing,
    /// Trust the servers whose certificates those in this PEM file have signed (wss://).
    #[arg(long, value_name = "FILE", conflicts_with = "insecure")]
    ca: Option<PathBuf>,
    /// Trust any server, and check no signature (wss://).
    #[arg(long)]
    insecure: bool,
    /// Resume TLS sessions where the server gives tickets (wss://).
    #[arg(long)]
    resume: bool,
    /// Ask for permessage-deflate; messages are sent as they are, and those that come are inflated.
    #[arg(long)]
    deflate: bool,
    /// The subprotocol to ask for.
    #[arg(long, value_name = "NAME")]
    subprotocol: Option<String>,
    /// Send text messages [default: unless the message is {payload} alone].
    #[arg(long, conflicts_with = "binary")]
    text: bool,
    /// Send binary messages.
    #[arg(long)]
    binary: bool,
    /// Sent after the upgrade; knows {room} and {conn}.
    #[arg(long, value_name = "TEMPLATE")]
    join: Option<String>,
    /// A connection is ready once a message that contains this came [default with --join: any].
    #[arg(long, value_name = "TEXT")]
    joined: Option<String>,
    /// What is sent; knows {payload}, {room}, {conn} and {seq} [default: {payload}].
    #[arg(long, value_name = "TEMPLATE")]
    message: Option<String>,
    /// Messages that contain this are refusals: the run ends with the first.
    #[arg(long, value_name = "TEXT")]
    refusal: Option<String>,
    /// A publisher does not get its own messages (fanout, slow).
    #[arg(long)]
    no_self: bool,
    /// Templates for a well-known server.
    #[arg(long, value_enum)]
    preset: Option<Preset>,
    /// The server's process [default: the one that listens at a loopback URL].
    #[arg(long, value_name = "PID", value_parser = clap::value_parser!(i32).range(1..))]
    pid: Option<i32>,
    /// Look for what has come again and again, with a break of so long, and never sleep: then the server
    /// never has to wake the generator, which on one machine can cost it as much as the message.
    #[arg(long, value_name = "TIME", value_parser = time)]
    poll: Option<Duration>,
    /// How long to wait for a message before it counts as lost.
    #[arg(long, value_name = "TIME", default_value = "5s", value_parser = time)]
    timeout: Duration,
    /// How long to wait until the next connection is ready.
    #[arg(long, value_name = "TIME", default_value = "10s", value_parser = time)]
    ready_timeout: Duration,
    /// Write the figures as JSON; - is standard output, and then nothing else is printed there.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// No progress bar.
    #[arg(long)]
    quiet: bool,
    /// The processor to run on.
    #[arg(long, value_name = "N")]
    cpu: Option<usize>,
    /// How to do input and output.
    #[arg(long, value_enum, default_value_t = EngineName::Auto)]
    engine: EngineName,
}

/// What a run does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Mode {
    /// Every message comes back.
    Echo,
    /// Every message of a room's publisher reaches all its members.
    Fanout,
    /// Connections that do nothing.
    Idle,
    /// Connections that open and close.
    Connect,
    /// Fanout with members that do not read.
    Slow,
}

/// How a connection of mode `connect` ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Closing {
    /// By a reset, which leaves no port waiting.
    Reset,
    /// By a close frame, the server's answer and the end of the stream.
    Handshake,
}

/// Servers whose templates are known.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Preset {
    /// This gateway's rooms, in JSON.
    Tidegate,
}

/// How input and output are done.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum EngineName {
    /// By io_uring if the system has it, else by epoll.
    Auto,
    /// By io_uring.
    Uring,
    /// By epoll.
    Epoll,
}

/// What a command line comes to; written out with the figures.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Settings {
    #[serde(skip)]
    pub(crate) mode: Mode,
    #[serde(skip)]
    pub(crate) target: Target,
    pub(crate) connections: u32,
    pub(crate) depth: u32,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) rate: Option<f64>,
    pub(crate) rooms: u32,
    #[serde(rename = "payload_bytes")]
    pub(crate) payload: usize,
    pub(crate) content: Content,
    #[serde(rename = "duration_s", serialize_with = "seconds")]
    pub(crate) duration: Duration,
    #[serde(rename = "warm_up_s", serialize_with = "seconds")]
    pub(crate) warm_up: Duration,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) ramp_up: Option<f64>,
    pub(crate) in_flight: u32,
    #[serde(
        rename = "hold_s",
        serialize_with = "maybe_seconds",
        skip_serializing_if = "Option::is_none"
    )]
    pub(crate) hold: Option<Duration>,
    pub(crate) slow: u32,
    pub(crate) closing: Closing,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) ca: Option<PathBuf>,
    #[serde(skip_serializing_if = "is_false")]
    pub(crate) insecure: bool,
    #[serde(skip_serializing_if = "is_false")]
    pub(crate) resume: bool,
    #[serde(skip_serializing_if = "is_false")]
    pub(crate) deflate: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) subprotocol: Option<String>,
    pub(crate) text: bool,
    #[serde(skip)]
    pub(crate) join_is_text: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) join: Option<Template>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) joined: Option<String>,
    pub(crate) message: Template,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) refusal: Option<String>,
    /// Whether a publisher gets its own messages.
    pub(crate) to_self: bool,
    #[serde(
        rename = "poll_s",
        serialize_with = "maybe_seconds",
        skip_serializing_if = "Option::is_none"
    )]
    pub(crate) poll: Option<Duration>,
    #[serde(rename = "timeout_s", serialize_with = "seconds")]
    pub(crate) timeout: Duration,
    #[serde(rename = "ready_timeout_s", serialize_with = "seconds")]
    pub(crate) ready_timeout: Duration,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) cpu: Option<usize>,
    pub(crate) engine: EngineName,
    #[serde(skip)]
    pub(crate) pid: Option<i32>,
    #[serde(skip)]
    pub(crate) json: Option<PathBuf>,
    #[serde(skip)]
    pub(crate) quiet: bool,
}

impl Settings {
    /// Reads a command line.
    ///
    /// # Errors
    /// [`BenchError::Usage`] says what does not fit together.
    pub(crate) fn new(args: BenchArgs) -> Result<Self, BenchError> {
        let mode = args.mode;
        let fans_out = matches!(mode, Mode::Fanout | Mode::Slow);
        let content = args.content;
        let preset = args
            .preset
            .map(|preset| preset.templates(fans_out, content));
        let preset = preset.unwrap_or_default();
        let message = args.message.as_deref().or(preset.message);
        let message = Template::parse(message.unwrap_or("{payload}"));
        let join = args.join.as_deref().or(preset.join).map(Template::parse);
        // Only where the preset's own join is used does its answer follow.
        let joined = args.joined.clone().or_else(|| match &args.join {
            None => preset.joined.map(str::to_owned),
            Some(_) => None,
        });
        let settings = Self {
            mode,
            target: Target::parse(&args.url).map_err(BenchError::Usage)?,
            connections: args.connections.unwrap_or(match mode {
                Mode::Idle => 10_000,
                _ => 200,
            }),
            depth: args.depth,
            rate: args.rate,
            rooms: args.rooms,
            payload: args.payload.unwrap_or(match (content, fans_out) {
                (Content::Json, _) => 4096,
                (Content::Noise, true) => 128,
                (Content::Noise, false) => 20,
            }),
            content,
            duration: args.duration,
            warm_up: args.warm_up,
            ramp_up: args.ramp_up,
            in_flight: args.in_flight,
            hold: args.hold,
            slow: if mode == Mode::Slow { args.slow } else { 0 },
            closing: args.closing,
            ca: args.ca,
            insecure: args.insecure,
            resume: args.resume,
            deflate: args.deflate,
            subprotocol: args.subprotocol,
            join_is_text: !args.binary,
            text: args.text
                || (!args.binary && (content == Content::Json || !message.is_payload_alone())),
            join,
            joined,
            message,
            refusal: args.refusal.or(preset.refusal.map(str::to_owned)),
            to_self: !args.no_self,
            poll: args.poll,
            timeout: args.timeout,
            ready_timeout: args.ready_timeout,
            cpu: args.cpu,
            engine: args.engine,
            pid: args.pid,
            json: args.json,
            quiet: args.quiet,
        };
        settings.check().map_err(BenchError::Usage)?;
        Ok(settings)
    }

    fn check(&self) -> Result<(), String> {
        let refuse = |fits: bool, why: &str| if fits { Ok(()) } else { Err(why.to_owned()) };
        let least = self.content.payload_bytes_min();
        refuse(
            self.payload >= least,
            &format!("--payload must be at least {least} bytes: a message is told by its tag"),
        )?;
        let is_secure = self.target.is_secure();
        refuse(
            !is_secure || self.ca.is_some() || self.insecure,
            "wss:// needs --ca FILE, the certificates to trust, or --insecure, which trusts any",
        )?;
        refuse(
            is_secure || (self.ca.is_none() && !self.insecure && !self.resume),
            "--ca, --insecure and --resume are for wss://",
        )?;
        refuse(!self.duration.is_zero(), "--duration must be above 0")?;
        refuse(
            self.poll.is_none_or(|poll| poll <= POLL_MAX),
            "--poll must be 10ms at most",
        )?;
        refuse(!self.timeout.is_zero(), "--timeout must be above 0")?;
        refuse(
            !self.ready_timeout.is_zero(),
            "--ready-timeout must be above 0",
        )?;
        refuse(
            self.joined.is_none() || self.join.is_some(),
            "--joined needs --join",
        )?;
        if let Some(join) = &self.join {
            refuse(
                join.count(Place::Payload) + join.count(Place::Seq) == 0,
                "--join knows {room} and {conn} only",
            )?;
        }
        if matches!(self.mode, Mode::Echo | Mode::Fanout | Mode::Slow) {
            refuse(
                self.message.count(Place::Payload) == 1,
                "--message must have one {payload}",
            )?;
            refuse(
                self.message.count(Place::Seq) <= NUMBERS_MAX,
                &format!("--message may have {{seq}} {NUMBERS_MAX} times at most"),
            )?;
        }
        if matches!(self.mode, Mode::Fanout | Mode::Slow) {
            refuse(
                self.rooms <= self.connections,
                "--rooms must not be more than --connections: each room has its publisher",
            )?;
            let receivers = self.connections - self.slow.min(self.connections);
            refuse(
                self.slow <= self.connections - self.rooms,
                "--slow leaves no member of each room to publish",
            )?;
            refuse(
                self.to_self || receivers >= 2 * self.rooms,
                "--no-self leaves rooms in which nobody receives",
            )?;
        }
        let in_all = self.payload as u64 * u64::from(self.depth) * u64::from(self.connections);
        refuse(
            in_all <= FRAME_BYTES_MAX,
            "--connections, --depth and --payload together are above 4 GiB",
        )
    }

    /// The messages that are sent.
    pub(crate) fn kind(&self) -> Kind {
        Kind::new(self.message.clone(), self.content, self.text, self.payload)
    }

    /// What a message that comes may have, whatever the server puts around a payload.
    pub(crate) fn message_bytes_max(&self) -> usize {
        self.payload + ENVELOPE_BYTES_MAX
    }

    /// When `sources` send, in an open loop.
    pub(crate) fn schedule(&self, sources: u32) -> Option<Schedule> {
        let duration = self.warm_up + self.duration;
        self.rate.map(|rate| Schedule::new(duration, rate, sources))
    }

    /// Messages of so many bytes that may be on their way from one sender.
    pub(crate) fn window(&self, message_bytes: usize) -> u32 {
        if self.rate.is_none() {
            return self.depth;
        }
        // An open loop sends whatever is due; this bounds only what a server that does not
        // answer is sent.
        let fits = OPEN_WINDOW_BYTES / message_bytes.max(1);
        fits.clamp(OPEN_WINDOW_MIN, OPEN_WINDOW_MAX) as u32
    }

    /// How many frames of a message are built in one run.
    pub(crate) fn run_of(&self, message: &Rendered) -> usize {
        let fits = OPEN_RUN_BYTES / message.bytes.len().max(1);
        match self.rate {
            None => self.depth as usize,
            Some(_) => fits.clamp(1, OPEN_RUN_MAX),
        }
    }

    /// Whether a connection is one of those that do not read: the last ones.
    pub(crate) fn is_slow(&self, conn: u32) -> bool {
        conn >= self.connections.saturating_sub(self.slow)
    }

    /// The room of a connection.
    pub(crate) fn room_of(&self, conn: u32) -> u32 {
        conn % self.rooms
    }
}

#[derive(Clone, Copy, Default)]
struct Templates {
    join: Option<&'static str>,
    joined: Option<&'static str>,
    message: Option<&'static str>,
    refusal: Option<&'static str>,
}

impl Preset {
    const fn templates(self, fans_out: bool, content: Content) -> Templates {
        match self {
            Self::Tidegate => Templates {
                join: Some(r#"{"type":"join","room":"bench-{room}","id":"join"}"#),
                joined: Some(r#"{"type":"ok","id":"join""#),
                message: match (fans_out, content) {
                    (false, _) => None,
                    (true, Content::Noise) => {
                        Some(r#"{"type":"publish","room":"bench-{room}","data":"{payload}"}"#)
                    }
                    (true, Content::Json) => {
                        Some(r#"{"type":"publish","room":"bench-{room}","data":{payload}}"#)
                    }
                },
                refusal: Some(r#"{"type":"error""#),
            },
        }
    }
}

fn rate(text: &str) -> Result<f64, String> {
    match text.parse() {
        Ok(rate) if (0.001..=1e8).contains(&rate) => Ok(rate),
        _ => Err("a number a second, from 0.001 to 100000000".to_owned()),
    }
}

fn bytes(text: &str) -> Result<usize, String> {
    let (number, unit) = split(text);
    let factor = match unit {
        "" | "B" => Some(1),
        "KiB" => Some(1 << 10),
        "MiB" => Some(1 << 20),
        "kB" => Some(1_000),
        "MB" => Some(1_000_000),
        _ => None,
    };
    let bytes = factor.and_then(|factor: usize| number.parse::<usize>().ok()?.checked_mul(factor));
    bytes
        .filter(|bytes| *bytes <= PAYLOAD_BYTES_MAX)
        .ok_or_else(|| "a size such as 128, 16KiB or 1MiB, 64MiB at most".to_owned())
}

fn time(text: &str) -> Result<Duration, String> {
    let (number, unit) = split(text);
    let factor = match unit {
        "us" => Some(1e-6),
        "ms" => Some(1e-3),
        "" | "s" => Some(1.0),
        "m" => Some(60.0),
        _ => None,
    };
    let seconds = factor.and_then(|factor| Some(number.parse::<f64>().ok()? * factor));
    seconds
        .filter(|seconds| (0.0..=TIME_SECONDS_MAX).contains(seconds))
        .map(Duration::from_secs_f64)
        .ok_or_else(|| "a time such as 500ms, 5s or 2m, an hour at most".to_owned())
}

/// A number and the unit behind it.
fn split(text: &str) -> (&str, &str) {
    let end = text
        .find(|c: char| !c.is_ascii_digit() && c != '.')
        .unwrap_or(text.len());
    (&text[..end], text[end..].trim_start())
}

fn seconds<S: serde::Serializer>(time: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_f64(time.as_secs_f64())
}

fn maybe_seconds<S: serde::Serializer>(
    time: &Option<Duration>,
    serializer: S,
) -> Result<S::Ok, S::Error> {
    seconds(&time.unwrap_or_default(), serializer)
}

fn is_false(value: &bool) -> bool {
    !value
}

const CONNECTIONS_MAX: i64 = 1_000_000;
const DEPTH_MAX: i64 = 1024;
const PAYLOAD_BYTES_MAX: usize = 64 << 20;
const ENVELOPE_BYTES_MAX: usize = 64 * 1024;
/// Bytes of frames built before a load.
const FRAME_BYTES_MAX: u64 = 4 << 30;
/// Bounds of what an open loop has on its way from one sender.
const OPEN_WINDOW_BYTES: usize = 4 << 20;
const OPEN_WINDOW_MIN: usize = 4;
const OPEN_WINDOW_MAX: usize = 4096;
/// Bounds of what it sends at once.
const OPEN_RUN_BYTES: usize = 32 * 1024;
const OPEN_RUN_MAX: usize = 64;
const TIME_SECONDS_MAX: f64 = 3600.0;

/// The longest break of `--poll`: beyond, sleeping would be better.
const POLL_MAX: Duration = Duration::from_millis(10);

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        args: BenchArgs,
    }

    fn settings(line: &str) -> Result<Settings, String> {
        settings_of("ws://127.0.0.1:1/", line)
    }

    fn settings_of(url: &str, line: &str) -> Result<Settings, String> {
        let words = ["bench", url].into_iter();
        let words = words.chain(line.split_ascii_whitespace());
        let line = Line::try_parse_from(words).map_err(|error| error.to_string())?;
        Settings::new(line.args).map_err(|error| error.to_string())
    }

    #[test]
    fn defaults_follow_the_mode() {
        let echo = settings("").unwrap();
        assert_eq!(
            (echo.connections, echo.payload, echo.text),
            (200, 20, false)
        );
        let fanout = settings("--mode fanout --preset tidegate --rooms 3").unwrap();
        assert_eq!((fanout.payload, fanout.text), (128, true));
        assert!(fanout.joined.unwrap().contains("ok"));
        let json = settings("--mode fanout --preset tidegate --content json").unwrap();
        assert_eq!((json.payload, json.text), (4096, true));
        assert_eq!(json.message.count(Place::Payload), 1);
        assert!(settings("--content json").unwrap().text);
        assert_eq!(settings("--mode idle").unwrap().connections, 10_000);
        let echo = settings("--preset tidegate").unwrap();
        assert!(echo.message.is_payload_alone());
        assert_eq!(settings("--slow 7").unwrap().slow, 0);
        let own = settings("--preset tidegate --join hello").unwrap();
        assert_eq!(
            (own.join, own.joined),
            (Some(Template::parse("hello")), None)
        );
    }

    #[test]
    fn units_are_read() {
        let all = settings("--payload 16KiB --duration 1500ms --hold 2m --warm-up 0").unwrap();
        assert_eq!(all.payload, 16_384);
        assert_eq!(all.duration, Duration::from_millis(1500));
        assert_eq!(all.hold, Some(Duration::from_secs(120)));
        for wrong in [
            "--payload 1.5MiB",
            "--payload 9GiB",
            "--duration -1s",
            "--duration 5h",
        ] {
            assert!(settings(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn what_does_not_fit_together_is_refused() {
        for (line, why) in [
            ("--payload 15", "at least 16"),
            ("--payload 34 --content json", "at least 35"),
            ("--duration 0", "--duration"),
            ("--joined x", "needs --join"),
            ("--message nothing", "one {payload}"),
            ("--message {payload}{payload}", "one {payload}"),
            ("--message {payload}{seq}{seq}{seq}{seq}{seq}", "4 times"),
            ("--join {payload}", "{room} and {conn} only"),
            ("--mode fanout --rooms 201", "--rooms"),
            ("--mode slow --slow 200", "--slow"),
            ("--mode fanout --rooms 200 --no-self", "--no-self"),
            ("--payload 64MiB --depth 16", "4 GiB"),
            ("--text --binary", "cannot be used"),
            ("--rate 0", "a second"),
            ("--insecure", "for wss://"),
            ("--resume", "for wss://"),
        ] {
            let error = settings(line).unwrap_err();
            assert!(error.contains(why), "{line}: {error}");
        }
    }

    #[test]
    fn a_secure_server_is_trusted_by_name_or_on_purpose() {
        let secure = |line| settings_of("wss://127.0.0.1:1/", line);
        assert!(secure("").unwrap_err().contains("--ca FILE"));
        assert!(secure("--resume").unwrap_err().contains("--ca FILE"));
        assert!(secure("--ca a --insecure").unwrap_err().contains("cannot"));
        assert!(secure("--insecure --resume").unwrap().resume);
        assert!(secure("--ca a").unwrap().ca.is_some());
    }
}
