//! Names that cross cores: cores themselves, clients, encodings.

use std::fmt;

use super::slab::Key;

/// A worker's number, from 0.
pub type CoreId = u16;

/// A session of this core.
pub type SessionKey = Key;

/// A client's public name: which core serves it, and where there.
///
/// Written as 16 characters of base 32, so that whoever holds the text can find the client
/// without a table. Public: it authorises nothing.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ClientId {
    /// The serving core.
    pub core: CoreId,
    /// The session there.
    pub session: SessionKey,
}

/// Length of a client id as text.
pub const CLIENT_ID_CHARS: usize = 16;

const ALPHABET: &[u8; 32] = b"0123456789abcdefghjkmnpqrstvwxyz";

impl ClientId {
    /// The id as text.
    pub fn encode(self) -> [u8; CLIENT_ID_CHARS] {
        let mut bits = (u128::from(self.session.generation) << 48)
            | (u128::from(self.session.index) << 16)
            | u128::from(self.core);
        let mut text = [0; CLIENT_ID_CHARS];
        for place in text.iter_mut().rev() {
            *place = ALPHABET[(bits & 31) as usize];
            bits >>= 5;
        }
        text
    }

    /// Reads an id back; none if `text` is not one.
    pub fn decode(text: &str) -> Option<Self> {
        let bytes: &[u8; CLIENT_ID_CHARS] = text.as_bytes().try_into().ok()?;
        let mut bits = 0u128;
        for byte in bytes {
            let digit = ALPHABET.iter().position(|c| c == byte)?;
            bits = (bits << 5) | digit as u128;
        }
        Some(Self {
            core: bits as u16,
            session: Key {
                index: (bits >> 16) as u32,
                generation: (bits >> 48) as u32,
            },
        })
    }
}

impl fmt::Display for ClientId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = self.encode();
        f.write_str(std::str::from_utf8(&text).expect("invariant: the alphabet is ASCII"))
    }
}

impl fmt::Debug for ClientId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// How a client's messages are written (protocol §1).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Encoding {
    /// `tidegate.v1.json`: one JSON object per message.
    Json,
    /// `tidegate.v1.raw`: no envelope, one room.
    Raw,
}

impl Encoding {
    /// How many there are.
    pub const COUNT: usize = 2;
    /// All of them.
    pub const ALL: [Self; Self::COUNT] = [Self::Json, Self::Raw];

    /// Whether its clients get messages of the gateway's own (protocol §1).
    pub const fn has_envelope(self) -> bool {
        matches!(self, Self::Json)
    }

    /// Its place in arrays by encoding.
    pub const fn index(self) -> usize {
        match self {
            Self::Json => 0,
            Self::Raw => 1,
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn ids_survive_their_text(core: u16, index: u32, generation: u32) {
            let id = ClientId { core, session: Key { index, generation } };
            prop_assert_eq!(ClientId::decode(&id.to_string()), Some(id));
        }
    }

    #[test]
    fn other_texts_are_no_ids() {
        for text in [
            "",
            "short",
            "0123456789abcdeu",
            "0123456789abcde",
            "ÄÄÄÄÄÄÄÄ",
        ] {
            assert_eq!(ClientId::decode(text), None, "{text}");
        }
    }
}
