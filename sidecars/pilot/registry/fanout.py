"""Tells many of what has changed: who follows which service, and at what pace they are told.

What changes within `PACE_SECONDS` is one `Change` a service, made once for all who follow it: a service that changes a
thousand times a second costs its followers ten messages a second, and an instance that changed twice is told once.
Telling takes at most half of the time: who has many to tell tells them less often, and more at once.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Final, Protocol

import trio
from pannier.shared.instances import EVERY, Key
from pannier.sidecars.pilot.registry.entries import instance_of
from pannier.sidecars.pilot.registry.registry import Registry

PACE_SECONDS: Final = 0.1
MOST_SECONDS: Final = 2.0
"""Between two rounds, however long the last one took."""
SLICE_SECONDS: Final = 0.01
"""Of telling in one go, while others wait."""
PASSES: Final = 3
"""Of everybody who can run: who was woken by what he was told makes a message of it, and his connection sends it. That
is telling, too, and most of it where each follower has messages of his own."""


@dataclass(frozen=True, eq=False, slots=True)
class Change:
    """What has changed of a service up to a revision of its own: these instances, or perhaps everything (None)."""

    service: str
    revision: int
    instances: Collection[Key] | None


class Subscriber(Protocol):
    """Is told at most once each `PACE_SECONDS` of a service; must return at once."""

    def changed(self, change: Change) -> None: ...


class Fanout:
    """Who follows what. A subscriber reads a service after it has joined, and misses nothing from then on."""

    def __init__(self, registry: Registry) -> None:
        self._registry = registry
        self._subscribers: dict[str, dict[Subscriber, None]] = {}
        self._senders: list[Callable[[], Awaitable[None]]] = []

    def join(self, service: str, subscriber: Subscriber) -> None:
        """Tells it of that service from now on, or of `EVERY`."""
        self._subscribers.setdefault(service, {})[subscriber] = None

    def leave(self, service: str, subscriber: Subscriber) -> None:
        """Tells it of that service no more."""
        found = self._subscribers.get(service, {})
        found.pop(subscriber, None)
        if not found:
            self._subscribers.pop(service, None)

    def after_telling(self, send: Callable[[], Awaitable[None]]) -> None:
        """Calls `send` when its subscribers have been told all that there is for now: what they have gathered can be
        sent at once."""
        self._senders.append(send)

    async def run(self) -> None:
        """Tells until cancelled."""
        view = self._registry.view
        after, setbacks = view.revision, view.setbacks
        while True:
            touched = await self._registry.wait_changed(after, setbacks)
            whole = view.setbacks != setbacks or not view.forgotten <= after <= view.revision
            changed: dict[str, dict[Key, None]] = {}
            if whole:  # everybody may have missed something
                changed = {name: {} for name in {*view.services(), *self._subscribers} - {EVERY}}
            else:
                for instance in (*touched, *map(instance_of, view.changed(after))):
                    changed.setdefault(instance[0], {})[instance] = None
            after, setbacks = view.revision, view.setbacks
            began = trio.current_time()
            await self._tell_all(
                [Change(name, view.revision_of(name), None if whole else keys) for name, keys in changed.items()]
            )
            await trio.sleep(min(max(PACE_SECONDS, trio.current_time() - began), MOST_SECONDS))

    async def _tell_all(self, changes: Sequence[Change]) -> None:
        until = time.monotonic() + SLICE_SECONDS
        for change in changes:
            self._tell(change)
            if time.monotonic() > until:
                await trio.lowlevel.checkpoint()
                until = time.monotonic() + SLICE_SECONDS
        for send in self._senders:
            await send()
        for _ in range(PASSES):
            await trio.lowlevel.checkpoint()

    def _tell(self, change: Change) -> None:
        for name in (EVERY, change.service):
            for subscriber in tuple(self._subscribers.get(name, ())):
                subscriber.changed(change)
