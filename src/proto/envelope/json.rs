//! The protocol's messages as JSON.
//!
//! Reading goes in two steps: the object is taken apart without looking into its values, then
//! each field is read by itself. So an error names its field, and still carries the `id` of a
//! command whose other fields are wrong.

use std::{borrow::Cow, fmt};

use serde::{
    Deserialize, Deserializer,
    de::{Error, SeqAccess, Visitor},
};
use serde_json::{error::Category, value::RawValue};

use super::{Command, CommandError, Envelope, ErrorCode, Recipient, Since};
use crate::base::{
    ids::ClientId,
    limits::{
        BATCH_COMMANDS_MAX, CONFLATION_KEY_BYTES_MAX, CORRELATION_ID_BYTES_MAX,
        MESSAGE_ID_BYTES_MAX, PRESENCE_STATE_BYTES_MAX, ROOM_NAME_BYTES_MAX, USER_NAME_BYTES_MAX,
    },
};

/// A message taken apart into the texts of its commands: one, or a batch's.
///
/// # Errors
/// `PARSE_ERROR` if it is not JSON, `INVALID_MESSAGE` if it is neither an object nor an array of
/// at most [`BATCH_COMMANDS_MAX`].
pub fn split(text: &str) -> Result<Commands<'_>, CommandError> {
    match first_byte(text) {
        Some(b'{') => Ok(Commands::One(Some(text))),
        Some(b'[') => {
            let Batch(items) = serde_json::from_str(text).map_err(|e| parse_error(&e))?;
            Ok(Commands::Batch(items.into_iter()))
        }
        _ => match serde_json::from_str::<&RawValue>(text) {
            Ok(_) => Err(not_an_object()),
            Err(error) => Err(parse_error(&error)),
        },
    }
}

/// The items of a batch. Reading ends with the first that is one too many: a list of a reference for
/// each `1,` of a long message would take eight times the message's length.
struct Batch<'a>(Vec<&'a RawValue>);

impl<'de: 'a, 'a> Deserialize<'de> for Batch<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_seq(BatchVisitor).map(Self)
    }
}

struct BatchVisitor;

impl<'de> Visitor<'de> for BatchVisitor {
    type Value = Vec<&'de RawValue>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "an array of at most {BATCH_COMMANDS_MAX} commands")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Self::Value, A::Error> {
        let mut batch = Vec::new();
        while let Some(item) = items.next_element()? {
            if batch.len() == BATCH_COMMANDS_MAX {
                let text = format!("a batch holds at most {BATCH_COMMANDS_MAX} commands");
                return Err(Error::custom(text));
            }
            batch.push(item);
        }
        Ok(batch)
    }
}

/// The texts of a message's commands, in order.
#[derive(Debug)]
pub enum Commands<'a> {
    /// A message that is one command.
    One(Option<&'a str>),
    /// A message that is an array of commands.
    Batch(std::vec::IntoIter<&'a RawValue>),
}

impl<'a> Iterator for Commands<'a> {
    type Item = &'a str;

    fn next(&mut self) -> Option<&'a str> {
        match self {
            Self::One(text) => text.take(),
            Self::Batch(items) => items.next().map(RawValue::get),
        }
    }
}

/// A command that could not be read, with its `id` if that could.
#[derive(Debug, PartialEq, Eq)]
pub struct Unreadable<'a> {
    /// The command's correlation id.
    pub id: Option<Cow<'a, str>>,
    /// What is wrong with it.
    pub error: CommandError,
}

/// Reads one command.
///
/// # Errors
/// `PARSE_ERROR`, `INVALID_MESSAGE` naming the field, or `UNKNOWN_TYPE`.
pub fn decode(text: &str) -> Result<Envelope<'_>, Unreadable<'_>> {
    if first_byte(text) != Some(b'{') {
        let error = not_an_object();
        return Err(Unreadable { id: None, error });
    }
    let fields: Fields<'_> = serde_json::from_str(text).map_err(|e| Unreadable {
        id: None,
        error: parse_error(&e),
    })?;
    let id = optional_string(fields.id, "id", CORRELATION_ID_BYTES_MAX)
        .map_err(|error| Unreadable { id: None, error })?;
    match fields.command() {
        Ok(command) => Ok(Envelope { id, command }),
        Err(error) => Err(Unreadable { id, error }),
    }
}

