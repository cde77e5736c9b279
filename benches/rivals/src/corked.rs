//! A stream that gathers what is written and sends it when there is nothing more to read.
//!
//! For libraries that write each message by itself: sixteen echoes of messages that came together leave
//! by one send instead of sixteen.

use std::{
    io::{self, IoSlice},
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::{Buf, Bytes};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::Stream;

/// The stream, and what was written to it and not yet sent.
#[derive(Debug)]
pub struct Corked<S> {
    stream: S,
    gathered: Vec<u8>,
    /// How much of it is sent.
    sent: usize,
    /// What someone else read already.
    early: Bytes,
}

impl<S: Stream> Corked<S> {
    /// Corks a stream.
    #[must_use]
    pub fn new(stream: S) -> Self {
        Self {
            stream,
            gathered: Vec::new(),
            sent: 0,
            early: Bytes::new(),
        }
    }

    /// Puts bytes that were read from it back in front.
    #[must_use]
    pub fn with_early(mut self, early: Bytes) -> Self {
        // Empty, it would still keep the memory that it was cut from.
        self.early = if early.is_empty() {
            Bytes::new()
        } else {
            early
        };
        self
    }

    /// Sends what is gathered.
    fn poll_send(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while self.sent < self.gathered.len() {
            let rest = &self.gathered[self.sent..];
            let n = ready!(Pin::new(&mut self.stream).poll_write(cx, rest))?;
            if n == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.sent += n;
        }
        self.sent = 0;
        self.gathered.clear();
        // TLS may keep records that the socket did not take.
        ready!(Pin::new(&mut self.stream).poll_flush(cx))?;
        if self.gathered.capacity() > KEPT_BYTES {
            self.gathered = Vec::new();
        }
        Poll::Ready(Ok(()))
    }

    /// Makes room for `len` bytes; answers whether they are to be gathered at all.
    fn poll_gather(&mut self, cx: &mut Context<'_>, len: usize) -> Poll<io::Result<bool>> {
        let is_direct = len >= DIRECT_BYTES;
        if is_direct || self.gathered.len() + len > GATHERED_BYTES_MAX {
            ready!(self.poll_send(cx))?;
        }
        Poll::Ready(Ok(!is_direct))
    }
}

impl<S: Stream> AsyncRead for Corked<S> {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if this.early.has_remaining() {
            let n = this.early.len().min(buf.remaining());
            buf.put_slice(&this.early.split_to(n));
            return Poll::Ready(Ok(()));
        }
        match Pin::new(&mut this.stream).poll_read(cx, buf) {
            Poll::Pending => {
                // Whether it is sent now or must wait, the read has to wait.
                if let Poll::Ready(result) = this.poll_send(cx) {
                    result?;
                }
                Poll::Pending
            }
            ready => ready,
        }
    }
}

impl<S: Stream> AsyncWrite for Corked<S> {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        if ready!(this.poll_gather(cx, buf.len()))? {
            this.gathered.extend_from_slice(buf);
            return Poll::Ready(Ok(buf.len()));
        }
        Pin::new(&mut this.stream).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let len = bufs.iter().map(|buf| buf.len()).sum();
        if ready!(this.poll_gather(cx, len))? {
            for buf in bufs {
                this.gathered.extend_from_slice(buf);
            }
            return Poll::Ready(Ok(len));
        }
        Pin::new(&mut this.stream).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    /// Does nothing: whoever flushes reads next, and that sends.
    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        ready!(this.poll_send(cx))?;
        Pin::new(&mut this.stream).poll_shutdown(cx)
    }
}

/// Larger pieces are worth a send of their own, and no copy.
const DIRECT_BYTES: usize = 8 * 1024;
/// Beyond this it is sent even though there is more to read.
const GATHERED_BYTES_MAX: usize = 64 * 1024;
/// Memory that a connection keeps for the next time.
const KEPT_BYTES: usize = 1024;
