"""What Envoy does in filters of its own, set by route or virtual host: faults, CORS, token buckets. Pure.

The listener has to have `HTTP_FILTERS` before its router; without settings for a route they do nothing. Each setting is
optional to the client: gRPC knows faults alone, and would refuse the rest.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from pannier.shared.duration import milliseconds
from pannier.shared.toml_position import Path
from pannier.sidecars.pilot.xds.findings import Findings
from pannier.sidecars.pilot.xds.words import Json, at_runtime, duration, fraction, optional, typed
from pannier.sidecars.resilience.config import RateLimit
from pannier.sidecars.traffic.config import Cors, Injected

CORS: Final = "envoy.filters.http.cors"
RATE_LIMIT: Final = "envoy.filters.http.local_ratelimit"
FAULT: Final = "envoy.filters.http.fault"
SHORTEST_INTERVAL_MS: Final = 50
HTTP_FILTERS: Final[Sequence[Json]] = (
    {"name": CORS, "typed_config": typed("extensions.filters.http.cors.v3.Cors")},
    {
        "name": RATE_LIMIT,
        "typed_config": typed("extensions.filters.http.local_ratelimit.v3.LocalRateLimit", stat_prefix="rate_limit"),
    },
    {"name": FAULT, "typed_config": typed("extensions.filters.http.fault.v3.HTTPFault")},
)
"""Filters of an Envoy listener, in their order, before the router. gRPC takes the last one of them, if it has any."""


def fault(injected: Injected | None, where: Path, found: Findings) -> Json | None:
    """The settings of `FAULT`; None where there is nothing to inject."""
    if injected is None:
        return None
    if injected.until is not None:
        found.add(where, "the whole fault", "neither client can end it at a time, and it must not last for ever")
        return None
    percentage = fraction(injected.percent)
    settings: Json = {}
    if injected.delay is not None and milliseconds(injected.delay):
        settings["delay"] = {"fixed_delay": duration(injected.delay), "percentage": percentage}
    if injected.abort is not None:
        settings["abort"] = {"http_status": injected.abort, "percentage": percentage}
    if not settings:
        return None
    if len(settings) == 2 and injected.percent < 100:
        found.add((*where, "percent"), "that the same requests are delayed and aborted", "they draw once for each")
    return optional(typed("extensions.filters.http.fault.v3.HTTPFault", **settings))


def cors(settings: Cors | None, where: Path, found: Findings) -> Json | None:
    """The settings of `CORS`."""
    if settings is None:
        return None
    found.add(where, "all of it", "gRPC is called by no browser", "grpc")
    policy: Json = {
        "allow_origin_string_match": [{"exact": origin} for origin in settings.origins],
        "allow_methods": ", ".join(settings.methods),
        "max_age": str(milliseconds(settings.max_age) // 1000),
    }
    if settings.headers:
        policy["allow_headers"] = ", ".join(settings.headers)
    if settings.expose:
        policy["expose_headers"] = ", ".join(settings.expose)
    if settings.credentials:
        policy["allow_credentials"] = True
    return optional(typed("extensions.filters.http.cors.v3.CorsPolicy", **policy))


def rate_limit(limit: RateLimit | None, service: str, where: Path, found: Findings) -> Json | None:
    """The settings of `RATE_LIMIT` for calls to a service."""
    if limit is None:
        return None
    found.add(where, "all of it", "gRPC has no such filter in its clients", "grpc")
    bucket = {
        "max_tokens": limit.max,
        "tokens_per_fill": limit.fill,
        "fill_interval": duration(limit.interval, SHORTEST_INTERVAL_MS),
    }
    return optional(
        typed(
            "extensions.filters.http.local_ratelimit.v3.LocalRateLimit",
            stat_prefix=service,
            token_bucket=bucket,
            filter_enabled=at_runtime(limit.enabled),
            filter_enforced=at_runtime(limit.enforced),
            enable_x_ratelimit_headers="DRAFT_VERSION_03",
        )
    )