/// The top level of a command, its values unread.
#[derive(Deserialize)]
struct Fields<'a> {
    #[serde(rename = "type", borrow, default, deserialize_with = "present")]
    kind: Option<&'a RawValue>,
    #[serde(borrow, default, deserialize_with = "present")]
    id: Option<&'a RawValue>,
    #[serde(borrow, default, deserialize_with = "present")]
    room: Option<&'a RawValue>,
    #[serde(borrow, default, deserialize_with = "present")]
    data: Option<&'a RawValue>,
    #[serde(borrow, default, deserialize_with = "present")]
    mid: Option<&'a RawValue>,
    #[serde(borrow, default, deserialize_with = "present")]
    key: Option<&'a RawValue>,
    #[serde(borrow, default, deserialize_with = "present")]
    ephemeral: Option<&'a RawValue>,
    #[serde(borrow, default, deserialize_with = "present")]
    echo: Option<&'a RawValue>,
    #[serde(borrow, default, deserialize_with = "present")]
    presence: Option<&'a RawValue>,
    #[serde(borrow, default, deserialize_with = "present")]
    state: Option<&'a RawValue>,
    #[serde(borrow, default, deserialize_with = "present")]
    since: Option<&'a RawValue>,
    #[serde(borrow, default, deserialize_with = "present")]
    to: Option<&'a RawValue>,
}

/// Unlike `Option`'s own reading, keeps a `null` that stands there: it is valid `data`.
fn present<'de: 'a, 'a, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<Option<&'a RawValue>, D::Error> {
    <&RawValue>::deserialize(deserializer).map(Some)
}

