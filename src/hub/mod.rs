//! L2: who receives. Rooms, their members, users, and the routes between cores.
//!
//! Every room has a home core, `hash(name) mod cores`, which alone numbers its messages and knows
//! its members ([`home`]). Every core knows its own members and hands out to them ([`edge`]).
//! Between the two go plain messages ([`wire`]): requests to the home, deliveries back.
//!
//! ```text
//!  publisher's core          home core                   interested cores
//!  ───────────────           ─────────                   ────────────────
//!  edge ── Request::Publish ─▶ home: seq, encode once ─┬▶ Delivery::Frames ─▶ lane ─▶ members
//!                                                      └▶ Delivery::Reply  ─▶ lane ─▶ publisher
//! ```
//!
//! The hub has no queue of its own towards other cores: what it has to say is pushed to an
//! [`Outputs`], which its caller empties. Messages to its own core take the same way.

pub mod directory;
pub mod edge;
pub mod home;
#[cfg(test)]
mod tests;
pub mod window;
pub mod wire;

use std::{collections::VecDeque, hash::Hash, sync::Arc};

use compact_str::CompactString;

use self::{
    directory::Directory,
    edge::{Edge, Sessions},
    home::Homes,
    window::Windows,
    wire::{Delivery, DirectMessage, HomeRoomKey, Reply, Request},
};
use crate::{
    base::{
        abort::AbortOnUnwind,
        ids::{CoreId, SessionKey},
        rng::Rng,
        time::Now,
    },
    config::{Config, RoomOptions},
    proto::ws::deflate::Tally,
};

/// The reserved room that every client is in.
pub const ALL_ROOM: &str = "@all";

/// Whether `name` belongs to the gateway.
pub fn is_reserved(name: &str) -> bool {
    name.starts_with('@')
}

/// What the hub has to say, in order.
pub type Outputs = VecDeque<Output>;

/// One thing the hub has to say.
#[derive(Debug)]
pub enum Output {
    /// To a room's home, or a user's directory core, or a client's own core.
    Request {
        /// Which core; may be this one.
        to: CoreId,
        /// What.
        request: Request,
    },
    /// To a core with members.
    Deliver {
        /// Which core; may be this one.
        to: CoreId,
        /// What.
        delivery: Delivery,
    },
    /// To one of this core's sessions.
    Reply {
        /// Which.
        to: SessionKey,
        /// The command's correlation id.
        id: Option<CompactString>,
        /// The answer.
        reply: Reply,
    },
    /// To one of this core's sessions.
    Direct {
        /// Which.
        to: SessionKey,
        /// The message.
        message: Arc<DirectMessage>,
    },
    /// To one of this core's sessions, encoded already.
    Message {
        /// Which.
        to: SessionKey,
        /// The payload of a text message.
        payload: Vec<u8>,
    },
    /// Call [`Hub::on_room_timer`] with this room after a while.
    WakeRoom {
        /// The room, at home here.
        room: HomeRoomKey,
        /// In how many milliseconds, or somewhat later.
        after_ms: u32,
    },
    /// A delivery from `to` has been handed out: its bytes are free again.
    ReturnWindow {
        /// Which core; may be this one.
        to: CoreId,
        /// How many bytes.
        bytes: u64,
    },
}

/// How names find their cores; the same on every core of a process, another in each process.
#[derive(Clone, Debug)]
pub struct Routes {
    keys: ahash::RandomState,
    cores: u16,
}

impl Routes {
    /// Routes over `cores` cores, keyed by `seed` so that clients can't choose a name's core.
    pub const fn new(cores: u16, seed: [u64; 4]) -> Self {
        let [a, b, c, d] = seed;
        Self {
            keys: ahash::RandomState::with_seeds(a, b, c, d),
            cores,
        }
    }

    /// How many cores there are.
    pub const fn cores(&self) -> u16 {
        self.cores
    }

    /// The home core of a room, and the directory core of a user.
    pub fn core_of(&self, name: &str) -> CoreId {
        self.core_of_key(name)
    }

    /// The core that keeps what there is to know about `key`.
    pub fn core_of_key(&self, key: impl Hash) -> CoreId {
        (self.keys.hash_one(key) % u64::from(self.cores)) as CoreId
    }
}

/// One core's slice of the rooms.
#[derive(Debug)]
pub struct Hub {
    core: CoreId,
    routes: Routes,
    homes: Homes,
    edge: Edge,
    directory: Directory,
    windows: Windows,
}

impl Hub {
    /// The hub of `core`.
    pub fn new(core: CoreId, routes: Routes, config: Arc<Config>, rng: Rng) -> Self {
        let edge = Edge::new(routes.core_of(ALL_ROOM), Arc::clone(&config));
        let mut homes = Homes::new(config, rng);
        if routes.core_of(ALL_ROOM) == core {
            homes.open_all_room(routes.cores(), edge.all_room());
        }
        Self {
            core,
            homes,
            edge,
            directory: Directory::default(),
            windows: Windows::new(routes.cores()),
            routes,
        }
    }

