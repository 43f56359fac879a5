"""Hosts that are made up, for `pannier central simulate synthetic:NAME`: each feels what the weight does to it.

The app's work comes and goes, and the mesh's work is half as much again. Of that, nine tenths can leave. How long
somebody waits for a CPU follows from how busy the host is: with two CPUs of which a share b is busy, and work that
comes at random and takes random times, that is 2b³/(1+b) of the time (M/M/2, the chance of more than two in the
system). So there is pressure long before nothing is idle. Noise is drawn from the seed, so a run can be repeated.
"""

from __future__ import annotations

import math
import struct
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from pannier.supervisor.central_simulation import Host, Moment

TICK_MS: Final = 250
MESH: Final = 0.5  # of the app's work
LEAVES: Final = 0.9  # of the mesh's work
CALM: Final = 0.25  # of the host's CPU, for the app
BUSY: Final = 0.7
SERVICE_MS: Final = 0.5  # how long work takes in the proxy, so that its wait follows from how busy the host is
LONGEST_WAIT_MS: Final = 200.0


@dataclass(frozen=True)
class _Story:
    """For how many seconds; what the app takes of the CPU, and whether the Central can be used, by the second."""

    seconds: int
    app: Callable[[float], float]
    usable: Callable[[float], bool] = lambda _: True


def _between(start: float, end: float) -> Callable[[float], float]:
    return lambda second: BUSY if start <= second < end else CALM


_STORIES: Final = {
    # A day's peak within a quarter of an hour.
    "peak": _Story(900, lambda second: CALM + (BUSY - CALM) * math.exp(-(((second - 400) / 120) ** 2))),
    # Four seconds of too much, and four of calm: what would make a hasty controller flap.
    "flapping": _Story(300, lambda second: BUSY if second % 8 < 4 else CALM),
    "step": _Story(240, _between(20, 110)),
    # It goes for twenty seconds, and then comes and goes.
    "central-down": _Story(
        300, _between(20, 200), lambda second: not (60 <= second < 80 or (100 <= second < 130 and second % 10 < 2))
    ),
}

NAMES: Final = tuple(_STORIES)


def synthetic(name: str, seed: int) -> Host:
    """The host of that name, one of NAMES."""
    story, weight = _STORIES[name], 0.0
    for ms in range(0, story.seconds * 1_000, TICK_MS):
        second = ms / 1_000
        app = story.app(second) * (1 + 0.1 * (_noise(seed, ms) - 0.5))
        away = app * MESH * LEAVES * weight / 100
        busy = min(1.0, app + app * MESH - away)
        weight = yield Moment(
            ms=ms,
            host_pressure=round(100 * 2 * busy**3 / (1 + busy), 1),
            queue_wait_ms=round(min(LONGEST_WAIT_MS, SERVICE_MS * busy**2 / max(1e-6, 1 - busy**2)), 2),
            idle=round(1 - busy, 3),
            returning=round(away, 3),
            usable=story.usable(second),
        )


def _noise(seed: int, at: int) -> float:
    """0…1, the same for the same."""
    return zlib.crc32(struct.pack("<QQ", seed, at)) / (1 << 32)
