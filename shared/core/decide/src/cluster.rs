//! A callable service, or a subset of one, as a worker looks it up.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use pannier_table::hot::Place;
use pannier_table::layout::name_hash;

use crate::address::Address;
use crate::breaker::FailurePolicy;
use crate::hashing::HashTable;
use crate::limits::Limits;
use crate::live::ServiceLive;
use crate::rules::{Injection, MirrorTo, Split};
use crate::schema::Balance;
use crate::schema::central::Share;
use crate::schema::routes::{Affinity, Locality, Service};

/// Zones are looked at from so many endpoints up (Envoy's zone-aware routing).
pub const ZONES_FROM: usize = 6;

/// A callable service, or a subset of one.
#[derive(Debug)]
pub struct Cluster {
    /// The service's name.
    pub name: Box<str>,
    /// Its endpoints.
    pub endpoints: Vec<Endpoint>,
    /// How one of them is chosen.
    pub balance: Balance,
    /// For balancing by a session's hash.
    pub hashing: Option<HashTable>,
    /// What a session is known by.
    pub affinity: Option<Affinity>,
    /// How long a new endpoint starts slowly.
    pub slow_start_ns: u64,
    /// Not all endpoints are equally near.
    pub has_tiers: bool,
    /// Endpoints have breakers: who is out stays out (ADR 12).
    pub has_breakers: bool,
    /// Calls are counted by endpoint, for whoever judges them: a rule over intervals, or a canary.
    pub is_counted: bool,
    /// What holds for calls to it; none without resilience.
    pub limits: Option<Arc<Limits>>,
    /// What the process remembers of the service.
    pub live: Arc<ServiceLive>,
    /// Its subsets, each with its share, if calls to it are split.
    pub split: Option<Split>,
    #[allow(missing_docs)]
    pub mirror: Option<MirrorTo>,
    #[allow(missing_docs)]
    pub fault: Option<Injection>,
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
    /// Its hot words, if it has any.
    pub hot: Option<Place>,
    /// 0 = as near as can be; 1, 2 = further.
    pub tier: u8,
    /// Version, zone and what else it says of itself.
    pub metadata: Arc<BTreeMap<String, String>>,
    /// What it is called by whoever reaches it by way of a Central: its instance's name.
    pub id: Box<str>,
    /// Centrals by way of which a part of its requests goes.
    pub detours: Box<[Detour]>,
}

/// The way to an endpoint by a Central.
#[derive(Clone, Debug)]
pub struct Detour {
    /// The Central's gateway.
    pub address: SocketAddr,
    /// Joins what is known of this way: a hash of the endpoint's key and the address.
    pub key: u64,
    /// Of the endpoint's requests so many go this way, 0…1.
    pub share: f64,
}

impl Endpoint {
    /// The keys of all ways to it.
    pub fn keys(&self) -> impl Iterator<Item = u64> {
        self.detours.iter().map(|detour| detour.key).chain([self.key])
    }
}

impl Cluster {
    /// A service of which only its endpoints are known.
    #[must_use]
    pub fn plain(name: Box<str>, endpoints: Vec<Endpoint>, balance: Balance, live: Arc<ServiceLive>) -> Cluster {
        Cluster {
            name,
            endpoints,
            balance,
            hashing: None,
            affinity: None,
            slow_start_ns: 0,
            has_tiers: false,
            has_breakers: false,
            is_counted: false,
            limits: None,
            live,
            split: None,
            mirror: None,
            fault: None,
        }
    }

    /// It is the own app, which others call through us.
    #[must_use]
    pub fn is_app(&self) -> bool {
        self.live.name.is_empty()
    }

    /// The same service with the endpoints that have all of `labels`.
    #[must_use]
    pub fn subset(&self, labels: &BTreeMap<String, String>) -> Cluster {
        let has_all = |e: &&Endpoint| labels.iter().all(|(key, value)| e.metadata.get(key) == Some(value));
        let endpoints: Vec<_> = self.endpoints.iter().filter(has_all).cloned().collect();
        Cluster {
            affinity: self.affinity.clone(),
            slow_start_ns: self.slow_start_ns,
            is_counted: self.is_counted,
            has_tiers: endpoints.iter().any(|e| e.tier != 0) && self.has_tiers,
            hashing: hash_table(self.balance, &endpoints),
            mirror: self.mirror,
            fault: self.fault,
            ..Cluster::plain(self.name.clone(), endpoints, self.balance, self.live.clone())
        }
    }

