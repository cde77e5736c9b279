//! One walk of a message, or of several in a row, over a room's members.

use std::collections::VecDeque;

use bytes::Bytes;

use super::{LaneItem, LocalRoom, Receivers, Sessions};
use crate::{
    base::{
        bag::Bag,
        ids::{CoreId, Encoding, SessionKey},
        limits::FAN_OUT_BYTES_MAX,
        segments::SharedFrame,
    },
    config::SlowClient,
    hub::wire::{FrameKind, Frames},
    session::{
        LocalRoomKey, Session,
        outbound::{Droppable, Handling},
    },
};

/// A message on its way to a room's members, or several in a row, with a mark of how far it got.
#[derive(Debug)]
pub(super) struct FanOut {
    /// By encoding.
    frames: [Option<SharedFrame>; Encoding::COUNT],
    /// The same, compressed. In a box, as few messages have it and all are moved about.
    deflated: Option<Box<[Option<SharedFrame>; Encoding::COUNT]>>,
    /// How many messages the frames hold, by encoding.
    messages: [u32; Encoding::COUNT],
    kind: FrameKind,
    skip: Option<SessionKey>,
    /// The home that sent it, and what goes back to its window.
    pub(super) from: CoreId,
    pub(super) window: u64,
    encoding: usize,
    cursor: usize,
}

impl FanOut {
    /// A message that nobody has got yet. `skip` is left out.
    pub(super) fn new(frames: Frames, skip: Option<SessionKey>, from: CoreId, window: u64) -> Self {
        let shared = |frame: Option<Bytes>| frame.map(SharedFrame::new);
        Self {
            frames: frames.by_encoding.map(shared),
            deflated: frames.deflated.map(|frames| Box::new(frames.map(shared))),
            messages: frames.more.map(|more| 1 + more),
            kind: frames.kind,
            skip,
            from,
            window,
            encoding: 0,
            cursor: 0,
        }
    }

    /// How the members of `room`, which is at `key`, take frames of this kind.
    fn handling<'a>(kind: &'a FrameKind, key: LocalRoomKey, room: &'a LocalRoom) -> Handling<'a> {
        match kind {
            FrameKind::Ephemeral => Handling::Ephemeral,
            FrameKind::Message {
                last,
                count,
                key: k,
            } if room.slow_client != SlowClient::Evict => Handling::Droppable(Droppable {
                room: key,
                name: &room.name,
                policy: room.slow_client,
                last: *last,
                count: *count,
                key: k.as_deref(),
            }),
            FrameKind::Message { .. } | FrameKind::Announcement => Handling::Firm,
        }
    }

    /// Takes the messages behind this one into its frames, as far as they go to the same members and
    /// none of them may be dropped. What a member gets in one go then lies in one place, copied once
    /// for all members, and handing it out takes one walk over them.
    pub(super) fn gather(&mut self, lane: &mut VecDeque<LaneItem>, slow_client: SlowClient) {
        if !self.is_fresh() || !self.is_firm(slow_client) {
            return;
        }
        let mut bytes = self.bytes();
        let fitting = lane.iter().take_while(|item| match item {
            LaneItem::Frames(next) => {
                bytes += next.bytes();
                bytes <= FAN_OUT_BYTES_MAX && next.is_firm(slow_client) && self.is_alike(next)
            }
            LaneItem::Reply { .. } | LaneItem::Sweep => false,
        });
        let count = fitting.count();
        if count == 0 {
            return;
        }
        let mut runs = [const { None::<Vec<u8>> }; FORMS];
        for (run, frame) in runs.iter_mut().zip(self.forms()) {
            if let Some(frame) = frame {
                let run = run.insert(Vec::with_capacity(FAN_OUT_BYTES_MAX.min(bytes)));
                run.extend_from_slice(frame.as_slice());
            }
        }
        for item in lane.drain(..count) {
            let LaneItem::Frames(next) = item else {
                continue;
            };
            for (messages, more) in self.messages.iter_mut().zip(next.messages) {
                *messages += more;
            }
            self.window += next.window;
            for (run, frame) in runs.iter_mut().zip(next.forms()) {
                if let (Some(run), Some(frame)) = (run, frame) {
                    run.extend_from_slice(frame.as_slice());
                }
            }
        }
        let mut runs = runs.map(|run| run.map(|run| SharedFrame::new(run.into())));
        self.frames.swap_with_slice(&mut runs[..Encoding::COUNT]);
        if let Some(deflated) = &mut self.deflated {
            deflated.swap_with_slice(&mut runs[Encoding::COUNT..]);
        }
    }

