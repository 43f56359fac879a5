//! Whether an attempt that failed is made again, and when.
//!
//! The rules, in their order: something is left to try; the failure is one that is tried again; nothing can happen twice
//! (an idempotent method, and no byte of an answer passed on); the answer does not ask for more time than is left; the
//! budget allows it. The first failure is returned when one of them does not hold.

use crate::random::Random;
use crate::schema::limits::{Retry, RetryOn};

/// The longest that a `Retry-After` is obeyed for, seconds (gRPC A6 and Envoy have the like).
pub const RETRY_AFTER_CAP_S: u64 = 300;

/// What became of an attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Failed {
    /// An answer of that status.
    Status(u16),
    /// The connection ended without an answer.
    Reset,
    /// No answer in the attempt's time.
    Timeout,
}

/// Whether `retry` is about such a failure.
#[must_use]
pub fn is_retriable(retry: &Retry, failed: Failed) -> bool {
    retry.on.iter().any(|on| match (on, failed) {
        (RetryOn::GatewayError, Failed::Status(status)) => matches!(status, 502..=504),
        (RetryOn::ServerError, Failed::Status(status)) => status >= 500,
        (RetryOn::TooMany, Failed::Status(status)) => status == 429,
        (RetryOn::Reset, Failed::Reset) | (RetryOn::Timeout, Failed::Timeout) => true,
        _ => false,
    })
}

/// How long to wait before the retry `number` (from 0): full jitter below the minimum doubled each time, at most the
/// maximum; but as long as the answer asked for. `None`: it must not be made, since the answer asks for more time than
/// `left_ms` leaves, or says so in a way that cannot be read.
#[must_use]
pub fn pause_ms(
    retry: &Retry,
    number: u8,
    retry_after: Option<&[u8]>,
    left_ms: u64,
    random: &mut Random,
) -> Option<u64> {
    let asked = match retry_after {
        None => 0,
        Some(value) => seconds(value)?.min(RETRY_AFTER_CAP_S) * 1_000,
    };
    let bound = retry.backoff_min_ms.saturating_mul(1 << u32::from(number.min(20))).min(retry.backoff_max_ms);
    let jittered = (random.unit() * bound as f64) as u64;
    let pause = asked.max(jittered);
    (pause < left_ms).then_some(pause)
}

/// Whole seconds. A date is not read: it says when by another host's clock, and is taken for "not now".
fn seconds(value: &[u8]) -> Option<u64> {
    let text = std::str::from_utf8(value).ok()?.trim();
    if text.is_empty() || text.len() > 9 || !text.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    text.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn retry() -> Retry {
        Retry {
            attempts: 1,
            on: vec![RetryOn::GatewayError, RetryOn::Reset],
            backoff_min_ms: 25,
            backoff_max_ms: 250,
            body_limit: 0,
            budget: None,
        }
    }

    #[test]
    fn only_what_is_named_is_tried_again() {
        let retry = retry();
        for failed in [Failed::Status(502), Failed::Status(503), Failed::Status(504), Failed::Reset] {
            assert!(is_retriable(&retry, failed), "{failed:?}");
        }
        for failed in [Failed::Status(500), Failed::Status(429), Failed::Status(200), Failed::Timeout] {
            assert!(!is_retriable(&retry, failed), "{failed:?}");
        }
    }

    #[test]
    fn the_pause_has_full_jitter_and_a_bound() {
        let (retry, mut random) = (retry(), Random::new(3));
        for number in 0..8 {
            let bound = (25_u64 << number).min(250);
            let pauses: Vec<_> =
                (0..1_000).filter_map(|_| pause_ms(&retry, number, None, 10_000, &mut random)).collect();
            assert_eq!(pauses.len(), 1_000);
            assert!(pauses.iter().all(|pause| *pause < bound));
            assert!(pauses.iter().any(|pause| *pause < bound / 4) && pauses.iter().any(|pause| *pause > bound * 3 / 4));
        }
    }

    #[test]
    fn an_answer_that_asks_for_time_gets_it_or_no_retry() {
        let (retry, mut random) = (retry(), Random::new(3));
        let mut pause = |value: &[u8], left| pause_ms(&retry, 0, Some(value), left, &mut random);
        assert_eq!(pause(b"2", 10_000), Some(2_000));
        assert_eq!(pause(b"2", 2_000), None);
        assert_eq!(pause(b"999999", 400_000), Some(300_000));
        for odd in [&b"-1"[..], b"soon", b"", b"Wed, 21 Oct 2026 07:28:00 GMT"] {
            assert_eq!(pause(odd, 10_000), None, "{odd:?}");
        }
    }
}
