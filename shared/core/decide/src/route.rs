//! Where a request goes, by its direction and authority.

use std::net::IpAddr;

use crate::policy::Policy;
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

/// The route of a request that came from outside; `host` without port. Never resolved.
#[must_use]
pub fn inbound(policy: &Policy, host: &str) -> Route {
    let is_ours = policy.any_host
        || host.is_empty()
        || host.eq_ignore_ascii_case(&policy.service)
        || host.eq_ignore_ascii_case("localhost")
        || host.trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>().is_ok()
        || policy.hosts.iter().any(|known| known.eq_ignore_ascii_case(host));
    match (is_ours, policy.app) {
        (false, _) => Route::Unknown,
        (true, Some(app)) => Route::Cluster(app),
        (true, None) => Route::NoApp,
    }
}

/// The route of a request that the app sent; `host` without port, in any case.
#[must_use]
pub fn outbound(policy: &Policy, host: &str) -> Route {
    let mut lower = [0_u8; 64];
    if let Some(lower) = lower.get_mut(..host.len()) {
        lower.copy_from_slice(host.as_bytes());
        lower.make_ascii_lowercase();
        if let Ok(name) = std::str::from_utf8(lower)
            && let Some(cluster) = policy.by_name.get(name)
        {
            return Route::Cluster(*cluster);
        }
    }
    match policy.unknown {
        Unknown::Passthrough if !host.is_empty() => Route::Passthrough,
        _ => Route::Unknown,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::floor;
    use crate::schema::{StaticCluster, StaticEndpoint};

    fn policy(unknown: Unknown) -> Policy {
        let mut base = floor();
        base.service = "shop".into();
        base.app = Some("127.0.0.1:8080".into());
        base.outbound.unknown = unknown;
        base.inbound.hosts = vec!["Shop.Example".into()];
        let endpoints = vec![StaticEndpoint { address: "127.0.0.1:1".into(), weight: 1 }];
        base.clusters = vec![StaticCluster { name: "Orders".into(), endpoints }];
        #[allow(clippy::unwrap_used)]
        Policy::compile(&base, None, None).unwrap()
    }

    #[test]
    fn inbound_serves_what_is_ours_and_resolves_nothing() {
        let policy = policy(Unknown::Passthrough);
        for ours in ["shop", "SHOP", "localhost", "10.1.2.3", "[::1]", "shop.example", ""] {
            assert_eq!(inbound(&policy, ours), Route::Cluster(0), "{ours}");
        }
        for foreign in ["evil.example", "orders", "shop.evil"] {
            assert_eq!(inbound(&policy, foreign), Route::Unknown, "{foreign}");
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
