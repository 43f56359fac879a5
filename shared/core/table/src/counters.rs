//! Counters: each process that counts *enrols* and gets a region of its own; readers add the regions up.
//!
//! A cell has one writer, so counting is a relaxed load and store, no atomic addition. A region outlives its process:
//! the next one to enrol after a death inherits region and values, so totals never go back and nobody has to fold sums.
//! Regions hold, for each worker: fixed [`Cell`]s, and blocks. A block counts one *series* (a combination of direction,
//! service, route, method, status, flag, version), carries its own labels and is written once before it is published;
//! so a reader needs no table to name what it reads.

use std::collections::HashMap;
use std::hash::{BuildHasher, Hash, Hasher};
use std::sync::atomic::{AtomicU64, Ordering};

use crate::map::{Access, Mapping};
use crate::owner::Owner;
use crate::record::cut;
use crate::segments::{self, Kind};
use crate::{Error, clock, histogram};

/// Processes that can count at the same time.
pub const REGIONS: usize = 16;
/// Workers of one process.
pub const MAX_WORKERS: usize = 16;
/// Series of one worker; those beyond are counted under one name ([`OVERFLOW`]) and reported.
pub const BLOCKS: usize = 1024;
/// The service name under which series beyond [`BLOCKS`] are counted.
pub const OVERFLOW: &str = "_overflow";

const SEGMENT_HEADER: usize = 512;
const REGION_HEADER: usize = 512;
const CELL_WORDS: usize = 64;
const BLOCK_WORDS: usize = 280;
const WORKER_WORDS: usize = CELL_WORDS + BLOCKS * BLOCK_WORDS;
const REGION_WORDS: usize = REGION_HEADER + MAX_WORKERS * WORKER_WORDS;
/// Size of the segment; sparse.
pub const SEGMENT_BYTES: usize = (SEGMENT_HEADER + REGIONS * REGION_WORDS) * 8;

const OWNER: usize = 0;
const WORKERS: usize = 1;
const HEARTBEAT: usize = 2;
const REJECTED: usize = 3;
const IN_FORCE: usize = 8;
const BLOCKS_USED: usize = 16;

/// Offsets inside a block.
mod block {
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

/// A fixed counter of a worker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)] // the names are the documentation, see `NAMES`
pub enum Cell {
    ConnectionsAccepted,
    ConnectionsClosed,
    ConnectsTotal,
    ConnectsFailed,
    PoolReused,
    RequestsMalformed,
    ResponsesMalformed,
    RingRecords,
    RingDropped,
    SeriesOverflowed,
    AcceptErrors,
    RetriedOnStaleConnection,
}

/// The names of [`Cell`]s, in their order, as metrics show them.
pub const NAMES: [&str; 12] = [
    "connections_accepted",
    "connections_closed",
    "connects",
    "connects_failed",
    "pool_reused",
    "requests_malformed",
    "responses_malformed",
    "ring_records",
    "ring_dropped",
    "series_overflowed",
    "accept_errors",
    "stale_connection_retries",
];

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

/// One finished request, for its series.
#[derive(Clone, Copy, Debug)]
pub struct Sample {
    /// From the first byte of the head to the last byte of the answer.
    pub duration_ns: u64,
    /// Bytes read from the caller for it.
    pub request_bytes: u64,
    /// Bytes written to the caller for it.
    pub response_bytes: u64,
}

fn add(cell: &AtomicU64, by: u64) {
    cell.store(cell.load(Ordering::Relaxed).wrapping_add(by), Ordering::Relaxed);
}

fn at(words: &[AtomicU64], i: usize) -> &AtomicU64 {
    static ZERO: AtomicU64 = AtomicU64::new(0);
    words.get(i).unwrap_or(&ZERO)
}

fn region(words: &[AtomicU64], index: usize) -> &[AtomicU64] {
    let from = SEGMENT_HEADER + index * REGION_WORDS;
    words.get(from..from + REGION_WORDS).unwrap_or(&[])
}

fn worker(region: &[AtomicU64], index: usize) -> &[AtomicU64] {
    let from = REGION_HEADER + index * WORKER_WORDS;
    region.get(from..from + WORKER_WORDS).unwrap_or(&[])
}

fn nth_block(worker: &[AtomicU64], index: usize) -> &[AtomicU64] {
    let from = CELL_WORDS + index * BLOCK_WORDS;
    worker.get(from..from + BLOCK_WORDS).unwrap_or(&[])
}

fn write_text(block: &[AtomicU64], from: usize, words: usize, text: &str) {
    let mut bytes = text.as_bytes().iter().take(words * 8 - 1);
    for i in 0..words {
        let mut word = [0; 8];
        for byte in &mut word {
            *byte = bytes.next().copied().unwrap_or(0);
        }
        at(block, from + i).store(u64::from_le_bytes(word), Ordering::Relaxed);
    }
}

fn read_text(block: &[AtomicU64], from: usize, words: usize) -> String {
    let bytes: Vec<u8> = (0..words)
        .flat_map(|i| at(block, from + i).load(Ordering::Relaxed).to_le_bytes())
        .take_while(|b| *b != 0)
        .collect();
    String::from_utf8_lossy(&bytes).into_owned()
}

/// A process's place among those that count.
#[derive(Debug)]
pub struct Enrolment {
    map: Mapping,
    index: usize,
}

impl Enrolment {
    /// Takes a free region, or one whose process is dead, with its values; what that had in force is forgotten.
    ///
    /// # Errors
    /// `Full` if [`REGIONS`] live processes are enrolled; `Layout` for a foreign segment.
    pub fn new(map: Mapping, workers: usize) -> Result<Self, Error> {
        let words = map.words();
        segments::initialise(words, "counters")?;
        let me = Owner::current();
        for index in 0..REGIONS {
            let header = region(words, index);
            let owner = at(header, OWNER);
            let seen = owner.load(Ordering::Acquire);
            if Owner(seen).is_alive() {
                continue;
            }
            if owner.compare_exchange(seen, me.0, Ordering::AcqRel, Ordering::Acquire).is_ok() {
                at(header, WORKERS).store(workers as u64, Ordering::Relaxed);
                for kind in Kind::ALL {
                    at(header, IN_FORCE + kind as usize).store(0, Ordering::Release);
                }
                let enrolment = Enrolment { map, index };
                enrolment.heartbeat();
                return Ok(enrolment);
            }
        }
        Err(Error::Full)
    }

