//! The orderly end: TERM, patience, KILL, and no longer. Pure: time comes as an argument.
//!
//! The end is reached when no child is left, those re-parented to the keeper included, or at the latest half a second after
//! the first KILL: a process that cannot die (uninterruptible sleep) must not keep the keeper.

use std::time::{Duration, Instant};

const PATIENCE_AFTER_KILL: Duration = Duration::from_millis(500);
const BETWEEN_KILLS: Duration = Duration::from_millis(10);

/// What to do now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Act {
    /// TERM to children that have not had it; look again at the latest after this time.
    Terminate(Duration),
    /// KILL to every child (new ones appear as their parents die); look again after this time.
    Kill(Duration),
    /// Nothing is left, or nothing more can be done.
    Leave,
}

/// An end under way.
#[derive(Debug, Clone)]
pub struct Ending {
    kill_at: Instant,
}

impl Ending {
    /// Begins at `now`: TERM at once, KILL after `patience`.
    pub fn begin(now: Instant, patience: Duration) -> Self {
        Self { kill_at: now + patience }
    }

    /// A second request to end can only hasten it.
    pub fn hasten(&mut self, now: Instant, patience: Duration) {
        self.kill_at = self.kill_at.min(now + patience);
    }

    /// The next act at `now`, given whether children remain.
    pub fn act(&self, now: Instant, children: bool) -> Act {
        if !children || now >= self.kill_at + PATIENCE_AFTER_KILL {
            Act::Leave
        } else if now >= self.kill_at {
            Act::Kill(BETWEEN_KILLS)
        } else {
            Act::Terminate(self.kill_at - now)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    #[test]
    fn term_then_kill_then_leave() {
        let start = Instant::now();
        let ending = Ending::begin(start, 1000 * MS);
        assert_eq!(ending.act(start, true), Act::Terminate(1000 * MS));
        assert_eq!(ending.act(start + 400 * MS, true), Act::Terminate(600 * MS));
        assert_eq!(ending.act(start + 1000 * MS, true), Act::Kill(BETWEEN_KILLS));
        assert_eq!(ending.act(start + 1499 * MS, true), Act::Kill(BETWEEN_KILLS));
        assert_eq!(ending.act(start + 1500 * MS, true), Act::Leave);
    }

    #[test]
    fn no_child_left_is_the_end_at_any_time() {
        let start = Instant::now();
        let ending = Ending::begin(start, 1000 * MS);
        assert_eq!(ending.act(start, false), Act::Leave);
        assert_eq!(ending.act(start + 1200 * MS, false), Act::Leave);
    }

    #[test]
    fn a_second_request_hastens_and_never_delays() {
        let start = Instant::now();
        let mut ending = Ending::begin(start, 60_000 * MS);
        ending.hasten(start, 1000 * MS);
        assert_eq!(ending.act(start + 1000 * MS, true), Act::Kill(BETWEEN_KILLS));
        ending.hasten(start, 60_000 * MS);
        assert_eq!(ending.act(start + 1000 * MS, true), Act::Kill(BETWEEN_KILLS));
    }
}
