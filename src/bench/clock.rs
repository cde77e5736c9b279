//! The generator's clock: nanoseconds since it was started.

use std::time::Instant;

/// A monotonic clock.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Clock(Instant);

impl Clock {
    /// A clock at 0.
    pub(crate) fn start() -> Self {
        Self(Instant::now())
    }

    /// Reads it.
    #[inline]
    pub(crate) fn now(self) -> u64 {
        self.0.elapsed().as_nanos() as u64
    }
}
