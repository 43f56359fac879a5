"""Percentiles out of histogram buckets.

Formula: the wanted rank is `quantile * total`; the bucket that holds it is found by cumulating, and the value is
interpolated linearly between the bucket's bounds by how far into the bucket the rank lies (Prometheus's
`histogram_quantile`). With log-linear buckets the error is at most the relative width of one bucket. The open last
bucket has no upper bound: it answers its lower bound, so a percentile is then a floor and never an invention.

Refused: the bucket's midpoint (a step function that hides small changes) and geometric interpolation (no better than
linear in buckets this narrow, and undefined in the first one, which starts at zero).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence


def percentile(bounds: Sequence[float], counts: Mapping[int, int], quantile: float) -> float | None:
    """The value below which `quantile` (0…1) of the observations lie, in the unit of `bounds`; None without any.

    `bounds[i]` is the upper bound of bucket `i`; `counts` is sparse (bucket index → observations, not cumulative), and
    every index from `len(bounds)` on is the open bucket.
    """
    if not 0 <= quantile <= 1:
        raise ValueError(f"a quantile lies in 0…1, not {quantile}")
    indices = sorted(index for index, count in counts.items() if count > 0)
    total = sum(counts[index] for index in indices)
    if total == 0:
        return None
    rank = quantile * total
    below = 0
    for index in indices:
        if index >= len(bounds):
            return bounds[-1]
        count = counts[index]
        if below + count >= rank:
            lower = bounds[index - 1] if index else 0.0
            return lower + (bounds[index] - lower) * max(rank - below, 0) / count
        below += count
    raise AssertionError("a rank never exceeds the total")
