"""Envoy's static configuration of one scenario. Pure.

One listener and one virtual host, as an app's outbound listener has them. What a scenario says of routes, clusters and
filters stands there in Envoy's own words, so that a reader can look it up. Refused: a translation of our configuration,
which would compare Envoy with our idea of it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

Json = dict[str, Any]
EXTENSIONS = "type.googleapis.com/envoy.extensions"
#: The field that an answer of Envoy's own carries, with the id under which its access log says why.
LOGGED_AS = "x-envoy-logged-as"
LOOPBACK: Json = {"socket_address": {"address": "127.0.0.1", "port_value": 0}}
ANY_STATUS: Json = {
    "status_code_filter": {"comparison": {"op": "GE", "value": {"default_value": 0, "runtime_key": "unused"}}}
}


@dataclass(frozen=True)
class Envoy:
    """What a scenario tells Envoy. No `routes`: everything goes to the callee. `clusters`: what differs from a plain
    cluster, by service. `filters`: those before the router."""

    routes: Sequence[Json] = ()
    clusters: Mapping[str, Json] = field(default_factory=dict)
    filters: Sequence[Json] = ()


@dataclass(frozen=True)
class Place:
    """An endpoint on the loopback; subsets select it by its metadata."""

    port: int
    metadata: Mapping[str, str]
    weight: int
    healthy: bool


def bootstrap(callee: str, services: Mapping[str, Sequence[Place]], told: Envoy, access_log: Path) -> Json:
    """The whole configuration; admin and listener take any free port. A line of the log: request id, flags."""
    routes = told.routes or [{"match": {"prefix": "/"}, "route": {"cluster": callee}}]
    logged_as = {"header": {"key": LOGGED_AS, "value": "%REQ(X-REQUEST-ID)%"}}
    line = {"text_format_source": {"inline_string": "%REQ(X-REQUEST-ID)% %RESPONSE_FLAGS%\n"}}
    log = {"@type": f"{EXTENSIONS}.access_loggers.file.v3.FileAccessLog", "path": str(access_log), "log_format": line}
    manager = {
        "@type": f"{EXTENSIONS}.filters.network.http_connection_manager.v3.HttpConnectionManager",
        "stat_prefix": "outbound",
        "codec_type": "HTTP1",
        # The app is trusted: what it says of timeouts and ids is heard.
        "use_remote_address": True,
        "internal_address_config": {"cidr_ranges": [{"address_prefix": "127.0.0.0", "prefix_len": 8}]},
        "route_config": {"virtual_hosts": [{"name": callee, "domains": [callee], "routes": routes}]},
        "http_filters": [*told.filters, http_filter("router", "Router")],
        "local_reply_config": {"mappers": [{"filter": ANY_STATUS, "headers_to_add": [logged_as]}]},
        "access_log": [{"name": "file", "typed_config": log}],
    }
    listener = {
        "name": "outbound",
        "address": LOOPBACK,
        "filter_chains": [{"filters": [{"name": "http", "typed_config": manager}]}],
    }
    clusters = [_cluster(name, places) | told.clusters.get(name, {}) for name, places in services.items()]
    return {
        "admin": {"address": LOOPBACK},
        "static_resources": {"listeners": [listener], "clusters": clusters},
    }


def http_filter(name: str, message: str, **settings: Any) -> Json:
    """An HTTP filter of Envoy's own: its name, and that of its message."""
    kind = f"{EXTENSIONS}.filters.http.{name}.v3.{message}"
    return {"name": f"envoy.filters.http.{name}", "typed_config": {"@type": kind, **settings}}


def percent(share: float) -> Json:
    """A FractionalPercent of 0…100."""
    return {"numerator": round(share * 10_000), "denominator": "MILLION"}


def circuit_breakers(**thresholds: Any) -> Json:
    """A cluster's resource limits."""
    return {"circuit_breakers": {"thresholds": [thresholds]}}


def _cluster(name: str, places: Sequence[Place]) -> Json:
    endpoints = [
        {
            "endpoint": {"address": {"socket_address": {"address": "127.0.0.1", "port_value": place.port}}},
            "metadata": {"filter_metadata": {"envoy.lb": place.metadata}},
            "load_balancing_weight": place.weight,
            "health_status": "HEALTHY" if place.healthy else "UNHEALTHY",
        }
        for place in places
    ]
    return {
        "name": name,
        "type": "STATIC",
        "connect_timeout": "1s",
        # Ejections hold at once; by default Envoy gathers changes for a second.
        "common_lb_config": {"update_merge_window": "0s"},
        "load_assignment": {"cluster_name": name, "endpoints": [{"lb_endpoints": endpoints}]},
    }
