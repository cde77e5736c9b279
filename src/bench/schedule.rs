//! When messages are due in an open loop: at a fixed rate, whatever the server does.
//!
//! Message `n` of source `s` of `S` is due `(n * S + s) / rate` seconds after the begin, so the
//! sources take turns. Nothing is stored per message: the time follows from the number, for
//! messages that could not be sent yet too.

use std::time::Duration;

/// A schedule. Times are nanoseconds of the generator's clock.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Schedule {
    begin: u64,
    /// Nothing is due from here on.
    end: u64,
    interval_ns: f64,
    sources: u64,
}

impl Schedule {
    /// `rate` messages a second of all `sources` together, from time 0 on for `duration`.
    pub(crate) fn new(duration: Duration, rate: f64, sources: u32) -> Self {
        Self {
            begin: 0,
            end: duration.as_nanos() as u64,
            interval_ns: 1e9 / rate,
            sources: u64::from(sources.max(1)),
        }
    }

    /// The same from `begin` on.
    pub(crate) fn starting_at(self, begin: u64) -> Self {
        Self {
            begin,
            end: begin + (self.end - self.begin),
            ..self
        }
    }

    /// When the source's message `number` is due.
    pub(crate) fn due_at(&self, source: u32, number: u64) -> u64 {
        self.nth_at(number * self.sources + u64::from(source))
    }

    fn nth_at(&self, nth: u64) -> u64 {
        self.begin + (nth as f64 * self.interval_ns) as u64
    }

    /// How many messages of all sources are due by `now`.
    pub(crate) fn due_of_all(&self, now: u64) -> u64 {
        let now = now.min(self.end.saturating_sub(1));
        let Some(since) = now.checked_sub(self.begin) else {
            return 0;
        };
        // Rounding may make it one too few or too many; the times decide.
        let mut count = (since as f64 / self.interval_ns) as u64;
        while self.nth_at(count) <= now {
            count += 1;
        }
        while count > 0 && self.nth_at(count - 1) > now {
            count -= 1;
        }
        count
    }

    /// How many messages of one source are among the first `due_of_all`.
    pub(crate) fn due_of(&self, source: u32, due_of_all: u64) -> u64 {
        let ahead = due_of_all.saturating_sub(u64::from(source));
        ahead.div_ceil(self.sources)
    }

    /// When the next message is due, if `due` of all were.
    pub(crate) fn next_at(&self, due: u64) -> Option<u64> {
        Some(self.nth_at(due)).filter(|at| *at < self.end)
    }

    /// The sources of the messages from `from` on and below `to`, each once.
    pub(crate) fn sources_between(&self, from: u64, to: u64) -> impl Iterator<Item = u32> {
        let sources = self.sources;
        (from..to.min(from + sources)).map(move |nth| (nth % sources) as u32)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_and_times_agree() {
        for rate in [3.0, 1000.0, 33_333.3, 1e6] {
            let schedule = Schedule::new(Duration::from_secs(2), rate, 7).starting_at(1000);
            for nth in [0, 1, 2, 5, 100, 5000] {
                let at = schedule.nth_at(nth);
                if at >= schedule.end {
                    continue;
                }
                assert_eq!(schedule.due_of_all(at), nth + 1, "{rate} {nth}");
                assert!(schedule.due_of_all(at - 1) <= nth);
            }
            let all = schedule.due_of_all(u64::MAX);
            assert!((all as f64 - 2.0 * rate).abs() <= 1.0, "{rate}: {all}");
            assert_eq!(schedule.next_at(all), None);
            let by_source: u64 = (0..7).map(|source| schedule.due_of(source, all)).sum();
            assert_eq!(by_source, all);
        }
    }

    #[test]
    fn sources_take_turns() {
        let schedule = Schedule::new(Duration::from_secs(1), 10.0, 3);
        assert_eq!(schedule.due_at(0, 0), 0);
        assert_eq!(schedule.due_at(2, 0), 200_000_000);
        assert_eq!(schedule.due_at(0, 1), 300_000_000);
        let sources: Vec<u32> = schedule.sources_between(4, 6).collect();
        assert_eq!(sources, [1, 2]);
        assert_eq!(schedule.sources_between(0, 1000).count(), 3);
        assert_eq!(schedule.due_of_all(0), 1);
        assert_eq!((schedule.due_of(0, 4), schedule.due_of(1, 4)), (2, 1));
    }
}
