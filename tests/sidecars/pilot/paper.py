"""Pilots over a store on paper, whose watches are delivered by hand: late, in any order with the answers, or never."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

import trio
from pannier.shared.errors import Unreachable
from pannier.sidecars.pilot.registry.entries import PREFIX, Entry
from pannier.sidecars.pilot.registry.peers import PREFIX as PILOTS
from pannier.sidecars.pilot.registry.peers import Peers
from pannier.sidecars.pilot.registry.registry import Registry
from pannier.sidecars.pilot.stores.store import ABSENT, Conflict, Item

TTL = 10


def entry(epoch: int = 1, address: str = "10.0.0.1:80") -> Entry:
    return Entry(epoch, address, ttl_ms=1000 * TTL)


class Paper:
    """A store that keeps everything in order and tells nobody. `down` are the pilots that it does not answer."""

    def __init__(self) -> None:
        self.revision = 0
        self.items: dict[str, Item] = {}
        self.log: list[Item] = []

    def write(self, key: str, value: bytes | None) -> Item:
        self.revision += 1
        item = Item(key, value, self.revision)
        self.log.append(item)
        if value is None:
            self.items.pop(key, None)
        else:
            self.items[key] = item
        return item


class Pilot:
    """One pilot, its connection to the store, and how far its watch has been delivered."""

    def __init__(self, paper: Paper, name: str, world: World) -> None:
        self.paper, self.world = paper, world
        self.down = False
        self.told = 0
        self.beats = 0
        self.peers = Peers(self, name, clock=lambda: world.now)
        self.registry = Registry(self, clock=lambda: world.now, wall=lambda: world.wall, peers=self.peers)

    async def get(self, key: str) -> Item | None:
        await self._ask()
        return self.paper.items.get(key)

    async def scan(self, prefix: str) -> tuple[int, Sequence[Item]]:
        await self._ask()
        return self.paper.revision, [
            self.paper.items[key] for key in sorted(self.paper.items) if key.startswith(prefix)
        ]

    async def swap(self, key: str, value: bytes | None, version: int) -> int:
        await self._ask()
        found = self.paper.items.get(key)
        if (found.version if found is not None else ABSENT) != version:
            raise Conflict(key)
        item = self.paper.write(key, value)
        return ABSENT if value is None else item.version

    @asynccontextmanager
    async def watch(self, prefix: str, after: int) -> AsyncIterator[AsyncIterator[Sequence[Item]]]:
        raise NotImplementedError("it is delivered by hand")
        yield

    async def read(self) -> None:
        """Reads everything, as after a lost watch."""
        self.registry._read(*await self.scan(PREFIX))
        self.told = self.paper.revision

    def deliver(self, most: int | None = None) -> None:
        """What the watch has not told yet, or the next so many."""
        waiting = [item for item in self.paper.log if item.version > self.told]
        for item in waiting[:most]:
            self.told = item.version
            if item.key.startswith(PILOTS):
                self.peers._hear(item)
            else:
                self.registry._hear(item)
        self.registry._tell()

    def beat(self) -> None:
        if not self.down:
            self.beats += 1
            self.paper.write(PILOTS + self.peers.pilot, b"%d" % self.beats)

    async def _ask(self) -> None:
        await trio.lowlevel.checkpoint()
        if self.down:
            raise Unreachable("no store")

    def ids(self, service: str = "orders") -> Sequence[str]:
        return [instance.id for instance in self.registry.instances(service)]


class World:
    """Pilots on one store, and a clock that they share."""

    def __init__(self, *names: str) -> None:
        self.now, self.wall = 1000.0, 1e9
        self.paper = Paper()
        self.pilots = [Pilot(self.paper, name, self) for name in names]
        for pilot in self.pilots:
            pilot.beat()
        for pilot in self.pilots:
            pilot.deliver()

    async def begin(self) -> None:
        """Each pilot reads what there is, as at its start."""
        for pilot in self.pilots:
            await pilot.read()

    async def later(self, seconds: int, *, renewing: Sequence[tuple[Pilot, tuple[str, str]]] = ()) -> None:
        """Seconds go by, in which each pilot that has a store beats, is told everything, and does what follows."""
        for second in range(seconds):
            self.now += 1
            for pilot in self.pilots:
                if second % 3 == 0:
                    pilot.beat()
            for pilot, key in renewing if second % 3 == 0 else ():
                await pilot.registry.register(key, entry())
            for pilot in self.pilots:
                if not pilot.down:
                    pilot.deliver()
                    pilot.registry.look()
                    await pilot.registry.write_down()
