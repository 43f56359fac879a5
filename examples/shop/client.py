"""An HTTP/1.1 client for the load: keep-alive connections, a bounded number of them, and not one retry.

A load that repaired what it measures would be worthless, so a connection that breaks is a failed request. A connection
that lay idle for 30 s is not used again: servers close at 60 s, and a request crossing with that close would count
against them unjustly.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

import h11
import trio

IDLE_SECONDS = 30.0
CHUNK = 8 * 1024
Headers = tuple[tuple[str, str], ...]


class Broken(Exception):
    """No whole answer came: the connection was refused, reset, or did not speak HTTP."""


@dataclass(frozen=True, slots=True)
class Request:
    method: str
    path: str
    headers: Headers = ()
    body: bytes = b""
    chunked: bool = False


@dataclass(frozen=True, slots=True)
class Response:
    status: int
    headers: dict[str, str]
    body: bytes


@dataclass(slots=True)
class _Connection:
    stream: trio.SocketStream
    protocol: h11.Connection
    idle_since: float = 0.0


class Pool:
    """At most `limit` connections to one server; a request waits for its turn."""

    def __init__(self, host: str, port: int, *, limit: int) -> None:
        self._host, self._port = host, port
        self._turn = trio.CapacityLimiter(limit)
        self._idle: list[_Connection] = []

    async def exchange(self, request: Request) -> Response:
        """One request, one answer. Raises Broken; cancelling it closes the connection."""
        async with self._turn:
            connection = self._take() or await self._connect()
            try:
                response = await _exchange(connection, request, f"{self._host}:{self._port}")
            except (OSError, trio.BrokenResourceError, trio.ClosedResourceError, h11.ProtocolError) as error:
                raise Broken(f"{type(error).__name__}: {error}") from error
            finally:
                self._put_back(connection)
            return response

    def close(self) -> None:
        while self._idle:
            self._idle.pop().stream.socket.close()

    async def _connect(self) -> _Connection:
        try:
            stream = await trio.open_tcp_stream(self._host, self._port)
        except OSError as error:
            raise Broken(f"connect: {error}") from error
        return _Connection(stream, h11.Connection(h11.CLIENT))

    def _take(self) -> _Connection | None:
        while self._idle:
            connection = self._idle.pop()
            if trio.current_time() - connection.idle_since < IDLE_SECONDS:
                return connection
            connection.stream.socket.close()
        return None

    def _put_back(self, connection: _Connection) -> None:
        """Keep it if both sides are done with the exchange and neither wants to close."""
        if connection.protocol.our_state is h11.DONE and connection.protocol.their_state is h11.DONE:
            connection.protocol.start_next_cycle()
            connection.idle_since = trio.current_time()
            self._idle.append(connection)
        else:
            connection.stream.socket.close()


@asynccontextmanager
async def open_pool(host: str, port: int, *, limit: int = 32) -> AsyncIterator[Pool]:
    pool = Pool(host, port, limit=limit)
    try:
        yield pool
    finally:
        pool.close()


async def _exchange(connection: _Connection, request: Request, host: str) -> Response:
    protocol, stream = connection.protocol, connection.stream
    framing: Headers = ()
    if request.chunked:
        framing = (("Transfer-Encoding", "chunked"),)
    elif request.body or request.method in ("POST", "PUT"):
        framing = (("Content-Length", str(len(request.body))),)
    head = h11.Request(method=request.method, target=request.path, headers=[("Host", host), *request.headers, *framing])
    outgoing = protocol.send(head) or b""
    step = CHUNK if request.chunked else max(1, len(request.body))
    for start in range(0, len(request.body), step):
        outgoing += protocol.send(h11.Data(data=request.body[start : start + step])) or b""
        if request.chunked:
            await stream.send_all(outgoing)
            outgoing = b""
    await stream.send_all(outgoing + (protocol.send(h11.EndOfMessage()) or b""))
    return await _receive(protocol, stream)


async def _receive(protocol: h11.Connection, stream: trio.SocketStream) -> Response:
    status, headers, body = 0, {}, bytearray()
    while True:
        event = protocol.next_event()
        if event is h11.NEED_DATA:
            protocol.receive_data(await stream.receive_some(64 * 1024))
        elif isinstance(event, h11.Response):
            status = event.status_code
            headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in event.headers}
        elif isinstance(event, h11.Data):
            body += event.data
        elif isinstance(event, h11.EndOfMessage):
            return Response(status, headers, bytes(body))
        elif not isinstance(event, h11.InformationalResponse):
            raise h11.RemoteProtocolError(f"the connection ended before the answer: {event!r}")
