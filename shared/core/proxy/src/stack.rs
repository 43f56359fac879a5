//! One request: everything that happens to it, in its order, and why each step stands where it stands.
//!
//! 1. **parse** strictly: nothing that could be read in two ways reaches a decision;
//! 2. **route** by the authority alone: a refusal costs no connection;
//! 3. **trace**: after the route, since what is refused needs no context sent on; before the head is written, since it
//!    carries the context;
//! 4. **serialise** the head from the model, with this hop's fields left out: once, for every attempt;
//! 5. **balance** for each attempt anew: what failed is avoided;
//! 6. **dial** or take from the pool: only what may be repeated rides on a connection that may be stale;
//! 7. **exchange**;
//! 8. **account**, last, whatever happened: a request that nobody counted did not exist.

use std::rc::Rc;

use pannier_decide::balance::Outcome;
use pannier_decide::policy::{Cluster, Policy};
use pannier_decide::route::{self, Route};
use pannier_decide::trace::{self, Span};
use pannier_http::body::{Framing, Relay};
use pannier_http::fields;
use pannier_http::refusal::Refusal;
use pannier_http::request::{self, Edits};
use pannier_http::response::Asked;
use pannier_table::clock;
use pannier_table::counters::Cell;
use pannier_table::hot;
use pannier_table::record::Flag;
use pannier_table::series::Direction;

use crate::account::{self, Finished};
use crate::answer::{Answer, harmless};
use crate::dial::{self, DialError};
use crate::exchange::{self, Answered, Attempt, Failure};
use crate::pump;
use crate::stream::Stream;
use crate::timers::Timer;
use crate::worker::Worker;

/// Endpoints that are tried when no connection can be had: nothing was sent, so nothing can happen twice.
const DIALS: usize = 3;

/// A head that has arrived at the beginning of the input.
#[derive(Clone, Copy, Debug)]
pub struct Arrived {
    /// Its length in bytes.
    pub head: usize,
    /// When its first byte was read: ns since boot.
    pub started_ns: u64,
    /// The same since the epoch.
    pub started_unix_ns: u64,
    /// Bytes read so far.
    pub bytes: u64,
}

/// What becomes of the connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Next {
    /// Another request may follow.
    Again,
    /// It ends after the answer.
    Close,
    /// It is of no use any more.
    Gone,
}

/// A part of the input, by its place.
#[derive(Clone, Copy, Debug, Default)]
struct Text {
    from: usize,
    to: usize,
}

impl Text {
    fn of(part: &[u8], whole: &[u8]) -> Text {
        let from = (part.as_ptr() as usize).wrapping_sub(whole.as_ptr() as usize);
        Text { from, to: from.wrapping_add(part.len()) }
    }

    fn get(self, whole: &[u8]) -> &str {
        whole.get(self.from..self.to).and_then(|bytes| std::str::from_utf8(bytes).ok()).unwrap_or("")
    }
}

/// A request that goes somewhere.
struct Plan {
    route: Route,
    method: Text,
    path: Text,
    authority: Text,
    host: Text,
    port: u16,
    version: u8,
    head_only: bool,
    upgrade: Option<Text>,
    keep_alive: bool,
    repeatable: bool,
    request_id: Option<Text>,
    new_request_id: [u8; 32],
    trace_state: Option<Text>,
    span: Option<Span>,
    /// The head, and what has arrived of the body, as they are sent.
    out: Vec<u8>,
    /// Bytes of the input that `out` stands for.
    consumed: usize,
    /// What is still to come of the body.
    upload: Option<Relay>,
}

impl Plan {
    fn request_id<'a>(&'a self, input: &'a [u8]) -> &'a str {
        match self.request_id {
            Some(text) => text.get(input),
            None => std::str::from_utf8(&self.new_request_id).unwrap_or(""),
        }
    }
}

/// What came of a request.
struct Outcomes {
    /// What was read with the end of the body and follows it.
    following: Vec<u8>,
    status: u16,
    flag: Flag,
    upstream: Box<str>,
    next: Next,
    request_bytes: u64,
    response_bytes: u64,
}

