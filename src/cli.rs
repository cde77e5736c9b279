//! L6: the command line.

mod dev_cert;

use std::{fmt::Write as _, io::Write as _, net::SocketAddr, path::PathBuf};

use anyhow::Context;
use clap::{Parser, Subcommand};
use tracing_subscriber::EnvFilter;

use self::dev_cert::{DevCertArgs, DevCertError};
use crate::{
    bench::{self, BenchArgs, BenchError},
    config::{ConfigError, Flags, Log, LogFormat},
    control::reload::Reloader,
    server::{Server, ServerError},
    sources::Sources,
    tls::server_config::Material,
};

/// A WebSocket edge gateway: rooms, presence and fan-out on one io_uring per core.
#[derive(Debug, Parser)]
#[command(name = "tidegate", version, args_conflicts_with_subcommands = true)]
pub struct Cli {
    #[command(subcommand)]
    command: Option<Command>,
    #[command(flatten)]
    serve: Args,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run the gateway (the default).
    Serve(Args),
    /// Check the configuration and print what it comes to, with the source of each value.
    Check(Args),
    /// Write a self-signed certificate with its key, for trying TLS out.
    DevCert(DevCertArgs),
    /// Load a WebSocket server and measure what that costs it.
    Bench(Box<BenchArgs>),
}

#[derive(Debug, clap::Args)]
struct Args {
    /// Configuration file (TOML). Files `cores/N.toml` beside it say what worker N does differently.
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Where clients connect [default: 127.0.0.1:8080].
    #[arg(long, value_name = "ADDR:PORT")]
    listen: Option<SocketAddr>,
    /// Cores to use, as `0-3,6`; `all` is every one that the process may use, `physical` one thread of each.
    #[arg(long, value_name = "LIST")]
    cores: Option<String>,
    /// Serve the demo page at /, and /echo; the default without a configuration file.
    #[arg(long)]
    demo: bool,
    /// Set one configuration key, as `limits.ping_interval=10s` or `cores.0.cpu=4`; may be repeated.
    #[arg(long = "set", value_name = "KEY=VALUE")]
    settings: Vec<String>,
}

/// Runs what the command line asks for; gives the process's exit code.
///
/// # Errors
/// With a chain of reasons for people. [`exit_code`] knows what it means for scripts.
pub fn run(cli: Cli) -> anyhow::Result<u8> {
    match cli.command {
        Some(Command::Serve(args)) => serve(args),
        Some(Command::Check(args)) => check(args).map(|()| 0),
        Some(Command::DevCert(args)) => {
            print(&dev_cert::run(&args)?);
            Ok(0)
        }
        Some(Command::Bench(args)) => Ok(bench::run(*args)?),
        None => serve(cli.serve),
    }
}

fn serve(args: Args) -> anyhow::Result<u8> {
    let sources = sources(args);
    let attempt = sources.attempt();
    let loaded = attempt.result?;
    start_logging(&loaded.config.log)?;
    let format = loaded.config.log.format;
    let reloader = Reloader {
        load: Box::new(move || sources.attempt()),
        directories: attempt.directories,
    };
    let server = Server::start(loaded, Some(reloader))?;
    if format == LogFormat::Text {
        print(&server.banner());
    }
    Ok(server.wait()?.exit_code())
}

/// All that is printed is a configuration again.
fn check(args: Args) -> anyhow::Result<()> {
    let loaded = sources(args).load()?;
    print(&loaded.config.show(&loaded.provenance));
    if let Some(tls) = &loaded.tls {
        print(&describe(tls));
    }
    print("\n# configuration is valid\n");
    Ok(())
}

fn print(text: &str) {
    // A closed standard output is no reason not to serve.
    let mut out = std::io::stdout().lock();
    let _ = out.write_all(text.as_bytes());
    let _ = out.flush();
}

/// 2 if the command line or the configuration is wrong, else 1.
pub fn exit_code(error: &anyhow::Error) -> u8 {
    let is_config = error.downcast_ref::<ConfigError>().is_some();
    let is_usage = error
        .downcast_ref::<ServerError>()
        .is_some_and(ServerError::is_usage);
    let is_bench_usage = error
        .downcast_ref::<BenchError>()
        .is_some_and(BenchError::is_usage);
    let is_dev_cert_usage = error
        .downcast_ref::<DevCertError>()
        .is_some_and(DevCertError::is_usage);
    if is_config || is_usage || is_bench_usage || is_dev_cert_usage {
        2
    } else {
        1
    }
}

/// What the certificates are for, and what clients may take offence at, as comments of TOML.
fn describe(tls: &Material) -> String {
    let mut text = String::new();
    for (n, identity) in tls.identities().iter().enumerate() {
        let _ = write!(text, "\n# tls.certificates[{n}]: {identity}");
    }
    for warning in tls.warnings() {
        let _ = write!(text, "\n# warning: {warning}");
    }
    text.push('\n');
    text
}

fn sources(args: Args) -> Sources {
    let flags = Flags {
        listen: args.listen,
        cores: args.cores,
        demo: args.demo,
    };
    Sources::new(args.config, args.settings, flags)
}

fn start_logging(log: &Log) -> anyhow::Result<()> {
    let filter = EnvFilter::try_new(&log.level).map_err(|e| ConfigError::Invalid {
        origin: format!("log.level = {:?}", log.level),
        message: e.to_string(),
    })?;
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter)
        // Else a reader of the log that goes away would end the gateway: a write that fails is
        // told of by `eprintln!`, which panics then.
        .log_internal_errors(false)
        .with_writer(std::io::stderr);
    match log.format {
        LogFormat::Text => builder.with_ansi(false).try_init(),
        LogFormat::Json => builder.json().try_init(),
    }
    .map_err(anyhow::Error::from_boxed)
    .context("starting the log")
}
