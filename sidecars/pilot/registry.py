"""The registry: who is registered, in a store; who still renews, in this process.

- What is read comes from a view in memory that follows the store's watch, so a store that does not answer costs nobody
  an endpoint: what was known goes on to be told. What is written is compared and swapped, by the rules of `entries.py`.
- A renewal that changes nothing is not written. Deadlines are of this process's clock; a pilot that starts, or has lost
  sight of its store, gives everybody a whole TTL.
- Who does not renew is given up by the rules of `leases.py`: never the last of a service by time alone, never so many
  at once that the fault is more likely ours.
- Tombstones are kept for `BURIED_SECONDS`: longer than any word of an old life may be under way.
"""

from __future__ import annotations

import logging
import random
import time
from collections import deque
from collections.abc import Callable, Collection, Iterator, Sequence
from functools import partial
from itertools import count
from typing import Final

import msgspec
import trio
from pannier.shared.backoff import full_jitter
from pannier.shared.errors import Blame, PannierError, Unreachable
from pannier.shared.instances import Key, State
from pannier.shared.leases import Leases, Registration
from pannier.shared.ticks import next_tick
from pannier.sidecars.pilot import entries
from pannier.sidecars.pilot.entries import PREFIX, Decision, Entry, Verdict, instance_of, key_of
from pannier.sidecars.pilot.peers import Peers
from pannier.sidecars.pilot.store import ABSENT, Compacted, Conflict, Item, Store

CAPACITY: Final = 100_000
KEPT: Final = 10_000
"""Changes that a watcher may have missed."""
BURIED_SECONDS: Final = 7 * 86_400.0
EXPIRY_SECONDS: Final = 1.0
BURIAL_SECONDS: Final = 3600.0
ATTEMPTS: Final = 10
"""Swaps that may meet somebody else's before a request is given back."""

_log = logging.getLogger("pannier.pilot")
_decode = msgspec.msgpack.Decoder(Entry).decode


class Outcome(msgspec.Struct, frozen=True):
    """What became of a request, and the entry that holds now (None: there never was one)."""

    verdict: Verdict
    entry: Entry | None


class Full(PannierError):
    """There are as many instances as this pilot takes."""

    blame = Blame.PEER


class Instance(msgspec.Struct, frozen=True, omit_defaults=True):
    """An instance as it is told. `suspect`: its renewals are missed, and it is kept by the rules of `leases.py`."""

    service: str
    id: str
    address: str
    state: State
    epoch: int
    revision: int
    metadata: dict[str, str] = {}
    suspect: bool = False


