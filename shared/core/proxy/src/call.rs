//! One attempt at an endpoint, from its choice to what it taught: balancer, breaker and counters are told when it is dropped,
//! so that no way out forgets them.

use std::rc::Rc;

use pannier_decide::balance::{self, Choice, Question};
use pannier_decide::breaker::{self, Change, Ended, FailurePolicy, Seen, Verdict};
use pannier_decide::cluster::{Cluster, Detour, Endpoint};
use pannier_table::clock;
use pannier_table::counters::{Call as Counted, Cell as Counter};
use pannier_table::hot::State;
use pannier_table::record::Flag;

use crate::answer::Answer;
use crate::worker::Worker;

/// Looks for an endpoint, at the most: a probe that is lost to another worker is looked past.
const LOOKS: usize = 4;

/// An endpoint that was chosen.
#[derive(Clone, Copy)]
pub struct Chosen<'p> {
    /// Its cluster, and itself.
    pub cluster: &'p Cluster,
    #[allow(missing_docs)]
    pub endpoint: &'p Endpoint,
    /// This request is the one that tries it.
    pub is_probe: bool,
    /// It is reached by way of a Central.
    pub by: Option<&'p Detour>,
    /// The host on whose behalf; 0 for our own. Nobody rides on another's connection to an app.
    pub whose: u64,
}

impl Chosen<'_> {
    /// The key of the way to it.
    pub fn way(&self) -> u64 {
        let key = self.by.map_or(self.endpoint.key, |detour| detour.key);
        key.wrapping_add(self.whose.wrapping_mul(0x9e37_79b9_7f4a_7c15))
    }
}

/// Chooses an endpoint that was not `tried`; or says why there is none.
pub fn choose<'p>(
    worker: &Worker,
    cluster: &'p Cluster,
    session: Option<u64>,
    tried: &[u64],
) -> Result<Chosen<'p>, Answer> {
    let now_ns = clock::recent_ns();
    let policy = cluster.failure_policy();
    let verdict = |endpoint: &Endpoint| match endpoint.hot {
        Some(place) => breaker::verdict(policy, &worker.hot, place, now_ns / 1_000_000),
        None => Verdict::Pass,
    };
    let mut random = worker.random.borrow_mut();
    let mut question = Question { now_ns, random: &mut random, avoid: tried, session, verdict };
    for _ in 0..LOOKS {
        match worker.loads.borrow_mut().pick(cluster, &mut question) {
            Choice::Endpoint(index) => {
                if let Some(endpoint) = cluster.endpoints.get(index) {
                    return Ok(Chosen { cluster, endpoint, is_probe: false, by: None, whose: 0 });
                }
            }
            Choice::Probe(index) => {
                let endpoint = cluster.endpoints.get(index);
                if let Some((endpoint, place)) = endpoint.and_then(|endpoint| Some((endpoint, endpoint.hot?)))
                    && breaker::take_probe(policy, &worker.hot, place, now_ns / 1_000_000)
                {
                    worker.count(Counter::Probes);
                    return Ok(Chosen { cluster, endpoint, is_probe: true, by: None, whose: 0 });
                }
            }
            Choice::Empty => {
                return Err(Answer::new(503, Flag::UH, format!("{} has no usable endpoint", cluster.name)));
            }
            Choice::AllOpen => break,
        }
    }
    Err(Answer::new(503, Flag::UO, format!("the breaker of every endpoint of {} is open", cluster.name)))
}

/// An attempt under way. Without an endpoint it is a request that is passed through to its authority.
pub struct Call<'p> {
    worker: &'p Rc<Worker>,
    chosen: Option<Chosen<'p>>,
    /// What the balancer is told.
    pub load: balance::Outcome,
    /// What the breaker is told; none if it says nothing of the endpoint.
    pub seen: Option<Seen>,
    answered: Option<(u16, u64)>,
}

impl<'p> Call<'p> {
    /// Begins an attempt.
    pub fn begin(worker: &'p Rc<Worker>, chosen: Option<Chosen<'p>>) -> Self {
        let call = Call { worker, chosen, load: balance::Outcome::Unknown, seen: None, answered: None };
        worker.loads.borrow_mut().begin(call.key(), clock::recent_ns());
        call
    }

    fn by_central(&self) -> bool {
        self.chosen.is_some_and(|chosen| chosen.by.is_some())
    }

