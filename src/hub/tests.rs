//! One hub by itself: what it says to whom, and what it refuses.

mod deflate;
mod options;

use bytes::Bytes;
use proptest::prelude::*;

use super::{
    wire::{Join, Leave, LeaveReason, Payload, Publish, RoomRef, SendToUser},
    *,
};
use crate::{
    base::{
        ids::{ClientId, Encoding},
        limits::MESH_WINDOW_BYTES,
        rng::Rng,
        slab::{Key, Slab},
    },
    config::AllPublishBy,
    proto::envelope::ErrorCode,
};

const LOCAL: Key = Key {
    index: 7,
    generation: 0,
};

fn hub(config: Config) -> Hub {
    Hub::new(0, Routes::new(2, [1, 2, 3, 4]), config.into(), Rng::new(1))
}

fn open() -> Config {
    let mut config = Config::default();
    config.rooms.all_publish_by = AllPublishBy::Anyone;
    config
}

fn client(index: u32) -> ClientId {
    ClientId {
        core: 1,
        session: Key {
            index,
            generation: 0,
        },
    }
}

/// Has core 1 send `request`; what comes back to it.
fn ask(hub: &mut Hub, request: Request) -> Vec<Delivery> {
    let mut out = Outputs::new();
    hub.handle_request(Now::default(), 1, request, &Slab::new(0), &mut out);
    out.into_iter()
        .map(|output| match output {
            Output::Deliver { to: 1, delivery } => delivery,
            other => panic!("{other:?}"),
        })
        .collect()
}

fn join(n: u32) -> Request {
    Request::Join(Box::new(Join {
        room: Arc::from("r"),
        local: LOCAL,
        client: client(n),
        user: Some(Arc::from("u")),
        encoding: Encoding::Json,
        takes_deflated: false,
        state: None,
        presence: false,
        since: None,
        id: None,
    }))
}

fn leave(n: u32) -> Request {
    Request::Leave(Leave {
        room: RoomRef::Name(Arc::from("r")),
        local: LOCAL,
        client: client(n),
        reason: LeaveReason::Left,
        command: true,
        id: None,
    })
}

fn publish(n: u32, bytes: usize, ephemeral: bool) -> Request {
    Request::Publish(Box::new(Publish {
        room: RoomRef::Name(Arc::from("r")),
        local: Some(LOCAL),
        client: client(n),
        user: None,
        payload: Payload::Json,
        data: Bytes::from(vec![b'1'; bytes]),
        mid: None,
        key: None,
        ephemeral,
        echo: true,
        id: None,
    }))
}

fn answer(deliveries: &[Delivery]) -> &Reply {
    match deliveries.last() {
        Some(Delivery::Reply { reply, .. }) => reply,
        other => panic!("{other:?} is no answer"),
    }
}

fn windows(deliveries: &[Delivery]) -> u64 {
    deliveries
        .iter()
        .map(|delivery| match delivery {
            Delivery::Frames { window, .. } => *window,
            _ => 0,
        })
        .sum()
}

#[test]
fn a_full_window_refuses_and_gives_no_number() {
    let mut hub = hub(open());
    ask(&mut hub, join(1));
    let (mut on_its_way, mut last) = (0, 0);
    loop {
        let said = ask(&mut hub, publish(1, 60_000, false));
        on_its_way += windows(&said);
        match answer(&said) {
            Reply::Published { seq, .. } => {
                last += 1;
                assert_eq!(*seq, Some(last));
            }
            Reply::Error(error) => {
                assert_eq!(error.code, ErrorCode::Overloaded);
                assert_eq!(said.len(), 1, "a refused message goes nowhere");
                break;
            }
            other => panic!("{other:?}"),
        }
    }
    assert!(on_its_way <= MESH_WINDOW_BYTES && on_its_way > MESH_WINDOW_BYTES - 70_000);
    assert_eq!(hub.window_bytes(), on_its_way);
    hub.return_window(1, on_its_way);
    let said = ask(&mut hub, publish(1, 60_000, false));
    let Reply::Published { seq, .. } = answer(&said) else {
        panic!("{said:?}");
    };
    assert_eq!(*seq, Some(last + 1));
}