/// Serves the request whose head stands at the beginning of `input`; takes it from there.
pub async fn serve_request(
    worker: &Rc<Worker>,
    caller: &mut Stream,
    timer: &Timer,
    input: &mut Vec<u8>,
    arrived: Arrived,
    direction: Direction,
) -> Next {
    let _in_flight = worker.enter();
    let policy = worker.policy();
    let mut plan = match plan(worker, &policy, input, arrived.head, direction) {
        Ok(plan) => plan,
        Err(refusal) => {
            worker.count(Cell::RequestsMalformed);
            return refuse(worker, caller, timer, &arrived, direction, refusal).await;
        }
    };
    let outcomes = match target(&policy, &plan, direction, input) {
        Ok(target) => attempts(worker, &policy, &target, &mut plan, caller, timer, input, direction).await,
        Err(answer) => say(worker, &policy, caller, timer, &plan, &answer).await,
    };
    account::finish(
        worker,
        &Finished {
            policy: &policy,
            direction,
            service: service_label(&policy, plan.route, direction),
            method: plan.method.get(input),
            path: plan.path.get(input),
            authority: plan.authority.get(input),
            version: plan.version,
            status: outcomes.status,
            flag: outcomes.flag,
            upstream: &outcomes.upstream,
            request_id: plan.request_id(input),
            span: plan.span,
            trace_state: plan.trace_state.map_or("", |text| text.get(input)),
            started_ns: arrived.started_ns,
            started_unix_ns: arrived.started_unix_ns,
            request_bytes: outcomes.request_bytes,
            response_bytes: outcomes.response_bytes,
        },
    );
    input.drain(..plan.consumed.min(input.len()));
    input.extend_from_slice(&outcomes.following);
    worker.buffers.give(plan.out);
    outcomes.next
}

/// Answers a head that could not be read; the connection is at no known place and ends.
pub async fn refuse(
    worker: &Rc<Worker>,
    caller: &mut Stream,
    timer: &Timer,
    arrived: &Arrived,
    direction: Direction,
    refusal: Refusal,
) -> Next {
    let policy = worker.policy();
    let flag = if refusal.status == 408 { Flag::DT } else { Flag::DPE };
    let answer = Answer::new(refusal.status, flag, refusal.reason);
    let mut out = worker.buffers.take();
    answer.write(&mut out, false, false);
    let written = pump::write(timer, policy.timeouts.idle_ms, caller, &out).await;
    account::finish(
        worker,
        &Finished {
            policy: &policy,
            direction,
            service: service_label(&policy, Route::Unknown, direction),
            method: "",
            path: "",
            authority: "",
            version: 1,
            status: refusal.status,
            flag,
            upstream: "",
            request_id: "",
            span: None,
            trace_state: "",
            started_ns: arrived.started_ns,
            started_unix_ns: arrived.started_unix_ns,
            request_bytes: arrived.bytes,
            response_bytes: out.len() as u64,
        },
    );
    worker.buffers.give(out);
    if written.is_ok() { Next::Close } else { Next::Gone }
}

