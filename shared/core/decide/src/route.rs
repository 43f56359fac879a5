//! Where a request goes: by the first route that matches it, else by its authority.

use std::borrow::Cow;
use std::net::IpAddr;

use crate::affinity::{self, Session};
use crate::matching::{Found, View};
use crate::policy::{Named, Policy, Side};
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
    /// The prefix that the rule matched by.
    pub prefix: Option<&'p str>,
    /// The request's session, where the service called has affinity.
    pub session: Option<Session>,
}

impl<'p> Routed<'p> {
    fn new(route: Route, matched: Option<(&'p Rule, Found<'p>)>) -> Self {
        let prefix = matched.and_then(|(_, found)| found.prefix);
        Routed { route, rule: matched.map(|(rule, _)| rule), prefix, session: None }
    }
}

#[inline]
fn matching<'p>(side: &'p Side, view: &View<'_>, of_host: Option<usize>) -> Option<(&'p Rule, Found<'p>)> {
    let found = side.routes.find(view, of_host)?;
    side.rules.get(found.route).map(|rule| (rule, found))
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
        (false, _) => return Routed::new(Route::Unknown, None),
        (true, Some(app)) => Route::Cluster(app),
        (true, None) => Route::NoApp,
    };
    let matched = policy.traffic.as_ref().and_then(|traffic| {
        let (side, host) = (&traffic.inbound, lower(host));
        matching(side, &View { host: &host, ..*view }, side.routes.of_host(&host))
    });
    Routed::new(route, matched)
}

/// The route of a request that the app sent. `draw` follows from the request's id, and chooses among the shares of a split.
#[must_use]
pub fn outbound<'p>(policy: &'p Policy, view: &View<'_>, draw: impl Fn() -> u64) -> Routed<'p> {
    if let Some(named) = policy.by_name.get(view.host) {
        return to(policy, view, Some(*named), draw);
    }
    let host = lower(view.host);
    to(policy, &View { host: &host, ..*view }, policy.by_name.get(&*host).copied(), draw)
}

/// Hardly any host is not in lower case.
fn lower(host: &str) -> Cow<'_, str> {
    if host.bytes().any(|b| b.is_ascii_uppercase()) { host.to_ascii_lowercase().into() } else { host.into() }
}

#[inline]
fn to<'p>(policy: &'p Policy, view: &View<'_>, known: Option<Named>, draw: impl Fn() -> u64) -> Routed<'p> {
    let matched = policy.traffic.as_ref().and_then(|traffic| {
        let side = &traffic.outbound;
        // A service's name has been looked up already; another host is looked up among the routes' own.
        let of_host = known.map_or_else(|| side.routes.of_host(view.host), |named| named.routes);
        matching(side, view, of_host)
    });
    let named = match matched.and_then(|(rule, _)| rule.to.as_ref()) {
        Some(split) => split.pick(&draw),
        None => known.map(|named| named.cluster),
    };
    let mut session = None;
    let route = match named {
        Some(index) => {
            let cluster = policy.clusters.get(index);
            let affinity = cluster.and_then(|cluster| cluster.affinity.as_ref());
            session = affinity.and_then(|affinity| affinity::session(affinity, view.fields, &draw));
            // Another draw than the route's own: what was drawn there says nothing about the subset.
            let drawn = || redrawn(session.map_or_else(&draw, |session| session.hash));
            let share = cluster.and_then(|cluster| cluster.split.as_ref());
            Route::Cluster(share.and_then(|split| split.pick(drawn)).unwrap_or(index))
        }
        None => match policy.unknown {
            Unknown::Passthrough if !view.host.is_empty() => Route::Passthrough,
            _ => Route::Unknown,
        },
    };
    Routed { session, ..Routed::new(route, matched) }
}

fn redrawn(draw: u64) -> u64 {
    (draw ^ draw >> 32).wrapping_mul(0x9e37_79b9_7f4a_7c15)
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
        View { host, port: 80, method: "GET", target: "/", fields: &[] }
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
