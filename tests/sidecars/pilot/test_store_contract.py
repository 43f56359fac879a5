"""What every store of the pilot promises, tried on each of them."""

from __future__ import annotations

import sqlite3
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager, nullcontext
from pathlib import Path

import pytest
import trio
import trio.testing
from pannier.shared.errors import PannierError, Unreachable
from pannier.sidecars.pilot.stores import sqlite
from pannier.sidecars.pilot.stores import zookeeper as zookeeper_module
from pannier.sidecars.pilot.stores.etcd import EtcdStore
from pannier.sidecars.pilot.stores.sqlite import open_sqlite
from pannier.sidecars.pilot.stores.store import ABSENT, MAX_KEY, MAX_VALUE, Compacted, Conflict, Item, Store
from pannier.sidecars.pilot.stores.zookeeper import ZooKeeperStore
from pannier.sidecars.pilot.stores.zookeeper_session import open_session

Open = Callable[[], AbstractAsyncContextManager[Store]]


@asynccontextmanager
async def opened_zookeeper(member: tuple[str, int], root: str) -> AsyncIterator[Store]:
    async with open_session([member]) as session:
        yield ZooKeeperStore(session, root=root)


@pytest.fixture(params=["sqlite", "etcd", "zookeeper"])
def opened(request: pytest.FixtureRequest, tmp_path: Path) -> Open:
    """Opens the store, and the same one again."""
    if request.param == "sqlite":
        return lambda: open_sqlite(tmp_path / "store")
    member = request.getfixturevalue(request.param)
    if request.param == "zookeeper":
        return lambda: opened_zookeeper(member, str(tmp_path))
    return lambda: nullcontext(EtcdStore([member], root=f"{tmp_path}/"))


async def told(changes: AsyncIterator[Sequence[Item]], number: int) -> list[Item]:
    """The next changes of a watch, so many."""
    found: list[Item] = []
    with trio.fail_after(10):
        while len(found) < number:
            found += await anext(changes)
    return found


async def test_an_item_is_written_read_replaced_and_deleted(opened: Open) -> None:
    async with opened() as store:
        assert await store.get("a") is None
        first = await store.swap("a", b"1", ABSENT)
        assert await store.get("a") == Item("a", b"1", first)
        second = await store.swap("a", b"2", first)
        assert second > first
        assert await store.swap("a", None, second) == ABSENT
        assert await store.get("a") is None
        assert await store.swap("a", b"3", ABSENT) > second + 1


@pytest.mark.parametrize("expected", ["nothing", "older", "newer"])
async def test_a_swap_of_another_version_does_nothing(opened: Open, expected: str) -> None:
    async with opened() as store:
        older = await store.swap("a", b"1", ABSENT)
        version = await store.swap("a", b"2", older)
        wrong = {"nothing": ABSENT, "older": older, "newer": version + 1}[expected]
        for value in (b"3", None):
            with pytest.raises(Conflict):
                await store.swap("a", value, wrong)
        assert await store.scan("") == (version, [Item("a", b"2", version)])


async def test_what_is_not_there_cannot_be_replaced_and_is_deleted_already(opened: Open) -> None:
    async with opened() as store:
        before, _ = await store.scan("")
        with pytest.raises(Conflict):
            await store.swap("a", b"1", 5)
        assert await store.swap("a", None, ABSENT) == ABSENT
        assert await store.scan("") == (before, []), "which is no change"


async def test_of_many_who_want_the_same_one_wins(opened: Open) -> None:
    won: list[int] = []

    async def swap(store: Store, number: int) -> None:
        try:
            await store.swap("a", b"%d" % number, ABSENT)
            won.append(number)
        except Conflict:
            pass

    async with opened() as store:
        async with trio.open_nursery() as nursery:
            for number in range(50):
                nursery.start_soon(swap, store, number)
        item = await store.get("a")
        assert item is not None and [item.value] == [b"%d" % number for number in won]


async def test_a_scan_has_the_items_under_a_prefix_in_their_order_and_no_neighbour(opened: Open) -> None:
    async with opened() as store:
        for key in ("b/2", "b/1", "b", "b0", "a/1", "b/ü", "b/\U0010fffe"):
            last = await store.swap(key, key.encode(), ABSENT)
        revision, items = await store.scan("b/")
        assert revision == last
        assert [item.key for item in items] == ["b/1", "b/2", "b/ü", "b/\U0010fffe"]


async def test_a_watch_tells_every_write_once_in_order_from_where_a_scan_ended(opened: Open) -> None:
    async with opened() as store:
        await store.swap("i/0", b"before", ABSENT)
        revision, _ = await store.scan("i/")
        first = await store.swap("i/1", b"1", ABSENT)
        async with store.watch("i/", revision) as changes:
            assert await told(changes, 1) == [Item("i/1", b"1", first)]
            await store.swap("other", b"", ABSENT)
            second = await store.swap("i/1", b"2", first)
            await store.swap("i/1", None, second)
            after, _ = await store.scan("")
            assert await told(changes, 2) == [Item("i/1", b"2", second), Item("i/1", None, after)]


