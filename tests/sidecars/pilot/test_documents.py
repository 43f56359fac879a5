"""Versioned documents on each store: versions, who comes second, what was before, and a store that loses or fails."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import AbstractAsyncContextManager, ExitStack, asynccontextmanager, nullcontext
from pathlib import Path

import pytest
import trio
import trio.testing
from pannier.shared.errors import Unreachable
from pannier.sidecars.pilot.documents.documents import (
    BURIED_SECONDS,
    KEPT,
    Document,
    Documents,
    Key,
    Stale,
    TooMuch,
    Unknown,
    revised,
)
from pannier.sidecars.pilot.stores.etcd import EtcdStore
from pannier.sidecars.pilot.stores.sqlite import open_sqlite
from pannier.sidecars.pilot.stores.store import ABSENT, Compacted, Conflict, Item, Store

from tests.sidecars.pilot.real_etcd import running_etcd

ORDERS = Key("config", "staging", "orders")
PATIENCE = 10.0
Open = Callable[[], AbstractAsyncContextManager[Store]]


@pytest.fixture(scope="module")
def etcd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[str], int]]:
    """The port of an etcd with one member, once its program is known."""
    with ExitStack() as stack:
        started: dict[str, int] = {}

        def port(program: str) -> int:
            if program not in started:
                started[program] = stack.enter_context(running_etcd(program, tmp_path_factory.mktemp("etcd")))
            return started[program]

        yield port


@pytest.fixture(params=["sqlite", "etcd"])
def opened(request: pytest.FixtureRequest, tmp_path: Path) -> Open:
    """Opens the store, and the same one again."""
    if request.param == "sqlite":
        return lambda: open_sqlite(tmp_path / "store")
    program = request.getfixturevalue("require_peer")("etcd")
    member = ("127.0.0.1", request.getfixturevalue("etcd")(program))
    return lambda: nullcontext(EtcdStore([member], root=f"{tmp_path}/"))


@asynccontextmanager
async def following(store: Store) -> AsyncIterator[Documents]:
    """The documents of a store, while they are followed."""
    documents = Documents(store)
    async with trio.open_nursery() as nursery:
        await nursery.start(documents.follow)
        yield documents
        nursery.cancel_scope.cancel()


async def until(documents: Documents, key: Key, version: int) -> Document:
    """Waits for a version."""
    found = await documents.changed(key, version - 1, wait=PATIENCE)
    assert found is not None and found.version >= version
    return found


@pytest.mark.parametrize(
    ("held", "expected", "version"),
    [
        (None, None, 1),
        (None, 0, 1),
        (None, 1, None),
        (Document(3, 0.0, {"a": 1}), None, 4),
        (Document(3, 0.0, {"a": 1}), 3, 4),
        (Document(3, 0.0, {"a": 1}), 2, None),
        (Document(3, 0.0, {"a": 1}), 0, None),
        (Document(3, 0.0, deleted=True), 0, 4),
        (Document(3, 0.0, deleted=True), 3, 4),
        (Document(3, 0.0, deleted=True), 2, None),
    ],
)
def test_a_change_is_made_to_the_version_in_force(
    held: Document | None, expected: int | None, version: int | None
) -> None:
    if version is None:
        with pytest.raises(Stale):
            revised(held, {"a": 2}, expected, 5.0, "why")
    else:
        assert revised(held, {"a": 2}, expected, 5.0, "why") == Document(version, 5.0, {"a": 2}, "why")


def test_a_later_version_is_of_a_later_time_whatever_the_clocks_say() -> None:
    ahead = revised(None, {"a": 1}, None, 3_600.0, "")
    lagging = revised(ahead, {"a": 2}, None, 10.0, "")
    assert lagging.when > ahead.when
    assert revised(lagging, {"a": 3}, None, 3_601.0, "").when == 3_601.0


def test_what_is_not_there_cannot_be_deleted_and_what_is_too_large_is_not_kept() -> None:
    with pytest.raises(Unknown):
        revised(None, None, None, 0.0, "")
    with pytest.raises(Unknown):
        revised(Document(3, 0.0, deleted=True), None, None, 0.0, "")
    with pytest.raises(TooMuch):
        revised(None, {"a": "x" * 65_000}, None, 0.0, "")


async def test_versions_come_and_go_back(opened: Open) -> None:
    async with opened() as store, following(store) as documents:
        assert documents.get(ORDERS) is None
        assert await documents.history(ORDERS) == []
        first = await documents.put(ORDERS, {"values": {"a": "1"}}, comment="begun")
        second = await documents.put(ORDERS, {"values": {"a": "2"}}, expected=1)
        assert (first.version, second.version) == (1, 2)
        assert documents.get(ORDERS) == second
        with pytest.raises(Stale):
            await documents.put(ORDERS, {"values": {}}, expected=1)
        gone = await documents.put(ORDERS, None)
        assert (gone.version, documents.get(ORDERS), documents.last(ORDERS)) == (3, None, gone)
        with pytest.raises(Unknown):
            await documents.put(ORDERS, None)
        assert (await documents.put(ORDERS, {"values": {"a": "4"}}, expected=0)).version == 4
        assert [one.version for one in await documents.history(ORDERS)] == [4, 3, 2, 1]
        assert await documents.former(ORDERS, 1) == first
        with pytest.raises(Unknown):
            await documents.former(ORDERS, 9)
        assert documents.keys("config") == [ORDERS]
        assert documents.keys("policy") == []


async def test_others_see_it_and_who_comes_second_is_told(opened: Open) -> None:
    """Two pilots on one store; here, two that follow it."""
    async with opened() as store, following(store) as one, following(store) as other:
        told: list[Key] = []
        other.listeners.append(told.append)
        await one.put(ORDERS, {"values": {"a": "1"}})
        assert (await until(other, ORDERS, 1)).content == {"values": {"a": "1"}}
        assert told == [ORDERS]
        results: list[int | type[Exception]] = []

        async def change(documents: Documents) -> None:
            try:
                results.append((await documents.put(ORDERS, {"values": {"a": "2"}}, expected=1)).version)
            except Stale:
                results.append(Stale)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(change, one)
            nursery.start_soon(change, other)
        assert sorted(results, key=str) == [2, Stale]
        await until(one, ORDERS, 2)
        await until(other, ORDERS, 2)
        assert (await other.put(ORDERS, {"values": {}})).version == 3
        assert [one_.version for one_ in await one.history(ORDERS)][-2:] == [2, 1]


async def test_a_version_that_is_still_on_its_way_is_asked_for(tmp_path: Path) -> None:
    async with open_sqlite(tmp_path / "store") as store, following(store) as one:
        behind = Documents(store)  # follows nothing
        await one.put(ORDERS, {"values": {}})
        await one.put(ORDERS, {"values": {}})
        assert (await behind.put(ORDERS, {"values": {}}, expected=2)).version == 3
        with pytest.raises(Stale):
            await behind.put(ORDERS, {"values": {}}, expected=7)


async def test_a_pilot_that_starts_again_knows_them(opened: Open) -> None:
    async with opened() as store, following(store) as documents:
        await documents.put(ORDERS, {"values": {"a": "1"}})
        await documents.put(ORDERS, {"values": {"a": "2"}})
    async with opened() as store, following(store) as documents:
        found = documents.get(ORDERS)
        assert found is not None and (found.version, found.content) == (2, {"values": {"a": "2"}})
        assert (await documents.former(ORDERS, 1)).content == {"values": {"a": "1"}}


async def test_the_last_of_them_are_kept(tmp_path: Path) -> None:
    async with open_sqlite(tmp_path / "store") as store, following(store) as documents:
        for number in range(KEPT + 5):
            await documents.put(ORDERS, {"values": {"a": str(number)}})
        history = [one.version for one in await documents.history(ORDERS)]
        assert history == list(range(KEPT + 5, 5, -1))
        _, kept = await store.scan("history/")
        assert len(kept) == KEPT - 1  # the one in force is where it always is
        with pytest.raises(Unknown):
            await documents.former(ORDERS, 5)


class Forgetful:
    """A store in memory that can be wiped: then its revisions begin anew, as those of an etcd from a copy."""

    def __init__(self) -> None:
        self.items: dict[str, tuple[bytes, int]] = {}
        self._revision = 1000
        self._changes: list[Item] = []
        self._lives = 0
        self._news = trio.Event()

    def wipe(self) -> None:
        self.items.clear()
        self._changes.clear()
        self._revision = 0
        self._lives += 1
        self._say()

    def _say(self) -> None:
        self._news.set()
        self._news = trio.Event()

    async def get(self, key: str) -> Item | None:
        await trio.lowlevel.checkpoint()
        return Item(key, *self.items[key]) if key in self.items else None

    async def scan(self, prefix: str) -> tuple[int, Sequence[Item]]:
        await trio.lowlevel.checkpoint()
        return self._revision, [Item(key, *self.items[key]) for key in sorted(self.items) if key.startswith(prefix)]

    async def swap(self, key: str, value: bytes | None, version: int) -> int:
        await trio.lowlevel.checkpoint()
        if self.items.get(key, (b"", ABSENT))[1] != version:
            raise Conflict(f"{key} has another version")
        self._revision += 1
        if value is None:
            del self.items[key]
        else:
            self.items[key] = value, self._revision
        self._changes.append(Item(key, value, self._revision))
        self._say()
        return ABSENT if value is None else self._revision

    @asynccontextmanager
    async def watch(self, prefix: str, after: int) -> AsyncIterator[AsyncIterator[Sequence[Item]]]:
        async def told() -> AsyncIterator[Sequence[Item]]:
            seen, life = after, self._lives
            while True:
                if life != self._lives:
                    raise Compacted("it was wiped")
                later = [item for item in self._changes if item.version > seen]
                seen = self._revision
                if found := [item for item in later if item.key.startswith(prefix)]:
                    yield found
                elif not later:
                    await self._news.wait()

        yield told()


class Lossy:
    """A store that can be made to answer nothing."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self.works = True

    def __getattr__(self, name: str) -> object:
        if not self.works:
            raise Unreachable("the store does not answer")
        return getattr(self.store, name)


