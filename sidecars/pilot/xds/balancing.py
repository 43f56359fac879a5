"""How one of a cluster's endpoints is chosen, in Envoy's words. Pure.

A list of policies is served, of which a client takes the first that it knows: gRPC refuses all clusters for a single
`lb_policy` that it lacks.
"""

from __future__ import annotations

from typing import Any, Final

from pannier.shared.duration import milliseconds
from pannier.shared.toml_position import Path
from pannier.sidecars.pilot.xds.findings import Findings
from pannier.sidecars.pilot.xds.words import Json, duration, typed
from pannier.sidecars.traffic.config import Service

ZONES_FROM: Final = 6
"""Zones are looked at from so many endpoints up."""
COLD_PERCENT: Final = 10
"""What a new endpoint starts with, of its share."""
CROWDED_PERCENT: Final = 125
"""More than that of its share of what is under way sends a session elsewhere."""


def load_balancing_policy(service: Service, default: str, where: Path, found: Findings) -> Json:
    """The policies, the wanted one first. `where` is the service's settings, `default` what holds without one."""
    chosen = _chosen(service, default)
    at: Path = (*where, "balance") if service.balance is not None else ("proxy", "balance")
    if service.affinity is not None:
        at = (*where, "affinity")
    if chosen == "p2c_ewma":
        found.add(at, "latency", "Envoy compares requests under way alone", "envoy")
    if (instead := _INSTEAD.get(chosen)) is not None:
        found.add(at, "all of it", f"not every gRPC knows {_MESSAGES[chosen][0]}: who does not takes {instead}", "grpc")
    fields: dict[str, Any] = {}
    if chosen in ("ring_hash", "maglev"):
        _report_hashed(service, where, found)
        fields["consistent_hashing_lb_config"] = {"hash_balance_factor": CROWDED_PERCENT}
        if chosen == "ring_hash":
            found.add((*where, "balance"), "the bound of an endpoint's share", "gRPC knows none", "grpc")
    else:
        _locality(service, where, found, fields)
        _slow_start(service, where, found, fields, knows=chosen != "random")
    policies = [_policy(chosen, fields)]
    if instead is not None:
        policies.append(_policy(instead, {}))
    return {"policies": policies}


def _chosen(service: Service, default: str) -> str:
    wanted = service.balance or default
    return "maglev" if service.affinity is not None and wanted != "ring_hash" else wanted


def _report_hashed(service: Service, where: Path, found: Findings) -> None:
    if service.locality != "off":
        found.add((*where, "locality"), "all of it", "neither client prefers a zone where it hashes")
    if milliseconds(service.slow_start):
        found.add((*where, "slow_start"), "all of it", "neither client starts slowly where it hashes")


def _locality(service: Service, where: Path, found: Findings, fields: dict[str, Any]) -> None:
    if service.locality == "off":
        return
    found.add((*where, "locality"), "all of it", "gRPC prefers no zone by itself", "grpc")
    if service.locality == "host":
        found.add((*where, "locality"), "that this host comes first", "Envoy knows zones alone", "envoy")
    everything = {"value": 100}
    fields["locality_lb_config"] = {
        "zone_aware_lb_config": {"routing_enabled": everything, "min_cluster_size": ZONES_FROM}
    }


def _slow_start(service: Service, where: Path, found: Findings, fields: dict[str, Any], *, knows: bool) -> None:
    if not milliseconds(service.slow_start):
        return
    if not knows:
        found.add((*where, "slow_start"), "all of it", "neither client starts slowly where it chooses at random")
        return
    found.add((*where, "slow_start"), "all of it", "gRPC has no slow start", "grpc")
    fields["slow_start_config"] = {
        "slow_start_window": duration(service.slow_start),
        "min_weight_percent": {"value": COLD_PERCENT},
    }


_INSTEAD: Final = {
    "p2c_ewma": "round_robin",
    "least_request": "round_robin",
    "random": "round_robin",
    "maglev": "ring_hash",
}
_MESSAGES: Final = {
    "p2c_ewma": ("least_request", "LeastRequest"),
    "least_request": ("least_request", "LeastRequest"),
    "round_robin": ("round_robin", "RoundRobin"),
    "random": ("random", "Random"),
    "ring_hash": ("ring_hash", "RingHash"),
    "maglev": ("maglev", "Maglev"),
}


def _policy(name: str, fields: Json) -> Json:
    package, message = _MESSAGES[name]
    return {
        "typed_extension_config": {
            "name": f"envoy.load_balancing_policies.{package}",
            "typed_config": typed(f"extensions.load_balancing_policies.{package}.v3.{message}", **fields),
        }
    }