async def test_revisions_and_watches_outlast_the_store(opened: Open) -> None:
    async with opened() as store:
        version = await store.swap("a", b"1", ABSENT)
        await store.swap("b", b"1", ABSENT)
    async with opened() as store:
        assert await store.get("a") == Item("a", b"1", version)
        later = await store.swap("a", b"2", version)
        async with store.watch("", version) as changes:
            assert [item.key for item in await told(changes, 2)] == ["b", "a"]
        assert later > version + 1


async def test_a_watch_from_where_the_store_has_never_been_says_so(opened: Open) -> None:
    async with opened() as store:
        revision, _ = await store.scan("")
        async with store.watch("", revision + 1) as changes:
            with pytest.raises(Compacted):
                await anext(changes)


async def test_a_watch_that_comes_back_too_late_says_so(opened: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sqlite, "KEPT", 3)
    monkeypatch.setattr(zookeeper_module, "KEPT", 3)
    monkeypatch.setattr(zookeeper_module, "TRIMMED_EVERY", 1)
    async with opened() as store:
        version = ABSENT
        versions = [version := await store.swap("a", b"%d" % number, version) for number in range(6)]
        if isinstance(store, EtcdStore):
            await store._call("kv/compaction", {"revision": str(versions[3]), "physical": True})
        async with store.watch("", versions[1]) as changes:
            with pytest.raises(Compacted):
                await anext(changes)
        async with store.watch("", versions[2]) as changes:
            assert [item.version for item in await told(changes, 3)] == versions[3:]


@pytest.mark.parametrize(("key", "value"), [("", b""), ("k" * (MAX_KEY + 1), b""), ("k", b"v" * (MAX_VALUE + 1))])
async def test_what_is_too_large_is_refused_and_harms_nobody(opened: Open, key: str, value: bytes) -> None:
    async with opened() as store:
        with pytest.raises(ValueError, match="bytes"):
            await store.swap(key, value, ABSENT)
        await store.swap("k" * MAX_KEY, b"v" * MAX_VALUE, ABSENT)


async def test_a_store_that_is_closed_while_it_is_asked_says_so(tmp_path: Path) -> None:
    refused: list[int] = []

    async def scan_forever(store: Store) -> None:
        try:
            while True:
                await store.scan("")
        except Unreachable:
            refused.append(1)

    async with trio.open_nursery() as nursery, open_sqlite(tmp_path / "store") as store:
        for _ in range(8):
            nursery.start_soon(scan_forever, store)
        await trio.testing.wait_all_tasks_blocked()
    assert len(refused) == 8


async def test_a_second_pilot_is_refused_and_the_first_goes_on(tmp_path: Path) -> None:
    path = tmp_path / "store"
    async with open_sqlite(path) as store:
        with pytest.raises(PannierError, match="another pilot"):
            async with open_sqlite(path):
                pass
        assert await store.swap("a", b"1", ABSENT) > ABSENT


@pytest.mark.parametrize(
    "content", [b"no database at all, but longer than a header would be" * 20, b"SQLite format 3\0"]
)
async def test_a_file_that_is_no_store_is_named_and_left_alone(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "store"
    path.write_bytes(content)
    with pytest.raises(PannierError, match="damaged") as caught:
        async with open_sqlite(path):
            pass
    assert "move it away" in caught.value.hint
    assert path.read_bytes() == content


async def test_a_store_of_a_later_version_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "store"
    async with open_sqlite(path):
        pass
    later = sqlite3.connect(path)
    later.execute("PRAGMA user_version = 99")
    later.close()
    with pytest.raises(PannierError, match="schema 99"):
        async with open_sqlite(path):
            pass


async def test_a_full_disk_fails_what_is_written_and_nothing_else(tmp_path: Path) -> None:
    async with open_sqlite(tmp_path / "store") as store:
        version = await store.swap("a", b"1", ABSENT)
        store._connection.execute("PRAGMA max_page_count = 1")  # as far as it has grown: sqlite says that it is full
        with pytest.raises(Unreachable, match="full"):
            for number in range(100):
                await store.swap(f"b{number}", b"v" * MAX_VALUE, ABSENT)
        assert await store.get("a") == Item("a", b"1", version)
        store._connection.execute("PRAGMA max_page_count = 1000000")
        assert await store.swap("a", b"2", version) > version


async def test_the_file_is_ours_alone_and_a_lost_one_does_not_count_backwards(tmp_path: Path) -> None:
    path = tmp_path / "store"
    async with open_sqlite(path) as store:
        before = await store.swap("a", b"1", ABSENT)
        assert path.stat().st_mode & 0o777 == 0o600
    path.unlink()
    await trio.sleep(0.01)  # the clock of the first revision has milliseconds
    async with open_sqlite(path) as store:
        assert (await store.scan(""))[0] > before
