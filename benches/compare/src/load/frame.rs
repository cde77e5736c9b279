//! WebSocket frames as a client writes and reads them (RFC 6455 §5). No extensions, no fragments.

use std::fmt;

/// Continuation of a fragmented message.
pub(crate) const CONTINUATION: u8 = 0x0;
/// A text message.
pub(crate) const TEXT: u8 = 0x1;
/// A binary message.
pub(crate) const BINARY: u8 = 0x2;
/// The peer ends the connection.
pub(crate) const CLOSE: u8 = 0x8;
/// A question whether the peer lives.
pub(crate) const PING: u8 = 0x9;
/// The answer to it.
pub(crate) const PONG: u8 = 0xA;

/// Bytes before the payload of the longest frame from a server.
pub(crate) const SERVER_HEADER_BYTES_MAX: usize = 10;
/// Payload of a control frame (RFC 6455 §5.5).
pub(crate) const CONTROL_BYTES_MAX: usize = 125;

/// One frame from the server.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Frame<'a> {
    pub(crate) opcode: u8,
    pub(crate) payload: &'a [u8],
    /// Header and payload.
    pub(crate) bytes: usize,
}

/// What a server must not send.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    Reserved(u8),
    Fragment,
    Masked,
    Opcode(u8),
    Length(u64),
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Reserved(byte) => {
                write!(f, "reserved bits in the frame's first byte {byte:#04x}")
            }
            Self::Fragment => f.write_str("a fragmented message"),
            Self::Masked => f.write_str("a masked frame from the server"),
            Self::Opcode(opcode) => write!(f, "unknown opcode {opcode:#x}"),
            Self::Length(n) => write!(f, "a frame of {n} bytes, too long or wrongly encoded"),
        }
    }
}

impl std::error::Error for Fault {}

/// Reads the first frame of `bytes`; none if it is not complete yet.
pub(crate) fn parse(bytes: &[u8], payload_max: usize) -> Result<Option<Frame<'_>>, Fault> {
    let [first, second, rest @ ..] = bytes else {
        return Ok(None);
    };
    if first & 0x70 != 0 {
        return Err(Fault::Reserved(*first));
    }
    let opcode = first & 0x0F;
    if first & 0x80 == 0 || opcode == CONTINUATION {
        return Err(Fault::Fragment);
    }
    if !matches!(opcode, TEXT | BINARY | CLOSE | PING | PONG) {
        return Err(Fault::Opcode(opcode));
    }
    if second & 0x80 != 0 {
        return Err(Fault::Masked);
    }
    let (len, len_bytes, len_min) = match second & 0x7F {
        126 => match rest.first_chunk::<2>() {
            Some(b) => (u64::from(u16::from_be_bytes(*b)), 2, 126),
            None => return Ok(None),
        },
        127 => match rest.first_chunk::<8>() {
            Some(b) => (u64::from_be_bytes(*b), 8, 65536),
            None => return Ok(None),
        },
        n => (u64::from(n), 0, 0),
    };
    let is_control = opcode >= CLOSE;
    let max = if is_control {
        CONTROL_BYTES_MAX
    } else {
        payload_max
    };
    if len < len_min || len > max as u64 {
        return Err(Fault::Length(len));
    }
    let len = len as usize;
    Ok(rest.get(len_bytes..len_bytes + len).map(|payload| Frame {
        opcode,
        payload,
        bytes: 2 + len_bytes + len,
    }))
}

/// Appends a masked frame to `out`; answers where its payload begins.
pub(crate) fn write_masked(out: &mut Vec<u8>, opcode: u8, mask: [u8; 4], payload: &[u8]) -> usize {
    out.push(0x80 | opcode);
    match payload.len() {
        n @ 0..=125 => out.push(0x80 | n as u8),
        n @ 126..=0xFFFF => {
            out.push(0x80 | 126);
            out.extend_from_slice(&(n as u16).to_be_bytes());
        }
        n => {
            out.push(0x80 | 127);
            out.extend_from_slice(&(n as u64).to_be_bytes());
        }
    }
    out.extend_from_slice(&mask);
    let begin = out.len();
    out.extend(payload.iter().zip(mask.iter().cycle()).map(|(b, m)| b ^ m));
    begin
}

#[cfg(test)]
mod tests {
    use super::*;

    fn from_server(opcode: u8, payload: &[u8]) -> Vec<u8> {
        let mut masked = Vec::new();
        let begin = write_masked(&mut masked, opcode, [0; 4], payload);
        let mut bytes = masked[..begin - 4].to_vec();
        bytes[1] &= 0x7F;
        bytes.extend_from_slice(payload);
        bytes
    }

    #[test]
    fn reads_frames_of_every_length_form_whole_and_cut() {
        for len in [0, 1, 125, 126, 127, 65535, 65536] {
            let payload = vec![7; len];
            let bytes = from_server(BINARY, &payload);
            for cut in (0..bytes.len()).take(20).chain([bytes.len() - 1]) {
                assert_eq!(parse(&bytes[..cut], 65536), Ok(None), "{len} cut at {cut}");
            }
            let frame = parse(&bytes, 65536).unwrap().unwrap();
            assert_eq!(frame.payload, payload);
            assert_eq!(frame.bytes, bytes.len());
        }
    }

    #[test]
    fn refuses_what_a_server_must_not_send() {
        assert_eq!(parse(&[0x02, 0], 9), Err(Fault::Fragment));
        assert_eq!(parse(&[0x80, 0], 9), Err(Fault::Fragment));
        assert_eq!(parse(&[0xC2, 0], 9), Err(Fault::Reserved(0xC2)));
        assert_eq!(parse(&[0x82, 0x80], 9), Err(Fault::Masked));
        assert_eq!(parse(&[0x83, 0], 9), Err(Fault::Opcode(3)));
        assert_eq!(parse(&[0x82, 10], 9), Err(Fault::Length(10)));
        assert_eq!(parse(&[0x82, 126, 0, 125], 999), Err(Fault::Length(125)));
    }

    #[test]
    fn masks() {
        let mut out = Vec::new();
        // RFC 6455 §5.7: a masked "Hello".
        let begin = write_masked(&mut out, TEXT, [0x37, 0xfa, 0x21, 0x3d], b"Hello");
        assert_eq!(begin, 6);
        assert_eq!(out, b"\x81\x85\x37\xfa\x21\x3d\x7f\x9f\x4d\x51\x58");
    }
}
