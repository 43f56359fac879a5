//! Who leans on this Central: each host with its policy, its weight and its tokens. Links write it, connections read it.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddrV4};
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use pannier_central::ledger::{Grant, Ledger, Refused};
use pannier_decide::policy::Policy;
use pannier_decide::schema::{Endpoints, Telemetry};

use pannier_table::clock;

use crate::central::settings::Settings;
use crate::central::tenant::Tenant;
use crate::central::wire::Hello;

const WHOLE: f64 = 10_000.0;
/// For so long nobody is sent to an app that could not be reached.
const OUT_OF_REACH_MS: u64 = 10_000;

/// A host that is linked.
pub struct Host {
    /// Its number in the ledger.
    pub id: u64,
    /// What it said of itself.
    pub hello: Hello,
    /// Where it is.
    pub address: IpAddr,
    weight: AtomicU32,
    inbound: AtomicBool,
    is_linked: AtomicBool,
    /// Of what it would send it may send so much: less than all if it sends more than its tokens allow.
    allowed: AtomicU32,
    out_of_reach_until_ms: AtomicU64,
    direct: Mutex<Option<SocketAddrV4>>,
    served: AtomicU64,
    policies: Mutex<Vec<Arc<Tenant>>>,
}

/// The policies that a host's connections may still be under: the newest, and the one before.
const KEPT: usize = 2;

impl Host {
    fn new(id: u64, hello: Hello, address: IpAddr) -> Self {
        Host {
            id,
            hello,
            address,
            weight: AtomicU32::new(0),
            inbound: AtomicBool::new(false),
            is_linked: AtomicBool::new(true),
            allowed: AtomicU32::new(WHOLE as u32),
            out_of_reach_until_ms: AtomicU64::new(0),
            direct: Mutex::default(),
            served: AtomicU64::new(0),
            policies: Mutex::default(),
        }
    }

    /// Its weight, 0…1.
    pub fn weight(&self) -> f64 {
        f64::from(self.weight.load(Ordering::Relaxed)) / WHOLE
    }

    /// Whether its callers are to come this way, too.
    pub fn takes_callers(&self) -> bool {
        let is_reached = clock::recent_ms() >= self.out_of_reach_until_ms.load(Ordering::Relaxed);
        self.inbound.load(Ordering::Relaxed) && self.is_linked() && is_reached
    }

    /// Its app could not be reached: its callers go straight for a while.
    pub fn is_out_of_reach(&self, now_ms: u64) {
        self.out_of_reach_until_ms.store(now_ms + OUT_OF_REACH_MS, Ordering::Relaxed);
    }

    /// Whether its link is there.
    pub fn is_linked(&self) -> bool {
        self.is_linked.load(Ordering::Relaxed)
    }

    /// Whether it sends more than its tokens allow.
    pub fn is_over(&self) -> bool {
        self.allowed.load(Ordering::Relaxed) < WHOLE as u32
    }

    /// Where its kernel lets us in to its app.
    pub fn direct(&self) -> Option<SocketAddrV4> {
        *self.direct.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Says where that is; only at the host itself.
    pub fn let_in(&self, at: Option<SocketAddrV4>) {
        let at = at.filter(|at| IpAddr::V4(*at.ip()) == self.address.to_canonical());
        *self.direct.lock().unwrap_or_else(PoisonError::into_inner) = at;
    }

    /// What it said on its link.
    pub fn said(&self, weight: f64, inbound: bool, allowed: f64) {
        self.weight.store((weight.clamp(0.0, 1.0) * WHOLE) as u32, Ordering::Relaxed);
        self.inbound.store(inbound, Ordering::Relaxed);
        self.allowed.store((allowed.clamp(0.0, 1.0) * WHOLE) as u32, Ordering::Relaxed);
    }

    /// Whether a connection that was drawn at `draw`, below the weight that the host had then, is still welcome: the weight
    /// has not fallen below it, nor has what the tokens allow of it.
    pub fn keeps(&self, draw: f64) -> bool {
        let allowed = f64::from(self.allowed.load(Ordering::Relaxed)) / WHOLE;
        self.is_linked() && draw < self.weight() * allowed
    }

    /// Requests served for it.
    pub fn served(&self) -> u64 {
        self.served.load(Ordering::Relaxed)
    }

    /// Counts one.
    pub fn count(&self) {
        self.served.fetch_add(1, Ordering::Relaxed);
    }

    /// The policy of that revision; of revision 0 the newest.
    pub fn policy(&self, revision: u64) -> Option<Arc<Tenant>> {
        let policies = self.policies.lock().unwrap_or_else(PoisonError::into_inner);
        policies.iter().rev().find(|tenant| revision == 0 || tenant.revision() == revision).cloned()
    }

    /// Takes a new policy in.
    pub fn take(&self, tenant: Arc<Tenant>) {
        let mut policies = self.policies.lock().unwrap_or_else(PoisonError::into_inner);
        policies.retain(|old| old.revision() != tenant.revision());
        policies.push(tenant);
        let surplus = policies.len().saturating_sub(KEPT);
        policies.drain(..surplus);
    }
}

type Name = (String, String);

/// All of them.
#[derive(Default)]
pub struct Hosts {
    all: Mutex<BTreeMap<Name, Arc<Host>>>,
    ledger: Mutex<Option<Ledger>>,
    numbers: AtomicU64,
    served: AtomicU64,
}

impl Hosts {
    /// Takes on requests, so many a second, of so many hosts.
    pub fn open(&self, capacity: f64, hosts: usize) {
        *self.ledger.lock().unwrap_or_else(PoisonError::into_inner) = Some(Ledger::new(capacity, hosts));
    }

