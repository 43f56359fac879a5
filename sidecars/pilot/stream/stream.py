"""Our own protocol, the pilot's side: one connection a sidecar, over which it registers, follows services and is told.

Rules (`shared/pilot_stream.py` has the messages, `outgoing.py` what becomes of them):

- What all followers of a service are told is encoded once.
- A renewal is answered while a write before it waits for the store, and counts at once: a slow store makes nobody look
  dead. All else of one connection is carried out one after the other, so that what it says last holds; but what it says
  of several instances, one after the other, at the same time: a Central speaks of two thousand, and one write each
  would take the store that often.
- Revisions are a service's own, those of its last change as the store's watch told it. So whoever says one that is
  greater knows more than this pilot, or has it from before the store was set back.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Collection, Sequence
from contextlib import suppress
from itertools import islice
from typing import Final

import msgspec
import trio
from pannier.shared.errors import PannierError, Unreachable
from pannier.shared.http_server import Request, Response, Upgrade, error_response
from pannier.shared.instances import EVERY, State, check_address
from pannier.shared.instances import Key as Instance
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
    Found,
    Frames,
    Gone,
    Leave,
    Ping,
    Pong,
    Register,
    StreamError,
    Told,
    asked,
    frame,
)
from pannier.shared.pilot_stream import Instance as ToldInstance
from pannier.sidecars.pilot.documents.documents import CONFIG, Documents, Key
from pannier.sidecars.pilot.registry.entries import Entry, Verdict, next_epoch
from pannier.sidecars.pilot.registry.fanout import SLICE_SECONDS, Change, Fanout
from pannier.sidecars.pilot.registry.registry import CATCH_UP_SECONDS, Outcome, Registry
from pannier.sidecars.pilot.stream.outgoing import Outgoing

CONNECTIONS: Final = 3500
"""Below those of one listener: somebody else has to find room, too."""
AHEAD_BYTES: Final = 64 * 1024
"""That are read of one connection while what it asked for before is carried out."""
LAST_WORD_SECONDS: Final = 1.0
FOLLOWED: Final = 10_000
"""Services that one connection follows."""
TOGETHER: Final = 64
"""Instances of one connection that are changed at the same time."""
_CHUNK: Final = 65_536
_GONE: Final = (trio.BrokenResourceError, trio.ClosedResourceError)


class StreamStatus(msgspec.Struct, frozen=True):
    """`behind`: who reads so slowly that he will be told everything anew; `resynchronised`: how often that was done.
    `told`: messages to connections; `dropped`: connections that were ended."""

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
        self.sessions: set[_Session] = set()
        self.configured: dict[Key, set[_Session]] = {}
        self.unsent: dict[Outgoing, None] = {}
        self.told = self.resynchronised = self.dropped = 0
        self._documents = documents
        self._whole: dict[str, bytes] = {}
        self._last: tuple[Change | None, bytes] = (None, b"")
        fanout.join(EVERY, self)
        fanout.after_telling(self.send)
        documents.listeners.append(self._document_changed)

    def statistics(self) -> StreamStatus:
        """Counts since this pilot has begun; those of connections and followed services are of now."""
        return StreamStatus(
            connected=len(self.sessions),
            following=sum(len(session.following) for session in self.sessions),
            behind=sum(session.out.behind for session in self.sessions),
            told=self.told + sum(session.out.frames for session in self.sessions),
            resynchronised=self.resynchronised,
            dropped=self.dropped,
        )

    def upgrade(self, request: Request, *, refused: Callable[[Request], Response | None]) -> Response | Upgrade:
        """The answer to `GET /v1/stream`. Who would be `refused` a change may follow all the same, and is told so when
        he asks for one."""
        if request.header("upgrade").lower() != UPGRADE or "upgrade" not in request.header("connection").lower():
            hint = f"send Connection: upgrade and Upgrade: {UPGRADE}; over plain HTTP there is /v1/watch"
            return error_response(426, "this is no plain HTTP", hint=hint, headers=(("upgrade", UPGRADE),))
        if len(self.sessions) >= CONNECTIONS:
            return error_response(503, f"there are {CONNECTIONS} streams already", hint="try another pilot, or again")
        may_change = refused(request) is None

        async def converse(stream: trio.SocketStream, early: bytes) -> None:
            await _Session(self, stream, may_change=may_change).converse(early)

        return Upgrade(UPGRADE, converse)

    def changed(self, change: Change) -> None:
        """Before any of its followers is told."""
        self._whole.pop(change.service, None)

    async def send(self) -> None:
        """Sends everybody what he was told."""
        until = time.monotonic() + SLICE_SECONDS
        while self.unsent:
            next(iter(self.unsent)).send()
            if time.monotonic() > until:
                await trio.lowlevel.checkpoint()
                until = time.monotonic() + SLICE_SECONDS

    def whole(self, service: str) -> bytes:
        """All of a service, as a frame."""
        found = self._whole.get(service)
        if found is None:
            view = self.registry.view
            revision = view.revision_of(service)
            anew = revision <= view.disowned
            found = frame(Told(service, revision, self.registry.instances(service), anew))
            if view.alive(service):  # of names that mean nothing, nothing is kept
                self._whole[service] = found
        return found

    def change(self, change: Change) -> bytes:
        """A change as a frame."""
        if change.instances is None:
            return self.whole(change.service)
        last, encoded = self._last
        if last is not change:
            there, gone = self.become(change.instances)
            encoded = frame(Changed(change.service, change.revision, there, gone))
            self._last = (change, encoded)
        return encoded

    def become(self, instances: Collection[Instance]) -> tuple[Sequence[ToldInstance], Sequence[Gone]]:
        """What has become of these: who is there, who is gone."""
        found = [self.registry.instance(key) for key in instances]
        there = [one for one in found if not isinstance(one, Gone)]
        return there, [one for one in found if isinstance(one, Gone)]

    def current(self, *, everything: bool) -> bytes:
        """The frame that ends what was told anew."""
        return frame(Current(self.registry.view.services() if everything else None))

    def configuration(self, key: Key) -> bytes:
        """That of a service on a stage, as a frame."""
        last = self._documents.last(key)
        if last is None:
            return frame(Configuration(key.stage, key.service, 0, 0.0, None))
        values = None if last.deleted else last.content.get("values")
        return frame(Configuration(key.stage, key.service, last.version, last.when, values))

    def _document_changed(self, key: Key) -> None:
        if sessions := self.configured.get(key):
            told = self.configuration(key)
            for session in sessions:
                session.out.tell(told)
                session.out.send()


class _Session:
    """One connection."""

    def __init__(self, streams: Streams, stream: trio.SocketStream, *, may_change: bool) -> None:
        self.following: set[str] = set()
        self.out = Outgoing(stream.socket.fileno(), streams.unsent, self._everything)
        self._stream = stream
        self._streams = streams
        self._registry = streams.registry
        self._may_change = may_change
        self._configuration: Key | None = None
        self._asked: deque[tuple[Asked, int]] = deque()  # what is being carried out, and what comes then; with its size
        self._ahead = 0
        self._progress = trio.Event()
        self._ending = False
        self._nursery: trio.Nursery

    async def converse(self, early: bytes) -> None:
        """Until the peer leaves, falls silent, does not read, or says what cannot be understood."""
        streams = self._streams
        streams.sessions.add(self)
        try:
            async with trio.open_nursery() as self._nursery:
                scope = self._nursery.cancel_scope
                self._nursery.start_soon(self._write, scope)
                try:
                    with suppress(*_GONE):
                        await self._read(early)
                    while self._asked:  # what it has asked before it left
                        await self._progress.wait()
                    scope.cancel()
                except StreamError as error:
                    self._refuse(error, scope)
        finally:
            self.out.end()
            streams.told += self.out.frames
            streams.sessions.discard(self)
            self._unfollow()
            self._follow_configuration(None)

    def changed(self, change: Change) -> None:
        """A `fanout.Subscriber`."""
        if change.instances is None and EVERY in self.following:  # services may be gone of which nothing is left
            self.out.tell_everything()
        else:
            self.out.tell(self._streams.change(change))

    async def _read(self, early: bytes) -> None:
        frames = Frames(MAX_ASKED)
        data = early
        while True:
            for body in frames.feed(data):
                message = asked(body)
                if self._asked or not self._at_once(message):
                    self._later(message, len(body))
            self.out.send()
            while self._ahead > AHEAD_BYTES:
                await self._progress.wait()
            data = b""
            with trio.move_on_after(SILENCE_SECONDS):
                data = bytes(await self._stream.receive_some(_CHUNK))
            if not data:
                return

    async def _write(self, scope: trio.CancelScope) -> None:
        if not await self.out.run():
            self._streams.dropped += 1
            scope.cancel()

    def _at_once(self, message: Asked) -> bool:
        """Carries it out if that takes no time; whether it did."""
        if isinstance(message, Ping):
            self.out.answer(frame(Pong()))
            return True
        if not isinstance(message, Register) or not self._may_change:
            return False
        try:
            entry = _entry(message, message.address)
            found = self._registry.renewed((message.service, message.id), entry, state=message.state)
        except PannierError as error:
            self.out.answer(frame(_failed(message.n, error)))
            return True
        if found is not None:
            self.out.answer(frame(_answer(message.n, found)))
        return found is not None

    def _later(self, message: Asked, size: int) -> None:
        if isinstance(message, Register) and self._may_change:
            self._registry.heard((message.service, message.id), message.epoch, message.address)
        self._asked.append((message, size))
        self._ahead += size
        if len(self._asked) == 1:
            self._nursery.start_soon(self._carry_out_all)

    async def _carry_out_all(self) -> None:
        """A task that is there while there is something to carry out: most connections only renew."""
        while self._asked and not self._ending:
            changes = self._changes()
            try:
                if len(changes) > 1:
                    await self._change_all(changes)
                else:
                    await self._carry_out(self._asked[0][0])
            except StreamError as error:
                self._refuse(error, self._nursery.cancel_scope)
            for _ in range(max(1, len(changes))):
                _, size = self._asked.popleft()
                self._ahead -= size
            self.out.send()
            self._progress.set()
            self._progress = trio.Event()

    def _changes(self) -> Sequence[Register | Leave]:
        """What comes next, as far as that are changes of one instance each."""
        found: dict[Instance, Register | Leave] = {}
        for message, _ in islice(self._asked, TOGETHER):
            if not isinstance(message, Register | Leave) or (message.service, message.id) in found:
                break
            found[message.service, message.id] = message
        return list(found.values())

    async def _change_all(self, messages: Sequence[Register | Leave]) -> None:
        """At the same time; answered in their order."""
        answers: dict[int, Answer] = {}

        async def change(number: int) -> None:
            answers[number] = await self._change(messages[number])

        async with trio.open_nursery() as nursery:
            for number in range(len(messages)):
                nursery.start_soon(change, number)
        for number in range(len(messages)):
            self.out.answer(frame(answers[number]))

    async def _carry_out(self, message: Asked) -> None:
        match message:
            case Ping():
                self._at_once(message)
            case Follow():
                await self._follow(message)
            case FollowConfiguration() if self._may_change:  # an app's settings are not for everybody
                key = Key(CONFIG, message.stage, message.service)
                self._follow_configuration(key)
                self.out.tell(self._streams.configuration(key))
            case About():
                there, gone = self._streams.become([(message.service, name) for name in message.ids])
                self.out.answer(frame(Found(message.service, there, gone)))
            case Register() | Leave():
                self.out.answer(frame(await self._change(message)))

    async def _follow(self, message: Follow) -> None:
        if len(self.following | message.services.keys()) > FOLLOWED:
            raise StreamError(f"more than {FOLLOWED} services on one connection; follow {EVERY!r} for all of them")
        view = self._registry.view
        await self._registry.catch_up(message.services, within=CATCH_UP_SECONDS)
        if EVERY in message.services:  # nobody is told twice
            self._unfollow()
        for service, known in message.services.items():
            if service == EVERY or EVERY not in self.following:
                self.following.add(service)
                self._streams.fanout.join(service, self)
            for name in view.services() if service == EVERY else [service]:
                if not known or view.revision_of(name) != known:
                    self.out.tell(self._streams.whole(name))
        self.out.tell(self._streams.current(everything=EVERY in self.following))

    def _unfollow(self) -> None:
        for service in self.following:
            self._streams.fanout.leave(service, self)
        self.following.clear()

    def _follow_configuration(self, key: Key | None) -> None:
        configured = self._streams.configured
        if (before := self._configuration) is not None:
            configured[before].discard(self)
            if not configured[before]:
                del configured[before]
        if key is not None:
            configured.setdefault(key, set()).add(self)
        self._configuration = key

    async def _change(self, message: Register | Leave) -> Answer:
        if not self._may_change:
            return Answer(message.n, error="changes need the pilot's token", hint="send it with the upgrade")
        key = (message.service, message.id)
        try:
            if isinstance(message, Leave):
                return _answer(message.n, await self._registry.leave(key, message.epoch or None))
            entry = _entry(message, check_address(message.address))
            return _answer(message.n, await self._registry.register(key, entry, state=message.state))
        except PannierError as error:
            return _failed(message.n, error)
        except ValueError as error:
            return Answer(message.n, error=str(error), hint="register with another address")

    def _everything(self) -> Sequence[bytes]:
        streams = self._streams
        streams.resynchronised += 1
        everything = EVERY in self.following
        names = self._registry.view.services() if everything else sorted(self.following)
        told = [*map(streams.whole, names), streams.current(everything=everything)]
        return told if self._configuration is None else [*told, streams.configuration(self._configuration)]

    def _refuse(self, error: StreamError, scope: trio.CancelScope) -> None:
        """Ends the connection, with a word why."""
        self._streams.dropped += 1
        with suppress(StreamError):
            self.out.answer(frame(Answer(0, error=str(error), hint="the connection ends")))
        self.out.send()
        self.out.end(after_all=True)
        self._ending = True
        scope.deadline = trio.current_time() + LAST_WORD_SECONDS


def _entry(message: Register, address: str) -> Entry:
    return Entry(message.epoch, address, State.UP, message.ttl_ms, message.metadata)


def _answer(n: int, outcome: Outcome) -> Answer:
    held = outcome.entry
    if outcome.verdict is not Verdict.STALE:
        return Answer(n, outcome.verdict, 0 if held is None else held.epoch)
    if held is None:
        return Answer(n, outcome.verdict, next_epoch(held))
    was = f"epoch {held.epoch} was ended" if held.gone else f"epoch {held.epoch} at {held.address} is in force"
    return Answer(n, outcome.verdict, next_epoch(held), was)


def _failed(n: int, error: PannierError) -> Answer:
    return Answer(n, error=error.message, hint=error.hint, elsewhere=isinstance(error, Unreachable))