    /// The region's number, which is also the number of its rings.
    #[must_use]
    pub fn index(&self) -> usize {
        self.index
    }

    /// Says that the process lives.
    pub fn heartbeat(&self) {
        at(region(self.map.words(), self.index), HEARTBEAT).store(clock::unix_ms(), Ordering::Relaxed);
    }

    /// Counts a snapshot that could not be put in force.
    pub fn count_rejected_table(&self) {
        at(region(self.map.words(), self.index), REJECTED).fetch_add(1, Ordering::Relaxed);
    }

    /// Says which generation of a table every worker of this process has in force.
    pub fn set_in_force(&self, kind: Kind, generation: u64) {
        at(region(self.map.words(), self.index), IN_FORCE + kind as usize).store(generation, Ordering::Release);
    }
}

/// The counting end of one worker; not shared between threads.
#[derive(Debug)]
pub struct WorkerCounters {
    enrolment: std::sync::Arc<Enrolment>,
    worker: usize,
    index: HashMap<u64, usize, Identity>,
    used: usize,
}

/// The keys of the index are hashes already.
#[derive(Clone, Copy, Debug, Default)]
pub struct Identity(u64);

impl BuildHasher for Identity {
    type Hasher = Identity;
    fn build_hasher(&self) -> Identity {
        Identity(0)
    }
}

impl Hasher for Identity {
    fn finish(&self) -> u64 {
        self.0
    }
    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.0 = (self.0 ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3);
        }
    }
    fn write_u64(&mut self, hash: u64) {
        self.0 = hash;
    }
}

/// Mixes eight bytes a step; the labels are short and it runs once a request.
#[derive(Default)]
struct KeyHasher(u64);

impl KeyHasher {
    fn word(&mut self, word: u64) {
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
            self.word(u64::from_le_bytes(word));
        }
    }
    fn write_u8(&mut self, v: u8) {
        self.word(u64::from(v));
    }
    fn write_u16(&mut self, v: u16) {
        self.word(u64::from(v));
    }
    fn write_isize(&mut self, v: isize) {
        self.word(v as u64);
    }
}

fn hash_of(key: &Key<'_>) -> u64 {
    let mut hasher = KeyHasher::default();
    key.hash(&mut hasher);
    hasher.finish()
}

