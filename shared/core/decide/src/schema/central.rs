//! How work leaves this host for a Central Mesh, or comes in if it is one: table `central`. Keys are those of
//! `supervisor/central_table.py`, whose settings (`shared/central.py`) say what each means and which defaults there are.

use pannier_central::config::Config;
use serde::Deserialize;

/// The table.
#[derive(Clone, Debug, Deserialize, PartialEq)]
#[allow(missing_docs)]
pub struct Central {
    pub service: String,
    pub addresses: Vec<String>,
    pub plain: Vec<String>,
    pub tls: Option<Tls>,
    pub outbound: Way,
    pub inbound: bool,
    pub instance: String,
    pub passthrough: Option<String>,
    pub listener: Option<String>,
    pub api: String,
    pub controller: Config,
    pub forced: Option<Forced>,
    pub gateway: Option<Gateway>,
}

/// Files in PEM.
#[derive(Clone, Debug, Deserialize, PartialEq, Eq)]
#[allow(missing_docs)]
pub struct Tls {
    pub certificate: String,
    pub key: String,
    pub authority: String,
}

/// How the app's calls leave.
#[derive(Clone, Copy, Debug, Default, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "snake_case")]
#[allow(missing_docs)]
pub enum Way {
    /// By the redirect if that can be, else by the relay.
    #[default]
    Best,
    Redirect,
    Relay,
    Off,
}

/// A weight that somebody asked for; another `id` is another asking.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq)]
#[allow(missing_docs)]
pub struct Forced {
    pub weight: f64,
    pub id: u64,
}

/// What a Central takes on.
#[derive(Clone, Debug, Deserialize, PartialEq)]
#[allow(missing_docs)]
pub struct Gateway {
    /// Requests a second that are granted at the most.
    pub capacity: f64,
    /// Hosts that are enrolled at the same time.
    pub hosts: usize,
    /// Where it is reached.
    pub address: String,
}

/// A Central's share of an endpoint's requests.
#[derive(Clone, Debug, Deserialize, PartialEq)]
#[allow(missing_docs)]
pub struct Share {
    pub address: String,
    /// Points: of a hundred requests so many go by way of it.
    pub weight: f64,
}
