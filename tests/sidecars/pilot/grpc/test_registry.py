"""The registry over gRPC, asked by a client that was generated from `registry.proto`."""

from __future__ import annotations

import importlib.resources
import re
import threading
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import grpc
import pytest
import trio
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from grpc_tools import protoc
from pannier.shared.errors import Unreachable
from pannier.sidecars.pilot import grpc as package
from pannier.sidecars.pilot.grpc.registry import registry_handlers
from pannier.sidecars.pilot.grpc.schema import MESSAGES, PACKAGE, SERVICE, TABLE
from pannier.sidecars.pilot.registry.registry import Full, Registry
from pannier.sidecars.pilot.service import Settings, serve
from pannier.sidecars.pilot.stores.sqlite import open_sqlite

from tests.sidecars.pilot.grpc.rig import PATIENCE_SECONDS, in_memory, serving

T = TypeVar("T")
TOKEN = "s3cret-s3cret-s3cret"
A = {"service": "orders", "id": "a"}
HERE = A | {"address": "10.0.0.1", "port": 80}


@pytest.fixture(scope="session")
def published(tmp_path_factory: pytest.TempPathFactory) -> descriptor_pb2.FileDescriptorProto:
    """What protoc makes of the .proto that ships."""
    out = tmp_path_factory.mktemp("proto") / "registry.bin"
    with importlib.resources.as_file(importlib.resources.files(package) / "registry.proto") as path:
        assert protoc.main(["protoc", f"-I{path.parent}", f"--descriptor_set_out={out}", str(path)]) == 0
    (file,) = descriptor_pb2.FileDescriptorSet.FromString(out.read_bytes()).file
    return file


def bare(message: descriptor_pb2.DescriptorProto) -> list[tuple[object, ...]]:
    """What of a message is on the wire, or decides how it is read."""
    fields = [
        (field.number, field.name, field.type, field.label, field.type_name.rpartition(".")[2], field.proto3_optional)
        for field in sorted(message.field, key=lambda field: field.number)
    ]
    nested = [(inner.name, inner.options.map_entry, *bare(inner)) for inner in message.nested_type]
    return [*fields, *sorted(nested)]


def test_the_table_is_what_is_published(published: descriptor_pb2.FileDescriptorProto) -> None:
    ours = descriptor_pb2.FileDescriptorProto()
    MESSAGES.pool.FindFileContainingSymbol(f"{PACKAGE}.Instance").CopyToProto(ours)
    assert published.package == ours.package == PACKAGE
    assert {message.name: bare(message) for message in published.message_type} == {
        message.name: bare(message) for message in ours.message_type
    }
    (theirs,), (enum,) = published.enum_type, ours.enum_type
    assert [(v.name, v.number) for v in theirs.value] == [(v.name, v.number) for v in enum.value]
    assert len(TABLE[PACKAGE]) == len(published.message_type) + 1


def test_nothing_of_it_is_in_the_pool_of_the_process() -> None:
    with pytest.raises(KeyError):
        descriptor_pool.Default().FindMessageTypeByName(f"{PACKAGE}.Instance")


class Client:
    """Calls by name, as the .proto has them."""

    def __init__(self, published: descriptor_pb2.FileDescriptorProto, channel: grpc.Channel, token: str) -> None:
        pool = descriptor_pool.DescriptorPool()
        self._file = pool.AddSerializedFile(published.SerializeToString())
        self._service = pool.FindServiceByName(SERVICE)
        self._channel = channel
        self._metadata = [("authorization", f"Bearer {token}")] if token else []

    def __call__(self, name: str, _message: bytes | None = None, **fields: Any) -> Any:
        method = self._service.methods_by_name[name]
        asked = message_factory.GetMessageClass(method.input_type)
        kind = self._channel.unary_stream if method.server_streaming else self._channel.unary_unary
        call = kind(
            f"/{SERVICE}/{name}",
            request_serializer=lambda request: request if isinstance(request, bytes) else request.SerializeToString(),
            response_deserializer=message_factory.GetMessageClass(method.output_type).FromString,
        )
        request = asked(**fields) if _message is None else _message
        return call(request, metadata=self._metadata, timeout=PATIENCE_SECONDS)

    def refused(self, name: str, message: bytes | None = None, **fields: Any) -> tuple[str, str]:
        with pytest.raises(grpc.RpcError) as caught:
            answer = self(name, message, **fields)
            if name == "Watch":
                next(answer)
        error: Any = caught.value
        return error.code().name, error.details()


