"""The endpoint breaker's unified mode, as in Linkerd: it also opens when too little succeeds over a window. Pure.

Seven failures in a row never come from an endpoint that fails every other call; the proxy, which counts the row, cannot
see a rate. Here a 429 counts as a failure: whoever refuses that much is better left alone.

The window is cut into `PARTS`, and forgets one part at a time: 20 numbers an endpoint, whatever the traffic.
"""

from __future__ import annotations

from collections import deque

from pannier.shared.duration import milliseconds
from pannier.sidecars.resilience.config import Breaker
from pannier.sidecars.resilience.readings import Counts

PARTS = 20


class RollingRate:
    """The last `breaker.window` of one endpoint whose breaker is closed."""

    def __init__(self, breaker: Breaker) -> None:
        self._breaker = breaker
        self._part_ms = max(milliseconds(breaker.window) // PARTS, 1)
        self._parts: deque[tuple[int, Counts]] = deque()

    def add(self, now_ms: int, moved: Counts) -> str:
        """Takes calls that ended just now; returns why the breaker opens, or an empty text."""
        part = now_ms // self._part_ms
        while self._parts and self._parts[0][0] <= part - PARTS:
            self._parts.popleft()
        if self._parts and self._parts[-1][0] == part:
            moved = moved.plus(self._parts.pop()[1])
        self._parts.append((part, moved))
        calls = sum(counts.calls for _, counts in self._parts)
        bad = sum(counts.failures + counts.refused for _, counts in self._parts)
        if calls < self._breaker.min_requests or calls - bad >= self._breaker.success_rate * calls:
            return ""
        rate = 100 * max(calls - bad, 0) / calls
        below = f"{rate:.0f} % < {100 * self._breaker.success_rate:g} %"
        return f"success {below} of {calls} requests in {self._breaker.window}"


def penalty_ms(breaker: Breaker, times: int, chance: float) -> int:
    """For how long a breaker opens that was open `times` times lately: `penalty_min`, doubled for each, at most
    `penalty_max`; then up to `jitter` of it more. `chance` is from [0, 1). The proxy has the same formula."""
    penalty = min(milliseconds(breaker.penalty_min) << min(times, 32), milliseconds(breaker.penalty_max))
    return penalty + int(penalty * breaker.jitter * chance)
