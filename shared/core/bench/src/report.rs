//! The one JSON line that a run prints.

use std::fmt::Write;

use crate::histogram::Histogram;

/// What a run found. Answers that failed the check are in `errors` and nowhere else.
pub struct Report {
    /// Answers that were right.
    pub requests: u64,
    /// Answers that were wrong, and requests without an answer.
    pub errors: u64,
    /// From the first request to the last answer.
    pub seconds: f64,
    /// Latencies of the right answers.
    pub histogram: Histogram,
    /// What went wrong first, for the reader.
    pub first_error: Option<String>,
    /// Requests that were sent a second time.
    pub repeated: u64,
    /// When each request was sent that failed, and when that was known: seconds of CLOCK_MONOTONIC. The first thousand.
    pub lost: Vec<(f64, f64)>,
}

impl Report {
    /// Microseconds for the quantiles; `histogram` is `[[upper edge in ns, count], …]`.
    pub fn to_json(&self) -> String {
        let rps = if self.seconds > 0.0 { self.requests as f64 / self.seconds } else { 0.0 };
        let mut line = format!(
            r#"{{"requests": {}, "errors": {}, "seconds": {:.6}, "rps": {rps:.1}, "p50_us": {:.3}, "p99_us": {:.3}"#,
            self.requests,
            self.errors,
            self.seconds,
            self.histogram.quantile(0.5) as f64 / 1_000.0,
            self.histogram.quantile(0.99) as f64 / 1_000.0,
        );
        if let Some(error) = &self.first_error {
            let plain: String = error.chars().filter(|c| !c.is_control() && !matches!(c, '"' | '\\')).collect();
            let _ = write!(line, r#", "first_error": "{plain}""#);
        }
        let _ = write!(line, r#", "repeated": {}, "lost": ["#, self.repeated);
        for (index, (sent, ended)) in self.lost.iter().enumerate() {
            let comma = if index == 0 { "" } else { ", " };
            let _ = write!(line, "{comma}[{sent:.6}, {ended:.6}]");
        }
        line.push(']');
        line.push_str(r#", "histogram": ["#);
        for (index, (edge, count)) in self.histogram.filled().enumerate() {
            let comma = if index == 0 { "" } else { ", " };
            let _ = write!(line, "{comma}[{edge}, {count}]");
        }
        line.push_str("]}");
        line
    }
}

#[cfg(test)]
mod tests {
    use super::Report;
    use crate::histogram::Histogram;

    #[test]
    fn a_report_is_one_line_of_json() {
        let mut histogram = Histogram::default();
        histogram.record(50);
        histogram.record(50);
        let first_error = Some("status \"503\"\n".to_owned());
        let report = Report {
            requests: 2,
            errors: 1,
            seconds: 0.5,
            histogram,
            first_error,
            repeated: 1,
            lost: vec![(1.5, 2.0)],
        };
        let expected = concat!(
            r#"{"requests": 2, "errors": 1, "seconds": 0.500000, "rps": 4.0, "p50_us": 0.050, "p99_us": 0.050, "#,
            r#""first_error": "status 503", "repeated": 1, "lost": [[1.500000, 2.000000]], "histogram": [[50, 2]]}"#
        );
        assert_eq!(report.to_json(), expected);
    }
}
