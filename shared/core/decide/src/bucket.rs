//! Token bucket: so many tokens come in at the beginning of each interval, up to a maximum; a request takes one.
//! One word: the number of the interval of the last fill, and the tokens that are left.

use std::sync::atomic::{AtomicU64, Ordering};

use crate::schema::limits::RateLimit;

/// The tokens of one limit. A new one is full.
#[derive(Debug, Default)]
pub struct Bucket(AtomicU64);

/// What taking a token came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Taken {
    /// There was one; so many are left.
    Token(u32),
    /// There was none; the next comes in so many milliseconds.
    None(u64),
}

impl Bucket {
    /// Takes a token at `now_ms`. `max`, `fill` and the interval are ≥ 1.
    pub fn take(&self, limit: &RateLimit, now_ms: u64) -> Taken {
        let interval = limit.interval_ms.max(1);
        // Interval 0 is that of a bucket nobody has touched: it is full.
        let now = (now_ms / interval + 1) & u64::from(u32::MAX);
        let mut left = 0;
        let taken = self.0.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |word| {
            let (last, tokens) = (word >> 32, word & u64::from(u32::MAX));
            // Numbers of a shorter interval lie ahead of those of a longer one: such a bucket begins anew, too.
            let filled = if last == 0 || last > now {
                u64::from(limit.max)
            } else {
                tokens.saturating_add(now.saturating_sub(last).saturating_mul(u64::from(limit.fill)))
            };
            let tokens = filled.min(u64::from(limit.max));
            left = tokens.checked_sub(1)?;
            Some(now << 32 | left)
        });
        match taken {
            Ok(_) => Taken::Token(u32::try_from(left).unwrap_or(u32::MAX)),
            Err(_) => Taken::None(interval - now_ms % interval),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMIT: RateLimit = RateLimit { max: 3, fill: 2, interval_ms: 100, enabled: 100.0, enforced: 100.0 };

    #[test]
    fn it_begins_full_and_fills_by_the_interval() {
        let bucket = Bucket::default();
        for left in [2, 1, 0] {
            assert_eq!(bucket.take(&LIMIT, 1_010), Taken::Token(left));
        }
        assert_eq!(bucket.take(&LIMIT, 1_010), Taken::None(90));
        assert_eq!(bucket.take(&LIMIT, 1_100), Taken::Token(1));
        assert_eq!(bucket.take(&LIMIT, 9_000), Taken::Token(2), "never more than the maximum");
    }

    #[test]
    fn another_interval_begins_at_once() {
        let bucket = Bucket::default();
        while matches!(bucket.take(&LIMIT, 1_010), Taken::Token(_)) {}
        let longer = RateLimit { interval_ms: 1_000, ..LIMIT };
        assert_eq!(bucket.take(&longer, 1_020), Taken::Token(2));
    }

    #[test]
    fn over_a_minute_it_lets_the_rate_through() {
        let bucket = Bucket::default();
        let passed = (0..60_000).filter(|ms| matches!(bucket.take(&LIMIT, *ms), Taken::Token(_))).count();
        assert_eq!(passed, 3 + 599 * 2);
    }
}
