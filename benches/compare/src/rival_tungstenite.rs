//! A WebSocket echo server on tokio-tungstenite, written to do well.
//!
//! One thread, one task per connection. Where the library's defaults would lose, it does not use
//! them: an 8 KiB read buffer instead of 128 KiB, TCP_NODELAY, and a flush only once nothing more
//! is to be read, so that messages that arrived together leave by one send. The allocator is
//! mimalloc, as in the gateway, and messages are limited to 64 KiB, as there.

use std::{
    io::Write,
    net::Ipv4Addr,
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use anyhow::Context as _;
use futures_util::{Sink, Stream};
use tokio::net::{TcpListener, TcpStream};
use tokio_tungstenite::{
    WebSocketStream, accept_async_with_config,
    tungstenite::{Error, Message, protocol::WebSocketConfig},
};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> anyhow::Result<()> {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("starting the runtime")?
        .block_on(serve())
}

async fn serve() -> anyhow::Result<()> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))
        .await
        .context("listening")?;
    let mut out = std::io::stdout().lock();
    writeln!(out, "listening ws://{}/", listener.local_addr()?)?;
    writeln!(out, "ready")?;
    out.flush()?;
    drop(out);
    loop {
        match listener.accept().await {
            Ok((stream, _)) => {
                tokio::spawn(async move {
                    if let Err(error) = echo(stream).await {
                        eprintln!("rival-tungstenite: {error}");
                    }
                });
            }
            Err(error) => {
                eprintln!("rival-tungstenite: accept: {error}");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

async fn echo(stream: TcpStream) -> Result<(), Error> {
    stream.set_nodelay(true)?;
    let config = WebSocketConfig::default()
        .read_buffer_size(READ_BUFFER_BYTES)
        .max_message_size(Some(MESSAGE_BYTES_MAX))
        .max_frame_size(Some(MESSAGE_BYTES_MAX));
    // Boxed, so that the task does not keep room for a handshake that is over.
    let websocket = Box::pin(accept_async_with_config(stream, Some(config))).await?;
    let echo = Echo {
        websocket,
        pending: None,
    };
    match echo.await {
        Err(Error::ConnectionClosed | Error::AlreadyClosed) => Ok(()),
        // A generator that has finished goes without a close frame.
        Err(Error::Protocol(
            tokio_tungstenite::tungstenite::error::ProtocolError::ResetWithoutClosingHandshake,
        )) => Ok(()),
        other => other,
    }
}

/// Returns messages to their sender and flushes when it must wait for the next one.
struct Echo {
    websocket: WebSocketStream<TcpStream>,
    /// Read, and not yet taken by the sink.
    pending: Option<Message>,
}

impl Future for Echo {
    type Output = Result<(), Error>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let Self { websocket, pending } = self.get_mut();
        let mut websocket = Pin::new(websocket);
        // A peer that never pauses is bounded by tokio's budget: its reads then answer Pending.
        loop {
            if pending.is_some() {
                match websocket.as_mut().poll_ready(cx)? {
                    Poll::Ready(()) => {}
                    Poll::Pending => return Poll::Pending,
                }
            }
            if let Some(message) = pending.take() {
                websocket.as_mut().start_send(message)?;
            }
            match websocket.as_mut().poll_next(cx)? {
                Poll::Ready(Some(message @ (Message::Text(_) | Message::Binary(_)))) => {
                    *pending = Some(message);
                }
                // The library answers pings and closes by itself.
                Poll::Ready(Some(_)) => {}
                Poll::Ready(None) => return Poll::Ready(Ok(())),
                Poll::Pending => {
                    return match websocket.as_mut().poll_flush(cx)? {
                        // Wakes by the read above.
                        Poll::Ready(()) | Poll::Pending => Poll::Pending,
                    };
                }
            }
        }
    }
}

/// The library's default of 128 KiB, allocated for each connection, would be a straw man.
const READ_BUFFER_BYTES: usize = 8 * 1024;
/// The gateway's default.
const MESSAGE_BYTES_MAX: usize = 64 * 1024;
/// How long accepting pauses after an error.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
