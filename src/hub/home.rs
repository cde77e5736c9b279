//! Rooms at their home core: who is a member, what number comes next, which cores want to hear.

mod encode;
mod gathering;
mod members;
mod publish;

use std::sync::Arc;

use bytes::Bytes;
use hashbrown::HashMap;
use smallvec::SmallVec;

use self::{
    encode::{announcement, message_prefix},
    gathering::Gathering,
    members::{Member, Members},
};
use super::{
    ALL_ROOM, Output, Outputs,
    window::Windows,
    wire::{
        Delivery, Epoch, Frames, HomeRoomKey, Inspect, Join, JoinSince, Joined, Leave, MemberList,
        PresenceList, Reply, RoomInfo, RoomRef, push_member,
    },
};
use crate::{
    base::{
        ids::{ClientId, CoreId, Encoding},
        limits::{PRESENCE_LIST_BYTES_MAX, PRESENCE_LIST_MAX, TURN_DEFLATE_BYTES_MAX},
        rng::Rng,
        slab::Slab,
        time::Now,
    },
    config::{Config, RoomOptions},
    proto::{
        envelope::{CommandError, ErrorCode},
        ws::deflate::{Compression, Tally},
    },
    session::{LocalRoomKey, deflate},
};

/// The rooms that have this core as their home.
#[derive(Debug)]
pub struct Homes {
    config: Arc<Config>,
    /// How often the configuration was replaced: rooms look theirs up again when it has been.
    revision: u32,
    rooms: Slab<Room>,
    by_name: HashMap<Arc<str>, HomeRoomKey, ahash::RandomState>,
    all_room: Option<HomeRoomKey>,
    rng: Rng,
    /// Whether some client may take compressed frames.
    deflates: bool,
    compression: Compression,
    published: u64,
    announcements_suppressed: u64,
    coalesced: u64,
    flushed_early: u64,
}

#[derive(Debug)]
struct Room {
    name: Arc<str>,
    options: RoomOptions,
    /// The [`Homes::revision`] that its options are of.
    revision: u32,
    /// `{"type":"message","room":"…"`: the same for all its messages.
    prefix: Box<[u8]>,
    epoch: Epoch,
    seq: u64,
    members: Members,
    /// The cores that have members, in order of arrival.
    interested: SmallVec<[Interest; 1]>,
    /// What waits for the end of an interval, while there is one.
    gathering: Option<Box<Gathering>>,
}

#[derive(Debug)]
struct Interest {
    core: CoreId,
    /// The room there.
    local: LocalRoomKey,
    /// Members there, by encoding.
    members: [u32; Encoding::COUNT],
    /// Of these, those that take compressed frames.
    deflating: [u32; Encoding::COUNT],
}

impl Room {
    fn new(name: Arc<str>, config: &Config, revision: u32, rng: &mut Rng) -> Self {
        Self {
            options: config.room_options(&name),
            revision,
            prefix: message_prefix(&name),
            name,
            epoch: epoch(rng),
            seq: 0,
            members: Members::default(),
            interested: SmallVec::new(),
            gathering: None,
        }
    }

    fn interest(&mut self, core: CoreId, local: LocalRoomKey) -> &mut Interest {
        let index = match self.interested.iter().position(|i| i.core == core) {
            Some(index) => index,
            None => {
                self.interested.push(Interest {
                    core,
                    local,
                    members: [0; Encoding::COUNT],
                    deflating: [0; Encoding::COUNT],
                });
                self.interested.len() - 1
            }
        };
        let interest = &mut self.interested[index];
        // A core that lost its last member and got another knows the room by a new key.
        interest.local = local;
        interest
    }

    fn wants(&self, encoding: Encoding) -> bool {
        self.interested
            .iter()
            .any(|i| i.members[encoding.index()] > 0)
    }

    fn wants_deflated(&self, encoding: Encoding) -> bool {
        self.interested
            .iter()
            .any(|i| i.deflating[encoding.index()] > 0)
    }

    fn has_room_everywhere(&self, cost: u64, windows: &Windows) -> bool {
        self.interested
            .iter()
            .all(|i| windows.has_room(i.core, cost))
    }

