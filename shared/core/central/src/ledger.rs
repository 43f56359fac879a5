//! The tokens of a Central: how many requests a second each host may send it, promised for two seconds at a time.
//!
//! A promise is kept until it ends, so a peak that is everybody's cannot bring the Central down, and a host can rely on what
//! it was told. What follows from it:
//!
//! - A host is raised only by what nobody holds: the sum of all promises stays within what is given out (`in_force`).
//! - A host that holds more than its share is not cut, it is told what comes *then*; what this frees goes to those who
//!   have less as they ask. So shares are max-min fair once every promise has turned over, and nothing lies idle longer.
//! - The share (the water level: nobody gets more than it, who wants less gets what he wants) is found anew by one pass over
//!   all hosts at most every [`PASS_MS`], however many ask: refused was a tree of wants, exact at each ask and ten times the code.
//!   An old level is unfair for that long; it can never promise too much.
//!
//! Time is the Central's, a monotonic clock's milliseconds. A host must count a lease from when it *asked*.

use std::collections::BTreeMap;

/// How long a promise holds.
pub const LEASE_MS: u64 = 2_000;
/// Between two passes over all hosts, at least.
pub const PASS_MS: u64 = 50;
/// Asks of one host that are answered within a second.
pub const ASKS_A_SECOND: u32 = 20;

const CUT: f64 = 0.7;
const CUT_EVERY_MS: u64 = 1_000;
const RAISE_A_SECOND: f64 = 0.02; // of the capacity
const FLOOR: f64 = 0.05; // of the capacity

/// `rate` until `until_ms` is promised. After that it is `then` until `then_until_ms`, as far as is known now: who asks again
/// before may be told something else for that time. `then` is less than `rate` where the host holds more than its share; else
/// both are the same, and so are the times. Requests a second.
#[derive(Clone, Copy, Debug, PartialEq)]
#[allow(missing_docs)]
pub struct Grant {
    pub rate: f64,
    pub until_ms: u64,
    pub then: f64,
    pub then_until_ms: u64,
}

impl Grant {
    /// What may be sent at that time.
    pub fn at(&self, now_ms: u64) -> f64 {
        if now_ms < self.until_ms {
            self.rate
        } else if now_ms < self.then_until_ms {
            self.then
        } else {
            0.0
        }
    }

    /// The same as one rate and its end, for somebody who asks again within so long: what comes then, as soon as the promise
    /// might end before that. So he never stands without any between two asks; what he is told is never more.
    pub fn as_one(&self, now_ms: u64, again_ms: u64) -> (f64, u64) {
        if now_ms + again_ms < self.until_ms { (self.rate, self.until_ms) } else { (self.then, self.then_until_ms) }
    }
}

/// Why somebody was told nothing. What he holds stays.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refused {
    /// As many hosts as there may be have asked already.
    Full,
    /// He asks more than [`ASKS_A_SECOND`] times a second.
    Flood,
}

#[derive(Clone, Copy, Debug)]
struct Host {
    want: f64,
    grant: Grant,
    second: u64,
    asks: u32,
}

/// Who holds what.
#[derive(Debug)]
pub struct Ledger {
    capacity: f64,
    in_force: f64,
    most: usize,
    hosts: BTreeMap<u64, Host>, // in order, so that sums of the same asks are the same to the last bit
    granted: f64,
    level: f64,
    now_ms: u64,
    passed_ms: Option<u64>,
    cut_ms: Option<u64>,
    looked_ms: Option<u64>,
    floods: u64,
    turned_away: u64,
}

impl Ledger {
    /// Gives out at most `capacity` requests a second (a number that is none is 0), to at most so many hosts.
    pub fn new(capacity: f64, hosts: usize) -> Self {
        let capacity = if capacity.is_finite() { capacity.max(0.0) } else { 0.0 };
        Ledger {
            capacity,
            in_force: capacity,
            most: hosts,
            hosts: BTreeMap::new(),
            granted: 0.0,
            level: f64::INFINITY,
            now_ms: 0,
            passed_ms: None,
            cut_ms: None,
            looked_ms: None,
            floods: 0,
            turned_away: 0,
        }
    }

