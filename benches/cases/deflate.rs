//! RFC 7692: offers answered, messages compressed and decompressed.

use std::hint::black_box;

use tidegate::proto::{
    handshake::read_extensions,
    ws::{
        Connection, Event, Input, OpCode, Role,
        deflate::{Agreed, Compression, Inflation, Policy, Settings, Takeover, negotiate},
    },
};

use super::{Call, Case, case};

pub(super) const CASES: &[Case] = &[
    case("deflate/negotiate", 64, agree),
    case("deflate/compress-1k", 4, |n| compress(n, 1 << 10, false)),
    case("deflate/compress-4k", 4, |n| compress(n, 4 << 10, false)),
    case("deflate/compress-64k", 1, |n| compress(n, 64 << 10, false)),
    case("deflate/compress-1k-kept", 16, |n| {
        compress(n, 1 << 10, true)
    }),
    case("deflate/inflate-1k", 4, |n| inflate(n, 1 << 10)),
    case("deflate/inflate-4k", 4, |n| inflate(n, 4 << 10)),
    case("deflate/inflate-64k", 1, |n| inflate(n, 64 << 10)),
];

/// As by default.
const SETTINGS: Settings = Settings {
    level: 6,
    window_bits: 15,
    mem_level: 8,
};

/// What a browser offers, and what it is answered.
fn agree(n: u32) -> Call {
    let policy = Policy {
        window_bits: 15,
        server_context_takeover: false,
        client_context_takeover: false,
    };
    Box::new(move || {
        for _ in 0..n {
            let offer = black_box("permessage-deflate; client_max_window_bits");
            let extensions = read_extensions([offer.as_bytes()].into_iter());
            let extensions = extensions.expect("the offer is right");
            let agreed = negotiate(&extensions, &policy).expect("it can be met");
            black_box(agreed.to_value());
        }
    })
}

/// JSON as dashboards send it: the same names, other numbers.
fn json(len: usize) -> Vec<u8> {
    let mut text = String::from("[");
    let mut n = 1u32;
    while text.len() < len {
        n = n.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        let (id, price, size) = (n >> 20, n >> 12 & 0xFFFF, n & 0xFF);
        text.push_str(&format!(
            r#"{{"id":{id},"symbol":"TIDE","price":{price},"size":{size},"side":"buy"}},"#
        ));
    }
    text.truncate(len);
    text.into_bytes()
}

fn compress(n: u32, len: usize, is_kept: bool) -> Call {
    let payload = json(len);
    let mut compression = Compression::new(SETTINGS);
    let mut kept = is_kept
        .then(|| Takeover::new(&Agreed::default(), SETTINGS))
        .flatten();
    let mut out = Vec::new();
    Box::new(move || {
        compression.allow(usize::MAX);
        out.clear();
        for _ in 0..n {
            let message = (OpCode::Text, black_box(&payload[..]));
            let is_smaller = compression.push_message(&mut out, message, None, 15, kept.as_mut());
            assert!(is_smaller, "JSON becomes smaller");
        }
        black_box(&mut out);
    })
}

/// A client's frame, read, decompressed and checked. The masking key is zero, so that the frame is
/// the same at the next call.
fn inflate(n: u32, len: usize) -> Call {
    let mut frame = Vec::new();
    let mut compression = Compression::new(SETTINGS);
    compression.allow(usize::MAX);
    let payload = json(len);
    compression.push_message(&mut frame, (OpCode::Text, &payload), Some([0; 4]), 15, None);
    let mut connection = Connection::new(Role::Server, 1 << 20);
    connection.set_deflate(true);
    let mut inflation = Inflation::new();
    Box::new(move || {
        for _ in 0..n {
            let mut input = Input::new(black_box(&mut frame));
            let event = connection
                .poll_event(&mut input)
                .expect("the frame is right");
            let Some(Event::Compressed(compressed)) = event else {
                panic!("a compressed message");
            };
            let message = inflation.inflate(&compressed, None, 1 << 20);
            black_box(message.expect("it is what was compressed").payload());
        }
    })
}
