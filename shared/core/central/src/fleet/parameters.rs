//! What a simulated fleet is like. Every number is an assumption; `docs/central-mesh.md` says which were measured.

use serde::{Deserialize, Serialize};

use crate::config::Config;

/// A fleet, its day, and its Centrals. What is not given is the default.
#[derive(Clone, Debug, Deserialize, PartialEq)]
#[serde(default, deny_unknown_fields)]
pub struct Parameters {
    /// How many hosts.
    pub hosts: usize,
    /// From this hour of the day on.
    pub from_h: f64,
    /// For how long.
    pub hours: f64,
    /// The same seed is the same day.
    pub seed: u64,
    /// What the hosts have to do.
    pub load: Load,
    /// What a host is.
    pub host: Host,
    /// What a Central is.
    pub central: Central,
    /// Every host's controller.
    pub controller: Config,
}

/// When hosts have most to do.
#[derive(Clone, Copy, Debug, Deserialize, Serialize, PartialEq, Eq)]
#[serde(rename_all = "snake_case")]
pub enum Peaks {
    /// All at 20:00, give or take a quarter of an hour.
    Correlated,
    /// Each at an hour of its own, anywhere in the day.
    Spread,
}

/// A host's rate of requests over the day: a bell around its peak above what it has at night, and bursts.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq)]
#[serde(default, deny_unknown_fields)]
pub struct Load {
    /// When.
    pub peaks: Peaks,
    /// Of the peak's rate: what there is at night.
    pub night: f64,
    /// Hours from the peak to where the bell has fallen to 61 %.
    pub width_h: f64,
    /// Of a host's cores: what its peak needs, with its mesh at home; the mean of all hosts.
    pub utilisation: f64,
    /// Standard deviation of that between hosts (half of it to two times it are the limits).
    pub spread: f64,
    /// Bursts of a host a day.
    pub bursts: f64,
    /// Of the peak's rate: what a burst adds.
    pub burst_adds: f64,
    /// How long a burst lasts.
    pub burst_s: f64,
}

/// What a host has, and what a request takes of it.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq)]
#[serde(default, deny_unknown_fields)]
pub struct Host {
    /// CPU cores.
    pub cores: u32,
    /// CPU of the app itself a request, microseconds.
    pub app_us: f64,
    /// CPU of the mesh a request while it is at home, all its hops, microseconds.
    pub mesh_us: f64,
    /// Of that: what stays on the host for a request that has left by the kernel's redirect.
    pub redirect: f64,
    /// The same for one that the proxy relays.
    pub relay: f64,
    /// Of the hosts: those that can only relay.
    pub relayed: f64,
    /// A request that has waited for so long for a CPU is late.
    pub late_ms: f64,
    /// What would wait for longer is shed.
    pub shed_ms: f64,
}

/// What a Central has, and what a request takes of it.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq)]
#[serde(default, deny_unknown_fields)]
pub struct Central {
    /// How many there are, each with `cores`; a host asks all of them alike.
    pub count: usize,
    /// CPU cores of each.
    pub cores: f64,
    /// CPU of a Central a request, microseconds.
    pub request_us: f64,
    /// Of what its cores can do: what it gives tokens for.
    pub granted: f64,
    /// Whether there are tokens; without them everybody sends what he likes.
    pub tokens: bool,
    /// Points that a hot host asks for beyond its weight, so that tokens are there when the weight rises.
    pub ahead: f64,
    /// Of its rate: what a host asks for at least from half of a threshold on, and while anything has left.
    pub warm: f64,
    /// Of its rate: what it asks for while all is calm.
    pub standby: f64,
    /// Who has waited for so long at the Central has gone; the work is done all the same.
    pub deadline_ms: f64,
    /// What would wait for longer is refused.
    pub queue_ms: f64,
    /// Of what fails once: what is tried a second time.
    pub retried: f64,
    /// Hosts take their work back when a Central lets it wait for so long.
    pub slow_ms: f64,
}

impl Default for Parameters {
    fn default() -> Self {
        Parameters {
            hosts: 1_000,
            from_h: 0.0,
            hours: 24.0,
            seed: 1,
            load: Load::default(),
            host: Host::default(),
            central: Central::default(),
            controller: Config::default(),
        }
    }
}

impl Default for Load {
    fn default() -> Self {
        Load {
            peaks: Peaks::Correlated,
            night: 0.3,
            width_h: 1.5,
            utilisation: 0.95,
            spread: 0.15,
            bursts: 4.0,
            burst_adds: 0.3,
            burst_s: 120.0,
        }
    }
}

impl Default for Host {
    fn default() -> Self {
        Host {
            cores: 4,
            app_us: 200.0,
            mesh_us: 40.0,
            redirect: 0.05,
            relay: 0.4,
            relayed: 0.0,
            late_ms: 200.0,
            shed_ms: 1_000.0,
        }
    }
}

impl Default for Central {
    fn default() -> Self {
        Central {
            count: 1,
            cores: 100.0,
            request_us: 50.0,
            granted: 0.8,
            tokens: true,
            ahead: 20.0,
            warm: 0.0,
            standby: 0.0,
            deadline_ms: 1_000.0,
            queue_ms: 5_000.0,
            retried: 1.0,
            slow_ms: 500.0,
        }
    }
}

impl Parameters {
    /// # Errors
    /// The first number that no fleet can have, or that would take hours.
    pub fn check(&self) -> Result<(), String> {
        self.controller.check().map_err(|why| format!("controller: {why}"))?;
        let (load, host, central) = (&self.load, &self.host, &self.central);
        let positive = 1e-3..=1e6;
        let share = 0.0..=1.0;
        for (name, value, range) in [
            ("hosts", self.hosts as f64, &(1.0..=20_000.0)),
            ("from_h", self.from_h, &(0.0..=24.0)),
            ("hours", self.hours, &(0.001..=168.0)),
            ("load.night", load.night, &share),
            ("load.width_h", load.width_h, &(0.1..=24.0)),
            ("load.utilisation", load.utilisation, &(0.01..=10.0)),
            ("load.spread", load.spread, &share),
            ("load.bursts", load.bursts, &(0.0..=1_000.0)),
            ("load.burst_adds", load.burst_adds, &(0.0..=10.0)),
            ("load.burst_s", load.burst_s, &(1.0..=86_400.0)),
            ("host.cores", f64::from(host.cores), &(1.0..=1_024.0)),
            ("host.app_us", host.app_us, &positive),
            ("host.mesh_us", host.mesh_us, &positive),
            ("host.redirect", host.redirect, &share),
            ("host.relay", host.relay, &share),
            ("host.relayed", host.relayed, &share),
            ("host.late_ms", host.late_ms, &positive),
            ("host.shed_ms", host.shed_ms, &positive),
            ("central.count", central.count as f64, &(1.0..=64.0)),
            ("central.cores", central.cores, &positive),
            ("central.request_us", central.request_us, &positive),
            ("central.granted", central.granted, &(0.0..=10.0)),
            ("central.ahead", central.ahead, &(0.0..=100.0)),
            ("central.warm", central.warm, &(0.0..=10.0)),
            ("central.standby", central.standby, &(0.0..=10.0)),
            ("central.deadline_ms", central.deadline_ms, &positive),
            ("central.queue_ms", central.queue_ms, &positive),
            ("central.retried", central.retried, &share),
            ("central.slow_ms", central.slow_ms, &positive),
        ] {
            if !range.contains(&value) {
                return Err(format!("{name} = {value}: must be {} to {}", range.start(), range.end()));
            }
        }
        Ok(())
    }
}
