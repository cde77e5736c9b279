//! A stream of frames, as a server's client or a client's server may send it: the same messages however
//! it is cut, whether they are assembled or handed out in parts, and the same as tungstenite reads.

mod oracle;

use tidegate::proto::ws::deflate::Inflation;
use tidegate::proto::ws::header::{push_frame, push_masked_frame};
use tidegate::proto::ws::{Connection, Event, Input, MessageKind, OpCode, Role, WsError};

use super::script::{Cut, Script, seed};

pub(super) fn run(input: &[u8]) {
    let mut script = Script::new(input);
    let options = script.byte();
    let role = if options & 1 == 0 {
        Role::Server
    } else {
        Role::Client
    };
    let deflates = options & 2 != 0;
    let limit = script.pick(LIMITS);
    let cut = Cut::Seeded(script.byte());
    let stream = script.rest();

    let plain = Way {
        deflates,
        ..Way::new(role, limit, Cut::Whole)
    };
    let whole = read(stream, &plain);
    for cut in [Cut::Bytes, cut] {
        for (relays, direct) in [(false, false), (false, true), (true, false), (true, true)] {
            let way = Way {
                cut,
                relays,
                direct,
                ..plain
            };
            let seen = read(stream, &way);
            assert_eq!(seen.events, whole.events, "{way:?}");
            assert_eq!(seen.error, whole.error, "{way:?}");
        }
    }
    let relayed = Way {
        relays: true,
        ..plain
    };
    let relayed = read(stream, &relayed);
    assert_eq!(relayed.events, whole.events, "relayed");
    assert_eq!(relayed.error, whole.error, "relayed");
    read_what_was_relayed(&relayed, limit);

    for event in &whole.events {
        check_limits(event, limit);
    }
    write_again(&whole.events, role);
    // tungstenite holds control frames against the message's limit too, and knows no compression.
    if limit >= 125 && !deflates {
        oracle::compare(stream, role, limit, &whole);
    }
}

/// How a stream is read.
#[derive(Clone, Copy, Debug)]
struct Way {
    role: Role,
    limit: usize,
    cut: Cut,
    /// Long messages come in parts.
    relays: bool,
    /// Payload is received into the message's own buffer where that is offered.
    direct: bool,
    /// permessage-deflate is agreed on, without context takeover.
    deflates: bool,
}

impl Way {
    const fn new(role: Role, limit: usize, cut: Cut) -> Self {
        Self {
            role,
            limit,
            cut,
            relays: false,
            direct: false,
            deflates: false,
        }
    }
}

/// What the peer said. Messages that came in parts are put together.
#[derive(Clone, Debug, PartialEq)]
enum Said {
    Message(MessageKind, Vec<u8>),
    Ping(Vec<u8>),
    Pong(Vec<u8>),
    Close(Option<u16>, String),
}

#[derive(Default)]
struct Seen {
    events: Vec<Said>,
    error: Option<WsError>,
    /// What a relay would have sent on, in frames of its own.
    relayed: Vec<u8>,
    limit: usize,
    inflation: Inflation,
    /// The parts of a message that is not whole.
    parts: Option<(MessageKind, Vec<u8>)>,
}

fn read(stream: &[u8], way: &Way) -> Seen {
    let mut connection = Connection::new(way.role, way.limit);
    connection.set_relaying(way.relays);
    connection.set_deflate(way.deflates);
    let mut seen = Seen {
        limit: way.limit,
        ..Seen::default()
    };
    let mut fed = 0;
    for piece in way.cut.pieces(stream) {
        let piece = if way.direct {
            match receive_directly(&mut connection, piece, &mut seen) {
                Ok(rest) => rest,
                Err(error) => {
                    seen.error = Some(error);
                    return seen;
                }
            }
        } else {
            piece
        };
        fed += piece.len();
        // Payloads are unmasked in place: a copy, of just this length, so that a tool that watches
        // memory sees every byte beyond it.
        let mut piece = piece.to_vec().into_boxed_slice();
        let mut input = Input::new(&mut piece);
        loop {
            match connection.poll_event(&mut input) {
                Ok(Some(event)) => {
                    if let Err(error) = seen.take(event) {
                        // The connection does not know of it: its owner ends it.
                        seen.error = Some(error);
                        return seen;
                    }
                }
                Ok(None) => break,
                Err(error) => {
                    seen.error = Some(error);
                    break;
                }
            }
        }
        if seen.error.is_some() {
            break;
        }
        assert!(input.is_empty(), "all of it is consumed");
        let held = connection.buffered_bytes();
        let most = if way.direct { 256 } else { 64 } << 10;
        let announced = way.limit.min(most + fed * 3 / 2);
        assert!(
            held <= announced + way.limit / 2 + PARTIAL_BYTES_MAX,
            "{held} bytes held after {fed}"
        );
    }
    if seen.error.is_some() {
        assert!(connection.is_closed());
        assert!(!connection.has_partial());
        assert_eq!(connection.buffered_bytes(), 0);
    }
    if connection.is_closed() {
        // RFC 6455 §5.5.1, §7.1.7: nothing that follows is looked at.
        let mut more = *b"\x81\x80maskmore";
        let mut input = Input::new(&mut more);
        assert!(matches!(connection.poll_event(&mut input), Ok(None)));
        assert!(input.is_empty());
    }
    seen
}

