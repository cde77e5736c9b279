//! The server's side of one TLS connection, without its socket (RFC 8446; RFC 5246 for TLS 1.2).
//!
//! Received bytes go in ([`Stream::handle_input`]), plaintext and records to be sent come out:
//!
//! ```text
//!   Handshaking ──finished──▶ Established ──close()──▶ Closed (this side)
//!        │                        │    └──the peer's close_notify──▶ peer_has_closed()
//!        └────────── a fault ─────┴──────────▶ Failed: one alert to be sent, then nothing
//! ```
//!
//! What has to be sent leaves in the order in which it was made, as each record has its number: what
//! the handshake, alerts and key updates made waits in [`Stream::take_output`], and whoever encrypts
//! takes that first.
//!
//! rustls does all of it. The unbuffered interface decrypts a record where it was received and holds
//! nothing while the connection is idle; the buffered one is a fallback behind the same interface.
//! What is incomplete, of a record or of a handshake message in several records, is carried over
//! here, within [`CARRIED_BYTES_MAX`].

mod buffered;
mod error;
#[cfg(test)]
mod tests;
mod unbuffered;

use std::{fmt, sync::Arc};

use rustls::{
    HandshakeKind, ProtocolVersion, ServerConfig, ServerConnection, pki_types::CertificateDer,
    server::UnbufferedServerConnection,
};

pub use self::error::{Failure, TlsError};
use self::{buffered::Buffered, unbuffered::Unbuffered};

/// Which interface of rustls a stream is driven by.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Interface {
    /// In place, nothing held while idle.
    #[default]
    Unbuffered,
    /// Through buffers of rustls.
    Buffered,
}

/// One server's connection. It takes about 2.2 KiB, and 1.2 KiB for its keys.
pub struct Stream {
    session: Session,
    /// Records to be sent that nobody asked for: the handshake's, alerts, answers to key updates.
    output: Vec<u8>,
    /// Bytes received so far, as far as they fit.
    received: u32,
    has_failed: bool,
    has_closed: bool,
}

#[allow(
    clippy::large_enum_variant,
    reason = "the large one is the rule, and a box of its own would cost every connection"
)]
enum Session {
    Unbuffered(Unbuffered),
    Buffered(Box<Buffered>),
}

impl Stream {
    /// A connection whose first byte is still to come.
    ///
    /// # Errors
    /// If rustls finds the configuration impossible.
    pub fn new(config: Arc<ServerConfig>, interface: Interface) -> Result<Self, TlsError> {
        let session = match interface {
            Interface::Unbuffered => {
                Session::Unbuffered(Unbuffered::new(UnbufferedServerConnection::new(config)?))
            }
            Interface::Buffered => {
                Session::Buffered(Box::new(Buffered::new(ServerConnection::new(config)?)))
            }
        };
        Ok(Self {
            session,
            output: Vec::new(),
            received: 0,
            has_failed: false,
            has_closed: false,
        })
    }

    /// Works through received bytes, which are overwritten, and appends what they say to `plain`: at
    /// most as many bytes. That holds also where an error follows: what came before it is genuine.
    ///
    /// # Errors
    /// The connection is over but for what [`Stream::take_output`] still has to say.
    pub fn handle_input(&mut self, bytes: &mut [u8], plain: &mut Vec<u8>) -> Result<(), TlsError> {
        self.received = self.received.saturating_add(bytes.len() as u32);
        if self.has_failed {
            return Ok(());
        }
        let result = match &mut self.session {
            Session::Unbuffered(session) => session.handle_input(bytes, plain, &mut self.output),
            Session::Buffered(session) => session.handle_input(bytes, plain, &mut self.output),
        };
        self.has_failed = result.is_err();
        result
    }

    /// Keeps received bytes for the next [`Stream::handle_input`], which may bring none itself.
    ///
    /// # Errors
    /// If they are too many, for a handshake.
    pub fn keep_input(&mut self, bytes: &[u8]) -> Result<(), TlsError> {
        self.received = self.received.saturating_add(bytes.len() as u32);
        let carry = self.carry_mut();
        carry.extend_from_slice(bytes);
        if carry.len() > CARRIED_BYTES_MAX {
            *carry = Vec::new();
            self.has_failed = true;
            return Err(TlsError::TooLong);
        }
        Ok(())
    }

