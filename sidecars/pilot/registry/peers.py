"""Which pilots share a store, and which of them live.

Each says so in an item of its own, again and again, and times the others by its own clock. Rules:

- Only a new beat is a sign of life: what a pilot that has just come reads of the others is one, once.
- Who has not been heard of for `GONE_SECONDS` has gone; so has one that is not there, which is how a pilot leaves. The
  time is that between his last beat and the own one that was heard last: who hears nobody has no opinion.
- A pilot that does not hear itself for `BLIND_SECONDS` is blind: the store or its watch does not work, and it believes
  nobody to be gone. That is less than two thirds of a usual TTL: who has renewed with another pilot and comes back to
  one that has not heard of it is sent away while his lease with the other one still lasts.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from contextlib import suppress
from itertools import count
from typing import Final

import msgspec
import trio
from pannier.shared.errors import PannierError, Unreachable
from pannier.shared.ticks import next_tick
from pannier.sidecars.pilot.stores.store import ABSENT, Compacted, Conflict, Item, Store

PREFIX: Final = "pilots/"
BEAT_SECONDS: Final = 3.0
BLIND_SECONDS: Final = 6.0
GONE_SECONDS: Final = 10.0


class Peer(msgspec.Struct, frozen=True):
    """A pilot of the same store, `own` is this one; heard of `heard_s` seconds ago."""

    pilot: str
    own: bool
    heard_s: float
    gone: bool


class Peers:
    """The pilots of a store; `pilot` is this one's id, which no other has had before. `there` is set once it has heard
    itself."""

    def __init__(self, store: Store, pilot: str, *, clock: Callable[[], float] = trio.current_time) -> None:
        self.pilot = pilot
        self._store = store
        self._clock = clock
        self.there = trio.Event()
        self._heard: dict[str, tuple[int, float]] = {}  # version and time

    @property
    def blind(self) -> bool:
        """Whether nothing is known of anybody."""
        return self.pilot not in self._heard or self._clock() - self._heard[self.pilot][1] >= BLIND_SECONDS

    def statistics(self) -> Sequence[Peer]:
        """All that have been heard of, by name."""
        now = self._clock()
        return [
            Peer(pilot, pilot == self.pilot, now - heard, self.gone(pilot))
            for pilot, (_, heard) in sorted(self._heard.items())
        ]

    def gone(self, pilot: str) -> bool:
        """Whether a pilot does not live any more."""
        if self.blind or pilot == self.pilot:
            return False
        return pilot not in self._heard or self._heard[self.pilot][1] - self._heard[pilot][1] >= GONE_SECONDS

    async def bury(self) -> None:
        """Clears away what those who have gone have left in the store. Raises Unreachable."""
        for pilot in [pilot for pilot in self._heard if self.gone(pilot)]:
            version, _ = self._heard.pop(pilot)
            with suppress(Conflict):
                await self._store.swap(PREFIX + pilot, None, version)

    async def beat(self) -> None:
        """Says that this pilot lives, until cancelled; then, that it has left."""
        key, version = PREFIX + self.pilot, ABSENT
        try:
            for number in count():
                try:
                    version = await self._store.swap(key, b"%d" % number, version)
                except Conflict:  # a beat whose answer was lost, or others have taken us for gone
                    found = await self._version(key)
                    version = version if found is None else found
                except Unreachable:
                    pass  # said again at the next tick
                await next_tick(BEAT_SECONDS)
        finally:
            with trio.CancelScope(shield=True), trio.move_on_after(1.0), suppress(PannierError):
                await self._store.swap(key, None, version)

    async def _version(self, key: str) -> int | None:
        with suppress(Unreachable):
            found = await self._store.get(key)
            return ABSENT if found is None else found.version
        return None

    async def follow(self) -> None:
        """Hears the others, and itself; runs until cancelled."""
        while True:
            try:
                revision, items = await self._store.scan(PREFIX)
                there = {item.key.removeprefix(PREFIX) for item in items}
                self._heard = {pilot: heard for pilot, heard in self._heard.items() if pilot in there}
                for item in items:
                    self._hear(item)
                async with self._store.watch(PREFIX, revision) as changes:
                    async for batch in changes:
                        for item in batch:
                            self._hear(item)
            except (Compacted, Unreachable):
                await trio.sleep(random.uniform(0, BEAT_SECONDS / 2))

    def _hear(self, item: Item) -> None:
        pilot = item.key.removeprefix(PREFIX)
        if item.value is None:
            self._heard.pop(pilot, None)
        elif item.version > self._heard.get(pilot, (ABSENT, 0.0))[0]:
            self._heard[pilot] = (item.version, self._clock())
            if pilot == self.pilot:
                self.there.set()
