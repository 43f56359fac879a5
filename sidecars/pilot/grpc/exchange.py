"""One call of a connection: what has come of it, what it waits for, and how it ends."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Mapping
from typing import Protocol

import trio
from pannier.shared.errors import PannierError
from pannier.sidecars.pilot.grpc.call import CallOver, Code, GrpcError
from pannier.sidecars.pilot.grpc.wire import PREFIX_BYTES, Deframer, framed

_log = logging.getLogger("pannier.pilot")


class Line(Protocol):
    """The connection, as its calls see it."""

    peer: str

    def taken(self, call: Exchange, size: int) -> None:
        """The handler has taken so many bytes of what was sent."""

    async def send(self, call: Exchange, wire: bytes) -> None:
        """Sends one message. Raises CallOver."""


class Exchange:
    """A `Call` for its handler. What is public beyond that is for the connection that it runs over."""

    def __init__(self, line: Line, stream: int, metadata: Mapping[str, str], message_bytes: int) -> None:
        self.metadata = metadata
        self.peer = line.peer
        self.stream = stream
        self.scope = trio.CancelScope()
        self.reason: GrpcError | None = None  # why it was ended, if not by its handler
        self.deframer = Deframer(metadata.get("grpc-encoding", ""), message_bytes)
        self.messages: deque[bytes] = deque()
        self.news = trio.lowlevel.ParkingLot()
        self.window = trio.lowlevel.ParkingLot()
        self.held = 0  # bytes that were sent and that nobody has taken
        self.owed = 0  # bytes of its window that were not given back
        self.half_closed = False
        self.begun = False  # its head was sent
        self.torn = False  # half a message was sent
        self._line = line
        self._sending = trio.Lock()

    async def receive(self) -> bytes | None:
        await trio.lowlevel.checkpoint()
        while not self.messages:
            if self.half_closed:
                return None
            await self.news.park()
        message = self.messages.popleft()
        self._line.taken(self, PREFIX_BYTES + len(message))
        return message

    async def send(self, message: bytes) -> None:
        async with self._sending:
            await self._line.send(self, framed(message))

    def end(self, reason: GrpcError) -> None:
        """Ends it with that status, whatever its handler does."""
        self.reason = self.reason or reason
        self.scope.cancel()


def status_of(error: Exception, path: str) -> GrpcError:
    """How a call ends whose handler has raised that. A fault of ours is logged."""
    if isinstance(error, ExceptionGroup):
        expected, fault = error.split((GrpcError, CallOver))
        if fault is None and expected is not None:
            error = _first(expected.subgroup(GrpcError) or expected)
    if isinstance(error, GrpcError):
        return error
    if isinstance(error, CallOver):
        return GrpcError(Code.CANCELLED, error.message)
    _log.error("%s failed", path, exc_info=error)
    return GrpcError(Code.INTERNAL, "the pilot failed on this call; its log says why")


def _first(error: ExceptionGroup[PannierError] | PannierError) -> PannierError:
    return _first(error.exceptions[0]) if isinstance(error, ExceptionGroup) else error
