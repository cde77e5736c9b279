//! What operations do when their time comes.

use super::{
    SimKernel, SimSocket,
    stream::{Pending, ReceiveKind, Sending, SocketState, Step},
};
use crate::engine::{
    ListenerId,
    slots::{Completion, Received},
};

impl SimKernel {
    pub(super) fn step_listener(&mut self, id: ListenerId) {
        let next_delay = self.delay();
        let listener = &mut self.listeners[usize::from(id)];
        let Some(accept) = &mut listener.accept else {
            return;
        };
        match accept.step(next_delay) {
            Step::Wait => return,
            Step::Go => {}
            Step::Cancel => return self.end_accept(id, Err(libc::ECANCELED)),
        }
        while !self.listeners[usize::from(id)].backlog.is_empty() {
            if self.fault(self.config.faults.accept_limit) {
                self.stats.accept_errors += 1;
                return self.end_accept(id, Err(libc::EMFILE));
            }
            let Some(stream) = self.listeners[usize::from(id)].backlog.pop_front() else {
                return;
            };
            if self.fault(self.config.faults.accept_abort) {
                self.stats.accept_errors += 1;
                self.abandon(stream);
                return self.end_accept(id, Err(libc::ECONNABORTED));
            }
            self.streams[stream].socket = SocketState::Open;
            let result = Ok(SimSocket(stream));
            if self.fault(self.config.faults.early_end) {
                self.stats.early_ends += 1;
                return self.end_accept(id, result);
            }
            self.posted.push_back(Completion::Accept {
                listener: id,
                result,
                more: true,
            });
        }
    }

    fn end_accept(&mut self, listener: ListenerId, result: Result<SimSocket, i32>) {
        let state = &mut self.listeners[usize::from(listener)];
        state.accept = None;
        if state.is_stopping {
            self.close_listener(listener);
        }
        self.posted.push_back(Completion::Accept {
            listener,
            result,
            more: false,
        });
    }

    /// Whoever waits there is turned away.
    pub(super) fn close_listener(&mut self, listener: ListenerId) {
        let state = &mut self.listeners[usize::from(listener)];
        state.is_closed = true;
        for stream in std::mem::take(&mut state.backlog) {
            self.abandon(stream);
        }
    }

    /// A connection that nobody accepts any more.
    fn abandon(&mut self, id: usize) {
        self.reset_to_peer(id);
        self.streams[id].socket = SocketState::Closed;
    }

    pub(super) fn step_receive(&mut self, id: usize) {
        let next_delay = self.delay();
        let stream = &mut self.streams[id];
        let Some(receive) = &mut stream.receive else {
            return;
        };
        let step = receive.step(next_delay);
        let is_multishot = matches!(receive.what, ReceiveKind::Multishot);
        match (step, is_multishot) {
            (Step::Wait, _) => {}
            (Step::Cancel, _) => self.end_receive(id, Err(libc::ECANCELED)),
            (Step::Go, true) => self.receive_shots(id),
            (Step::Go, false) => self.receive_once(id),
        }
    }

    fn receive_shots(&mut self, id: usize) {
        loop {
            let stream = &self.streams[id];
            let Some(tag) = stream.receive.as_ref().map(|op| op.tag) else {
                return;
            };
            let there = stream.inbound.len();
            if there == 0 {
                if let Some(end) = stream.end_of_input() {
                    self.end_receive(id, end.map(|()| 0));
                }
                return;
            }
            let len = there.min(self.pool.buffer_bytes() as usize);
            let len = self.part(len, self.config.faults.split);
            let starved = self.fault(self.config.faults.no_buffer);
            let bytes = &mut self.streams[id].inbound;
            let buffer = if starved { None } else { self.pool.begin() };
            let Some(buffer) = buffer else {
                self.stats.no_buffers += 1;
                return self.end_receive(id, Err(libc::ENOBUFS));
            };
            for (to, byte) in self
                .pool
                .space_mut(buffer)
                .iter_mut()
                .zip(bytes.drain(..len))
            {
                *to = byte;
            }
            let chunk = self.pool.piece(buffer, len as u32, false);
            let more = !self.fault(self.config.faults.early_end);
            self.posted.push_back(Completion::Receive {
                tag,
                received: Received::Data(chunk),
                more,
            });
            if !more {
                self.stats.early_ends += 1;
                self.streams[id].receive = None;
                return;
            }
            if self.fault(self.config.faults.split) {
                return;
            }
        }
    }