class Registry:
    """The instances of a store. Nothing is known before `follow` has begun; it runs as long as the registry does.

    `clock` counts seconds and never jumps, `wall` is the time of day. `peers` are the pilots of that store, if several
    can share it.
    """

    def __init__(
        self,
        store: Store,
        *,
        clock: Callable[[], float] = trio.current_time,
        wall: Callable[[], float] = time.time,
        capacity: int = CAPACITY,
        peers: Peers | None = None,
    ) -> None:
        self._store = store
        self._peers = peers
        self._pilot = peers.pilot if peers is not None else ""
        self._tended: dict[str, set[str]] = {}  # keys by the pilot that tends them
        self._clock = clock
        self._wall = wall
        self._capacity = capacity
        self._view: dict[str, tuple[Entry, int]] = {}
        self._alive: dict[str, set[str]] = {}  # keys by service
        self._leases = Leases(clock(), capacity=capacity)
        self._changes: deque[tuple[int, str]] = deque(maxlen=KEPT)
        self._forgotten = 0
        self._news = trio.Event()
        self._missed: dict[Key, int] = {}  # epochs of those that are given up, until that is written
        self.revision = 0
        self.trouble = ""

    @property
    def preserving(self) -> bool:
        """Whether nobody is given up, because too many renewals are missed at once."""
        return self._leases.preserving

    def __len__(self) -> int:
        return sum(map(len, self._alive.values()))

    def services(self) -> Sequence[str]:
        """The names of services that have instances."""
        return sorted(self._alive)

    def instances(self, service: str) -> Sequence[Instance]:
        """The instances of a service, by id."""
        return [self._instance(key) for key in sorted(self._alive.get(service, ()))]

    async def changes(self, after: int, services: Collection[str], *, wait: float) -> tuple[int, Sequence[str]]:
        """The services (of those named, or any) that have changed after that revision, and the revision at which they
        have; none if none did within `wait` seconds. Raises Compacted if that is not known any more."""
        with trio.move_on_after(wait):
            while True:
                if not self._forgotten <= after <= self.revision:
                    known = f"after {self._forgotten}, up to {self.revision}"
                    hint = "read GET /v1/services, and watch from its revision"
                    raise Compacted(f"changes are known {known}; not after {after}", hint=hint)
                changed = {name for name in self._changed(after) if not services or name in services}
                if changed:
                    return self.revision, sorted(changed)
                await self._news.wait()
        return self.revision, []

    async def register(self, key: Key, asked: Entry) -> Outcome:
        """A life says that it is there, for the first time or again. An epoch of 0 is given one: that in force for the
        address in force, else the next. Raises Full, Unreachable."""

        def decide(held: Entry | None) -> Decision:
            epoch = asked.epoch
            if not epoch:
                renews = held is not None and not held.gone and held.address == asked.address
                epoch = held.epoch if held is not None and renews else entries.next_epoch(held)
            decision = entries.register(held, msgspec.structs.replace(asked, epoch=epoch, pilot=self._pilot))
            if decision.write is not None and (held is None or held.gone) and len(self) >= self._capacity:
                raise Full(f"{len(self)} instances are registered, and this pilot takes no more")
            return decision

        outcome = await self._decide(key, decide)
        if outcome.verdict.accepted and outcome.entry is not None:
            self._tend(key, outcome.entry)
        return outcome

    async def move(self, key: Key, epoch: int, state: State) -> Outcome:
        """A life says where it stands. Raises Unreachable."""
        return await self._decide(key, lambda held: entries.move(held, epoch, state))

    async def leave(self, key: Key, epoch: int | None) -> Outcome:
        """A life says that it ends; None is whichever is in force. Raises Unreachable."""

        def decide(held: Entry | None) -> Decision:
            if epoch is None and (held is None or held.gone):
                return Decision(Verdict.UNKNOWN)
            return entries.leave(held, epoch if epoch is not None else held.epoch if held is not None else 0)

        return await self._decide(key, decide)

    async def follow(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Reads everything, then what changes, for ever; started once everything is known for the first time."""
        begun = False
        for attempt in count():
            try:
                revision, items = await self._store.scan(PREFIX)
                self._begin_anew(revision, items)
                if not begun:
                    task_status.started()
                    begun = True
                async with self._store.watch(PREFIX, revision) as changes:
                    async for batch in changes:
                        self.trouble = ""
                        for item in batch:
                            self._see(item)
            except Compacted as error:
                _log.warning("%s: everything is read anew", error.message)
            except Unreachable as error:
                self.trouble = error.message
                _log.warning("%s; what is known is told meanwhile", error.message)
                await trio.sleep(full_jitter(attempt, base=0.1, cap=5.0, random=random.random()))

    async def tend(self) -> None:
        """Gives up who does not renew, takes over whose pilot has gone, and buries who is long gone; runs until
        cancelled."""
        bury_at = self._clock()
        while True:
            await self._expire()
            await self._take_over()
            if self._clock() >= bury_at:
                bury_at = self._clock() + BURIAL_SECONDS
                await self._bury()
            await next_tick(EXPIRY_SECONDS)

    async def _expire(self) -> None:
        for key in self._leases.expire(self._clock()).evicted:
            if (entry := self._entry(key)) is not None and not entry.gone:
                self._missed[key] = entry.epoch
        for key, epoch in list(self._missed.items()):
            try:
                await self._decide(key, partial(entries.give_up, epoch=epoch))
            except Unreachable as error:  # it is told until it can be written that it has gone, or it renews
                self.trouble = error.message
                return
            self._missed.pop(key, None)

    async def _take_over(self) -> None:
        """Whoever was tended by a pilot that has gone has a whole TTL to renew with another one."""
        for pilot in [pilot for pilot in self._tended if self._peers is not None and self._peers.gone(pilot)]:
            decide = partial(entries.take_over, before=pilot, pilot=self._pilot)
            for key in tuple(self._tended[pilot]):
                try:
                    await self._decide(instance_of(key), decide)
                except Unreachable as error:
                    self.trouble = error.message
                    return

    async def _bury(self) -> None:
        before = round((self._wall() - BURIED_SECONDS) * 1000)
        for key, (entry, version) in list(self._view.items()):
            if entry.gone and entry.gone_ms < before:
                try:
                    await self._store.swap(key, None, version)
                except (Conflict, Unreachable):
                    continue
                del self._view[key]

    async def _decide(self, key: Key, decide: Callable[[Entry | None], Decision]) -> Outcome:
        """Asks what follows from the entry that is known, and swaps it in; of another one if somebody was quicker."""
        name = key_of(key)
        for _ in range(ATTEMPTS):
            held, version = self._view.get(name, (None, ABSENT))
            decision = decide(held)
            write = decision.write
            if write is None:
                return Outcome(decision.verdict, held)
            if write.gone:
                write = msgspec.structs.replace(write, gone_ms=round(self._wall() * 1000))
            value = msgspec.msgpack.encode(write)
            try:
                self._see(Item(name, value, await self._store.swap(name, value, version)))
            except Conflict:
                self._see(await self._store.get(name) or Item(name, None, ABSENT))
                continue
            return Outcome(decision.verdict, write)
        raise Unreachable(f"{name} is written by others all the time", hint="try again in a moment")

    def _begin_anew(self, revision: int, items: Sequence[Item]) -> None:
        """All is as a scan says; whoever watches has to read everything."""
        gone = self._view.keys() - {item.key for item in items}
        for item in items:
            self._see(item)
        for key in gone:
            self._see(Item(key, None, revision))
        self._changes.clear()
        self._forgotten = self.revision = revision
        self._tell()

    def _see(self, item: Item) -> None:
        """What the store has of an item; older than what is known of it means nothing."""
        known = self._view.get(item.key)
        if known is not None and item.value is not None and item.version <= known[1]:
            return
        service, _ = key = instance_of(item.key)
        alive = self._alive.setdefault(service, set())
        alive.discard(item.key)
        if known is not None:
            self._untend(item.key, known[0].pilot)
        entry = None if item.value is None else _decoded(item)
        if entry is None:
            self._view.pop(item.key, None)
        else:
            self._view[item.key] = (entry, item.version)
        if entry is not None and not entry.gone:
            alive.add(item.key)
            self._tended.setdefault(entry.pilot, set()).add(item.key)
        if entry is not None and not entry.gone and entry.pilot == self._pilot:
            self._tend(key, entry)
        else:
            self._leases.deregister(key, final=False)
        if not alive:
            del self._alive[service]
        self.revision = max(self.revision, item.version)
        self._note(item.key)

    def _untend(self, key: str, pilot: str) -> None:
        tended = self._tended.get(pilot, set())
        tended.discard(key)
        if not tended:
            self._tended.pop(pilot, None)

    def _tend(self, key: Key, entry: Entry) -> None:
        service, name = key
        registration = Registration(
            service, name, entry.address, entry.epoch, entry.ttl_ms / 1000, entry.state, entry.metadata
        )
        self._leases.register(registration, self._clock())
        self._missed.pop(key, None)

    def _note(self, key: str) -> None:
        """Watchers are told of a change of this instance."""
        if len(self._changes) == self._changes.maxlen:
            self._forgotten = self._changes[0][0]
        self._changes.append((self.revision, key))
        self._tell()

    def _tell(self) -> None:
        self._news.set()
        self._news = trio.Event()

    def _changed(self, after: int) -> Iterator[str]:
        for revision, key in reversed(self._changes):
            if revision <= after:
                return
            yield instance_of(key)[0]

    def _entry(self, key: Key) -> Entry | None:
        return self._view.get(key_of(key), (None, ABSENT))[0]

    def _instance(self, key: str) -> Instance:
        entry, version = self._view[key]
        service, name = instance_of(key)
        lease = self._leases.get((service, name))
        return Instance(
            service,
            name,
            entry.address,
            entry.state,
            entry.epoch,
            version,
            dict(entry.metadata),
            suspect=lease is not None and lease.suspect,
        )


def _decoded(item: Item) -> Entry | None:
    """None for a value that is none of ours: it is said, and told to nobody."""
    try:
        return _decode(item.value or b"")
    except msgspec.MsgspecError as error:
        _log.warning("the store has something at %s that is no instance: %s", item.key, error)
        return None
