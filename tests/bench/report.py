"""From samples to rows, ratios and the table; nothing here reads a clock or a file.

Rules: a figure is the median over the rounds that count; a ratio is taken inside a round, where both sides met the
same weather, and then summarised; a peer of which no round counts keeps its figures, marked void.
"""

import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from tests.bench.load import Load

BASELINES = ("haproxy", "relay")
COLUMNS = (
    "peer",
    "features",
    "CPU µs/request",
    "ratio to haproxy",
    "rps",
    "p50 µs",
    "p99 µs",
    "RSS MB",
    "syscalls/request",
)


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


@dataclass(frozen=True)
class Paced:
    """One peer's latencies below the knee in one round."""

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


def row(series: Series, others: Sequence[Series]) -> dict[str, Any]:
    """One row of `latest.json`; `others` are the peers of the same scenario and layout."""
    latency = merged(run.load for run in series.paced_counted)
    medians = {
        "cpu": spread(value for sample in series.counted if (value := sample.cpu_us_per_request) is not None),
        "rps": spread(sample.load.rps for sample in series.counted),
        "origin": spread(_origin_us(sample) for sample in series.counted),
        "switches": spread(
            sample.switches / sample.load.requests
            for sample in series.counted
            if sample.switches is not None and sample.load.requests
        ),
    }
    ratios = {}
    for base in others:
        if base.peer in BASELINES and base.peer != series.peer:
            found = _fields(ratio(series, base, lambda sample: sample.cpu_us_per_request))
            ratios[base.peer] = found and {**found, "void": series.is_void or base.is_void}
    return {
        "scenario": series.scenario,
        "peer": series.peer,
        "features": series.features,
        "layout": series.layout,
        "requests": sum(load.requests for load in series.loads),
        "errors": sum(load.errors for load in series.loads),
        "cpu_us_per_request": _median(medians["cpu"]),
        "rps": _median(medians["rps"]),
        "p50_us": _microseconds(percentile(latency, 0.50)),
        "p99_us": _microseconds(percentile(latency, 0.99)),
        "latency_at_rps": series.rate or None,
        "rss_bytes": series.rss_bytes,
        "syscalls_per_request": _rounded(series.syscalls_per_request),
        "switches_per_request": _median(medians["switches"]),
        "origin_cpu_us_per_request": _median(medians["origin"]),
        "cpu_spread": _fields(medians["cpu"]),
        "cpu_ratio_to": ratios,
        "rounds": len(series.counted),
        "void": series.is_void,
        "latency_void": series.latency_is_void,
    }


def markdown(rows: Sequence[Mapping[str, Any]], machine: Mapping[str, Any], *, quick: bool) -> str:
    """The table for people."""
    lines = ["# Benchmark, quick" if quick else "# Benchmark", ""]
    if quick:
        lines += ["Quick: two pairs of one scenario. It shows that nothing is far off; it proves no figure.", ""]
    lines += [f"{machine['model']}, {machine['cpus']} CPUs, Linux {machine['kernel']}.", ""]
    if any(entry["void"] or entry["latency_void"] for entry in rows):
        lines += ["*void*: steal or foreign CPU above 2 %, or a slowed core, in every attempt; counts for nothing.", ""]
    for scenario, layout in dict.fromkeys((entry["scenario"], entry["layout"]) for entry in rows):
        group = [entry for entry in rows if (entry["scenario"], entry["layout"]) == (scenario, layout)]
        rate = next((entry["latency_at_rps"] for entry in group if entry["latency_at_rps"]), None)
        pace = f"; latency from an open loop at {rate} requests/s" if rate else ""
        lines += [f"## {scenario}, {layout}{pace}", ""]
        lines += [
            "| " + " | ".join(COLUMNS) + " | |",
            "| --- " * (len(COLUMNS) + 1) + "|",
        ]
        lines += [_line(entry) for entry in group]
        lines.append("")
    lines.append("CPU is that of the proxy process alone. A difference under 5 % is noise.")
    return "\n".join(lines) + "\n"


def _line(entry: Mapping[str, Any]) -> str:
    marks = []
    if entry["errors"]:
        marks.append(f"**{entry['errors']} errors**")
    if entry["void"]:
        marks.append("*void*")
    if entry["latency_void"]:
        marks.append("*latency void*")
    resident = entry["rss_bytes"]
    cells = [
        entry["peer"],
        entry["features"],
        _shown(entry["cpu_us_per_request"], 2),
        _to_haproxy(entry),
        _shown(entry["rps"], 0),
        _shown(entry["p50_us"], 0),
        _shown(entry["p99_us"], 0),
        _shown(resident / 1e6 if resident is not None else None, 1),
        _shown(entry["syscalls_per_request"], 2),
        " ".join(marks),
    ]
    return "| " + " | ".join(cells) + " |"


def _to_haproxy(entry: Mapping[str, Any]) -> str:
    if entry["peer"] == "haproxy":
        return "1"
    found = entry["cpu_ratio_to"].get("haproxy")
    if found is None:
        return ""
    return str(Spread(found["median"], found["low"], found["high"])) + (" *void*" if found["void"] else "")


def _origin_us(sample: Sample) -> float:
    return sample.origin_cpu_ns / 1000 / max(1, sample.load.requests)


def _shown(value: float | None, digits: int) -> str:
    return "" if value is None else f"{value:.{digits}f}"


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 3)


def _median(value: Spread | None) -> float | None:
    return None if value is None else round(value.median, 3)


def _fields(value: Spread | None) -> dict[str, Any] | None:
    if value is None:
        return None
    return {"median": round(value.median, 3), "low": round(value.low, 3), "high": round(value.high, 3)}


def _microseconds(nanoseconds: int | None) -> float | None:
    return None if nanoseconds is None else nanoseconds / 1000