    fn receive_once(&mut self, id: usize) {
        let stream = &self.streams[id];
        let there = stream.inbound.len();
        let Some(Pending {
            what: ReceiveKind::Into { buf, bytes_max },
            ..
        }) = &stream.receive
        else {
            return;
        };
        if there == 0 {
            if let Some(end) = stream.end_of_input() {
                self.end_receive(id, end.map(|()| 0));
            }
            return;
        }
        let room = (buf.capacity() - buf.len()).min(*bytes_max);
        assert!(
            room > 0,
            "a receive into no space looks like the end of the stream"
        );
        let len = self.part(there.min(room), self.config.faults.split);
        let stream = &mut self.streams[id];
        if let Some(Pending {
            what: ReceiveKind::Into { buf, .. },
            ..
        }) = &mut stream.receive
        {
            buf.extend(stream.inbound.drain(..len));
        }
        self.end_receive(id, Ok(len));
    }

    fn end_receive(&mut self, id: usize, result: Result<usize, i32>) {
        let Some(Pending { tag, what, .. }) = self.streams[id].receive.take() else {
            return;
        };
        self.posted.push_back(match what {
            ReceiveKind::Into { buf, .. } => Completion::ReceiveInto { tag, buf, result },
            ReceiveKind::Multishot => Completion::Receive {
                tag,
                received: result.map_or_else(Received::Failed, |_| Received::Eof),
                more: false,
            },
        });
    }

    pub(super) fn step_send(&mut self, id: usize) {
        let next_delay = self.delay();
        let Some(send) = &mut self.streams[id].send else {
            return;
        };
        match send.step(next_delay) {
            Step::Wait => return,
            Step::Go => {}
            Step::Cancel => return self.end_send(id, Err(libc::ECANCELED)),
        }
        let stream = &self.streams[id];
        if let Some(errno) = stream.send_error() {
            return self.end_send(id, Err(errno));
        }
        let free = self
            .config
            .socket_bytes
            .saturating_sub(stream.outbound.len());
        let Some(send) = &stream.send else {
            return;
        };
        let left = send.what.batch.remaining() - send.what.taken;
        assert!(left > 0, "a send of nothing");
        let wanted = left.min(free);
        if wanted == 0 {
            return;
        }
        let n = self.part(wanted, self.config.faults.short_send);
        let stream = &mut self.streams[id];
        let Some(Pending {
            what: Sending { batch, taken },
            ..
        }) = &mut stream.send
        else {
            return;
        };
        if stream.peer_closed {
            // The bytes go to nobody, and what comes back is a reset.
            stream.reset_by_peer = true;
        } else {
            let mut skip = *taken;
            let mut room = n;
            for run in batch.pending() {
                let (skipped, run) = run.split_at(skip.min(run.len()));
                skip -= skipped.len();
                let run = &run[..room.min(run.len())];
                stream.outbound.extend(run);
                room -= run.len();
            }
        }
        *taken += n;
        let is_whole = *taken == batch.remaining();
        // A short send may end there, or go on when there is room, like one with MSG_WAITALL.
        if is_whole || self.rng.one_in(2) {
            self.stats.short_sends += u64::from(!is_whole);
            self.end_send(id, Err(libc::ECANCELED));
        }
    }

    /// Ends a send: with what was taken, if anything was, and with `otherwise` if not.
    fn end_send(&mut self, id: usize, otherwise: Result<usize, i32>) {
        if let Some(Pending { tag, what, .. }) = self.streams[id].send.take() {
            let result = if what.taken > 0 {
                Ok(what.taken)
            } else {
                otherwise
            };
            self.posted.push_back(Completion::Send {
                tag,
                batch: what.batch,
                result,
            });
        }
    }

    pub(super) fn step_close(&mut self, id: usize) {
        let next_delay = self.delay();
        let stream = &mut self.streams[id];
        let Some(close) = &mut stream.close else {
            return;
        };
        if close.step(next_delay) != Step::Go {
            return;
        }
        let tag = close.tag;
        stream.close = None;
        stream.socket = SocketState::Closed;
        if stream.resets || !stream.inbound.is_empty() {
            self.reset_to_peer(id);
        } else {
            stream.gateway_ended = true;
        }
        self.streams[id].inbound.clear();
        self.posted.push_back(Completion::Close { tag });
    }
}
