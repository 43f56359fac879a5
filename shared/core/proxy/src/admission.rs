//! Whether a request may go on: rate limits, shedding, bulkheads, resource limits, the service's breaker.
//!
//! What refuses without taking anything comes first, what takes a place later, what waits after that, and the few calls of a
//! half-open breaker last. All of it comes before an endpoint is chosen, and none of it counts against one.

use std::cell::Cell;

use pannier_central::order::Criticality;
use pannier_decide::breaker;
use pannier_decide::bucket::Taken;
use pannier_decide::cluster::Cluster;
use pannier_decide::gate::Gate;
use pannier_decide::live::ServiceLive;
use pannier_decide::random::Random;
use pannier_decide::schema::limits::{Bulkhead, RateLimit, Shedding};
use pannier_table::clock;
use pannier_table::counters::Cell as Counter;
use pannier_table::record::Flag;
use pannier_table::series::Direction;

use crate::answer::Answer;
use crate::outcome::{Context, too_late};
use crate::plan::Plan;
use crate::timers::{Timer, after};
use crate::worker::Worker;

/// How important a request says it is (`x-pannier-criticality`); anything else is the default.
pub fn criticality(value: Option<&[u8]>) -> Criticality {
    match value {
        Some(b"sheddable") => Criticality::Sheddable,
        Some(b"critical") => Criticality::Critical,
        _ => Criticality::Default,
    }
}

/// Of the requests that are not shed, so many may be waiting for their bodies: callers who send slowly take no more than
/// that from those who have said everything.
const UPLOADS: f64 = 0.5;

/// The places that an admitted request takes; they are free again when this is dropped.
#[derive(Default)]
pub struct Pass<'p> {
    requests: Option<Held<'p>>,
    bulkhead: Option<Held<'p>>,
    /// Until its body has been sent on.
    pub upload: Upload<'p>,
}

struct Held<'p>(&'p Gate);

/// The place of a request whose body is still to come.
#[derive(Default)]
pub struct Upload<'p> {
    gate: Option<&'p Gate>,
    has_ended: Cell<bool>,
}

impl Upload<'_> {
    /// Its body has been sent on: another may take the place.
    pub fn end(&self) {
        if let Some(gate) = self.gate
            && !self.has_ended.replace(true)
        {
            gate.leave();
        }
    }
}

impl Drop for Upload<'_> {
    fn drop(&mut self) {
        self.end();
    }
}

impl Drop for Held<'_> {
    fn drop(&mut self) {
        self.0.leave();
    }
}

/// Admits a request to the app, or to a cluster; or says why not.
pub async fn admit<'p>(context: Context<'p>, cluster: &'p Cluster, plan: &Plan<'_>) -> Result<Pass<'p>, Answer> {
    match context.direction {
        Direction::Inbound => inbound(context, plan).await,
        Direction::Outbound => outbound(context, cluster, plan).await,
    }
}

async fn inbound<'p>(context: Context<'p>, plan: &Plan<'_>) -> Result<Pass<'p>, Answer> {
    let (worker, live) = (context.worker, &context.policy.inbound_live);
    let mut pass = Pass::default();
    if plan.criticality == Criticality::Sheddable && context.guest.is_none() && worker.mesh.away.sheds() {
        worker.count(Counter::Shed);
        let message = "this host has no CPU to spare, and no Central can take over; what is sheddable waits";
        return Err(Answer::new(503, Flag::SH, message).with("retry-after", 1));
    }
    let Some(limits) = &context.policy.inbound_limits else {
        return Ok(pass);
    };
    if let Some(limit) = &limits.rate_limit {
        rate(worker, limit, live, "")?;
    }
    if let Some(shedding) = &limits.shedding {
        if plan.upload.is_some() {
            pass.upload.gate = Some(shed(worker, shedding, &live.uploads, plan.criticality, UPLOADS)?);
        }
        pass.requests = Some(Held(shed(worker, shedding, &live.requests, plan.criticality, 1.0)?));
    }
    if let Some(bulkhead) = &limits.bulkhead {
        pass.bulkhead = Some(enter(context, bulkhead, &live.bulkhead, "this service", plan).await?);
    }
    Ok(pass)
}

async fn outbound<'p>(context: Context<'p>, cluster: &'p Cluster, plan: &Plan<'_>) -> Result<Pass<'p>, Answer> {
    let (worker, live) = (context.worker, &cluster.live);
    let mut pass = Pass::default();
    let Some(limits) = &cluster.limits else {
        return Ok(pass);
    };
    let refused = || {
        worker.count(Counter::ServiceBreakerRefused);
        overflow(format!("the breaker of {} is open", cluster.name))
    };
    let breaker = limits.service_breaker.as_ref();
    if breaker.is_some_and(|breaker| breaker::is_open(breaker, &worker.hot, clock::monotonic_ms())) {
        return Err(refused());
    }
    if let Some(limit) = &limits.rate_limit {
        rate(worker, limit, live, &cluster.name)?;
    }
    if let Some(resources) = &limits.resources {
        if !live.requests.enter(resources.requests) {
            worker.count(Counter::ResourcesExhausted);
            return Err(overflow(format!("{} requests to {} are under way", resources.requests, cluster.name)));
        }
        pass.requests = Some(Held(&live.requests));
    }
    if let Some(bulkhead) = &limits.bulkhead {
        pass.bulkhead = Some(enter(context, bulkhead, &live.bulkhead, &cluster.name, plan).await?);
    }
    // Last: a half-open breaker lets few through, and they must not be used up by what is refused after it.
    if breaker.is_some_and(|breaker| !breaker::admit(breaker, &worker.hot, clock::monotonic_ms())) {
        return Err(refused());
    }
    Ok(pass)
}

