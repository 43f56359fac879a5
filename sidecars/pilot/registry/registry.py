"""The registry: who is registered, in a store; who still renews, in this process.

- What is read comes from the view, which follows the store's watch: a store that does not answer costs nobody an
  endpoint. What is written is compared and swapped, by the rules of `entries.py`.
- A renewal that changes nothing is not written. Deadlines are of this process's clock; a pilot that starts gives
  everybody a whole TTL.
- Who does not renew is given up by the rules of `leases.py`: never the last of a service by time alone, never so many
  at once that the fault is more likely ours. Who is doubted by them and stays silent for `DOUBTED_TTLS` more goes as
  well, one a window, where his service has others. Where those are another pilot's, the doubt is written first, and
  he goes a window later: else two pilots, each relying on the other's, would leave nobody.
- A pilot that is blind (`peers.py`) takes no renewals: who renews has to find one that is not.
- An instance by way of a Central (`detours.py`) is given up as soon as it does not renew, and is nobody on whom a
  service could rely.
- Tombstones are kept for `BURIED_SECONDS`: longer than any word of an old life may be under way.
"""

from __future__ import annotations

import logging
import math
import random
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from functools import partial
from typing import Final

import msgspec
import trio
from pannier.shared.backoff import full_jitter
from pannier.shared.errors import Blame, PannierError, Unreachable
from pannier.shared.instances import Key, State
from pannier.shared.leases import WINDOW_SECONDS, Lease, Leases, Registration
from pannier.shared.pilot_stream import Gone, Instance
from pannier.shared.ticks import next_tick
from pannier.sidecars.pilot.registry import entries
from pannier.sidecars.pilot.registry.entries import PREFIX, Decision, Entry, Verdict, instance_of, key_of
from pannier.sidecars.pilot.registry.peers import Peers
from pannier.sidecars.pilot.registry.tally import FULL, UNREACHABLE, Action, Tally
from pannier.sidecars.pilot.registry.view import View
from pannier.sidecars.pilot.stores.store import ABSENT, Compacted, Conflict, Item, Store

CAPACITY: Final = 100_000
BURIED_SECONDS: Final = 7 * 86_400.0
LOOK_SECONDS: Final = 1.0
BURIAL_SECONDS: Final = 3600.0
DOUBTED_TTLS: Final = 3
GRACE_SECONDS: Final = 14.0
"""That everybody gets beside his TTL from a pilot that has just begun: so long those take who have lost another one."""
CATCH_UP_SECONDS: Final = 2.0
"""How far behind another pilot, whose revision a watcher brings along, this one may be."""
ATTEMPTS: Final = 10
"""Swaps that may meet somebody else's before a request is given back."""

_log = logging.getLogger("pannier.pilot")


class Outcome(msgspec.Struct, frozen=True):
    """What became of a request, and the entry that holds now (None: there never was one)."""

    verdict: Verdict
    entry: Entry | None


