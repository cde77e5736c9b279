//! An echo on fastwebsockets, upgraded by hyper as the library's documentation shows, and then on the
//! bare stream instead of hyper's, which would add a virtual call and a buffer. The library writes each
//! message by itself; the corked stream makes one send of what it wrote until there is nothing more to
//! read.

use std::convert::Infallible;

use anyhow::{Context, anyhow};
use fastwebsockets::{FragmentCollector, OpCode, Role, WebSocket, WebSocketError, upgrade};
use http_body_util::Empty;
use hyper::{
    Request, Response, StatusCode,
    body::{Bytes, Incoming},
    server::conn::http1,
    service::service_fn,
};
use hyper_util::rt::TokioIo;
use rivals::{Corked, Serve, Stream};
use tokio::io::AsyncWriteExt;

fn main() -> anyhow::Result<()> {
    rivals::run(async |settings| {
        let message_bytes_max = settings.message_bytes_max;
        rivals::accept(settings, Server { message_bytes_max }).await
    })
}

#[derive(Clone, Copy)]
struct Server {
    message_bytes_max: usize,
}

impl Serve for Server {
    async fn serve(self, stream: impl Stream) -> anyhow::Result<()> {
        serve(stream, self.message_bytes_max).await
    }
}

async fn serve<S: Stream>(stream: S, message_bytes_max: usize) -> anyhow::Result<()> {
    let service = service_fn(move |mut request: Request<Incoming>| {
        let response = match upgrade::upgrade(&mut request) {
            Ok((response, upgraded)) => {
                rivals::spawn(echo::<S>(upgraded, message_bytes_max));
                response
            }
            Err(_) => {
                let mut response = Response::new(Empty::<Bytes>::new());
                *response.status_mut() = StatusCode::BAD_REQUEST;
                response
            }
        };
        std::future::ready(Ok::<_, Infallible>(response))
    });
    http1::Builder::new()
        .serve_connection(TokioIo::new(stream), service)
        .with_upgrades()
        .await
        .context("the upgrade")
}

async fn echo<S: Stream>(
    upgraded: upgrade::UpgradeFut,
    message_bytes_max: usize,
) -> anyhow::Result<()> {
    // Boxed, so that the task does not keep room for a handshake that is over.
    let upgraded = Box::pin(upgraded).await?.into_inner().into_inner();
    let parts = upgraded
        .downcast::<TokioIo<S>>()
        .map_err(|_| anyhow!("hyper gave back another stream"))?;
    let stream = Corked::new(parts.io.into_inner()).with_early(parts.read_buf);
    let mut websocket = WebSocket::after_handshake(stream, Role::Server);
    websocket.set_auto_close(true);
    websocket.set_auto_pong(true);
    // It refuses messages of exactly this size, too.
    websocket.set_max_message_size(message_bytes_max + 1);
    let mut websocket = FragmentCollector::new(websocket);
    let result = loop {
        match websocket.read_frame().await {
            Ok(frame) => match frame.opcode {
                OpCode::Text | OpCode::Binary => {
                    if let Err(error) = websocket.write_frame(frame).await {
                        break Err(error);
                    }
                }
                OpCode::Close => break Ok(()),
                _ => {}
            },
            Err(error) => break Err(error),
        }
    };
    // A peer that is gone needs no end.
    let _ = websocket.into_inner().shutdown().await;
    match result {
        // A generator that has finished may go without a close frame.
        Ok(()) | Err(WebSocketError::UnexpectedEOF | WebSocketError::IoError(_)) => Ok(()),
        Err(error) => Err(error.into()),
    }
}
