//! Which endpoint of a cluster takes a request.
//!
//! *P2C peak-EWMA* (Finagle's and Linkerd's default): of two random endpoints the one with the lower load, where load is
//! an average of latencies that jumps up with a slow answer, decays over 10 s, and is multiplied by what is in flight. One
//! that was never measured gets one request at once (as in Finagle), which counts as 30 ms until it has answered.
//! *Least request*: of two random ones the one with less under way, by weight. *Round robin*: nginx's smooth weighted
//! variant. *Ring hash* and *Maglev*: by the session's hash, with bounded loads.
//!
//! Who is unhealthy or out is left out, unless fewer than half remain (*panic*): then health and ejections are disregarded,
//! since sending to few would take them down as well. An open breaker is never disregarded (ADR 12). One that a request may
//! try (half open) comes first: somebody has to.
//!
//! Tiers: endpoints of a nearer tier (this host, this zone) come first as long as enough of them are usable: a tier takes
//! 1.4 times the share of it that is usable, the next takes what is left (Envoy's overprovisioning factor).

use rustc_hash::FxHashMap;

use crate::breaker::Verdict;
use crate::cluster::{Cluster, Endpoint};
use crate::hashing::BOUND;
use crate::load::{Load, PENALTY_NS};
use crate::random::Random;
use crate::schema::Balance;

const OVERPROVISIONING: f64 = 1.4;

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

/// What a choice depends on, beside the loads.
pub struct Question<'a, V: Fn(&Endpoint) -> Verdict> {
    /// Nanoseconds since boot.
    pub now_ns: u64,
    /// For the two choices.
    pub random: &'a mut Random,
    /// Endpoints that were tried already.
    pub avoid: &'a [u64],
    /// The session's hash, if the cluster has affinity and the request a session.
    pub session: Option<u64>,
    /// Whether an endpoint may have a request.
    pub verdict: V,
}

/// What was chosen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Choice {
    /// An endpoint, by its index.
    Endpoint(usize),
    /// One whose probe has to be taken first.
    Probe(usize),
    /// There is none.
    Empty,
    /// All have an open breaker.
    AllOpen,
}

/// One worker's loads, by endpoint key; survives snapshots.
#[derive(Debug, Default)]
pub struct Loads {
    loads: FxHashMap<u64, Load>,
    /// Indices of candidates, kept between calls so that none is allocated.
    candidates: Vec<usize>,
}

impl Loads {
    /// Picks an endpoint.
    pub fn pick<V: Fn(&Endpoint) -> Verdict>(&mut self, cluster: &Cluster, question: &mut Question<'_, V>) -> Choice {
        let mut candidates = std::mem::take(&mut self.candidates);
        let choice = match gather(cluster, question, &mut candidates) {
            Some(choice) => choice,
            None => {
                if cluster.has_tiers {
                    keep_tier(cluster, question.random, &mut candidates);
                }
                self.choose(cluster, question, &candidates).map_or(Choice::Empty, Choice::Endpoint)
            }
        };
        self.candidates = candidates;
        choice
    }

    fn choose<V: Fn(&Endpoint) -> Verdict>(
        &mut self,
        cluster: &Cluster,
        question: &mut Question<'_, V>,
        candidates: &[usize],
    ) -> Option<usize> {
        if let [only] = candidates {
            if let Some(endpoint) = cluster.endpoints.get(*only) {
                self.load(endpoint.key, question.now_ns);
            }
            return Some(*only);
        }
        let (now_ns, slow) = (question.now_ns, cluster.slow_start_ns);
        match (cluster.balance, &cluster.hashing, question.session) {
            (Balance::RingHash | Balance::Maglev, Some(table), Some(session)) => {
                self.by_hash(cluster, table.walk(session), candidates, now_ns)
            }
            (Balance::RoundRobin, ..) => self.next_turn(cluster, candidates, now_ns),
            (Balance::LeastRequest, ..) => {
                self.better_of_two(cluster, candidates, question.random, now_ns, |load, weight| {
                    load.request_score(load.weight(weight, now_ns, slow))
                })
            }
            (Balance::P2cEwma, ..) => {
                self.better_of_two(cluster, candidates, question.random, now_ns, |load, weight| {
                    load.latency_score(now_ns, load.weight(weight, now_ns, slow))
                })
            }
            _ => self.by_weight(cluster, candidates, question.random, now_ns),
        }
    }