    /// By encoding, and then the same compressed, if it is.
    fn forms(&self) -> impl Iterator<Item = &Option<SharedFrame>> {
        let deflated = self.deflated.iter().flat_map(|frames| frames.iter());
        self.frames.iter().chain(deflated)
    }

    /// A compressed frame.
    #[inline]
    fn deflated(&self, encoding: usize) -> Option<&SharedFrame> {
        self.deflated.as_ref()?[encoding].as_ref()
    }

    /// Whether nobody has got it yet.
    const fn is_fresh(&self) -> bool {
        self.encoding == 0 && self.cursor == 0
    }

    /// Whether no member's may be dropped.
    const fn is_firm(&self, slow_client: SlowClient) -> bool {
        match self.kind {
            FrameKind::Announcement => true,
            FrameKind::Message { .. } => matches!(slow_client, SlowClient::Evict),
            FrameKind::Ephemeral => false,
        }
    }

    /// What a member that is written to in `encoding` and `takes_deflated` gets.
    #[inline]
    fn frame(&self, encoding: usize, takes_deflated: bool) -> Option<&SharedFrame> {
        match self.deflated(encoding) {
            Some(frame) if takes_deflated => Some(frame),
            _ => self.frames[encoding].as_ref(),
        }
    }

    /// Whether `other` is for the same members, in the same forms.
    fn is_alike(&self, other: &Self) -> bool {
        self.from == other.from
            && self.skip == other.skip
            && self.deflated.is_some() == other.deflated.is_some()
            && self
                .forms()
                .zip(other.forms())
                .all(|(a, b)| a.is_some() == b.is_some())
    }

    fn bytes(&self) -> usize {
        self.forms().flatten().map(SharedFrame::len).sum()
    }

    /// Hands it out to at most `budget` members more, and says to how many.
    pub(super) fn run(
        &mut self,
        key: LocalRoomKey,
        room: &LocalRoom,
        budget: usize,
        sessions: &Sessions,
        receivers: &mut impl Receivers,
    ) -> usize {
        let handling = Self::handling(&self.kind, key, room);
        let mut used = 0;
        while let Some(members) = room.members.get(self.encoding)
            && used < budget
        {
            let messages = self.messages[self.encoding];
            let plain = self.frames[self.encoding].as_ref();
            let deflated = self.deflated(self.encoding);
            if plain.is_some() || deflated.is_some() {
                let end = members.len().min(self.cursor + (budget - used));
                used += end - self.cursor;
                let walk = Walk {
                    members,
                    from: self.cursor,
                    end,
                    skip: self.skip,
                    sessions,
                };
                match (plain, deflated) {
                    // As a rule there is nothing to choose.
                    (Some(frame), None) => {
                        walk.each(|to| receivers.deliver(to, frame, messages, &handling));
                    }
                    (plain, deflated) => walk.each(|to| {
                        let own = deflated.filter(|_| to.takes_deflated);
                        if let Some(frame) = own.or(plain) {
                            receivers.deliver(to, frame, messages, &handling);
                        }
                    }),
                }
                self.cursor = end;
                if self.cursor < members.len() {
                    break;
                }
            }
            self.encoding += 1;
            self.cursor = 0;
        }
        used
    }

    /// As [`FanOut::run`], for the room of all sessions, which keeps no list of its own: the cursor
    /// goes over the sessions. One that opens meanwhile may be reached or not.
    pub(super) fn run_for_all(
        &mut self,
        key: LocalRoomKey,
        room: &LocalRoom,
        budget: usize,
        sessions: &Sessions,
        receivers: &mut impl Receivers,
    ) -> usize {
        let handling = Self::handling(&self.kind, key, room);
        let end = sessions.index_bound().min(self.cursor + budget);
        for index in self.cursor..end {
            if let Some(member) = sessions.key_at(index)
                && self.skip != Some(member)
                && let Some(session) = sessions.get(member)
                && let index = session.encoding.index()
                && let Some(frame) = self.frame(index, session.takes_deflated)
            {
                receivers.deliver(session, frame, self.messages[index], &handling);
            }
        }
        let used = end - self.cursor;
        self.cursor = end;
        if end == sessions.index_bound() {
            self.encoding = Encoding::COUNT;
        }
        used
    }

    /// Whether everyone has got it.
    pub(super) const fn is_done(&self) -> bool {
        self.encoding >= Encoding::COUNT
    }
}

