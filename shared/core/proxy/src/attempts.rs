//! Steps 5 to 7 of the [`stack`](crate::stack): an endpoint, a connection, an exchange; again with another one where nothing
//! can happen twice.

use std::cell::Cell;
use std::rc::Rc;

use pannier_decide::balance;
use pannier_decide::policy::{Cluster, Endpoint};
use pannier_http::response::Asked;
use pannier_table::clock;
use pannier_table::counters::Cell as Counter;
use pannier_table::hot;
use pannier_table::record::Flag;
use pannier_table::series::Direction;

use crate::answer::{Answer, harmless};
use crate::dial::{self, DialError};
use crate::exchange::{self, Answered, Attempt, Failure};
use crate::outcome::{Context, Next, Outcome, say};
use crate::plan::Plan;
use crate::pump;
use crate::stream::Stream;
use crate::worker::Worker;

/// Endpoints that are tried when no connection can be had: nothing was sent, so nothing can happen twice.
const DIALS: usize = 3;

/// Where the attempts go.
pub enum Target<'a> {
    /// To an endpoint of a cluster.
    Cluster(&'a Cluster),
    /// To the authority itself.
    Authority,
}

/// Makes attempts until one counts, or none is left.
pub async fn run(context: Context<'_>, target: &Target<'_>, plan: &mut Plan, caller: &mut Stream) -> Outcome {
    let repeatable = plan.repeatable && plan.upload.is_none();
    let mut upload = plan.upload.take();
    // An answer of our own comes before the end of a body that is still to come: no further request can be told from it.
    let keep_alive = plan.keep_alive;
    plan.keep_alive = keep_alive && upload.is_none();
    let (mut avoid, mut dials, mut fresh) = (None, 0, false);
    loop {
        let endpoint = match target {
            Target::Authority => None,
            Target::Cluster(cluster) => match pick(context, cluster, avoid) {
                Some(endpoint) => Some(endpoint),
                None => {
                    let answer = Answer::new(503, Flag::UH, format!("{} has no usable endpoint", cluster.name));
                    return say(context, caller, plan, &answer).await;
                }
            },
        };
        let label = endpoint.map_or_else(|| plan.authority.get(context.input).into(), |e| e.label.clone());
        let mut load = LoadGuard::begin(context.worker, endpoint.map_or(0, |e| e.key));
        let (mut upstream, reused) = match connect(context, plan, endpoint, repeatable, fresh).await {
            Ok(connected) => connected,
            Err(error) => {
                load.outcome = balance::Outcome::Refused;
                dials += 1;
                avoid = Some(load.key);
                if matches!(target, Target::Cluster(c) if c.endpoints.len() > 1) && dials < DIALS {
                    continue;
                }
                let outcome = say(context, caller, plan, &no_connection(error, &label)).await;
                return Outcome { upstream: label, ..outcome };
            }
        };
        let attempt = Attempt {
            worker: context.worker,
            timer: context.timer,
            timeouts: context.policy.timeouts,
            asked: Asked { head: plan.head_only, upgrade: plan.upgrade.map(|text| text.get(context.input).as_bytes()) },
            version: plan.version,
            keep_alive,
            strip_ours: context.direction == Direction::Outbound,
            written: Cell::new(0),
            status: Cell::new(0),
            in_interim: Cell::new(false),
            uploaded: Cell::new(0),
            sent_ns: Cell::new(0),
        };
        match exchange::run(&attempt, &mut upstream, caller, &plan.out, upload.as_mut()).await {
            Ok(answered) => {
                load.outcome = observed(&answered);
                let ended = ended(&attempt, plan, label, Flag::None, answered.status);
                return complete(context, &load, answered, upstream, caller, ended, plan.consumed).await;
            }
            Err(Failure::Silent) if reused && repeatable => {
                context.worker.count(Counter::RetriedOnStaleConnection);
                fresh = true;
            }
            Err(failure) => {
                let gone = matches!(failure, Failure::CallerGone);
                let (flag, status, reason) = explain(context.worker, &mut load, failure);
                if gone || attempt.is_answering() {
                    caller.end_by_reset();
                    return ended(&attempt, plan, label, flag, attempt.status.get());
                }
                let said = say(context, caller, plan, &Answer::new(status, flag, reason)).await;
                let request_bytes = said.request_bytes + attempt.uploaded.get();
                return Outcome { upstream: label, request_bytes, ..said };
            }
        }
    }
}

