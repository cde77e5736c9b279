//! What proxies say of the client in a request: `Forwarded` (RFC 7239) and `X-Forwarded-For`.
//!
//! Each proxy adds whom it was asked by at the end, so the list is read from there, and only as long as who
//! wrote an element is trusted: what stands further to the front may be the client's own invention, and is
//! not even looked at. This module does not know whom to trust, nor whether the first of them all, the one
//! at the other end of the connection, is to be.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use smallvec::SmallVec;

use super::http1::{Head, is_tchar, trim};

/// Which field is believed. Only one is: a proxy that writes one passes the other on as it came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Field {
    /// `Forwarded` (RFC 7239).
    Forwarded,
    /// `X-Forwarded-For`.
    XForwardedFor,
}

/// Why a field was refused. The blame is the trusted proxy's that wrote it; or, where it adds to a
/// `Forwarded` field without reading that, the client's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ForwardedError {
    /// Not as RFC 7239 §4 writes it.
    #[error("the Forwarded header is not valid")]
    MalformedForwarded,
    /// An element that is no address.
    #[error("the X-Forwarded-For header is not valid")]
    MalformedXForwardedFor,
    /// More than [`ELEMENTS_MAX`].
    #[error("the request has passed too many proxies")]
    TooManyElements,
}

impl ForwardedError {
    /// The HTTP status that answers this error: always 400.
    #[must_use]
    pub fn status(&self) -> u16 {
        400
    }
}

/// The client of a request that came from a trusted proxy: the last address in `field` that
/// `is_trusted` does not hold for. If it holds for all, the first of them; if a trusted proxy does not
/// tell whom it was asked by, that proxy. None if the field is missing, or says nothing.
///
/// # Errors
/// [`ForwardedError`], with a status.
pub fn client(
    head: &Head<'_>,
    field: Field,
    is_trusted: impl Fn(IpAddr) -> bool,
) -> Result<Option<SocketAddr>, ForwardedError> {
    let name = match field {
        Field::Forwarded => "forwarded",
        Field::XForwardedFor => "x-forwarded-for",
    };
    let values: SmallVec<[&[u8]; 4]> = head.header_values(name).collect();
    let mut walk = Walk {
        is_trusted,
        last: None,
        elements: 0,
    };
    for value in values.into_iter().rev() {
        let is_over = match field {
            Field::Forwarded => walk.forwarded(value)?,
            Field::XForwardedFor => walk.x_forwarded_for(value)?,
        };
        if is_over {
            break;
        }
    }
    Ok(walk.last)
}

/// The way from the connection's other end to the client.
struct Walk<F> {
    is_trusted: F,
    /// How far it has come.
    last: Option<SocketAddr>,
    elements: usize,
}

impl<F: Fn(IpAddr) -> bool> Walk<F> {
    /// Goes on to whoever asked the last one. Says whether the way ends there.
    fn step(&mut self, node: Node) -> Result<bool, ForwardedError> {
        self.elements += 1;
        if self.elements > ELEMENTS_MAX {
            return Err(ForwardedError::TooManyElements);
        }
        let Node::Address(address) = node else {
            return Ok(true);
        };
        self.last = Some(address);
        Ok(!(self.is_trusted)(address.ip()))
    }

    fn x_forwarded_for(&mut self, value: &[u8]) -> Result<bool, ForwardedError> {
        for element in value.rsplit(|byte| *byte == b',').map(trim) {
            if element.is_empty() {
                continue;
            }
            let node = Node::read(element, true).ok_or(ForwardedError::MalformedXForwardedFor)?;
            if self.step(node)? {
                return Ok(true);
            }
        }
        Ok(false)
    }

    fn forwarded(&mut self, value: &[u8]) -> Result<bool, ForwardedError> {
        // From the front, because of quotes: what stands within them is no end of an element.
        for node in read_elements(value)?.into_iter().rev() {
            if self.step(node)? {
                return Ok(true);
            }
        }
        Ok(false)
    }
}

/// One that a proxy was asked by (RFC 7239 §6).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Node {
    Address(SocketAddr),
    /// `unknown`, or a name that only that proxy understands.
    Hidden,
}

impl Node {
    /// Reads a node; an IPv6 address without brackets too if it `may_be_bare`.
    fn read(text: &[u8], may_be_bare: bool) -> Option<Self> {
        let text = std::str::from_utf8(text).ok()?;
        if may_be_bare && let Ok(ip) = text.parse::<Ipv6Addr>() {
            return Some(Self::address(ip.into(), 0));
        }
        let (name, port) = match text.strip_prefix('[') {
            Some(rest) => {
                let (ip, rest) = rest.split_once(']')?;
                let port = match rest {
                    "" => None,
                    rest => Some(rest.strip_prefix(':')?),
                };
                let ip = ip.parse::<Ipv6Addr>().ok()?;
                return Some(Self::address(ip.into(), read_port(port)?));
            }
            None => match text.split_once(':') {
                Some((name, port)) => (name, Some(port)),
                None => (text, None),
            },
        };
        let port = read_port(port)?;
        if name.eq_ignore_ascii_case("unknown") || is_obfuscated(name) {
            return Some(Self::Hidden);
        }
        let ip = name.parse::<Ipv4Addr>().ok()?;
        Some(Self::address(ip.into(), port))
    }

