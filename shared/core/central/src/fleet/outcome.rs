//! What a simulated day comes to.

use serde::Serialize;

use super::gateway::{Gateway, Passed};
use super::host::Host;

/// What became of the requests of all hosts, as far as their own CPU is concerned.
#[derive(Clone, Copy, Debug, Default, Serialize)]
#[allow(missing_docs)]
pub struct Requests {
    pub served: f64,
    pub late: f64,
    pub shed: f64,
    /// Host-seconds in which a request waited for a CPU for as long as the enter rule allows.
    pub starving_s: f64,
}

/// A figure over the day.
#[derive(Clone, Copy, Debug, Default, Serialize)]
#[allow(missing_docs)]
pub struct Spread {
    pub p50: f64,
    pub p99: f64,
    pub most: f64,
}

/// All Centrals together.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub struct AtCentral {
    /// Requests a second that its cores can do.
    pub can: f64,
    /// Requests a second that were sent at most, in one tick.
    pub most_offered: f64,
    /// Requests, second tries not counted.
    pub offered: f64,
    /// Requests answered in time.
    pub served: f64,
    /// Requests that came to nothing: refused or answered when nobody waited any more, also when tried again.
    pub failed: f64,
    /// Of what was sent, what was answered in time: in the worst minute in which at least a tenth of `can` was sent.
    pub worst_minute: f64,
    /// Seconds in which less than 99 % was answered in time.
    pub broken_s: f64,
    /// Longest wait, milliseconds.
    pub longest_wait_ms: f64,
    /// Cores in use, by seconds.
    pub cores: Spread,
}

/// A minute, for curves: means, and at its end the numbers of hosts.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub struct Minute {
    /// Of the day, on from midnight: 25 is one o'clock of the next.
    pub hour: f64,
    /// Hosts that have sent work away.
    pub shifted: u64,
    /// Hosts that starve.
    pub starving: u64,
    /// Hosts that would if all work had stayed.
    pub starving_alone: u64,
    /// Requests a second sent to Centrals, answered there in time, and promised by tokens.
    pub offered: f64,
    #[allow(missing_docs)]
    pub served: f64,
    #[allow(missing_docs)]
    pub granted: f64,
    /// Cores that the hosts save.
    pub saved: f64,
    /// Cores in use at Centrals.
    pub used: f64,
}

/// A day.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Outcome {
    /// Hosts, as it was.
    pub here: Requests,
    /// Hosts, if all work had stayed.
    pub alone: Requests,
    /// Of the host-seconds that starve at home: the share that did not.
    pub relieved: f64,
    /// Centrals.
    pub central: AtCentral,
    /// Cores that hosts save, by seconds.
    pub saved: Spread,
    /// Core-hours of that.
    pub saved_core_hours: f64,
    /// Cores that hosts would need to save as much at home: the sum of each one's highest.
    pub saved_each: f64,
    /// How often work turned around.
    pub reversals: u64,
    /// By the host that did so most often.
    pub most_reversals: u64,
    /// Seconds from the first hot tick to the first work that leaves.
    pub first_relief: Spread,
    /// To no longer being hot, or all having left.
    pub whole_relief: Spread,
    /// How often that was.
    pub bouts: u64,
    /// Hosts that were hot at the end, and from which nothing could leave.
    pub unrelieved: u64,
    /// By minute.
    pub minutes: Vec<Minute>,
}

/// What is counted on the way.
#[derive(Debug, Default)]
#[allow(missing_docs)]
pub struct Tally {
    pub here: Requests,
    pub alone: Requests,
    pub first_relief: Vec<f64>,
    pub whole_relief: Vec<f64>,
    outcome: Outcome,
    second: Sums,
    minute: Sums,
    saved: Vec<f64>,
    used: Vec<f64>,
}

/// Of the ticks of a second or a minute.
#[derive(Clone, Copy, Debug, Default)]
struct Sums {
    seconds: f64,
    passed: Passed,
    saved: f64,
    used: f64,
}

