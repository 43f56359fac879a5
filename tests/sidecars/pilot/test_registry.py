"""The registry over a real store: who is told, who is given up, and what a store that fails costs."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio
from pannier.shared.errors import Unreachable
from pannier.shared.instances import State
from pannier.sidecars.pilot.registry.entries import PREFIX, Entry, Verdict, key_of
from pannier.sidecars.pilot.registry.registry import BURIED_SECONDS, Full, Registry
from pannier.sidecars.pilot.stores.sqlite import SqliteStore, open_sqlite
from pannier.sidecars.pilot.stores.store import ABSENT, Compacted, Conflict, Item

A, B = ("orders", "a"), ("orders", "b")
TTL_MS = 10_000


def entry(epoch: int = 1, address: str = "10.0.0.1:80") -> Entry:
    return Entry(epoch, address, ttl_ms=TTL_MS)


class Rig:
    """A registry whose clocks are set by hand, over a store that can be made to fail."""

    def __init__(self, store: SqliteStore, capacity: int) -> None:
        self.store = store
        self.now = 1000.0
        self.wall = 1e9
        self.down = False
        self.registry = Registry(self, clock=lambda: self.now, wall=lambda: self.wall, capacity=capacity)

    async def later(self, seconds: float) -> None:
        """Time goes by, and is looked at each second."""
        for _ in range(round(seconds)):
            self.now += 1
            self.registry.look()
            try:
                await self.registry.write_down()
            except Unreachable as error:
                self.registry.trouble = error.message
        await self.caught_up()

    async def caught_up(self) -> None:
        """Returns when the watch has told all that is in the store."""
        _, items = await self.store.scan(PREFIX)
        newest = max((item.version for item in items), default=0)
        with trio.fail_after(10):
            while self.registry.view.revision < newest:
                await self.registry.changes(self.registry.view.revision, set(), wait=10)

    def ids(self, service: str = "orders") -> Sequence[str]:
        return [instance.id for instance in self.registry.instances(service)]

    async def get(self, key: str) -> Item | None:
        return await self.store.get(key)

    async def scan(self, prefix: str) -> tuple[int, Sequence[Item]]:
        return await self.store.scan(prefix)

    async def swap(self, key: str, value: bytes | None, version: int) -> int:
        if self.down:
            raise Unreachable("the store is down")
        return await self.store.swap(key, value, version)

    @asynccontextmanager
    async def watch(self, prefix: str, after: int) -> AsyncIterator[AsyncIterator[Sequence[Item]]]:
        async with self.store.watch(prefix, after) as changes:
            yield changes


@asynccontextmanager
async def following(path: Path, *, capacity: int = 100) -> AsyncIterator[Rig]:
    async with open_sqlite(path) as store, trio.open_nursery() as nursery:
        rig = Rig(store, capacity)
        await nursery.start(rig.registry.follow)
        yield rig
        nursery.cancel_scope.cancel()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "store"


async def test_who_registers_is_told_with_his_epoch_and_leaves_for_good(path: Path) -> None:
    async with following(path) as rig:
        outcome = await rig.registry.register(A, entry(0))
        assert (outcome.verdict, outcome.entry and outcome.entry.epoch) == (Verdict.CREATED, 1)
        assert [(i.id, i.address, i.state, i.epoch) for i in rig.registry.instances("orders")] == [
            ("a", "10.0.0.1:80", State.UP, 1)
        ]
        assert (await rig.registry.leave(A, 1)).verdict is Verdict.REMOVED
        assert (rig.registry.view.services(), len(rig.registry.view)) == ([], 0)
        assert (await rig.registry.register(A, entry(1))).verdict is Verdict.STALE
        assert (await rig.registry.register(A, entry(0))).verdict is Verdict.CREATED


async def test_a_renewal_is_not_written(path: Path) -> None:
    async with following(path) as rig:
        await rig.registry.register(A, entry())
        await rig.caught_up()
        before = rig.registry.view.revision
        rig.down = True
        for _ in range(4):
            await rig.later(8)
            assert (await rig.registry.register(A, entry(0))).verdict is Verdict.RENEWED
        assert (rig.registry.view.revision, rig.ids()) == (before, ["a"])


async def test_the_late_end_of_an_old_life_does_not_end_the_new_one(path: Path) -> None:
    async with following(path) as rig:
        await rig.registry.register(A, entry(1))
        await rig.registry.register(A, entry(2, "10.0.0.2:80"))
        for said in (
            rig.registry.leave(A, 1),
            rig.registry.move(A, 1, State.DRAINING),
            rig.registry.register(A, entry(1)),
        ):
            assert (await said).verdict is Verdict.STALE
        assert [(i.address, i.state) for i in rig.registry.instances("orders")] == [("10.0.0.2:80", State.UP)]


async def test_who_does_not_renew_is_given_up_but_not_the_last_one_of_a_service(path: Path) -> None:
    async with following(path) as rig:
        await rig.registry.register(A, entry())
        await rig.registry.register(B, entry())
        for _ in range(3):
            await rig.later(8)
            await rig.registry.register(B, entry())
        assert rig.ids() == ["b"]
        await rig.later(60)
        assert [(i.id, i.suspect) for i in rig.registry.instances("orders")] == [("b", True)]
        assert (await rig.registry.register(A, entry())).verdict is Verdict.CREATED, "it was alive after all"


async def test_when_many_renewals_vanish_at_once_nobody_is_given_up(path: Path) -> None:
    async with following(path) as rig:
        for number in range(20):
            await rig.registry.register(("orders", f"i{number}"), entry())
        await rig.later(30)
        assert rig.registry.preserving
        assert len(rig.ids()) == 20


async def test_a_pilot_that_starts_gives_everybody_a_whole_ttl_and_remembers_who_has_left(path: Path) -> None:
    async with following(path) as rig:
        await rig.registry.register(A, entry())
        await rig.registry.register(B, entry())
        await rig.registry.register(("stock", "c"), entry(5))
        await rig.registry.leave(("stock", "c"), 5)
        await rig.caught_up()
        revision = rig.registry.view.revision
    async with following(path) as rig:
        assert (rig.registry.view.revision, rig.ids()) == (revision, ["a", "b"])
        await rig.later(9)
        assert rig.ids() == ["a", "b"]
        assert (await rig.registry.register(("stock", "c"), entry(5))).verdict is Verdict.STALE


async def test_what_is_known_is_told_while_the_store_takes_nothing(path: Path) -> None:
    async with following(path) as rig:
        await rig.registry.register(A, entry())
        await rig.registry.register(B, entry())
        rig.down = True
        with pytest.raises(Unreachable):
            await rig.registry.register(("orders", "c"), entry())
        for _ in range(20):
            await rig.later(8)
            await rig.registry.register(B, entry())
        assert rig.ids() == ["a", "b"], "a is late, and its end could not be written down"
        assert "down" in rig.registry.trouble
        rig.down = False
        for _ in range(3):
            await rig.later(8)
            await rig.registry.register(B, entry())
        assert rig.ids() == ["b"]


async def test_what_others_write_into_the_store_is_told_and_what_is_no_instance_is_not(path: Path) -> None:
    async with following(path) as rig:
        await rig.registry.register(A, entry())
        await rig.caught_up()
        revision = rig.registry.view.revision
        await rig.store.swap(key_of(B), b"\xff no instance", ABSENT)
        await rig.store.swap("something/else", b"", ABSENT)
        other = Registry(rig.store)
        async with trio.open_nursery() as nursery:
            await nursery.start(other.follow)
            await other.register(("stock", "c"), entry())
            with trio.fail_after(10):
                assert (await rig.registry.changes(revision, {"stock"}, wait=10))[1] == ["stock"]
            nursery.cancel_scope.cancel()
        assert (rig.ids("stock"), rig.ids()) == (["c"], ["a"])


async def test_a_watcher_is_told_what_changed_of_what_it_wants_and_that_it_came_too_late(path: Path) -> None:
    async with following(path) as rig:
        await rig.registry.register(A, entry())
        await rig.caught_up()
        first = rig.registry.view.revision
        await rig.registry.register(("stock", "c"), entry())
        await rig.caught_up()
        assert await rig.registry.changes(first, set(), wait=0) == (rig.registry.view.revision, ["stock"])
        assert await rig.registry.changes(first, {"orders"}, wait=0) == (rig.registry.view.revision, [])
        with pytest.raises(Compacted):
            await rig.registry.changes(-1, set(), wait=10)
        with pytest.raises(Compacted):  # at once, since it is not to wait
            await rig.registry.changes(rig.registry.view.revision + 1, set(), wait=0.01)


async def test_a_full_pilot_refuses_the_next_and_renews_the_others(path: Path) -> None:
    async with following(path, capacity=2) as rig:
        await rig.registry.register(A, entry())
        await rig.registry.register(B, entry())
        with pytest.raises(Full):
            await rig.registry.register(("stock", "c"), entry())
        assert (await rig.registry.register(A, entry(2, "10.0.0.9:80"))).verdict is Verdict.CHANGED
        await rig.registry.leave(B, 1)
        assert (await rig.registry.register(("stock", "c"), entry())).verdict is Verdict.CREATED


async def test_tombstones_are_buried_when_no_word_of_that_life_can_be_under_way(path: Path) -> None:
    async with following(path) as rig:
        await rig.registry.register(A, entry())
        await rig.registry.leave(A, 1)
        rig.wall += BURIED_SECONDS - 1
        await rig.registry.bury()
        assert len((await rig.store.scan(PREFIX))[1]) == 1
        rig.wall += 2
        await rig.registry.bury()
        assert (await rig.store.scan(PREFIX))[1] == []


async def test_who_always_finds_somebody_quicker_is_told_so(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with following(path) as rig:

        async def conflict(*_: object) -> int:
            await trio.lowlevel.checkpoint()
            raise Conflict("somebody was quicker")

        monkeypatch.setattr(rig, "swap", conflict)
        with pytest.raises(Unreachable, match="all the time"):
            await rig.registry.register(A, entry())
