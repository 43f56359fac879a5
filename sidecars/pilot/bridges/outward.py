"""The pilot's instances, written into a ZooKeeper as Curator keeps them, for whoever looks there.

Rules:
- Written is who did not come over this very bridge, by the pilot that tends him: those that are UP; where nobody is,
  those that drain. They are ephemeral: a pilot that is gone takes none along for longer than its session.
- A node says the epoch of its life. One with a greater epoch, or one that is not ours, is left alone.
- A node is replaced, or deleted, as it was seen: with its version, and with the version of a guard that every such
  write of ours counts up. For a node that was made anew begins to count anew, and a late write would take it for its
  predecessor: so the end of an old session, of an old life or of an old bridge never touches what came after it.
- Who is tended by another pilot now is left to that one, which takes his node over.
"""

from __future__ import annotations

import logging
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
from pannier.sidecars.pilot.bridges.curator import Node, read, write
from pannier.sidecars.pilot.bridges.inward import ORIGIN
from pannier.sidecars.pilot.entries import Entry, instance_of, key_of
from pannier.sidecars.pilot.registry import Registry
from pannier.sidecars.pilot.store import Compacted
from pannier.sidecars.pilot.zookeeper_session import Bell, Session, got

GUARD: Final = "/pannier-bridge"
CHECK_SECONDS: Final = 15.0
"""Everything is looked at again so often, and after another session has begun."""
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

    def statistics(self) -> Outwards:
        return Outwards(self._reachable, sum(self._written.values()), self._taken)

    async def run(self) -> None:
        """Until cancelled; in the end its nodes end with the session."""
        attempt, revision, session = 0, -1, 0
        with self._session.bell() as bell:
            while True:
                try:
                    if session != self._session.id or not self._reachable:
                        session, revision = self._session.id, -1
                    if revision < 0:
                        revision = self._registry.view.revision
                        services: Collection[str] = {*self._registry.view.services(), *self._written}
                    else:
                        revision, services = await self._changes(revision, bell)
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
        since the connection is another one, or a while has passed."""
        found: tuple[int, Collection[str]] = (-1, ())

        async def wake() -> None:
            await bell.heard(CHECK_SECONDS)
            waiting.cancel()

        async with trio.open_nursery() as nursery:
            waiting = nursery.cancel_scope
            nursery.start_soon(wake)
            with suppress(Compacted):
                found = await self._registry.changes(after, (), wait=2 * CHECK_SECONDS)
            waiting.cancel()
        return found

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
            if entry is not None and entry.metadata.get(ORIGIN) != self._name:
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
        names = set(wishes)
        with suppress(NoNodeError):
            names |= set(got(self._client.get_children_async(f"{self._base}/{service}")))
        done = [self._settle(service, name, wishes.get(name)) for name in sorted(names)]
        return done.count(True), done.count(None)

    def _settle(self, service: str, name: str, wish: Wish | None) -> bool | None:
        """Makes a node what it is to be. True: there is one of that life; False: there is none of ours that is to be;
        None: it is to be, and somebody else's is there."""
        path = f"{self._base}/{service}/{name}"
        wanted = None if wish is None else wish.entry
        for _ in range(_ATTEMPTS):
            guard = self._guard()  # looked at before the node: see above
            data, stat = self._get(path)
            node = _read(data)
            mine = stat is not None and stat.ephemeralOwner == self._session.id
            change = self._client.transaction()
            if wish is None or wanted is None:
                if node is None or not node.ours or not mine or not self._over(service, name, node.epoch, wish):
                    return False
            else:
                if stat is not None and (node is None or not node.ours or node.epoch > wish.epoch):
                    return None
                wished = write(service, name, wanted, now_ms=stat.ctime if stat else round(time.time() * 1000))
                if mine and _same(data, wished):
                    return True
            if stat is not None:
                change.delete(path, stat.version)
            if wanted is not None:
                self._make(f"{self._base}/{service}")
                change.create(path, wished, ephemeral=True)
            change.set_data(GUARD, b"", guard)
            if self._committed(change):
                return wanted is not None
        raise Unreachable(f"{path} is written by others all the time")

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

    def _guard(self) -> int:
        stat = got(self._client.exists_async(GUARD))
        if stat is None:
            self._make(GUARD)
            stat = got(self._client.exists_async(GUARD))
        if stat is None:
            raise Unreachable(f"ZooKeeper has lost {GUARD}")
        return int(stat.version)


def _read(data: bytes) -> Node | None:
    try:
        return read(data, 0)
    except (ValueError, RecursionError):  # ValueError is msgspec's, too
        return None


def _same(data: bytes, wished: bytes) -> bool:
    """Whether a node says the same, whenever it was registered."""
    return _timeless(data) == _timeless(wished)


def _timeless(data: bytes) -> object:
    found = msgspec.json.decode(data)
    found.pop("registrationTimeUTC", None)
    return found
