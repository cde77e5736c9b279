//! One client past its handshake: its outbound queue, its rates, the connections of its address.

use std::{
    hint::black_box,
    net::{IpAddr, Ipv4Addr},
    sync::Arc,
    time::Duration,
};

use tidegate::{
    base::{segments::SharedFrame, slab::Key, time::Instant},
    config::{Config, SlowClient},
    proto::{
        envelope::json,
        ws::{OpCode, header::push_frame},
    },
    session::{
        addresses::{AddressKey, Addresses, Admission},
        outbound::{Droppable, Gap, Outbound, SpareBuffers, Terms},
        rates::{RateLimits, Rates, Verdict},
    },
};

use super::{Call, Case, case};

pub(super) const CASES: &[Case] = &[
    case("outbound/write-20", 64, |n| write(n, 1)),
    case("outbound/write-20-x16", 64, |n| write(n, 16)),
    case("outbound/own-buffer-1k", 16, own_buffers),
    case("outbound/shared-128", 64, |n| share(n, 128, 1)),
    case("outbound/shared-128-x16", 64, |n| share(n, 128, 16)),
    case("outbound/shared-4k-x4", 16, |n| share(n, 4 << 10, 4)),
    case("outbound/offer-128-x4", 64, offer),
    case("outbound/behind-drop-oldest", 64, |n| {
        behind(n, SlowClient::DropOldest)
    }),
    case("outbound/behind-drop-newest", 64, |n| {
        behind(n, SlowClient::DropNewest)
    }),
    case("outbound/behind-conflate", 64, |n| {
        behind(n, SlowClient::Conflate)
    }),
    case("outbound/behind-and-catching-up", 64, catch_up),
    case("rates/message", 64, count_messages),
    case("rates/bytes", 64, count_bytes),
    case("addresses/admit-and-depart", 500, admit),
];

const TERMS: Terms = Terms {
    high: 64 << 10,
    low: 16 << 10,
    tells_gaps: true,
};

/// One client, with what a core's queues share.
struct Line {
    out: Outbound,
    spare: SpareBuffers,
    room: Arc<str>,
    seq: u64,
}

impl Line {
    fn new() -> Self {
        let coalesce = Config::default().engine.coalesce.0;
        Self {
            out: Outbound::default(),
            spare: SpareBuffers::new(coalesce),
            room: Arc::from("lobby"),
            seq: 0,
        }
    }

    fn offer(&mut self, frame: &SharedFrame, policy: SlowClient, key: Option<&str>) -> bool {
        self.seq += 1;
        let message = Droppable {
            room: Key {
                index: 1,
                generation: 0,
            },
            name: &self.room,
            policy,
            last: self.seq,
            count: 1,
            key,
        };
        self.out.offer(&mut self.spare, frame, &message, TERMS)
    }

    /// Sends what is next, as a kernel does that takes everything. Whether there was anything.
    fn send(&mut self) -> bool {
        let Some(batch) = self.out.take_batch(&mut self.spare, write_gap) else {
            return false;
        };
        for run in batch.pending() {
            black_box(run);
        }
        self.out.on_sent(batch.remaining());
        self.spare.reclaim(batch);
        true
    }
}

fn write_gap(run: &mut Vec<u8>, gap: Gap<'_>) {
    let mut payload = Vec::new();
    json::push_gap(&mut payload, gap.room, gap.dropped, gap.next_seq);
    push_frame(run, OpCode::Text, &payload);
}

fn frame(len: usize) -> SharedFrame {
    SharedFrame::new(vec![b'.'; len].into())
}

/// Answers of 20 bytes, so many to a send.
fn write(n: u32, per_send: u32) -> Call {
    let mut line = Line::new();
    let payload = [b'.'; 20];
    Box::new(move || {
        for _ in 0..n / per_send {
            for _ in 0..per_send {
                line.out.write(&mut line.spare, |run| {
                    push_frame(run, OpCode::Text, black_box(&payload));
                });
            }
            line.send();
        }
    })
}

