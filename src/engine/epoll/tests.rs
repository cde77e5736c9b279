//! The epoll set under the tests of every real kernel, and what is its own.

use std::{io::Write, net::TcpStream, os::fd::OwnedFd, time::Instant};

use nix::sys::resource::{Resource, getrlimit, setrlimit};

use super::*;
use crate::engine::{
    Engine, Event,
    slots::Slots,
    tests::{Real, over},
};

impl Real for EpollKernel {
    fn make(listener: OwnedFd, recv_buffers: u16, recv_buffer_bytes: u32) -> Self {
        let mut kernel = Self::new(EpollConfig {
            recv_buffers,
            recv_buffer_bytes,
            accept_batch: 3,
        })
        .unwrap();
        kernel.listen(listener).unwrap();
        kernel
    }

    fn in_flight(&self) -> usize {
        self.receives.len() + self.blocked.len() + self.completions.len()
    }
}

over!(EpollKernel);

/// Polls until something happens, as a worker does that waits only when nothing is at hand.
fn next_events(engine: &mut Slots<EpollKernel>) -> Vec<Event> {
    let deadline = Instant::now() + Duration::from_secs(20);
    let mut events = Vec::new();
    while engine.poll(&mut events, 256) == 0 {
        if !engine.has_work() {
            let left = deadline.saturating_duration_since(Instant::now());
            let fd =
                nix::poll::PollFd::new(engine.kernel().poll_fd(), nix::poll::PollFlags::POLLIN);
            let timeout = nix::poll::PollTimeout::try_from(left).unwrap();
            let woken = nix::poll::poll(&mut [fd], timeout).unwrap();
            assert_eq!(woken, 1, "nothing woke the waiting engine");
        }
    }
    events
}

/// More connections with more input than one entry takes up: no wake is lost on the way.
#[test]
fn what_one_entry_leaves_is_announced_or_at_hand() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let kernel = EpollKernel::make(listener.into(), 2, 64);
    let mut engine = Slots::new(kernel, 0);
    let clients: Vec<TcpStream> = (0..50)
        .map(|_| TcpStream::connect(address).unwrap())
        .collect();
    let mut left = 0;
    for mut client in &clients {
        // A whole number of buffers now and then, so that only the next read finds nothing.
        let len = 64 * (1 + left % 7) + left % 3;
        client.write_all(&vec![1; len]).unwrap();
        left += len;
    }
    let mut accepted = 0;
    while accepted < clients.len() || left > 0 {
        for event in next_events(&mut engine) {
            match event {
                Event::Accepted { conn, .. } => {
                    accepted += 1;
                    engine.resume_receive(conn);
                }
                Event::Received { chunk, .. } => {
                    left -= chunk.len();
                    engine.release(chunk);
                }
                other => panic!("{other:?}"),
            }
        }
    }
    // Buffers that only this kernel had filled are no shortage.
    assert_eq!(engine.enobufs(), 0);
    assert!(!engine.has_work());
}

/// One message of a client costs one read: no second one only to hear that nothing is left.
#[test]
fn a_short_read_is_not_followed_by_another() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let mut engine = Slots::new(EpollKernel::make(listener.into(), 2, 64), 0);
    let mut client = TcpStream::connect(address).unwrap();
    let Some(Event::Accepted { conn, .. }) = next_events(&mut engine).pop() else {
        panic!("no accept");
    };
    engine.resume_receive(conn);
    client.write_all(&[1; 63]).unwrap();
    let Some(Event::Received { chunk, .. }) = next_events(&mut engine).pop() else {
        panic!("nothing received");
    };
    engine.release(chunk);
    let link = &engine.kernel().links[conn.index as usize];
    assert!(!link.is_readable && !link.is_queued);
    client.write_all(&[1; 64]).unwrap();
    let Some(Event::Received { chunk, .. }) = next_events(&mut engine).pop() else {
        panic!("nothing received");
    };
    engine.release(chunk);
    // A full buffer says nothing of what is behind it; the read after it does.
    let mut events = Vec::new();
    assert_eq!(engine.poll(&mut events, 256), 0);
    assert!(!engine.kernel().links[conn.index as usize].is_readable);
}

/// Out of descriptors, accepting fails; who waits is accepted once there are some.
#[test]
fn a_failed_accept_is_told_and_taken_up_again() {
    if std::env::var_os("NEXTEST").is_none() {
        // Under `cargo test` the other tests would feel the limit; nextest gives each a process.
        return;
    }
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let mut engine = Slots::new(EpollKernel::make(listener.into(), 2, 64), 0);
    let _client = TcpStream::connect(address).unwrap();
    let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
    setrlimit(Resource::RLIMIT_NOFILE, 3, hard).unwrap();
    let failed = next_events(&mut engine).pop();
    setrlimit(Resource::RLIMIT_NOFILE, soft, hard).unwrap();
    let Some(Event::AcceptFailed { listener, errno }) = failed else {
        panic!("{failed:?}");
    };
    assert_eq!((listener, errno), (0, libc::EMFILE));
    let mut events = Vec::new();
    assert_eq!(engine.poll(&mut events, 256), 0, "tried again by itself");
    engine.resume_accept(0);
    let event = next_events(&mut engine).pop();
    assert!(matches!(event, Some(Event::Accepted { .. })), "{event:?}");
}
