"""What a foreign registry knows, registered with the pilot: one engine for all sources.

- An instance that came over a bridge says so (metadata `origin`). A bridge touches no other: who registers by himself
  is never replaced by what somebody says about him.
- Epochs only grow. They are the source's where it has some; else a new life (an address that was not in force before)
  gets the wall clock's, or the next one. A source that says that a life is there which the registry has seen end is
  old, or was set back: it is believed after as long as it takes to believe that a whole service has gone.
  Not so if the source has shown, while this process runs, an older one of the same instance: then it is a new life.
- While the source says nothing, everybody stays as he was, and is renewed.
- Several pilots may have the same bridge on one store: an instance is renewed, and ended, by the one that tends it. If
  another one is told otherwise of the same life, that is not written; if it stays so, the log has it once.
- Who cannot be written is refused, and nobody else.
"""

from __future__ import annotations

import logging
import random
import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from functools import partial
from typing import Final

import msgspec
import trio
from pannier.shared.backoff import full_jitter
from pannier.shared.errors import PannierError, Unreachable
from pannier.shared.instances import Key, State
from pannier.shared.ticks import next_tick
from pannier.sidecars.pilot.bridges.belief import Belief, Patience
from pannier.sidecars.pilot.bridges.source import MAX_INSTANCES, Found, Source
from pannier.sidecars.pilot.registry.entries import Entry, instance_of, key_of, next_epoch
from pannier.sidecars.pilot.registry.registry import Registry

ORIGIN: Final = "origin"
TTL_SECONDS: Final = 30.0
RENEW_SECONDS: Final = TTL_SECONDS / 3
CONFLATED_SECONDS: Final = 0.05
"""Between two looks at least: news come in swarms."""

AT_ONCE: Final = 64
"""Changes of a look that are under way at the same time: a store writes them together."""

_log = logging.getLogger("pannier.pilot.bridge")


class Inwards(msgspec.Struct, frozen=True):
    """Of one bridge. `reachable`: its last look was answered. `instances` are those it tends here. Since the start:
    `refused` could not be understood or belong to somebody else, `doubted` are services that were not believed to be
    gone, look by look, `stale` are lives that the registry has seen end."""

    reachable: bool
    instances: int
    refused: int
    doubted: int
    stale: int


