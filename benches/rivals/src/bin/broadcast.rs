//! Rooms as they are usually built on tokio: a broadcast channel per room, tokio-tungstenite for each
//! member. Of the libraries here it is the one whose sink gathers small messages and flushes when asked,
//! so a member that finds several messages sends them at once.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
};

use anyhow::Context;
use futures_util::{SinkExt, StreamExt};
use rivals::{READ_BUFFER_BYTES, Serve, Stream};
use tokio::sync::broadcast::{self, error::RecvError, error::TryRecvError};
use tokio_tungstenite::{
    WebSocketStream, accept_hdr_async_with_config,
    tungstenite::{
        Error, Message,
        error::ProtocolError,
        handshake::server::{ErrorResponse, Request, Response},
        protocol::WebSocketConfig,
    },
};

/// Only asked when a client joins or leaves; there is one thread, so it never waits.
type Rooms = Arc<Mutex<HashMap<String, broadcast::Sender<Message>>>>;

fn main() -> anyhow::Result<()> {
    rivals::run(async |settings| {
        let server = Server {
            message_bytes_max: settings.message_bytes_max,
            rooms: Rooms::default(),
        };
        rivals::accept(settings, server).await
    })
}

#[derive(Clone)]
struct Server {
    message_bytes_max: usize,
    rooms: Rooms,
}

impl Serve for Server {
    async fn serve(self, stream: impl Stream) -> anyhow::Result<()> {
        member(stream, self.message_bytes_max, self.rooms).await
    }
}

#[allow(
    clippy::result_large_err,
    reason = "the library wants a refusal as a whole response"
)]
async fn member(stream: impl Stream, message_bytes_max: usize, rooms: Rooms) -> anyhow::Result<()> {
    let config = WebSocketConfig::default()
        .read_buffer_size(READ_BUFFER_BYTES)
        .max_message_size(Some(message_bytes_max))
        .max_frame_size(Some(message_bytes_max));
    let mut name = None;
    let callback = |request: &Request, response: Response| {
        name = request
            .uri()
            .path()
            .strip_prefix("/room/")
            .map(str::to_owned);
        if name.is_some() {
            return Ok(response);
        }
        let mut refusal = ErrorResponse::new(None);
        *refusal.status_mut() = tokio_tungstenite::tungstenite::http::StatusCode::NOT_FOUND;
        Err(refusal)
    };
    // Boxed, so that the task does not keep room for a handshake that is over.
    let accepting = accept_hdr_async_with_config(stream, callback, Some(config));
    let websocket = Box::pin(accepting).await?;
    let name = name.context("the room's name")?;
    let (sender, receiver) = {
        let mut rooms = rooms.lock().unwrap_or_else(PoisonError::into_inner);
        let sender = rooms
            .entry(name.clone())
            .or_insert_with(|| broadcast::channel(ROOM_MESSAGES_MAX).0)
            .clone();
        let receiver = sender.subscribe();
        (sender, receiver)
    };
    let result = talk(websocket, &sender, receiver).await;
    if sender.receiver_count() == 0 {
        let mut rooms = rooms.lock().unwrap_or_else(PoisonError::into_inner);
        rooms.remove(&name);
    }
    match result {
        Ok(()) | Err(Error::ConnectionClosed | Error::AlreadyClosed) => Ok(()),
        // A generator that has finished may go without a close frame.
        Err(Error::Protocol(ProtocolError::ResetWithoutClosingHandshake)) => Ok(()),
        Err(Error::Io(_)) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

/// Until the client leaves, or is too slow: whoever misses messages is closed, as nobody could tell
/// what is missing.
async fn talk(
    mut websocket: WebSocketStream<impl Stream>,
    room: &broadcast::Sender<Message>,
    mut messages: broadcast::Receiver<Message>,
) -> Result<(), Error> {
    loop {
        tokio::select! {
            biased;
            message = websocket.next() => match message {
                Some(Ok(message @ (Message::Text(_) | Message::Binary(_)))) => {
                    // It reaches this member, too, so there is one.
                    let _ = room.send(message);
                }
                Some(Ok(_)) => {}
                Some(Err(error)) => return Err(error),
                None => return Ok(()),
            },
            message = messages.recv() => {
                let mut next = match message {
                    Ok(message) => Some(message),
                    Err(RecvError::Lagged(_) | RecvError::Closed) => return websocket.close(None).await,
                };
                while let Some(message) = next {
                    websocket.feed(message).await?;
                    next = match messages.try_recv() {
                        Ok(message) => Some(message),
                        Err(TryRecvError::Empty) => None,
                        Err(TryRecvError::Lagged(_) | TryRecvError::Closed) => {
                            return websocket.close(None).await;
                        }
                    };
                }
                websocket.flush().await?;
            }
        }
    }
}

/// Messages that a room keeps for its slowest member; memory that each room takes at once.
const ROOM_MESSAGES_MAX: usize = 128;