    /// Takes in how traffic wants it to be called; `zone` is ours.
    pub fn take_service(&mut self, service: &Service, zone: Option<&str>) {
        self.balance = match (service.balance.unwrap_or(self.balance), &service.affinity) {
            (Balance::RingHash, _) => Balance::RingHash,
            (_, Some(_)) => Balance::Maglev,
            (balance, None) => balance,
        };
        self.affinity.clone_from(&service.affinity);
        self.is_counted = service.counted;
        self.slow_start_ns = service.slow_start_ms.saturating_mul(1_000_000);
        let zones = zone.filter(|_| self.endpoints.len() >= ZONES_FROM);
        for endpoint in &mut self.endpoints {
            endpoint.tier = tier(endpoint, service.locality, zones);
        }
        self.has_tiers = self.endpoints.iter().any(|e| Some(e.tier) != self.endpoints.first().map(|first| first.tier));
        self.hashing = hash_table(self.balance, &self.endpoints);
    }

    /// Takes in what resilience says of it.
    pub fn take_limits(&mut self, limits: Option<Arc<Limits>>) {
        self.has_breakers = limits.as_ref().is_some_and(|l| matches!(l.failure, FailurePolicy::Breaker(_)));
        self.is_counted |= limits.as_ref().is_some_and(|limits| limits.counted);
        self.limits = limits;
    }

    /// Who takes its endpoints out.
    #[must_use]
    pub fn failure_policy(&self) -> &FailurePolicy {
        self.limits.as_ref().map_or(&FailurePolicy::None, |limits| &limits.failure)
    }
}

fn hash_table(balance: Balance, endpoints: &[Endpoint]) -> Option<HashTable> {
    match balance {
        Balance::RingHash => Some(HashTable::ring(endpoints)),
        Balance::Maglev => Some(HashTable::maglev(endpoints)),
        _ => None,
    }
}

fn tier(endpoint: &Endpoint, locality: Locality, zone: Option<&str>) -> u8 {
    let in_zone = || zone.is_none() || endpoint.metadata.get("zone").map(String::as_str) == zone;
    match locality {
        Locality::Off => 0,
        Locality::Zone => u8::from(!in_zone()),
        Locality::Host if is_on_this_host(&endpoint.address) => 0,
        Locality::Host => 1 + u8::from(!in_zone()),
    }
}

fn is_on_this_host(address: &Address) -> bool {
    match address {
        Address::Unix(_) => true,
        Address::Ip(ip) => match ip.ip() {
            IpAddr::V4(v4) => v4.is_loopback(),
            IpAddr::V6(v6) => v6.is_loopback(),
        },
        Address::Name(name, _) => name == "localhost",
    }
}

/// What a table says of an endpoint.
pub(crate) struct Described<'a> {
    pub address: &'a str,
    pub weight: u32,
    pub healthy: bool,
    pub hot: Option<(u32, u16)>,
    pub metadata: &'a BTreeMap<String, String>,
    pub id: &'a str,
    pub centrals: &'a [Share],
}

/// Checks an endpoint of `cluster`.
pub(crate) fn endpoint(cluster: &str, described: &Described<'_>) -> Result<Endpoint, String> {
    let Described { address, weight, healthy, hot, metadata, id, centrals } = *described;
    if !(1..=1000).contains(&weight) {
        return Err(format!("{cluster}: weight {weight} of {address} is not within 1…1000"));
    }
    let parsed = Address::parse(address).map_err(|e| format!("{cluster}: {e}"))?;
    let detour = |share: &Share| {
        let gateway = share.address.parse().map_err(|_| format!("{cluster}: {:?} is no gateway", share.address))?;
        if !(0.0..=100.0).contains(&share.weight) {
            return Err(format!("{cluster}: a weight of {} by way of {gateway} is not within 0…100", share.weight));
        }
        let key = name_hash(format!("{cluster}|{address}|{gateway}").as_bytes());
        Ok(Detour { address: gateway, key, share: share.weight / 100.0 })
    };
    Ok(Endpoint {
        address: parsed,
        label: address.into(),
        key: name_hash(format!("{cluster}|{address}").as_bytes()),
        weight,
        healthy,
        hot: hot.map(|(slot, incarnation)| Place { slot, incarnation }),
        tier: 0,
        metadata: Arc::new(metadata.clone()),
        id: id.into(),
        detours: centrals.iter().map(detour).collect::<Result<_, String>>()?,
    })
}

