//! Fed whole, byte by byte, cut at random and through lent buffers: always the same events.

use super::direct::DIRECT_AHEAD_BYTES_MAX;
use super::*;
use crate::proto::ws::close::{CloseCode, payload as close_payload};
use crate::proto::ws::header::{HEADER_BYTES_MAX, encode, push_frame, push_masked_frame};
use proptest::prelude::*;

/// An event that owns its bytes, or the error that ended the stream.
#[derive(Debug, Clone, PartialEq)]
enum Seen {
    Text(Vec<u8>),
    Binary(Vec<u8>),
    Ping(Vec<u8>),
    Pong(Vec<u8>),
    Close(Option<CloseCode>, String),
    Error(WsError),
}

fn seen(event: Event<'_>) -> Seen {
    match event {
        Event::Message(message) => {
            let kind = message.kind();
            let bytes = match message.take_owned() {
                Ok(own) => {
                    let payload = own.payload().to_vec();
                    let (frame, start) = own.into_frame(kind.opcode());
                    assert!(frame[start..].ends_with(&payload));
                    payload
                }
                Err(message) => message.payload().to_vec(),
            };
            match kind {
                MessageKind::Text => Seen::Text(bytes),
                MessageKind::Binary => Seen::Binary(bytes),
            }
        }
        Event::Compressed(message) => panic!("{message:?} although nothing was agreed on"),
        Event::Part(part) => panic!("{part:?} from a connection that does not relay"),
        Event::Ping(bytes) => Seen::Ping(bytes.to_vec()),
        Event::Pong(bytes) => Seen::Pong(bytes.to_vec()),
        Event::Close(frame) => Seen::Close(frame.code, frame.reason.to_string()),
    }
}

/// Feeds one chunk; false once an error was returned.
fn feed(connection: &mut Connection, chunk: &[u8], out: &mut Vec<Seen>) -> bool {
    let mut bytes = chunk.to_vec();
    let mut input = Input::new(&mut bytes);
    loop {
        match connection.poll_event(&mut input) {
            Ok(Some(event)) => out.push(seen(event)),
            Ok(None) => {
                assert!(input.is_empty(), "None means that all input is consumed");
                return true;
            }
            Err(error) => {
                out.push(Seen::Error(error));
                assert!(connection.is_closed() && !connection.has_partial());
                return false;
            }
        }
    }
}

fn feed_chunks<'a>(
    connection: &mut Connection,
    chunks: impl IntoIterator<Item = &'a [u8]>,
) -> Vec<Seen> {
    let mut out = Vec::new();
    for chunk in chunks {
        if !feed(connection, chunk, &mut out) {
            break;
        }
    }
    out
}

/// Cuts `stream` into pieces of the given sizes, over and over.
fn cut<'a>(stream: &'a [u8], sizes: &[usize]) -> Vec<&'a [u8]> {
    let mut rest = stream;
    let mut pieces = Vec::new();
    for size in sizes.iter().cycle() {
        if rest.is_empty() {
            break;
        }
        let (piece, tail) = rest.split_at((*size).clamp(1, rest.len()));
        pieces.push(piece);
        rest = tail;
    }
    pieces
}

/// As [`cut`], but what can be received into a lent buffer is.
fn feed_direct(connection: &mut Connection, stream: &[u8], sizes: &[usize]) -> Vec<Seen> {
    let mut out = Vec::new();
    let mut rest = stream;
    for size in sizes.iter().cycle() {
        if rest.is_empty() {
            break;
        }
        let remaining = connection.frame_remaining();
        if let Some(mut direct) = connection.take_direct() {
            assert_eq!(direct.remaining, remaining);
            let spare = direct.buf.capacity() - direct.buf.len();
            assert!(spare > 0);
            let n = (*size).min(remaining).min(spare).min(rest.len());
            direct.buf.extend_from_slice(&rest[..n]);
            rest = &rest[n..];
            match connection.handle_direct(direct) {
                Ok(event) => out.extend(event.map(seen)),
                Err(error) => {
                    out.push(Seen::Error(error));
                    return out;
                }
            }
            continue;
        }
        assert_eq!(remaining, 0);
        let (piece, tail) = rest.split_at((*size).clamp(1, rest.len()));
        rest = tail;
        if !feed(connection, piece, &mut out) {
            break;
        }
    }
    out
}

