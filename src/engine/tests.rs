//! A real kernel against plain blocking sockets: whatever path the bytes take, they arrive once
//! and in order, and nothing is left when the connections are gone. [`over`] makes the tests of
//! one kernel; each kernel's own `tests.rs` calls it.

use std::{
    io::{ErrorKind, Read, Write},
    net::{Shutdown, SocketAddr, TcpListener, TcpStream},
    os::fd::OwnedFd,
    time::{Duration, Instant},
};

use super::{
    CloseMode, ConnKey, Engine, Event,
    slots::{Slots, SystemKernel},
};
use crate::base::{
    limits::SEND_SEGMENTS_MAX,
    rng::Rng,
    segments::{Segment, SendBatch, SharedFrame},
};

/// A kernel over this machine's sockets.
pub(super) trait Real: SystemKernel + Sized {
    /// One that accepts at `listener`, with queues as small as they may be.
    fn make(listener: OwnedFd, recv_buffers: u16, recv_buffer_bytes: u32) -> Self;

    /// Operations whose last completion was not seen.
    fn in_flight(&self) -> usize;
}

/// The tests of `$kernel`, one by one.
macro_rules! over {
    ($kernel:ty) => {
        $crate::engine::tests::over!(
            $kernel: bytes_come_in_through_the_shared_buffers,
            a_receiver_without_a_buffer_gets_one_later,
            one_send_takes_many_segments_and_goes_on_when_it_was_short,
            pausing_keeps_the_order_and_large_payloads_land_in_their_own_buffer,
            closing_cancels_what_is_in_flight,
            a_buffer_that_nothing_comes_into_is_given_back,
            a_reset_close_is_seen_as_one,
            more_connections_than_the_queues_have_entries,
            the_end_of_input_comes_after_the_last_byte_however_it_is_received,
            a_reset_by_the_peer_ends_receiving_and_sending,
            paused_accepting_leaves_connections_waiting,
            unsent_bytes_are_those_that_the_peer_has_not_taken,
            a_flood_on_one_connection_does_not_hold_up_another,
            an_adopted_connection_lives_as_an_accepted_one_does,
            an_adopted_connection_that_is_refused_ends,
            waiting_ends_with_what_comes_or_with_the_time
        );
    };
    ($kernel:ty: $($name:ident),*) => {
        $(#[test]
        fn $name() {
            $crate::engine::tests::$name::<$kernel>();
        })*
    };
}
pub(super) use over;

struct Rig<K: Real> {
    engine: Slots<K>,
    address: SocketAddr,
    events: Vec<Event>,
}

impl<K: Real> Rig<K> {
    fn new(recv_buffers: u16, recv_buffer_bytes: u32) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let kernel = K::make(listener.into(), recv_buffers, recv_buffer_bytes);
        Self {
            engine: Slots::new(kernel, 0),
            address,
            events: Vec::new(),
        }
    }

    /// Turns until `wanted` has an answer.
    fn until<T>(&mut self, mut wanted: impl FnMut(&mut Self, Event) -> Option<T>) -> T {
        let deadline = Instant::now() + Duration::from_secs(20);
        loop {
            let mut events = std::mem::take(&mut self.events);
            self.engine.poll(&mut events, 64);
            let mut rest = events.into_iter();
            while let Some(event) = rest.next() {
                if let Some(found) = wanted(self, event) {
                    self.events.extend(rest);
                    return found;
                }
            }
            self.engine.submit();
            assert!(Instant::now() < deadline, "nothing happened in time");
            std::thread::yield_now();
        }
    }

    fn connect(&mut self) -> (ConnKey, TcpStream) {
        let client = TcpStream::connect(self.address).unwrap();
        client
            .set_read_timeout(Some(Duration::from_secs(20)))
            .unwrap();
        let conn = self.until(|_, event| match event {
            Event::Accepted { conn, .. } => Some(conn),
            other => panic!("{other:?} before the accept"),
        });
        (conn, client)
    }

    /// Receives `len` bytes of `conn`, whole.
    fn receive(&mut self, conn: ConnKey, len: usize) -> Vec<u8> {
        let mut got = Vec::new();
        self.until(|rig, event| {
            if let Event::Received { conn: from, chunk } = event {
                assert_eq!(from, conn);
                got.extend_from_slice(rig.engine.chunk_mut(&chunk));
                rig.engine.release(chunk);
            }
            (got.len() >= len).then(|| std::mem::take(&mut got))
        })
    }

    /// Closes everything and looks that nothing is left.
    fn end(mut self, conns: &[ConnKey]) {
        for conn in conns {
            self.engine.close(*conn, CloseMode::Orderly);
        }
        let mut open = conns.len();
        while open > 0 {
            self.until(|rig, event| match event {
                Event::Received { chunk, .. } => {
                    rig.engine.release(chunk);
                    None
                }
                Event::Closed { .. } => Some(()),
                _ => None,
            });
            open -= 1;
        }
        assert_eq!(self.engine.slots_open(), 0);
        assert_eq!(self.engine.sends_in_flight(), 0);
        assert_eq!(self.engine.buffers_out(), 0);
        self.engine.stop_accepting();
        let deadline = Instant::now() + Duration::from_secs(20);
        while self.engine.kernel().in_flight() > 0 {
            self.engine.poll(&mut self.events, 64);
            self.engine.submit();
            assert!(Instant::now() < deadline, "operations are left in flight");
        }
    }
}

