//! Log-linear histogram: 64 buckets a power of two, so that a value is known to 1.6 % from 1 ns to centuries.

const PRECISION_BITS: u32 = 6;
const LINEAR: u64 = 1 << PRECISION_BITS;
const BUCKETS: usize = ((64 - PRECISION_BITS as usize) + 1) << PRECISION_BITS;

/// Counts of values in nanoseconds.
pub struct Histogram {
    counts: Vec<u64>,
    total: u64,
}

impl Default for Histogram {
    fn default() -> Self {
        Self { counts: vec![0; BUCKETS], total: 0 }
    }
}

impl Histogram {
    /// Counts one value.
    pub fn record(&mut self, nanoseconds: u64) {
        if let Some(count) = self.counts.get_mut(bucket_of(nanoseconds)) {
            *count += 1;
            self.total += 1;
        }
    }

    /// The smallest bucket's upper edge that at least `share` (0…1) of the values do not exceed; 0 if there are none.
    pub fn quantile(&self, share: f64) -> u64 {
        let wanted = (share * self.total as f64).ceil().max(1.0) as u64;
        let mut seen = 0;
        for (edge, count) in self.filled() {
            seen += count;
            if seen >= wanted {
                return edge;
            }
        }
        0
    }

    /// `(upper edge in nanoseconds, count)` of the buckets that hold something, in order.
    pub fn filled(&self) -> impl Iterator<Item = (u64, u64)> + '_ {
        self.counts
            .iter()
            .enumerate()
            .filter(|(_, count)| **count > 0)
            .map(|(index, count)| (upper_edge(index), *count))
    }
}

fn bucket_of(value: u64) -> usize {
    if value < LINEAR {
        return value as usize;
    }
    let shift = value.ilog2() - PRECISION_BITS;
    (u64::from(shift + 1) * LINEAR + ((value >> shift) - LINEAR)) as usize
}

fn upper_edge(index: usize) -> u64 {
    let index = index as u64;
    if index < LINEAR {
        return index;
    }
    let shift = index / LINEAR - 1;
    let low = u128::from(LINEAR + index % LINEAR) << shift;
    u64::try_from(low + (1 << shift) - 1).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::{BUCKETS, Histogram, bucket_of, upper_edge};

    #[test]
    fn a_value_lies_in_its_bucket_and_the_edge_is_close() {
        let mut value = 1_u64;
        while value < u64::MAX / 3 {
            for near in [value - 1, value, value + 1] {
                let edge = upper_edge(bucket_of(near));
                assert!(edge >= near, "{near} is above its edge {edge}");
                assert!((edge - near) as f64 <= near as f64 / 63.0, "{near} is far below its edge {edge}");
            }
            value = value.saturating_mul(3) / 2 + 1;
        }
        assert_eq!(upper_edge(bucket_of(u64::MAX)), u64::MAX);
        assert_eq!(bucket_of(u64::MAX) + 1, BUCKETS);
    }

    #[test]
    fn edges_are_those_of_neighbouring_buckets() {
        for index in 0..BUCKETS - 1 {
            assert_eq!(bucket_of(upper_edge(index)), index);
            assert_eq!(bucket_of(upper_edge(index) + 1), index + 1);
        }
    }

    #[test]
    fn quantiles_count_from_the_smallest_value() {
        let mut histogram = Histogram::default();
        assert_eq!(histogram.quantile(0.5), 0);
        for value in 1..=50 {
            histogram.record(value);
        }
        assert_eq!(histogram.quantile(0.0), 1);
        assert_eq!(histogram.quantile(0.5), 25);
        assert_eq!(histogram.quantile(0.99), 50);
        assert_eq!(histogram.filled().map(|(_, count)| count).sum::<u64>(), 50);
    }
}
