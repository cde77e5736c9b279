//! The WebSocket opening handshake, both ends of it (RFC 6455 §1.3, §4).
//!
//! It turns a request head into an upgrade or into the response that refuses it, and checks the
//! other end's answer when this end is the client. It does not know which origins, tokens or
//! subprotocols are welcome, nor any frame.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use sha1::{Digest as _, Sha1};
use smallvec::SmallVec;

use super::http1::{Head, Response, is_token, list_elements, write_field};

mod client;
mod extensions;

pub use client::{Accepted, ClientHandshake};
pub use extensions::{EXTENSIONS_MAX, Extension, Param, read_extensions};

/// A valid request to upgrade (RFC 6455 §4.2.1), borrowed from its head.
///
/// Not `Debug`: a `session.` entry among the subprotocols is a credential.
pub struct Upgrade<'a> {
    key: &'a str,
    subprotocols: SmallVec<[&'a str; 4]>,
    extensions: Vec<Extension<'a>>,
}

impl<'a> Upgrade<'a> {
    /// Reads the handshake out of a request head.
    ///
    /// # Errors
    /// [`HandshakeError`], with the response to give.
    pub fn from_head(head: &Head<'a>) -> Result<Self, HandshakeError> {
        if head.method != "GET" {
            return Err(HandshakeError::MethodNotGet);
        }
        // First, so that a plain request for the page is told what this resource is.
        if !head.list_contains("upgrade", "websocket") {
            return Err(HandshakeError::NotAnUpgrade);
        }
        // RFC 6455 §4.2.1 item 1; RFC 9110 §7.8: Upgrade means nothing in HTTP/1.0.
        if head.version_minor < 1 {
            return Err(HandshakeError::HttpVersionTooLow);
        }
        if !head.list_contains("connection", "upgrade") {
            return Err(HandshakeError::ConnectionNotUpgrade);
        }
        // Before the key: a later version may have another idea of it.
        let mut versions = head.header_values("sec-websocket-version");
        if versions.next() != Some(VERSION.as_bytes()) || versions.next().is_some() {
            return Err(HandshakeError::UnsupportedVersion);
        }
        let mut keys = head.header_values("sec-websocket-key");
        let key = match (keys.next(), keys.next()) {
            (None, _) => return Err(HandshakeError::MissingKey),
            (Some(key), None) => read_key(key).ok_or(HandshakeError::InvalidKey)?,
            (Some(_), Some(_)) => return Err(HandshakeError::RepeatedKey),
        };
        let subprotocols = read_subprotocols(head)?;
        let extensions = read_extensions(head.header_values("sec-websocket-extensions"))?;
        Ok(Self {
            key,
            subprotocols,
            extensions,
        })
    }

    /// `Sec-WebSocket-Key` as sent: 24 characters.
    #[must_use]
    pub fn key(&self) -> &'a str {
        self.key
    }

    /// The entries of `Sec-WebSocket-Protocol` in the client's order of preference, all distinct
    /// tokens. Those that start with [`SESSION_PREFIX`] are among them.
    pub fn subprotocols(&self) -> impl Iterator<Item = &'a str> {
        self.subprotocols.iter().copied()
    }

    /// The extensions offered, in the client's order of preference.
    #[must_use]
    pub fn extensions(&self) -> &[Extension<'a>] {
        &self.extensions
    }

    /// Picks the first offered subprotocol that is `known` (RFC 6455 §4.2.2 item 5).
    ///
    /// Entries that start with [`SESSION_PREFIX`] carry credentials; they are no offers, and are
    /// not picked even if `known`.
    #[must_use]
    pub fn choose(&self, known: &[&'static str]) -> Subprotocol {
        let mut answer = Subprotocol::NoneOffered;
        for offered in self.subprotocols() {
            if offered.starts_with(SESSION_PREFIX) {
                continue;
            }
            if let Some(chosen) = known.iter().find(|known| **known == offered) {
                return Subprotocol::Chosen(chosen);
            }
            answer = Subprotocol::NoneKnown;
        }
        answer
    }
}

