//! What a room's options change at its home: who may publish, how much, and when it goes out.

use std::collections::BTreeMap;

use serde_json::Value;

use super::*;
use crate::{
    base::{
        limits::{ROOM_COALESCE_BYTES_MAX, ROOM_COALESCE_KEYS_MAX},
        slab::Key,
    },
    config::{ByteSize, PublishBy, SlowClient},
    hub::wire::{FrameKind, HomeRoomKey},
    proto::ws::header,
};

/// What one request or timer brought about.
#[derive(Debug, Default)]
struct Said {
    /// Payloads for JSON members, with what they are worth.
    texts: Vec<(Value, FrameKind)>,
    /// Bytes for raw members.
    raw: Vec<Bytes>,
    /// Messages in them beyond the first of each.
    raw_more: u32,
    reply: Option<Reply>,
    reply_room: Option<Key>,
    wake: Option<(HomeRoomKey, u32)>,
    window: u64,
    skipped: usize,
}

fn gather(out: Outputs) -> Said {
    let mut said = Said::default();
    for output in out {
        match output {
            Output::Deliver {
                to: 1,
                delivery:
                    Delivery::Frames {
                        frames,
                        window,
                        skip,
                        ..
                    },
            } => {
                said.window += window;
                said.skipped += usize::from(skip.is_some());
                let [json, raw] = frames.by_encoding;
                said.raw_more += frames.more[Encoding::Raw.index()];
                if let Some(frame) = json {
                    let (_, start) = header::decode(&frame).unwrap().unwrap();
                    let text = serde_json::from_slice(&frame[start..]).unwrap();
                    said.texts.push((text, frames.kind));
                }
                said.raw.extend(raw);
            }
            Output::Deliver {
                to: 1,
                delivery: Delivery::Reply { reply, room, .. },
            } => {
                assert!(said.reply.is_none(), "answered twice");
                said.reply = Some(reply);
                said.reply_room = room;
            }
            Output::WakeRoom { room, after_ms } => {
                assert!(said.wake.is_none(), "two timers");
                said.wake = Some((room, after_ms));
            }
            other => panic!("{other:?}"),
        }
    }
    said
}

fn say(hub: &mut Hub, request: Request) -> Said {
    let mut out = Outputs::new();
    hub.handle_request(Now::default(), 1, request, &Slab::new(0), &mut out);
    let said = gather(out);
    hub.return_window(1, said.window);
    said
}

fn fire(hub: &mut Hub, room: HomeRoomKey) -> Said {
    let mut out = Outputs::new();
    hub.on_room_timer(room, &mut out);
    let said = gather(out);
    hub.return_window(1, said.window);
    said
}

struct Post {
    by: u32,
    key: Option<&'static str>,
    ephemeral: bool,
    echo: bool,
    data: String,
}

impl Post {
    fn new(data: impl Into<String>) -> Self {
        Self {
            by: 1,
            key: None,
            ephemeral: false,
            echo: true,
            data: data.into(),
        }
    }

    fn keyed(key: &'static str, data: impl Into<String>) -> Self {
        Self {
            key: Some(key),
            ..Self::new(data)
        }
    }

    fn request(self) -> Request {
        Request::Publish(Box::new(Publish {
            room: RoomRef::Name(Arc::from("r")),
            local: Some(LOCAL),
            client: client(self.by),
            user: Some(Arc::from("given")),
            payload: Payload::Json,
            data: self.data.into(),
            mid: None,
            key: self.key.map(CompactString::from),
            ephemeral: self.ephemeral,
            echo: self.echo,
            id: None,
        }))
    }
}

fn seq_of(said: &Said) -> Option<u64> {
    match &said.reply {
        Some(Reply::Published { seq, .. }) => *seq,
        other => panic!("{other:?}"),
    }
}

fn code_of(said: &Said) -> ErrorCode {
    match &said.reply {
        Some(Reply::Error(error)) => error.code,
        other => panic!("{other:?}"),
    }
}

fn coalescing(ms: u32) -> Config {
    let mut config = open();
    config.rooms.announce_members_max = 0;
    config.rooms.coalesce_ms = ms;
    config
}

