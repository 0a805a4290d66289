//! When to try again what the kernel refused: soon at first, then less and less often, until something changes.

use std::time::{Duration, Instant};

/// After the first failure.
const FIRST: Duration = Duration::from_secs(1);
/// However often it failed.
const LONGEST: Duration = Duration::from_mins(1);

/// When to try again.
#[derive(Debug)]
pub(super) struct Retry {
    at: Instant,
    delay: Duration,
}

impl Retry {
    /// At once.
    pub(super) fn new() -> Self {
        Self { at: Instant::now(), delay: FIRST }
    }

    /// A point in time, not a span: whatever else wakes the loop must not put it off.
    pub(super) fn at(&self) -> Instant {
        self.at
    }

    /// Whether it is time.
    pub(super) fn is_due(&self) -> bool {
        Instant::now() >= self.at
    }

    /// It failed, again.
    pub(super) fn failed(&mut self) {
        if self.is_due() {
            self.at = Instant::now() + self.delay;
            self.delay = (self.delay * 2).min(LONGEST);
        }
    }

    /// Something has changed, or it succeeded: the next failure is a first one.
    pub(super) fn reset(&mut self) {
        *self = Self::new();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_goes_on_failing_is_tried_less_and_less_often() {
        let mut retry = Retry::new();
        let mut delays = Vec::new();
        for _ in 0..9 {
            retry.at = Instant::now();
            retry.failed();
            delays.push(retry.at.saturating_duration_since(Instant::now()).as_millis().div_ceil(1_000));
            let at = retry.at;
            // Whatever wakes the loop in between.
            retry.failed();
            assert_eq!(retry.at, at);
        }
        assert_eq!(delays, [1, 2, 4, 8, 16, 32, 60, 60, 60]);
        retry.reset();
        assert!(retry.is_due());
        retry.failed();
        assert!(retry.at() <= Instant::now() + FIRST);
    }
}
