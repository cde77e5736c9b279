//! Frame headers, read incrementally and written (RFC 6455 §5.2).
//!
//! What may follow what, and whose frames are masked, is for [`Connection`] to judge.
//!
//! [`Connection`]: super::Connection

use super::error::WsError;
use super::mask::apply_mask;

/// The meaning of a frame (§5.2, §11.8).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum OpCode {
    /// The next fragment of a message.
    Continuation = 0x0,
    /// A text message, or its first fragment.
    Text = 0x1,
    /// A binary message, or its first fragment.
    Binary = 0x2,
    /// The closing handshake.
    Close = 0x8,
    /// A question that a Pong answers.
    Ping = 0x9,
    /// The answer to a Ping, or a heartbeat.
    Pong = 0xA,
}

impl OpCode {
    /// Whether frames of this kind are control frames (§5.5).
    #[inline]
    #[must_use]
    pub fn is_control(self) -> bool {
        self as u8 & 0x8 != 0
    }
}

/// A frame's header, decoded (§5.2).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FrameHeader {
    /// Whether the frame ends its message.
    pub fin: bool,
    /// Whether the frame begins a compressed message (RFC 7692 §6); see [`decode_compressible`].
    pub is_compressed: bool,
    /// The frame's kind.
    pub opcode: OpCode,
    /// The masking key; `None` where the payload is in clear.
    pub mask: Option<[u8; 4]>,
    /// Bytes of payload that follow the header; at most 2⁶³ − 1.
    pub payload_len: u64,
}

/// Reads FIN and the opcode from a header's first byte (§5.2).
///
/// # Errors
///
/// [`WsError::ReservedBits`], [`WsError::ReservedOpcode`] or [`WsError::ControlFragmented`].
#[inline]
pub fn decode_first(byte: u8) -> Result<(bool, OpCode), WsError> {
    if byte & RSV != 0 {
        return Err(WsError::ReservedBits);
    }
    let opcode = match byte & 0x0F {
        0x0 => OpCode::Continuation,
        0x1 => OpCode::Text,
        0x2 => OpCode::Binary,
        0x8 => OpCode::Close,
        0x9 => OpCode::Ping,
        0xA => OpCode::Pong,
        opcode => return Err(WsError::ReservedOpcode { opcode }),
    };
    let fin = byte & FIN != 0;
    if opcode.is_control() && !fin {
        return Err(WsError::ControlFragmented);
    }
    Ok((fin, opcode))
}

/// Reads the header at the front of `bytes` and gives it with its own length in bytes.
///
/// `None`: more bytes are needed. A breach is reported by the first byte that decides it, even
/// where the header is not complete.
///
/// # Errors
///
/// Those of [`decode_first`], [`WsError::ControlTooLong`], [`WsError::NonMinimalLength`] and
/// [`WsError::LengthTopBit`].
#[inline]
pub fn decode(bytes: &[u8]) -> Result<Option<(FrameHeader, usize)>, WsError> {
    let [first, rest @ ..] = bytes else {
        return Ok(None);
    };
    let (fin, opcode) = decode_first(*first)?;
    let [second, rest @ ..] = rest else {
        return Ok(None);
    };
    let masked = second & MASKED != 0;
    let short = second & !MASKED;
    // RFC 6455 §5.5: control payloads fit in 125 bytes, so no extended length follows.
    if opcode.is_control() && usize::from(short) > CONTROL_PAYLOAD_BYTES_MAX {
        return Err(WsError::ControlTooLong);
    }
    let (payload_len, rest) = match short {
        LEN_16 => match decode_len16(rest)? {
            Some(len) => (len, &rest[2..]),
            None => return Ok(None),
        },
        LEN_64 => match decode_len64(rest)? {
            Some(len) => (len, &rest[8..]),
            None => return Ok(None),
        },
        len => (u64::from(len), rest),
    };
    let (mask, rest) = if masked {
        match rest.split_first_chunk::<4>() {
            Some((key, rest)) => (Some(*key), rest),
            None => return Ok(None),
        }
    } else {
        (None, rest)
    };
    let header = FrameHeader {
        fin,
        is_compressed: false,
        opcode,
        mask,
        payload_len,
    };
    Ok(Some((header, bytes.len() - rest.len())))
}

