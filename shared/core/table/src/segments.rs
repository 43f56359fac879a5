//! The segments of one service: their names, sizes and common first words.

use std::sync::atomic::{AtomicU64, Ordering};

use crate::{Error, counters, hot, ring, snapshot};

/// `PANNIER1`, little-endian.
pub const MAGIC: u64 = u64::from_le_bytes(*b"PANNIER1");
/// Raised when an old reader could misread; such a segment is refused.
pub const ABI_MAJOR: u32 = 1;
/// Raised when something is added that an old reader may ignore.
pub const ABI_MINOR: u32 = 0;

const WORD_MAGIC: usize = 0;
const WORD_ABI: usize = 1;
const WORD_SCHEMA: usize = 2;

/// A kind of table: which capability writes it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// The supervisor's own: listeners' duties, the app's address, static endpoints, floor timeouts.
    Base,
    /// The discovery sidecar's.
    Endpoints,
    /// The observability sidecar's.
    Telemetry,
}

impl Kind {
    /// Every kind, in the order of the `in_force` words of an enrolment.
    pub const ALL: [Kind; 3] = [Kind::Base, Kind::Endpoints, Kind::Telemetry];

    /// The name in `table.NAME` and in metrics.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Kind::Base => "base",
            Kind::Endpoints => "endpoints",
            Kind::Telemetry => "telemetry",
        }
    }

    /// The kind of that name.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Kind> {
        Kind::ALL.into_iter().find(|k| k.name() == name)
    }
}

/// Each segment's held name and size in bytes. They are created sparse: an untouched page costs nothing.
#[must_use]
pub fn all() -> Vec<(String, usize)> {
    let mut all: Vec<_> = Kind::ALL.iter().map(|k| (format!("table.{}", k.name()), snapshot::SEGMENT_BYTES)).collect();
    all.push(("hot".into(), hot::SEGMENT_BYTES));
    all.push(("counters".into(), counters::SEGMENT_BYTES));
    all.push(("rings".into(), ring::SEGMENT_BYTES));
    all
}

/// A 64-bit FNV-1a hash of a name: the schema of a segment, and the join between tables.
#[must_use]
pub const fn name_hash(name: &[u8]) -> u64 {
    let mut hash = 0xcbf2_9ce4_8422_2325_u64;
    let mut i = 0;
    while i < name.len() {
        #[allow(clippy::indexing_slicing)] // `i < name.len()`; iterators are not const
        let byte = name[i];
        hash = (hash ^ byte as u64).wrapping_mul(0x0000_0100_0000_01b3);
        i += 1;
    }
    hash
}

/// Lays out the first words of a fresh (all zero) segment; does nothing to one that is laid out already.
///
/// # Errors
/// As [`check`], if the segment belongs to something else.
pub fn initialise(words: &[AtomicU64], name: &str) -> Result<(), Error> {
    let [magic, abi, schema, ..] = words else {
        return Err(Error::Layout("segment too short".into()));
    };
    if magic.load(Ordering::Acquire) == 0 {
        abi.store(u64::from(ABI_MAJOR) << 32 | u64::from(ABI_MINOR), Ordering::Relaxed);
        schema.store(name_hash(name.as_bytes()), Ordering::Relaxed);
        magic.store(MAGIC, Ordering::Release);
    }
    check(words, name)
}

/// Refuses a segment that is not `name` of a compatible version.
///
/// # Errors
/// `Layout`, saying which word differs.
pub fn check(words: &[AtomicU64], name: &str) -> Result<(), Error> {
    let word = |i: usize| words.get(i).map_or(0, |w| w.load(Ordering::Acquire));
    if word(WORD_MAGIC) != MAGIC {
        return Err(Error::Layout(format!("{name}: not laid out yet, or no segment of pannier")));
    }
    let major = (word(WORD_ABI) >> 32) as u32;
    if major != ABI_MAJOR {
        return Err(Error::Layout(format!("{name}: layout version {major}, this build reads {ABI_MAJOR}")));
    }
    if word(WORD_SCHEMA) != name_hash(name.as_bytes()) {
        return Err(Error::Layout(format!("this segment is not {name}")));
    }
    Ok(())
}
