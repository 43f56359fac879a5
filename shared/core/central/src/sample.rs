//! What one look at the host has measured, and what that means: hot, calm, or neither.
//!
//! An input that could not be read takes no part. Neither does a number that is none: what is measured comes from files
//! that others write.
//!
//! **With the returning load added back.** A host whose work has left is calm *because* it has left, so its inputs alone
//! say nothing about whether it may come home. What comes home needs `returning` of the CPU; load that finds idle CPU
//! makes nobody wait, and what does not find any waits for as long as it exceeds what is idle. So a pressure is judged as
//! `pressure + 100 · max(0, returning − idle)`. Throttling and the wait in a queue do not grow in proportion: they count as
//! not calm as soon as the returning load exceeds what is idle. Where `idle` cannot be read nothing is added, since
//! otherwise such a host would never take its work back; what is wrong about that is bounded by the dwell.

use crate::config::Config;

/// What was measured since the look before.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Sample {
    /// Percent of time in which somebody on the host waited for a CPU.
    pub host_pressure: Option<f64>,
    /// The same in our control group.
    pub cgroup_pressure: Option<f64>,
    /// Percent of the quota's periods in which it ran out.
    pub throttled: Option<f64>,
    /// How long a thread of the proxy waits for a CPU. Shown, not judged: pressure and throttling say it for the whole host.
    pub run_delay_ms: Option<f64>,
    /// How long work waits in the proxy.
    pub queue_wait_ms: Option<f64>,
    /// 0…1 of the CPU that this host, or its quota, has.
    pub idle: Option<f64>,
    /// 0…1 of the same: CPU that comes back if the weight goes to 0.
    pub returning: f64,
}

/// How many inputs are judged.
pub(crate) const INPUTS: usize = 4;

/// What a sample means.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Judged {
    /// By input: how far it is along to its threshold, hot from 1 on; `None` was not read.
    pub load: [Option<f64>; INPUTS],
    /// Every input that was read is far below its threshold, also if the work were here.
    pub calm: bool,
}

impl Judged {
    pub fn of(sample: &Sample, config: &Config) -> Self {
        let thresholds = [
            config.enter.host_pressure,
            config.enter.cgroup_pressure,
            config.enter.throttled,
            config.enter.queue_wait_ms,
        ];
        let values =
            [sample.host_pressure, sample.cgroup_pressure, sample.throttled, sample.queue_wait_ms].map(measured);
        let excess = match measured(sample.idle) {
            Some(idle) => (measured(Some(sample.returning)).unwrap_or(0.0) - idle).max(0.0),
            None => 0.0,
        };
        let (pressure, whole) = (100.0 * excess, if excess > 0.0 { f64::INFINITY } else { 0.0 });
        let added = [pressure, pressure, whole, whole];
        let mut judged = Judged { load: [None; INPUTS], calm: true };
        for (load, ((value, threshold), added)) in
            judged.load.iter_mut().zip(values.into_iter().zip(thresholds).zip(added))
        {
            *load = value.map(|value| value / threshold);
            judged.calm &= value.is_none_or(|value| value + added < config.leave.share * threshold);
        }
        judged
    }

    /// Some input exceeds its threshold at this moment.
    pub fn hot(&self) -> bool {
        self.exceeded().contains(&true)
    }

    pub fn exceeded(&self) -> [bool; INPUTS] {
        self.load.map(|load| load.is_some_and(|load| load >= 1.0))
    }

    /// Nothing could be read.
    pub fn blind(&self) -> bool {
        self.load == [None; INPUTS]
    }
}

fn measured(value: Option<f64>) -> Option<f64> {
    value.filter(|value| value.is_finite()).map(|value| value.max(0.0))
}
