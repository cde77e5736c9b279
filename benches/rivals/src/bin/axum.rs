//! An echo on axum: its own serve loop and WebSocket extractor, with an 8 KiB read buffer and a flush
//! when nothing more is to be read.

use std::{io, net::SocketAddr};

use axum::{
    Router,
    extract::ws::{Message, WebSocket, WebSocketUpgrade},
    routing::any,
    serve::{Listener, ListenerExt},
};
use rivals::{Echo, READ_BUFFER_BYTES, Settings};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::mpsc,
};
use tokio_rustls::{TlsAcceptor, server::TlsStream};

fn main() -> anyhow::Result<()> {
    rivals::run(serve)
}

async fn serve(settings: Settings) -> anyhow::Result<()> {
    let listener = rivals::listen(&settings)?;
    let upgrade = async move |upgrade: WebSocketUpgrade| {
        upgrade
            .read_buffer_size(READ_BUFFER_BYTES)
            .max_message_size(settings.message_bytes_max)
            .max_frame_size(settings.message_bytes_max)
            .on_upgrade(echo)
    };
    let router = Router::new().route("/echo", any(upgrade));
    match settings.tls {
        None => {
            let listener = listener.tap_io(|stream| {
                // A connection that is gone already says so when it is read.
                let _ = stream.set_nodelay(true);
            });
            axum::serve(listener, router).await?;
        }
        Some(tls) => axum::serve(Secure::new(listener, tls)?, router).await?,
    }
    Ok(())
}

/// Connections whose TLS handshakes are over: each has a task for its own, so that none waits for
/// another's.
struct Secure {
    addr: SocketAddr,
    ready: mpsc::Receiver<Box<TlsStream<TcpStream>>>,
}

impl Secure {
    fn new(listener: TcpListener, tls: TlsAcceptor) -> io::Result<Self> {
        let addr = listener.local_addr()?;
        let (sender, ready) = mpsc::channel(READY_MAX);
        tokio::spawn(async move {
            loop {
                let stream = rivals::next(&listener).await;
                let (tls, sender) = (tls.clone(), sender.clone());
                rivals::spawn(async move {
                    let stream = Box::new(tls.accept(stream).await?);
                    Ok(sender.send(stream).await?)
                });
            }
        });
        Ok(Self { addr, ready })
    }
}

impl Listener for Secure {
    type Io = Box<TlsStream<TcpStream>>;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Self::Io, Self::Addr) {
        match self.ready.recv().await {
            Some(stream) => (stream, self.addr),
            // Its sender lives as long as the listener.
            None => std::future::pending().await,
        }
    }

    fn local_addr(&self) -> io::Result<Self::Addr> {
        Ok(self.addr)
    }
}

/// Connections that wait to be served.
const READY_MAX: usize = 1024;

async fn echo(mut websocket: WebSocket) {
    let is_data = |message: &Message| matches!(message, Message::Text(_) | Message::Binary(_));
    // Whatever ends it, a generator that has finished is the usual reason, and axum hides which it was.
    let _ = Echo::new(&mut websocket, is_data).await;
}
