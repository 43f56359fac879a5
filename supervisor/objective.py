"""When a change is taken back by what it does to requests: `--unless 'success<99%'`. Pure.

| condition | of | judged from |
| --- | --- | --- |
| `success<99%` | what others ask of this service | 20 requests |
| `p50>20ms`, `p95>100ms`, `p99>250ms` | the same | 20, 20, 100 requests: fewer say nothing about that percentile |
| `outbound.` before any of them | what this service asks of others | as above |

Only what was counted since the change is judged, all of it together; success is what `stat` calls so. Fewer requests
are no evidence, so the change is not judged; what happens then is for the caller to decide.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Sequence
from itertools import zip_longest
from typing import Final, Protocol

import msgspec
from pannier.shared.duration import seconds
from pannier.shared.errors import UsageError
from pannier.shared.outcome import succeeded

LEAST: Final = 20
"""Requests from which a rate is judged; of a percentile also as many as one of them lies beyond it."""
_METRICS: Final = {"success": 0.0, "p50": 0.5, "p95": 0.95, "p99": 0.99}
_FORM: Final = re.compile(r"(?:(inbound|outbound)\.)?([a-z0-9]+)(<=|>=|[<>=])(.+)")


class Objective(msgspec.Struct, frozen=True):
    """What must not become true: the rate of success is below `value` (0…1), or a percentile above it (seconds)."""

    direction: str
    metric: str
    value: float
    text: str


class Counted(msgspec.Struct, frozen=True):
    """Requests of one direction; `fine` counts them by the data path's fine buckets of duration."""

    requests: int = 0
    good: int = 0
    fine: tuple[int, ...] = ()

    def since(self, before: Counted) -> Counted:
        """What came on top of `before`."""
        fine = zip_longest(self.fine, before.fine, fillvalue=0)
        return Counted(
            max(0, self.requests - before.requests),
            max(0, self.good - before.good),
            tuple(max(0, now - then) for now, then in fine),
        )


class Trial(msgspec.Struct, frozen=True):
    """A condition under which a change is taken back, and what had been counted when it was put in force."""

    objective: Objective
    before: Counted


class Series(Protocol):
    """As `pannier._native.Series`."""

    @property
    def direction(self) -> str: ...
    @property
    def status(self) -> int: ...
    @property
    def flag(self) -> str: ...
    @property
    def count(self) -> int: ...
    @property
    def fine(self) -> list[int]: ...


def parse(text: str) -> Objective:
    """The condition `METRIC OP VALUE`. Raises UsageError that says what can be written."""
    plain = "".join(text.split()).lower()
    found = _FORM.fullmatch(plain)
    if found is None:
        raise _wrong(text, "is no condition")
    direction, metric, operator, value = found.groups()
    if metric not in _METRICS:
        raise _wrong(text, f"there is no metric {metric!r}")
    if operator != ("<" if metric == "success" else ">"):
        bad = "falls, so it is written with <" if metric == "success" else "grows, so it is written with >"
        raise _wrong(text, f"{metric} is bad when it {bad}")
    limit = _rate(text, value) if metric == "success" else _latency(text, value)
    return Objective(direction or "inbound", metric, limit, plain)


def counted(series: Iterable[Series], direction: str) -> Counted:
    """All requests of a direction until now."""
    requests = good = 0
    fine: list[int] = []
    for one in series:
        if one.direction == direction:
            requests += one.count
            good += one.count if succeeded(one.status, one.flag) else 0
            fine = [a + b for a, b in zip_longest(fine, one.fine, fillvalue=0)]
    return Counted(requests, good, tuple(fine))


def measured(objective: Objective, found: Counted, bounds: Sequence[float]) -> float | None:
    """The metric over these requests, in the unit of `value`; None while they are too few. `bounds` are the upper
    bounds of the fine buckets in seconds; of a percentile that lies in a bucket the lower bound is taken, so that
    nobody is blamed for more than was measured."""
    beyond = 1 - _METRICS[objective.metric]
    if found.requests < max(LEAST, math.ceil(1 / beyond - 1e-9)):
        return None
    if objective.metric == "success":
        return found.good / found.requests
    rank, below = _METRICS[objective.metric] * sum(found.fine), 0
    for index, count in enumerate(found.fine):
        below += count
        if count and below >= rank:
            return bounds[min(index, len(bounds)) - 1] if index else 0.0
    return None


def holds(objective: Objective, value: float) -> bool:
    """Whether the condition is true, so that the change has to go."""
    return value < objective.value if objective.metric == "success" else value > objective.value


def spelt(objective: Objective, value: float | None, requests: int) -> str:
    """What was found, for people."""
    where = "" if objective.direction == "inbound" else f"{objective.direction}."
    if value is None:
        return f"{requests} requests are too few to judge {objective.text}"
    shown = f"{100 * value:.4g}%" if objective.metric == "success" else f"{1000 * value:.4g}ms"
    return f"{where}{objective.metric} is {shown} over {requests} requests"


def _rate(text: str, value: str) -> float:
    if re.fullmatch(r"[0-9]{1,3}(\.[0-9]{1,6})?%", value) is None or not 0 < float(value[:-1]) <= 100:
        raise _wrong(text, f"{value!r} is no percentage above 0 and up to 100")
    return float(value[:-1]) / 100


def _latency(text: str, value: str) -> float:
    try:
        found = seconds(value)
    except ValueError as error:
        raise _wrong(text, str(error)) from error
    if found <= 0:
        raise _wrong(text, f"{value!r} is no time above 0")
    return found


def _wrong(text: str, why: str) -> UsageError:
    return UsageError(
        f"--unless {text[:80]!r}: {why}",
        hint="write success<99%, p50>20ms, p95>100ms, p99>250ms, or outbound.success<99%",
    )
