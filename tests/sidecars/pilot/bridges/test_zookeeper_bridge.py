"""The bridge to a real ZooKeeper, both ways: what is written, what is read, and what an older life cannot undo."""

from __future__ import annotations

import secrets
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any

import msgspec
import pytest
import trio
from msgspec.structs import replace
from pannier.shared.instances import State
from pannier.sidecars.pilot.bridges import outward
from pannier.sidecars.pilot.bridges.belief import LOOKS, SECONDS
from pannier.sidecars.pilot.bridges.curator import MARKS, read
from pannier.sidecars.pilot.bridges.inward import ORIGIN, Inward
from pannier.sidecars.pilot.bridges.opening import LINGERS_SECONDS
from pannier.sidecars.pilot.bridges.outward import Outward, Wish
from pannier.sidecars.pilot.bridges.zookeeper import ZooKeeperSource
from pannier.sidecars.pilot.registry.entries import Entry, key_of
from pannier.sidecars.pilot.registry.peers import BEAT_SECONDS, GONE_SECONDS, Peers
from pannier.sidecars.pilot.registry.registry import Registry
from pannier.sidecars.pilot.stores.etcd import EtcdStore
from pannier.sidecars.pilot.stores.sqlite import open_sqlite
from pannier.sidecars.pilot.stores.store import ABSENT
from pannier.sidecars.pilot.stores.zookeeper_session import Session, open_session

from tests.sidecars.pilot.bridges.foreign import ForeignZooKeeper
from tests.system.host import PATIENCE

A, B = ("orders", "a"), ("orders", "b")


def entry(epoch: int = 1, address: str = "10.0.0.1:80", **metadata: str) -> Entry:
    return Entry(epoch, address, ttl_ms=60_000, metadata=metadata)


@dataclass
class Rig:
    """A registry on SQLite, a bridge of it, and somebody else who uses the same ZooKeeper."""

    registry: Registry
    session: Session
    inward: Inward
    outward: Outward
    foreign: ForeignZooKeeper

    def there(self, name: str = "a", service: str = "orders") -> dict[str, Any]:
        data, _ = self.foreign.client.get(f"{self.foreign.base}/{service}/{name}")
        found: dict[str, Any] = msgspec.json.decode(data)
        return found

    def mark(self, name: str = "a") -> object:
        return msgspec.json.decode(self.foreign.client.get(f"{MARKS}{self.foreign.base}/orders/{name}")[0])

    def owner(self, name: str = "a") -> int:
        return int(self.foreign.client.exists(f"{self.foreign.base}/orders/{name}").ephemeralOwner)


@pytest.fixture
async def rig(zookeeper: tuple[str, int], tmp_path: Path) -> AsyncIterator[Rig]:
    base = f"/{secrets.token_hex(8)}/services"
    async with bridging(zookeeper, tmp_path / "store", base) as found:
        yield found


@asynccontextmanager
async def bridging(member: tuple[str, int], store: Path, base: str) -> AsyncIterator[Rig]:
    async with AsyncExitStack() as stack:
        registry = Registry(await stack.enter_async_context(open_sqlite(store)))
        session = await stack.enter_async_context(open_session([member]))
        nursery = await stack.enter_async_context(trio.open_nursery())
        await nursery.start(registry.follow)
        foreign = ForeignZooKeeper(member, session, base)
        name = f"zookeeper://x{base}"
        inward = Inward(registry, ZooKeeperSource(session, base, name=name))
        yield Rig(registry, session, inward, Outward(registry, session, base, name=name), foreign)
        foreign.close()
        nursery.cancel_scope.cancel()


async def until(condition: Callable[[], bool]) -> None:
    with trio.fail_after(PATIENCE):
        while not condition():  # noqa: ASYNC110 - another process changes it
            await trio.sleep(0.02)