    /// Somebody would send `rate` requests a second, and is told how many he may. To ask is also to renew; 0 keeps the place.
    ///
    /// # Errors
    /// [`Refused`]; both are counted.
    pub fn want(&mut self, now_ms: u64, who: u64, rate: f64) -> Result<Grant, Refused> {
        let now = self.pass(now_ms, false);
        let want = if rate.is_nan() { 0.0 } else { rate.clamp(0.0, self.capacity) };
        if !self.hosts.contains_key(&who) && self.hosts.len() >= self.most {
            self.pass(now, true);
            if self.hosts.len() >= self.most {
                self.turned_away += 1;
                return Err(Refused::Full);
            }
        }
        let nothing = Grant { rate: 0.0, until_ms: now, then: 0.0, then_until_ms: now };
        let host = self.hosts.entry(who).or_insert(Host { want, grant: nothing, second: now, asks: 0 });
        if now.saturating_sub(host.second) >= 1_000 {
            (host.second, host.asks) = (now, 0);
        }
        if host.asks >= ASKS_A_SECOND {
            self.floods += 1;
            return Err(Refused::Flood);
        }
        host.asks += 1;
        host.want = want;
        // What was counted for him may have ended since the last pass; less than he holds is not a cut if he wants less.
        let counted = host.grant.rate;
        let held = host.grant.at(now).min(want);
        let ends = if now < host.grant.until_ms { host.grant.until_ms } else { host.grant.then_until_ms };
        let share = want.min(self.level);
        let free = (self.in_force - (self.granted - counted + held)).max(0.0);
        let until = now + LEASE_MS;
        host.grant = if share >= held {
            let rate = share.min(held + free);
            Grant { rate, until_ms: until, then: rate, then_until_ms: until }
        } else {
            Grant { rate: held, until_ms: ends, then: share, then_until_ms: until }
        };
        self.granted += host.grant.rate - counted;
        Ok(host.grant)
    }

    /// He gives back what he holds. Who has merely gone keeps it until it ends: he may still be sending.
    pub fn leave(&mut self, who: u64) {
        if let Some(host) = self.hosts.remove(&who) {
            self.granted = (self.granted - host.grant.rate).max(0.0);
        }
    }

    /// Lets go of what has ended, and of who has not asked since; for the figures to be of now.
    pub fn expire(&mut self, now_ms: u64) {
        self.pass(now_ms, true);
    }

    /// Whether the Central is itself under pressure, a few times a second: then less is given out, × 0.7 at most once a second,
    /// down to 5 % of the capacity; else more by 2 % of it a second. What is promised already stays.
    pub fn press(&mut self, now_ms: u64, pressed: bool) {
        let now = self.now_ms.max(now_ms);
        let since = now.saturating_sub(self.looked_ms.unwrap_or(now)).min(1_000);
        self.looked_ms = Some(now);
        if !pressed {
            let more = RAISE_A_SECOND * self.capacity * since as f64 / 1_000.0;
            self.in_force = (self.in_force + more).min(self.capacity);
        } else if self.cut_ms.is_none_or(|cut| now.saturating_sub(cut) >= CUT_EVERY_MS) {
            self.in_force = (self.in_force * CUT).max(FLOOR * self.capacity);
            self.cut_ms = Some(now);
            self.pass(now, true);
        }
    }

    /// Promised now, requests a second.
    pub fn granted(&self) -> f64 {
        self.granted
    }

    /// Given out at the most now: the capacity, or less under pressure.
    pub fn in_force(&self) -> f64 {
        self.in_force
    }

    /// What nobody holds, requests a second.
    pub fn headroom(&self) -> f64 {
        (self.in_force - self.granted).max(0.0)
    }

    /// How many have asked lately.
    pub fn hosts(&self) -> usize {
        self.hosts.len()
    }

    /// How often an ask was one too many of its second, so far.
    pub fn floods(&self) -> u64 {
        self.floods
    }

    /// How often somebody was turned away because all places were taken, so far.
    pub fn turned_away(&self) -> u64 {
        self.turned_away
    }

    /// Time goes on (never back): promises end, and the water level is found again.
    fn pass(&mut self, now_ms: u64, at_once: bool) -> u64 {
        let now = self.now_ms.max(now_ms);
        self.now_ms = now;
        if !at_once && self.passed_ms.is_some_and(|passed| now - passed < PASS_MS) {
            return now;
        }
        self.passed_ms = Some(now);
        self.hosts.retain(|_, host| {
            let grant = &mut host.grant;
            if now >= grant.until_ms {
                (grant.rate, grant.until_ms) = (grant.then, grant.then_until_ms);
            }
            now < grant.then_until_ms
        });
        self.granted = self.hosts.values().map(|host| host.grant.rate).sum();
        self.level = level(self.hosts.values().map(|host| host.want).collect(), self.in_force);
        now
    }
}

/// The L for which the sum of min(want, L) is what there is; infinite if there is enough for all.
fn level(mut wants: Vec<f64>, what_there_is: f64) -> f64 {
    wants.sort_unstable_by(f64::total_cmp);
    let (mut left, mut others) = (what_there_is, wants.len() as f64);
    for want in wants {
        let share = left / others;
        if want > share {
            return share.max(0.0);
        }
        left -= want;
        others -= 1.0;
    }
    f64::INFINITY
}
