"""What a configuration of this sidecar says that cannot all hold, or cannot be meant. Pure.

A pair of values that exclude one another is an error at the one that gives way; what only has no effect, or a
surprising one, is a warning. Each value alone is checked by its type.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from pannier.shared.duration import milliseconds
from pannier.shared.explain import Finding, Severity
from pannier.shared.toml_position import Path
from pannier.sidecars.resilience.config import Breaker, Config, Inbound, Outlier, RateLimit, Service

BOTH_POLICIES: Final = "PAN0301"
UNUSED_POLICY: Final = "PAN0302"
PENALTIES: Final = "PAN0303"
EJECTIONS: Final = "PAN0304"
BACKOFFS: Final = "PAN0305"
NO_BUDGET: Final = "PAN0306"
FILL_INTERVAL: Final = "PAN0307"
BULKHEAD: Final = "PAN0308"
SHARES: Final = "PAN0309"
TOO_LONG: Final = "PAN0310"

SHORTEST_INTERVAL_MS: Final = 50
RETRIES_WITHOUT_BUDGET: Final = 3
LONGEST_MS: Final = 3_600_000


def contradictions(config: Config) -> list[Finding]:
    """Findings with paths relative to this part of the profile."""
    found = list(_inbound(config.inbound))
    for name, service in config.services.items():
        found += _service(("services", name), service)
    return found


def _service(path: Path, service: Service) -> Iterator[Finding]:
    yield from _policies(path, service)
    breaker, outlier, retry = service.breaker, service.outlier, service.retry
    if milliseconds(breaker.penalty_min) > milliseconds(breaker.penalty_max):
        yield _above(
            (*path, "breaker", "penalty_min"), PENALTIES, breaker.penalty_min, "penalty_max", breaker.penalty_max
        )
    if milliseconds(outlier.base_ejection) > milliseconds(outlier.max_ejection):
        yield _above(
            (*path, "outlier", "base_ejection"), EJECTIONS, outlier.base_ejection, "max_ejection", outlier.max_ejection
        )
    if milliseconds(retry.backoff_min) > milliseconds(retry.backoff_max):
        yield _above((*path, "retry", "backoff_min"), BACKOFFS, retry.backoff_min, "backoff_max", retry.backoff_max)
    yield from _too_long((*path, "breaker", "penalty_max"), breaker.penalty_max, breaker.jitter)
    yield from _too_long((*path, "outlier", "max_ejection"), outlier.max_ejection)
    if service.service_breaker is not None:
        yield from _too_long((*path, "service_breaker", "open"), service.service_breaker.open)
    if retry.budget is None and retry.attempts > RETRIES_WITHOUT_BUDGET:
        yield Finding(
            (*path, "retry", "attempts"),
            NO_BUDGET,
            f"{retry.attempts} retries and no budget: an outage makes {retry.attempts + 1} times the load",
            f"a budget, or at most {RETRIES_WITHOUT_BUDGET} retries",
            severity="warning",
        )
    if service.rate_limit is not None:
        yield from _rate_limit((*path, "rate_limit"), service.rate_limit)
    if service.bulkhead is not None and service.bulkhead.concurrent > service.resources.requests:
        yield Finding(
            (*path, "bulkhead", "concurrent"),
            BULKHEAD,
            f"{service.bulkhead.concurrent} is never reached: resources.requests ends at {service.resources.requests}",
            f"at most {service.resources.requests}",
            severity="warning",
        )


def _policies(path: Path, service: Service) -> Iterator[Finding]:
    given = {"breaker": service.breaker != Breaker(), "outlier": service.outlier != Outlier()}
    for policy, is_given in given.items():
        if not is_given or service.failure_policy == policy:
            continue
        code: str = BOTH_POLICIES
        severity: Severity = "error"
        if service.failure_policy == "none":
            code, severity = UNUSED_POLICY, "warning"
        yield Finding(
            (*path, policy),
            code,
            f'has no effect: failure_policy is "{service.failure_policy}"',
            f'failure_policy = "{policy}", or no {policy}',
            at_key=True,
            severity=severity,
        )


def _inbound(inbound: Inbound) -> Iterator[Finding]:
    path: Path = ("inbound",)
    if inbound.rate_limit is not None:
        yield from _rate_limit((*path, "rate_limit"), inbound.rate_limit)
    shedding = inbound.shedding
    if shedding is not None and shedding.sheddable > shedding.default:
        yield Finding(
            (*path, "shedding", "sheddable"),
            SHARES,
            f"{shedding.sheddable:g} is above default, {shedding.default:g}: sheddable requests would outlast others",
            f"at most {shedding.default:g}",
        )


def _rate_limit(path: Path, limit: RateLimit) -> Iterator[Finding]:
    if milliseconds(limit.interval) < SHORTEST_INTERVAL_MS:
        yield Finding(
            (*path, "interval"),
            FILL_INTERVAL,
            f"{limit.interval} is too short to fill a bucket in",
            f"at least {SHORTEST_INTERVAL_MS}ms",
        )


def _too_long(path: Path, length: str, jitter: float = 0.0) -> Iterator[Finding]:
    """What is out for longer is held to be damaged memory by the data path, and taken in again."""
    if milliseconds(length) * (1 + jitter) >= LONGEST_MS:
        with_jitter = f", and up to {100 * jitter:g} % of it more by jitter" if jitter else ""
        yield Finding(path, TOO_LONG, f"{length}{with_jitter}: nobody is out for an hour", "less than 1h in all")


def _above(path: Path, code: str, low: str, name: str, high: str) -> Finding:
    return Finding(path, code, f"{low} is above {name}, {high}", f"at most {high}")
