"""One reader's view of one topic: bounded, newest state first, and typed only when it is read.

State is one slot (the newest value wins); events are a queue that drops its oldest. A body that does not decode is
counted and skipped: its sender is at fault, and the connection it came over is not the sender's.
"""

from __future__ import annotations

from collections import deque
from collections.abc import AsyncIterator
from typing import Final, Generic, TypeVar

import trio
from pannier.shared import framing
from pannier.shared.envelope import Event
from pannier.shared.errors import Unreachable
from pannier.shared.framing import FramingError

T = TypeVar("T")

MAX_EVENTS: Final = 256
"""Events that wait for a slow reader."""


class Subscription(AsyncIterator[T], Generic[T]):
    """Iterate it to read; iteration ends with `Unreachable` when the bus is closed for good, never silently."""

    def __init__(self, topic: str, type_: type[T]) -> None:
        self.topic = topic
        self.conflated = self.dropped = self.undecodable = 0
        self._type = type_
        self._state: Event | None = None
        self._events: deque[Event] = deque()
        self._changed = trio.Event()
        self._closed = False

    def __repr__(self) -> str:
        waiting = len(self._events) + (self._state is not None)
        return f"<Subscription {self.topic} waiting={waiting} conflated={self.conflated} dropped={self.dropped}>"

    def __aiter__(self) -> Subscription[T]:
        return self

    async def __anext__(self) -> T:
        await trio.lowlevel.checkpoint()
        while True:
            while (event := self._next()) is None:
                if self._closed:
                    raise Unreachable("the bus is closed", hint="the supervisor, or this process's role, is gone")
                self._changed = trio.Event()
                await self._changed.wait()
            try:
                return framing.decode(event.body, self._type)
            except FramingError:
                self.undecodable += 1

    def offer(self, event: Event) -> None:
        """Takes what the broker sent."""
        if event.retained:
            self.conflated += self._state is not None
            self._state = event
        else:
            self._events.append(event)
            if len(self._events) > MAX_EVENTS:
                self._events.popleft()
                self.dropped += 1
        self._changed.set()

    def close(self) -> None:
        """Nothing more will come; what waits can still be read."""
        self._closed = True
        self._changed.set()

    def _next(self) -> Event | None:
        if self._state is not None:
            event, self._state = self._state, None
            return event
        return self._events.popleft() if self._events else None
