//! One timer wheel per core: arming and cancelling cost the same whatever the number of timers.
//!
//! Hierarchical, after Varghese and Lauck (1987): six levels of 64 slots, 16 ms to the tick at
//! the lowest, so any deadline within 34 years has its slot. A timer fires at the first
//! [`Wheel::advance`] at or after its deadline, rounded up to a tick; never early.

use std::{num::NonZeroU32, time::Duration};

use super::{paged::Paged, time::Instant};

/// The wheel's resolution.
pub const TICK: Duration = Duration::from_millis(16);

/// Names an armed timer. Dead once the timer has fired or was cancelled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TimerKey {
    index: u32,
    generation: NonZeroU32,
}

/// Timers that carry a `T` each.
#[derive(Debug)]
pub struct Wheel<T> {
    nodes: Paged<Node<T>>,
    first_free: u32,
    heads: Box<[u32; LEVELS * SLOTS]>,
    occupied: [u64; LEVELS],
    /// Timers whose tick has come and which no caller has taken yet, oldest first.
    due_head: u32,
    due_tail: u32,
    /// Every tick up to and including this one has been looked at.
    tick: u64,
    len: usize,
}

#[derive(Debug)]
struct Node<T> {
    value: Option<T>,
    /// The low 32 bits of the deadline's tick.
    deadline_low: u32,
    generation: NonZeroU32,
    prev: u32,
    next: u32,
    /// The rest of the deadline's tick, which is at most [`TICK_MAX`].
    deadline_high: u16,
    /// The list that holds the node: a slot's number, or [`DUE`].
    list: u16,
}

impl<T> Node<T> {
    fn deadline_tick(&self) -> u64 {
        u64::from(self.deadline_high) << 32 | u64::from(self.deadline_low)
    }

    const fn set_deadline_tick(&mut self, tick: u64) {
        self.deadline_low = tick as u32;
        self.deadline_high = (tick >> 32) as u16;
    }
}

const LEVELS: usize = 6;
const SLOTS: usize = 64;
const SLOT_BITS: u32 = 6;
const NONE: u32 = u32::MAX;
const DUE: u16 = u16::MAX;
const TICK_MAX: u64 = (1 << (SLOT_BITS * LEVELS as u32)) - 1;

impl<T> Wheel<T> {
    /// A wheel on which nothing is armed, standing at `now`.
    pub fn new(now: Instant) -> Self {
        Self {
            nodes: Paged::new(),
            first_free: NONE,
            heads: Box::new([NONE; LEVELS * SLOTS]),
            occupied: [0; LEVELS],
            due_head: NONE,
            due_tail: NONE,
            tick: tick_before(now),
            len: 0,
        }
    }

    /// How many timers are armed or due.
    pub const fn len(&self) -> usize {
        self.len
    }

    /// Whether no timer is armed or due.
    pub const fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Arms a timer that will hand `value` back at `deadline`.
    pub fn arm(&mut self, deadline: Instant, value: T) -> TimerKey {
        let deadline_tick = tick_after(deadline).min(TICK_MAX);
        let index = if self.first_free == NONE {
            self.nodes.push(Node {
                value: None,
                deadline_low: 0,
                generation: NonZeroU32::MIN,
                deadline_high: 0,
                prev: NONE,
                next: NONE,
                list: DUE,
            });
            (self.nodes.len() - 1) as u32
        } else {
            let index = self.first_free;
            self.first_free = self.nodes[index as usize].next;
            index
        };
        let node = &mut self.nodes[index as usize];
        node.value = Some(value);
        node.set_deadline_tick(deadline_tick);
        let generation = node.generation;
        self.len += 1;
        self.link(index);
        TimerKey { index, generation }
    }

    /// Disarms a timer and gives its value back; nothing if it fired already.
    pub fn cancel(&mut self, key: TimerKey) -> Option<T> {
        let node = self.nodes.get(key.index as usize)?;
        if node.generation != key.generation || node.value.is_none() {
            return None;
        }
        self.unlink(key.index);
        self.free(key.index)
    }

