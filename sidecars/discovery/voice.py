"""Says what an operator may want to know, in the log and on the topic `events`.

A trouble that lasts is said once, until it changes or is settled (`say`); something that happened is said each time
(`tell`). The subjects of `say` are a handful, none of them made of a name from outside: they are remembered.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable

import trio
from pannier.shared.bus import Bus
from pannier.shared.errors import PannierError
from pannier.shared.messages import EVENTS, Happening

_log = logging.getLogger("pannier.discovery")
_WAITING = 256


class Voice:
    """Remarks by subject; the bus is only reached from `run`, so that saying something never waits."""

    def __init__(self, wall_clock: Callable[[], float] = time.time) -> None:
        self._last: dict[str, str] = {}
        self._wall_clock = wall_clock
        self._send, self._receive = trio.open_memory_channel[Happening](_WAITING)

    def say(self, subject: str, message: str, *, severity: str = "warning") -> None:
        """Says it, unless it is the last thing that was said about `subject`."""
        if self._last.get(subject) == message:
            return
        self._last[subject] = message
        self.tell(subject, message, severity=severity)

    def tell(self, subject: str, message: str, *, severity: str = "warning") -> None:
        """Says that something happened."""
        _log.log(logging.WARNING if severity != "info" else logging.INFO, "%s", message)
        happening = Happening("discovery", subject, message, severity, round(self._wall_clock() * 1000))
        try:
            self._send.send_nowait(happening)
        except trio.WouldBlock:
            _log.warning("too many events at once; some reach the log only")

    def settled(self, subject: str, message: str = "") -> None:
        """The trouble with `subject` is over; `message` is said if there was any."""
        if self._last.pop(subject, "") and message:
            _log.info("%s", message)

    def trouble(self, subject: str) -> str:
        """What was said of it last that is not settled, or nothing."""
        return self._last.get(subject, "")

    async def run(self, bus: Bus) -> None:
        """Tells the topic `events` until cancelled."""
        async for happening in self._receive:
            try:
                await bus.publish(EVENTS, happening)
            except PannierError as error:
                _log.warning("an event cannot be published: %s", error)
