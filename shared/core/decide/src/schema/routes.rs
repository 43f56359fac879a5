//! What traffic publishes: table `routes`. Keys are those of `sidecars/traffic/table.py`, whose `config.py` says what each
//! means and which defaults there are.

use std::collections::BTreeMap;

use serde::Deserialize;

use super::Balance;

/// The table.
#[derive(Clone, Debug, Default, Deserialize, PartialEq)]
#[serde(default)]
#[allow(missing_docs)]
pub struct Routes {
    pub zone: Option<String>,
    pub services: BTreeMap<String, Service>,
    pub rules: Vec<Rule>,
}

/// How one callee is called.
#[derive(Clone, Debug, Default, Deserialize, PartialEq)]
#[serde(default)]
#[allow(missing_docs)]
pub struct Service {
    pub balance: Option<Balance>,
    pub affinity: Option<Affinity>,
    pub slow_start_ms: u64,
    pub locality: Locality,
    pub subsets: BTreeMap<String, BTreeMap<String, String>>,
    pub split: BTreeMap<String, u32>,
    pub mirror: Option<Mirror>,
    pub fault: Option<Fault>,
    /// Calls are counted by endpoint: a canary is judged by them.
    pub counted: bool,
}

/// What keeps a session at one endpoint.
#[derive(Clone, Debug, Deserialize, PartialEq)]
#[allow(missing_docs)]
pub struct Affinity {
    pub cookie: Option<String>,
    pub header: Option<String>,
    pub ttl_s: Option<u64>,
}

/// Which endpoints come first.
#[derive(Clone, Copy, Debug, Default, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "snake_case")]
pub enum Locality {
    /// None.
    Off,
    /// Those in our zone, from six endpoints up.
    #[default]
    Zone,
    /// Those on our host, then those in our zone.
    Host,
}

/// A copy of requests.
#[derive(Clone, Debug, Deserialize, PartialEq)]
#[allow(missing_docs)]
pub struct Mirror {
    pub to: String,
    pub percent: f64,
}

/// An injected fault.
#[derive(Clone, Debug, Deserialize, PartialEq)]
#[allow(missing_docs)]
pub struct Fault {
    pub delay_ms: u64,
    pub abort: Option<u16>,
    pub percent: f64,
    pub until_unix_ms: Option<u64>,
}

/// One route.
#[derive(Clone, Debug, Default, Deserialize, PartialEq)]
#[serde(default)]
#[allow(missing_docs)]
pub struct Rule {
    pub name: String,
    pub inbound: bool,
    pub hosts: Vec<String>,
    pub matches: Vec<Match>,
    pub to: BTreeMap<String, u32>,
    pub rewrite: Option<Rewrite>,
    pub redirect: Option<Redirect>,
    pub request: Option<Headers>,
    pub response: Option<Headers>,
    pub request_ms: Option<u64>,
    pub backend_request_ms: Option<u64>,
    pub retries: Option<u8>,
    pub mirror: Option<Mirror>,
    pub fault: Option<Fault>,
    pub cors: Option<Cors>,
}

/// Conditions that must all hold.
#[derive(Clone, Debug, Default, Deserialize, PartialEq)]
#[serde(default)]
#[allow(missing_docs)]
pub struct Match {
    pub path: Option<String>,
    pub prefix: Option<String>,
    pub regex: Option<String>,
    pub method: Option<String>,
    pub headers: BTreeMap<String, Text>,
    pub query: BTreeMap<String, Text>,
    pub port: Option<u16>,
    pub source: Option<String>,
}

/// A condition on a text: one of the three.
#[derive(Clone, Debug, Default, Deserialize, PartialEq)]
#[serde(default)]
#[allow(missing_docs)]
pub struct Text {
    pub exact: Option<String>,
    pub regex: Option<String>,
    pub present: Option<bool>,
}

/// What replaces the path and the authority.
#[derive(Clone, Debug, Default, Deserialize, PartialEq)]
#[serde(default)]
#[allow(missing_docs)]
pub struct Rewrite {
    pub path: Option<String>,
    pub prefix: Option<String>,
    pub host: Option<String>,
}

/// Where the caller is sent.
#[derive(Clone, Debug, Deserialize, PartialEq)]
#[allow(missing_docs)]
pub struct Redirect {
    pub status: u16,
    pub scheme: Option<String>,
    pub host: Option<String>,
    pub port: Option<u16>,
    pub path: Option<String>,
    pub prefix: Option<String>,
}

/// Edits of a head.
#[derive(Clone, Debug, Default, Deserialize, PartialEq)]
#[serde(default)]
#[allow(missing_docs)]
pub struct Headers {
    pub set: BTreeMap<String, String>,
    pub add: BTreeMap<String, String>,
    pub remove: Vec<String>,
}

/// Cross-origin requests.
#[derive(Clone, Debug, Default, Deserialize, PartialEq)]
#[serde(default)]
#[allow(missing_docs)]
pub struct Cors {
    pub origins: Vec<String>,
    pub methods: Vec<String>,
    pub headers: Vec<String>,
    pub expose: Vec<String>,
    pub credentials: bool,
    pub max_age_s: u64,
}