impl<'a> Fields<'a> {
    fn command(&self) -> Result<Command<'a>, CommandError> {
        let kind = string(self.kind, "type", 64)?;
        Ok(match kind.as_ref() {
            "publish" => Command::Publish {
                room: self.room()?,
                data: self.data()?,
                mid: optional_string(self.mid, "mid", MESSAGE_ID_BYTES_MAX)?,
                key: optional_string(self.key, "key", CONFLATION_KEY_BYTES_MAX)?,
                ephemeral: boolean(self.ephemeral, "ephemeral", false)?,
                echo: boolean(self.echo, "echo", true)?,
            },
            "ping" => Command::Ping,
            "pong" => Command::Pong,
            "echo" => Command::Echo { data: self.data()? },
            "join" => Command::Join {
                room: self.room()?,
                presence: boolean(self.presence, "presence", false)?,
                state: self.state()?,
                since: self.since()?,
            },
            "leave" => Command::Leave { room: self.room()? },
            "send" => Command::Send {
                to: self.recipient()?,
                data: self.data()?,
                mid: optional_string(self.mid, "mid", MESSAGE_ID_BYTES_MAX)?,
            },
            "presence" => Command::Presence { room: self.room()? },
            "room_info" => Command::RoomInfo { room: self.room()? },
            "resume" | "history" | "ack" | "request" | "auth" | "refresh" | "state" => {
                return Err(CommandError::new(
                    ErrorCode::UnknownType,
                    format!("`{kind}` is not supported by this version"),
                ));
            }
            _ => {
                return Err(CommandError::new(
                    ErrorCode::UnknownType,
                    format!("there is no command of type `{}`", kind.escape_debug()),
                ));
            }
        })
    }

    fn room(&self) -> Result<Cow<'a, str>, CommandError> {
        let room = string(self.room, "room", ROOM_NAME_BYTES_MAX)?;
        if !is_room_name(&room) {
            return Err(CommandError::new(
                ErrorCode::InvalidMessage,
                "`room` must be 1 to 128 bytes without control characters",
            ));
        }
        Ok(room)
    }

    fn data(&self) -> Result<&'a str, CommandError> {
        self.data.map(RawValue::get).ok_or_else(|| missing("data"))
    }

    fn state(&self) -> Result<Option<&'a str>, CommandError> {
        match self.state.map(RawValue::get) {
            None | Some("null") => Ok(None),
            Some(state) if state.len() <= PRESENCE_STATE_BYTES_MAX => Ok(Some(state)),
            Some(_) => Err(too_long("state", PRESENCE_STATE_BYTES_MAX)),
        }
    }

    fn since(&self) -> Result<Option<Since<'a>>, CommandError> {
        #[derive(Deserialize)]
        struct Position<'a> {
            #[serde(borrow)]
            epoch: Option<Cow<'a, str>>,
            seq: Option<u64>,
            ts: Option<u64>,
        }
        let Some(raw) = self.since.filter(|raw| raw.get() != "null") else {
            return Ok(None);
        };
        let wrong = || {
            CommandError::new(
                ErrorCode::InvalidMessage,
                "`since` must be {\"epoch\": string, \"seq\": number} or {\"ts\": number}",
            )
        };
        if first_byte(raw.get()) != Some(b'{') {
            return Err(wrong());
        }
        let position: Position<'a> = serde_json::from_str(raw.get()).map_err(|_| wrong())?;
        match (position.epoch, position.seq, position.ts) {
            (Some(epoch), Some(seq), None) => Ok(Some(Since::Position { epoch, seq })),
            (None, None, Some(ts)) => Ok(Some(Since::Time(ts))),
            _ => Err(wrong()),
        }
    }

    fn recipient(&self) -> Result<Recipient<'a>, CommandError> {
        #[derive(Deserialize)]
        struct To<'a> {
            #[serde(borrow)]
            user: Option<Cow<'a, str>>,
            #[serde(borrow)]
            client: Option<Cow<'a, str>>,
        }
        let wrong = || {
            CommandError::new(
                ErrorCode::InvalidMessage,
                "`to` must be {\"user\": string} or {\"client\": string}",
            )
        };
        let raw = self.to.ok_or_else(|| missing("to"))?;
        if first_byte(raw.get()) != Some(b'{') {
            return Err(wrong());
        }
        let to: To<'a> = serde_json::from_str(raw.get()).map_err(|_| wrong())?;
        match (to.user, to.client) {
            (Some(user), None) if user.len() > USER_NAME_BYTES_MAX => {
                Err(too_long("to.user", USER_NAME_BYTES_MAX))
            }
            (Some(user), None) => Ok(Recipient::User(user)),
            (None, Some(client)) => Ok(Recipient::Client(ClientId::decode(&client))),
            _ => Err(wrong()),
        }
    }
}

/// Whether `name` can be a room's: 1 to 128 bytes, no control characters.
pub fn is_room_name(name: &str) -> bool {
    (1..=ROOM_NAME_BYTES_MAX).contains(&name.len()) && !name.chars().any(char::is_control)
}

fn string<'a>(
    raw: Option<&'a RawValue>,
    field: &'static str,
    bytes_max: usize,
) -> Result<Cow<'a, str>, CommandError> {
    optional_string(raw, field, bytes_max)?.ok_or_else(|| missing(field))
}

fn optional_string<'a>(
    raw: Option<&'a RawValue>,
    field: &'static str,
    bytes_max: usize,
) -> Result<Option<Cow<'a, str>>, CommandError> {
    let Some(raw) = raw.map(RawValue::get) else {
        return Ok(None);
    };
    let value = match raw.as_bytes() {
        b"null" => return Ok(None),
        [b'"', inner @ .., b'"'] if !inner.contains(&b'\\') => {
            Cow::Borrowed(&raw[1..raw.len() - 1])
        }
        [b'"', ..] => Cow::Owned(
            serde_json::from_str(raw)
                .map_err(|_| invalid(format!("`{field}` is not a string of Unicode text")))?,
        ),
        _ => return Err(invalid(format!("`{field}` must be a string"))),
    };
    if value.len() > bytes_max {
        return Err(too_long(field, bytes_max));
    }
    Ok(Some(value))
}