async def test_who_registers_is_written_as_curator_has_it_and_goes_when_he_leaves(rig: Rig) -> None:
    await rig.registry.register(A, entry(3, version="2"))
    await rig.outward.write("orders")
    found = rig.there()
    assert found.pop("registrationTimeUTC") > 0
    assert found == {
        "name": "orders",
        "id": "a",
        "address": "10.0.0.1",
        "port": 80,
        "sslPort": None,
        "payload": None,
        "serviceType": "DYNAMIC",
        "uriSpec": None,
    }
    assert rig.mark() == {"epoch": 3}
    assert rig.owner() == rig.session.id
    await rig.registry.leave(A, 3)
    await rig.outward.write("orders")
    assert rig.foreign.names() == []


async def test_a_change_is_written_once_and_no_change_is_not(rig: Rig) -> None:
    await rig.registry.register(A, entry(1))
    await rig.outward.write("orders")
    before = rig.foreign.client.exists(f"{rig.foreign.base}/orders/a").czxid
    await rig.outward.write("orders")
    assert rig.foreign.client.exists(f"{rig.foreign.base}/orders/a").czxid == before
    await rig.registry.register(A, entry(2, "10.0.0.2:80"))
    await rig.outward.write("orders")
    assert (rig.there()["address"], rig.mark()) == ("10.0.0.2", {"epoch": 2})


async def test_who_drains_is_taken_out_unless_there_is_nobody_else(rig: Rig) -> None:
    await rig.registry.register(A, entry(1))
    await rig.registry.register(B, entry(1, "10.0.0.2:80"))
    await rig.registry.register(("orders", "local"), entry(1, "unix:/run/orders.sock"))
    await rig.outward.write("orders")
    assert rig.foreign.names() == ["a", "b"]
    await rig.registry.move(A, 1, State.DRAINING)
    await rig.outward.write("orders")
    assert rig.foreign.names() == ["b"]


async def test_what_came_in_is_not_written_out_and_what_went_out_does_not_come_in(rig: Rig) -> None:
    rig.foreign.register("theirs", "10.9.0.1:80", payload={"metadata": {"version": "7"}})
    await rig.registry.register(A, entry(1))
    await rig.outward.write("orders")
    await rig.inward.look()
    await rig.outward.write("orders")
    assert rig.foreign.names() == ["a", "theirs"]
    assert rig.owner("theirs") == rig.foreign.client.client_id[0]
    known = {i.id: (i.address, i.metadata.get(ORIGIN)) for i in rig.registry.instances("orders")}
    assert known == {"a": ("10.0.0.1:80", None), "theirs": ("10.9.0.1:80", f"zookeeper://x{rig.foreign.base}")}
    assert [i.metadata["version"] for i in rig.registry.instances("orders") if i.id == "theirs"] == ["7"]
    assert [i.epoch for i in rig.registry.instances("orders") if i.id == "theirs"] == [
        rig.foreign.client.exists(f"{rig.foreign.base}/orders/theirs").czxid
    ]


async def test_a_node_that_somebody_else_has_made_is_left_alone(rig: Rig) -> None:
    rig.foreign.register("a", "10.9.0.1:80")
    rig.foreign.client.create(f"{rig.foreign.base}/orders/b", b"no JSON", ephemeral=True)
    await rig.registry.register(A, entry(5))
    await rig.registry.register(B, entry(5, "10.0.0.2:80"))
    await rig.outward.write("orders")
    assert rig.there()["address"] == "10.9.0.1"
    assert rig.foreign.client.get(f"{rig.foreign.base}/orders/b")[0] == b"no JSON"
    assert rig.outward.statistics().taken == 2


