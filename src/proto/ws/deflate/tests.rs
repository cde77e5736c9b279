//! Messages there and back, whatever their cut; and what is refused, when, and at which cost.

use proptest::prelude::*;

use super::super::header::{self, HEADER_BYTES_MAX, OpCode, RSV1};
use super::super::mask::apply_mask;
use super::super::{Connection, Event, Input, MessageKind, Role, WsError};
use super::*;

const SETTINGS: Settings = Settings {
    level: 6,
    window_bits: 15,
    mem_level: 8,
};
const LIMIT: usize = 1 << 20;

fn compression() -> Compression {
    let mut compression = Compression::new(SETTINGS);
    compression.allow(usize::MAX);
    compression
}

/// A message of the server's as one frame of a client's.
fn frame(compression: &mut Compression, opcode: OpCode, payload: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    let mask = Some([1, 2, 3, 4]);
    compression.push_message(&mut out, (opcode, payload), mask, 15, None);
    out
}

/// `wire`, compressed already, in frames of these lengths and then one with the rest.
fn frames(opcode: OpCode, wire: &[u8], lens: &[usize]) -> Vec<u8> {
    let mut out = Vec::new();
    let mut rest = wire;
    let mut is_first = true;
    for len in lens.iter().copied().chain([usize::MAX]) {
        let (part, after) = rest.split_at(len.min(rest.len()));
        rest = after;
        let opcode = if is_first {
            opcode
        } else {
            OpCode::Continuation
        };
        let mut header = [0; HEADER_BYTES_MAX];
        let mask = [9, 8, 7, 6];
        let fin = len == usize::MAX;
        let n = header::encode(fin, opcode, part.len() as u64, Some(mask), &mut header);
        header[0] |= if is_first { RSV1 } else { 0 };
        is_first = false;
        out.extend_from_slice(&header[..n]);
        let start = out.len();
        out.extend_from_slice(part);
        apply_mask(&mut out[start..], mask, 0);
    }
    out
}

/// What a server that has agreed on compression reads of a stream in pieces of `size` bytes.
fn read(stream: &[u8], size: usize, limit: usize) -> Result<Vec<(MessageKind, Vec<u8>)>, WsError> {
    let mut connection = Connection::new(Role::Server, limit);
    connection.set_deflate(true);
    // Relaying must not hand out what is compressed.
    connection.set_relaying(true);
    let mut inflation = Inflation::new();
    let mut messages = Vec::new();
    for piece in stream.chunks(size.max(1)) {
        let mut piece = piece.to_vec();
        let mut input = Input::new(&mut piece);
        while let Some(event) = connection.poll_event(&mut input)? {
            match event {
                Event::Compressed(compressed) => {
                    let message = inflation.inflate(&compressed, None, limit)?;
                    messages.push((message.kind(), message.payload().to_vec()));
                }
                Event::Message(message) => {
                    messages.push((message.kind(), message.payload().to_vec()));
                }
                Event::Part(part) => {
                    assert!(part.is_first() && part.is_last());
                    messages.push((MessageKind::Binary, part.payload().to_vec()));
                }
                other => panic!("{other:?}"),
            }
        }
    }
    Ok(messages)
}

fn read_one(wire: &[u8], kind: OpCode, limit: usize) -> Result<Vec<u8>, WsError> {
    let stream = frames(kind, wire, &[]);
    let whole = read(&stream, usize::MAX, limit);
    for size in [1, 7] {
        assert_eq!(read(&stream, size, limit), whole);
    }
    Ok(whole?.remove(0).1)
}

fn compressed(payload: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    let mut deflater = Deflater::new(6, 15, 8).unwrap();
    assert!(deflater.compress(payload, &mut out, usize::MAX >> 1));
    out
}

