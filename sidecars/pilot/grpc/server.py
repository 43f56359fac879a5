"""gRPC over HTTP/2 in clear text, for whoever knows beforehand that it is that: listening, and who may connect.

Rules:
- When there are as many connections as are granted, the one that has been without a call for longest makes room.
- One task looks at the clock for all connections: a timer for each would cost more than what most of them do.
- Who is cancelled says so: GOAWAY first, a moment for the calls that are under way, then UNAVAILABLE.

Refused: grpcio as a server (threads of its own beside trio, and no bound for what an unread stream holds), TLS (the
pilot has none over HTTP either; whoever needs it puts a proxy in front).
"""

from __future__ import annotations

import errno
import logging
from collections.abc import Mapping
from typing import Final

import trio
from pannier.shared.ticks import next_tick
from pannier.shared.unix import credentials
from pannier.sidecars.pilot.grpc.call import Handler
from pannier.sidecars.pilot.grpc.connection import Connection, Shared
from pannier.sidecars.pilot.grpc.limits import Limits
from pannier.sidecars.pilot.grpc.tally import Tally

_TICK_SECONDS: Final = 1.0
_ACCEPT_PAUSE_SECONDS: Final = 0.1
_OUT_OF_RESOURCES: Final = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ENOBUFS})

_log = logging.getLogger("pannier.pilot")


async def serve_grpc(
    listener: trio.abc.Listener[trio.abc.Stream],
    handlers: Mapping[str, Handler],
    *,
    limits: Limits | None = None,
    tally: Tally | None = None,
) -> None:
    """Serves calls on `listener` until cancelled, by their path such as `/package.Service/Method`; then closes it, and
    each connection in good order, within twice `drain_seconds`.

    Raises what `accept` raises, except for a lack of descriptors or memory, which is waited out.
    """
    server = _Server(Shared(handlers, limits or Limits(), tally or Tally()))
    async with trio.open_nursery() as nursery:
        connections: trio.Nursery = await nursery.start(server.hold)
        try:
            async with listener:
                while True:
                    try:
                        stream = await listener.accept()
                    except OSError as error:
                        if error.errno not in _OUT_OF_RESOURCES:
                            raise
                        _log.warning("cannot accept a connection: %s; trying again", error)
                        await trio.sleep(_ACCEPT_PAUSE_SECONDS)
                        continue
                    await server.wait_room(stream)
                    connections.start_soon(server.serve, stream)
        finally:
            server.leave()


class _Server:
    """The connections of one listener."""

    def __init__(self, shared: Shared) -> None:
        self._limits = shared.limits
        self._shared = shared
        self._connections: set[Connection] = set()
        self._room = trio.Semaphore(self._limits.connections)
        self._leaving = trio.Event()
        self._empty = trio.Event()

    async def hold(self, *, task_status: trio.TaskStatus[trio.Nursery]) -> None:
        """Keeps the connections from what cancels the listener, until they have ended in good order."""
        await trio.lowlevel.checkpoint_if_cancelled()  # else nobody would be there to end it
        with trio.CancelScope(shield=True):
            async with trio.open_nursery() as connections:
                connections.start_soon(self._tend)
                task_status.started(connections)
                await self._leaving.wait()
                for end in (Connection.go_away, Connection.end_calls):
                    for connection in tuple(self._connections):
                        end(connection)
                    with trio.move_on_after(self._limits.drain_seconds):
                        await self._wait_empty()
                connections.cancel_scope.cancel()

    def leave(self) -> None:
        """No more connections come."""
        self._leaving.set()

    async def wait_room(self, stream: trio.abc.Stream) -> None:
        """Returns when this connection may be served, too."""
        if self._room.value == 0:
            if self._shared.idle:
                next(iter(self._shared.idle)).go_away()
            else:
                self._shared.wanted = True
        try:
            await self._room.acquire()
        except trio.Cancelled:
            await trio.aclose_forcefully(stream)
            raise
        finally:
            self._shared.wanted = False

    async def serve(self, stream: trio.abc.Stream) -> None:
        connection = Connection(stream, self._shared, peer=_name(stream))
        self._connections.add(connection)
        try:
            await connection.run()
        finally:
            self._connections.discard(connection)
            self._room.release()
            if not self._connections:
                self._empty.set()

    async def _wait_empty(self) -> None:
        while self._connections:
            self._empty = trio.Event()
            await self._empty.wait()

    async def _tend(self) -> None:
        while True:
            await next_tick(_TICK_SECONDS)
            now = trio.current_time()
            for connection in tuple(self._connections):
                connection.tend(now)


def _name(stream: trio.abc.Stream) -> str:
    """Who is at the other end, for logs."""
    if not isinstance(stream, trio.SocketStream):
        return "memory"
    socket = stream.socket
    try:
        if socket.family == trio.socket.AF_UNIX:
            return f"unix:{credentials(socket).pid}"
        host, port = socket.getpeername()[:2]
    except OSError:
        return "gone"
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
