//! A host on a virtual clock that ticks every 250 ms.
#![allow(dead_code)]

use pannier_central::config::Config;
use pannier_central::controller::{Controller, Decision, Offer};
use pannier_central::sample::Sample;

pub const TICK_MS: u64 = 250;
pub const OPEN: Offer = Offer { usable: true, limit: 100.0, forced: None };
pub const DOWN: Offer = Offer { usable: false, limit: 0.0, forced: None };

pub fn pressure(percent: f64) -> Sample {
    Sample { host_pressure: Some(percent), idle: Some(0.5), ..Sample::default() }
}

pub fn hot() -> Sample {
    pressure(60.0)
}

pub fn calm() -> Sample {
    pressure(1.0)
}

pub fn forced(weight: f64) -> Offer {
    Offer { forced: Some(weight), ..OPEN }
}

pub fn without_jitter() -> Config {
    Config { jitter: 0.0, ..Config::default() }
}

pub struct Host {
    pub controller: Controller,
    pub now_ms: u64,
    pub last: Option<Decision>,
}

impl Host {
    pub fn new(config: Config) -> Self {
        Host { controller: Controller::new(config, 7), now_ms: 1_000_000, last: None }
    }

    pub fn tick(&mut self, sample: &Sample, offer: &Offer) -> Decision {
        self.after(TICK_MS, sample, offer)
    }

    pub fn after(&mut self, ms: u64, sample: &Sample, offer: &Offer) -> Decision {
        self.now_ms = self.now_ms.wrapping_add(ms);
        let decision = self.controller.step(self.now_ms, sample, offer);
        self.last = Some(decision);
        decision
    }

    /// The decision after so many milliseconds of the same.
    pub fn over(&mut self, ms: u64, sample: &Sample, offer: &Offer) -> Decision {
        for _ in 1..ms / TICK_MS {
            self.tick(sample, offer);
        }
        self.tick(sample, offer)
    }

    /// Milliseconds of the same until something holds; 600 000 if it never does.
    pub fn until(&mut self, sample: &Sample, offer: &Offer, wanted: impl Fn(&Decision) -> bool) -> u64 {
        let ticks = (1..=2_400).find(|_| wanted(&self.tick(sample, offer))).unwrap_or(2_400);
        ticks * TICK_MS
    }
}
