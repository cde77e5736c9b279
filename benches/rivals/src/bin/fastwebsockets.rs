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
use rivals::{Corked, Settings};
use tokio::{io::AsyncWriteExt, net::TcpStream};

fn main() -> anyhow::Result<()> {
    rivals::run(async |settings| {
        rivals::accept(rivals::listen(&settings)?, move |stream| {
            serve(stream, settings)
        })
        .await;
        Ok(())
    })
}

async fn serve(stream: TcpStream, settings: Settings) -> anyhow::Result<()> {
    let service = service_fn(move |mut request: Request<Incoming>| {
        let response = match upgrade::upgrade(&mut request) {
            Ok((response, upgraded)) => {
                tokio::spawn(async move {
                    if let Err(error) = echo(upgraded, settings).await {
                        eprintln!("{error:#}");
                    }
                });
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

async fn echo(upgraded: upgrade::UpgradeFut, settings: Settings) -> anyhow::Result<()> {
    // Boxed, so that the task does not keep room for a handshake that is over.
    let upgraded = Box::pin(upgraded).await?.into_inner().into_inner();
    let parts = upgraded
        .downcast::<TokioIo<TcpStream>>()
        .map_err(|_| anyhow!("hyper gave back another stream"))?;
    let stream = Corked::new(parts.io.into_inner()).with_early(parts.read_buf);
    let mut websocket = WebSocket::after_handshake(stream, Role::Server);
    websocket.set_auto_close(true);
    websocket.set_auto_pong(true);
    // It refuses messages of exactly this size, too.
    websocket.set_max_message_size(settings.message_bytes_max + 1);
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