    fn load(&mut self, key: u64, now_ns: u64) -> &mut Load {
        self.loads.entry(key).or_insert_with(|| Load::unknown(now_ns))
    }

    fn better_of_two(
        &mut self,
        cluster: &Cluster,
        candidates: &[usize],
        random: &mut Random,
        now_ns: u64,
        score: impl Fn(&Load, u32) -> f64,
    ) -> Option<usize> {
        let count = candidates.len();
        let first = random.below(count);
        let second = (first + 1 + random.below(count.max(2) - 1)) % count.max(1);
        let (a, b) = (*candidates.get(first)?, *candidates.get(second)?);
        let (one, other) = (cluster.endpoints.get(a)?, cluster.endpoints.get(b)?);
        let one = score(self.load(one.key, now_ns), one.weight);
        let other = score(self.load(other.key, now_ns), other.weight);
        Some(if one <= other { a } else { b })
    }

    fn next_turn(&mut self, cluster: &Cluster, candidates: &[usize], now_ns: u64) -> Option<usize> {
        let mut total = 0;
        let mut best: Option<(usize, u64, i64)> = None;
        for index in candidates {
            let endpoint = cluster.endpoints.get(*index)?;
            let load = self.load(endpoint.key, now_ns);
            // In thousandths, so that a slow start shows in a weight of 1.
            let weight = (load.weight(endpoint.weight, now_ns, cluster.slow_start_ns) * 1_000.0) as i64;
            load.turn += weight;
            total += weight;
            if best.is_none_or(|(_, _, turn)| load.turn > turn) {
                best = Some((*index, endpoint.key, load.turn));
            }
        }
        let (index, key, _) = best?;
        self.load(key, now_ns).turn -= total;
        Some(index)
    }

    fn by_weight(
        &mut self,
        cluster: &Cluster,
        candidates: &[usize],
        random: &mut Random,
        now_ns: u64,
    ) -> Option<usize> {
        let mut weights = candidates.iter().filter_map(|index| {
            let endpoint = cluster.endpoints.get(*index)?;
            let load = self.load(endpoint.key, now_ns);
            Some((*index, load.weight(endpoint.weight, now_ns, cluster.slow_start_ns)))
        });
        // One pass: each takes the place of the one before with the share that it has of the sum so far.
        let (mut chosen, mut sum) = weights.next()?;
        for (index, weight) in weights {
            sum += weight;
            if random.unit() * sum < weight {
                chosen = index;
            }
        }
        Some(chosen)
    }

    fn by_hash(
        &mut self,
        cluster: &Cluster,
        walk: impl Iterator<Item = usize>,
        candidates: &[usize],
        now_ns: u64,
    ) -> Option<usize> {
        let under_way: u32 =
            cluster.endpoints.iter().map(|e| self.loads.get(&e.key).map_or(0, |load| load.in_flight)).sum();
        let most = (BOUND * f64::from(under_way + 1) / candidates.len().max(1) as f64).ceil();
        let mut first = None;
        for index in walk.filter(|index| candidates.contains(index)) {
            let endpoint = cluster.endpoints.get(index)?;
            first = first.or(Some(index));
            if f64::from(self.load(endpoint.key, now_ns).in_flight + 1) <= most {
                return Some(index);
            }
        }
        first
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
    pub fn retain<'a>(&mut self, clusters: impl Iterator<Item = &'a Cluster>) {
        let known: rustc_hash::FxHashSet<u64> = clusters.flat_map(|c| &c.endpoints).map(|e| e.key).collect();
        self.loads.retain(|key, load| known.contains(key) || load.in_flight > 0);
    }
}

