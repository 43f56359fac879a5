"""The shapes of `pannier._native` that this sidecar uses.

Protocols rather than the classes themselves: what decides stays testable without shared memory, and it is visible in
one place how little of the data path resilience depends on.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol


class TableReader(Protocol):
    def generation(self) -> int:
        """0 where nothing was ever published."""

    def read(self) -> bytes | None:
        """None for absence; raises RuntimeError if what is there is damaged."""


class HotWord(Protocol):
    """What the words of one slot say. Times are those of `monotonic_ms`."""

    @property
    def state(self) -> str:
        """`closed`, `open` or `half_open`."""

    @property
    def until_ms(self) -> int: ...

    @property
    def failures(self) -> int:
        """Failures in a row."""

    @property
    def times(self) -> int:
        """How often it was out lately."""


class HotWords(Protocol):
    def read(self, slot: int, incarnation: int) -> HotWord: ...

    def open(self, slot: int, incarnation: int, until_ms: int, times: int | None = None) -> bool: ...

    def close(self, slot: int, incarnation: int) -> bool: ...


class EndpointCounts(Protocol):
    """What was counted of one endpoint since it has its slot."""

    @property
    def calls(self) -> int: ...

    @property
    def failures(self) -> int:
        """Answers of 5xx, and calls without an answer."""

    @property
    def refused(self) -> int:
        """Answers of 429."""

    @property
    def slow(self) -> int: ...


class Gauge(Protocol):
    """How much of a limit is in use."""

    @property
    def service(self) -> str:
        """Empty for inbound."""

    @property
    def limit(self) -> str: ...

    @property
    def used(self) -> int: ...

    @property
    def most(self) -> int: ...


class Counters(Protocol):
    def endpoints(self, places: list[tuple[int, int]]) -> Sequence[EndpointCounts]: ...

    def gauges(self) -> Sequence[Gauge]: ...

    def totals(self) -> Mapping[str, int]: ...
