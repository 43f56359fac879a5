//! The tables joined into what a worker looks up: compiled off the request path, then swapped in whole.

use std::collections::BTreeMap;
use std::sync::Arc;

use pannier_table::kind::Kind;
use rustc_hash::FxHashMap;

use crate::cluster::{Cluster, Described, Endpoint, cluster_name, endpoint};
use crate::headers::HeaderPolicy;
use crate::limits::{Limits, check_inbound};
use crate::live::{Live, ServiceLive};
use crate::matching::Routes;
use crate::route_labels::RouteLabels;
use crate::rules::{Injection, MirrorTo, Rule, Split, within_a_day};
use crate::schema::limits::Inbound;
use crate::schema::{self, Balance, Base, Endpoints, Lifecycle, StaticEndpoint, Telemetry, Timeouts, Unknown};
use crate::trace;

/// Everything that decides about a request, except what changes faster (hot words, latencies).
#[derive(Debug)]
pub struct Policy {
    /// The own service.
    pub service: Box<str>,
    /// Whether new work is welcome.
    pub lifecycle: Lifecycle,
    /// Where inbound requests go; an index into `clusters`.
    pub app: Option<usize>,
    /// Inbound authorities beside the service's name, `localhost` and IP addresses.
    pub hosts: Vec<Box<str>>,
    /// Every inbound authority is welcome.
    pub any_host: bool,
    /// Proxies in front of the public listener that are believed.
    pub trusted_hops: usize,
    /// What happens to an unknown outbound authority.
    pub unknown: Unknown,
    /// Floor timeouts.
    pub timeouts: Timeouts,
    /// The app, then whatever can be called, then subsets.
    pub clusters: Vec<Cluster>,
    /// What a name leads to.
    pub by_name: FxHashMap<Box<str>, Named>,
    /// None = there is no observability: no records, no trace headers.
    pub telemetry: Option<CompiledTelemetry>,
    /// None = there is no traffic: no routes, no deadlines, no affinity.
    pub traffic: Option<Traffic>,
    /// None = there is no resilience: nothing inbound is limited.
    pub inbound_limits: Option<Inbound>,
    /// None = there is no header policy.
    pub headers: Option<HeaderPolicy>,
    /// What the process remembers of inbound requests.
    pub inbound_live: Arc<ServiceLive>,
    /// Makes random choices repeatable.
    pub seed: Option<u64>,
    /// Some endpoint is reached by way of a Central, in part.
    pub has_detours: bool,
}

/// What the name of a service leads to.
#[derive(Clone, Copy, Debug)]
pub struct Named {
    /// Its cluster.
    pub cluster: usize,
    /// The outbound routes that name it as their host.
    pub routes: Option<usize>,
}

/// Routes that are in force.
#[derive(Debug)]
pub struct Traffic {
    #[allow(missing_docs)]
    pub outbound: Side,
    #[allow(missing_docs)]
    pub inbound: Side,
}

/// The routes of one side: which one matches, and what it does.
#[derive(Debug)]
pub struct Side {
    #[allow(missing_docs)]
    pub routes: Routes,
    /// By the route's number.
    pub rules: Vec<Rule>,
}

/// Telemetry that is switched on.
#[derive(Debug)]
pub struct CompiledTelemetry {
    /// One record a request.
    pub access_log: bool,
    /// See [`trace::threshold`].
    pub threshold: u64,
    /// Labels of paths.
    pub labels: RouteLabels,
}

/// The tables in force; an absent one is an absent capability.
#[derive(Clone, Debug)]
#[allow(missing_docs)]
pub struct Tables {
    pub base: Base,
    pub endpoints: Option<Endpoints>,
    pub telemetry: Option<Telemetry>,
    pub routes: Option<schema::routes::Routes>,
    pub limits: Option<schema::limits::Limits>,
    pub headers: Option<schema::headers::Headers>,
    pub central: Option<schema::central::Central>,
}

impl Tables {
    /// Only what the supervisor says.
    #[must_use]
    pub fn of(base: Base) -> Tables {
        Tables { base, endpoints: None, telemetry: None, routes: None, limits: None, headers: None, central: None }
    }

