//! RFC 6455 after the handshake: headers, masking, UTF-8, frames read whole and in pieces, frames
//! written.
//!
//! The frames that are read have a masking key of zero: the work is the same, and the payload,
//! unmasked in place, is still what it was at the next call.

use std::hint::black_box;

use tidegate::proto::ws::{
    Connection, Event, Input, MessageBuf, OpCode, Role,
    header::{self, HEADER_BYTES_MAX},
    mask::apply_mask,
    utf8::{self, Utf8Validator},
};

use super::{Call, Case, case};

pub(super) const CASES: &[Case] = &[
    case("header/read-7-bit", 64, |n| read_headers(n, 20)),
    case("header/read-16-bit", 64, |n| read_headers(n, 1000)),
    case("header/read-64-bit", 64, |n| read_headers(n, 1 << 20)),
    case("header/write", 64, write_headers),
    case("mask/20", 64, |n| mask(n, 20, 0)),
    case("mask/125-unaligned", 64, |n| mask(n, 125, 3)),
    case("mask/1k", 16, |n| mask(n, 1 << 10, 0)),
    case("mask/1k-unaligned", 16, |n| mask(n, 1 << 10, 1)),
    case("mask/64k", 1, |n| mask(n, 64 << 10, 0)),
    case("utf8/ascii-20", 64, |n| validate(n, "hello, ", 20)),
    case("utf8/ascii-1k", 16, |n| validate(n, "hello, ", 1 << 10)),
    case("utf8/two-byte-1k", 16, |n| validate(n, "привет", 1 << 10)),
    case("utf8/three-byte-1k", 16, |n| validate(n, "你好", 1 << 10)),
    case("utf8/four-byte-60", 64, |n| validate(n, "👋🌊", 60)),
    case("utf8/in-pieces-1k", 4, |n| {
        validate_in_pieces(n, 1 << 10, 100)
    }),
    case("frame/text-20", 64, |n| read(n, OpCode::Text, 20, WHOLE)),
    case("frame/text-1k", 16, |n| {
        read(n, OpCode::Text, 1 << 10, WHOLE)
    }),
    case("frame/binary-16k", 4, |n| {
        read(n, OpCode::Binary, 16 << 10, WHOLE)
    }),
    case("frame/ping-8", 64, |n| read(n, OpCode::Ping, 8, WHOLE)),
    case("frame/text-20-cut", 64, |n| read(n, OpCode::Text, 20, 13)),
    case("frame/text-1k-cut", 16, |n| {
        read(n, OpCode::Text, 1 << 10, 700)
    }),
    case("frame/text-125-bytewise", 4, |n| {
        read(n, OpCode::Text, 125, 1)
    }),
    case("frame/four-fragments-1k", 16, read_fragments),
    case("frame/received-into-256k", 1, receive_into),
    case("frame/write-20", 64, |n| write(n, 20)),
    case("frame/write-1k", 16, |n| write(n, 1 << 10)),
    case("frame/write-masked-1k", 16, write_masked),
    case("frame/write-in-place-1k", 16, write_in_place),
];

/// An input that holds every frame of a call.
const WHOLE: usize = usize::MAX;

fn read_headers(n: u32, payload_len: u64) -> Call {
    let mut bytes = [0; HEADER_BYTES_MAX];
    let key = Some([1, 2, 3, 4]);
    let len = header::encode(true, OpCode::Text, payload_len, key, &mut bytes);
    Box::new(move || {
        for _ in 0..n {
            let decoded = header::decode(black_box(&bytes[..len]));
            black_box(decoded).expect("the header is right");
        }
    })
}

fn write_headers(n: u32) -> Call {
    Box::new(move || {
        let mut bytes = [0; HEADER_BYTES_MAX];
        for i in 0..n as usize {
            let payload_len = black_box([20, 125, 1000, 100_000][i % 4]);
            let len = header::encode(true, OpCode::Text, payload_len, None, &mut bytes);
            black_box((len, &mut bytes));
        }
    })
}

/// Masks a payload that lies `offset` bytes behind an aligned address, and begins as far in its
/// mask.
fn mask(n: u32, len: usize, offset: usize) -> Call {
    let mut buffer = Box::new(Aligned([0x55; ALIGNED_BYTES]));
    Box::new(move || {
        for _ in 0..n {
            let bytes = &mut buffer.0[offset..offset + len];
            apply_mask(black_box(bytes), black_box([1, 2, 3, 4]), offset);
        }
        black_box(&mut buffer);
    })
}

/// So that not the allocator decides how a payload is aligned.
#[repr(align(64))]
struct Aligned([u8; ALIGNED_BYTES]);

const ALIGNED_BYTES: usize = (64 << 10) + 64;

