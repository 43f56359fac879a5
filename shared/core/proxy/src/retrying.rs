//! The retries of one request: what `decide` says of them, and what they take from the service's budget.

use std::cell::Cell;

use pannier_decide::breaker::{self, FailurePolicy, Verdict};
use pannier_decide::cluster::{Cluster, Endpoint};
use pannier_decide::live::ServiceLive;
use pannier_decide::retry::{self, Failed};
use pannier_decide::schema::limits::{Resources, Retry};
use pannier_table::clock;
use pannier_table::counters::Cell as Counter;
use pannier_table::hot::Place;

use crate::outcome::Context;
use crate::plan::Plan;
use crate::worker::Worker;

/// What one request may still try.
pub struct Retrying<'p> {
    worker: &'p Worker,
    live: &'p ServiceLive,
    retry: &'p Retry,
    resources: Option<Resources>,
    deadline_ms: u64,
    most: u8,
    made: Cell<u8>,
    cluster: &'p Cluster,
    /// The key of the endpoint that is tried now, and whether this is its probe.
    pub trying: Cell<(u64, bool)>,
    /// A failure that would have been tried again was not: nothing was left, or the budget was spent.
    pub is_exhausted: Cell<bool>,
}

impl<'p> Retrying<'p> {
    /// The retries of a request that may be repeated; none without resilience. Counts the request for the budget.
    pub fn of(context: Context<'p>, cluster: &'p Cluster, plan: &Plan<'_>) -> Option<Self> {
        let limits = cluster.limits.as_deref()?;
        let retry = limits.retry.as_ref()?;
        if retry.budget.is_some() {
            cluster.live.spent.request(plan.started_ms);
        }
        let most = plan.rule.and_then(|rule| rule.retries).unwrap_or(retry.attempts);
        let is_kept = plan.early_body <= retry.body_limit;
        if !is_kept && plan.repeatable {
            context.worker.count(Counter::BodiesNotReplayable);
        }
        (most > 0 && is_kept && plan.repeatable && plan.upgrade.is_none()).then(|| Retrying {
            worker: context.worker,
            live: &cluster.live,
            retry,
            resources: limits.resources,
            deadline_ms: plan.deadline_ms,
            most,
            made: Cell::new(0),
            cluster,
            trying: Cell::new((0, false)),
            is_exhausted: Cell::new(false),
        })
    }

    /// Bytes of a body that are kept for a second attempt.
    pub fn body_limit(&self) -> usize {
        self.retry.body_limit
    }

    /// How long to wait before the next attempt; none if there is none. Each is taken from the budget: it must be made.
    pub fn next(&self, failed: Failed, retry_after: Option<&[u8]>) -> Option<u64> {
        if !retry::is_retriable(self.retry, failed) {
            return None;
        }
        let now_ms = clock::monotonic_ms();
        if !self.has_another(now_ms) {
            return None;
        }
        let left_ms = self.deadline_ms.saturating_sub(now_ms);
        let mut random = self.worker.random.borrow_mut();
        let pause = (self.made.get() < self.most)
            .then(|| retry::pause_ms(self.retry, self.made.get(), retry_after, left_ms, &mut random))
            .flatten();
        let Some(pause_ms) = pause.filter(|_| self.is_allowed(now_ms)) else {
            self.is_exhausted.set(true);
            return None;
        };
        self.made.set(self.made.get() + 1);
        self.worker.count(Counter::Retries);
        Some(pause_ms)
    }

    /// Whether an endpoint will be left: this failure may be the one that opens the last breaker, and then it is what the
    /// caller should see, not a refusal of ours.
    fn has_another(&self, now_ms: u64) -> bool {
        let policy = self.cluster.failure_policy();
        let FailurePolicy::Breaker(breaker) = policy else {
            return true;
        };
        let (trying, is_probe) = self.trying.get();
        let threshold = breaker.consecutive_failures.max(1);
        let opens = |endpoint: &Endpoint, place: Place| {
            endpoint.key == trying && (is_probe || self.worker.hot.streak(place).failures + 1 >= threshold)
        };
        self.cluster.endpoints.iter().any(|endpoint| {
            endpoint.hot.is_none_or(|place| {
                breaker::verdict(policy, &self.worker.hot, place, now_ms) == Verdict::Pass && !opens(endpoint, place)
            })
        })
    }

    fn is_allowed(&self, now_ms: u64) -> bool {
        let allowed = match (&self.retry.budget, self.resources) {
            (Some(budget), _) => self.live.spent.retry(budget, now_ms),
            (None, Some(resources)) => self.made.get() > 0 || self.live.retries.enter(resources.retries),
            (None, None) => true,
        };
        if !allowed {
            self.worker.count(Counter::RetriesOverBudget);
        }
        allowed
    }
}

impl Drop for Retrying<'_> {
    fn drop(&mut self) {
        if self.made.get() > 0 && self.retry.budget.is_none() && self.resources.is_some() {
            self.live.retries.leave();
        }
    }
}
