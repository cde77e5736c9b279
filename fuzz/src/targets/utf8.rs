//! Text that comes in pieces against the standard library, which gets it whole.

use tidegate::proto::ws::{WsError, close, utf8};

use super::script::{Cut, Script, seed};

pub(super) fn run(input: &[u8]) {
    let mut script = Script::new(input);
    let cut = script.byte();
    let text = script.rest();
    let expected = std::str::from_utf8(text);
    assert_eq!(utf8::check(text).ok(), expected.ok(), "whole");
    let offset = utf8::validate(text).err().map(offset);
    // An incomplete end is an error where the text ends: there, or at the character's first byte.
    if let (Some(offset), Err(error)) = (offset, expected) {
        assert!(
            (error.valid_up_to()..=text.len()).contains(&offset),
            "{offset} for {error:?}"
        );
    }
    for cut in [Cut::Whole, Cut::Bytes, Cut::Seeded(cut)] {
        assert_eq!(streamed(text, cut), offset, "{cut:?}");
    }
    read_close(text);
}

/// Where the text is found to be wrong when it comes in pieces.
fn streamed(text: &[u8], cut: Cut) -> Option<usize> {
    let mut validator = utf8::Utf8Validator::new();
    let mut fed = 0;
    for piece in cut.pieces(text) {
        if let Err(error) = validator.push(piece) {
            fed += piece.len();
            // At once: the text up to here can't be continued to anything valid.
            let error = offset(error);
            assert!(error < fed, "found at {error} of {fed}");
            return Some(error);
        }
        fed += piece.len();
        // Not too late: what was taken could still become valid.
        if let Err(error) = std::str::from_utf8(&text[..fed]) {
            assert_eq!(error.error_len(), None, "{fed} bytes were taken");
        }
    }
    validator.finish().err().map(offset)
}

fn offset(error: WsError) -> usize {
    match error {
        WsError::InvalidUtf8 { offset } => offset as usize,
        other => panic!("{other:?} about text"),
    }
}

/// The same bytes as a Close frame's payload.
fn read_close(payload: &[u8]) {
    let Ok(frame) = close::parse(payload) else {
        return;
    };
    let mut written = Vec::new();
    match frame.code {
        Some(code) => close::push_close_payload(&mut written, code, frame.reason),
        None => assert_eq!(frame.reason, ""),
    }
    // A Close frame has no more than 125 bytes; what is written is cut to that, between characters.
    if payload.len() <= 125 {
        assert_eq!(written, payload, "written as it was read");
    } else {
        assert!(written.len() <= 125);
    }
    let again = close::parse(&written).expect("what was written can be read");
    assert_eq!(again.code, frame.code);
    assert!(frame.reason.starts_with(again.reason));
}

pub(super) fn seeds() -> Vec<Vec<u8>> {
    let long = "ü".repeat(80);
    [
        &b"plain"[..],
        "κόσμε, 水, 🌊".as_bytes(),
        b"\xed\xa0\x80",
        b"\xf4\x90\x80\x80",
        b"\xc0\x80",
        b"cut off \xf0\x9f\x8c",
        b"\x03\xe8going away",
        b"\x03\xed",
        b"\x0f\xa8slow client",
        long.as_bytes(),
    ]
    .map(|text| seed(&[7], text))
    .to_vec()
}
