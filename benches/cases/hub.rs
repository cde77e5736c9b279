//! Who receives: joining, publishing, presence, direct messages; fan-out to a stand-in for the
//! members' queues and to real ones; and whole commands, from their text to the members.

mod gateway;

use std::{hint::black_box, sync::Arc};

use bytes::Bytes;
use tidegate::{
    base::{
        ids::{ClientId, CoreId, Encoding, SessionKey},
        segments::SharedFrame,
        slab::Key,
    },
    config::{Config, SlowClient},
    hub::{
        edge::Receivers,
        wire::{Delivery, DirectMessage, FrameKind, Frames, Inspect, Request, SendToUser},
    },
    session::{
        LocalRoomKey, Session,
        outbound::{Handling, Outbound, SpareBuffers, Terms},
    },
};

use self::gateway::{Gateway, Tally};
use super::{Call, Case, case};

pub(super) const CASES: &[Case] = &[
    case("hub/publish-to-1", 64, |n| publish(n, 1, 1)),
    case("hub/publish-to-10", 64, |n| publish(n, 1, 10)),
    case("hub/publish-to-1000", 4, |n| publish(n, 1, 1000)),
    case("hub/publish-to-10-two-cores", 64, |n| publish(n, 2, 10)),
    case("hub/publish-to-1000-two-cores", 4, |n| publish(n, 2, 1000)),
    case("hub/publish-gathered", 256, publish_gathered),
    case("hub/join-and-leave-alone", 64, |n| join_and_leave(n, 0)),
    case("hub/join-and-leave-50", 16, |n| join_and_leave(n, 50)),
    case("hub/join-and-leave-1200", 64, |n| join_and_leave(n, 1200)),
    case("hub/come-and-go", 64, come_and_go),
    case("hub/presence-100", 4, list_members),
    case("hub/send-to-user", 64, send_to_user),
    case("fanout/1x1000", 1000, |n| fan_out(n, 1)),
    case("fanout/100x10", 1000, |n| fan_out(n, 100)),
    case(
        "fanout/1x1000-two-encodings",
        1000,
        fan_out_in_two_encodings,
    ),
    case("fanout/queues-1x1000", 1000, |n| {
        fan_out_to_queues(n, SlowClient::Evict)
    }),
    case("fanout/queues-1x1000-droppable", 1000, |n| {
        fan_out_to_queues(n, SlowClient::DropOldest)
    }),
    case("rooms/publish", 64, |n| say_publish(n, 1)),
    case("rooms/publish-two-cores", 64, |n| say_publish(n, 2)),
    case("rooms/join-and-leave", 64, say_join_and_leave),
    case("rooms/raw", 64, say_raw),
];

/// What members publish.
const DATA: &[u8] = br#"{"text":"hello, how are you? fine, and you?"}"#;

/// A member: its core, its session and the room there.
type Member = (CoreId, SessionKey, LocalRoomKey);

/// Lets so many clients come and join, on each core in turn.
fn gather(gateway: &mut Gateway, room: &str, members: u32) -> Vec<Member> {
    let cores = gateway.cores.len() as u32;
    let member = |member| {
        let core = (member % cores) as CoreId;
        let key = gateway.connect(core, None, Encoding::Json, None);
        (core, key, gateway.join(core, key, room))
    };
    (0..members).map(member).collect()
}

/// Messages to a room whose home is core 0, by each of its members in turn, up to the hand-out to
/// the members and the publisher's `ok`.
fn publish(n: u32, cores: u16, members: u32) -> Call {
    let mut gateway = Gateway::new(cores, Config::default());
    let room = gateway.name_at(0);
    let members = gather(&mut gateway, &room, members);
    let mut turn = 0;
    Box::new(move || {
        let mut tally = Tally::default();
        for _ in 0..n {
            let (core, key, local) = members[turn % members.len()];
            turn += 1;
            gateway.publish(core, key, local, None, black_box(DATA));
            gateway.settle(&mut tally);
        }
        assert_eq!(tally.deliveries, n * members.len() as u32);
    })
}

/// Messages to rooms that put those of an interval together: 32 to an interval, of which each in the
/// second half replaces one of the first.
fn publish_gathered(n: u32) -> Call {
    let mut config = Config::default();
    config.rooms.coalesce_ms = 50;
    let mut gateway = Gateway::new(1, config);
    let rooms: Vec<Vec<Member>> = (0..n / 32)
        .map(|room| gather(&mut gateway, &format!("room-{room}"), 16))
        .collect();
    Box::new(move || {
        for members in &rooms {
            for (core, key, local) in members.iter().chain(members) {
                gateway.publish(*core, *key, *local, Some("price"), black_box(DATA));
                gateway.settle(&mut Tally::default());
            }
        }
        gateway.wake_rooms(0);
    })
}

