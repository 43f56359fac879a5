//! One request: everything that happens to it, in its order, and why each step stands where it stands.
//!
//! 1. **parse** strictly: nothing that could be read in two ways reaches a decision;
//! 2. **route** by the first rule that matches, else by the authority: a refusal costs no connection;
//! 3. **trace**: after the route, since what is refused needs no context sent on; before the head is written, since it
//!    carries the context;
//! 4. **serialise** the head from the model, with this hop's fields left out, the route's edits, and after them the **header
//!    policy**'s, here and for the answer's head: once, for every attempt. The policy comes after the route, which it may name,
//!    and which matched the request as it came; and after the route's edits, so that no route writes what a policy takes away;
//! 5. **admit**: limits come before anything is sent anywhere, and after the route, whose own answers (redirects) cost
//!    nothing; faults are injected into what was admitted, as if the upstream had them; the **mirror** copies what goes on;
//! 6. **balance** for each attempt anew: what failed is avoided, what is out is left out;
//! 7. **dial** or take from the pool: only what may be repeated rides on a connection that may be stale;
//! 8. **exchange**, and again if `decide` says so: before a byte of the answer has been passed on;
//! 9. **account**, last, whatever happened: a request that nobody counted did not exist.

use std::cell::Cell;
use std::rc::Rc;
use std::time::Duration;

use pannier_decide::policy::Policy;
use pannier_decide::route::Route;
use pannier_decide::rules::{Injected, Injection};
use pannier_http::forwarding::Peer;
use pannier_http::refusal::Refusal;
use pannier_table::clock;
use pannier_table::counters::Cell as Counter;
use pannier_table::record::Flag;
use pannier_table::series::Direction;

use crate::account::{self, Finished};
use crate::admission;
use crate::answer::{Answer, harmless};
use crate::attempts::{self, Target};
use crate::central::relay::{self, Relayed};
use crate::connection::Serving;
use crate::mirror;
use crate::outcome::{Context, Next, Outcome, say, too_late};
use crate::plan::{self, Plan};
use crate::pump::{self, Flow};
use crate::stream::Stream;
use crate::timers::{NEVER, Timer};
use crate::worker::Worker;

/// A head that has arrived at the beginning of the input.
#[derive(Clone, Copy, Debug)]
pub struct Arrived<'c> {
    /// Whom the connection is to.
    pub peer: &'c Peer,
    /// Its length in bytes.
    pub head: usize,
    /// When its first byte was read: ns since boot.
    pub started_ns: u64,
    /// Bytes read so far.
    pub bytes: u64,
}

/// Serves the request whose head stands at the beginning of `input`; takes it from there.
pub async fn serve_request(
    worker: &Rc<Worker>,
    caller: &Stream,
    timer: &Timer,
    input: &mut Vec<u8>,
    arrived: Arrived<'_>,
    serving: &Serving,
) -> Next {
    let _in_flight = worker.enter();
    let policy = serving.policy(worker);
    let direction = serving.direction;
    let mut plan = match plan::plan(worker, &policy, input, &arrived, serving) {
        Ok(plan) => plan,
        Err(refusal) => return refuse(worker, caller, timer, &arrived, serving, refusal).await,
    };
    if direction == Direction::Outbound
        && worker.mesh.away.is_open()
        && let Some(next) = leave(worker, caller, &plan, input, serving).await
    {
        worker.buffers.give(plan.out);
        return next;
    }
    let context = Context { worker, policy: &policy, timer, direction, guest: serving.guest.as_ref(), input };
    let outcome = match govern(context, &mut plan, caller).await {
        Ok(outcome) => outcome,
        Err(answer) => say(context, caller, &plan, &answer).await,
    };
    let passed_central = serving.guest.is_some() || outcome.by_central;
    let flag = if passed_central && outcome.flag == Flag::None { Flag::CF } else { outcome.flag };
    if let Some(guest) = &serving.guest {
        guest.host.count();
    }
    account::finish(
        worker,
        &Finished {
            policy: &policy,
            direction,
            service: service_label(&policy, plan.route, direction),
            method: plan.method,
            path: plan.path,
            authority: plan.authority,
            version: plan.version,
            status: outcome.status,
            flag,
            upstream: outcome.upstream,
            request_id: plan.request_id(),
            span: plan.span,
            trace_state: plan.trace_state(),
            client: plan.client,
            started_ns: arrived.started_ns,
            request_bytes: outcome.request_bytes,
            response_bytes: outcome.response_bytes,
        },
    );
    let Outcome { next, following, .. } = outcome;
    let consumed = plan.consumed;
    worker.buffers.give(plan.out);
    input.drain(..consumed.min(input.len()));
    input.extend_from_slice(&following);
    next
}

/// Hands the connection over to a Central, if it is its turn and one is there; then says what becomes of it. The kernel's
/// redirect takes new connections: then it is only told to end.
async fn leave(worker: &Rc<Worker>, caller: &Stream, plan: &Plan<'_>, input: &[u8], serving: &Serving) -> Option<Next> {
    let away = &worker.mesh.away;
    let is_movable = serving.guest.is_none()
        && !away.redirects()
        && matches!(plan.route, Route::Cluster(_))
        && plan.malformed.is_none()
        && plan.answer.is_none();
    if !is_movable || !away.takes(serving.draw(), plan.class()) {
        return None;
    }
    let (central, address) = worker.warm.take(worker, plan.repeatable).await?;
    // What follows in the input has been sent as well, and may be what must not be repeated.
    let is_alone = plan.consumed == input.len();
    match relay::run(worker, caller, &central, Some(address), input).await {
        Relayed::Ended => Some(Next::Close),
        Relayed::Unanswered if plan.repeatable && plan.upload.is_none() && is_alone => None,
        Relayed::Unanswered | Relayed::Broken => {
            caller.end_by_reset();
            Some(Next::Gone)
        }
    }
}

