"""What a standard client has to be told to use the pilot: where it is, and that everything else comes from there. Pure.

Sources: Envoy's bootstrap (`envoy.config.bootstrap.v3.Bootstrap`); gRPC's xDS bootstrap file (gRFC A27).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final, Literal, TypeAlias

Form: TypeAlias = Literal["DELTA_GRPC", "GRPC"]
"""Of Envoy's subscription: incremental, or the state of the world."""
PILOT: Final = "pilot"
_HTTP: Final = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions"


def envoy(
    pilot: str, node: str, *, admin_port: int = 0, form: Form = "DELTA_GRPC", metadata: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """Envoy's bootstrap. `pilot` is `host:port` or `unix:/path` of its gRPC listener; `metadata` is what `node.py`
    reads: `stage`, `services`, `outbound_port`. Envoy pings the pilot, so that one whose host has gone is left."""
    from_there = {"ads": {}, "resource_api_version": "V3"}
    keepalive = {"interval": "20s", "timeout": "10s"}
    http2 = {
        "@type": f"type.googleapis.com/{_HTTP}",
        "explicit_http_config": {"http2_protocol_options": {"connection_keepalive": keepalive}},
    }
    endpoint = {"endpoint": {"address": _place(pilot)}}
    return {
        "node": {"id": node, "cluster": "pannier", "metadata": dict(metadata or {})},
        "admin": {"address": {"socket_address": {"address": "127.0.0.1", "port_value": admin_port}}},
        "dynamic_resources": {
            "ads_config": {
                "api_type": form,
                "transport_api_version": "V3",
                "grpc_services": [{"envoy_grpc": {"cluster_name": PILOT}}],
            },
            "lds_config": from_there,
            "cds_config": from_there,
        },
        "static_resources": {
            "clusters": [
                {
                    "name": PILOT,
                    "type": "STATIC" if _is_literal(pilot) else "STRICT_DNS",
                    "connect_timeout": "1s",
                    "typed_extension_protocol_options": {_HTTP: http2},
                    "load_assignment": {"cluster_name": PILOT, "endpoints": [{"lb_endpoints": [endpoint]}]},
                }
            ]
        },
    }


def grpc(pilot: str, node: str, *, metadata: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """The file that `GRPC_XDS_BOOTSTRAP` names; then `xds:///SERVICE` is an address."""
    server = {"server_uri": pilot, "channel_creds": [{"type": "insecure"}], "server_features": ["xds_v3"]}
    return {"xds_servers": [server], "node": {"id": node, "metadata": dict(metadata or {})}}


def _place(address: str) -> dict[str, Any]:
    if address.startswith("unix:"):
        return {"pipe": {"path": address.removeprefix("unix:")}}
    host, _, port = address.rpartition(":")
    return {"socket_address": {"address": host.strip("[]"), "port_value": int(port)}}


def _is_literal(address: str) -> bool:
    """Whether it is an address and not a name."""
    host = address.rpartition(":")[0]
    return address.startswith(("unix:", "[")) or all(part.isdecimal() for part in host.split("."))
