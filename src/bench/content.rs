//! What payloads consist of besides their tags: noise, which no compressor makes smaller by much, or
//! JSON as applications send it. The same on every run.

use clap::ValueEnum;
use serde::Serialize;

use crate::{base::rng::Rng, bench::tag::TAG_BYTES};

/// What payloads consist of.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Content {
    /// Letters, digits, `-` and `_` without a pattern in a text, any bytes in a binary message.
    #[default]
    Noise,
    /// A JSON object: prices, names and flags of a list of things.
    Json,
}

impl Content {
    /// What stands before the tag of a payload, and what behind it.
    pub(crate) fn around(self, is_text: bool, payload_bytes: usize) -> (&'static [u8], Vec<u8>) {
        let mut rng = Rng::new(SEED);
        match self {
            Self::Noise => {
                let filler = (TAG_BYTES..payload_bytes).map(|_| {
                    let random = rng.next_u64();
                    if is_text {
                        LETTERS[(random & 63) as usize]
                    } else {
                        (random >> 32) as u8
                    }
                });
                (b"", filler.collect())
            }
            Self::Json => {
                let bytes = payload_bytes.saturating_sub(JSON_LEAD.len() + TAG_BYTES);
                (JSON_LEAD, json_tail(&mut rng, bytes))
            }
        }
    }

    /// The smallest payload of it.
    pub(crate) fn payload_bytes_min(self) -> usize {
        match self {
            Self::Noise => TAG_BYTES,
            Self::Json => JSON_LEAD.len() + TAG_BYTES + JSON_NOTE.len() + 1 + JSON_END.len(),
        }
    }
}

/// What follows the tag: `bytes` of it, which are enough for a note.
fn json_tail(rng: &mut Rng, bytes: usize) -> Vec<u8> {
    let mut tail = String::with_capacity(bytes);
    tail.push('"');
    let around = JSON_NOTE.len() + JSON_END.len();
    let mut item = json_item(rng);
    if tail.len() + JSON_ITEMS.len() + item.len() + 1 + around <= bytes {
        tail.push_str(JSON_ITEMS);
        while tail.len() + item.len() + 1 + around <= bytes {
            tail.push_str(&item);
            tail.push(',');
            item = json_item(rng);
        }
        tail.pop();
        tail.push(']');
    }
    tail.push_str(JSON_NOTE);
    // Words fill what is left.
    while tail.len() + JSON_END.len() < bytes {
        let left = bytes - JSON_END.len() - tail.len();
        tail.extend(pick(rng, &WORDS).chars().chain([' ']).take(left));
    }
    tail.push_str(JSON_END);
    tail.into_bytes()
}

fn json_item(rng: &mut Rng) -> String {
    let letter = |rng: &mut Rng| char::from(b'A' + rng.below(26) as u8);
    let symbol: String = (0..4).map(|_| letter(rng)).collect();
    let (name, venue) = (pick(rng, &WORDS), pick(rng, &VENUES));
    let bid = 1000 + rng.below(90_000);
    let ask = bid + 1 + rng.below(40);
    let cents = |price: u64| format!("{}.{:02}", price / 100, price % 100);
    let change = rng.below(999);
    let sign = if rng.one_in(2) { "-" } else { "" };
    format!(
        r#"{{"symbol":"{symbol}","name":"{name}","venue":"{venue}","bid":{},"ask":{},"volume":{},"change":{sign}{},"open":{}}}"#,
        cents(bid),
        cents(ask),
        rng.below(1_000_000),
        cents(change),
        !rng.one_in(8),
    )
}

fn pick(rng: &mut Rng, list: &[&'static str]) -> &'static str {
    list[rng.below(list.len() as u64) as usize]
}

const SEED: u64 = 0x9E37_79B9_7F4A_7C15;
const LETTERS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";

const JSON_LEAD: &[u8] = br#"{"id":""#;
const JSON_ITEMS: &str = r#","kind":"quotes","at":"2031-05-14T09:26:53.589Z","items":["#;
const JSON_NOTE: &str = r#","note":""#;
const JSON_END: &str = r#""}"#;
const VENUES: [&str; 6] = ["XETR", "XPAR", "XLON", "XNAS", "XTKS", "XASX"];
const WORDS: [&str; 24] = [
    "harbour", "tidal", "northern", "copper", "meadow", "lantern", "granite", "orchard", "signal",
    "river", "summit", "velvet", "anchor", "cedar", "falcon", "glacier", "island", "juniper",
    "kestrel", "marble", "ocean", "prairie", "quartz", "willow",
];

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::tag::Tag;

    fn payload(content: Content, is_text: bool, bytes: usize) -> Vec<u8> {
        let (lead, filler) = content.around(is_text, bytes);
        let tag = Tag {
            origin: 7,
            number: 9,
        };
        [lead, &tag.digits()[..], &filler].concat()
    }

    #[test]
    fn a_payload_has_the_size_that_is_asked_for() {
        for content in [Content::Noise, Content::Json] {
            let min = content.payload_bytes_min();
            for bytes in (min..min + 1000).chain([4096, 65_536]) {
                let payload = payload(content, true, bytes);
                assert_eq!(payload.len(), bytes, "{content:?}");
            }
        }
    }

    #[test]
    fn json_is_json_of_any_size() {
        for bytes in (Content::Json.payload_bytes_min()..1500).chain([4096]) {
            let payload = payload(Content::Json, true, bytes);
            let value: serde_json::Value = serde_json::from_slice(&payload).unwrap();
            assert_eq!(value["id"], "0000070000000009");
            let items = value["items"].as_array().map_or(0, Vec::len);
            assert!(bytes < 4096 || items >= 30, "{items}");
        }
    }

    #[test]
    fn noise_as_text_survives_json() {
        let text = String::from_utf8(payload(Content::Noise, true, 4096)).unwrap();
        assert_eq!(serde_json::to_string(&text).unwrap(), format!("\"{text}\""));
        let binary = payload(Content::Noise, false, 4096);
        assert!(binary.iter().any(|byte| *byte >= 0x80));
    }
}