/// Gives the buffer of a message that is being read what belongs to it; gives the rest.
fn receive_directly<'p>(
    connection: &mut Connection,
    piece: &'p [u8],
    seen: &mut Seen,
) -> Result<&'p [u8], WsError> {
    let remaining = connection.frame_remaining();
    let Some(mut direct) = connection.take_direct() else {
        return Ok(piece);
    };
    assert_eq!(direct.remaining, remaining);
    let (own, rest) = piece.split_at(piece.len().min(remaining));
    direct.buf.extend_from_slice(own);
    if let Some(event) = connection.handle_direct(direct)? {
        seen.take(event)?;
    }
    Ok(rest)
}

impl Seen {
    fn take(&mut self, event: Event<'_>) -> Result<(), WsError> {
        match event {
            Event::Message(message) => self.take_message(message.kind(), message.payload()),
            Event::Compressed(compressed) => {
                let mut inflation = std::mem::take(&mut self.inflation);
                let message = inflation.inflate(&compressed, None, self.limit)?;
                self.take_message(message.kind(), message.payload());
                self.inflation = inflation;
            }
            Event::Part(part) => {
                let (is_first, is_last) = (part.is_first(), part.is_last());
                assert!(is_last || !part.payload().is_empty());
                let kind = match part.opcode() {
                    OpCode::Text => Some(MessageKind::Text),
                    OpCode::Binary => Some(MessageKind::Binary),
                    _ => None,
                };
                assert_eq!(is_first, kind.is_some());
                assert_eq!(is_first, self.parts.is_none());
                let (_, payload) = self
                    .parts
                    .get_or_insert_with(|| (kind.expect("the first says it"), Vec::new()));
                payload.extend_from_slice(part.payload());
                let expected = frame_of_part(&part);
                match part.into_frame() {
                    Ok(frame) => {
                        assert_eq!(frame, expected);
                        self.relayed.extend_from_slice(frame);
                    }
                    // There was no room in front of it.
                    Err(part) => self.relayed.extend_from_slice(&frame_of_part(&part)),
                }
                if is_last && let Some((kind, payload)) = self.parts.take() {
                    self.events.push(Said::Message(kind, payload));
                }
            }
            Event::Ping(payload) => self.events.push(Said::Ping(payload.to_vec())),
            Event::Pong(payload) => self.events.push(Said::Pong(payload.to_vec())),
            Event::Close(frame) => {
                let code = frame.code.map(|code| code.0);
                let said = Said::Close(code, frame.reason.to_owned());
                self.events.push(said);
            }
        }
        Ok(())
    }

    fn take_message(&mut self, kind: MessageKind, payload: &[u8]) {
        assert!(self.parts.is_none(), "a message within another");
        if kind == MessageKind::Text {
            assert!(std::str::from_utf8(payload).is_ok());
        }
        push_frame(&mut self.relayed, kind.opcode(), payload);
        self.events.push(Said::Message(kind, payload.to_vec()));
    }
}

fn frame_of_part(part: &tidegate::proto::ws::Part<'_>) -> Vec<u8> {
    let (header, len) = part.header();
    [&header[..len], part.payload()].concat()
}

fn check_limits(event: &Said, limit: usize) {
    match event {
        Said::Message(_, payload) => assert!(payload.len() <= limit),
        Said::Ping(payload) | Said::Pong(payload) => assert!(payload.len() <= 125),
        Said::Close(code, reason) => {
            assert!(reason.len() <= 123 && (code.is_some() || reason.is_empty()));
        }
    }
}

/// What a relay sends on is sound, and means the same.
fn read_what_was_relayed(relayed: &Seen, limit: usize) {
    let way = Way::new(Role::Client, limit, Cut::Whole);
    let again = read(&relayed.relayed, &way);
    assert_eq!(again.error, None);
    let messages = relayed
        .events
        .iter()
        .filter(|said| matches!(said, Said::Message(..)));
    assert!(messages.eq(&again.events));
}

