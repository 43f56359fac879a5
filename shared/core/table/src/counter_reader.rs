//! The reading end of the counters: every region added up, those of the dead included.

use crate::atomic::{AtomicU64, Ordering};
use std::collections::HashMap;

use crate::bulletin;
use crate::counters::{
    BLOCKS, BLOCKS_USED, HEARTBEAT, IN_FORCE, NAMES, OWNER, REJECTED, WORKERS, bulletin as bulletin_of, endpoint_line,
    gauges, line, nth_block, region, worker,
};
use crate::gauges::{self as gauge_list, Gauge};
use crate::hot::Place;
use crate::kind::Kind;
use crate::layout::{self, MAX_WORKERS, REGIONS, word};
use crate::map::{Access, Mapping};
use crate::owner::Owner;
use crate::series::{Labels, block};
use crate::{Error, histogram};

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

/// What was counted about one endpoint.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[allow(missing_docs)] // see `crate::counters::Call`
pub struct EndpointCounts {
    pub calls: u64,
    pub failures: u64,
    pub local: u64,
    pub refused: u64,
    pub slow: u64,
    pub sum_ns: u64,
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
            layout::initialise(&map, "counters")?;
        }
        layout::check(map.words(), "counters")?;
        Ok(CounterReader(map))
    }

    fn regions(&self) -> impl Iterator<Item = (usize, &[AtomicU64])> {
        (0..REGIONS)
            .map(|i| (i, region(self.0.words(), i)))
            .filter(|(_, r)| word(r, OWNER).load(Ordering::Acquire) != 0)
    }

    fn workers(&self) -> impl Iterator<Item = (&[AtomicU64], usize)> {
        self.regions().flat_map(|(_, region)| {
            (0..MAX_WORKERS).map(move |i| {
                let used = word(region, BLOCKS_USED + i).load(Ordering::Acquire) as usize;
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
                    let read = |i| word(block, i).load(Ordering::Relaxed);
                    series.count = series.count.wrapping_add(read(block::COUNT));
                    series.sum_ns = series.sum_ns.wrapping_add(read(block::SUM_NS));
                    series.request_bytes = series.request_bytes.wrapping_add(read(block::REQUEST_BYTES));
                    series.response_bytes = series.response_bytes.wrapping_add(read(block::RESPONSE_BYTES));
                    series
                        .conventional
                        .iter_mut()
                        .enumerate()
                        .for_each(|(i, n)| *n = n.wrapping_add(read(block::CONVENTIONAL + i)));
                    series.fine.iter_mut().enumerate().for_each(|(i, n)| *n = n.wrapping_add(read(block::FINE + i)));
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
                *sum = sum.wrapping_add(word(worker, i).load(Ordering::Relaxed));
            }
        }
        NAMES.into_iter().zip(sums).collect()
    }

    /// What was counted about an endpoint, summed.
    #[must_use]
    pub fn endpoint(&self, place: Place) -> EndpointCounts {
        let mut sum = EndpointCounts::default();
        let about = |cells: &[AtomicU64]| {
            word(cells, line::INCARNATION).load(Ordering::Acquire) == u64::from(place.incarnation)
        };
        // Only workers that there are: to read an untouched page of shared memory is to allocate it.
        let workers = self.regions().flat_map(|(_, region)| {
            let count = word(region, WORKERS).load(Ordering::Relaxed) as usize;
            (0..count.min(MAX_WORKERS)).map(move |index| worker(region, index))
        });
        for worker in workers {
            let cells = endpoint_line(worker, place.slot);
            if !about(cells) {
                continue;
            }
            let read = |index| word(cells, index).load(Ordering::Relaxed);
            let counts = EndpointCounts {
                calls: read(line::CALLS),
                failures: read(line::FAILURES),
                local: read(line::LOCAL),
                refused: read(line::REFUSED),
                slow: read(line::SLOW),
                sum_ns: read(line::SUM_NS),
            };
            // A line that changed hands meanwhile is the next holder's.
            if about(cells) {
                sum.calls = sum.calls.wrapping_add(counts.calls);
                sum.failures = sum.failures.wrapping_add(counts.failures);
                sum.local = sum.local.wrapping_add(counts.local);
                sum.refused = sum.refused.wrapping_add(counts.refused);
                sum.slow = sum.slow.wrapping_add(counts.slow);
                sum.sum_ns = sum.sum_ns.wrapping_add(counts.sum_ns);
            }
        }
        sum
    }

    /// How much of each limit the living processes have in use.
    #[must_use]
    pub fn gauges(&self) -> Vec<Gauge> {
        self.regions()
            .filter(|(_, region)| Owner(word(region, OWNER).load(Ordering::Acquire)).is_alive())
            .flat_map(|(_, region)| gauge_list::read(gauges(region)))
            .collect()
    }

    /// What the living processes say of their Central Mesh, of those that say something.
    #[must_use]
    pub fn bulletins(&self) -> Vec<Vec<u8>> {
        self.regions()
            .filter(|(_, region)| Owner(word(region, OWNER).load(Ordering::Acquire)).is_alive())
            .filter_map(|(_, region)| bulletin::read(bulletin_of(region)))
            .collect()
    }

    /// The regions that somebody holds or held.
    #[must_use]
    pub fn used_regions(&self) -> Vec<usize> {
        self.regions().map(|(index, _)| index).collect()
    }

    /// Everybody who holds a region, alive or not.
    #[must_use]
    pub fn enrolled(&self) -> Vec<Enrolled> {
        self.enrolled_of(Owner::of)
    }

    /// The same where `living` tells who a pid is.
    #[must_use]
    pub fn enrolled_of(&self, living: impl Fn(u32) -> Option<Owner>) -> Vec<Enrolled> {
        self.regions()
            .map(|(index, region)| {
                let owner = Owner(word(region, OWNER).load(Ordering::Acquire));
                Enrolled {
                    index,
                    owner,
                    alive: living(owner.pid()) == Some(owner),
                    workers: word(region, WORKERS).load(Ordering::Relaxed),
                    heartbeat_ms: word(region, HEARTBEAT).load(Ordering::Relaxed),
                    rejected_tables: word(region, REJECTED).load(Ordering::Relaxed),
                    in_force: Kind::ALL
                        .into_iter()
                        .map(|kind| (kind, word(region, IN_FORCE + kind as usize).load(Ordering::Acquire)))
                        .collect(),
                }
            })
            .collect()
    }
}
