//! What is left of a finished request: its series counted, and a record for whoever observes.

use pannier_decide::policy::Policy;
use pannier_decide::trace::Span;
use pannier_http::request::method_label;
use pannier_table::clock;
use pannier_table::counters::{Cell, Sample};
use pannier_table::layout::LINE_WORDS;
use pannier_table::record::MAX_RECORD_LINES;
use pannier_table::record::{AccessRecord, Flag, Texts};
use pannier_table::series::{Direction, Key};

use crate::worker::Worker;

/// A finished request.
pub struct Finished<'a> {
    /// The policy that it began with.
    pub policy: &'a Policy,
    /// The side it came from.
    pub direction: Direction,
    /// The service called.
    pub service: &'a str,
    /// Method, path and authority as they came; empty where the head could not be read.
    pub method: &'a str,
    #[allow(missing_docs)]
    pub path: &'a str,
    #[allow(missing_docs)]
    pub authority: &'a str,
    /// Minor version of the caller's HTTP/1.
    pub version: u8,
    /// The status that the caller was given; 0 if none.
    pub status: u16,
    /// Why the proxy answered itself, or how it failed.
    pub flag: Flag,
    /// The endpoint that answered.
    pub upstream: &'a str,
    #[allow(missing_docs)]
    pub request_id: &'a [u8],
    /// Its span; none without telemetry.
    pub span: Option<Span>,
    #[allow(missing_docs)]
    pub trace_state: &'a [u8],
    /// Where it came from; empty for a call of the app's own.
    pub client: &'a str,
    /// When its first byte was read: ns since boot.
    pub started_ns: u64,
    /// Bytes from and to the caller.
    pub request_bytes: u64,
    #[allow(missing_docs)]
    pub response_bytes: u64,
}

/// Counts it, and offers a record to the ring if somebody observes.
pub fn finish(worker: &Worker, done: &Finished<'_>) {
    let duration_ns = clock::monotonic_ns().saturating_sub(done.started_ns);
    let route = done.policy.route_label(done.path);
    let key = Key {
        direction: done.direction,
        service: done.service,
        route,
        method: method_label(done.method),
        status: done.status,
        flag: done.flag as u8,
        version: done.version,
    };
    let sample = Sample { duration_ns, request_bytes: done.request_bytes, response_bytes: done.response_bytes };
    let mut counters = worker.counters.borrow_mut();
    counters.record(&key, &sample);
    let Some(telemetry) = &done.policy.telemetry else {
        return;
    };
    let span = done.span.unwrap_or(Span { trace_id: 0, span_id: 0, parent_id: 0, sampled: false });
    if !telemetry.access_log && !span.sampled {
        return;
    }
    let record = AccessRecord {
        outbound: done.direction == Direction::Outbound,
        sampled: span.sampled,
        truncated: false,
        flag: done.flag,
        status: done.status,
        version: done.version,
        start_ns: clock::unix_ns_at(done.started_ns),
        duration_ns,
        request_bytes: done.request_bytes,
        response_bytes: done.response_bytes,
        trace_id: span.trace_id,
        span_id: span.span_id,
        parent_id: span.parent_id,
        texts: Texts {
            method: done.method,
            path: done.path,
            authority: done.authority,
            service: done.service,
            route,
            upstream: done.upstream,
            request_id: text(done.request_id),
            trace_state: text(done.trace_state),
            client: done.client,
        },
    };
    let mut buffer = [0; MAX_RECORD_LINES * LINE_WORDS];
    let pushed = worker.ring.borrow_mut().push(record.encode(&mut buffer));
    counters.count(if pushed { Cell::RingRecords } else { Cell::RingDropped });
}

/// What is no text is left out of a record.
fn text(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).unwrap_or("")
}