/// Checks a cluster's name, and makes it lower case.
pub(crate) fn cluster_name(name: &str) -> Result<Box<str>, String> {
    let fits = !name.is_empty()
        && name.len() <= 63
        && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'.' || b == b'_');
    if fits { Ok(name.to_ascii_lowercase().into()) } else { Err(format!("{name:?} is no cluster name")) }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::indexing_slicing)]
pub(crate) mod tests {
    use super::*;

    /// Endpoints with these weights; the key of each is its index.
    pub fn endpoints(weights: &[u32]) -> Vec<Endpoint> {
        let nothing = BTreeMap::new();
        let one = |(index, weight): (usize, &u32)| {
            let address = format!("127.0.0.1:{}", index + 1);
            let described = Described {
                address: &address,
                weight: *weight,
                healthy: true,
                hot: None,
                metadata: &nothing,
                id: "",
                centrals: &[],
            };
            Endpoint { key: index as u64, ..endpoint("c", &described).unwrap() }
        };
        weights.iter().enumerate().map(one).collect()
    }

    /// A cluster of [`endpoints`].
    pub fn cluster(weights: &[u32], balance: Balance) -> Cluster {
        Cluster::plain("c".into(), endpoints(weights), balance, Arc::default())
    }

    fn at(mut endpoint: Endpoint, address: &str, zone: &str) -> Endpoint {
        endpoint.address = Address::parse(address).unwrap();
        endpoint.metadata = Arc::new([("zone".to_string(), zone.to_string())].into());
        endpoint
    }

    #[test]
    fn a_subset_has_the_endpoints_with_its_labels() {
        let mut whole = cluster(&[1, 1, 1], Balance::Maglev);
        let mut v2 = whole.endpoints.remove(1);
        v2.metadata = Arc::new([("version".to_string(), "2".to_string())].into());
        whole.endpoints.push(v2);
        let subset = whole.subset(&[("version".to_string(), "2".to_string())].into());
        assert_eq!(subset.endpoints.iter().map(|e| e.key).collect::<Vec<_>>(), [1]);
        assert_eq!(subset.hashing.and_then(|table| table.walk(9).next()), Some(0));
        assert!(whole.subset(&[("version".to_string(), "3".to_string())].into()).endpoints.is_empty());
    }

    #[test]
    fn zones_count_from_six_endpoints_up_and_the_host_always() {
        let six: Vec<_> = endpoints(&[1; 6])
            .into_iter()
            .enumerate()
            .map(|(i, e)| at(e, if i == 0 { "127.0.0.1:1" } else { "10.0.0.1:1" }, if i < 3 { "a" } else { "b" }))
            .collect();
        let tiers = |endpoints: &[Endpoint], locality| {
            let mut cluster = Cluster::plain("c".into(), endpoints.to_vec(), Balance::Random, Arc::default());
            cluster.take_service(&Service { locality, ..Service::default() }, Some("a"));
            cluster.endpoints.iter().map(|e| e.tier).collect::<Vec<_>>()
        };
        assert_eq!(tiers(&six, Locality::Zone), [0, 0, 0, 1, 1, 1]);
        assert_eq!(tiers(&six, Locality::Host), [0, 1, 1, 2, 2, 2]);
        assert_eq!(tiers(&six[1..], Locality::Zone), [0, 0, 0, 0, 0], "five are too few for zones");
        assert_eq!(tiers(&six, Locality::Off), [0; 6]);
    }
}
