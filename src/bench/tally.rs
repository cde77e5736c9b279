//! What a load counts: messages, faults, and how long messages took.

use hdrhistogram::Histogram;
use serde::Serialize;

use super::BenchError;

/// What went wrong.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub(crate) struct Faults {
    /// Messages that were changed, or that nobody had sent.
    pub(crate) wrong: u64,
    /// Messages that did not come.
    pub(crate) lost: u64,
    /// Messages that came again.
    pub(crate) doubled: u64,
    /// Messages that came after one that was sent later.
    pub(crate) reordered: u64,
    /// Connections that did not live to the end.
    pub(crate) ended: u64,
}

impl Faults {
    /// Whether there are any.
    pub(crate) fn any(&self) -> bool {
        *self != Self::default()
    }
}

/// The counts of a load.
#[derive(Debug)]
pub(crate) struct Tally {
    pub(crate) faults: Faults,
    /// Messages sent and received in the measured time.
    pub(crate) sent: u64,
    pub(crate) received: u64,
    /// Messages received since the start.
    pub(crate) received_in_all: u64,
    /// Nanoseconds.
    pub(crate) latency: Histogram<u64>,
    /// How much later than due messages were sent (open loop), in nanoseconds.
    pub(crate) lateness: Histogram<u64>,
    /// The measured time.
    begin: u64,
    end: u64,
    is_open: bool,
    is_measuring: bool,
}

impl Tally {
    /// Nothing yet.
    ///
    /// # Errors
    /// If a histogram can't be made.
    pub(crate) fn new(is_open: bool) -> Result<Self, BenchError> {
        let histogram = || {
            Histogram::new_with_bounds(1, LATENCY_NS_MAX, 3)
                .map_err(|error| BenchError::Internal(error.to_string()))
        };
        Ok(Self {
            faults: Faults::default(),
            sent: 0,
            received: 0,
            received_in_all: 0,
            latency: histogram()?,
            lateness: histogram()?,
            begin: u64::MAX,
            end: u64::MAX,
            is_open,
            is_measuring: false,
        })
    }

    /// The measured time is `begin` to `end`.
    pub(crate) fn set_times(&mut self, begin: u64, end: u64) {
        self.begin = begin;
        self.end = end;
    }

    /// Counts what comes from now on, or no longer.
    pub(crate) fn set_measuring(&mut self, on: bool) {
        self.is_measuring = on;
    }

    /// Whether what comes now counts.
    pub(crate) fn is_measuring(&self) -> bool {
        self.is_measuring
    }

    /// `count` messages were sent.
    pub(crate) fn on_sent(&mut self, count: u64) {
        if self.is_measuring {
            self.sent += count;
        }
    }

    /// A message came at `now` that was sent, or due, at `since`.
    #[inline]
    pub(crate) fn on_received(&mut self, since: u64, now: u64) {
        self.received_in_all += 1;
        self.received += u64::from(self.is_measuring);
        // In an open loop those count that were due in the measured time, however late they come;
        // in a closed one those that come in it.
        if self.is_measured(since) {
            self.latency.saturating_record(now.saturating_sub(since));
        }
    }

    /// A message that was due at `since` has not even been sent by `now`.
    pub(crate) fn on_overdue(&mut self, since: u64, now: u64) {
        if self.is_measured(since) {
            self.latency.saturating_record(now.saturating_sub(since));
        }
    }

    /// A message that was due at `since` is sent at `now`.
    pub(crate) fn on_late(&mut self, since: u64, now: u64) {
        if self.is_measured(since) {
            self.lateness.saturating_record(now.saturating_sub(since));
        }
    }

    fn is_measured(&self, since: u64) -> bool {
        if self.is_open {
            (self.begin..self.end).contains(&since)
        } else {
            self.is_measuring
        }
    }
}

const LATENCY_NS_MAX: u64 = 3_600_000_000_000;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_open_loop_counts_by_when_messages_were_due() {
        let mut tally = Tally::new(true).unwrap();
        tally.set_times(100, 200);
        tally.on_received(99, 150);
        tally.set_measuring(true);
        tally.on_received(100, 150);
        tally.set_measuring(false);
        // Due in time, come long after.
        tally.on_received(199, 9000);
        tally.on_received(200, 9000);
        tally.on_overdue(150, 10_150);
        assert_eq!((tally.received, tally.received_in_all), (1, 4));
        assert_eq!(tally.latency.len(), 3);
        assert!(tally.latency.max() >= 10_000);
        assert_eq!(tally.latency.min(), 50);
    }

    #[test]
    fn a_closed_loop_counts_by_when_messages_come() {
        let mut tally = Tally::new(false).unwrap();
        tally.on_received(1, 2);
        tally.set_measuring(true);
        tally.on_received(1, 6);
        tally.set_measuring(false);
        tally.on_received(2, 9);
        assert_eq!((tally.received, tally.latency.len()), (1, 1));
        assert_eq!(tally.latency.max(), 5);
        assert!(!tally.faults.any());
    }
}
