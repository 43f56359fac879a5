"""Histories of pilots in this process, whose time, store and luck are made up: a play is a list of steps.

Each pilot has a watcher who goes on from the revision that he was told last. Time goes by in steps of a second, in
which every pilot does what it does each second, unless it hangs, has crashed, or does not reach its store.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import count
from typing import TypeAlias

from pannier.shared.errors import PannierError, Unreachable
from pannier.shared.instances import Key, State
from pannier.sidecars.pilot.registry.entries import Entry
from pannier.sidecars.pilot.registry.entries import Verdict as Said
from pannier.sidecars.pilot.registry.peers import PREFIX as PILOTS
from pannier.sidecars.pilot.registry.registry import Outcome, Registry
from pannier.sidecars.pilot.stores.store import Compacted, Item, Store

from tests.model.history import Call, History, Telling, Told, Verdict
from tests.sidecars.pilot.paper import Pilot, World

KEYS: Sequence[Key] = (("orders", "a"), ("orders", "b"), ("orders", "c"), ("stock", "d"))
WALL_JUMPS = (-3600, 3600)


@dataclass(frozen=True)
class Say:
    """A life says something to the pilot of that number: `kind` is register, drain or leave, `life` its address."""

    pilot: int
    kind: str
    key: Key
    epoch: int
    life: int
    state: State | None = None


@dataclass(frozen=True)
class Wait:
    """Seconds go by; those who renew do so each second, with the pilot of that number."""

    seconds: int
    renewing: Collection[tuple[Key, int]] = ()


@dataclass(frozen=True)
class Happen:
    """`what` becomes of a pilot: it is cut off from its store, reaches it again, hears its watch late, hears it again,
    hangs, goes on, crashes (and a new one starts), loses the next answer of its store, or finds that the time of day
    has jumped."""

    what: str
    pilot: int


Step: TypeAlias = Say | Wait | Happen
WHATS = ("cut", "joined", "late", "heard", "hangs", "goes on", "crashes", "loses an answer", "clock +1 h", "clock -1 h")


class Losing(Pilot):
    """A pilot whose store may lose an answer: what was asked has happened then, and it cannot know. With a `file` the
    store is that one, and only its watch is on paper."""

    loses = False
    file: Store | None = None

    async def get(self, key: str) -> Item | None:
        await self._ask()
        return await super().get(key) if self.file is None else await self.file.get(key)

    async def scan(self, prefix: str) -> tuple[int, Sequence[Item]]:
        await self._ask()
        return await super().scan(prefix) if self.file is None else await self.file.scan(prefix)

    async def swap(self, key: str, value: bytes | None, version: int) -> int:
        if self.file is None:
            answer = await super().swap(key, value, version)
        else:
            await self._ask()
            answer = await self.file.swap(key, value, version)
            self.paper.revision, _ = await self.file.scan(key)  # which is that of the only one who writes
            self.paper.log.append(Item(key, value, self.paper.revision))
        if self.loses:
            self.loses = False
            raise Unreachable("the answer was lost")
        return answer


class Play:
    """A world, and the history of what was done in it."""

    def __init__(self, pilots: int, ttl: int, file: Store | None) -> None:
        self._file = file
        self._ttl = ttl
        self.world = World()
        self.history = History()
        self._numbers = count()
        self._order = count()
        self._late: set[str] = set()
        self._hanging: set[str] = set()
        self._after: dict[str, int] = {}
        self._pilots = pilots

    async def begin(self) -> None:
        for _ in range(self._pilots):
            await self._start(len(self.world.pilots))
        for pilot in self.world.pilots:
            pilot.deliver()
        await self._tell()

    async def do(self, step: Step) -> None:
        match step:
            case Say():
                pilot = self.world.pilots[step.pilot]
                if pilot.peers.pilot not in self._hanging:
                    await self._say(pilot, step)
            case Wait(seconds, renewing):
                for _ in range(seconds):
                    await self._second(renewing)
            case Happen(what, number):
                await self._happen(what, number)
        await self._tell()

    async def end(self, seconds: int) -> None:
        """Everything is well again, and so many seconds go by in which those renew that are told."""
        for number in range(self._pilots):
            for what in ("joined", "heard", "goes on"):
                await self._happen(what, number)
            self.world.pilots[number].loses = False  # type: ignore[attr-defined]
        self.history.quiet = self._now()
        for _ in range(seconds):
            await self._second(())
            await self._tell()
        self.history.ended = self._now()

    async def _start(self, number: int) -> None:
        pilot = Losing(self.world.paper, f"p{next(self._numbers)}", self.world)
        if self._file is not None:
            pilot.file = self._file
            pilot.registry = Registry(pilot, clock=lambda: self.world.now, wall=lambda: self.world.wall)
        self.world.pilots[number : number + 1] = [pilot]
        self._beat(pilot)
        await self._read(pilot)

    def _beat(self, pilot: Pilot) -> None:
        """Says that it lives; beside a file it is alone, and nobody would hear it."""
        if self._file is None:
            pilot.beat()

    async def _read(self, pilot: Pilot) -> None:
        """It reads everything, of its instances and of its peers, as after a lost watch."""
        _, items = await pilot.scan(PILOTS)
        there = {item.key.removeprefix(PILOTS) for item in items}
        pilot.peers._heard = {name: heard for name, heard in pilot.peers._heard.items() if name in there}
        for item in items:
            pilot.peers._hear(item)
        await pilot.read()

    async def _happen(self, what: str, number: int) -> None:
        pilot = self.world.pilots[number]
        name = pilot.peers.pilot
        match what:
            case "cut":
                pilot.down = True
            case "joined" if pilot.down:
                pilot.down = False
                await self._read(pilot)
            case "late":
                self._late.add(name)
            case "heard":
                self._late.discard(name)
            case "hangs":
                self._hanging.add(name)
            case "goes on":
                self._hanging.discard(name)
            case "crashes" if not pilot.down:
                await self._start(number)
            case "loses an answer":
                pilot.loses = True  # type: ignore[attr-defined]
            case "clock +1 h" | "clock -1 h":
                self.world.wall += WALL_JUMPS[what == "clock +1 h"]
            case _:
                pass

    async def _second(self, renewing: Collection[tuple[Key, int]]) -> None:
        self.world.now += 1
        for key, number in renewing:
            await self._renew(key, self.world.pilots[number])
        for pilot in self.world.pilots:
            name = pilot.peers.pilot
            if name in self._hanging:
                continue
            if round(self.world.now) % 3 == 0:
                self._beat(pilot)
            if not pilot.down and name not in self._late:
                pilot.deliver()
            pilot.registry.look()
            with suppress(Unreachable):  # said again the next second
                await pilot.registry.write_down()

    async def _renew(self, key: Key, pilot: Pilot) -> None:
        """The life in force, as its own client knows it, says what it has said."""
        said = [call for call in self.history.of(key) if call.kind == "register" and call.accepted]
        if said and pilot.peers.pilot not in self._hanging:
            last = max(said, key=lambda call: call.answered)
            await self._say(
                pilot, Say(0, "register", key, last.answered, int(last.address.split(".")[3].split(":")[0]))
            )

    async def _say(self, pilot: Pilot, step: Say) -> None:
        registry, key, epoch = pilot.registry, step.key, step.epoch
        address = f"10.0.0.{step.life}:80"
        call = Call(key, step.kind, epoch, self._now(), address=address, state=step.state, ttl=self._ttl)  # type: ignore[arg-type]
        try:
            if step.kind == "register":
                outcome = await registry.register(key, Entry(epoch, address, ttl_ms=1000 * self._ttl), state=step.state)
            elif step.kind == "drain":
                outcome = await registry.move(key, epoch, State.DRAINING)
            else:
                outcome = await registry.leave(key, epoch or None)
        except PannierError:
            self.history.calls.append(call)
            return
        self.history.answered(call, *_read(outcome), self._now())

    async def _tell(self) -> None:
        """Each watcher asks what has changed, and is told it."""
        for number, pilot in enumerate(self.world.pilots):
            name = pilot.peers.pilot
            if name in self._hanging:
                continue
            registry, anew = pilot.registry, name not in self._after
            try:
                revision, changed = await registry.changes(self._after.get(name, -1), set(), wait=0)
            except Compacted:
                anew, revision = True, registry.view.revision
                changed = [service for service, _ in KEYS]
            self._after[name] = revision
            for service in sorted(set(changed)):
                self._told(f"w{number}", name, service, revision, anew=anew)

    def _told(self, watcher: str, name: str, service: str, revision: int, *, anew: bool) -> None:
        pilot = next(pilot for pilot in self.world.pilots if pilot.peers.pilot == name)
        instances = {
            each.id: Told(each.epoch, each.revision, each.state, each.address, each.suspect)
            for each in pilot.registry.instances(service)
        }
        self.history.tellings.append(Telling(watcher, name, self._now(), service, revision, instances, anew=anew))

    def told_finally(self) -> None:
        """Each pilot has heard everything, and each watcher reads it, as it is now."""
        for pilot in self.world.pilots:
            pilot.deliver()
        for number, pilot in enumerate(self.world.pilots):
            for service in sorted({service for service, _ in KEYS}):
                self._told(f"w{number}", pilot.peers.pilot, service, pilot.registry.view.revision, anew=False)

    def _now(self) -> float:
        """The time, in which nothing happens twice at the same moment."""
        return self.world.now + next(self._order) * 1e-6


def _read(outcome: Outcome) -> tuple[Verdict, int]:
    """What was answered, and the epoch in it."""
    said = {Said.CREATED: "created", Said.STALE: "stale", Said.UNKNOWN: "unknown"}
    verdict: Verdict = said.get(outcome.verdict, "accepted")  # type: ignore[assignment]
    return verdict, outcome.entry.epoch if outcome.entry is not None and outcome.verdict.accepted else 0


async def play(pilots: int, steps: Sequence[Step], *, ttl: int, quiet: int, file: Store | None = None) -> History:
    """What came of the steps, and of so many seconds afterwards in which everything was well; over a store on paper, or
    over that one. `ttl` is everybody's, in seconds."""
    found = Play(pilots, ttl, file)
    await found.begin()
    for step in steps:
        await found.do(step)
    await found.end(quiet)
    found.told_finally()
    return found.history