@dataclass
class Pilot:
    registry: Registry
    published: descriptor_pb2.FileDescriptorProto

    async def ask(self, ask: Callable[[Client], T], *, token: str = "", shown: str = "") -> T:
        """What is asked in a thread, of a server of its own."""
        async with serving(registry_handlers(self.registry, token=token)) as address:

            def run() -> T:
                with grpc.insecure_channel(address, options=[("grpc.use_local_subchannel_pool", 1)]) as channel:
                    return ask(Client(self.published, channel, shown))

            with trio.fail_after(PATIENCE_SECONDS):
                return await trio.to_thread.run_sync(run)


@pytest.fixture
async def pilot(
    tmp_path: Path, nursery: trio.Nursery, published: descriptor_pb2.FileDescriptorProto
) -> AsyncIterator[Pilot]:
    async with open_sqlite(tmp_path / "store") as store:
        registry = Registry(store)
        await nursery.start(registry.follow)
        yield Pilot(registry, published)
        nursery.cancel_scope.cancel()


async def test_register_renew_drain_leave(pilot: Pilot) -> None:
    def ask(call: Client) -> None:
        answer = call("Register", **HERE, ttl_ms=6000, metadata={"version": "2"})
        assert (answer.epoch, answer.address, answer.ttl_ms, answer.renew_ms, answer.created) == (
            1,
            "10.0.0.1:80",
            6000,
            2000,
            True,
        )
        assert not call("Renew", **HERE, ttl_ms=6000, metadata={"version": "2"}, epoch=1).created
        drained = call("Drain", **A, epoch=1)
        assert (drained.epoch, drained.state) == (1, 3)
        call("Renew", **HERE, ttl_ms=6000, metadata={"version": "2"}, epoch=1)
        (service,) = call("Get", services=["orders"]).services
        (instance,) = service.instances
        assert (service.name, instance.id, instance.state, instance.epoch) == ("orders", "a", 3, 1)
        assert (dict(instance.metadata), instance.suspect) == ({"version": "2"}, False)
        call("Deregister", **A, epoch=1)
        assert not call("Get").services
        assert [service.name for service in call("Get", services=["orders", "orders"]).services] == ["orders"]

    await pilot.ask(ask)


async def test_a_whole_ttl_is_the_default_and_the_state_is_said_or_kept(pilot: Pilot) -> None:
    def ask(call: Client) -> None:
        answer = call("Register", service="orders", id="a", address="unix:/run/a.sock", state=1)
        assert (answer.ttl_ms, answer.renew_ms) == (10_000, 3333)
        for state, expected in ((0, 1), (2, 2), (0, 2), (4, 4)):
            call("Renew", service="orders", id="a", address="unix:/run/a.sock", state=state, epoch=1)
            assert call("Get").services[0].instances[0].state == expected

    await pilot.ask(ask)


@pytest.mark.parametrize(
    ("name", "fields"),
    [
        ("Register", HERE | {"epoch": 1}),
        ("Renew", A | {"address": "10.0.0.3:80", "epoch": 2}),
        ("Drain", A | {"epoch": 1}),
        ("Deregister", A | {"epoch": 1}),
    ],
)
async def test_an_older_life_is_told_which_epoch_would_do(pilot: Pilot, name: str, fields: dict[str, Any]) -> None:
    def ask(call: Client) -> None:
        call("Register", **A, address="10.0.0.2:80", epoch=2)
        before = call("Get").services
        code, text = call.refused(name, **fields)
        assert (code, "in force" in text, "epoch 3 or greater" in text) == ("FAILED_PRECONDITION", True, True)
        assert call("Get").services == before

    await pilot.ask(ask)


