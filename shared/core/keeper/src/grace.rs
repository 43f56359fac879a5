//! When a keeper without a controller gives up. Pure: time comes as an argument.
//!
//! A keeper that no controller has greeted yet holds nothing; it waits a fixed time for the first one, whatever the grace
//! is, so that neither a grace of 0 kills it at birth nor "never" leaves it behind when its starter died at once.

use std::time::{Duration, Instant};

const FIRST_CONTROLLER: Duration = Duration::from_secs(10);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Control {
    Awaited { since: Instant },
    Present,
    Lost { since: Instant },
}

/// The orphan clock.
#[derive(Debug, Clone)]
pub struct Grace {
    limit: Option<Duration>,
    control: Control,
}

impl Grace {
    /// A keeper that starts at `now`; `milliseconds` below 0 mean "never".
    pub fn new(milliseconds: i64, now: Instant) -> Self {
        let mut grace = Self { limit: None, control: Control::Awaited { since: now } };
        grace.set(milliseconds);
        grace
    }

    /// Changes the limit; a running clock keeps its start.
    pub fn set(&mut self, milliseconds: i64) {
        self.limit = u64::try_from(milliseconds).ok().map(Duration::from_millis);
    }

    /// The limit in milliseconds, below 0 for "never".
    pub fn milliseconds(&self) -> i64 {
        self.limit.map_or(-1, |limit| i64::try_from(limit.as_millis()).unwrap_or(i64::MAX))
    }

    /// A controller is here.
    pub fn controlled(&mut self) {
        self.control = Control::Present;
    }

    /// The controller went away at `now`.
    pub fn lost(&mut self, now: Instant) {
        self.control = Control::Lost { since: now };
    }

    /// When to end, if nobody comes.
    pub fn deadline(&self) -> Option<Instant> {
        match self.control {
            Control::Present => None,
            Control::Awaited { since } => since.checked_add(FIRST_CONTROLLER),
            Control::Lost { since } => self.limit.and_then(|limit| since.checked_add(limit)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn the_clock_runs_from_the_loss_of_the_controller() {
        let start = Instant::now();
        let mut grace = Grace::new(2000, start);
        grace.controlled();
        assert_eq!(grace.deadline(), None);
        grace.lost(start + SECOND);
        assert_eq!(grace.deadline(), Some(start + 3 * SECOND));
        grace.set(5000);
        assert_eq!(grace.deadline(), Some(start + 6 * SECOND));
        grace.controlled();
        assert_eq!(grace.deadline(), None);
    }

    #[test]
    fn a_grace_of_zero_ends_at_the_loss_and_never_ends_never() {
        let start = Instant::now();
        let mut grace = Grace::new(0, start);
        grace.controlled();
        grace.lost(start);
        assert_eq!(grace.deadline(), Some(start));
        grace.set(-1);
        assert_eq!(grace.deadline(), None);
        grace.set(i64::MAX);
        assert!(grace.deadline().is_none_or(|deadline| deadline > start + 1_000_000 * SECOND));
    }

    #[test]
    fn the_first_controller_is_awaited_for_a_fixed_time() {
        let start = Instant::now();
        for milliseconds in [0, 60_000, -1] {
            assert_eq!(Grace::new(milliseconds, start).deadline(), Some(start + FIRST_CONTROLLER));
        }
    }
}
