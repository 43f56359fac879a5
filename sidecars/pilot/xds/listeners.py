"""Listeners of xDS v3: that of an Envoy beside an app, and those by which gRPC looks up a service. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from pannier.sidecars.pilot.xds.filters import FAULT, HTTP_FILTERS
from pannier.sidecars.pilot.xds.words import Json, typed

OUTBOUND: Final = "outbound"
"""The name of Envoy's only listener, and of its routes."""
_ROUTER: Final[Json] = {
    "name": "envoy.filters.http.router",
    "typed_config": typed("extensions.filters.http.router.v3.Router"),
}


def outbound(port: int) -> Json:
    """Takes the calls of the app beside it, on the loopback."""
    manager = _manager(OUTBOUND, HTTP_FILTERS)
    return {
        "name": OUTBOUND,
        "address": {"socket_address": {"address": "127.0.0.1", "port_value": port}},
        "traffic_direction": "OUTBOUND",
        "filter_chains": [{"filters": [{"name": "http", "typed_config": manager}]}],
    }


def for_grpc(name: str, service: str) -> Json:
    """What `xds:///NAME` means."""
    faults = [one for one in HTTP_FILTERS if one["name"] == FAULT]
    return {"name": name, "api_listener": {"api_listener": _manager(service, faults)}}


def _manager(routes: str, filters: Sequence[Json]) -> Json:
    return typed(
        "extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
        stat_prefix=routes,
        rds={"route_config_name": routes, "config_source": {"ads": {}, "resource_api_version": "V3"}},
        http_filters=[*filters, _ROUTER],
    )
