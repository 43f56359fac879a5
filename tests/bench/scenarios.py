"""What is measured: the scenarios and the ways to place the processes on cores.

A scenario differs from `h1-keepalive-64c` in one thing, so that a difference has one cause. The names are pinned:
checks and dashboards know them.
"""

from collections.abc import Sequence
from dataclasses import dataclass

SMALL = b"0123456789abcde\n" * 8
LARGE = b"0123456789abcde\n" * 4096


@dataclass(frozen=True)
class Scenario:
    """One kind of traffic: `connections` of HTTP/1.1 keep-alive, GET `path`, answered with `body`."""

    name: str
    connections: int = 64
    path: str = "/small"
    body: bytes = SMALL
    origin_over_unix: bool = False


@dataclass(frozen=True)
class Layout:
    """Where the processes run. Client and origin share a core, so that the proxy's own core shows its cost alone."""

    name: str
    load_cpu: int
    proxy_cpu: int

    @property
    def cpus(self) -> frozenset[int]:
        return frozenset((self.load_cpu, self.proxy_cpu))


@dataclass(frozen=True)
class Effort:
    """How much is spent on a figure; durations in seconds."""

    pairs: int
    warm_up: float
    measured: float
    paced: float
    attempts: int
    calibration: float


SCENARIOS = (
    Scenario("h1-keepalive-64c"),
    Scenario("h1-uds-64c", origin_over_unix=True),
    Scenario("h1-1c", connections=1),
    Scenario("h1-64k-body", path="/large", body=LARGE),
)

FULL = Effort(pairs=5, warm_up=0.5, measured=1.5, paced=1.5, attempts=6, calibration=10.0)
QUICK = Effort(pairs=2, warm_up=0.2, measured=0.8, paced=0.6, attempts=2, calibration=1.0)


def layouts(cpus: Sequence[int]) -> list[Layout]:
    """The layouts that `cpus` allow: all on one core (cost), then the proxy on its own (cost of waking it)."""
    first = cpus[0]
    found = [Layout("one-core", first, first)]
    if len(cpus) > 1:
        found.append(Layout("two-cores", first, cpus[1]))
    return found
