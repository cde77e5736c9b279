//! The client protocol's messages (docs/PROTOCOL.md), apart from how they are written.
//!
//! A [`Command`] is what a client asks for; [`json`] reads and writes them as JSON. `data` is
//! never read: it stays the very bytes that the client sent.

pub mod json;

use std::borrow::Cow;

use crate::base::ids::ClientId;

/// A command with its correlation id.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Envelope<'a> {
    /// Answered by exactly one `ok` or `error` that carries it.
    pub id: Option<Cow<'a, str>>,
    /// What the client asks for.
    pub command: Command<'a>,
}

/// What a client can ask for (protocol §3).
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Command<'a> {
    /// Become a member of a room.
    Join {
        /// Its name.
        room: Cow<'a, str>,
        /// Whether the answer lists the members.
        presence: bool,
        /// The member's presence state, as written by the client.
        state: Option<&'a str>,
        /// From where to replay.
        since: Option<Since<'a>>,
    },
    /// End a membership.
    Leave {
        /// Of which room.
        room: Cow<'a, str>,
    },
    /// Send to all members of a room.
    Publish {
        /// Which room.
        room: Cow<'a, str>,
        /// The payload, as written by the client.
        data: &'a str,
        /// The publisher's message id.
        mid: Option<Cow<'a, str>>,
        /// The conflation key.
        key: Option<Cow<'a, str>>,
        /// Whether it goes without a `seq`.
        ephemeral: bool,
        /// Whether the publisher gets it too.
        echo: bool,
    },
    /// Send to one user or client.
    Send {
        /// To whom.
        to: Recipient<'a>,
        /// The payload, as written by the client.
        data: &'a str,
        /// The sender's message id.
        mid: Option<Cow<'a, str>>,
    },
    /// List a room's members.
    Presence {
        /// Which room.
        room: Cow<'a, str>,
    },
    /// Count a room's members.
    RoomInfo {
        /// Which room.
        room: Cow<'a, str>,
    },
    /// Send `data` back.
    Echo {
        /// The payload, as written by the client.
        data: &'a str,
    },
    /// Ask for a `pong`.
    Ping,
    /// Answer an application ping.
    Pong,
}

/// Where a rejoining client left off.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Since<'a> {
    /// After this message of this numbering.
    Position {
        /// The numbering.
        epoch: Cow<'a, str>,
        /// The last message seen.
        seq: u64,
    },
    /// After this time, in Unix milliseconds.
    Time(u64),
}

/// Whom a direct message is for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Recipient<'a> {
    /// Every session of a user.
    User(Cow<'a, str>),
    /// One client; none if the text names no client that could exist.
    Client(Option<ClientId>),
}

/// `code` of an `error` (protocol §5).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ErrorCode {
    /// Not JSON.
    ParseError,
    /// A field is missing or of the wrong type or length.
    InvalidMessage,
    /// No such `type`.
    UnknownType,
    /// Not allowed.
    Forbidden,
    /// The room has its most members.
    RoomFull,
    /// The client is in its most rooms.
    TooManyRooms,
    /// The client is no member.
    NotJoined,
    /// The client sends too much.
    RateLimited,
    /// `data` is longer than the room allows.
    TooLarge,
    /// Too much for now; try again.
    Overloaded,
}

impl ErrorCode {
    /// As it stands in the message.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::ParseError => "PARSE_ERROR",
            Self::InvalidMessage => "INVALID_MESSAGE",
            Self::UnknownType => "UNKNOWN_TYPE",
            Self::Forbidden => "FORBIDDEN",
            Self::RoomFull => "ROOM_FULL",
            Self::TooManyRooms => "TOO_MANY_ROOMS",
            Self::NotJoined => "NOT_JOINED",
            Self::RateLimited => "RATE_LIMITED",
            Self::TooLarge => "TOO_LARGE",
            Self::Overloaded => "OVERLOADED",
        }
    }
}

/// Why a command was not carried out, in the client's terms.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{}: {message}", code.as_str())]
pub struct CommandError {
    /// For programs.
    pub code: ErrorCode,
    /// For people.
    pub message: Cow<'static, str>,
    /// When the same command may succeed, in milliseconds; none if not by waiting.
    pub retry_after_ms: Option<u64>,
}

impl CommandError {
    /// An error, with what a person should know.
    pub fn new(code: ErrorCode, message: impl Into<Cow<'static, str>>) -> Self {
        Self {
            code,
            message: message.into(),
            retry_after_ms: match code {
                ErrorCode::Overloaded => Some(100),
                _ => None,
            },
        }
    }

    /// `RATE_LIMITED`: a command may pass after `wait`.
    pub fn rate_limited(wait: std::time::Duration) -> Self {
        let millis = wait.as_micros().div_ceil(1000);
        Self {
            retry_after_ms: Some(u64::try_from(millis).unwrap_or(u64::MAX)),
            ..Self::new(
                ErrorCode::RateLimited,
                "too many messages; wait and try again",
            )
        }
    }
}
