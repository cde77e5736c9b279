//! What a home compresses, for which cores, and how often.

use super::*;
use crate::{
    base::ids::Encoding,
    hub::wire::Frames,
    proto::ws::{deflate::Inflater, header},
};

fn joins(n: u32, encoding: Encoding, takes_deflated: bool) -> Request {
    let Request::Join(mut join) = join(n) else {
        panic!("a join");
    };
    join.encoding = encoding;
    join.takes_deflated = takes_deflated;
    Request::Join(join)
}

/// The frames that core 1 gets of one message of so many bytes.
fn frames(hub: &mut Hub, bytes: usize) -> Frames {
    let said = ask(hub, publish(1, bytes, false));
    let frames = said.into_iter().find_map(|delivery| match delivery {
        Delivery::Frames { frames, window, .. } => {
            let deflated = frames.deflated.clone().unwrap_or_default();
            let all = frames.by_encoding.iter().chain(deflated.iter());
            let len: usize = all.flatten().map(Bytes::len).sum();
            assert_eq!(window, Windows::cost(len), "what is sent is what counts");
            Some(frames)
        }
        _ => None,
    });
    frames.expect("there are members")
}

/// Which forms there are: JSON, raw; and the same compressed.
fn forms(frames: &Frames) -> [bool; 4] {
    let [json, raw] = frames.by_encoding.each_ref().map(Option::is_some);
    let [json_deflated, raw_deflated] = [0, 1].map(|at| deflated(frames, at).is_some());
    [json, raw, json_deflated, raw_deflated]
}

fn deflated(frames: &Frames, at: usize) -> Option<&Bytes> {
    frames.deflated.as_ref()?[at].as_ref()
}

fn inflated(frame: &[u8]) -> Vec<u8> {
    let (head, len) = header::decode_compressible(frame).unwrap().unwrap();
    assert!(head.is_compressed && frame.len() == len + head.payload_len as usize);
    let mut out = Vec::new();
    let mut inflater = Inflater::new(15).unwrap();
    inflater.inflate(&frame[len..], &mut out, 1 << 20).unwrap();
    out
}

#[test]
fn each_core_gets_the_forms_that_its_members_take() {
    let mut hub = hub(open());
    ask(&mut hub, joins(1, Encoding::Json, true));
    assert_eq!(forms(&frames(&mut hub, 2000)), [false, false, true, false]);
    // Too short to be compressed.
    assert_eq!(forms(&frames(&mut hub, 200)), [true, false, false, false]);
    ask(&mut hub, joins(2, Encoding::Json, false));
    ask(&mut hub, joins(3, Encoding::Raw, true));
    ask(&mut hub, joins(4, Encoding::Raw, true));
    let mixed = frames(&mut hub, 2000);
    assert_eq!(forms(&mixed), [true, false, true, true]);
    let plain = mixed.by_encoding[0].as_ref().unwrap();
    let (_, len) = header::decode(plain).unwrap().unwrap();
    assert_eq!(inflated(deflated(&mixed, 0).unwrap()), plain[len..]);
    assert_eq!(inflated(deflated(&mixed, 1).unwrap()), [b'1'; 2000]);
    // Both forms of one message, and each once, however many take it.
    assert_eq!(hub.compressed().messages, 3);
    ask(&mut hub, leave(3));
    ask(&mut hub, leave(4));
    ask(&mut hub, leave(1));
    ask(&mut hub, joins(1, Encoding::Json, false));
    assert_eq!(forms(&frames(&mut hub, 2000)), [true, false, false, false]);
    assert_eq!(hub.compressed().messages, 3);
}

#[test]
fn a_turn_compresses_so_much_and_no_more() {
    let mut hub = hub(open());
    ask(&mut hub, joins(1, Encoding::Json, true));
    hub.allow_compression(5000);
    let is_compressed = |hub: &mut Hub| forms(&frames(hub, 2000))[2];
    let seen = [(); 4].map(|()| is_compressed(&mut hub));
    assert_eq!(seen, [true, true, false, false]);
    assert_eq!(hub.compressed().gave_way, 2);
    hub.allow_compression(5000);
    assert!(is_compressed(&mut hub));
    // Its memory may be taken at any time.
    let taken = hub.compression_bytes();
    hub.trim();
    assert!(hub.compression_bytes() == 0 && taken > 256 << 10);
    assert!(is_compressed(&mut hub));
}

#[test]
fn where_nobody_may_agree_on_it_nothing_is_compressed() {
    let mut config = open();
    config.deflate.enabled = false;
    let mut hub = hub(config);
    ask(&mut hub, joins(1, Encoding::Json, true));
    assert_eq!(forms(&frames(&mut hub, 2000)), [true, false, false, false]);
    assert_eq!(hub.compression_bytes(), 0);
}

#[test]
fn of_several_frames_in_a_row_those_are_compressed_that_are_worth_it() {
    let mut config = open();
    config.rooms.coalesce_ms = 10;
    let mut hub = hub(config);
    ask(&mut hub, joins(1, Encoding::Raw, true));
    let mut out = Outputs::new();
    let first = publish(1, 5, false);
    hub.handle_request(Now::default(), 1, first, &Slab::new(0), &mut out);
    let room = out.drain(..).find_map(|output| match output {
        Output::WakeRoom { room, .. } => Some(room),
        _ => None,
    });
    let room = room.expect("what follows waits for a timer");
    let said = [(2000, "a"), (20, "b"), (3000, "c")].map(|(bytes, key)| {
        let Request::Publish(mut publish) = publish(1, bytes, false) else {
            panic!("a publish");
        };
        publish.key = Some(key.into());
        ask(&mut hub, Request::Publish(publish))
    });
    assert!(said.iter().all(|said| said.len() == 1), "they wait");
    hub.on_room_timer(room, &mut out);
    let frames = out.iter().find_map(|output| match output {
        Output::Deliver {
            delivery: Delivery::Frames { frames, .. },
            ..
        } => deflated(frames, 1),
        _ => None,
    });
    let mut rest = &frames.expect("the raw member takes them compressed")[..];
    let mut lens = Vec::new();
    while let Some((head, len)) = header::decode_compressible(rest).unwrap() {
        let (frame, after) = rest.split_at(len + head.payload_len as usize);
        rest = after;
        assert_eq!(head.is_compressed, lens.len() != 1);
        lens.push(match head.is_compressed {
            true => inflated(frame).len(),
            false => frame.len() - len,
        });
    }
    assert_eq!(lens, [2000, 20, 3000]);
}
