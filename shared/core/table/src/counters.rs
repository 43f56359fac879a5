//! Counters: each process that counts *enrols* and gets a region of its own; readers add the regions up.
//!
//! A cell has one writer, so counting is a relaxed load and store, no atomic addition. A region outlives its process:
//! the next one to enrol after a death inherits region and values, so totals never go back and nobody has to fold sums.
//! Regions hold the process's [`Gauge`]s, its bulletin and, for each worker: fixed [`Cell`]s, blocks of [`crate::series`], and a line of
//! counts for each endpoint that has a hot word.

use crate::atomic::{AtomicU64, Ordering, size};
use std::collections::HashMap;
use std::hash::{BuildHasher, Hasher};

use crate::bulletin::{self, BULLETIN_WORDS};
use crate::gauges::{GAUGE_WORDS, GAUGES};
use crate::hot::{Place, SLOTS};
use crate::kind::Kind;
use crate::layout::{self, LINE_WORDS, MAX_WORKERS, REGIONS, word};
use crate::map::Mapping;
use crate::owner::Owner;
use crate::series::{BLOCK_WORDS, Key, Labels, block};
use crate::{Error, clock, histogram};

/// Series of one worker; those beyond are counted under one name ([`OVERFLOW`]) and reported.
pub const BLOCKS: usize = size(1024, 2);
/// The service name under which series beyond [`BLOCKS`] are counted.
pub const OVERFLOW: &str = "_overflow";

const SEGMENT_HEADER: usize = size(512, 8);
const GAUGES_AT: usize = 64;
const REGION_HEADER: usize = size(4096, 80);
const BULLETIN_AT: usize = GAUGES_AT + GAUGES * GAUGE_WORDS;
const _: () = assert!(BULLETIN_AT + BULLETIN_WORDS <= REGION_HEADER);
const CELL_WORDS: usize = 64;
const _: () = assert!(NAMES.len() <= CELL_WORDS);
const ENDPOINTS_AT: usize = CELL_WORDS + BLOCKS * BLOCK_WORDS;
const WORKER_WORDS: usize = ENDPOINTS_AT + SLOTS * LINE_WORDS;
const REGION_WORDS: usize = REGION_HEADER + MAX_WORKERS * WORKER_WORDS;
/// Size of the segment; sparse.
pub const SEGMENT_BYTES: usize = (SEGMENT_HEADER + REGIONS * REGION_WORDS) * 8;

pub(crate) const OWNER: usize = 0;
pub(crate) const WORKERS: usize = 1;
pub(crate) const HEARTBEAT: usize = 2;
pub(crate) const REJECTED: usize = 3;
pub(crate) const IN_FORCE: usize = 8;
pub(crate) const BLOCKS_USED: usize = 16;
const _: () = assert!(IN_FORCE + Kind::ALL.len() <= BLOCKS_USED);

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
    Retries,
    RetriesOverBudget,
    BodiesNotReplayable,
    RateLimited,
    RateLimitedInShadow,
    Shed,
    ShedInShadow,
    BulkheadFull,
    ResourcesExhausted,
    BreakersOpened,
    ServiceBreakerRefused,
    EndpointsEjected,
    Probes,
    Mirrored,
    MirrorsFailed,
    MirrorsSkipped,
    FaultsInjected,
    DeadlinesExceeded,
}

/// The names of [`Cell`]s, in their order, as metrics show them.
pub const NAMES: [&str; 30] = [
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
    "retries",
    "retries_over_budget",
    "bodies_not_replayable",
    "rate_limited",
    "rate_limited_in_shadow",
    "shed",
    "shed_in_shadow",
    "bulkhead_full",
    "resources_exhausted",
    "breakers_opened",
    "service_breaker_refused",
    "endpoints_ejected",
    "probes",
    "mirrored",
    "mirrors_failed",
    "mirrors_skipped",
    "faults_injected",
    "deadlines_exceeded",
];

/// Offsets in an endpoint's line.
pub(crate) mod line {
    pub const INCARNATION: usize = 0;
    pub const CALLS: usize = 1;
    pub const FAILURES: usize = 2;
    pub const LOCAL: usize = 3;
    pub const REFUSED: usize = 4;
    pub const SLOW: usize = 5;
    pub const SUM_NS: usize = 6;
}

