"""Pannier told a policy, and Envoy told what the pilot makes of it: a translation, and here it is what is compared.

Endpoints are static; everything else of Envoy's routes and clusters is the pilot's.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack, closing
from pathlib import Path

from pannier.sidecars.pilot.documents.policy import Policy
from pannier.sidecars.pilot.xds.clusters import clusters
from pannier.sidecars.pilot.xds.filters import HTTP_FILTERS
from pannier.sidecars.pilot.xds.routes import route_configuration

from tests.conformance.bootstrap import Envoy, Json, Place, bootstrap, http_filter
from tests.conformance.process import EnvoyProcess
from tests.conformance.sides import CALLEE, Instance, Side, Sides, start_origins, start_pannier


def start_mapped(stack: ExitStack, folder: Path, services: Mapping[str, Sequence[Instance]], policy: Policy) -> Sides:
    """Starts both, to live as long as the stack."""
    pannier = start_pannier(stack, folder, services, policy.traffic, policy.resilience)
    origins = start_origins(stack, services)
    places = {
        name: [
            Place(origin.port, one.metadata, one.weight, one.healthy)
            for origin, one in zip(origins[name], instances, strict=True)
        ]
        for name, instances in services.items()
    }
    process = EnvoyProcess(folder, lambda log: _bootstrap(places, policy, log))
    stack.enter_context(closing(process))
    return Sides(
        stack.enter_context(closing(pannier)),
        stack.enter_context(closing(Side(process.address, origins, process.reason))),
    )


def _bootstrap(services: Mapping[str, Sequence[Place]], policy: Policy, log: Path) -> Json:
    whole = bootstrap(CALLEE, services, Envoy(), log)
    manager = whole["static_resources"]["listeners"][0]["filter_chains"][0]["filters"][0]["typed_config"]
    routes, _ = route_configuration(policy, list(services), name="outbound")
    manager["route_config"] = {**routes, "validate_clusters": False}
    manager["http_filters"] = [*HTTP_FILTERS, http_filter("router", "Router")]
    whole["static_resources"]["clusters"] = [
        static(cluster, services[name], policy.subsets(name))
        for name in services
        for cluster in clusters(policy, name, subsets=list(policy.subsets(name)))[0]
    ]
    return whole


def static(cluster: Json, places: Sequence[Place], subsets: Mapping[str, Mapping[str, str]]) -> Json:
    """A cluster with the endpoints that EDS would give it. Ejections hold at once, not within a second."""
    _, _, subset = cluster["name"].partition("/")
    labels = subsets[subset] if subset else {}
    endpoints = [
        {
            "endpoint": {"address": {"socket_address": {"address": "127.0.0.1", "port_value": place.port}}},
            "load_balancing_weight": place.weight,
        }
        for place in places
        if labels.items() <= place.metadata.items()
    ]
    return {
        **{key: value for key, value in cluster.items() if key != "eds_cluster_config"},
        "type": "STATIC",
        "common_lb_config": {**cluster.get("common_lb_config", {}), "update_merge_window": "0s"},
        "load_assignment": {"cluster_name": cluster["name"], "endpoints": [{"lb_endpoints": endpoints}]},
    }
