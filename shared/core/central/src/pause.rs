//! A Central that was down is not tried again at once: 1 s after it is back, and twice as long each further time.
//!
//! The wait begins when it is usable, not when it went: a Central that comes back after an hour gets its hosts one by one
//! all the same. It lies between half and the whole, so that they do not all return together.

use crate::random::Random;

const FIRST_MS: u64 = 1_000;
const LONGEST_MS: u64 = 30_000;

/// When a Central may be given work.
#[derive(Clone, Debug, Default)]
pub(crate) struct Pause {
    was_usable: bool,
    /// Losses in a row: without having been usable for `LONGEST_MS` in between.
    losses: u32,
    left_ms: u64,
    usable_ms: u64,
}

impl Pause {
    pub fn tick(&mut self, ms: u64, usable: bool, random: &mut Random) {
        if usable {
            self.left_ms = self.left_ms.saturating_sub(ms);
            self.usable_ms += ms;
            if self.usable_ms >= LONGEST_MS {
                self.losses = 0;
            }
        } else if self.was_usable {
            let whole = (FIRST_MS << self.losses).min(LONGEST_MS);
            self.left_ms = random.spread(whole * 3 / 4, 1.0 / 3.0);
            self.losses = (self.losses + 1).min(5);
        }
        if !usable {
            self.usable_ms = 0;
        }
        self.was_usable = usable;
    }

    /// It is usable, and has been for long enough.
    pub fn over(&self) -> bool {
        self.was_usable && self.left_ms == 0
    }
}
