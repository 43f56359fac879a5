"""The pilot's instances, written into a ZooKeeper as Curator keeps them, for whoever looks there.

Rules:
- Written is who did not come over this very bridge, and is not by way of a Central, by the pilot that tends him: those
  that are UP; where nobody is, those that drain. They are ephemeral, and outlast a pilot by its session, which is
  longer than it takes another one to believe that it has gone: that one, or itself if it is started again, takes its
  nodes over, and nobody has missed them. Who tends whom is nobody's business, and no change that is told: it is looked
  for.
- Beside each node of ours is a mark that says the epoch of its life (`curator.py`), and stays when the node goes. A
  lesser epoch writes nothing there, unless nobody is there for as long as a bridge needs to believe what is odd: then
  the registry has lost its own epochs. A node that is not ours is left alone.
- A node is made, replaced or deleted with its mark in one transaction, if both are as they were seen. The mark is what
  makes that safe: a node that is made anew counts its versions anew, and a late write would take it for what it has
  meant. So the end of an old session, of an old life or of an old bridge never touches what came after it.
- Who is tended by another pilot now is left to that one, which takes his node over.
"""

from __future__ import annotations

import logging
import math
import random
import time
from collections.abc import Collection, Mapping
from contextlib import suppress
from typing import Any, Final

import msgspec
import trio
from kazoo.exceptions import (
    BadVersionError,
    NodeExistsError,
    NoNodeError,
    RolledBackError,
    RuntimeInconsistency,
)
from pannier.shared.backoff import full_jitter
from pannier.shared.errors import PannierError, Unreachable
from pannier.shared.instances import State
from pannier.sidecars.pilot.bridges.belief import Patience
from pannier.sidecars.pilot.bridges.curator import MARKS, is_ours, read_mark, same, write, write_mark
from pannier.sidecars.pilot.bridges.inward import ORIGIN
from pannier.sidecars.pilot.registry.entries import Entry, instance_of, key_of
from pannier.sidecars.pilot.registry.registry import Registry
from pannier.sidecars.pilot.stores.store import Compacted
from pannier.sidecars.pilot.stores.zookeeper_session import Bell, Session, got

CHECK_SECONDS: Final = 15.0
"""Everything is looked at again so often, whatever else changes, and after another session has begun."""
LOOK_SECONDS: Final = 1.0
"""Between looks for whom this pilot has come to tend."""
_ATTEMPTS: Final = 10
_QUICKER: Final = (BadVersionError, NodeExistsError, NoNodeError, RolledBackError, RuntimeInconsistency)

_log = logging.getLogger("pannier.pilot.bridge")


class Outwards(msgspec.Struct, frozen=True):
    """Of one bridge. `instances` are those whose nodes are as they are to be. `taken` counts nodes that were left alone
    since somebody else has them, look by look."""

    reachable: bool
    instances: int
    taken: int


class Wish(msgspec.Struct, frozen=True):
    """What is to be in the node of an instance; None: it is not to be there, as of the life with that epoch."""

    epoch: int
    entry: Entry | None


