//! A load generator for WebSocket servers on this machine.
//!
//! One thread, one epoll, frames built beforehand and no WebSocket library, so that what it costs
//! disturbs the measurement little. It checks every byte that comes back: data that is wrong, lost
//! or out of order ends it with an error, and then it prints no figures.

mod connect;
mod echo;
mod frame;
mod idle;
mod server;
mod socket;

use std::{process::ExitCode, time::Duration};

use anyhow::ensure;
use clap::{Args, Parser, Subcommand};
use nix::sys::resource::{Resource, getrlimit};

use crate::connect::Target;

#[derive(Debug, Parser)]
#[command(
    name = "load",
    about = "Loads a WebSocket server and prints one line of JSON"
)]
struct Cli {
    #[command(subcommand)]
    mode: Mode,
}

#[derive(Debug, Subcommand)]
enum Mode {
    /// Keep messages in flight on every connection and check their echoes.
    Echo(EchoArgs),
    /// Open connections, leave them idle, and see what memory each of them costs.
    Idle(IdleArgs),
}

#[derive(Debug, Args)]
struct Server {
    /// Where to connect, as ws://HOST:PORT/PATH.
    #[arg(long)]
    url: String,
    /// The server's process.
    #[arg(long)]
    pid: i32,
}

#[derive(Debug, Args)]
struct EchoArgs {
    #[command(flatten)]
    server: Server,
    /// Connections to open.
    #[arg(long, default_value_t = 200, value_parser = clap::value_parser!(u32).range(1..=1000))]
    connections: u32,
    /// Messages that each connection keeps in flight.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=256))]
    depth: u32,
    /// Bytes of each message.
    #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u32).range(12..=65536))]
    payload: u32,
    /// Seconds that are measured.
    #[arg(long, default_value = "3", value_parser = seconds)]
    duration: Duration,
    /// Seconds of load before.
    #[arg(long, default_value = "1", value_parser = seconds)]
    warm_up: Duration,
}

#[derive(Debug, Args)]
struct IdleArgs {
    #[command(flatten)]
    server: Server,
    /// Connections to open.
    #[arg(long, default_value_t = 15_000, value_parser = clap::value_parser!(u32).range(1..=19_000))]
    connections: u32,
    /// Connections to open in a second, at most.
    #[arg(long, default_value_t = 5000, value_parser = clap::value_parser!(u32).range(1..=50_000))]
    rate: u32,
    /// Join the gateway's rooms, ten clients to a room.
    #[arg(long)]
    join: bool,
    /// Seconds to stay idle, answering pings, while the server's CPU time is measured.
    #[arg(long, value_parser = seconds)]
    hold: Option<Duration>,
}

fn main() -> ExitCode {
    let result = match Cli::parse().mode {
        Mode::Echo(args) => run_echo(&args),
        Mode::Idle(args) => run_idle(&args),
    };
    match result {
        Ok(figures) => {
            println!("{figures}");
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("load: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run_echo(args: &EchoArgs) -> anyhow::Result<serde_json::Value> {
    check_descriptors(args.connections)?;
    let target = Target::parse(&args.server.url)?;
    echo::run(
        &target,
        args.server.pid,
        &echo::Load {
            connections: args.connections,
            depth: args.depth as usize,
            payload_bytes: args.payload as usize,
            warm_up: args.warm_up,
            duration: args.duration,
        },
    )
}

fn run_idle(args: &IdleArgs) -> anyhow::Result<serde_json::Value> {
    check_descriptors(args.connections)?;
    let target = Target::parse(&args.server.url)?;
    idle::run(
        &target,
        args.server.pid,
        &idle::Load {
            connections: args.connections,
            rate: args.rate,
            join: args.join,
            hold: args.hold,
        },
    )
}

fn check_descriptors(connections: u32) -> anyhow::Result<()> {
    let (soft, _) = getrlimit(Resource::RLIMIT_NOFILE)?;
    let needed = u64::from(connections) + SPARE_DESCRIPTORS;
    ensure!(
        needed <= soft,
        "{connections} connections need {needed} descriptors, the limit is {soft}"
    );
    Ok(())
}

fn seconds(text: &str) -> Result<Duration, String> {
    let seconds: f64 = text.parse().map_err(|_| "not a number".to_owned())?;
    if !(0.1..=60.0).contains(&seconds) {
        return Err("must be from 0.1 to 60".to_owned());
    }
    Ok(Duration::from_secs_f64(seconds))
}

/// Descriptors for everything but connections.
const SPARE_DESCRIPTORS: u64 = 64;
