"""Samples and results made up for tests."""

from typing import Any

from tests.bench import report
from tests.bench.load import Load
from tests.bench.samples import Paced, Sample, Series


def load(requests: int = 1000, *, errors: int = 0, p50_us: float = 100.0, **more: Any) -> Load:
    """One run of a second."""
    return Load(requests, errors, 1.0, float(requests), p50_us, 200.0, **more)


def series(
    key: str,
    costs_us: list[float],
    *,
    scenario: str = "h1-keepalive-64c",
    layout: str = "one-core",
    origin_us: float = 5.0,
    requests: int = 1000,
    void: tuple[int, ...] = (),
) -> Series:
    """A round of so many requests for each cost."""
    found = Series(scenario, layout, key, key.partition("-")[0], f"features of {key}")
    for turn, cost in enumerate(costs_us):
        reason = "steal 3.0%" if turn in void else None
        cpu, origin = int(cost * requests * 1_000), int(origin_us * requests * 1_000)
        found.samples.append(Sample(turn, load(requests), cpu, origin, 2_000, reason))
    return found


def paced(found: Series, *p50s_us: float) -> Series:
    """Adds a paced round for each median latency."""
    found.rate = 3_000
    found.paced = [Paced(turn, load(p50_us=p50)) for turn, p50 in enumerate(p50s_us)]
    return found


def rows(*peers: Series) -> list[dict[str, Any]]:
    """The rows of these peers."""
    return report.rows(peers)


def count(*sidecars: str, instructions: float = 10_000.0, added: float = 0.0, **more: Any) -> dict[str, Any]:
    """What a request costs with these sidecars, as it stands in a result."""
    found = {"sidecars": list(sidecars), "instructions": instructions, "added": added, "allowed": 200}
    return {**found, "phases": {"parse": instructions}, "allocations": 0.0, "syscalls": 4.0, **more}


def result(*rows: dict[str, Any], **more: Any) -> dict[str, Any]:
    """A whole run's result."""
    machine = {"model": "Model", "cpus": 2, "kernel": "6.18", "memory_bytes": 1}
    nothing: dict[str, Any] = {"failures": [], "skipped": [], "memory": [], "instructions": [], "routes": None}
    run = {"machine": machine, "quick": False, "whole": True, "time": "2026-01-02T03:04:05Z", "seconds": 1_200}
    return {**run, **nothing, "rows": list(rows), **more}