fn noise(seed: u64, len: usize) -> Vec<u8> {
    let mut rng = Rng::new(seed);
    (0..len).map(|_| rng.next_u64() as u8).collect()
}

fn owned(bytes: &[u8]) -> Segment {
    Segment::Owned {
        buf: bytes.to_vec(),
        start: 0,
    }
}

pub(super) fn bytes_come_in_through_the_shared_buffers<K: Real>() {
    let mut rig = Rig::<K>::new(4, 1024);
    let (conn, mut client) = rig.connect();
    rig.engine.resume_receive(conn);
    let sent = noise(1, 100_000);
    let copy = sent.clone();
    let writer = std::thread::spawn(move || {
        client.write_all(&copy).unwrap();
        client
    });
    assert_eq!(rig.receive(conn, sent.len()), sent);
    let client = writer.join().unwrap();
    client.shutdown(Shutdown::Write).unwrap();
    let errno = rig.until(|_, event| match event {
        Event::ReceiveEnded { errno, .. } => Some(errno),
        _ => None,
    });
    assert_eq!(errno, None);
    rig.end(&[conn]);
}

pub(super) fn a_receiver_without_a_buffer_gets_one_later<K: Real>() {
    let mut rig = Rig::<K>::new(2, 64);
    let (conn, mut client) = rig.connect();
    rig.engine.resume_receive(conn);
    let sent = noise(2, 640);
    client.write_all(&sent).unwrap();
    // Both buffers are held, so the receive starves until one comes back.
    let mut held = Vec::new();
    let mut got = Vec::new();
    while held.len() < 2 {
        rig.until(|_, event| match event {
            Event::Received { chunk, .. } => {
                held.push(chunk);
                Some(())
            }
            _ => None,
        });
    }
    let deadline = Instant::now() + Duration::from_secs(20);
    while rig.engine.enobufs() == 0 {
        let mut events = Vec::new();
        rig.engine.poll(&mut events, 64);
        rig.engine.submit();
        assert!(events.is_empty(), "{events:?} without a buffer");
        assert!(Instant::now() < deadline, "no ENOBUFS");
    }
    for chunk in held {
        got.extend_from_slice(rig.engine.chunk_mut(&chunk));
        rig.engine.release(chunk);
    }
    got.extend(rig.receive(conn, sent.len() - got.len()));
    assert_eq!(got, sent);
    rig.end(&[conn]);
}

