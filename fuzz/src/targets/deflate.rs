//! permessage-deflate (RFC 7692): what is agreed on, what comes out of any bytes and never beyond a bound,
//! and what goes in and comes out again; against zlib behind another wrapper.

use flate2::{Decompress, FlushDecompress, Status};
use tidegate::proto::handshake::read_extensions;
use tidegate::proto::ws::deflate::{
    Agreed, Compression, EXTENSION, InflateError, Inflater, Inflation, Offer, Policy, Settings,
    Takeover, negotiate,
};
use tidegate::proto::ws::{Connection, Event, Input, OpCode, Role};

use super::script::{Script, seed};

pub(super) fn run(input: &[u8]) {
    let mut script = Script::new(input);
    match script.byte() % 3 {
        0 => inflate(&mut script),
        1 => there_and_back(&mut script),
        _ => agree(&mut script),
    }
}

/// Any bytes as a message, or as two of one stream.
fn inflate(script: &mut Script<'_>) {
    let limit = script.pick(LIMITS);
    let options = script.byte();
    let wire = script.rest();
    let cut = usize::from(options >> 1) * 3;
    let messages = match options & 1 {
        0 => [wire, &[]],
        _ => {
            let (first, second) = wire.split_at(cut.min(wire.len()));
            [first, second]
        }
    };
    let mut ours = Inflater::new(15).expect("there is memory");
    let mut theirs = Decompress::new_with_window_bits(false, 15);
    for wire in messages {
        let mut out = vec![0xEE; 3];
        let result = ours.inflate(wire, &mut out, limit + 3);
        // What was there stays; nothing comes out beyond the bound, nor is room made for it.
        assert_eq!(out[..3], [0xEE; 3]);
        let payload = &out[3..];
        assert!(payload.len() <= limit);
        assert!(out.capacity() <= (limit + 3).max(8));
        let reference = reference(&mut theirs, wire, limit);
        let is_unknown = matches!(reference, Reference::Unknown);
        match (result, reference) {
            (Ok(()), Reference::Whole(expected)) => assert!(payload == expected),
            (Ok(()), Reference::Corrupt) => panic!("zlib refuses what is taken here"),
            (Ok(()), Reference::TooLong) => panic!("{} bytes and no end", payload.len()),
            (Err(InflateError::TooLong), Reference::Whole(expected)) => {
                panic!("{} bytes are not too long for {limit}", expected.len());
            }
            (Err(InflateError::Corrupt), Reference::Whole(expected)) => {
                // The reference does not know whether a block has ended.
                assert!(expected.starts_with(payload));
            }
            (Err(_), _) | (Ok(()), Reference::Unknown) => {}
        }
        if result.is_err() || is_unknown {
            return;
        }
    }
}

/// What zlib makes of a message, up to somewhat more than `limit`.
enum Reference {
    Whole(Vec<u8>),
    Corrupt,
    TooLong,
    /// Its last block was a final one, behind which this wrapper can't go on.
    Unknown,
}

fn reference(stream: &mut Decompress, wire: &[u8], limit: usize) -> Reference {
    let input = [wire, &[0x00, 0x00, 0xFF, 0xFF]].concat();
    let mut out = Vec::with_capacity(limit + 1);
    let mut at = 0;
    loop {
        let (read, written) = (stream.total_in(), stream.total_out());
        let status = stream.decompress_vec(&input[at..], &mut out, FlushDecompress::Sync);
        at += (stream.total_in() - read) as usize;
        match status {
            Err(_) => return Reference::Corrupt,
            Ok(Status::StreamEnd) => return Reference::Unknown,
            Ok(_) if out.len() > limit => return Reference::TooLong,
            Ok(_) if stream.total_in() == read && stream.total_out() == written => {
                return if at == input.len() {
                    Reference::Whole(out)
                } else {
                    Reference::TooLong
                };
            }
            Ok(_) => {}
        }
    }
}

