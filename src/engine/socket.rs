//! Questions about a socket that no safe interface asks.

use std::os::fd::{AsRawFd, BorrowedFd};

/// Bytes that the kernel has taken for `socket` and not sent yet; 0 if it is no TCP socket.
pub(super) fn unsent_bytes(socket: BorrowedFd<'_>) -> usize {
    let mut unsent: libc::c_int = 0;
    // SAFETY: the descriptor is open while it is borrowed, and this request writes one int, for
    // which `unsent` has the room.
    let answer = unsafe { libc::ioctl(socket.as_raw_fd(), SIOCOUTQNSD, &raw mut unsent) };
    if answer == 0 {
        usize::try_from(unsent).unwrap_or(0)
    } else {
        0
    }
}

/// `linux/sockios.h`: what is in the send queue without what only waits to be acknowledged.
const SIOCOUTQNSD: libc::Ioctl = 0x894B;

#[cfg(test)]
mod tests {
    use std::{
        io::Write,
        net::{TcpListener, TcpStream},
        os::fd::AsFd,
    };

    use super::*;

    #[test]
    fn it_tells_what_a_peer_that_does_not_read_leaves_behind() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let mut near = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (far, _) = listener.accept().unwrap();
        assert_eq!(unsent_bytes(near.as_fd()), 0);
        near.set_nonblocking(true).unwrap();
        let block = [7; 65536];
        let mut written = 0;
        while let Ok(n) = near.write(&block) {
            written += n;
        }
        let unsent = unsent_bytes(near.as_fd());
        assert!((1..=written).contains(&unsent), "{unsent} of {written}");
        drop(far);
        assert_eq!(unsent_bytes(listener.as_fd()), 0);
    }
}
