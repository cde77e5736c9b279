//! Input that must wait, and how it is taken up again: in order, and nothing of it lost.

use super::{
    Action, Core,
    conn::{Receive, Stall, StallCause, State},
};
use crate::{
    base::limits::STALLED_SLICE_BYTES,
    engine::{CloseMode, ConnKey},
};

impl Core {
    pub(super) fn stall(&mut self, conn: ConnKey, rest: &[u8], cause: StallCause) {
        self.counters.stalls_total.inc();
        self.hold(conn, rest.to_vec(), cause);
    }

    /// Keeps input that must wait, and receives no more.
    pub(super) fn hold(&mut self, conn: ConnKey, bytes: Vec<u8>, cause: StallCause) {
        let Some(state) = self.conns.get_mut(conn) else {
            return;
        };
        state.rare_mut().stalled = Some(Stall {
            bytes,
            at: 0,
            cause,
        });
        if state.receive == Receive::On {
            state.receive = Receive::Pausing;
            self.actions.push_back(Action::PauseReceive(conn));
        }
        match cause {
            StallCause::Credit => self.short_of_credit.push_back(conn),
            StallCause::Turn => self.deferred.push_back((self.turn, conn)),
            // Taken up when the backlog has gone down, or the answer has come.
            StallCause::Backlog | StallCause::Admission => {}
        }
    }

    /// Takes up input that has waited.
    pub(super) fn resume_stalled(&mut self, conn: ConnKey) {
        let Some(state) = self.conns.get_mut(conn) else {
            return;
        };
        let Some(mut stall) = state.take_stalled() else {
            return;
        };
        // What it has sent meanwhile comes only now; its silence was not its own.
        state.last_read = self.now.mono;
        // What follows a head is taken up, or waits again, by itself.
        if state.is_head() && state.is_tls && state.tls().is_none() {
            self.begin_behind_header(conn, &mut stall.bytes);
        } else if state.is_head() {
            self.on_head_bytes(conn, &mut stall.bytes);
        } else if self.feed_stalled(conn, stall) {
            return;
        }
        self.go_on_receiving(conn);
        if let Some(state) = self.conns.get(conn)
            && state.ended
            && !state.is_stalled()
            && !matches!(state.state, State::Lingering { .. })
        {
            self.drop_conn(conn, CloseMode::Orderly);
        }
    }

    /// Works through input that has waited. Whether it must wait again, or is of no more use.
    fn feed_stalled(&mut self, conn: ConnKey, stall: Stall) -> bool {
        let Stall {
            mut bytes, mut at, ..
        } = stall;
        loop {
            // Slice by slice: what has to wait again is copied, and there may be a great deal of it.
            let end = bytes.len().min(at + STALLED_SLICE_BYTES);
            self.feed(conn, None, &mut bytes[at..end], None);
            let Some(state) = self.conns.get_mut(conn) else {
                return true;
            };
            if let Some(stall) = state.stalled() {
                stall.at = end - stall.bytes.len();
                stall.bytes = bytes;
                stall.give_back();
                return true;
            }
            at = end;
            if at == bytes.len() {
                return false;
            }
        }
    }
}
