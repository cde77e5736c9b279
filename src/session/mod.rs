//! L2: one client past its handshake: who it is, where it is a member, what waits for it.
//!
//! A [`Session`] never sees a frame, a request or a socket; it belongs to a transport, which has
//! its [`outbound`] queue.

pub mod addresses;
pub mod deflate;
pub mod outbound;
pub mod rates;

use std::sync::Arc;

use smallvec::SmallVec;

use crate::base::{
    ids::{ClientId, Encoding},
    slab::Key,
};

/// A room as one core's members see it.
pub type LocalRoomKey = Key;

/// Where a client stands in a room.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Membership {
    /// The room.
    pub room: LocalRoomKey,
    /// Where the room's own list holds this session.
    pub place: Place,
    /// Joins that were asked for and not answered yet.
    pub pending: u32,
}

/// See [`Membership::place`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place(u32);

impl Place {
    /// Asked for, not answered yet.
    pub const JOINING: Self = Self(u32::MAX);

    /// At this index of the list.
    pub const fn at(index: usize) -> Self {
        debug_assert!(
            index < u32::MAX as usize,
            "more members than a core can have"
        );
        Self(index as u32)
    }

    /// The index, once it has one.
    pub const fn index(self) -> Option<usize> {
        match self {
            Self::JOINING => None,
            Self(index) => Some(index as usize),
        }
    }
}

/// A client past its handshake.
#[derive(Debug)]
pub struct Session {
    /// Its public name.
    pub client: ClientId,
    /// Its user, if it named one.
    pub user: Option<Arc<str>>,
    /// How its messages are written.
    pub encoding: Encoding,
    /// Whether its transport takes frames that were compressed for all of a room.
    pub takes_deflated: bool,
    /// The transport that serves it now.
    pub transport: Key,
    /// Its rooms, without the reserved one that everyone is in.
    pub rooms: SmallVec<[Membership; 1]>,
    /// How many direct messages it got.
    pub directs: u64,
}

impl Session {
    /// A session without rooms.
    pub const fn new(
        client: ClientId,
        user: Option<Arc<str>>,
        encoding: Encoding,
        transport: Key,
    ) -> Self {
        Self {
            client,
            user,
            encoding,
            takes_deflated: false,
            transport,
            rooms: SmallVec::new_const(),
            directs: 0,
        }
    }

    /// Its membership in `room`, asked for or held.
    pub fn membership(&self, room: LocalRoomKey) -> Option<&Membership> {
        self.rooms.iter().find(|m| m.room == room)
    }

    /// Its membership in `room`, asked for or held.
    pub fn membership_mut(&mut self, room: LocalRoomKey) -> Option<&mut Membership> {
        self.rooms.iter_mut().find(|m| m.room == room)
    }

    /// Forgets its membership in `room`.
    pub fn forget(&mut self, room: LocalRoomKey) {
        self.rooms.retain(|m| m.room != room);
    }
}
