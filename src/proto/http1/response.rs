//! HTTP/1.1 responses (RFC 9112 §4, RFC 9110 §15).
//!
//! Every response that is not a switch of protocols is small, complete and the connection's last:
//! it carries its length and `Connection: close`.

use std::borrow::Cow;

use smallvec::SmallVec;

/// A complete response, ready to be written.
#[derive(Debug, Clone)]
pub struct Response {
    status: u16,
    headers: SmallVec<[Field; 4]>,
    body: Cow<'static, str>,
    is_body_sent: bool,
}

type Field = (Cow<'static, str>, Cow<'static, str>);

impl Response {
    /// A response with a three-digit `status`, no header of its own and no body.
    #[must_use]
    pub fn new(status: u16) -> Self {
        debug_assert!((100..1000).contains(&status), "a status has three digits");
        Self {
            status,
            headers: SmallVec::new(),
            body: Cow::Borrowed(""),
            is_body_sent: true,
        }
    }

    /// The status code.
    #[must_use]
    pub fn status(&self) -> u16 {
        self.status
    }

    /// Adds a header field (RFC 9112 §5).
    ///
    /// `Content-Length` is not for the caller to set. A `Connection` value is sent together with
    /// `close`; a `Content-Type` replaces the default. CR, LF and NUL in a value would let it
    /// forge further fields: they are a defect of the caller, asserted in debug builds and dropped
    /// in release builds.
    #[must_use]
    pub fn header(
        mut self,
        name: impl Into<Cow<'static, str>>,
        value: impl Into<Cow<'static, str>>,
    ) -> Self {
        let (name, value) = (name.into(), value.into());
        debug_assert!(!name.eq_ignore_ascii_case("content-length"));
        self.headers.push((name, value));
        self
    }

    /// Sets the body: plain text unless a `Content-Type` says otherwise. A final newline is added
    /// when there is none.
    #[must_use]
    pub fn body(mut self, text: impl Into<Cow<'static, str>>) -> Self {
        self.body = text.into();
        if !self.body.is_empty() && !self.body.ends_with('\n') {
            self.body.to_mut().push('\n');
        }
        self
    }

    /// Leaves the body unsent, as an answer to `HEAD` must; `Content-Length` stays what it would
    /// have been (RFC 9110 §9.3.2).
    #[must_use]
    pub fn without_body(mut self) -> Self {
        self.is_body_sent = false;
        self
    }

    /// Appends the whole response to `out`.
    pub fn write_to(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(b"HTTP/1.1 ");
        out.extend_from_slice(self.status.to_string().as_bytes());
        out.push(b' ');
        out.extend_from_slice(reason(self.status).as_bytes());
        out.extend_from_slice(b"\r\n");
        for (name, value) in &self.headers {
            if !is_managed(name) || (self.status == 101 && is_connection(name)) {
                write_field(out, name, value);
            }
        }
        // RFC 9110 §6.4.1, §8.6: no content follows these, and 1xx and 204 carry no length.
        if self.status < 200 || self.status == 204 || self.status == 304 {
            if self.status >= 200 {
                self.write_connection(out);
            }
            out.extend_from_slice(b"\r\n");
            return;
        }
        self.write_connection(out);
        if !self.body.is_empty() && !self.has("content-type") {
            write_field(out, "Content-Type", "text/plain; charset=utf-8");
        }
        write_field(out, "Content-Length", &self.body.len().to_string());
        out.extend_from_slice(b"\r\n");
        if self.is_body_sent {
            out.extend_from_slice(self.body.as_bytes());
        }
    }

    /// One `Connection` field: the caller's options, then `close`.
    fn write_connection(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(b"Connection: ");
        for (_, value) in self.headers.iter().filter(|(name, _)| is_connection(name)) {
            push_value(out, value);
            out.extend_from_slice(b", ");
        }
        out.extend_from_slice(b"close\r\n");
    }

    fn has(&self, wanted: &str) -> bool {
        let mut names = self.headers.iter().map(|(name, _)| name);
        names.any(|name| name.eq_ignore_ascii_case(wanted))
    }
}

/// Appends `name: value` and its line end.
pub(in crate::proto) fn write_field(out: &mut Vec<u8>, name: &str, value: &str) {
    push_value(out, name);
    out.extend_from_slice(b": ");
    push_value(out, value);
    out.extend_from_slice(b"\r\n");
}

