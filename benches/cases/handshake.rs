//! The opening handshake: request heads, targets, the accept key, the answer.

use std::hint::black_box;

use tidegate::proto::{
    handshake::{Upgrade, accept_key, write_switching_protocols},
    http1::{HeadLimits, HeadReader, path_segments, query_pairs, split_target},
};

use super::{Call, Case, case};

pub(super) const CASES: &[Case] = &[
    case("handshake/head", 16, |n| read_head(n, HEAD.len())),
    case("handshake/head-in-pieces", 16, |n| read_head(n, 200)),
    case("handshake/target", 64, read_target),
    case("handshake/accept-key", 64, accept),
    case("handshake/whole", 16, whole),
];

/// What a browser sends.
const HEAD: &str = "GET /ws?user=alice HTTP/1.1\r\n\
    Host: gateway.example.com\r\n\
    Connection: Upgrade\r\n\
    Pragma: no-cache\r\n\
    Cache-Control: no-cache\r\n\
    User-Agent: Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) \
    Chrome/142.0.0.0 Safari/537.36\r\n\
    Upgrade: websocket\r\n\
    Origin: https://app.example.com\r\n\
    Sec-WebSocket-Version: 13\r\n\
    Accept-Encoding: gzip, deflate, br, zstd\r\n\
    Accept-Language: en-GB,en;q=0.9\r\n\
    Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\
    Sec-WebSocket-Extensions: permessage-deflate; client_max_window_bits\r\n\
    Sec-WebSocket-Protocol: chat, tidegate.v1.json\r\n\
    \r\n";

fn read_head(n: u32, piece: usize) -> Call {
    let limits = HeadLimits::default();
    Box::new(move || {
        for _ in 0..n {
            let mut reader = HeadReader::new();
            let mut heads = 0;
            for piece in black_box(HEAD).as_bytes().chunks(piece) {
                let head = reader.handle_input(piece, &limits);
                heads += u32::from(black_box(head.expect("the head is right")).is_some());
            }
            assert_eq!(heads, 1, "the head is whole");
        }
    })
}

fn read_target(n: u32) -> Call {
    let target = "/ws/lobby%20two?user=alice&token=eyJhbGciOiJFUzI1NiJ9.e30.c2ln&note=a%2Bb";
    Box::new(move || {
        for _ in 0..n {
            let target = split_target(black_box(target)).expect("the target is right");
            black_box(path_segments(target.path).expect("the path is right"));
            for pair in query_pairs(target.query.unwrap_or_default()) {
                black_box(pair.expect("the query is right"));
            }
        }
    })
}

fn accept(n: u32) -> Call {
    Box::new(move || {
        for _ in 0..n {
            black_box(accept_key(black_box("dGhlIHNhbXBsZSBub25jZQ==")));
        }
    })
}

/// From the head's bytes to the answer's.
fn whole(n: u32) -> Call {
    let limits = HeadLimits::default();
    let mut out = Vec::new();
    Box::new(move || {
        for _ in 0..n {
            let mut reader = HeadReader::new();
            let read = reader.handle_input(black_box(HEAD).as_bytes(), &limits);
            let Ok(Some((head, _))) = read else {
                panic!("the head is whole");
            };
            let upgrade = Upgrade::from_head(&head).expect("the handshake is right");
            let chosen = black_box(upgrade.choose(&["tidegate.v1.json", "tidegate.v1.raw"]));
            black_box(chosen);
            out.clear();
            write_switching_protocols(&mut out, upgrade.key(), Some("tidegate.v1.json"), None);
            black_box(&mut out);
        }
    })
}
