"""Versioned documents in the store: what is said of a stage or of a service there, and what was said before.

- A document is one item, `documents/KIND/STAGE/NAME`. Each change is a version more, also a deletion and a way back, so
  a version never means two things.
- What is replaced is first kept as an item of its own below `history/`, under its version. It cannot change any more:
  whoever comes second writes the same, and a pilot that dies in between has lost nothing. The last `KEPT` are kept.
- What is read comes from memory, which follows the store's watch: a store that does not answer costs changes (503),
  never a document. One that has come back without a document, or with an older one, is told it again.
- Of two contents under one version, made on both sides of such a loss, that of the store holds everywhere.
- The versions of items are the store's own. They are taken as they come, for a store that was lost counts anew; a swap
  finds out whether they are right.
- A deletion is a document too, and buried after `BURIED_SECONDS` with its history: then its name begins anew.
"""

from __future__ import annotations

import logging
import random
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import Any, Final, NamedTuple, TypeAlias

import msgspec
import trio
from pannier.shared.backoff import full_jitter
from pannier.shared.errors import Blame, PannierError, Unreachable
from pannier.sidecars.pilot.stores.store import ABSENT, MAX_VALUE, Compacted, Conflict, Item, Store

PREFIX: Final = "documents/"
CONFIG: Final = "config"
"""The kind of the configurations of services."""
HISTORY: Final = "history/"
KEPT: Final = 50
CAPACITY: Final = 10_000
ATTEMPTS: Final = 10
BURIED_SECONDS: Final = 7 * 86_400.0
BURIAL_SECONDS: Final = 3_600.0
"""Between two looks for deletions that are old enough."""
TICK_SECONDS: Final = 0.001
"""How much later than the version before one is at least, whatever the clocks of pilots say."""
_HEAD_BYTES: Final = 1024

Content: TypeAlias = Mapping[str, Any]
Made: TypeAlias = Callable[[Content], Content]
"""Makes a content of the one in force, which is empty if there is none. It may be called again: others write too."""
_log = logging.getLogger("pannier.pilot")


class Key(NamedTuple):
    """Of a document: its kind, the stage, and the service ("" for one about the stage as a whole)."""

    kind: str
    stage: str
    service: str = ""

    @property
    def item(self) -> str:
        """The key in the store."""
        return f"{PREFIX}{self.kind}/{self.stage}/{self.service}"

    @property
    def history(self) -> str:
        """What the keys of its former versions begin with."""
        return f"{HISTORY}{self.kind}/{self.stage}/{self.service}/"


class Document(msgspec.Struct, frozen=True, omit_defaults=True):
    """A version of a document. `when` is in seconds since the epoch; one that was deleted has no content."""

    version: int
    when: float
    content: dict[str, Any] = {}
    comment: str = ""
    deleted: bool = False


class Stale(PannierError):
    """Another version is in force than the one that was expected."""

    blame = Blame.PEER


class TooMuch(PannierError):
    """A document is too large, or there are too many."""

    blame = Blame.USAGE


class Unknown(PannierError):
    """There is no such document, or no such version of it."""

    blame = Blame.USAGE


def revised(held: Document | None, content: Content | None, expected: int | None, now: float, comment: str) -> Document:
    """What replaces a document; a `content` of None deletes it. Pure. Raises Stale, Unknown, TooMuch.

    `expected` is the version that has to be in force, 0 for none, None for any. A later version has a later `when`,
    also if a clock is behind that of the pilot that made the one before.
    """
    version = 0 if held is None else held.version
    in_force = 0 if held is None or held.deleted else version
    if expected is not None and expected not in {version, in_force}:
        said = f"version {version} is in force" if in_force else "there is none"
        raise Stale(f"{said}, not version {expected}", hint="read it again, and change that")
    if content is None and not in_force:
        raise Unknown("there is no such document", hint="see which there are: GET /v1/config, GET /v1/policy")
    when = now if held is None else max(now, held.when + TICK_SECONDS)
    after = Document(version + 1, when, dict(content or {}), comment, content is None)
    size = len(_encode(after))
    if size > MAX_VALUE - _HEAD_BYTES:
        raise TooMuch(f"it is {size} bytes, at most {MAX_VALUE - _HEAD_BYTES} are kept")
    return after


class Statistics(msgspec.Struct, frozen=True):
    """`configurations` and `policies` are those in force; `changes` were made by this pilot, `refused` were not.
    `trouble` is what the store said last, empty if it is well."""

    configurations: int
    policies: int
    changes: int
    refused: int
    trouble: str


