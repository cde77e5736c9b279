//! A connection's headers: read across inputs and judged (RFC 6455 §5.1, §5.2, §5.4).

use super::super::error::WsError;
use super::super::event::Input;
use super::super::header::{self, FrameHeader, HEADER_BYTES_MAX, OpCode};
use super::{Connection, Role};

impl Connection {
    /// Reads a header from what is kept and `input`; keeps an incomplete one.
    pub(super) fn read_header(
        &mut self,
        input: &mut Input<'_>,
    ) -> Result<Option<FrameHeader>, WsError> {
        let kept = self
            .partial
            .as_ref()
            .map_or(0, |p| usize::from(p.header_len));
        if kept == 0 {
            if let Some((header, len)) = self.decode_header(input.remaining())? {
                input.take(len);
                return Ok(Some(header));
            }
            if input.is_empty() {
                return Ok(None);
            }
        }
        let partial = self.partial.get_or_insert_default();
        let mut bytes = partial.header;
        let added = input.len().min(HEADER_BYTES_MAX - kept);
        bytes[kept..kept + added].copy_from_slice(&input.remaining()[..added]);
        let decoded = self.decode_header(&bytes[..kept + added])?;
        let partial = self.partial.get_or_insert_default();
        match decoded {
            Some((header, len)) => {
                input.take(len - kept);
                partial.header_len = 0;
                self.drop_idle_partial();
                Ok(Some(header))
            }
            None => {
                input.take(added);
                partial.header = bytes;
                partial.header_len = (kept + added) as u8;
                Ok(None)
            }
        }
    }

    /// Decodes a header and judges it byte by byte: the same error however the input is cut.
    pub(super) fn decode_header(
        &self,
        bytes: &[u8],
    ) -> Result<Option<(FrameHeader, usize)>, WsError> {
        let Some(first) = bytes.first() else {
            return Ok(None);
        };
        let is_compressed = self.deflates && header::begins_compressed(*first);
        let first = if is_compressed {
            first & !header::RSV1
        } else {
            *first
        };
        let (_, opcode) = header::decode_first(first)?;
        let in_message = self.partial.as_ref().is_some_and(|p| p.message.is_some());
        match opcode {
            OpCode::Continuation if !in_message => return Err(WsError::UnexpectedContinuation),
            OpCode::Text | OpCode::Binary if in_message => {
                return Err(WsError::ExpectedContinuation);
            }
            _ => {}
        }
        if let Some(second) = bytes.get(1) {
            match (self.role, second & 0x80 != 0) {
                (Role::Server, false) => return Err(WsError::UnmaskedFromClient),
                (Role::Client, true) => return Err(WsError::MaskedFromServer),
                _ => {}
            }
        }
        if is_compressed {
            return header::decode_compressible(bytes);
        }
        header::decode(bytes)
    }

    /// Holds the message that the frame belongs to against the limit.
    pub(super) fn judge_len(&self, header: &FrameHeader) -> Result<usize, WsError> {
        let (buffered, is_compressed) = match &self.partial {
            Some(partial) if !header.opcode.is_control() => match &partial.message {
                Some(message) => {
                    let buffered = message.buf.len() + message.relayed_bytes;
                    (buffered, message.is_compressed)
                }
                None => (0, header.is_compressed),
            },
            _ => (0, header.is_compressed),
        };
        let len = header.payload_len.saturating_add(buffered as u64);
        let is_too_long = !header.opcode.is_control() && len > u64::from(self.message_bytes_max);
        if is_too_long && !(is_compressed && self.may_be_on_the_wire(len)) {
            return Err(WsError::MessageTooBig { len });
        }
        usize::try_from(header.payload_len).map_err(|_| WsError::MessageTooBig { len })
    }

    /// Whether a compressed message may be so long. What comes out of it is held against the limit as
    /// it does; what can't be compressed becomes longer, by much less than this.
    #[cold]
    fn may_be_on_the_wire(&self, len: u64) -> bool {
        let len_max = u64::from(self.message_bytes_max);
        len <= len_max + len_max / 8 + COMPRESSED_EXCESS_BYTES
    }
}

/// How much longer than itself, and an eighth of it, a message may be on the wire if it is compressed:
/// each of its flushes adds some bytes, however short what was flushed.
const COMPRESSED_EXCESS_BYTES: u64 = 256;