/// Steps 1 to 4, all of them without waiting for anything.
fn plan(worker: &Worker, policy: &Policy, input: &[u8], head: usize, direction: Direction) -> Result<Plan, Refusal> {
    let (head_bytes, rest) = input.split_at_checked(head).unwrap_or((input, &[]));
    let mut room = fields::room();
    let request = request::parse(head_bytes, &mut room)?;
    let route = match direction {
        Direction::Inbound => route::inbound(policy, request.host.host),
        Direction::Outbound => route::outbound(policy, request.host.host),
    };
    let mut random = worker.random.borrow_mut();
    let span = policy
        .telemetry
        .as_ref()
        .map(|telemetry| trace::continue_or_start(request.trace_parent, telemetry.threshold, &mut random));
    let mut new_request_id = [b'0'; 32];
    if request.request_id.is_none() {
        let id = u128::from(random.bits()) << 64 | u128::from(random.bits());
        write_hex(&mut new_request_id, id);
    }
    let text = |part: &[u8]| Text::of(part, input);
    let mut plan = Plan {
        route,
        method: text(request.method.as_bytes()),
        path: text(request.path.as_bytes()),
        authority: text(request.authority.as_bytes()),
        host: text(request.host.host.as_bytes()),
        port: request.host.port.unwrap_or(80),
        version: request.version,
        head_only: request.method == "HEAD",
        upgrade: request.upgrade.map(text),
        keep_alive: request.keep_alive,
        repeatable: request.is_idempotent(),
        request_id: request.request_id.map(text),
        new_request_id,
        trace_state: request.trace_state.map(text),
        span,
        out: worker.buffers.take(),
        consumed: head,
        upload: None,
    };
    let trace_parent = span.map(|span| span.header());
    request.write(
        &mut plan.out,
        &Edits {
            request_id: request.request_id.unwrap_or(&new_request_id),
            trace_parent: trace_parent.as_ref().map(|header| header.as_slice()),
            drop_trace_state: span.is_some_and(|span| span.parent_id == 0),
            strip_ours: direction == Direction::Inbound,
        },
    );
    let coding = match request.framing {
        Framing::Chunked => pannier_http::body::Coding::Chunked,
        _ => pannier_http::body::Coding::Plain,
    };
    let mut relay = Relay::new(request.framing, coding);
    if !relay.is_done() {
        plan.consumed += relay.relay(rest, &mut plan.out)?;
        if !relay.is_done() {
            plan.upload = Some(relay);
        }
    }
    Ok(plan)
}

fn write_hex(out: &mut [u8; 32], mut value: u128) {
    for byte in out.iter_mut().rev() {
        let nibble = (value & 15) as u8;
        *byte = if nibble < 10 { b'0' + nibble } else { b'a' - 10 + nibble };
        value >>= 4;
    }
}

/// What a request is counted under.
fn service_label(policy: &Policy, route: Route, direction: Direction) -> &str {
    match (direction, route) {
        (Direction::Inbound, _) => &policy.service,
        (Direction::Outbound, Route::Cluster(index)) => policy.clusters.get(index).map_or("", |c| &c.name),
        (Direction::Outbound, Route::Passthrough) => "_passthrough",
        (Direction::Outbound, _) => "_unknown",
    }
}

/// Where the attempts go.
enum Target<'a> {
    Cluster(&'a Cluster),
    Authority,
}

fn target<'a>(policy: &'a Policy, plan: &Plan, direction: Direction, input: &[u8]) -> Result<Target<'a>, Answer> {
    match plan.route {
        Route::Cluster(index) => match policy.clusters.get(index) {
            Some(cluster) if !cluster.endpoints.is_empty() => Ok(Target::Cluster(cluster)),
            _ => Err(Answer::new(503, Flag::UH, format!("{} has no endpoints", harmless(plan.host.get(input))))),
        },
        Route::Passthrough => Ok(Target::Authority),
        Route::NoApp => Err(Answer::new(503, Flag::UH, "no app is configured behind this listener; see --app-port")),
        Route::Unknown => {
            let host = harmless(plan.host.get(input));
            let message = match direction {
                Direction::Inbound => format!("{host} is not served here; add it to inbound.hosts"),
                Direction::Outbound => {
                    format!("no service is called {host}, and this profile denies unknown authorities")
                }
            };
            Err(Answer::new(404, Flag::NR, message))
        }
    }
}