#[test]
fn the_first_goes_at_once_and_the_rest_in_one_frame() {
    let mut hub = hub(coalescing(100));
    say(&mut hub, join(1));
    let first = say(&mut hub, Post::keyed("a", "1").request());
    assert_eq!((seq_of(&first), first.texts.len()), (Some(1), 1));
    assert_eq!(first.texts[0].0["data"], 1);
    let (room, after_ms) = first.wake.expect("an interval begins");
    assert_eq!(after_ms, 100);
    for (n, key) in [(2, "a"), (3, "b"), (4, "a"), (5, "c"), (6, "b")] {
        let said = say(&mut hub, Post::keyed(key, n.to_string()).request());
        assert_eq!(seq_of(&said), Some(n));
        assert!(said.texts.is_empty() && said.wake.is_none());
    }
    let said = fire(&mut hub, room);
    let [(Value::Array(items), kind)] = said.texts.as_slice() else {
        panic!("{said:?}");
    };
    let short: Vec<String> = items
        .iter()
        .map(|item| match item["type"].as_str() {
            Some("gap") => format!("gap {} {}", item["dropped"], item["next_seq"]),
            _ => format!("{} {}", item["seq"], item["data"]),
        })
        .collect();
    assert_eq!(short, ["gap 2 4", "4 4", "5 5", "6 6"]);
    assert!(matches!(
        kind,
        FrameKind::Message {
            last: 6,
            count: 5,
            key: None
        }
    ));
    assert_eq!(said.wake, Some((room, 100)), "another interval");
    assert_eq!(hub.coalesced(), 2);
    let end = fire(&mut hub, room);
    assert!(end.texts.is_empty() && end.wake.is_none());
    let again = say(&mut hub, Post::keyed("a", "7").request());
    assert_eq!((again.texts.len(), again.wake), (1, Some((room, 100))));
}

#[test]
fn one_that_lost_nobody_stands_by_itself() {
    let mut config = coalescing(50);
    config.rooms.slow_client = SlowClient::Conflate;
    let mut hub = hub(config);
    say(&mut hub, join(1));
    let (room, _) = say(&mut hub, Post::new("1").request()).wake.unwrap();
    say(&mut hub, Post::keyed("k", "2").request());
    let said = fire(&mut hub, room);
    let [
        (
            lone,
            FrameKind::Message {
                last: 2,
                count: 1,
                key: Some(key),
            },
        ),
    ] = said.texts.as_slice()
    else {
        panic!("{said:?}");
    };
    assert_eq!((&lone["seq"], key.as_str()), (&Value::from(2), "k"));
    // One that replaced another has a gap before it.
    say(&mut hub, Post::new("3").request());
    say(&mut hub, Post::new("4").request());
    let said = fire(&mut hub, room);
    assert_eq!(said.texts[0].0[0]["type"], "gap");
    assert_eq!(said.texts[0].0[1]["seq"], 4);
}

#[test]
fn ephemeral_ones_have_slots_of_their_own_and_leave_no_gap() {
    let mut hub = hub(coalescing(50));
    say(&mut hub, join(1));
    let ephemeral = |data: &str| Post {
        ephemeral: true,
        ..Post::new(data)
    };
    let (room, _) = say(&mut hub, ephemeral("0").request()).wake.unwrap();
    say(&mut hub, ephemeral("1").request());
    say(&mut hub, ephemeral("2").request());
    let said = fire(&mut hub, room);
    assert_eq!(said.texts[0].0["data"], 2);
    assert!(matches!(said.texts[0].1, FrameKind::Ephemeral));
    say(&mut hub, Post::new("3").request());
    say(&mut hub, ephemeral("4").request());
    let said = fire(&mut hub, room);
    let (batch, kind) = &said.texts[0];
    assert_eq!(
        (&batch[0]["data"], &batch[1]["data"]),
        (&3.into(), &4.into())
    );
    assert!(matches!(
        kind,
        FrameKind::Message {
            last: 1,
            count: 1,
            ..
        }
    ));
}

