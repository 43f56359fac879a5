//! Counters as Python sees them.

use std::borrow::Cow;
use std::collections::BTreeMap;

use pannier_table::counter_reader::CounterReader;
use pannier_table::counters::{self as cells, SEGMENT_BYTES};
use pannier_table::hot::Place;
use pannier_table::map::Access;
use pannier_table::record::Flag;
use pannier_table::series::Direction;
use pyo3::prelude::*;

use crate::tables::{map, translate};

pub fn cells() -> Vec<&'static str> {
    cells::NAMES.to_vec()
}

/// The name of a direction.
pub fn direction(outbound: bool) -> &'static str {
    if outbound { "outbound" } else { "inbound" }
}

/// The name of a minor version of HTTP/1.
pub fn protocol(minor: u8) -> &'static str {
    if minor == 0 { "1.0" } else { "1.1" }
}

#[pyclass(frozen, get_all, module = "pannier._native")]
pub struct Series {
    direction: &'static str,
    service: String,
    route: String,
    method: String,
    status: u16,
    flag: &'static str,
    protocol: &'static str,
    count: u64,
    sum_seconds: f64,
    request_bytes: u64,
    response_bytes: u64,
    buckets: Vec<u64>,
    fine: Vec<u64>,
}

#[pyclass(frozen, get_all, module = "pannier._native")]
pub struct Enrolment {
    slot: usize,
    pid: u32,
    alive: bool,
    workers: u64,
    heartbeat_ms: u64,
    rejected_tables: u64,
    in_force: BTreeMap<&'static str, u64>,
}

#[pyclass(frozen, get_all, module = "pannier._native")]
pub struct EndpointCounts {
    calls: u64,
    failures: u64,
    local: u64,
    refused: u64,
    slow: u64,
    sum_seconds: f64,
}

#[pyclass(frozen, get_all, module = "pannier._native")]
pub struct Gauge {
    service: String,
    limit: String,
    used: u64,
    most: u64,
}

#[pyclass(module = "pannier._native")]
pub struct Counters {
    reader: CounterReader,
}

#[pymethods]
impl Counters {
    #[new]
    fn new(fd: i32) -> PyResult<Self> {
        let reader = CounterReader::new(map(fd, SEGMENT_BYTES, Access::Read)?).map_err(translate)?;
        Ok(Counters { reader })
    }

    fn series(&self, py: Python<'_>) -> Vec<Series> {
        py.detach(|| self.reader.series())
            .into_iter()
            .map(|s| Series {
                direction: direction(s.labels.direction == Direction::Outbound),
                service: s.labels.service,
                route: s.labels.route,
                method: s.labels.method,
                status: s.labels.status,
                flag: Flag::from_number(s.labels.flag).name(),
                protocol: protocol(s.labels.version),
                count: s.count,
                sum_seconds: s.sum_ns as f64 / 1e9,
                request_bytes: s.request_bytes,
                response_bytes: s.response_bytes,
                buckets: s.conventional,
                fine: s.fine,
            })
            .collect()
    }

    fn totals(&self) -> BTreeMap<&'static str, u64> {
        self.reader.totals().into_iter().collect()
    }

    fn endpoints(&self, places: Vec<(u32, u16)>) -> Vec<EndpointCounts> {
        places
            .into_iter()
            .map(|(slot, incarnation)| self.reader.endpoint(Place { slot, incarnation }))
            .map(|c| EndpointCounts {
                calls: c.calls,
                failures: c.failures,
                local: c.local,
                refused: c.refused,
                slow: c.slow,
                sum_seconds: c.sum_ns as f64 / 1e9,
            })
            .collect()
    }

    fn gauges(&self) -> Vec<Gauge> {
        let gauges = self.reader.gauges().into_iter();
        gauges.map(|g| Gauge { service: g.service, limit: g.limit, used: g.used, most: g.most }).collect()
    }

    fn central(&self) -> Vec<Cow<'static, [u8]>> {
        self.reader.bulletins().into_iter().map(Cow::Owned).collect()
    }

    fn enrolled(&self) -> Vec<Enrolment> {
        self.reader
            .enrolled()
            .into_iter()
            .map(|e| Enrolment {
                slot: e.index,
                pid: e.owner.pid(),
                alive: e.alive,
                workers: e.workers,
                heartbeat_ms: e.heartbeat_ms,
                rejected_tables: e.rejected_tables,
                in_force: e.in_force.into_iter().map(|(kind, generation)| (kind.name(), generation)).collect(),
            })
            .collect()
    }
}