/// As [`cut`], through a connection that relays: what is passed on, as its receiver sees it, and what
/// else is seen.
fn feed_relaying(
    connection: &mut Connection,
    stream: &[u8],
    sizes: &[usize],
) -> (Vec<Seen>, Vec<Seen>) {
    connection.set_relaying(true);
    let (mut passed, mut others) = (Vec::new(), Vec::new());
    for piece in cut(stream, sizes) {
        let mut bytes = piece.to_vec();
        let mut input = Input::new(&mut bytes);
        loop {
            match connection.poll_event(&mut input) {
                Ok(Some(Event::Part(part))) => {
                    assert!(part.is_last() || !part.payload().is_empty());
                    let (header, len) = part.header();
                    let payload = part.payload().to_vec();
                    match part.into_frame() {
                        Ok(frame) => {
                            assert_eq!(frame[..len], header[..len]);
                            assert_eq!(frame[len..], payload);
                            passed.extend_from_slice(frame);
                        }
                        Err(_) => {
                            passed.extend_from_slice(&header[..len]);
                            passed.extend_from_slice(&payload);
                        }
                    }
                }
                Ok(Some(Event::Message(message))) => {
                    push_frame(&mut passed, message.kind().opcode(), message.payload());
                }
                Ok(Some(other)) => others.push(seen(other)),
                Ok(None) => break,
                Err(error) => {
                    others.push(Seen::Error(error));
                    break;
                }
            }
        }
        if connection.is_closed() {
            break;
        }
    }
    let mut receiver = Connection::new(Role::Client, 1 << 20);
    (feed_chunks(&mut receiver, [&passed[..]]), others)
}

fn push(out: &mut Vec<u8>, role: Role, fin: bool, opcode: OpCode, payload: &[u8]) {
    let key = (role == Role::Server).then_some([0x37, 0xFA, 0x21, out.len() as u8]);
    let mut header = [0; HEADER_BYTES_MAX];
    let len = encode(fin, opcode, payload.len() as u64, key, &mut header);
    out.extend_from_slice(&header[..len]);
    let start = out.len();
    out.extend_from_slice(payload);
    if let Some(key) = key {
        apply_mask(&mut out[start..], key, 0);
    }
}

fn server() -> Connection {
    Connection::new(Role::Server, 1 << 20)
}

/// Feeds the stream in every way that is quick, and demands one answer.
fn every_way(role: Role, max: usize, stream: &[u8]) -> Vec<Seen> {
    let new = || Connection::new(role, max);
    let whole = feed_chunks(&mut new(), [stream]);
    assert_eq!(feed_chunks(&mut new(), stream.chunks(1)), whole, "by bytes");
    for sizes in [&[2][..], &[7], &[1, 13], &[4096, 3]] {
        assert_eq!(
            feed_chunks(&mut new(), cut(stream, sizes)),
            whole,
            "{sizes:?}"
        );
        assert_eq!(feed_direct(&mut new(), stream, sizes), whole, "{sizes:?}");
    }
    whole
}

#[test]
fn a_connection_is_small() {
    assert!(size_of::<Connection>() <= 16);
    let connection = server();
    assert_eq!(connection.buffered_bytes(), 0);
    assert!(!connection.has_partial() && !connection.is_closed());
}

#[test]
fn examples_of_rfc_6455_section_5_7() {
    let hello = [Seen::Text(b"Hello".to_vec())];
    let masked = b"\x81\x85\x37\xfa\x21\x3d\x7f\x9f\x4d\x51\x58";
    assert_eq!(every_way(Role::Server, 99, masked), hello);
    assert_eq!(every_way(Role::Client, 99, b"\x81\x05Hello"), hello);
    let fragments = b"\x01\x03Hel\x80\x02lo";
    assert_eq!(every_way(Role::Client, 99, fragments), hello);
    let ping = Seen::Ping(b"Hello".to_vec());
    assert_eq!(every_way(Role::Client, 99, b"\x89\x05Hello"), [ping]);
    let pong = b"\x8a\x85\x37\xfa\x21\x3d\x7f\x9f\x4d\x51\x58";
    let expected = [Seen::Pong(b"Hello".to_vec())];
    assert_eq!(every_way(Role::Server, 99, pong), expected);
    for len in [256, 65536] {
        let mut stream = Vec::new();
        push_frame(&mut stream, OpCode::Binary, &vec![7; len]);
        let expected = [Seen::Binary(vec![7; len])];
        assert_eq!(every_way(Role::Client, 65536, &stream), expected);
    }
}