async def test_a_store_that_does_not_answer_costs_changes_alone(tmp_path: Path) -> None:
    async with open_sqlite(tmp_path / "store") as store:
        lossy = Lossy(store)
        async with following(lossy) as documents:  # type: ignore[arg-type]
            await documents.put(ORDERS, {"values": {"a": "1"}})
            lossy.works = False
            with pytest.raises(Unreachable):
                await documents.put(ORDERS, {"values": {}})
            with pytest.raises(Unreachable):
                await documents.history(ORDERS)
            found = documents.get(ORDERS)
            assert found is not None and found.content == {"values": {"a": "1"}}
            lossy.works = True
            assert (await documents.put(ORDERS, {"values": {}})).version == 2


async def test_what_the_store_has_lost_is_written_again(tmp_path: Path) -> None:
    """Its file was lost, or restored as it was earlier: who knows more says so when he reads it anew."""
    async with open_sqlite(tmp_path / "store") as store:
        documents = Documents(store)
        async with trio.open_nursery() as nursery:
            await nursery.start(documents.follow)
            for number in range(3):
                await documents.put(ORDERS, {"values": {"a": str(number)}})
            await documents.put(Key("policy", "staging"), {"traffic": {}})
            nursery.cancel_scope.cancel()
        other = await store.get("documents/policy/staging/")
        older = await documents.former(ORDERS, 2)
        item = await store.get(ORDERS.item)
        assert other is not None and item is not None
        await store.swap(other.key, None, other.version)
        encoded = await store.get(f"{ORDERS.history}{2:010}")
        assert encoded is not None and encoded.value is not None
        await store.swap(ORDERS.item, encoded.value, item.version)
        async with trio.open_nursery() as nursery:
            await nursery.start(documents.follow)
            nursery.cancel_scope.cancel()
        async with following(store) as fresh:
            again = fresh.get(ORDERS)
            assert again is not None and again.version == 3 > older.version
            assert fresh.get(Key("policy", "staging")) is not None


