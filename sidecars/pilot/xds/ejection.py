"""Who takes endpoints out, in Envoy's words. Pure.

`outlier` is Envoy's own rule. Envoy has no endpoint breaker; nearest to ours is an ejection of as many endpoints as it
takes, for times that grow with their number, without the panic that would send calls to them all the same.
"""

from __future__ import annotations

from typing import Final

from pannier.shared.duration import milliseconds
from pannier.shared.toml_position import Path
from pannier.sidecars.pilot.xds.findings import Findings
from pannier.sidecars.pilot.xds.words import Json, duration
from pannier.sidecars.resilience.config import Breaker, Outlier, Service

_CONSECUTIVE: Final = ("consecutive_5xx", "consecutive_gateway_failure", "consecutive_local_origin_failure")


def ejection(limits: Service, where: Path, found: Findings) -> Json:
    """The fields of a cluster. `where` is what resilience says of the service."""
    if limits.failure_policy == "outlier":
        return {"outlier_detection": _outlier(limits.outlier, (*where, "outlier"), found)}
    if limits.failure_policy == "breaker":
        return {
            "outlier_detection": _breaker(limits.breaker, (*where, "breaker"), found),
            "common_lb_config": {"healthy_panic_threshold": {"value": 0}},
        }
    return {}


def _outlier(outlier: Outlier, where: Path, found: Findings) -> Json:
    detection: Json = {
        "interval": duration(outlier.interval, 1),
        "base_ejection_time": duration(outlier.base_ejection, 1),
        "max_ejection_time": duration(outlier.max_ejection, 1),
        "max_ejection_percent": _percent(outlier.max_ejected_percent),
        "always_eject_one_host": True,
        "enforcing_success_rate": _percent(outlier.enforcing_success_rate),
        "success_rate_minimum_hosts": outlier.success_rate_hosts,
        "success_rate_request_volume": outlier.success_rate_requests,
        "success_rate_stdev_factor": round(outlier.stdev_factor * 1000),
        "enforcing_failure_percentage": 100 if outlier.failure_percentage else 0,
        "failure_percentage_minimum_hosts": outlier.failure_percentage_hosts,
        "failure_percentage_request_volume": outlier.failure_percentage_requests,
    }
    if outlier.failure_percentage:
        detection["failure_percentage_threshold"] = _percent(outlier.failure_percentage)
    for rule in _CONSECUTIVE:
        count = getattr(outlier, rule)
        enforcing = _percent(getattr(outlier, f"enforcing_{rule}"))
        detection[rule] = count or 1
        detection[f"enforcing_{rule}"] = enforcing if count else 0
        if count and enforcing:
            found.add((*where, rule), "all of it", "gRPC ejects by rates alone", "grpc")
    if _counts_apart(outlier):
        found.add(
            (*where, "consecutive_local_origin_failure"),
            "a threshold of its own below that of `consecutive_5xx`",
            "Envoy counts what got no answer among the 5xx, or among nothing else",
            "envoy",
        )
    return detection


def _counts_apart(outlier: Outlier) -> bool:
    """Whether failures without an answer eject somebody whom 5xx would not."""
    if not (outlier.consecutive_local_origin_failure and outlier.enforcing_consecutive_local_origin_failure):
        return False
    return not (
        0 < outlier.consecutive_5xx <= outlier.consecutive_local_origin_failure
        and outlier.enforcing_consecutive_5xx >= outlier.enforcing_consecutive_local_origin_failure
    )


def _breaker(breaker: Breaker, where: Path, found: Findings) -> Json:
    rated = breaker.success_rate > 0
    policy = (*where[:-1], "failure_policy")
    found.add(
        policy, "the probe by one request alone", "Envoy has no breakers: it ejects, and takes back by time", "envoy"
    )
    found.add((*where, "penalty_min"), "that it doubles", "Envoy's grows by as much each time", "envoy")
    if breaker.jitter:
        found.add((*where, "jitter"), "all of it", "Envoy's ejections have none", "envoy")
    if breaker.consecutive_failures or not rated:
        at = (*where, "consecutive_failures") if rated else where
        found.add(at, "all of it", "gRPC ejects by rates alone", "grpc")
        found.add(policy, "failures in a row", "gRPC ejects by rates alone", "grpc")
    if rated:
        found.add((*where, "success_rate"), "that 429 is a failure", "both count 5xx, gRPC what is not OK")
        found.add((*where, "window"), "that it slides", "both judge one interval after the other")
    detection: Json = {
        "consecutive_5xx": breaker.consecutive_failures or 1,
        "enforcing_consecutive_5xx": 100 if breaker.consecutive_failures else 0,
        "interval": duration(breaker.window if rated else breaker.penalty_min, 1),
        "base_ejection_time": duration(breaker.penalty_min, 1),
        "max_ejection_time": duration(breaker.penalty_max, max(milliseconds(breaker.penalty_min), 1)),
        "max_ejection_percent": 100,
        "enforcing_success_rate": 0,
        "enforcing_failure_percentage": 100 if rated else 0,
    }
    if rated:
        detection["failure_percentage_threshold"] = _percent((1 - breaker.success_rate) * 100) or 1
        detection["failure_percentage_minimum_hosts"] = 1
        detection["failure_percentage_request_volume"] = breaker.min_requests
    return detection


def _percent(value: float) -> int:
    """In whole percent, as Envoy has it: 0 means another thing than a little."""
    return max(round(value), 1) if value else 0
