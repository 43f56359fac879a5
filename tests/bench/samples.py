"""What was measured of one peer, and how samples become figures; nothing here reads a clock or a file.

Rules: a figure is the median over the rounds that count; a ratio or a difference is taken inside a round, where both
sides met the same weather, and then summarised; where no round counts all do, and what comes of them is void.
"""

import statistics
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field

from tests.bench.load import Load


@dataclass(frozen=True)
class Sample:
    """One peer's measurement in one round; times in nanoseconds, None where there is no proxy."""

    round: int
    load: Load
    cpu_ns: int | None
    origin_cpu_ns: int
    switches: int | None
    void: str | None = None

    @property
    def cpu_us_per_request(self) -> float | None:
        if self.cpu_ns is None or not self.load.requests:
            return None
        return self.cpu_ns / 1000 / self.load.requests

    @property
    def origin_us_per_request(self) -> float | None:
        return self.origin_cpu_ns / 1000 / self.load.requests if self.load.requests else None

    @property
    def whole_us_per_request(self) -> float | None:
        """CPU of proxy and origin together."""
        proxy, origin = self.cpu_us_per_request, self.origin_us_per_request
        return None if proxy is None or origin is None else proxy + origin


@dataclass(frozen=True)
class Paced:
    """One peer's latencies below the knee in one round."""

    round: int
    load: Load
    void: str | None = None


@dataclass(frozen=True)
class Spread:
    """A median and the lowest and highest value that it stands for."""

    median: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.median:.2f} ({self.low:.2f}-{self.high:.2f})"


@dataclass
class Series:
    """All that was measured of one peer in one scenario and layout."""

    scenario: str
    layout: str
    key: str
    peer: str
    features: str
    samples: list[Sample] = field(default_factory=list)
    paced: list[Paced] = field(default_factory=list)
    rate: int = 0
    rss_bytes: int | None = None
    syscalls_per_request: float | None = None

    @property
    def counted(self) -> list[Sample]:
        """The samples that count, or all of them when none does."""
        return [sample for sample in self.samples if sample.void is None] or self.samples

    @property
    def paced_counted(self) -> list[Paced]:
        """The paced runs that count, or all of them when none does."""
        return [run for run in self.paced if run.void is None] or self.paced

    @property
    def is_void(self) -> bool:
        return any(sample.void for sample in self.counted)

    @property
    def latency_is_void(self) -> bool:
        return any(run.void for run in self.paced_counted)

    @property
    def loads(self) -> list[Load]:
        return [sample.load for sample in self.samples] + [run.load for run in self.paced]


def spread(values: Iterable[float]) -> Spread | None:
    """Median, lowest and highest; None of nothing."""
    ordered = sorted(values)
    if not ordered:
        return None
    return Spread(statistics.median(ordered), ordered[0], ordered[-1])


def ratio(one: Series, other: Series, figure: Callable[[Sample], float | None]) -> Spread | None:
    """`one` over `other`, round by round; rounds in which either does not count are left out, if any is left then."""
    base = {sample.round: figure(sample) for sample in other.counted}
    ratios = []
    for sample in one.counted:
        above, below = figure(sample), base.get(sample.round)
        if above is not None and below:
            ratios.append(above / below)
    return spread(ratios)


def added(one: Series, other: Series) -> Spread | None:
    """Microseconds that `one` adds to the median latency of `other`, round by round."""
    base = {run.round: run.load.p50_us for run in other.paced_counted}
    return spread(run.load.p50_us - base[run.round] for run in one.paced_counted if run.round in base)


def percentile(histogram: Mapping[int, int], share: float) -> int | None:
    """The smallest edge that at least `share` (0…1) of the values do not exceed; None of an empty histogram."""
    total = sum(histogram.values())
    seen = 0
    for edge in sorted(histogram):
        seen += histogram[edge]
        if seen >= share * total and seen > 0:
            return edge
    return None


def merged(loads: Iterable[Load]) -> dict[int, int]:
    """One histogram of several runs."""
    whole: dict[int, int] = {}
    for load in loads:
        for edge, count in load.histogram.items():
            whole[edge] = whole.get(edge, 0) + count
    return whole
