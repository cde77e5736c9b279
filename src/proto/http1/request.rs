//! The head of a request: request line and header fields (RFC 9112 §3, §5; RFC 9110 §5).
//!
//! `httparse` parses; what it is lenient about is refused before (`lines`) and after it. Both find
//! the first wrong byte, and the earlier one decides, so that a verdict on a prefix holds for
//! everything that starts with it and a head gets the same answer however the network cuts it up.
//! It does not know how bytes are buffered; that is `HeadReader`.

use std::fmt;

use smallvec::SmallVec;

use super::authority::is_authority;
use super::grammar::{is_tchar, list_elements, parse_length};
use super::lines::{Lines, names_http_version};
use super::target::{Target, TargetError, split_target};

/// The head of a request, borrowed from the bytes it was read from.
pub struct Head<'a> {
    /// The method, case-sensitive, known or not (RFC 9110 §9.1).
    pub method: &'a str,
    /// The request target as sent.
    pub target: &'a str,
    /// The path of the target as sent, still encoded; of an absolute-form target, its path part.
    pub path: &'a str,
    /// The query of the target as sent, without its `?`.
    pub query: Option<&'a str>,
    /// 0 or 1, of HTTP/1.0 and HTTP/1.1.
    pub version_minor: u8,
    authority: Option<&'a str>,
    fields: Fields<'a>,
}

/// Browsers send about twenty fields; more than these move to the heap.
type Fields<'a> = SmallVec<[httparse::Header<'a>; 32]>;

impl<'a> Head<'a> {
    /// The first value of a header field, by its case-insensitive name.
    #[must_use]
    pub fn header(&self, name: &str) -> Option<&'a [u8]> {
        self.header_values(name).next()
    }

    /// All values of a header field, in order. Whitespace around them is trimmed.
    pub fn header_values<'h>(
        &'h self,
        name: &'h str,
    ) -> impl Iterator<Item = &'a [u8]> + use<'a, 'h> {
        let mut fields = self.fields.iter();
        std::iter::from_fn(move || {
            let field = fields.find(|field| field.name.eq_ignore_ascii_case(name))?;
            Some(field.value)
        })
    }

    /// All header fields, in order.
    pub fn headers(&self) -> impl Iterator<Item = (&'a str, &'a [u8])> {
        self.fields.iter().map(|field| (field.name, field.value))
    }

    /// Whether a comma-separated header field, repeated or not, has `token` among its elements,
    /// case-insensitively (RFC 9110 §5.6.1).
    #[must_use]
    pub fn list_contains(&self, name: &str, token: &str) -> bool {
        self.header_values(name)
            .flat_map(list_elements)
            .any(|element| element.eq_ignore_ascii_case(token.as_bytes()))
    }

    /// The host and port that the request is for: those of an absolute-form target, which
    /// override `Host`, else `Host` (RFC 9112 §3.2.2).
    #[must_use]
    pub fn authority(&self) -> Option<&'a str> {
        let host = || std::str::from_utf8(self.header("host")?).ok();
        self.authority.or_else(host)
    }

    /// The rules that need the whole head: one host, and no body.
    fn check(&self) -> Result<(), HeadError> {
        // RFC 9112 §3.2: any other number of Host fields is answered with 400.
        let mut hosts = self.header_values("host");
        match (hosts.next(), hosts.next()) {
            (None, _) if self.version_minor == 0 => {}
            (None, _) => return Err(HeadError::MissingHost),
            (Some(_), Some(_)) => return Err(HeadError::RepeatedHost),
            (Some(host), None) if is_authority(host) => {}
            (Some(_), None) => return Err(HeadError::InvalidHost),
        }
        let is_encoded = self.header("transfer-encoding").is_some();
        let mut length = None;
        for value in self.header_values("content-length") {
            // RFC 9112 §6.1, §6.3: both fields at once is how requests are smuggled.
            if is_encoded {
                return Err(HeadError::AmbiguousLength);
            }
            let announced = parse_length(value).ok_or(HeadError::InvalidLength)?;
            if length.is_some_and(|length| length != announced) {
                return Err(HeadError::InvalidLength);
            }
            length = Some(announced);
        }
        if is_encoded && self.version_minor == 0 {
            return Err(HeadError::AmbiguousLength);
        }
        if is_encoded || length.is_some_and(|length| length > 0) {
            return Err(HeadError::BodyNotAccepted);
        }
        Ok(())
    }
}

/// Leaves out values and the query: they carry credentials, and this may end up in a log.
impl fmt::Debug for Head<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Head")
            .field("method", &self.method)
            .field("path", &self.path)
            .field("version_minor", &self.version_minor)
            .field("headers", &self.fields.len())
            .finish_non_exhaustive()
    }
}

/// How large a head may be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HeadLimits {
    /// Bytes of the whole head, with its final empty line.
    pub head_bytes_max: usize,
    /// Header fields.
    pub headers_max: usize,
    /// Bytes of the request target.
    pub target_bytes_max: usize,
}

impl Default for HeadLimits {
    fn default() -> Self {
        Self {
            head_bytes_max: 16 * 1024,
            headers_max: 64,
            target_bytes_max: 8 * 1024,
        }
    }
}