fn pick<'a>(context: Context<'_>, cluster: &'a Cluster, avoid: Option<u64>) -> Option<&'a Endpoint> {
    let worker = context.worker;
    let now_ns = clock::monotonic_ns();
    let open = |e: &Endpoint| {
        e.hot.is_some_and(|(slot, incarnation)| {
            worker.hot.state(slot, incarnation, now_ns / 1_000_000) == hot::State::Open
        })
    };
    let mut random = worker.random.borrow_mut();
    let picked = worker.loads.borrow_mut().pick(cluster, context.policy.balance, now_ns, &mut random, avoid, open)?;
    cluster.endpoints.get(picked)
}

/// A connection, and whether it was used before.
async fn connect(
    context: Context<'_>,
    plan: &Plan,
    endpoint: Option<&Endpoint>,
    repeatable: bool,
    fresh: bool,
) -> Result<(Stream, bool), DialError> {
    let (worker, timer, timeout_ms) = (context.worker, context.timer, context.policy.timeouts.connect_ms);
    let Some(endpoint) = endpoint else {
        let host = plan.host.get(context.input);
        return dial::pass_through(worker, timer, host, plan.port, timeout_ms).await.map(|stream| (stream, false));
    };
    if !fresh && let Some(stream) = worker.pool.take(endpoint.key, repeatable) {
        worker.count(Counter::PoolReused);
        return Ok((stream, true));
    }
    dial::connect(worker, timer, &endpoint.address, timeout_ms).await.map(|stream| (stream, false))
}

/// What an answer tells of its endpoint. One that says it cannot serve (429, and the gateway's errors) is fast at that; it
/// must not attract load by it.
fn observed(answered: &Answered) -> balance::Outcome {
    match (answered.status, answered.latency_ns) {
        (429 | 502 | 503 | 504, _) => balance::Outcome::Refused,
        (_, Some(latency)) => balance::Outcome::Answered(latency),
        (_, None) => balance::Outcome::Unknown,
    }
}

/// What a failure is called and what the caller is told of it; the endpoint is charged with its own.
fn explain(worker: &Worker, load: &mut LoadGuard<'_>, failure: Failure) -> (Flag, u16, &'static str) {
    match failure {
        Failure::Silent => {
            load.outcome = balance::Outcome::Refused;
            (Flag::UC, 502, "the upstream closed the connection without an answer")
        }
        Failure::CallerGone => (Flag::DC, 0, ""),
        Failure::Upstream(flag, status, reason) => {
            load.outcome = balance::Outcome::Refused;
            if flag == Flag::UPE {
                worker.count(Counter::ResponsesMalformed);
            }
            (flag, status, reason)
        }
        Failure::Caller(flag, status, reason) => {
            if flag == Flag::DPE {
                worker.count(Counter::RequestsMalformed);
            }
            (flag, status, reason)
        }
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

/// The outcome of an attempt after which the caller's connection ends, unless it turns out better.
fn ended(attempt: &Attempt<'_>, plan: &Plan, upstream: Box<str>, flag: Flag, status: u16) -> Outcome {
    Outcome {
        status,
        flag,
        upstream,
        next: Next::Gone,
        request_bytes: plan.consumed as u64 + attempt.uploaded.get(),
        response_bytes: attempt.written.get(),
        following: Vec::new(),
    }
}

/// The end of an exchange that worked: connections go back, or a tunnel begins.
async fn complete(
    context: Context<'_>,
    load: &LoadGuard<'_>,
    answered: Answered,
    mut upstream: Stream,
    caller: &mut Stream,
    mut outcome: Outcome,
    consumed: usize,
) -> Outcome {
    if let Some(early) = answered.upgraded {
        let after_head = context.input.get(consumed..).unwrap_or(&[]);
        let (up, down) = pump::tunnel(context.timer, caller, &mut upstream, after_head, &early).await;
        outcome.request_bytes += up;
        outcome.response_bytes += down;
        return outcome;
    }
    outcome.following = answered.following;
    if answered.upstream_reusable && load.key != 0 {
        context.worker.pool.give(load.key, upstream);
    }
    outcome.next = if answered.caller_reusable { Next::Again } else { Next::Close };
    outcome
}

/// A request in flight at an endpoint; the balancer is told when it is dropped, so that no way out forgets it. Key 0 is
/// an authority that is passed through, which has no endpoint.
struct LoadGuard<'a> {
    worker: &'a Rc<Worker>,
    key: u64,
    outcome: balance::Outcome,
}

impl<'a> LoadGuard<'a> {
    fn begin(worker: &'a Rc<Worker>, key: u64) -> Self {
        worker.loads.borrow_mut().begin(key, clock::monotonic_ns());
        LoadGuard { worker, key, outcome: balance::Outcome::Unknown }
    }
}

impl Drop for LoadGuard<'_> {
    fn drop(&mut self) {
        self.worker.loads.borrow_mut().end(self.key, clock::monotonic_ns(), self.outcome);
    }
}
