"""Stand-ins for what `pannier._native` hands out: the shapes of `pannier.sidecars.observability.native`, as data."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import pytest

BOUNDS = [0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0]
FINE = [0.001 * 2**octave for octave in range(12)]


def spread(bounds: Sequence[float], seconds: Sequence[float]) -> list[int]:
    counts = [0] * (len(bounds) + 1)
    for one in seconds:
        counts[next((i for i, bound in enumerate(bounds) if one <= bound), len(bounds))] += 1
    return counts


@dataclass
class Series:
    """A series that observed `seconds`."""

    direction: str = "inbound"
    service: str = "orders"
    route: str = ""
    method: str = "GET"
    status: int = 200
    flag: str = ""
    protocol: str = "1.1"
    seconds: list[float] = field(default_factory=lambda: [0.003])

    @property
    def count(self) -> int:
        return len(self.seconds)

    @property
    def sum_seconds(self) -> float:
        return sum(self.seconds)

    @property
    def buckets(self) -> list[int]:
        return spread(BOUNDS, self.seconds)

    @property
    def fine(self) -> list[int]:
        return spread(FINE, self.seconds)


@dataclass
class Enrolment:
    in_force: dict[str, int]
    alive: bool = True


@dataclass
class Counters:
    all: list[Series] = field(default_factory=list)
    cells: dict[str, int] = field(default_factory=dict)
    processes: list[Enrolment] = field(default_factory=list)

    def series(self) -> list[Series]:
        return self.all

    def totals(self) -> dict[str, int]:
        return self.cells

    def enrolled(self) -> list[Enrolment]:
        return self.processes


@dataclass
class Table:
    published: int = 0
    heartbeat_ms: int = 0

    def generation(self) -> int:
        return self.published

    def writer(self) -> tuple[int, int]:
        return 1, self.heartbeat_ms


@dataclass
class Span:
    trace_id: int = 0x0102030405060708090A0B0C0D0E0F10
    span_id: int = 0x0102030405060708
    parent_id: int | None = None
    trace_state: str = ""
    sampled: bool = True
    direction: str = "inbound"
    method: str = "GET"
    route: str = "/orders/{id}"
    path: str = "/orders/7?token=secret"
    status: int = 200
    service: str = "orders"
    upstream: str = "127.0.0.1:8080"
    start_ns: int = 1_700_000_000_000_000_000
    end_ns: int = 1_700_000_000_002_000_000
    flag: str = ""
    protocol: str = "1.1"
    request_id: str = "r-1"
    authority: str = "orders:18080"


@dataclass
class Drained:
    records: int = 0
    log_errors: int = 0
    spans: list[Span] = field(default_factory=list)


class Fakes:
    """The classes above, for tests: `fakes.Series(status=503)`."""

    Series = Series
    Enrolment = Enrolment
    Counters = Counters
    Table = Table
    Span = Span
    Drained = Drained
    BOUNDS = BOUNDS
    FINE = FINE


@pytest.fixture
def fakes() -> type[Fakes]:
    return Fakes