#[test]
fn errors_of_the_server() {
    let utf8 = |offset| WsError::InvalidUtf8 { offset };
    let table: Vec<(Vec<u8>, WsError)> = vec![
        (b"\xc1".to_vec(), WsError::ReservedBits),
        (b"\x85".to_vec(), WsError::ReservedOpcode { opcode: 5 }),
        (b"\x81\x01".to_vec(), WsError::UnmaskedFromClient),
        (b"\x89\x00".to_vec(), WsError::UnmaskedFromClient),
        (b"\x0a".to_vec(), WsError::ControlFragmented),
        (b"\x89\xfe".to_vec(), WsError::ControlTooLong),
        (b"\x82\xfe\x00\x01".to_vec(), WsError::NonMinimalLength),
        (b"\x82\xff\0\0\0\0\0\0".to_vec(), WsError::NonMinimalLength),
        (b"\x82\xff\xff".to_vec(), WsError::LengthTopBit),
        (b"\x80".to_vec(), WsError::UnexpectedContinuation),
        (b"\x00".to_vec(), WsError::UnexpectedContinuation),
        (
            b"\x82\xff\0\0\0\0\0\x01\0\0\0\0\0\0".to_vec(),
            WsError::MessageTooBig { len: 65536 },
        ),
        (
            b"\x82\xff\x7f\xff\xff\xff\xff\xff\xff\xff\0\0\0\0".to_vec(),
            WsError::MessageTooBig { len: (1 << 63) - 1 },
        ),
        (b"\x81\x84\0\0\0\0a\xed\xa0".to_vec(), utf8(2)),
        (b"\x01\x84\0\0\0\0\xf4\x90".to_vec(), utf8(1)),
        (b"\x81\x82\0\0\0\0\xe2\x82".to_vec(), utf8(2)),
        (b"\x88\x81\0\0\0\0x".to_vec(), WsError::InvalidClosePayload),
        (
            b"\x88\x82\0\0\0\0\x03\xed".to_vec(),
            WsError::InvalidCloseCode { code: 1005 },
        ),
        (b"\x88\x83\0\0\0\0\x03\xe8\xff".to_vec(), utf8(0)),
    ];
    for (stream, error) in table {
        let expected = [Seen::Error(error)];
        assert_eq!(
            every_way(Role::Server, 65535, &stream),
            expected,
            "{stream:x?}"
        );
    }
}

#[test]
fn a_new_message_inside_a_message_is_refused_by_its_first_byte() {
    for first in [0x81, 0x01, 0x82, 0x02] {
        let mut stream = Vec::new();
        push(&mut stream, Role::Server, false, OpCode::Text, b"a");
        stream.push(first);
        let expected = [Seen::Error(WsError::ExpectedContinuation)];
        assert_eq!(every_way(Role::Server, 99, &stream), expected);
    }
}

#[test]
fn a_client_refuses_masked_frames() {
    let expected = [Seen::Error(WsError::MaskedFromServer)];
    assert_eq!(every_way(Role::Client, 99, b"\x81\x80"), expected);
}

#[test]
fn an_unfinished_character_is_refused_at_the_end_of_the_message_only() {
    let mut stream = Vec::new();
    push(&mut stream, Role::Server, false, OpCode::Text, b"a\xe2");
    push(&mut stream, Role::Server, true, OpCode::Ping, b"");
    push(
        &mut stream,
        Role::Server,
        false,
        OpCode::Continuation,
        b"\x82",
    );
    let mut bad = stream.clone();
    push(&mut bad, Role::Server, true, OpCode::Continuation, b"");
    let ping = Seen::Ping(Vec::new());
    let error = Seen::Error(WsError::InvalidUtf8 { offset: 3 });
    assert_eq!(every_way(Role::Server, 99, &bad), [ping.clone(), error]);
    push(
        &mut stream,
        Role::Server,
        true,
        OpCode::Continuation,
        b"\xac",
    );
    let text = Seen::Text("a€".into());
    assert_eq!(every_way(Role::Server, 99, &stream), [ping, text]);
}

