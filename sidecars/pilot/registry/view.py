"""What a pilot knows of the instances in its store, and which of it has changed. Pure: it is told, and asked.

It is told in two ways that overtake each other: the store's watch, in order, and the answers to own writes, at once:

- Both may bring an entry; an older version than what is known means nothing.
- Revisions and changes are the watch's alone. A watcher who goes on from a revision has missed nothing up to it.
- A store that lacks what was known has lost it, for nobody is deleted without a tombstone: it goes on to be known, and
  is named, so that it can be written again. So it is where the watch says that a life was deleted, or replaced by an
  older one or by nonsense: that was none of us. Only a tombstone may be missing, when it was buried.
"""

from __future__ import annotations

import logging
from collections import Counter, deque
from collections.abc import Iterator, Mapping, Sequence
from typing import Final

import msgspec
from pannier.shared.instances import State
from pannier.sidecars.pilot.registry.entries import Entry, instance_of
from pannier.sidecars.pilot.stores.store import ABSENT, Item

KEPT: Final = 10_000
"""Changes that a watcher may have missed."""

_log = logging.getLogger("pannier.pilot")
_decode = msgspec.msgpack.Decoder(Entry).decode


class View:
    """`revision` is that of the last change; changes after `forgotten` are known. `setbacks` counts how often the store
    was set back, after which revisions mean something else: those up to `disowned` may be of before."""

    def __init__(self) -> None:
        self.revision = self.forgotten = self.setbacks = self.disowned = 0
        self._known: dict[str, tuple[Entry, int]] = {}
        self._alive: dict[str, set[str]] = {}  # keys by service
        self._tended: dict[str, set[str]] = {}  # keys by the pilot that tends them
        self._states: Counter[State] = Counter()  # of the living
        self._detours: Counter[State] = Counter()  # those of them who are by way of a Central
        self._revisions: dict[str, int] = {}  # of the last write to a service
        self._told: dict[str, Entry] = {}  # as the watch had it last
        self._changes: deque[tuple[int, str]] = deque()
        self._begun = False

    def __len__(self) -> int:
        """How many instances and detours there are, tombstones not counted."""
        return sum(self._states.values())

    @property
    def remembered(self) -> int:
        """How many there are and were, tombstones counted."""
        return len(self._known)

    def get(self, key: str) -> tuple[Entry | None, int]:
        """The entry and the version that a swap has to expect."""
        return self._known.get(key, (None, ABSENT))

    def names(self) -> Sequence[str]:
        """The keys of all that is known, tombstones as well."""
        return list(self._known)

    def services(self) -> Sequence[str]:
        """The names of services that have instances."""
        return sorted(self._alive)

    def alive(self, service: str) -> Sequence[str]:
        """The keys of a service's instances, by id."""
        return sorted(self._alive.get(service, ()))

    def states(self) -> Mapping[State, int]:
        """How many instances are in each state, detours not counted."""
        return {state: self._states[state] - self._detours[state] for state in State}

    @property
    def detours(self) -> int:
        """How many are an instance by way of a Central."""
        return sum(self._detours.values())

    def revision_of(self, service: str) -> int:
        """That of its last change, 0 if there is none."""
        return self._revisions.get(service, 0)

    def pilots(self) -> Sequence[str]:
        """Who tends anybody."""
        return tuple(self._tended)

    def tended(self, pilot: str) -> Sequence[str]:
        """The keys of those whom that pilot tends."""
        return tuple(self._tended.get(pilot, ()))

    def learn(self, item: Item) -> bool:
        """What a swap or a read has said of an item; whether it was news."""
        if item.version <= self.get(item.key)[1]:
            return False
        self._put(item.key, _decoded(item), item.version)
        return True

    def follow(self, item: Item) -> bool:
        """What the watch says, in its order; whether it was news."""
        lost = self.lacks(item)
        if lost:
            self.correct(item.key, None if item.value is None else item)
        news = lost or self.learn(item)
        self.revision = max(self.revision, item.version)
        service, _ = instance_of(item.key)
        visible = _visible(self.get(item.key)[0] if lost else _decoded(item))
        if self._told.get(item.key) != visible:
            if visible is None:
                del self._told[item.key]
            else:
                self._told[item.key] = visible
            self._revisions[service] = max(item.version, self._revisions.get(service, 0))
            self._changes.append((item.version, item.key))
            while len(self._changes) > KEPT:
                self.forgotten, _ = self._changes.popleft()
        return news

    def lacks(self, item: Item) -> bool:
        """Whether what the watch is about to say is that the store has lost a life that is known."""
        entry, version = self.get(item.key)
        if item.version <= version or entry is None or entry.gone:
            return False
        found = _decoded(item)
        return found is None or found.epoch < entry.epoch

    def correct(self, key: str, item: Item | None) -> None:
        """What the store has in fact, after a swap found another version than the known one. A life that is known and
        newer than what the store has stays known: the store has lost it."""
        entry, _ = self.get(key)
        if item is None:
            self._put(key, None if entry is None or entry.gone else entry, ABSENT)
            return
        found = _decoded(item)
        lost = entry is not None and (found is None or found.epoch < entry.epoch)
        self._put(key, entry if lost else found, item.version)

    def scanned(self, revision: int, items: Sequence[Item]) -> Sequence[str]:
        """Everything that the store has at a revision, before its watch goes on from there; the keys of the living whom
        it has lost."""
        backwards = self._begun and revision < self.revision
        if backwards:  # it was restored from a copy: nobody's revision means anything any more
            _log.warning("the store is at revision %d, and was at %d: it was set back", revision, self.revision)
            self.disowned = max(self.disowned, self.revision)
            self.revision = self.forgotten = revision
            self.setbacks += 1
            self._changes.clear()
            self._revisions.clear()
        lost = [key for key in self._known if self._lost(key, revision, backwards=backwards)]
        found = {item.key: item for item in items}
        for key in self._known.keys() - found.keys():
            if self._known[key][1] <= revision or backwards:
                self.correct(key, None)
        lost = [key for key in lost if key not in found]
        for item in sorted(items, key=lambda item: item.version):
            entry, version = self.get(item.key)
            if backwards and version > item.version and entry is not None:
                self.correct(item.key, item)
                if not entry.gone and self.get(item.key)[0] is entry:
                    lost.append(item.key)
            elif self.lacks(item):
                lost.append(item.key)
            self.follow(item)
        if not self._begun:
            self._begun, self.forgotten = True, self.revision
            self._changes.clear()
        return lost

    def changed(self, after: int) -> Iterator[str]:
        """The keys that have changed after that revision; some more than once."""
        for revision, key in reversed(self._changes):
            if revision <= after:
                return
            yield key

    def _lost(self, key: str, revision: int, *, backwards: bool) -> bool:
        """Whether what is known of a key ought to be in a store at that revision."""
        entry, version = self._known[key]
        return not entry.gone and (version <= revision or backwards)

    def _put(self, key: str, entry: Entry | None, version: int) -> None:
        service, _ = instance_of(key)
        before = self._known.pop(key, None)
        if before is not None:
            _discard(self._alive, service, key)
            _discard(self._tended, before[0].pilot, key)
            self._states[before[0].state] -= not before[0].gone
            self._detours[before[0].state] -= before[0].is_detour
        if entry is None:
            return
        self._known[key] = (entry, version)
        if not entry.gone:
            self._alive.setdefault(service, set()).add(key)
            self._tended.setdefault(entry.pilot, set()).add(key)
            self._states[entry.state] += 1
            self._detours[entry.state] += entry.is_detour


def _discard(sets: dict[str, set[str]], name: str, key: str) -> None:
    found = sets.get(name, set())
    found.discard(key)
    if not found:
        sets.pop(name, None)


def _visible(entry: Entry | None) -> Entry | None:
    """What others are told of an entry; which pilot tends it is nobody's business."""
    if entry is None or entry.gone:
        return None
    return Entry(entry.epoch, entry.address, entry.state, 0, entry.metadata)


def _decoded(item: Item) -> Entry | None:
    """None for a value that is none of ours: it is said, and told to nobody."""
    if item.value is None:
        return None
    try:
        return _decode(item.value)
    except msgspec.MsgspecError as error:
        _log.warning("the store has something at %s that is no instance: %s", item.key, error)
        return None