/// As [`decode`], on a connection that has agreed on permessage-deflate: RSV1 may stand on the first
/// frame of a message (RFC 7692 §6), and nowhere else.
///
/// # Errors
///
/// Those of [`decode`].
#[inline(never)]
pub fn decode_compressible(bytes: &[u8]) -> Result<Option<(FrameHeader, usize)>, WsError> {
    if !bytes.first().copied().is_some_and(begins_compressed) {
        return decode(bytes);
    }
    // But for that bit it is a header like any other.
    let mut plain = [0; HEADER_BYTES_MAX];
    let len = bytes.len().min(HEADER_BYTES_MAX);
    plain[..len].copy_from_slice(&bytes[..len]);
    plain[0] &= !RSV1;
    let decoded = decode(&plain[..len])?;
    Ok(decoded.map(|(header, len)| {
        let header = FrameHeader {
            is_compressed: true,
            ..header
        };
        (header, len)
    }))
}

/// Whether a header's first byte begins a compressed message, where that is agreed on: of the reserved
/// bits RSV1 alone, and the opcode of a data message.
#[inline]
pub(super) const fn begins_compressed(byte: u8) -> bool {
    byte & RSV == RSV1 && matches!(byte & 0x0F, 0x1 | 0x2)
}

fn decode_len16(bytes: &[u8]) -> Result<Option<u64>, WsError> {
    let Some(len) = bytes.first_chunk::<2>() else {
        return Ok(None);
    };
    let len = u16::from_be_bytes(*len);
    if usize::from(len) <= CONTROL_PAYLOAD_BYTES_MAX {
        return Err(WsError::NonMinimalLength);
    }
    Ok(Some(u64::from(len)))
}

fn decode_len64(bytes: &[u8]) -> Result<Option<u64>, WsError> {
    if bytes.first().is_some_and(|byte| byte & 0x80 != 0) {
        return Err(WsError::LengthTopBit);
    }
    // Six zero bytes leave at most 65535, which two bytes can say.
    if bytes.first_chunk::<6>() == Some(&[0; 6]) {
        return Err(WsError::NonMinimalLength);
    }
    Ok(bytes.first_chunk::<8>().map(|len| u64::from_be_bytes(*len)))
}

/// Writes a header to the front of `out` and gives its length in bytes.
///
/// `payload_len` is at most 2⁶³ − 1 (§5.2); a slice is never longer.
#[inline]
pub fn encode(
    fin: bool,
    opcode: OpCode,
    payload_len: u64,
    mask: Option<[u8; 4]>,
    out: &mut [u8; HEADER_BYTES_MAX],
) -> usize {
    debug_assert!(payload_len >> 63 == 0, "a payload length has 63 bits");
    out[0] = if fin { FIN } else { 0 } | opcode as u8;
    let masked = if mask.is_some() { MASKED } else { 0 };
    let mut len = 2;
    match payload_len {
        0..=125 => out[1] = masked | payload_len as u8,
        126..=0xFFFF => {
            out[1] = masked | LEN_16;
            out[2..4].copy_from_slice(&(payload_len as u16).to_be_bytes());
            len = 4;
        }
        _ => {
            out[1] = masked | LEN_64;
            out[2..10].copy_from_slice(&payload_len.to_be_bytes());
            len = 10;
        }
    }
    if let Some(key) = mask {
        out[len..len + 4].copy_from_slice(&key);
        len += 4;
    }
    len
}

/// Appends a whole unmasked frame, as a server sends it.
pub fn push_frame(out: &mut Vec<u8>, opcode: OpCode, payload: &[u8]) {
    let mut header = [0; HEADER_BYTES_MAX];
    let len = encode(true, opcode, payload.len() as u64, None, &mut header);
    out.reserve(len + payload.len());
    out.extend_from_slice(&header[..len]);
    out.extend_from_slice(payload);
}

/// Appends a whole masked frame, as a client sends it; `payload` is given in clear.
pub fn push_masked_frame(out: &mut Vec<u8>, opcode: OpCode, payload: &[u8], mask: [u8; 4]) {
    let mut header = [0; HEADER_BYTES_MAX];
    let len = encode(true, opcode, payload.len() as u64, Some(mask), &mut header);
    out.reserve(len + payload.len());
    out.extend_from_slice(&header[..len]);
    let start = out.len();
    out.extend_from_slice(payload);
    apply_mask(&mut out[start..], mask, 0);
}

/// Two bytes, a 64-bit length and a masking key.
pub const HEADER_BYTES_MAX: usize = 14;
/// Two bytes and a 64-bit length.
pub const UNMASKED_HEADER_BYTES_MAX: usize = 10;
/// §5.5: the longest payload of a control frame, and of a two-byte header.
pub const CONTROL_PAYLOAD_BYTES_MAX: usize = 125;

