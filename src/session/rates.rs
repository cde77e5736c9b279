//! How much a client may send: messages, bytes and control frames each second (protocol §7).

use std::time::Duration;

use crate::{
    base::{
        bucket::{Bucket, Rate},
        limits::RATE_BREACH_WINDOW,
        time::Instant,
    },
    config::Limits,
};

/// What a route's limits come to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RateLimits {
    messages: Option<Rate>,
    bytes: Option<Rate>,
    control_frames: Option<Rate>,
    breaches_max: u32,
}

/// What one client has used up.
#[derive(Clone, Debug, Default)]
pub struct Rates {
    messages: Bucket,
    bytes: Bucket,
    control_frames: Bucket,
    /// None until the first.
    breaches: Option<Box<Breaches>>,
}

/// Messages that were too many.
#[derive(Clone, Copy, Debug)]
struct Breaches {
    /// When the first of them was.
    since: Instant,
    count: u32,
}

/// What becomes of a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It is taken.
    Pass,
    /// It is refused; one may pass after so long.
    Refuse(Duration),
    /// It is refused, and was one too many: the client is closed.
    Close(Duration),
}

/// One client's rates at one moment, and what came of them: what a handler is given for a message
/// that may hold many commands.
#[derive(Debug)]
pub struct Meter<'a> {
    now: Instant,
    rates: &'a mut Rates,
    limits: &'a RateLimits,
    /// Messages seen.
    pub seen: u32,
    /// Messages refused.
    pub refused: u64,
    /// Whether the client is to be closed.
    pub is_over: bool,
}

impl<'a> Meter<'a> {
    /// `rates` at `now`.
    pub const fn new(now: Instant, rates: &'a mut Rates, limits: &'a RateLimits) -> Self {
        Self {
            now,
            rates,
            limits,
            seen: 0,
            refused: 0,
            is_over: false,
        }
    }

    /// A message, or one command of a batch, has come.
    ///
    /// # Errors
    /// If it is one too many: how long until one may pass.
    #[inline]
    pub fn on_message(&mut self) -> Result<(), Duration> {
        self.seen += 1;
        match self.rates.on_message(self.now, self.limits) {
            Verdict::Pass => Ok(()),
            Verdict::Refuse(wait) => {
                self.refused += 1;
                Err(wait)
            }
            Verdict::Close(wait) => {
                self.refused += 1;
                self.is_over = true;
                Err(wait)
            }
        }
    }
}

impl RateLimits {
    /// Those of `limits`.
    pub fn new(limits: &Limits) -> Self {
        Self {
            messages: Rate::new(
                limits.messages_per_second.into(),
                limits.messages_burst.into(),
            ),
            bytes: Rate::new(
                limits.bytes_per_second.0 as u64,
                limits.bytes_burst.0 as u64,
            ),
            // A second's worth may come at once.
            control_frames: Rate::new(
                limits.control_frames_per_second.into(),
                limits.control_frames_per_second.into(),
            ),
            breaches_max: limits.rate_breaches_max,
        }
    }
}

impl Rates {
    /// A message, or one command of a batch, has come.
    #[inline]
    pub fn on_message(&mut self, now: Instant, limits: &RateLimits) -> Verdict {
        let Some(rate) = limits.messages else {
            return Verdict::Pass;
        };
        match self.messages.try_take(now, rate, 1) {
            Ok(()) => Verdict::Pass,
            Err(wait) => self.on_breach(now, wait, limits),
        }
    }

    #[cold]
    fn on_breach(&mut self, now: Instant, wait: Duration, limits: &RateLimits) -> Verdict {
        let none = Breaches {
            since: now,
            count: 0,
        };
        let breaches = self.breaches.get_or_insert_with(|| Box::new(none));
        if now.since(breaches.since) >= RATE_BREACH_WINDOW {
            **breaches = none;
        }
        breaches.count += 1;
        if breaches.count >= limits.breaches_max {
            Verdict::Close(wait)
        } else {
            Verdict::Refuse(wait)
        }
    }