fn boolean(
    raw: Option<&RawValue>,
    field: &'static str,
    default: bool,
) -> Result<bool, CommandError> {
    match raw.map(RawValue::get) {
        None | Some("null") => Ok(default),
        Some("true") => Ok(true),
        Some("false") => Ok(false),
        Some(_) => Err(invalid(format!("`{field}` must be true or false"))),
    }
}

fn first_byte(text: &str) -> Option<u8> {
    text.bytes()
        .find(|byte| !matches!(byte, b' ' | b'\t' | b'\r' | b'\n'))
}

fn parse_error(error: &serde_json::Error) -> CommandError {
    match error.classify() {
        Category::Data => invalid(error.to_string()),
        Category::Io | Category::Syntax | Category::Eof => {
            CommandError::new(ErrorCode::ParseError, error.to_string())
        }
    }
}

fn not_an_object() -> CommandError {
    CommandError::new(
        ErrorCode::InvalidMessage,
        "a command is a JSON object, a batch an array of them",
    )
}

fn invalid(message: String) -> CommandError {
    CommandError::new(ErrorCode::InvalidMessage, message)
}

fn missing(field: &'static str) -> CommandError {
    invalid(format!("`{field}` is missing"))
}

fn too_long(field: &'static str, bytes_max: usize) -> CommandError {
    invalid(format!("`{field}` must not exceed {bytes_max} bytes"))
}

/// Writes one JSON object, field by field, to the end of a buffer.
///
/// ```
/// # use tidegate::proto::envelope::json::Object;
/// let mut out = Vec::new();
/// Object::new(&mut out, "ok").string("id", "a\"b").number("seq", 7).end();
/// assert_eq!(out, br#"{"type":"ok","id":"a\"b","seq":7}"#);
/// ```
#[derive(Debug)]
#[must_use = "an object that is not ended is half an object"]
pub struct Object<'a> {
    out: &'a mut Vec<u8>,
}

impl<'a> Object<'a> {
    /// Begins a message of this `type`.
    pub fn new(out: &'a mut Vec<u8>, kind: &'static str) -> Self {
        out.extend_from_slice(b"{\"type\":\"");
        out.extend_from_slice(kind.as_bytes());
        out.push(b'"');
        Self { out }
    }

    /// Goes on with an object whose beginning stands in `out` already.
    pub const fn resume(out: &'a mut Vec<u8>) -> Self {
        Self { out }
    }

    /// Adds a string, escaped.
    pub fn string(mut self, name: &'static str, value: &str) -> Self {
        self.name(name);
        push_string(self.out, value);
        self
    }

    /// Adds a string if there is one.
    pub fn optional(self, name: &'static str, value: Option<&str>) -> Self {
        match value {
            Some(value) => self.string(name, value),
            None => self,
        }
    }

    /// Adds a number.
    pub fn number(mut self, name: &'static str, value: u64) -> Self {
        self.name(name);
        push_number(self.out, value);
        self
    }

    /// Adds a truth value.
    pub fn boolean(self, name: &'static str, value: bool) -> Self {
        let text: &[u8] = if value { b"true" } else { b"false" };
        self.raw(name, text)
    }

    /// Adds a value that is JSON already, byte for byte.
    pub fn raw(mut self, name: &'static str, json: &[u8]) -> Self {
        self.name(name);
        self.out.extend_from_slice(json);
        self
    }

    /// Adds `{"client": …, "user": …}`.
    pub fn identity(mut self, name: &'static str, client: ClientId, user: Option<&str>) -> Self {
        self.name(name);
        self.out.push(b'{');
        push_identity(self.out, client, user);
        self.out.push(b'}');
        self
    }

