"""The live view as lines of text: what the load sees, the golden table of the mesh, and every process with its memory.

Pure: figures in, lines out. Nothing is cut to a width here; the screen decides what fits.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from pannier.shared.messages import Process, StatRow, Status
from summary import percentile

MIB = 1 << 20
Cells = Sequence[str]


@dataclass(frozen=True, slots=True)
class LoadFigures:
    """The load's own figures over its last `seconds`; `failed` counts from the start."""

    rps: float
    success_rate: float
    p50_ms: float
    p95_ms: float
    p99_ms: float
    failed: int


def load_figures(window: Sequence[tuple[float, bool]], seconds: float, failed: int) -> LoadFigures:
    """From (latency in seconds, good) of each request that ended in the last `seconds`."""
    ordered = sorted(latency for latency, _ in window)
    good = sum(1 for _, good in window if good)
    p50, p95, p99 = (percentile(ordered, share) * 1000 for share in (0.5, 0.95, 0.99))
    return LoadFigures(len(window) / seconds, good / len(window) if window else 1.0, p50, p95, p99, failed)


def golden_lines(load: LoadFigures, rows: Iterable[StatRow]) -> list[str]:
    """One line for the load, then one for each route that a service was asked for, as its own mesh side counted it."""
    table: list[Cells] = [("SERVICE", "ROUTE", "RPS", "SUCCESS", "P50 MS", "P95 MS", "P99 MS")]
    latencies = (f"{value:.1f}" for value in (load.p50_ms, load.p95_ms, load.p99_ms))
    table.append(("(load)", "all, from outside", f"{load.rps:.1f}", _percent(load.success_rate), *latencies))
    asked = [row for row in rows if row.direction == "inbound" and row.requests]
    for row in sorted(asked, key=lambda row: (row.service, row.route)):
        latencies = (_number(value) for value in (row.p50_ms, row.p95_ms, row.p99_ms))
        table.append((row.service, row.route or "-", f"{row.rps:.1f}", _percent(row.success_rate), *latencies))
    return aligned(table, left=2)


def process_lines(services: Iterable[Status]) -> list[str]:
    """A row for each service, a column for each kind of process: state, memory (PSS), restarts if there were any."""
    services = list(services)
    names = list(dict.fromkeys(process.name for service in services for process in service.processes))
    table: list[Cells] = [("SERVICE", *(name.upper() for name in names))]
    for service in services:
        found = {process.name: process for process in service.processes}
        table.append((service.name, *(_process(found.get(name)) for name in names)))
    total = sum(process.pss_bytes for service in services for process in service.processes)
    return [*aligned(table, left=len(names) + 1), f"{total / MIB:.0f} MiB in all"]


def url_lines(urls: Mapping[str, Mapping[str, str]]) -> list[str]:
    """What can be opened: for each service its public side (`inbound`) and its metrics."""
    return aligned(
        [(name, found.get("inbound", "-"), found.get("metrics", "-")) for name, found in urls.items()], left=3
    )


def _process(process: Process | None) -> str:
    if process is None:
        return "-"
    again = f" restarts={process.restarts}" if process.restarts else ""
    return f"{process.state} {process.pss_bytes / MIB:.0f}M{again}"


def _percent(rate: float | None) -> str:
    return "-" if rate is None else f"{rate * 100:.2f}%"


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.1f}"


def aligned(table: Sequence[Cells], *, left: int) -> list[str]:
    """Columns two spaces apart: the first `left` of them to the left, figures to the right."""
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    return [
        "  ".join(
            cell.ljust(width) if column < left else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in table
    ]
