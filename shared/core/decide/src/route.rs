//! Where a request goes: by the first route that matches it, else by its authority.

use std::net::IpAddr;

use crate::matching::View;
use crate::policy::{Policy, Side};
use crate::rules::Rule;
use crate::schema::Unknown;

/// Where a request goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Route {
    /// To a cluster of the policy.
    Cluster(usize),
    /// To the authority itself, resolved when it is dialled.
    Passthrough,
    /// Nowhere: there is no such authority.
    Unknown,
    /// Nowhere: no app is configured behind the public listener.
    NoApp,
}

/// A route, and the rule that it follows from, if one did.
#[derive(Clone, Copy, Debug)]
pub struct Routed<'p> {
    #[allow(missing_docs)]
    pub route: Route,
    #[allow(missing_docs)]
    pub rule: Option<&'p Rule>,
}

fn matching<'p>(side: Option<&'p Side>, view: &View<'_>) -> Option<&'p Rule> {
    let side = side?;
    side.rules.get(side.routes.find(view)?)
}

/// The route of a request that came from outside. Never resolved.
#[must_use]
pub fn inbound<'p>(policy: &'p Policy, view: &View<'_>) -> Routed<'p> {
    let host = view.host;
    let is_ours = policy.any_host
        || host.is_empty()
        || host.eq_ignore_ascii_case(&policy.service)
        || host.eq_ignore_ascii_case("localhost")
        || host.trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>().is_ok()
        || policy.hosts.iter().any(|known| known.eq_ignore_ascii_case(host));
    let route = match (is_ours, policy.app) {
        (false, _) => return Routed { route: Route::Unknown, rule: None },
        (true, Some(app)) => Route::Cluster(app),
        (true, None) => Route::NoApp,
    };
    Routed { route, rule: matching(policy.traffic.as_ref().map(|traffic| &traffic.inbound), view) }
}

/// The route of a request that the app sent. `id` is a hash of the request's id: it draws the shares of a split.
#[must_use]
pub fn outbound<'p>(policy: &'p Policy, view: &View<'_>, id: impl Fn() -> u64) -> Routed<'p> {
    let rule = matching(policy.traffic.as_ref().map(|traffic| &traffic.outbound), view);
    let named = match rule.and_then(|rule| rule.to.as_ref()) {
        Some(split) => split.pick(id()),
        None => by_host(policy, view.host),
    };
    let route = match named {
        Some(index) => {
            let share = policy.clusters.get(index).and_then(|cluster| cluster.split.as_ref());
            Route::Cluster(share.and_then(|split| split.pick(id())).unwrap_or(index))
        }
        None => match policy.unknown {
            Unknown::Passthrough if !view.host.is_empty() => Route::Passthrough,
            _ => Route::Unknown,
        },
    };
    Routed { route, rule }
}

fn by_host(policy: &Policy, host: &str) -> Option<usize> {
    let mut lower = [0_u8; 64];
    let lower = lower.get_mut(..host.len())?;
    lower.copy_from_slice(host.as_bytes());
    lower.make_ascii_lowercase();
    policy.by_name.get(std::str::from_utf8(lower).ok()?).copied()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::live::Live;
    use crate::policy::{Tables, floor};
    use crate::schema::{StaticCluster, StaticEndpoint};

    fn policy(unknown: Unknown) -> Policy {
        let mut base = floor();
        base.service = "shop".into();
        base.app = Some("127.0.0.1:8080".into());
        base.outbound.unknown = unknown;
        base.inbound.hosts = vec!["Shop.Example".into()];
        let endpoints = vec![StaticEndpoint {
            address: "127.0.0.1:1".into(),
            weight: 1,
            slot: None,
            incarnation: 0,
            metadata: std::collections::BTreeMap::new(),
        }];
        base.clusters = vec![StaticCluster { name: "Orders".into(), endpoints }];
        #[allow(clippy::unwrap_used)]
        Policy::compile(&Tables::of(base), &Live::default()).unwrap()
    }

    fn view(host: &str) -> View<'_> {
        View { host, port: 80, method: "GET", target: "/", field: &|_| None }
    }

    fn outbound(policy: &Policy, host: &str) -> Route {
        super::outbound(policy, &view(host), || 0).route
    }

    #[test]
    fn inbound_serves_what_is_ours_and_resolves_nothing() {
        let policy = policy(Unknown::Passthrough);
        for ours in ["shop", "SHOP", "localhost", "10.1.2.3", "[::1]", "shop.example", ""] {
            assert_eq!(inbound(&policy, &view(ours)).route, Route::Cluster(0), "{ours}");
        }
        for foreign in ["evil.example", "orders", "shop.evil"] {
            assert_eq!(inbound(&policy, &view(foreign)).route, Route::Unknown, "{foreign}");
        }
    }

    #[test]
    fn outbound_knows_clusters_and_treats_the_rest_as_the_profile_says() {
        assert_eq!(outbound(&policy(Unknown::Deny), "oRDERS"), Route::Cluster(1));
        assert_eq!(outbound(&policy(Unknown::Deny), "example.com"), Route::Unknown);
        assert_eq!(outbound(&policy(Unknown::Passthrough), "example.com"), Route::Passthrough);
        assert_eq!(outbound(&policy(Unknown::Passthrough), &"x".repeat(300)), Route::Passthrough);
        assert_eq!(outbound(&policy(Unknown::Deny), "app"), Route::Unknown, "the app is no name to call");
    }
}