/// Messages through a server's compression to a client, with and without what lies between them.
fn there_and_back(script: &mut Script<'_>) {
    let settings = Settings {
        level: 1 + script.byte() % 9,
        window_bits: 9 + script.byte() % 7,
        mem_level: 1 + script.byte() % 9,
    };
    let options = script.byte();
    let agreed = Agreed {
        server_no_context_takeover: options & 1 != 0,
        client_no_context_takeover: true,
        server_max_window_bits: Some(settings.window_bits),
        client_max_window_bits: None,
    };
    let theirs = Agreed {
        server_no_context_takeover: true,
        client_no_context_takeover: agreed.server_no_context_takeover,
        server_max_window_bits: None,
        client_max_window_bits: agreed.server_max_window_bits,
    };
    let mut compression = Compression::new(settings);
    let mut sender = Takeover::new(&agreed, settings);
    let mut receiver = Takeover::new(&theirs, settings);
    let mut inflation = Inflation::new();
    let mut reference = Decompress::new_with_window_bits(false, 15);
    let mut messages = 0;
    while !script.is_empty() && messages < 50 {
        messages += 1;
        let kind = script.byte();
        let piece = script.until(b'\n');
        // Long enough, now and then, to be more than a window.
        let payload = piece.repeat(if kind & 0x30 == 0x30 { 97 } else { 1 });
        compression.allow(if kind & 0x40 != 0 { 20 } else { usize::MAX });
        let is_shared = kind & 1 != 0;
        let own = match &mut sender {
            Some(sender) if is_shared => {
                sender.on_shared_message();
                None
            }
            other => other.as_mut(),
        };
        let opcode = OpCode::Binary;
        let mask = (kind & 2 != 0).then_some([1, 0, 0xFF, 0x80]);
        let mut frame = Vec::new();
        let bits = settings.window_bits;
        let is_compressed =
            compression.push_message(&mut frame, (opcode, &payload), mask, bits, own);
        assert_eq!(is_compressed, frame[0] & 0x40 != 0);

        let role = if mask.is_some() {
            Role::Server
        } else {
            Role::Client
        };
        let mut connection = Connection::new(role, payload.len());
        connection.set_deflate(true);
        let mut input = Input::new(&mut frame);
        match connection.poll_event(&mut input) {
            Ok(Some(Event::Message(message))) => {
                assert!(!is_compressed);
                assert!(message.payload() == payload);
            }
            Ok(Some(Event::Compressed(compressed))) => {
                assert!(is_compressed);
                assert!(compressed.payload().len() < payload.len());
                let wire = compressed.payload().to_vec();
                let message = inflation.inflate(&compressed, receiver.as_mut(), payload.len());
                let message = message.expect("it is what was compressed");
                assert!(message.payload() == payload);
                // Any client that keeps its window can read it too.
                match self::reference(&mut reference, &wire, payload.len()) {
                    Reference::Whole(theirs) => assert!(theirs == payload),
                    _ => panic!("zlib can't read it"),
                }
                // One byte less is never passed.
                if !is_shared && receiver.is_none() {
                    let mut out = Vec::new();
                    let mut inflater = Inflater::new(15).expect("there is memory");
                    let most = payload.len() - 1;
                    let result = inflater.inflate(&wire, &mut out, most);
                    assert_eq!(result, Err(InflateError::TooLong));
                    assert!(out.len() <= most);
                }
            }
            other => panic!("{other:?}"),
        }
    }
    let tally = compression.tally();
    assert!(tally.wire_bytes <= tally.message_bytes);
}

/// Offers as they may come, and as a client of ours makes them.
fn agree(script: &mut Script<'_>) {
    let policy = Policy {
        window_bits: 9 + script.byte() % 7,
        server_context_takeover: script.byte() & 1 != 0,
        client_context_takeover: script.byte() & 1 != 0,
    };
    let flags = script.byte();
    let bits = |byte: u8| (byte & 0x80 != 0).then_some(8 + byte % 8);
    let server_max_window_bits = bits(script.byte());
    let client = script.byte();
    let offer = Offer {
        server_no_context_takeover: flags & 1 != 0,
        client_no_context_takeover: flags & 2 != 0,
        server_max_window_bits,
        client_max_window_bits: (client & 0x40 != 0).then_some(bits(client)),
    };
    let value = offer.to_value();
    match answered(value.as_bytes(), &policy) {
        Some((agreed, answer)) => {
            let answer = read_extensions([answer.as_bytes()].into_iter()).expect("it is sound");
            assert_eq!(offer.check(&answer), Some(Some(agreed)), "{value}");
            assert!(agreed.server_window_bits() <= server_max_window_bits.unwrap_or(15));
            assert!(agreed.server_no_context_takeover || !offer.server_no_context_takeover);
            assert!(agreed.server_no_context_takeover || policy.server_context_takeover);
        }
        // The one window that zlib can't compress with.
        None => assert_eq!(server_max_window_bits, Some(8), "{value}"),
    }
    let text = script.rest();
    if let Some((agreed, _)) = answered(text, &policy) {
        let text = String::from_utf8_lossy(text);
        assert!(text.contains(EXTENSION), "{text}");
        if agreed.client_max_window_bits.is_some() {
            assert!(text.contains("client_max_window_bits"), "{text}");
        }
    }
    let answer = read_extensions([text].into_iter());
    if let Ok(answer) = answer
        && let Some(Some(agreed)) = offer.check(&answer)
    {
        assert!(agreed.server_window_bits() <= server_max_window_bits.unwrap_or(15));
    }
}