/// Fills `candidates` with those that may be chosen among; a choice that is made already instead.
fn gather<V: Fn(&Endpoint) -> Verdict>(
    cluster: &Cluster,
    question: &Question<'_, V>,
    candidates: &mut Vec<usize>,
) -> Option<Choice> {
    candidates.clear();
    let all = &cluster.endpoints;
    let (mut probe, mut out, mut healthy) = (None, 0, 0);
    for (index, endpoint) in all.iter().enumerate() {
        healthy += usize::from(endpoint.healthy);
        match (question.verdict)(endpoint) {
            Verdict::Pass if endpoint.healthy => candidates.push(index),
            Verdict::Pass => {}
            Verdict::Probe if probe.is_none() && endpoint.healthy && !question.avoid.contains(&endpoint.key) => {
                probe = Some(index);
            }
            Verdict::Probe | Verdict::Out => out += 1,
        }
    }
    if let Some(index) = probe {
        return Some(Choice::Probe(index));
    }
    let usable = if cluster.has_breakers { healthy } else { candidates.len() };
    if usable * 2 < all.len() {
        candidates.clear();
        let stays = |e: &Endpoint| !cluster.has_breakers || (question.verdict)(e) == Verdict::Pass;
        candidates.extend(all.iter().enumerate().filter(|(_, e)| stays(e)).map(|(index, _)| index));
    }
    if candidates.is_empty() {
        return Some(if out > 0 && out == all.len() { Choice::AllOpen } else { Choice::Empty });
    }
    if !question.avoid.is_empty() {
        let fresh = |index: &usize| all.get(*index).is_some_and(|e| !question.avoid.contains(&e.key));
        if candidates.iter().any(fresh) {
            candidates.retain(fresh);
        }
    }
    None
}

/// Leaves the candidates of one tier, drawn by how much of each is usable.
fn keep_tier(cluster: &Cluster, random: &mut Random, candidates: &mut Vec<usize>) {
    let tier_of = |index: &usize| cluster.endpoints.get(*index).map_or(u8::MAX, |e| e.tier);
    let mut left = random.unit();
    for tier in 0..=2 {
        let usable = candidates.iter().filter(|i| tier_of(i) == tier).count();
        let all = cluster.endpoints.iter().filter(|e| e.tier == tier).count();
        if usable == 0 {
            continue;
        }
        let share = (OVERPROVISIONING * usable as f64 / all as f64).min(1.0);
        let is_last = !candidates.iter().any(|i| tier_of(i) > tier);
        if left < share || is_last {
            candidates.retain(|i| tier_of(i) == tier);
            return;
        }
        left = (left - share) / (1.0 - share);
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::panic)]
mod tests {
    use super::*;
    use crate::cluster::tests::cluster;
    use crate::hashing::{HashTable, hash};

    fn pass(_: &Endpoint) -> Verdict {
        Verdict::Pass
    }

    struct Picker {
        loads: Loads,
        random: Random,
        now_ns: u64,
        avoid: Vec<u64>,
        session: Option<u64>,
    }

    impl Picker {
        fn new() -> Self {
            Picker { loads: Loads::default(), random: Random::new(7), now_ns: 1, avoid: Vec::new(), session: None }
        }

        fn pick(&mut self, cluster: &Cluster, verdict: impl Fn(&Endpoint) -> Verdict) -> Choice {
            let Picker { loads, random, now_ns, avoid, session } = self;
            loads.pick(cluster, &mut Question { now_ns: *now_ns, random, avoid, session: *session, verdict })
        }

        fn counts(&mut self, cluster: &Cluster, n: usize, verdict: impl Fn(&Endpoint) -> Verdict + Copy) -> Vec<usize> {
            let mut counts = vec![0; cluster.endpoints.len()];
            for _ in 0..n {
                match self.pick(cluster, verdict) {
                    Choice::Endpoint(index) | Choice::Probe(index) => counts[index] += 1,
                    other => panic!("{other:?}"),
                }
            }
            counts
        }

