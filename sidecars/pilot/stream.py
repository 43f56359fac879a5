"""Our own protocol, the pilot's side: one connection a sidecar, over which it registers, follows services and is told.

Rules (`shared/pilot_stream.py` has the messages):

- What all followers of a service are told is encoded once.
- What one is told at once is sent at once, as far as his socket takes it, without waking anybody for it: a task is
  there for who reads slowly alone. That, and not the encoding, was what a change cost.
- Who reads slowly costs nobody else: what waits for him is bounded, and beyond that it is dropped, and all of what he
  follows is told anew when he reads again. Who does not read at all, or is not heard of, is let go.
- Requests of one connection are carried out one after the other, so that what it says last holds. A renewal that
  changes nothing is done at once; one that comes behind a write that waits for the store counts as a sign of life when
  it is read, so that a slow store makes nobody look dead.
"""

from __future__ import annotations

import os
import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from typing import Final

import msgspec
import trio
from pannier.shared.errors import PannierError
from pannier.shared.http_server import Request, Response, Upgrade, error_response
from pannier.shared.instances import EVERY, State, check_address
from pannier.shared.pilot_stream import (
    MAX_ASKED,
    SILENCE_SECONDS,
    UPGRADE,
    About,
    Answer,
    Asked,
    Changed,
    Configuration,
    Current,
    Follow,
    FollowConfiguration,
    Frames,
    Gone,
    Leave,
    Ping,
    Pong,
    Register,
    StreamError,
    Told,
    Unfollow,
    asked,
    frame,
)
from pannier.sidecars.pilot.documents import CONFIG, Documents, Key
from pannier.sidecars.pilot.entries import Entry, Verdict, next_epoch
from pannier.sidecars.pilot.fanout import SLICE_SECONDS, Change, Fanout
from pannier.sidecars.pilot.registry import CATCH_UP_SECONDS, Outcome, Registry

WAITING_BYTES: Final = 8 * 1024 * 1024
"""That wait for one who reads slowly; a service of many instances, told for the first time, may be more."""
WRITE_SECONDS: Final = 10.0
LAST_WORD_SECONDS: Final = 1.0
AHEAD_BYTES: Final = 2 * MAX_ASKED
"""Of requests that are read while one before them waits for the store."""
FOLLOWED: Final = 10_000
"""Services that one connection follows."""
_CHUNK: Final = 65_536
_GONE: Final = (trio.BrokenResourceError, trio.ClosedResourceError)


class StreamStatus(msgspec.Struct, frozen=True):
    """`behind`: who reads so slowly that he will be told everything anew; `resynchronised`: how often that was done.
    `told`: messages to followers; `dropped`: connections that were ended."""

    connected: int
    following: int
    behind: int
    told: int
    resynchronised: int
    dropped: int


class Streams:
    """All connections of one pilot, and what they share: frames that are encoded once."""

    def __init__(self, registry: Registry, fanout: Fanout, documents: Documents) -> None:
        self.registry = registry
        self.fanout = fanout
        self.configured: dict[Key, set[_Session]] = {}
        self._documents = documents
        documents.listeners.append(self._document_changed)
        self.sessions: set[_Session] = set()
        self.unsent: dict[_Session, None] = {}
        self.told = self.resynchronised = self.dropped = 0
        self._whole: dict[str, bytes] = {}
        self._last: tuple[Change | None, bytes] = (None, b"")
        fanout.join(EVERY, self)
        fanout.after_telling(self.send)

    def statistics(self) -> StreamStatus:
        """Counts since this pilot has begun; those of connections and followed services are of now."""
        return StreamStatus(
            connected=len(self.sessions),
            following=sum(len(session.following) for session in self.sessions),
            behind=sum(session.behind for session in self.sessions),
            told=self.told,
            resynchronised=self.resynchronised,
            dropped=self.dropped,
        )

    def upgrade(self, request: Request, *, refused: Callable[[Request], Response | None]) -> Response | Upgrade:
        """The answer to `GET /v1/stream`. Who would be `refused` a change may follow all the same, and is told so when
        he asks for one."""
        if request.header("upgrade").lower() != UPGRADE or "upgrade" not in request.header("connection").lower():
            hint = f"send Connection: upgrade and Upgrade: {UPGRADE}; over plain HTTP there is /v1/watch"
            return error_response(426, "this is no plain HTTP", hint=hint, headers=(("upgrade", UPGRADE),))
        return Upgrade(UPGRADE, _Session(self, may_change=refused(request) is None).converse)

    def changed(self, change: Change) -> None:
        """Before any of its followers is told."""
        self._whole.pop(change.service, None)

    def configuration(self, key: Key) -> bytes:
        """That of a service on a stage, as a frame."""
        last = self._documents.last(key)
        if last is None:
            return frame(Configuration(key.stage, key.service, 0, 0.0, None))
        values = None if last.deleted else last.content.get("values")
        return frame(Configuration(key.stage, key.service, last.version, last.when, values))

    def _document_changed(self, key: Key) -> None:
        for session in self.configured.get(key, ()):
            session.tell(self.configuration(key))

    async def send(self) -> None:
        """Sends everybody what he was told."""
        until = time.monotonic() + SLICE_SECONDS
        while self.unsent:
            session, _ = self.unsent.popitem()
            session.send()
            if time.monotonic() > until:
                await trio.lowlevel.checkpoint()
                until = time.monotonic() + SLICE_SECONDS

    def whole(self, service: str) -> bytes:
        """All of a service, as a frame."""
        found = self._whole.get(service)
        if found is None:
            told = Told(service, self.registry.view.revision, self.registry.instances(service))
            found = self._whole[service] = frame(told)
        return found

    def change(self, change: Change) -> bytes:
        """A change as a frame."""
        if change.instances is None:
            return self.whole(change.service)
        last, encoded = self._last
        if last is not change:
            found = [self.registry.instance(key) for key in change.instances]
            there = [one for one in found if not isinstance(one, Gone)]
            gone = [one for one in found if isinstance(one, Gone)]
            encoded = frame(Changed(change.service, change.revision, there, gone))
            self._last = (change, encoded)
        return encoded


