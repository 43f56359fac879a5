"""A service, and each subset of it, as a Cluster of xDS v3, for Envoy and gRPC alike. Pure.

Endpoints come by EDS over the same stream, under the cluster's name: `SERVICE` or `SERVICE/SUBSET`. Limits are set in
each of them, since Envoy counts by cluster; ours are those of the service as a whole.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from pannier.shared.duration import milliseconds
from pannier.shared.toml_position import Path
from pannier.sidecars.pilot.documents.policy import Policy, Unmapped
from pannier.sidecars.pilot.xds.balancing import load_balancing_policy
from pannier.sidecars.pilot.xds.ejection import ejection
from pannier.sidecars.pilot.xds.findings import Findings, limits_of, traffic_of
from pannier.sidecars.pilot.xds.words import Json, duration
from pannier.sidecars.resilience.config import Service as Limits

UNLIMITED: Final = (1 << 32) - 1
A_DAY: Final = "24h"


def clusters(policy: Policy, service: str, *, subsets: Sequence[str]) -> tuple[Sequence[Json], Sequence[Unmapped]]:
    """The cluster of a service and those of its `subsets`, and what does not arrive."""
    found = Findings()
    where = traffic_of(policy, service)
    settings = policy.service(service)
    limits = policy.limits(service)
    connect = policy.proxy.timeouts.connect
    plain: Json = {
        "type": "EDS",
        "connect_timeout": duration(connect if milliseconds(connect) else A_DAY),
        "load_balancing_policy": load_balancing_policy(settings, policy.proxy.balance, where, found),
    }
    found.add(("proxy", "timeouts", "connect"), "all of it", "gRPC has a back-off of its own for connections", "grpc")
    if settings.shift is not None:
        found.add((*where, "shift"), "all of it", "the pilot runs no canary: `split` holds", "both")
    if limits is None:
        plain["circuit_breakers"] = _thresholds(max_retries=UNLIMITED)
    else:
        at = limits_of(policy, service)
        plain |= ejection(limits, at, found)
        plain["circuit_breakers"] = _limited(limits, at, found)
        _report_absent(limits, at, found)
        if subsets:
            found.add((*at, "resources"), "that they are the service's as a whole", "a subset has them once more")
    names = [service, *(f"{service}/{subset}" for subset in subsets)]
    return [_named(name, plain) for name in names], found.all()


def _named(name: str, plain: Json) -> Json:
    source = {"ads": {}, "resource_api_version": "V3"}
    return {"name": name, "eds_cluster_config": {"eds_config": source, "service_name": name}, **plain}


def _limited(limits: Limits, where: Path, found: Findings) -> Json:
    resources, retry, bulkhead = limits.resources, limits.retry, limits.bulkhead
    for field in ("connections", "pending", "retries"):
        found.add((*where, "resources", field), "all of it", "gRPC bounds requests under way alone", "grpc")
    if not resources.pending:
        found.add((*where, "resources", "pending"), "0", "Envoy then refuses what needs a new connection", "envoy")
    requests = resources.requests
    if bulkhead is not None:
        requests = min(requests, bulkhead.concurrent)
        if milliseconds(bulkhead.wait):
            found.add((*where, "bulkhead", "wait"), "all of it", "neither client waits: it refuses at once")
    if not retry.attempts or retry.budget is None:
        return _thresholds(resources.connections, max(resources.pending, 1), requests, resources.retries)
    found.add(
        (*where, "retry", "budget"),
        "`min_per_second`, and that requests of 10 s count",
        "Envoy's is a share of what is under way, but one at the least",
        "envoy",
    )
    budget = {"budget_percent": {"value": retry.budget.percent}, "min_retry_concurrency": 1}
    return _thresholds(resources.connections, max(resources.pending, 1), requests, retry_budget=budget)


def _thresholds(
    connections: int = UNLIMITED,
    pending: int = UNLIMITED,
    requests: int = UNLIMITED,
    max_retries: int | None = None,
    retry_budget: Json | None = None,
) -> Json:
    limits: Json = {"max_connections": connections, "max_pending_requests": pending, "max_requests": requests}
    if max_retries is not None:
        limits["max_retries"] = max_retries
    if retry_budget is not None:
        limits["retry_budget"] = retry_budget
    return {"thresholds": [limits]}


def _report_absent(limits: Limits, where: Path, found: Findings) -> None:
    if limits.service_breaker is not None:
        found.add((*where, "service_breaker"), "all of it", "neither client has one for a service as a whole")