    /// Moves to `now` and takes the next due timer. Call until it gives nothing, or stop
    /// early: what is due stays due.
    pub fn advance(&mut self, now: Instant) -> Option<T> {
        if self.due_head == NONE {
            self.turn_to(tick_before(now));
        }
        if self.due_head == NONE {
            return None;
        }
        let index = self.due_head;
        self.unlink(index);
        self.free(index)
    }

    /// When the next call of [`Wheel::advance`] may have something to do; none if nothing is
    /// armed. Never later than the earliest deadline's tick; possibly earlier.
    pub fn next_wake(&self) -> Option<Instant> {
        if self.due_head != NONE {
            return Some(instant_of(self.tick));
        }
        self.next_slot().map(|(_, _, tick)| instant_of(tick))
    }

    fn turn_to(&mut self, now_tick: u64) {
        while let Some((level, slot, tick)) = self.next_slot() {
            if tick > now_tick {
                break;
            }
            self.tick = self.tick.max(tick);
            let list = level * SLOTS + slot;
            let mut index = self.heads[list];
            self.heads[list] = NONE;
            self.occupied[level] &= !(1 << slot);
            while index != NONE {
                let next = self.nodes[index as usize].next;
                // From a higher level it moves down; from the lowest it is due.
                self.link(index);
                index = next;
            }
        }
        self.tick = self.tick.max(now_tick);
    }

    /// The occupied slot that comes first, with the tick at which it starts.
    fn next_slot(&self) -> Option<(usize, usize, u64)> {
        // A lower level's slots all come before the next slot of any higher level.
        for level in 0..LEVELS {
            if self.occupied[level] != 0 {
                let slot = self.occupied[level].trailing_zeros() as usize;
                let shift = SLOT_BITS * level as u32;
                let above = !((1u64 << (shift + SLOT_BITS)) - 1);
                let tick = (self.tick & above) | ((slot as u64) << shift);
                return Some((level, slot, tick));
            }
        }
        None
    }

    fn link(&mut self, index: u32) {
        let deadline_tick = self.nodes[index as usize].deadline_tick();
        if deadline_tick <= self.tick {
            let tail = self.due_tail;
            let node = &mut self.nodes[index as usize];
            node.list = DUE;
            node.prev = tail;
            node.next = NONE;
            if tail == NONE {
                self.due_head = index;
            } else {
                self.nodes[tail as usize].next = index;
            }
            self.due_tail = index;
            return;
        }
        // The highest bit in which the deadline differs from now names the level.
        let differing = 63 - (deadline_tick ^ self.tick).leading_zeros();
        let level = ((differing / SLOT_BITS) as usize).min(LEVELS - 1);
        let slot = ((deadline_tick >> (SLOT_BITS * level as u32)) as usize) % SLOTS;
        let list = level * SLOTS + slot;
        let head = self.heads[list];
        let node = &mut self.nodes[index as usize];
        node.list = list as u16;
        node.prev = NONE;
        node.next = head;
        if head != NONE {
            self.nodes[head as usize].prev = index;
        }
        self.heads[list] = index;
        self.occupied[level] |= 1 << slot;
    }

    fn unlink(&mut self, index: u32) {
        let node = &self.nodes[index as usize];
        let (prev, next, list) = (node.prev, node.next, node.list);
        if next != NONE {
            self.nodes[next as usize].prev = prev;
        } else if list == DUE {
            self.due_tail = prev;
        }
        if prev != NONE {
            self.nodes[prev as usize].next = next;
        } else if list == DUE {
            self.due_head = next;
        } else {
            self.heads[list as usize] = next;
            if next == NONE {
                self.occupied[list as usize / SLOTS] &= !(1 << (list as usize % SLOTS));
            }
        }
    }

    fn free(&mut self, index: u32) -> Option<T> {
        let first_free = self.first_free;
        let node = &mut self.nodes[index as usize];
        node.generation = node.generation.checked_add(1).unwrap_or(NonZeroU32::MIN);
        node.next = first_free;
        self.first_free = index;
        self.len -= 1;
        node.value.take()
    }
}

fn tick_before(at: Instant) -> u64 {
    at.as_nanos() / TICK.as_nanos() as u64
}

fn tick_after(at: Instant) -> u64 {
    at.as_nanos().div_ceil(TICK.as_nanos() as u64)
}

