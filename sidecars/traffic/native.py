"""The shapes of `pannier._native` that this sidecar uses.

Protocols rather than the classes themselves: what decides stays testable without shared memory, and it is visible in
one place how little of the data path traffic depends on.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol


class TableReader(Protocol):
    def generation(self) -> int:
        """0 where nothing was ever published."""

    def read(self) -> bytes | None:
        """None for absence; raises RuntimeError if what is there is damaged."""


class EndpointCounts(Protocol):
    """What was counted of one endpoint since it has its slot."""

    @property
    def calls(self) -> int: ...

    @property
    def failures(self) -> int:
        """Answers of 5xx, and calls without an answer."""


class Counters(Protocol):
    def endpoints(self, places: list[tuple[int, int]]) -> Sequence[EndpointCounts]: ...