    /// The endpoint's key; 0 for none.
    fn key(&self) -> u64 {
        self.chosen.map_or(0, |chosen| chosen.endpoint.key)
    }

    /// The key of the way to it; 0 for none.
    pub fn way(&self) -> u64 {
        self.chosen.map_or(0, |chosen| chosen.way())
    }

    /// It answered. An answer that says it cannot serve (429, and the gateway's errors) is fast at that; it must not
    /// attract load by it. An answer before the end of the request has no latency.
    pub fn answered(&mut self, status: u16, latency_ns: Option<u64>) {
        // As it may be the Central's own.
        if self.by_central() && matches!(status, 502..=504) {
            return;
        }
        self.seen = Some(Seen::of_status(status));
        self.answered = Some((status, latency_ns.unwrap_or(0)));
        self.load = match (status, latency_ns) {
            (429, _) => balance::Outcome::Refused,
            (502..=504, _) => self.of_failure(),
            (_, Some(latency)) => balance::Outcome::Answered(latency),
            (_, None) => balance::Outcome::Unknown,
        };
    }

    /// It did not answer, or not as it should.
    pub fn failed(&mut self) {
        // What a Central fails at says nothing of the endpoint.
        if self.by_central() {
            return;
        }
        self.load = self.of_failure();
        self.seen = Some(Seen::Unanswered);
    }

    /// What a failure tells the balancer: nothing where a breaker or ejection judges it. If both did, an endpoint that the
    /// balancer avoids would never fail often enough to be taken out, nor be tried soon after it has healed.
    fn of_failure(&self) -> balance::Outcome {
        match self.chosen.map_or(&FailurePolicy::None, |chosen| chosen.cluster.failure_policy()) {
            FailurePolicy::None => balance::Outcome::Refused,
            FailurePolicy::Breaker(_) | FailurePolicy::Outlier(_) => balance::Outcome::Unknown,
        }
    }

    fn tell_breaker(&self, chosen: Chosen<'_>, seen: Seen) {
        let Some(place) = chosen.endpoint.hot else {
            return;
        };
        let (policy, hot) = (chosen.cluster.failure_policy(), &self.worker.hot);
        if matches!(policy, FailurePolicy::None)
            || (seen == Seen::Success && !chosen.is_probe && breaker::is_settled(hot, place))
        {
            return;
        }
        let now_ms = clock::recent_ms();
        // A random number is drawn only where a failure may have consequences.
        let random = if seen == Seen::Success { 0.0 } else { self.worker.random.borrow_mut().unit() };
        let room = || match policy {
            FailurePolicy::Outlier(outlier) => {
                let is_out = |e: &&Endpoint| {
                    e.hot.is_some_and(|place| {
                        let word = hot.state(place, now_ms);
                        word.state == State::Open && word.until_ms > now_ms
                    })
                };
                let all = &chosen.cluster.endpoints;
                breaker::has_room(outlier, all.len(), all.iter().filter(is_out).count())
            }
            _ => true,
        };
        let ended = Ended { now_ms, seen, was_probe: chosen.is_probe, random };
        match breaker::step(policy, hot, place, &ended, room) {
            Change::Opened => self.worker.count(Counter::BreakersOpened),
            Change::Ejected => self.worker.count(Counter::EndpointsEjected),
            Change::Closed | Change::None => {}
        }
    }

    fn count(&self, chosen: Chosen<'_>) {
        let Some(place) = chosen.endpoint.hot else {
            return;
        };
        let slow_ns = chosen.cluster.limits.as_ref().map_or(0, |limits| limits.slow_ns);
        let call = match self.answered {
            Some((status, latency_ns)) => {
                Counted::Answered { status, latency_ns, slow: slow_ns > 0 && latency_ns > slow_ns }
            }
            None => Counted::Unanswered,
        };
        self.worker.counters.borrow().call(place, call);
    }
}

impl Drop for Call<'_> {
    fn drop(&mut self) {
        self.worker.loads.borrow_mut().end(self.key(), clock::recent_ns(), self.load);
        let Some(chosen) = self.chosen else {
            return;
        };
        match (self.seen, chosen.endpoint.hot) {
            (Some(seen), _) => {
                self.tell_breaker(chosen, seen);
                if chosen.cluster.is_counted {
                    self.count(chosen);
                }
            }
            (None, Some(place)) if chosen.is_probe => {
                breaker::return_probe(&self.worker.hot, place, clock::recent_ms());
            }
            _ => {}
        }
    }
}
