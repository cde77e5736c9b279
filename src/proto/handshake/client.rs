//! The client's end of the opening handshake (RFC 6455 §4.1), for proxying and for tests.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use super::{HandshakeError, VERSION, accept_key, read_extensions};
use crate::proto::http1::{list_elements, push_value, write_field};
use crate::proto::ws::deflate::{Agreed, Offer};

/// What a client asks for, and holds the server's answer against.
///
/// Not `Debug`: paths and subprotocols may carry credentials.
#[derive(Clone)]
pub struct ClientHandshake {
    /// The value of `Host`: host, and port unless it is the scheme's default.
    pub host: String,
    /// Path and query, encoded, starting with `/`.
    pub path: String,
    /// The nonce, to be chosen at random for each connection (RFC 6455 §4.1 item 7).
    pub key: [u8; 16],
    /// The subprotocols offered, in order of preference; may be empty.
    pub subprotocols: Vec<String>,
    /// Compression, if it is offered.
    pub deflate: Option<Offer>,
}

/// A response that accepts a client's request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Accepted {
    /// Bytes of its head, after which frames follow.
    pub head_len: usize,
    /// The subprotocol that the server chose.
    pub subprotocol: Option<String>,
    /// What was agreed on about compression.
    pub deflate: Option<Agreed>,
}

impl ClientHandshake {
    /// Appends the request to `out`.
    pub fn write_request(&self, out: &mut Vec<u8>) {
        debug_assert!(self.path.starts_with('/') && !self.path.contains(' '));
        out.extend_from_slice(b"GET ");
        push_value(out, &self.path);
        out.extend_from_slice(b" HTTP/1.1\r\n");
        write_field(out, "Host", &self.host);
        write_field(out, "Upgrade", "websocket");
        write_field(out, "Connection", "Upgrade");
        write_field(out, "Sec-WebSocket-Key", &STANDARD.encode(self.key));
        write_field(out, "Sec-WebSocket-Version", VERSION);
        if !self.subprotocols.is_empty() {
            let offers = self.subprotocols.join(", ");
            write_field(out, "Sec-WebSocket-Protocol", &offers);
        }
        if let Some(offer) = &self.deflate {
            write_field(out, "Sec-WebSocket-Extensions", &offer.to_value());
        }
        out.extend_from_slice(b"\r\n");
    }

    /// Checks the response that `received`, all bytes since the connection opened, starts with.
    ///
    /// `None` when more bytes are needed.
    ///
    /// # Errors
    /// [`HandshakeError`] as soon as the bytes cannot become a response that accepts this request.
    pub fn validate_response(&self, received: &[u8]) -> Result<Option<Accepted>, HandshakeError> {
        let window = &received[..received.len().min(RESPONSE_HEAD_BYTES_MAX)];
        let mut fields = [httparse::EMPTY_HEADER; RESPONSE_HEADERS_MAX];
        let mut response = httparse::Response::new(&mut fields);
        let head_len = match response.parse(window) {
            Ok(httparse::Status::Complete(length)) => length,
            Ok(httparse::Status::Partial) if window.len() < RESPONSE_HEAD_BYTES_MAX => {
                return Ok(None);
            }
            Ok(httparse::Status::Partial) | Err(httparse::Error::TooManyHeaders) => {
                return Err(HandshakeError::ResponseTooLarge);
            }
            Err(_) => return Err(HandshakeError::ResponseMalformed),
        };
        match response.code {
            Some(101) if response.version == Some(1) => {}
            Some(101) | None => return Err(HandshakeError::ResponseMalformed),
            Some(status) => return Err(HandshakeError::Refused(status)),
        }
        let (subprotocol, deflate) = self.check_fields(response.headers)?;
        Ok(Some(Accepted {
            head_len,
            subprotocol,
            deflate,
        }))
    }

    /// RFC 6455 §4.1, the client's checks 2 to 6.
    fn check_fields(
        &self,
        fields: &[httparse::Header<'_>],
    ) -> Result<(Option<String>, Option<Agreed>), HandshakeError> {
        if !list_contains(fields, "upgrade", "websocket")
            || !list_contains(fields, "connection", "upgrade")
        {
            return Err(HandshakeError::UpgradeNotConfirmed);
        }
        let expected = accept_key(&STANDARD.encode(self.key));
        let mut accepts = values(fields, "sec-websocket-accept");
        if accepts.next() != Some(&expected) || accepts.next().is_some() {
            return Err(HandshakeError::InvalidAccept);
        }
        let extensions = read_extensions(values(fields, "sec-websocket-extensions"))
            .map_err(|_| HandshakeError::ResponseMalformed)?;
        let deflate = match &self.deflate {
            Some(offer) => offer.check(&extensions),
            None => extensions.is_empty().then_some(None),
        };
        let deflate = deflate.ok_or(HandshakeError::UnrequestedExtension)?;
        let mut chosen = values(fields, "sec-websocket-protocol");
        let Some(subprotocol) = chosen.next() else {
            return Ok((None, deflate));
        };
        let mut offers = self.subprotocols.iter();
        match offers.find(|offer| offer.as_bytes() == subprotocol) {
            Some(offer) if chosen.next().is_none() => Ok((Some(offer.clone()), deflate)),
            _ => Err(HandshakeError::UnrequestedSubprotocol),
        }
    }
}

fn values<'f>(
    fields: &'f [httparse::Header<'_>],
    name: &'static str,
) -> impl Iterator<Item = &'f [u8]> {
    fields
        .iter()
        .filter(move |field| field.name.eq_ignore_ascii_case(name))
        .map(|field| field.value)
}