/// Steps 5 to 7.
#[allow(clippy::too_many_arguments)] // the request's whole context, used in one place
async fn attempts(
    worker: &Rc<Worker>,
    policy: &Policy,
    target: &Target<'_>,
    plan: &mut Plan,
    caller: &mut Stream,
    timer: &Timer,
    input: &mut [u8],
    direction: Direction,
) -> Outcomes {
    let timeouts = policy.timeouts;
    let repeatable = plan.repeatable && plan.upload.is_none();
    let mut upload = plan.upload.take();
    // An answer of our own comes before the end of a body that is still to come: no further request can be told from it.
    let keep_alive = plan.keep_alive;
    plan.keep_alive = keep_alive && upload.is_none();
    let (mut avoid, mut dials, mut fresh) = (None, 0, false);
    loop {
        let (key, label, endpoint): (u64, Box<str>, _) = match target {
            Target::Cluster(cluster) => {
                let now_ns = clock::monotonic_ns();
                let open = |e: &pannier_decide::policy::Endpoint| {
                    e.hot.is_some_and(|(slot, incarnation)| {
                        worker.hot.state(slot, incarnation, now_ns / 1_000_000) == hot::State::Open
                    })
                };
                let picked = worker.loads.borrow_mut().pick(
                    cluster,
                    policy.balance,
                    now_ns,
                    &mut worker.random.borrow_mut(),
                    avoid,
                    open,
                );
                match picked.and_then(|index| cluster.endpoints.get(index)) {
                    Some(endpoint) => (endpoint.key, endpoint.label.clone(), Some(endpoint)),
                    None => {
                        let answer = Answer::new(503, Flag::UH, format!("{} has no usable endpoint", cluster.name));
                        return say(worker, policy, caller, timer, plan, &answer).await;
                    }
                }
            }
            Target::Authority => (0, plan.authority.get(input).into(), None),
        };
        let mut load = LoadGuard { worker, key, outcome: Outcome::Unknown };
        worker.loads.borrow_mut().begin(key, clock::monotonic_ns());
        let pooled = if fresh || endpoint.is_none() { None } else { worker.pool.take(key, repeatable) };
        let reused = pooled.is_some();
        let dialled = match (pooled, endpoint) {
            (Some(stream), _) => {
                worker.count(Cell::PoolReused);
                Ok(stream)
            }
            (None, Some(endpoint)) => dial::connect(worker, timer, &endpoint.address, timeouts.connect_ms).await,
            (None, None) => {
                dial::pass_through(worker, timer, plan.host.get(input), plan.port, timeouts.connect_ms).await
            }
        };
        let mut upstream = match dialled {
            Ok(upstream) => upstream,
            Err(error) => {
                load.outcome = Outcome::Refused;
                drop(load);
                dials += 1;
                avoid = Some(key);
                if matches!(target, Target::Cluster(c) if c.endpoints.len() > 1) && dials < DIALS {
                    continue;
                }
                let mut outcomes = say(worker, policy, caller, timer, plan, &no_connection(error, &label)).await;
                outcomes.upstream = label;
                return outcomes;
            }
        };
        let attempt = Attempt {
            worker,
            timer,
            timeouts,
            asked: Asked { head: plan.head_only, upgrade: plan.upgrade.map(|text| text.get(input).as_bytes()) },
            version: plan.version,
            keep_alive,
            strip_ours: direction == Direction::Outbound,
            written: std::cell::Cell::new(0),
            uploaded: std::cell::Cell::new(0),
            sent_whole: std::cell::Cell::new(upload.is_none()),
        };
        let result = exchange::run(&attempt, &mut upstream, caller, &plan.out, upload.as_mut()).await;
        let request_bytes = plan.consumed as u64 + attempt.uploaded.get();
        let response_bytes = attempt.written.get();
        let failed = |flag, status| Outcomes {
            following: Vec::new(),
            status,
            flag,
            upstream: label.clone(),
            next: Next::Gone,
            request_bytes,
            response_bytes,
        };
        let (flag, status, reason) = match result {
            Ok(answered) => {
                load.outcome =
                    if answered.status == 429 { Outcome::Refused } else { Outcome::Answered(answered.latency_ns) };
                let after_body = input.get(plan.consumed..).unwrap_or(&[]);
                return complete(
                    worker,
                    &load,
                    answered,
                    upstream,
                    caller,
                    failed(Flag::None, 0),
                    after_body,
                    endpoint.is_some(),
                )
                .await;
            }
            Err(Failure::Silent) if reused && repeatable => {
                worker.count(Cell::RetriedOnStaleConnection);
                fresh = true;
                continue;
            }
            Err(Failure::Silent) => (Flag::UC, 502, "the upstream closed the connection without an answer"),
            Err(Failure::CallerGone) => return failed(Flag::DC, 0),
            Err(Failure::Upstream(flag, status, reason)) => {
                if flag == Flag::UPE {
                    worker.count(Cell::ResponsesMalformed);
                }
                load.outcome = Outcome::Refused;
                (flag, status, reason)
            }
            Err(Failure::Caller(flag, status, reason)) => {
                if flag == Flag::DPE {
                    worker.count(Cell::RequestsMalformed);
                }
                (flag, status, reason)
            }
        };
        if response_bytes > 0 {
            caller.end_by_reset();
            return failed(flag, 0);
        }
        let mut outcomes = say(worker, policy, caller, timer, plan, &Answer::new(status, flag, reason)).await;
        outcomes.upstream = label;
        outcomes.request_bytes = request_bytes;
        return outcomes;
    }
}