    /// Whether `bytes` behind what is kept end a record, so that they may cost more than a look.
    pub fn would_advance(&self, bytes: &[u8]) -> bool {
        let carry = self.carry();
        let header = carry.iter().chain(bytes).copied().take(HEADER_BYTES);
        let mut parsed = [0; HEADER_BYTES];
        if header.zip(&mut parsed).map(|(b, at)| *at = b).count() < HEADER_BYTES {
            return false;
        }
        carry.len() + bytes.len() >= record_bytes(&parsed)
    }

    fn carry(&self) -> &Vec<u8> {
        match &self.session {
            Session::Unbuffered(session) => &session.carry,
            Session::Buffered(session) => &session.carry,
        }
    }

    fn carry_mut(&mut self) -> &mut Vec<u8> {
        match &mut self.session {
            Session::Unbuffered(session) => &mut session.carry,
            Session::Buffered(session) => &mut session.carry,
        }
    }

    /// Whether there is something to be sent that nobody asked for.
    #[inline]
    pub const fn has_output(&self) -> bool {
        !self.output.is_empty()
    }

    /// Moves it to the end of `out`.
    pub fn take_output(&mut self, out: &mut Vec<u8>) {
        let output = std::mem::take(&mut self.output);
        if out.capacity() == 0 {
            *out = output;
        } else {
            out.extend_from_slice(&output);
        }
    }

    /// Encrypts `pieces`, in order and as if they were one, to the end of `out`, behind what
    /// [`Stream::take_output`] has. Short pieces share a record, by way of `staging`, which is empty
    /// before and after; long ones are encrypted from where they lie.
    ///
    /// # Errors
    /// If nothing may be sent: before the handshake's end, after a fault, after [`Stream::close`].
    pub fn encrypt<'a>(
        &mut self,
        pieces: impl Iterator<Item = &'a [u8]>,
        staging: &mut Vec<u8>,
        out: &mut Vec<u8>,
    ) -> Result<(), TlsError> {
        if !self.may_send() {
            return Err(TlsError::NotOpen);
        }
        self.take_output(out);
        let mut pieces = pieces.peekable();
        while let Some(piece) = pieces.next() {
            let mut piece = piece;
            if !staging.is_empty() {
                let fitting = (RECORD_PLAIN_BYTES_MAX - staging.len()).min(piece.len());
                staging.extend_from_slice(&piece[..fitting]);
                piece = &piece[fitting..];
                if staging.len() < RECORD_PLAIN_BYTES_MAX {
                    continue;
                }
                self.encrypt_records(staging, out)?;
                staging.clear();
            }
            let whole = match pieces.peek() {
                Some(_) => piece.len() - piece.len() % RECORD_PLAIN_BYTES_MAX,
                None => piece.len(),
            };
            self.encrypt_records(&piece[..whole], out)?;
            staging.extend_from_slice(&piece[whole..]);
        }
        let result = self.encrypt_records(staging, out);
        staging.clear();
        result
    }

    fn encrypt_records(&mut self, plain: &[u8], out: &mut Vec<u8>) -> Result<(), TlsError> {
        if plain.is_empty() {
            return Ok(());
        }
        let result = match &mut self.session {
            Session::Unbuffered(session) => session.encrypt(plain, out),
            Session::Buffered(session) => session.encrypt(plain, out),
        };
        self.has_failed |= result.is_err();
        result
    }

    /// Ends this side: a close_notify is to be sent, if the handshake is over and nothing has gone
    /// wrong (RFC 8446 §6.1). Nothing can be encrypted behind it.
    pub fn close(&mut self) {
        if !self.may_send() {
            return;
        }
        self.has_closed = true;
        match &mut self.session {
            Session::Unbuffered(session) => session.close(&mut self.output),
            Session::Buffered(session) => session.close(&mut self.output),
        }
    }

    /// Whether what is encrypted now may be sent.
    pub fn may_send(&self) -> bool {
        !self.is_handshaking() && !self.has_failed && !self.has_closed
    }

    /// Whether the handshake goes on.
    pub fn is_handshaking(&self) -> bool {
        match &self.session {
            Session::Unbuffered(session) => session.connection.is_handshaking(),
            Session::Buffered(session) => session.connection.is_handshaking(),
        }
    }

    /// Whether the peer has said that nothing more comes; without that, an end of its stream is none
    /// that it has vouched for.
    pub const fn peer_has_closed(&self) -> bool {
        match &self.session {
            Session::Unbuffered(session) => session.peer_has_closed,
            Session::Buffered(session) => session.peer_has_closed,
        }
    }

    /// Ends it by a fault that was found elsewhere. What it has to say may still be sent.
    pub const fn fail(&mut self) {
        self.has_failed = true;
    }

    /// Whether it was ended by a fault.
    pub const fn has_failed(&self) -> bool {
        self.has_failed
    }

    /// Bytes received so far.
    pub const fn received(&self) -> u32 {
        self.received
    }

    /// Bytes that it holds beside its own.
    pub fn buffered_bytes(&self) -> usize {
        self.carry().capacity() + self.output.capacity()
    }

    /// Whether the handshake took up an earlier session.
    pub fn is_resumed(&self) -> bool {
        let kind = match &self.session {
            Session::Unbuffered(session) => session.connection.handshake_kind(),
            Session::Buffered(session) => session.connection.handshake_kind(),
        };
        kind == Some(HandshakeKind::Resumed)
    }

    /// The version agreed upon.
    pub fn version(&self) -> Option<ProtocolVersion> {
        match &self.session {
            Session::Unbuffered(session) => session.connection.protocol_version(),
            Session::Buffered(session) => session.connection.protocol_version(),
        }
    }

    /// The client's certificates, its own first, where it has shown some and they were verified.
    pub fn peer_certificates(&self) -> Option<&[CertificateDer<'static>]> {
        if self.is_handshaking() {
            return None;
        }
        match &self.session {
            Session::Unbuffered(session) => session.connection.peer_certificates(),
            Session::Buffered(session) => session.connection.peer_certificates(),
        }
    }
}