pub(super) fn one_send_takes_many_segments_and_goes_on_when_it_was_short<K: Real>() {
    let mut rig = Rig::<K>::new(4, 1024);
    let (conn, mut client) = rig.connect();
    let mut sent = Vec::new();
    let mut batch = Box::<SendBatch>::default();
    for n in 0..SEND_SEGMENTS_MAX {
        let run = noise(n as u64, 200_000);
        sent.extend_from_slice(&run);
        batch.push(if n % 2 == 0 {
            owned(&run)
        } else {
            Segment::Shared(SharedFrame::new(run.into()))
        });
    }
    rig.engine.send(conn, batch);
    rig.engine.submit();
    let len = sent.len();
    let reader = std::thread::spawn(move || {
        let mut got = vec![0; len];
        client.read_exact(&mut got).unwrap();
        (got, client)
    });
    let mut taken = 0;
    rig.until(|_, event| match event {
        Event::Sent { bytes, done, .. } => {
            taken += bytes;
            done.map(|batch| assert_eq!(batch.remaining(), 0))
        }
        other => panic!("{other:?} instead of progress"),
    });
    assert_eq!(taken, len);
    let (got, _client) = reader.join().unwrap();
    assert!(got == sent, "the bytes differ");
    rig.end(&[conn]);
}

pub(super) fn pausing_keeps_the_order_and_large_payloads_land_in_their_own_buffer<K: Real>() {
    let mut rig = Rig::<K>::new(4, 256);
    let (conn, mut client) = rig.connect();
    rig.engine.resume_receive(conn);
    let sent = noise(3, 300_000);
    let copy = sent.clone();
    let writer = std::thread::spawn(move || {
        client.write_all(&copy).unwrap();
        client
    });
    let mut got = Vec::new();
    while got.len() < sent.len() {
        // A few chunks from the shared buffers, then one into a buffer of our own.
        rig.engine.pause_receive(conn);
        rig.until(|rig, event| match event {
            Event::Received { chunk, .. } => {
                got.extend_from_slice(rig.engine.chunk_mut(&chunk));
                rig.engine.release(chunk);
                None
            }
            Event::ReceivePaused { .. } => Some(()),
            other => panic!("{other:?} while pausing"),
        });
        if got.len() == sent.len() {
            break;
        }
        let mut own = Vec::with_capacity(50_000);
        own.extend_from_slice(b"head");
        let wanted = (sent.len() - got.len()).min(40_000);
        rig.engine.receive_into(conn, own, wanted);
        let own = rig.until(|_, event| match event {
            Event::ReceivedInto { buf, .. } => Some(buf),
            other => panic!("{other:?} instead of the payload"),
        });
        assert!(own.starts_with(b"head") && own.len() <= 4 + wanted);
        got.extend_from_slice(&own[4..]);
        rig.engine.resume_receive(conn);
    }
    assert!(got == sent, "the bytes differ");
    drop(writer.join().unwrap());
    rig.end(&[conn]);
}

pub(super) fn closing_cancels_what_is_in_flight<K: Real>() {
    let mut rig = Rig::<K>::new(4, 1024);
    let (receiving, _first) = rig.connect();
    let (sending, _second) = rig.connect();
    let (lent, _third) = rig.connect();
    rig.engine.resume_receive(receiving);
    let mut batch = Box::<SendBatch>::default();
    // More than any socket buffer takes while nobody reads.
    batch.push(owned(&vec![7; 32 << 20]));
    rig.engine.send(sending, batch);
    rig.engine
        .receive_into(lent, Vec::with_capacity(4096), 4096);
    rig.engine.submit();
    rig.end(&[receiving, sending, lent]);
}

pub(super) fn a_buffer_that_nothing_comes_into_is_given_back<K: Real>() {
    let mut rig = Rig::<K>::new(4, 1024);
    let (conn, mut client) = rig.connect();
    let mut own = Vec::with_capacity(4096);
    own.extend_from_slice(b"head");
    rig.engine.receive_into(conn, own, 4000);
    rig.engine.submit();
    rig.engine.pause_receive(conn);
    let own = rig.until(|_, event| match event {
        Event::ReceivedInto { buf, .. } => Some(buf),
        other => panic!("{other:?} instead of the buffer"),
    });
    assert_eq!(own, b"head");
    // What comes later is received as ever.
    rig.engine.resume_receive(conn);
    client.write_all(b"later").unwrap();
    let mut got = Vec::new();
    rig.until(|rig, event| {
        if let Event::Received { chunk, .. } = event {
            got.extend_from_slice(rig.engine.chunk_mut(&chunk));
            rig.engine.release(chunk);
        }
        (got == b"later").then_some(())
    });
    rig.end(&[conn]);
}