    /// Its own core.
    pub const fn core(&self) -> CoreId {
        self.core
    }

    /// How names find their cores.
    pub const fn routes(&self) -> &Routes {
        &self.routes
    }

    /// This core's members.
    pub const fn edge(&self) -> &Edge {
        &self.edge
    }

    /// This core's members.
    pub const fn edge_mut(&mut self) -> &mut Edge {
        &mut self.edge
    }

    /// Takes a request that `from` sent, as a home or a directory or a client's own core.
    /// `sessions` are this core's.
    pub fn handle_request(
        &mut self,
        now: Now,
        from: CoreId,
        request: Request,
        sessions: &Sessions,
        out: &mut Outputs,
    ) {
        let _guard = AbortOnUnwind;
        match request {
            Request::Join(join) => self.homes.join(now, from, *join, &mut self.windows, out),
            Request::Leave(leave) => self.homes.leave(from, leave, &mut self.windows, out),
            Request::Publish(publish) => {
                let publish = publish.as_ref().borrow();
                self.homes
                    .publish(now, from, publish, &mut self.windows, out);
            }
            Request::Inspect(inspect) => self.homes.inspect(from, &inspect, out),
            Request::UserOnline { user, client } => self.directory.online(user, client),
            Request::UserOffline { user, client } => self.directory.offline(&user, client),
            Request::SendToUser(send) => {
                self.directory.send(from, *send, &mut self.windows, out);
            }
            Request::SendToClient(send) => {
                let reached = send.to.core == self.core
                    && sessions
                        .get(send.to.session)
                        .is_some_and(|session| session.encoding.has_envelope());
                let queued = u32::from(reached);
                if queued == 1 {
                    out.push_back(Output::Direct {
                        to: send.to.session,
                        message: Arc::clone(&send.message),
                    });
                }
                let reply = Reply::Queued(queued);
                out.push_back(Output::Deliver {
                    to: from,
                    delivery: Delivery::reply(send.message.from, send.id, reply),
                });
            }
        }
    }

    /// Takes up another configuration: what it says of rooms holds from now on.
    pub fn set_config(&mut self, config: Arc<Config>) {
        self.edge.set_config(Arc::clone(&config));
        self.homes.set_config(config);
    }

    /// What holds for the room called `name`, wherever its home is.
    pub fn room_options(&self, name: &str) -> RoomOptions {
        self.homes.room_options(name)
    }

    /// The time that an [`Output::WakeRoom`] asked for has come. A room that is gone by now does
    /// not mind.
    pub fn on_room_timer(&mut self, room: HomeRoomKey, out: &mut Outputs) {
        let _guard = AbortOnUnwind;
        self.homes.on_timer(room, &mut self.windows, out);
    }

    /// Publishes to a room whose home is this core, without copying the payload first.
    pub fn publish_at_home(&mut self, now: Now, publish: wire::PublishRef<'_>, out: &mut Outputs) {
        let _guard = AbortOnUnwind;
        self.homes
            .publish(now, self.core, publish, &mut self.windows, out);
    }

    /// A turn begins: so many bytes of messages may be compressed in it.
    pub const fn allow_compression(&mut self, bytes: usize) {
        self.homes.allow_compression(bytes);
    }

    /// What was compressed for rooms since the start.
    pub const fn compressed(&self) -> Tally {
        self.homes.compressed()
    }

    /// Bytes of memory that compressing takes.
    pub const fn compression_bytes(&self) -> usize {
        self.homes.compression_bytes()
    }

    /// Gives back the memory that is not needed for longer than a moment.
    pub fn trim(&mut self) {
        self.homes.trim();
    }

    /// `to` has handed out deliveries of this many bytes.
    pub fn return_window(&mut self, to: CoreId, bytes: u64) {
        self.windows.give_back(to, bytes);
    }

    /// Rooms that have this core as their home, without the reserved ones.
    pub fn rooms_open(&self) -> usize {
        self.homes.open()
    }

    /// Bytes of deliveries not yet handed out, over all cores.
    pub fn window_bytes(&self) -> u64 {
        self.windows.total()
    }

    /// Messages published here since the start.
    pub const fn published(&self) -> u64 {
        self.homes.published()
    }

    /// Joins and leaves not announced since the start.
    pub const fn announcements_suppressed(&self) -> u64 {
        self.homes.announcements_suppressed()
    }

    /// Messages replaced within a coalescing room's interval since the start.
    pub const fn coalesced(&self) -> u64 {
        self.homes.coalesced()
    }

    /// Times that a coalescing room handed out before its interval's end since the start.
    pub const fn flushed_early(&self) -> u64 {
        self.homes.flushed_early()
    }

    /// Sessions not entered in the directory since the start, their user having too many.
    pub const fn user_sessions_refused(&self) -> u64 {
        self.directory.refused()
    }

    /// Users in this core's part of the directory.
    pub fn users(&self) -> usize {
        self.directory.len()
    }
}
