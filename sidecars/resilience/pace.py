"""How long to wait before the next look. Pure.

`BUSY_SECONDS` while calls end, then doubling up to `IDLE_SECONDS`: an idle service costs one look a second. A service
whose own breaker is open is never idle, although it has no calls: every look that comes later, after those that try it
have been answered, is time in which everybody else is refused.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from pannier.sidecars.resilience.inventory import Member

BUSY_SECONDS: Final = 0.05
IDLE_SECONDS: Final = 1.0


def next_pause(pause: float, *, moved: bool, out: Iterable[Member]) -> float:
    """Seconds to wait after a look that came `pause` after the one before. `moved`: calls have begun or ended since;
    `out`: who is out now."""
    if moved or any(not member.address for member in out):
        return BUSY_SECONDS
    return min(pause * 2, IDLE_SECONDS)
