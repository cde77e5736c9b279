//! The loop of an echo over any library's stream and sink of messages.

use std::{
    pin::Pin,
    task::{Context, Poll},
};

use futures_util::{Sink, Stream};

/// Returns messages to their sender and flushes when it must wait for the next one. It ends when the
/// stream does.
#[derive(Debug)]
pub struct Echo<'a, W, M> {
    websocket: Pin<&'a mut W>,
    /// Whether a message goes back; the libraries answer pings and closes by themselves.
    is_data: fn(&M) -> bool,
    /// Read, and not yet taken by the sink.
    pending: Option<M>,
}

impl<'a, W, M> Echo<'a, W, M> {
    /// Echoes what `is_data` picks.
    pub fn new(websocket: &'a mut W, is_data: fn(&M) -> bool) -> Self
    where
        W: Unpin,
    {
        Self {
            websocket: Pin::new(websocket),
            is_data,
            pending: None,
        }
    }
}

// Nothing in it is pinned in place: the WebSocket lies behind a reference.
impl<W, M> Unpin for Echo<'_, W, M> {}

impl<W, M, E> Future for Echo<'_, W, M>
where
    W: Stream<Item = Result<M, E>> + Sink<M, Error = E>,
{
    type Output = Result<(), E>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.get_mut();
        // A peer that never pauses is bounded by tokio's budget: its reads then answer Pending.
        loop {
            if let Some(message) = this.pending.take() {
                match this.websocket.as_mut().poll_ready(cx)? {
                    Poll::Ready(()) => this.websocket.as_mut().start_send(message)?,
                    Poll::Pending => {
                        this.pending = Some(message);
                        return Poll::Pending;
                    }
                }
            }
            match this.websocket.as_mut().poll_next(cx)? {
                Poll::Ready(Some(message)) if (this.is_data)(&message) => {
                    this.pending = Some(message);
                }
                Poll::Ready(Some(_)) => {}
                Poll::Ready(None) => return Poll::Ready(Ok(())),
                Poll::Pending => {
                    // Woken by the read above, and by a flush that has to wait.
                    let _ = this.websocket.as_mut().poll_flush(cx)?;
                    return Poll::Pending;
                }
            }
        }
    }
}