class Inward:
    """One bridge into a registry, which follows its store already."""

    def __init__(
        self,
        registry: Registry,
        source: Source,
        *,
        clock: Callable[[], float] = trio.current_time,
        wall: Callable[[], float] = time.time,
    ) -> None:
        self._registry = registry
        self._source = source
        self._clock = clock
        self._wall = wall
        self._belief = Belief()
        self._patience = Patience()
        self._reachable = False
        self._refused = self._stale = 0
        self._shown: dict[Key, int] = {}  # the incarnation that the source has shown last
        self._otherwise = Patience()
        self._said: set[Key] = set()  # of whom it is said that others are told otherwise about him

    def statistics(self) -> Inwards:
        return Inwards(self._reachable, len(self._held()), self._refused, self._belief.doubts, self._stale)

    async def run(self) -> None:
        """Until cancelled."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._renew_forever)
            try:
                await self._look_forever()
            finally:
                self._reachable = False

    async def look(self) -> None:
        """Looks once, and does what follows. Raises Unreachable, of the source or of the registry."""
        try:
            look = await self._source.look()
        except ValueError as error:
            raise Unreachable(f"{self._source.name} is not understood: {error}") from error
        if len(look.instances) > MAX_INSTANCES:
            self._refused += 1
            raise Unreachable(f"{self._source.name} has {len(look.instances)} instances: at most {MAX_INSTANCES}")
        self._refused += look.refused + len(look.unclear)
        now = self._clock()
        stale: set[Key] = set()
        todo: list[Callable[[], Awaitable[object]]] = []
        for key, found in look.instances.items():
            held, _ = self._registry.view.get(key_of(key))
            if held is not None and not held.gone and held.metadata.get(ORIGIN) != self._source.name:
                self._refused += 1
                continue
            epoch = self._epoch(key, held, found)
            if not epoch:
                stale.add(key)
                self._stale += 1
                if not self._patience.spent(key, now):
                    continue
                epoch = next_epoch(held)
            if found.incarnation:
                self._shown[key] = found.incarnation
            todo.append(partial(self._register, key, epoch, found, held))
        self._patience.keep(stale)
        self._otherwise.keep(look.instances)
        self._said &= look.instances.keys()
        if len(self._shown) > 2 * MAX_INSTANCES:  # also of those who have gone, since they come back
            self._shown = {key: shown for key, shown in self._shown.items() if key in look.instances}
        own = self._held().keys()
        known = {service: self._known(service) for service in {service for service, _ in own}}
        for key in self._belief.gone(known, own, look, now):
            held, _ = self._registry.view.get(key_of(key))
            if held is not None and not held.gone:
                todo.append(partial(self._registry.leave, key, held.epoch))
        await _all(todo)

    async def renew(self) -> None:
        """Says for everybody who came over this bridge that he is there. Raises Unreachable, of the first whom that
        could not be said for, once it was said for all others."""
        failed: list[PannierError] = []
        to_write: list[tuple[Key, Entry]] = []
        for key, entry in self._held().items():  # those first who need no store, and are not kept waiting by it
            try:
                if self._registry.renewed(key, entry) is None:
                    to_write.append((key, entry))
            except PannierError as error:
                failed.append(error)
        for key, entry in to_write:
            try:
                await self._registry.register(key, msgspec.structs.replace(entry, pilot=""))
            except PannierError as error:
                failed.append(error)
        if failed:
            raise failed[0]

    def _epoch(self, key: Key, held: Entry | None, found: Found) -> int:
        """That of the life which the source has found; 0 if it is one that is over."""
        same = held is not None and not held.gone and held.address == found.address
        if not found.incarnation:
            if held is not None and same:
                return held.epoch
            return max(round(self._wall() * 1000), next_epoch(held))
        if held is None or found.incarnation > held.epoch:
            return found.incarnation
        if same or (found.incarnation == held.epoch and held.gone and not held.final):
            return held.epoch
        if found.incarnation > self._shown.get(key, found.incarnation):
            return next_epoch(held)
        return 0

    async def _register(self, key: Key, epoch: int, found: Found, held: Entry | None) -> None:
        metadata = {**found.metadata, ORIGIN: self._source.name}
        state = held.state if held is not None and held.epoch == epoch and not held.gone else State.UP
        wished = Entry(epoch, found.address, state, round(TTL_SECONDS * 1000), metadata)
        if held is not None and msgspec.structs.replace(held, pilot="") == wished:
            self._agreed(key)
            return  # whoever tends it renews it
        if (
            held is not None
            and held.epoch == epoch
            and not (held.gone or held.doubted)
            and held.pilot != self._registry.pilot
        ):
            self._disagree(key, held)
            return  # and writes what has changed
        self._agreed(key)
        try:
            await self._registry.register(key, wished)
        except ValueError as error:
            self._refused += 1
            _log.debug("%s: %s/%s cannot be written: %s", self._source.name, *key, error)

    def _agreed(self, key: Key) -> None:
        self._otherwise.forget(key)
        self._said.discard(key)

    def _disagree(self, key: Key, held: Entry) -> None:
        """Another pilot is told otherwise of a life that it tends; said once, if that stays so."""
        if self._otherwise.spent(key, self._clock()) and key not in self._said:
            self._said.add(key)
            _log.warning(
                "%s: the pilot %s, which tends %s/%s, is told otherwise about it, and that stands: "
                "see that the sources of both say the same",
                self._source.name,
                held.pilot,
                *key,
            )

    def _held(self) -> dict[Key, Entry]:
        """Those whom this pilot tends and who came over this bridge."""
        found: dict[Key, Entry] = {}
        for name in self._registry.view.tended(self._registry.pilot):
            entry, _ = self._registry.view.get(name)
            if entry is not None and entry.metadata.get(ORIGIN) == self._source.name:
                found[instance_of(name)] = entry
        return found

    def _known(self, service: str) -> set[str]:
        """The ids of those in a service who came over this bridge, whoever tends them."""
        found: set[str] = set()
        for name in self._registry.view.alive(service):
            entry, _ = self._registry.view.get(name)
            if entry is not None and entry.metadata.get(ORIGIN) == self._source.name:
                found.add(instance_of(name)[1])
        return found

    async def _look_forever(self) -> None:
        attempt = 0
        while True:
            try:
                await self.look()
                attempt, self._reachable = 0, True
            except PannierError as error:
                if self._reachable or not attempt:
                    _log.warning("%s: %s; who is known stays", self._source.name, error.message)
                self._reachable = False
                await trio.sleep(full_jitter(attempt, base=0.2, cap=5.0, random=random.random()))
                attempt += 1
                continue
            await trio.sleep(CONFLATED_SECONDS)
            with trio.move_on_after(self._source.every):
                await self._source.news()

    async def _renew_forever(self) -> None:
        while True:
            with suppress(PannierError):  # said again at the next tick, and a lease lasts for three
                await self.renew()
            await next_tick(RENEW_SECONDS)


async def _all(todo: Sequence[Callable[[], Awaitable[object]]]) -> None:
    """Does all of it, some at a time. Raises what the first that failed did, once those beside it are done."""
    failed: list[PannierError] = []

    async def do(one: Callable[[], Awaitable[object]]) -> None:
        try:
            await one()
        except PannierError as error:
            failed.append(error)

    for begin in range(0, len(todo), AT_ONCE):
        async with trio.open_nursery() as nursery:
            for one in todo[begin : begin + AT_ONCE]:
                nursery.start_soon(do, one)
        if failed:
            raise failed[0]