    /// Takes in a table's payload, or its absence.
    ///
    /// # Errors
    /// One line naming the field and what was expected.
    pub fn take(&mut self, kind: Kind, payload: Option<&[u8]>) -> Result<(), String> {
        match kind {
            Kind::Base => self.base = payload.map_or_else(|| Ok(floor()), schema::decode)?,
            Kind::Endpoints => self.endpoints = payload.map(schema::decode).transpose()?,
            Kind::Telemetry => self.telemetry = payload.map(schema::decode).transpose()?,
            Kind::Routes => self.routes = payload.map(schema::decode).transpose()?,
            Kind::Limits => self.limits = payload.map(schema::decode).transpose()?,
            Kind::Headers => self.headers = payload.map(schema::decode).transpose()?,
            Kind::Central => self.central = payload.map(schema::decode).transpose()?,
        }
        Ok(())
    }
}

/// The name under which the app is a cluster.
pub const APP: &str = "app";
/// The service whose limits hold for all that have none of their own.
const EVERY: &str = "*";

impl Policy {
    /// Joins the tables. What is remembered of services comes from `live`.
    ///
    /// # Errors
    /// One line naming what does not hold; the caller keeps the policy it has.
    pub fn compile(tables: &Tables, live: &Live) -> Result<Policy, String> {
        let base = &tables.base;
        let mut clusters = Clusters { all: Vec::new(), by_target: FxHashMap::default(), live, balance: base.balance };
        clusters.take_app(base)?;
        let app = (!clusters.all.is_empty()).then_some(0);
        clusters.take_discovered(tables.endpoints.as_ref())?;
        clusters.take_static(base)?;
        let traffic = tables.routes.as_ref().map(|routes| clusters.take_routes(routes, &base.service)).transpose()?;
        let outbound = traffic.as_ref().map(|traffic| &traffic.outbound.routes);
        let mut by_name = FxHashMap::default();
        for (name, cluster) in clusters.by_target.iter().filter(|(target, _)| !target.contains('/')) {
            let routes = outbound.and_then(|routes| routes.of_host(name));
            by_name.insert(name.clone(), Named { cluster: *cluster, routes });
        }
        if let Some(limits) = &tables.limits {
            clusters.take_limits(limits)?;
            check_inbound(&limits.inbound)?;
        }
        check_timeouts(&base.timeouts)?;
        Ok(Policy {
            service: base.service.as_str().into(),
            lifecycle: base.lifecycle,
            app,
            trusted_hops: base.inbound.trusted_hops,
            any_host: base.inbound.hosts.iter().any(|h| h == "*"),
            hosts: base.inbound.hosts.iter().map(|h| h.to_ascii_lowercase().into()).collect(),
            unknown: base.outbound.unknown,
            timeouts: base.timeouts,
            has_detours: clusters.all.iter().flat_map(|c| &c.endpoints).any(|e| !e.detours.is_empty()),
            clusters: clusters.all,
            by_name,
            telemetry: tables.telemetry.as_ref().map(compile_telemetry).transpose()?,
            traffic,
            headers: tables.headers.as_ref().map(HeaderPolicy::compile).transpose()?,
            inbound_limits: tables.limits.as_ref().map(|limits| limits.inbound.clone()),
            inbound_live: live.of(""),
            seed: base.seed,
        })
    }

    /// The label of a path; empty without telemetry.
    #[must_use]
    pub fn route_label(&self, path: &str) -> &str {
        self.telemetry.as_ref().map_or("", |t| t.labels.label(path))
    }
}

/// Clusters while they are joined. A target is `SERVICE` or `SERVICE/SUBSET`.
struct Clusters<'l> {
    all: Vec<Cluster>,
    by_target: FxHashMap<Box<str>, usize>,
    live: &'l Live,
    balance: Balance,
}

