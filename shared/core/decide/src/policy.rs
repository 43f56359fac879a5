//! The tables joined into what a worker looks up: compiled off the request path, then swapped in whole.

use std::collections::HashMap;

use pannier_table::layout::name_hash;

use crate::address::Address;
use crate::route_labels::RouteLabels;
use crate::schema::{Balance, Base, Endpoints, Lifecycle, Telemetry, Timeouts, Unknown};
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
    /// What happens to an unknown outbound authority.
    pub unknown: Unknown,
    /// How an endpoint is chosen.
    pub balance: Balance,
    /// Floor timeouts.
    pub timeouts: Timeouts,
    /// The app, then whatever can be called.
    pub clusters: Vec<Cluster>,
    /// Cluster by name.
    pub by_name: HashMap<Box<str>, usize>,
    /// None = there is no observability: no records, no trace headers.
    pub telemetry: Option<CompiledTelemetry>,
}

/// A callable service.
#[derive(Debug)]
pub struct Cluster {
    /// Its name.
    pub name: Box<str>,
    /// Its endpoints.
    pub endpoints: Vec<Endpoint>,
}

/// One instance of a service.
#[derive(Clone, Debug)]
pub struct Endpoint {
    /// Where it listens.
    pub address: Address,
    /// The address as text, for logs.
    pub label: Box<str>,
    /// Joins what is known of it across snapshots: a hash of cluster and address.
    pub key: u64,
    /// Its share of the load.
    pub weight: u32,
    /// Whether discovery thinks it can serve.
    pub healthy: bool,
    /// Its hot word and incarnation, if discovery gave it one.
    pub hot: Option<(u32, u16)>,
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

/// The name under which the app is a cluster.
pub const APP: &str = "app";

impl Policy {
    /// Joins the tables. An absent `endpoints` leaves the static ones; an absent `telemetry` leaves none.
    ///
    /// # Errors
    /// One line naming what does not hold; the caller keeps the policy it has.
    pub fn compile(
        base: &Base,
        endpoints: Option<&Endpoints>,
        telemetry: Option<&Telemetry>,
    ) -> Result<Policy, String> {
        let mut clusters = Vec::new();
        if let Some(app) = &base.app {
            clusters.push(Cluster { name: APP.into(), endpoints: vec![endpoint(APP, app, 1, true, None)?] });
        }
        let app = (!clusters.is_empty()).then_some(0);
        let mut by_name: HashMap<Box<str>, usize> = HashMap::new();
        for discovered in endpoints.iter().flat_map(|table| &table.clusters) {
            let name = cluster_name(&discovered.name)?;
            let all = discovered
                .endpoints
                .iter()
                .map(|e| endpoint(&name, &e.address, e.weight, e.healthy, Some((e.slot, e.incarnation))))
                .collect::<Result<_, _>>()?;
            if by_name.insert(name.clone(), clusters.len()).is_some() {
                return Err(format!("cluster {name:?} appears twice"));
            }
            clusters.push(Cluster { name, endpoints: all });
        }
        for fixed in &base.clusters {
            let name = cluster_name(&fixed.name)?;
            if by_name.contains_key(&name) {
                continue;
            }
            let all = fixed
                .endpoints
                .iter()
                .map(|e| endpoint(&name, &e.address, e.weight, true, None))
                .collect::<Result<_, _>>()?;
            by_name.insert(name.clone(), clusters.len());
            clusters.push(Cluster { name, endpoints: all });
        }
        check_timeouts(&base.timeouts)?;
        Ok(Policy {
            service: base.service.as_str().into(),
            lifecycle: base.lifecycle,
            app,
            any_host: base.inbound.hosts.iter().any(|h| h == "*"),
            hosts: base.inbound.hosts.iter().map(|h| h.to_ascii_lowercase().into()).collect(),
            unknown: base.outbound.unknown,
            balance: base.balance,
            timeouts: base.timeouts,
            clusters,
            by_name,
            telemetry: telemetry.map(compile_telemetry).transpose()?,
        })
    }

    /// The label of a path; empty without telemetry.
    #[must_use]
    pub fn route_label(&self, path: &str) -> &str {
        self.telemetry.as_ref().map_or("", |t| t.labels.label(path))
    }
}

/// No timeout is longer than a day: more is a mistake in a unit.
fn check_timeouts(timeouts: &Timeouts) -> Result<(), String> {
    let Timeouts { header_ms, idle_ms, connect_ms, request_ms, drain_ms } = *timeouts;
    let all = [
        ("header", header_ms),
        ("idle", idle_ms),
        ("connect", connect_ms),
        ("request", request_ms),
        ("drain", drain_ms),
    ];
    match all.into_iter().find(|(_, ms)| *ms > 86_400_000) {
        Some((name, ms)) => Err(format!("timeouts.{name}_ms {ms} is longer than a day")),
        None => Ok(()),
    }
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

fn cluster_name(name: &str) -> Result<Box<str>, String> {
    let fits = !name.is_empty()
        && name.len() <= 63
        && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'.' || b == b'_');
    if fits { Ok(name.to_ascii_lowercase().into()) } else { Err(format!("{name:?} is no cluster name")) }
}

fn endpoint(
    cluster: &str,
    address: &str,
    weight: u32,
    healthy: bool,
    hot: Option<(u32, u16)>,
) -> Result<Endpoint, String> {
    if !(1..=1000).contains(&weight) {
        return Err(format!("{cluster}: weight {weight} of {address} is not within 1…1000"));
    }
    let parsed = Address::parse(address).map_err(|e| format!("{cluster}: {e}"))?;
    let key = name_hash(format!("{cluster}|{address}").as_bytes());
    Ok(Endpoint { address: parsed, label: address.into(), key, weight, healthy, hot })
}

/// Checks a payload of `kind` alone, as its writer does before it publishes.
///
/// # Errors
/// One line naming the field and what was expected.
pub fn validate(kind: pannier_table::kind::Kind, payload: &[u8]) -> Result<(), String> {
    use pannier_table::kind::Kind;
    match kind {
        Kind::Base => {
            Policy::compile(&crate::schema::decode(payload)?, None, None)?;
        }
        Kind::Endpoints => {
            let table = crate::schema::decode(payload)?;
            Policy::compile(&floor(), Some(&table), None)?;
        }
        Kind::Telemetry => {
            let table = crate::schema::decode(payload)?;
            Policy::compile(&floor(), None, Some(&table))?;
        }
    }
    Ok(())
}

/// What holds before the supervisor published anything: nothing is known, nothing is served.
#[must_use]
pub fn floor() -> Base {
    Base {
        service: String::new(),
        lifecycle: Lifecycle::Serving,
        app: None,
        inbound: crate::schema::Inbound::default(),
        outbound: crate::schema::Outbound::default(),
        balance: Balance::default(),
        timeouts: Timeouts::default(),
        clusters: Vec::new(),
    }
}