/// The outcome of choosing a subprotocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Subprotocol {
    /// The client asks for none.
    NoneOffered,
    /// The one to answer with.
    Chosen(&'static str),
    /// The client asks for some, and none of them is known.
    NoneKnown,
}

/// Why an opening handshake failed. The blame is always the peer's: a client's in the variants
/// before [`ResponseMalformed`](Self::ResponseMalformed), a server's from there on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum HandshakeError {
    /// RFC 6455 §4.1 item 2.
    #[error("a WebSocket handshake is a GET request")]
    MethodNotGet,
    /// RFC 6455 §4.1 item 2.
    #[error("a WebSocket handshake needs HTTP/1.1")]
    HttpVersionTooLow,
    /// An ordinary request: `Upgrade` does not list `websocket` (RFC 6455 §4.2.1 item 3).
    #[error("this resource speaks WebSocket only")]
    NotAnUpgrade,
    /// RFC 6455 §4.2.1 item 4. The usual cause is a proxy that is not set up for WebSocket.
    #[error("the Connection header does not list Upgrade; a proxy on the way may have dropped it")]
    ConnectionNotUpgrade,
    /// RFC 6455 §4.2.1 item 6, §4.4.
    #[error("only version 13 of the WebSocket protocol is spoken here")]
    UnsupportedVersion,
    /// RFC 6455 §4.2.1 item 5.
    #[error("the Sec-WebSocket-Key header is missing")]
    MissingKey,
    /// RFC 6455 §11.3.1.
    #[error("the Sec-WebSocket-Key header is repeated")]
    RepeatedKey,
    /// RFC 6455 §4.2.1 item 5.
    #[error("the Sec-WebSocket-Key header is not the base64 of 16 bytes")]
    InvalidKey,
    /// RFC 6455 §4.1 item 10.
    #[error("an entry of the Sec-WebSocket-Protocol header is not a token")]
    InvalidSubprotocol,
    /// RFC 6455 §4.1 item 10.
    #[error("the Sec-WebSocket-Protocol header lists an entry twice")]
    RepeatedSubprotocol,
    /// More than [`SUBPROTOCOLS_MAX`] entries.
    #[error("the Sec-WebSocket-Protocol header has too many entries")]
    TooManySubprotocols,
    /// `Sec-WebSocket-Extensions` is no list of extensions, or too long a one (RFC 6455 §9.1).
    #[error("the Sec-WebSocket-Extensions header is malformed")]
    InvalidExtensions,
    /// The response is not one of HTTP/1.1.
    #[error("the server's response is malformed")]
    ResponseMalformed,
    /// The head of the response exceeds the bound of the client.
    #[error("the head of the server's response is too large")]
    ResponseTooLarge,
    /// The server answers with another status than 101 (RFC 6455 §4.1).
    #[error("the server refused the upgrade with status {0}")]
    Refused(u16),
    /// `Upgrade` or `Connection` do not confirm the upgrade (RFC 6455 §4.1).
    #[error("the server's response does not confirm the upgrade")]
    UpgradeNotConfirmed,
    /// `Sec-WebSocket-Accept` does not belong to the key (RFC 6455 §4.1).
    #[error("the server's Sec-WebSocket-Accept does not belong to the key")]
    InvalidAccept,
    /// An extension that was not asked for (RFC 6455 §4.1).
    #[error("the server uses an extension, or parameters of one, that were not requested")]
    UnrequestedExtension,
    /// A subprotocol that was not offered, or several (RFC 6455 §4.1).
    #[error("the server chose a subprotocol that was not offered")]
    UnrequestedSubprotocol,
}

impl HandshakeError {
    /// The HTTP status that answers this error; 502 where it is a server that failed.
    #[must_use]
    pub fn status(&self) -> u16 {
        match self {
            Self::MethodNotGet => 405,
            Self::NotAnUpgrade | Self::UnsupportedVersion => 426,
            Self::HttpVersionTooLow
            | Self::ConnectionNotUpgrade
            | Self::MissingKey
            | Self::RepeatedKey
            | Self::InvalidKey
            | Self::InvalidSubprotocol
            | Self::RepeatedSubprotocol
            | Self::TooManySubprotocols
            | Self::InvalidExtensions => 400,
            _ => 502,
        }
    }