#[test]
fn the_examples_of_rfc_7692_section_7_2_3() {
    let table: &[(&[u8], &[u8])] = &[
        // §7.2.3.1: one compressed block.
        (b"\xf2\x48\xcd\xc9\xc9\x07\x00", b"Hello"),
        // §7.2.3.3: a block with no compression.
        (b"\x00\x05\x00\xfa\xff\x48\x65\x6c\x6c\x6f\x00", b"Hello"),
        // §7.2.3.4: a final block, and what makes up for it.
        (b"\xf3\x48\xcd\xc9\xc9\x07\x00\x00", b"Hello"),
        // §7.2.3.5: two blocks.
        (
            b"\xf2\x48\x05\x00\x00\x00\xff\xff\xca\xc9\xc9\x07\x00",
            b"Hello",
        ),
        // §7.2.3.6: nothing.
        (b"\x00", b""),
        // A final block that nothing makes up for: nothing is lost.
        (b"\xf3\x48\xcd\xc9\xc9\x07\x00", b"Hello"),
    ];
    for (wire, payload) in table {
        let read = read_one(wire, OpCode::Text, LIMIT);
        assert_eq!(read.as_deref(), Ok(*payload), "{wire:x?}");
    }
    assert_eq!(compressed(b"Hello"), b"\xf2\x48\xcd\xc9\xc9\x07\x00");
    assert_eq!(compressed(b""), b"\x00");
    // §7.2.3.1: the same in two fragments.
    let wire = b"\xf2\x48\xcd\xc9\xc9\x07\x00";
    let messages = read(&frames(OpCode::Text, wire, &[3]), 1, LIMIT).unwrap();
    assert_eq!(messages, [(MessageKind::Text, b"Hello".to_vec())]);
    // §7.2.3.2: the second refers to the first.
    let mut inflater = Inflater::new(15).unwrap();
    for wire in [&wire[..], b"\xf2\x00\x11\x00\x00"] {
        let mut out = Vec::new();
        assert_eq!(inflater.inflate(wire, &mut out, LIMIT), Ok(()));
        assert_eq!(out, b"Hello");
    }
}

#[test]
fn final_blocks_do_not_end_the_window() {
    // "Hello" in a final block, then what refers to it, in the same message and in the next.
    let end = b"\xf3\x48\xcd\xc9\xc9\x07\x00";
    let again = b"\xf2\x00\x11\x00\x00";
    let mut inflater = Inflater::new(15).unwrap();
    let mut out = Vec::new();
    let both = [&end[..], again].concat();
    assert_eq!(inflater.inflate(&both, &mut out, LIMIT), Ok(()));
    assert_eq!(out, b"HelloHello");
    out.clear();
    assert_eq!(inflater.inflate(end, &mut out, LIMIT), Ok(()));
    assert_eq!(inflater.inflate(again, &mut out, LIMIT), Ok(()));
    assert_eq!(out, b"HelloHello");
    inflater.reset();
    assert_eq!(
        inflater.inflate(again, &mut out, LIMIT),
        Err(InflateError::Corrupt)
    );
}

#[test]
fn reserved_bits_are_for_the_first_frame_of_a_message() {
    let frame = |first: u8| [first, 0x80, 0, 0, 0, 0];
    let refused: &[&[[u8; 6]]] = &[
        &[frame(0xC9)],
        &[frame(0xC8)],
        &[frame(0xCA)],
        &[frame(0xA1)],
        &[frame(0x91)],
        &[frame(0xE1)],
        &[frame(0x41), frame(0xC0)],
        &[frame(0x01), frame(0xC0)],
        &[frame(0x01), frame(0x40)],
    ];
    for stream in refused {
        let stream = stream.concat();
        for size in [1, 100] {
            let error = read(&stream, size, LIMIT).unwrap_err();
            assert_eq!(error, WsError::ReservedBits, "{stream:x?}");
        }
    }
    // On a connection that has agreed on nothing, nowhere.
    let mut connection = Connection::new(Role::Server, LIMIT);
    let mut bytes = frame(0xC1);
    let mut input = Input::new(&mut bytes);
    let polled = connection.poll_event(&mut input);
    assert_eq!(polled.unwrap_err(), WsError::ReservedBits);
}

#[test]
fn what_is_no_deflate_data_is_refused() {
    let table: &[&[u8]] = &[
        b"",
        // A block type that there is not.
        b"\x07",
        b"\xff\xff\xff",
        // A length that is not confirmed.
        b"\x00\x05\x00\xfa\xfe\x48\x65\x6c\x6c\x6f\x00",
        // A block with no compression that is cut.
        b"\x00\x05\x00\xfa\xff\x48\x65",
        // A compressed block that is cut.
        b"\xf2\x48\xcd",
        // A distance beyond all that was said.
        b"\xf2\x00\x11\x00\x00",
    ];
    for wire in table {
        let read = read_one(wire, OpCode::Binary, LIMIT);
        assert_eq!(read, Err(WsError::InvalidDeflate), "{wire:x?}");
        assert_eq!(WsError::InvalidDeflate.close_code().0, 1007);
    }
}