impl Clusters<'_> {
    fn add(&mut self, name: Box<str>, endpoints: Vec<Endpoint>) -> usize {
        let index = self.all.len();
        let live = self.live.of(&name);
        self.all.push(Cluster::plain(name.clone(), endpoints, self.balance, live));
        self.by_target.insert(name, index);
        index
    }

    fn take_app(&mut self, base: &Base) -> Result<(), String> {
        if let Some(address) = &base.app {
            let nothing = BTreeMap::new();
            let described =
                Described { address, weight: 1, healthy: true, hot: None, metadata: &nothing, id: "", centrals: &[] };
            let only = vec![endpoint(APP, &described)?];
            self.all.push(Cluster::plain(APP.into(), only, self.balance, self.live.of("")));
        }
        Ok(())
    }

    fn take_discovered(&mut self, table: Option<&Endpoints>) -> Result<(), String> {
        for discovered in table.iter().flat_map(|table| &table.clusters) {
            let name = cluster_name(&discovered.name)?;
            if self.by_target.contains_key(&name) {
                return Err(format!("cluster {name:?} appears twice"));
            }
            let described = discovered.endpoints.iter().map(|e| Described {
                address: &e.address,
                weight: e.weight,
                healthy: e.healthy,
                hot: Some((e.slot, e.incarnation)),
                metadata: &e.metadata,
                id: &e.id,
                centrals: &e.centrals,
            });
            let all = described.map(|e| endpoint(&name, &e)).collect::<Result<_, _>>()?;
            self.add(name, all);
        }
        Ok(())
    }

    fn take_static(&mut self, base: &Base) -> Result<(), String> {
        for fixed in &base.clusters {
            let name = cluster_name(&fixed.name)?;
            if self.by_target.contains_key(&name) {
                continue;
            }
            let described = fixed.endpoints.iter().map(|e: &StaticEndpoint| Described {
                address: &e.address,
                weight: e.weight,
                healthy: true,
                hot: e.slot.map(|slot| (slot, e.incarnation)),
                metadata: &e.metadata,
                id: "",
                centrals: &[],
            });
            let all = described.map(|e| endpoint(&name, &e)).collect::<Result<_, _>>()?;
            self.add(name, all);
        }
        Ok(())
    }

    /// The cluster of a target. A service that nobody knows (yet) has no endpoints: its calls fail by name, as with any
    /// service that lost its last one, and everything else of the table holds (ADR 14).
    fn target(&mut self, target: &str, subsets: &BTreeMap<String, schema::routes::Service>) -> Result<usize, String> {
        let target = target.to_ascii_lowercase();
        if let Some(index) = self.by_target.get(target.as_str()) {
            return Ok(*index);
        }
        let (service, subset) = target.split_once('/').map_or((target.as_str(), None), |(s, n)| (s, Some(n)));
        let name = cluster_name(service)?;
        let whole = match self.by_target.get(&name) {
            Some(index) => *index,
            None => self.add(name, Vec::new()),
        };
        let Some(subset) = subset else {
            return Ok(whole);
        };
        let labels = subsets
            .get(service)
            .and_then(|service| service.subsets.get(subset))
            .ok_or_else(|| format!("{target:?}: the service has no such subset"))?;
        let cluster = self.all.get(whole).map(|cluster| cluster.subset(labels)).ok_or("no cluster")?;
        self.all.push(cluster);
        let index = self.all.len() - 1;
        self.by_target.insert(target.into(), index);
        Ok(index)
    }

    fn take_routes(&mut self, table: &schema::routes::Routes, service: &str) -> Result<Traffic, String> {
        let services = &table.services;
        for (name, service) in services {
            let affinity = service.affinity.as_ref();
            if let Some(cookie) = affinity.and_then(|affinity| affinity.cookie.as_deref()).filter(|c| !is_token(c)) {
                return Err(format!("service {name:?}: affinity.cookie: {cookie:?} is no cookie's name"));
            }
            let index = self.target(name, services)?;
            if let Some(cluster) = self.all.get_mut(index) {
                cluster.take_service(service, table.zone.as_deref());
            }
        }
        let plain = schema::routes::Service::default();
        let unnamed = |cluster: &&mut Cluster| !cluster.is_app() && !services.contains_key(&*cluster.name);
        for cluster in self.all.iter_mut().filter(unnamed) {
            cluster.take_service(&plain, table.zone.as_deref());
        }
        for (name, service) in services {
            self.take_experiments(name, service, services).map_err(|reason| format!("service {name:?}: {reason}"))?;
        }
        Ok(Traffic { outbound: self.take_side(table, service, false)?, inbound: self.take_side(table, service, true)? })
    }

    /// Mirror and fault hold whichever subset is called; the split is the whole service's.
    fn take_experiments(
        &mut self,
        name: &str,
        service: &schema::routes::Service,
        services: &BTreeMap<String, schema::routes::Service>,
    ) -> Result<(), String> {
        let fault = service.fault.as_ref().map(Injection::compile).transpose()?;
        let mut target = |target: &str| self.target(target, services);
        let mirror = service.mirror.as_ref().map(|mirror| MirrorTo::compile(mirror, &mut target)).transpose()?;
        let mut subset = |subset: &str| target(&format!("{name}/{subset}"));
        let weights = service.split.iter().map(|(subset, weight)| (subset.as_str(), *weight));
        let split = if service.split.is_empty() { None } else { Some(Split::compile(weights, &mut subset)?) };
        for cluster in self.all.iter_mut().filter(|cluster| cluster.name.eq_ignore_ascii_case(name)) {
            (cluster.mirror, cluster.fault) = (mirror, fault);
        }
        let whole = self.target(name, services)?;
        if let Some(cluster) = self.all.get_mut(whole) {
            cluster.split = split;
        }
        Ok(())
    }

    fn take_side(&mut self, table: &schema::routes::Routes, service: &str, inbound: bool) -> Result<Side, String> {
        let of_side = || table.rules.iter().filter(|rule| rule.inbound == inbound);
        let rules = of_side()
            .map(|rule| Rule::compile(rule, |target| self.target(target, &table.services)))
            .collect::<Result<_, _>>()?;
        Ok(Side { routes: Routes::compile(of_side(), service)?, rules })
    }

    fn take_limits(&mut self, table: &schema::limits::Limits) -> Result<(), String> {
        let mut compiled: FxHashMap<&str, Arc<Limits>> = FxHashMap::default();
        for (name, service) in &table.services {
            compiled.insert(name, Arc::new(Limits::compile(name, service)?));
        }
        let of = |name: &str| compiled.get(name).or_else(|| compiled.get(EVERY)).cloned();
        for cluster in self.all.iter_mut().filter(|cluster| !cluster.is_app()) {
            let limits = of(&cluster.name);
            cluster.take_limits(limits);
        }
        Ok(())
    }
}

