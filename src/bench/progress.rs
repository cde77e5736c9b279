//! The bar that shows how far a run is, on a terminal's standard error.

use std::io::{self, IsTerminal, Write};

/// A progress bar, or none.
#[derive(Debug)]
pub(crate) struct Progress {
    is_on: bool,
    shown_at: Option<(u64, u64)>,
}

impl Progress {
    /// One that is shown unless `quiet`, or where nobody would see it.
    pub(crate) fn new(quiet: bool) -> Self {
        Self {
            is_on: !quiet && io::stderr().is_terminal(),
            shown_at: None,
        }
    }

    /// Shows that `share` of `what` is done and that `count` of what is counted are there; not
    /// more often than the eye sees.
    pub(crate) fn show(&mut self, now: u64, what: &str, share: f64, count: u64) {
        if !self.is_on {
            return;
        }
        let (at, before) = self.shown_at.unwrap_or((0, 0));
        if now < at + INTERVAL_NS {
            return;
        }
        let rate = count.saturating_sub(before) as f64 / (now - at).max(1) as f64 * 1e9;
        self.shown_at = Some((now, count));
        let line = line(what, share, count, rate);
        let mut out = io::stderr().lock();
        // A terminal that is gone is no reason to end a run.
        let _ = write!(out, "\r\x1b[K{line}");
        let _ = out.flush();
    }

    /// Takes the bar away.
    pub(crate) fn clear(&mut self) {
        if self.is_on && self.shown_at.take().is_some() {
            let _ = write!(io::stderr(), "\r\x1b[K");
        }
    }
}

fn line(what: &str, share: f64, count: u64, rate: f64) -> String {
    let full = (share.clamp(0.0, 1.0) * WIDTH as f64).round() as usize;
    let bar = "█".repeat(full) + &"░".repeat(WIDTH - full);
    format!(
        "{what:>10} {bar} {:>3.0} %  {count} ({rate:.0}/s)",
        share.clamp(0.0, 1.0) * 100.0
    )
}

const INTERVAL_NS: u64 = 100_000_000;
const WIDTH: usize = 30;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_bar_is_as_long_as_the_share() {
        for (share, full) in [(0.0, 0), (0.5, 15), (1.0, 30), (7.0, 30), (-1.0, 0)] {
            let line = line("measuring", share, 12, 3.4);
            assert_eq!(line.matches('█').count(), full, "{line}");
            assert_eq!(line.matches(['█', '░']).count(), WIDTH);
            assert!(line.ends_with("12 (3/s)"), "{line}");
        }
    }
}