/// A client joins a room of so many others and leaves it again. The others are told while they are
/// at most 1000. In several rooms, as each room's table of members has a random key of its own.
fn join_and_leave(n: u32, others: u32) -> Call {
    let mut gateway = Gateway::new(1, Config::default());
    let rooms: [String; 8] = std::array::from_fn(|room| format!("room-{room}"));
    for room in &rooms {
        gather(&mut gateway, room, others);
    }
    let clients: Vec<SessionKey> = (0..n)
        .map(|_| gateway.connect(0, None, Encoding::Json, None))
        .collect();
    Box::new(move || {
        for (client, room) in clients.iter().zip(rooms.iter().cycle()) {
            let local = gateway.join(0, *client, black_box(room));
            gateway.leave(0, *client, local);
        }
    })
}

/// A client with a user comes, is greeted and entered in the directory, and goes.
fn come_and_go(n: u32) -> Call {
    let mut gateway = Gateway::new(1, Config::default());
    let users: Vec<Arc<str>> = (0..n).map(|n| format!("user-{n}").into()).collect();
    Box::new(move || {
        for user in &users {
            let key = gateway.connect(0, Some(black_box(user)), Encoding::Json, None);
            gateway.disconnect(0, key);
        }
    })
}

fn list_members(n: u32) -> Call {
    let mut gateway = Gateway::new(1, Config::default());
    let room = gateway.name_at(0);
    let members = gather(&mut gateway, &room, 100);
    let (_, session, local) = members[0];
    let room: Arc<str> = room.into();
    Box::new(move || {
        for _ in 0..n {
            let inspect = Inspect {
                room: Arc::clone(black_box(&room)),
                local: Some(local),
                client: ClientId { core: 0, session },
                list: true,
                id: Some("1".into()),
            };
            gateway.request(0, 0, Request::Inspect(Box::new(inspect)));
        }
    })
}

/// Direct messages to users with two clients each.
fn send_to_user(n: u32) -> Call {
    let mut gateway = Gateway::new(1, Config::default());
    let users: Vec<Arc<str>> = (0..n).map(|n| format!("user-{n}").into()).collect();
    for user in users.iter().chain(&users) {
        gateway.connect(0, Some(user), Encoding::Json, None);
    }
    let from = ClientId {
        core: 0,
        session: Key {
            index: 0,
            generation: 0,
        },
    };
    Box::new(move || {
        for user in &users {
            let message = DirectMessage {
                from,
                user: None,
                data: Bytes::from_static(DATA),
                mid: None,
                ts: 1_790_000_000_000,
            };
            let send = SendToUser {
                to: Arc::clone(black_box(user)),
                message: Arc::new(message),
                id: Some("1".into()),
            };
            gateway.request(0, 0, Request::SendToUser(Box::new(send)));
        }
    })
}

/// One message to a core's members of a room, in the encodings that they want.
fn delivery(room: LocalRoomKey, encodings: &[Encoding]) -> Delivery {
    let mut frames = Frames {
        kind: FrameKind::Message {
            last: 1,
            count: 1,
            key: None,
        },
        ..Frames::default()
    };
    for encoding in encodings {
        frames.by_encoding[encoding.index()] = Some(Bytes::from_static(&[b'.'; 128]));
    }
    Delivery::Frames {
        room,
        frames,
        skip: None,
        window: 0,
    }
}

/// One message in each of so many rooms, handed out to `n` members in all. Counted per member.
fn fan_out(n: u32, rooms: u32) -> Call {
    let mut gateway = Gateway::new(1, Config::default());
    let locals: Vec<LocalRoomKey> = (0..rooms)
        .map(|room| gather(&mut gateway, &format!("room-{room}"), n / rooms)[0].2)
        .collect();
    Box::new(move || {
        let mut tally = Tally::default();
        for local in &locals {
            take(&mut gateway, delivery(*local, &[Encoding::Json]));
        }
        gateway.settle(&mut tally);
        assert_eq!(tally.deliveries, n);
    })
}

