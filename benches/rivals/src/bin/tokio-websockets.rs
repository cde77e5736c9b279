//! An echo on tokio-websockets. The library writes whenever it is asked for the next message; the
//! corked stream makes one send of what it wrote until there is nothing more to read.

use rivals::{Corked, Echo, Serve, Stream};
use tokio::io::AsyncWriteExt;
use tokio_websockets::{Limits, Message, ServerBuilder};

fn main() -> anyhow::Result<()> {
    rivals::run(async |settings| {
        let limits = Limits::default().max_payload_len(Some(settings.message_bytes_max));
        rivals::accept(settings, Server { limits }).await
    })
}

#[derive(Clone)]
struct Server {
    limits: Limits,
}

impl Serve for Server {
    async fn serve(self, stream: impl Stream) -> anyhow::Result<()> {
        let server = ServerBuilder::new().limits(self.limits);
        // Boxed, so that the task does not keep room for a handshake that is over.
        let (_, mut websocket) = Box::pin(server.accept(Corked::new(stream))).await?;
        let is_data = |message: &Message| message.is_text() || message.is_binary();
        let result = Echo::new(&mut websocket, is_data).await;
        // A peer that is gone needs no end.
        let _ = websocket.get_mut().shutdown().await;
        match result {
            // A generator that has finished may go without a close frame.
            Ok(()) | Err(tokio_websockets::Error::Io(_)) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }
}
