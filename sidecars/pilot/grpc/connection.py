"""One HTTP/2 connection: h2's state machine, its calls, and the two tasks that move its bytes.

- One task reads, one writes, one serves each call. Frames are made where the reason for them is, and go out together:
  who makes them wakes the writer, which takes all there are.
- A call that is not read fills its own window, and waits alone. Those that wait for the connection's window, or for
  room in what is to be written, are woken one after the other.
- Bytes that a peer sends count against the window of their stream until a handler has taken the message; the
  connection's own window is given back at once, so that one slow handler holds up none of the others.
- The reader stops while there is too much to be written: answers to a peer that reads nothing do not pile up.

Refused: h2's `acknowledge_received_data` (it gives back both windows together), its `close_connection` for an orderly
end (nothing can be sent after it), a lock around writes (a call that is cancelled in a write leaves half a frame).
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from typing import Any, Final

import trio
from h2 import events
from h2.errors import ErrorCodes
from h2.exceptions import H2Error
from hyperframe.frame import GoAwayFrame
from pannier.sidecars.pilot.grpc.call import CallOver, Code, GrpcError, Handler
from pannier.sidecars.pilot.grpc.exchange import Exchange, status_of
from pannier.sidecars.pilot.grpc.frames import FrameError, Frames
from pannier.sidecars.pilot.grpc.limits import MAX_SETTINGS, Limits, Patience
from pannier.sidecars.pilot.grpc.machine import machine, metadata_of
from pannier.sidecars.pilot.grpc.tally import Tally
from pannier.sidecars.pilot.grpc.wire import (
    BEGIN,
    Fields,
    http_error,
    speaks_grpc,
    timeout_seconds,
    trailers,
)

_CHUNK: Final = 16_384
_HIGH: Final = 65_536
"""Bytes to be written above which nobody adds any."""
_WINDOW: Final = 65_535
_LINGER_SECONDS: Final = 1.0
_GONE: Final = (trio.BrokenResourceError, trio.ClosedResourceError)
_log = logging.getLogger("pannier.pilot")


class Shared:
    """What the connections of one listener have in common: what is served, the bytes that they hold, who idles."""

    def __init__(self, handlers: Mapping[str, Handler], limits: Limits, tally: Tally) -> None:
        self.handlers = handlers
        self.limits = limits
        self.tally = tally
        self.held = 0
        self.idle: dict[Connection, None] = {}
        """Connections without a call, who has been so for longest first."""
        self.wanted = False
        """Somebody waits for the room of the next one that is."""


class Connection:
    """`run` serves it to its end. `peer` is a text for its handlers."""

    def __init__(self, stream: trio.abc.Stream, shared: Shared, *, peer: str) -> None:
        self.peer = peer
        self.limits = shared.limits
        self._shared = shared
        self._tally = shared.tally
        self._stream = stream
        self._h2 = machine(shared.limits)
        self._calls: dict[int, Exchange] = {}
        self._frames = Frames()
        self._patience = Patience(shared.limits)
        self._scope, self._reading = trio.CancelScope(), trio.CancelScope()
        self._leaving = False  # no call is taken any more
        self._over = False  # nothing is sent any more
        self._out: list[bytes] = []
        self._unsent = 0
        self._to_write = trio.lowlevel.ParkingLot()
        self._written = trio.lowlevel.ParkingLot()
        self._room = trio.lowlevel.ParkingLot()
        self._blocked: dict[Exchange, float] = {}  # whose send waits, since when
        self._owed = 0  # bytes of the connection's window that were not given back
        self._begun = self._heard = trio.current_time()
        self._greeted = self._acknowledged = False
        self._pinged: float | None = None
        self._writing: float | None = None
        self._nursery: trio.Nursery

    async def run(self) -> None:
        """Serves until the peer has left or is sent away; then its calls are cancelled and it is closed."""
        self._shared.idle[self] = None
        self._tally.connections += 1
        try:
            with self._scope:
                async with self._stream:
                    await self._converse()
                    await self._linger()
        except* _GONE:
            pass
        except* Exception:
            _log.exception("a connection over gRPC ended by an error of ours")
        finally:
            self._tally.connections -= 1
            self._shared.idle.pop(self, None)

    def tend(self, now: float) -> None:
        """Looks at the clock: who is silent is pinged, who does not answer or does not read is left."""
        limits = self.limits
        if self._over:
            return
        if not self._greeted:
            late = now - self._begun >= limits.preface_seconds
        elif self._pinged is not None:
            late = now - self._pinged >= limits.pong_seconds
        else:
            late = False
            if now - self._heard >= limits.ping_seconds:
                self._pinged = now
                self._h2.ping(b"pannier\0")
                self._flush()
        stuck = self._writing is not None and now - self._writing >= limits.write_seconds
        for call, since in tuple(self._blocked.items()):
            if now - since >= limits.write_seconds:
                stuck = stuck or self._h2.outbound_flow_control_window <= 0
                call.end(GrpcError(Code.UNAVAILABLE, f"nothing was read for {limits.write_seconds:g} s"))
        if late or stuck:
            self._tally.left += 1
            self._over = True
            self._scope.cancel()

    def go_away(self) -> None:
        """Takes no more calls, and ends when there are none."""
        if not self._leaving and not self._over:
            self._leaving = True
            self._shared.idle.pop(self, None)
            last = self._h2.highest_inbound_stream_id
            self._put(GoAwayFrame(0, last_stream_id=last, error_code=ErrorCodes.NO_ERROR).serialize())
            self._end_if_left()

    def end_calls(self) -> None:
        """Ends what is under way; the peer is told that it may ask again."""
        for call in self._calls.values():
            call.end(GrpcError(Code.UNAVAILABLE, "this pilot is leaving"))

    async def _converse(self) -> None:
        async with trio.open_nursery() as self._nursery:
            self._flush()
            self._nursery.start_soon(self._write)
            with self._reading:
                await self._read()
            self._over = True
            self._scope.deadline = min(self._scope.deadline, trio.current_time() + _LINGER_SECONDS)
            for call in self._calls.values():
                call.scope.cancel()
            self._flush()
            self._to_write.unpark()

    async def _linger(self) -> None:
        """Closing over bytes that were not read would take back what was said last."""
        if isinstance(self._stream, trio.abc.HalfCloseableStream):
            await self._stream.send_eof()
        left = 4 * _CHUNK
        while left > 0 and (data := await self._stream.receive_some(_CHUNK)):
            left -= len(data)

    async def _read(self) -> None:
        """Returns when nothing more is to be read."""
        while data := await self._stream.receive_some(_CHUNK):
            self._heard, self._pinged = trio.current_time(), None
            try:
                before = self._frames.number
                for event in self._h2.receive_data(self._frames.feed(data)):
                    self._greeted = True
                    react = _REACTIONS.get(type(event))
                    if react is not None:
                        react(self, event)
                if self._frames.leaving:
                    self.go_away()
                if not self._patience.frames(self._frames.number - before, self._heard):
                    raise _Abuse(f"more than {self.limits.idle_frames} frames that bring nothing")
            except (_Abuse, FrameError) as abuse:
                self._tally.sent_away += 1
                _log.info("%s is sent away: %s", self.peer, abuse)
                self._h2.close_connection(ErrorCodes.ENHANCE_YOUR_CALM, str(abuse).encode())
                return
            except _Left:
                return
            except H2Error as error:
                self._tally.sent_away += 1
                _log.info("%s is sent away: %s", self.peer, error)
                return
            self._flush()
            while self._unsent >= _HIGH:
                await self._written.park()

    async def _write(self) -> None:
        while True:
            while self._out:
                wire = b"".join(self._out)
                self._out.clear()
                self._unsent = 0
                self._written.unpark_all()
                self._room.unpark()
                self._writing = trio.current_time()
                await self._stream.send_all(wire)
                self._writing = None
            if self._over or (self._leaving and not self._calls):
                self._reading.cancel()
                return
            await self._to_write.park()

    def _flush(self) -> None:
        wire = self._h2.data_to_send()
        if wire:
            self._put(wire)

    def _put(self, wire: bytes) -> None:
        self._out.append(wire)
        self._unsent += len(wire)
        self._to_write.unpark()

    def _end_if_left(self) -> None:
        if self._leaving and not self._calls:
            self._scope.deadline = min(self._scope.deadline, trio.current_time() + _LINGER_SECONDS)
            self._to_write.unpark()

    # What the peer does. Frames of one read are all known to h2 before the first of them is looked at here.

    def _on_request(self, event: events.RequestReceived) -> None:
        stream, now = event.stream_id, self._heard
        most = self.limits.streams
        if self._leaving or len(self._calls) >= (2 * most if self._acknowledged else most):
            self._reset(stream, ErrorCodes.REFUSED_STREAM)
            return
        self._patience.useful()
        metadata = metadata_of(event.headers)
        handler = self._shared.handlers.get(metadata.get(":path", ""))
        try:
            if metadata.get(":method") != "POST":
                self._answer(stream, http_error(405))
            elif not speaks_grpc(metadata.get("content-type", "")):
                self._answer(stream, http_error(415))
            elif handler is None:
                raise GrpcError(Code.UNIMPLEMENTED, f"there is no {metadata[':path'][:200]} here")
            else:
                call = Exchange(self, stream, metadata, self.limits.message_bytes)
                if "grpc-timeout" in metadata:
                    call.scope.deadline = now + timeout_seconds(metadata["grpc-timeout"])
                self._calls[stream] = call
                self._tally.calls += 1
                self._shared.idle.pop(self, None)
                self._nursery.start_soon(self._serve, call, handler)
        except GrpcError as error:
            self._answer(stream, (*BEGIN, *trailers(error)))

    def _on_data(self, event: events.DataReceived) -> None:
        size = event.flow_controlled_length
        self._owed += size
        if self._owed >= _WINDOW // 2:
            self._h2.increment_flow_control_window(self._owed)
            self._owed = 0
        if event.data:
            self._patience.useful()
        call = self._calls.get(event.stream_id)
        if call is None or call.reason is not None:
            return
        call.owed += size
        call.held += len(event.data)
        self._shared.held += len(event.data)
        try:
            call.messages.extend(call.deframer.feed(event.data))
            if self._shared.held > self.limits.buffered_bytes // (2 if call.held > _CHUNK else 1):
                raise GrpcError(Code.RESOURCE_EXHAUSTED, "too much was sent at once, by all clients together")
        except GrpcError as error:
            call.end(error)
            return
        if call.messages:
            call.news.unpark_all()
        else:
            self._give_back(call)

    def _on_end(self, event: events.StreamEnded) -> None:
        call = self._calls.get(event.stream_id)
        if call is not None:
            call.half_closed = True
            call.news.unpark_all()
            if not call.deframer.whole:
                call.end(GrpcError(Code.INTERNAL, "the call was closed in the middle of a message"))

    def _on_reset(self, event: events.StreamReset) -> None:
        if event.stream_id in self._calls:
            self._calls[event.stream_id].scope.cancel()
        if not self._patience.reset(self._heard):
            raise _Abuse(f"{self.limits.resets} calls were reset")

    def _on_window(self, event: events.WindowUpdated) -> None:
        if not event.stream_id:
            self._room.unpark()
        elif event.stream_id in self._calls:
            self._calls[event.stream_id].window.unpark_all()

    def _on_settings(self, event: events.RemoteSettingsChanged) -> None:
        if len(self._h2.remote_settings) > MAX_SETTINGS:
            raise _Abuse(f"{len(self._h2.remote_settings)} settings")
        for call in self._calls.values():
            call.window.unpark_all()

    def _on_acknowledged(self, event: events.SettingsAcknowledged) -> None:
        self._acknowledged = True

    def _on_left(self, event: events.ConnectionTerminated) -> None:
        raise _Left

    # What calls do.

    async def _serve(self, call: Exchange, handler: Handler) -> None:
        outcome: GrpcError | None = GrpcError(Code.DEADLINE_EXCEEDED, "the call's own deadline has passed")
        try:
            with call.scope:
                await handler(call)
                outcome = None
        except Exception as error:
            outcome = status_of(error, call.metadata[":path"])
        finally:
            del self._calls[call.stream]
            self._shared.held -= call.held
            outcome = call.reason or outcome
            there = not self._over and self._open(call.stream)
            self._tally.ended(Code.CANCELLED if not there else Code.OK if outcome is None else outcome.status)
            if not self._over:
                self._finish(call, outcome)
                if not self._calls:
                    self._rest()

    def _rest(self) -> None:
        """There is no call."""
        if self._leaving:
            self._end_if_left()
        elif self._shared.wanted:
            self._shared.wanted = False
            self.go_away()
        else:
            self._shared.idle[self] = None

    async def send(self, call: Exchange, wire: bytes) -> None:
        """Sends one message of a call; raises CallOver."""
        at = 0
        try:
            while at < len(wire):
                if self._over or not self._open(call.stream) or (call.torn and at == 0):
                    raise CallOver("the call is over: its client has left")
                room = min(self._h2.local_flow_control_window(call.stream), self._h2.max_outbound_frame_size, _HIGH)
                if room > 0 and self._unsent < _HIGH:
                    if not call.begun:
                        call.begun = True
                        self._h2.send_headers(call.stream, BEGIN)
                    self._h2.send_data(call.stream, wire[at : at + room])
                    at += room
                    call.torn = at < len(wire)
                    self._patience.useful()
                    self._flush()
                    self._blocked.pop(call, None)
                    continue
                self._blocked.setdefault(call, trio.current_time())
                if room <= 0 < self._h2.outbound_flow_control_window:
                    self._room.unpark()  # who waits for something else need not wait for this one
                    await call.window.park()
                else:
                    await self._room.park()
        finally:
            self._blocked.pop(call, None)
            self._room.unpark()

    def taken(self, call: Exchange, size: int) -> None:
        """The handler has taken a message of that size."""
        call.held -= size
        self._shared.held -= size
        if not call.messages and not self._over:
            self._give_back(call)
            self._flush()

    def _give_back(self, call: Exchange) -> None:
        if call.owed >= _WINDOW // 2 and not call.half_closed and self._open(call.stream):
            self._h2.increment_flow_control_window(call.owed, call.stream)
            call.owed = 0

    def _finish(self, call: Exchange, error: GrpcError | None) -> None:
        if call.torn:
            self._reset(call.stream, ErrorCodes.CANCEL)
        else:
            self._answer(call.stream, trailers(error) if call.begun else (*BEGIN, *trailers(error)))
        self._flush()

    def _answer(self, stream: int, fields: Fields) -> None:
        """Ends a stream with these fields; what its client still sends of it is of no use."""
        if self._open(stream):
            self._h2.send_headers(stream, fields, end_stream=True)
            self._reset(stream, ErrorCodes.NO_ERROR)

    def _reset(self, stream: int, why: ErrorCodes) -> None:
        if self._open(stream):
            self._h2.reset_stream(stream, why)

    def _open(self, stream: int) -> bool:
        found = self._h2.streams.get(stream)
        return found is not None and not found.closed


class _Abuse(Exception):
    """The peer asks too much of this connection."""


class _Left(Exception):
    """The peer has said that it goes; nothing can be said to it any more."""


_REACTIONS: Final[Mapping[type[events.Event], Callable[[Connection, Any], None]]] = {
    events.RequestReceived: Connection._on_request,
    events.DataReceived: Connection._on_data,
    events.StreamEnded: Connection._on_end,
    events.StreamReset: Connection._on_reset,
    events.WindowUpdated: Connection._on_window,
    events.RemoteSettingsChanged: Connection._on_settings,
    events.SettingsAcknowledged: Connection._on_acknowledged,
    events.ConnectionTerminated: Connection._on_left,
}
