"""Who has been silent for too long. Pure: the time is an argument, the verdict is a list of names.

Rules:
- A name is watched from `expect` to `release`; each sign of life moves its deadline.
- Time during which the supervisor itself did not run (SIGSTOP, a laptop's lid) says nothing about anybody. `tick` knows
  that time by its own lateness, and then gives everybody a whole new period: a supervisor that wakes kills nobody.
- Readiness is the same rule with a longer period and no signs of life until the one that counts.

Refused: one timer a process. Each would fire by itself after a gap, and none of them could tell that there was one.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

TICK: Final = 1.0  # seconds between two calls of `tick`
LATE: Final = 1.0  # a tick that comes this much later than it should is a gap


@dataclass
class _Watched:
    period: float
    deadline: float


class Watchdog:
    def __init__(self, now: float) -> None:
        self._watched: dict[str, _Watched] = {}
        self._last_tick = now

    def expect(self, name: str, period: float, now: float) -> None:
        """From now on `name` must give a sign of life every `period` seconds."""
        self._watched[name] = _Watched(period, now + period)

    def alive(self, name: str, now: float) -> None:
        """A sign of life; from somebody who is not watched it means nothing."""
        if watched := self._watched.get(name):
            watched.deadline = now + watched.period

    def release(self, name: str) -> None:
        self._watched.pop(name, None)

    def tick(self, now: float) -> tuple[str, ...]:
        """Call every `TICK` seconds: the names whose time is up, each told once."""
        gap = now - self._last_tick > TICK + LATE
        self._last_tick = now
        if gap:
            for watched in self._watched.values():
                watched.deadline = now + watched.period
            return ()
        silent = tuple(name for name, watched in self._watched.items() if watched.deadline <= now)
        for name in silent:
            del self._watched[name]
        return silent