    fn address(ip: IpAddr, port: u16) -> Self {
        Self::Address(SocketAddr::new(ip.to_canonical(), port))
    }
}

/// The port of a node; 0 if it has none, or one that is not told.
fn read_port(port: Option<&str>) -> Option<u16> {
    match port {
        None => Some(0),
        Some(port) if is_obfuscated(port) => Some(0),
        Some(port) if port.bytes().all(|byte| byte.is_ascii_digit()) => port.parse().ok(),
        Some(_) => None,
    }
}

/// `"_" 1*( ALPHA / DIGIT / "." / "_" / "-")` (RFC 7239 §6.3).
fn is_obfuscated(text: &str) -> bool {
    text.strip_prefix('_').is_some_and(|name| {
        let is_in_name = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
        !name.is_empty() && name.bytes().all(is_in_name)
    })
}

type Nodes = SmallVec<[Node; 4]>;

/// The elements of a `Forwarded` field (RFC 7239 §4), each by its `for`.
fn read_elements(value: &[u8]) -> Result<Nodes, ForwardedError> {
    let mut rest = Cursor(value);
    let mut nodes = Nodes::new();
    loop {
        rest.skip_space();
        // RFC 9110 §5.6.1.2: empty elements do not count.
        if rest.take(b',') {
            continue;
        }
        if rest.0.is_empty() {
            return Ok(nodes);
        }
        let node = read_element(&mut rest).ok_or(ForwardedError::MalformedForwarded)?;
        if nodes.len() == ELEMENTS_MAX {
            return Err(ForwardedError::TooManyElements);
        }
        nodes.push(node);
    }
}

/// One element up to its comma, or the end. One that does not say `for` hides whom it is about.
fn read_element(rest: &mut Cursor<'_>) -> Option<Node> {
    let mut node = None;
    loop {
        rest.skip_space();
        if !matches!(rest.0.first(), None | Some(b';' | b',')) {
            let name = rest.token()?;
            if !rest.take(b'=') {
                return None;
            }
            let value = rest.value()?;
            if name.eq_ignore_ascii_case(b"for") {
                let read = Node::read(&value, false)?;
                // RFC 7239 §4: each parameter at most once.
                if node.replace(read).is_some() {
                    return None;
                }
            }
            rest.skip_space();
        }
        if rest.take(b';') {
            continue;
        }
        if rest.0.is_empty() || rest.take(b',') {
            return Some(node.unwrap_or(Node::Hidden));
        }
        return None;
    }
}

/// What is still to be read of a field.
struct Cursor<'a>(&'a [u8]);

impl<'a> Cursor<'a> {
    fn skip_space(&mut self) {
        while let [b' ' | b'\t', rest @ ..] = self.0 {
            self.0 = rest;
        }
    }

    fn take(&mut self, byte: u8) -> bool {
        let is_there = self.0.first() == Some(&byte);
        if is_there {
            self.0 = &self.0[1..];
        }
        is_there
    }

    fn take_while(&mut self, fits: impl Fn(u8) -> bool) -> Option<&'a [u8]> {
        let end = self.0.iter().position(|byte| !fits(*byte));
        let (taken, rest) = self.0.split_at(end.unwrap_or(self.0.len()));
        self.0 = rest;
        (!taken.is_empty()).then_some(taken)
    }

    fn token(&mut self) -> Option<&'a [u8]> {
        self.take_while(is_tchar)
    }

    /// A token or a quoted string (RFC 9110 §5.6.4).
    fn value(&mut self) -> Option<SmallVec<[u8; 64]>> {
        if !self.take(b'"') {
            // Addresses with a port and IPv6 ones belong in quotes, and some proxies leave those out.
            let value = self.take_while(|byte| is_tchar(byte) || b":[]".contains(&byte))?;
            return Some(SmallVec::from_slice(value));
        }
        let mut value = SmallVec::new();
        loop {
            let (&byte, rest) = self.0.split_first()?;
            self.0 = rest;
            match byte {
                b'"' => return Some(value),
                b'\\' => {
                    let (&escaped, rest) = self.0.split_first()?;
                    self.0 = rest;
                    value.push(escaped);
                }
                byte => value.push(byte),
            }
        }
    }
}

/// Elements that are read of a request: more proxies in a row than anyone has.
pub const ELEMENTS_MAX: usize = 64;

#[cfg(test)]
mod tests;
