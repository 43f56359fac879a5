//! The segments of one service: their held names and sizes.

use crate::kind::Kind;
use crate::{counters, hot, ring, snapshot};

/// Each segment's held name and size in bytes. They are created sparse: an untouched page costs nothing.
#[must_use]
pub fn all() -> Vec<(String, usize)> {
    let mut all: Vec<_> = Kind::ALL.iter().map(|k| (format!("table.{}", k.name()), snapshot::SEGMENT_BYTES)).collect();
    all.push(("hot".into(), hot::SEGMENT_BYTES));
    all.push(("counters".into(), counters::SEGMENT_BYTES));
    all.push(("rings".into(), ring::SEGMENT_BYTES));
    all
}