/// Some members of a room, one after the other.
struct Walk<'a> {
    members: &'a Bag<SessionKey>,
    from: usize,
    end: usize,
    skip: Option<SessionKey>,
    sessions: &'a Sessions,
}

impl Walk<'_> {
    /// One loop for each way of delivering, so that what does not change is asked once.
    #[inline(always)]
    fn each(self, mut deliver: impl FnMut(&Session)) {
        let mut at = self.from;
        while at < self.end {
            let run = self.members.run(at, self.end);
            for member in run {
                // One that has gone is struck out when the lane gets there.
                if self.skip != Some(*member)
                    && let Some(session) = self.sessions.get(*member)
                {
                    deliver(session);
                }
            }
            at += run.len();
        }
    }
}

/// An encoding, compressed or not.
const FORMS: usize = 2 * Encoding::COUNT;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::hub::wire::Reply;

    fn message(text: impl Into<Bytes>, kind: FrameKind, skip: Option<SessionKey>) -> LaneItem {
        let mut frames = Frames {
            kind,
            ..Frames::default()
        };
        frames.by_encoding[0] = Some(text.into());
        LaneItem::Frames(FanOut::new(frames, skip, 0, 10))
    }

    fn placed() -> FrameKind {
        FrameKind::Message {
            last: 1,
            count: 1,
            key: None,
        }
    }

    fn reply() -> LaneItem {
        LaneItem::Reply {
            to: key(1),
            id: None,
            reply: Reply::Left,
        }
    }

    const fn key(index: u32) -> SessionKey {
        SessionKey {
            index,
            generation: 0,
        }
    }

    /// What the first of `items` takes into itself, and how many items are left.
    fn gathered(items: Vec<LaneItem>, policy: SlowClient) -> (String, u32, u64, usize) {
        let mut lane = VecDeque::from(items);
        let Some(LaneItem::Frames(mut first)) = lane.pop_front() else {
            panic!("the first is a message");
        };
        first.gather(&mut lane, policy);
        let bytes = first.frames[0].as_ref().expect("it has a frame").as_slice();
        let text = String::from_utf8(bytes.to_vec()).expect("text");
        (text, first.messages[0], first.window, lane.len())
    }

    #[test]
    fn messages_in_a_row_lie_in_one_place_in_their_order() {
        let items = vec![
            message("a", placed(), None),
            message("bc", FrameKind::Announcement, None),
            message("d", placed(), None),
        ];
        let whole = ("abcd".to_owned(), 3, 30, 0);
        assert_eq!(gathered(items, SlowClient::Evict), whole);
    }

    #[test]
    fn frames_of_several_messages_count_as_many() {
        let gathered = |more| {
            let mut frames = Frames {
                more: [0, more],
                ..Frames::default()
            };
            frames.by_encoding = [const { Some(Bytes::from_static(b"x")) }; Encoding::COUNT];
            LaneItem::Frames(FanOut::new(frames, None, 0, 10))
        };
        let LaneItem::Frames(mut first) = gathered(2) else {
            panic!("a message");
        };
        first.gather(&mut VecDeque::from([gathered(1)]), SlowClient::Evict);
        assert_eq!(first.messages, [2, 5]);
    }

    #[test]
    fn what_differs_ends_the_row() {
        let alone = |count| ("a".to_owned(), 1, 10, count);
        let others = [
            reply(),
            LaneItem::Sweep,
            message("b", FrameKind::Ephemeral, None),
            message("b", placed(), Some(key(3))),
        ];
        for other in others {
            let items = vec![
                message("a", placed(), None),
                other,
                message("c", placed(), None),
            ];
            assert_eq!(gathered(items, SlowClient::Evict), alone(2));
        }
        let items = vec![message("a", placed(), None), message("b", placed(), None)];
        assert_eq!(gathered(items, SlowClient::DropOldest), alone(1));
        let long = "x".repeat(FAN_OUT_BYTES_MAX);
        let items = vec![message("a", placed(), None), message(long, placed(), None)];
        assert_eq!(gathered(items, SlowClient::Evict), alone(1));
    }

    #[test]
    fn a_walk_that_has_begun_takes_nothing_in() {
        let mut lane = VecDeque::from([message("b", placed(), None)]);
        let LaneItem::Frames(mut first) = message("a", placed(), None) else {
            panic!("a message");
        };
        first.cursor = 1;
        first.gather(&mut lane, SlowClient::Evict);
        assert_eq!(lane.len(), 1);
    }
}