WRONG: list[tuple[str, dict[str, Any], str]] = [
    ("Register", {}, "INVALID_ARGUMENT"),
    ("Register", A, "INVALID_ARGUMENT"),
    ("Register", A | {"address": "10.0.0.1"}, "INVALID_ARGUMENT"),
    ("Register", HERE | {"port": 65536}, "INVALID_ARGUMENT"),
    ("Register", HERE | {"epoch": -1}, "INVALID_ARGUMENT"),
    ("Register", HERE | {"ttl_ms": 999}, "INVALID_ARGUMENT"),
    ("Register", HERE | {"ttl_ms": 3_600_001}, "INVALID_ARGUMENT"),
    ("Register", HERE | {"state": 7}, "INVALID_ARGUMENT"),
    ("Register", HERE | {"metadata": {f"k{n}": "v" for n in range(17)}}, "INVALID_ARGUMENT"),
    ("Register", HERE | {"metadata": {"k": "v" * 257}}, "INVALID_ARGUMENT"),
    ("Register", HERE | {"metadata": {"": "v"}}, "INVALID_ARGUMENT"),
    ("Register", HERE | {"service": "Orders"}, "INVALID_ARGUMENT"),
    ("Register", HERE | {"id": "../x"}, "INVALID_ARGUMENT"),
    ("Renew", HERE | {"id": "a\n"}, "INVALID_ARGUMENT"),
    ("Drain", A, "INVALID_ARGUMENT"),
    ("Drain", A | {"epoch": 1}, "NOT_FOUND"),
    ("Deregister", A, "NOT_FOUND"),
    ("Deregister", A | {"epoch": -5}, "INVALID_ARGUMENT"),
    ("Get", {"services": [f"s{n}" for n in range(10_001)]}, "INVALID_ARGUMENT"),
    ("Watch", {"after": 1}, "OUT_OF_RANGE"),
    ("Watch", {"after": -1}, "OUT_OF_RANGE"),
]


async def test_what_is_wrong_is_said_and_changes_nothing(pilot: Pilot) -> None:
    def ask(call: Client) -> None:
        for name, fields, code in WRONG:
            got, text = call.refused(name, **fields)
            assert (got, bool(text)) == (code, True), (name, fields)
        assert not call("Get").services

    await pilot.ask(ask)


async def test_what_is_no_message_is_said(pilot: Pilot) -> None:
    def ask(call: Client) -> None:
        for name in ("Register", "Renew", "Drain", "Deregister", "Get", "Watch"):
            for wire in (b"\xff", b"\x0a\x05abc", b"\x0a\x02\xff\xfe"):
                code, text = call.refused(name, wire)
                assert (code, "is no" in text) == ("INVALID_ARGUMENT", True), (name, wire)

    await pilot.ask(ask)