class Documents:
    """The documents of a store. Nothing is known before `follow` has begun. `listeners` are told each document that has
    changed, once it is known here. `wall` is the time of day."""

    def __init__(self, store: Store, *, wall: Callable[[], float] = time.time, capacity: int = CAPACITY) -> None:
        self.trouble = ""
        self.listeners: list[Callable[[Key], None]] = []
        self._store = store
        self._wall = wall
        self._capacity = capacity
        self._known: dict[Key, tuple[Document, int]] = {}
        self._changes = self._refused = 0
        self._news = trio.Event()

    def get(self, key: Key) -> Document | None:
        """The version in force; None if there is none, or it was deleted."""
        document = self.last(key)
        return None if document is None or document.deleted else document

    def last(self, key: Key) -> Document | None:
        """The last version, also if that was the deletion."""
        return self._known.get(key, (None, ABSENT))[0]

    def keys(self, kind: str) -> Sequence[Key]:
        """The documents of a kind that are in force, in order."""
        return sorted(key for key, (document, _) in self._known.items() if key.kind == kind and not document.deleted)

    def statistics(self) -> Statistics:
        """How many there are, and what became of changes."""
        counts = len(self.keys("config")), len(self.keys("policy"))
        return Statistics(*counts, self._changes, self._refused, self.trouble)

    async def changed(self, key: Key, after: int, *, wait: float) -> Document | None:
        """The last version once it is a later one than `after`, or as it is when `wait` seconds are over."""
        with trio.move_on_after(wait):
            while (document := self.last(key)) is None or document.version <= after:
                await self._news.wait()
        return self.last(key)

    async def put(
        self, key: Key, content: Content | Made | None, *, expected: int | None = None, comment: str = ""
    ) -> Document:
        """Makes a version of that content (None deletes the document). Raises Stale, Unknown, TooMuch, Unreachable."""
        try:
            document = await self._put(key, content, expected, comment)
        except PannierError:
            self._refused += 1
            raise
        self._changes += 1
        return document

    async def _put(self, key: Key, content: Content | Made | None, expected: int | None, comment: str) -> Document:
        if expected is not None and expected > self._version(key):
            await self._read(key)  # another pilot may have told of a version that is still on its way to us
        for _ in range(ATTEMPTS):
            held, stored = self._known.get(key, (None, ABSENT))
            made = content({} if held is None else held.content) if callable(content) else content
            after = revised(held, made, expected, self._wall(), comment)
            if (held is None or held.deleted) and (count := self._in_force()) >= self._capacity:
                raise TooMuch(f"there are {count} documents, and this pilot takes no more", hint="delete some")
            if held is not None:
                await self._keep(key, held)
            try:
                version = await self._store.swap(key.item, _encode(after), stored)
            except Conflict:
                await self._read(key)
                continue
            self._written(key, after, version)
            await self._forget(key, after.version - KEPT)
            return after
        raise Unreachable(f"{key.item} is written by others all the time", hint="try again in a moment")

    async def former(self, key: Key, version: int) -> Document:
        """A version, in force or not. Raises Unknown, Unreachable."""
        last = self.last(key)
        if last is not None and last.version == version:
            return last
        item = await self._store.get(f"{key.history}{version:010}")
        document = None if item is None else _decoded(item)
        if document is None:
            raise Unknown(f"version {version} is not kept", hint="ask for the history, to see which are")
        return document

    async def history(self, key: Key) -> Sequence[Document]:
        """The versions that are kept, the last one first. Raises Unreachable."""
        last = self.last(key)
        if last is None:
            return []
        _, items = await self._store.scan(key.history)
        former = [document for item in items if (document := _decoded(item)) and document.version < last.version]
        return [last, *sorted(former, key=lambda one: -one.version)][:KEPT]

    async def follow(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Reads everything, then what changes, for ever; started once everything is known for the first time."""
        async with trio.open_nursery() as nursery:
            await nursery.start(self._follow)
            nursery.start_soon(self._bury_in_time)
            task_status.started()

    async def _follow(self, *, task_status: trio.TaskStatus[None]) -> None:
        attempt = 0
        begun = False
        while True:
            try:
                revision, items = await self._store.scan(PREFIX)
                await self._scanned(items)
                self.trouble = ""
                if not begun:
                    task_status.started()
                    begun = True
                async with self._store.watch(PREFIX, revision) as changes:
                    async for batch in changes:
                        attempt = 0
                        for item in batch:
                            await self._watched(item)
            except Compacted as error:
                _log.warning("%s: all documents are read anew", error.message)
            except Unreachable as error:
                self.trouble = error.message
                _log.warning("%s; documents stay as they are meanwhile", error.message)
            await trio.sleep(full_jitter(attempt, base=0.1, cap=5.0, random=random.random()))
            attempt += 1

    async def bury(self) -> None:
        """Takes away what was deleted long ago, first its history: no version of a new life meets one of the old.
        Raises Unreachable."""
        for key, (document, stored) in tuple(self._known.items()):
            if not document.deleted or self._wall() - document.when < BURIED_SECONDS:
                continue
            try:
                _, items = await self._store.scan(key.history)
                for item in items:
                    await self._store.swap(item.key, None, item.version)
                await self._store.swap(key.item, None, stored)
            except Conflict:
                continue  # another pilot buries it, or it is written again
            if self._known.get(key) == (document, stored):
                del self._known[key]

    async def _bury_in_time(self) -> None:
        while True:
            try:
                await self.bury()
            except Unreachable as error:
                _log.info("%s; old deletions are buried later", error.message)
            await trio.sleep(BURIAL_SECONDS)

    def _version(self, key: Key) -> int:
        document = self.last(key)
        return 0 if document is None else document.version

    def _in_force(self) -> int:
        return sum(not document.deleted for document, _ in self._known.values())

    async def _scanned(self, items: Sequence[Item]) -> None:
        there: dict[Key, Item] = {}
        for item in items:
            if (key := _key(item.key)) is not None:
                there[key] = item
        for key in {**self._known, **there}:
            await self._correct(key, there.get(key))

    async def _watched(self, item: Item) -> None:
        """What the watch says, in its order; the answers to own writes may have overtaken it."""
        key = _key(item.key)
        if key is not None and item.version > self._known.get(key, (None, ABSENT))[1]:
            await self._correct(key, None if item.value is None else item)

    async def _read(self, key: Key) -> None:
        self._take(key, await self._store.get(key.item))

    async def _correct(self, key: Key, item: Item | None) -> None:
        """Takes what the store has, and tells it what it has lost."""
        found = self._take(key, item)
        held, stored = self._known.get(key, (None, ABSENT))
        if held is None or found == held:
            return
        if item is None and held.deleted and self._wall() - held.when > BURIED_SECONDS / 2:
            del self._known[key]  # another pilot has buried it; its clock may be another one
            return
        try:
            version = await self._store.swap(key.item, _encode(held), stored)
        except Conflict:  # it is written already, by us or by another pilot, and that comes by the watch
            return
        had = "nothing" if found is None else f"version {found.version}"
        _log.warning("the store had %s of %s: version %d is written again", had, key.item, held.version)
        if found is not None and found.when > held.when:
            _log.error("version %d of %s was acknowledged later, and is overridden", found.version, key.item)
        self._written(key, held, version)

    def _take(self, key: Key, item: Item | None) -> Document | None:
        """Takes the version of the item as it is, and its document unless an older one than the known; which it is."""
        found = None if item is None else _decoded(item)
        held = self.last(key)
        stored = ABSENT if item is None else item.version
        if held is not None and (found is None or found.version < held.version or found == held):
            self._known[key] = held, stored
        elif found is not None:
            if held is not None and found.version == held.version:
                _log.error("the store has another version %d of %s, made apart: it holds", held.version, key.item)
            self._change(key, found, stored)
        return found

    def _written(self, key: Key, document: Document, stored: int) -> None:
        """The answer to an own write, which the watch may have overtaken."""
        held = self.last(key)
        if held == document:
            self._known[key] = document, stored
        elif held is None or held.version < document.version:
            self._change(key, document, stored)

    def _change(self, key: Key, document: Document, stored: int) -> None:
        self._known[key] = document, stored
        self._news.set()
        self._news = trio.Event()
        for listener in self.listeners:
            listener(key)

    async def _keep(self, key: Key, document: Document) -> None:
        name, value = f"{key.history}{document.version:010}", _encode(document)
        try:
            await self._store.swap(name, value, ABSENT)
        except Conflict:
            kept = await self._store.get(name)
            if kept is not None and kept.value != value:  # of a version that did not hold
                with suppress(Conflict):
                    await self._store.swap(name, value, kept.version)

    async def _forget(self, key: Key, version: int) -> None:
        if version < 1:
            return
        try:
            item = await self._store.get(f"{key.history}{version:010}")
            if item is not None:
                await self._store.swap(item.key, None, item.version)
        except (Conflict, Unreachable):
            _log.info("version %d of %s is still kept", version, key.item)


def _encode(document: Document) -> bytes:
    return msgspec.msgpack.encode(document)


def _key(item: str) -> Key | None:
    parts = item.removeprefix(PREFIX).split("/")
    return Key(*parts) if len(parts) == 3 else None


def _decoded(item: Item) -> Document | None:
    if item.value is None:
        return None
    try:
        return msgspec.msgpack.decode(item.value, type=Document)
    except msgspec.MsgspecError as error:
        _log.warning("the store has something at %s that is no document: %s", item.key, error)
        return None
