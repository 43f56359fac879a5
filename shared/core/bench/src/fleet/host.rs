//! One host of the fleet: a connection, over which it registers what it runs and follows what it uses.

use std::collections::VecDeque;

use super::followed::Followed;
use super::link::Link;
use super::message::{Register, put_follow, put_register};
use super::plan::{Plan, address_of, instance_id, service_name};
use super::xds::Xds;

/// An instance as its host registers it.
#[derive(Clone)]
pub struct Own {
    /// Its life.
    pub epoch: u64,
    /// It takes no new calls.
    pub draining: bool,
    /// When each of its changes was sent, nanoseconds; how many there are is its stamp.
    pub sent: Vec<u64>,
}

impl Own {
    /// As it is at first.
    pub const fn new() -> Self {
        Self { epoch: 1, draining: false, sent: Vec::new() }
    }

    /// How often it has been changed.
    pub const fn stamp(&self) -> u64 {
        self.sent.len() as u64
    }
}

/// Why something was asked, and with it which answers are right.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Why {
    /// A connection begins.
    Begin,
    /// It is time.
    Renew,
    /// It has changed.
    Change,
}

impl Why {
    /// Whether the pilot may say this.
    pub fn allows(self, verdict: &str) -> bool {
        match self {
            Self::Begin => matches!(verdict, "created" | "changed" | "renewed"),
            Self::Renew => verdict == "renewed",
            Self::Change => verdict == "changed",
        }
    }
}

/// A request that has no answer yet.
pub struct Asked {
    /// Its number.
    pub n: u64,
    /// Why it was asked.
    pub why: Why,
    /// When, in nanoseconds.
    pub at: u64,
}

/// A host and its connection.
pub struct Host {
    /// None while there is none.
    pub link: Option<Link>,
    /// And the one over which it follows, if that is another.
    pub xds: Option<Xds>,
    /// Everything that was to be told has been, on this connection.
    pub current: bool,
    /// How many services it has been told of over xDS on this connection.
    pub services_told: usize,
    /// When to connect, nanoseconds.
    pub dial_at: u64,
    /// How often that was tried in vain.
    pub attempt: u32,
    /// The services that it follows, by their number.
    pub followed: Vec<Followed>,
    /// The instances that it registers.
    pub registers: Vec<usize>,
    /// What has no answer yet.
    pub asked: VecDeque<Asked>,
    /// When to renew, nanoseconds.
    pub renew_at: u64,
    /// When something was sent last, nanoseconds.
    pub spoke_at: u64,
    next: u64,
}

impl Host {
    /// Host `number` of the fleet, which is to connect at that time.
    pub fn new(plan: &Plan, number: usize, dial_at: u64) -> Self {
        let followed = plan.followed(number).into_iter();
        Self {
            link: None,
            xds: None,
            current: false,
            services_told: 0,
            dial_at,
            attempt: 0,
            followed: followed.map(|service| Followed::new(service, &plan.of_service(service))).collect(),
            registers: plan.registers(number).collect(),
            asked: VecDeque::new(),
            renew_at: 0,
            spoke_at: 0,
            next: 0,
        }
    }

    /// A connection begins: registers everything, and follows it unless there is one for that.
    pub fn begin(&mut self, link: Link, xds: Option<Xds>, own: &[Own], plan: &Plan, ttl_ms: u64, now: u64) {
        self.link = Some(link);
        self.xds = xds;
        self.current = false;
        self.services_told = 0;
        self.asked.clear();
        let names: Vec<(String, u64)> =
            self.followed.iter().map(|one| (service_name(one.service), one.revision)).collect();
        let wanted: Vec<(&str, u64)> = names.iter().map(|(name, revision)| (name.as_str(), *revision)).collect();
        if let (Some(link), None) = (&mut self.link, &self.xds) {
            put_follow(link.outbox(), &wanted);
        }
        self.register_all(Why::Begin, own, plan, ttl_ms, now);
    }

    /// Registers everything anew.
    pub fn register_all(&mut self, why: Why, own: &[Own], plan: &Plan, ttl_ms: u64, now: u64) {
        for index in 0..self.registers.len() {
            if let Some(instance) = self.registers.get(index).copied() {
                self.register(instance, why, own, plan, ttl_ms, now);
            }
        }
    }

    /// Registers an instance as it is now.
    pub fn register(&mut self, instance: usize, why: Why, own: &[Own], plan: &Plan, ttl_ms: u64, now: u64) {
        let (Some(link), Some(own)) = (&mut self.link, own.get(instance)) else {
            return;
        };
        self.next += 1;
        let asked = Register {
            n: self.next,
            service: &service_name(instance / plan.per_service),
            id: &instance_id(instance),
            address: &address_of(instance, own.epoch),
            epoch: own.epoch,
            state: if own.draining { "DRAINING" } else { "UP" },
            ttl_ms,
            stamp: own.stamp(),
        };
        put_register(link.outbox(), &asked);
        self.asked.push_back(Asked { n: self.next, why, at: now });
        self.spoke_at = now;
    }

    /// How many of the instances that it follows are not known as they are.
    pub fn unknown(&self, own: &[Own]) -> usize {
        let all = self.followed.iter().flat_map(Followed::seen);
        all.filter(|(number, seen)| {
            own.get(*number).is_none_or(|own| {
                (seen.epoch, seen.stamp, seen.draining, seen.there) != (own.epoch, own.stamp(), own.draining, true)
            })
        })
        .count()
    }

    /// How many of the instances that it follows it takes for suspect.
    pub fn suspects(&self) -> usize {
        self.followed.iter().flat_map(Followed::seen).filter(|(_, seen)| seen.suspect).count()
    }
}