async def test_the_bridge_of_an_older_life_neither_replaces_nor_deletes_a_newer_one(
    rig: Rig, zookeeper: tuple[str, int], tmp_path: Path
) -> None:
    async with bridging(zookeeper, tmp_path / "other", rig.foreign.base) as newer:
        await rig.registry.register(A, entry(1))
        await rig.outward.write("orders")
        await newer.registry.register(A, entry(2, "10.0.0.2:80"))
        await newer.outward.write("orders")
        assert (rig.there()["address"], rig.owner()) == ("10.0.0.2", newer.session.id)
        await rig.outward.write("orders")
        await rig.registry.leave(A, 1)
        await rig.outward.write("orders")
        assert (rig.there()["address"], rig.owner()) == ("10.0.0.2", newer.session.id)
        await trio.to_thread.run_sync(rig.session.client.stop)  # the end of the old session, too
        assert rig.there()["address"] == "10.0.0.2"


async def test_a_late_deletion_does_not_take_the_successor_of_its_node_for_it(
    rig: Rig, zookeeper: tuple[str, int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with bridging(zookeeper, tmp_path / "other", rig.foreign.base) as newer:
        await rig.registry.register(A, entry(1))
        await rig.outward.write("orders")
        await rig.registry.leave(A, 1)
        successor = {"a": Wish(2, entry(2, "10.0.0.2:80"))}
        began = rig.session.client.transaction
        written: list[tuple[int, int]] = []

        def transaction() -> Any:
            if not written:  # between the look and the deletion, and the new node counts from 0 as the old one did
                written.append(newer.outward._write("orders", successor))
            return began()

        monkeypatch.setattr(rig.session.client, "transaction", transaction)
        await rig.outward.write("orders")
        assert written == [(1, 0)]
        assert (rig.there()["address"], rig.owner()) == ("10.0.0.2", newer.session.id)


async def test_somebody_elses_node_in_the_place_of_one_of_ours_is_theirs(rig: Rig) -> None:
    await rig.registry.register(A, entry(1))
    await rig.outward.write("orders")
    await rig.registry.leave(A, 1)
    await rig.outward.write("orders")
    rig.foreign.register("a", "10.9.0.1:80")
    await rig.inward.look()
    assert [i.address for i in rig.registry.instances("orders")] == ["10.9.0.1:80"]
    await rig.outward.write("orders")
    assert (rig.there()["address"], rig.owner()) == ("10.9.0.1", rig.foreign.client.client_id[0])


async def test_a_registry_that_has_lost_its_epochs_is_believed_in_the_end(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    await rig.registry.register(A, entry(9))
    await rig.outward.write("orders")
    await trio.to_thread.run_sync(rig.session.client.restart)  # its nodes are gone with its session
    lost = {"a": Wish(1, entry(1, "10.0.0.2:80"))}
    monkeypatch.setattr(rig.outward, "wishes", lambda _: lost)
    for _ in range(LOOKS):
        await rig.outward.write("orders")
    assert rig.foreign.names() == [] and rig.outward.statistics().taken == LOOKS
    rig.outward._patience._since = {
        what: (-SECONDS, looks) for what, (_, looks) in rig.outward._patience._since.items()
    }
    await rig.outward.write("orders")
    assert (rig.there()["address"], rig.mark()) == ("10.0.0.2", {"epoch": 1})


async def test_both_ways_follow_by_themselves_and_outlast_the_end_of_a_session(rig: Rig) -> None:
    async with trio.open_nursery() as nursery:
        nursery.start_soon(rig.inward.run)
        nursery.start_soon(rig.outward.run)
        await rig.registry.register(A, entry(1))
        rig.foreign.register("theirs", "10.9.0.1:80", service="stock")
        await until(lambda: rig.foreign.names() == ["a"])
        await until(lambda: [i.address for i in rig.registry.instances("stock")] == ["10.9.0.1:80"])

        before = rig.session.id
        await trio.to_thread.run_sync(rig.session.client.restart)
        await until(lambda: rig.session.connected and rig.session.id != before)
        await until(lambda: rig.foreign.names() == ["a"] and rig.owner() == rig.session.id)
        rig.foreign.register("theirs", "10.9.0.1:80", service="stock", payload={"metadata": {"zone": "b"}})
        rig.foreign.register("more", "10.9.0.2:80", service="stock")
        await until(lambda: [i.metadata.get("zone") for i in rig.registry.instances("stock")] == [None, "b"])
        await until(lambda: (rig.outward.statistics().instances, rig.inward.statistics().instances) == (1, 2))
        nursery.cancel_scope.cancel()


async def test_two_pilots_on_one_etcd_have_one_entry_and_one_node_of_each_and_write_nothing_more(
    etcd: tuple[str, int], zookeeper: tuple[str, int]
) -> None:
    store, base = EtcdStore([etcd], root=f"{secrets.token_hex(8)}/"), f"/{secrets.token_hex(8)}/services"
    name = f"zookeeper://x{base}"
    async with AsyncExitStack() as stack:
        nursery = await stack.enter_async_context(trio.open_nursery())
        bridges: list[tuple[Inward, Outward]] = []
        registries: list[Registry] = []
        for pilot in ("one", "two"):
            session = await stack.enter_async_context(open_session([zookeeper]))
            peers = Peers(store, pilot)
            nursery.start_soon(peers.follow)
            nursery.start_soon(peers.beat)
            await peers.there.wait()
            registry = Registry(store, peers=peers)
            await nursery.start(registry.follow)
            registries.append(registry)
            source = ZooKeeperSource(session, base, name=name)
            bridges.append((Inward(registry, source), Outward(registry, session, base, name=name)))
        foreign = ForeignZooKeeper(zookeeper, session, base)
        foreign.register("theirs", "10.9.0.1:80")
        await registries[0].register(A, entry(1))

        async def everything() -> None:
            async with trio.open_nursery() as at_once:
                for inward, outward in bridges:
                    at_once.start_soon(inward.look)
                    at_once.start_soon(inward.renew)
                    at_once.start_soon(outward.write, "orders")

        def settled() -> bool:
            return all([i.id for i in registry.instances("orders")] == ["a", "theirs"] for registry in registries)

        await everything()
        await until(settled)
        await everything()
        items = list((await store.scan("instances/"))[1])
        nodes = [foreign.client.exists(f"{base}/orders/{node}").czxid for node in foreign.names()]
        for _ in range(5):
            await everything()
        assert (await store.scan("instances/"))[1] == items
        assert [foreign.client.exists(f"{base}/orders/{node}").czxid for node in foreign.names()] == nodes
        assert foreign.names() == ["a", "theirs"]
        assert sum(inward.statistics().instances for inward, _ in bridges) == 1
        assert sum(outward.statistics().instances for _, outward in bridges) == 1
        foreign.close()
        nursery.cancel_scope.cancel()


async def test_whom_a_pilot_takes_over_is_written_out_by_it_at_once(
    etcd: tuple[str, int], zookeeper: tuple[str, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(outward, "CHECK_SECONDS", 10 * PATIENCE)
    store, base = EtcdStore([etcd], root=f"{secrets.token_hex(8)}/"), f"/{secrets.token_hex(8)}/services"
    async with AsyncExitStack() as stack:
        nursery = await stack.enter_async_context(trio.open_nursery())
        session = await stack.enter_async_context(open_session([zookeeper]))
        registry = Registry(store, peers=Peers(store, "two"))
        await nursery.start(registry.follow)
        bridge = Outward(registry, session, base, name=f"zookeeper://x{base}")
        foreign = ForeignZooKeeper(zookeeper, session, base)
        await store.swap(key_of(A), msgspec.msgpack.encode(replace(entry(1), pilot="one")), ABSENT)
        await until(lambda: bool(registry.view.tended("one")))
        nursery.start_soon(bridge.run)
        await until(lambda: bridge.statistics().reachable)
        assert foreign.names() == []
        found = await store.get(key_of(A))
        assert found is not None
        await store.swap(key_of(A), msgspec.msgpack.encode(replace(entry(1), pilot="two")), found.version)
        await until(lambda: foreign.names() == ["a"])
        foreign.close()
        nursery.cancel_scope.cancel()


async def test_everything_is_looked_at_again_however_much_changes_meanwhile(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(outward, "CHECK_SECONDS", 0.5)
    await rig.registry.register(A, entry(1))

    async def change_much() -> None:
        for number in count():
            await rig.registry.register(("stock", "x"), entry(1, number=str(number)))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(rig.outward.run)
        nursery.start_soon(change_much)
        await until(lambda: rig.foreign.names() == ["a"])
        rig.foreign.client.delete(f"{rig.foreign.base}/orders/a")
        await until(lambda: rig.foreign.names() == ["a"])
        nursery.cancel_scope.cancel()


async def test_a_session_that_lingers_outlasts_the_belief_that_its_pilot_lives(zookeeper: tuple[str, int]) -> None:
    async with open_session([zookeeper], lingers=LINGERS_SECONDS) as session:
        asked_s = session.client._session_timeout / 1000
        await trio.to_thread.run_sync(session.client.stop)
        await trio.to_thread.run_sync(session.client.close)
    assert asked_s >= 2 * (GONE_SECONDS + BEAT_SECONDS + outward.LOOK_SECONDS)


@pytest.mark.parametrize(
    ("data", "address", "metadata"),
    [
        (b'{"name":"o","id":"a","address":"10.0.0.1","port":80}', "10.0.0.1:80", {}),
        (b'{"address":"10.0.0.1","port":null,"sslPort":443}', "10.0.0.1:443", {}),
        (b'{"address":"fd00::1","port":80,"unknown":[1]}', "[fd00::1]:80", {}),
        (b'{"address":"db.example.com","port":80}', "db.example.com:80", {}),
        (
            b'{"address":"10.0.0.1","port":80,"payload":{"@class":"org.x.ZookeeperInstance","id":"a","name":"o",'
            b'"metadata":{"zone":"b","weight":3,"nested":{},"on":true}}}',
            "10.0.0.1:80",
            {"zone": "b", "weight": "3"},
        ),
        (b'{"address":"10.0.0.1","port":80,"payload":{"version":"2"}}', "10.0.0.1:80", {"version": "2"}),
        (b'{"address":"10.0.0.1","port":80,"payload":"text"}', "10.0.0.1:80", {}),
    ],
)
def test_nodes_that_can_be_read(data: bytes, address: str, metadata: dict[str, str]) -> None:
    found = read(data, 7)
    assert found is not None
    assert (found.address, found.metadata, found.incarnation) == (address, metadata, 7)


def test_a_node_that_is_not_enabled_takes_no_calls() -> None:
    assert read(b'{"address":"10.0.0.1","port":80,"enabled":false}', 7) is None


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"{",
        b"[]",
        b"null",
        b"\xff",
        b'{"address":"10.0.0.1"}',
        b'{"address":"","port":80}',
        b'{"address":"10.0.0.1","port":0}',
        b'{"address":"10.0.0.1","port":70000}',
        b'{"address":"a b","port":80}',
        b'{"address":"10.0.0.1\\n","port":80}',
        b'{"address":"10.0.0.1","port":"80"}',
        b'{"address":"10.0.0.1","port":80,"payload":' + b"[" * 60_000,
        b'{"address":"' + b"a" * 70_000 + b'","port":80}',
    ],
)
async def test_nodes_that_cannot_be_read_are_unclear_and_nobody_else_is(rig: Rig, data: bytes) -> None:
    with pytest.raises((ValueError, RecursionError)):
        read(data, 7)
    rig.foreign.register("good", "10.9.0.1:80")
    rig.foreign.client.create(f"{rig.foreign.base}/orders/bad", data)
    rig.foreign.client.create(f"{rig.foreign.base}/orders/-", b"")
    rig.foreign.client.create(f"{rig.foreign.base}/Not A Name", b"")
    source = ZooKeeperSource(rig.session, rig.foreign.base, name="x")
    look = await source.look()
    assert set(look.instances) == {("orders", "good")}
    assert (look.unclear, look.refused) == ({("orders", "bad")}, 2)
