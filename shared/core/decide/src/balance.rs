//! Which endpoint of a cluster takes a request.
//!
//! *P2C peak-EWMA* (Finagle's and Linkerd's default): of two random endpoints the one with the lower load, where load is
//! an average of latencies that jumps up with a slow answer, decays over 10 s, and is multiplied by what is in flight. One
//! that was never measured gets one request at once (as in Finagle), which counts as 30 ms until it has answered.
//! *Round robin*: nginx's smooth weighted variant.
//! Endpoints that are unhealthy or whose hot word is open are left out, unless fewer than half remain (*panic*): then all
//! are used, since sending to few would take them down as well.

use std::collections::HashMap;

use crate::policy::{Cluster, Endpoint};
use crate::random::Random;
use crate::schema::Balance;

/// Time constant of the average.
pub const DECAY_NS: f64 = 10e9;
/// What an endpoint that was never tried is thought to take.
pub const INITIAL_NS: f64 = 30e6;
/// What a refusal (429, or no connection) counts as, so that a fast error does not attract load.
pub const PENALTY_NS: f64 = 5e9;

/// What one worker knows of one endpoint.
#[derive(Clone, Debug)]
pub struct Load {
    average_ns: f64,
    updated_ns: u64,
    /// False while the average is only an assumption.
    observed: bool,
    in_flight: u32,
    turn: i64,
}

impl Load {
    /// One that is seen for the first time at `now`.
    fn unknown(now_ns: u64) -> Self {
        Load { average_ns: INITIAL_NS, updated_ns: now_ns, observed: false, in_flight: 0, turn: 0 }
    }

    /// The load at `now`: what one more request may expect to take, in nanoseconds.
    /// One that was never measured is worth a try: it costs nothing until a request is under way to it, and what is
    /// assumed from then on.
    fn score(&self, now_ns: u64, weight: u32) -> f64 {
        if !self.observed && self.in_flight == 0 {
            return 0.0;
        }
        let decayed = self.average_ns * self.decay(now_ns);
        decayed.max(1.0) * f64::from(self.in_flight + 1) / f64::from(weight.max(1))
    }

    fn decay(&self, now_ns: u64) -> f64 {
        exponential_decay(now_ns.saturating_sub(self.updated_ns) as f64 / DECAY_NS)
    }

    fn observe(&mut self, now_ns: u64, took_ns: f64) {
        let decayed = self.average_ns * self.decay(now_ns);
        self.average_ns = if !self.observed || took_ns > decayed {
            took_ns
        } else {
            let keep = self.decay(now_ns);
            self.average_ns * keep + took_ns * (1.0 - keep)
        };
        self.updated_ns = now_ns;
        self.observed = true;
    }
}

/// e^-x for x ≥ 0, as (1 + x/1024)^-1024: within 0.05 % up to x = 1, within 1.3 % up to x = 5. `f64::exp` would make every
/// process of this binary load the C library's mathematics, a tenth of the keeper's memory.
fn exponential_decay(x: f64) -> f64 {
    let mut power = 1.0 + x / 1024.0;
    for _ in 0..10 {
        power *= power;
    }
    1.0 / power
}

/// What an attempt showed of an endpoint.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Outcome {
    /// It answered after so many nanoseconds.
    Answered(u64),
    /// It refused fast (429), or there was no connection.
    Refused,
    /// The attempt ended for a reason that says nothing of it (the caller went away).
    Unknown,
}

/// One worker's loads, by endpoint key; survives snapshots.
#[derive(Debug, Default)]
pub struct Loads(HashMap<u64, Load>);

