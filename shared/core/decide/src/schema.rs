//! The payloads of the tables: msgpack maps with these keys. Unknown keys are ignored, so a newer writer may add some.

use std::collections::BTreeMap;

use serde::Deserialize;

pub mod central;
pub mod headers;
pub mod limits;
pub mod routes;

/// What the supervisor publishes: enough for the plain thing when no other table exists.
#[derive(Clone, Debug, Deserialize, PartialEq)]
#[allow(missing_docs)]
pub struct Base {
    pub service: String,
    pub lifecycle: Lifecycle,
    /// `host:port` or `unix:/path`; none for a service that only calls others.
    pub app: Option<String>,
    #[serde(default)]
    pub inbound: Inbound,
    #[serde(default)]
    pub outbound: Outbound,
    #[serde(default)]
    pub balance: Balance,
    #[serde(default)]
    pub timeouts: Timeouts,
    #[serde(default)]
    pub clusters: Vec<StaticCluster>,
    /// Makes every random choice repeatable (stage `test`); the workers' numbers are added to it.
    #[serde(default)]
    pub seed: Option<u64>,
}

/// Whether new work is welcome.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "snake_case")]
pub enum Lifecycle {
    /// Yes.
    Serving,
    /// Requests in flight and those that still arrive are served, each on a connection that then closes.
    Draining,
}

/// The public listener.
#[derive(Clone, Debug, Default, Deserialize, PartialEq)]
#[serde(default)]
pub struct Inbound {
    /// Authorities accepted beside the service's name, `localhost` and IP addresses; `*` = all.
    pub hosts: Vec<String>,
    /// Proxies in front of this one that append to the list of addresses that a request came from.
    pub trusted_hops: usize,
}

/// The app's listener for calls to others.
#[derive(Clone, Copy, Debug, Default, Deserialize, PartialEq, Eq)]
#[serde(default)]
pub struct Outbound {
    /// What happens to an authority that is no cluster.
    pub unknown: Unknown,
}

/// What happens to an unknown authority.
#[derive(Clone, Copy, Debug, Default, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "snake_case")]
pub enum Unknown {
    /// It is resolved and dialled; link-local and metadata addresses never are.
    Passthrough,
    /// It is refused.
    #[default]
    Deny,
}

/// How an endpoint of a cluster is chosen.
#[derive(Clone, Copy, Debug, Default, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "snake_case")]
pub enum Balance {
    /// The better of two random ones by peak-EWMA of the latency.
    #[default]
    P2cEwma,
    /// The one of two random ones with less under way, by weight.
    LeastRequest,
    /// One after another, by weight.
    RoundRobin,
    /// Any, by weight.
    Random,
    /// By a hash of the session, on a ring (ketama).
    RingHash,
    /// By a hash of the session, in Maglev's table.
    Maglev,
}

/// Floor timeouts, milliseconds; 0 = off.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq)]
#[serde(default)]
#[allow(missing_docs)]
pub struct Timeouts {
    pub header_ms: u64,
    pub idle_ms: u64,
    pub connect_ms: u64,
    pub request_ms: u64,
    pub drain_ms: u64,
}

impl Default for Timeouts {
    fn default() -> Self {
        Timeouts { header_ms: 10_000, idle_ms: 60_000, connect_ms: 1_000, request_ms: 15_000, drain_ms: 10_000 }
    }
}

/// A cluster of the profile's file.
#[derive(Clone, Debug, Deserialize, PartialEq)]
#[allow(missing_docs)]
pub struct StaticCluster {
    pub name: String,
    pub endpoints: Vec<StaticEndpoint>,
}

/// An endpoint of the profile's file.
#[derive(Clone, Debug, Deserialize, PartialEq)]
#[allow(missing_docs)]
pub struct StaticEndpoint {
    pub address: String,
    #[serde(default = "one")]
    pub weight: u32,
    /// Its hot word, if it has one.
    #[serde(default)]
    pub slot: Option<u32>,
    #[serde(default)]
    pub incarnation: u16,
    #[serde(default)]
    pub metadata: BTreeMap<String, String>,
}

fn one() -> u32 {
    1
}

/// What discovery publishes.
#[derive(Clone, Debug, Deserialize, PartialEq)]
#[allow(missing_docs)]
pub struct Endpoints {
    pub clusters: Vec<DiscoveredCluster>,
}

/// A cluster that discovery knows.
#[derive(Clone, Debug, Deserialize, PartialEq)]
#[allow(missing_docs)]
pub struct DiscoveredCluster {
    pub name: String,
    pub endpoints: Vec<DiscoveredEndpoint>,
}

/// An endpoint that discovery knows.
#[derive(Clone, Debug, Deserialize, PartialEq)]
#[allow(missing_docs)]
pub struct DiscoveredEndpoint {
    pub id: String,
    pub address: String,
    #[serde(default = "one")]
    pub weight: u32,
    #[serde(default = "yes")]
    pub healthy: bool,
    /// Its hot word.
    pub slot: u32,
    /// Which holder of the slot it is.
    pub incarnation: u16,
    #[serde(default)]
    pub metadata: BTreeMap<String, String>,
    /// Centrals by way of which a part of its requests goes.
    #[serde(default)]
    pub centrals: Vec<central::Share>,
}

fn yes() -> bool {
    true
}

/// What observability publishes.
#[derive(Clone, Debug, Deserialize, PartialEq)]
#[allow(missing_docs)]
pub struct Telemetry {
    pub access_log: bool,
    /// Share of new traces that are recorded, 0…1.
    pub sample_ratio: f64,
    /// Path templates that label requests.
    #[serde(default)]
    pub routes: Vec<String>,
}

/// Decodes a payload.
///
/// # Errors
/// One line that names the field and what was expected.
pub fn decode<T: for<'de> Deserialize<'de>>(payload: &[u8]) -> Result<T, String> {
    rmp_serde::from_slice(payload).map_err(|e| e.to_string())
}
