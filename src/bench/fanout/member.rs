//! A member of a room, and what is told of one that does not read.

use memchr::memmem;

use super::{End, Order};

/// One connection in its room.
#[derive(Debug)]
pub(super) struct Member {
    pub(super) room: u32,
    pub(super) role: Role,
    pub(super) order: Order,
    /// The beginning of a message that has not come whole.
    pub(super) carry: Vec<u8>,
    pub(super) is_too_long: bool,
}

/// What a member is there for.
#[derive(Debug)]
pub(super) enum Role {
    /// Its deliveries count.
    Receiver,
    /// A publisher that does not get its own messages.
    Mute,
    /// It does not read.
    Slow(SlowMember),
}

/// What became of a member that did not read.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct SlowMember {
    /// Deliveries that came after all.
    pub(crate) received: u64,
    /// Messages that told of a gap.
    pub(crate) gaps: u64,
    /// When the server was seen to have ended it.
    pub(crate) cut_at: Option<u64>,
    /// Its end, once that was read.
    pub(crate) end: Option<End>,
}

impl Member {
    pub(super) fn new(room: u32, role: Role) -> Self {
        Self {
            room,
            role,
            order: Order::default(),
            carry: Vec::new(),
            is_too_long: false,
        }
    }
}

impl SlowMember {
    /// A message came that is no delivery.
    pub(super) fn on_other(&mut self, message: &[u8]) {
        let is_gap = memmem::find(message, br#""type":"gap""#).is_some();
        self.gaps += u64::from(is_gap);
    }
}
