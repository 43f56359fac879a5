"""The store that needs nothing: one SQLite file, for one pilot.

- Writes that come together are one transaction, on the disk before anybody is told (WAL, synchronous = FULL): a
  registration is a promise to others, and a revision that has been told must never come again.
- One at a time uses the connection. What waits for the disk does so in a thread: a slow disk makes writers wait, never
  the loop. The statements of a transaction are carried out in the loop: in a thread, each one would wait for the
  interpreter until the loop has nothing to do, which is 5 ms a statement under load. They touch only pages in memory.
- Watchers are told of what was written from memory; who is further behind than that reads the file.
- The file is locked for as long as it is open: a second pilot is refused, not half served.
- The newest `KEPT` changes stay for watchers that come back. The first revision of a file is the wall clock's, so that
  also a file that was lost and begun anew does not count backwards.
"""

from __future__ import annotations

import os
import sqlite3
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator, Sequence
from contextlib import aclosing, asynccontextmanager, contextmanager
from pathlib import Path
from typing import Final, TypeVar

import trio
from pannier.shared.errors import Blame, PannierError, Unreachable
from pannier.sidecars.pilot.stores.store import ABSENT, MAX_KEY, MAX_VALUE, Compacted, Conflict, Item

KEPT: Final = 10_000
BATCH: Final = 1000
"""Writes of one transaction, and changes of one step of a watch."""
RECENT: Final = 2 * BATCH
"""Changes that stay in memory at least."""
_CACHE_KIB: Final = 128 * 1024
"""At most: the pages of 100 000 instances are half of it."""
_SCHEMA: Final = 1
_TABLES: Final = """
CREATE TABLE items (key TEXT PRIMARY KEY, value BLOB NOT NULL, version INTEGER NOT NULL) WITHOUT ROWID;
CREATE TABLE changes (revision INTEGER PRIMARY KEY, key TEXT NOT NULL, value BLOB);
CREATE TABLE clock (revision INTEGER NOT NULL, forgotten INTEGER NOT NULL);
"""
T = TypeVar("T")


@asynccontextmanager
async def open_sqlite(path: Path) -> AsyncIterator[SqliteStore]:
    """The store in the file `path`, which is made if it is not there; its folder must be. Raises PannierError if it
    cannot be opened, is another program's, or another pilot has it."""
    connection = await trio.to_thread.run_sync(_connect, path)
    store = SqliteStore(connection, path, _clock(connection)[0])
    failure: BaseException | None = None
    try:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(store._write_forever)
            try:
                yield store
            except (Exception, KeyboardInterrupt) as error:  # as it is, and not in a group
                failure = error
            nursery.cancel_scope.cancel()
    finally:
        with trio.CancelScope(shield=True):  # after whoever is just asking: sqlite crashes the process otherwise
            async with store._one:
                await trio.to_thread.run_sync(connection.close)
    if failure is not None:
        raise failure


class _Write:
    """A swap on its way; `outcome` is the new version, or why there is none."""

    def __init__(self, key: str, value: bytes | None, version: int) -> None:
        self.key, self.value, self.version = key, value, version
        self.outcome: int | PannierError = ABSENT
        self.done = trio.Event()