/// What one call showed of an endpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Call {
    /// It answered: with that status, after so many nanoseconds, which is slow or not.
    Answered {
        #[allow(missing_docs)]
        status: u16,
        #[allow(missing_docs)]
        latency_ns: u64,
        #[allow(missing_docs)]
        slow: bool,
    },
    /// It did not.
    Unanswered,
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

pub(crate) fn region(words: &[AtomicU64], index: usize) -> &[AtomicU64] {
    let from = SEGMENT_HEADER + index * REGION_WORDS;
    words.get(from..from + REGION_WORDS).unwrap_or(&[])
}

pub(crate) fn worker(region: &[AtomicU64], index: usize) -> &[AtomicU64] {
    let from = REGION_HEADER + index * WORKER_WORDS;
    region.get(from..from + WORKER_WORDS).unwrap_or(&[])
}

pub(crate) fn endpoint_line(worker: &[AtomicU64], slot: u32) -> &[AtomicU64] {
    let from = ENDPOINTS_AT + (slot as usize).min(SLOTS - 1) * LINE_WORDS;
    worker.get(from..from + LINE_WORDS).unwrap_or(&[])
}

pub(crate) fn gauges(region: &[AtomicU64]) -> &[AtomicU64] {
    region.get(GAUGES_AT..GAUGES_AT + GAUGES * GAUGE_WORDS).unwrap_or(&[])
}

pub(crate) fn bulletin(region: &[AtomicU64]) -> &[AtomicU64] {
    region.get(BULLETIN_AT..BULLETIN_AT + BULLETIN_WORDS).unwrap_or(&[])
}