/// Appends `text` without the bytes that would end its line early.
pub(in crate::proto) fn push_value(out: &mut Vec<u8>, text: &str) {
    let is_forbidden = |byte: &u8| matches!(byte, b'\r' | b'\n' | 0);
    debug_assert!(
        !text.as_bytes().iter().any(is_forbidden),
        "CR, LF or NUL in a header"
    );
    out.extend(text.bytes().filter(|byte| !is_forbidden(byte)));
}

fn is_connection(name: &str) -> bool {
    name.eq_ignore_ascii_case("connection")
}

/// Fields that `write_to` writes itself.
fn is_managed(name: &str) -> bool {
    is_connection(name) || name.eq_ignore_ascii_case("content-length")
}

/// The reason phrase of a status (RFC 9110 §15); empty, as RFC 9112 §4 allows, for one that this
/// server does not send.
fn reason(status: u16) -> &'static str {
    match status {
        101 => "Switching Protocols",
        200 => "OK",
        204 => "No Content",
        304 => "Not Modified",
        400 => "Bad Request",
        401 => "Unauthorized",
        403 => "Forbidden",
        404 => "Not Found",
        405 => "Method Not Allowed",
        408 => "Request Timeout",
        413 => "Content Too Large",
        414 => "URI Too Long",
        426 => "Upgrade Required",
        429 => "Too Many Requests",
        431 => "Request Header Fields Too Large",
        500 => "Internal Server Error",
        502 => "Bad Gateway",
        503 => "Service Unavailable",
        504 => "Gateway Timeout",
        _ => "",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(response: &Response) -> String {
        let mut out = Vec::new();
        response.write_to(&mut out);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn a_response_is_complete() {
        let response = Response::new(404).header("X-A", "b").body("no such room");
        let head = "HTTP/1.1 404 Not Found\r\nX-A: b\r\nConnection: close\r\n\
                    Content-Type: text/plain; charset=utf-8\r\nContent-Length: 13\r\n\r\n";
        assert_eq!(written(&response), format!("{head}no such room\n"));
        assert_eq!(written(&response.without_body()), head);
    }

    #[test]
    fn an_empty_body_has_a_length_and_no_type() {
        let expected = "HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 0\r\n\r\n";
        assert_eq!(written(&Response::new(200)), expected);
        assert_eq!(written(&Response::new(200).body("")), expected);
    }

    #[test]
    fn connection_options_and_types_of_the_caller_are_kept() {
        let response = Response::new(426)
            .header("connection", "Upgrade")
            .header("content-type", "application/json")
            .body("{}\n");
        let text = written(&response);
        assert!(text.contains("\r\nConnection: Upgrade, close\r\n"));
        assert!(text.contains("\r\ncontent-type: application/json\r\n"));
        assert!(!text.contains("text/plain"));
        assert!(text.ends_with("\r\nContent-Length: 3\r\n\r\n{}\n"));
    }

    #[test]
    fn a_switch_of_protocols_neither_closes_nor_has_a_length() {
        let response = Response::new(101).header("Connection", "Upgrade");
        let expected = "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\n\r\n";
        assert_eq!(written(&response), expected);
    }

    #[test]
    fn statuses_have_their_phrases() {
        for status in [
            101, 200, 304, 400, 403, 404, 405, 408, 413, 414, 426, 429, 431, 500, 503,
        ] {
            assert!(!reason(status).is_empty(), "{status}");
        }
        assert!(written(&Response::new(299)).starts_with("HTTP/1.1 299 \r\n"));
    }

    #[test]
    #[cfg_attr(debug_assertions, should_panic(expected = "CR, LF or NUL"))]
    fn header_injection_is_refused() {
        let text = written(&Response::new(200).header("X", "a\r\nSet-Cookie: b\0"));
        assert!(text.contains("X: aSet-Cookie: b\r\n"));
    }

    #[test]
    fn responses_are_understood_by_another_parser() {
        let text = written(&Response::new(503).header("Retry-After", "1").body("busy"));
        let mut headers = [httparse::EMPTY_HEADER; 8];
        let mut parsed = httparse::Response::new(&mut headers);
        let status = parsed.parse(text.as_bytes()).unwrap();
        assert_eq!(status, httparse::Status::Complete(text.len() - 5));
        assert_eq!(parsed.code, Some(503));
        assert_eq!(parsed.reason, Some("Service Unavailable"));
    }
}