/// Why a head was refused. The blame is always the peer's, and the text is fit to be sent to it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum HeadError {
    /// The first byte cannot start a method: TLS on a plain-text port, or another protocol.
    #[error("this is not an HTTP request")]
    NotHttp,
    /// The request line is not `method SP target SP version` (RFC 9112 §3).
    #[error("malformed request line")]
    MalformedRequestLine,
    /// A field is not `name: value`, is folded, or has a byte that fields may not have
    /// (RFC 9112 §5, §5.2).
    #[error("malformed header field")]
    MalformedHeader,
    /// A line that does not end with CR LF (RFC 9112 §2.2).
    #[error("a line of the request does not end with CR LF")]
    InvalidLineEnd,
    /// A version other than HTTP/1.0 and HTTP/1.1, the HTTP/2 preface (RFC 9113 §3.4) included.
    /// Answered with 400: what follows such a line need not be a head at all.
    #[error("only HTTP/1.1 is spoken on this port, without HTTP/2 prior knowledge")]
    UnsupportedVersion,
    /// The target is in no accepted form.
    #[error(transparent)]
    Target(#[from] TargetError),
    /// The target exceeds `target_bytes_max`.
    #[error("the request target is too long")]
    TargetTooLong,
    /// The head exceeds `head_bytes_max`.
    #[error("the request head is too large")]
    HeadTooLarge,
    /// The head has more than `headers_max` fields.
    #[error("the request has too many header fields")]
    TooManyHeaders,
    /// HTTP/1.1 without `Host`.
    #[error("the Host header is missing")]
    MissingHost,
    /// More than one `Host`.
    #[error("the Host header is repeated")]
    RepeatedHost,
    /// A `Host` that is not a host and port.
    #[error("the Host header is not valid")]
    InvalidHost,
    /// A `Content-Length` that is no number, or several that differ (RFC 9112 §6.3).
    #[error("the Content-Length header is not valid")]
    InvalidLength,
    /// `Transfer-Encoding` together with `Content-Length` or in HTTP/1.0 (RFC 9112 §6.1).
    #[error("the length of the request body is ambiguous")]
    AmbiguousLength,
    /// A body is announced; no resource here takes one.
    #[error("request bodies are not accepted")]
    BodyNotAccepted,
}

impl HeadError {
    /// The HTTP status that answers this error.
    #[must_use]
    pub fn status(&self) -> u16 {
        match self {
            Self::Target(error) => error.status(),
            Self::BodyNotAccepted => 413,
            Self::TargetTooLong => 414,
            Self::HeadTooLarge | Self::TooManyHeaders => 431,
            _ => 400,
        }
    }
}

/// What the bytes so far amount to.
#[expect(
    clippy::large_enum_variant,
    reason = "a head is handed on at once, and a box would be an allocation per request"
)]
pub(super) enum Progress<'a> {
    /// A head, and its length in bytes.
    Complete(Head<'a>, usize),
    /// No line has ended since, so nothing new can be said before this many bytes are there.
    Partial { next_check: usize },
}

/// Reads the head that `bytes` starts with.
pub(super) fn parse<'a>(bytes: &'a [u8], limits: &HeadLimits) -> Result<Progress<'a>, HeadError> {
    // What lies beyond the bound is never looked at, so that it cannot change the answer.
    let window = &bytes[..bytes.len().min(limits.head_bytes_max)];
    let next_check = match parse_window(window, limits)? {
        Progress::Partial { next_check } => next_check.min(limits.head_bytes_max),
        complete => return Ok(complete),
    };
    if window.len() == limits.head_bytes_max {
        return Err(HeadError::HeadTooLarge);
    }
    Ok(Progress::Partial { next_check })
}

fn parse_window<'a>(window: &'a [u8], limits: &HeadLimits) -> Result<Progress<'a>, HeadError> {
    let lines = Lines::scan(window, limits);
    // What the parser says without the first fault came before it, and counts first.
    let sound = &window[..lines.fault.map_or(window.len(), |fault| fault.at)];
    let slots = lines.fields.min(limits.headers_max);
    let mut fields = Fields::from_elem(httparse::EMPTY_HEADER, slots);
    let mut request = httparse::Request::new(&mut fields);
    let length = match request.parse(sound) {
        Ok(httparse::Status::Complete(length)) => length,
        Ok(httparse::Status::Partial) => {
            let next_check = lines.next_check;
            let partial = Ok(Progress::Partial { next_check });
            return lines.fault.map_or(partial, |fault| Err(fault.error));
        }
        Err(error) => return Err(refusal(error, lines.request_line)),
    };
    let (Some(method), Some(target), Some(version_minor)) =
        (request.method, request.path, request.version)
    else {
        return Err(HeadError::MalformedRequestLine);
    };
    let field_count = request.headers.len();
    fields.truncate(field_count);
    let Target {
        authority,
        path,
        query,
    } = split_target(target)?;
    let head = Head {
        method,
        target,
        path,
        query,
        version_minor,
        authority,
        fields,
    };
    head.check()?;
    Ok(Progress::Complete(head, length))
}

/// What the parser's error means here. It looks no further than the byte that caused it, which
/// keeps the answer independent of what has arrived behind.
fn refusal(error: httparse::Error, request_line: &[u8]) -> HeadError {
    match error {
        httparse::Error::HeaderName | httparse::Error::HeaderValue => HeadError::MalformedHeader,
        httparse::Error::TooManyHeaders => HeadError::TooManyHeaders,
        httparse::Error::NewLine => HeadError::InvalidLineEnd,
        httparse::Error::Version if names_http_version(request_line) => {
            HeadError::UnsupportedVersion
        }
        httparse::Error::Token if !request_line.first().copied().is_some_and(is_tchar) => {
            HeadError::NotHttp
        }
        _ => HeadError::MalformedRequestLine,
    }
}

#[cfg(test)]
mod tests;
