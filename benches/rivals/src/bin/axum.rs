//! An echo on axum: its own serve loop and WebSocket extractor, with an 8 KiB read buffer and a flush
//! when nothing more is to be read.

use axum::{
    Router,
    extract::ws::{Message, WebSocket, WebSocketUpgrade},
    routing::any,
    serve::ListenerExt,
};
use rivals::{Echo, READ_BUFFER_BYTES, Settings};

fn main() -> anyhow::Result<()> {
    rivals::run(serve)
}

async fn serve(settings: Settings) -> anyhow::Result<()> {
    let listener = rivals::listen(&settings)?.tap_io(|stream| {
        // A connection that is gone already says so when it is read.
        let _ = stream.set_nodelay(true);
    });
    let upgrade = async move |upgrade: WebSocketUpgrade| {
        upgrade
            .read_buffer_size(READ_BUFFER_BYTES)
            .max_message_size(settings.message_bytes_max)
            .max_frame_size(settings.message_bytes_max)
            .on_upgrade(echo)
    };
    axum::serve(listener, Router::new().route("/echo", any(upgrade))).await?;
    Ok(())
}

async fn echo(mut websocket: WebSocket) {
    let is_data = |message: &Message| matches!(message, Message::Text(_) | Message::Binary(_));
    // Whatever ends it, a generator that has finished is the usual reason, and axum hides which it was.
    let _ = Echo::new(&mut websocket, is_data).await;
}