    /// `bytes` have come. How long reading is to pause, if they were too many.
    #[inline]
    pub fn on_bytes(
        &mut self,
        now: Instant,
        bytes: usize,
        limits: &RateLimits,
    ) -> Option<Duration> {
        let rate = limits.bytes?;
        self.bytes.take(now, rate, bytes as u64)
    }

    /// A ping or pong has come. Whether it was one too many.
    #[inline]
    pub fn on_control_frame(&mut self, now: Instant, limits: &RateLimits) -> bool {
        limits
            .control_frames
            .is_some_and(|rate| self.control_frames.try_take(now, rate, 1).is_err())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::ByteSize;

    fn limits(edit: impl FnOnce(&mut Limits)) -> RateLimits {
        let mut limits = Limits::default();
        edit(&mut limits);
        RateLimits::new(&limits)
    }

    fn at(millis: u64) -> Instant {
        Instant::from_nanos(millis * 1_000_000)
    }

    #[test]
    fn the_burst_passes_and_breaches_are_counted_to_the_close() {
        let limits = limits(|l| {
            l.messages_per_second = 10;
            l.messages_burst = 3;
            l.rate_breaches_max = 2;
        });
        let mut rates = Rates::default();
        for _ in 0..3 {
            assert_eq!(rates.on_message(at(0), &limits), Verdict::Pass);
        }
        let wait = Duration::from_millis(100);
        assert_eq!(rates.on_message(at(0), &limits), Verdict::Refuse(wait));
        assert_eq!(rates.on_message(at(100), &limits), Verdict::Pass);
        assert_eq!(rates.on_message(at(100), &limits), Verdict::Close(wait));
    }

    #[test]
    fn breaches_of_another_window_are_forgotten() {
        let limits = limits(|l| {
            l.messages_per_second = 1;
            l.messages_burst = 1;
            l.rate_breaches_max = 2;
        });
        let window = RATE_BREACH_WINDOW.as_millis() as u64;
        for (second, closes) in [(window - 1, true), (window, false)] {
            let mut rates = Rates::default();
            assert_eq!(rates.on_message(at(0), &limits), Verdict::Pass);
            assert!(matches!(
                rates.on_message(at(0), &limits),
                Verdict::Refuse(_)
            ));
            assert_eq!(rates.on_message(at(second), &limits), Verdict::Pass);
            let verdict = rates.on_message(at(second), &limits);
            assert_eq!(matches!(verdict, Verdict::Close(_)), closes, "{second}");
        }
    }

    #[test]
    fn bytes_pause_reading_only_beyond_the_burst() {
        let limits = limits(|l| {
            l.bytes_per_second = ByteSize(1000);
            l.bytes_burst = ByteSize(800);
        });
        let mut rates = Rates::default();
        assert_eq!(rates.on_bytes(at(0), 800, &limits), None);
        let pause = rates.on_bytes(at(0), 1, &limits).unwrap();
        assert_eq!(pause, Duration::from_millis(101));
        // What it pauses for is there when the pause is over.
        let after = at(101);
        assert_eq!(rates.on_bytes(after, 100, &limits), None);
        assert!(rates.on_bytes(after, 1, &limits).is_some());
    }

    #[test]
    fn control_frames_have_a_second_s_worth() {
        let limits = limits(|l| l.control_frames_per_second = 3);
        let mut rates = Rates::default();
        let taken: Vec<bool> = (0..4)
            .map(|_| rates.on_control_frame(at(0), &limits))
            .collect();
        assert_eq!(taken, [false, false, false, true]);
    }

    #[test]
    fn zero_is_no_limit() {
        let limits = limits(|l| {
            l.messages_per_second = 0;
            l.bytes_per_second = ByteSize(0);
            l.control_frames_per_second = 0;
        });
        let mut rates = Rates::default();
        for _ in 0..100_000 {
            assert_eq!(rates.on_message(at(0), &limits), Verdict::Pass);
            assert!(!rates.on_control_frame(at(0), &limits));
        }
        assert_eq!(rates.on_bytes(at(0), usize::MAX, &limits), None);
    }
}