@pytest.mark.parametrize("error", [Full("no room"), Unreachable("the store is down", hint="see df")])
async def test_what_cannot_be_done_now_is_unavailable(
    pilot: Pilot, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    async def refuse(*_: object, **__: object) -> None:
        await trio.lowlevel.checkpoint()
        raise error

    monkeypatch.setattr(pilot.registry, "register", refuse)
    code, text = await pilot.ask(lambda call: call.refused("Register", **HERE))
    assert (code, text.startswith(str(error))) == ("UNAVAILABLE", True)


@pytest.mark.parametrize("shown", ["", "wrong", TOKEN[:-1], f"{TOKEN}x"])
async def test_a_change_needs_the_token_and_reading_does_not(pilot: Pilot, shown: str) -> None:
    def ask(call: Client) -> None:
        for name in ("Register", "Renew", "Drain", "Deregister"):
            code, text = call.refused(name, **A)
            assert (code, "token" in text) == ("UNAUTHENTICATED", True)
        assert not call("Get").services
        assert not next(call("Watch")).services

    await pilot.ask(ask, token=TOKEN, shown=shown)
    assert (await pilot.ask(lambda call: call("Register", **HERE), token=TOKEN, shown=TOKEN)).created


async def test_a_watch_tells_everything_and_then_what_changes(pilot: Pilot) -> None:
    def ask(call: Client) -> None:
        call("Register", **HERE)
        watch = call("Watch", services=["orders", "stock"])
        first = next(watch)
        assert [(s.name, [i.id for i in s.instances]) for s in first.services] == [("orders", ["a"]), ("stock", [])]
        call("Register", service="other", id="x", address="10.0.0.9:80")
        call("Register", service="stock", id="b", address="10.0.0.2:80")
        told = next(watch)
        if told.services[0].name == "orders":  # the first state may be ahead of its revision
            told = next(watch)
        assert [(s.name, [i.id for i in s.instances]) for s in told.services] == [("stock", ["b"])]
        call("Deregister", service="stock", id="b")
        gone = next(watch)
        assert [(s.name, len(s.instances)) for s in gone.services] == [("stock", 0)]
        watch.cancel()
        again = next(call("Watch", after=told.revision))
        assert ([s.name for s in again.services], again.revision) == (["stock"], gone.revision)

    await pilot.ask(ask)


async def test_a_large_registry_comes_in_parts(pilot: Pilot, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pannier.sidecars.pilot.grpc.registry.PART_BYTES", 200)

    def ask(call: Client) -> None:
        for number in range(20):
            call("Register", service=f"s{number:02}", id="a", address="10.0.0.1:80")
        names: list[str] = []
        watch = call("Watch")
        revisions = set()
        for told in watch:
            names += [service.name for service in told.services]
            revisions.add(told.revision)
            if not told.more:
                break
        assert names == [f"s{number:02}" for number in range(20)]
        assert len(revisions) == 1

    await pilot.ask(ask)


async def test_a_registry_that_a_client_would_not_take_is_to_be_watched(
    pilot: Pilot, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = "pannier.sidecars.pilot.grpc.registry.WHOLE_BYTES"

    def ask(call: Client) -> None:
        for number in range(20):
            call("Register", service=f"s{number:02}", id="a", address="10.0.0.1:80")
        size = call("Get").ByteSize()
        monkeypatch.setattr(whole, size + 100)
        assert len(call("Get").services) == 20
        monkeypatch.setattr(whole, size - 1)
        code, details = call.refused("Get")
        assert (code, "Watch" in details) == ("RESOURCE_EXHAUSTED", True)
        assert len(call("Get", services=["s00", "s19"]).services) == 2

    await pilot.ask(ask)


async def test_who_calls_and_sends_nothing_is_told(pilot: Pilot, autojump_clock: trio.testing.MockClock) -> None:
    async with in_memory(registry_handlers(pilot.registry)) as memory:
        client = await (await memory.connect()).begin()
        silent, closed = client.call(f"/{SERVICE}/Get", end=False), client.call(f"/{SERVICE}/Get")
        await client.flush()
        assert (await client.answer(closed))["grpc-status"] == "3"
        assert (await client.answer(silent))["grpc-status"] == "3"
        assert 9 <= trio.current_time() <= 12


async def test_two_hundred_register_at_once(pilot: Pilot) -> None:
    def ask(call: Client) -> None:
        created: list[bool] = []

        def register(number: int) -> None:
            created.append(call("Register", service="many", id=f"i{number}", address="10.0.0.1:80").created)

        threads = [threading.Thread(target=register, args=(number,)) for number in range(200)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert created == [True] * 200
        assert len(call("Get", services=["many"]).services[0].instances) == 200

    await pilot.ask(ask)


async def test_a_pilot_serves_it_on_its_own_socket_and_where_it_is_told(
    short_path: Path, nursery: trio.Nursery, published: descriptor_pb2.FileDescriptorProto
) -> None:
    settings = Settings(
        socket=short_path / "pilot.sock",
        store=short_path / "store",
        token=short_path / "token",
        grpc=[("127.0.0.1", 0)],
    )
    told: list[str] = []
    ready = trio.Event()

    def tell(line: str) -> None:
        told.append(line)
        ready.set()

    nursery.start_soon(serve, settings, tell)
    with trio.fail_after(PATIENCE_SECONDS):
        await ready.wait()
    own = short_path / "pilot-grpc.sock"
    assert own.stat().st_mode & 0o777 == 0o600
    found = re.search(r"grpc://(127\.0\.0\.1:\d+)", told[0])
    assert found is not None

    def ask() -> None:
        token = settings.token.read_text().strip()
        with grpc.insecure_channel(f"unix:{own}") as ours, grpc.insecure_channel(found[1]) as theirs:
            assert Client(published, ours, "")("Register", **HERE).created
            assert Client(published, theirs, "").refused("Register", **HERE)[0] == "UNAUTHENTICATED"
            assert not Client(published, theirs, token)("Renew", **HERE, epoch=1).created

    with trio.fail_after(PATIENCE_SECONDS):
        await trio.to_thread.run_sync(ask)
    nursery.cancel_scope.cancel()
