"""How much room is left under each limit: what the proxy has in use, joined with the setting that bounds it. Pure.

A rate limit is a bucket in the proxy's memory, without a gauge: it is listed with its rate alone.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from pannier.shared.messages import LimitState
from pannier.sidecars.resilience.config import EVERY, Config, RateLimit
from pannier.sidecars.resilience.native import Gauge

_SETTINGS = {"bulkhead": "bulkhead.concurrent", "shedding": "shedding.requests"}


def limit_states(gauges: Iterable[Gauge], config: Config) -> list[LimitState]:
    """A row for each gauge and for each rate limit, sorted by service (inbound first) and limit."""
    rows = [
        LimitState(gauge.service, gauge.limit, gauge.used, gauge.most, _why(gauge.service, gauge.limit, config))
        for gauge in gauges
    ]
    rows += _rate_limits(config)
    return sorted(rows, key=lambda row: (row.service, row.limit))


def _why(service: str, limit: str, config: Config) -> str:
    if not service:
        return f"inbound.{_SETTINGS.get(limit, limit)}"
    setting = _SETTINGS.get(limit, f"resources.{limit}")
    for name in (service, EVERY):
        if name in config.services:
            return f"services.{_quoted(name)}.{setting}"
    return f"the default of {setting}"


def _rate_limits(config: Config) -> Iterator[LimitState]:
    if (limit := config.inbound.rate_limit) is not None:
        yield _rate_limit("", "inbound.rate_limit", limit)
    for name, service in config.services.items():
        if (limit := service.rate_limit) is not None:
            yield _rate_limit(name, f"services.{_quoted(name)}.rate_limit", limit)


def _rate_limit(service: str, setting: str, limit: RateLimit) -> LimitState:
    why = f"{setting}: {limit.fill} more every {limit.interval}"
    if limit.enabled < 100:
        why += f", for {limit.enabled:g} % of the requests"
    if limit.enforced < 100:
        why += f", enforced for {limit.enforced:g} %" if limit.enforced else ", only counted"
    return LimitState(service, "rate_limit", None, limit.max, why)


def _quoted(name: str) -> str:
    return f'"{name}"' if name == EVERY or "." in name else name
