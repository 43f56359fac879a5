//! Steps 6 to 8 of the [`stack`](crate::stack): an endpoint, a connection, an exchange; again with another one where nothing
//! can happen twice.

use std::cell::{Cell, RefCell};
use std::time::Duration;

use pannier_decide::address::Address;
use pannier_decide::cluster::{Cluster, Detour};
use pannier_decide::retry::Failed;
use pannier_http::request::renew_deadline;
use pannier_http::response::Asked;
use pannier_table::clock;
use pannier_table::counters::Cell as Counter;
use pannier_table::record::Flag;
use pannier_table::series::Direction;

use crate::admission::{Pass, Queued};
use crate::answer::{Answer, harmless};
use crate::call::{Call, Chosen, choose};
use crate::central::{detouring, relay};
use crate::dial::{self, DialError};
use crate::exchange::{self, Answered, Attempt, Failure};
use crate::outcome::{Context, Next, Outcome, say, too_late};
use crate::plan::Plan;
use crate::pool::WANTED;
use crate::pump;
use crate::replay::Kept;
use crate::retrying::Retrying;
use crate::stream::Stream;
use crate::timers::{NEVER, after};
use crate::upstream::{Counted, Upstream};
use crate::worker::Worker;

/// Endpoints that are tried when no connection can be had: nothing was sent, so nothing can happen twice.
const DIALS: usize = 3;
/// How long a request waits for a connection where it may wait for its answer without end.
const PENDING_MS: u64 = 15_000;

/// Where the attempts go.
#[derive(Clone, Copy)]
pub enum Target<'a> {
    /// To an endpoint of a cluster.
    Cluster(&'a Cluster),
    /// To the authority itself.
    Authority,
}