/// Messages in buffers of their own, such as long echoes.
fn own_buffers(n: u32) -> Call {
    let mut line = Line::new();
    let message = vec![b'.'; 1 << 10];
    Box::new(move || {
        for _ in 0..n {
            let buf = black_box(&message).clone();
            line.out.push_owned(&mut line.spare, buf, 6);
            line.send();
        }
    })
}

/// A room's frames, so many to a send.
fn share(n: u32, len: usize, per_send: u32) -> Call {
    let mut line = Line::new();
    let frame = frame(len);
    Box::new(move || {
        for _ in 0..n / per_send {
            for _ in 0..per_send {
                line.out.push_shared(&mut line.spare, black_box(&frame));
            }
            line.send();
        }
    })
}

/// Frames that may be dropped, to a client that keeps up.
fn offer(n: u32) -> Call {
    let mut line = Line::new();
    let frame = frame(128);
    Box::new(move || {
        for _ in 0..n / 4 {
            for _ in 0..4 {
                assert!(line.offer(black_box(&frame), SlowClient::DropOldest, None));
            }
            line.send();
        }
    })
}

/// Frames that may be dropped, to a client that reads nothing and whose queue is full. Where
/// frames have keys, there are 64 of them.
fn behind(n: u32, policy: SlowClient) -> Call {
    let mut line = Line::new();
    let frame = frame(128);
    let keys: Vec<String> = (0..64).map(|key| format!("price:{key}")).collect();
    let mut next = 0;
    let mut offer = move || {
        next = (next + 1) % keys.len();
        let key = (policy == SlowClient::Conflate).then(|| keys[next].as_str());
        black_box(line.offer(black_box(&frame), policy, key));
    };
    for _ in 0..2 * TERMS.high / 128 {
        offer();
    }
    Box::new(move || {
        for _ in 0..n {
            offer();
        }
    })
}

/// A client falls behind by `n` frames, and then reads them all.
fn catch_up(n: u32) -> Call {
    let mut line = Line::new();
    let (long, frame) = (frame(TERMS.low), frame(128));
    Box::new(move || {
        line.out.push_shared(&mut line.spare, &long);
        for _ in 0..n {
            assert!(line.offer(black_box(&frame), SlowClient::DropOldest, None));
        }
        while line.send() {}
    })
}

fn rate_limits() -> RateLimits {
    RateLimits::new(&Config::default().limits)
}

fn count_messages(n: u32) -> Call {
    let limits = rate_limits();
    let mut rates = Rates::default();
    let mut now = Instant::from_nanos(0);
    Box::new(move || {
        for _ in 0..n {
            now = now.plus(Duration::from_millis(10));
            let verdict = rates.on_message(now, black_box(&limits));
            assert_eq!(verdict, Verdict::Pass);
        }
    })
}

fn count_bytes(n: u32) -> Call {
    let limits = rate_limits();
    let mut rates = Rates::default();
    let mut now = Instant::from_nanos(0);
    Box::new(move || {
        for _ in 0..n {
            now = now.plus(Duration::from_millis(10));
            let pause = rates.on_bytes(now, black_box(1000), black_box(&limits));
            assert_eq!(pause, None);
        }
    })
}

/// Second connections from addresses that have one.
fn admit(n: u32) -> Call {
    let limits = Config::default().limits;
    let address = |n: u32| AddressKey::of(IpAddr::V4(Ipv4Addr::from_bits(0x0a00_0000 + n * 77)));
    let mut addresses = Addresses::default();
    let mut now = Instant::from_nanos(0);
    for n in 0..n {
        addresses.admit(now, address(n), &limits);
    }
    Box::new(move || {
        now = now.plus(Duration::from_secs(1));
        for n in 0..n {
            let address = address(black_box(n));
            let admission = addresses.admit(now, address, &limits);
            assert_eq!(admission, Admission::Granted);
            addresses.depart(now, address);
        }
    })
}
