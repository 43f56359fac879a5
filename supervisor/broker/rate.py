"""How fast a peer may speak: a token bucket with hysteresis. Pure; time is an argument.

An empty bucket pauses reading until it is half full, instead of once a message: a hundred wake-ups less, the same rate.
A peer that has not let the bucket fill up since its first pause is flooding, and after a while its connection ends.
"""

from __future__ import annotations


class Meter:
    """At most `rate` messages a second on average, `burst` at once. `now` never goes back."""

    def __init__(self, *, rate: float, burst: float, now: float) -> None:
        self._rate = rate
        self._burst = burst
        self._tokens = burst
        self._at = now
        self._since: float | None = None

    def __repr__(self) -> str:
        return f"<Meter {self._tokens:.0f}/{self._burst:.0f} flooding since {self._since}>"

    def take(self, now: float) -> float:
        """Counts one message; the seconds to stop reading for, usually 0."""
        self._tokens = min(self._burst, self._tokens + (now - self._at) * self._rate)
        self._at = now
        if self._tokens >= self._burst:
            self._since = None
        self._tokens -= 1
        if self._tokens >= 0:
            return 0.0
        if self._since is None:
            self._since = now
        return (self._burst / 2 - self._tokens) / self._rate

    def flooding(self, now: float) -> float:
        """For how many seconds the peer has been too fast."""
        return 0.0 if self._since is None else now - self._since