#[test]
fn text_is_checked_when_it_has_come_out_and_no_later() {
    let bad = compressed(b"abc\xed\xa0");
    let refused = read_one(&bad, OpCode::Text, LIMIT);
    assert_eq!(refused, Err(WsError::InvalidUtf8 { offset: 4 }));
    assert_eq!(
        read_one(&bad, OpCode::Binary, LIMIT).unwrap(),
        b"abc\xed\xa0"
    );
    let cut = compressed(b"abc\xc3");
    let refused = read_one(&cut, OpCode::Text, LIMIT);
    assert_eq!(refused, Err(WsError::InvalidUtf8 { offset: 4 }));
    // The first fault is the one that is told, and what follows it does not even come out.
    let mut long = vec![0xFF];
    long.resize(LIMIT * 4, b'a');
    let refused = read_one(&compressed(&long), OpCode::Text, LIMIT);
    assert_eq!(refused, Err(WsError::InvalidUtf8 { offset: 0 }));
}

#[test]
fn no_byte_comes_out_beyond_the_bound() {
    // A gigabyte would come out of a megabyte of this.
    let bomb = compressed(&vec![0; 64 << 20]);
    assert!(bomb.len() < 70_000, "{}", bomb.len());
    for limit in [1, 1000, 65_536, 100_000] {
        let mut inflater = Inflater::new(15).unwrap();
        let mut out = Vec::new();
        let refused = inflater.inflate(&bomb, &mut out, limit);
        assert_eq!(refused, Err(InflateError::TooLong));
        assert_eq!(out.len(), limit);
        assert!(out.capacity() <= limit.max(8), "{}", out.capacity());
    }
    let limit = 65_536;
    for (len, fits) in [(limit - 1, true), (limit, true), (limit + 1, false)] {
        for byte in [0, b'x'] {
            let read = read_one(&compressed(&vec![byte; len]), OpCode::Binary, limit);
            match read {
                Ok(payload) => assert!(fits && payload.len() == len),
                Err(error) => {
                    assert!(!fits);
                    assert_eq!(
                        error,
                        WsError::MessageTooBig {
                            len: limit as u64 + 1
                        }
                    );
                }
            }
        }
    }
}

#[test]
fn the_bytes_on_the_wire_are_bounded_too() {
    // Empty blocks: nothing ever comes out of them.
    let empty = b"\x00\x00\x00\xff\xff".repeat(LIMIT / 4);
    let refused = read(&frames(OpCode::Binary, &empty, &[]), 4096, LIMIT);
    assert!(matches!(refused, Err(WsError::MessageTooBig { .. })));
    let refused = read(&frames(OpCode::Binary, &empty, &[LIMIT, 10]), 4096, LIMIT);
    assert!(matches!(refused, Err(WsError::MessageTooBig { .. })));
    // Final blocks, each of which begins a stream.
    let finals = b"\x03\x00".repeat(40_000);
    assert_eq!(read_one(&finals, OpCode::Binary, 80_000).unwrap(), b"");
    // What can't be compressed may take a little more on the wire than it is long.
    let mut noise = vec![0; LIMIT];
    let mut state = 1u64;
    for byte in &mut noise {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1);
        *byte = (state >> 56) as u8;
    }
    for mem_level in [1, 8] {
        let mut wire = Vec::new();
        let mut deflater = Deflater::new(1, 9, mem_level).unwrap();
        assert!(deflater.compress(&noise, &mut wire, LIMIT * 2));
        assert!(wire.len() > LIMIT);
        let read = read(&frames(OpCode::Binary, &wire, &[]), 1 << 16, LIMIT);
        assert!(read.unwrap()[0].1 == noise);
    }
}

