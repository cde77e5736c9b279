//! Log lines about peers' noise: a few each second, and how many were left out.

use std::time::Duration;

use super::{
    bucket::{Bucket, Rate},
    time::Instant,
};

/// Lets a few lines through and counts the others.
#[derive(Debug)]
pub struct Sampler {
    bucket: Bucket,
    rate: Rate,
    suppressed: u64,
}

impl Sampler {
    /// At most `lines` at once and each second.
    ///
    /// # Panics
    /// If `lines` is 0.
    pub fn new(lines: u64) -> Self {
        Self {
            bucket: Bucket::default(),
            rate: Rate::new(lines, lines).expect("a sampler lets something through"),
            suppressed: 0,
        }
    }

    /// Whether a line may be written now; if so, how many were not since the last one.
    pub fn admit(&mut self, now: Instant) -> Option<u64> {
        match self.bucket.try_take(now, self.rate, 1) {
            Ok(()) => Some(std::mem::take(&mut self.suppressed)),
            Err(Duration { .. }) => {
                self.suppressed += 1;
                None
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_left_out_is_told_with_the_next_line() {
        let mut sampler = Sampler::new(2);
        let now = Instant::from_nanos(0);
        assert_eq!(sampler.admit(now), Some(0));
        assert_eq!(sampler.admit(now), Some(0));
        assert_eq!(sampler.admit(now), None);
        assert_eq!(sampler.admit(now), None);
        let later = now.plus(Duration::from_secs(1));
        assert_eq!(sampler.admit(later), Some(2));
        assert_eq!(sampler.admit(later), Some(0));
    }
}