pub(crate) fn nth_block(worker: &[AtomicU64], index: usize) -> &[AtomicU64] {
    let from = CELL_WORDS + index * BLOCK_WORDS;
    worker.get(from..from + BLOCK_WORDS).unwrap_or(&[])
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
        Enrolment::of(map, workers, Owner::current(), Owner::of)
    }

    /// The same for the process `me`, where `living` tells who a pid is.
    ///
    /// # Errors
    /// As above.
    pub fn of(map: Mapping, workers: usize, me: Owner, living: impl Fn(u32) -> Option<Owner>) -> Result<Self, Error> {
        layout::initialise(&map, "counters")?;
        let words = map.words();
        for index in 0..REGIONS {
            let header = region(words, index);
            let owner = word(header, OWNER);
            let seen = owner.load(Ordering::Acquire);
            if Owner(seen).holds(&living) {
                continue;
            }
            if owner.compare_exchange(seen, me.moving_in().0, Ordering::AcqRel, Ordering::Acquire).is_ok() {
                word(header, WORKERS).store(workers as u64, Ordering::Relaxed);
                for kind in Kind::ALL {
                    word(header, IN_FORCE + kind as usize).store(0, Ordering::Release);
                }
                for gauge in gauges(header) {
                    gauge.store(0, Ordering::Release);
                }
                bulletin::write(bulletin(header), &[]);
                let enrolment = Enrolment { map, index };
                enrolment.heartbeat();
                word(region(enrolment.map.words(), index), OWNER).store(me.0, Ordering::Release);
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
        word(region(self.map.words(), self.index), HEARTBEAT).store(clock::unix_ms(), Ordering::Relaxed);
    }

    /// Counts a snapshot that could not be put in force.
    pub fn count_rejected_table(&self) {
        word(region(self.map.words(), self.index), REJECTED).fetch_add(1, Ordering::Relaxed);
    }

    /// The words of the process's gauges; see [`crate::gauges`].
    #[must_use]
    pub fn gauges(&self) -> &[AtomicU64] {
        gauges(region(self.map.words(), self.index))
    }

    /// Says what the process says of its Central Mesh; see [`crate::bulletin`].
    pub fn set_bulletin(&self, text: &[u8]) {
        bulletin::write(bulletin(region(self.map.words(), self.index)), text);
    }

    /// What other living processes say of theirs.
    #[must_use]
    pub fn bulletins_of_others(&self) -> Vec<Vec<u8>> {
        let words = self.map.words();
        (0..REGIONS)
            .filter(|index| *index != self.index)
            .map(|index| region(words, index))
            .filter(|region| Owner(word(region, OWNER).load(Ordering::Acquire)).is_alive())
            .filter_map(|region| bulletin::read(bulletin(region)))
            .collect()
    }

    /// Says which generation of a table every worker of this process has in force.
    pub fn set_in_force(&self, kind: Kind, generation: u64) {
        word(region(self.map.words(), self.index), IN_FORCE + kind as usize).store(generation, Ordering::Release);
    }
}

/// The counting end of one worker; not shared between threads.
#[derive(Debug)]
pub struct WorkerCounters {
    enrolment: std::sync::Arc<Enrolment>,
    worker: usize,
    /// Where its words begin.
    from: usize,
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

impl WorkerCounters {
    /// The counters of worker `worker` (less than [`MAX_WORKERS`]), continuing where a predecessor left off.
    #[must_use]
    pub fn new(enrolment: std::sync::Arc<Enrolment>, worker: usize) -> Self {
        let from = SEGMENT_HEADER + enrolment.index * REGION_WORDS + REGION_HEADER + worker * WORKER_WORDS;
        let mut counters = WorkerCounters { enrolment, worker, from, index: HashMap::default(), used: 0 };
        let mut index = HashMap::default();
        let used = (word(counters.region(), BLOCKS_USED + worker).load(Ordering::Relaxed) as usize).min(BLOCKS);
        for i in 0..used {
            if let Some(labels) = Labels::read(nth_block(counters.words(), i)) {
                index.insert(labels.key().hash(), i);
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
        self.enrolment.map.words().get(self.from..self.from + WORKER_WORDS).unwrap_or(&[])
    }

    /// Adds one to a fixed counter.
    pub fn count(&self, cell: Cell) {
        add(word(self.words(), cell as usize), 1);
    }

    /// Counts a finished request under its series.
    pub fn record(&mut self, key: &Key<'_>, sample: &Sample) {
        let hash = key.hash();
        let index = match self.index.get(&hash) {
            Some(index) => *index,
            None => self.open(hash, key),
        };
        let block = nth_block(self.words(), index);
        add(word(block, block::COUNT), 1);
        add(word(block, block::SUM_NS), sample.duration_ns);
        add(word(block, block::REQUEST_BYTES), sample.request_bytes);
        add(word(block, block::RESPONSE_BYTES), sample.response_bytes);
        add(word(block, block::CONVENTIONAL + histogram::conventional(sample.duration_ns)), 1);
        add(word(block, block::FINE + histogram::fine(sample.duration_ns)), 1);
    }

    /// Counts a call to an endpoint. The line of a slot that has a new holder begins anew.
    pub fn call(&self, place: Place, call: Call) {
        let cells = endpoint_line(self.words(), place.slot);
        let incarnation = word(cells, line::INCARNATION);
        if incarnation.load(Ordering::Relaxed) != u64::from(place.incarnation) {
            incarnation.store(0, Ordering::Release);
            for cell in cells.iter().skip(1) {
                cell.store(0, Ordering::Relaxed);
            }
            incarnation.store(u64::from(place.incarnation), Ordering::Release);
        }
        add(word(cells, line::CALLS), 1);
        match call {
            Call::Answered { status, latency_ns, slow } => {
                add(word(cells, line::SUM_NS), latency_ns);
                if status >= 500 {
                    add(word(cells, line::FAILURES), 1);
                } else if status == 429 {
                    add(word(cells, line::REFUSED), 1);
                }
                if slow {
                    add(word(cells, line::SLOW), 1);
                }
            }
            Call::Unanswered => {
                add(word(cells, line::FAILURES), 1);
                add(word(cells, line::LOCAL), 1);
            }
        }
    }

    /// Finds or publishes the block of a key that is new to this index. A block keeps labels cut to their room, so it is
    /// looked for by those: otherwise each successor would open another one for the same long label.
    fn open(&mut self, hash: u64, key: &Key<'_>) -> usize {
        let kept = key.kept();
        if let Some(index) = self.index.get(&kept.hash()).copied() {
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
        key.publish(nth_block(self.words(), index));
        self.used += 1;
        word(self.region(), BLOCKS_USED + self.worker).store(self.used as u64, Ordering::Release);
        self.index.insert(hash, index);
        self.index.insert(key.hash(), index);
        index
    }
}