#[test]
fn a_message_larger_than_the_window_passes_when_nothing_else_is_on_its_way() {
    let mut hub = hub(open());
    ask(&mut hub, join(1));
    let said = ask(&mut hub, publish(1, MESH_WINDOW_BYTES as usize + 1, false));
    assert!(matches!(answer(&said), Reply::Published { .. }));
    let said = ask(&mut hub, publish(1, 1, false));
    assert!(matches!(answer(&said), Reply::Error(_)));
}

#[test]
fn a_user_is_sent_to_whole_or_not_at_all() {
    let mut hub = hub(open());
    for n in 1..=2 {
        let user = Arc::from("u");
        let client = client(n);
        assert!(ask(&mut hub, Request::UserOnline { user, client }).is_empty());
    }
    let send = || {
        Request::SendToUser(Box::new(SendToUser {
            to: Arc::from("u"),
            message: Arc::new(DirectMessage {
                from: client(3),
                user: None,
                data: Bytes::from(vec![b'1'; 60_000]),
                mid: None,
                ts: 0,
            }),
            id: None,
        }))
    };
    loop {
        let said = ask(&mut hub, send());
        match answer(&said) {
            Reply::Queued(2) => assert_eq!(said.len(), 3),
            Reply::Error(error) => {
                assert_eq!(error.code, ErrorCode::Overloaded);
                assert_eq!(said.len(), 1);
                break;
            }
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn rooms_have_a_most_of_members_and_crowds_are_not_announced() {
    let mut config = open();
    config.limits.room_members_max = 3;
    config.rooms.announce_members_max = 2;
    let mut hub = hub(config);
    let mut said = Vec::new();
    for n in 1..=4 {
        said.push(ask(&mut hub, join(n)));
    }
    let announced: Vec<usize> = said.iter().map(|said| said.len() - 1).collect();
    assert_eq!(announced, [0, 1, 0, 0]);
    let Reply::JoinRefused(error) = answer(&said[3]) else {
        panic!("{said:?}");
    };
    assert_eq!(error.code, ErrorCode::RoomFull);
    assert_eq!(hub.announcements_suppressed(), 1);
}

#[test]
fn who_is_no_member_is_refused() {
    let mut hub = hub(open());
    for request in [publish(1, 1, false), leave(1)] {
        let said = ask(&mut hub, request);
        let Reply::Error(error) = answer(&said) else {
            panic!("{said:?}");
        };
        assert_eq!(error.code, ErrorCode::NotJoined);
    }
    assert_eq!(hub.rooms_open(), 0);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Whatever comes, numbers have no gap within an epoch, every request has one answer, and
    /// the room ends with its last member.
    #[test]
    fn numbers_have_no_gap(steps in proptest::collection::vec((0u8..4, 1u32..5), 1..80)) {
        let mut hub = hub(open());
        let mut members = std::collections::BTreeSet::new();
        let (mut epoch, mut last) = (Default::default(), 0);
        for (step, n) in steps {
            let said = match step {
                0 => ask(&mut hub, join(n)),
                1 => ask(&mut hub, leave(n)),
                2 => ask(&mut hub, publish(n, 10, false)),
                _ => ask(&mut hub, publish(n, 10, true)),
            };
            hub.return_window(1, windows(&said));
            let is_answer = |d: &&Delivery| matches!(d, Delivery::Reply { .. });
            prop_assert_eq!(said.iter().filter(is_answer).count(), 1);
            let is_member = members.contains(&n);
            match answer(&said) {
                Reply::Joined(joined) => {
                    if members.is_empty() {
                        prop_assert_ne!(&epoch, &joined.epoch);
                        (epoch, last) = (joined.epoch.clone(), 0);
                    }
                    members.insert(n);
                    prop_assert_eq!((&joined.epoch, joined.seq), (&epoch, last));
                    prop_assert_eq!(joined.members as usize, members.len());
                }
                Reply::Left => {
                    prop_assert!(members.remove(&n));
                }
                Reply::Published { seq: Some(seq), epoch: of } => {
                    last += 1;
                    prop_assert_eq!((*seq, of), (last, &epoch));
                    prop_assert!(is_member);
                }
                Reply::Published { seq: None, .. } => prop_assert!(is_member && step == 3),
                Reply::Error(_) => prop_assert!(!is_member),
                other => prop_assert!(false, "{:?}", other),
            }
            prop_assert_eq!(hub.rooms_open(), usize::from(!members.is_empty()));
            prop_assert_eq!(hub.window_bytes(), 0);
        }
    }
}
