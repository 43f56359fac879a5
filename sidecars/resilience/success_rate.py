"""Outlier ejection over an interval, as Envoy does it: endpoints that fail more than their siblings. Pure.

Success rate: among at least `success_rate_hosts` endpoints with `success_rate_requests` calls each, one is an outlier
whose rate is below the mean less `stdev_factor` standard deviations (of the population). Failure percentage: one that
fails at least so often, whatever the others do. Endpoints that are out already are neither judged nor compared with.

Of several outliers the worst goes first, since `max_ejected_percent` may leave room for one only. (Envoy takes them in
the order of a hash table.) As in Envoy, that bound is asked before `enforcing_*` is, which says how often it has a
consequence.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import floor
from statistics import fmean, pstdev
from typing import Literal, NamedTuple, TypeAlias

from pannier.shared.duration import milliseconds
from pannier.sidecars.resilience.config import Outlier

Consequence: TypeAlias = Literal["ejected", "not enforced", "too many out"]


class Host(NamedTuple):
    """An endpoint over one interval; `out` is whether it is out at the end of it."""

    calls: int
    failures: int
    out: bool = False


class Detection(NamedTuple):
    """The `number`-th endpoint, from 0, is an outlier, for the reason `why`."""

    number: int
    why: str
    consequence: Consequence


def outliers(hosts: Sequence[Host], rule: Outlier, chance: Callable[[], float]) -> list[Detection]:
    """The outliers among all endpoints of a service, after one interval. `chance` draws from [0, 1)."""
    detections: list[Detection] = []
    out = sum(host.out for host in hosts)
    room = allowance(len(hosts), rule.max_ejected_percent) - out
    ejected: set[int] = set()
    for suspects, enforcing in ((_low_rates(hosts, rule), rule.enforcing_success_rate), (_failing(hosts, rule), 100.0)):
        for index, why in suspects:
            if index in ejected:
                continue
            consequence: Consequence = "ejected"
            if len(ejected) >= room:
                consequence = "too many out"
            elif chance() * 100 >= enforcing:
                consequence = "not enforced"
            else:
                ejected.add(index)
            detections.append(Detection(index, why, consequence))
    return detections


def allowance(hosts: int, max_ejected_percent: float) -> int:
    """How many of so many may be out at a time: that percentage, and at least one if another remains."""
    return max(floor(hosts * max_ejected_percent / 100), int(hosts > 1))


def lately(rule: Outlier, times: int, quiet_ms: int) -> int:
    """How often of `times` an endpoint was out lately, that has been in for `quiet_ms` since: each interval without an
    ejection takes one back."""
    return max(times - quiet_ms // max(milliseconds(rule.interval), 1), 0)


def ejection_ms(rule: Outlier, times: int) -> int:
    """For how long an endpoint is ejected that was out `times` times lately: the base time for each time and for this
    one, at most the maximum."""
    return min(milliseconds(rule.base_ejection) * (times + 1), milliseconds(rule.max_ejection))


def _low_rates(hosts: Sequence[Host], rule: Outlier) -> list[tuple[int, str]]:
    rates = {i: _success(host) for i, host in _judged(hosts, rule.success_rate_requests)}
    if len(rates) < rule.success_rate_hosts:
        return []
    mean = fmean(rates.values())
    threshold = mean - rule.stdev_factor * pstdev(rates.values(), mean)
    return [
        (i, f"ejected by success rate: {rate:.1f} % < {threshold:.1f} %, from a mean of {mean:.1f} %")
        for i, rate in sorted(rates.items(), key=lambda item: item[1])
        if rate < threshold
    ]


def _failing(hosts: Sequence[Host], rule: Outlier) -> list[tuple[int, str]]:
    failing = {i: 100 - _success(host) for i, host in _judged(hosts, rule.failure_percentage_requests)}
    if not rule.failure_percentage or len(failing) < rule.failure_percentage_hosts:
        return []
    return [
        (i, f"ejected by failure percentage: {rate:.1f} % ≥ {rule.failure_percentage:g} %")
        for i, rate in sorted(failing.items(), key=lambda item: -item[1])
        if rate >= rule.failure_percentage
    ]


def _judged(hosts: Sequence[Host], requests: int) -> list[tuple[int, Host]]:
    return [(i, host) for i, host in enumerate(hosts) if not host.out and host.calls >= requests]


def _success(host: Host) -> float:
    return 100 * (host.calls - host.failures) / host.calls
