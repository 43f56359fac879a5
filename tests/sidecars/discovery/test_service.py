"""The whole sidecar over real shared memory, a real broker and a real registry; only the data path is missing."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import msgspec
import pytest
import trio
from pannier import _native
from pannier.shared import framing
from pannier.shared.bus import Bus
from pannier.shared.detours import Share
from pannier.shared.messages import EVENTS, LIFECYCLE, SERVICES, Happening, Lifecycle, Nothing, ProcessState, Services
from pannier.shared.profile import Endpoint as StaticEndpoint
from pannier.shared.sidecar import Context
from pannier.shared.unix import connect_unix, listen_unix
from pannier.sidecars.discovery import service
from pannier.sidecars.discovery.config import Config, HealthChecks, Instance
from pannier.sidecars.discovery.table import Endpoint, decode

TABLE = "table.endpoints"


def lifecycle(state: str, *, app_ready: bool = True) -> Lifecycle:
    return Lifecycle("orders", "dev", state, [ProcessState("app", "app", "ready", app_ready)])


@pytest.fixture
def segment() -> Iterator[int]:
    descriptor = os.memfd_create(TABLE)
    os.truncate(descriptor, _native.SEGMENTS[TABLE])
    _native.initialise(TABLE, descriptor)
    yield descriptor
    os.close(descriptor)


@dataclass
class Running:
    """A discovery sidecar of the service `orders` in `directory`."""

    bus: Bus
    directory: Path
    segment: int

    def rows(self, cluster: str) -> dict[str, Endpoint] | None:
        """The rows in force by address; None without such a cluster."""
        table = decode(_native.TableReader("endpoints", self.segment).read())
        return next(
            ({row.address: row for row in one.endpoints} for one in table.clusters if one.name == cluster), None
        )

    async def wait_for(self, condition: Callable[[], object]) -> None:
        with trio.fail_after(5):
            while not condition():  # noqa: ASYNC110 - shared memory and files have no event to wait for
                await trio.sleep(0.005)

    async def put(self, path: str, body: dict[str, object]) -> int:
        return await self.ask("PUT", path, json.dumps(body).encode())

    async def ask(self, method: str, path: str, data: bytes = b"") -> int:
        async with await connect_unix(self.directory / "api.sock") as stream:
            head = f"{method} {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-length: {len(data)}\r\n\r\n"
            await stream.send_all(head.encode() + data)
            return int(b"".join([bytes(part) async for part in stream]).split()[1])


@pytest.fixture
def start(broker, segment, short_path) -> Callable[..., object]:
    @asynccontextmanager
    async def started(config: Config, *, name: str = "orders", fd: int = segment) -> AsyncIterator[Running]:
        directory = short_path / name
        directory.mkdir(mode=0o700, exist_ok=True)
        times = broker.seen.count(("ready", "discovery")) + 1
        async with (
            broker.join("discovery", topics=[SERVICES, EVENTS], fds={TABLE: fd}) as bus,
            trio.open_nursery() as nursery,
        ):
            context = Context("discovery", name, directory, config, bus, bus.fds)
            nursery.start_soon(service.serve, context)
            await broker.wait_seen("ready", "discovery", times)
            yield Running(bus, directory, fd)
            nursery.cancel_scope.cancel()

    return started


async def test_ready_means_a_table_and_a_local_api(start) -> None:
    config = Config(services={"Payments": (StaticEndpoint("127.0.0.1:9", weight=5),)})
    async with start(config) as running:
        row = running.rows("payments")["127.0.0.1:9"]
        assert (row.weight, row.healthy, row.source, row.slot, row.incarnation) == (5, True, "file", 0, 1)
        assert await running.put("/v1/instances/stock/s-1", {"address": "127.0.0.1", "port": 7}) == 201
        await running.wait_for(lambda: running.rows("stock"))
        row = running.rows("stock")["127.0.0.1:7"]
        assert (row.id, row.source, row.epoch, row.ttl_ms) == ("s-1", "lease", 1, 10_000)
        assert (running.directory / "api.sock").stat().st_mode & 0o777 == 0o600
    assert not (running.directory / "api.sock").exists()


async def test_an_instance_by_way_of_a_central_is_a_share_of_its_row_and_nowhere_else(broker, start) -> None:
    async with start(Config()) as running, broker.join() as cli:
        at = {"address": "127.0.0.1:15090", "ttl": "5s"}
        central = {"pannier-central-of": "s-1", "pannier-central-weight": "40"}
        assert await running.put("/v1/instances/stock/s-1.central", at | {"metadata": central}) == 201
        assert await running.put("/v1/instances/stock/s-1", {"address": "127.0.0.1:7"}) == 201
        await running.wait_for(lambda: (rows := running.rows("stock")) and rows["127.0.0.1:7"].centrals)
        assert {row.id: row.centrals for row in running.rows("stock").values()} == {
            "s-1": (Share("127.0.0.1:15090", 40.0),)
        }
        answer = await cli.request("discovery", SERVICES, None, Services)
        assert [[one.id for one in cluster.endpoints] for cluster in answer.clusters] == [["s-1"]]
        assert await running.ask("DELETE", "/v1/instances/stock/s-1.central") == 200
        await running.wait_for(lambda: not running.rows("stock")["127.0.0.1:7"].centrals)


async def test_only_beside_a_central_others_hear_what_registers_here(start, short_path: Path) -> None:
    body = {"address": "10.77.0.2:15090", "metadata": {"pannier-central-headroom": "9000"}}
    told = short_path / service.REGISTRY / ".vouched" / "orders.json"
    async with start(Config()) as running:
        assert await running.put("/v1/instances/central/c-1", body) == 201
        await running.wait_for(lambda: running.rows("central"))
        assert not told.exists()
    async with start(Config(vouches=True)) as running:
        assert await running.put("/v1/instances/central/c-1", body) in {200, 201}
        await running.wait_for(told.exists)


async def test_a_weight_that_is_none_is_said_once(broker, start) -> None:
    async with start(Config()) as running, broker.join() as cli, cli.subscribe(EVENTS, Happening) as events:
        for number in range(3):
            central = {"pannier-central-of": "s-1", "pannier-central-weight": "much"}
            body = {"address": "127.0.0.1:15090", "metadata": central}
            assert await running.put("/v1/instances/stock/s-1.central", body) in {200, 201}
            assert await running.put(f"/v1/instances/stock/s-{number}", {"address": f"127.0.0.1:{number + 7}"}) == 201
            await running.wait_for(lambda number=number: len(running.rows("stock") or {}) == number + 1)
        await running.put("/v1/instances/stock/s-1.central", body | {"metadata": central | {"pannier-central-of": "/"}})
        said = [await anext(aiter(events)) for _ in range(2)]
        assert [one.kind for one in said] == ["detours", "detours"]
        assert ["'much'" in one.message for one in said] == [True, False]


async def test_the_topic_and_the_verb_tell_the_same(broker, start) -> None:
    async with start(Config(services={"payments": (StaticEndpoint("h:9"),)})), broker.join() as cli:
        answer = await cli.request("discovery", SERVICES, None, Services)
        assert [(c.name, [(e.address, e.state) for e in c.endpoints]) for c in answer.clusters] == [
            ("payments", [("h:9", "UP")])
        ]
        async with cli.subscribe(SERVICES, Services) as told:
            assert await anext(told) == answer


async def test_the_own_instance_follows_the_lifecycle(broker, start, short_path: Path) -> None:
    config = Config(instance=Instance(id="o-1", address="127.0.0.1:8001", metadata={"zone": "a"}))
    file = short_path / "registry" / "orders" / "o-1.json"

    def state() -> str | None:
        return json.loads(file.read_bytes())["state"] if file.exists() else None

    async with start(config) as running:
        await broker.broker.publish(LIFECYCLE, lifecycle("starting"), retain=True)
        assert running.rows("orders") is None
        await broker.broker.publish(LIFECYCLE, lifecycle("ready"), retain=True)
        await running.wait_for(lambda: running.rows("orders"))
        row = running.rows("orders")["127.0.0.1:8001"]
        assert (row.source, row.metadata) == ("registry", {"zone": "a"})
        assert state() == "UP"
        await broker.broker.publish(LIFECYCLE, lifecycle("degraded", app_ready=False), retain=True)
        await running.wait_for(lambda: state() == "DOWN" and running.rows("orders") == {})
        await broker.broker.publish(LIFECYCLE, lifecycle("ready"), retain=True)
        await running.wait_for(lambda: state() == "UP" and running.rows("orders"))
        await broker.broker.publish(LIFECYCLE, lifecycle("draining"), retain=True)
        await running.wait_for(lambda: state() == "DRAINING")
        await running.wait_for(lambda: not running.rows("orders")["127.0.0.1:8001"].healthy)
    assert not file.exists()


async def test_a_sidecar_that_ends_alone_leaves_its_instance_announced(broker, start, short_path: Path) -> None:
    config = Config(instance=Instance(id="o-1", address="127.0.0.1:8001"))
    await broker.broker.publish(LIFECYCLE, lifecycle("ready"), retain=True)
    async with start(config) as running:
        await running.wait_for(lambda: running.rows("orders"))
    record = json.loads((short_path / "registry/orders/o-1.json").read_bytes())
    assert (record["state"], record["ttl_ms"]) == ("DRAINING", 5000)
    async with start(config) as running:
        await running.wait_for(lambda: running.rows("orders")["127.0.0.1:8001"].epoch > record["epoch"])


async def test_sigterm_that_overtakes_the_lifecycle_still_removes_the_instance(
    broker, segment: int, short_path: Path
) -> None:
    base = os.memfd_create("table.base")
    os.truncate(base, _native.SEGMENTS["table.base"])
    _native.initialise("table.base", base)
    supervisor = _native.TableWriter("base", base)
    payload = {"service": "orders", "lifecycle": "serving", "app": None}
    supervisor.publish(msgspec.msgpack.encode(payload))
    file = short_path / "registry" / "orders" / "o-1.json"
    config = Config(instance=Instance(id="o-1", address="127.0.0.1:8001"))
    (short_path / "orders").mkdir(mode=0o700)
    await broker.broker.publish(LIFECYCLE, lifecycle("ready"), retain=True)
    running = Running(None, short_path / "orders", segment)
    epochs: set[int] = set()
    for state, stays in (("serving", True), ("draining", False)):
        async with (
            broker.join("discovery", topics=[SERVICES, EVENTS], fds={TABLE: segment, "table.base": base}) as bus,
            trio.open_nursery() as nursery,
        ):
            context = Context("discovery", "orders", short_path / "orders", config, bus, bus.fds)
            nursery.start_soon(service.serve, context)
            await running.wait_for(lambda: file.exists() and json.loads(file.read_bytes())["epoch"] not in epochs)
            epochs.add(json.loads(file.read_bytes())["epoch"])
            await running.wait_for((short_path / "orders" / "api.sock").exists)
            supervisor.publish(msgspec.msgpack.encode({**payload, "lifecycle": state}))
            nursery.cancel_scope.cancel()
        assert file.exists() == stays
    os.close(base)


async def test_a_restart_keeps_slots_and_leases(start) -> None:
    config = Config(services={"payments": (StaticEndpoint("h:1"), StaticEndpoint("h:2"))})
    async with start(config) as running:
        for number in range(3):
            await running.put(f"/v1/instances/stock/s-{number}", {"address": "h", "port": 100 + number, "ttl": "1m"})
        await running.wait_for(lambda: len(running.rows("stock") or ()) == 3)
        before = running.rows("payments") | running.rows("stock")
    async with start(config) as running:
        assert running.rows("payments") | running.rows("stock") == before
        assert await running.put("/v1/instances/stock/s-9", {"address": "h", "port": 109}) == 201
        await running.wait_for(lambda: len(running.rows("stock")) == 4)
        assert running.rows("stock")["h:109"].slot == 5


@pytest.mark.semantics("discovery", "Two services on one host find each other", "register")
async def test_two_services_on_a_host_find_each_other(broker, start, short_path: Path) -> None:
    other = short_path / "registry" / "payments"
    other.mkdir(parents=True, mode=0o700)
    other.parent.chmod(0o700)
    config = Config(instance=Instance(id="o-1", address="127.0.0.1:8001"))
    await broker.broker.publish(LIFECYCLE, lifecycle("ready"), retain=True)
    record = {"service": "payments", "id": "p-1", "address": "127.0.0.1:8002", "epoch": 4, "ttl_ms": 10_000}
    async with start(config) as running:
        (other / "p-1.tmp").write_text(json.dumps(record | {"state": "UP"}))
        (other / "p-1.tmp").rename(other / "p-1.json")
        await running.wait_for(lambda: running.rows("payments"))
        assert running.rows("payments")["127.0.0.1:8002"].epoch == 4
        (other / "p-1.json").unlink()
        await trio.sleep(2 * service.TICK_SECONDS)
        assert set(running.rows("payments")) == {"127.0.0.1:8002"}
        await running.wait_for(lambda: running.rows("payments") == {})


@pytest.mark.semantics(
    "discovery", "A file of endpoints is followed; a broken version is said, and changes nothing", "file"
)
async def test_a_file_is_followed_and_a_broken_one_is_said(broker, start, short_path: Path) -> None:
    file = short_path / "services.toml"
    file.write_text('[[services.payments]]\naddress = "h:1"\n')
    async with (
        broker.join() as cli,
        cli.subscribe(EVENTS, Happening) as events,
        start(Config(file=str(file))) as running,
    ):
        assert set(running.rows("payments")) == {"h:1"}
        file.write_text('[[services.payments]]\naddress = "h:23"\n')
        await running.wait_for(lambda: set(running.rows("payments")) == {"h:23"})
        file.write_text("[[services.payments]\n")
        with trio.fail_after(5):
            assert "services.toml:1:" in (await anext(events)).message
        assert set(running.rows("payments")) == {"h:23"}


async def test_a_static_endpoint_with_a_path_is_healthy_while_it_answers(start) -> None:
    answer = b"HTTP/1.1 503 No\r\ncontent-length: 0\r\n\r\n"

    async def handler(stream: trio.SocketStream) -> None:
        await stream.receive_some()
        await stream.send_all(answer)

    (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
    address = f"127.0.0.1:{listener.socket.getsockname()[1]}"
    config = Config(
        services={"payments": (StaticEndpoint(address, health="/healthz"),)},
        health=HealthChecks(interval="20ms", timeout="1s"),
    )
    async with trio.open_nursery() as nursery:
        nursery.start_soon(trio.serve_listeners, handler, [listener])
        async with start(config) as running:
            assert not running.rows("payments")[address].healthy
            answer = b"HTTP/1.1 204 No Content\r\n\r\n"
            await running.wait_for(lambda: running.rows("payments")[address].healthy)
            answer = b"HTTP/1.1 503 No\r\ncontent-length: 0\r\n\r\n"
            await running.wait_for(lambda: not running.rows("payments")[address].healthy)
        nursery.cancel_scope.cancel()


async def test_an_expired_last_instance_goes_when_probes_confirm_it_and_that_is_said_each_time(broker, start) -> None:
    async with broker.join() as cli, cli.subscribe(EVENTS, Happening) as events, start(Config()) as running:
        for _ in range(2):
            await running.put("/v1/instances/stock/s-1", {"address": "127.0.0.1", "port": 1, "ttl": "1s"})
            await running.wait_for(lambda: running.rows("stock"))
            await running.wait_for(lambda: running.rows("stock") == {})
            with trio.fail_after(5):
                assert (await anext(events)).kind == "lease.gone"


async def test_a_bad_address_does_not_freeze_the_others(broker, start) -> None:
    config = Config(services={"bad": (StaticEndpoint("127.0.0.1:99999"), StaticEndpoint("127.0.0.1:9")), "_x y": ()})
    async with start(config) as running:
        assert set(running.rows("bad")) == {"127.0.0.1:9"}
        await running.put("/v1/instances/stock/s-1", {"address": "127.0.0.1", "port": 1})
        await running.wait_for(lambda: running.rows("stock"))


async def test_it_serves_without_a_registry_and_over_a_stale_socket(broker, start, short_path: Path) -> None:
    (short_path / "registry").write_text("in the way")
    (short_path / "orders").mkdir(mode=0o700)
    await listen_unix(short_path / "orders" / "api.sock").aclose()
    await broker.broker.publish(LIFECYCLE, lifecycle("ready"), retain=True)
    config = Config(instance=Instance(id="o-1", address="127.0.0.1:8001"))
    async with start(config) as running:
        await running.wait_for(lambda: running.rows("orders"))
        (short_path / "registry").unlink()
        await running.wait_for((short_path / "registry").is_dir)


async def test_the_heartbeat_moves(start) -> None:
    async with start(Config()) as running:
        reader = _native.TableReader("endpoints", running.segment)
        pid, first = reader.writer()
        assert pid == os.getpid()
        await running.wait_for(lambda: reader.writer()[1] > first)


async def test_a_newer_writer_ends_it(broker, start) -> None:
    with pytest.RaisesGroup(pytest.RaisesExc(Exception, match="another discovery"), flatten_subgroups=True):
        async with start(Config()) as running:
            _native.TableWriter("endpoints", running.segment)
            await running.put("/v1/instances/stock/s-1", {"address": "h", "port": 1})
            await trio.sleep(5)


async def test_the_verb_ignores_arguments(broker, start) -> None:
    async with start(Config()), broker.join() as cli:
        assert (await cli.request("discovery", SERVICES, Nothing(), Services)).clusters == []


@pytest.mark.semantics("discovery", "Endpoints keep their places when discovery is killed")
async def test_the_process_survives_sigkill_with_its_slots_and_leaves_on_sigterm(broker, segment: int) -> None:
    directory = broker.path.parent
    environ = {**os.environ, "PANNIER_BUS": str(broker.path)}
    config = Config(services={"payments": (StaticEndpoint("h:1"),)}, register=False)

    async def spawn(times: int) -> trio.Process:
        token = broker.grants.issue(
            "discovery", topics=[SERVICES, EVENTS], fds={TABLE: segment}, config=framing.encode(config)
        )
        process = await trio.lowlevel.open_process(
            [sys.executable, "-m", "pannier.sidecars.discovery"], env={**environ, "PANNIER_TOKEN": token}
        )
        await broker.wait_seen("ready", "discovery", times)
        return process

    running = Running(None, directory, segment)
    with trio.fail_after(20):
        process = await spawn(1)
        try:
            await running.put("/v1/instances/stock/s-1", {"address": "h", "port": 7, "ttl": "1m", "epoch": 5})
            await running.wait_for(lambda: running.rows("stock"))
            before = running.rows("stock")
        finally:
            process.kill()
        await process.wait()
        process = await spawn(2)
        try:
            assert running.rows("stock") == before
            assert await running.put("/v1/instances/stock/s-1", {"address": "h", "port": 8, "epoch": 4}) == 409
            process.terminate()
            assert await process.wait() == 0
        finally:
            process.kill()
    assert not (directory / "api.sock").exists()
    assert running.rows("stock") == before