    /// Whether one more may link.
    pub fn has_room(&self, settings: &Settings) -> bool {
        let most = settings.table.gateway.as_ref().map_or(0, |gateway| gateway.hosts);
        self.all.lock().unwrap_or_else(PoisonError::into_inner).len() < most
    }

    /// A host has linked. A link of the same name that is still there was another life of it.
    pub fn enter(&self, hello: Hello, address: IpAddr) -> Arc<Host> {
        let name = (hello.service.clone(), hello.instance.clone());
        let host = Arc::new(Host::new(1 + self.numbers.fetch_add(1, Ordering::Relaxed), hello, address));
        let before = self.all.lock().unwrap_or_else(PoisonError::into_inner).insert(name, host.clone());
        if let Some(before) = before {
            self.end(&before);
        }
        host
    }

    /// Its link has ended.
    pub fn leave(&self, host: &Arc<Host>) {
        let name = (host.hello.service.clone(), host.hello.instance.clone());
        let mut all = self.all.lock().unwrap_or_else(PoisonError::into_inner);
        if all.get(&name).is_some_and(|known| Arc::ptr_eq(known, host)) {
            all.remove(&name);
        }
        drop(all);
        self.end(host);
    }

    fn end(&self, host: &Host) {
        if !host.is_linked.swap(false, Ordering::Relaxed) {
            return;
        }
        self.served.fetch_add(host.served(), Ordering::Relaxed);
        self.with_ledger(|ledger| ledger.leave(host.id));
    }

    /// The instance of a service.
    pub fn find(&self, service: &str, instance: &str) -> Option<Arc<Host>> {
        let name = (service.to_string(), instance.to_string());
        self.all.lock().unwrap_or_else(PoisonError::into_inner).get(&name).cloned()
    }

    /// The host whose kernel sends connections from that address: it must be one alone.
    pub fn at(&self, address: IpAddr) -> Option<Arc<Host>> {
        let all = self.all.lock().unwrap_or_else(PoisonError::into_inner);
        let mut found = all.values().filter(|host| host.hello.redirects && host.address == address);
        let first = found.next().cloned();
        if found.next().is_some() { None } else { first }
    }

    /// Everybody.
    pub fn list(&self) -> Vec<Arc<Host>> {
        self.all.lock().unwrap_or_else(PoisonError::into_inner).values().cloned().collect()
    }

    /// Requests served so far, for whomever.
    pub fn served(&self) -> u64 {
        self.served.load(Ordering::Relaxed) + self.list().iter().map(|host| host.served()).sum::<u64>()
    }

    /// Grants tokens.
    ///
    /// # Errors
    /// Why none are granted.
    pub fn want(&self, now_ms: u64, host: &Host, rate: f64) -> Result<Grant, Refused> {
        self.with_ledger(|ledger| ledger.want(now_ms, host.id, rate)).unwrap_or(Err(Refused::Full))
    }

    /// Does something with the ledger, if this is a Central.
    pub fn with_ledger<T>(&self, look: impl FnOnce(&mut Ledger) -> T) -> Option<T> {
        self.ledger.lock().unwrap_or_else(PoisonError::into_inner).as_mut().map(look)
    }

    /// Joins every policy with what this Central knows now.
    pub fn rejoin(&self, endpoints: Option<&Endpoints>, telemetry: Option<&Telemetry>) {
        for host in self.list() {
            let policies = host.policies.lock().unwrap_or_else(PoisonError::into_inner).clone();
            policies.iter().for_each(|tenant| tenant.join(endpoints, telemetry));
        }
    }

    /// Every policy in force.
    pub fn policies(&self) -> Vec<Arc<Policy>> {
        self.list()
            .iter()
            .filter_map(|host| host.policy(0))
            .flat_map(|tenant| [tenant.outbound.policy(), tenant.inbound.policy()])
            .collect()
    }
}
