//! Reading a socket that does not block, with what an earlier read left unfinished.

use std::{
    io::{self, Read},
    net::TcpStream,
};

use anyhow::bail;

/// Where all connections read into, one after the other.
pub(crate) struct Scratch(Box<[u8]>);

impl Scratch {
    /// Room for the longest frame and one large read behind it.
    pub(crate) fn new() -> Self {
        Self(vec![0; SCRATCH_BYTES].into_boxed_slice())
    }

    /// Reads once. What is answered begins with `carry`, which is then empty; nothing if the
    /// socket has nothing.
    pub(crate) fn receive<'a>(
        &'a mut self,
        stream: &mut TcpStream,
        carry: &mut Vec<u8>,
    ) -> anyhow::Result<Option<&'a [u8]>> {
        let kept = carry.len();
        match stream.read(&mut self.0[kept..]) {
            Ok(0) => bail!("the server closed the connection"),
            Ok(n) => {
                self.0[..kept].copy_from_slice(carry);
                carry.clear();
                Ok(Some(&self.0[..kept + n]))
            }
            Err(e) if is_retry(&e) => Ok(None),
            Err(e) => Err(e.into()),
        }
    }
}

/// Whether a socket's error only means "later".
pub(crate) fn is_retry(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted
    )
}

const SCRATCH_BYTES: usize = 256 * 1024;
