//! Close frames: their codes, and how their payload is read and written (RFC 6455 §5.5.1, §7.4).
//!
//! When to close, and with which code, is decided elsewhere.

use smallvec::SmallVec;

use super::error::WsError;
use super::header::CONTROL_PAYLOAD_BYTES_MAX;
use super::utf8;

/// A status code of a Close frame (§7.4).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct CloseCode(pub u16);

impl CloseCode {
    /// 1000: the purpose of the connection is fulfilled.
    pub const NORMAL: Self = Self(1000);
    /// 1001: the endpoint stops for good.
    pub const GOING_AWAY: Self = Self(1001);
    /// 1002: the peer broke the protocol.
    pub const PROTOCOL_ERROR: Self = Self(1002);
    /// 1003: a kind of data that is not accepted here.
    pub const UNSUPPORTED_DATA: Self = Self(1003);
    /// 1005: stands for an absent code; never on the wire.
    pub const NO_STATUS: Self = Self(1005);
    /// 1006: stands for a lost connection; never on the wire.
    pub const ABNORMAL: Self = Self(1006);
    /// 1007: text that is not UTF-8.
    pub const INVALID_PAYLOAD: Self = Self(1007);
    /// 1008: origin, CSRF or permission fault.
    pub const POLICY_VIOLATION: Self = Self(1008);
    /// 1009: a message over the limit.
    pub const MESSAGE_TOO_BIG: Self = Self(1009);
    /// 1010: the server did not negotiate an extension that the client needs.
    pub const MANDATORY_EXTENSION: Self = Self(1010);
    /// 1011: a fault of this end.
    pub const INTERNAL_ERROR: Self = Self(1011);
    /// 1012: the service restarts (IANA registry).
    pub const SERVICE_RESTART: Self = Self(1012);
    /// 1013: overload (IANA registry).
    pub const TRY_AGAIN_LATER: Self = Self(1013);
    /// 1014: the upstream answered badly (IANA registry).
    pub const BAD_GATEWAY: Self = Self(1014);
    /// 4001: no authentication within the time allowed.
    pub const AUTHENTICATION_TIMEOUT: Self = Self(4001);
    /// 4002: the token was refused.
    pub const INVALID_TOKEN: Self = Self(4002);
    /// 4003: something was asked before authentication.
    pub const NOT_AUTHENTICATED: Self = Self(4003);
    /// 4004: the token expired and its grace is over.
    pub const TOKEN_EXPIRED: Self = Self(4004);
    /// 4005: the same session attached elsewhere.
    pub const SESSION_REPLACED: Self = Self(4005);
    /// 4006: the connection reached its greatest age.
    pub const CONNECTION_LIFETIME: Self = Self(4006);
    /// 4008: the client reads too slowly.
    pub const SLOW_CLIENT: Self = Self(4008);
    /// 4009: no pong in time.
    pub const HEARTBEAT_TIMEOUT: Self = Self(4009);
    /// 4029: repeated breach of a rate limit.
    pub const RATE_LIMIT: Self = Self(4029);

    /// Whether a Close frame may carry this code (§7.4.2 and the IANA registry).
    #[must_use]
    pub fn is_valid_on_wire(self) -> bool {
        matches!(self.0, 1000..=1003 | 1007..=1014 | 3000..=4999)
    }
}

impl std::fmt::Display for CloseCode {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.fmt(f)
    }
}

/// What a Close frame says (§5.5.1).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CloseFrame<'s> {
    /// The status code; `None` where the payload is empty.
    pub code: Option<CloseCode>,
    /// The reason, at most 123 bytes.
    pub reason: &'s str,
}

/// A Close frame's payload, kept on the stack.
pub type ClosePayload = SmallVec<[u8; 128]>;

/// Reads the unmasked payload of a Close frame (§5.5.1).
///
/// # Errors
///
/// [`WsError::InvalidClosePayload`], [`WsError::InvalidCloseCode`] or [`WsError::InvalidUtf8`],
/// whose offset counts from the start of the reason.
pub fn parse(payload: &[u8]) -> Result<CloseFrame<'_>, WsError> {
    match payload {
        [] => Ok(CloseFrame {
            code: None,
            reason: "",
        }),
        [_] => Err(WsError::InvalidClosePayload),
        [high, low, reason @ ..] => {
            let code = CloseCode(u16::from_be_bytes([*high, *low]));
            if !code.is_valid_on_wire() {
                return Err(WsError::InvalidCloseCode { code: code.0 });
            }
            let reason = utf8::check(reason)?;
            Ok(CloseFrame {
                code: Some(code),
                reason,
            })
        }
    }
}

/// The payload of a Close frame; a reason of more than 123 bytes is cut between characters.
#[must_use]
pub fn payload(code: CloseCode, reason: &str) -> ClosePayload {
    let mut out = ClosePayload::new();
    out.extend_from_slice(&code.0.to_be_bytes());
    out.extend_from_slice(fit_reason(reason).as_bytes());
    out
}

/// Appends what [`payload`] gives to `out`.
pub fn push_close_payload(out: &mut Vec<u8>, code: CloseCode, reason: &str) {
    out.extend_from_slice(&code.0.to_be_bytes());
    out.extend_from_slice(fit_reason(reason).as_bytes());
}

fn fit_reason(reason: &str) -> &str {
    &reason[..reason.floor_char_boundary(REASON_BYTES_MAX)]
}

/// §5.5: 125 bytes of control payload, less the two of the code.
pub const REASON_BYTES_MAX: usize = CONTROL_PAYLOAD_BYTES_MAX - 2;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_on_the_wire() {
        for code in 0..=u16::MAX {
            let expected = (1000..=1014).contains(&code) && ![1004, 1005, 1006].contains(&code)
                || (3000..5000).contains(&code);
            assert_eq!(CloseCode(code).is_valid_on_wire(), expected, "{code}");
        }
    }

    #[test]
    fn parses() {
        assert_eq!(
            parse(b"").unwrap(),
            CloseFrame {
                code: None,
                reason: ""
            }
        );
        assert_eq!(parse(b"\x03"), Err(WsError::InvalidClosePayload));
        let going = parse(b"\x03\xe9bye").unwrap();
        assert_eq!(going.code, Some(CloseCode::GOING_AWAY));
        assert_eq!(going.reason, "bye");
        assert_eq!(
            parse(b"\x03\xed"),
            Err(WsError::InvalidCloseCode { code: 1005 })
        );
        assert_eq!(
            parse(b"\x03\xe8ab\xff"),
            Err(WsError::InvalidUtf8 { offset: 2 })
        );
        assert_eq!(
            parse(b"\x03\xe8ab\xe2\x82"),
            Err(WsError::InvalidUtf8 { offset: 4 })
        );
    }

    #[test]
    fn long_reasons_are_cut_between_characters() {
        for (reason, kept) in [
            ("a".repeat(123), 123),
            ("a".repeat(124), 123),
            ("é".repeat(62), 122),
            (format!("{}😀", "a".repeat(120)), 120),
        ] {
            let bytes = payload(CloseCode::NORMAL, &reason);
            assert_eq!(bytes.len(), kept + 2);
            assert!(!bytes.spilled());
            assert_eq!(parse(&bytes).unwrap().reason, &reason[..kept]);
            let mut pushed = Vec::new();
            push_close_payload(&mut pushed, CloseCode::NORMAL, &reason);
            assert_eq!(pushed, bytes.as_slice());
        }
    }
}
