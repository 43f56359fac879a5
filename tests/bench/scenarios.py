"""What is measured: the scenarios and the ways to place the processes on cores.

A scenario differs from `h1-keepalive-64c` in one thing, so that a difference has one cause. The names are pinned:
checks and dashboards know them.
"""

from collections.abc import Sequence
from dataclasses import dataclass

SMALL = b"0123456789abcde\n" * 8
MEDIUM = b"0123456789abcde\n" * 64
LARGE = b"0123456789abcde\n" * 4096


EVERYBODY = (
    "direct",
    "relay",
    "relay-tokio",
    "relay-io_uring",
    "nginx",
    "haproxy",
    "envoy",
    "pannier",
    "pannier-plain",
)
PROXIES = ("direct", "relay", "nginx", "haproxy", "envoy", "pannier")
QUICK_PEERS = ("direct", "relay", "nginx", "haproxy", "pannier")


@dataclass(frozen=True)
class Scenario:
    """One kind of traffic: `connections` of HTTP/1.1 keep-alive, GET `path`, answered with `body`; the keys of the
    `peers` that it is sent through. `judged`: targets are read from it, and so it takes more rounds. `one_core`: a
    second layout would say nothing new."""

    name: str
    connections: int = 64
    path: str = "/small"
    body: bytes = SMALL
    origin_over_unix: bool = False
    peers: tuple[str, ...] = PROXIES
    judged: bool = False
    one_core: bool = False


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
    """How much is spent on a figure; durations in seconds.

    `judged_rounds` in the scenarios from which targets are read, `rounds` in the others. A void run is tried up to
    `attempts` times, as long as all repetitions together have not taken `repeating`. Once the whole has taken
    `patience`, as on a machine that others use, what is left has one round. `idle_connections`: how many are
    opened to see what one weighs; 0 = memory is not measured.
    """

    judged_rounds: int
    rounds: int
    warm_up: float
    measured: float
    paced: float
    attempts: int
    calibration: float
    repeating: float
    patience: float
    idle_connections: int

    def rounds_of(self, scenario: Scenario) -> int:
        return self.judged_rounds if scenario.judged else self.rounds


SCENARIOS = (
    Scenario("h1-keepalive-64c", peers=EVERYBODY, judged=True),
    Scenario("h1-uds-64c", origin_over_unix=True, peers=(*PROXIES, "pannier-tcp"), judged=True),
    Scenario("h1-1c", connections=1),
    Scenario("h1-1024c", connections=1_024),
    Scenario("h1-1k-body", path="/medium", body=MEDIUM, one_core=True),
    Scenario("h1-64k-body", path="/large", body=LARGE),
)

FULL = Effort(
    judged_rounds=5,
    rounds=3,
    warm_up=0.3,
    measured=1.0,
    paced=1.0,
    attempts=4,
    calibration=10.0,
    repeating=150.0,
    patience=18 * 60.0,
    idle_connections=2_000,
)
QUICK = Effort(
    judged_rounds=2,
    rounds=2,
    warm_up=0.2,
    measured=0.8,
    paced=0.6,
    attempts=2,
    calibration=1.0,
    repeating=10.0,
    patience=40.0,
    idle_connections=0,
)


def layouts(cpus: Sequence[int]) -> list[Layout]:
    """The layouts that `cpus` allow: all on one core (cost), then the proxy on its own (cost of waking it)."""
    first = cpus[0]
    found = [Layout("one-core", first, first)]
    if len(cpus) > 1:
        found.append(Layout("two-cores", first, cpus[1]))
    return found
