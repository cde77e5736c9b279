//! Token buckets: so much per second, so much at once.
//!
//! A bucket is one instant, the moment at which it will be full again (the generic cell rate
//! algorithm, ITU-T I.371): taking moves the moment ahead, time catches up with it. What the
//! bucket holds is never stored, so it never has to be refilled.

use std::time::Duration;

use super::time::Instant;

/// How fast a bucket fills, and how much it holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rate {
    per_second: u64,
    /// What one unit costs, in nanoseconds.
    unit: u64,
    /// What a full bucket is worth, in nanoseconds.
    burst: u64,
}

/// One bucket; full to begin with.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Bucket {
    full_at: Instant,
}

const NANOS_PER_SECOND: u64 = 1_000_000_000;
/// A unit that costs so many nanoseconds or more is rounded by a thousandth at most: then many
/// cost what they cost one by one, and a burst passes exactly.
const COARSE_UNIT: u64 = 1_000;

impl Rate {
    /// `per_second` units each second and `burst` at once, at least one. None if `per_second` is
    /// 0: no limit.
    ///
    /// Costs are rounded up to whole nanoseconds: a bucket never lets more through than its rate,
    /// and no rate is above one unit a nanosecond.
    pub fn new(per_second: u64, burst: u64) -> Option<Self> {
        if per_second == 0 {
            return None;
        }
        let mut rate = Self {
            per_second,
            unit: NANOS_PER_SECOND.div_ceil(per_second),
            burst: 0,
        };
        rate.burst = rate.cost(burst.max(1));
        Some(rate)
    }

    /// What `units` cost, in nanoseconds.
    #[inline]
    fn cost(self, units: u64) -> u64 {
        if self.unit >= COARSE_UNIT || units == 1 {
            return self.unit.saturating_mul(units);
        }
        // Dividing 128 bits costs several times as much, and only absurd numbers need them.
        match units.checked_mul(NANOS_PER_SECOND) {
            Some(cost) => cost.div_ceil(self.per_second),
            None => {
                let cost = u128::from(units) * u128::from(NANOS_PER_SECOND);
                u64::try_from(cost.div_ceil(u128::from(self.per_second))).unwrap_or(u64::MAX)
            }
        }
    }
}

impl Bucket {
    /// Takes `units` if the bucket holds them, else nothing.
    ///
    /// # Errors
    /// How long until it will hold them; for more than it can ever hold, how long until it is
    /// full.
    #[inline]
    pub fn try_take(&mut self, now: Instant, rate: Rate, units: u64) -> Result<(), Duration> {
        let owed = self.owed(now);
        let cost = rate.cost(units);
        let after = owed.saturating_add(cost);
        if after <= rate.burst {
            self.full_at = now.plus(Duration::from_nanos(after));
            return Ok(());
        }
        Err(Duration::from_nanos((after - rate.burst).min(owed.max(1))))
    }

    /// Takes `units` whether the bucket holds them or not. Says how long until it will hold an
    /// eighth of its burst again, if it has nothing left.
    #[inline]
    pub fn take(&mut self, now: Instant, rate: Rate, units: u64) -> Option<Duration> {
        let after = self.owed(now).saturating_add(rate.cost(units));
        self.full_at = now.plus(Duration::from_nanos(after));
        (after > rate.burst).then(|| Duration::from_nanos(after - rate.burst + rate.burst / 8))
    }

    /// Whether it holds all that it can.
    pub fn is_full(&self, now: Instant) -> bool {
        self.full_at <= now
    }

    /// When it will be full if nothing more is taken.
    pub const fn full_at(&self) -> Instant {
        self.full_at
    }

