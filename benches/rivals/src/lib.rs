//! What the rival servers share: their command line, the listener, TLS, the loop of an echo, and a
//! stream that sends once what was written in several pieces.
//!
//! Each server is written to do well: one thread as the gateway is measured with one core, TCP_NODELAY,
//! mimalloc, small buffers, and a send only once nothing more is to be read, so that messages that came
//! together leave together.

mod corked;
mod echo;
mod tls;

use std::{
    future::Future,
    io::Write,
    net::{Ipv4Addr, SocketAddr},
    time::Duration,
};

use anyhow::{Context, bail};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpListener, TcpSocket, TcpStream},
};
use tokio_rustls::TlsAcceptor;

pub use corked::Corked;
pub use echo::Echo;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// What the command line says.
#[derive(Clone)]
pub struct Settings {
    /// Where to listen.
    pub listen: SocketAddr,
    /// The largest message that is taken.
    pub message_bytes_max: usize,
    /// Makes connections TLS.
    pub tls: Option<TlsAcceptor>,
}

impl std::fmt::Debug for Settings {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Settings")
            .field("listen", &self.listen)
            .field("message_bytes_max", &self.message_bytes_max)
            .finish_non_exhaustive()
    }
}

impl Settings {
    /// Reads `[--listen ADDRESS:PORT] [--message-bytes-max BYTES] [--tls CERTIFICATE:KEY]`.
    ///
    /// # Errors
    /// Says what is wrong with the arguments.
    pub fn from_arguments(arguments: impl Iterator<Item = String>) -> anyhow::Result<Self> {
        let mut settings = Self {
            listen: (Ipv4Addr::LOCALHOST, 0).into(),
            message_bytes_max: MESSAGE_BYTES_MAX,
            tls: None,
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
                "--tls" => {
                    let files = value.split_once(':').context("--tls CERTIFICATE:KEY")?;
                    settings.tls = Some(tls::acceptor(files.0.as_ref(), files.1.as_ref())?);
                }
                _ => bail!("{name} is not known; --listen, --message-bytes-max and --tls are"),
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
    let scheme = if settings.tls.is_some() { "wss" } else { "ws" };
    writeln!(out, "  listening   {scheme}://{}/", listener.local_addr()?)?;
    writeln!(out, "  ready")?;
    out.flush()?;
    Ok(listener)
}

/// A TCP stream, or TLS over one.
pub trait Stream: AsyncRead + AsyncWrite + Unpin + Send + 'static {}

impl<S: AsyncRead + AsyncWrite + Unpin + Send + 'static> Stream for S {}

/// What a server does with one connection, whatever it goes through.
pub trait Serve: Clone + Send + 'static {
    /// Serves it to its end.
    fn serve(self, stream: impl Stream) -> impl Future<Output = anyhow::Result<()>> + Send;
}

/// Listens, accepts for ever, and gives each connection a task.
///
/// # Errors
/// The address may be taken.
pub async fn accept(settings: Settings, server: impl Serve) -> anyhow::Result<()> {
    let listener = listen(&settings)?;
    loop {
        let stream = next(&listener).await;
        let server = server.clone();
        match settings.tls.clone() {
            None => spawn(server.serve(stream)),
            Some(tls) => spawn(async move {
                // Boxed, so that the task does not keep room for a handshake that is over, nor twice
                // for what TLS keeps.
                let stream = Box::new(Box::pin(tls.accept(stream)).await?);
                drop(tls);
                server.serve(stream).await
            }),
        }
    }
}

/// The next connection.
pub async fn next(listener: &TcpListener) -> TcpStream {
    loop {
        match listener.accept().await {
            Ok((stream, _)) => {
                // A connection that is gone already says so when it is read.
                let _ = stream.set_nodelay(true);
                return stream;
            }
            Err(error) => {
                eprintln!("accepting: {error}");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

/// Runs a connection, and tells why it failed if it did.
pub fn spawn(task: impl Future<Output = anyhow::Result<()>> + Send + 'static) {
    tokio::spawn(async move {
        if let Err(error) = task.await {
            eprintln!("{error:#}");
        }
    });
}

/// The default of 128 KiB, allocated for each connection, would be a straw man.
pub const READ_BUFFER_BYTES: usize = 8 * 1024;
/// The gateway's default, too.
pub const MESSAGE_BYTES_MAX: usize = 64 * 1024;
/// As in the gateway's configuration for benchmarks.
const BACKLOG: u32 = 4096;
/// How long accepting pauses after an error.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
