//! What resilience publishes: table `limits`. Keys are those of `sidecars/resilience/table.py`, whose `config.py` says what
//! each means and which defaults there are.

use std::collections::BTreeMap;

use serde::Deserialize;

/// The table. The service `*` stands for every one that has no entry of its own.
#[derive(Clone, Debug, Default, Deserialize, PartialEq)]
#[serde(default)]
#[allow(missing_docs)]
pub struct Limits {
    pub services: BTreeMap<String, Service>,
    pub inbound: Inbound,
}

/// Calls to one service.
#[derive(Clone, Debug, Default, Deserialize, PartialEq)]
#[serde(default)]
#[allow(missing_docs)]
pub struct Service {
    pub breaker: Option<Breaker>,
    pub outlier: Option<Outlier>,
    pub service_breaker: Option<ServiceBreaker>,
    /// Calls are counted by endpoint: a rule over intervals judges them.
    pub counted: bool,
    /// What counts as a slow call; 0 = nothing does.
    pub slow_ms: u64,
    pub resources: Option<Resources>,
    pub retry: Option<Retry>,
    pub rate_limit: Option<RateLimit>,
    pub bulkhead: Option<Bulkhead>,
}

/// What others ask of us.
#[derive(Clone, Debug, Default, Deserialize, PartialEq)]
#[serde(default)]
#[allow(missing_docs)]
pub struct Inbound {
    pub rate_limit: Option<RateLimit>,
    pub bulkhead: Option<Bulkhead>,
    pub shedding: Option<Shedding>,
}

/// Endpoint breaker.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq)]
#[allow(missing_docs)]
pub struct Breaker {
    pub consecutive_failures: u16,
    pub penalty_min_ms: u64,
    pub penalty_max_ms: u64,
    pub jitter: f64,
}

/// Outlier ejection: what is decided with the request.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq)]
#[allow(missing_docs)]
pub struct Outlier {
    pub consecutive_5xx: u16,
    pub consecutive_gateway_failure: u16,
    pub consecutive_local_origin_failure: u16,
    pub enforcing_consecutive_5xx: f64,
    pub enforcing_consecutive_gateway_failure: f64,
    pub enforcing_consecutive_local_origin_failure: f64,
    pub base_ejection_ms: u64,
    pub max_ejection_ms: u64,
    pub interval_ms: u64,
    pub max_ejected_percent: f64,
}

/// Service breaker: its hot word, and what its half-open state lets through.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq)]
#[allow(missing_docs)]
pub struct ServiceBreaker {
    pub slot: u32,
    pub incarnation: u16,
    pub open_ms: u64,
    pub half_open_calls: u16,
}

/// Resource limits of one service.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq)]
#[allow(missing_docs)]
pub struct Resources {
    pub connections: u32,
    pub pending: u32,
    pub requests: u32,
    pub retries: u32,
}

/// What is tried again.
#[derive(Clone, Debug, Deserialize, PartialEq)]
#[allow(missing_docs)]
pub struct Retry {
    pub attempts: u8,
    pub on: Vec<RetryOn>,
    pub backoff_min_ms: u64,
    pub backoff_max_ms: u64,
    pub body_limit: usize,
    pub budget: Option<Budget>,
}

/// What may be tried again.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "kebab-case")]
pub enum RetryOn {
    /// 502, 503, 504.
    GatewayError,
    /// Any 5xx.
    #[serde(rename = "5xx")]
    ServerError,
    /// A connection that ended without an answer.
    Reset,
    /// An attempt that took too long.
    Timeout,
    /// 429.
    #[serde(rename = "429")]
    TooMany,
}

/// Retry budget.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq)]
#[allow(missing_docs)]
pub struct Budget {
    pub percent: f64,
    pub min_per_second: u32,
}

/// A token bucket.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq)]
#[allow(missing_docs)]
pub struct RateLimit {
    pub max: u32,
    pub fill: u32,
    pub interval_ms: u64,
    pub enabled: f64,
    pub enforced: f64,
}

/// A bound on what is under way.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq)]
#[allow(missing_docs)]
pub struct Bulkhead {
    pub concurrent: u32,
    pub wait_ms: u64,
}

/// Load shedding by criticality.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq)]
#[allow(missing_docs)]
pub struct Shedding {
    pub requests: u32,
    pub sheddable: f64,
    pub default: f64,
    pub trust: bool,
    pub enforced: f64,
}