impl fmt::Debug for Stream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Stream")
            .field("is_handshaking", &self.is_handshaking())
            .field("version", &self.version())
            .field("output", &self.output.len())
            .field("has_failed", &self.has_failed)
            .field("has_closed", &self.has_closed)
            .finish_non_exhaustive()
    }
}

/// What the record that begins with `header` takes, header included. Longer than any may be if it is
/// none: rustls then says what is wrong.
fn record_bytes(header: &[u8; HEADER_BYTES]) -> usize {
    let [_, _, _, high, low] = *header;
    HEADER_BYTES + usize::from(u16::from_be_bytes([high, low]))
}

/// What an alert says that is sent without a stream, before anything was read (RFC 8446 §6).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BareAlert {
    /// No parameters that both sides know: there is no TLS here.
    HandshakeFailure = 40,
    /// The client is not let in, whatever it shows.
    AccessDenied = 49,
    /// What is to blame is not the client.
    InternalError = 80,
}

impl BareAlert {
    /// The record: unencrypted, fatal.
    pub const fn record(self) -> [u8; 7] {
        [21, 3, 3, 0, 2, 2, self as u8]
    }
}

/// Whether a client that begins with `first` has begun a TLS handshake.
pub const fn is_client_hello(first: u8) -> bool {
    first == 22
}

/// Bytes of a record's header.
const HEADER_BYTES: usize = 5;
/// Plaintext in one record (RFC 8446 §5.1).
pub const RECORD_PLAIN_BYTES_MAX: usize = 16 * 1024;
/// What a record takes beyond its plaintext, of every cipher suite, rounded up.
const RECORD_OVERHEAD_BYTES: usize = 64;
/// What may wait for the rest of a record, or of a handshake message in several: rustls takes such
/// messages of up to 64 KiB.
pub const CARRIED_BYTES_MAX: usize = 96 * 1024;
