//! A series of requests: what distinguishes it, and the block of words that counts it.
//!
//! A block carries its own labels, written once before it is published, so a reader needs no table to name what it reads.

use crate::atomic::{AtomicU64, Ordering, size};
use std::hash::{Hash, Hasher};

use crate::histogram;
use crate::layout::word;
use crate::record::cut;
use crate::words::{read_text, write_text};

/// Words of a block.
pub const BLOCK_WORDS: usize = size(280, 66);

/// Offsets inside a block.
#[allow(missing_docs)]
pub mod block {
    pub const READY: usize = 0;
    pub const META: usize = 1;
    pub const SERVICE: usize = 2;
    pub const SERVICE_WORDS: usize = 8;
    pub const ROUTE: usize = 10;
    pub const ROUTE_WORDS: usize = 16;
    pub const METHOD: usize = 26;
    pub const METHOD_WORDS: usize = 2;
    pub const COUNT: usize = 32;
    pub const SUM_NS: usize = 33;
    pub const REQUEST_BYTES: usize = 34;
    pub const RESPONSE_BYTES: usize = 35;
    pub const CONVENTIONAL: usize = 40;
    pub const FINE: usize = 56;
}
const _: () = assert!(block::FINE + histogram::FINE <= BLOCK_WORDS);
const _: () = assert!(block::CONVENTIONAL + histogram::CONVENTIONAL <= block::FINE);

/// Which way a request passed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Direction {
    /// From outside to the app.
    Inbound,
    /// From the app to another service.
    Outbound,
}

/// What distinguishes a series.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Key<'a> {
    /// Which way.
    pub direction: Direction,
    /// The cluster called, or the own service.
    pub service: &'a str,
    /// The route's label; empty if none is known.
    pub route: &'a str,
    /// The method, already one of the known ones or `_OTHER`.
    pub method: &'a str,
    /// The status that the caller was given; 0 if none.
    pub status: u16,
    /// The reason flag as `crate::record` numbers it; 0 = none.
    pub flag: u8,
    /// Minor version of HTTP/1.
    pub version: u8,
}

impl Key<'_> {
    /// The same with its labels cut to the room that a block has for them.
    #[must_use]
    pub fn kept(&self) -> Self {
        Key {
            service: cut(self.service, block::SERVICE_WORDS * 8 - 1),
            route: cut(self.route, block::ROUTE_WORDS * 8 - 1),
            method: cut(self.method, block::METHOD_WORDS * 8 - 1),
            ..*self
        }
    }

    /// Its place in an index.
    #[must_use]
    pub fn hash(&self) -> u64 {
        let mut hasher = KeyHasher::default();
        Hash::hash(self, &mut hasher);
        hasher.finish()
    }

    /// Labels a block that nobody reads yet, and publishes it.
    pub fn publish(&self, block: &[AtomicU64]) {
        let direction = u64::from(self.direction == Direction::Outbound);
        let meta =
            u64::from(self.status) | u64::from(self.flag) << 16 | u64::from(self.version) << 24 | direction << 32;
        word(block, block::META).store(meta, Ordering::Relaxed);
        write_text(block, block::SERVICE, block::SERVICE_WORDS, self.service);
        write_text(block, block::ROUTE, block::ROUTE_WORDS, self.route);
        write_text(block, block::METHOD, block::METHOD_WORDS, self.method);
        word(block, block::READY).store(1, Ordering::Release);
    }
}

/// Mixes eight bytes a step; the labels are short and it runs once a request.
#[derive(Default)]
struct KeyHasher(u64);

impl KeyHasher {
    fn mix(&mut self, word: u64) {
        self.0 = (self.0.rotate_left(5) ^ word).wrapping_mul(0x517c_c1b7_2722_0a95);
    }
}

impl Hasher for KeyHasher {
    fn finish(&self) -> u64 {
        self.0 ^ (self.0 >> 29)
    }
    fn write(&mut self, bytes: &[u8]) {
        for chunk in bytes.chunks(8) {
            let mut word = [0; 8];
            for (to, from) in word.iter_mut().zip(chunk) {
                *to = *from;
            }
            self.mix(u64::from_le_bytes(word));
        }
    }
    fn write_u8(&mut self, v: u8) {
        self.mix(u64::from(v));
    }
    fn write_u16(&mut self, v: u16) {
        self.mix(u64::from(v));
    }
    fn write_isize(&mut self, v: isize) {
        self.mix(v as u64);
    }
}

/// The labels of a block, as read back.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Labels {
    /// Which way.
    pub direction: Direction,
    /// See [`Key`].
    pub service: String,
    /// See [`Key`].
    pub route: String,
    /// See [`Key`].
    pub method: String,
    /// See [`Key`].
    pub status: u16,
    /// See [`Key`].
    pub flag: u8,
    /// See [`Key`].
    pub version: u8,
}

impl Labels {
    /// The labels of a block; none if it is not published.
    #[must_use]
    pub fn read(block: &[AtomicU64]) -> Option<Labels> {
        if word(block, block::READY).load(Ordering::Acquire) != 1 {
            return None;
        }
        let meta = word(block, block::META).load(Ordering::Relaxed);
        Some(Labels {
            direction: if meta >> 32 & 1 == 1 { Direction::Outbound } else { Direction::Inbound },
            service: read_text(block, block::SERVICE, block::SERVICE_WORDS),
            route: read_text(block, block::ROUTE, block::ROUTE_WORDS),
            method: read_text(block, block::METHOD, block::METHOD_WORDS),
            status: meta as u16,
            flag: (meta >> 16) as u8,
            version: (meta >> 24) as u8,
        })
    }

    /// The same, borrowed.
    #[must_use]
    pub fn key(&self) -> Key<'_> {
        Key {
            direction: self.direction,
            service: &self.service,
            route: &self.route,
            method: &self.method,
            status: self.status,
            flag: self.flag,
            version: self.version,
        }
    }
}