pub(super) fn a_reset_close_is_seen_as_one<K: Real>() {
    let mut rig = Rig::<K>::new(4, 1024);
    let (conn, mut client) = rig.connect();
    rig.engine.resume_receive(conn);
    rig.engine.submit();
    rig.engine.close(conn, CloseMode::Reset);
    rig.until(|_, event| matches!(event, Event::Closed { .. }).then_some(()));
    let error = client.read(&mut [0; 8]).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::ConnectionReset);
    rig.end(&[]);
}

pub(super) fn more_connections_than_the_queues_have_entries<K: Real>() {
    let mut rig = Rig::<K>::new(4, 1024);
    let pairs: Vec<(ConnKey, TcpStream)> = (0..100).map(|_| rig.connect()).collect();
    let conns: Vec<ConnKey> = pairs.iter().map(|(conn, _)| *conn).collect();
    for conn in &conns {
        rig.engine.resume_receive(*conn);
    }
    rig.engine.submit();
    for (_, client) in &pairs {
        (&*client).write_all(b"x").unwrap();
    }
    let mut got = 0;
    rig.until(|rig, event| {
        if let Event::Received { chunk, .. } = event {
            got += chunk.len();
            rig.engine.release(chunk);
        }
        (got == 100).then_some(())
    });
    rig.end(&conns);
}

pub(super) fn the_end_of_input_comes_after_the_last_byte_however_it_is_received<K: Real>() {
    let sent = noise(4, 10_000);
    for into in [0, 1, 9_999, 10_000, 10_001] {
        let mut rig = Rig::<K>::new(4, 256);
        let (conn, mut client) = rig.connect();
        // Both the bytes and the end are there before anything is received.
        client.write_all(&sent).unwrap();
        client.shutdown(Shutdown::Write).unwrap();
        let mut got = Vec::new();
        while got.len() < into {
            let own = Vec::with_capacity(16_384);
            rig.engine.receive_into(conn, own, into - got.len());
            got.extend(rig.until(|_, event| match event {
                Event::ReceivedInto { buf, .. } => Some(buf),
                Event::ReceiveEnded { errno: None, .. } => Some(Vec::new()),
                other => panic!("{other:?}"),
            }));
            if got.len() == sent.len() {
                break;
            }
        }
        if into > sent.len() {
            rig.engine.receive_into(conn, Vec::with_capacity(8), 8);
        } else {
            rig.engine.resume_receive(conn);
        }
        let errno = rig.until(|rig, event| match event {
            Event::Received { chunk, .. } => {
                got.extend_from_slice(rig.engine.chunk_mut(&chunk));
                rig.engine.release(chunk);
                None
            }
            Event::ReceiveEnded { errno, .. } => Some(errno),
            other => panic!("{other:?}"),
        });
        assert_eq!(errno, None);
        assert!(got == sent, "{} bytes with {into} of their own", got.len());
        rig.end(&[conn]);
    }
}

pub(super) fn a_reset_by_the_peer_ends_receiving_and_sending<K: Real>() {
    let mut rig = Rig::<K>::new(4, 1024);
    let (receiving, first) = rig.connect();
    let (sending, second) = rig.connect();
    rig.engine.resume_receive(receiving);
    let mut batch = Box::<SendBatch>::default();
    batch.push(owned(&vec![7; 32 << 20]));
    rig.engine.send(sending, batch);
    rig.engine.submit();
    // It has begun, and waits for room.
    rig.until(|_, event| matches!(event, Event::Sent { .. }).then_some(()));
    for client in [&first, &second] {
        let socket = socket2::SockRef::from(client);
        socket.set_linger(Some(Duration::ZERO)).unwrap();
    }
    drop((first, second));
    let (mut received, mut sent) = (None, None);
    rig.until(|_, event| {
        match event {
            Event::ReceiveEnded { errno, .. } => received = errno,
            Event::SendFailed { errno, .. } => sent = Some(errno),
            Event::Sent { done: None, .. } => {}
            other => panic!("{other:?} after a reset"),
        }
        (received.is_some() && sent.is_some()).then_some(())
    });
    assert_eq!(received, Some(libc::ECONNRESET));
    assert!(matches!(sent, Some(libc::ECONNRESET | libc::EPIPE)));
    rig.end(&[receiving, sending]);
}