fn answered(value: &[u8], policy: &Policy) -> Option<(Agreed, String)> {
    let offers = read_extensions([value].into_iter()).ok()?;
    let agreed = negotiate(&offers, policy)?;
    let answer = agreed.to_value();
    assert!(answer.starts_with(EXTENSION));
    Some((agreed, answer))
}

const LIMITS: &[usize] = &[1 << 16, 0, 1, 100, 5000, 32 << 10, (32 << 10) + 1];

pub(super) fn seeds() -> Vec<Vec<u8>> {
    let mut seeds = Vec::new();
    // RFC 7692 §7.2.3: one block, two, none, stored, final, empty.
    for wire in [
        &b"\xf2\x48\xcd\xc9\xc9\x07\x00"[..],
        b"\xf2\x48\x05\x00\x00\x00\xff\xff\xca\xc9\xc9\x07\x00",
        b"\x00\x05\x00\xfa\xff\x48\x65\x6c\x6c\x6f\x00",
        b"\xf3\x48\xcd\xc9\xc9\x07\x00\x00",
        b"\xf3\x48\xcd\xc9\xc9\x07\x00",
        b"\x00",
        b"",
        b"\xf2\x48\xcd",
        b"\xff\xff\xff",
    ] {
        seeds.push(seed(&[0, 0, 0], wire));
        seeds.push(seed(&[0, 3, 5], wire));
    }
    // One message after the other, the second out of the first's window (§7.2.3.2).
    seeds.push(seed(
        &[0, 0, 1 | (2 << 1)],
        b"\xf2\x48\xcd\xc9\xc9\x07\x00\xf2\x00\x11\x00\x00",
    ));
    // 64 KiB of nothing, and the same under smaller limits.
    let mut bomb = Vec::new();
    let mut compression = Compression::new(Settings {
        level: 9,
        window_bits: 15,
        mem_level: 8,
    });
    compression.allow(usize::MAX);
    if let Some(wire) = compression.compress(&[0; 65536], 15, None) {
        bomb.extend_from_slice(wire);
    }
    for limit in 0..LIMITS.len() {
        seeds.push(seed(&[0, limit as u8, 0], &bomb));
    }
    let text = b"a{\"price\":100,\"name\":\"abc\"}\n0{\"price\":101,\"name\":\"abc\"}\n\
        1{\"price\":102,\"name\":\"abc\"}\n23{\"price\":103,\"name\":\"abc\"}\n3long long long\n\n\x71x\n";
    for front in [[1, 5, 6, 7, 0], [1, 0, 0, 0, 1], [1, 8, 3, 8, 0]] {
        seeds.push(seed(&front, text));
    }
    for offers in [
        "permessage-deflate",
        "permessage-deflate; client_max_window_bits",
        "permessage-deflate; client_max_window_bits=10; server_max_window_bits=\"9\"",
        "permessage-deflate; server_no_context_takeover; client_no_context_takeover",
        "permessage-deflate; server_max_window_bits=8, permessage-deflate",
        "x-webkit-deflate-frame, permessage-deflate;x=\"y\\\"z\" , ,",
        "permessage-deflate; server_max_window_bits=015; server_max_window_bits",
    ] {
        seeds.push(seed(&[2, 6, 1, 1, 3, 0x8A, 0xC1], offers));
        seeds.push(seed(&[2, 3, 0, 0, 0, 0, 0x40], offers));
    }
    seeds
}
