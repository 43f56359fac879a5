"""Whether a series of samples is flat. Pure.

A line is laid through the samples by least squares; what it says of an hour is judged beside what it says of the time
that was looked at. A slope alone is not enough: over a few minutes a single page that was touched late is MiB an hour.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

HOUR_S = 3600.0


@dataclass(frozen=True)
class Trend:
    """A line through samples: `per_hour` is its slope, `grown` what that comes to over the time that was looked at."""

    per_hour: float
    grown: float
    first: float
    last: float


def trend(samples: Sequence[tuple[float, float]]) -> Trend:
    """The line through (seconds, value). Raises ValueError for fewer than two moments."""
    if len({at for at, _ in samples}) < 2:
        raise ValueError("a trend needs two moments at least")
    mean_at = sum(at for at, _ in samples) / len(samples)
    mean = sum(value for _, value in samples) / len(samples)
    spread = sum((at - mean_at) ** 2 for at, _ in samples)
    slope = sum((at - mean_at) * (value - mean) for at, value in samples) / spread
    lasted = samples[-1][0] - samples[0][0]
    return Trend(slope * HOUR_S, slope * lasted, samples[0][1], samples[-1][1])
