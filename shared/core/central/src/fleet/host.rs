//! One host: what it has to do, what of it has left, and the real controller that decides. Beside it the same host under the
//! same load with everything at home, to compare with.

use super::gateway::Gateway;
use super::load::{Day, normal};
use super::outcome::{Requests, Tally};
use super::parameters::Parameters;
use super::queueing::Waiting;
use crate::check::TICK_MS;
use crate::controller::{Controller, Offer, State};
use crate::ledger::{Grant, LEASE_MS};
use crate::random::Random;
use crate::sample::Sample;

const TICK_S: f64 = TICK_MS as f64 / 1_000.0;
/// Far from its thresholds a host is looked at so rarely. More than the two seconds after which the controller forgets.
const QUIET_TICKS: u64 = 9;
/// And near to them, or while its weight stands still.
const STEADY_TICKS: u64 = 4;
/// Of a threshold: near to it, very near, and where tokens may be needed soon.
const NEAR: f64 = 0.4;
const VERY_NEAR: f64 = 0.8;
const WARM: f64 = 0.5;
/// Points that a weight moves by while it stands still: tokens follow the load.
const STILL: f64 = 1.0;
/// Of the rate: what is a burst.
const SUDDEN: f64 = 0.05;
/// How many bouts of waiting a look at the pressure averages over: it is that noisy.
const BOUTS_SEEN: f64 = 50.0;

/// What all hosts share.
pub struct Model {
    pub parameters: Parameters,
    pub waiting: Waiting,
}

/// The work of one host with some share of its mesh away: what waits, and what became of what came.
#[derive(Clone, Copy, Debug, Default)]
struct Side {
    /// CPU seconds of work that wait.
    backlog: f64,
    /// How long a request waits for a CPU, of the last while.
    wait_ms: f64,
    /// Percent of time in which somebody waited, of the last while.
    pressure: f64,
    /// Of its CPU, what the last while needed.
    utilisation: f64,
}

/// A host.
pub struct Host {
    id: u64,
    day: Day,
    /// Of a request's mesh: what stays here when it leaves.
    remains: f64,
    controller: Controller,
    noise: Random,
    grants: Vec<Grant>,
    here: Side,
    alone: Side,
    /// In force since `since`, a tick.
    since: u64,
    rate: f64,
    weight: f64,
    state: State,
    reversals: u64,
    /// First tick of being hot, while it has not left.
    hot_since: Option<u64>,
    relieved: bool,
    most_saved: f64,
    /// By Central, requests a second that are sent there.
    pub moved: Vec<f64>,
    /// Cores that this saves here.
    pub saved: f64,
}

impl Host {
    /// A host at the beginning.
    pub fn new(id: u64, model: &Model, random: &mut Random) -> Self {
        let parameters = &model.parameters;
        let mut day = Day::new(parameters, random);
        let remains =
            if random.unit() < parameters.host.relayed { parameters.host.relay } else { parameters.host.redirect };
        let seed = (random.unit() * 2f64.powi(53)) as u64;
        let nothing = Grant { rate: 0.0, until_ms: 0, then: 0.0, then_until_ms: 0 };
        Host {
            id,
            rate: day.at(0.0).0,
            day,
            remains,
            controller: Controller::new(parameters.controller, seed),
            noise: Random::new(seed.wrapping_add(1)),
            grants: vec![nothing; parameters.central.count],
            here: Side::default(),
            alone: Side::default(),
            since: 0,
            weight: 0.0,
            state: State::Local,
            reversals: 0,
            hot_since: None,
            relieved: false,
            most_saved: 0.0,
            moved: vec![0.0; parameters.central.count],
            saved: 0.0,
        }
    }

