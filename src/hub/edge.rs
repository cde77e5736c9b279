//! Rooms as one core's members see them: who is here, and what is still to be handed out.
//!
//! Everything that a home says about a room goes through the room's **lane**, first in, first
//! out: messages, answers to members, and the changes of membership themselves. So a message
//! reaches exactly those who were members when it stood at the lane's head, an `ok` stands at its
//! place in the stream, and the list of members does not change under a fan-out that goes on
//! over several turns.

mod fan_out;

use std::{collections::VecDeque, sync::Arc};

use compact_str::CompactString;
use hashbrown::HashMap;

use self::fan_out::FanOut;
use super::{
    ALL_ROOM, Output, Outputs,
    wire::{Delivery, Frames, HomeRoomKey, Reply, RoomRef},
};
use crate::{
    base::{
        abort::AbortOnUnwind,
        bag::Bag,
        ids::{CoreId, Encoding, SessionKey},
        limits::{SPARE_LANE_ITEMS_MAX, SPARE_LANES_MAX, TURN_ROOM_DELIVERIES_MAX},
        segments::SharedFrame,
        slab::Slab,
    },
    config::{Config, SlowClient},
    session::{LocalRoomKey, Membership, Place, Session, outbound::Handling},
};

/// The sessions of a core.
pub type Sessions = Slab<Session>;

/// One core's members, room by room.
#[derive(Debug)]
pub struct Edge {
    config: Arc<Config>,
    /// How often the configuration was replaced: rooms look theirs up again when it has been.
    revision: u32,
    rooms: Slab<LocalRoom>,
    by_name: HashMap<Arc<str>, LocalRoomKey, ahash::RandomState>,
    all_room: LocalRoomKey,
    /// Rooms whose lane is not empty, in the order in which they get their turn.
    busy: VecDeque<LocalRoomKey>,
    /// Memory of lanes that are empty, for the next that is not: an idle room's owns none.
    spare_lanes: Vec<VecDeque<LaneItem>>,
    memberships: usize,
}

/// A room on this core. It exists while it has members, joiners or something to hand out.
#[derive(Debug)]
pub struct LocalRoom {
    name: Arc<str>,
    slow_client: SlowClient,
    /// The [`Edge::revision`] that it is of.
    revision: u32,
    home_core: CoreId,
    home: Option<HomeRoomKey>,
    members: [Bag<SessionKey>; Encoding::COUNT],
    joining: u32,
    lane: VecDeque<LaneItem>,
    sweeping: bool,
}

#[derive(Debug)]
enum LaneItem {
    Frames(FanOut),
    Reply {
        to: SessionKey,
        id: Option<CompactString>,
        reply: Reply,
    },
    /// Sessions ended while the lane was busy: strike out all that are gone by now.
    Sweep,
}

/// Receives what a fan-out hands out.
pub trait Receivers {
    /// Queues `frame`, which holds so many messages, for one member, or not, as `handling` says.
    fn deliver(
        &mut self,
        to: &Session,
        frame: &SharedFrame,
        messages: u32,
        handling: &Handling<'_>,
    );
}

impl LocalRoom {
    /// Its name.
    pub fn name(&self) -> &Arc<str> {
        &self.name
    }

    /// Its home core.
    pub const fn home_core(&self) -> CoreId {
        self.home_core
    }

    /// How requests of one of its members, or of one that is about to be, name it to its home.
    ///
    /// The home's key holds only as long as someone is in the room there. An answered member that
    /// asked for nothing more is; one that waits for an answer may be the first in a room that was
    /// closed and opened again.
    pub fn home_ref(&self, membership: &Membership) -> RoomRef {
        match self.home {
            Some(key) if membership.pending == 0 => RoomRef::Key(key),
            _ => RoomRef::Name(Arc::clone(&self.name)),
        }
    }

    /// Strikes out the members whose sessions are gone.
    fn sweep(&mut self, key: LocalRoomKey, sessions: &mut Sessions) {
        for members in &mut self.members {
            members.retain(|member| sessions.get(*member).is_some());
            for (at, member) in members.iter().enumerate() {
                if let Some(session) = sessions.get_mut(*member)
                    && let Some(membership) = session.membership_mut(key)
                {
                    membership.place = Place::at(at);
                }
            }
        }
    }

