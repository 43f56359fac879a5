"""A trace to look at for each bucket of a histogram: the newest sampled request that fell into it.

Only what is exported as a span can be looked up, so nothing is remembered where spans go nowhere. Under a merged label
set (`cardinality.py`) there are no exemplars: they belong to the exact one.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from pannier.sidecars.observability.cardinality import Labels, labels_of
from pannier.sidecars.observability.native import Span


class Example(NamedTuple):
    """One request: ids in hexadecimal, its duration, and when it ended (seconds since the epoch)."""

    trace_id: str
    span_id: str
    seconds: float
    at: float


class Exemplars:
    """The newest example of each label set and bucket, at most `limit` label sets; `bounds` are those of the buckets.

    One thread learns, others may look up meanwhile.
    """

    def __init__(self, bounds: Sequence[float], limit: int) -> None:
        self._bounds = bounds
        self._limit = limit
        self._newest: dict[Labels, list[Example | None]] = {}

    def learn(self, spans: Iterable[Span]) -> None:
        for span in spans:
            labels = labels_of(span)
            buckets = self._newest.get(labels)
            if buckets is None:
                if len(self._newest) >= self._limit:
                    continue
                buckets = self._newest[labels] = [None] * (len(self._bounds) + 1)
            seconds = (span.end_ns - span.start_ns) / 1e9
            buckets[bisect_left(self._bounds, seconds)] = Example(
                f"{span.trace_id:032x}", f"{span.span_id:016x}", seconds, span.end_ns / 1e9
            )

    def find(self, labels: Labels) -> Sequence[Example | None]:
        """The example of each bucket; empty where there is none at all."""
        return self._newest.get(labels, ())
