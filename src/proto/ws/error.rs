//! What a peer can do wrong, and the close code that tells it so (RFC 6455 §7.1.7, §7.4.1).

use super::close::CloseCode;

/// A breach of RFC 6455, RFC 7692 or the message limit by the peer, or what keeps its message from being
/// read.
///
/// Each one fails the connection: the caller sends [`WsError::close_code`] and hangs up.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum WsError {
    /// A reserved bit is set although no extension was negotiated (§5.2).
    #[error("reserved bits set without an extension")]
    ReservedBits,
    /// The opcode has no meaning (§5.2).
    #[error("reserved opcode {opcode:#x}")]
    ReservedOpcode {
        /// The four bits, as received.
        opcode: u8,
    },
    /// A client sent a frame without a mask (§5.1).
    #[error("unmasked frame from a client")]
    UnmaskedFromClient,
    /// A server sent a masked frame (§5.1).
    #[error("masked frame from a server")]
    MaskedFromServer,
    /// A control frame without FIN (§5.5).
    #[error("fragmented control frame")]
    ControlFragmented,
    /// A control frame with a payload of more than 125 bytes (§5.5).
    #[error("control frame longer than 125 bytes")]
    ControlTooLong,
    /// A length written in more bytes than it needs (§5.2).
    #[error("payload length is not minimally encoded")]
    NonMinimalLength,
    /// A 64-bit length with its most significant bit set (§5.2).
    #[error("payload length has its top bit set")]
    LengthTopBit,
    /// A continuation frame while no message is in progress (§5.4).
    #[error("continuation frame without a message to continue")]
    UnexpectedContinuation,
    /// A new data frame while a fragmented message is in progress (§5.4).
    #[error("new message inside a fragmented message")]
    ExpectedContinuation,
    /// The message would exceed the limit; judged before its payload is read (§10.4).
    #[error("message of at least {len} bytes exceeds the limit")]
    MessageTooBig {
        /// Bytes of the message so far plus those that the frame announces.
        len: u64,
    },
    /// Text, or the reason of a Close frame, is not UTF-8 (§8.1).
    #[error("invalid UTF-8 at byte {offset}")]
    InvalidUtf8 {
        /// The first byte that no valid text has in this place, counted from the start of the
        /// message or of the reason; the length, where the text ends inside a character.
        offset: u64,
    },
    /// A compressed message is not DEFLATE data, or ends in the middle of a block (RFC 7692 §7.2.2).
    #[error("the compressed message is not DEFLATE data")]
    InvalidDeflate,
    /// There is no memory to decompress a message with.
    #[error("out of memory")]
    OutOfMemory,
    /// A Close frame with a payload of one byte (§5.5.1).
    #[error("close frame with a payload of one byte")]
    InvalidClosePayload,
    /// A Close frame with a code that must not be sent (§7.4).
    #[error("close code {code} is not allowed on the wire")]
    InvalidCloseCode {
        /// The code, as received.
        code: u16,
    },
}

/// Whose fault an error is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Blame {
    /// The other end of the connection.
    Peer,
    /// Whoever configured this process.
    Operator,
    /// The machine or the network.
    Environment,
}

impl WsError {
    /// The code of the Close frame that answers this error (§7.4.1).
    #[must_use]
    pub fn close_code(&self) -> CloseCode {
        match self {
            Self::MessageTooBig { .. } => CloseCode::MESSAGE_TOO_BIG,
            // RFC 7692 names no code; of RFC 6455's, this is the one about a message's contents.
            Self::InvalidUtf8 { .. } | Self::InvalidDeflate => CloseCode::INVALID_PAYLOAD,
            Self::OutOfMemory => CloseCode::INTERNAL_ERROR,
            Self::ReservedBits
            | Self::ReservedOpcode { .. }
            | Self::UnmaskedFromClient
            | Self::MaskedFromServer
            | Self::ControlFragmented
            | Self::ControlTooLong
            | Self::NonMinimalLength
            | Self::LengthTopBit
            | Self::UnexpectedContinuation
            | Self::ExpectedContinuation
            | Self::InvalidClosePayload
            | Self::InvalidCloseCode { .. } => CloseCode::PROTOCOL_ERROR,
        }
    }

    /// Whose fault it is: the peer's, but where there is no memory.
    #[must_use]
    pub fn blame(&self) -> Blame {
        match self {
            Self::OutOfMemory => Blame::Environment,
            _ => Blame::Peer,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_error_has_its_close_code() {
        let table = [
            (WsError::ReservedBits, 1002),
            (WsError::ReservedOpcode { opcode: 3 }, 1002),
            (WsError::UnmaskedFromClient, 1002),
            (WsError::MaskedFromServer, 1002),
            (WsError::ControlFragmented, 1002),
            (WsError::ControlTooLong, 1002),
            (WsError::NonMinimalLength, 1002),
            (WsError::LengthTopBit, 1002),
            (WsError::UnexpectedContinuation, 1002),
            (WsError::ExpectedContinuation, 1002),
            (WsError::MessageTooBig { len: 1 }, 1009),
            (WsError::InvalidUtf8 { offset: 0 }, 1007),
            (WsError::InvalidClosePayload, 1002),
            (WsError::InvalidDeflate, 1007),
            (WsError::InvalidCloseCode { code: 1005 }, 1002),
        ];
        for (error, code) in table {
            assert_eq!(error.close_code(), CloseCode(code), "{error}");
            assert!(error.close_code().is_valid_on_wire());
            assert_eq!(error.blame(), Blame::Peer);
        }
    }
}
