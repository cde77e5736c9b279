//! The WebSocket state machine against tungstenite, which this project did not write.
//!
//! Both are fed the same bytes. Where tungstenite accepts a stream, the events must be the same;
//! where they differ on purpose, [`DIVERGENCES`] says so and a test shows that they still do.

use std::io::{self, Read, Write};

use proptest::prelude::*;
use tidegate::proto::ws::header::{HEADER_BYTES_MAX, encode};
use tidegate::proto::ws::mask::apply_mask;
use tidegate::proto::ws::{Connection, Event, Input, MessageKind, OpCode, Role, WsError};
use tungstenite::protocol::{WebSocket, WebSocketConfig};
use tungstenite::{Message, protocol};

/// What either side made of a stream, in its order.
#[derive(Debug, Clone, PartialEq)]
enum Seen {
    Text(Vec<u8>),
    Binary(Vec<u8>),
    Ping(Vec<u8>),
    Pong(Vec<u8>),
    Close(Option<u16>, String),
}

/// How a stream ended.
#[derive(Debug, Clone, PartialEq)]
enum End {
    /// Everything was read, up to the last byte or to a Close frame.
    Accepted,
    /// The stream was refused, for the reason given.
    Refused(String),
}

/// A stream on which the two differ on purpose.
struct Divergence {
    what: &'static str,
    why: &'static str,
    stream: &'static [u8],
    /// `None`: accepted here.
    ours: Option<WsError>,
    tungstenite_accepts: bool,
}

const DIVERGENCES: &[Divergence] = &[
    Divergence {
        what: "a length of 16 bits that 7 can say",
        why: "§5.2: the minimal number of bytes MUST be used",
        stream: b"\x82\xfe\x00\x01\0\0\0\0x",
        ours: Some(WsError::NonMinimalLength),
        tungstenite_accepts: true,
    },
    Divergence {
        what: "a length of 64 bits that 7 can say",
        why: "§5.2: the minimal number of bytes MUST be used",
        stream: b"\x82\xff\0\0\0\0\0\0\0\x01\0\0\0\0x",
        ours: Some(WsError::NonMinimalLength),
        tungstenite_accepts: true,
    },
    Divergence {
        what: "a close code that no one may send",
        why: "§7.4.1: 1005 is not for the wire; tungstenite hands out 1002 in its place",
        stream: b"\x88\x82\0\0\0\0\x03\xed",
        ours: Some(WsError::InvalidCloseCode { code: 1005 }),
        tungstenite_accepts: true,
    },
    Divergence {
        what: "a close code above 4999",
        why: "§7.4.2 ends the ranges at 4999; tungstenite hands out 1002 in its place",
        stream: b"\x88\x82\0\0\0\0\x13\x88",
        ours: Some(WsError::InvalidCloseCode { code: 5000 }),
        tungstenite_accepts: true,
    },
    Divergence {
        what: "a frame cut right after its first bad byte of text",
        why: "§8.1 is enforced as the bytes come, not when the frame is whole",
        stream: b"\x81\x84\0\0\0\0a\xed\xa0",
        ours: Some(WsError::InvalidUtf8 { offset: 2 }),
        tungstenite_accepts: true,
    },
    Divergence {
        what: "a header cut right after its first bad byte",
        why: "a breach is answered by the byte that decides it",
        stream: b"\xc1",
        ours: Some(WsError::ReservedBits),
        tungstenite_accepts: true,
    },
];

const MESSAGE_BYTES_MAX: usize = 1 << 17;

/// Runs our state machine over the stream in pieces of `size` bytes.
fn ours(stream: &[u8], size: usize) -> (Vec<Seen>, Option<WsError>) {
    let mut connection = Connection::new(Role::Server, MESSAGE_BYTES_MAX);
    let mut out = Vec::new();
    for piece in stream.chunks(size.max(1)) {
        let mut piece = piece.to_vec();
        let mut input = Input::new(&mut piece);
        loop {
            match connection.poll_event(&mut input) {
                Ok(None) => break,
                Err(error) => return (out, Some(error)),
                Ok(Some(event @ (Event::Part(_) | Event::Compressed(_)))) => {
                    panic!("{event:?}: it does not relay, and nothing was agreed on")
                }
                Ok(Some(Event::Message(message))) => {
                    let payload = message.payload().to_vec();
                    out.push(match message.kind() {
                        MessageKind::Text => Seen::Text(payload),
                        MessageKind::Binary => Seen::Binary(payload),
                    });
                }
                Ok(Some(Event::Ping(payload))) => out.push(Seen::Ping(payload.to_vec())),
                Ok(Some(Event::Pong(payload))) => out.push(Seen::Pong(payload.to_vec())),
                Ok(Some(Event::Close(frame))) => {
                    let code = frame.code.map(|code| code.0);
                    out.push(Seen::Close(code, frame.reason.to_string()));
                }
            }
        }
    }
    (out, None)
}