    /// Sends a message to every interested core, each in the encodings it has members for.
    fn deliver(
        &self,
        frames: Frames,
        skip: Option<ClientId>,
        windows: &mut Windows,
        out: &mut Outputs,
    ) {
        for interest in &self.interested {
            let mut mine = Frames {
                more: frames.more,
                kind: frames.kind.clone(),
                ..Frames::default()
            };
            let mut bytes = 0;
            for encoding in Encoding::ALL {
                let index = encoding.index();
                if interest.members[index] == 0 {
                    continue;
                }
                let mut is_for_all = false;
                if let Some(deflated) = &frames.deflated
                    && let Some(frame) = &deflated[index]
                    && interest.deflating[index] > 0
                {
                    bytes += frame.len();
                    mine.deflated.get_or_insert_default()[index] = Some(frame.clone());
                    is_for_all = interest.deflating[index] == interest.members[index];
                }
                if !is_for_all {
                    mine.by_encoding[index].clone_from(&frames.by_encoding[index]);
                    bytes += mine.by_encoding[index].as_ref().map_or(0, Bytes::len);
                }
            }
            if bytes == 0 {
                continue;
            }
            let window = Windows::cost(bytes);
            windows.take(interest.core, window);
            out.push_back(Output::Deliver {
                to: interest.core,
                delivery: Delivery::Frames {
                    room: interest.local,
                    frames: mine,
                    skip: skip.filter(|client| client.core == interest.core),
                    window,
                },
            });
        }
    }

    fn member_list(&self) -> MemberList {
        let mut json = vec![b'['];
        let mut truncated = false;
        for (n, member) in self.members.iter().enumerate() {
            if n >= PRESENCE_LIST_MAX || json.len() >= PRESENCE_LIST_BYTES_MAX {
                truncated = true;
                break;
            }
            if n > 0 {
                json.push(b',');
            }
            let state = member.state.as_ref().map(|state| &***state);
            push_member(
                &mut json,
                member.client,
                member.user.as_deref(),
                state,
                member.since,
            );
        }
        json.push(b']');
        MemberList {
            json: json.into(),
            truncated,
        }
    }
}

impl Homes {
    /// No rooms.
    pub fn new(config: Arc<Config>, rng: Rng) -> Self {
        let mut compression = Compression::new(deflate::settings(&config.deflate));
        compression.allow(TURN_DEFLATE_BYTES_MAX);
        Self {
            deflates: config.deflates_somewhere(),
            compression,
            config,
            revision: 0,
            rooms: Slab::new(0),
            by_name: HashMap::default(),
            all_room: None,
            rng,
            published: 0,
            announcements_suppressed: 0,
            coalesced: 0,
            flushed_early: 0,
        }
    }

    /// Opens the reserved room that every core always wants to hear, under `local` on each.
    pub fn open_all_room(&mut self, cores: u16, local: LocalRoomKey) {
        let mut room = self.new_room(Arc::from(ALL_ROOM));
        // Who is there, no home knows: one of either kind stands for all.
        for core in 0..cores {
            let interest = room.interest(core, local);
            interest.members[Encoding::Json.index()] = 2;
            interest.deflating[Encoding::Json.index()] = 1;
        }
        let name = Arc::clone(&room.name);
        let key = self.rooms.insert(room);
        self.by_name.insert(name, key);
        self.all_room = Some(key);
    }

    /// See [`Hub::set_config`](super::Hub::set_config).
    pub fn set_config(&mut self, config: Arc<Config>) {
        self.deflates = config.deflates_somewhere();
        self.config = config;
        self.revision = self.revision.wrapping_add(1);
    }

    /// A turn begins: so many bytes may be compressed in it.
    pub(super) const fn allow_compression(&mut self, bytes: usize) {
        self.compression.allow(bytes);
    }

    /// What was compressed since the start.
    pub(super) const fn compressed(&self) -> Tally {
        self.compression.tally()
    }

    /// Bytes of memory that compressing takes.
    pub(super) const fn compression_bytes(&self) -> usize {
        self.compression.memory_bytes()
    }

    /// Gives the memory back that compressing takes.
    pub(super) fn trim(&mut self) {
        self.compression.trim();
    }

    fn new_room(&mut self, name: Arc<str>) -> Room {
        Room::new(name, &self.config, self.revision, &mut self.rng)
    }