/// It is written into answers as it stands.
fn is_token(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|b| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&b))
}

fn check_timeouts(timeouts: &Timeouts) -> Result<(), String> {
    let Timeouts { header_ms, idle_ms, connect_ms, request_ms, drain_ms } = *timeouts;
    for (name, ms) in [
        ("header", header_ms),
        ("idle", idle_ms),
        ("connect", connect_ms),
        ("request", request_ms),
        ("drain", drain_ms),
    ] {
        within_a_day(&format!("timeouts.{name}"), ms)?;
    }
    Ok(())
}

fn compile_telemetry(table: &Telemetry) -> Result<CompiledTelemetry, String> {
    if !(0.0..=1.0).contains(&table.sample_ratio) {
        return Err(format!("sample_ratio {} is not within 0…1", table.sample_ratio));
    }
    Ok(CompiledTelemetry {
        access_log: table.access_log,
        threshold: trace::threshold(table.sample_ratio),
        labels: RouteLabels::compile(&table.routes)?,
    })
}

/// Checks a payload of `kind` alone, as its writer does before it publishes.
///
/// # Errors
/// One line naming the field and what was expected.
pub fn validate(kind: Kind, payload: &[u8]) -> Result<(), String> {
    let mut tables = Tables::of(floor());
    tables.take(kind, Some(payload))?;
    Policy::compile(&tables, &Live::default()).map(drop)
}

/// What holds before the supervisor published anything: nothing is known, nothing is served.
#[must_use]
pub fn floor() -> Base {
    Base {
        service: String::new(),
        lifecycle: Lifecycle::Serving,
        app: None,
        inbound: schema::Inbound::default(),
        outbound: schema::Outbound::default(),
        balance: Balance::default(),
        timeouts: Timeouts::default(),
        clusters: Vec::new(),
        seed: None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::schema::routes::{Affinity, Service};

    #[test]
    fn a_cookie_is_named_by_a_token() {
        let compiles = |cookie: &str| {
            let affinity = Affinity { cookie: Some(cookie.into()), header: None, ttl_s: None };
            let service = Service { affinity: Some(affinity), ..Service::default() };
            let services = BTreeMap::from([("orders".to_string(), service)]);
            let routes = schema::routes::Routes { services, ..schema::routes::Routes::default() };
            Policy::compile(&Tables { routes: Some(routes), ..Tables::of(floor()) }, &Live::default()).is_ok()
        };
        assert!(compiles("session-id"));
        for bad in ["", "a b", "a=b", "a;b", "a\r\nset-cookie: b"] {
            assert!(!compiles(bad), "{bad:?}");
        }
    }
}
