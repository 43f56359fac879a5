//! A day of many hosts and a Central or more on a virtual clock: how large a Central must be, what it saves, and that tokens
//! keep it from breaking down when everybody's peak is the same.
//!
//! Controller and ledger are the real ones. Hosts, load and the Central's queue are models:
//!
//! | file | what |
//! | --- | --- |
//! | `parameters` | every number, and its default |
//! | `load` | requests a second of a host through the day |
//! | `queueing` | from utilisation to waiting and pressure |
//! | `host` | one host and its controller; the same host with everything at home |
//! | `gateway` | a Central's queue and ledger |
//! | `outcome` | what the day comes to |
//!
//! Everybody who is near a threshold is looked at every 250 ms, others every two seconds and whenever a burst begins or ends.
//! The same parameters give the same day.

mod gateway;
mod host;
mod load;
mod outcome;
mod parameters;
mod queueing;

pub use outcome::{AtCentral, Minute, Outcome, Requests, Spread};
pub use parameters::{Central, Host as HostParameters, Load, Parameters, Peaks};

use crate::check::TICK_MS;
use crate::random::Random;
use gateway::{Gateway, Passed};
use host::{Host, Model};
use outcome::Tally;
use queueing::Waiting;

/// Runs a day.
///
/// # Errors
/// What [`Parameters::check`] refuses.
pub fn run(parameters: &Parameters) -> Result<Outcome, String> {
    parameters.check()?;
    let model = Model { waiting: Waiting::new(parameters.host.cores), parameters: parameters.clone() };
    let seconds = TICK_MS as f64 / 1_000.0;
    let mut random = Random::new(parameters.seed);
    let mut hosts: Vec<Host> = (0..parameters.hosts as u64).map(|id| Host::new(id, &model, &mut random)).collect();
    let mut gateways: Vec<Gateway> =
        (0..parameters.central.count).map(|_| Gateway::new(parameters.central, parameters.hosts, seconds)).collect();
    let mut tally = Tally::new(gateways.iter().map(Gateway::can).sum());
    let a_second = 1_000 / TICK_MS;
    let ticks = (parameters.hours * 3_600.0).ceil() as u64 * a_second;
    let mut looks: Vec<u64> = vec![0; hosts.len()];
    let mut sent = Sent::by(&hosts, gateways.len());
    for tick in 1..=ticks {
        for (next, host) in looks.iter_mut().zip(&mut hosts) {
            if *next <= tick {
                sent.take(host, -1.0);
                *next = host.look(tick, &model, &mut gateways, &mut tally);
                sent.take(host, 1.0);
            }
        }
        let (mut all, mut used, mut wait_ms) = (Passed::default(), 0.0, 0.0_f64);
        for (gateway, rate) in gateways.iter_mut().zip(&sent.rates) {
            let passed = gateway.pass(tick * TICK_MS, seconds, rate.max(0.0));
            all.offered += passed.offered;
            all.served += passed.served;
            all.failed += passed.failed;
            used += passed.busy * parameters.central.cores;
            wait_ms = wait_ms.max(gateway.wait_ms());
        }
        tally.tick(seconds, sent.saved, all, used, wait_ms);
        if tick % a_second == 0 {
            tally.second();
        }
        if tick % (60 * a_second) == 0 {
            sent = Sent::by(&hosts, gateways.len());
            let hour = parameters.from_h + tick as f64 * seconds / 3_600.0;
            tally.minute(hour, &hosts, &gateways, |host| host.starving(&model));
        }
    }
    for host in &mut hosts {
        host.close(ticks, &model, &mut tally);
    }
    Ok(tally.outcome())
}

/// What all hosts send and save, kept by what changes: most hosts change nothing in a tick.
struct Sent {
    /// By Central, requests a second.
    rates: Vec<f64>,
    /// Cores.
    saved: f64,
}

impl Sent {
    fn by(hosts: &[Host], centrals: usize) -> Self {
        let mut sent = Sent { rates: vec![0.0; centrals], saved: 0.0 };
        for host in hosts {
            sent.take(host, 1.0);
        }
        sent
    }

    fn take(&mut self, host: &Host, times: f64) {
        self.saved += times * host.saved;
        for (rate, moved) in self.rates.iter_mut().zip(&host.moved) {
            *rate += times * moved;
        }
    }
}
