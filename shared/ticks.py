"""Periodic work of one process on one grid: tasks whose periods divide each other share their wake-ups.

A wake-up costs an idle process more than what it then does. The grid is that of trio's clock, whose origin is random,
so that processes do not all wake at the same moment.
"""

from __future__ import annotations

from typing import Final

import trio

BEAT_SECONDS: Final = 2.0
"""From one sign of life to the next, on the bus and in the tables: each one wakes who hears it, too."""


async def next_tick(period: float) -> None:
    """Sleeps to the next multiple of `period` seconds, which is at most `period` away."""
    await trio.sleep_until((trio.current_time() // period + 1) * period)