        fn answered(&mut self, key: u64, outcome: Outcome) {
            self.loads.begin(key, self.now_ns);
            self.loads.end(key, self.now_ns, outcome);
        }
    }

    #[test]
    fn round_robin_keeps_the_weights_exactly() {
        let mut picker = Picker::new();
        assert_eq!(picker.counts(&cluster(&[1, 2, 3], Balance::RoundRobin), 600, pass), [100, 200, 300]);
    }

    #[test]
    fn random_and_p2c_spread_evenly_when_all_are_equal() {
        for balance in [Balance::P2cEwma, Balance::Random, Balance::LeastRequest] {
            for count in Picker::new().counts(&cluster(&[1, 1, 1, 1], balance), 4_000, pass) {
                assert!((850..1150).contains(&count), "{balance:?}: {count}");
            }
        }
    }

    #[test]
    fn random_keeps_the_weights() {
        let counts = Picker::new().counts(&cluster(&[1, 3], Balance::Random), 4_000, pass);
        assert!((900..1_100).contains(&counts[0]), "{counts:?}");
    }

    #[test]
    fn least_request_leaves_out_the_busier_of_two() {
        let (two, mut picker) = (cluster(&[1, 1], Balance::LeastRequest), Picker::new());
        for _ in 0..3 {
            picker.loads.begin(0, 1);
        }
        assert!((0..50).all(|_| picker.pick(&two, pass) == Choice::Endpoint(1)));
    }

    #[test]
    fn a_slow_endpoint_gets_little_and_recovers_with_time() {
        let (two, mut picker) = (cluster(&[1, 1], Balance::P2cEwma), Picker::new());
        picker.answered(0, Outcome::Answered(1_000_000));
        picker.answered(1, Outcome::Answered(500_000_000));
        picker.now_ns = 1_000_000_000;
        assert!((0..50).all(|_| picker.pick(&two, pass) == Choice::Endpoint(0)));
        picker.now_ns = 120_000_000_000;
        picker.answered(0, Outcome::Answered(1_000_000));
        assert!((0..50).any(|_| picker.pick(&two, pass) == Choice::Endpoint(1)), "its bad average has decayed");
    }

    #[test]
    fn one_that_was_never_tried_is_tried_once_at_once() {
        let (two, mut picker) = (cluster(&[1, 1], Balance::P2cEwma), Picker::new());
        picker.answered(0, Outcome::Answered(1_000_000));
        assert_eq!(picker.pick(&two, pass), Choice::Endpoint(1));
        picker.loads.begin(1, 2);
        assert!((0..50).all(|_| picker.pick(&two, pass) == Choice::Endpoint(0)), "not twice before it has answered");
    }

    #[test]
    fn a_fast_refusal_does_not_attract_load() {
        let (two, mut picker) = (cluster(&[1, 1], Balance::P2cEwma), Picker::new());
        picker.answered(0, Outcome::Answered(20_000_000));
        picker.answered(1, Outcome::Refused);
        assert!((0..50).all(|_| picker.pick(&two, pass) == Choice::Endpoint(0)));
    }

    #[test]
    fn ejected_ones_are_left_out_until_fewer_than_half_remain() {
        let four = cluster(&[1, 1, 1, 1], Balance::P2cEwma);
        let out_below = |n: u64| move |e: &Endpoint| if e.key < n { Verdict::Out } else { Verdict::Pass };
        let counts = Picker::new().counts(&four, 400, out_below(2));
        assert_eq!((counts[0], counts[1]), (0, 0));
        let counts = Picker::new().counts(&four, 400, out_below(3));
        assert!(counts.iter().all(|n| *n > 0), "panic: {counts:?}");
    }