#[test]
fn what_does_not_become_smaller_goes_as_it_is() {
    let mut compression = compression();
    let mut out = Vec::new();
    for payload in [&b""[..], b"a", b"short and all different"] {
        out.clear();
        let message = (OpCode::Text, payload);
        assert!(!compression.push_message(&mut out, message, None, 15, None));
        let mut plain = Vec::new();
        header::push_frame(&mut plain, OpCode::Text, payload);
        assert_eq!(out, plain);
    }
    assert_eq!(compression.tally().messages, 0);
    let payload = b"the same again, ".repeat(10);
    out.clear();
    assert!(compression.push_message(&mut out, (OpCode::Text, &payload), None, 15, None));
    assert!(out.len() < payload.len());
    assert_eq!(out[0], 0xC1);
    let tally = compression.tally();
    assert_eq!((tally.messages, tally.message_bytes), (1, 160));
    assert_eq!(tally.wire_bytes, out.len() as u64 - 2);
    // Nothing is compressed beyond what is allowed.
    compression.allow(payload.len());
    assert!(compression.compress(&payload, 15, None).is_some());
    assert!(compression.compress(&payload, 15, None).is_none());
    assert_eq!(compression.tally().gave_way, 1);
}

#[test]
fn smaller_windows_are_kept_to() {
    let mut payload = Vec::new();
    for n in 0..4000u32 {
        payload.extend_from_slice(&n.wrapping_mul(2_654_435_761).to_le_bytes());
    }
    let again = payload.clone();
    payload.extend_from_slice(&again);
    let mut compression = compression();
    let large = compression.compress(&payload, 15, None).unwrap().len();
    assert!(large < payload.len() * 2 / 3);
    // What was said 16,000 bytes ago is out of a smaller window's reach.
    assert!(compression.compress(&payload, 12, None).is_none());
    for bits in 9..=15 {
        let text = b"abcdefgh ".repeat(2000);
        let wire = compression.compress(&text, bits, None).unwrap();
        let mut out = Vec::new();
        let mut inflater = Inflater::new(bits).unwrap();
        assert_eq!(inflater.inflate(wire, &mut out, LIMIT), Ok(()));
        assert_eq!(out, text);
    }
    // zlib's own smallest window reads the RFC's.
    assert!(Inflater::new(8).is_some());
    for bits in [7, 8, 16] {
        assert!(Deflater::new(6, bits, 8).is_none(), "{bits}");
    }
    assert!(Inflater::new(16).is_none());
    assert!(compression.compress(&payload, 8, None).is_none());
}

fn takeover() -> Takeover {
    Takeover::new(&Agreed::default(), SETTINGS).unwrap()
}

#[test]
fn messages_refer_to_earlier_ones_where_that_is_agreed_on() {
    let mut compression = compression();
    let mut own = takeover();
    let mut peer = Inflater::new(15).unwrap();
    let text = br#"{"type":"message","room":"lobby","from":"a member of the room","data":{"x":1}}"#;
    let mut lens = Vec::new();
    let mut shared_lens = Vec::new();
    for round in 0..6 {
        if round == 3 {
            // A room's message, compressed by itself, moves the peer's window on.
            let wire = compression.compress(&[7; 5000], 15, None).unwrap();
            let mut out = Vec::new();
            assert_eq!(peer.inflate(wire, &mut out, LIMIT), Ok(()));
            own.on_shared_message();
        }
        let wire = compression.compress(text, 15, Some(&mut own)).unwrap();
        let mut out = Vec::new();
        assert_eq!(peer.inflate(wire, &mut out, LIMIT), Ok(()));
        assert_eq!(out, text);
        if round < 3 {
            &mut lens
        } else {
            &mut shared_lens
        }
        .push(wire.len());
    }
    assert!(lens[1] < lens[0] / 3, "{lens:?}");
    assert_eq!(lens, shared_lens, "it begins anew after a shared one");
    // What did not go out compressed is not referred to either.
    assert!(
        compression
            .compress(b"\x01\x9f", 15, Some(&mut own))
            .is_none()
    );
    let wire = compression.compress(text, 15, Some(&mut own)).unwrap();
    assert_eq!(wire.len(), lens[0]);
    let mut out = Vec::new();
    assert_eq!(peer.inflate(wire, &mut out, LIMIT), Ok(()));
    assert_eq!(out, text);
}

