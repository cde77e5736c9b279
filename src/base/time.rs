//! Time as an argument: pure layers are told what time it is, they never ask.

use std::time::Duration;

/// A point on the monotonic clock, in nanoseconds since an origin that the worker chose.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Instant(u64);

impl Instant {
    /// The instant `nanos` nanoseconds after the origin.
    pub const fn from_nanos(nanos: u64) -> Self {
        Self(nanos)
    }

    /// Nanoseconds since the origin.
    pub const fn as_nanos(self) -> u64 {
        self.0
    }

    /// The instant `millis` milliseconds after the origin.
    pub const fn from_millis(millis: u64) -> Self {
        Self(millis.saturating_mul(NANOS_PER_MILLI))
    }

    /// Whole milliseconds since the origin.
    pub const fn as_millis(self) -> u64 {
        self.0 / NANOS_PER_MILLI
    }

    /// How long ago `earlier` was; zero if it lies ahead.
    pub const fn since(self, earlier: Self) -> Duration {
        Duration::from_nanos(self.0.saturating_sub(earlier.0))
    }

    /// This instant, or the next that is a multiple of `step` after the origin.
    pub fn rounded_up(self, step: Duration) -> Self {
        let step = u64::try_from(step.as_nanos()).unwrap_or(u64::MAX).max(1);
        Self(self.0.div_ceil(step).saturating_mul(step))
    }

    /// The end of time: later than anything that happens.
    pub const NEVER: Self = Self(u64::MAX);

    /// The instant `after` later, saturating at the end of time.
    pub fn plus(self, after: Duration) -> Self {
        Self(
            self.0
                .saturating_add(u64::try_from(after.as_nanos()).unwrap_or(u64::MAX)),
        )
    }
}

const NANOS_PER_MILLI: u64 = 1_000_000;

/// The one clock reading of a turn.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Now {
    /// For deadlines and durations.
    pub mono: Instant,
    /// For what clients are told: Unix time in milliseconds.
    pub unix_ms: u64,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn since_never_goes_negative() {
        let a = Instant::from_nanos(5);
        let b = Instant::from_nanos(9);
        assert_eq!(b.since(a), Duration::from_nanos(4));
        assert_eq!(a.since(b), Duration::ZERO);
    }

    #[test]
    fn rounding_goes_up_to_the_next_step() {
        let step = Duration::from_nanos(10);
        for (at, rounded) in [(0, 0), (1, 10), (10, 10), (11, 20)] {
            assert_eq!(Instant(at).rounded_up(step), Instant(rounded));
        }
        assert_eq!(Instant(7).rounded_up(Duration::ZERO), Instant(7));
        assert_eq!(Instant::NEVER.rounded_up(step), Instant::NEVER);
    }

    #[test]
    fn plus_saturates() {
        let end = Instant::from_nanos(u64::MAX - 1);
        assert_eq!(end.plus(Duration::from_secs(1)).as_nanos(), u64::MAX);
        assert_eq!(end.plus(Duration::MAX).as_nanos(), u64::MAX);
    }
}