    fn is_idle(&self) -> bool {
        self.joining == 0 && self.lane.is_empty() && self.members.iter().all(Bag::is_empty)
    }
}

impl Edge {
    /// No rooms but the reserved one, whose home is `all_home`.
    pub fn new(all_home: CoreId, config: Arc<Config>) -> Self {
        let mut edge = Self {
            config,
            revision: 0,
            rooms: Slab::new(0),
            by_name: HashMap::default(),
            all_room: LocalRoomKey {
                index: 0,
                generation: 0,
            },
            busy: VecDeque::new(),
            spare_lanes: Vec::new(),
            memberships: 0,
        };
        edge.all_room = edge.open(ALL_ROOM, all_home);
        // Never closed: as if someone were always about to join.
        edge.room_mut(edge.all_room).joining = 1;
        edge
    }

    /// See [`Hub::set_config`](super::Hub::set_config).
    pub fn set_config(&mut self, config: Arc<Config>) {
        self.config = config;
        self.revision = self.revision.wrapping_add(1);
    }

    /// The reserved room that every session is in; the same key on every core.
    pub const fn all_room(&self) -> LocalRoomKey {
        self.all_room
    }

    /// Whether nothing waits to be handed out.
    pub fn is_quiet(&self) -> bool {
        self.busy.is_empty()
    }

    /// Memberships held, without the reserved rooms'.
    pub const fn memberships(&self) -> usize {
        self.memberships
    }

    /// Rooms known here, without the reserved one.
    pub fn len(&self) -> usize {
        self.rooms.len() - 1
    }

    /// Whether no room is known here but the reserved one.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The room of that name, if it has anything to do with this core.
    pub fn find(&self, name: &str) -> Option<LocalRoomKey> {
        self.by_name.get(name).copied()
    }

    /// The room at `key`.
    pub fn get(&self, key: LocalRoomKey) -> Option<&LocalRoom> {
        self.rooms.get(key)
    }

    fn room_mut(&mut self, key: LocalRoomKey) -> &mut LocalRoom {
        self.rooms
            .get_mut(key)
            .expect("invariant: a room is there while something refers to it")
    }

    fn open(&mut self, name: &str, home_core: CoreId) -> LocalRoomKey {
        let name: Arc<str> = Arc::from(name);
        let key = self.rooms.insert(LocalRoom {
            slow_client: self.config.room_options(&name).slow_client,
            revision: self.revision,
            name: Arc::clone(&name),
            home_core,
            home: None,
            members: [const { Bag::new() }; Encoding::COUNT],
            joining: 0,
            lane: VecDeque::new(),
            sweeping: false,
        });
        self.by_name.insert(name, key);
        key
    }

    fn close_if_idle(&mut self, key: LocalRoomKey) {
        if self.rooms.get(key).is_some_and(LocalRoom::is_idle)
            && let Some(room) = self.rooms.remove(key)
        {
            self.by_name.remove(&room.name);
        }
    }

    /// Where `session` stands in the room at `key`, if it is a member or about to be one. In the
    /// reserved room everyone is.
    pub fn membership(&self, session: &Session, key: LocalRoomKey) -> Option<Membership> {
        if key == self.all_room {
            return Some(Membership {
                room: key,
                place: Place::JOINING,
                pending: 0,
            });
        }
        session.membership(key).copied()
    }

    /// Notes that a session asks to join; the answer comes through the room's lane.
    pub fn begin_join(
        &mut self,
        name: &str,
        home_core: CoreId,
        session: &mut Session,
    ) -> LocalRoomKey {
        let _guard = AbortOnUnwind;
        let key = self
            .find(name)
            .unwrap_or_else(|| self.open(name, home_core));
        self.room_mut(key).joining += 1;
        match session.membership_mut(key) {
            Some(membership) => membership.pending += 1,
            None => session.rooms.push(Membership {
                room: key,
                place: Place::JOINING,
                pending: 1,
            }),
        }
        key
    }

