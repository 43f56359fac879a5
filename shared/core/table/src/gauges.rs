//! Gauges: how much of each limit a process has in use, copied out twice a second by one thread.
//!
//! What is in use is counted in the memory of the process that uses it, so that its death ends the use. Readers look at the
//! regions of living processes alone.

use crate::atomic::{AtomicU64, Ordering, size};

use crate::layout::word;
use crate::words::{read_text, write_text};

/// Gauges of one process; what is beyond is not shown.
pub const GAUGES: usize = size(160, 1);
/// Words of one gauge.
pub const GAUGE_WORDS: usize = 16;
const SERVICE: usize = 0;
const SERVICE_WORDS: usize = 8;
const LIMIT: usize = 8;
const LIMIT_WORDS: usize = 2;
const USED: usize = 10;
const MOST: usize = 11;

/// How much of a limit is in use.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Gauge {
    /// The service called; empty for inbound.
    pub service: String,
    /// Which limit.
    pub limit: String,
    /// In use.
    pub used: u64,
    /// At the most.
    pub most: u64,
}

/// Writes the whole list, which ends at the first gauge without a limit's name; a reader in between may see a part of the old one.
pub fn write<'a>(words: &[AtomicU64], all: impl Iterator<Item = (&'a str, &'static str, u64, u64)>) {
    let mut gauges = words.chunks(GAUGE_WORDS);
    for ((service, limit, used, most), gauge) in all.zip(gauges.by_ref()) {
        write_text(gauge, SERVICE, SERVICE_WORDS, service);
        write_text(gauge, LIMIT, LIMIT_WORDS, limit);
        word(gauge, USED).store(used, Ordering::Relaxed);
        word(gauge, MOST).store(most, Ordering::Release);
    }
    if let Some(end) = gauges.next() {
        word(end, LIMIT).store(0, Ordering::Release);
    }
}

/// Reads the list.
#[must_use]
pub fn read(words: &[AtomicU64]) -> Vec<Gauge> {
    words
        .chunks(GAUGE_WORDS)
        .map(|gauge| Gauge {
            most: word(gauge, MOST).load(Ordering::Acquire),
            used: word(gauge, USED).load(Ordering::Relaxed),
            service: read_text(gauge, SERVICE, SERVICE_WORDS),
            limit: read_text(gauge, LIMIT, LIMIT_WORDS),
        })
        .take_while(|gauge| !gauge.limit.is_empty())
        .collect()
}
