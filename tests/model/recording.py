"""Records what real pilots answer and tell, while services come and go, and whatever a list of faults says happens.

- *Steady* instances renew all the time, with whichever pilot answers: nothing may ever be lost of them.
- *Restless* ones come, renew, drain, leave, fall silent; and an old life goes on talking while the next one is there.
- *Watchers* follow: one each pilot, and one who goes from pilot to pilot as connections fail.

Everything is one trio process with one clock, so that what was over before something else began really was.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Collection, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import trio
from pannier.shared.instances import Key, State

from tests.model.asking import Lost, NotAsked, ask
from tests.model.history import Call, History, Telling, Told, Verdict
from tests.model.sites import PATIENCE_S, Site

TTL = 2.0
RENEW_S = 0.4
WITHIN_S = 1.0
WAIT_S = 2.0
AGAIN_S = 0.1
SERVICES = ("orders", "stock")
STEADY: Sequence[Key] = (("orders", "steady-1"), ("orders", "steady-2"), ("stock", "steady-3"))
RESTLESS: Sequence[Key] = (("orders", "r-1"), ("orders", "r-2"), ("stock", "r-3"), ("stock", "r-4"))
OK, CREATED, STALE, UNKNOWN = 200, 201, 409, 404
VERDICTS: dict[int, Verdict] = {OK: "accepted", CREATED: "created", STALE: "stale", UNKNOWN: "unknown"}


@dataclass(frozen=True)
class Fault:
    """Seconds after the beginning, what happens is called; it returns at once."""

    at: float
    what: Callable[[Site], None]


@dataclass
class Recorder:
    """One recording; `seed` says what the restless do."""

    site: Site
    seed: int
    history: History = field(default_factory=History)

    async def record(self, faults: Sequence[Fault], *, seconds: float, quiet: float) -> History:
        """The history of so many seconds with those faults, and of so many more in which the restless are silent."""
        await self._ready()
        begun = trio.current_time()
        async with trio.open_nursery() as nursery:
            for pilot in self.site.pilots:
                nursery.start_soon(self._watch, f"of-{pilot}", (pilot,))
            nursery.start_soon(self._watch, "roaming", tuple(self.site.pilots))
            for number, key in enumerate(STEADY):
                nursery.start_soon(self._steady, key, number)
            with trio.CancelScope(deadline=begun + seconds):
                async with trio.open_nursery() as restless:
                    for number, key in enumerate(RESTLESS):
                        restless.start_soon(self._restless, key, random.Random(f"{self.seed} {number}"))
                    for fault in faults:
                        await trio.sleep_until(begun + fault.at)
                        fault.what(self.site)
            self.history.quiet = trio.current_time()
            await trio.sleep(quiet)
            await self._all_told()
            nursery.cancel_scope.cancel()
        self.history.ended = trio.current_time()
        return self.history

    async def _all_told(self) -> None:
        """Returns once the watchers have been told what the pilots know, or when that takes too long."""
        with trio.move_on_after(PATIENCE_S):
            while len({self._shown(watcher) for watcher in self._watchers()}) > 1:
                await trio.sleep(AGAIN_S)
                for pilot in self.site.pilots:
                    with suppress(Lost, NotAsked):
                        await self._tell_all(f"asks-{pilot}", pilot)

    def _watchers(self) -> Collection[str]:
        return {telling.watcher for telling in self.history.tellings}

    def _shown(self, watcher: str) -> object:
        """What a watcher knows."""
        return frozenset(
            (key[1], name, told.epoch, told.address, told.state)
            for key, telling in self.history.last().items()
            if key[0] == watcher
            for name, told in telling.instances.items()
        )

    async def _ready(self) -> None:
        with trio.move_on_after(PATIENCE_S):
            for pilot in self.site.pilots:
                while True:
                    try:
                        await ask(self.site.socket(pilot), "GET", "/v1/status", within=WITHIN_S)
                        break
                    except (Lost, NotAsked):
                        await trio.sleep(AGAIN_S)
            return
        raise AssertionError("\n".join(self.site.said(pilot) for pilot in self.site.pilots))

    async def _steady(self, key: Key, number: int) -> None:
        pilots = _turned(self.site.pilots, number)
        await self._live(key, f"10.0.1.{number}:80", pilots, random.Random(number))

    async def _restless(self, key: Key, chance: random.Random) -> None:
        """One life after the other, each a while; and one that does not know that it is over."""
        async with trio.open_nursery() as nursery:
            while True:
                address = f"10.0.2.{chance.randrange(1, 200)}:80"
                pilots = _turned(self.site.pilots, chance.randrange(len(self.site.pilots)))
                nursery.start_soon(self._life, key, address, pilots, chance.uniform(0.5, 4.0), chance)
                await trio.sleep(chance.uniform(0.3, 4.0))

    async def _life(self, key: Key, address: str, pilots: Sequence[str], seconds: float, chance: random.Random) -> None:
        """A life that drains, leaves, or falls silent in the end."""
        with trio.move_on_after(seconds):
            await self._live(key, address, pilots, chance)
        mine = [call.answered for call in self.history.calls if call.address == address and call.accepted]
        if mine and (end := chance.choice(["silent", "leave", "drain", "drain and leave"])) != "silent":
            if "drain" in end:
                await self._say(pilots[0], Call(key, "drain", mine[-1], trio.current_time(), ttl=TTL))
            if "leave" in end:
                await self._say(pilots[-1], Call(key, "leave", mine[-1], trio.current_time(), ttl=TTL))

    async def _live(self, key: Key, address: str, pilots: Sequence[str], chance: random.Random) -> None:
        """Registers and renews, with the first pilot that answers, until it is told that it is stale."""
        epoch, first = 0, 0
        while True:
            call = Call(key, "register", epoch, trio.current_time(), address=address, ttl=TTL)
            said = await self._say(pilots[first % len(pilots)], call)
            if said is None:
                first += 1
                await trio.sleep(AGAIN_S)
            elif said.verdict == "stale":
                return
            else:
                epoch = said.answered
                await trio.sleep(RENEW_S * chance.uniform(0.8, 1.2))

    async def _say(self, pilot: str, call: Call) -> Call | None:
        """The call with its answer; None if there was none."""
        target = f"/v1/instances/{call.key[0]}/{call.key[1]}"
        body: dict[str, object] = {"epoch": call.epoch} if call.epoch else {}
        if call.kind == "register":
            body |= {"address": call.address, "ttl": TTL}
        method = {"register": "PUT", "drain": "POST", "leave": "DELETE"}[call.kind]
        path = f"{target}/drain" if call.kind == "drain" else target
        try:
            status, answer = await ask(self.site.socket(pilot), method, path, body, within=WITHIN_S)
        except NotAsked:
            return None
        except (Lost, trio.Cancelled) as error:
            self.history.calls.append(call)
            if isinstance(error, trio.Cancelled):
                raise
            return None
        if status not in VERDICTS:
            self.history.calls.append(call)
            return None
        accepted = status in {OK, CREATED}
        epoch = int(answer.get("epoch", call.epoch)) if accepted else 0
        return self.history.answered(call, VERDICTS[status], epoch, trio.current_time())

    async def _watch(self, watcher: str, pilots: Sequence[str]) -> None:
        """Is told everything that changes, from whichever of these pilots answers."""
        number, after = 0, -1
        while True:
            pilot = pilots[number % len(pilots)]
            try:
                if after < 0:
                    after = await self._tell_all(watcher, pilot)
                after = await self._tell_changes(watcher, pilot, after)
            except (Lost, NotAsked):
                number += 1
                await trio.sleep(AGAIN_S)

    async def _tell_all(self, watcher: str, pilot: str) -> int:
        source = self.site.source(pilot)
        status, found = await ask(self.site.socket(pilot), "GET", "/v1/services", within=WITHIN_S)
        if status != OK:
            raise Lost(str(status))
        for service in SERVICES:
            self._told(watcher, source, service, found["revision"], found["services"].get(service, []), anew=True)
        return int(found["revision"])

    async def _tell_changes(self, watcher: str, pilot: str, after: int) -> int:
        """The revision to go on from; -1: everything is to be read."""
        source = self.site.source(pilot)
        target = f"/v1/watch?after={after}&wait={WAIT_S:g}s"
        status, found = await ask(self.site.socket(pilot), "GET", target, within=WAIT_S + 2 * WITHIN_S)
        if status != OK:
            return -1
        for service, instances in found["services"].items():
            self._told(watcher, source, service, found["revision"], instances, anew=False)
        return int(found["revision"])

    def _told(
        self, watcher: str, source: str, service: str, revision: int, rows: Sequence[dict[str, Any]], *, anew: bool
    ) -> None:
        instances = {
            row["id"]: Told(
                row["epoch"], row["revision"], State(row["state"]), row["address"], suspect=row.get("suspect", False)
            )
            for row in rows
        }
        now = trio.current_time()
        self.history.tellings.append(Telling(watcher, source, now, service, revision, instances, anew=anew))


def _turned(pilots: Sequence[str], number: int) -> Sequence[str]:
    first = number % len(pilots)
    return (*pilots[first:], *pilots[:first])


def recorded(site: Site, faults: Sequence[Fault], *, seconds: float, quiet: float, seed: int = 0) -> History:
    """What came of it."""
    recorder = Recorder(site, seed)
    return trio.run(partial(recorder.record, faults, seconds=seconds, quiet=quiet))