fn validate(n: u32, unit: &str, len: usize) -> Call {
    let text = text(unit, len);
    Box::new(move || {
        for _ in 0..n {
            utf8::validate(black_box(&text)).expect("the text is right");
        }
    })
}

/// In pieces that cut characters.
fn validate_in_pieces(n: u32, len: usize, piece: usize) -> Call {
    let text = text("a你好👋", len);
    Box::new(move || {
        for _ in 0..n {
            let mut validator = Utf8Validator::new();
            for piece in black_box(&text).chunks(piece) {
                validator.push(piece).expect("the text is right");
            }
            validator.finish().expect("the text is whole");
        }
    })
}

/// As much of `unit` again and again as fits into `len` bytes, filled up with spaces.
fn text(unit: &str, len: usize) -> Vec<u8> {
    let mut text = unit.repeat(len / unit.len());
    while text.len() < len {
        text.push(' ');
    }
    text.into_bytes()
}

/// Reads `n` frames, `piece` bytes of input at a time.
fn read(n: u32, opcode: OpCode, payload_len: usize, piece: usize) -> Call {
    let payload = text("hello, ", payload_len);
    let mut input = Vec::new();
    for _ in 0..n {
        header::push_masked_frame(&mut input, opcode, &payload, [0; 4]);
    }
    read_input(input, piece)
}

/// Messages of four fragments of 256 bytes each.
fn read_fragments(n: u32) -> Call {
    let payload = text("hello, ", 256);
    let mut input = Vec::new();
    for _ in 0..n {
        for part in 0..4 {
            let opcode = match part {
                0 => OpCode::Text,
                _ => OpCode::Continuation,
            };
            let mut bytes = [0; HEADER_BYTES_MAX];
            let len = payload.len() as u64;
            let header = header::encode(part == 3, opcode, len, Some([0; 4]), &mut bytes);
            input.extend_from_slice(&bytes[..header]);
            input.extend_from_slice(&payload);
        }
    }
    read_input(input, WHOLE)
}

fn read_input(mut input: Vec<u8>, piece: usize) -> Call {
    let mut connection = Connection::new(Role::Server, 1 << 20);
    let piece = piece.min(input.len());
    Box::new(move || {
        for piece in black_box(&mut input).chunks_mut(piece) {
            let mut piece = Input::new(piece);
            while let Some(event) = connection.poll_event(&mut piece).expect("frames are right") {
                match event {
                    Event::Message(message) => black_box(message.payload()),
                    Event::Ping(payload) => black_box(payload),
                    other => panic!("{other:?}"),
                };
            }
        }
    })
}

/// One long message, received into its own buffer 64 KiB at a time.
///
/// A kernel would write there; here it is filled 1 KiB at a time, since callgrind counts an
/// instruction for each byte of a longer copy.
fn receive_into(n: u32) -> Call {
    const LEN: usize = 256 << 10;
    let mut connection = Connection::new(Role::Server, LEN);
    let received = [0x55; 1 << 10];
    let mut bytes = [0; HEADER_BYTES_MAX];
    let header = header::encode(true, OpCode::Binary, LEN as u64, Some([0; 4]), &mut bytes);
    Box::new(move || {
        for _ in 0..n {
            let mut input = Input::new(&mut bytes[..header]);
            let event = connection.poll_event(&mut input).expect("frames are right");
            assert!(event.is_none(), "the payload is still to come");
            while let Some(mut direct) = connection.take_direct() {
                let room = direct.buf.capacity() - direct.buf.len();
                let taken = room.min(direct.remaining).min(64 << 10);
                for piece in black_box([&received; 64]).iter().take(taken >> 10) {
                    direct.buf.extend_from_slice(*piece);
                }
                let event = connection.handle_direct(direct).expect("frames are right");
                black_box(event);
            }
        }
    })
}

fn write(n: u32, len: usize) -> Call {
    let payload = text("hello, ", len);
    let mut out = Vec::new();
    Box::new(move || {
        out.clear();
        for _ in 0..n {
            header::push_frame(&mut out, OpCode::Text, black_box(&payload));
        }
        black_box(&mut out);
    })
}

/// As a client, towards an upstream.
fn write_masked(n: u32) -> Call {
    let payload = text("hello, ", 1 << 10);
    let mut out = Vec::new();
    Box::new(move || {
        out.clear();
        for _ in 0..n {
            let payload = black_box(&payload);
            header::push_masked_frame(&mut out, OpCode::Text, payload, [1, 2, 3, 4]);
        }
        black_box(&mut out);
    })
}

/// The header right before a payload that has come in a buffer of its own.
fn write_in_place(n: u32) -> Call {
    let payload = text("hello, ", 1 << 10);
    Box::new(move || {
        for _ in 0..n {
            let mut message = MessageBuf::new();
            message.extend_from_slice(black_box(&payload));
            black_box(message.into_frame(OpCode::Text));
        }
    })
}
