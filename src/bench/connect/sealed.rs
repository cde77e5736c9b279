//! Visits over TLS: the handshake, and what is said once it is over.

use super::{ConnKey, Engine, Sealed, SharedFrame, SystemKernel, Turnstile};
use crate::{
    base::segments::{Segment, SendBatch},
    bench::BenchError,
};

impl<K: SystemKernel> Turnstile<'_, K> {
    /// Begins TLS for a connection, if the server wants it.
    pub(super) fn seal(&self, conn: u32) -> Result<Option<Box<Sealed>>, BenchError> {
        let Some(tls) = &self.tls else {
            return Ok(None);
        };
        let channel = tls
            .begin()
            .map_err(|error| BenchError::Tls { conn, error })?;
        Ok(Some(Box::new(Sealed {
            channel,
            plain: Vec::new(),
            pending: Vec::new(),
            is_sending: false,
            has_asked: false,
        })))
    }

    /// Handles what came over TLS; false if no more of it matters.
    pub(super) fn on_sealed(&mut self, key: ConnKey, buf: &mut Vec<u8>) -> bool {
        let Some(visit) = self.visit(key) else {
            return false;
        };
        let (conn, is_closing) = (visit.conn, visit.is_closing);
        let Some(mut sealed) = visit.sealed.take() else {
            return false;
        };
        let mut plain = std::mem::take(&mut sealed.plain);
        let result = sealed
            .channel
            .read(buf, &mut |part| plain.extend_from_slice(part));
        buf.clear();
        let is_new = sealed.channel.is_open() && !sealed.has_asked;
        sealed.has_asked |= is_new;
        if is_new && self.tally.is_measuring() {
            self.tls
                .iter_mut()
                .for_each(|tls| tls.on_open(&sealed.channel));
        }
        if let Some(visit) = self.visit(key) {
            visit.sealed = Some(sealed);
        }
        if is_closing {
            // The end of the stream follows the end of TLS.
            return true;
        }
        if let Err(error) = result {
            self.fail(key, BenchError::Tls { conn, error });
            return false;
        }
        if is_new {
            let request = self.request_of(conn);
            self.say_sealed(key, &request);
        } else {
            self.send_sealed(key);
        }
        let goes_on = plain.is_empty() || self.on_plain(key, &mut plain);
        if let Some(visit) = self.visit(key)
            && let Some(sealed) = &mut visit.sealed
        {
            sealed.plain = plain;
        }
        goes_on
    }

    /// Encrypts and sends `what`.
    pub(super) fn say_sealed(&mut self, key: ConnKey, what: &SharedFrame) {
        let Some(visit) = self.visit(key) else {
            return;
        };
        let conn = visit.conn;
        let Some(sealed) = &mut visit.sealed else {
            return;
        };
        sealed.channel.take_out(&mut sealed.pending);
        let result = sealed.channel.write(what.as_slice(), &mut sealed.pending);
        if let Err(error) = result {
            return self.fail(key, BenchError::Tls { conn, error });
        }
        self.send_sealed(key);
    }

    /// Sends what waits, unless something is being sent.
    pub(super) fn send_sealed(&mut self, key: ConnKey) {
        let Some(visit) = self.visit(key) else {
            return;
        };
        let Some(sealed) = &mut visit.sealed else {
            return;
        };
        sealed.channel.take_out(&mut sealed.pending);
        if sealed.is_sending || sealed.pending.is_empty() {
            return;
        }
        sealed.is_sending = true;
        let buf = std::mem::take(&mut sealed.pending);
        let mut batch = Box::<SendBatch>::default();
        batch.push(Segment::Owned { buf, start: 0 });
        self.engine.send(key, batch);
    }

    /// A send is over.
    pub(super) fn on_sent(&mut self, key: ConnKey) {
        if let Some(visit) = self.visit(key)
            && let Some(sealed) = &mut visit.sealed
        {
            sealed.is_sending = false;
            self.send_sealed(key);
        }
    }
}