    /// The response that tells the client so, with the headers its status asks for.
    #[must_use]
    pub fn response(&self) -> Response {
        let response = Response::new(self.status()).body(self.to_string());
        match self.status() {
            // RFC 9110 §15.5.6.
            405 => response.header("Allow", "GET"),
            // RFC 9110 §15.5.22; RFC 6455 §4.2.2 item 4.
            426 => response
                .header("Upgrade", "websocket")
                .header("Connection", "Upgrade")
                .header("Sec-WebSocket-Version", VERSION),
            _ => response,
        }
    }
}

/// The value of `Sec-WebSocket-Accept` that belongs to a key (RFC 6455 §4.2.2 item 5).
#[must_use]
pub fn accept_key(key: &str) -> [u8; 28] {
    let digest = Sha1::new()
        .chain_update(key)
        .chain_update(ACCEPT_GUID)
        .finalize();
    let mut accept = [0; 28];
    let written = STANDARD.encode_slice(digest, &mut accept);
    debug_assert_eq!(written, Ok(28), "20 bytes are 28 characters");
    accept
}

/// Appends the response that completes the server's handshake (RFC 6455 §4.2.2 item 5).
///
/// `subprotocol` is the one chosen among those offered, `extensions` what is answered to the offers.
pub fn write_switching_protocols(
    out: &mut Vec<u8>,
    key: &str,
    subprotocol: Option<&str>,
    extensions: Option<&str>,
) {
    out.extend_from_slice(
        b"HTTP/1.1 101 Switching Protocols\r\n\
          Upgrade: websocket\r\n\
          Connection: Upgrade\r\n\
          Sec-WebSocket-Accept: ",
    );
    out.extend_from_slice(&accept_key(key));
    out.extend_from_slice(b"\r\n");
    if let Some(subprotocol) = subprotocol {
        write_field(out, "Sec-WebSocket-Protocol", subprotocol);
    }
    if let Some(extensions) = extensions {
        write_field(out, "Sec-WebSocket-Extensions", extensions);
    }
    out.extend_from_slice(b"\r\n");
}

/// The key, if it is the base64 of exactly 16 bytes.
fn read_key(key: &[u8]) -> Option<&str> {
    let mut nonce = [0; 18];
    let is_valid = key.len() == 24 && STANDARD.decode_slice(key, &mut nonce) == Ok(16);
    std::str::from_utf8(key).ok().filter(|_| is_valid)
}

fn read_subprotocols<'a>(head: &Head<'a>) -> Result<SmallVec<[&'a str; 4]>, HandshakeError> {
    let mut subprotocols = SmallVec::new();
    let values = head.header_values("sec-websocket-protocol");
    for entry in values.flat_map(list_elements) {
        let invalid = HandshakeError::InvalidSubprotocol;
        if !is_token(entry) {
            return Err(invalid);
        }
        let entry = std::str::from_utf8(entry).map_err(|_| invalid)?;
        if subprotocols.len() == SUBPROTOCOLS_MAX {
            return Err(HandshakeError::TooManySubprotocols);
        }
        if subprotocols.contains(&entry) {
            return Err(HandshakeError::RepeatedSubprotocol);
        }
        subprotocols.push(entry);
    }
    Ok(subprotocols)
}

/// What an entry of `Sec-WebSocket-Protocol` starts with that carries a session's credential and
/// is not an offer: browsers can set no other header.
pub const SESSION_PREFIX: &str = "session.";

/// Entries of `Sec-WebSocket-Protocol` in one handshake; each is compared with all before it.
pub const SUBPROTOCOLS_MAX: usize = 32;

/// RFC 6455 §1.3.
const ACCEPT_GUID: &str = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11";

/// RFC 6455 §4.1 item 9.
const VERSION: &str = "13";

#[cfg(test)]
mod tests;