fn overflow(message: String) -> Answer {
    Answer::new(503, Flag::UO, message)
}

fn rate(worker: &Worker, limit: &RateLimit, live: &ServiceLive, service: &str) -> Result<(), Answer> {
    if !draw(worker, limit.enabled) {
        return Ok(());
    }
    let Taken::None(wait_ms) = live.bucket.take(limit, clock::monotonic_ms()) else {
        return Ok(());
    };
    if !draw(worker, limit.enforced) {
        worker.count(Counter::RateLimitedInShadow);
        return Ok(());
    }
    worker.count(Counter::RateLimited);
    let what = if service.is_empty() { "requests".into() } else { format!("calls to {service}") };
    let wait_s = wait_ms.div_ceil(1_000).max(1);
    Err(Answer::new(429, Flag::RL, format!("more {what} than the rate limit allows"))
        .with("ratelimit-limit", limit.max)
        .with("ratelimit-remaining", 0)
        .with("ratelimit-reset", wait_s)
        .with("retry-after", wait_s))
}

/// Random numbers of whole percentages are not drawn: the common case costs nothing.
fn draw(worker: &Worker, percent: f64) -> bool {
    percent >= 100.0 || (percent > 0.0 && Random::percent(&mut worker.random.borrow_mut(), percent))
}

/// Enters a gate that `part` of the requests that are not shed may be behind.
fn shed<'p>(
    worker: &Worker,
    shedding: &Shedding,
    gate: &'p Gate,
    criticality: Criticality,
    part: f64,
) -> Result<&'p Gate, Answer> {
    let share = match criticality {
        Criticality::Sheddable => shedding.sheddable,
        Criticality::Critical if shedding.trust => 1.0,
        _ => shedding.default,
    };
    // 0.29 of 100 is 29, whatever the product of the two says in binary.
    let most = (f64::from(shedding.requests) * share * part + 1e-6) as u32;
    let most = if share > 0.0 && part < 1.0 { most.max(1) } else { most };
    if gate.enter(most) {
        return Ok(gate);
    }
    if !draw(worker, shedding.enforced) {
        worker.count(Counter::ShedInShadow);
        gate.force();
        return Ok(gate);
    }
    worker.count(Counter::Shed);
    Err(Answer::new(503, Flag::SH, "too many requests are under way for one of this criticality")
        .with("retry-after", 1))
}

async fn enter<'p>(
    context: Context<'_>,
    bulkhead: &Bulkhead,
    gate: &'p Gate,
    service: &str,
    plan: &Plan<'_>,
) -> Result<Held<'p>, Answer> {
    let worker = context.worker;
    let until_ms = if bulkhead.wait_ms == 0 { 0 } else { after(bulkhead.wait_ms).min(plan.deadline_ms) };
    if gate.enter(bulkhead.concurrent) || wait_for(context.timer, gate, bulkhead.concurrent, until_ms).await {
        return Ok(Held(gate));
    }
    if clock::monotonic_ms() >= plan.deadline_ms {
        return Err(too_late(worker));
    }
    worker.count(Counter::BulkheadFull);
    Err(overflow(format!("{} requests to {service} are under way", bulkhead.concurrent)))
}

/// Waits in the queue of a gate, at most until `until_ms`; whether it was entered. 0 = not at all.
async fn wait_for(timer: &Timer, gate: &Gate, most: u32, until_ms: u64) -> bool {
    if until_ms == 0 {
        return false;
    }
    let Some(queued) = Queued::take(gate, u32::MAX) else {
        return false;
    };
    loop {
        if gate.enter(most) {
            return true;
        }
        if clock::monotonic_ms() >= until_ms {
            return false;
        }
        queued.woken(timer, until_ms).await;
    }
}

/// A place in the queue of a gate.
pub struct Queued<'g> {
    gate: &'g Gate,
    ticket: u64,
}

impl<'g> Queued<'g> {
    /// A place, if fewer than `most` wait.
    pub fn take(gate: &'g Gate, most: u32) -> Option<Self> {
        gate.queue(most).map(|ticket| Queued { gate, ticket })
    }

    /// Returns when somebody has left, or by `until_ms`; look then whether there is room. It also returns when a tick of
    /// the worker's clock has passed: a wake-up that was meant for somebody who has gone meanwhile is not missed for long.
    pub async fn woken(&self, timer: &Timer, until_ms: u64) {
        let mut parked = false;
        let parking = std::future::poll_fn(|context| {
            if parked {
                return std::task::Poll::Ready(());
            }
            parked = true;
            self.gate.park(self.ticket, context.waker().clone());
            std::task::Poll::Pending
        });
        let _ = timer.until(until_ms.min(after(crate::timers::TICK.as_millis() as u64)), parking).await;
    }
}

impl Drop for Queued<'_> {
    fn drop(&mut self) {
        self.gate.give_up(self.ticket);
    }
}
