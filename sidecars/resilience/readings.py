"""Counters as they grow: what has happened since they were last read. Pure.

Counters never go back and nobody resets them, so whoever has an interval or a window adds differences up. A place that
is seen for the first time is where counting begins: what happened to it before is not this sidecar's to judge, or each
restart would judge the past again. Counters that are lower than before belong to somebody new, and begin again, too.
"""

from __future__ import annotations

from collections.abc import Mapping

import msgspec
from pannier.sidecars.resilience.inventory import Place


class Counts(msgspec.Struct, frozen=True):
    """Calls that ended, and how many of them failed (5xx or no answer), were refused (429), or were slow."""

    calls: int = 0
    failures: int = 0
    refused: int = 0
    slow: int = 0

    def plus(self, other: Counts) -> Counts:
        return Counts(
            self.calls + other.calls,
            self.failures + other.failures,
            self.refused + other.refused,
            self.slow + other.slow,
        )

    def since(self, earlier: Counts) -> Counts | None:
        """The difference; None if these do not continue `earlier`."""
        difference = Counts(
            self.calls - earlier.calls,
            self.failures - earlier.failures,
            self.refused - earlier.refused,
            self.slow - earlier.slow,
        )
        if min(difference.calls, difference.failures, difference.refused, difference.slow) < 0:
            return None
        return difference


class Readings:
    """The last reading of each place."""

    def __init__(self) -> None:
        self._last: dict[Place, Counts] = {}

    def advance(self, now: Mapping[Place, Counts]) -> dict[Place, Counts]:
        """Takes a reading of all places that there are; returns what has moved, and by how much."""
        moved: dict[Place, Counts] = {}
        for place, counts in now.items():
            last = self._last.get(place)
            if last is not None and last != counts and (difference := counts.since(last)) is not None:
                moved[place] = difference
        self._last = dict(now)
        return moved