class _Session:
    """One connection."""

    def __init__(self, streams: Streams, *, may_change: bool) -> None:
        self.following: set[str] = set()
        self.configuration: Key | None = None
        self.behind = False
        self._streams = streams
        self._registry = streams.registry
        self._may_change = may_change
        self._asked: deque[tuple[Asked, int]] = deque()  # what is being carried out, and what comes then; with its size
        self._ahead = 0
        self._more = trio.Event()
        self._progress = trio.Event()
        self._waiting: list[bytes] = []
        self._size = 0
        self._rest = b""  # what the socket has not taken; nothing else is sent until it has
        self._ending = False
        self._wake = trio.Event()
        self._socket: int | None = None

    async def converse(self, stream: trio.abc.Stream, early: bytes) -> None:
        """Until the peer leaves, falls silent, does not read, or says what cannot be understood."""
        streams = self._streams
        streams.sessions.add(self)
        self._socket = stream.socket.fileno() if isinstance(stream, trio.SocketStream) else None
        try:
            async with trio.open_nursery() as nursery:
                scope = nursery.cancel_scope
                nursery.start_soon(self._write, stream, scope)
                nursery.start_soon(self._carry_out_all, scope)
                try:
                    with suppress(*_GONE):
                        await self._read(stream, early)
                    while self._asked:  # what it has asked before it left
                        await self._progress.wait()
                    scope.cancel()
                except StreamError as error:
                    self._refuse(error, scope)
        finally:
            self._socket = None  # which is closed next, and its number another one's
            streams.sessions.discard(self)
            streams.unsent.pop(self, None)
            for service in self.following:
                streams.fanout.leave(service, self)
            self._follow_configuration(None)

    def _refuse(self, error: StreamError, scope: trio.CancelScope) -> None:
        self._streams.dropped += 1
        self._say(frame(Answer(0, error=str(error), hint="the connection ends")))
        self._ending = True
        self.send()
        self._wake.set()
        self._more.set()
        scope.deadline = trio.current_time() + LAST_WORD_SECONDS

    async def _read(self, stream: trio.abc.Stream, early: bytes) -> None:
        frames = Frames(MAX_ASKED)
        data = early
        while True:
            for body in frames.feed(data):
                message = asked(body)
                if self._asked or not self._at_once(message):
                    self._later(message, len(body))
            self.send()
            while self._ahead > AHEAD_BYTES:
                await self._progress.wait()
            data = b""
            with trio.move_on_after(SILENCE_SECONDS):
                data = bytes(await stream.receive_some(_CHUNK))
            if not data:
                return

    def _at_once(self, message: Asked) -> bool:
        """Carries it out if that takes no time; whether it did."""
        if isinstance(message, Ping):
            self._say(frame(Pong(self._registry.view.revision)))
            return True
        if not isinstance(message, Register) or not self._may_change:
            return False
        try:
            found = self._registry.renewed((message.service, message.id), _entry(message), state=message.state)
        except PannierError as error:
            self._say(frame(Answer(message.n, error=error.message, hint=error.hint)))
            return True
        if found is not None:
            self._say(frame(_answer(message.n, found)))
        return found is not None

    def _later(self, message: Asked, size: int) -> None:
        if isinstance(message, Register) and self._may_change:
            self._registry.heard((message.service, message.id), message.epoch, message.address)
        self._asked.append((message, size))
        self._ahead += size
        self._more.set()

    async def _carry_out_all(self, scope: trio.CancelScope) -> None:
        while not self._ending:
            await self._more.wait()
            self._more = trio.Event()
            while self._asked and not self._ending:
                message, size = self._asked[0]
                try:
                    await self._carry_out(message)
                except StreamError as error:
                    self._refuse(error, scope)
                self._asked.popleft()
                self._ahead -= size
                self.send()
                self._progress.set()
                self._progress = trio.Event()

    def send(self) -> None:
        """What waits, as much of it as the socket takes at once."""
        self._streams.unsent.pop(self, None)
        if self._rest:
            return
        if self.behind:
            self._catch_up()
        data = b"".join(self._waiting)
        self._streams.told += len(self._waiting)
        self._waiting, self._size = [], 0
        sent = 0
        if self._socket is not None and data:
            with suppress(OSError):  # full, or gone: `_write` will see
                sent = os.write(self._socket, data)
        if sent < len(data):
            self._rest = data[sent:]
            self._wake.set()

    async def _write(self, stream: trio.abc.Stream, scope: trio.CancelScope) -> None:
        """What the socket has not taken at once."""
        while self._rest or not self._ending:
            await self._wake.wait()
            self._wake = trio.Event()
            with trio.move_on_after(WRITE_SECONDS) as deadline:
                try:
                    await stream.send_all(self._rest)
                except _GONE:
                    return  # nothing is sent any more; `_read` will see
            if deadline.cancelled_caught:
                self._streams.dropped += 1
                scope.cancel()
                return
            self._rest = b""
            self.send()

    async def _carry_out(self, message: Asked) -> None:
        match message:
            case Ping():
                self._at_once(message)
            case Follow():
                await self._follow(message)
            case Unfollow():
                for service in message.services:
                    self.following.discard(service)
                    self._streams.fanout.leave(service, self)
            case FollowConfiguration():
                key = Key(CONFIG, message.stage, message.service)
                self._follow_configuration(key)
                self._say(self._streams.configuration(key))
            case About():
                keys = [(message.service, name) for name in message.ids]
                change = Change(message.service, self._registry.view.revision, keys)
                self._say(self._streams.change(change))
            case Register() | Leave():
                self._say(frame(await self._change(message)))

    async def _follow(self, message: Follow) -> None:
        if len(self.following | message.services.keys()) > FOLLOWED:
            raise StreamError(f"more than {FOLLOWED} services on one connection; follow {EVERY!r} for all of them")
        view = self._registry.view
        await self._registry.catch_up(max(message.services.values(), default=0), within=CATCH_UP_SECONDS)
        for service, known in message.services.items():
            self.following.add(service)
            self._streams.fanout.join(service, self)
            names = view.services() if service == EVERY else [service]
            for name in names:
                if not self._registry.is_known(name, known):
                    self._say(self._streams.whole(name))
        self._say(self._current())

    def _follow_configuration(self, key: Key | None) -> None:
        configured = self._streams.configured
        if (before := self.configuration) is not None:
            configured[before].discard(self)
            if not configured[before]:
                del configured[before]
        if key is not None:
            configured.setdefault(key, set()).add(self)
        self.configuration = key

    async def _change(self, message: Register | Leave) -> Answer:
        if not self._may_change:
            return Answer(message.n, error="changes need the pilot's token", hint="send it with the upgrade")
        key = (message.service, message.id)
        try:
            if isinstance(message, Leave):
                return _answer(message.n, await self._registry.leave(key, message.epoch or None))
            check_address(message.address)
            return _answer(message.n, await self._registry.register(key, _entry(message), state=message.state))
        except PannierError as error:
            return Answer(message.n, error=error.message, hint=error.hint)
        except ValueError as error:
            return Answer(message.n, error=str(error), hint="register with another address")

    def changed(self, change: Change) -> None:
        """A `fanout.Subscriber`."""
        if change.instances is None and EVERY in self.following:  # services may be gone of which nothing is left
            self._fall_behind()
        else:
            self._say(self._streams.change(change))

    def tell(self, encoded: bytes) -> None:
        """What he hears beside his services."""
        self._say(encoded)

    def _say(self, encoded: bytes) -> None:
        if self.behind:
            return
        self._waiting.append(encoded)
        self._size += len(encoded)
        self._streams.unsent[self] = None
        if self._size > WAITING_BYTES and len(self._waiting) > 1:
            self._fall_behind()

    def _fall_behind(self) -> None:
        self.behind = True
        self._waiting = []
        self._streams.unsent[self] = None

    def _catch_up(self) -> None:
        self.behind = False
        self._streams.resynchronised += 1
        view = self._registry.view
        names = view.services() if EVERY in self.following else sorted(self.following)
        self._waiting = [*map(self._streams.whole, names), self._current()]
        if self.configuration is not None:
            self._waiting.append(self._streams.configuration(self.configuration))

    def _current(self) -> bytes:
        view = self._registry.view
        return frame(Current(view.revision, view.services() if EVERY in self.following else None))


def _entry(message: Register) -> Entry:
    return Entry(message.epoch, message.address, State.UP, message.ttl_ms, message.metadata)


def _answer(n: int, outcome: Outcome) -> Answer:
    held = outcome.entry
    if outcome.verdict is Verdict.STALE:
        return Answer(n, outcome.verdict, next_epoch(held))
    return Answer(n, outcome.verdict, 0 if held is None else held.epoch)