pub(super) fn paused_accepting_leaves_connections_waiting<K: Real>() {
    let mut rig = Rig::<K>::new(4, 1024);
    let (conn, _client) = rig.connect();
    for _ in 0..3 {
        rig.engine.pause_accepting();
        rig.engine.submit();
        // The cancel takes hold within these.
        for _ in 0..10 {
            let mut events = Vec::new();
            rig.engine.poll(&mut events, 64);
            assert!(events.is_empty(), "{events:?}");
            rig.engine.submit();
        }
        let waiting = TcpStream::connect(rig.address).unwrap();
        rig.engine.resume_accept(0);
        for _ in 0..100 {
            let mut events = Vec::new();
            rig.engine.poll(&mut events, 64);
            assert!(events.is_empty(), "{events:?} during a pause");
            rig.engine.submit();
        }
        rig.engine.resume_accepting();
        rig.engine.submit();
        let late = rig.until(|_, event| match event {
            Event::Accepted { conn, .. } => Some(conn),
            other => panic!("{other:?} instead of an accept"),
        });
        let peer = rig.engine.peer_addr(late);
        assert_eq!(peer, Some(waiting.local_addr().unwrap()));
        rig.engine.close(late, CloseMode::Orderly);
        rig.until(|_, event| matches!(event, Event::Closed { .. }).then_some(()));
    }
    // Resumed before the cancel has taken hold, it goes on.
    rig.engine.pause_accepting();
    rig.engine.resume_accepting();
    let (other, _client) = rig.connect();
    rig.engine.pause_accepting();
    rig.end(&[conn, other]);
}

pub(super) fn unsent_bytes_are_those_that_the_peer_has_not_taken<K: Real>() {
    let mut rig = Rig::<K>::new(4, 1024);
    let (conn, mut client) = rig.connect();
    assert_eq!(rig.engine.unsent_bytes(conn), 0);
    let mut batch = Box::<SendBatch>::default();
    batch.push(owned(&vec![7; 32 << 20]));
    rig.engine.send(conn, batch);
    rig.engine.submit();
    rig.until(|_, event| matches!(event, Event::Sent { .. }).then_some(()));
    assert!(rig.engine.unsent_bytes(conn) > 0);
    let reader = std::thread::spawn(move || {
        client.read_exact(&mut vec![0; 32 << 20]).unwrap();
        client
    });
    rig.until(|_, event| match event {
        Event::Sent { done, .. } => done,
        other => panic!("{other:?} instead of progress"),
    });
    let _client = reader.join().unwrap();
    let deadline = Instant::now() + Duration::from_secs(20);
    while rig.engine.unsent_bytes(conn) > 0 {
        assert!(Instant::now() < deadline, "never acknowledged");
        std::thread::yield_now();
    }
    rig.end(&[conn]);
}

pub(super) fn a_flood_on_one_connection_does_not_hold_up_another<K: Real>() {
    let mut rig = Rig::<K>::new(4, 64);
    let (flooded, flood) = rig.connect();
    let (calm, mut client) = rig.connect();
    rig.engine.resume_receive(flooded);
    rig.engine.resume_receive(calm);
    rig.engine.submit();
    flood.set_nonblocking(true).unwrap();
    let run = vec![1; 64 * 1024];
    // Far more than is received before the other's byte.
    while (&flood).write(&run).is_ok() {}
    client.write_all(b"x").unwrap();
    let mut flooded_bytes = 0;
    rig.until(|rig, event| {
        let Event::Received { conn, chunk } = event else {
            panic!("{event:?}");
        };
        let len = chunk.len();
        rig.engine.release(chunk);
        flooded_bytes += if conn == flooded { len } else { 0 };
        (conn == calm).then_some(())
    });
    // Some turns' worth of four small buffers each, of the hundreds of kilobytes that wait.
    assert!(flooded_bytes <= 64 * 1024, "{flooded_bytes} went first");
    rig.end(&[flooded, calm]);
}

