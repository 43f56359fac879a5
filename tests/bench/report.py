"""From samples to the rows of `latest.json`."""

from collections.abc import Callable, Sequence
from typing import Any

from tests.bench.samples import Sample, Series, Spread, added, merged, percentile, ratio, spread

CPU_BASES = ("relay", "relay-tokio", "relay-io_uring", "haproxy", "envoy")
"""Whose CPU time a request others are compared with."""


def rows(measured: Sequence[Series]) -> list[dict[str, Any]]:
    """All rows of a run."""
    return [
        row(one, [other for other in measured if (other.scenario, other.layout) == (one.scenario, one.layout)])
        for one in measured
    ]


def row(series: Series, others: Sequence[Series]) -> dict[str, Any]:
    """One row; `others` are the peers of the same scenario and layout."""
    bases = {base.key: base for base in others if base.key != series.key}
    latency = merged(run.load for run in series.paced_counted)
    cpu = spread(value for sample in series.counted if (value := _cpu(sample)) is not None)
    rps = spread(sample.load.rps for sample in series.counted)
    origin = spread(value for sample in series.counted if (value := sample.origin_us_per_request) is not None)
    switches = spread(
        sample.switches / sample.load.requests
        for sample in series.counted
        if sample.switches is not None and sample.load.requests
    )

    def ratios(keys: Sequence[str], figure: Callable[[Sample], float | None]) -> dict[str, Any]:
        found = {key: ratio(series, bases[key], figure) for key in keys if key in bases}
        return {key: _fields(one, void=series.is_void or bases[key].is_void) for key, one in found.items()}

    direct = bases.get("direct")
    return {
        "scenario": series.scenario,
        "peer": series.peer,
        "features": series.features,
        "key": series.key,
        "layout": series.layout,
        "requests": sum(load.requests for load in series.loads),
        "errors": sum(load.errors for load in series.loads),
        "cpu_us_per_request": _median(cpu),
        "rps": _median(rps),
        "p50_us": _microseconds(percentile(latency, 0.50)),
        "p99_us": _microseconds(percentile(latency, 0.99)),
        "latency_at_rps": series.rate or None,
        "rss_bytes": series.rss_bytes,
        "syscalls_per_request": _rounded(series.syscalls_per_request),
        "switches_per_request": _median(switches),
        "origin_cpu_us_per_request": _median(origin),
        "cpu_spread": _fields(cpu),
        "cpu_ratio_to": ratios(CPU_BASES, _cpu),
        "whole_cpu_ratio_to": ratios(("pannier-tcp",), lambda sample: sample.whole_us_per_request),
        "rps_ratio_to": ratios(("direct",), lambda sample: sample.load.rps),
        "p50_added_us": direct
        and _fields(added(series, direct), void=series.latency_is_void or direct.latency_is_void),
        "rounds": len(series.counted),
        "void": series.is_void,
        "latency_void": series.latency_is_void,
    }


def _cpu(sample: Sample) -> float | None:
    return sample.cpu_us_per_request


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 3)


def _median(value: Spread | None) -> float | None:
    return None if value is None else round(value.median, 3)


def _fields(value: Spread | None, **more: bool) -> dict[str, Any] | None:
    if value is None:
        return None
    return {"median": round(value.median, 3), "low": round(value.low, 3), "high": round(value.high, 3), **more}


def _microseconds(nanoseconds: int | None) -> float | None:
    return None if nanoseconds is None else nanoseconds / 1000
