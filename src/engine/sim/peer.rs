//! The other end of the simulated network: what tests do in the clients' place.

use std::net::{Ipv4Addr, SocketAddr};

use super::{
    SimKernel,
    stream::{SocketState, Stream},
};
use crate::engine::ListenerId;

/// Names a client of the simulated network.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PeerId(pub(super) usize);

impl PeerId {
    /// Its address, as the gateway sees it.
    pub fn addr(self) -> SocketAddr {
        let [.., a, b, c] = (self.0 as u32).to_be_bytes();
        SocketAddr::from((Ipv4Addr::new(10, a, b, c), 40_000))
    }
}

/// What a peer's read found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PeerRead {
    /// So many bytes.
    Data(usize),
    /// Nothing yet.
    Empty,
    /// The gateway has ended its side, in order.
    Ended,
    /// The gateway, or the peer itself, has reset the connection.
    Reset,
}

/// The connection is gone: it was reset, or the gateway has closed it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Broken;

impl SimKernel {
    /// Connects to a listener; none if it is closed.
    pub fn connect(&mut self, listener: ListenerId) -> Option<PeerId> {
        let state = &mut self.listeners[usize::from(listener)];
        if state.is_closed {
            return None;
        }
        let peer = PeerId(self.streams.len());
        state.backlog.push_back(peer.0);
        self.streams.push(Stream::new());
        self.live.push(peer.0);
        Some(peer)
    }

    /// Writes as much of `bytes` as fits into the socket's buffer, and says how much that was.
    ///
    /// # Errors
    /// Where the connection is gone.
    pub fn peer_write(&mut self, peer: PeerId, bytes: &[u8]) -> Result<usize, Broken> {
        let capacity = self.config.socket_bytes;
        let stream = &mut self.streams[peer.0];
        if stream.reset_by_gateway || stream.reset_by_peer || stream.peer_ended {
            return Err(Broken);
        }
        if stream.socket == SocketState::Closed {
            // Nobody takes it: the answer is a reset, which may overtake what is unread.
            self.reset_to_peer(peer.0);
            return Err(Broken);
        }
        let n = bytes
            .len()
            .min(capacity.saturating_sub(stream.inbound.len()));
        stream.inbound.extend(&bytes[..n]);
        Ok(n)
    }

    /// Reads at most `max` bytes to the end of `out`.
    pub fn peer_read(&mut self, peer: PeerId, out: &mut Vec<u8>, max: usize) -> PeerRead {
        let stream = &mut self.streams[peer.0];
        let n = stream.outbound.len().min(max);
        if n > 0 {
            out.extend(stream.outbound.drain(..n));
            PeerRead::Data(n)
        } else if !stream.outbound.is_empty() {
            PeerRead::Empty
        } else if stream.reset_by_gateway || stream.reset_by_peer {
            PeerRead::Reset
        } else if stream.gateway_ended {
            PeerRead::Ended
        } else {
            PeerRead::Empty
        }
    }

    /// Ends the peer's side, in order; it still reads.
    pub fn peer_shutdown(&mut self, peer: PeerId) {
        self.streams[peer.0].peer_ended = true;
    }

    /// Closes the peer's socket: in order, or, as a kernel does, with a reset if there was
    /// something it has not read.
    pub fn peer_close(&mut self, peer: PeerId) {
        let stream = &mut self.streams[peer.0];
        stream.peer_closed = true;
        if stream.outbound.is_empty() {
            stream.peer_ended = true;
        } else {
            self.peer_reset(peer);
        }
    }

    /// Resets the connection; what the gateway has not received is lost.
    pub fn peer_reset(&mut self, peer: PeerId) {
        let stream = &mut self.streams[peer.0];
        stream.peer_closed = true;
        stream.reset_by_peer = true;
        stream.inbound.clear();
        stream.outbound.clear();
    }

    /// Whether the peer has closed or reset its socket.
    pub fn is_gone(&self, peer: PeerId) -> bool {
        self.streams[peer.0].peer_closed
    }

    /// Whether the gateway's socket is closed.
    pub fn is_closed(&self, peer: PeerId) -> bool {
        self.streams[peer.0].socket == SocketState::Closed
    }

    /// A reset on its way to the peer overtakes some of what it has not read.
    pub(super) fn reset_to_peer(&mut self, id: usize) {
        let stream = &mut self.streams[id];
        stream.reset_by_gateway = true;
        let keep = self.rng.below(stream.outbound.len() as u64 + 1);
        stream.outbound.truncate(keep as usize);
    }
}