/// The bit of a header's first byte that says that the message is compressed (RFC 7692 §6).
pub const RSV1: u8 = 0x40;

const FIN: u8 = 0x80;
const RSV: u8 = 0x70;
const MASKED: u8 = 0x80;
const LEN_16: u8 = 126;
const LEN_64: u8 = 127;

#[cfg(test)]
mod tests {
    use super::*;

    const OPCODES: [OpCode; 6] = [
        OpCode::Continuation,
        OpCode::Text,
        OpCode::Binary,
        OpCode::Close,
        OpCode::Ping,
        OpCode::Pong,
    ];

    #[test]
    fn headers_survive_the_round_trip_and_every_cut() {
        let lens = [0, 1, 125, 126, 127, 65535, 65536, 1 << 32, (1 << 63) - 1];
        for opcode in OPCODES {
            for payload_len in lens {
                for mask in [None, Some([1, 2, 3, 4])] {
                    for fin in [true, false] {
                        if opcode.is_control() && (!fin || payload_len > 125) {
                            continue;
                        }
                        let mut out = [0; HEADER_BYTES_MAX];
                        let len = encode(fin, opcode, payload_len, mask, &mut out);
                        let header = FrameHeader {
                            fin,
                            is_compressed: false,
                            opcode,
                            mask,
                            payload_len,
                        };
                        for cut in 0..len {
                            assert_eq!(decode(&out[..cut]), Ok(None), "{header:?} cut at {cut}");
                        }
                        assert_eq!(decode(&out[..len]), Ok(Some((header, len))));
                        assert_eq!(decode(&out), Ok(Some((header, len))));
                    }
                }
            }
        }
    }

    #[test]
    fn breaches_are_reported_by_the_byte_that_decides_them() {
        let table: &[(&[u8], WsError)] = &[
            (b"\xc1", WsError::ReservedBits),
            (b"\xa1", WsError::ReservedBits),
            (b"\x91", WsError::ReservedBits),
            (b"\x83", WsError::ReservedOpcode { opcode: 0x3 }),
            (b"\x8f", WsError::ReservedOpcode { opcode: 0xF }),
            (b"\x09", WsError::ControlFragmented),
            (b"\x89\x7e", WsError::ControlTooLong),
            (b"\x88\xff", WsError::ControlTooLong),
            (b"\x82\x7e\x00\x7d", WsError::NonMinimalLength),
            (
                b"\x82\x7f\x00\x00\x00\x00\x00\x00",
                WsError::NonMinimalLength,
            ),
            (b"\x82\x7f\x80", WsError::LengthTopBit),
        ];
        for (bytes, error) in table {
            assert_eq!(decode(bytes), Err(error.clone()), "{bytes:x?}");
            assert_eq!(decode(&bytes[..bytes.len() - 1]), Ok(None), "{bytes:x?}");
        }
    }

    #[test]
    fn the_first_frame_of_a_message_alone_may_be_compressed() {
        for first in 0..=u8::MAX {
            let bytes = [first, 0];
            let decoded = decode_compressible(&bytes);
            match (first & RSV, first & 0x0F) {
                (RSV1, 0x1 | 0x2) => {
                    let (header, len) = decoded.unwrap().unwrap();
                    assert!(header.is_compressed && len == 2);
                    assert_eq!(header.fin, first & FIN != 0);
                    assert_eq!(decode(&bytes), Err(WsError::ReservedBits));
                }
                _ => assert_eq!(decoded, decode(&bytes), "{first:#x}"),
            }
        }
    }

    #[test]
    fn frames_of_rfc_6455_section_5_7() {
        let mut out = Vec::new();
        push_frame(&mut out, OpCode::Text, b"Hello");
        assert_eq!(out, b"\x81\x05Hello");
        out.clear();
        push_masked_frame(&mut out, OpCode::Text, b"Hello", [0x37, 0xfa, 0x21, 0x3d]);
        assert_eq!(out, b"\x81\x85\x37\xfa\x21\x3d\x7f\x9f\x4d\x51\x58");
        out.clear();
        push_frame(&mut out, OpCode::Binary, &[7; 256]);
        assert_eq!(out[..4], *b"\x82\x7e\x01\x00");
        out.clear();
        push_frame(&mut out, OpCode::Binary, &vec![7; 65536]);
        assert_eq!(out[..10], *b"\x82\x7f\x00\x00\x00\x00\x00\x01\x00\x00");
    }
}
