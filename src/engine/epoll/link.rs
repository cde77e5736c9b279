//! What is known of one slot's socket: what the edges told, and what waits for the next.

use std::io;

use super::EpollSocket;
use crate::engine::slots::Tag;

/// One slot's socket. Small: there is one for every slot that was ever used.
#[derive(Debug, Default)]
pub(super) struct Link {
    /// Set from the registration to the close.
    pub(super) socket: Option<EpollSocket>,
    /// The slot's generation, as in its tag.
    pub(super) generation: u32,
    /// An error that a read met behind its data, to be told by the next; 0 is none.
    error: i32,
    pub(super) receiving: Receiving,
    /// A send waits for room.
    pub(super) is_sending: bool,
    /// A read may find something.
    pub(super) is_readable: bool,
    /// A write may find room.
    pub(super) is_writable: bool,
    /// The peer's end, or an error, is behind the data: reads go on until they say so.
    pub(super) has_ended: bool,
    /// Stands in the queue of those that can get on. Outlives the socket, as the entry does.
    pub(super) is_queued: bool,
}

/// How a slot receives.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Receiving {
    #[default]
    Off,
    /// Into the shared buffers until told otherwise.
    Shots,
    /// Once, into a buffer of its owner's.
    Single,
}

impl Link {
    /// Begins with `socket`, of which nothing is known: its first edge tells.
    pub(super) fn open(&mut self, socket: EpollSocket, tag: Tag) {
        *self = Self {
            socket: Some(socket),
            generation: tag.generation,
            is_writable: true,
            is_queued: self.is_queued,
            ..Self::default()
        };
    }

    /// Lets go of the socket.
    pub(super) fn close(&mut self) {
        *self = Self {
            is_queued: self.is_queued,
            ..Self::default()
        };
    }

    /// The tag of the slot at `index`.
    pub(super) const fn tag(&self, index: u32) -> Tag {
        Tag {
            index,
            generation: self.generation,
        }
    }

    /// Whether something waits for what is there.
    pub(super) fn can_get_on(&self) -> bool {
        (self.is_readable && self.receiving != Receiving::Off)
            || (self.is_writable && self.is_sending)
    }

    /// Keeps an error for the next read.
    pub(super) fn keep_error(&mut self, error: &io::Error) {
        self.error = error.raw_os_error().unwrap_or(libc::EIO);
    }

    /// The error that was kept, once.
    pub(super) fn take_error(&mut self) -> Option<io::Error> {
        let errno = std::mem::take(&mut self.error);
        (errno != 0).then(|| io::Error::from_raw_os_error(errno))
    }
}
