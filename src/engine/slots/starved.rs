//! Connections whose receive found no buffer, in the order in which they get one.
//!
//! In order of arrival, but who got nothing since it was last armed goes before who got
//! something: a receive may take many buffers at once, and one that always has input would
//! otherwise take all of them each time, before the others.

use std::collections::VecDeque;

use super::super::ConnKey;

/// The queue; it holds each connection as often as it was pushed.
#[derive(Debug, Default)]
pub(super) struct Starved {
    empty_handed: VecDeque<ConnKey>,
    fed: VecDeque<ConnKey>,
}

impl Starved {
    /// Adds one that found no buffer, `fed` if it had got one since it was armed.
    pub(super) fn push(&mut self, conn: ConnKey, fed: bool) {
        let queue = if fed {
            &mut self.fed
        } else {
            &mut self.empty_handed
        };
        queue.push_back(conn);
    }

    /// The next in turn.
    pub(super) fn pop(&mut self) -> Option<ConnKey> {
        self.empty_handed
            .pop_front()
            .or_else(|| self.fed.pop_front())
    }
}