/// What was read, written by the other end, is read as the same.
fn write_again(events: &[Said], role: Role) {
    let mut stream = Vec::new();
    for event in events {
        let mut close = Vec::new();
        let (opcode, payload) = match event {
            Said::Message(kind, payload) => (kind.opcode(), payload),
            Said::Ping(payload) => (OpCode::Ping, payload),
            Said::Pong(payload) => (OpCode::Pong, payload),
            Said::Close(code, reason) => {
                if let Some(code) = code {
                    close.extend_from_slice(&code.to_be_bytes());
                    close.extend_from_slice(reason.as_bytes());
                }
                (OpCode::Close, &close)
            }
        };
        match role {
            Role::Server => push_masked_frame(&mut stream, opcode, payload, MASK),
            Role::Client => push_frame(&mut stream, opcode, payload),
        }
    }
    let again = read(&stream, &Way::new(role, 1 << 20, Cut::Whole));
    assert_eq!(again.error, None);
    assert_eq!(again.events, events);
}

const MASK: [u8; 4] = [0x81, 0x00, 0x7E, 0xFF];

/// Bytes that a message may have. The relay hands out parts from 4 KiB on.
const LIMITS: &[usize] = &[1 << 17, 65536, 0, 1, 125, 126, 5000, 65535];

/// What is held beside the message: the state itself, a control frame's payload, a header's room.
const PARTIAL_BYTES_MAX: usize = 1024;

pub(super) fn seeds() -> Vec<Vec<u8>> {
    let mut seeds = Vec::new();
    let mut with = |options: u8, stream: &[u8]| seeds.push(seed(&[options, 0, 5], stream));
    for (opcode, payload) in [
        (OpCode::Text, "hello, ü and 🌊".as_bytes()),
        (OpCode::Binary, &[0xA5; 200][..]),
        (OpCode::Ping, b"ping"),
        (OpCode::Pong, b""),
        (OpCode::Close, b"\x03\xe8done"),
        (OpCode::Close, b""),
        (OpCode::Text, b"\xed\xa0\x80"),
    ] {
        let mut stream = Vec::new();
        push_masked_frame(&mut stream, opcode, payload, MASK);
        with(0, &stream);
        stream.clear();
        push_frame(&mut stream, opcode, payload);
        with(1, &stream);
    }
    // Fragments with a ping between them, and a character cut by the end of the first.
    with(1, b"\x01\x04ab\xc3\xbc\x89\x01p\x00\x01\xc3\x80\x02\xbc!");
    // Reserved bits and opcodes, a masked frame from a server, a long control frame.
    for stream in [
        &b"\xc1\x01a"[..],
        b"\x83\x00",
        b"\x8b\x00",
        b"\x81\x81abcde",
        b"\x89\x7e\x00\x7e",
        b"\x09\x00",
        b"\x80\x00",
        b"\x01\x01a\x81\x01b",
        b"\x82\x7e\x00\x01x",
        b"\x82\x7f\x80\0\0\0\0\0\0\0",
        b"\x82\x7f\0\0\0\0\x7f\xff\xff\xff",
        b"\x88\x02\x03\xed",
        b"\x88\x01x",
    ] {
        with(1, stream);
    }
    // Long enough to be relayed: whole, in fragments, and text that goes wrong late.
    let mut long = Vec::new();
    push_frame(&mut long, OpCode::Binary, &[7; 4200]);
    with(1, &long);
    with(1, &[&long[..], b"\x81\x01x"].concat());
    long[0] = 0x02;
    with(1, &[&long[..], b"\x89\x00\x80\x03end"].concat());
    let mut text = Vec::new();
    push_frame(&mut text, OpCode::Text, &[b'x'; 4200]);
    *text.last_mut().expect("it is not empty") = 0xFF;
    with(1, &text);
    // Compressed: whole, in fragments with a ping between them, where nothing was agreed on, and wrong.
    for options in [3, 1] {
        for stream in [
            &b"\xc1\x07\xf2\x48\xcd\xc9\xc9\x07\x00"[..],
            b"\x41\x03\xf2\x48\xcd\x89\x00\x80\x04\xc9\xc9\x07\x00",
            b"\xc2\x02\xf2\x48\x81\x01x",
            b"\x01\x01a\xc0\x01b",
            b"\xc9\x00",
            b"\xc1\x00\xc2\x01\x00",
        ] {
            seeds.push(seed(&[options, 0, 5], stream));
        }
    }
    for (at, _) in LIMITS.iter().enumerate() {
        seeds.push(seed(&[1, at as u8, 9], b"\x01\x7e\x00\x80"));
    }
    seeds
}