/// Makes attempts until one counts, or none is left.
pub async fn run<'a>(
    context: Context<'a>,
    target: Target<'a>,
    plan: &mut Plan<'a>,
    caller: &Stream,
    pass: &Pass<'_>,
) -> Outcome<'a> {
    let repeatable = plan.repeatable && plan.upload.is_none();
    let mut upload = plan.upload.take();
    // An answer of our own comes before the end of a body that is still to come: no further request can be told from it.
    let keep_alive = plan.keep_alive;
    plan.keep_alive = keep_alive && upload.is_none();
    let retrying = match target {
        Target::Cluster(cluster) => Retrying::of(context, cluster, plan),
        Target::Authority => None,
    };
    let room = |retrying: &Retrying<'_>| retrying.body_limit().saturating_sub(plan.early_body);
    let mut kept = upload.as_ref().and(retrying.as_ref()).map(|retrying| Kept::up_to(room(retrying)));
    let (mut tried, mut dials, mut fresh, mut following) = (Vec::new(), 0, false, Vec::new());
    loop {
        if plan.deadline_ms != NEVER {
            let left_ms = plan.deadline_ms.saturating_sub(clock::monotonic_ms());
            if left_ms == 0 {
                return say(context, caller, plan, &too_late(context.worker)).await;
            }
            renew_deadline(plan.out.get_mut(..plan.head_out).unwrap_or_default(), left_ms);
        }
        let chosen = match target {
            Target::Authority => None,
            Target::Cluster(cluster) => match choose(context.worker, cluster, plan.session, &tried) {
                Ok(chosen) => {
                    let by = detour(context, plan, &chosen, &tried);
                    Some(Chosen { by, whose: whose(context), ..chosen })
                }
                Err(answer) => return say(context, caller, plan, &answer).await,
            },
        };
        let label = chosen.map_or(plan.authority, |c| &*c.endpoint.label);
        let mut call = Call::begin(context.worker, chosen);
        if let (Some(retrying), Some(chosen)) = (&retrying, chosen) {
            retrying.trying.set((chosen.endpoint.key, chosen.is_probe));
        }
        let (upstream, reused) = match connect(context, plan, chosen, repeatable, fresh).await {
            Ok(connected) => connected,
            Err(NoConnection::Overflow) => {
                let message = format!("no connection to {} is free", harmless(label));
                let said = say(context, caller, plan, &Answer::new(503, Flag::UO, message)).await;
                return Outcome { upstream: label, ..said };
            }
            Err(_) if clock::monotonic_ms() >= plan.deadline_ms => {
                return say(context, caller, plan, &too_late(context.worker)).await;
            }
            Err(NoConnection::Dial(error)) => {
                call.failed();
                dials += 1;
                tried.push(call.way());
                let has_another =
                    |c: &Cluster| c.endpoints.len() > 1 || chosen.is_some_and(|chosen| chosen.by.is_some());
                if matches!(target, Target::Cluster(c) if has_another(c)) && dials < DIALS {
                    continue;
                }
                let outcome = say(context, caller, plan, &no_connection(error, label)).await;
                return Outcome { upstream: label, ..outcome };
            }
        };
        let attempt = Attempt {
            worker: context.worker,
            timer: context.timer,
            idle_ms: context.policy.timeouts.idle_ms,
            attempt_ms: plan.attempt_ms,
            deadline_ms: plan.deadline_ms,
            retrying: retrying.as_ref(),
            kept: kept.as_ref(),
            pass,
            headers: plan.answer_edits,
            extra: &plan.answer_fields,
            replaces_cors: plan.has_cors_marks,
            bounds_answer: plan.bounds_answer,
            asked: Asked { head: plan.head_only, upgrade: plan.upgrade },
            version: plan.version,
            keep_alive,
            strip_ours: context.direction == Direction::Outbound,
            written: Cell::new(0),
            status: Cell::new(0),
            in_interim: Cell::new(false),
            uploaded: Cell::new(0),
            sent_ns: Cell::new(0),
            following: RefCell::default(),
        };
        let exchange = exchange::run(&attempt, &upstream.stream, caller, &plan.out, upload.as_mut());
        let exchanged = match chosen.and_then(|chosen| chosen.by) {
            None => exchange.await,
            Some(detour) => tokio::select! {
                biased;
                exchanged = exchange => exchanged,
                () = relay::lost(context.worker, detour.address) => Err(lost(&attempt)),
            },
        };
        let failure = match exchanged {
            Ok(mut answered) => {
                call.answered(answered.status, answered.latency_ns);
                let exhausted = retrying.as_ref().is_some_and(|retrying| retrying.is_exhausted.get());
                let flag = if exhausted { Flag::URX } else { Flag::None };
                if answered.following.is_empty() {
                    answered.following = following;
                }
                let by_central = chosen.is_some_and(|chosen| chosen.by.is_some());
                let ended = Outcome { by_central, ..ended(&attempt, plan, label, flag, answered.status) };
                return complete(context, &call, answered, upstream, caller, ended, plan.consumed).await;
            }
            Err(Failure::Silent) if reused && repeatable && !fresh => {
                context.worker.count(Counter::RetriedOnStaleConnection);
                fresh = true;
                continue;
            }
            Err(failure) => failure,
        };
        if let Some(detour) = chosen.and_then(|chosen| chosen.by)
            && !matches!(failure, Failure::CallerGone | Failure::Caller(..) | Failure::Again { .. })
        {
            context.worker.unreachable.note(detour.address);
            context.worker.pool.forget(call.way());
            if repeatable && matches!(failure, Failure::Silent) {
                tried.push(call.way());
                continue;
            }
        }
        let again = again(&attempt, retrying.as_ref(), &failure);
        if let Failure::Again { status, latency_ns, upstream_reusable, .. } = failure {
            call.answered(status, latency_ns);
            if upstream_reusable {
                context.worker.pool.give(call.way(), upstream);
            }
        }
        if let Some(pause_ms) = again {
            if !matches!(failure, Failure::Again { .. }) {
                call.failed();
            }
            tried.push(call.way());
            drop(call);
            following.append(&mut attempt.following.take());
            if let Some(kept) = kept.take() {
                kept.give_to(&mut plan.out);
                upload = None;
            }
            if pause_ms > 0 {
                let pause = pannier_reactor::sleep(Duration::from_millis(pause_ms));
                tokio::select! {
                    biased;
                    () = pause => {}
                    () = caller.closed() => return gone(plan, label),
                }
            }
            continue;
        }
        let gone = matches!(failure, Failure::CallerGone);
        let callers_time = plan.deadline_is_callers && clock::monotonic_ms() >= plan.deadline_ms;
        let (flag, status, reason) = explain(context.worker, &mut call, failure, callers_time);
        if gone || attempt.is_answering() {
            caller.end_by_reset();
            return ended(&attempt, plan, label, flag, attempt.status.get());
        }
        let said = say(context, caller, plan, &Answer::new(status, flag, reason)).await;
        let request_bytes = said.request_bytes + attempt.uploaded.get();
        return Outcome { upstream: label, request_bytes, ..said };
    }
}