/// As [`fan_out`] in one room, half of whose members are raw clients.
fn fan_out_in_two_encodings(n: u32) -> Call {
    let mut gateway = Gateway::new(1, Config::default());
    let room = gateway.name_at(0);
    let members = gather(&mut gateway, &room, n / 2);
    for _ in 0..n / 2 {
        gateway.connect(0, None, Encoding::Raw, Some(&room));
    }
    let local = members[0].2;
    Box::new(move || {
        let mut tally = Tally::default();
        take(&mut gateway, delivery(local, &Encoding::ALL));
        gateway.settle(&mut tally);
        assert_eq!(tally.deliveries, n);
    })
}

/// As [`fan_out`] in one room, into queues that are then sent.
fn fan_out_to_queues(n: u32, policy: SlowClient) -> Call {
    let mut config = Config::default();
    config.rooms.slow_client = policy;
    let mut queues = Queues {
        lines: Vec::new(),
        spare: SpareBuffers::new(config.engine.coalesce.0),
        terms: Terms {
            high: config.limits.buffered_bytes_high.0,
            low: config.limits.buffered_bytes_low.0,
            tells_gaps: true,
        },
    };
    let mut gateway = Gateway::new(1, config);
    let room = gateway.name_at(0);
    let members = gather(&mut gateway, &room, n);
    queues.lines.resize_with(members.len(), Outbound::default);
    let local = members[0].2;
    Box::new(move || {
        take(&mut gateway, delivery(local, &[Encoding::Json]));
        gateway.settle(&mut queues);
        for line in &mut queues.lines {
            let batch = line.take_batch(&mut queues.spare, |_, _| {});
            let batch = batch.expect("every member got the message");
            line.on_sent(black_box(&batch).remaining());
            queues.spare.reclaim(batch);
        }
    })
}

/// The only core takes what a home sent.
fn take(gateway: &mut Gateway, delivery: Delivery) {
    let core = &mut gateway.cores[0];
    let (sessions, out) = (&mut core.sessions, &mut core.out);
    let edge = core.hub.edge_mut();
    edge.handle_delivery(0, 0, delivery, sessions, out);
}

/// The members' queues, by session.
struct Queues {
    lines: Vec<Outbound>,
    spare: SpareBuffers,
    terms: Terms,
}

impl Receivers for Queues {
    fn deliver(&mut self, to: &Session, frame: &SharedFrame, _: u32, handling: &Handling<'_>) {
        let line = &mut self.lines[to.transport.index as usize];
        match handling {
            Handling::Firm | Handling::Ephemeral => line.push_shared(&mut self.spare, frame),
            Handling::Droppable(message) => {
                line.offer(&mut self.spare, frame, message, self.terms);
            }
        }
    }
}

/// A client's command, to a room of two whose home is core 0. The publisher is on the last core.
fn say_publish(n: u32, cores: u16) -> Call {
    let mut gateway = Gateway::new(cores, Config::default());
    let room = gateway.name_at(0);
    let members = gather(&mut gateway, &room, 2);
    let (core, key, _) = members[1];
    let data = str::from_utf8(DATA).expect("it is text");
    let text = format!(r#"{{"type":"publish","room":"{room}","id":"1","data":{data}}}"#);
    Box::new(move || {
        for _ in 0..n {
            gateway.say(core, key, black_box(&text));
        }
    })
}

fn say_join_and_leave(n: u32) -> Call {
    let mut gateway = Gateway::new(1, Config::default());
    let room = gateway.name_at(0);
    gather(&mut gateway, &room, 2);
    let join = format!(r#"{{"type":"join","room":"{room}","id":"1"}}"#);
    let leave = format!(r#"{{"type":"leave","room":"{room}","id":"2"}}"#);
    let clients: Vec<SessionKey> = (0..n)
        .map(|_| gateway.connect(0, None, Encoding::Json, None))
        .collect();
    Box::new(move || {
        for client in &clients {
            gateway.say(0, *client, black_box(&join));
            gateway.say(0, *client, black_box(&leave));
        }
    })
}

/// A raw client's message, to a room of two raw clients.
fn say_raw(n: u32) -> Call {
    let mut gateway = Gateway::new(1, Config::default());
    let room = gateway.name_at(0);
    let clients = [(); 2].map(|()| gateway.connect(0, None, Encoding::Raw, Some(&room)));
    Box::new(move || {
        for _ in 0..n {
            gateway.say_raw(0, clients[0], black_box("hello, how are you?"));
        }
    })
}