    /// How many rooms there are, without the reserved ones.
    pub fn open(&self) -> usize {
        self.rooms.len() - usize::from(self.all_room.is_some())
    }

    /// Messages passed on since the start.
    pub const fn published(&self) -> u64 {
        self.published
    }

    /// Joins and leaves not announced since the start.
    pub const fn announcements_suppressed(&self) -> u64 {
        self.announcements_suppressed
    }

    /// Messages replaced within an interval since the start.
    pub const fn coalesced(&self) -> u64 {
        self.coalesced
    }

    /// Intervals cut short since the start, more waiting than may.
    pub const fn flushed_early(&self) -> u64 {
        self.flushed_early
    }

    /// What holds for the room called `name`.
    pub fn room_options(&self, name: &str) -> RoomOptions {
        self.config.room_options(name)
    }

    fn find(&self, room: &RoomRef) -> Option<HomeRoomKey> {
        match room {
            RoomRef::Key(key) => self.rooms.get(*key).map(|_| *key),
            RoomRef::Name(name) => self.by_name.get(name).copied(),
        }
    }

    pub(super) fn join(
        &mut self,
        now: Now,
        from: CoreId,
        join: Join,
        windows: &mut Windows,
        out: &mut Outputs,
    ) {
        let reply = match self.try_join(now, from, &join, windows, out) {
            Ok(joined) => Reply::Joined(Box::new(joined)),
            Err(error) => Reply::JoinRefused(error),
        };
        out.push_back(Output::Deliver {
            to: from,
            delivery: Delivery::Reply {
                room: Some(join.local),
                client: join.client,
                id: join.id,
                reply,
            },
        });
    }

    fn try_join(
        &mut self,
        now: Now,
        from: CoreId,
        join: &Join,
        windows: &mut Windows,
        out: &mut Outputs,
    ) -> Result<Joined, CommandError> {
        let key = match self.by_name.get(&join.room) {
            Some(key) => *key,
            None => {
                let room = self.new_room(Arc::clone(&join.room));
                let key = self.rooms.insert(room);
                self.by_name.insert(Arc::clone(&join.room), key);
                key
            }
        };
        let room = current(&mut self.rooms, key, &self.config, self.revision);
        if room.members.get(join.client).is_none() {
            if room.members.len() >= room.options.room_members_max as usize {
                return Err(CommandError::new(
                    ErrorCode::RoomFull,
                    "the room has all the members it may have",
                ));
            }
            let announce = room.members.len() < room.options.announce_members_max as usize;
            if announce && !room.has_room_everywhere(ANNOUNCEMENT_COST, windows) {
                return Err(CommandError::new(
                    ErrorCode::Overloaded,
                    "the room is behind with its messages; try again",
                ));
            }
            room.members.insert(Member {
                client: join.client,
                encoding: join.encoding,
                takes_deflated: join.takes_deflated,
                user: join.user.clone(),
                state: join.state.clone().map(Box::new),
                since: now.unix_ms,
            });
            // Announced before the joiner's core counts it, and before its `ok`: it does not
            // hear of itself.
            if !announce {
                self.announcements_suppressed += 1;
            } else if room.wants(Encoding::Json) {
                let frames = announcement(room, "user_joined", join.client, &join.user, None);
                room.deliver(frames, None, windows, out);
            }
            let interest = room.interest(from, join.local);
            interest.members[join.encoding.index()] += 1;
            interest.deflating[join.encoding.index()] += u32::from(join.takes_deflated);
        } else if let Some(state) = &join.state
            && let Some(member) = room.members.get_mut(join.client)
        {
            member.state = Some(Box::new(state.clone()));
        }
        Ok(Joined {
            home: key,
            epoch: room.epoch.clone(),
            // What still gathers will be handed out to this member too.
            seq: room.head(),
            gap_free: room.options.is_gap_free(),
            members: room.members.len() as u32,
            recovered: is_recovered(room, join.since.as_ref()),
            users: join.presence.then(|| room.member_list()),
        })
    }