impl Loads {
    /// Picks an endpoint; `open` says whether a hot word keeps one out. `avoid` is an endpoint that was tried already.
    /// `None` if the cluster is empty.
    pub fn pick(
        &mut self,
        cluster: &Cluster,
        how: Balance,
        now_ns: u64,
        random: &mut Random,
        avoid: Option<u64>,
        open: impl Fn(&Endpoint) -> bool,
    ) -> Option<usize> {
        let all = &cluster.endpoints;
        if let [only] = all.as_slice() {
            self.load(only.key, now_ns);
            return Some(0);
        }
        let usable = |e: &Endpoint| e.healthy && !open(e);
        let panic = all.iter().filter(|e| usable(e)).count() * 2 < all.len();
        let fits = |e: &Endpoint| (panic || usable(e)) && Some(e.key) != avoid;
        let count = all.iter().filter(|e| fits(e)).count();
        if count == 0 {
            return all.iter().position(|e| panic || usable(e));
        }
        match how {
            Balance::RoundRobin => self.next_turn(all, now_ns, fits),
            Balance::P2cEwma => {
                let first = random.below(count);
                let second = (first + 1 + random.below(count.max(2) - 1)) % count;
                let nth = |n| all.iter().enumerate().filter(|(_, e)| fits(e)).nth(n);
                let (a, b) = (nth(first)?, nth(second)?);
                Some(if self.score(a.1, now_ns) <= self.score(b.1, now_ns) { a.0 } else { b.0 })
            }
        }
    }

    fn load(&mut self, key: u64, now_ns: u64) -> &mut Load {
        self.0.entry(key).or_insert_with(|| Load::unknown(now_ns))
    }

    fn score(&mut self, endpoint: &Endpoint, now_ns: u64) -> f64 {
        self.load(endpoint.key, now_ns).score(now_ns, endpoint.weight)
    }

    fn next_turn(&mut self, all: &[Endpoint], now_ns: u64, fits: impl Fn(&Endpoint) -> bool) -> Option<usize> {
        let mut total = 0;
        let mut best: Option<(usize, u64, i64)> = None;
        for (i, endpoint) in all.iter().enumerate().filter(|(_, e)| fits(e)) {
            let load = self.load(endpoint.key, now_ns);
            load.turn += i64::from(endpoint.weight);
            total += i64::from(endpoint.weight);
            if best.is_none_or(|(_, _, turn)| load.turn > turn) {
                best = Some((i, endpoint.key, load.turn));
            }
        }
        let (index, key, _) = best?;
        self.load(key, now_ns).turn -= total;
        Some(index)
    }

    /// A request was sent to an endpoint.
    pub fn begin(&mut self, key: u64, now_ns: u64) {
        self.load(key, now_ns).in_flight += 1;
    }

    /// The request ended.
    pub fn end(&mut self, key: u64, now_ns: u64, outcome: Outcome) {
        let load = self.load(key, now_ns);
        load.in_flight = load.in_flight.saturating_sub(1);
        match outcome {
            Outcome::Answered(ns) => load.observe(now_ns, ns as f64),
            Outcome::Refused => load.observe(now_ns, PENALTY_NS),
            Outcome::Unknown => {}
        }
    }

    /// Forgets endpoints that no cluster has any more and that nothing is in flight to.
    pub fn retain(&mut self, clusters: &[Cluster]) {
        let known: std::collections::HashSet<u64> = clusters.iter().flat_map(|c| &c.endpoints).map(|e| e.key).collect();
        self.0.retain(|key, load| known.contains(key) || load.in_flight > 0);
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::indexing_slicing)]
mod tests {
    use super::*;
    use crate::address::Address;

    fn cluster(weights: &[u32]) -> Cluster {
        let endpoint = |(i, weight): (usize, &u32)| {
            let label = format!("127.0.0.1:{}", i + 1);
            Endpoint {
                address: Address::parse(&label).unwrap(),
                label: label.into(),
                key: i as u64,
                weight: *weight,
                healthy: true,
                hot: None,
            }
        };
        Cluster { name: "c".into(), endpoints: weights.iter().enumerate().map(endpoint).collect() }
    }

    fn picks(cluster: &Cluster, how: Balance, n: usize, open: impl Fn(&Endpoint) -> bool + Copy) -> Vec<usize> {
        let (mut loads, mut random) = (Loads::default(), Random::new(7));
        let mut counts = vec![0; cluster.endpoints.len()];
        for _ in 0..n {
            counts[loads.pick(cluster, how, 1, &mut random, None, open).unwrap()] += 1;
        }
        counts
    }