class SqliteStore:
    """A `store.Store`. Made by `open_sqlite` alone."""

    def __init__(self, connection: sqlite3.Connection, path: Path, revision: int) -> None:
        self._connection = connection
        self._path = path
        self._one = trio.Lock()
        self._recent: list[Item] = []  # changes, one a revision, after that revision:
        self._recent_after = revision
        self._waiting: list[_Write] = []
        self._work = trio.Event()
        self._news = trio.Event()

    async def get(self, key: str) -> Item | None:
        found = await self._run(lambda: _items(self._connection, "key = ?", key))
        return found[0] if found else None

    async def scan(self, prefix: str) -> tuple[int, Sequence[Item]]:
        def read() -> tuple[int, Sequence[Item]]:
            revision, _ = _clock(self._connection)
            return revision, _items(self._connection, "key >= ?1 AND key < ?1 || char(1114111)", prefix)

        return await self._run(read)

    async def swap(self, key: str, value: bytes | None, version: int) -> int:
        if not 0 < len(key.encode()) <= MAX_KEY or len(value or b"") > MAX_VALUE:
            raise ValueError(f"a key has 1 to {MAX_KEY} bytes, a value at most {MAX_VALUE}")
        write = _Write(key, value, version)
        self._waiting.append(write)
        self._work.set()
        await write.done.wait()
        if isinstance(write.outcome, PannierError):
            raise write.outcome
        return write.outcome

    @asynccontextmanager
    async def watch(self, prefix: str, after: int) -> AsyncIterator[AsyncIterator[Sequence[Item]]]:
        async with aclosing(self._changes(prefix, after)) as changes:
            yield changes

    async def _changes(self, prefix: str, after: int) -> AsyncGenerator[Sequence[Item], None]:
        while True:
            news = self._news
            last = self._recent_after + len(self._recent)
            if max(self._recent_after, last - KEPT) <= after <= last:
                begin = after - self._recent_after
                found = self._recent[begin : begin + BATCH]
            else:
                found = await self._run(lambda: _changes(self._connection, after))  # noqa: B023 - it is over by then
            if not found:
                await news.wait()
                continue
            after = found[-1].version
            if wanted := [item for item in found if item.key.startswith(prefix)]:
                yield wanted

    async def _write_forever(self) -> None:
        while True:
            await self._work.wait()
            self._work = trio.Event()
            while self._waiting:
                batch, self._waiting = self._waiting[:BATCH], self._waiting[BATCH:]
                try:
                    outcomes = await self._apply(batch)
                except Unreachable as error:
                    outcomes = [error] * len(batch)
                for write, outcome in zip(batch, outcomes, strict=True):
                    write.outcome = outcome
                    write.done.set()
                self._news.set()
                self._news = trio.Event()

    async def _apply(self, batch: Sequence[_Write]) -> Sequence[int | PannierError]:
        with _translated(self._path):
            async with self._one:
                outcomes, written = _apply(self._connection, batch)
                await trio.to_thread.run_sync(_commit, self._connection)
        if len(self._recent) >= 2 * RECENT:
            self._recent_after += RECENT
            del self._recent[:RECENT]
        self._recent += written
        return outcomes

    async def _run(self, job: Callable[[], T]) -> T:
        with _translated(self._path):
            async with self._one:
                return await trio.to_thread.run_sync(job)


def _connect(path: Path) -> sqlite3.Connection:
    with _translated(path):
        try:
            os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
        except OSError as error:
            raise PannierError(
                f"cannot open {path}: {error.strerror}", hint=f"see what it is: ls -l {path}", blame=Blame.PLATFORM
            ) from error
        connection = sqlite3.connect(path, timeout=0, isolation_level=None, check_same_thread=False)
        try:
            connection.execute("PRAGMA locking_mode = EXCLUSIVE")
            connection.execute("PRAGMA journal_mode = WAL")
            connection.execute("PRAGMA synchronous = FULL")
            connection.execute(f"PRAGMA cache_size = -{_CACHE_KIB}")
            connection.execute("PRAGMA cache_spill = FALSE")
            _lay_out(connection, path)
        except BaseException:
            connection.close()
            raise
        return connection


def _lay_out(connection: sqlite3.Connection, path: Path) -> None:
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    connection.execute("BEGIN IMMEDIATE")
    if version == 0:
        for statement in _TABLES.split(";"):
            connection.execute(statement)
        now = time.time_ns() // 1_000_000
        connection.execute("INSERT INTO clock VALUES (?, ?)", (now, now))
        connection.execute(f"PRAGMA user_version = {_SCHEMA}")
    connection.execute("COMMIT")
    if version not in {0, _SCHEMA}:
        raise PannierError(
            f"{path} was written by another version of pannier (schema {version}, this one reads {_SCHEMA})",
            hint="use that version, or move the file away: instances register again by themselves",
            blame=Blame.PLATFORM,
        )


