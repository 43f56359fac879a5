"""The cap on series: merge the least useful dimension first, and say what was merged.

Steps, in this order, each applied to all series and only if the one before was not enough: methods become `_OTHER`,
routes are forgotten, statuses become their class (`5xx`), services become `_OTHER`. After the last step what remains is
a few hundred at most, whatever the callers did.

A step, once taken, stays (`Cap` remembers it): counters never vanish, so the pressure does not either, and a label set
that comes and goes would look to Prometheus like a reset. Refused: keeping the busiest series and dropping the rest,
which loses totals, and changes its mind with the traffic.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple

from pannier.sidecars.observability.native import Labelled, Series
from pannier.sidecars.observability.semconv import INBOUND, OTHER, error_type, known_method

STEPS: Final = ("method", "route", "status", "service")
"""The dimensions in the order in which they are given up."""


class Labels(NamedTuple):
    """What tells one exposed series from another; an empty field is an absent label.

    `status` is a code or a class (`5xx`); `error` is OpenTelemetry's `error.type`. Inbound, `service` is empty: it is
    the resource itself.
    """

    direction: str
    service: str
    route: str
    method: str
    status: str
    error: str
    protocol: str


@dataclass(frozen=True, slots=True)
class Point:
    """The values of one exposed series; `buckets` are not cumulative."""

    count: int
    sum_seconds: float
    buckets: Sequence[int]


class Cap:
    """Holds the number of exposed series at or under `limit`."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._steps = 0

    @property
    def merged(self) -> tuple[str, ...]:
        """The dimensions that were given up so far."""
        return STEPS[: self._steps]

    def apply(self, series: Iterable[Series]) -> dict[Labels, Point]:
        """The series by label set, after as many steps as the limit asks for."""
        observed = list(series)
        while True:
            merged = _merge(observed, self._steps)
            if len(merged) <= self._limit or self._steps == len(STEPS):
                return merged
            self._steps += 1


def labels_of(one: Labelled, steps: int = 0) -> Labels:
    """The label set of a series or a span after so many of the `STEPS`."""
    status = str(one.status) if one.status else ""
    error = error_type(one.direction, one.status, one.flag)
    if steps > 2 and status:
        exact, status = status, f"{one.status // 100}xx"
        error = status if error == exact else error
    service = "" if one.direction == INBOUND else one.service
    return Labels(
        direction=one.direction,
        service=service if steps <= 3 or not service else OTHER,
        route=one.route if steps <= 1 else "",
        method=known_method(one.method) if steps == 0 else OTHER,
        status=status,
        error=error,
        protocol=one.protocol,
    )


def _merge(observed: Sequence[Series], steps: int) -> dict[Labels, Point]:
    merged: dict[Labels, Point] = {}
    for series in observed:
        labels = labels_of(series, steps)
        point = Point(series.count, series.sum_seconds, series.buckets)
        known = merged.get(labels)
        if known is not None:
            point = Point(
                known.count + point.count,
                known.sum_seconds + point.sum_seconds,
                [a + b for a, b in zip(known.buckets, point.buckets, strict=True)],
            )
        merged[labels] = point
    return merged