async def test_what_is_no_document_is_left_alone(tmp_path: Path) -> None:
    async with open_sqlite(tmp_path / "store") as store:
        await store.swap("documents/config/staging/broken", b"\xc1", ABSENT)
        await store.swap("documents/too/many/parts/here", b"\x80", ABSENT)
        async with following(store) as documents:
            assert documents.keys("config") == []


async def test_there_are_only_so_many(tmp_path: Path) -> None:
    async with open_sqlite(tmp_path / "store") as store:
        documents = Documents(store, capacity=1)
        await documents.put(ORDERS, {"values": {}})
        await documents.put(ORDERS, {"values": {}})
        with pytest.raises(TooMuch):
            await documents.put(Key("config", "staging", "stock"), {"values": {}})
        await documents.put(ORDERS, None)
        await documents.put(Key("config", "staging", "stock"), {"values": {}})
        with pytest.raises(TooMuch):
            await documents.put(ORDERS, {"values": {}})


async def test_what_was_deleted_long_ago_is_buried_with_its_history(tmp_path: Path) -> None:
    now = 1_000_000.0
    async with open_sqlite(tmp_path / "store") as store, trio.open_nursery() as nursery:
        documents, other = (Documents(store, wall=lambda: now) for _ in range(2))
        await nursery.start(documents.follow)
        await nursery.start(other.follow)
        stock = Key("config", "staging", "stock")
        for key in (ORDERS, stock):
            await documents.put(key, {"values": {"a": key.service}})
        await documents.put(ORDERS, None)
        await until(other, ORDERS, 2)
        now += BURIED_SECONDS - 1
        await documents.bury()
        assert documents.last(ORDERS) is not None
        now += 2
        await documents.bury()
        assert documents.last(ORDERS) is None
        _, left = await store.scan("")
        assert [item.key for item in left] == [stock.item]
        await other.put(stock, {"values": {}})  # later than the burial, so the other one has heard of that
        await until(documents, stock, 2)
        await trio.testing.wait_all_tasks_blocked()
        assert other.last(ORDERS) is None
        again = await other.put(ORDERS, {"values": {"a": "new"}}, expected=0)
        assert again.version == 1
        assert await until(documents, ORDERS, 1) == again
        nursery.cancel_scope.cancel()


