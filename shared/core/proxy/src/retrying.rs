//! The retries of one request: what `decide` says of them, and what they take from the service's budget.

use std::cell::Cell;

use pannier_decide::cluster::Cluster;
use pannier_decide::live::ServiceLive;
use pannier_decide::retry::{self, Failed};
use pannier_decide::schema::limits::{Resources, Retry};
use pannier_table::clock;
use pannier_table::counters::Cell as Counter;

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
        (most > 0 && plan.repeatable && plan.upgrade.is_none()).then(|| Retrying {
            worker: context.worker,
            live: &cluster.live,
            retry,
            resources: limits.resources,
            deadline_ms: plan.deadline_ms,
            most,
            made: Cell::new(0),
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