#[test]
fn who_joins_meanwhile_gets_what_waits_and_is_told_a_place_before_it() {
    let mut hub = hub(coalescing(50));
    say(&mut hub, join(1));
    let (room, _) = say(&mut hub, Post::keyed("a", "1").request()).wake.unwrap();
    say(&mut hub, Post::keyed("b", "2").request());
    let said = say(&mut hub, join(2));
    let Some(Reply::Joined(joined)) = said.reply else {
        panic!("{said:?}");
    };
    assert_eq!((joined.seq, joined.gap_free), (1, false));
    assert_eq!(fire(&mut hub, room).texts[0].0["seq"], 2);
    let said = say(&mut hub, join(3));
    let Some(Reply::Joined(joined)) = said.reply else {
        panic!("{said:?}");
    };
    assert_eq!(joined.seq, 2);
}

#[test]
fn everyone_gets_the_batch_even_who_asked_not_to() {
    let mut hub = hub(coalescing(50));
    say(&mut hub, join(1));
    let silent = |n: &str| Post {
        echo: false,
        ..Post::new(n)
    };
    let first = say(&mut hub, silent("1").request());
    say(&mut hub, silent("2").request());
    let rest = fire(&mut hub, first.wake.unwrap().0);
    assert_eq!((first.skipped, rest.skipped), (0, 0));
}

#[test]
fn raw_members_get_the_newest_of_each_key_as_frames_of_their_own() {
    let mut hub = hub(coalescing(50));
    let Request::Join(mut raw) = join(1) else {
        unreachable!()
    };
    raw.encoding = Encoding::Raw;
    say(&mut hub, Request::Join(raw));
    let (room, _) = say(&mut hub, Post::new("0").request()).wake.unwrap();
    for (key, data) in [("a", "1"), ("b", "22"), ("a", "333")] {
        say(&mut hub, Post::keyed(key, data).request());
    }
    let said = fire(&mut hub, room);
    assert!(said.texts.is_empty());
    assert_eq!(said.raw, [Bytes::from_static(b"\x81\x0222\x81\x03333")]);
    assert_eq!(said.raw_more, 1);
}

#[test]
fn a_full_table_goes_out_early_or_refuses_before_there_is_a_number() {
    let mut hub = hub(coalescing(50));
    say(&mut hub, join(1));
    let (room, _) = say(&mut hub, Post::new("0").request()).wake.unwrap();
    let mut frames = 0;
    let keys = ROOM_COALESCE_KEYS_MAX as u64;
    let keyed = |n: u64| {
        let mut post = match Post::new("1").request() {
            Request::Publish(publish) => publish,
            _ => unreachable!(),
        };
        post.key = Some(format!("k{n}").into());
        Request::Publish(post)
    };
    for n in 0..=keys {
        frames += say(&mut hub, keyed(n)).texts.len();
        assert_eq!(frames, usize::from(n == keys));
    }
    assert_eq!(hub.flushed_early(), 1);
    fire(&mut hub, room);
    // By bytes: the second half does not fit beside the first.
    let half = || format!("\"{}\"", "x".repeat(ROOM_COALESCE_BYTES_MAX / 2));
    say(&mut hub, Post::keyed("a", half()).request());
    say(&mut hub, Post::keyed("a", half()).request());
    assert_eq!(hub.flushed_early(), 1, "one that replaces another fits");
    // The window is taken: nothing can go out, so nothing more can come in.
    let mut out = Outputs::new();
    let other = |room: &str, request| match request {
        Request::Join(mut join) => {
            join.room = Arc::from(room);
            Request::Join(join)
        }
        Request::Publish(mut publish) => {
            publish.room = RoomRef::Name(Arc::from(room));
            Request::Publish(publish)
        }
        request => request,
    };
    hub.handle_request(
        Now::default(),
        1,
        other("o", join(1)),
        &Slab::new(0),
        &mut out,
    );
    let big = Post::new("1".repeat(MESH_WINDOW_BYTES as usize));
    let request = other("o", big.request());
    hub.handle_request(Now::default(), 1, request, &Slab::new(0), &mut out);
    let window = gather_window(out);
    let refused = say(&mut hub, Post::keyed("b", half()).request());
    assert_eq!(code_of(&refused), ErrorCode::Overloaded);
    let waits = fire(&mut hub, room);
    assert!(
        waits.texts.is_empty() && waits.wake.is_some(),
        "it waits on"
    );
    hub.return_window(1, window);
    let said = say(&mut hub, Post::keyed("b", half()).request());
    assert_eq!(
        seq_of(&said),
        Some(1 + keys + 1 + 2 + 1),
        "no number was lost"
    );
    assert_eq!((said.texts.len(), hub.flushed_early()), (1, 2));
}