    pub(super) fn leave(
        &mut self,
        from: CoreId,
        leave: Leave,
        windows: &mut Windows,
        out: &mut Outputs,
    ) {
        let left = self.try_leave(from, &leave, windows, out);
        if leave.command {
            out.push_back(Output::Deliver {
                to: from,
                delivery: Delivery::Reply {
                    room: Some(leave.local),
                    client: leave.client,
                    id: leave.id,
                    reply: if left {
                        Reply::Left
                    } else {
                        Reply::Error(not_joined())
                    },
                },
            });
        }
    }

    fn try_leave(
        &mut self,
        from: CoreId,
        leave: &Leave,
        windows: &mut Windows,
        out: &mut Outputs,
    ) -> bool {
        let Some(key) = self.find(&leave.room) else {
            return false;
        };
        let room = current(&mut self.rooms, key, &self.config, self.revision);
        let Some(member) = room.members.remove(leave.client) else {
            return false;
        };
        if let Some(index) = room.interested.iter().position(|i| i.core == from) {
            let interest = &mut room.interested[index];
            interest.members[member.encoding.index()] -= 1;
            interest.deflating[member.encoding.index()] -= u32::from(member.takes_deflated);
            if interest.members.iter().all(|n| *n == 0) {
                room.interested.swap_remove(index);
            }
        }
        if room.members.is_empty() {
            let name = Arc::clone(&room.name);
            self.rooms.remove(key);
            self.by_name.remove(&name);
        } else if room.members.len() < room.options.announce_members_max as usize {
            // Not admitted by the window: a leave can't be refused, and there are no more of
            // them than there were members.
            if room.wants(Encoding::Json) {
                let (client, user, reason) = (leave.client, &member.user, Some(leave.reason));
                let frames = announcement(room, "user_left", client, user, reason);
                // The leaver's own core may still list it until the `ok` gets there.
                room.deliver(frames, Some(client), windows, out);
            }
        } else {
            self.announcements_suppressed += 1;
        }
        true
    }

    pub(super) fn inspect(&self, from: CoreId, inspect: &Inspect, out: &mut Outputs) {
        let room = self
            .by_name
            .get(&inspect.room)
            .and_then(|key| self.rooms.get(*key));
        let counts = |room: &Room| (room.members.len() as u32, room.members.users() as u32);
        let (members, users) = room.map_or((0, 0), counts);
        let reply = if inspect.list {
            Reply::Presence(Box::new(PresenceList {
                members: room.map_or_else(
                    || MemberList {
                        json: Bytes::from_static(b"[]"),
                        truncated: false,
                    },
                    Room::member_list,
                ),
                count: members,
                users,
            }))
        } else {
            Reply::Info(RoomInfo {
                members,
                users,
                seq: room.map_or(0, |room| room.seq),
                epoch: room.map_or_else(Epoch::default, |room| room.epoch.clone()),
            })
        };
        out.push_back(Output::Deliver {
            to: from,
            delivery: Delivery::Reply {
                room: inspect.local,
                client: inspect.client,
                id: inspect.id.clone(),
                reply,
            },
        });
    }
}

/// The room at `key`, which was just found, with the options that hold now.
fn current<'a>(
    rooms: &'a mut Slab<Room>,
    key: HomeRoomKey,
    config: &Config,
    revision: u32,
) -> &'a mut Room {
    let room = rooms.get_mut(key).expect("invariant: just found");
    if room.revision != revision {
        room.revision = revision;
        room.options = config.room_options(&room.name);
    }
    room
}

/// What an announcement takes of a window at most, about.
const ANNOUNCEMENT_COST: u64 = 1024;

/// Without history nothing can be replayed: a client has missed nothing only if it stands at the
/// head of the very same numbering.
fn is_recovered(room: &Room, since: Option<&JoinSince>) -> bool {
    since
        .and_then(|since| since.position.as_ref())
        .is_some_and(|(epoch, seq)| *epoch == room.epoch && *seq == room.head())
}

fn not_joined() -> CommandError {
    CommandError::new(ErrorCode::NotJoined, "join the room first")
}

fn epoch(rng: &mut Rng) -> Epoch {
    const ALPHABET: &[u8; 32] = b"0123456789abcdefghjkmnpqrstvwxyz";
    let mut bits = rng.next_u64();
    (0..8)
        .map(|_| {
            let digit = ALPHABET[(bits & 31) as usize];
            bits >>= 5;
            char::from(digit)
        })
        .collect()
}