/// A socket whose peer sent `input` and then keeps silent; what is written to it is lost.
struct Silent<'a> {
    input: &'a [u8],
}

impl Read for Silent<'_> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        if self.input.is_empty() {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        self.input.read(buf)
    }
}

impl Write for Silent<'_> {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        Ok(buf.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Runs tungstenite over the stream.
fn theirs(stream: &[u8]) -> (Vec<Seen>, End) {
    let config = WebSocketConfig::default()
        .max_message_size(Some(MESSAGE_BYTES_MAX))
        .max_frame_size(Some(MESSAGE_BYTES_MAX));
    let socket = Silent { input: stream };
    let mut socket = WebSocket::from_raw_socket(socket, protocol::Role::Server, Some(config));
    let mut out = Vec::new();
    loop {
        match socket.read() {
            Ok(Message::Text(text)) => out.push(Seen::Text(text.as_bytes().to_vec())),
            Ok(Message::Binary(bytes)) => out.push(Seen::Binary(bytes.to_vec())),
            Ok(Message::Ping(bytes)) => out.push(Seen::Ping(bytes.to_vec())),
            Ok(Message::Pong(bytes)) => out.push(Seen::Pong(bytes.to_vec())),
            Ok(Message::Close(frame)) => {
                let code = frame.as_ref().map(|frame| frame.code.into());
                let reason = frame.map_or(String::new(), |frame| frame.reason.to_string());
                out.push(Seen::Close(code, reason));
                return (out, End::Accepted);
            }
            Ok(Message::Frame(_)) => unreachable!("reading never gives a raw frame"),
            Err(tungstenite::Error::Io(error)) if error.kind() == io::ErrorKind::WouldBlock => {
                return (out, End::Accepted);
            }
            Err(error) => return (out, End::Refused(error.to_string())),
        }
    }
}

/// One frame to send, as it would be valid, and how it is spoilt.
#[derive(Debug, Clone)]
struct Sent {
    fin: bool,
    opcode: OpCode,
    payload: Vec<u8>,
}

fn write(frames: &[Sent]) -> Vec<u8> {
    let mut out = Vec::new();
    for frame in frames {
        let key = [0xA5, 0x00, out.len() as u8, 0x7F];
        let mut header = [0; HEADER_BYTES_MAX];
        let len = frame.payload.len() as u64;
        let header_len = encode(frame.fin, frame.opcode, len, Some(key), &mut header);
        out.extend_from_slice(&header[..header_len]);
        let start = out.len();
        out.extend_from_slice(&frame.payload);
        apply_mask(&mut out[start..], key, 0);
    }
    out
}

fn payload() -> impl Strategy<Value = Vec<u8>> {
    let text = proptest::collection::vec(any::<char>(), 0..20)
        .prop_map(|chars| chars.into_iter().collect::<String>().into_bytes());
    let sized = prop_oneof![
        Just(125usize),
        Just(126),
        Just(127),
        Just(65535),
        Just(65536)
    ];
    prop_oneof![
        6 => text,
        1 => sized.prop_map(|len| vec![b'x'; len]),
        1 => proptest::collection::vec(any::<u8>(), 0..30),
    ]
}

fn control() -> impl Strategy<Value = Sent> {
    let opcode = prop_oneof![Just(OpCode::Ping), Just(OpCode::Pong)];
    let payload = proptest::collection::vec(any::<u8>(), 0..=125);
    (opcode, payload).prop_map(|(opcode, payload)| Sent {
        fin: true,
        opcode,
        payload,
    })
}

/// The frames of one message, with control frames in between.
fn message() -> impl Strategy<Value = Vec<Sent>> {
    let piece = (any::<prop::sample::Index>(), prop::option::of(control()));
    let pieces = proptest::collection::vec(piece, 0..4);
    (any::<bool>(), payload(), pieces).prop_map(|(is_text, payload, pieces)| {
        let mut opcode = if is_text {
            OpCode::Text
        } else {
            OpCode::Binary
        };
        let mut rest = &payload[..];
        let mut out = Vec::new();
        for (at, control) in pieces {
            let (head, tail) = rest.split_at(at.index(rest.len() + 1));
            out.push(Sent {
                fin: false,
                opcode,
                payload: head.to_vec(),
            });
            out.extend(control);
            (rest, opcode) = (tail, OpCode::Continuation);
        }
        out.push(Sent {
            fin: true,
            opcode,
            payload: rest.to_vec(),
        });
        out
    })
}

