//! What a server says, frame by frame, without copying it (RFC 6455 §5, RFC 7692 §6).
//!
//! A message comes in parts, as the bytes come; one that lies whole in the input is one part.

use crate::proto::ws::{
    FrameHeader, OpCode, WsError,
    header::{CONTROL_PAYLOAD_BYTES_MAX, HEADER_BYTES_MAX, decode, decode_compressible},
};

/// Where one connection's input stands.
#[derive(Debug, Default)]
pub(crate) struct Reader {
    /// The beginning of a header that has not come whole.
    head: [u8; HEADER_BYTES_MAX],
    head_len: u8,
    frame: Option<Frame>,
    /// The kind of the message whose frames are coming, and whether it is compressed.
    message: Option<(OpCode, bool)>,
    /// Whether messages may be compressed.
    is_compressible: bool,
    /// Of the control frame that is coming.
    control: Vec<u8>,
}

#[derive(Clone, Copy, Debug)]
struct Frame {
    opcode: OpCode,
    fin: bool,
    left: u64,
    is_first_part: bool,
}

/// What the input holds next.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Piece<'a> {
    /// Part of a message.
    Part(Part<'a>),
    /// A control frame, whole.
    Control(OpCode, Vec<u8>),
}

/// Part of a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Part<'a> {
    /// Text or binary.
    pub(crate) kind: OpCode,
    pub(crate) is_first: bool,
    pub(crate) is_last: bool,
    /// Whether the message is compressed, all parts of it together.
    pub(crate) is_compressed: bool,
    pub(crate) bytes: &'a [u8],
}

/// A breach of the protocol by the server.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Breach {
    #[error("{0}")]
    Frame(#[from] WsError),
    #[error("a masked frame from a server")]
    Masked,
    #[error("a continuation of no message")]
    Continuation,
    #[error("a new message within a fragmented one")]
    Interleaved,
}

impl Reader {
    /// From now on, messages may be compressed.
    pub(crate) fn set_compressible(&mut self) {
        self.is_compressible = true;
    }

    #[inline]
    fn decode(&self, bytes: &[u8]) -> Result<Option<(FrameHeader, usize)>, WsError> {
        if self.is_compressible {
            decode_compressible(bytes)
        } else {
            decode(bytes)
        }
    }