    /// Settles what was, decides, and says at which tick to look again.
    pub fn look(&mut self, tick: u64, model: &Model, gateways: &mut [Gateway], tally: &mut Tally) -> u64 {
        self.settle(tick, model, tally);
        let measured = self.rate;
        let (rate, changes_s) = self.day.at(tick as f64 * TICK_S);
        self.rate = rate;
        let soonest = if self.quiet(model) {
            self.hot_since = None;
            self.stand_by(tick, measured, model, gateways)
        } else {
            self.decide(tick, measured, model, gateways, tally)
        };
        self.send(model);
        let sudden = (rate - measured).abs() > SUDDEN * measured;
        let soonest = if sudden { 1 } else { soonest };
        let changes = (changes_s / TICK_S).min(1e15) as u64;
        tick + soonest.min(changes.saturating_sub(tick)).max(1)
    }

    /// Waits for longer than its threshold: with what has left, and if nothing had.
    pub fn starving(&self, model: &Model) -> (bool, bool) {
        let threshold = model.parameters.controller.enter.queue_wait_ms;
        (self.here.wait_ms >= threshold, self.alone.wait_ms >= threshold)
    }

    /// At the end: its share of the figures of the day.
    pub fn close(&mut self, tick: u64, model: &Model, tally: &mut Tally) {
        self.settle(tick, model, tally);
        tally.host_ends(self.reversals, self.most_saved, self.hot_since.is_some() && !self.relieved);
    }

    fn settle(&mut self, tick: u64, model: &Model, tally: &mut Tally) {
        let seconds = tick.saturating_sub(self.since) as f64 * TICK_S;
        self.since = tick;
        if seconds > 0.0 {
            let host = &model.parameters.host;
            let away = self.weight / 100.0 * (1.0 - self.remains);
            let request_us = [host.app_us + host.mesh_us * (1.0 - away), host.app_us + host.mesh_us];
            let [with, without] = request_us;
            self.here.pass(seconds, self.rate, with, model, &mut tally.here);
            self.alone.pass(seconds, self.rate, without, model, &mut tally.alone);
        }
    }

    fn quiet(&self, model: &Model) -> bool {
        self.state == State::Local
            && self.weight == 0.0
            && self.here.pressure < NEAR * model.parameters.controller.enter.host_pressure
    }

    /// One step of the controller; the ticks until the next.
    fn decide(&mut self, tick: u64, measured: f64, model: &Model, gateways: &mut [Gateway], tally: &mut Tally) -> u64 {
        let now_ms = tick * TICK_MS;
        let (enter, central) = (&model.parameters.controller.enter, &model.parameters.central);
        let sample = self.sample(measured, model);
        let pressure = sample.host_pressure.unwrap_or(0.0);
        let hot = pressure >= enter.host_pressure || self.here.wait_ms >= enter.queue_wait_ms;
        let usable = gateways.iter().any(|gateway| gateway.wait_ms() < central.slow_ms);
        let limit = if central.tokens {
            let points = if hot { (self.weight + central.ahead).min(100.0) } else { self.weight };
            let is_warm = hot || self.weight > 0.0 || pressure >= WARM * enter.host_pressure;
            let least = if is_warm { central.warm } else { central.standby };
            self.ask(now_ms, measured * least.max(points / 100.0), gateways);
            let granted: f64 = self.grants.iter().map(|grant| grant.at(now_ms)).sum();
            if measured > 0.0 { 100.0 * granted / measured } else { 100.0 }
        } else {
            100.0
        };
        let before = self.weight;
        let decision = self.controller.step(now_ms, &sample, &Offer { usable, limit, forced: None });
        (self.weight, self.state, self.reversals) = (decision.weight, decision.state, decision.reversals);
        self.note_relief(tick, hot, tally);
        let moves = (self.weight - before).abs() > STILL || hot && usable && self.weight + STILL < limit.min(100.0);
        if moves || self.weight == 0.0 && pressure >= VERY_NEAR * enter.host_pressure { 1 } else { STEADY_TICKS }
    }

