//! L6: the command line.

use std::{net::SocketAddr, path::PathBuf};

use anyhow::Context;
use clap::{Args, Parser, Subcommand};
use tracing_subscriber::EnvFilter;

use crate::{
    config::{Config, ConfigError, Listen, Log, LogFormat},
    control::reload::Reloader,
    server::{Server, ServerError},
};

/// A WebSocket edge gateway: rooms, presence and fan-out on one io_uring per core.
#[derive(Debug, Parser)]
#[command(name = "tidegate", version, args_conflicts_with_subcommands = true)]
pub struct Cli {
    #[command(subcommand)]
    command: Option<Command>,
    #[command(flatten)]
    serve: ServeArgs,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run the gateway (the default).
    Serve(ServeArgs),
}

#[derive(Debug, Args)]
struct ServeArgs {
    /// Configuration file (TOML).
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Where clients connect [default: 127.0.0.1:8080].
    #[arg(long, value_name = "ADDR:PORT")]
    listen: Option<SocketAddr>,
    /// Cores to use, as `0-3,6`; `all` is every one that the process may use.
    #[arg(long, value_name = "LIST")]
    cores: Option<String>,
    /// Serve /echo as well.
    #[arg(long)]
    demo: bool,
    /// Set one configuration key, as `limits.ping_interval=10s`.
    #[arg(long = "set", value_name = "KEY=VALUE")]
    settings: Vec<String>,
}

/// Runs what the command line asks for; gives the process's exit code.
///
/// # Errors
/// With a chain of reasons for people. [`exit_code`] knows what it means for scripts.
pub fn run(cli: Cli) -> anyhow::Result<u8> {
    let args = match cli.command {
        Some(Command::Serve(args)) => args,
        None => cli.serve,
    };
    let config = load(&args)?;
    start_logging(&config.log)?;
    let format = config.log.format;
    let server = Server::start(config, Some(reloader(args)))?;
    if format == LogFormat::Text {
        use std::io::Write;
        // A closed standard output is no reason not to serve.
        let mut out = std::io::stdout().lock();
        let _ = out.write_all(server.banner().as_bytes());
        let _ = out.flush();
    }
    Ok(server.wait()?.exit_code())
}

/// 2 if the command line or the configuration is wrong, else 1.
pub fn exit_code(error: &anyhow::Error) -> u8 {
    let is_config = error.downcast_ref::<ConfigError>().is_some();
    let is_usage = error
        .downcast_ref::<ServerError>()
        .is_some_and(ServerError::is_usage);
    if is_config || is_usage { 2 } else { 1 }
}

/// Reads again what the command line named.
fn reloader(args: ServeArgs) -> Reloader {
    let directory = args.config.as_ref().and_then(|path| {
        let parent = path.parent()?;
        let is_here = parent.as_os_str().is_empty();
        Some(if is_here {
            ".".into()
        } else {
            parent.to_owned()
        })
    });
    Reloader {
        load: Box::new(move || load(&args)),
        directories: Box::new(move || directory.iter().cloned().collect()),
    }
}

fn load(args: &ServeArgs) -> Result<Config, ConfigError> {
    let file = match &args.config {
        Some(path) => {
            let name = path.display().to_string();
            let text = std::fs::read_to_string(path).map_err(|e| ConfigError::Invalid {
                origin: name.clone(),
                message: e.to_string(),
            })?;
            Some((name, text))
        }
        None => None,
    };
    let file = file
        .as_ref()
        .map(|(name, text)| (name.as_str(), text.as_str()));
    let mut config = Config::load(file, &args.settings)?;
    if let Some(listen) = args.listen {
        config.server.listen = Listen(vec![listen]);
    }
    if let Some(cores) = &args.cores {
        config.server.cores.clone_from(cores);
    }
    config.server.demo |= args.demo;
    Ok(config)
}

fn start_logging(log: &Log) -> anyhow::Result<()> {
    let filter = EnvFilter::try_new(&log.level).map_err(|e| ConfigError::Invalid {
        origin: format!("log.level = {:?}", log.level),
        message: e.to_string(),
    })?;
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr);
    match log.format {
        LogFormat::Text => builder.with_ansi(false).try_init(),
        LogFormat::Json => builder.json().try_init(),
    }
    .map_err(anyhow::Error::from_boxed)
    .context("starting the log")
}
