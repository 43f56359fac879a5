"""Streams as gRPC carries them, to clients that behave as nobody should."""

from __future__ import annotations

import queue
from collections.abc import AsyncIterator, Callable, Collection, Iterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import grpc
import msgspec
import pytest
import trio
import trio.testing
from pannier.shared.instances import State
from pannier.sidecars.pilot.registry.fanout import Fanout
from pannier.sidecars.pilot.registry.registry import Registry
from pannier.sidecars.pilot.stores.sqlite import open_sqlite
from pannier.sidecars.pilot.xds.resources import Type
from pannier.sidecars.pilot.xds.schema import MESSAGES
from pannier.sidecars.pilot.xds.service import FIRST_SECONDS, SERVICE, Xds, _Session

from tests.sidecars.pilot.grpc.rig import in_memory
from tests.sidecars.pilot.xds.rig import PATIENCE_S, Pilot, pilot, wait_until

REQUEST = "envoy.service.discovery.v3.DeltaDiscoveryRequest"
RESPONSE = "envoy.service.discovery.v3.DeltaDiscoveryResponse"


class Subscriber:
    """An incremental stream by gRPC's own client, one message after the other."""

    def __init__(self, channel: grpc.Channel) -> None:
        self._said: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()
        method = channel.stream_stream(f"{SERVICE}DeltaAggregatedResources")
        self._call: Any = method(iter(self._said.get, None), timeout=PATIENCE_S)

    def say(self, kind: Type | str, **fields: Any) -> None:
        url = kind.url if isinstance(kind, Type) else kind
        self._said.put(MESSAGES[REQUEST](type_url=url, **fields).SerializeToString())

    def say_bytes(self, wire: bytes) -> None:
        self._said.put(wire)

    async def read(self) -> Any:
        """The next response. Raises grpc.RpcError."""
        return MESSAGES.parse(RESPONSE, await trio.to_thread.run_sync(partial(next, self._call)))

    def answer(self, response: Any, error: str = "") -> None:
        fields = {"error_detail": {"code": 3, "message": error}} if error else {}
        self.say(response.type_url, response_nonce=response.nonce, **fields)

    def close(self) -> None:
        self._said.put(None)


@asynccontextmanager
async def subscribers(folder: Path) -> AsyncIterator[tuple[Pilot, Callable[[], Subscriber]]]:
    """A pilot, and who opens streams to it."""
    async with pilot(folder) as tower:
        with grpc.insecure_channel(f"127.0.0.1:{tower.port}") as channel:
            yield tower, partial(Subscriber, channel)


def _unreadable() -> Iterator[tuple[str, Callable[[Subscriber], None], grpc.StatusCode, str]]:
    invalid, exhausted = grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.RESOURCE_EXHAUSTED
    node = MESSAGES.from_json("envoy.config.core.v3.Node", {"metadata": {"outbound_port": "http"}})
    yield "garbage", lambda one: one.say_bytes(b"\xff" * 100), invalid, "no such request"
    yield "unknown type", lambda one: one.say("type.googleapis.com/a.Type"), invalid, "a.Type"
    yield "scheme", lambda one: one.say(Type.LISTENER, resource_names_subscribe=["xdstp://a/b/c"]), invalid, "xdstp"
    yield "node", lambda one: one.say(Type.CLUSTER, node=node), invalid, "outbound_port"
    yield (
        "too many",
        lambda one: one.say(Type.ENDPOINTS, resource_names_subscribe=map(str, range(10_001))),
        exhausted,
        "10000",
    )


@pytest.mark.parametrize(("_name", "say", "code", "says"), list(_unreadable()))
async def test_what_cannot_be_had_ends_the_stream_and_says_why(
    short_path: Path, _name: str, say: Callable[[Subscriber], None], code: grpc.StatusCode, says: str
) -> None:
    async with subscribers(short_path) as (tower, connect):
        one = connect()
        say(one)
        with pytest.raises(grpc.RpcError) as failed:
            await one.read()
        assert (failed.value.code(), says in failed.value.details()) == (code, True)
        await wait_until(lambda: sum(tower.xds.status().refused.values()) == 1)
        await wait_until(lambda: not tower.xds.statistics())