    /// Nothing is near; a token or two may be held all the same.
    fn stand_by(&mut self, tick: u64, measured: f64, model: &Model, gateways: &mut [Gateway]) -> u64 {
        let central = &model.parameters.central;
        if !central.tokens || central.standby == 0.0 {
            return QUIET_TICKS;
        }
        self.ask(tick * TICK_MS, measured * central.standby, gateways);
        LEASE_MS / TICK_MS - 1
    }

    fn sample(&mut self, measured: f64, model: &Model) -> Sample {
        let host = &model.parameters.host;
        let share = self.here.pressure / 100.0;
        let noise = normal(&mut self.noise) * (share * (1.0 - share) / BOUTS_SEEN).max(0.0).sqrt();
        let away = self.weight / 100.0 * (1.0 - self.remains);
        Sample {
            host_pressure: Some(100.0 * (share + noise).clamp(0.0, 1.0)),
            queue_wait_ms: Some(self.here.wait_ms),
            idle: Some((1.0 - self.here.utilisation).max(0.0)),
            returning: measured * host.mesh_us * away / (f64::from(host.cores) * 1e6),
            ..Sample::default()
        }
    }

    fn ask(&mut self, now_ms: u64, want: f64, gateways: &mut [Gateway]) {
        let each = want / gateways.len() as f64;
        for (grant, gateway) in self.grants.iter_mut().zip(gateways) {
            if let Ok(told) = gateway.ledger.want(now_ms, self.id, each) {
                *grant = told;
            }
        }
    }

    fn note_relief(&mut self, tick: u64, hot: bool, tally: &mut Tally) {
        match self.hot_since {
            None if hot && self.weight == 0.0 => (self.hot_since, self.relieved) = (Some(tick), false),
            Some(since) if self.weight > 0.0 => {
                if !self.relieved {
                    self.relieved = true;
                    tally.first_relief.push((tick - since) as f64 * TICK_S);
                }
                if !hot || self.weight >= 100.0 {
                    tally.whole_relief.push((tick - since) as f64 * TICK_S);
                    self.hot_since = None;
                }
            }
            Some(_) if !hot && self.weight == 0.0 => self.hot_since = None,
            _ => {}
        }
    }

    /// What is sent until the next look: to each Central as it has granted.
    fn send(&mut self, model: &Model) {
        let rate = self.rate * self.weight / 100.0;
        let granted: f64 = self.grants.iter().map(|grant| grant.rate).sum();
        let alike = 1.0 / self.grants.len() as f64;
        for (moved, grant) in self.moved.iter_mut().zip(&self.grants) {
            *moved = rate * if granted > 0.0 { grant.rate / granted } else { alike };
        }
        self.saved = rate * model.parameters.host.mesh_us * (1.0 - self.remains) / 1e6;
        self.most_saved = self.most_saved.max(self.saved);
    }
}

impl Side {
    fn pass(&mut self, seconds: f64, rate: f64, request_us: f64, model: &Model, requests: &mut Requests) {
        let host = &model.parameters.host;
        let cores = f64::from(host.cores);
        let demand = rate * request_us / 1e6;
        let most = cores * host.shed_ms / 1_000.0;
        let grown = self.backlog + (demand - cores) * seconds;
        let shed = (grown - most).max(0.0) * 1e6 / request_us;
        self.backlog = grown.clamp(0.0, most);
        self.utilisation = demand / cores;
        let (share, times) = model.waiting.at(self.utilisation);
        self.pressure = if self.backlog > 0.0 { 100.0 } else { 100.0 * share };
        self.wait_ms = self.backlog / cores * 1_000.0 + times * request_us / 1_000.0;
        let came = rate * seconds;
        let shed = shed.min(came);
        requests.shed += shed;
        *(if self.wait_ms >= host.late_ms { &mut requests.late } else { &mut requests.served }) += came - shed;
        if self.wait_ms >= model.parameters.controller.enter.queue_wait_ms {
            requests.starving_s += seconds;
        }
    }
}