    /// Takes what a home or another core sent.
    pub fn handle_delivery(
        &mut self,
        core: CoreId,
        from: CoreId,
        delivery: Delivery,
        sessions: &mut Sessions,
        out: &mut Outputs,
    ) {
        let _guard = AbortOnUnwind;
        match delivery {
            Delivery::Frames {
                room,
                frames,
                skip,
                window,
            } => {
                let skip = skip.filter(|c| c.core == core).map(|c| c.session);
                self.on_frames(from, room, frames, skip, window, out);
            }
            // Says nothing to anybody.
            Delivery::Reply {
                id: None,
                reply: Reply::Published { .. },
                ..
            } => {}
            Delivery::Reply {
                room,
                client,
                id,
                reply,
            } => {
                let to = client.session;
                match room.filter(|key| self.rooms.get(*key).is_some()) {
                    Some(key) => {
                        let room = self.room_mut(key);
                        if room.lane.is_empty() {
                            self.on_reply(key, to, id, reply, sessions, out);
                        } else {
                            room.lane.push_back(LaneItem::Reply { to, id, reply });
                        }
                    }
                    None => out.push_back(Output::Reply { to, id, reply }),
                }
            }
            Delivery::Direct {
                client,
                message,
                window,
            } => {
                let to = client.session;
                out.push_back(Output::Direct { to, message });
                out.push_back(Output::ReturnWindow {
                    to: from,
                    bytes: window,
                });
            }
        }
    }

    fn on_frames(
        &mut self,
        from: CoreId,
        key: LocalRoomKey,
        frames: Frames,
        skip: Option<SessionKey>,
        window: u64,
        out: &mut Outputs,
    ) {
        let Some(room) = self.rooms.get_mut(key) else {
            // The last member left while this was on its way.
            out.push_back(Output::ReturnWindow {
                to: from,
                bytes: window,
            });
            return;
        };
        if room.lane.is_empty() {
            self.busy.push_back(key);
            if let Some(lane) = self.spare_lanes.pop() {
                room.lane = lane;
            }
        }
        let fan_out = FanOut::new(frames, skip, from, window);
        room.lane.push_back(LaneItem::Frames(fan_out));
    }

    fn on_reply(
        &mut self,
        key: LocalRoomKey,
        to: SessionKey,
        id: Option<CompactString>,
        reply: Reply,
        sessions: &mut Sessions,
        out: &mut Outputs,
    ) {
        // A session that is gone by now has sent its `leave` behind its `join`.
        let session = sessions.get_mut(to);
        match &reply {
            Reply::Joined(joined) => {
                let room = self.room_mut(key);
                room.joining -= 1;
                room.home = Some(joined.home);
                if let Some(session) = session {
                    let encoding = session.encoding;
                    if let Some(membership) = session.membership_mut(key) {
                        membership.pending -= 1;
                        if membership.place == Place::JOINING {
                            membership.place = self.add(key, to, encoding);
                            self.memberships += 1;
                        }
                    }
                }
            }
            Reply::JoinRefused(_) => {
                self.room_mut(key).joining -= 1;
                if let Some(session) = session
                    && let Some(membership) = session.membership_mut(key)
                {
                    membership.pending -= 1;
                    if membership.place == Place::JOINING && membership.pending == 0 {
                        session.forget(key);
                    }
                }
            }
            Reply::Left => {
                if let Some(session) = session
                    && let Some(membership) = session.membership_mut(key)
                    && let Some(at) = membership.place.index()
                {
                    membership.place = Place::JOINING;
                    let pending = membership.pending;
                    let encoding = session.encoding;
                    if pending == 0 {
                        session.forget(key);
                    }
                    self.memberships -= 1;
                    self.take_out(key, encoding, at, sessions);
                }
            }
            _ => {}
        }
        out.push_back(Output::Reply { to, id, reply });
        self.close_if_idle(key);
    }

    fn add(&mut self, key: LocalRoomKey, to: SessionKey, encoding: Encoding) -> Place {
        let members = &mut self.room_mut(key).members[encoding.index()];
        members.push(to);
        Place::at(members.len() - 1)
    }

