//! Every number of the controller. Defaults are those of `shared/central.py`.

use serde::Deserialize;

/// When work leaves and comes back, and how fast.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq)]
#[allow(missing_docs)]
pub struct Config {
    pub enter: Enter,
    pub leave: Leave,
    /// Between two reversals, milliseconds.
    pub dwell_ms: u64,
    /// Of the dwell: it is drawn from 1 ± this.
    pub jitter: f64,
    /// Points that the weight rises by a step at the most.
    pub step_up: f64,
    /// Points that it falls by a second at the most.
    pub step_down: f64,
}

/// Work leaves when any of these is exceeded for `holds_ms` within `within_ms`.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq)]
#[allow(missing_docs)]
pub struct Enter {
    /// Percent of time in which somebody waited for a CPU: on the host, in our control group.
    pub host_pressure: f64,
    pub cgroup_pressure: f64,
    /// Percent of the quota's periods in which it ran out.
    pub throttled: f64,
    /// How long work waits in the proxy.
    pub queue_wait_ms: f64,
    pub holds_ms: u64,
    pub within_ms: u64,
}

/// Work comes back when all stay below `share` of what lets it leave, for `calm_ms`.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq)]
#[allow(missing_docs)]
pub struct Leave {
    pub share: f64,
    pub calm_ms: u64,
}

impl Default for Config {
    fn default() -> Self {
        Config {
            enter: Enter {
                host_pressure: 25.0,
                cgroup_pressure: 25.0,
                throttled: 10.0,
                queue_wait_ms: 20.0,
                holds_ms: 2_000,
                within_ms: 3_000,
            },
            leave: Leave { share: 0.5, calm_ms: 15_000 },
            dwell_ms: 30_000,
            jitter: 0.2,
            step_up: 10.0,
            step_down: 5.0,
        }
    }
}
