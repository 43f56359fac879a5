//! Rings as Python sees them: access-log lines are formatted and written here, spans come out as records.

use std::fs::File;
use std::io::Write;
use std::os::fd::BorrowedFd;

use pannier_table::access_log;
use pannier_table::counter_reader::CounterReader;
use pannier_table::counters::SEGMENT_BYTES as COUNTER_BYTES;
use pannier_table::map::Access;
use pannier_table::record::AccessRecord;
use pannier_table::ring::{Consumer, SEGMENT_BYTES};
use pyo3::prelude::*;

use crate::counters::{direction, protocol};
use crate::tables::{map, translate};

#[pyclass(frozen, get_all, module = "pannier._native")]
pub struct Span {
    trace_id: u128,
    span_id: u64,
    parent_id: Option<u64>,
    trace_state: String,
    sampled: bool,
    direction: &'static str,
    method: String,
    route: String,
    path: String,
    authority: String,
    service: String,
    upstream: String,
    request_id: String,
    client: String,
    status: u16,
    flag: &'static str,
    protocol: &'static str,
    start_ns: u64,
    end_ns: u64,
}

impl Span {
    fn of(record: &AccessRecord<'_>) -> Span {
        let t = &record.texts;
        Span {
            trace_id: record.trace_id,
            span_id: record.span_id,
            parent_id: (record.parent_id != 0).then_some(record.parent_id),
            trace_state: t.trace_state.into(),
            sampled: record.sampled,
            direction: direction(record.outbound),
            method: t.method.into(),
            route: t.route.into(),
            path: t.path.into(),
            authority: t.authority.into(),
            service: t.service.into(),
            upstream: t.upstream.into(),
            request_id: t.request_id.into(),
            client: t.client.into(),
            status: record.status,
            flag: record.flag.name(),
            protocol: protocol(record.version),
            start_ns: record.start_ns,
            end_ns: record.start_ns.saturating_add(record.duration_ns),
        }
    }
}

#[pyclass(frozen, get_all, module = "pannier._native")]
pub struct Drained {
    records: usize,
    skipped: usize,
    log_errors: usize,
    log_bytes: usize,
    spans: Vec<Py<Span>>,
}

#[pyclass(module = "pannier._native")]
pub struct Rings {
    consumer: Consumer,
    counters: CounterReader,
}

#[pymethods]
impl Rings {
    #[new]
    fn new(rings_fd: i32, counters_fd: i32) -> PyResult<Self> {
        Ok(Rings {
            consumer: Consumer::new(map(rings_fd, SEGMENT_BYTES, Access::Write)?).map_err(translate)?,
            counters: CounterReader::new(map(counters_fd, COUNTER_BYTES, Access::Read)?).map_err(translate)?,
        })
    }

    #[pyo3(signature = (log_fd, spans, limit=4096))]
    fn drain(&self, py: Python<'_>, log_fd: i32, spans: bool, limit: usize) -> PyResult<Drained> {
        let (counts, lines, log_errors, found) = py.detach(|| self.collect(log_fd, spans, limit));
        let spans = found.into_iter().map(|span| Py::new(py, span)).collect::<PyResult<_>>()?;
        Ok(Drained { records: counts.records, skipped: counts.skipped, log_errors, log_bytes: lines, spans })
    }
}

impl Rings {
    fn collect(
        &self,
        log_fd: i32,
        spans: bool,
        limit: usize,
    ) -> (pannier_table::ring::Drained, usize, usize, Vec<Span>) {
        let regions = self.counters.used_regions();
        let (mut found, mut lines, mut line_count, mut undecodable) = (Vec::new(), String::new(), 0, 0);
        let mut counts = self.consumer.drain(&regions, limit, |words| {
            let mut scratch = Vec::with_capacity(words.len() * 8);
            let Some(record) = AccessRecord::decode(words, &mut scratch) else {
                undecodable += 1;
                return;
            };
            if log_fd >= 0 {
                access_log::format(&record, &mut lines);
                line_count += 1;
            }
            if spans && record.sampled {
                found.push(Span::of(&record));
            }
        });
        counts.skipped += undecodable;
        let log_errors = if lines.is_empty() || append(log_fd, lines.as_bytes()) { 0 } else { line_count };
        (counts, lines.len(), log_errors, found)
    }
}

/// Appends whole lines to a descriptor that Python keeps open.
fn append(fd: i32, lines: &[u8]) -> bool {
    // SAFETY: borrowed for the length of this call only; a number that is not open gives an error.
    let borrowed = unsafe { BorrowedFd::borrow_raw(fd) };
    borrowed.try_clone_to_owned().map(File::from).and_then(|mut file| file.write_all(lines)).is_ok()
}