    #[test]
    fn the_decay_is_exponential() {
        for x in [0.0, 0.01, 0.5, 1.0] {
            assert!((exponential_decay(x) / (-x).exp() - 1.0).abs() < 0.0005, "{x}");
        }
        assert!((exponential_decay(5.0) / (-5.0_f64).exp() - 1.0).abs() < 0.013);
        assert!(exponential_decay(1e12) < 1e-9);
    }

    #[test]
    fn round_robin_keeps_the_weights_exactly() {
        assert_eq!(picks(&cluster(&[1, 2, 3]), Balance::RoundRobin, 600, |_| false), [100, 200, 300]);
    }

    #[test]
    fn p2c_spreads_evenly_when_all_are_equal() {
        for count in picks(&cluster(&[1, 1, 1, 1]), Balance::P2cEwma, 4_000, |_| false) {
            assert!((850..1150).contains(&count), "{count}");
        }
    }

    #[test]
    fn a_slow_endpoint_gets_little_and_recovers_with_time() {
        let cluster = cluster(&[1, 1]);
        let (mut loads, mut random) = (Loads::default(), Random::new(7));
        for (key, ns) in [(0, 1_000_000), (1, 500_000_000)] {
            loads.begin(key, 1);
            loads.end(key, 1, Outcome::Answered(ns));
        }
        let mut pick = |now| loads.pick(&cluster, Balance::P2cEwma, now, &mut random, None, |_| false);
        assert!((0..50).all(|_| pick(1_000_000_000) == Some(0)));
        loads.begin(0, 1);
        loads.end(0, 120_000_000_000, Outcome::Answered(1_000_000));
        let mut pick = |now| loads.pick(&cluster, Balance::P2cEwma, now, &mut random, None, |_| false);
        assert!((0..50).any(|_| pick(120_000_000_000) == Some(1)), "its bad average has decayed");
    }

    #[test]
    fn one_that_was_never_tried_is_tried_once_at_once() {
        let two = cluster(&[1, 1]);
        let (mut loads, mut random) = (Loads::default(), Random::new(7));
        loads.begin(0, 1);
        loads.end(0, 1, Outcome::Answered(1_000_000));
        assert_eq!(loads.pick(&two, Balance::P2cEwma, 2, &mut random, None, |_| false), Some(1));
        loads.begin(1, 2);
        let mut pick = || loads.pick(&two, Balance::P2cEwma, 3, &mut random, None, |_| false);
        assert!((0..50).all(|_| pick() == Some(0)), "not twice before it has answered");
    }

    #[test]
    fn a_fast_refusal_does_not_attract_load() {
        let cluster = cluster(&[1, 1]);
        let (mut loads, mut random) = (Loads::default(), Random::new(7));
        loads.begin(0, 1);
        loads.end(0, 1, Outcome::Answered(20_000_000));
        loads.begin(1, 1);
        loads.end(1, 1, Outcome::Refused);
        assert!((0..50).all(|_| loads.pick(&cluster, Balance::P2cEwma, 2, &mut random, None, |_| false) == Some(0)));
    }

    #[test]
    fn open_ones_are_left_out_until_fewer_than_half_remain() {
        let four = cluster(&[1, 1, 1, 1]);
        let counts = picks(&four, Balance::P2cEwma, 400, |e| e.key < 2);
        assert_eq!((counts[0], counts[1]), (0, 0));
        let counts = picks(&four, Balance::P2cEwma, 400, |e| e.key < 3);
        assert!(counts.iter().all(|n| *n > 0), "panic: {counts:?}");
    }

    #[test]
    fn what_was_tried_is_avoided_while_there_is_another() {
        let two = cluster(&[1, 1]);
        let (mut loads, mut random) = (Loads::default(), Random::new(7));
        for _ in 0..50 {
            assert_eq!(loads.pick(&two, Balance::P2cEwma, 1, &mut random, Some(0), |_| false), Some(1));
        }
        let one = cluster(&[1]);
        assert_eq!(loads.pick(&one, Balance::RoundRobin, 1, &mut random, Some(0), |_| { false }), Some(0));
        assert_eq!(loads.pick(&cluster(&[]), Balance::RoundRobin, 1, &mut random, None, |_| false), None);
    }
}
