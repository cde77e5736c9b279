//! The lines of a head before it is parsed (RFC 9112 §2.2, §3): what `httparse` lets pass and this
//! server does not, and the bounds of a request line that may not have ended yet.
//!
//! It finds the first such fault and where it is. It knows neither the grammar of methods, versions
//! and fields, which is the parser's, nor rules about whole heads.

use memchr::{memchr, memchr_iter};

use super::request::{HeadError, HeadLimits};

/// The lines of a head, as far as they have arrived.
pub(super) struct Lines<'a> {
    /// The request line without its LF.
    pub(super) request_line: &'a [u8],
    /// Field lines that have ended.
    pub(super) fields: usize,
    /// What is wrong first.
    pub(super) fault: Option<Fault>,
    /// The length of the head at which the next bound is crossed while no line ends.
    pub(super) next_check: usize,
}

/// A fault, and the offset of the byte that makes it one. It stands whatever comes after it.
#[derive(Clone, Copy)]
pub(super) struct Fault {
    pub(super) at: usize,
    pub(super) error: HeadError,
}

impl<'a> Lines<'a> {
    /// Looks at the lines of `window` up to the end of the head or the first fault.
    pub(super) fn scan(window: &'a [u8], limits: &HeadLimits) -> Self {
        let start = EMPTY_LINE.len() * leading_empty_lines(window);
        let line_feed = memchr(b'\n', &window[start..]).map(|at| start + at);
        let request_line = &window[start..line_feed.unwrap_or(window.len())];
        let parts = RequestLine::split(request_line);
        let mut lines = Self {
            request_line,
            fields: 0,
            fault: parts.fault(start, limits),
            next_check: match line_feed {
                Some(_) => usize::MAX,
                None => parts.next_check(start, limits),
            },
        };
        if lines.fault.is_none() {
            lines.scan_ends(window, start);
        }
        lines
    }

    /// RFC 9112 §2.2 lets a recipient take a bare LF for a line's end, as the parser does; whoever
    /// sits in front may not, and then the two see different heads.
    fn scan_ends(&mut self, window: &[u8], start: usize) {
        let mut line_start = start;
        for at in memchr_iter(b'\n', &window[start..]).map(|at| start + at) {
            let line = &window[line_start..at];
            let error = match line {
                // After one request line, this is the end of the head.
                b"\r" if line_start > start => return,
                b"\r" => HeadError::MalformedRequestLine,
                [.., b'\r'] => {
                    self.fields += usize::from(line_start > start);
                    line_start = at + 1;
                    continue;
                }
                _ => HeadError::InvalidLineEnd,
            };
            self.fault = Some(Fault { at, error });
            return;
        }
    }
}

/// The parts of a request line, wherever it breaks off. The last two may be missing.
struct RequestLine<'a> {
    method: &'a [u8],
    target: Option<&'a [u8]>,
    version: Option<&'a [u8]>,
}

impl<'a> RequestLine<'a> {
    fn split(line: &'a [u8]) -> Self {
        let mut parts = line.splitn(3, |byte| matches!(byte, b' ' | b'\r'));
        Self {
            method: parts.next().unwrap_or_default(),
            target: parts.next(),
            version: parts.next(),
        }
    }

    /// The first fault of a line that starts at `start`.
    fn fault(&self, start: usize, limits: &HeadLimits) -> Option<Fault> {
        if self.method.len() > METHOD_BYTES_MAX {
            let at = start + METHOD_BYTES_MAX;
            let error = HeadError::MalformedRequestLine;
            return Some(Fault { at, error });
        }
        let target = self.target?;
        let target_start = start + self.method.len() + 1;
        let bounded = &target[..target.len().min(limits.target_bytes_max)];
        // RFC 3986 §2: URIs are ASCII. The parser takes UTF-8.
        if let Some(at) = bounded.iter().position(|byte| !byte.is_ascii()) {
            let at = target_start + at;
            let error = HeadError::MalformedRequestLine;
            return Some(Fault { at, error });
        }
        (bounded.len() < target.len()).then_some(Fault {
            at: target_start + bounded.len(),
            error: HeadError::TargetTooLong,
        })
    }

    /// The length of a head at which the next bound is crossed, while this line goes on.
    fn next_check(&self, start: usize, limits: &HeadLimits) -> usize {
        match (self.target, self.version) {
            (None, _) => start + METHOD_BYTES_MAX + 1,
            (Some(_), None) => limits
                .target_bytes_max
                .saturating_add(start + self.method.len() + 2),
            (Some(_), Some(_)) => usize::MAX,
        }
    }
}

/// Whether what stands in the place of the version is written like one (RFC 9112 §2.3).
pub(super) fn names_http_version(request_line: &[u8]) -> bool {
    let version = RequestLine::split(request_line).version;
    version.is_some_and(|version| version.starts_with(b"HTTP/"))
}

/// The empty lines before the request line that are ignored (RFC 9112 §2.2).
fn leading_empty_lines(window: &[u8]) -> usize {
    window
        .chunks_exact(EMPTY_LINE.len())
        .take(LEADING_EMPTY_LINES_MAX)
        .take_while(|chunk| *chunk == EMPTY_LINE)
        .count()
}

const EMPTY_LINE: &[u8] = b"\r\n";

/// RFC 9112 §2.2 asks for one: some old clients end the body before with it.
const LEADING_EMPTY_LINES_MAX: usize = 1;

/// No registered method is longer than 17 bytes; anything longer than this is not one.
const METHOD_BYTES_MAX: usize = 32;
