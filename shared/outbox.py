"""What waits to be written to one peer, bounded whatever the peer does. Pure: no socket, no clock.

One queue in order, three kinds with three ways of not growing:

- `control` (requests, answers, subscriptions) is never lost; who sends it looks at `control_bytes` first.
- `state` conflates: a newer value takes the place of the one that waits, so there is at most one a topic.
- `event` drops the oldest when `max_events` or `max_event_bytes` wait.

Every state and event is accounted for: published = delivered + conflated + dropped + queued, at any moment.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from dataclasses import dataclass
from itertools import count

import msgspec


class OutboxStatistics(msgspec.Struct, frozen=True):
    """Of states and events only: published = delivered + conflated + dropped + queued."""

    published: int = 0
    delivered: int = 0
    conflated: int = 0
    dropped: int = 0
    queued: int = 0

    def __add__(self, other: OutboxStatistics) -> OutboxStatistics:
        return OutboxStatistics(
            self.published + other.published,
            self.delivered + other.delivered,
            self.conflated + other.conflated,
            self.dropped + other.dropped,
            self.queued + other.queued,
        )


@dataclass(frozen=True)
class _Item:
    frame: bytes
    counted: bool
    event: bool


class Outbox:
    """A queue of frames for one peer. `next` hands out the oldest, `settle` says that it was written."""

    def __init__(self, *, max_events: int = 256, max_event_bytes: int = 1024 * 1024) -> None:
        self._max_events = max_events
        self._max_event_bytes = max_event_bytes
        self._queue: OrderedDict[int | str, _Item] = OrderedDict()
        self._serials = count()
        self._events: deque[int] = deque()
        self._event_bytes = 0
        self.control_bytes = 0
        self._in_hand: _Item | None = None
        self._published = self._delivered = self._conflated = self._dropped = 0

    def __len__(self) -> int:
        return len(self._queue) + (self._in_hand is not None)

    def control(self, frame: bytes) -> None:
        """Queues what must arrive."""
        self.control_bytes += len(frame)
        self._queue[next(self._serials)] = _Item(frame, counted=False, event=False)

    def state(self, topic: str, frame: bytes) -> None:
        """Queues the value of `topic`, in the place of an older one that still waits."""
        self._published += 1
        if topic in self._queue:
            self._conflated += 1
        self._queue[topic] = _Item(frame, counted=True, event=False)

    def event(self, frame: bytes) -> None:
        """Queues one event; the oldest that wait make room for it."""
        self._published += 1
        serial = next(self._serials)
        self._queue[serial] = _Item(frame, counted=True, event=True)
        self._events.append(serial)
        self._event_bytes += len(frame)
        while len(self._events) > self._max_events or self._event_bytes > self._max_event_bytes:
            oldest = self._queue.pop(self._events.popleft())
            self._event_bytes -= len(oldest.frame)
            self._dropped += 1

    def next(self) -> bytes | None:
        """The oldest frame, now in the caller's hand until `settle`; None if nothing waits."""
        if not self._queue:
            return None
        _, item = self._queue.popitem(last=False)
        if not item.counted:
            self.control_bytes -= len(item.frame)
        if item.event:
            self._events.popleft()
            self._event_bytes -= len(item.frame)
        self._in_hand = item
        return item.frame

    def settle(self) -> None:
        """The frame in hand was written."""
        if self._in_hand is not None and self._in_hand.counted:
            self._delivered += 1
        self._in_hand = None

    def abandon(self) -> None:
        """The peer is gone: what waits, and what was in hand, counts as dropped."""
        self._dropped += self._waiting()
        self._queue.clear()
        self._events.clear()
        self._event_bytes = self.control_bytes = 0
        self._in_hand = None

    def statistics(self) -> OutboxStatistics:
        return OutboxStatistics(
            self._published, self._delivered, self._conflated, self._dropped, queued=self._waiting()
        )

    def _waiting(self) -> int:
        in_hand = self._in_hand is not None and self._in_hand.counted
        return sum(item.counted for item in self._queue.values()) + in_hand
