"""Waiting for what other processes do: there is no event to wait for, only a clock to be held against it."""

from __future__ import annotations

import time
from collections.abc import Callable

EVERY_S = 0.01


def wait_until(condition: Callable[[], bool], what: str, *, within: float) -> float:
    """Seconds until the condition held. Raises AssertionError, which says what did not come, after so many seconds."""
    began = time.monotonic()
    while not condition():
        if time.monotonic() - began > within:
            raise AssertionError(f"{what}: not within {within:g} s")
        time.sleep(EVERY_S)
    return time.monotonic() - began


def pause(seconds: float) -> None:
    """Time that is part of the trial: what happens meanwhile is what is tried."""
    time.sleep(max(0.0, seconds))