#[test]
fn the_limit_counts_all_fragments_and_spares_control_frames() {
    let mut stream = Vec::new();
    push(&mut stream, Role::Server, false, OpCode::Binary, b"abc");
    push(
        &mut stream,
        Role::Server,
        true,
        OpCode::Ping,
        b"longer than the limit",
    );
    let mut fits = stream.clone();
    push(&mut fits, Role::Server, true, OpCode::Continuation, b"d");
    let ping = Seen::Ping(b"longer than the limit".to_vec());
    let expected = [ping.clone(), Seen::Binary(b"abcd".to_vec())];
    assert_eq!(every_way(Role::Server, 4, &fits), expected);
    // The header is enough.
    stream.extend_from_slice(b"\x80\x82\0\0\0\0");
    let expected = [ping, Seen::Error(WsError::MessageTooBig { len: 5 })];
    assert_eq!(every_way(Role::Server, 4, &stream), expected);
}

#[test]
fn the_limit_may_change() {
    let mut stream = Vec::new();
    push(&mut stream, Role::Server, true, OpCode::Binary, b"abcdef");
    let mut connection = Connection::new(Role::Server, 6);
    assert_eq!(feed_chunks(&mut connection, [&stream[..]]).len(), 1);
    connection.set_message_bytes_max(5);
    let expected = [Seen::Error(WsError::MessageTooBig { len: 6 })];
    assert_eq!(feed_chunks(&mut connection, [&stream[..]]), expected);
}

#[test]
fn nothing_is_heard_after_a_close_frame() {
    let mut stream = Vec::new();
    push(&mut stream, Role::Server, false, OpCode::Text, b"begun");
    let payload = close_payload(CloseCode::GOING_AWAY, "bye");
    push(&mut stream, Role::Server, true, OpCode::Close, &payload);
    stream.extend_from_slice(b"\xff\xff garbage");
    let expected = [Seen::Close(Some(CloseCode::GOING_AWAY), "bye".into())];
    assert_eq!(every_way(Role::Server, 99, &stream), expected);
    let mut connection = server();
    feed_chunks(&mut connection, stream.chunks(5));
    assert!(connection.is_closed() && !connection.has_partial());
    assert_eq!(connection.buffered_bytes(), 0);
    assert_eq!(connection.take_direct().map(|d| d.remaining), None);
}

#[test]
fn whole_frames_are_handed_out_in_place() {
    let mut stream = Vec::new();
    push_masked_frame(&mut stream, OpCode::Text, b"hello", [1, 2, 3, 4]);
    push_masked_frame(&mut stream, OpCode::Binary, &[5; 300], [1, 2, 3, 4]);
    let range = stream.as_ptr_range();
    let mut connection = server();
    let mut input = Input::new(&mut stream);
    for len in [5, 300] {
        let Ok(Some(Event::Message(mut message))) = connection.poll_event(&mut input) else {
            panic!("a message");
        };
        assert!(range.contains(&message.payload().as_ptr()));
        assert_eq!(message.payload_mut().len(), len);
        let message = message.take_owned().unwrap_err();
        assert_eq!(message.payload().len(), len);
        assert_eq!(connection.buffered_bytes(), 0);
    }
    assert!(input.is_empty());
}

#[test]
fn an_idle_connection_owns_no_heap() {
    let mut stream = Vec::new();
    push(&mut stream, Role::Server, false, OpCode::Text, b"abc");
    push(
        &mut stream,
        Role::Server,
        true,
        OpCode::Continuation,
        b"def",
    );
    push(&mut stream, Role::Server, true, OpCode::Ping, b"ping");
    for size in 1..stream.len() {
        let mut connection = server();
        assert_eq!(feed_chunks(&mut connection, stream.chunks(size)).len(), 2);
        assert!(!connection.has_partial());
        assert_eq!(connection.buffered_bytes(), 0, "pieces of {size}");
    }
}