#[test]
fn each_direction_keeps_its_own() {
    let agreed = |server, client| Agreed {
        server_no_context_takeover: server,
        client_no_context_takeover: client,
        ..Agreed::default()
    };
    assert!(Takeover::new(&agreed(true, true), SETTINGS).is_none());
    let sends = Takeover::new(&agreed(false, true), SETTINGS).unwrap();
    let receives = Takeover::new(&agreed(true, false), SETTINGS).unwrap();
    let both = takeover().memory_bytes();
    assert_eq!(sends.memory_bytes() + receives.memory_bytes(), both);
    assert!(receives.memory_bytes() < 45 << 10);
    assert!(sends.memory_bytes() > 256 << 10);
}

fn payload() -> impl Strategy<Value = Vec<u8>> {
    let words = prop_oneof![
        3 => Just(b"{\"type\":\"message\",\"data\":".to_vec()),
        3 => Just("é€😀 plain text ".as_bytes().to_vec()),
        1 => prop::collection::vec(any::<u8>(), 0..300),
        1 => (any::<u8>(), 0usize..70_000).prop_map(|(byte, n)| vec![byte; n]),
    ];
    prop::collection::vec(words, 0..6).prop_map(|words| words.concat())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]
    /// Whatever is sent comes out, however it is cut into frames and pieces.
    #[test]
    fn messages_survive(
        payloads in prop::collection::vec(payload(), 1..4),
        lens in prop::collection::vec(0usize..200, 0..5),
        size in 1usize..5000,
        level in 1u8..=9,
        window_bits in 9u8..=15,
        mem_level in 1u8..=9,
    ) {
        let mut deflater = Deflater::new(level, window_bits, mem_level).unwrap();
        let mut inflater = Inflater::new(window_bits).unwrap();
        for payload in &payloads {
            let mut wire = Vec::new();
            prop_assert!(deflater.compress(payload, &mut wire, usize::MAX >> 1));
            let mut out = Vec::new();
            prop_assert_eq!(inflater.inflate(&wire, &mut out, LIMIT), Ok(()));
            prop_assert_eq!(&out, payload);
        }
        let mut stream = Vec::new();
        let mut expected = Vec::new();
        let mut compression = compression();
        for payload in &payloads {
            let is_text = std::str::from_utf8(payload).is_ok();
            let (opcode, kind) = if is_text {
                (OpCode::Text, MessageKind::Text)
            } else {
                (OpCode::Binary, MessageKind::Binary)
            };
            stream.extend_from_slice(&frame(&mut compression, opcode, payload));
            stream.extend_from_slice(&frames(opcode, &compressed(payload), &lens));
            expected.extend([(kind, payload.clone()), (kind, payload.clone())]);
        }
        let whole = read(&stream, usize::MAX, LIMIT);
        // Where a message stands alone in the input it comes in one part, whose kind is not asked.
        let bytes = |messages: Vec<(MessageKind, Vec<u8>)>| {
            messages.into_iter().map(|(_, bytes)| bytes).collect::<Vec<_>>()
        };
        prop_assert_eq!(bytes(whole.clone().unwrap()), bytes(expected));
        prop_assert_eq!(read(&stream, size, LIMIT).map(bytes), whole.map(bytes));
    }

    /// Whatever comes, at most the bound comes out, and it is the same however it is cut.
    #[test]
    fn noise_is_survived(
        noise in prop_oneof![
            prop::collection::vec(any::<u8>(), 0..200),
            (payload(), prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..4))
                .prop_map(|(payload, spoils)| {
                    let mut wire = compressed(&payload);
                    for (at, byte) in spoils {
                        let at = at.index(wire.len());
                        wire[at] = byte;
                    }
                    wire
                }),
        ],
        size in 1usize..50,
        limit in 0usize..100_000,
    ) {
        let mut inflater = Inflater::new(15).unwrap();
        let mut out = Vec::new();
        let whole = inflater.inflate(&noise, &mut out, limit);
        prop_assert!(out.len() <= limit);
        inflater.reset();
        let mut again = Vec::new();
        prop_assert_eq!(inflater.inflate(&noise, &mut again, limit), whole);
        prop_assert_eq!(&again, &out);
        let stream = frames(OpCode::Binary, &noise, &[size, size]);
        let read = read(&stream, size, limit.max(1));
        if whole.is_ok() && noise.len() <= limit {
            prop_assert_eq!(&read.unwrap()[0].1, &out);
        }
    }
}
