"""What is peculiar to ZooKeeper as a store: nodes that begin anew, scans that are many reads, servers that go."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import trio
from pannier.shared.errors import Unreachable
from pannier.sidecars.pilot.stores import zookeeper_session
from pannier.sidecars.pilot.stores.store import ABSENT, Compacted, Conflict, Item
from pannier.sidecars.pilot.stores.zookeeper import ZooKeeperStore
from pannier.sidecars.pilot.stores.zookeeper_session import open_session

from tests.sidecars.pilot.real_zookeeper import ZooKeeper, running_zookeeper
from tests.system.host import PATIENCE


def root() -> str:
    return f"/{secrets.token_hex(8)}"


async def test_a_write_that_was_under_way_hits_no_successor_of_the_node_it_meant(
    zookeeper: tuple[str, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    async with open_session([zookeeper]) as one, open_session([zookeeper]) as two:
        place = root()
        slow, quick = ZooKeeperStore(one, root=place), ZooKeeperStore(two, root=place)
        version = await slow.swap("a", b"1", ABSENT)
        began = one.client.transaction
        meanwhile: list[int] = []

        def transaction() -> Any:
            if not meanwhile:  # between the look and the write, and the counter of the new node is that of the old one
                quick._swap("a", None, version)
                meanwhile.append(quick._swap("a", b"another life", ABSENT))
            return began()

        monkeypatch.setattr(one.client, "transaction", transaction)
        with pytest.raises(Conflict):
            await slow.swap("a", b"late", version)
        assert await slow.get("a") == Item("a", b"another life", meanwhile[0])


async def test_a_scan_is_exact_while_others_write(zookeeper: tuple[str, int], monkeypatch: pytest.MonkeyPatch) -> None:
    async with open_session([zookeeper]) as session:
        store = ZooKeeperStore(session, root=root())
        versions = {key: await store.swap(key, b"before", ABSENT) for key in ("a", "b", "c")}
        read = store._read
        written: list[int] = []

        def read_slowly(paths: Any) -> Any:
            found = read(paths)
            if not written:
                written.append(store._swap("a", b"after", versions["a"]))
                written.append(store._swap("b", None, versions["b"]))
                written.append(store._swap("d", b"new", ABSENT))
            return found

        monkeypatch.setattr(store, "_read", read_slowly)
        revision, items = await store.scan("")
        assert [(item.key, item.value) for item in items] == [("a", b"after"), ("c", b"before"), ("d", b"new")]
        assert revision == written[2] and items[0].version == written[0]


@pytest.fixture
def own(require_zookeeper: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ZooKeeper]:
    """A server that may be killed, whose sessions are short."""
    monkeypatch.setattr(zookeeper_session, "SESSION_SECONDS", 1.0)
    with running_zookeeper(require_zookeeper, tmp_path) as server:
        yield server


async def again(ask: Callable[[], Any]) -> Any:
    """Asks until somebody answers."""
    with trio.fail_after(PATIENCE):
        while True:
            try:
                return await ask()
            except Unreachable:
                await trio.sleep(0.05)


async def test_a_server_that_goes_and_comes_again_loses_nothing_and_one_that_was_wiped_says_so(own: ZooKeeper) -> None:
    async with open_session([("127.0.0.1", own.port)]) as session:
        store = ZooKeeperStore(session)
        version = await store.swap("a", b"1", ABSENT)
        own.kill()
        with pytest.raises(Unreachable), trio.fail_after(PATIENCE):
            while True:  # until it is noticed
                await store.get("a")
        await trio.to_thread.run_sync(own.start)
        assert await again(lambda: store.get("a")) == Item("a", b"1", version)
        later = await again(lambda: store.swap("a", b"2", version))
        async with store.watch("", version) as changes:
            assert await anext(changes) == [Item("a", b"2", later)]

        own.kill()
        await trio.to_thread.run_sync(lambda: own.start(wiped=True))
        assert await again(lambda: store.get("a")) is None
        revision, items = await again(lambda: store.scan(""))
        assert items == []
        async with store.watch("", max(later, revision + 1)) as changes:
            with pytest.raises(Compacted):
                await anext(changes)
        assert await again(lambda: store.swap("a", b"3", ABSENT)) > revision
