//! What the server knows of each connection.

use crate::frame::Echo;

/// A connection: 64 bytes, and nothing besides while it is idle.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Connection {
    pub(crate) echo: Echo,
    /// Numbers of what it has to send, or [`NONE`].
    pub(crate) waiting: u32,
    pub(crate) in_flight: u32,
    pub(crate) room: u32,
    pub(crate) place: u32,
    pub(crate) stage: Stage,
    pub(crate) is_receiving: bool,
    pub(crate) is_dirty: bool,
    /// No more is to be sent once `in_flight` is done.
    pub(crate) is_ending: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stage {
    Free,
    Head,
    Echo,
    Room,
    /// Nothing more is read.
    Closing,
}

impl Connection {
    pub(crate) const FREE: Self = Self {
        echo: Echo::NEW,
        waiting: NONE,
        in_flight: NONE,
        room: NONE,
        place: NONE,
        stage: Stage::Free,
        is_receiving: false,
        is_dirty: false,
        is_ending: false,
    };
}

/// Connections by number, in pages that never move and are never copied.
#[derive(Default)]
pub(crate) struct Pages(Vec<Box<[Connection; PAGE]>>);

impl Pages {
    #[inline]
    pub(crate) fn get(&mut self, index: u32) -> &mut Connection {
        let index = index as usize;
        &mut self.0[index / PAGE][index % PAGE]
    }

    pub(crate) fn grow_to(&mut self, index: u32) {
        while self.0.len() * PAGE <= index as usize {
            self.0.push(Box::new([Connection::FREE; PAGE]));
        }
    }
}

/// No number.
pub(crate) const NONE: u32 = u32::MAX;
const PAGE: usize = 256;
const _: () = assert!(size_of::<Connection>() <= 64);