impl WorkerCounters {
    /// The counters of worker `worker` (less than [`MAX_WORKERS`]), continuing where a predecessor left off.
    #[must_use]
    pub fn new(enrolment: std::sync::Arc<Enrolment>, worker: usize) -> Self {
        let mut counters = WorkerCounters { enrolment, worker, index: HashMap::default(), used: 0 };
        let mut index = HashMap::default();
        let used = (at(counters.region(), BLOCKS_USED + worker).load(Ordering::Relaxed) as usize).min(BLOCKS);
        for i in 0..used {
            if let Some(labels) = Labels::read(nth_block(counters.words(), i)) {
                index.insert(hash_of(&labels.key()), i);
            }
        }
        counters.used = used;
        counters.index = index;
        counters
    }

    fn region(&self) -> &[AtomicU64] {
        region(self.enrolment.map.words(), self.enrolment.index)
    }

    fn words(&self) -> &[AtomicU64] {
        worker(self.region(), self.worker)
    }

    /// Adds one to a fixed counter.
    pub fn count(&self, cell: Cell) {
        add(at(self.words(), cell as usize), 1);
    }

    /// Counts a finished request under its series.
    pub fn record(&mut self, key: &Key<'_>, sample: &Sample) {
        let hash = hash_of(key);
        let index = match self.index.get(&hash) {
            Some(index) => *index,
            None => self.open(hash, key),
        };
        let block = nth_block(self.words(), index);
        add(at(block, block::COUNT), 1);
        add(at(block, block::SUM_NS), sample.duration_ns);
        add(at(block, block::REQUEST_BYTES), sample.request_bytes);
        add(at(block, block::RESPONSE_BYTES), sample.response_bytes);
        add(at(block, block::CONVENTIONAL + histogram::conventional(sample.duration_ns)), 1);
        add(at(block, block::FINE + histogram::fine(sample.duration_ns)), 1);
    }

    /// Finds or publishes the block of a key that is new to this index. A block keeps labels cut to their room, so it is
    /// looked for by those: otherwise each successor would open another one for the same long label.
    fn open(&mut self, hash: u64, key: &Key<'_>) -> usize {
        let kept = Key {
            service: cut(key.service, block::SERVICE_WORDS * 8 - 1),
            route: cut(key.route, block::ROUTE_WORDS * 8 - 1),
            method: cut(key.method, block::METHOD_WORDS * 8 - 1),
            ..*key
        };
        if let Some(index) = self.index.get(&hash_of(&kept)).copied() {
            if self.index.len() < 2 * BLOCKS {
                self.index.insert(hash, index);
            }
            return index;
        }
        if self.used + 1 >= BLOCKS {
            self.count(Cell::SeriesOverflowed);
            if self.used >= BLOCKS {
                return BLOCKS - 1;
            }
            let overflow = Key { service: OVERFLOW, route: "", method: "_OTHER", status: 0, flag: 0, ..*key };
            return self.publish(hash, &overflow);
        }
        self.publish(hash, &kept)
    }

