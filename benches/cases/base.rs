//! What every layer uses: timer wheel, slab, token bucket, the mark in a batch that is being sent,
//! client ids.

use std::{hint::black_box, time::Duration};

use tidegate::base::{
    bucket::{Bucket, Rate},
    ids::ClientId,
    rng::Rng,
    segments::{Segment, SendBatch},
    slab::{Key, Slab},
    time::Instant,
    wheel::{TICK, Wheel},
};

use super::{Call, Case, case};

pub(super) const CASES: &[Case] = &[
    case("wheel/arm-and-cancel", 64, arm_and_cancel),
    case("wheel/arm-and-fire", 64, arm_and_fire),
    case("wheel/advance-to-no-timer", 64, advance),
    case("slab/insert-and-remove", 64, insert_and_remove),
    case("slab/get", 64, get),
    case("bucket/take", 64, take),
    case("bucket/refuse", 64, refuse),
    case("segments/send-in-parts", 16, send_in_parts),
    case("ids/write", 64, write_ids),
    case("ids/read", 64, read_ids),
];

/// As many timers as a core with many clients has, each somewhere in the next half minute.
const TIMERS: u32 = 10_000;

fn busy_wheel(rng: &mut Rng) -> Wheel<u32> {
    let mut wheel = Wheel::new(Instant::from_nanos(0));
    for timer in 0..TIMERS {
        wheel.arm(somewhere(rng, Instant::from_nanos(0)), timer);
    }
    wheel
}

fn somewhere(rng: &mut Rng, now: Instant) -> Instant {
    now.plus(Duration::from_millis(1000 + rng.below(30_000)))
}

fn arm_and_cancel(n: u32) -> Call {
    let mut rng = Rng::new(1);
    let mut wheel = busy_wheel(&mut rng);
    let deadlines: Vec<Instant> = (0..n)
        .map(|_| somewhere(&mut rng, Instant::from_nanos(0)))
        .collect();
    Box::new(move || {
        for deadline in &deadlines {
            let timer = wheel.arm(black_box(*deadline), 0);
            black_box(wheel.cancel(timer)).expect("the timer is armed");
        }
    })
}

/// Time passes; the timers that fire are armed again. Counted per timer that fires: one a tick.
fn arm_and_fire(n: u32) -> Call {
    let mut wheel = Wheel::new(Instant::from_nanos(0));
    let mut now = Instant::from_nanos(0);
    let period = TICK * 1024;
    for timer in 1..=1024 {
        wheel.arm(now.plus(TICK * timer), timer);
    }
    Box::new(move || {
        let mut fired = 0;
        for _ in 0..n {
            now = now.plus(TICK);
            while let Some(timer) = wheel.advance(now) {
                wheel.arm(now.plus(period), black_box(timer));
                fired += 1;
            }
        }
        assert_eq!(fired, n, "one timer fires at each tick");
    })
}

/// A turn in which no timer is due.
fn advance(n: u32) -> Call {
    let mut wheel = busy_wheel(&mut Rng::new(1));
    let now = Instant::from_nanos(1);
    Box::new(move || {
        for _ in 0..n {
            black_box(wheel.advance(black_box(now)));
            black_box(wheel.next_wake());
        }
    })
}

fn insert_and_remove(n: u32) -> Call {
    let mut slab = Slab::new(0);
    for value in 0..1000u64 {
        slab.insert(value);
    }
    let mut keys = Vec::with_capacity(n as usize);
    Box::new(move || {
        for value in 0..n {
            keys.push(slab.insert(black_box(u64::from(value))));
        }
        for key in keys.drain(..) {
            black_box(slab.remove(black_box(key)));
        }
    })
}

fn get(n: u32) -> Call {
    let mut slab = Slab::new(0);
    let keys: Vec<Key> = (0..1000u64).map(|value| slab.insert(value)).collect();
    let mut rng = Rng::new(1);
    let asked: Vec<Key> = (0..n).map(|_| keys[rng.below(1000) as usize]).collect();
    Box::new(move || {
        for key in &asked {
            black_box(slab.get(black_box(*key))).expect("the value is there");
        }
    })
}

fn take(n: u32) -> Call {
    let rate = Rate::new(100, 200).expect("not zero");
    let mut bucket = Bucket::default();
    let mut now = Instant::from_nanos(0);
    Box::new(move || {
        for _ in 0..n {
            now = now.plus(Duration::from_millis(10));
            black_box(bucket.try_take(now, black_box(rate), 1)).expect("time has passed");
        }
    })
}

fn refuse(n: u32) -> Call {
    let rate = Rate::new(100, 200).expect("not zero");
    let now = Instant::from_nanos(0);
    let mut bucket = Bucket::default();
    while bucket.try_take(now, rate, 1).is_ok() {}
    Box::new(move || {
        for _ in 0..n {
            black_box(bucket.try_take(now, black_box(rate), 1)).expect_err("it is empty");
        }
    })
}

/// A batch of eight runs, taken by the kernel in `n` parts.
fn send_in_parts(n: u32) -> Call {
    let part = 512;
    let run = vec![0; part * n as usize / 8];
    Box::new(move || {
        let mut batch = SendBatch::default();
        for _ in 0..8 {
            batch.push(Segment::Owned {
                buf: black_box(&run).clone(),
                start: 0,
            });
        }
        while batch.remaining() > 0 {
            for bytes in batch.pending() {
                black_box(bytes);
            }
            batch.advance(part);
        }
    })
}

fn some_ids(n: u32) -> Vec<ClientId> {
    let mut rng = Rng::new(1);
    (0..n)
        .map(|_| ClientId {
            core: rng.below(64) as u16,
            session: Key {
                index: rng.below(100_000) as u32,
                generation: rng.below(1_000_000) as u32,
            },
        })
        .collect()
}

fn write_ids(n: u32) -> Call {
    let ids = some_ids(n);
    Box::new(move || {
        for id in &ids {
            black_box(black_box(*id).encode());
        }
    })
}

fn read_ids(n: u32) -> Call {
    let texts: Vec<String> = some_ids(n).iter().map(ClientId::to_string).collect();
    Box::new(move || {
        for text in &texts {
            black_box(ClientId::decode(black_box(text))).expect("the id is right");
        }
    })
}
