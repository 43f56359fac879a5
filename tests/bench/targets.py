"""The targets of an HTTP/1.1 hop, read from one run's result: each with its figure, and whether it is met.

The median is what is judged; the spread is shown. A figure from void rounds is judged, too, and marked, since a reader
may want to know; a figure that was not measured is neither met nor not met. A target that cannot be read from a run on
this machine (one CPU has no second layout) is left out.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

Result = Mapping[str, Any]

HOP, UNIX = "h1-keepalive-64c", "h1-uds-64c"
MB, KIB = 1_000_000, 1_024
CPU_LIMITS = (
    ("haproxy", "HAProxy", 0.85),
    ("envoy", "Envoy, router only", 0.40),
    ("relay", "the bare epoll relay", 1.15),
)
ADDED_LIMITS = (("one-core", 25.0), ("two-cores", 40.0))


@dataclass(frozen=True)
class Target:
    """One target and what the run says of it.

    `limit` and the figures have the `unit` and are shown with so many `digits`; `low` and `high` are the ends of the
    rounds, or the median again where there is one reading.
    """

    what: str
    layout: str
    limit: float
    unit: str = ""
    digits: int = 2
    at_least: bool = False
    median: float | None = None
    low: float | None = None
    high: float | None = None
    void: bool = False

    @property
    def met(self) -> bool | None:
        if self.median is None:
            return None
        return self.median >= self.limit if self.at_least else self.median <= self.limit


def judge(result: Result) -> list[Target]:
    """All targets that concern what the run was to measure."""
    return [*_cpu(result), *_unix(result), *_latency(result), *_memory(result), *_instructions(result)]


def _cpu(result: Result) -> Iterator[Target]:
    for layout, row in _rows(result, HOP, "pannier"):
        for key, name, limit in CPU_LIMITS:
            what = f"all governance on: CPU a request ÷ that of {name}"
            yield _spread(row["cpu_ratio_to"].get(key), what, layout, limit)


def _unix(result: Result) -> Iterator[Target]:
    for layout, row in _rows(result, UNIX, "pannier"):
        ratio = row["whole_cpu_ratio_to"].get("pannier-tcp")
        yield _spread(ratio, "origin over a Unix socket: CPU of proxy + origin ÷ that over TCP", layout, 0.85)
        if layout == "two-cores":  # in the other one the proxy takes of the core that client and origin share
            what = "origin over a Unix socket: requests a second ÷ direct TCP to the origin"
            yield _spread(row["rps_ratio_to"].get("direct"), what, layout, 1.0, at_least=True)


def _latency(result: Result) -> Iterator[Target]:
    limits = dict(ADDED_LIMITS)
    for layout, row in _rows(result, HOP, "pannier"):
        what = f"p50 that the hop adds at {row['latency_at_rps']} requests/s"
        yield _spread(row["p50_added_us"], what, layout, limits[layout], unit="µs", digits=0)


def _memory(result: Result) -> Iterator[Target]:
    for weight in result["memory"]:
        if weight["key"] == "pannier":
            yield _reading(weight["idle_bytes"] / MB, "resident memory of the idle proxy", 12.0, unit="MB", digits=1)
            what = f"resident memory of one of {weight['connections']} idle connections"
            yield _reading(weight["bytes_per_connection"] / KIB, what, 10.0, unit="KiB", digits=1)


def _instructions(result: Result) -> Iterator[Target]:
    counts: Sequence[Mapping[str, Any]] = result["instructions"]
    for count in counts[1:]:
        what = f"instructions that {count['sidecars'][-1]} adds to a request"
        yield _reading(round(count["added"]), what, count["allowed"])
    if counts:
        none, every = counts[0], counts[-1]
        if none["syscalls"] is not None and every["syscalls"] is not None:
            added = round(every["syscalls"] - none["syscalls"], 1)
            yield _reading(added, "system calls that all four sidecars add to a request", 0.0, digits=1)
        # The connection's own allocations are spread over thousands of requests.
        yield _reading(round(every["allocations"], 2), "allocations a request in steady state, all four", 0.0, digits=2)


def _rows(result: Result, scenario: str, key: str) -> Iterator[tuple[str, Mapping[str, Any]]]:
    for row in result["rows"]:
        if row["scenario"] == scenario and row["key"] == key:
            yield row["layout"], row


def _spread(
    found: Mapping[str, Any] | None,
    what: str,
    layout: str,
    limit: float,
    *,
    unit: str = "",
    digits: int = 2,
    at_least: bool = False,
) -> Target:
    empty = Target(what, layout, limit, unit, digits, at_least)
    if found is None:
        return empty
    return replace(empty, median=found["median"], low=found["low"], high=found["high"], void=found["void"])


def _reading(value: float, what: str, limit: float, *, unit: str = "", digits: int = 0) -> Target:
    return Target(what, "", limit, unit, digits, median=value, low=value, high=value)
