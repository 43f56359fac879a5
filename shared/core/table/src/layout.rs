//! What all segments have in common: their first words, and how many can share them.

use crate::atomic::{AtomicU64, Ordering, beyond, size};

use crate::Error;
use crate::map::{Access, Mapping};

/// `PANNIER1`, little-endian.
pub const MAGIC: u64 = u64::from_le_bytes(*b"PANNIER1");
/// Raised when an old reader could misread; such a segment is refused.
pub const ABI_MAJOR: u32 = 2;
/// Raised when something is added that an old reader may ignore.
pub const ABI_MINOR: u32 = 1;

const WORD_MAGIC: usize = 0;
const WORD_ABI: usize = 1;
const WORD_SCHEMA: usize = 2;

/// Words of a cache line.
pub const LINE_WORDS: usize = 8;
/// Processes that can count, and write records, at the same time.
pub const REGIONS: usize = size(16, 2);
/// Workers of one process.
pub const MAX_WORKERS: usize = size(16, 1);

/// A word of a segment. The layouts' constants keep every index inside; one beyond would meet a word that nobody shares,
/// and not a panic.
#[must_use]
pub fn word(words: &[AtomicU64], index: usize) -> &AtomicU64 {
    words.get(index).unwrap_or_else(|| beyond())
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
/// As [`check`], if the segment belongs to something else; `Layout` if it is mapped for reading only.
pub fn initialise(map: &Mapping, name: &str) -> Result<(), Error> {
    if map.access() != Access::Write {
        return Err(Error::Layout(format!("{name}: mapped for reading only, and this process has to write")));
    }
    let words = map.words();
    if word(words, WORD_MAGIC).load(Ordering::Acquire) == 0 {
        let abi = u64::from(ABI_MAJOR) << 32 | u64::from(ABI_MINOR);
        word(words, WORD_ABI).store(abi, Ordering::Relaxed);
        word(words, WORD_SCHEMA).store(name_hash(name.as_bytes()), Ordering::Relaxed);
        word(words, WORD_MAGIC).store(MAGIC, Ordering::Release);
    }
    check(words, name)
}

/// Refuses a segment that is not `name` of a compatible version.
///
/// # Errors
/// `Layout`, saying which word differs.
pub fn check(words: &[AtomicU64], name: &str) -> Result<(), Error> {
    let word = |i: usize| word(words, i).load(Ordering::Acquire);
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
