//! What is asked of a descriptor and has no safe wrapper in the libraries at hand.
//!
//! It must not know connections, nor own descriptors.

use std::os::fd::{AsRawFd, BorrowedFd};

/// Bytes that a TCP socket has taken and not sent yet (`SIOCOUTQNSD`): what is on its way to a peer far
/// away does not count, what waits for a peer that does not read does. 0 where the connection is
/// gone already.
pub fn unsent_bytes(socket: BorrowedFd<'_>) -> usize {
    let mut bytes: libc::c_int = 0;
    // SAFETY: SIOCOUTQNSD writes one int to its argument; it points at one that lives through the
    // call, and the borrow keeps the descriptor open.
    let result = unsafe { libc::ioctl(socket.as_raw_fd(), SIOCOUTQNSD, &raw mut bytes) };
    if result == 0 {
        usize::try_from(bytes).unwrap_or(0)
    } else {
        0
    }
}

/// linux/sockios.h; the same on every architecture.
const SIOCOUTQNSD: libc::Ioctl = 0x894B;

/// The descriptor of an epoll set, which mio lends only as a number.
pub fn poll_fd(poll: &mio::Poll) -> BorrowedFd<'_> {
    // SAFETY: the set owns the descriptor, and the borrow of the set outlives the result.
    unsafe { BorrowedFd::borrow_raw(poll.as_raw_fd()) }
}

#[cfg(test)]
mod tests {
    use std::{
        io::{Read, Write},
        net::{TcpListener, TcpStream},
        os::fd::AsFd,
        time::{Duration, Instant},
    };

    use super::*;

    /// Looks until the socket's unsent bytes satisfy `check`.
    fn wait(socket: &TcpStream, check: impl Fn(usize) -> bool) -> usize {
        let deadline = Instant::now() + Duration::from_secs(20);
        loop {
            let bytes = unsent_bytes(socket.as_fd());
            if check(bytes) {
                return bytes;
            }
            assert!(Instant::now() < deadline, "{bytes} bytes are unsent");
            std::thread::yield_now();
        }
    }

    #[test]
    fn what_the_peer_does_not_read_stays_unsent() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let mut peer = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (mut socket, _) = listener.accept().unwrap();
        assert_eq!(unsent_bytes(socket.as_fd()), 0);
        socket.set_nonblocking(true).unwrap();
        let run = vec![7; 1 << 20];
        let mut taken = 0;
        // Until neither side's buffer takes more.
        while let Ok(n) = socket.write(&run) {
            taken += n;
        }
        let unsent = wait(&socket, |bytes| bytes > 0);
        assert!(unsent <= taken, "{unsent} of {taken}");
        let mut left = taken;
        let mut buf = vec![0; 1 << 20];
        while left > 0 {
            left -= peer.read(&mut buf).unwrap();
        }
        wait(&socket, |bytes| bytes == 0);
    }

    #[test]
    fn a_descriptor_that_is_no_socket_has_none() {
        let file = std::fs::File::open("/dev/null").unwrap();
        assert_eq!(unsent_bytes(file.as_fd()), 0);
    }
}
