"""What was counted about a set of endpoints since a moment, although endpoints come and go. Pure.

The sum never goes back: what is gone keeps what it had. A place that is first seen later begins where its counters
stand: what happened before it belonged here is not this set's. The counters outlive this process, so the moment can be
written down (`mark`) and taken up again; counters that are lower than written down are new, and count from nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeAlias

from pannier.sidecars.traffic.canary import Counts

Place: TypeAlias = tuple[int, int]
"""A slot of the data path, and the incarnation of who holds it."""


class Tally:
    """One set of endpoints. `mark` is where the counters of its places stood at the moment."""

    def __init__(self, mark: Mapping[Place, Counts] | None = None) -> None:
        self._written = dict(mark or {})
        self._mark: dict[Place, Counts] = {}
        self._last: dict[Place, Counts] = {}
        self._gone = Counts()

    def see(self, now: Mapping[Place, Counts]) -> Counts:
        """Takes the counters of all places that belong to the set now; returns the sum since the moment."""
        for place in self._last.keys() - now.keys():
            self._gone = _plus(self._gone, _minus(self._last.pop(place), self._mark.pop(place)))
        for place, counts in now.items():
            if place not in self._mark:
                mark = self._written.pop(place, counts)
                self._mark[place] = mark if _continues(counts, mark) else Counts()
            self._last[place] = _most(counts, self._last.get(place, self._mark[place]))
        total = self._gone
        for place, counts in self._last.items():
            total = _plus(total, _minus(counts, self._mark[place]))
        return total

    def begin(self) -> None:
        """The moment is now."""
        self._written.clear()
        self._mark = dict(self._last)
        self._gone = Counts()

    def mark(self) -> dict[Place, Counts]:
        """Where the counters of the places that there are stood at the moment."""
        return {**self._written, **self._mark}


def _plus(one: Counts, other: Counts) -> Counts:
    return Counts(one.calls + other.calls, one.failures + other.failures)


def _minus(one: Counts, other: Counts) -> Counts:
    return Counts(one.calls - other.calls, one.failures - other.failures)


def _most(one: Counts, other: Counts) -> Counts:
    return Counts(max(one.calls, other.calls), max(one.failures, other.failures))


def _continues(counts: Counts, earlier: Counts) -> bool:
    return counts.calls >= earlier.calls and counts.failures >= earlier.failures
