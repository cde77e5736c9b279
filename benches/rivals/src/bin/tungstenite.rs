//! An echo on tokio-tungstenite: an 8 KiB read buffer, and a flush when nothing more is to be read.

use rivals::{Echo, READ_BUFFER_BYTES, Settings};
use tokio::net::TcpStream;
use tokio_tungstenite::{
    accept_async_with_config,
    tungstenite::{Error, Message, error::ProtocolError, protocol::WebSocketConfig},
};

fn main() -> anyhow::Result<()> {
    rivals::run(async |settings| {
        rivals::accept(rivals::listen(&settings)?, move |stream| {
            echo(stream, settings)
        })
        .await;
        Ok(())
    })
}

async fn echo(stream: TcpStream, settings: Settings) -> anyhow::Result<()> {
    let config = WebSocketConfig::default()
        .read_buffer_size(READ_BUFFER_BYTES)
        .max_message_size(Some(settings.message_bytes_max))
        .max_frame_size(Some(settings.message_bytes_max));
    // Boxed, so that the task does not keep room for a handshake that is over.
    let mut websocket = Box::pin(accept_async_with_config(stream, Some(config))).await?;
    let is_data = |message: &Message| message.is_text() || message.is_binary();
    match Echo::new(&mut websocket, is_data).await {
        Ok(()) | Err(Error::ConnectionClosed | Error::AlreadyClosed) => Ok(()),
        // A generator that has finished may go without a close frame.
        Err(Error::Protocol(ProtocolError::ResetWithoutClosingHandshake)) => Ok(()),
        Err(error) => Err(error.into()),
    }
}