impl Sums {
    fn add(&mut self, seconds: f64, passed: Passed, saved: f64, used: f64) {
        self.seconds += seconds;
        self.passed.offered += passed.offered;
        self.passed.served += passed.served;
        self.saved += saved * seconds;
        self.used += used * seconds;
    }
}

impl Tally {
    /// A tick of all hosts and Centrals.
    pub fn tick(&mut self, seconds: f64, saved: f64, passed: Passed, used: f64, wait_ms: f64) {
        let central = &mut self.outcome.central;
        central.most_offered = central.most_offered.max(passed.offered / seconds);
        central.offered += passed.offered;
        central.served += passed.served;
        central.failed += passed.failed;
        central.longest_wait_ms = central.longest_wait_ms.max(wait_ms);
        self.second.add(seconds, passed, saved, used);
        self.minute.add(seconds, passed, saved, used);
    }

    /// A second is over.
    pub fn second(&mut self) {
        let Sums { seconds, passed, saved, used } = std::mem::take(&mut self.second);
        self.saved.push(saved / seconds);
        self.used.push(used / seconds);
        if passed.served < 0.99 * passed.offered {
            self.outcome.central.broken_s += seconds;
        }
    }

    /// A minute is over.
    pub fn minute(
        &mut self,
        hour: f64,
        hosts: &[Host],
        gateways: &[Gateway],
        starving: impl Fn(&Host) -> (bool, bool),
    ) {
        let Sums { seconds, passed, saved, used } = std::mem::take(&mut self.minute);
        let can: f64 = gateways.iter().map(Gateway::can).sum();
        let central = &mut self.outcome.central;
        if passed.offered >= 0.1 * can * seconds {
            central.worst_minute = central.worst_minute.min((passed.served / passed.offered).min(1.0));
        }
        let mut minute = Minute {
            hour,
            offered: passed.offered / seconds,
            served: passed.served / seconds,
            granted: gateways.iter().map(|gateway| gateway.ledger.granted()).sum(),
            saved: saved / seconds,
            used: used / seconds,
            ..Minute::default()
        };
        for host in hosts {
            let (here, alone) = starving(host);
            minute.shifted += u64::from(host.saved > 0.0);
            minute.starving += u64::from(here);
            minute.starving_alone += u64::from(alone);
        }
        self.outcome.minutes.push(minute);
    }

    /// A host's day is over.
    pub fn host_ends(&mut self, reversals: u64, most_saved: f64, unrelieved: bool) {
        let outcome = &mut self.outcome;
        outcome.reversals += reversals;
        outcome.most_reversals = outcome.most_reversals.max(reversals);
        outcome.saved_each += most_saved;
        outcome.unrelieved += u64::from(unrelieved);
    }

    /// For Centrals that can do so many requests a second.
    pub fn new(can: f64) -> Self {
        let mut tally = Tally::default();
        tally.outcome.central.can = can;
        tally.outcome.central.worst_minute = 1.0;
        tally
    }

    /// The day is over.
    pub fn outcome(mut self) -> Outcome {
        let mut outcome = self.outcome;
        (outcome.here, outcome.alone) = (self.here, self.alone);
        let (here, alone) = (outcome.here.starving_s, outcome.alone.starving_s);
        outcome.relieved = if alone > 0.0 { 1.0 - here / alone } else { 0.0 };
        outcome.saved_core_hours = self.saved.iter().sum::<f64>() / 3_600.0;
        outcome.saved = spread(&mut self.saved);
        outcome.central.cores = spread(&mut self.used);
        outcome.bouts = self.first_relief.len() as u64;
        outcome.first_relief = spread(&mut self.first_relief);
        outcome.whole_relief = spread(&mut self.whole_relief);
        outcome
    }
}

fn spread(values: &mut [f64]) -> Spread {
    values.sort_unstable_by(f64::total_cmp);
    let at = |share: f64| {
        let place = ((values.len() as f64 * share) as usize).min(values.len().saturating_sub(1));
        values.get(place).copied().unwrap_or(0.0)
    };
    Spread { p50: at(0.5), p99: at(0.99), most: at(1.0) }
}
