//! What is counted while a command of the harness is carried out, and the line of JSON that says it.

use crate::histogram::Histogram;

/// Counts since the last command.
#[derive(Default)]
pub struct Tally {
    /// From the sending of a change until a follower had it or a newer one: of every change and follower.
    pub told: Histogram,
    /// From a request to its answer.
    pub answered: Histogram,
    /// The longest of `told`, nanoseconds.
    pub longest: u64,
    /// How many `told` has.
    pub pairs: u64,
    /// Changes that were sent.
    pub changes: u64,
    /// Registrations that only renew, answered.
    pub renewals: u64,
    /// Messages of the pilot.
    pub frames: u64,
    /// Bytes of the pilot.
    pub bytes: u64,
    /// What must not happen: how often.
    pub errors: u64,
    /// And the first.
    pub first_error: String,
    /// Connections that ended.
    pub lost: u64,
    /// When connections were opened, nanoseconds.
    pub opened: Vec<u64>,
}

impl Tally {
    /// Something that must not happen.
    pub fn error(&mut self, what: impl Into<String>) {
        self.errors += 1;
        if self.first_error.is_empty() {
            self.first_error = what.into();
        }
    }

    /// A change has reached a follower after so many nanoseconds.
    pub fn told(&mut self, nanoseconds: u64) {
        self.told.record(nanoseconds);
        self.longest = self.longest.max(nanoseconds);
        self.pairs += 1;
    }

    /// One line. `seconds` is how long it took.
    pub fn to_json(&self, seconds: f64) -> String {
        let ms = |histogram: &Histogram, share| histogram.quantile(share) as f64 / 1e6;
        let plain: String = self.first_error.chars().filter(|c| !c.is_control() && !matches!(c, '"' | '\\')).collect();
        format!(
            concat!(
                r#"{{"seconds": {:.3}, "changes": {}, "pairs": {}, "p50_ms": {:.2}, "p99_ms": {:.2}, "max_ms": {:.2}, "#,
                r#""answer_p50_ms": {:.2}, "answer_p99_ms": {:.2}, "renewals": {}, "frames": {}, "bytes": {}, "#,
                r#""lost": {}, "opened": {}, "opened_a_second": {}, "errors": {}, "first_error": "{}"}}"#
            ),
            seconds,
            self.changes,
            self.pairs,
            ms(&self.told, 0.5),
            ms(&self.told, 0.99),
            self.longest as f64 / 1e6,
            ms(&self.answered, 0.5),
            ms(&self.answered, 0.99),
            self.renewals,
            self.frames,
            self.bytes,
            self.lost,
            self.opened.len(),
            most_a_second(&self.opened),
            self.errors,
            plain,
        )
    }
}

/// The most of these times, in order and in nanoseconds, that lie within one second.
fn most_a_second(times: &[u64]) -> usize {
    let until = |start: u64| times.partition_point(|time| *time < start.saturating_add(1_000_000_000));
    times.iter().enumerate().map(|(index, start)| until(*start) - index).max().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::most_a_second;

    #[test]
    fn the_densest_second_counts() {
        let ms = |times: &[u64]| times.iter().map(|time| time * 1_000_000).collect::<Vec<_>>();
        assert_eq!(most_a_second(&[]), 0);
        assert_eq!(most_a_second(&ms(&[0, 999, 1_000, 1_500, 1_998, 1_999, 4_000])), 4);
    }
}
