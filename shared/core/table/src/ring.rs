//! Rings: one producer (a worker), one consumer (observability), records of 1–32 cache lines.
//!
//! A record is written, then *published* by a release store of `head`; the consumer acknowledges by a release store of
//! `tail`. A full ring drops the record, and counts it. A record never wraps: what does not fit before the end is preceded
//! by a padding record. Whoever dies, the other end finds only whole records between `tail` and `head`; a consumer that
//! dies before it acknowledges leaves its batch to the next one.
//! Neither trusts what it reads: a length or a distance that is out of range makes the consumer skip everything up to
//! `head`, which is reported, and the producer take the ring for empty. A producer that finds the ring full says again
//! where its head is. So a damaged word cannot wedge a ring.

use crate::atomic::{AtomicU64, Ordering, size};
use std::sync::Arc;

use crate::Error;
use crate::layout::{self, LINE_WORDS, MAX_WORKERS, REGIONS, word};
use crate::map::{Access, Mapping};
use crate::record::MAX_RECORD_LINES;

/// Cache lines of one ring (a power of two).
pub const LINES: u64 = size(16_384, 4) as u64;

const SEGMENT_HEADER: usize = size(512, 8);
const RING_HEADER: usize = size(512, 16);
const HEAD: usize = 0;
const TAIL: usize = 8;
const RING_WORDS: usize = RING_HEADER + LINES as usize * LINE_WORDS;
/// Size of the segment; sparse.
pub const SEGMENT_BYTES: usize = (SEGMENT_HEADER + REGIONS * MAX_WORKERS * RING_WORDS) * 8;
/// Marks a padding record in the first word (`lines << 8 | PADDING`).
const PADDING: u64 = 0xff;

fn ring(words: &[AtomicU64], index: usize) -> &[AtomicU64] {
    let from = SEGMENT_HEADER + index * RING_WORDS;
    words.get(from..from + RING_WORDS).unwrap_or(&[])
}

fn lines(ring: &[AtomicU64], position: u64, count: usize) -> &[AtomicU64] {
    let from = RING_HEADER + (position % LINES) as usize * LINE_WORDS;
    ring.get(from..from + count * LINE_WORDS).unwrap_or(&[])
}

/// The writing end of one ring.
#[derive(Debug)]
pub struct Producer {
    map: Arc<Mapping>,
    index: usize,
    head: u64,
    cached_tail: u64,
}

impl Producer {
    /// The ring of `worker` in region `region` of the enrolment, continuing where a predecessor published last.
    ///
    /// # Errors
    /// `Layout` for a foreign segment.
    pub fn new(map: Arc<Mapping>, region: usize, worker: usize) -> Result<Self, Error> {
        layout::initialise(&map, "rings")?;
        let index = region * MAX_WORKERS + worker;
        let words = ring(map.words(), index);
        let head = word(words, HEAD).load(Ordering::Acquire);
        let cached_tail = word(words, TAIL).load(Ordering::Acquire);
        Ok(Producer { map, index, head, cached_tail })
    }

    /// Publishes a record (whole cache lines; its first byte must not be 0xff). `false` = the ring is full: dropped.
    pub fn push(&mut self, record: &[u64]) -> bool {
        let needed = (record.len() / LINE_WORDS) as u64;
        if needed == 0 || needed > MAX_RECORD_LINES as u64 {
            return false;
        }
        let words = ring(self.map.words(), self.index);
        let to_end = LINES - self.head % LINES;
        let padding = if to_end < needed { to_end } else { 0 };
        let after = self.head.wrapping_add(padding + needed);
        if after.wrapping_sub(self.cached_tail) > LINES {
            let tail = word(words, TAIL).load(Ordering::Acquire);
            let is_possible = self.head.wrapping_sub(tail) <= LINES;
            self.cached_tail = if is_possible { tail } else { self.head };
            if after.wrapping_sub(self.cached_tail) > LINES {
                word(words, HEAD).store(self.head, Ordering::Release);
                return false;
            }
        }
        if padding > 0 {
            word(lines(words, self.head, 1), 0).store(padding << 8 | PADDING, Ordering::Relaxed);
        }
        for (cell, word) in lines(words, self.head.wrapping_add(padding), needed as usize).iter().zip(record) {
            cell.store(*word, Ordering::Relaxed);
        }
        self.head = after;
        word(words, HEAD).store(after, Ordering::Release);
        true
    }
}

/// What one drain found.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct Drained {
    /// Records given to the callback.
    pub records: usize,
    /// Times that a damaged length made the consumer skip ahead.
    pub skipped: usize,
}

/// The reading end of every ring of a service.
#[derive(Debug)]
pub struct Consumer {
    map: Mapping,
}

impl Consumer {
    /// Over a writable mapping (the consumer acknowledges).
    ///
    /// # Errors
    /// `Layout` for a foreign or read-only segment.
    pub fn new(map: Mapping) -> Result<Self, Error> {
        if map.access() != Access::Write {
            return Err(Error::Layout("rings: the consumer needs to acknowledge; map it writable".into()));
        }
        layout::initialise(&map, "rings")?;
        Ok(Consumer { map })
    }

    /// Hands up to `limit` records of each ring of the given regions to `each`, and acknowledges them.
    pub fn drain(&self, regions: &[usize], limit: usize, mut each: impl FnMut(&[u64])) -> Drained {
        let mut drained = Drained::default();
        for region in regions {
            for worker in 0..MAX_WORKERS {
                self.drain_one(region * MAX_WORKERS + worker, limit, &mut drained, &mut each);
            }
        }
        drained
    }

    fn drain_one(&self, index: usize, limit: usize, drained: &mut Drained, each: &mut impl FnMut(&[u64])) {
        let words = ring(self.map.words(), index);
        let head = word(words, HEAD).load(Ordering::Acquire);
        let mut tail = word(words, TAIL).load(Ordering::Relaxed);
        let mut record = [0_u64; MAX_RECORD_LINES * LINE_WORDS];
        if head.wrapping_sub(tail) > LINES {
            drained.skipped += 1;
            tail = head;
        }
        let enough = drained.records.saturating_add(limit);
        while tail != head && drained.records < enough {
            let first = word(lines(words, tail, 1), 0).load(Ordering::Relaxed);
            let is_padding = first & 0xff == PADDING;
            let count = if is_padding { first >> 8 } else { first & 0xff };
            let longest = if is_padding { LINES } else { MAX_RECORD_LINES as u64 };
            if count == 0 || count > longest || count > head.wrapping_sub(tail) || tail % LINES + count > LINES {
                drained.skipped += 1;
                tail = head;
                break;
            }
            if !is_padding {
                let source = lines(words, tail, count as usize);
                for (to, from) in record.iter_mut().zip(source) {
                    *to = from.load(Ordering::Relaxed);
                }
                if let Some(record) = record.get(..source.len()) {
                    each(record);
                }
                drained.records += 1;
            }
            tail = tail.wrapping_add(count);
        }
        word(words, TAIL).store(tail, Ordering::Release);
    }
}
