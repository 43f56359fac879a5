//! What passes here and elsewhere, and what a request costs the proxy.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use pannier_table::clock;

use crate::notify::Beat;

/// Requests in a step from which on their cost is believed, and how fast the average follows.
const ENOUGH: u64 = 25;
const FEW: f64 = 20.0;
const FOLLOWS: f64 = 0.1;

/// What passes here and elsewhere.
#[derive(Default)]
pub struct Rates {
    at_ns: u64,
    requests: u64,
    served: u64,
    /// Requests a second, here and at Centrals.
    pub here: f64,
    #[allow(missing_docs)]
    pub moved: f64,
    /// What one costs the proxy, ns of CPU.
    pub cost_ns: f64,
}

impl Rates {
    /// `served`: requests that Centrals have served for this host, or this Central for others.
    pub fn measure(&mut self, beats: &[Arc<Beat>], served: u64, cpu_ns: u64) {
        let now = clock::monotonic_ns();
        let requests: u64 = beats.iter().map(|beat| beat.requests.load(Ordering::Relaxed)).sum();
        let seconds = now.saturating_sub(self.at_ns) as f64 / 1e9;
        if self.at_ns > 0 && seconds > 0.0 {
            let done = requests.saturating_sub(self.requests);
            let follow = |average: &mut f64, now: f64| *average += (now - *average) * (seconds / 1.0).min(1.0);
            follow(&mut self.here, done as f64 / seconds);
            follow(&mut self.moved, served.saturating_sub(self.served) as f64 / seconds);
            // What is relayed costs something, too, and is not counted: only what is served by itself says what that costs.
            if done >= ENOUGH && self.moved * FEW < self.here {
                let cost = cpu_ns as f64 / done as f64;
                let first = self.cost_ns <= 0.0;
                self.cost_ns = if first { cost } else { self.cost_ns + (cost - self.cost_ns) * FOLLOWS };
            }
        }
        (self.at_ns, self.requests, self.served) = (now, requests, served);
    }
}