fn close() -> impl Strategy<Value = Sent> {
    let code = prop_oneof![
        Just(1000u16),
        Just(1001),
        Just(1003),
        Just(1007),
        Just(1011),
        Just(1012),
        3000u16..5000,
    ];
    let reason = proptest::collection::vec(any::<char>(), 0..20);
    prop::option::of((code, reason)).prop_map(|body| Sent {
        fin: true,
        opcode: OpCode::Close,
        payload: body.map_or(Vec::new(), |(code, reason)| {
            let reason: String = reason.into_iter().collect();
            [&code.to_be_bytes(), reason.as_bytes()].concat()
        }),
    })
}

fn frames() -> impl Strategy<Value = Vec<Sent>> {
    (
        proptest::collection::vec(message(), 1..5),
        prop::option::of(close()),
    )
        .prop_map(|(messages, close)| {
            let mut out = messages.concat();
            out.extend(close);
            out
        })
}

/// Whether our error is one that tungstenite does not raise on the same stream.
fn is_known_divergence(error: &WsError, stream: &[u8]) -> bool {
    match error {
        // tungstenite takes longer lengths than needed, and turns such codes into 1002.
        WsError::NonMinimalLength | WsError::InvalidCloseCode { .. } => true,
        // Both refuse these, unless the stream ends before tungstenite looks: then more bytes,
        // whatever they are, make it refuse as well.
        _ => {
            let mut longer = stream.to_vec();
            longer.resize(stream.len() + MESSAGE_BYTES_MAX + HEADER_BYTES_MAX, 0);
            matches!(theirs(&longer).1, End::Refused(_))
        }
    }
}

/// The two agree on the stream, or differ in a known way.
fn compare(stream: &[u8], size: usize) -> Result<(), TestCaseError> {
    let (our_events, our_error) = ours(stream, size);
    let (their_events, end) = theirs(stream);
    match (&our_error, &end) {
        (None, End::Accepted) => prop_assert_eq!(our_events, their_events),
        (None, End::Refused(why)) => {
            prop_assert!(false, "tungstenite refuses what is accepted here: {}", why);
        }
        (Some(error), _) => {
            let known = matches!(end, End::Refused(_)) || is_known_divergence(error, stream);
            prop_assert!(known, "tungstenite accepts what is refused here: {}", error);
            // Up to the error the two saw the same.
            let common = our_events.len().min(their_events.len());
            prop_assert_eq!(&our_events[..common], &their_events[..common]);
        }
    }
    Ok(())
}

#[test]
fn known_divergences_still_diverge() {
    for known in DIVERGENCES {
        let (_, our_error) = ours(known.stream, usize::MAX);
        assert_eq!(our_error, known.ours, "{}: {}", known.what, known.why);
        let (_, end) = theirs(known.stream);
        let accepted = end == End::Accepted;
        assert_eq!(
            accepted, known.tungstenite_accepts,
            "{}: {end:?}",
            known.what
        );
        assert_ne!(
            our_error.is_none(),
            accepted,
            "{} no longer diverges",
            known.what
        );
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    #[test]
    fn valid_frames_mean_the_same_to_both(frames in frames(), size in 1usize..5000) {
        let stream = write(&frames);
        compare(&stream, usize::MAX)?;
        compare(&stream, size)?;
    }

    #[test]
    fn spoilt_headers_and_payloads_mean_the_same_to_both(
        frames in frames(),
        spoils in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..4),
        size in 1usize..5000,
    ) {
        let mut stream = write(&frames);
        for (at, byte) in spoils {
            let at = at.index(stream.len().min(400));
            stream[at] = byte;
        }
        compare(&stream, size)?;
    }

    #[test]
    fn frames_out_of_order_mean_the_same_to_both(
        frames in frames(),
        at in any::<prop::sample::Index>(),
        change in 0..5,
    ) {
        let mut frames = frames;
        let at = at.index(frames.len());
        match change {
            0 => frames[at].fin = !frames[at].fin,
            1 => frames[at].opcode = OpCode::Continuation,
            2 => frames[at].opcode = OpCode::Text,
            3 => frames[at].opcode = OpCode::Close,
            _ => drop(frames.remove(at)),
        }
        // Such a header has no encoding; a control frame's length is spoilt elsewhere.
        frames.retain(|f| !f.opcode.is_control() || f.payload.len() <= 125);
        compare(&write(&frames), usize::MAX)?;
    }
}
