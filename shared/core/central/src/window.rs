//! For how long an input was hot lately.
//!
//! Ticks of a starving host are late, or missing: a tick counts for the time since the one before it, so that what is
//! counted is time and not ticks. It counts for a second at most: what was in a longer gap nobody has seen.

use std::collections::VecDeque;

use crate::sample::INPUTS;

/// A gap that is longer is a clock that jumped, whichever way.
const JUMP_MS: u64 = 2_000;
/// For so long a tick counts at the most.
const TICK_AT_MOST_MS: u64 = 1_000;

/// The clock of the caller, made into one that only counts time which somebody has watched.
#[derive(Clone, Debug, Default)]
pub(crate) struct Clock {
    last: Option<u64>,
}

#[derive(Clone, Copy, Debug)]
pub(crate) struct Passed {
    pub ms: u64,
    pub jumped: bool,
}

impl Clock {
    pub fn tick(&mut self, now_ms: u64) -> Passed {
        let last = self.last.replace(now_ms).unwrap_or(now_ms);
        let jumped = now_ms.abs_diff(last) > JUMP_MS;
        Passed { ms: if jumped { 0 } else { now_ms.saturating_sub(last).min(TICK_AT_MOST_MS) }, jumped }
    }
}

/// The ticks of the last while, the newest in front.
#[derive(Clone, Debug, Default)]
pub(crate) struct Window {
    ticks: VecDeque<Tick>,
}

#[derive(Clone, Copy, Debug)]
struct Tick {
    ms: u64,
    exceeded: [bool; INPUTS],
}

impl Window {
    /// Takes a tick in, and forgets what lies before `within_ms`.
    pub fn push(&mut self, ms: u64, exceeded: [bool; INPUTS], within_ms: u64) {
        if ms == 0 {
            return;
        }
        self.ticks.push_front(Tick { ms, exceeded });
        let mut left = within_ms;
        self.ticks.retain(|tick| {
            let kept = left > 0;
            left = left.saturating_sub(tick.ms);
            kept
        });
    }

    pub fn clear(&mut self) {
        self.ticks.clear();
    }

    /// By input: milliseconds of the last `within_ms` in which it was exceeded.
    pub fn held(&self, within_ms: u64) -> [u64; INPUTS] {
        let mut held = [0; INPUTS];
        let mut left = within_ms;
        for tick in &self.ticks {
            let counted = tick.ms.min(left);
            left -= counted;
            for (held, exceeded) in held.iter_mut().zip(tick.exceeded) {
                *held += if exceeded { counted } else { 0 };
            }
        }
        held
    }
}