fn list_contains(fields: &[httparse::Header<'_>], name: &'static str, token: &str) -> bool {
    values(fields, name)
        .flat_map(list_elements)
        .any(|element| element.eq_ignore_ascii_case(token.as_bytes()))
}

/// Bytes of a response's head.
const RESPONSE_HEAD_BYTES_MAX: usize = 16 * 1024;

/// Header fields of a response.
const RESPONSE_HEADERS_MAX: usize = 64;

#[cfg(test)]
mod tests {
    use super::super::{Subprotocol, Upgrade, write_switching_protocols};
    use super::*;
    use crate::proto::http1::{HeadLimits, HeadReader};

    fn handshake() -> ClientHandshake {
        ClientHandshake {
            host: "example.com:8080".to_owned(),
            path: "/chat?x=y".to_owned(),
            key: *b"the sample nonce",
            subprotocols: vec!["chat".to_owned(), "superchat".to_owned()],
            deflate: None,
        }
    }

    fn good_response() -> String {
        let mut out = Vec::new();
        write_switching_protocols(
            &mut out,
            "dGhlIHNhbXBsZSBub25jZQ==",
            Some("superchat"),
            None,
        );
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn the_server_reads_what_the_client_writes() {
        let mut out = Vec::new();
        handshake().write_request(&mut out);
        let mut reader = HeadReader::new();
        let head = reader.handle_input(&out, &HeadLimits::default());
        let (head, length) = head.unwrap().unwrap();
        assert_eq!(length, out.len());
        assert_eq!(head.target, "/chat?x=y");
        assert_eq!(head.authority(), Some("example.com:8080"));
        let upgrade = Upgrade::from_head(&head).unwrap();
        assert_eq!(upgrade.key(), "dGhlIHNhbXBsZSBub25jZQ==");
        assert_eq!(
            upgrade.choose(&["superchat"]),
            Subprotocol::Chosen("superchat")
        );
    }

    #[test]
    fn the_client_accepts_what_the_server_writes() {
        let response = good_response();
        for length in 0..response.len() {
            let partial = handshake().validate_response(&response.as_bytes()[..length]);
            assert_eq!(partial, Ok(None), "{length}");
        }
        let expected = Ok(Some(Accepted {
            head_len: response.len(),
            subprotocol: Some("superchat".to_owned()),
            deflate: None,
        }));
        assert_eq!(handshake().validate_response(response.as_bytes()), expected);
        let with_frame = [response.as_bytes(), b"\x81\x01a"].concat();
        assert_eq!(handshake().validate_response(&with_frame), expected);
    }

    #[test]
    fn an_extension_counts_if_it_was_offered() {
        let answer = "permessage-deflate; server_no_context_takeover";
        let response = good_response().replacen(
            "\r\n\r\n",
            &format!("\r\nSec-WebSocket-Extensions: {answer}\r\n\r\n"),
            1,
        );
        let offering = ClientHandshake {
            deflate: Some(Offer::default()),
            ..handshake()
        };
        let accepted = offering.validate_response(response.as_bytes()).unwrap();
        let agreed = accepted.unwrap().deflate.unwrap();
        assert_eq!(agreed.to_value(), answer);
        let accepted = offering.validate_response(good_response().as_bytes());
        assert_eq!(accepted.unwrap().unwrap().deflate, None);
        let more = response.replacen("takeover", "takeover; client_max_window_bits=9", 1);
        let answer = offering.validate_response(more.as_bytes());
        assert_eq!(answer, Err(HandshakeError::UnrequestedExtension));
        let broken = response.replacen("takeover", "takeover=", 1);
        let answer = offering.validate_response(broken.as_bytes());
        assert_eq!(answer, Err(HandshakeError::ResponseMalformed));
    }

    #[test]
    fn other_responses_are_refused() {
        use HandshakeError as E;
        let extension = "\r\nSec-WebSocket-Extensions: permessage-deflate\r\n\r\n";
        let cases = [
            ("101", "403", E::Refused(403)),
            ("HTTP/1.1", "HTTP/1.0", E::ResponseMalformed),
            ("HTTP/1.1", "SSH-2.0", E::ResponseMalformed),
            ("Upgrade: websocket", "Upgrade: h2c", E::UpgradeNotConfirmed),
            (
                "Connection: Upgrade",
                "Connection: close",
                E::UpgradeNotConfirmed,
            ),
            ("s3pP", "S3pP", E::InvalidAccept),
            ("Sec-WebSocket-Accept", "X-Accept", E::InvalidAccept),
            (": superchat", ": other", E::UnrequestedSubprotocol),
            (
                ": superchat",
                ": chat, superchat",
                E::UnrequestedSubprotocol,
            ),
            ("\r\n\r\n", extension, E::UnrequestedExtension),
        ];
        for (from, to, error) in cases {
            let response = good_response().replacen(from, to, 1);
            let answer = handshake().validate_response(response.as_bytes());
            assert_eq!(answer, Err(error), "{from} -> {to}");
            assert_eq!(error.status(), 502);
        }
    }

    #[test]
    fn a_response_without_end_is_refused() {
        let mut response = b"HTTP/1.1 101 Switching Protocols\r\nX: ".to_vec();
        response.resize(RESPONSE_HEAD_BYTES_MAX - 1, b'a');
        assert_eq!(handshake().validate_response(&response), Ok(None));
        response.push(b'a');
        let error = handshake().validate_response(&response);
        assert_eq!(error, Err(HandshakeError::ResponseTooLarge));
    }
}
