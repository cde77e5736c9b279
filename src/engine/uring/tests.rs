//! The real ring against plain blocking sockets: whatever path the bytes take, they arrive once
//! and in order, and nothing is left when the connections are gone.

use std::{
    io::{ErrorKind, Read, Write},
    net::{Shutdown, SocketAddr, TcpListener, TcpStream},
    os::fd::OwnedFd,
    time::{Duration, Instant},
};

use super::*;
use crate::{
    base::{
        rng::Rng,
        segments::{Segment, SharedFrame},
    },
    engine::{CloseMode, ConnKey, Engine, Event, slots::Slots},
};

struct Rig {
    engine: Slots<UringKernel>,
    address: SocketAddr,
    events: Vec<Event>,
}

impl Rig {
    fn new(recv_buffers: u16, recv_buffer_bytes: u32) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let mut kernel = UringKernel::new(UringConfig {
            ring_entries: 8,
            cq_entries: 32,
            recv_buffers,
            recv_buffer_bytes,
        })
        .unwrap();
        kernel.listen(OwnedFd::from(listener));
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
        while self.engine.kernel().in_flight > 0 {
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

#[test]
fn this_machine_has_what_the_ring_needs() {
    probe().unwrap();
}

#[test]
fn bytes_come_in_through_the_shared_buffers() {
    let mut rig = Rig::new(4, 1024);
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

#[test]
fn a_receiver_without_a_buffer_gets_one_later() {
    let mut rig = Rig::new(2, 64);
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

#[test]
fn one_send_takes_many_segments_and_goes_on_when_it_was_short() {
    let mut rig = Rig::new(4, 1024);
    let (conn, mut client) = rig.connect();
    let mut sent = Vec::new();
    let mut batch = SendBatch::default();
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

#[test]
fn pausing_keeps_the_order_and_large_payloads_land_in_their_own_buffer() {
    let mut rig = Rig::new(4, 256);
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

#[test]
fn closing_cancels_what_is_in_flight() {
    let mut rig = Rig::new(4, 1024);
    let (receiving, _first) = rig.connect();
    let (sending, _second) = rig.connect();
    let (lent, _third) = rig.connect();
    rig.engine.resume_receive(receiving);
    let mut batch = SendBatch::default();
    // More than any socket buffer takes while nobody reads.
    batch.push(owned(&vec![7; 32 << 20]));
    rig.engine.send(sending, batch);
    rig.engine
        .receive_into(lent, Vec::with_capacity(4096), 4096);
    rig.engine.submit();
    rig.end(&[receiving, sending, lent]);
}

#[test]
fn a_reset_close_is_seen_as_one() {
    let mut rig = Rig::new(4, 1024);
    let (conn, mut client) = rig.connect();
    rig.engine.resume_receive(conn);
    rig.engine.submit();
    rig.engine.close(conn, CloseMode::Reset);
    rig.until(|_, event| matches!(event, Event::Closed { .. }).then_some(()));
    let error = client.read(&mut [0; 8]).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::ConnectionReset);
    rig.end(&[]);
}

#[test]
fn more_connections_than_the_queues_have_entries() {
    let mut rig = Rig::new(4, 1024);
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
