//! An echo on tokio-tungstenite: an 8 KiB read buffer, and a flush when nothing more is to be read.

use rivals::{Echo, READ_BUFFER_BYTES, Serve, Stream};
use tokio_tungstenite::{
    accept_async_with_config,
    tungstenite::{Error, Message, error::ProtocolError, protocol::WebSocketConfig},
};

fn main() -> anyhow::Result<()> {
    rivals::run(async |settings| {
        let config = WebSocketConfig::default()
            .read_buffer_size(READ_BUFFER_BYTES)
            .max_message_size(Some(settings.message_bytes_max))
            .max_frame_size(Some(settings.message_bytes_max));
        rivals::accept(settings, Server { config }).await
    })
}

#[derive(Clone)]
struct Server {
    config: WebSocketConfig,
}

impl Serve for Server {
    async fn serve(self, stream: impl Stream) -> anyhow::Result<()> {
        // Boxed, so that the task does not keep room for a handshake that is over.
        let accepting = accept_async_with_config(stream, Some(self.config));
        let mut websocket = Box::pin(accepting).await?;
        let is_data = |message: &Message| message.is_text() || message.is_binary();
        match Echo::new(&mut websocket, is_data).await {
            Ok(()) | Err(Error::ConnectionClosed | Error::AlreadyClosed) => Ok(()),
            // A generator that has finished may go without a close frame.
            Err(Error::Protocol(ProtocolError::ResetWithoutClosingHandshake)) => Ok(()),
            Err(Error::Io(_)) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }
}
