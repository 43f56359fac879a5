"""Killing and stopping real processes, and never anybody else's.

A PID comes from `ps` and is turned into a descriptor at once, so that a process that has ended meanwhile cannot be
mistaken for another that was given its number. All of a group are struck in one go.
"""

from __future__ import annotations

import os
import select
import signal
from collections.abc import Iterable
from contextlib import suppress
from types import TracebackType
from typing import Self


class Victims:
    """Processes to be struck; who is gone already is left out. Leaving the block lets those that were stopped go on,
    whatever happened in it."""

    def __init__(self, pids: Iterable[int]) -> None:
        self._held: list[int] = []
        for pid in pids:
            with suppress(ProcessLookupError):
                self._held.append(os.pidfd_open(pid))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.send(signal.SIGCONT)
        for descriptor in self._held:
            os.close(descriptor)

    def send(self, number: signal.Signals) -> None:
        """Signals those that are still there."""
        for descriptor in self._held:
            with suppress(ProcessLookupError):
                signal.pidfd_send_signal(descriptor, number)

    def gone(self) -> bool:
        """Whether all of them have ended."""
        poll = select.poll()
        for descriptor in self._held:
            poll.register(descriptor, select.POLLIN)
        return len(poll.poll(0)) == len(self._held)


def kill(pids: Iterable[int]) -> None:
    """SIGKILL to all of them at once."""
    with Victims(pids) as victims:
        victims.send(signal.SIGKILL)