    /// Ends the object.
    pub fn end(self) {
        self.out.push(b'}');
    }

    fn name(&mut self, name: &'static str) {
        self.out.extend_from_slice(b",\"");
        self.out.extend_from_slice(name.as_bytes());
        self.out.extend_from_slice(b"\":");
    }
}

/// Appends `"client":"…"` and, if there is one, `,"user":"…"`.
pub fn push_identity(out: &mut Vec<u8>, client: ClientId, user: Option<&str>) {
    out.extend_from_slice(b"\"client\":\"");
    out.extend_from_slice(&client.encode());
    out.push(b'"');
    if let Some(user) = user {
        out.extend_from_slice(b",\"user\":");
        push_string(out, user);
    }
}

/// Appends a `gap`: `dropped` messages of `room` are missing here, and `next_seq` is the place
/// behind the last of them.
pub fn push_gap(out: &mut Vec<u8>, room: &str, dropped: u64, next_seq: u64) {
    Object::new(out, "gap")
        .string("room", room)
        .number("dropped", dropped)
        .number("next_seq", next_seq)
        .end();
}

/// Appends a JSON string.
pub fn push_string(out: &mut Vec<u8>, value: &str) {
    serde_json::to_writer(out, value).expect("invariant: writing to memory does not fail");
}