fn gather_window(out: Outputs) -> u64 {
    let windows = out.into_iter().map(|output| match output {
        Output::Deliver {
            delivery: Delivery::Frames { window, .. },
            ..
        } => window,
        _ => 0,
    });
    windows.sum()
}

#[test]
fn a_room_that_coalesces_no_more_sends_what_waits_first() {
    let mut hub = hub(coalescing(50));
    say(&mut hub, join(1));
    let (room, _) = say(&mut hub, Post::keyed("a", "1").request()).wake.unwrap();
    say(&mut hub, Post::keyed("a", "2").request());
    hub.set_config(coalescing(0).into());
    let said = say(&mut hub, Post::keyed("a", "3").request());
    let seqs: Vec<&Value> = said.texts.iter().map(|(text, _)| &text["seq"]).collect();
    assert_eq!(seqs, [2, 3]);
    assert!(said.wake.is_none());
    let said = say(&mut hub, join(2));
    assert!(matches!(said.reply, Some(Reply::Joined(joined)) if joined.seq == 3));
    // On again before the old timer came: it is the one and only still.
    hub.set_config(coalescing(50).into());
    let said = say(&mut hub, Post::keyed("a", "4").request());
    assert!(said.wake.is_none() && said.texts.is_empty());
    assert_eq!(fire(&mut hub, room).texts.len(), 1);
    assert!(fire(&mut hub, room).wake.is_none());
}

#[test]
fn a_room_that_ended_takes_what_waits_with_it() {
    let mut hub = hub(coalescing(50));
    say(&mut hub, join(1));
    let (room, _) = say(&mut hub, Post::new("1").request()).wake.unwrap();
    say(&mut hub, Post::new("2").request());
    say(&mut hub, leave(1));
    assert_eq!(hub.rooms_open(), 0);
    let late = fire(&mut hub, room);
    assert!(late.texts.is_empty() && late.wake.is_none());
    // Not even if another room stands there now.
    say(&mut hub, join(1));
    say(&mut hub, Post::new("1").request());
    say(&mut hub, Post::new("2").request());
    assert!(fire(&mut hub, room).texts.is_empty());
}

#[test]
fn publish_by_says_who_may() {
    for (by, member, outsider, nobody_there) in [
        (
            PublishBy::Members,
            None,
            Some(ErrorCode::NotJoined),
            Some(ErrorCode::NotJoined),
        ),
        (PublishBy::Anyone, None, None, None),
        (
            PublishBy::Backend,
            Some(ErrorCode::Forbidden),
            Some(ErrorCode::Forbidden),
            Some(ErrorCode::Forbidden),
        ),
    ] {
        let mut config = open();
        config.rooms.publish_by = by;
        let mut hub = hub(config);
        let result = |said: &Said| match &said.reply {
            Some(Reply::Published { .. }) => None,
            _ => Some(code_of(said)),
        };
        let empty = say(&mut hub, Post::new("1").request());
        assert_eq!(result(&empty), nobody_there, "{by:?}");
        if nobody_there.is_none() {
            assert_eq!(seq_of(&empty), None, "nobody heard it: no number");
        }
        say(&mut hub, join(1));
        assert_eq!(result(&say(&mut hub, Post::new("1").request())), member);
        let mut request = Post {
            by: 9,
            ..Post::new("1")
        }
        .request();
        if let Request::Publish(publish) = &mut request {
            publish.local = None;
        }
        let said = say(&mut hub, request);
        assert_eq!(result(&said), outsider, "{by:?}");
        assert_eq!(
            said.reply_room, None,
            "its answer stands in no room's stream"
        );
        if outsider.is_none() {
            assert_eq!(said.texts[0].0["from"]["user"], "given");
        }
    }
}

