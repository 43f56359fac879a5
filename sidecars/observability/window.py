"""The last minute, second by second: what `stat` answers from.

A slice is the difference between two readings of the counters, per (direction, service, route), with the sparse
difference of the fine histogram. Differences rather than the readings themselves: an idle series costs nothing, and a
minute of a busy service stays under a megabyte.

Totals never go back, so a difference is never negative; what was counted before the first reading belongs to no slice.
Time is an argument, in seconds of a clock that does not jump.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from pannier.shared.outcome import succeeded
from pannier.sidecars.observability.native import Series
from pannier.sidecars.observability.percentiles import percentile

SPAN_SECONDS = 60.0
_MIN_SLICE_SECONDS = 0.05


class Key(NamedTuple):
    """What a row of `stat` is about."""

    service: str
    route: str
    direction: str


class Row(NamedTuple):
    """One row of `stat`: rates per second, percentiles in milliseconds, `success_rate` in 0…1."""

    key: Key
    requests: int
    success_rate: float
    rps: float
    p50_ms: float
    p95_ms: float
    p99_ms: float


@dataclass(slots=True)
class _Traffic:
    requests: int = 0
    good: int = 0
    fine: Counter[int] = field(default_factory=Counter)

    def add(self, other: _Traffic) -> None:
        self.requests += other.requests
        self.good += other.good
        self.fine.update(other.fine)


class _Slice(NamedTuple):
    start: float
    end: float
    traffic: dict[Key, _Traffic]


_Identity = tuple[str, str, str, str, int, str, str]


class Window:
    """One minute of traffic. `bounds` are the upper bounds of the fine buckets, in seconds."""

    def __init__(self, bounds: Sequence[float]) -> None:
        self._bounds = bounds
        self._slices: deque[_Slice] = deque()
        self._readings: dict[_Identity, tuple[int, Sequence[int]]] = {}
        self._read_at: float | None = None

    def tick(self, now: float, series: Iterable[Series]) -> None:
        """Takes a reading at `now`. Readings closer than 50 ms to the one before are not taken."""
        if self._read_at is not None and now - self._read_at < _MIN_SLICE_SECONDS:
            return
        traffic: dict[Key, _Traffic] = {}
        for one in series:
            difference = self._advance(one)
            if difference is not None and self._read_at is not None:
                traffic.setdefault(Key(one.service, one.route, one.direction), _Traffic()).add(difference)
        if self._read_at is not None:
            self._slices.append(_Slice(self._read_at, now, traffic))
        self._read_at = now
        while self._slices and self._slices[0].end <= now - SPAN_SECONDS:
            self._slices.popleft()

    def _advance(self, one: Series) -> _Traffic | None:
        identity = (one.direction, one.service, one.route, one.method, one.status, one.flag, one.protocol)
        count = one.count
        before = self._readings.get(identity)
        if before is not None and count <= before[0]:
            return None
        fine = one.fine
        self._readings[identity] = (count, fine)
        base = before or (0, (0,) * len(fine))
        moved = Counter({i: b - a for i, (a, b) in enumerate(zip(base[1], fine, strict=True)) if b > a})
        requests = count - base[0]
        return _Traffic(requests, requests if succeeded(one.status, one.flag) else 0, moved)

    def rows(self, now: float, window_s: float) -> tuple[float, list[Row]]:
        """The seconds really covered, and a row for each key that had traffic in them, sorted by key.

        Whole slices are taken: what is covered can be less than asked (soon after the start), or, where less than one
        slice is asked for, that slice.
        """
        total: dict[Key, _Traffic] = {}
        covered = 0.0
        newest = self._slices[-1] if self._slices else None
        for one in self._slices:
            if one.start < now - window_s - _MIN_SLICE_SECONDS and one is not newest:
                continue
            covered += one.end - one.start
            for key, traffic in one.traffic.items():
                total.setdefault(key, _Traffic()).add(traffic)
        return covered, [self._row(key, total[key], covered) for key in sorted(total)]

    def _row(self, key: Key, traffic: _Traffic, seconds: float) -> Row:
        p50, p95, p99 = (
            round((percentile(self._bounds, traffic.fine, quantile) or 0.0) * 1000, 3) for quantile in (0.5, 0.95, 0.99)
        )
        good = traffic.good / traffic.requests if traffic.requests else 1.0
        return Row(key, traffic.requests, good, traffic.requests / seconds, p50, p95, p99)