@contextmanager
def _translated(path: Path) -> Iterator[None]:
    try:
        yield
    except sqlite3.ProgrammingError as error:
        raise Unreachable(f"the store {path} is closed") from error
    except sqlite3.OperationalError as error:
        if "locked" in str(error):
            raise PannierError(
                f"another pilot has {path}",
                hint="one file is one pilot's: give this one another --store, or both an etcd",
                blame=Blame.USAGE,
            ) from error
        raise Unreachable(f"the store {path} does not work: {error}", hint=f"see `df {path.parent}`") from error
    except sqlite3.DatabaseError as error:
        raise PannierError(
            f"{path} is damaged, or is no store of ours: {error}",
            hint="move it away: instances register again by themselves",
            blame=Blame.PLATFORM,
        ) from error


def _clock(connection: sqlite3.Connection) -> tuple[int, int]:
    """The newest revision, and the newest one whose change is forgotten."""
    revision, forgotten = connection.execute("SELECT revision, forgotten FROM clock").fetchone()
    return int(revision), int(forgotten)


def _items(connection: sqlite3.Connection, where: str, key: str) -> list[Item]:
    rows = connection.execute(f"SELECT key, value, version FROM items WHERE {where} ORDER BY key", (key,))
    return [Item(*row) for row in rows]


def _changes(connection: sqlite3.Connection, after: int) -> list[Item]:
    """The changes after that revision, at most `BATCH`. Raises Compacted."""
    revision, forgotten = _clock(connection)
    if not forgotten <= after <= revision:
        raise Compacted(f"changes are kept after revision {forgotten}, up to {revision}; not after {after}")
    rows = connection.execute(
        "SELECT key, value, revision FROM changes WHERE revision > ? ORDER BY revision LIMIT ?", (after, BATCH)
    )
    return [Item(*row) for row in rows]


def _apply(connection: sqlite3.Connection, writes: Sequence[_Write]) -> tuple[list[int | PannierError], list[Item]]:
    """Carries writes out in one transaction, which it leaves open; what came of each, and the changes."""
    outcomes: list[int | PannierError] = []
    written: list[Item] = []
    connection.execute("BEGIN IMMEDIATE")
    try:
        before, forgotten = _clock(connection)
        revision = before
        for write in writes:
            row = connection.execute("SELECT version FROM items WHERE key = ?", (write.key,)).fetchone()
            version = int(row[0]) if row else ABSENT
            if version != write.version:
                outcomes.append(Conflict(f"{write.key} has version {version}, not {write.version}"))
            elif write.value is None and version == ABSENT:
                outcomes.append(ABSENT)
            else:
                revision += 1
                _write(connection, write, revision)
                written.append(Item(write.key, write.value, revision))
                outcomes.append(ABSENT if write.value is None else revision)
        if written:
            forgotten = max(forgotten, revision - KEPT)
            connection.execute("DELETE FROM changes WHERE revision <= ?", (forgotten,))
            connection.execute("UPDATE clock SET revision = ?, forgotten = ?", (revision, forgotten))
    except BaseException:
        connection.execute("ROLLBACK")
        raise
    return outcomes, written


def _commit(connection: sqlite3.Connection) -> None:
    try:
        connection.execute("COMMIT")
    except BaseException:
        connection.execute("ROLLBACK")
        raise


def _write(connection: sqlite3.Connection, write: _Write, revision: int) -> None:
    if write.value is None:
        connection.execute("DELETE FROM items WHERE key = ?", (write.key,))
    else:
        connection.execute("INSERT OR REPLACE INTO items VALUES (?, ?, ?)", (write.key, write.value, revision))
    connection.execute("INSERT INTO changes VALUES (?, ?, ?)", (revision, write.key, write.value))
