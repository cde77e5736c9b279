//! What the rival servers share: their command line, the listener, the loop of an echo, and a stream
//! that sends once what was written in several pieces.
//!
//! Each server is written to do well: one thread as the gateway is measured with one core, TCP_NODELAY,
//! mimalloc, small buffers, and a send only once nothing more is to be read, so that messages that came
//! together leave together.

mod corked;
mod echo;

use std::{
    future::Future,
    io::Write,
    net::{Ipv4Addr, SocketAddr},
    time::Duration,
};

use anyhow::{Context, bail};
use tokio::net::{TcpListener, TcpSocket, TcpStream};

pub use corked::Corked;
pub use echo::Echo;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// What the command line says.
#[derive(Clone, Copy, Debug)]
pub struct Settings {
    /// Where to listen.
    pub listen: SocketAddr,
    /// The largest message that is taken.
    pub message_bytes_max: usize,
}

impl Settings {
    /// Reads `[--listen ADDRESS:PORT] [--message-bytes-max BYTES]`.
    ///
    /// # Errors
    /// Says what is wrong with the arguments.
    pub fn from_arguments(arguments: impl Iterator<Item = String>) -> anyhow::Result<Self> {
        let mut settings = Self {
            listen: (Ipv4Addr::LOCALHOST, 0).into(),
            message_bytes_max: MESSAGE_BYTES_MAX,
        };
        let mut arguments = arguments;
        while let Some(name) = arguments.next() {
            let value = arguments
                .next()
                .with_context(|| format!("{name} needs a value"))?;
            match name.as_str() {
                "--listen" => settings.listen = value.parse().context("--listen")?,
                "--message-bytes-max" => {
                    settings.message_bytes_max = value.parse().context("--message-bytes-max")?;
                }
                _ => bail!("{name} is not known; --listen and --message-bytes-max are"),
            }
        }
        Ok(settings)
    }
}

/// Runs a server on this thread alone.
///
/// # Errors
/// Whatever ends it.
pub fn run<F, S>(serve: S) -> anyhow::Result<()>
where
    F: Future<Output = anyhow::Result<()>>,
    S: FnOnce(Settings) -> F,
{
    let settings = Settings::from_arguments(std::env::args().skip(1))?;
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("starting the runtime")?
        .block_on(serve(settings))
}

/// Listens, and says where.
///
/// # Errors
/// The address may be taken.
pub fn listen(settings: &Settings) -> anyhow::Result<TcpListener> {
    let socket = TcpSocket::new_v4()?;
    socket.set_reuseaddr(true)?;
    socket.bind(settings.listen).context("binding")?;
    let listener = socket.listen(BACKLOG).context("listening")?;
    let mut out = std::io::stdout().lock();
    writeln!(out, "  listening   ws://{}/", listener.local_addr()?)?;
    writeln!(out, "  ready")?;
    out.flush()?;
    Ok(listener)
}

/// Accepts for ever, and gives each connection a task.
pub async fn accept<F>(listener: TcpListener, mut serve: impl FnMut(TcpStream) -> F)
where
    F: Future<Output = anyhow::Result<()>> + Send + 'static,
{
    loop {
        match listener.accept().await {
            Ok((stream, _)) => {
                // A connection that is gone already says so when it is read.
                let _ = stream.set_nodelay(true);
                let task = serve(stream);
                tokio::spawn(async move {
                    if let Err(error) = task.await {
                        eprintln!("{error:#}");
                    }
                });
            }
            Err(error) => {
                eprintln!("accepting: {error}");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

/// The default of 128 KiB, allocated for each connection, would be a straw man.
pub const READ_BUFFER_BYTES: usize = 8 * 1024;
/// The gateway's default, too.
pub const MESSAGE_BYTES_MAX: usize = 64 * 1024;
/// As in the gateway's configuration for benchmarks.
const BACKLOG: u32 = 4096;
/// How long accepting pauses after an error.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
