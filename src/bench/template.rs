//! Texts with places to fill in: the messages that are sent, and the URL.
//!
//! Only `{payload}`, `{room}`, `{conn}` and `{seq}` are places; every other brace is itself, so
//! that JSON needs no escaping.

use serde::{Serialize, Serializer};

use super::tag::{NUMBER_DIGITS, PLAIN_NUMBER};

/// A text with places.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Template {
    source: String,
    pieces: Vec<Piece>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Piece {
    Text(String),
    Place(Place),
}

/// What stands at a place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Place {
    /// The message's tag and filler.
    Payload,
    /// The number of the connection's room, from 0.
    Room,
    /// The connection's number, from 0.
    Conn,
    /// The message's number on its connection or in its room, as ten hexadecimal digits.
    Seq,
}

/// A template with everything filled in but numbers, which change with each message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Rendered {
    /// The text; numbers are 0.
    pub(crate) bytes: Vec<u8>,
    /// Where the payload begins.
    pub(crate) payload_at: Option<usize>,
    /// Where numbers begin.
    pub(crate) numbers_at: Vec<usize>,
}

const PLACES: [(&str, Place); 4] = [
    ("{payload}", Place::Payload),
    ("{room}", Place::Room),
    ("{conn}", Place::Conn),
    ("{seq}", Place::Seq),
];

impl Template {
    /// Reads a template; every text is one.
    pub(crate) fn parse(source: &str) -> Self {
        let mut pieces = Vec::new();
        let mut text = String::new();
        let mut rest = source;
        while let Some(next) = rest.chars().next() {
            let place = PLACES.iter().find(|(name, _)| rest.starts_with(name));
            if let Some((name, place)) = place {
                if !text.is_empty() {
                    pieces.push(Piece::Text(std::mem::take(&mut text)));
                }
                pieces.push(Piece::Place(*place));
                rest = &rest[name.len()..];
            } else {
                text.push(next);
                rest = &rest[next.len_utf8()..];
            }
        }
        if !text.is_empty() {
            pieces.push(Piece::Text(text));
        }
        Self {
            source: source.to_owned(),
            pieces,
        }
    }

    /// How often `place` occurs.
    pub(crate) fn count(&self, place: Place) -> usize {
        let is_it = |piece: &&Piece| **piece == Piece::Place(place);
        self.pieces.iter().filter(is_it).count()
    }

    /// Whether it is the payload and nothing else.
    pub(crate) fn is_payload_alone(&self) -> bool {
        self.pieces == [Piece::Place(Place::Payload)]
    }

    /// Fills in everything but numbers.
    pub(crate) fn render(&self, conn: u32, room: u32, payload: &[u8]) -> Rendered {
        let mut out = Rendered {
            bytes: Vec::with_capacity(self.source.len() + payload.len()),
            payload_at: None,
            numbers_at: Vec::new(),
        };
        for piece in &self.pieces {
            match piece {
                Piece::Text(text) => out.bytes.extend_from_slice(text.as_bytes()),
                Piece::Place(Place::Payload) => {
                    out.payload_at = Some(out.bytes.len());
                    out.bytes.extend_from_slice(payload);
                }
                Piece::Place(Place::Room) => out.bytes.extend(room.to_string().bytes()),
                Piece::Place(Place::Conn) => out.bytes.extend(conn.to_string().bytes()),
                Piece::Place(Place::Seq) => {
                    out.numbers_at.push(out.bytes.len());
                    out.bytes.extend_from_slice(&PLAIN_NUMBER);
                }
            }
        }
        debug_assert_eq!(PLAIN_NUMBER.len(), NUMBER_DIGITS);
        out
    }

    /// Fills in a text that has no payload.
    pub(crate) fn render_text(&self, conn: u32, room: u32) -> String {
        String::from_utf8_lossy(&self.render(conn, room, &[]).bytes).into_owned()
    }
}

impl Serialize for Template {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.source)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_filled_in_and_other_braces_stay() {
        let template =
            Template::parse(r#"{"room":"r-{room}","conn":{conn},"n":"{seq}","d":"{payload}"}"#);
        let rendered = template.render(12, 3, b"PAY");
        assert_eq!(
            String::from_utf8(rendered.bytes.clone()).unwrap(),
            r#"{"room":"r-3","conn":12,"n":"0000000000","d":"PAY"}"#
        );
        let at = rendered.payload_at.unwrap();
        assert_eq!(&rendered.bytes[at..at + 3], b"PAY");
        let at = rendered.numbers_at[0];
        assert_eq!(&rendered.bytes[at..at + 10], b"0000000000");
        assert_eq!(template.count(Place::Payload), 1);
        assert_eq!(template.count(Place::Seq), 1);
        assert!(!template.is_payload_alone());
    }

    #[test]
    fn text_beside_ascii_is_kept() {
        let template = Template::parse("grüße {room} {rooms} {");
        assert_eq!(template.render_text(0, 7), "grüße 7 {rooms} {");
        assert!(Template::parse("{payload}").is_payload_alone());
        assert!(!Template::parse("{payload} ").is_payload_alone());
        assert_eq!(Template::parse("").render_text(0, 0), "");
    }
}
