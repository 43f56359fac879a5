"""The payload of the table `routes`: the configuration as the data path reads it. Pure.

Durations become milliseconds, absent things are left out, and everything else keeps its name, so that
`shared/core/decide/src/schema/routes.rs` reads like `config.py`. The data path's own code validates and builds the
payload before it is published: what a regular expression means is decided there alone.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec
from pannier.shared.duration import milliseconds
from pannier.sidecars.traffic.config import Config, Cors, Injected, Mirror, Redirect, Route, Service

KIND = "routes"


def routes_table(config: Config, splits: Mapping[str, Mapping[str, int]]) -> bytes:
    """The payload. `splits` are the weights in force of services whose canary is under way, by service and subset."""
    return msgspec.msgpack.encode(
        {
            "zone": config.zone,
            "services": {
                name: _service(service, splits.get(name, service.split)) for name, service in config.services.items()
            },
            "rules": [_rule(route) for route in config.routes],
        }
    )


def _service(service: Service, split: Mapping[str, int]) -> dict[str, Any]:
    affinity = service.affinity
    return {
        "balance": service.balance,
        "affinity": affinity
        and {
            "cookie": affinity.cookie,
            "header": affinity.header,
            "ttl_s": None if affinity.ttl is None else -(-milliseconds(affinity.ttl) // 1000),
        },
        "slow_start_ms": milliseconds(service.slow_start),
        "locality": service.locality,
        "subsets": service.subsets,
        "split": dict(split),
        "mirror": _mirror(service.mirror),
        "fault": _fault(service.fault),
        "counted": service.shift is not None,
    }


def _rule(route: Route) -> dict[str, Any]:
    timeouts = route.timeouts
    return {
        "name": route.name,
        "inbound": route.side == "inbound",
        "hosts": route.hosts,
        "matches": [msgspec.to_builtins(match) for match in route.matches],
        "to": route.to,
        "rewrite": msgspec.to_builtins(route.rewrite),
        "redirect": _redirect(route.redirect),
        "request": msgspec.to_builtins(route.request),
        "response": msgspec.to_builtins(route.response),
        "request_ms": None if timeouts.request is None else milliseconds(timeouts.request),
        "backend_request_ms": None if timeouts.backend_request is None else milliseconds(timeouts.backend_request),
        "retries": route.retries,
        "mirror": _mirror(route.mirror),
        "fault": _fault(route.fault),
        "cors": _cors(route.cors),
    }


def _mirror(mirror: Mirror | None) -> dict[str, Any] | None:
    return None if mirror is None else {"to": mirror.to, "percent": mirror.percent}


def _fault(fault: Injected | None) -> dict[str, Any] | None:
    if fault is None:
        return None
    return {
        "delay_ms": 0 if fault.delay is None else milliseconds(fault.delay),
        "abort": fault.abort,
        "percent": fault.percent,
        "until_unix_ms": None if fault.until is None else round(fault.until * 1000),
    }


def _redirect(redirect: Redirect | None) -> dict[str, Any] | None:
    return None if redirect is None else msgspec.structs.asdict(redirect)


def _cors(cors: Cors | None) -> dict[str, Any] | None:
    if cors is None:
        return None
    return {**msgspec.structs.asdict(cors), "max_age": None, "max_age_s": milliseconds(cors.max_age) // 1000}