async def test_who_never_answers_is_sent_nothing_more_and_costs_nobody_else(short_path: Path) -> None:
    async with subscribers(short_path) as (tower, connect):
        await tower.register("orders", "a", 1)
        mute, other = connect(), connect()
        for number, one in enumerate((mute, other)):
            one.say(Type.ENDPOINTS, resource_names_subscribe=["orders"], node={"id": f"node-{number}"})
            response = await one.read()
            assert [found.name for found in response.resources] == ["orders"]
        other.answer(response)
        for port in range(2, 6):
            await tower.register("orders", "b", port)
            told = await other.read()
            assert [found.name for found in told.resources] == ["orders"]
            other.answer(told)
        await wait_until(lambda: tower.settled("node-1"))
        silent, quick = tower.xds.statistics()
        assert (silent.types[0].sent, silent.types[0].accepted, silent.types[0].waiting_s > 0) == (1, 0, True)
        assert (quick.types[0].sent, quick.types[0].accepted, quick.types[0].waiting_s) == (5, 5, 0)
        mute.answer(response)
        newest = MESSAGES.parse(Type.ENDPOINTS.value, (await mute.read()).resources[0].resource.value)
        ports = [one.endpoint.address.socket_address.port_value for one in newest.endpoints[0].lb_endpoints]
        assert ports == [1, 5], "the newest state, not each one that was"


async def test_who_says_nothing_is_let_go(autojump_clock: trio.testing.MockClock, tmp_path: Path) -> None:
    async with open_sqlite(tmp_path / "store") as store:
        registry = Registry(store)
        xds = Xds(registry, Fanout(registry))
        async with in_memory(xds.handlers()) as memory:
            client = await (await memory.connect()).begin()
            streams = [client.call(f"{SERVICE}DeltaAggregatedResources", end=False) for _ in range(100)]
            await client.flush()
            answers = [await client.answer(stream) for stream in streams]
            assert {answer["grpc-status"] for answer in answers} == {"3"}
            assert FIRST_SECONDS <= trio.current_time() < 2 * FIRST_SECONDS
            assert xds.refused == {"asked": 100}


async def test_names_are_looked_at_when_they_change(short_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    followed: list[set[str]] = []
    follow = _Session.follow

    def seen(session: _Session, names: Collection[str]) -> None:
        followed.append(set(names))
        follow(session, names)

    monkeypatch.setattr(_Session, "follow", seen)
    async with subscribers(short_path) as (tower, connect):
        await tower.register("orders", "a", 1)
        one = connect()
        one.say(Type.ENDPOINTS, resource_names_subscribe=["orders"])
        for port in range(2, 6):
            one.answer(await one.read())
            await tower.register("orders", "b", port)
        one.answer(await one.read())
        one.say(Type.ENDPOINTS, resource_names_unsubscribe=["orders"], resource_names_subscribe=["stock"])
        await one.read()
        assert followed == [{"orders"}, {"stock"}]


async def test_a_rejection_is_told_to_the_operator(short_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    async with subscribers(short_path) as (tower, connect):
        await tower.register("orders", "a", 1)
        one = connect()
        one.say(Type.CLUSTER, node={"id": "host-1", "user_agent_name": "envoy"})
        one.answer(await one.read(), error="cluster orders: no such thing")
        await wait_until(lambda: tower.xds.rejected == 1)
        assert "host-1" in caplog.text and "cluster orders: no such thing" in caplog.text
        ((cluster,),) = (list(client.types) for client in tower.xds.statistics())
        assert (cluster.rejected, cluster.error) == (1, "cluster orders: no such thing")
        assert msgspec.json.decode(msgspec.json.encode(tower.xds.status()))["clients"][0]["node"] == "host-1"


async def test_on_demand_nobody_is_woken_for_what_he_does_not_follow(short_path: Path) -> None:
    async with subscribers(short_path) as (tower, connect):
        await tower.register("orders", "a", 1)
        await tower.register("stock", "a", 2)
        one = connect()
        one.say(Type.ENDPOINTS, resource_names_subscribe=["orders", "later"])
        response = await one.read()
        assert ([found.name for found in response.resources], list(response.removed_resources)) == (
            ["orders"],
            ["later"],
        )
        one.answer(response)
        assert set(tower.xds.followers) == {"orders", "later"}
        await tower.move(("stock", "a"), State.DRAINING)
        await tower.register("later", "a", 3)
        response = await one.read()
        assert [found.name for found in response.resources] == ["later"]
        one.close()
        await wait_until(lambda: not tower.xds.statistics())
        assert not tower.xds.followers
