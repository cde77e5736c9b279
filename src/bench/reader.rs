//! What a server says, frame by frame, without copying it (RFC 6455 §5).
//!
//! A message comes in parts, as the bytes come; one that lies whole in the input is one part.

use crate::proto::ws::{
    OpCode, WsError,
    header::{CONTROL_PAYLOAD_BYTES_MAX, HEADER_BYTES_MAX, decode},
};

/// Where one connection's input stands.
#[derive(Debug, Default)]
pub(crate) struct Reader {
    /// The beginning of a header that has not come whole.
    head: [u8; HEADER_BYTES_MAX],
    head_len: u8,
    frame: Option<Frame>,
    /// The kind of the message whose frames are coming.
    message: Option<OpCode>,
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
            let part = Part {
                kind: self.message.unwrap_or(frame.opcode),
                is_first: frame.is_first_part,
                is_last: is_complete && frame.fin,
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
            match decode(input)? {
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
            (OpCode::Text | OpCode::Binary, None) => self.message = Some(header.opcode),
            _ => {}
        }
        Ok(Some(frame))
    }

    fn decode_in_pieces(
        &mut self,
        input: &mut &[u8],
    ) -> Result<Option<crate::proto::ws::FrameHeader>, Breach> {
        while let [byte, rest @ ..] = *input {
            self.head[usize::from(self.head_len)] = *byte;
            self.head_len += 1;
            *input = rest;
            if let Some((header, _)) = decode(&self.head[..usize::from(self.head_len)])? {
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
        let kind = self.message.unwrap_or(frame.opcode);
        if frame.fin {
            self.message = None;
        }
        Piece::Part(Part {
            kind,
            is_first: frame.is_first_part,
            is_last: frame.fin,
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
        let mut reader = Reader::default();
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
