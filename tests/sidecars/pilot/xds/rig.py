"""A pilot that serves xDS, as far as that matters here, and instances that come, drain and go. Everything real, in this
process, so that what clients have said can be asked of it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import trio
from pannier.shared.instances import Key, State
from pannier.shared.unix import listen_unix
from pannier.sidecars.pilot.documents.policy import Policy
from pannier.sidecars.pilot.grpc.call import Call
from pannier.sidecars.pilot.grpc.server import serve_grpc
from pannier.sidecars.pilot.registry.entries import Entry
from pannier.sidecars.pilot.registry.fanout import Fanout
from pannier.sidecars.pilot.registry.registry import Registry
from pannier.sidecars.pilot.stores.sqlite import open_sqlite
from pannier.sidecars.pilot.xds.service import ClientStatus, Xds

PATIENCE_S = 20.0
ECHO = "/test.Echo/Who"


async def wait_until(condition: Callable[[], object], *, seconds: float = PATIENCE_S, every: float = 0.02) -> None:
    """Returns once the condition holds; fails after `seconds`."""
    with trio.fail_after(seconds):
        while not condition():  # noqa: ASYNC110 what is waited for is another process
            await trio.sleep(every)


@dataclass
class Stages:
    """The policies in force."""

    of: dict[str, Policy] = field(default_factory=dict)

    def policy(self, stage: str) -> Policy:
        return self.of.get(stage, Policy())


@dataclass
class Pilot:
    """Listens for xDS on a port of the loopback, and on a Unix socket."""

    registry: Registry
    xds: Xds
    stages: Stages
    port: int
    socket: Path

    async def register(self, service: str, name: str, port: int, **metadata: str) -> None:
        """An instance, which never has to renew as long as a test lasts."""
        entry = Entry(0, f"127.0.0.1:{port}", State.UP, 3_600_000, metadata)
        await self.registry.register((service, name), entry, state=State.UP)

    async def move(self, key: Key, state: State) -> None:
        (epoch,) = (one.epoch for one in self.registry.instances(key[0]) if one.id == key[1])
        await self.registry.move(key, epoch, state)

    async def leave(self, key: Key) -> None:
        await self.registry.leave(key, None)

    def client(self, node: str) -> ClientStatus | None:
        """A connected client that has answered everything."""
        return next((one for one in self.xds.statistics() if one.node == node), None)

    def settled(self, node: str) -> bool:
        """Whether a client knows all there is, and has said so."""
        client = self.client(node)
        return client is not None and all(
            not one.waiting_s and one.sent == one.accepted + one.rejected for one in client.types
        )


@asynccontextmanager
async def pilot(folder: Path, *, port: int = 0) -> AsyncIterator[Pilot]:
    """A pilot, and all that runs for it. What is registered stays in the folder."""
    async with open_sqlite(folder / "store.sqlite") as store, trio.open_nursery() as nursery:
        registry = Registry(store)
        await nursery.start(registry.follow)
        nursery.start_soon(registry.tend)
        fanout = Fanout(registry)
        nursery.start_soon(fanout.run)
        stages = Stages()
        xds = Xds(registry, fanout, stages)
        (listener,) = await trio.open_tcp_listeners(port, host="127.0.0.1")
        nursery.start_soon(serve_grpc, listener, xds.handlers())
        path = folder / "xds.sock"
        nursery.start_soon(serve_grpc, listen_unix(path), xds.handlers())
        yield Pilot(registry, xds, stages, listener.socket.getsockname()[1], path)
        nursery.cancel_scope.cancel()


@dataclass
class Origin:
    """An instance of something: it says its name to whoever asks, over HTTP/1.1 or as a gRPC service, and counts.
    `close` is what `kill -9` is to those who call it."""

    name: str
    port: int
    scope: trio.CancelScope
    answered: int = 0

    def close(self) -> None:
        self.scope.cancel()


async def serve_http_origin(name: str, *, task_status: trio.TaskStatus[Origin]) -> None:
    """Until its scope is cancelled."""
    with trio.CancelScope() as scope:
        (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1", backlog=1024)
        origin = Origin(name, listener.socket.getsockname()[1], scope)
        body = f"HTTP/1.1 200 OK\r\ncontent-length: {len(name)}\r\n\r\n{name}".encode()

        async def answer(stream: trio.SocketStream) -> None:
            async with stream:
                heads = b""
                try:
                    while data := await stream.receive_some(65_536):
                        *whole, heads = (heads + data).split(b"\r\n\r\n")
                        origin.answered += len(whole)
                        await stream.send_all(body * len(whole))
                except trio.BrokenResourceError:
                    pass

        await trio.serve_listeners(answer, [listener], task_status=_Started(task_status, origin))


async def serve_grpc_origin(name: str, *, task_status: trio.TaskStatus[Origin]) -> None:
    """The same over gRPC: one unary call, `ECHO`, of bytes."""
    with trio.CancelScope() as scope:
        (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1", backlog=1024)
        origin = Origin(name, listener.socket.getsockname()[1], scope)

        async def who(call: Call) -> None:
            await call.receive()
            origin.answered += 1
            await call.send(name.encode())

        task_status.started(origin)
        await serve_grpc(listener, {ECHO: who})


@dataclass
class _Started(trio.TaskStatus[list[trio.SocketListener]]):
    """Hands on that somebody has started."""

    whose: trio.TaskStatus[Origin]
    origin: Origin

    def started(self, value: object = None) -> None:
        self.whose.started(self.origin)
