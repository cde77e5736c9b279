//! Connections that were opened on this side, and waiting in the kernel itself: what a client
//! needs of an engine beyond what a server does.

use std::{io, net::TcpStream, time::Duration};

use super::{Kernel, Receive, Slot, Slots};
use crate::{base::slab::Key, engine::Engine};

/// A kernel of the system, over real sockets.
pub trait SystemKernel: Kernel {
    /// Makes a socket of its own of one that is connected, or about to be: what is sent before
    /// the connection stands waits for it.
    ///
    /// # Errors
    /// If the system refuses to change the socket's mode.
    fn adopt(stream: TcpStream) -> io::Result<Self::Socket>;

    /// Hands over what was asked for, and waits until something has completed, for `timeout` at
    /// most.
    fn wait(&mut self, timeout: Duration);
}

impl<K: SystemKernel> Slots<K> {
    /// Takes a connection over. It does not receive until [`Engine::resume_receive`].
    ///
    /// # Errors
    /// If the system refuses to change the socket's mode.
    pub fn adopt(&mut self, stream: TcpStream) -> io::Result<Key> {
        let socket = K::adopt(stream)?;
        Ok(self.slots.insert(Slot {
            socket: Some(socket),
            receive: Receive::Off,
            fed: false,
            sending: false,
            closing: false,
        }))
    }

    /// Hands everything asked for to the kernel and waits until the next [`Engine::poll`] finds
    /// something, for `timeout` at most.
    pub fn wait(&mut self, timeout: Duration) {
        self.feed_the_starved();
        let timeout = if self.has_work() {
            Duration::ZERO
        } else {
            timeout
        };
        self.kernel.wait(timeout);
    }
}
