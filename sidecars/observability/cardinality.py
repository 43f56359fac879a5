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

from pannier.sidecars.observability.native import Series
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


def _labels(series: Series, steps: int) -> Labels:
    status = str(series.status) if series.status else ""
    error = error_type(series.direction, series.status, series.flag)
    if steps > 2 and status:
        exact, status = status, f"{series.status // 100}xx"
        error = status if error == exact else error
    service = "" if series.direction == INBOUND else series.service
    return Labels(
        direction=series.direction,
        service=service if steps <= 3 or not service else OTHER,
        route=series.route if steps <= 1 else "",
        method=known_method(series.method) if steps == 0 else OTHER,
        status=status,
        error=error,
        protocol=series.protocol,
    )


def _merge(observed: Sequence[Series], steps: int) -> dict[Labels, Point]:
    merged: dict[Labels, Point] = {}
    for series in observed:
        labels = _labels(series, steps)
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