/// The outcome of a request whose caller left between two attempts.
fn gone<'a>(plan: &Plan<'_>, upstream: &'a str) -> Outcome<'a> {
    Outcome {
        status: 0,
        flag: Flag::DC,
        upstream,
        by_central: false,
        next: Next::Gone,
        request_bytes: plan.consumed as u64,
        response_bytes: 0,
        following: Vec::new(),
    }
}

/// How long to wait before another attempt, if there is to be one.
fn again(attempt: &Attempt<'_>, retrying: Option<&Retrying<'_>>, failure: &Failure) -> Option<u64> {
    let failed = match failure {
        Failure::Again { pause_ms, .. } => return Some(*pause_ms),
        Failure::Silent | Failure::Upstream(Flag::UC, ..) => Failed::Reset,
        Failure::Upstream(Flag::UT, ..) => Failed::Timeout,
        _ => return None,
    };
    let retrying = retrying?;
    if clock::monotonic_ms() >= attempt.deadline_ms || !attempt.is_replayable() {
        return None;
    }
    retrying.next(failed, None)
}

/// Why there is no connection.
enum NoConnection {
    Dial(DialError),
    /// As many as may be are in use, and as many wait as may wait.
    Overflow,
}

/// A connection, and whether it was used before.
async fn connect(
    context: Context<'_>,
    plan: &Plan<'_>,
    chosen: Option<Chosen<'_>>,
    repeatable: bool,
    fresh: bool,
) -> Result<(Upstream, bool), NoConnection> {
    let (worker, timer) = (context.worker, context.timer);
    let timeout_ms = within(context.policy.timeouts.connect_ms, plan.deadline_ms);
    let Some(chosen) = chosen else {
        let dialled = dial::pass_through(worker, timer, plan.host, plan.port, timeout_ms, dial::Reach::Anywhere).await;
        return dialled.map(|stream| (Upstream::uncounted(stream), false)).map_err(NoConnection::Dial);
    };
    let cluster = chosen.cluster;
    let resources = cluster.limits.as_ref().and_then(|limits| limits.resources);
    let mut queued = None;
    let mut until_ms = 0;
    loop {
        if !fresh && let Some(upstream) = worker.pool.take(chosen.way(), repeatable) {
            worker.count(Counter::PoolReused);
            return Ok((upstream, true));
        }
        let Some(resources) = resources else {
            let dialled = dialled(context, &chosen, timeout_ms).await;
            return dialled.map(|stream| (Upstream::uncounted(stream), false)).map_err(NoConnection::Dial);
        };
        if let Some(counted) = Counted::take(&cluster.live, resources.connections) {
            let dialled = dialled(context, &chosen, timeout_ms).await;
            return dialled.map(|stream| (Upstream::counted(stream, counted), false)).map_err(NoConnection::Dial);
        }
        if worker.pool.close_one(cluster) {
            continue;
        }
        if queued.is_none() {
            let patience_ms = if plan.attempt_ms == 0 { PENDING_MS } else { plan.attempt_ms };
            until_ms = after(patience_ms).min(plan.deadline_ms);
            queued = Queued::take(&cluster.live.connections, resources.pending);
            WANTED.notify_waiters();
        }
        match &queued {
            Some(queued) if clock::monotonic_ms() < until_ms => queued.woken(timer, until_ms).await,
            _ => {
                worker.count(Counter::ResourcesExhausted);
                return Err(NoConnection::Overflow);
            }
        }
    }
}

/// What has become of an exchange with a Central that is lost.
fn lost(attempt: &Attempt<'_>) -> Failure {
    if attempt.is_answering() {
        Failure::Upstream(Flag::UC, 502, "the Central was lost within its answer")
    } else {
        Failure::Silent
    }
}

/// The host whose app is reached, if we are a Central.
fn whose(context: Context<'_>) -> u64 {
    let inbound = context.guest.filter(|_| context.direction == Direction::Inbound);
    inbound.map_or(0, |guest| guest.host.id)
}

/// The way by a Central that a request takes to what was chosen. What has come through a Central goes straight.
fn detour<'p>(context: Context<'_>, plan: &Plan<'_>, chosen: &Chosen<'p>, tried: &[u64]) -> Option<&'p Detour> {
    let may = context.policy.has_detours && context.guest.is_none() && context.direction == Direction::Outbound;
    may.then(|| detouring::choose(context.worker, chosen.endpoint, plan.class(), plan.detour, tried)).flatten()
}

