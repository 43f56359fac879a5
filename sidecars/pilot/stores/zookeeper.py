"""The store for who has a ZooKeeper already: it has no history and no ranges, so both are made of nodes.

    ROOT/items/KEY     the value; its version is the node's `mzxid`
    ROOT/log/n-NUMBER  (key, value) of a write; the last `KEPT`. Its data: the newest write that is forgotten
    ROOT/head          written by every write: its `mzxid` is the revision
    ROOT/graves        written by every deletion

- A swap is one transaction over all of them, so they have one zxid, which is the revision.
- What ZooKeeper compares is a counter of the node, which begins anew when the node does. So a write also expects that
  nothing was deleted since it has looked: else it looks again, and a write that was under way for long hits no
  successor of the node that it has meant.
- A scan reads node by node while others write. What the log has since it began is put on top: that is exact.
- A watch is the log. ZooKeeper's own watches say only that something has changed, once, and not what: they wake us.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import aclosing, asynccontextmanager, suppress
from typing import Any, Final
from urllib.parse import quote, unquote

import msgspec
from kazoo.exceptions import (
    BadVersionError,
    KazooException,
    NodeExistsError,
    NoNodeError,
    RolledBackError,
    RuntimeInconsistency,
)
from kazoo.handlers.threading import KazooTimeoutError
from pannier.shared.errors import Unreachable
from pannier.sidecars.pilot.stores.store import ABSENT, MAX_KEY, MAX_VALUE, Compacted, Conflict, Item
from pannier.sidecars.pilot.stores.zookeeper_session import Bell, Session, got

ROOT: Final = "/pannier"
KEPT = 1000
TRIMMED_EVERY = 100
"""Writes between two looks at the length of the log."""
PULSE_SECONDS: Final = 5.0
_BATCH: Final = 256
_ATTEMPTS: Final = 20
_QUICKER: Final = (BadVersionError, NodeExistsError, NoNodeError, RolledBackError, RuntimeInconsistency)


class _Write(msgspec.Struct, frozen=True, array_like=True):
    key: str
    value: bytes | None


_WRITE: Final = msgspec.msgpack.Decoder(_Write)


class ZooKeeperStore:
    """A `store.Store` below the node `root`."""

    def __init__(self, session: Session, *, root: str = ROOT) -> None:
        self._session = session
        self._client: Any = session.client
        self._items, self._log, self._head, self._graves = (
            f"{root}/{name}" for name in ("items", "log", "head", "graves")
        )
        self._made_in = -1

    async def get(self, key: str) -> Item | None:
        return await self._session.call(self._get, key)

    async def scan(self, prefix: str) -> tuple[int, Sequence[Item]]:
        with self._session.steady():
            return await self._session.call(self._scan, prefix)

    async def swap(self, key: str, value: bytes | None, version: int) -> int:
        if not 0 < len(key.encode()) <= MAX_KEY or len(value or b"") > MAX_VALUE:
            raise ValueError(f"a key has 1 to {MAX_KEY} bytes, a value at most {MAX_VALUE}")
        with self._session.steady():
            return await self._session.call(self._swap, key, value, version)

    @asynccontextmanager
    async def watch(self, prefix: str, after: int) -> AsyncIterator[AsyncIterator[Sequence[Item]]]:
        async with aclosing(self._changes(prefix, after)) as changes:
            yield changes

    async def _changes(self, prefix: str, after: int) -> AsyncGenerator[Sequence[Item], None]:
        last = ""
        with self._session.bell() as bell:
            while True:
                with self._session.steady():
                    found, last = await self._session.call(self._written, after, last, bell)
                after = found[-1].version if found else after
                if wanted := [item for item in found if item.key.startswith(prefix)]:
                    yield wanted
                await bell.heard(PULSE_SECONDS)

    # What follows runs in threads.

    def _get(self, key: str) -> Item | None:
        self._make()
        self._client.sync_async(self._head)  # what is asked behind it is as new as any other server has it
        try:
            value, stat = got(self._client.get_async(self._path(key)))
        except NoNodeError:
            return None
        return Item(key, value, stat.mzxid)

    def _scan(self, prefix: str) -> tuple[int, Sequence[Item]]:
        self._make()
        self._client.sync_async(self._head)
        revision = self._revised()
        names = got(self._client.get_children_async(self._items))
        keys = [key for key in map(unquote, names) if key.startswith(prefix)]
        found: dict[str, Item] = {}
        for key, node in zip(keys, self._read([self._path(key) for key in keys]), strict=True):
            if node is not None:
                found[key] = Item(key, node[0], node[1].mzxid)
        written, _ = self._written(revision, "", None)
        for item in written:
            revision = item.version
            if item.value is None:
                found.pop(item.key, None)
            elif item.key.startswith(prefix):
                found[item.key] = item
        return revision, [found[key] for key in sorted(found)]

    def _swap(self, key: str, value: bytes | None, version: int) -> int:
        self._make()
        path, looked_again = self._path(key), False
        for _ in range(_ATTEMPTS):
            buried = self._client.exists_async(self._graves)  # before the node itself, see above
            item = self._client.exists_async(path)
            buried, item = got(buried), got(item)
            if buried is None:
                self._made_in = -1
                raise Unreachable(f"ZooKeeper has lost {self._graves}")
            if (item.mzxid if item else ABSENT) != version:
                if looked_again:
                    raise Conflict(f"{key} does not have version {version}")
                looked_again = True
                got(self._client.sync_async(self._head))
                continue
            if value is None and version == ABSENT:
                return ABSENT
            write = self._client.transaction()
            if value is None:
                write.set_data(self._graves, b"", buried.version)
                write.delete(path, item.version)
            else:
                write.check(self._graves, buried.version)
                if item:
                    write.set_data(path, value, item.version)
                else:
                    write.create(path, value)
            write.create(f"{self._log}/n-", msgspec.msgpack.encode(_Write(key, value)), sequence=True)
            write.set_data(self._head, b"")
            answers = got(write.commit_async())
            if errors := [answer for answer in answers if isinstance(answer, Exception)]:
                for error in errors:
                    if not isinstance(error, _QUICKER):
                        raise error
                continue
            *_, logged, head = answers
            self._trim(logged)
            return ABSENT if value is None else int(head.mzxid)
        raise Unreachable(f"{key} is written by others all the time", hint="try again in a moment")

    def _written(self, after: int, last: str, bell: Bell | None) -> tuple[Sequence[Item], str]:
        """The writes after a revision, and the node of the last one, to be shown the next time."""
        self._make()
        ring = None if bell is None else bell.ring
        head = self._revised()
        if after > head:
            raise Compacted(f"changes are known up to {head}; not after {after}")
        names = sorted(got(self._client.get_children_async(self._log, watch=ring)))
        value, stat = got(self._client.get_async(self._log))
        forgotten = int(value or stat.czxid)  # read behind the names, since it is written before they go
        if after < forgotten:
            raise Compacted(f"changes are kept after revision {forgotten}; not after {after}")
        try:
            begin = bisect_right(names, last) if last else bisect_right(names, after, key=self._revision)
            new = names[begin:]
            found = []
            for node in self._read([f"{self._log}/{name}" for name in new]):
                if node is None:
                    raise NoNodeError
                write = _WRITE.decode(node[0])
                found.append(Item(write.key, write.value, node[1].czxid))
        except NoNodeError:
            raise Compacted(f"changes after {after} were forgotten while they were read") from None
        except msgspec.MsgspecError as error:
            raise Unreachable(f"ZooKeeper has something in {self._log} that is none of ours: {error}") from error
        return found, new[-1] if new else last

    def _revision(self, name: str) -> int:
        """Of a node of the log. Raises NoNodeError."""
        stat = got(self._client.exists_async(f"{self._log}/{name}"))
        if stat is None:
            raise NoNodeError
        return int(stat.czxid)

    def _read(self, paths: Sequence[str]) -> list[tuple[bytes, Any] | None]:
        """The nodes, many at a time; None for one that is not there."""
        found: list[tuple[bytes, Any] | None] = []
        for begin in range(0, len(paths), _BATCH):
            for answer in [self._client.get_async(path) for path in paths[begin : begin + _BATCH]]:
                try:
                    found.append(got(answer))
                except NoNodeError:
                    found.append(None)
        return found

    def _trim(self, logged: str) -> None:
        """Forgets what is too old, now and then. It says so first: who reads meanwhile must not miss it unknowingly."""
        if int(logged.rpartition("-")[2]) % TRIMMED_EVERY:
            return
        with suppress(KazooException, KazooTimeoutError):  # somebody else does it, or the next one
            old = sorted(got(self._client.get_children_async(self._log)))[:-KEPT]
            if not old:
                return
            value, stat = got(self._client.get_async(self._log))
            forgotten = self._revision(old[-1])
            if forgotten > int(value or stat.czxid):
                got(self._client.set_async(self._log, b"%d" % forgotten, version=stat.version))
            for begin in range(0, len(old), _BATCH):
                asked = [self._client.delete_async(f"{self._log}/{name}") for name in old[begin : begin + _BATCH]]
                for answer in asked:
                    with suppress(NoNodeError):
                        got(answer)

    def _make(self) -> None:
        """The nodes that are always there; the log first, so that the first revision is one that it knows."""
        if self._made_in == self._session.id:
            return
        for path in (self._items, self._graves, self._log, self._head):
            with suppress(NodeExistsError):
                got(self._client.create_async(path, b"", makepath=True))
        self._made_in = self._session.id

    def _revised(self) -> int:
        """The newest revision."""
        stat = got(self._client.exists_async(self._head))
        if stat is None:
            self._made_in = -1
            raise Unreachable(f"ZooKeeper has lost {self._head}")
        return int(stat.mzxid)

    def _path(self, key: str) -> str:
        return f"{self._items}/{quote(key, safe='').replace('.', '%2E')}"