/// Begins to connect, without waiting for it.
fn begin_to_connect(address: SocketAddr) -> TcpStream {
    let kind = socket2::Type::STREAM.nonblocking().cloexec();
    let domain = socket2::Domain::for_address(address);
    let socket = socket2::Socket::new_raw(domain, kind, None).unwrap();
    match socket.connect(&address.into()) {
        Err(error) if error.raw_os_error() != Some(libc::EINPROGRESS) => panic!("{error}"),
        _ => socket.into(),
    }
}

/// A batch of one run.
fn batch(bytes: &[u8]) -> Box<SendBatch> {
    let mut batch = Box::<SendBatch>::default();
    batch.push(Segment::Owned {
        buf: bytes.to_vec(),
        start: 0,
    });
    batch
}

pub(super) fn an_adopted_connection_lives_as_an_accepted_one_does<K: Real>() {
    let mut rig = Rig::<K>::new(4, 64);
    let stream = begin_to_connect(rig.address);
    let client = rig.engine.adopt(stream).unwrap();
    rig.engine.resume_receive(client);
    // Sent before anybody has accepted.
    rig.engine.send(client, batch(b"question"));
    let server = rig.until(|_, event| match event {
        Event::Accepted { conn, .. } => Some(conn),
        _ => None,
    });
    assert_ne!(client, server);
    rig.engine.resume_receive(server);
    let mut heard = [Vec::new(), Vec::new()];
    rig.until(|rig, event| {
        if let Event::Received { conn, chunk } = event {
            let side = usize::from(conn == client);
            heard[side].extend_from_slice(rig.engine.chunk_mut(&chunk));
            rig.engine.release(chunk);
            if heard[0] == b"question" && heard[1].is_empty() {
                rig.engine.send(server, batch(b"answer"));
            }
        }
        (heard[1].len() == 6).then_some(())
    });
    assert_eq!(heard, [b"question".to_vec(), b"answer".to_vec()]);
    rig.end(&[client, server]);
}

pub(super) fn an_adopted_connection_that_is_refused_ends<K: Real>() {
    let mut rig = Rig::<K>::new(4, 64);
    let nobody = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = nobody.local_addr().unwrap();
    drop(nobody);
    let client = rig.engine.adopt(begin_to_connect(address)).unwrap();
    rig.engine.send(client, batch(b"question"));
    let errno = rig.until(|_, event| match event {
        Event::SendFailed { errno, .. } => Some(errno),
        _ => None,
    });
    // Who asks second hears only that there is no connection.
    let refused = [libc::ECONNREFUSED, libc::EPIPE, libc::ENOTCONN];
    assert!(refused.contains(&errno), "{errno}");
    rig.end(&[client]);
}

pub(super) fn waiting_ends_with_what_comes_or_with_the_time<K: Real>() {
    let mut rig = Rig::<K>::new(4, 64);
    let (conn, mut peer) = rig.connect();
    rig.engine.resume_receive(conn);
    let mut events = Vec::new();
    let begun = Instant::now();
    // What the armed receive itself causes may end the first of them.
    for _ in 0..3 {
        rig.engine.wait(Duration::from_millis(20));
        rig.engine.poll(&mut events, 64);
    }
    assert!(events.is_empty(), "{events:?}");
    assert!(begun.elapsed() >= Duration::from_millis(20));
    peer.write_all(b"news").unwrap();
    let begun = Instant::now();
    while events.is_empty() {
        rig.engine.wait(Duration::from_secs(20));
        rig.engine.poll(&mut events, 64);
    }
    assert!(begun.elapsed() < Duration::from_secs(20));
    let Some(Event::Received { chunk, .. }) = events.pop() else {
        panic!("{events:?}");
    };
    assert_eq!(rig.engine.chunk_mut(&chunk), b"news");
    rig.engine.release(chunk);
    rig.end(&[conn]);
}