    /// What is missing from it, in nanoseconds.
    #[inline]
    fn owed(&self, now: Instant) -> u64 {
        self.full_at.as_nanos().saturating_sub(now.as_nanos())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const fn at(nanos: u64) -> Instant {
        Instant::from_nanos(NANOS_PER_SECOND + nanos)
    }

    #[test]
    fn a_rate_of_nothing_is_no_limit() {
        assert_eq!(Rate::new(0, 5), None);
    }

    #[test]
    fn a_burst_passes_whole_and_the_next_waits_for_its_turn() {
        let rate = Rate::new(100, 200).unwrap();
        let mut bucket = Bucket::default();
        for n in 0..200 {
            assert_eq!(bucket.try_take(at(0), rate, 1), Ok(()), "{n}");
        }
        let wait = bucket.try_take(at(0), rate, 1).unwrap_err();
        assert_eq!(wait, Duration::from_millis(10));
        assert!(bucket.try_take(at(9_999_999), rate, 1).is_err());
        assert_eq!(bucket.try_take(at(10_000_000), rate, 1), Ok(()));
        assert!(bucket.try_take(at(10_000_000), rate, 1).is_err());
    }

    #[test]
    fn what_can_never_be_held_says_when_the_bucket_is_full() {
        let rate = Rate::new(10, 10).unwrap();
        let mut bucket = Bucket::default();
        assert_eq!(bucket.try_take(at(0), rate, 10), Ok(()));
        let wait = bucket.try_take(at(0), rate, 11).unwrap_err();
        assert_eq!(wait, Duration::from_secs(1));
    }

    #[test]
    fn debt_is_worked_off_before_anything_is_held_again() {
        let rate = Rate::new(1000, 800).unwrap();
        let mut bucket = Bucket::default();
        assert_eq!(bucket.take(at(0), rate, 800), None);
        // 1 unit of debt and an eighth of 800 at 1 ms each.
        let wait = bucket.take(at(0), rate, 1).unwrap();
        assert_eq!(wait, Duration::from_millis(101));
        assert!(!bucket.is_full(at(0)));
        assert!(bucket.is_full(at(801_000_000)));
    }

    #[test]
    fn the_fastest_rates_still_count() {
        let rate = Rate::new(u64::MAX, u64::MAX).unwrap();
        let mut bucket = Bucket::default();
        assert_eq!(bucket.try_take(at(0), rate, 1), Ok(()));
        let huge = Rate::new(1, u64::MAX).unwrap();
        assert_eq!(bucket.take(at(0), huge, u64::MAX), None);
    }

    proptest! {
        /// Against a bucket that is refilled in the open, unit by unit.
        #[test]
        fn it_lets_through_what_a_refilled_bucket_would(
            per_second in 1u64..2_000,
            burst in 1u64..50,
            steps in proptest::collection::vec((0u64..5_000_000, 1u64..4), 1..200),
        ) {
            let rate = Rate::new(per_second, burst).unwrap();
            let mut bucket = Bucket::default();
            let unit = NANOS_PER_SECOND.div_ceil(per_second);
            let cost = |units: u64| units * unit;
            let full = burst * unit;
            let (mut held, mut now) = (full, 0);
            for (wait, units) in steps {
                now += wait;
                held = (held + wait).min(full);
                let passes = held >= cost(units);
                let took = bucket.try_take(at(now), rate, units);
                prop_assert_eq!(took.is_ok(), passes, "{} of {}", cost(units), held);
                match took {
                    Ok(()) => held -= cost(units),
                    Err(wait) if cost(units) <= full => {
                        prop_assert_eq!(wait.as_nanos() as u64, cost(units) - held);
                    }
                    Err(_) => {}
                }
            }
        }

        /// Over any stretch of time no more than the burst and the rate's share gets through.
        #[test]
        fn never_more_than_its_rate(
            per_second in 1u64..100_000_000,
            burst in 1u64..10_000,
            steps in proptest::collection::vec((0u64..100_000_000, 1u64..5_000), 1..100),
        ) {
            let rate = Rate::new(per_second, burst).unwrap();
            let mut bucket = Bucket::default();
            let (mut now, mut passed) = (0u64, 0u128);
            for (wait, units) in steps {
                now += wait;
                if bucket.try_take(at(now), rate, units).is_ok() {
                    passed += u128::from(units);
                }
                let share = u128::from(now) * u128::from(per_second) / u128::from(NANOS_PER_SECOND);
                prop_assert!(passed <= u128::from(burst) + share + 1);
            }
        }
    }
}
