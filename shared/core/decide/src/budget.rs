//! Retry budget (Finagle, Linkerd; GEP-3388): retries within ten seconds are at most a share of the requests plus so many a
//! second. Eleven slots of a second each, changed by compare-and-swap; a slot's own second tells whether it is current.

use std::sync::atomic::{AtomicU64, Ordering};

use crate::schema::limits::Budget;

/// Seconds that count.
pub const WINDOW_S: u64 = 10;
const SLOTS: usize = WINDOW_S as usize + 1;
const COUNT_BITS: u32 = 22;
const COUNT_MASK: u64 = (1 << COUNT_BITS) - 1;

/// What was asked and tried again, lately.
#[derive(Debug, Default)]
pub struct Spent([AtomicU64; SLOTS]);

#[derive(Clone, Copy)]
struct Second {
    at: u64,
    requests: u64,
    retries: u64,
}

impl Second {
    fn unpack(word: u64) -> Second {
        Second { at: word >> (2 * COUNT_BITS), requests: word >> COUNT_BITS & COUNT_MASK, retries: word & COUNT_MASK }
    }

    fn pack(self) -> u64 {
        self.at << (2 * COUNT_BITS) | self.requests.min(COUNT_MASK) << COUNT_BITS | self.retries.min(COUNT_MASK)
    }
}

impl Spent {
    /// Counts a request: one addition while its second lasts.
    pub fn request(&self, now_ms: u64) {
        let now_s = now_ms / 1000;
        match self.0.get((now_s % SLOTS as u64) as usize) {
            Some(slot) if slot.load(Ordering::Relaxed) >> (2 * COUNT_BITS) == now_s & Self::mark() => {
                slot.fetch_add(1 << COUNT_BITS, Ordering::Relaxed);
            }
            _ => self.add(now_s, 1, 0),
        }
    }

    /// Takes a retry out of the budget; false if it is spent.
    pub fn retry(&self, budget: &Budget, now_ms: u64) -> bool {
        let now = now_ms / 1000;
        let (requests, retries) = self.sums(now);
        let allowed = budget.percent / 100.0 * requests as f64 + f64::from(budget.min_per_second) * WINDOW_S as f64;
        if (retries + 1) as f64 > allowed {
            return false;
        }
        self.add(now, 0, 1);
        true
    }

    /// Requests and retries of the last ten seconds.
    #[must_use]
    pub fn sums(&self, now_s: u64) -> (u64, u64) {
        let oldest = (now_s & Self::mark()).saturating_sub(WINDOW_S - 1);
        self.0.iter().map(|slot| Second::unpack(slot.load(Ordering::Relaxed))).fold((0, 0), |sum, second| {
            if (oldest..=now_s & Self::mark()).contains(&second.at) {
                (sum.0 + second.requests, sum.1 + second.retries)
            } else {
                sum
            }
        })
    }

    const fn mark() -> u64 {
        (1 << (64 - 2 * COUNT_BITS)) - 1
    }

    fn add(&self, now_s: u64, requests: u64, retries: u64) {
        let Some(slot) = self.0.get((now_s % SLOTS as u64) as usize) else {
            return;
        };
        let at = now_s & Self::mark();
        let _ = slot.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |word| {
            let seen = Second::unpack(word);
            let (old_requests, old_retries) = if seen.at == at { (seen.requests, seen.retries) } else { (0, 0) };
            Some(Second { at, requests: old_requests + requests, retries: old_retries + retries }.pack())
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TWENTY: Budget = Budget { percent: 20.0, min_per_second: 10 };

    #[test]
    fn a_storm_is_bounded_by_the_share_and_the_minimum() {
        let spent = Spent::default();
        let (mut requests, mut retries) = (0_u64, 0_u64);
        for ms in 0..60_000_u64 {
            spent.request(ms);
            requests += 1;
            retries += u64::from(spent.retry(&TWENTY, ms));
        }
        assert!(retries as f64 <= 0.2 * requests as f64 + 10.0 * 60.0, "{retries} of {requests}");
        assert!(retries as f64 >= 0.19 * requests as f64, "and it is used: {retries}");
    }

    #[test]
    fn few_requests_may_all_be_repeated() {
        let spent = Spent::default();
        for i in 0..100_u64 {
            spent.request(i * 1000);
            assert!(spent.retry(&TWENTY, i * 1000));
        }
    }

    #[test]
    fn what_is_older_than_the_window_does_not_count() {
        let spent = Spent::default();
        let none = Budget { percent: 100.0, min_per_second: 0 };
        assert!(!spent.retry(&none, 5_000));
        spent.request(5_000);
        assert!(spent.retry(&none, 14_999));
        assert!(!spent.retry(&none, 14_999));
        spent.request(15_000);
        assert_eq!(spent.sums(15), (1, 1));
        assert_eq!(spent.sums(25), (0, 0));
    }
}
