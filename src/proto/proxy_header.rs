//! The PROXY protocol, versions 1 and 2: what a balancer says of a client before the client's own
//! first byte (HAProxy's `doc/proxy-protocol.txt`).
//!
//! `proxy_header` decodes; what it is lenient about is refused before, and a verdict on a prefix holds
//! for all that begins with it. It does not know who may send a header: that is for the caller, who must
//! not look for one anywhere else, since the bytes do not tell who wrote them.

use std::net::SocketAddr;

use proxy_header::{ParseConfig, ProxyHeader, Tlv};

mod checksum;

use self::checksum::crc32c;

/// Reads a header from input that is cut up anyhow. An idle reader owns no heap memory.
#[derive(Debug, Default)]
pub struct ProxyHeaderReader {
    /// What there is of a header that came in pieces.
    partial: Vec<u8>,
}

/// Whom a header names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    /// The client that the balancer serves.
    Client(SocketAddr),
    /// Nobody: the connection is the balancer's own (`LOCAL`), or the client has no address here
    /// (`UNKNOWN`, a Unix socket). It counts as the balancer's.
    Unnamed,
}

/// Why a header was refused. The blame is the balancer's, or the operator's who trusts the wrong one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ProxyHeaderError {
    /// The bytes are none: the balancer does not send it, or another than it has connected.
    #[error("the connection does not begin with a PROXY header")]
    Missing,
    /// A line of version 1 that is too long, or not as the protocol writes it.
    #[error("malformed PROXY header of version 1")]
    MalformedV1,
    /// A header of version 2 that contradicts itself.
    #[error("malformed PROXY header of version 2")]
    MalformedV2,
    /// More than [`V2_BYTES_MAX`].
    #[error("the PROXY header is too long")]
    TooLong,
    /// The checksum is not that of the header.
    #[error("the PROXY header's checksum is wrong")]
    Checksum,
}

impl ProxyHeaderReader {
    /// A reader that has received nothing.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Takes input; says whom the header names once it is whole, and how many bytes of this `input`
    /// belong to it. The rest of the input is left to the caller. `None`: all of `input` was
    /// buffered, and more is needed.
    ///
    /// # Errors
    /// [`ProxyHeaderError`] as soon as the bytes cannot become a header.
    pub fn handle_input(
        &mut self,
        input: &[u8],
    ) -> Result<Option<(Source, usize)>, ProxyHeaderError> {
        let buffered = self.partial.len();
        if buffered == 0 {
            let found = parse(input)?;
            if found.is_none() {
                self.partial.extend_from_slice(input);
            }
            return Ok(found);
        }
        // Never more than the longest header: what lies beyond is not its own.
        let room = V2_BYTES_MAX - buffered;
        self.partial
            .extend_from_slice(&input[..input.len().min(room)]);
        let found = parse(&self.partial)?;
        Ok(found.map(|(source, length)| (source, length - buffered)))
    }

    /// Bytes held for a header that is not whole.
    #[must_use]
    pub fn buffered_bytes(&self) -> usize {
        self.partial.capacity()
    }
}

/// Reads the header that `bytes` starts with, and says how long it is.
fn parse(bytes: &[u8]) -> Result<Option<(Source, usize)>, ProxyHeaderError> {
    match bytes.first() {
        None => Ok(None),
        Some(b'P') => parse_v1(bytes),
        Some(_) => parse_v2(bytes),
    }
}

fn parse_v1(bytes: &[u8]) -> Result<Option<(Source, usize)>, ProxyHeaderError> {
    if !is_prefix(bytes, V1_START) {
        return Err(ProxyHeaderError::Missing);
    }
    let window = &bytes[..bytes.len().min(V1_BYTES_MAX)];
    let Some(end) = memchr::memchr(b'\n', window) else {
        return if window.len() == V1_BYTES_MAX {
            Err(ProxyHeaderError::MalformedV1)
        } else {
            Ok(None)
        };
    };
    let line = &window[..=end];
    let rest = line
        .strip_prefix(V1_START)
        .and_then(|rest| rest.strip_suffix(b"\r\n"))
        .ok_or(ProxyHeaderError::MalformedV1)?;
    // What follows `UNKNOWN` is to be ignored up to the end of the line.
    if let Some(rest) = rest.strip_prefix(b"UNKNOWN")
        && matches!(rest.first(), None | Some(b' '))
        && !rest.contains(&b'\r')
    {
        return Ok(Some((Source::Unnamed, line.len())));
    }
    // Ports have no sign and no leading zeros, which the parser takes.
    let ports = rest.split(|byte| *byte == b' ').skip(3);
    let is_port = |port: &[u8]| port == b"0" || matches!(port.first(), Some(b'1'..=b'9'));
    if !ports.into_iter().all(is_port) {
        return Err(ProxyHeaderError::MalformedV1);
    }
    match ProxyHeader::parse(line, PARSE) {
        Ok((header, length)) if length == line.len() => {
            let address = header.proxied_address();
            let source = address.ok_or(ProxyHeaderError::MalformedV1)?.source;
            Ok(Some((Source::Client(source), length)))
        }
        _ => Err(ProxyHeaderError::MalformedV1),
    }
}

