//! Copies of requests for another cluster: sent and forgotten. Nothing of what comes of one reaches the caller, and no caller
//! waits for one. Only a request that is here whole is copied; under load the copies are what is left out first.

use std::cell::Cell;
use std::rc::Rc;

use pannier_http::body::Relay;
use pannier_http::fields;
use pannier_http::head::HeadScanner;
use pannier_http::response::{self, Asked};
use pannier_table::clock;
use pannier_table::counters::Cell as Counter;

use crate::attempts::Target;
use crate::call::{Call, choose};
use crate::dial;
use crate::outcome::Context;
use crate::plan::Plan;
use crate::pump::{self, Flow};
use crate::timers::{NEVER, after};
use crate::upstream::Upstream;
use crate::worker::{InForce, Worker};

/// Copies under way in one worker.
const AT_ONCE: usize = 64;
/// How long one may take, milliseconds.
const PATIENCE_MS: u64 = 15_000;

/// Sends the copy that the route, or the service called, asks for.
pub fn send(context: Context<'_>, plan: &Plan<'_>, target: Target<'_>) {
    let of_service = match target {
        Target::Cluster(cluster) => cluster.mirror,
        Target::Authority => None,
    };
    let Some(mirror) = plan.rule.and_then(|rule| rule.mirror).or(of_service) else {
        return;
    };
    let worker = context.worker;
    if !worker.random.borrow_mut().percent(mirror.percent) {
        return;
    }
    if plan.upload.is_some() || plan.upgrade.is_some() || worker.mirrors.get() >= AT_ONCE {
        worker.count(Counter::MirrorsSkipped);
        return;
    }
    worker.mirrors.set(worker.mirrors.get() + 1);
    let (worker, policy) = (worker.clone(), context.policy.clone());
    let (copy, head_only, session) = (plan.out.clone(), plan.head_only, plan.session);
    pannier_reactor::spawn(async move {
        let done = exchange(&worker, &policy, mirror.cluster, &copy, head_only, session).await;
        worker.count(if done.is_some() { Counter::Mirrored } else { Counter::MirrorsFailed });
        worker.mirrors.set(worker.mirrors.get() - 1);
    });
}

async fn exchange(
    worker: &Rc<Worker>,
    policy: &Rc<InForce>,
    cluster: usize,
    request: &[u8],
    head_only: bool,
    session: Option<u64>,
) -> Option<()> {
    let timer = worker.timers.register();
    let whole = policy.clusters.get(cluster)?;
    let share = whole.split.as_ref().and_then(|split| split.pick(|| worker.random.borrow_mut().bits()));
    let cluster = share.and_then(|index| policy.clusters.get(index)).unwrap_or(whole);
    let chosen = choose(worker, cluster, session, &[]).ok()?;
    let mut call = Call::begin(worker, Some(chosen));
    let upstream = match worker.pool.take(call.way(), true) {
        Some(upstream) => upstream,
        None => match dial::connect(worker, &timer, &chosen.endpoint.address, policy.timeouts.connect_ms).await {
            Ok(stream) => Upstream::uncounted(stream),
            Err(_) => {
                call.failed();
                return None;
            }
        },
    };
    let (written, sent_ns) = (Cell::new(0), clock::monotonic_ns());
    let flow = Flow {
        timer: &timer,
        idle_ms: policy.timeouts.idle_ms,
        until_ms: NEVER,
        minimum_rate: false,
        written: &written,
        pipes: None,
    };
    pump::write(&flow, &upstream.stream, request).await.ok()?;
    let (mut input, mut dropped) = (worker.buffers.take(), worker.buffers.take());
    let deadline = after(PATIENCE_MS);
    let mut scanner = HeadScanner::default();
    let length = loop {
        if let Some(length) = scanner.scan(&input).ok()? {
            break length;
        }
        let read = timer.until(deadline, pump::read(&upstream.stream, &mut input)).await;
        if !matches!(read, Ok(Ok(n)) if n > 0) {
            call.failed();
            return None;
        }
    };
    let (mut relay, status, keep_alive) = {
        let mut room = fields::room();
        let asked = Asked { head: head_only, upgrade: None };
        let answer = response::parse(input.get(..length)?, &mut room, asked).ok()?;
        (Relay::new(answer.framing, answer.coding(1)), answer.status, answer.keep_alive)
    };
    call.answered(status, Some(clock::monotonic_ns().saturating_sub(sent_ns)));
    input.drain(..length);
    while !relay.is_done() {
        let taken = relay.relay(&input, &mut dropped).ok()?;
        input.drain(..taken);
        dropped.clear();
        if !relay.is_done() {
            let read = timer.until(deadline, pump::read(&upstream.stream, &mut input)).await;
            if !matches!(read, Ok(Ok(n)) if n > 0) {
                return relay.close(&mut dropped).then_some(());
            }
        }
    }
    if keep_alive && input.is_empty() && status >= 200 {
        worker.pool.give(call.way(), upstream);
    }
    worker.buffers.give(input);
    worker.buffers.give(dropped);
    Some(())
}