    /// Takes a member out of a room whose lane is empty, and tells the one that takes its place.
    fn take_out(
        &mut self,
        key: LocalRoomKey,
        encoding: Encoding,
        at: usize,
        sessions: &mut Sessions,
    ) {
        let members = &mut self.room_mut(key).members[encoding.index()];
        members.swap_remove(at);
        if let Some(moved) = members.get(at).copied()
            && let Some(session) = sessions.get_mut(moved)
            && let Some(membership) = session.membership_mut(key)
        {
            membership.place = Place::at(at);
        }
    }

    /// A session ends: it is no member of this room any more. The home is told by the caller.
    ///
    /// Its place in a room that is handing out is given up when the lane gets there.
    pub fn end_membership(
        &mut self,
        membership: Membership,
        encoding: Encoding,
        sessions: &mut Sessions,
    ) {
        let _guard = AbortOnUnwind;
        let key = membership.room;
        let Some(at) = membership.place.index() else {
            return;
        };
        self.memberships -= 1;
        let room = self.room_mut(key);
        if room.lane.is_empty() {
            self.take_out(key, encoding, at, sessions);
            self.close_if_idle(key);
        } else if !std::mem::replace(&mut room.sweeping, true) {
            room.lane.push_back(LaneItem::Sweep);
        }
    }

    /// Hands out what waits, room by room, until `budget` deliveries are made or an answer has
    /// come up: what is in `out` must then be done before what follows in the lanes. Says how
    /// many deliveries that was.
    pub fn run(
        &mut self,
        mut budget: usize,
        sessions: &mut Sessions,
        receivers: &mut impl Receivers,
        out: &mut Outputs,
    ) -> usize {
        let _guard = AbortOnUnwind;
        let before = budget;
        // Each room gets at most a part, so that a huge one does not hold up the others.
        while budget > 0
            && let Some(key) = self.busy.pop_front()
        {
            let share = budget.min(TURN_ROOM_DELIVERIES_MAX);
            let used = self.run_room(key, share, sessions, receivers, out);
            budget -= used.min(budget);
            if let Some(room) = self.rooms.get_mut(key) {
                if room.lane.is_empty() {
                    let lane = std::mem::take(&mut room.lane);
                    let is_small = lane.capacity() <= SPARE_LANE_ITEMS_MAX;
                    if is_small && self.spare_lanes.len() < SPARE_LANES_MAX {
                        self.spare_lanes.push(lane);
                    }
                    self.close_if_idle(key);
                } else {
                    self.busy.push_back(key);
                }
            }
            if matches!(out.back(), Some(Output::Reply { .. })) {
                break;
            }
        }
        before - budget
    }

    fn run_room(
        &mut self,
        key: LocalRoomKey,
        share: usize,
        sessions: &mut Sessions,
        receivers: &mut impl Receivers,
        out: &mut Outputs,
    ) -> usize {
        let mut used = 0;
        while used < share {
            let Some(room) = self.rooms.get_mut(key) else {
                return used;
            };
            if room.revision != self.revision {
                room.revision = self.revision;
                room.slow_client = self.config.room_options(&room.name).slow_client;
            }
            match room.lane.pop_front() {
                None => break,
                Some(LaneItem::Frames(mut fan_out)) => {
                    fan_out.gather(&mut room.lane, room.slow_client);
                    let budget = share - used;
                    used += if key == self.all_room {
                        fan_out.run_for_all(key, room, budget, sessions, receivers)
                    } else {
                        fan_out.run(key, room, budget, sessions, receivers)
                    };
                    if fan_out.is_done() {
                        used += 1;
                        out.push_back(Output::ReturnWindow {
                            to: fan_out.from,
                            bytes: fan_out.window,
                        });
                    } else {
                        room.lane.push_front(LaneItem::Frames(fan_out));
                    }
                }
                Some(LaneItem::Reply { to, id, reply }) => {
                    // The messages behind it must not overtake it.
                    self.on_reply(key, to, id, reply, sessions, out);
                    return used + 1;
                }
                Some(LaneItem::Sweep) => {
                    used += 1;
                    room.sweeping = false;
                    room.sweep(key, sessions);
                }
            }
        }
        used
    }
}