    fn publish(&mut self, hash: u64, key: &Key<'_>) -> usize {
        let index = self.used;
        let block = nth_block(self.words(), index);
        let direction = u64::from(key.direction == Direction::Outbound);
        let meta = u64::from(key.status) | u64::from(key.flag) << 16 | u64::from(key.version) << 24 | direction << 32;
        at(block, block::META).store(meta, Ordering::Relaxed);
        write_text(block, block::SERVICE, block::SERVICE_WORDS, key.service);
        write_text(block, block::ROUTE, block::ROUTE_WORDS, key.route);
        write_text(block, block::METHOD, block::METHOD_WORDS, key.method);
        at(block, block::READY).store(1, Ordering::Release);
        self.used += 1;
        at(self.region(), BLOCKS_USED + self.worker).store(self.used as u64, Ordering::Release);
        self.index.insert(hash, index);
        self.index.insert(hash_of(key), index);
        index
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
    fn read(block: &[AtomicU64]) -> Option<Labels> {
        if at(block, block::READY).load(Ordering::Acquire) != 1 {
            return None;
        }
        let meta = at(block, block::META).load(Ordering::Relaxed);
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

    fn key(&self) -> Key<'_> {
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

/// A series, summed over workers and processes.
#[derive(Clone, Debug)]
#[allow(missing_docs)] // the fields of a block, in its order
pub struct Series {
    pub labels: Labels,
    pub count: u64,
    pub sum_ns: u64,
    pub request_bytes: u64,
    pub response_bytes: u64,
    pub conventional: Vec<u64>,
    pub fine: Vec<u64>,
}

/// Who is enrolled, and how far it is.
#[derive(Clone, Debug)]
#[allow(missing_docs)]
pub struct Enrolled {
    pub index: usize,
    pub owner: Owner,
    pub alive: bool,
    pub workers: u64,
    pub heartbeat_ms: u64,
    pub rejected_tables: u64,
    pub in_force: Vec<(Kind, u64)>,
}

/// The reading end.
#[derive(Debug)]
pub struct CounterReader(Mapping);

impl CounterReader {
    /// Over a mapping, read-only or not.
    ///
    /// # Errors
    /// `Layout` for a foreign segment.
    pub fn new(map: Mapping) -> Result<Self, Error> {
        if map.access() == Access::Write {
            segments::initialise(map.words(), "counters")?;
        }
        segments::check(map.words(), "counters")?;
        Ok(CounterReader(map))
    }

    fn regions(&self) -> impl Iterator<Item = (usize, &[AtomicU64])> {
        (0..REGIONS).map(|i| (i, region(self.0.words(), i))).filter(|(_, r)| at(r, OWNER).load(Ordering::Acquire) != 0)
    }

    fn workers(&self) -> impl Iterator<Item = (&[AtomicU64], usize)> {
        self.regions().flat_map(|(_, region)| {
            (0..MAX_WORKERS).map(move |i| {
                let used = at(region, BLOCKS_USED + i).load(Ordering::Acquire) as usize;
                (worker(region, i), used.min(BLOCKS))
            })
        })
    }

    /// Every series, summed; the order is that of first appearance.
    #[must_use]
    pub fn series(&self) -> Vec<Series> {
        let mut index: HashMap<Labels, usize> = HashMap::new();
        let mut all: Vec<Series> = Vec::new();
        for (worker, used) in self.workers() {
            for i in 0..used {
                let block = nth_block(worker, i);
                let Some(labels) = Labels::read(block) else {
                    continue;
                };
                let slot = *index.entry(labels.clone()).or_insert(all.len());
                if slot == all.len() {
                    all.push(Series {
                        labels,
                        count: 0,
                        sum_ns: 0,
                        request_bytes: 0,
                        response_bytes: 0,
                        conventional: vec![0; histogram::CONVENTIONAL],
                        fine: vec![0; histogram::FINE],
                    });
                }
                if let Some(series) = all.get_mut(slot) {
                    let read = |i| at(block, i).load(Ordering::Relaxed);
                    series.count += read(block::COUNT);
                    series.sum_ns += read(block::SUM_NS);
                    series.request_bytes += read(block::REQUEST_BYTES);
                    series.response_bytes += read(block::RESPONSE_BYTES);
                    series.conventional.iter_mut().enumerate().for_each(|(i, n)| *n += read(block::CONVENTIONAL + i));
                    series.fine.iter_mut().enumerate().for_each(|(i, n)| *n += read(block::FINE + i));
                }
            }
        }
        all
    }

    /// The fixed counters, summed.
    #[must_use]
    pub fn totals(&self) -> Vec<(&'static str, u64)> {
        let mut sums = [0_u64; NAMES.len()];
        for (worker, _) in self.workers() {
            for (i, sum) in sums.iter_mut().enumerate() {
                *sum += at(worker, i).load(Ordering::Relaxed);
            }
        }
        NAMES.into_iter().zip(sums).collect()
    }

    /// A number that moves whenever anything was counted: cheap enough to be asked 50 times a second.
    #[must_use]
    pub fn activity(&self) -> u64 {
        let cell = Cell::RingRecords as usize;
        self.workers().map(|(worker, _)| at(worker, cell).load(Ordering::Relaxed)).fold(0, u64::wrapping_add)
    }

    /// Everybody who holds a region, alive or not.
    #[must_use]
    pub fn enrolled(&self) -> Vec<Enrolled> {
        self.regions()
            .map(|(index, region)| {
                let owner = Owner(at(region, OWNER).load(Ordering::Acquire));
                Enrolled {
                    index,
                    owner,
                    alive: owner.is_alive(),
                    workers: at(region, WORKERS).load(Ordering::Relaxed),
                    heartbeat_ms: at(region, HEARTBEAT).load(Ordering::Relaxed),
                    rejected_tables: at(region, REJECTED).load(Ordering::Relaxed),
                    in_force: Kind::ALL
                        .into_iter()
                        .map(|kind| (kind, at(region, IN_FORCE + kind as usize).load(Ordering::Acquire)))
                        .collect(),
                }
            })
            .collect()
    }
}