@asynccontextmanager
async def two(store: Store, other: Store | None = None) -> AsyncIterator[Sequence[Documents]]:
    """Two pilots, which follow."""
    async with following(store) as one, following(other or store) as two:
        yield one, two


async def settled(documents: Sequence[Documents], version: int, content: object) -> None:
    """Waits until they agree, with that."""
    with trio.fail_after(PATIENCE):
        for one in documents:
            while (found := one.last(ORDERS)) is None or (found.version, found.content) != (version, content):  # noqa: ASYNC110
                await trio.sleep(0.01)


async def test_after_a_store_was_wiped_everybody_can_change_what_was_there() -> None:
    """The versions of its items begin anew: one that was known is greater than any that comes."""
    store = Forgetful()
    async with two(store) as pilots:
        await pilots[0].put(ORDERS, {"values": {"a": "1"}})
        await pilots[0].put(ORDERS, {"values": {"a": "2"}})
        await settled(pilots, 2, {"values": {"a": "2"}})
        store.wipe()
        with trio.fail_after(PATIENCE):
            while (found := await store.get(ORDERS.item)) is None:  # noqa: ASYNC110 until it is told what it had
                await trio.sleep(0.01)
        assert found.version < 1000
        for number, documents in enumerate((*pilots, *pilots), start=3):
            content = {"values": {"a": str(number)}}
            assert (await documents.put(ORDERS, content)).version == number
            await settled(pilots, number, content)


@pytest.mark.parametrize("older", [True, False], ids=["an older one", "nothing"])
async def test_what_was_set_back_under_the_watch_is_written_again_at_once(opened: Open, older: bool) -> None:
    async with opened() as store, two(store) as pilots:
        await pilots[0].put(ORDERS, {"values": {"a": "1"}})
        before = await store.get(ORDERS.item)
        await pilots[0].put(ORDERS, {"values": {"a": "2"}})
        item = await store.get(ORDERS.item)
        assert before is not None and item is not None
        broken = await store.swap(ORDERS.item, before.value if older else None, item.version)
        with trio.fail_after(PATIENCE):
            while (again := await store.get(ORDERS.item)) is None or again.version == broken:  # noqa: ASYNC110
                await trio.sleep(0.01)
        assert again.value == item.value
        for number, documents in enumerate(pilots, start=3):
            assert (await documents.put(ORDERS, {"values": {"a": str(number)}})).version == number


async def test_of_two_contents_under_one_version_that_of_the_store_holds(caplog: pytest.LogCaptureFixture) -> None:
    """The store was restored from a copy while one pilot did not reach it, and another one was told something else."""
    store = Forgetful()
    cut = Lossy(store)
    async with following(cut) as one:  # type: ignore[arg-type]
        await one.put(ORDERS, {"values": {"a": "1"}})
        copy = store.items[ORDERS.item][0]
        await one.put(ORDERS, {"values": {"a": "of one"}})
        told: list[Key] = []
        one.listeners.append(told.append)
        cut.works = False
        store.wipe()
        await store.swap(ORDERS.item, copy, ABSENT)
        async with following(store) as other:
            await other.put(ORDERS, {"values": {"a": "of the other"}})
            cut.works = True
            await settled((one, other), 2, {"values": {"a": "of the other"}})
            assert told == [ORDERS]
            assert "another version 2 of documents/config/staging/orders" in caplog.text
            assert (await one.put(ORDERS, {"values": {"a": "3"}})).version == 3
            assert (await one.former(ORDERS, 2)).content == {"values": {"a": "of the other"}}


async def test_a_change_of_what_is_there_is_made_again_when_somebody_was_quicker(tmp_path: Path) -> None:
    async with open_sqlite(tmp_path / "store") as store, two(store) as pilots:

        async def add(documents: Documents, name: str) -> None:
            await documents.put(ORDERS, lambda held: {"values": {**held.get("values", {}), name: "1"}})

        async with trio.open_nursery() as nursery:
            for number in range(6):
                nursery.start_soon(add, pilots[number % 2], str(number))
        await settled(pilots, 6, {"values": {str(number): "1" for number in range(6)}})
