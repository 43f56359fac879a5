"""Which pilots share a store, and which of them live.

Each says so in an item of its own, again and again, and times the others by its own clock. Rules:

- Who has not been heard of for `GONE_SECONDS` has gone; so has one that is not there, which is how a pilot leaves.
- A pilot that does not hear itself is blind: the store or its watch does not work, and it believes nobody to be gone.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from contextlib import suppress
from itertools import count
from typing import Final

import trio
from pannier.shared.backoff import full_jitter
from pannier.shared.errors import PannierError, Unreachable
from pannier.shared.ticks import next_tick
from pannier.sidecars.pilot.store import ABSENT, Compacted, Item, Store

PREFIX: Final = "pilots/"
BEAT_SECONDS: Final = 3.0
GONE_SECONDS: Final = 10.0


class Peers:
    """The pilots of a store; `pilot` is this one's id, which no other has had before."""

    def __init__(self, store: Store, pilot: str, *, clock: Callable[[], float] = trio.current_time) -> None:
        self.pilot = pilot
        self._store = store
        self._clock = clock
        self._heard: dict[str, float] = {}

    @property
    def blind(self) -> bool:
        """Whether nothing is known of anybody."""
        return self._silent(self.pilot)

    def gone(self, pilot: str) -> bool:
        """Whether a pilot does not live any more."""
        return not self.blind and self._silent(pilot)

    async def beat(self) -> None:
        """Says that this pilot lives, until cancelled; then, that it has left."""
        key, version = PREFIX + self.pilot, ABSENT
        try:
            for number in count():
                with suppress(Unreachable):  # said again at the next tick
                    version = await self._store.swap(key, b"%d" % number, version)
                await next_tick(BEAT_SECONDS)
        finally:
            with trio.CancelScope(shield=True), trio.move_on_after(1.0), suppress(PannierError):
                await self._store.swap(key, None, version)

    async def follow(self) -> None:
        """Hears the others, and itself; runs until cancelled."""
        for attempt in count():
            try:
                revision, items = await self._store.scan(PREFIX)
                for item in items:
                    self._hear(item)
                async with self._store.watch(PREFIX, revision) as changes:
                    async for batch in changes:
                        for item in batch:
                            self._hear(item)
            except (Compacted, Unreachable):
                await trio.sleep(full_jitter(attempt, base=0.1, cap=BEAT_SECONDS, random=random.random()))

    def _hear(self, item: Item) -> None:
        pilot = item.key.removeprefix(PREFIX)
        if item.value is None:
            self._heard.pop(pilot, None)
        else:
            self._heard[pilot] = self._clock()

    def _silent(self, pilot: str) -> bool:
        heard = self._heard.get(pilot)
        return heard is None or self._clock() - heard >= GONE_SECONDS