fn instant_of(tick: u64) -> Instant {
    Instant::from_nanos(tick.saturating_mul(TICK.as_nanos() as u64))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn at(ms: u64) -> Instant {
        Instant::from_nanos(ms * 1_000_000)
    }

    fn fired(wheel: &mut Wheel<u32>, ms: u64) -> Vec<u32> {
        let mut all: Vec<u32> = std::iter::from_fn(|| wheel.advance(at(ms))).collect();
        all.sort_unstable();
        all
    }

    #[test]
    fn fires_at_the_deadline_and_not_before() {
        let mut wheel = Wheel::new(at(0));
        wheel.arm(at(160), 1);
        wheel.arm(at(25_000), 2);
        assert!(fired(&mut wheel, 159).is_empty());
        assert_eq!(fired(&mut wheel, 160), [1]);
        assert!(fired(&mut wheel, 24_999).is_empty());
        assert_eq!(fired(&mut wheel, 25_016), [2]);
        assert!(wheel.is_empty());
    }

    #[test]
    fn a_past_deadline_is_due_at_once() {
        let mut wheel = Wheel::new(at(1_000));
        wheel.arm(at(3), 1);
        assert_eq!(fired(&mut wheel, 1_000), [1]);
    }

    #[test]
    fn cancelled_timers_stay_silent_and_their_keys_die() {
        let mut wheel = Wheel::new(at(0));
        let a = wheel.arm(at(100), 1);
        let b = wheel.arm(at(100), 2);
        assert_eq!(wheel.cancel(a), Some(1));
        assert_eq!(wheel.cancel(a), None);
        let c = wheel.arm(at(100), 3);
        assert_eq!(wheel.cancel(a), None);
        assert_eq!(fired(&mut wheel, 200), [2, 3]);
        assert_eq!(wheel.cancel(b), None);
        assert_eq!(wheel.cancel(c), None);
    }

    #[test]
    fn stopping_early_keeps_the_rest_due() {
        let mut wheel = Wheel::new(at(0));
        for n in 0..5 {
            wheel.arm(at(50), n);
        }
        assert!(wheel.advance(at(100)).is_some());
        assert!(wheel.advance(at(100)).is_some());
        assert_eq!(wheel.len(), 3);
        assert_eq!(wheel.next_wake(), Some(instant_of(tick_before(at(100)))));
        assert_eq!(fired(&mut wheel, 100).len(), 3);
    }

    proptest! {
        #[test]
        fn agrees_with_a_sorted_list(
            ops in proptest::collection::vec((0u64..200_000, 0u8..4, 0u64..5_000), 1..200)
        ) {
            let mut wheel = Wheel::new(at(0));
            let mut model: Vec<(u64, u32, TimerKey)> = Vec::new();
            let mut now = 0;
            for (n, (delay, op, step)) in ops.into_iter().enumerate() {
                let n = n as u32;
                match op {
                    0 | 1 => {
                        let deadline = now + delay;
                        model.push((deadline, n, wheel.arm(at(deadline), n)));
                    }
                    2 if !model.is_empty() => {
                        let (_, value, key) = model.swap_remove(delay as usize % model.len());
                        prop_assert_eq!(wheel.cancel(key), Some(value));
                    }
                    _ => {
                        now += step;
                        let got = fired(&mut wheel, now);
                        let tick = now / 16 * 16;
                        let mut want: Vec<u32> = model
                            .iter()
                            .filter(|(deadline, ..)| deadline.div_ceil(16) * 16 <= tick)
                            .map(|(_, value, _)| *value)
                            .collect();
                        want.sort_unstable();
                        model.retain(|(deadline, ..)| deadline.div_ceil(16) * 16 > tick);
                        prop_assert_eq!(got, want);
                        if let Some(wake) = wheel.next_wake() {
                            let first = model.iter().map(|(d, ..)| d.div_ceil(16) * 16).min();
                            prop_assert!(wake <= at(first.unwrap_or(0)));
                        } else {
                            prop_assert!(model.is_empty());
                        }
                    }
                }
                prop_assert_eq!(wheel.len(), model.len());
            }
        }
    }
}