/// Appends a decimal number.
pub fn push_number(out: &mut Vec<u8>, value: u64) {
    out.extend_from_slice(itoa::Buffer::new().format(value).as_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;

    fn command(text: &str) -> Command<'_> {
        decode(text).unwrap().command
    }

    fn error(text: &str) -> (Option<String>, ErrorCode, String) {
        let Unreadable { id, error } = decode(text).unwrap_err();
        (
            id.map(Cow::into_owned),
            error.code,
            error.message.into_owned(),
        )
    }

    #[test]
    fn publish_keeps_data_byte_for_byte() {
        for data in [
            "null",
            "1.0e0",
            "{ \"b\" :1,\"a\":[ ],\"a\":2}",
            "\"\\u0041\\/\"",
        ] {
            let text = format!("{{\"type\":\"publish\",\"room\":\"r\",\"data\":{data} }}");
            let Command::Publish {
                data: got,
                echo,
                ephemeral,
                ..
            } = command(&text)
            else {
                panic!("not a publish");
            };
            assert_eq!(got, data);
            assert!(echo && !ephemeral);
        }
    }

    #[test]
    fn optional_fields_may_be_null() {
        assert_eq!(
            decode(
                r#"{"type":"join","room":"r","id":null,"presence":null,"state":null,"since":null}"#
            ),
            Ok(Envelope {
                id: None,
                command: Command::Join {
                    room: "r".into(),
                    presence: false,
                    state: None,
                    since: None,
                }
            })
        );
    }

    #[test]
    fn escaped_names_are_read() {
        assert_eq!(
            command(r#"{"type":"leave","room":"a\"\u00e4"}"#),
            Command::Leave {
                room: "a\"ä".into()
            }
        );
    }

    #[test]
    fn since_has_two_forms() {
        let join = |since: &str| {
            let text = format!(r#"{{"type":"join","room":"r","since":{since}}}"#);
            decode(&text).map(|e| format!("{:?}", e.command)).is_ok()
        };
        assert!(join(r#"{"epoch":"e","seq":3}"#));
        assert!(join(r#"{"ts":3}"#));
        for wrong in [
            r#"{"epoch":"e"}"#,
            "{}",
            "[\"e\",3]",
            "3",
            r#"{"epoch":"e","seq":-1}"#,
        ] {
            assert!(!join(wrong), "{wrong}");
        }
    }

    #[test]
    fn an_error_names_the_field_and_keeps_the_id() {
        for (text, field) in [
            (r#"{"id":"7","type":"publish","room":"r"}"#, "`data`"),
            (r#"{"id":"7","type":"publish","room":3,"data":1}"#, "`room`"),
            (
                r#"{"id":"7","type":"publish","room":"","data":1}"#,
                "`room`",
            ),
            (
                r#"{"id":"7","type":"publish","room":"a\nb","data":1}"#,
                "`room`",
            ),
            (
                r#"{"id":"7","type":"publish","room":"r","data":1,"echo":1}"#,
                "`echo`",
            ),
            (
                r#"{"id":"7","type":"publish","room":"r","data":1,"mid":[]}"#,
                "`mid`",
            ),
            (r#"{"id":"7","type":"send","data":1}"#, "`to`"),
            (r#"{"id":"7","type":"send","to":{},"data":1}"#, "`to`"),
            (r#"{"id":"7","type":"send","to":["u"],"data":1}"#, "`to`"),
            (r#"{"id":"7"}"#, "`type`"),
            (r#"{"id":"7","type":"join","room":"\ud800"}"#, "`room`"),
        ] {
            let (id, code, message) = error(text);
            assert_eq!(id.as_deref(), Some("7"), "{text}");
            assert_eq!(code, ErrorCode::InvalidMessage, "{text}");
            assert!(message.contains(field), "{text}: {message}");
        }
        let (id, _, message) = error(r#"{"id":7,"type":"ping"}"#);
        assert_eq!(id, None);
        assert!(message.contains("`id`"));
    }

    #[test]
    fn lengths_are_judged_in_bytes_at_their_edge() {
        for (len, ok) in [(128, true), (129, false)] {
            let text = format!(r#"{{"type":"leave","room":"{}"}}"#, "r".repeat(len));
            assert_eq!(decode(&text).is_ok(), ok);
        }
        for (len, ok) in [(64, true), (65, false)] {
            let text = format!(r#"{{"type":"ping","id":"{}"}}"#, "i".repeat(len));
            assert_eq!(decode(&text).is_ok(), ok);
        }
    }

    #[test]
    fn unknown_types_and_broken_json_are_told_apart() {
        assert_eq!(error(r#"{"type":"nope"}"#).1, ErrorCode::UnknownType);
        assert_eq!(
            error(r#"{"type":"history","room":"r"}"#).1,
            ErrorCode::UnknownType
        );
        assert_eq!(error(r#"{"type":"ping""#).1, ErrorCode::ParseError);
        assert_eq!(error(r#"{"type":"ping"} x"#).1, ErrorCode::ParseError);
        assert_eq!(
            error(r#"{"type":"ping","type":"pong"}"#).1,
            ErrorCode::InvalidMessage
        );
        assert_eq!(split("nonsense").unwrap_err().code, ErrorCode::ParseError);
        assert_eq!(split("").unwrap_err().code, ErrorCode::ParseError);
        assert_eq!(split("5").unwrap_err().code, ErrorCode::InvalidMessage);
    }

    #[test]
    fn a_batch_is_split_and_bounded() {
        let items: Vec<&str> = split(r#" [ {"type":"ping"} , 5 ] "#).unwrap().collect();
        assert_eq!(items, [r#"{"type":"ping"}"#, "5"]);
        assert_eq!(error(items[1]).1, ErrorCode::InvalidMessage);
        assert_eq!(error("[1]").1, ErrorCode::InvalidMessage);
        for (len, ok) in [(BATCH_COMMANDS_MAX, true), (BATCH_COMMANDS_MAX + 1, false)] {
            let text = format!("[{}]", vec!["{}"; len].join(","));
            assert_eq!(split(&text).is_ok(), ok);
        }
        // What follows one too many is not even read.
        let long = format!("[{}nonsense", "1,".repeat(BATCH_COMMANDS_MAX + 1));
        assert_eq!(split(&long).unwrap_err().code, ErrorCode::InvalidMessage);
        assert!(split(&"[".repeat(64 * 1024)).is_err());
        let deep = format!(
            r#"{{"type":"echo","data":{}{}}}"#,
            "[".repeat(20_000),
            "]".repeat(20_000)
        );
        assert!(matches!(command(&deep), Command::Echo { .. }));
    }
}