class Outward:
    """One bridge out of a registry. `name` is the one by which what came in over it is known."""

    def __init__(self, registry: Registry, session: Session, base: str, *, name: str) -> None:
        self._registry = registry
        self._session = session
        self._client: Any = session.client
        self._base = base
        self._name = name
        self._reachable = False
        self._written: dict[str, int] = {}  # by service
        self._taken = 0
        self._patience = Patience()
        self._check_at = self._look_at = 0.0
        self._mine: frozenset[str] = frozenset()  # keys of those whom this pilot tended at the last look
        self._settled: dict[str, tuple[int, Mapping[str, Wish], frozenset[str]]] = {}  # as it was left

    def statistics(self) -> Outwards:
        return Outwards(self._reachable, sum(self._written.values()), self._taken)

    async def run(self) -> None:
        """Until cancelled; its nodes go with the session."""
        try:
            await self._write_forever()
        finally:
            self._reachable = False

    async def _write_forever(self) -> None:
        attempt, revision, session = 0, -1, 0
        with self._session.bell() as bell:
            while True:
                try:
                    if session != self._session.id or not self._reachable:
                        session, revision = self._session.id, -1
                    if revision < 0 or trio.current_time() >= self._check_at:
                        self._check_at = trio.current_time() + CHECK_SECONDS
                        revision = self._registry.view.revision
                        services: Collection[str] = {*self._registry.view.services(), *self._written}
                    else:
                        revision, changed = await self._changes(revision, bell)
                        services = {*changed, *self._taken_over()}
                    for service in sorted(services):
                        await self.write(service)
                    attempt, self._reachable = 0, True
                    await trio.lowlevel.checkpoint()
                except PannierError as error:
                    if self._reachable or not attempt:
                        _log.warning("%s: %s; what was written there stays", self._name, error.message)
                    self._reachable = False
                    await trio.sleep(full_jitter(attempt, base=0.2, cap=5.0, random=random.random()))
                    attempt += 1

    async def _changes(self, after: int, bell: Bell) -> tuple[int, Collection[str]]:
        """The services that have changed and the revision at which they have; -1: all of them are to be looked at,
        since the connection is another one, or it is not known any more. Returns after `LOOK_SECONDS` at most."""
        found: tuple[int, Collection[str]] = (-1, ())

        async def wake() -> None:
            await bell.heard(math.inf)
            waiting.cancel()

        async with trio.open_nursery() as nursery:
            waiting = nursery.cancel_scope
            nursery.start_soon(wake)
            with suppress(Compacted):
                found = await self._registry.changes(after, (), wait=LOOK_SECONDS)
            waiting.cancel()
        return found

    def _taken_over(self) -> Collection[str]:
        """The services of those whom this pilot tends since the last look."""
        if trio.current_time() < self._look_at:
            return ()
        self._look_at = trio.current_time() + LOOK_SECONDS
        mine = frozenset(self._registry.view.tended(self._registry.pilot))
        new, self._mine = mine - self._mine, mine
        return {instance_of(key)[0] for key in new}

    async def write(self, service: str) -> None:
        """Brings the nodes of a service up to date. Raises Unreachable."""
        wishes = self.wishes(service)
        with self._session.steady():
            written, taken = await self._session.call(self._write, service, wishes)
        self._taken += taken
        self._written[service] = written
        if not written:
            del self._written[service]

    def wishes(self, service: str) -> Mapping[str, Wish]:
        """What is to be in the nodes of a service, by id; whom others tend and who is not known is not in it."""
        view = self._registry.view
        entries: dict[str, Entry] = {}
        for key in view.alive(service):
            entry, _ = view.get(key)
            if entry is not None and entry.metadata.get(ORIGIN) != self._name and not entry.is_detour:
                entries[instance_of(key)[1]] = entry
        told = next(
            (state for state in (State.UP, State.DRAINING) if any(entry.state is state for entry in entries.values())),
            None,
        )
        wishes: dict[str, Wish] = {}
        for name, entry in entries.items():
            if entry.pilot == self._registry.pilot:
                wished = entry if entry.state is told and not entry.address.startswith("unix:") else None
                wishes[name] = Wish(entry.epoch, wished)
        return wishes

    # What follows runs in threads.

    def _write(self, service: str, wishes: Mapping[str, Wish]) -> tuple[int, int]:
        """How many nodes are as they are to be, and how many belong to somebody else."""
        session, there = self._session.id, self._names(service)
        if self._settled.get(service) == (session, wishes, there):
            return len([wish for wish in wishes.values() if wish.entry is not None]), 0
        done = [self._settle(service, name, wishes.get(name)) for name in sorted(there | wishes.keys())]
        self._settled.pop(service, None)
        if None not in done and wishes:
            self._settled[service] = (session, wishes, self._names(service))
        return done.count(True), done.count(None)

    def _names(self, service: str) -> frozenset[str]:
        try:
            return frozenset(got(self._client.get_children_async(f"{self._base}/{service}")))
        except NoNodeError:
            return frozenset()

    def _settle(self, service: str, name: str, wish: Wish | None) -> bool | None:
        """Makes a node what it is to be. True: there is one of that life; False: there is none of ours that is to be;
        None: it is to be, and somebody else's is there."""
        path = f"{self._base}/{service}/{name}"
        wanted = None if wish is None else wish.entry
        for _ in range(_ATTEMPTS):
            before = self._mark(path, make=wanted is not None)
            data, node = self._get(path)
            said, mark = self._get(MARKS + path)
            if before is None or mark is None or mark.version != before.version:
                if before is None and mark is None:
                    return False
                continue
            epoch = read_mark(said).epoch
            mine = node is not None and node.ephemeralOwner == self._session.id and is_ours(mark, node)
            if wish is None or wanted is None:
                if not mine or not self._over(service, name, epoch, wish):
                    return False
            else:
                if node is not None and not is_ours(mark, node):
                    return None
                if epoch > wish.epoch and (node is not None or not self._patience.spent(path, time.monotonic())):
                    return None
                self._patience.forget(path)
                wished = write(service, name, wanted, now_ms=node.ctime if node else round(time.time() * 1000))
                if mine and epoch == wish.epoch and same(data, wished):
                    return True
            change = self._client.transaction()
            change.set_data(MARKS + path, write_mark(wish.epoch if wish else epoch), mark.version)
            if node is not None:
                change.delete(path, node.version)
            if wanted is not None:
                self._make(f"{self._base}/{service}")
                change.create(path, wished, ephemeral=True)
            if self._committed(change):
                return wanted is not None
        raise Unreachable(f"{path} is written by others all the time")

    def _mark(self, path: str, *, make: bool) -> Any:
        """The stat of a mark; None if it is not there and is not to be made."""
        stat = got(self._client.exists_async(MARKS + path))
        if stat is None and make:
            self._make(MARKS + path)
            stat = got(self._client.exists_async(MARKS + path))
        return stat

    def _get(self, path: str) -> tuple[bytes, Any]:
        try:
            data, stat = got(self._client.get_async(path))
        except NoNodeError:
            return b"", None
        return data, stat

    def _make(self, path: str) -> None:
        with suppress(NodeExistsError):
            got(self._client.create_async(path, b"", makepath=True))

    def _committed(self, change: Any) -> bool:
        """False: somebody was quicker, and nothing has happened."""
        errors = [answer for answer in got(change.commit_async()) if isinstance(answer, Exception)]
        for error in errors:
            if not isinstance(error, _QUICKER):
                raise error
        return not errors

    def _over(self, service: str, name: str, epoch: int, wish: Wish | None) -> bool:
        """Whether the life in a node has ended, or is not to be told any more."""
        if wish is not None:
            return epoch <= wish.epoch
        held, _ = self._registry.view.get(key_of((service, name)))
        return held is None or (held.gone and epoch <= held.epoch)
