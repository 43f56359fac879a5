//! The policy of a host, as a Central has it in force: the host's own tables, joined with the endpoints that the Central knows.
//!
//! What makes sense on that host alone is left out: addresses of its loopback and its sockets, the places of its hot words, the
//! breakers that its own resilience judges over intervals, its seed, its being about to end.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use pannier_decide::address::{Address, is_forbidden};
use pannier_decide::live::Live;
use pannier_decide::policy::{Policy, Tables, floor};
use pannier_decide::schema::{self, Endpoints, Lifecycle, StaticCluster, Telemetry, Unknown};

use crate::central::wire;

/// Both sides of it.
pub struct Tenant {
    revision: u64,
    /// What the host calls. Each host has its own, as at home: its limits are not those of all of its kind together.
    pub outbound: Side,
    /// What others call of the host: only its app, limits and routes.
    pub inbound: Side,
    /// Services that the host has endpoints of.
    services: Vec<String>,
    missing: Mutex<Vec<String>>,
}

/// A policy, and how often it has changed.
pub struct Side {
    tables: Tables,
    live: Live,
    policy: Mutex<Arc<Policy>>,
    version: AtomicU64,
}

impl Side {
    fn of(tables: Tables) -> Result<Side, String> {
        let live = Live::default();
        let policy = Arc::new(Policy::compile(&tables, &live)?);
        Ok(Side { tables, live, policy: Mutex::new(policy), version: AtomicU64::new(1) })
    }

    /// The policy in force.
    pub fn policy(&self) -> Arc<Policy> {
        self.policy.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Another number, another policy.
    pub fn version(&self) -> u64 {
        self.version.load(Ordering::Acquire)
    }

    fn join(&self, endpoints: Option<&Endpoints>, telemetry: Option<&Telemetry>) {
        let tables = Tables { endpoints: endpoints.cloned(), telemetry: telemetry.cloned(), ..self.tables.clone() };
        match Policy::compile(&tables, &self.live) {
            Ok(policy) => {
                *self.policy.lock().unwrap_or_else(PoisonError::into_inner) = Arc::new(policy);
                self.version.fetch_add(1, Ordering::Release);
            }
            Err(reason) => eprintln!("the policy of {} stays as it was: {reason}", self.tables.base.service),
        }
    }
}

impl Tenant {
    /// From what a host handed over.
    ///
    /// # Errors
    /// One line naming what does not hold.
    pub fn of(said: &wire::Policy, hello: &wire::Hello) -> Result<Tenant, String> {
        let mut tables = Tables::of(floor());
        tables.base = schema::decode(&said.base)?;
        tables.routes = decoded(&said.routes)?;
        tables.limits = decoded(&said.limits)?;
        tables.headers = decoded(&said.headers)?;
        if tables.base.service != hello.service {
            return Err(format!("a policy of {:?} from {:?}", tables.base.service, hello.service));
        }
        tables.base.lifecycle = Lifecycle::Serving;
        tables.base.seed = None;
        tables.base.clusters.iter_mut().for_each(leave_out);
        for service in tables.limits.iter_mut().flat_map(|limits| limits.services.values_mut()) {
            service.service_breaker = None;
            service.counted = false;
        }
        for service in tables.routes.iter_mut().flat_map(|routes| routes.services.values_mut()) {
            service.counted = false;
        }
        let mut inbound = tables.clone();
        inbound.base.app.clone_from(&hello.passthrough);
        tables.base.app = None;
        tables.base.outbound.unknown = Unknown::Deny;
        let missing = Mutex::default();
        Ok(Tenant {
            revision: said.revision,
            outbound: Side::of(tables)?,
            inbound: Side::of(inbound)?,
            services: said.services.clone(),
            missing,
        })
    }

    /// Which of the host's policies it is.
    pub fn revision(&self) -> u64 {
        self.revision
    }

    /// Joins it with what the Central knows.
    pub fn join(&self, endpoints: Option<&Endpoints>, telemetry: Option<&Telemetry>) {
        self.outbound.join(endpoints, telemetry);
        self.inbound.join(None, telemetry);
        let policy = self.outbound.policy();
        let has = |service: &&String| {
            let named = policy.by_name.get(service.to_ascii_lowercase().as_str());
            named.and_then(|named| policy.clusters.get(named.cluster)).is_some_and(|c| !c.endpoints.is_empty())
        };
        let missing = self.services.iter().filter(|service| !has(service)).cloned().collect();
        *self.missing.lock().unwrap_or_else(PoisonError::into_inner) = missing;
    }

    /// Services that the host calls, and whose endpoints are not known here.
    pub fn missing(&self) -> Vec<String> {
        self.missing.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

fn decoded<T: for<'de> serde::Deserialize<'de>>(payload: &[u8]) -> Result<Option<T>, String> {
    if payload.is_empty() { Ok(None) } else { schema::decode(payload).map(Some) }
}

/// Only what can be reached from elsewhere stays, without places in a segment that is not ours.
fn leave_out(cluster: &mut StaticCluster) {
    cluster.endpoints.retain(|endpoint| match Address::parse(&endpoint.address) {
        Ok(Address::Ip(address)) => !address.ip().to_canonical().is_loopback() && !is_forbidden(address.ip()),
        Ok(Address::Name(name, _)) => name != "localhost",
        Ok(Address::Unix(_)) | Err(_) => false,
    });
    cluster.endpoints.iter_mut().for_each(|endpoint| endpoint.slot = None);
}
