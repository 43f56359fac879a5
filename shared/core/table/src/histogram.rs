//! Two histograms' worth of bucket bounds, as pure arithmetic on nanoseconds.
//!
//! *Conventional*: the bounds of OpenTelemetry's semantic conventions for HTTP durations. *Fine*: log-linear, eight
//! buckets an octave (each at most 12.5 % wide) from 1 µs to 137 s, from which percentiles are read.

use crate::atomic::size;

/// OpenTelemetry's advised bounds for `http.*.request.duration`, in microseconds; a value on a bound belongs below it.
pub const BOUNDS_US: [u64; 14] = [
    5_000, 10_000, 25_000, 50_000, 75_000, 100_000, 250_000, 500_000, 750_000, 1_000_000, 2_500_000, 5_000_000,
    7_500_000, 10_000_000,
];
/// Conventional buckets: one a bound, and one above all.
pub const CONVENTIONAL: usize = BOUNDS_US.len() + 1;

const SUB_BITS: u32 = 3;
const SUB: u64 = 1 << SUB_BITS;
const LOWEST_EXPONENT: u32 = 10;
const OCTAVES: u32 = size(27, 1) as u32;
/// Fine buckets: below 2^10 ns, then 27 octaves of 8, then above.
pub const FINE: usize = 2 + (OCTAVES as usize) * (SUB as usize);

/// The conventional bucket of a duration.
#[must_use]
pub fn conventional(ns: u64) -> usize {
    BOUNDS_US.iter().position(|bound| ns <= bound * 1_000).unwrap_or(CONVENTIONAL - 1)
}

/// The fine bucket of a duration.
#[must_use]
pub fn fine(ns: u64) -> usize {
    if ns < 1 << LOWEST_EXPONENT {
        return 0;
    }
    let exponent = 63 - ns.leading_zeros();
    let sub = (ns >> (exponent - SUB_BITS)) & (SUB - 1);
    let index = 1 + u64::from(exponent - LOWEST_EXPONENT) * SUB + sub;
    usize::try_from(index).unwrap_or(FINE).min(FINE - 1)
}

/// The upper bound of each fine bucket but the last, in nanoseconds.
#[must_use]
pub fn fine_bounds_ns() -> Vec<u64> {
    let mut bounds = vec![1 << LOWEST_EXPONENT];
    for octave in 0..OCTAVES {
        let base = 1_u64 << (LOWEST_EXPONENT + octave);
        bounds.extend((1..=SUB).map(|sub| base + base / SUB * sub));
    }
    bounds
}

#[cfg(test)]
#[allow(clippy::indexing_slicing)]
mod tests {
    use super::*;

    #[test]
    fn every_duration_falls_below_its_upper_bound_and_not_below_the_one_before() {
        let bounds = fine_bounds_ns();
        assert_eq!(bounds.len(), FINE - 1);
        for shift in 0..40 {
            for offset in [0, 1, 3, 7] {
                let ns = (1_u64 << shift) + offset * ((1 << shift) / 9);
                let index = fine(ns);
                if index < bounds.len() {
                    assert!(ns < bounds[index], "{ns} in {index}");
                }
                if index > 0 {
                    assert!(ns >= bounds[index - 1], "{ns} in {index}");
                }
            }
        }
    }

    #[test]
    fn a_value_on_a_conventional_bound_belongs_below_it() {
        assert_eq!(conventional(5_000_000), 0);
        assert_eq!(conventional(5_000_001), 1);
        assert_eq!(conventional(10_000_000_000), 13);
        assert_eq!(conventional(10_000_000_001), 14);
    }
}