/// Steps 5 to 8: everything that may wait.
async fn govern<'a>(context: Context<'a>, plan: &mut Plan<'a>, caller: &Stream) -> Result<Outcome<'a>, Answer> {
    if plan.malformed.is_none()
        && let Some(answer) = plan.answer.take()
    {
        return Err(*answer);
    }
    let target = target(context, plan)?;
    let pass = match target {
        Target::Cluster(cluster) => admission::admit(context, cluster, plan).await?,
        Target::Authority => admission::Pass::default(),
    };
    let faults = faults(plan, target);
    let has_faults = faults.iter().any(Option::is_some);
    let was_delayed = has_faults && inject(context, faults, plan.deadline_ms).await?;
    mirror::send(context, plan, target);
    let mut outcome = attempts::run(context, target, plan, caller, &pass).await;
    if was_delayed && outcome.flag == Flag::None {
        outcome.flag = Flag::DI;
    }
    Ok(outcome)
}

/// The faults of the route and of the service called.
fn faults<'p>(plan: &Plan<'p>, target: Target<'p>) -> [Option<&'p Injection>; 2] {
    let of_service = match target {
        Target::Cluster(cluster) => cluster.fault.as_ref(),
        Target::Authority => None,
    };
    [plan.rule.and_then(|rule| rule.fault.as_ref()), of_service]
}

/// Injects faults; whether they delayed the request.
async fn inject(context: Context<'_>, faults: [Option<&Injection>; 2], deadline_ms: u64) -> Result<bool, Answer> {
    let mut was_delayed = false;
    for fault in faults.into_iter().flatten() {
        let injected = fault.draw(clock::unix_ms(), &mut context.worker.random.borrow_mut());
        if injected == Injected::default() {
            continue;
        }
        context.worker.count(Counter::FaultsInjected);
        if injected.delay_ms > 0 {
            let left_ms = deadline_ms.saturating_sub(clock::monotonic_ms());
            pannier_reactor::sleep(Duration::from_millis(injected.delay_ms.min(left_ms))).await;
            was_delayed = true;
            if injected.delay_ms >= left_ms {
                return Err(too_late(context.worker));
            }
        }
        if let Some(status) = injected.abort {
            return Err(Answer::new(status, Flag::FI, "this is an injected fault"));
        }
    }
    Ok(was_delayed)
}

/// Answers a head that could not be read; the connection is at no known place and ends.
pub async fn refuse(
    worker: &Rc<Worker>,
    caller: &Stream,
    timer: &Timer,
    arrived: &Arrived<'_>,
    serving: &Serving,
    refusal: Refusal,
) -> Next {
    worker.count(Counter::RequestsMalformed);
    let (policy, direction) = (serving.policy(worker), serving.direction);
    let answer = refused(refusal);
    let mut out = worker.buffers.take();
    answer.write(&mut out, &[], false, false);
    let written = Cell::new(0);
    let flow = Flow {
        timer,
        idle_ms: policy.timeouts.idle_ms,
        until_ms: NEVER,
        minimum_rate: false,
        written: &written,
        pipes: None,
    };
    let said = pump::write(&flow, caller, &out).await;
    worker.buffers.give(out);
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
            status: answer.status,
            flag: answer.flag,
            upstream: "",
            request_id: b"",
            span: None,
            trace_state: b"",
            client: if direction == Direction::Inbound { arrived.peer.address() } else { "" },
            started_ns: arrived.started_ns,
            request_bytes: arrived.bytes,
            response_bytes: written.get(),
        },
    );
    if said.is_ok() { Next::Close } else { Next::Gone }
}

fn refused(refusal: Refusal) -> Answer {
    let flag = if refusal.status == 408 { Flag::DT } else { Flag::DPE };
    Answer::new(refusal.status, flag, refusal.reason)
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

/// Where the attempts go; or why there is none.
fn target<'a>(context: Context<'a>, plan: &Plan<'_>) -> Result<Target<'a>, Answer> {
    if let Some(refusal) = plan.malformed {
        context.worker.count(Counter::RequestsMalformed);
        return Err(refused(refusal));
    }
    let host = || harmless(plan.host);
    match plan.route {
        Route::Cluster(index) => match context.policy.clusters.get(index) {
            Some(cluster) if !cluster.endpoints.is_empty() => Ok(Target::Cluster(cluster)),
            Some(cluster) => Err(Answer::new(503, Flag::UH, format!("{} has no endpoints", cluster.name))),
            None => Err(Answer::new(503, Flag::UH, format!("{} has no endpoints", host()))),
        },
        Route::Passthrough => Ok(Target::Authority),
        Route::NoApp => Err(Answer::new(503, Flag::UH, "no app is configured behind this listener; see --app-port")),
        Route::Unknown => {
            let message = match context.direction {
                Direction::Inbound => format!("{} is not served here; add it to inbound.hosts", host()),
                Direction::Outbound => {
                    format!("no service is called {}, and this profile denies unknown authorities", host())
                }
            };
            Err(Answer::new(404, Flag::NR, message))
        }
    }
}
