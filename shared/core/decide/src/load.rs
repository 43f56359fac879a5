//! What one worker knows of an endpoint's load: a peak-sensitive average of its latencies, and what is under way.

/// Time constant of the average.
pub const DECAY_NS: f64 = 10e9;
/// What an endpoint that was never tried is thought to take.
pub const INITIAL_NS: f64 = 30e6;
/// What a refusal (429, or no connection) counts as, so that a fast error does not attract load.
pub const PENALTY_NS: f64 = 5e9;
/// The share of its weight with which an endpoint starts slowly.
pub const SLOW_START_SHARE: f64 = 0.1;

/// What one worker knows of one endpoint.
#[derive(Clone, Debug)]
pub struct Load {
    average_ns: f64,
    updated_ns: u64,
    /// False while the average is only an assumption.
    observed: bool,
    /// Requests under way.
    pub in_flight: u32,
    /// Its turn in the round robin.
    pub turn: i64,
    since_ns: u64,
}

impl Load {
    /// One that is seen for the first time at `now`.
    #[must_use]
    pub fn unknown(now_ns: u64) -> Self {
        Load { average_ns: INITIAL_NS, updated_ns: now_ns, observed: false, in_flight: 0, turn: 0, since_ns: now_ns }
    }

    /// The load at `now`: what one more request may expect to take, in nanoseconds, by weight.
    /// One that was never measured is worth a try: it costs nothing until a request is under way to it, and what is
    /// assumed from then on.
    #[must_use]
    pub fn latency_score(&self, now_ns: u64, weight: f64) -> f64 {
        if !self.observed && self.in_flight == 0 {
            return 0.0;
        }
        let decayed = self.average_ns * self.decay(now_ns);
        decayed.max(1.0) * f64::from(self.in_flight + 1) / weight
    }

    /// What is under way, by weight.
    #[must_use]
    pub fn request_score(&self, weight: f64) -> f64 {
        f64::from(self.in_flight + 1) / weight
    }

    /// An endpoint's weight at `now`, less while it starts slowly: from a tenth, growing with the time it is known
    /// (Envoy's slow start with aggression 1).
    #[must_use]
    pub fn weight(&self, weight: u32, now_ns: u64, slow_start_ns: u64) -> f64 {
        let weight = f64::from(weight.max(1));
        let known_ns = now_ns.saturating_sub(self.since_ns);
        if known_ns >= slow_start_ns {
            return weight;
        }
        weight * (known_ns as f64 / slow_start_ns as f64).max(SLOW_START_SHARE)
    }

    /// Takes an answer's latency into the average.
    pub fn observe(&mut self, now_ns: u64, took_ns: f64) {
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

    fn decay(&self, now_ns: u64) -> f64 {
        exponential_decay(now_ns.saturating_sub(self.updated_ns) as f64 / DECAY_NS)
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_decay_is_exponential() {
        for x in [0.0, 0.01, 0.5, 1.0] {
            assert!((exponential_decay(x) / (-x).exp() - 1.0).abs() < 0.0005, "{x}");
        }
        assert!((exponential_decay(5.0) / (-5.0_f64).exp() - 1.0).abs() < 0.013);
        assert!(exponential_decay(1e12) < 1e-9);
    }

    #[test]
    fn a_slow_start_grows_from_a_tenth() {
        let load = Load::unknown(1_000);
        for (after, share) in [(0, 0.1), (50, 0.1), (500, 0.5), (1_000, 1.0), (9_000, 1.0)] {
            assert!((load.weight(4, 1_000 + after, 1_000) - 4.0 * share).abs() < 1e-9, "{after}");
        }
        assert!((load.weight(4, 1_000, 0) - 4.0).abs() < 1e-9);
    }
}
