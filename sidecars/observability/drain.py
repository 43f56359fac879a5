"""Taking access-log records and spans out of the rings, on a thread of its own.

A thread, because the native drain writes the access log: a write to a full page cache, a slow disk or a network file
system can block for seconds, and must hold neither the bus nor `/metrics`. One long-lived thread rather than a trio
worker a drain, which would cost more than an ordinary drain does.

Rules: 20 ms between drains while records come, doubling up to 250 ms while none do; a drain that met its limit is
followed by the next at once. Refused: pauses of 1 s. A ring holds some three thousand records, so that a burst out of
silence would lose lines; a wake-up costs 0.1 ms, so that four a second are 0.04 % of a core.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from typing import Final

from pannier.sidecars.observability.accesslog import AccessLogFile
from pannier.sidecars.observability.native import Rings, Span
from pannier.sidecars.observability.tally import Tally

BUSY_SECONDS: Final = 0.02
IDLE_SECONDS: Final = 0.25
LIMIT: Final = 2048
_CHECK_SECONDS: Final = 1.0
_LAST_DRAINS: Final = 64


class Pace:
    """How long to wait before the next drain, from what the last ones found."""

    def __init__(self) -> None:
        self._pause = BUSY_SECONDS

    def next(self, records: int, limit: int) -> float:
        """Seconds to wait after a drain that took `records` of at most `limit`."""
        if records >= limit:
            self._pause = BUSY_SECONDS
            return 0.0
        self._pause = BUSY_SECONDS if records else min(self._pause * 2, IDLE_SECONDS)
        return self._pause


class Drain:
    """Empties `rings`: lines to `log` (None = none are written), spans to `sink` (None = none are made).

    `run` blocks and belongs on a thread; `stop` and `wait_stopped` may be called from any other.
    """

    def __init__(
        self, rings: Rings, tally: Tally, *, log: AccessLogFile | None, sink: Callable[[Sequence[Span]], None] | None
    ) -> None:
        self._rings = rings
        self._tally = tally
        self._log = log
        self._sink = sink
        self._checked_at = -_CHECK_SECONDS
        self._stopping = threading.Event()
        self._stopped = threading.Event()

    def run(self) -> None:
        """Drains until `stop`, then once more until the rings are empty, and closes the log."""
        pace = Pace()
        try:
            while not self._stopping.wait(pace.next(self.step(time.monotonic()), LIMIT)):
                pass
            for _ in range(_LAST_DRAINS):
                if self.step(time.monotonic()) < LIMIT:
                    break
        finally:
            if self._log is not None:
                self._log.close()
            self._stopped.set()

    def stop(self) -> None:
        self._stopping.set()

    def wait_stopped(self, timeout: float) -> bool:
        """Blocks until `run` has returned; False after `timeout` seconds."""
        return self._stopped.wait(timeout)

    def step(self, now: float) -> int:
        """One drain at monotonic time `now`; returns the number of records that it took."""
        log = self._log
        if log is not None and now - self._checked_at >= _CHECK_SECONDS:
            self._checked_at = now
            log.check()
            self._tally.log_rotations = log.rotations
        drained = self._rings.drain(log.descriptor if log else -1, self._sink is not None, LIMIT)
        if log is not None and drained.records:
            lost = drained.log_errors if log.descriptor >= 0 else drained.records
            self._tally.log_errors += lost
            log.note(lost)
        if self._sink is not None and drained.spans:
            self._sink(drained.spans)
        return drained.records