/// A new connection to what was chosen.
async fn dialled(context: Context<'_>, chosen: &Chosen<'_>, timeout_ms: u64) -> Result<Stream, DialError> {
    let (worker, timer) = (context.worker, context.timer);
    let Chosen { cluster, endpoint, by, .. } = chosen;
    match (by, context.guest, &endpoint.address) {
        (Some(detour), ..) => detouring::connect(worker, timer, detour, &cluster.name, &endpoint.id, timeout_ms).await,
        (None, Some(guest), Address::Ip(address)) if cluster.is_app() => {
            let hello = &guest.host.hello;
            if let Some(direct) = guest.host.direct()
                && let Ok(stream) = dial::connect(worker, timer, &Address::Ip(direct.into()), timeout_ms).await
            {
                return Ok(stream);
            }
            let reached =
                detouring::pass_through(worker, timer, *address, &hello.service, &hello.instance, timeout_ms).await;
            if reached.is_err() {
                guest.host.is_out_of_reach(clock::monotonic_ms());
            }
            reached
        }
        // What a host calls by a name is not to be found on ours.
        (None, Some(_), Address::Name(host, port)) => {
            dial::pass_through(worker, timer, host, *port, timeout_ms, dial::Reach::Elsewhere).await
        }
        _ => dial::connect(worker, timer, &endpoint.address, timeout_ms).await,
    }
}

/// A timeout that ends by a deadline; 0 = never.
fn within(timeout_ms: u64, deadline_ms: u64) -> u64 {
    if deadline_ms == NEVER {
        return timeout_ms;
    }
    let left_ms = deadline_ms.saturating_sub(clock::monotonic_ms()).max(1);
    if timeout_ms == 0 { left_ms } else { timeout_ms.min(left_ms) }
}

/// What a failure is called and what the caller is told of it; the endpoint is charged with its own. A caller who gave too
/// little time has learned nothing about the endpoint.
fn explain(worker: &Worker, call: &mut Call<'_>, failure: Failure, callers_time: bool) -> (Flag, u16, &'static str) {
    match failure {
        Failure::Silent => {
            call.failed();
            (Flag::UC, 502, "the upstream closed the connection without an answer")
        }
        Failure::CallerGone => (Flag::DC, 0, ""),
        Failure::Upstream(Flag::UT, ..) if callers_time => {
            worker.count(Counter::DeadlinesExceeded);
            (Flag::UT, 504, "the upstream did not answer within the caller's deadline")
        }
        Failure::Upstream(flag, status, reason) => {
            call.failed();
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
        // An answer that is tried again is followed by another attempt, always.
        Failure::Again { status, .. } => (Flag::URX, status, "the upstream cannot serve the request"),
    }
}

fn no_connection(error: DialError, label: &str) -> Answer {
    let label = harmless(label);
    match error {
        DialError::Failed => Answer::new(503, Flag::UF, format!("no connection to {label}")),
        DialError::TimedOut => Answer::new(503, Flag::UF, format!("no connection to {label} in time")),
        DialError::Forbidden => Answer::new(403, Flag::DN, format!("{label} must not be reached through this proxy")),
    }
}

/// The outcome of an attempt after which the caller's connection ends, unless it turns out better.
fn ended<'a>(attempt: &Attempt<'_>, plan: &Plan<'_>, upstream: &'a str, flag: Flag, status: u16) -> Outcome<'a> {
    Outcome {
        status,
        flag,
        upstream,
        by_central: false,
        next: Next::Gone,
        request_bytes: plan.consumed as u64 + attempt.uploaded.get(),
        response_bytes: attempt.written.get(),
        following: Vec::new(),
    }
}

/// The end of an exchange that worked: connections go back, or a tunnel begins.
async fn complete<'a>(
    context: Context<'_>,
    call: &Call<'_>,
    answered: Answered,
    upstream: Upstream,
    caller: &Stream,
    mut outcome: Outcome<'a>,
    consumed: usize,
) -> Outcome<'a> {
    if let Some(early) = answered.upgraded {
        let after_head = context.input.get(consumed..).unwrap_or(&[]);
        let (up, down) = pump::tunnel(context.timer, caller, &upstream.stream, after_head, &early).await;
        outcome.request_bytes += up;
        outcome.response_bytes += down;
        return outcome;
    }
    outcome.following = answered.following;
    if answered.upstream_reusable && call.way() != 0 {
        context.worker.pool.give(call.way(), upstream);
    }
    outcome.next = if answered.caller_reusable { Next::Again } else { Next::Close };
    outcome
}
