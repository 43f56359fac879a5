"""The payload of the table `limits`: the configuration as the data path reads it. Pure.

Durations become milliseconds; what the data path does not decide itself (rules over intervals) is left out. `slots` are
the hot words of service breakers, which this sidecar assigns.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec
from pannier.shared.duration import milliseconds
from pannier.sidecars.resilience.config import EVERY, Bulkhead, Config, Inbound, RateLimit, Retry, Service, Shedding

KIND = "limits"


def limits_table(config: Config, slots: Mapping[str, tuple[int, int]]) -> bytes:
    """The payload. `slots`: service → (slot, incarnation) of its breaker's hot word, where it has one.

    Such a service has an entry of its own even if it is configured by `*`: one word for all would close all for one.
    """
    names = dict.fromkeys([*config.services, EVERY, *slots])
    return msgspec.msgpack.encode(
        {
            "services": {name: _service(config.service(name), slots.get(name)) for name in names},
            "inbound": _inbound(config.inbound),
        }
    )


def _service(service: Service, slot: tuple[int, int] | None) -> dict[str, Any]:
    breaker, outlier, circuit = service.breaker, service.outlier, service.service_breaker
    return {
        "breaker": {
            "consecutive_failures": breaker.consecutive_failures,
            "penalty_min_ms": milliseconds(breaker.penalty_min),
            "penalty_max_ms": milliseconds(breaker.penalty_max),
            "jitter": breaker.jitter,
        }
        if service.failure_policy == "breaker"
        else None,
        "outlier": {
            "consecutive_5xx": outlier.consecutive_5xx,
            "consecutive_gateway_failure": outlier.consecutive_gateway_failure,
            "consecutive_local_origin_failure": outlier.consecutive_local_origin_failure,
            "enforcing_consecutive_5xx": outlier.enforcing_consecutive_5xx,
            "enforcing_consecutive_gateway_failure": outlier.enforcing_consecutive_gateway_failure,
            "enforcing_consecutive_local_origin_failure": outlier.enforcing_consecutive_local_origin_failure,
            "base_ejection_ms": milliseconds(outlier.base_ejection),
            "max_ejection_ms": milliseconds(outlier.max_ejection),
            "interval_ms": milliseconds(outlier.interval),
            "max_ejected_percent": outlier.max_ejected_percent,
        }
        if service.failure_policy == "outlier"
        else None,
        "service_breaker": {
            "slot": slot[0],
            "incarnation": slot[1],
            "open_ms": milliseconds(circuit.open),
            "half_open_calls": circuit.half_open_calls,
        }
        if circuit is not None and slot is not None
        else None,
        "counted": circuit is not None
        or service.failure_policy == "outlier"
        or (service.failure_policy == "breaker" and breaker.success_rate > 0),
        "slow_ms": 0 if circuit is None else milliseconds(circuit.slow),
        "resources": msgspec.structs.asdict(service.resources),
        "retry": _retry(service.retry),
        "rate_limit": _rate_limit(service.rate_limit),
        "bulkhead": _bulkhead(service.bulkhead),
    }


def _retry(retry: Retry) -> dict[str, Any]:
    return {
        "attempts": retry.attempts,
        "on": retry.on,
        "backoff_min_ms": milliseconds(retry.backoff_min),
        "backoff_max_ms": milliseconds(retry.backoff_max),
        "body_limit": retry.body_limit,
        "budget": None if retry.budget is None else msgspec.structs.asdict(retry.budget),
    }


def _inbound(inbound: Inbound) -> dict[str, Any]:
    return {
        "rate_limit": _rate_limit(inbound.rate_limit),
        "bulkhead": _bulkhead(inbound.bulkhead),
        "shedding": _shedding(inbound.shedding),
    }


def _rate_limit(limit: RateLimit | None) -> dict[str, Any] | None:
    if limit is None:
        return None
    return {
        "max": limit.max,
        "fill": limit.fill,
        "interval_ms": milliseconds(limit.interval),
        "enabled": limit.enabled,
        "enforced": limit.enforced,
    }


def _bulkhead(bulkhead: Bulkhead | None) -> dict[str, Any] | None:
    return None if bulkhead is None else {"concurrent": bulkhead.concurrent, "wait_ms": milliseconds(bulkhead.wait)}


def _shedding(shedding: Shedding | None) -> dict[str, Any] | None:
    return None if shedding is None else msgspec.structs.asdict(shedding)