#[test]
fn announced_lengths_alone_reserve_little() {
    let mut connection = Connection::new(Role::Server, 1 << 30);
    let header = b"\x82\xff\0\0\0\0\x20\0\0\0\0\0\0\0";
    feed_chunks(&mut connection, [&header[..]]);
    assert!(connection.buffered_bytes() < 1024);
    feed_chunks(&mut connection, [&b"x"[..]]);
    assert!(connection.buffered_bytes() <= AHEAD_BYTES_MAX + 1024);
    assert_eq!(connection.frame_remaining(), (512 << 20) - 1);
    let direct = connection.take_direct().unwrap();
    assert!(direct.buf.capacity() <= DIRECT_AHEAD_BYTES_MAX + 1024);
    assert_eq!(
        connection.handle_direct(direct).map(|e| e.is_none()),
        Ok(true)
    );
    assert_eq!(connection.frame_remaining(), (512 << 20) - 1);
}

#[test]
fn fragments_however_many_take_no_more_memory_than_their_payload() {
    let mut connection = server();
    let mut stream = Vec::new();
    push(&mut stream, Role::Server, false, OpCode::Binary, b"");
    for _ in 0..1000 {
        push(&mut stream, Role::Server, false, OpCode::Continuation, b"");
    }
    assert_eq!(feed_chunks(&mut connection, [&stream[..]]), []);
    assert!(connection.buffered_bytes() < 256);
    stream.clear();
    for _ in 0..1000 {
        push(&mut stream, Role::Server, false, OpCode::Continuation, b"x");
    }
    assert_eq!(feed_chunks(&mut connection, [&stream[..]]), []);
    assert!(connection.buffered_bytes() < 256 + 1500 + 64);
}

#[test]
fn a_large_message_is_received_into_its_own_buffer() {
    let payload: Vec<u8> = (0..3_000_000u32).map(|i| (i % 251) as u8).collect();
    let mut stream = Vec::new();
    push(&mut stream, Role::Server, true, OpCode::Binary, &payload);
    let mut connection = Connection::new(Role::Server, 4 << 20);
    let mut out = Vec::new();
    feed(&mut connection, &stream[..5000], &mut out);
    let mut rest = &stream[5000..];
    loop {
        let mut direct = connection.take_direct().expect("a frame in progress");
        let spare = direct.buf.capacity() - direct.buf.len();
        let ahead = DIRECT_AHEAD_BYTES_MAX.max(direct.buf.len() / 2);
        assert!(spare <= ahead, "{spare} of spare room");
        let n = spare.min(direct.remaining).min(rest.len());
        direct.buf.extend_from_slice(&rest[..n]);
        rest = &rest[n..];
        if let Some(event) = connection.handle_direct(direct).unwrap() {
            let Event::Message(message) = event else {
                panic!("a message");
            };
            assert_eq!(message.take_owned().unwrap().payload(), payload);
            break;
        }
    }
    assert!(rest.is_empty() && !connection.has_partial());
}

/// Frames of a valid stream: messages in fragments, with control frames between these.
fn stream(role: Role) -> impl Strategy<Value = Vec<u8>> {
    let len = prop_oneof![
        6 => 0usize..40,
        3 => 120usize..132,
        1 => Just(65535usize),
        1 => Just(65536usize),
    ];
    let control = prop_oneof![Just(OpCode::Ping), Just(OpCode::Pong)];
    let control = prop::option::of((control, 0usize..=125));
    let fragment = (any::<prop::sample::Index>(), control);
    let fragments = proptest::collection::vec(fragment, 0..4);
    let message = (any::<bool>(), len, fragments);
    (proptest::collection::vec(message, 1..6), any::<bool>()).prop_map(move |(messages, close)| {
        let mut out = Vec::new();
        for (is_text, len, fragments) in messages {
            let mut payload: Vec<u8> = (0..len).map(|i| (i * 31) as u8).collect();
            let mut opcode = OpCode::Binary;
            if is_text {
                opcode = OpCode::Text;
                payload = "aé€😀b".bytes().cycle().take(len - len % 11).collect();
            }
            let mut rest = &payload[..];
            for (at, control) in fragments {
                let (head, tail) = rest.split_at(at.index(rest.len() + 1));
                push(&mut out, role, false, opcode, head);
                (rest, opcode) = (tail, OpCode::Continuation);
                if let Some((opcode, len)) = control {
                    push(&mut out, role, true, opcode, &vec![b'c'; len]);
                }
            }
            push(&mut out, role, true, opcode, rest);
        }
        if close {
            let payload = close_payload(CloseCode::NORMAL, "done");
            push(&mut out, role, true, OpCode::Close, &payload);
        }
        out
    })
}

