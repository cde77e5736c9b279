//! Connections that are TLS: what they say is encrypted when it is sent, what comes is decrypted where
//! it lies.

use super::{
    End, Load,
    client::{BREACH, Clients, Stage},
};
use crate::{
    base::segments::Segment,
    bench::{
        BenchError,
        tls::{Channel, TlsFigures},
    },
    engine::Engine,
};

impl Clients {
    /// Begins TLS for the next connection, if the server wants it.
    ///
    /// # Errors
    /// If the library refuses.
    pub(super) fn secure(&self) -> Result<Option<Box<Channel>>, BenchError> {
        let conn = self.len();
        let channel = self.tls.as_ref().map(|tls| tls.begin()).transpose();
        channel.map_err(|error| BenchError::Tls { conn, error })
    }

    /// What was agreed on.
    pub(super) fn tls_figures(&self) -> Option<TlsFigures> {
        self.tls.as_ref().map(|tls| tls.figures.clone())
    }

    /// Handles what came.
    #[inline]
    pub(super) fn on_received<L: Load>(
        &mut self,
        conn: u32,
        bytes: &mut [u8],
        load: &mut L,
        now: u64,
    ) {
        let Some(mut channel) = self.list[conn as usize].channel.take() else {
            return self.on_bytes(conn, bytes, load, now);
        };
        let was_open = channel.is_open();
        let result = channel.read(bytes, &mut |plain| {
            // What comes after its end is nobody's.
            if self.list[conn as usize].stage != Stage::Ended {
                self.on_bytes(conn, plain, load, now);
            }
        });
        if channel.is_open() != was_open {
            self.wake.wake(conn);
            if let Some(tls) = &mut self.tls {
                tls.on_open(&channel);
            }
        }
        if channel.has_out() {
            self.wake.wake(conn);
        }
        let is_over = channel.is_over();
        self.list[conn as usize].channel = Some(channel);
        if let Err(error) = result {
            self.fail_sealed(conn, error, load, now);
        } else if is_over && self.list[conn as usize].stage != Stage::Ended {
            let end = End {
                code: None,
                errno: None,
            };
            self.end(conn, end, load, now);
        }
    }

    /// Encrypts and sends what a connection has to say.
    #[inline]
    pub(super) fn flush_sealed<E: Engine, L: Load>(
        &mut self,
        engine: &mut E,
        conn: u32,
        load: &mut L,
        now: u64,
    ) {
        let client = &mut self.list[conn as usize];
        let Some(channel) = &mut client.channel else {
            return;
        };
        let mut out = self.spare_bufs.pop().unwrap_or_default();
        let mut result = Ok(());
        channel.take_out(&mut out);
        if channel.is_open() {
            if !client.control.is_empty() {
                result = channel.write(&client.control, &mut out);
                client.control.clear();
            }
            if client.stage == Stage::Ready
                && self.is_loaded
                && let Some(frames) = load.take(conn, now)
            {
                result = result.and_then(|()| channel.write(frames.as_slice(), &mut out));
                // They are free again at once: what the kernel gets is a copy.
                if let Segment::Owned { buf, .. } = frames {
                    load.give_back(conn, buf);
                }
            }
        }
        if out.is_empty() {
            self.spare_bufs.push(out);
        } else {
            let mut batch = self.spare_batches.pop().unwrap_or_default();
            batch.push(Segment::Owned { buf: out, start: 0 });
            client.is_sending = true;
            engine.send(client.key, batch);
        }
        if let Err(error) = result {
            self.fail_sealed(conn, error, load, now);
        }
    }

    /// Keeps a buffer that was sent.
    pub(super) fn keep_buf(&mut self, mut buf: Vec<u8>) {
        buf.clear();
        self.spare_bufs.push(buf);
    }

    fn fail_sealed<L: Load>(&mut self, conn: u32, error: rustls::Error, load: &mut L, now: u64) {
        if self.list[conn as usize].stage == Stage::Ended {
            return;
        }
        if !self.is_loaded {
            self.failure.get_or_insert(BenchError::Tls { conn, error });
        }
        let errno = Some(BREACH);
        self.end(conn, End { code: None, errno }, load, now);
    }
}