fn no_connection(error: DialError, label: &str) -> Answer {
    let label = harmless(label);
    match error {
        DialError::Failed => Answer::new(503, Flag::UF, format!("no connection to {label}")),
        DialError::TimedOut => Answer::new(503, Flag::UF, format!("no connection to {label} in time")),
        DialError::Forbidden => Answer::new(403, Flag::DI, format!("{label} must not be reached through this proxy")),
    }
}

/// The end of an exchange that worked: connections go back, or a tunnel begins.
#[allow(clippy::too_many_arguments)]
async fn complete(
    worker: &Rc<Worker>,
    load: &LoadGuard<'_>,
    answered: Answered,
    mut upstream: Stream,
    caller: &mut Stream,
    mut outcomes: Outcomes,
    after_body: &[u8],
    poolable: bool,
) -> Outcomes {
    outcomes.status = answered.status;
    outcomes.following = answered.following;
    if let Some(early) = answered.upgraded {
        let (up, down) = pump::tunnel(caller, &mut upstream, after_body, &early).await;
        outcomes.request_bytes += up;
        outcomes.response_bytes += down;
        return outcomes;
    }
    if answered.upstream_reusable && poolable {
        worker.pool.give(load.key, upstream);
    }
    outcomes.next = if answered.caller_reusable { Next::Again } else { Next::Close };
    outcomes
}

/// An answer of our own.
async fn say(
    worker: &Rc<Worker>,
    policy: &Policy,
    caller: &mut Stream,
    timer: &Timer,
    plan: &Plan,
    answer: &Answer,
) -> Outcomes {
    let keep_alive = plan.keep_alive && plan.upload.is_none() && !worker.is_draining();
    let mut out = worker.buffers.take();
    answer.write(&mut out, plan.head_only, keep_alive);
    let written = pump::write(timer, policy.timeouts.idle_ms, caller, &out).await;
    let response_bytes = out.len() as u64;
    worker.buffers.give(out);
    Outcomes {
        following: Vec::new(),
        status: answer.status,
        flag: answer.flag,
        upstream: "".into(),
        next: match (written, keep_alive) {
            (Err(_), _) => Next::Gone,
            (Ok(()), true) => Next::Again,
            (Ok(()), false) => Next::Close,
        },
        request_bytes: plan.consumed as u64,
        response_bytes,
    }
}

/// A request in flight at an endpoint; told the balancer when dropped, so that no way out forgets it.
struct LoadGuard<'a> {
    worker: &'a Rc<Worker>,
    key: u64,
    outcome: Outcome,
}

impl Drop for LoadGuard<'_> {
    fn drop(&mut self) {
        self.worker.loads.borrow_mut().end(self.key, clock::monotonic_ns(), self.outcome);
    }
}