fn sizes() -> impl Strategy<Value = Vec<usize>> {
    let size = prop_oneof![1usize..8, 1usize..200, 1usize..70_000];
    proptest::collection::vec(size, 1..6)
}

fn role() -> impl Strategy<Value = Role> {
    prop_oneof![Just(Role::Client), Just(Role::Server)]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]

    #[test]
    fn valid_streams_give_the_same_events_however_cut(
        (role, stream) in role().prop_flat_map(|role| (Just(role), stream(role))),
        sizes in sizes(),
    ) {
        let new = || Connection::new(role, 65536);
        let whole = feed_chunks(&mut new(), [&stream[..]]);
        prop_assert!(!whole.iter().any(|seen| matches!(seen, Seen::Error(_))));
        prop_assert!(!whole.is_empty());
        prop_assert_eq!(&feed_chunks(&mut new(), stream.chunks(1)), &whole);
        prop_assert_eq!(&feed_chunks(&mut new(), cut(&stream, &sizes)), &whole);
        prop_assert_eq!(&feed_direct(&mut new(), &stream, &sizes), &whole);
    }

    #[test]
    fn what_is_passed_on_in_parts_is_the_same_messages(
        (role, mut stream) in role().prop_flat_map(|role| (Just(role), stream(role))),
        spoils in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..3),
        sizes in sizes(),
        max in prop_oneof![Just(70_000usize), 0usize..70_000],
    ) {
        for (at, byte) in spoils {
            let at = at.index(stream.len());
            stream[at] = byte;
        }
        let new = || Connection::new(role, max);
        let whole = feed_chunks(&mut new(), [&stream[..]]);
        let is_message = |seen: &Seen| matches!(seen, Seen::Text(_) | Seen::Binary(_));
        let (messages, others): (Vec<_>, Vec<_>) = whole.into_iter().partition(is_message);
        for sizes in [&sizes[..], &[1], &[usize::MAX]] {
            let (passed, seen) = feed_relaying(&mut new(), &stream, sizes);
            prop_assert_eq!(&passed, &messages);
            prop_assert_eq!(&seen, &others);
        }
    }

    #[test]
    fn spoilt_streams_give_the_same_events_and_error_however_cut(
        mut stream in stream(Role::Server),
        spoils in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..4),
        sizes in sizes(),
        max in 0usize..70_000,
    ) {
        for (at, byte) in spoils {
            let at = at.index(stream.len());
            stream[at] = byte;
        }
        let new = || Connection::new(Role::Server, max);
        let whole = feed_chunks(&mut new(), [&stream[..]]);
        prop_assert_eq!(&feed_chunks(&mut new(), stream.chunks(1)), &whole);
        prop_assert_eq!(&feed_chunks(&mut new(), cut(&stream, &sizes)), &whole);
        prop_assert_eq!(&feed_direct(&mut new(), &stream, &sizes), &whole);
    }

    #[test]
    fn garbage_never_panics_nor_takes_memory(
        role in role(),
        garbage in proptest::collection::vec(any::<u8>(), 0..400),
        sizes in sizes(),
        max in 0usize..1000,
    ) {
        let mut connection = Connection::new(role, max);
        let mut out = Vec::new();
        for piece in cut(&garbage, &sizes) {
            if !feed(&mut connection, piece, &mut out) {
                break;
            }
            let bound = 64 + size_of::<Partial>() + 2 * (max + 125);
            prop_assert!(connection.buffered_bytes() <= bound);
        }
        feed_direct(&mut Connection::new(role, max), &garbage, &sizes);
    }

    #[test]
    fn memory_follows_what_was_received(stream in stream(Role::Server), sizes in sizes()) {
        let mut connection = Connection::new(Role::Server, 65536);
        let mut received = 0;
        let mut out = Vec::new();
        for piece in cut(&stream, &sizes) {
            feed(&mut connection, piece, &mut out);
            received += piece.len();
            let bound = 512 + received * 3 / 2 + AHEAD_BYTES_MAX;
            prop_assert!(connection.buffered_bytes() <= bound);
            prop_assert!(connection.buffered_bytes() <= 512 + 65536);
        }
    }
}