    #[test]
    fn an_open_breaker_is_never_disregarded_and_a_probe_comes_first() {
        let mut four = cluster(&[1, 1, 1, 1], Balance::P2cEwma);
        four.has_breakers = true;
        let mut picker = Picker::new();
        let counts = picker.counts(&four, 100, |e| if e.key < 3 { Verdict::Out } else { Verdict::Pass });
        assert_eq!(counts, [0, 0, 0, 100]);
        assert_eq!(picker.pick(&four, |_| Verdict::Out), Choice::AllOpen);
        let probe = |e: &Endpoint| if e.key == 2 { Verdict::Probe } else { Verdict::Pass };
        assert_eq!(picker.pick(&four, probe), Choice::Probe(2));
        picker.avoid = vec![2];
        assert!(matches!(picker.pick(&four, probe), Choice::Endpoint(_)), "whoever lost the probe goes elsewhere");
        for endpoint in &mut four.endpoints[1..] {
            endpoint.healthy = false;
        }
        let open = |e: &Endpoint| if e.key == 0 { Verdict::Out } else { Verdict::Pass };
        assert!(matches!(picker.pick(&four, open), Choice::Endpoint(1..=3)), "health is disregarded, as ever");
    }

    #[test]
    fn what_was_tried_is_avoided_while_there_is_another() {
        let two = cluster(&[1, 1], Balance::P2cEwma);
        let mut picker = Picker::new();
        picker.avoid = vec![0];
        assert!((0..50).all(|_| picker.pick(&two, pass) == Choice::Endpoint(1)));
        assert_eq!(picker.pick(&cluster(&[1], Balance::RoundRobin), pass), Choice::Endpoint(0));
        assert_eq!(picker.pick(&cluster(&[], Balance::RoundRobin), pass), Choice::Empty);
    }

    #[test]
    fn a_session_stays_where_it_is_and_moves_only_when_it_must() {
        let mut four = cluster(&[1, 1, 1, 1], Balance::Maglev);
        four.hashing = Some(HashTable::maglev(&four.endpoints));
        let mut picker = Picker::new();
        for session in 0..200_u64 {
            picker.session = Some(hash(&session.to_le_bytes()));
            let Choice::Endpoint(home) = picker.pick(&four, pass) else { panic!() };
            assert_eq!(picker.pick(&four, pass), Choice::Endpoint(home));
            let other = (home + 1) % 4;
            let one_out = |e: &Endpoint| if e.key == other as u64 { Verdict::Out } else { Verdict::Pass };
            assert_eq!(picker.pick(&four, one_out), Choice::Endpoint(home), "another one's ejection moves nobody");
        }
    }

    #[test]
    fn a_session_leaves_an_endpoint_with_more_than_its_share() {
        let mut two = cluster(&[1, 1], Balance::RingHash);
        two.hashing = Some(HashTable::ring(&two.endpoints));
        let mut picker = Picker::new();
        picker.session = Some(42);
        let Choice::Endpoint(home) = picker.pick(&two, pass) else { panic!() };
        for _ in 0..10 {
            picker.loads.begin(home as u64, 1);
        }
        assert_eq!(picker.pick(&two, pass), Choice::Endpoint(1 - home));
    }

    #[test]
    fn nearer_endpoints_come_first_while_enough_of_them_are_usable() {
        let mut six = cluster(&[1; 6], Balance::Random);
        for endpoint in &mut six.endpoints[3..] {
            endpoint.tier = 1;
        }
        six.has_tiers = true;
        let counts = Picker::new().counts(&six, 600, pass);
        assert_eq!(counts[3..].iter().sum::<usize>(), 0);
        six.endpoints[0].healthy = false;
        six.endpoints[1].healthy = false;
        let counts = Picker::new().counts(&six, 6_000, pass);
        let near = counts[2] as f64 / 6_000.0;
        assert!((near - 1.4 / 3.0).abs() < 0.03, "a third is usable: {near}");
    }
}
