//! How much of each limit is in use: the remaining room, for whoever watches.

use crate::cluster::Cluster;
use crate::policy::Policy;

/// (service, limit, in use, at the most) of every limit in force; the empty service is inbound.
pub fn of(policy: &Policy) -> impl Iterator<Item = (&str, &'static str, u64, u64)> {
    let outbound = policy.by_name.values().filter_map(|named| policy.clusters.get(named.cluster)).flat_map(of_cluster);
    of_inbound(policy).into_iter().flatten().chain(outbound)
}

type Usage<'p> = (&'p str, &'static str, u64, u64);

fn of_inbound(policy: &Policy) -> [Option<Usage<'_>>; 2] {
    let live = &policy.inbound_live;
    let limits = policy.inbound_limits.as_ref();
    [
        limits.and_then(|l| l.shedding).map(|s| ("", "shedding", live.requests.used().into(), s.requests.into())),
        limits.and_then(|l| l.bulkhead).map(|b| ("", "bulkhead", live.bulkhead.used().into(), b.concurrent.into())),
    ]
}

fn of_cluster(cluster: &Cluster) -> impl Iterator<Item = Usage<'_>> {
    let (name, live) = (&*cluster.name, &cluster.live);
    let limits = cluster.limits.as_deref();
    let resources = limits.and_then(|limits| limits.resources);
    let bulkhead = limits.and_then(|limits| limits.bulkhead);
    [
        resources.map(|r| (name, "connections", live.connections.used().into(), r.connections.into())),
        resources.map(|r| (name, "pending", live.connections.waiting().into(), r.pending.into())),
        resources.map(|r| (name, "requests", live.requests.used().into(), r.requests.into())),
        resources.map(|r| (name, "retries", live.retries.used().into(), r.retries.into())),
        bulkhead.map(|b| (name, "bulkhead", live.bulkhead.used().into(), b.concurrent.into())),
    ]
    .into_iter()
    .flatten()
}
