"""Handing spans to a collector without ever waiting for it: a bounded queue, a thread, and a count of everything lost.

The SDK's `BatchSpanProcessor` is refused: it counts nothing that can be read, and wants spans converted before they are
queued; here they stay native until the thread takes them. What makes the exporter is a callable, so that OpenTelemetry
(tens of megabytes) is imported when the first span is there, and by this thread.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from itertools import islice
from typing import Final, Protocol

from pannier.sidecars.observability.native import Span
from pannier.sidecars.observability.tally import Tally

_log = logging.getLogger(__name__)
DELAY_SECONDS: Final = 1.0


class Exporter(Protocol):
    def export(self, spans: Sequence[Span]) -> bool:
        """Whether the collector took them; blocks, bounded by the exporter's own timeout."""

    def shutdown(self) -> None:
        """Makes an `export` that waits for a retry return; called from another thread."""


class Export:
    """Up to `queue` spans wait here; they leave in batches of up to `batch`, a full one at once, else each second.

    Each span is counted once in `tally`: exported, failed (the collector did not take it) or dropped (no room, or not
    sent by the end). `run` blocks and belongs on a thread; the rest may be called from any other and does not block,
    except for `finish`.
    """

    def __init__(self, make: Callable[[], Exporter], tally: Tally, *, queue: int, batch: int) -> None:
        self._make = make
        self._tally = tally
        self._limit = queue
        self._batch = min(batch, queue)
        self._queue: deque[Span] = deque()
        self._changed = threading.Condition()
        self._stopping = False
        self._deadline = 0.0
        self._exporter: Exporter | None = None
        self._stopped = threading.Event()
        self._failing = False

    def offer(self, spans: Sequence[Span]) -> None:
        """Queues what there is room for, drops and counts the rest."""
        with self._changed:
            room = 0 if self._stopping else self._limit - len(self._queue)
            self._queue.extend(islice(spans, room))
            self._tally.spans_dropped += max(len(spans) - room, 0)
            if len(self._queue) >= self._batch:
                self._changed.notify()

    def run(self) -> None:
        """Exports until `finish`; then what is still queued, as long as the deadline lets it."""
        try:
            while batch := self._take():
                self._send(batch)
        finally:
            with self._changed:
                self._tally.spans_dropped += len(self._queue)
                self._queue.clear()
            self._stopped.set()

    def finish(self, timeout: float) -> bool:
        """Blocks until all is sent, for at most `timeout` seconds; False when something had to be given up."""
        with self._changed:
            self._deadline = time.monotonic() + timeout
            self._stopping = True
            self._changed.notify()
        in_time = self._stopped.wait(timeout)
        if self._exporter is not None:
            self._exporter.shutdown()
        return in_time

    def _take(self) -> list[Span]:
        """The next batch, waiting for it; empty when it is time to end."""
        with self._changed:
            while not self._queue and not self._stopping:
                self._changed.wait(DELAY_SECONDS)
            if len(self._queue) < self._batch and not self._stopping:
                self._changed.wait(DELAY_SECONDS)
            if self._stopping and time.monotonic() >= self._deadline:
                return []
            return [self._queue.popleft() for _ in range(min(self._batch, len(self._queue)))]

    def _send(self, batch: list[Span]) -> None:
        try:
            if self._exporter is None:
                self._exporter = self._make()
            taken = self._exporter.export(batch)
        except Exception:
            _log.exception("spans cannot be exported")
            taken = False
        if taken:
            self._tally.spans_exported += len(batch)
        else:
            self._tally.spans_failed += len(batch)
        if taken == self._failing:
            self._failing = not taken
            _log.warning("the trace collector %s", "takes spans again" if taken else "takes no spans; they are lost")