    /// The next piece at the front of `input`, which shrinks; none if all of it is used up.
    #[inline]
    pub(crate) fn next<'a>(&mut self, input: &mut &'a [u8]) -> Result<Option<Piece<'a>>, Breach> {
        loop {
            let Some(mut frame) = self.frame.take() else {
                match self.begin(input)? {
                    Some(frame) => {
                        self.frame = Some(frame);
                        // An empty frame is complete as soon as its header is.
                        if frame.left > 0 {
                            continue;
                        }
                        self.frame = None;
                        return Ok(Some(self.end_empty(frame)));
                    }
                    None => return Ok(None),
                }
            };
            if input.is_empty() {
                self.frame = Some(frame);
                return Ok(None);
            }
            let len = input
                .len()
                .min(usize::try_from(frame.left).unwrap_or(usize::MAX));
            let (bytes, rest) = input.split_at(len);
            *input = rest;
            frame.left -= len as u64;
            let is_complete = frame.left == 0;
            if frame.opcode.is_control() {
                self.control.extend_from_slice(bytes);
                if is_complete {
                    let payload = std::mem::take(&mut self.control);
                    return Ok(Some(Piece::Control(frame.opcode, payload)));
                }
                self.frame = Some(frame);
                continue;
            }
            let (kind, is_compressed) = self.message.unwrap_or((frame.opcode, false));
            let part = Part {
                kind,
                is_first: frame.is_first_part,
                is_last: is_complete && frame.fin,
                is_compressed,
                bytes,
            };
            frame.is_first_part = false;
            if !is_complete {
                self.frame = Some(frame);
            }
            if part.is_last {
                self.message = None;
            }
            return Ok(Some(Piece::Part(part)));
        }
    }

    /// Reads a header.
    #[inline]
    fn begin(&mut self, input: &mut &[u8]) -> Result<Option<Frame>, Breach> {
        let decoded = if self.head_len == 0 {
            match self.decode(input)? {
                Some((header, len)) => {
                    *input = &input[len..];
                    Some(header)
                }
                None => {
                    self.head[..input.len()].copy_from_slice(input);
                    self.head_len = input.len() as u8;
                    *input = &[];
                    None
                }
            }
        } else {
            self.decode_in_pieces(input)?
        };
        let Some(header) = decoded else {
            return Ok(None);
        };
        if header.mask.is_some() {
            return Err(Breach::Masked);
        }
        let mut frame = Frame {
            opcode: header.opcode,
            fin: header.fin,
            left: header.payload_len,
            is_first_part: true,
        };
        match (header.opcode, self.message) {
            (OpCode::Continuation, None) => return Err(Breach::Continuation),
            (OpCode::Continuation, Some(_)) => frame.is_first_part = false,
            (OpCode::Text | OpCode::Binary, Some(_)) => return Err(Breach::Interleaved),
            (OpCode::Text | OpCode::Binary, None) => {
                self.message = Some((header.opcode, header.is_compressed));
            }
            _ => {}
        }
        Ok(Some(frame))
    }

    fn decode_in_pieces(&mut self, input: &mut &[u8]) -> Result<Option<FrameHeader>, Breach> {
        while let [byte, rest @ ..] = *input {
            self.head[usize::from(self.head_len)] = *byte;
            self.head_len += 1;
            *input = rest;
            if let Some((header, _)) = self.decode(&self.head[..usize::from(self.head_len)])? {
                self.head_len = 0;
                return Ok(Some(header));
            }
        }
        Ok(None)
    }

    fn end_empty(&mut self, frame: Frame) -> Piece<'static> {
        if frame.opcode.is_control() {
            debug_assert!(self.control.len() <= CONTROL_PAYLOAD_BYTES_MAX);
            return Piece::Control(frame.opcode, Vec::new());
        }
        let (kind, is_compressed) = self.message.unwrap_or((frame.opcode, false));
        if frame.fin {
            self.message = None;
        }
        Piece::Part(Part {
            kind,
            is_first: frame.is_first_part,
            is_last: frame.fin,
            is_compressed,
            bytes: &[],
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::ws::header::{encode, push_frame};

    /// Messages and control frames put together from their pieces.
    fn read(chunks: &[&[u8]]) -> Result<Vec<(OpCode, Vec<u8>)>, Breach> {
        read_by(Reader::default(), chunks)
    }

    fn read_by(mut reader: Reader, chunks: &[&[u8]]) -> Result<Vec<(OpCode, Vec<u8>)>, Breach> {
        let mut found = Vec::new();
        let mut message = Vec::new();
        for chunk in chunks {
            let mut input = *chunk;
            while let Some(piece) = reader.next(&mut input)? {
                match piece {
                    Piece::Control(opcode, payload) => found.push((opcode, payload)),
                    Piece::Part(part) => {
                        assert_eq!(part.is_first, message.is_empty());
                        message.extend_from_slice(part.bytes);
                        if part.is_compressed && part.is_last {
                            message.insert(0, b'C');
                        }
                        if part.is_last {
                            found.push((part.kind, std::mem::take(&mut message)));
                        }
                    }
                }
            }
            assert!(input.is_empty());
        }
        Ok(found)
    }

    fn push(out: &mut Vec<u8>, fin: bool, opcode: OpCode, payload: &[u8]) {
        let mut head = [0; HEADER_BYTES_MAX];
        let len = encode(fin, opcode, payload.len() as u64, None, &mut head);
        out.extend_from_slice(&head[..len]);
        out.extend_from_slice(payload);
    }

    #[test]
    fn the_same_pieces_come_however_the_input_is_cut() {
        let mut bytes = Vec::new();
        push_frame(&mut bytes, OpCode::Binary, &[7; 126]);
        push_frame(&mut bytes, OpCode::Ping, b"?");
        push(&mut bytes, false, OpCode::Text, b"ab");
        push_frame(&mut bytes, OpCode::Pong, b"");
        push(&mut bytes, true, OpCode::Continuation, b"cd");
        push_frame(&mut bytes, OpCode::Text, b"");
        push_frame(&mut bytes, OpCode::Close, &[3, 232]);
        let expected = vec![
            (OpCode::Binary, vec![7; 126]),
            (OpCode::Ping, b"?".to_vec()),
            (OpCode::Pong, Vec::new()),
            (OpCode::Text, b"abcd".to_vec()),
            (OpCode::Text, Vec::new()),
            (OpCode::Close, vec![3, 232]),
        ];
        assert_eq!(read(&[&bytes]).as_ref(), Ok(&expected));
        for cut in 0..bytes.len() {
            let (front, back) = bytes.split_at(cut);
            assert_eq!(read(&[front, back]).as_ref(), Ok(&expected), "{cut}");
        }
        let single: Vec<&[u8]> = bytes.chunks(1).collect();
        assert_eq!(read(&single), Ok(expected));
    }

    #[test]
    fn compressed_messages_are_told_where_they_may_be() {
        let mut bytes = vec![0xC1, 2, b'a', b'b'];
        bytes.extend_from_slice(&[0x41, 1, b'c', 0x89, 0, 0x80, 1, b'd']);
        bytes.extend_from_slice(&[0x82, 1, b'e', 0xC2, 0]);
        let expected = vec![
            (OpCode::Text, b"Cab".to_vec()),
            (OpCode::Ping, Vec::new()),
            (OpCode::Text, b"Ccd".to_vec()),
            (OpCode::Binary, b"e".to_vec()),
            (OpCode::Binary, b"C".to_vec()),
        ];
        let compressible = || {
            let mut reader = Reader::default();
            reader.set_compressible();
            reader
        };
        for cut in 0..bytes.len() {
            let (front, back) = bytes.split_at(cut);
            let found = read_by(compressible(), &[front, back]);
            assert_eq!(found.as_ref(), Ok(&expected), "{cut}");
        }
        let reserved = Err(Breach::Frame(WsError::ReservedBits));
        assert_eq!(read(&[&bytes]), reserved);
        for first in [0xC8, 0xC9, 0xCA, 0xA1, 0x91, 0xF1] {
            assert_eq!(read_by(compressible(), &[&[first, 0]]), reserved, "{first}");
        }
        let continued = [0x41, 1, b'c', 0xC0, 1, b'd'];
        assert_eq!(read_by(compressible(), &[&continued]), reserved);
    }

    #[test]
    fn breaches_are_told() {
        let cases: [(&[u8], Breach); 4] = [
            (&[0x82, 0x80, 0, 0, 0, 0], Breach::Masked),
            (&[0x80, 0], Breach::Continuation),
            (&[0x01, 1, b'a', 0x81, 0], Breach::Interleaved),
            (&[0xC2, 0], Breach::Frame(WsError::ReservedBits)),
        ];
        for (bytes, breach) in cases {
            assert_eq!(read(&[bytes]), Err(breach));
        }
    }
}