class Full(PannierError):
    """There are as many instances as this pilot takes."""

    blame = Blame.PEER


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
        self.view = View()
        self.trouble = ""
        self.tally = Tally()
        self._store = store
        self._clock = clock
        self._wall = wall
        self._capacity = capacity
        self._peers = peers
        self._pilot = peers.pilot if peers is not None else ""
        self._leases = Leases(clock(), capacity=2 * capacity)
        self._missed: dict[Key, int] = {}  # epochs of those that are given up, until that is written
        self._doubts: dict[Key, int] = {}  # likewise, of those that are doubted
        self._lost: set[str] = set()  # keys that the store has lost, until they are written again
        self._doubted_at = clock()
        self._touched: dict[Key, None] = {}  # told otherwise than before, though nothing was written
        self._watching = False
        self._untold: tuple[int, float] | None = None  # an own write that the watch has not told yet, and since when
        self._news = trio.Event()

    @property
    def pilot(self) -> str:
        """The id by which an entry says that this pilot tends it; empty where no other can share the store."""
        return self._pilot

    @property
    def preserving(self) -> bool:
        """Whether nobody is given up, because too many renewals are missed at once."""
        return self._leases.preserving

    @property
    def suspects(self) -> int:
        """How many are told as suspect by this pilot."""
        return len(self._leases.suspects())

    @property
    def lag(self) -> float:
        """Seconds for which an own write has been waiting to be told by the store's watch, and so to others; 0 if none
        does."""
        return 0.0 if self._untold is None else self._clock() - self._untold[1]

    def instances(self, service: str) -> Sequence[Instance]:
        """The instances of a service, by id, and what is of them by way of a Central."""
        return [self._instance(key) for key in self.view.alive(service)]

    def endpoints(self, service: str) -> Sequence[Instance]:
        """Those of them who can be called as they are: for callers who know nothing of Centrals."""
        return [one for one in self.instances(service) if not one.detour]

    def instance(self, key: Key) -> Instance | Gone:
        """An instance, or what is left of it."""
        entry, _ = self.view.get(key_of(key))
        if entry is None or entry.gone:
            return Gone(key[1], 0 if entry is None else entry.epoch, entry is not None and entry.final)
        return self._instance(key_of(key))

    async def wait_changed(self, after: int, setbacks: int) -> Collection[Key]:
        """Returns once the view is not at that revision any more, has forgotten it, or was set back once more; with the
        instances that are doubted or not otherwise than before, of which the view says nothing. For one caller."""
        view = self.view
        while view.revision == after and view.forgotten <= after and view.setbacks == setbacks and not self._touched:
            await self._news.wait()
        touched, self._touched = self._touched, {}
        return touched

    async def catch_up(self, services: Mapping[str, int], *, within: float) -> None:
        """Returns once these services are known up to these revisions, or when they were not within so many seconds."""
        with trio.move_on_after(within):
            for service, revision in services.items():
                while self.view.revision_of(service) < revision:
                    await self._news.wait()

    async def changes(self, after: int, services: Collection[str], *, wait: float) -> tuple[int, Sequence[str]]:
        """The services (of those named, or any) that have changed after that revision, and the revision at which they
        have; none if none did within `wait` seconds. Raises Compacted if that is not known any more."""
        view, begun = self.view, self._clock()
        with trio.move_on_after(wait):
            while view.forgotten <= after:
                names = {instance_of(key)[0] for key in view.changed(after)}
                changed = {name for name in names if not services or name in services}
                if changed:
                    return view.revision, sorted(changed)
                if after > view.revision and self._clock() - begun >= CATCH_UP_SECONDS:
                    break
                with trio.move_on_after(CATCH_UP_SECONDS if after > view.revision else math.inf):
                    await self._news.wait()
        if view.forgotten <= after <= view.revision:
            return view.revision, []
        known = f"after {view.forgotten}, up to {view.revision}"
        hint = "read GET /v1/services, and watch from its revision"
        raise Compacted(f"changes are known {known}; not after {after}", hint=hint)

    async def register(self, key: Key, asked: Entry, *, state: State | None = None) -> Outcome:
        """A life says that it is there, for the first time or again. An epoch of 0 is given one: that in force for the
        address in force, else the next; a `state` of None is that in force for the epoch, else UP. Raises Full,
        Unreachable."""

        def decide(held: Entry | None) -> Decision:
            epoch = asked.epoch
            if not epoch:
                renews = held is not None and not held.gone and held.address == asked.address
                epoch = held.epoch if held is not None and renews else entries.next_epoch(held)
            same = held is not None and not held.gone and held.epoch == epoch
            stands = state or (held.state if held is not None and same else State.UP)
            wished = msgspec.structs.replace(asked, epoch=epoch, state=stands, pilot=self._pilot)
            return entries.register(held, wished)

        outcome = await self._decide(Action.REGISTER, key, decide)
        held, _ = self.view.get(key_of(key))
        if outcome.verdict.accepted and held is not None and self._is_mine(held) and held == outcome.entry:
            self._renew(key, held)  # unless he has been replaced before the store's answer came
        if outcome.verdict is Verdict.RENEWED:
            self._refuse_if_blind()
        return outcome

    def renewed(self, key: Key, asked: Entry, *, state: State | None = None) -> Outcome | None:
        """What `register` says to a renewal that changes nothing, which needs no store; None if it is none. Raises
        Unreachable."""
        held, version = self.view.get(key_of(key))
        if held is None or version == ABSENT or held.pilot != self._pilot or asked.epoch != held.epoch or held.gone:
            return None
        if held.doubted:  # which is written: so is that he is not any more
            return None
        if asked.address != held.address or (state or held.state) is not held.state:
            return None
        if asked.ttl_ms != held.ttl_ms or asked.metadata != held.metadata:
            return None
        self._renew(key, held)
        self._refuse_if_blind()
        return Outcome(Verdict.RENEWED, held)

    def heard(self, key: Key, epoch: int, address: str) -> None:
        """A life has said something that can only be carried out later: it lives."""
        held, _ = self.view.get(key_of(key))
        if held is not None and self._is_mine(held) and (held.epoch, held.address) == (epoch, address):
            self._renew(key, held)

    async def move(self, key: Key, epoch: int, state: State) -> Outcome:
        """A life says where it stands. Raises Unreachable."""
        return await self._decide(Action.MOVE, key, lambda held: entries.move(held, epoch, state), sure=True)

    async def leave(self, key: Key, epoch: int | None) -> Outcome:
        """A life says that it ends; None is whichever is in force. Raises Unreachable."""

        def decide(held: Entry | None) -> Decision:
            if epoch is None and (held is None or held.gone):
                return Decision(Verdict.UNKNOWN)
            return entries.leave(held, epoch if epoch is not None else held.epoch if held is not None else 0)

        return await self._decide(Action.LEAVE, key, decide, sure=True)

    async def follow(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Reads everything, then what changes, for ever; started once everything is known for the first time."""
        attempt = 0
        begun = False
        while True:
            try:
                revision, items = await self._store.scan(PREFIX)
                self._read(revision, items, grace=0.0 if begun else GRACE_SECONDS)
                if not begun:
                    task_status.started()
                    begun = True
                async with self._store.watch(PREFIX, revision) as changes:
                    async for batch in changes:
                        attempt = 0
                        for item in batch:
                            self._hear(item)
                        self._heard()
            except Compacted as error:
                _log.warning("%s: everything is read anew", error.message)
            except Unreachable as error:
                self._watching = False
                self.tally.watch_errors += 1
                self.trouble = error.message
                _log.warning("%s; what is known is told meanwhile", error.message)
            await trio.sleep(full_jitter(attempt, base=0.1, cap=5.0, random=random.random()))
            attempt += 1

    async def tend(self) -> None:
        """Looks who does not renew, and writes down what follows; runs until cancelled. Two tasks, since a store that
        takes its time must not look like a process that stood still."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._look_forever)
            nursery.start_soon(self._write_forever)

    async def _look_forever(self) -> None:
        while True:
            self.look()
            await next_tick(LOOK_SECONDS)

    async def _write_forever(self) -> None:
        bury_at = self._clock()
        while True:
            try:
                await self.write_down()
                if self._clock() >= bury_at:
                    await self.bury()
                    bury_at = self._clock() + BURIAL_SECONDS
            except Unreachable as error:
                self.trouble = error.message
            await next_tick(LOOK_SECONDS)

    def look(self) -> None:
        """Who has missed his time."""
        now = self._clock()
        expiry = self._leases.expire(now)
        for key in expiry.evicted:
            self._miss(key)
        self._touch(expiry.suspected)
        if now - self._doubted_at >= WINDOW_SECONDS:
            for lease in self._leases.suspects():
                registration = lease.registration
                if now - lease.expires >= DOUBTED_TTLS * registration.ttl and self._stop_waiting(registration.key):
                    self._doubted_at = now
                    break

    def _stop_waiting(self, key: Key) -> bool:
        """Gives up who has been doubted for long, or has it written that he is; whether there was anything to do."""
        entry, _ = self.view.get(key_of(key))
        if entry is None or not (self._has_mine(key) or self._has_others(key)):
            return False
        if self._has_mine(key) or entry.doubted:
            self._leases.confirm_gone(key)
            self._miss(key)
        else:
            self._doubts[key] = entry.epoch
        return True

    async def write_down(self) -> None:
        """What was decided and is not in the store yet, and whoever was tended by a pilot that has gone. Raises
        Unreachable."""
        for key in tuple(self._lost):
            await self._decide(Action.RESTORE, instance_of(key), _as_it_is)
            self._lost.discard(key)
        for instance, epoch in tuple(self._missed.items()):
            if self._missed.get(instance) == epoch:  # else it has renewed meanwhile
                give_up = partial(entries.give_up, epoch=epoch, pilot=self._pilot)
                await self._decide(Action.GIVE_UP, instance, give_up)
                self._missed.pop(instance, None)
        for instance, epoch in tuple(self._doubts.items()):
            doubt = partial(entries.doubt, epoch=epoch, pilot=self._pilot)
            await self._decide(Action.DOUBT, instance, doubt)
            self._doubts.pop(instance, None)
            self._doubted_at = self._clock()  # from when on the others may know
        if self._peers is not None:
            for pilot in filter(self._peers.gone, self.view.pilots()):
                take_over = partial(entries.take_over, before=pilot, pilot=self._pilot)
                for key in self.view.tended(pilot):
                    await self._decide(Action.TAKE_OVER, instance_of(key), take_over)
            await self._peers.bury()

    async def bury(self) -> None:
        """Tombstones that are old enough. Raises Unreachable."""
        before = round((self._wall() - BURIED_SECONDS) * 1000)
        for key in self.view.names():
            entry, version = self.view.get(key)
            if entry is not None and entry.gone and entry.gone_ms < before:
                try:
                    await self._store.swap(key, None, version)
                except Conflict:
                    continue
                if self.view.get(key)[1] == version:
                    self.view.correct(key, None)

    async def _decide(
        self, action: Action, key: Key, decide: Callable[[Entry | None], Decision], *, sure: bool = False
    ) -> Outcome:
        """Decides and writes, and counts what came of it."""
        try:
            outcome = await self._swap(key, decide, sure=sure)
        except Full:
            self.tally.decisions[action, FULL] += 1
            raise
        except Unreachable as error:
            self.tally.decisions[action, UNREACHABLE] += 1
            self.trouble = error.message
            raise
        self.tally.decisions[action, outcome.verdict] += 1
        return outcome

    async def _swap(self, key: Key, decide: Callable[[Entry | None], Decision], *, sure: bool) -> Outcome:
        """Asks what follows from the entry that is known, and swaps it in; of another one if somebody was quicker. If
        nothing follows, the store is asked first for `sure`: another pilot may have written what is not known yet."""
        name = key_of(key)
        for _ in range(ATTEMPTS):
            held, version = self.view.get(name)
            decision = decide(held)
            write = decision.write
            if write is None and decision.verdict is Verdict.RENEWED and version == ABSENT:
                write = held  # which the store has lost
            if write is None and sure:
                sure = False
                await self._look_up(name)
                continue
            if write is None:
                return Outcome(decision.verdict, held)
            self._make_room(held, write)
            if write.gone:
                write = msgspec.structs.replace(write, gone_ms=round(self._wall() * 1000))
            value = msgspec.msgpack.encode(write)
            try:
                version = await self._store.swap(name, value, version)
            except Conflict:
                item = await self._store.get(name)
                if self.view.get(name)[1] == version:  # else it was told meanwhile, and what was read may be older
                    self.view.correct(name, item)
                    self._attend(name)
                continue
            if self._watching:
                self.trouble = ""  # it takes writes again
            if self._untold is None and version > self.view.revision:
                self._untold = (version, self._clock())
            before, _ = self.view.get(name)
            if self.view.learn(Item(name, value, version)):
                self._attend(name)
                self._touch_if_doubted_otherwise(name, before)
            return Outcome(decision.verdict, write)
        raise Unreachable(f"{name} is written by others all the time", hint="try again in a moment")

    def _refuse_if_blind(self) -> None:
        if self._peers is not None and self._peers.blind:
            raise Unreachable("this pilot does not hear its store", hint="renew with another one")

    async def _look_up(self, name: str) -> None:
        """Learns what the store has at a key, if it is news. Raises Unreachable."""
        item = await self._store.get(name)
        if item is not None and self.view.learn(item):
            self._attend(name)

    def _make_room(self, held: Entry | None, write: Entry) -> None:
        """Raises Full."""
        if not write.gone and (held is None or held.gone) and len(self.view) >= self._capacity:
            raise Full(f"{len(self.view)} instances are registered, and this pilot takes no more")
        if held is None and self.view.remembered >= 2 * self._capacity:
            raise Full("as many instances have come and gone as this pilot remembers")

    def _read(self, revision: int, items: Sequence[Item], *, grace: float = 0.0) -> None:
        self._lost |= {key for key in self.view.scanned(revision, items) if self._is_mine(self.view.get(key)[0])}
        for key in self.view.names():
            self._attend(key, grace=grace)
        self.trouble = ""
        self._watching = True
        self._heard()

    def _hear(self, item: Item) -> None:
        """What the watch says."""
        before, _ = self.view.get(item.key)
        if self.view.lacks(item) and self._is_mine(before):
            self._lost.add(item.key)
        if self.view.follow(item):
            self._attend(item.key)
            self._touch_if_doubted_otherwise(item.key, before)

    def _attend(self, name: str, *, grace: float = 0.0) -> None:
        """Times whom this pilot tends, as it is known now, and nobody else."""
        entry, _ = self.view.get(name)
        key = instance_of(name)
        lease = self._leases.get(key)
        if entry is None or not self._is_mine(entry):
            self._leases.forget(key)
            self._missed.pop(key, None)
            self._doubts.pop(key, None)
        elif lease is None or _registration(key, entry) != lease.registration:
            self._renew(key, entry, grace=grace)

    def _renew(self, key: Key, entry: Entry, *, grace: float = 0.0) -> None:
        self._missed.pop(key, None)
        self._doubts.pop(key, None)
        before = self._leases.get(key)
        if before is not None and before.suspect:
            self._touch([key])
        self._leases.register(_registration(key, entry), self._clock() + grace)

    def _touch(self, keys: Collection[Key]) -> None:
        if keys:
            self._touched.update(dict.fromkeys(keys))
            self._tell()

    def _touch_if_doubted_otherwise(self, name: str, before: Entry | None) -> None:
        """Whether somebody is doubted is told, though it is no change of his."""
        after, _ = self.view.get(name)
        if before is not None and after is not None and before.doubted is not after.doubted:
            self._touch([instance_of(name)])

    def _miss(self, key: Key) -> None:
        entry, _ = self.view.get(key_of(key))
        if entry is not None and self._is_mine(entry):
            self._missed[key] = entry.epoch

    def _is_mine(self, entry: Entry | None) -> bool:
        return entry is not None and not entry.gone and entry.pilot == self._pilot

    def _has_mine(self, key: Key) -> bool:
        """Whether the service has another instance that is up, that this pilot tends and does not doubt."""
        others = (instance_of(name) for name in self.view.alive(key[0]))
        leases = (self._leases.get(other) for other in others if other != key)
        return any(one is not None and _can_be_called(one) for one in leases)

    def _has_others(self, key: Key) -> bool:
        """Whether the service has an instance that is up, and that another pilot tends and has not said to doubt."""
        if self._peers is None or self._peers.blind:
            return False
        others = [one for name in self.view.alive(key[0]) if (one := self.view.get(name)[0]) is not None]
        return any(
            one.pilot != self._pilot and not one.doubted and not one.is_detour and one.state is State.UP
            for one in others
        )

    def _heard(self) -> None:
        """The view has gone on."""
        if self._untold is not None and self._untold[0] <= self.view.revision:
            self._untold = None
        self._tell()

    def _tell(self) -> None:
        self._news.set()
        self._news = trio.Event()

    def _instance(self, name: str) -> Instance:
        entry, version = self.view.get(name)
        assert entry is not None, "it is alive"
        key = instance_of(name)
        lease = self._leases.get(key)
        suspect = entry.doubted or (lease is not None and lease.suspect)
        metadata, is_detour = dict(entry.metadata), entry.is_detour
        return Instance(*key, entry.address, entry.state, entry.epoch, version, metadata, suspect, is_detour)


def _can_be_called(lease: Lease) -> bool:
    registration = lease.registration
    return not lease.suspect and not registration.is_detour and registration.state is State.UP


def _registration(key: Key, entry: Entry) -> Registration:
    return Registration(*key, entry.address, entry.epoch, entry.ttl_ms / 1000, entry.state, entry.metadata)


def _as_it_is(held: Entry | None) -> Decision:
    """Writes an entry again that the store has lost."""
    if held is None or held.gone:
        return Decision(Verdict.UNKNOWN)
    return Decision(Verdict.CHANGED, held)