#[test]
fn a_room_has_its_own_length_of_messages() {
    let mut config = open();
    let toml = "[[rooms.match]]\nname = \"r\"\nmessage_bytes_max = \"10B\"\n";
    let read = Config::load(Some(("test", toml)), &[]).unwrap();
    config.rooms.matches = read.rooms.matches;
    assert_eq!(
        config.rooms.matches[0].message_bytes_max,
        Some(ByteSize(10))
    );
    let mut hub = hub(config);
    say(&mut hub, join(1));
    assert_eq!(
        seq_of(&say(&mut hub, Post::new("1".repeat(10)).request())),
        Some(1)
    );
    let said = say(&mut hub, Post::new("1".repeat(11)).request());
    assert_eq!(code_of(&said), ErrorCode::TooLarge);
    assert_eq!(seq_of(&say(&mut hub, Post::new("1").request())), Some(2));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    /// Whatever is published when, a member that hears everything knows of every place, and has
    /// the newest of each key once the interval is over.
    #[test]
    fn a_member_of_a_coalescing_room_misses_nothing_untold(
        steps in proptest::collection::vec((0u8..12, 0usize..3), 1..120)
    ) {
        let mut hub = hub(coalescing(50));
        say(&mut hub, join(1));
        let (mut assigned, mut next, mut wake, mut late) = (0, 1, None, 0);
        let mut newest: BTreeMap<Option<&str>, u64> = BTreeMap::new();
        let mut seen: BTreeMap<Option<String>, u64> = BTreeMap::new();
        for (step, key) in steps {
            let key = [None, Some("a"), Some("b")][key];
            let said = match step {
                0..3 => match wake.take() {
                    Some(room) => {
                        let said = fire(&mut hub, room);
                        prop_assert!(said.texts.len() <= 1);
                        said
                    }
                    None => continue,
                },
                3 => {
                    late += 1;
                    let said = say(&mut hub, join(1 + late));
                    let Some(Reply::Joined(joined)) = &said.reply else { panic!("{said:?}") };
                    prop_assert_eq!(joined.seq + 1, next);
                    said
                }
                4 => say(&mut hub, Post { key, ephemeral: true, ..Post::new("0") }.request()),
                _ => {
                    let said = say(&mut hub, Post { key, ..Post::new("1") }.request());
                    assigned += 1;
                    prop_assert_eq!(seq_of(&said), Some(assigned));
                    newest.insert(key, assigned);
                    said
                }
            };
            if let Some((room, _)) = said.wake {
                prop_assert!(wake.is_none());
                wake = Some(room);
            }
            for (text, kind) in said.texts {
                let items = match text {
                    Value::Array(items) => items,
                    item => vec![item],
                };
                let before = next;
                for item in items {
                    if item["type"] == "gap" {
                        next += item["dropped"].as_u64().unwrap();
                        prop_assert_eq!(&item["next_seq"], next);
                    } else if let Some(seq) = item["seq"].as_u64() {
                        prop_assert_eq!(seq, next);
                        next += 1;
                        seen.insert(item["key"].as_str().map(str::to_owned), seq);
                    }
                }
                match kind {
                    FrameKind::Message { last, count, .. } => {
                        prop_assert_eq!((last + 1, count), (next, next - before));
                    }
                    _ => prop_assert_eq!(next, before),
                }
            }
        }
        if let Some(room) = wake {
            let mut rest = fire(&mut hub, room).texts;
            if let Some((text, _)) = rest.pop() {
                let items = match text { Value::Array(items) => items, item => vec![item] };
                for item in items.iter().filter(|item| item["type"] == "message") {
                    if let Some(seq) = item["seq"].as_u64() {
                        seen.insert(item["key"].as_str().map(str::to_owned), seq);
                        next = seq + 1;
                    }
                }
            }
        }
        prop_assert_eq!(next, assigned + 1);
        let newest: BTreeMap<Option<String>, u64> =
            newest.into_iter().map(|(key, seq)| (key.map(str::to_owned), seq)).collect();
        prop_assert_eq!(seen, newest);
    }
}
