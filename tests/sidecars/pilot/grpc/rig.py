"""A server of gRPC in this process, and a client that speaks HTTP/2 as rudely as it likes."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, TypeVar

import trio
import trio.testing
from h2 import events
from h2.config import H2Configuration
from h2.connection import H2Connection
from pannier.sidecars.pilot.grpc.call import Call, Handler
from pannier.sidecars.pilot.grpc.limits import Limits
from pannier.sidecars.pilot.grpc.server import serve_grpc
from pannier.sidecars.pilot.grpc.wire import framed

E = TypeVar("E", bound=events.Event)
PATIENCE_SECONDS = 120


async def echo(call: Call) -> None:
    while (message := await call.receive()) is not None:
        await call.send(message)


@dataclass
class Endless:
    """A handler that sends until it is ended, and knows how many of it there are."""

    message: bytes = bytes(10_000)
    running: int = 0
    ended: trio.Event = field(default_factory=trio.Event)

    async def handle(self, call: Call) -> None:
        self.running += 1
        try:
            while True:
                await call.send(self.message)
        finally:
            self.running -= 1
            self.ended.set()


@dataclass
class Waiting:
    """A handler that takes no message, and knows when it has begun and ended."""

    begun: trio.Event = field(default_factory=trio.Event)
    ended: trio.Event = field(default_factory=trio.Event)
    running: int = 0

    async def handle(self, call: Call) -> None:
        self.running += 1
        self.begun.set()
        try:
            await trio.sleep_forever()
        finally:
            self.running -= 1
            self.ended.set()


@asynccontextmanager
async def serving(handlers: Mapping[str, Handler], limits: Limits | None = None) -> AsyncIterator[str]:
    """Its address, on a real socket."""
    (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
    async with trio.open_nursery() as nursery:
        nursery.start_soon(_serve, listener, handlers, limits)
        yield f"127.0.0.1:{listener.socket.getsockname()[1]}"
        nursery.cancel_scope.cancel()


async def _serve(
    listener: trio.abc.Listener[trio.abc.Stream], handlers: Mapping[str, Handler], limits: Limits | None
) -> None:
    await serve_grpc(listener, handlers, limits=limits)


class Memory(trio.abc.Listener[trio.abc.Stream]):
    """A listener without sockets, for time that is not real. With `lockstep`, what is not read cannot be written."""

    def __init__(self, *, lockstep: bool = False) -> None:
        self._pair = trio.testing.lockstep_stream_pair if lockstep else trio.testing.memory_stream_pair
        self._give, self._take = trio.open_memory_channel[trio.abc.Stream](100)

    async def accept(self) -> trio.abc.Stream:
        return await self._take.receive()

    async def aclose(self) -> None:
        await self._take.aclose()

    async def connect(self) -> Client:
        ours, theirs = self._pair()
        await self._give.send(theirs)
        return Client(ours)


@asynccontextmanager
async def in_memory(
    handlers: Mapping[str, Handler], limits: Limits | None = None, *, lockstep: bool = False
) -> AsyncIterator[Memory]:
    memory = Memory(lockstep=lockstep)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(_serve, memory, handlers, limits)
        yield memory
        nursery.cancel_scope.cancel()


class Client:
    """A connection whose every frame is ours to choose. It acknowledges nothing by itself but settings."""

    def __init__(self, stream: trio.abc.Stream) -> None:
        self.stream = stream
        self.h2 = H2Connection(
            H2Configuration(
                client_side=True,
                header_encoding="utf-8",
                validate_outbound_headers=False,
                normalize_outbound_headers=False,
                validate_inbound_headers=True,
            )
        )
        self.seen: list[events.Event] = []
        self.closed = False
        self.reads_on = False  # data is counted, given back to the windows and forgotten
        self.received = 0

    async def begin(self) -> Client:
        self.h2.initiate_connection()
        await self.flush()
        return self

    def call(self, path: str, *messages: bytes, end: bool = True, **headers: str) -> int:
        """Begins a call; what is to be said of it is not on its way before `flush`."""
        stream = self.h2.get_next_available_stream_id()
        fields = {
            ":method": "POST",
            ":scheme": "http",
            ":path": path,
            ":authority": "test",
            "content-type": "application/grpc",
            "te": "trailers",
        } | {name.replace("__", ":").replace("_", "-"): value for name, value in headers.items()}
        self.h2.send_headers(stream, list(fields.items()))
        for message in messages:
            self.h2.send_data(stream, framed(message))
        if end:
            self.h2.end_stream(stream)
        return stream

    async def flush(self) -> None:
        await self.send(self.h2.data_to_send())

    async def send(self, wire: bytes) -> None:
        if wire:
            await self.stream.send_all(wire)

    async def read(self) -> bool:
        """Whatever comes next; False when nothing comes any more."""
        try:
            data = await self.stream.receive_some(65_536)
        except trio.BrokenResourceError:
            data = b""
        if not data:
            self.closed = True
            return False
        for event in self.h2.receive_data(bytes(data)):
            if self.reads_on and isinstance(event, events.DataReceived):
                self.received += len(event.data or b"")
                self.h2.acknowledge_received_data(event.flow_controlled_length or 0, event.stream_id or 0)
            else:
                self.seen.append(event)
        await self.flush()
        return True

    async def until(self, condition: Callable[[], bool]) -> None:
        """Reads until that holds; fails if the connection ends before."""
        with trio.fail_after(PATIENCE_SECONDS):
            while not condition():
                assert await self.read(), f"the connection has ended: {self.seen[-3:]}"

    async def until_closed(self) -> None:
        with trio.fail_after(PATIENCE_SECONDS):
            while await self.read():
                pass

    def of(self, kind: type[E], stream: int | None = None) -> list[E]:
        """Events of that kind, of that stream."""
        return [
            event
            for event in self.seen
            if isinstance(event, kind) and (stream is None or getattr(event, "stream_id", None) == stream)
        ]

    def headers(self, stream: int) -> dict[str, str]:
        """All header fields and trailers of an answer."""
        found: dict[str, str] = {}
        for event in [*self.of(events.ResponseReceived, stream), *self.of(events.TrailersReceived, stream)]:
            fields: Any = event.headers
            found.update(fields)
        return found

    def data(self, stream: int) -> bytes:
        return b"".join(event.data or b"" for event in self.of(events.DataReceived, stream))

    async def answer(self, stream: int) -> dict[str, str]:
        """Reads until the stream has ended, whichever way; its header fields."""
        await self.until(lambda: bool(self.of(events.StreamEnded, stream) or self.of(events.StreamReset, stream)))
        return self.headers(stream)

    def goodbye(self) -> int | None:
        """The code of the GOAWAY that was sent."""
        found = self.of(events.ConnectionTerminated)
        return None if not found or found[0].error_code is None else int(found[0].error_code)