fn parse_v2(bytes: &[u8]) -> Result<Option<(Source, usize)>, ProxyHeaderError> {
    if !is_prefix(bytes, V2_SIGNATURE) {
        return Err(ProxyHeaderError::Missing);
    }
    let Some(fixed) = bytes.first_chunk::<V2_FIXED_BYTES>() else {
        return match bytes.get(V2_SIGNATURE.len()) {
            None | Some(&(V2_LOCAL | V2_PROXY)) => Ok(None),
            Some(_) => Err(ProxyHeaderError::MalformedV2),
        };
    };
    let length = V2_FIXED_BYTES + usize::from(u16::from_be_bytes([fixed[14], fixed[15]]));
    let command = fixed[12];
    if !matches!(command, V2_LOCAL | V2_PROXY) {
        return Err(ProxyHeaderError::MalformedV2);
    }
    if length > V2_BYTES_MAX {
        return Err(ProxyHeaderError::TooLong);
    }
    let Some(header) = bytes.get(..length) else {
        return Ok(None);
    };
    // Of a connection of the balancer's own, all that follows is to be ignored, the family too.
    if command == V2_LOCAL {
        return Ok(Some((Source::Unnamed, length)));
    }
    let (parsed, used) =
        ProxyHeader::parse(header, PARSE).map_err(|_| ProxyHeaderError::MalformedV2)?;
    if used != length {
        return Err(ProxyHeaderError::MalformedV2);
    }
    let source = parsed
        .proxied_address()
        .map_or(Source::Unnamed, |address| Source::Client(address.source));
    check_fields(header, &parsed)?;
    Ok(Some((source, length)))
}

/// The fields behind the addresses: each must be whole, and the checksum right if there is one.
/// Nothing else in them counts here.
fn check_fields(header: &[u8], parsed: &ProxyHeader<'_>) -> Result<(), ProxyHeaderError> {
    let addresses = match header[13] >> 4 {
        0 => 0,
        1 => 12,
        2 => 36,
        _ => 216,
    };
    let mut at = V2_FIXED_BYTES + addresses;
    for field in parsed.tlvs() {
        let len = header
            .get(at + 1..at + 3)
            .and_then(|len| len.first_chunk().copied())
            .map(u16::from_be_bytes)
            .ok_or(ProxyHeaderError::MalformedV2)?;
        // What is not UTF-8 in a name that nobody reads does no harm; a length beyond the end does.
        let value = at + 3..at + 3 + usize::from(len);
        if value.end > header.len() {
            return Err(ProxyHeaderError::MalformedV2);
        }
        match field {
            Ok(Tlv::Crc32c(sum)) => {
                let sum_of = [&header[..value.start], &[0; 4], &header[value.end..]];
                if crc32c(&sum_of) != sum {
                    return Err(ProxyHeaderError::Checksum);
                }
            }
            Err(_) if header[at] == CHECKSUM_FIELD => return Err(ProxyHeaderError::MalformedV2),
            _ => {}
        }
        at = value.end;
    }
    Ok(())
}

/// Whether one begins with the other, whichever is longer.
fn is_prefix(bytes: &[u8], start: &[u8]) -> bool {
    let common = bytes.len().min(start.len());
    bytes[..common] == start[..common]
}

const PARSE: ParseConfig = ParseConfig {
    include_tlvs: true,
    allow_v1: true,
    allow_v2: true,
};

const V1_START: &[u8] = b"PROXY ";

/// The longest line of version 1, with its CR LF.
const V1_BYTES_MAX: usize = 107;

const V2_SIGNATURE: &[u8] = b"\r\n\r\n\0\r\nQUIT\n";

/// Signature, version and command, family and protocol, length.
const V2_FIXED_BYTES: usize = 16;

/// Version 2, and the command.
const V2_LOCAL: u8 = 0x20;
const V2_PROXY: u8 = 0x21;

/// `PP2_TYPE_CRC32C`.
const CHECKSUM_FIELD: u8 = 0x03;

/// The longest header of version 2. The addresses take 232 bytes at most; the rest is for fields, of
/// which a client's certificate is the longest.
pub const V2_BYTES_MAX: usize = 8 * 1024;

#[cfg(test)]
mod tests;
