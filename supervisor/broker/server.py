"""`Broker`: one task that reads and one that writes for each peer, and the routing between them.

Rules:

- A peer's error is the peer's alone: `Reject` if it can still be told, then its connection ends.
- No peer can make another wait. Whatever goes to a peer goes into its bounded outbox, never directly to its socket.
- A role has one connection; a newer one with the same valid token takes its place.
- The callbacks are the supervisor's own code. What they raise is a bug and ends the supervisor loudly.
- A sidecar is configured, and run inside another process, by the supervisor alone: nobody else reaches those verbs.
"""

from __future__ import annotations

import os
from collections.abc import Awaitable, Callable
from itertools import count
from typing import Any, Final, TypeVar

import msgspec
import trio
from pannier.shared import envelope, framing
from pannier.shared.bus import answer_with
from pannier.shared.envelope import (
    CLI,
    FUSED,
    SUPERVISOR,
    Beat,
    Failure,
    Hello,
    Publish,
    Ready,
    Reply,
    Request,
    Subscribe,
    Welcome,
)
from pannier.shared.errors import Blame, PannierError, TimedOut, Unreachable, UsageError
from pannier.shared.framing import FramingError, frame
from pannier.shared.link import Link
from pannier.shared.messages import CONFIGURE, EVENTS
from pannier.shared.outbox import OutboxStatistics
from pannier.supervisor.broker.calls import Call, Calls
from pannier.supervisor.broker.grants import Grant, Grants
from pannier.supervisor.broker.rate import Meter
from pannier.supervisor.broker.topics import MAX_NAME, Topics, TopicStatistics

T = TypeVar("T")

HELLO_SECONDS: Final = 2.0
PATIENCE_SECONDS: Final = 5.0
"""A peer that takes longer to read one frame, to write one, or to slow down, is cut."""
MESSAGES_PER_SECOND: Final = 1000
BURST: Final = 200
MAX_PEERS: Final = 256
MAX_TOPICS_A_PEER: Final = 64
MAX_BACKLOG: Final = 4 * 1024 * 1024
"""Bytes of requests and answers that may wait for one peer."""
MAX_OWN_CALLS: Final = 64
"""Requests to the supervisor that are answered at the same time."""
MAX_OWN_CALLS_A_PEER: Final = 8
"""And of them those of one peer, so that one who asks without pause leaves the others their turn."""
_INSTEAD: Final = {CONFIGURE: "pannier profile set PATH=VALUE", FUSED: "pannier sidecar restart NAME"}
_SUPERVISOR: Final = 0
"""The number of the supervisor as an asker; peers have others."""


async def _nothing(*_: object) -> None:
    pass


class PeerStatistics(msgspec.Struct, frozen=True):
    """`pauses`: how often reading stopped because the peer was too fast; `seconds` since it was admitted."""

    number: int
    role: str
    pid: int
    received: int
    pauses: int
    seconds: float
    outbox: OutboxStatistics


class BrokerStatistics(msgspec.Struct, frozen=True):
    """`fan_out` counts copies, one a reader, of peers here and gone: published = delivered + conflated + dropped +
    queued. `refused` are connections that ended with an error of the peer."""

    peers: tuple[PeerStatistics, ...]
    welcomed: int
    refused: int
    open_calls: int
    fan_out: OutboxStatistics
    topics: tuple[TopicStatistics, ...]


class _Refused(PannierError):
    """Ends one connection; `code` is that of the `Reject`."""

    blame = Blame.PEER

    def __init__(self, code: str, message: str, hint: str = "") -> None:
        super().__init__(message, hint=hint, code=code)


class _Peer:
    def __init__(self, number: int, link: Link, grant: Grant, pid: int, now: float) -> None:
        self.number = number
        self.link = link
        self.grant = grant
        self.role = grant.role
        self.pid = pid
        self.scope = trio.CancelScope()
        self.verdict: _Refused | None = None
        self.since = now
        self.meter = Meter(rate=MESSAGES_PER_SECOND, burst=BURST, now=now)
        self.topics: set[str] = set()
        self.received = 0
        self.pauses = 0
        self.own_calls = 0

    def cut(self, verdict: _Refused) -> None:
        self.verdict = self.verdict or verdict
        self.scope.cancel()


class _Awaited:
    """A question of the supervisor's own, until it is answered."""

    def __init__(self) -> None:
        self.answered = trio.Event()
        self.answer: Reply | Failure | None = None


class Broker:
    """Serves the bus of `service`.

    `on_ready(role, pid)`, `on_beat(role)` and `on_gone(role)` are awaited in the task that reads from that peer;
    `on_gone` does not come when a newer connection has taken the role, nor when the broker is cancelled.
    """

    def __init__(
        self,
        *,
        service: str,
        grants: Grants,
        on_ready: Callable[[str, int], Awaitable[None]] = _nothing,
        on_beat: Callable[[str], Awaitable[None]] = _nothing,
        on_gone: Callable[[str], Awaitable[None]] = _nothing,
    ) -> None:
        self._service = service
        self._grants = grants
        self._on_ready = on_ready
        self._on_beat = on_beat
        self._on_gone = on_gone
        self._numbers = count(1)
        self._peers: dict[int, _Peer] = {}
        self._roles: dict[str, _Peer] = {}
        self._topics = Topics()
        self._calls = Calls()
        self._handlers: dict[str, tuple[type[Any], Callable[[Any], Awaitable[msgspec.Struct | None]]]] = {}
        self._own_calls = 0
        self._asked = count(1)
        self._awaited: dict[int, _Awaited] = {}
        self._connections = self._welcomed = self._refused = 0
        self._ended = OutboxStatistics()

    def __repr__(self) -> str:
        return f"<Broker {self._service} peers={len(self._peers)} roles={sorted(self._roles)}>"

    def serve_verb(self, verb: str, type_: type[T], handler: Callable[[T], Awaitable[msgspec.Struct | None]]) -> None:
        """Answers requests for `verb` to the supervisor, at most 64 at a time; rules as for `Bus.serve`."""
        if verb in self._handlers:
            raise ValueError(f"verb {verb!r} has a handler")
        self._handlers[verb] = (type_, handler)

    async def publish(self, topic: str, body: msgspec.Struct, *, retain: bool = False) -> None:
        """Publishes as the supervisor, without waiting for readers. Works before `serve` runs, too."""
        self._publish(topic, SUPERVISOR, framing.encode(body), retain=retain)
        await trio.lowlevel.checkpoint()

    async def request(
        self, to: str, verb: str, body: msgspec.Struct | None, reply: type[T], *, timeout: float = 5
    ) -> T:
        """Asks the role `to` as the supervisor; errors as those of `Bus.request`."""
        request = Request(next(self._asked), to, verb, framing.encode(body))
        awaited = self._awaited[request.id] = _Awaited()
        try:
            self._pass_on(_SUPERVISOR, request)
            with trio.move_on_after(timeout):
                await awaited.answered.wait()
        finally:
            del self._awaited[request.id]
        match awaited.answer:
            case Failure() as failure:
                raise envelope.error_of(failure)
            case Reply(body=answer):
                return framing.decode(answer, reply)
        raise TimedOut(f"`{to}` did not answer `{verb}` within {timeout:g} s", hint="`pannier ps` shows its state")

    def read(self, topic: str) -> bool:
        """Whether anybody listens to `topic`: what costs much to say need not be said to nobody."""
        return self._topics.read(topic)

    def clear(self, role: str) -> None:
        """Forgets the retained values of a role that was removed for good; revoke its token first.

        Who listens gets a last body without fields: in such a topic that decodes as the empty state. A connection that
        the role still has is cut, so that nothing it sent before its end brings a value back.
        """
        if (peer := self._roles.get(role)) is not None:
            peer.cut(_Refused("token", f"`{role}` was removed"))
        for event, readers in self._topics.clear(role, framing.encode(None)):
            for number in readers:
                self._peers[number].link.post_state(event.topic, frame(event))

    async def serve(self, listener: trio.SocketListener) -> None:
        """Accepts peers until cancelled, then closes `listener`. Only errors of callbacks come out of here."""
        async with trio.open_nursery() as nursery:

            async def attend(stream: trio.SocketStream) -> None:
                await self._attend(stream, nursery)

            await trio.serve_listeners(attend, [listener], handler_nursery=nursery)

    def statistics(self) -> BrokerStatistics:
        now = trio.current_time()
        peers = tuple(
            PeerStatistics(p.number, p.role, p.pid, p.received, p.pauses, now - p.since, p.link.outbox.statistics())
            for p in self._peers.values()
        )
        fan_out = self._ended
        for peer in peers:
            fan_out += peer.outbox
        topics = tuple(self._topics.statistics())
        return BrokerStatistics(peers, self._welcomed, self._refused, len(self._calls), fan_out, topics)

    async def _attend(self, stream: trio.SocketStream, nursery: trio.Nursery) -> None:
        link = Link(stream)
        self._connections += 1
        try:
            peer = await self._admit(link)
            await self._converse(peer, nursery)
        except (_Refused, FramingError) as error:
            self._refused += 1
            await link.refuse(envelope.reject_of(error))
        except Unreachable:
            pass
        finally:
            self._connections -= 1
            await trio.aclose_forcefully(link)

    async def _admit(self, link: Link) -> _Peer:
        """Who it is that says Hello. Raises `_Refused`, `FramingError`, `Unreachable`."""
        caller = link.credentials
        if caller.uid != os.geteuid():
            raise _Refused("uid", f"this bus belongs to uid {os.geteuid()}, you are {caller.uid}")
        if self._connections > MAX_PEERS:
            raise _Refused("busy", f"{MAX_PEERS} peers are connected already", "end some of them, then try again")
        with trio.move_on_after(HELLO_SECONDS) as scope:
            messages = await link.receive()
        if scope.cancelled_caught:
            raise _Refused("late", f"no Hello within {HELLO_SECONDS:g} s")
        match messages:
            case []:
                raise Unreachable("the peer left before its Hello")
            case [Hello() as hello]:
                grant = self._recognise(hello)
            case _:
                raise _Refused("protocol", "a connection begins with Hello, then waits for Welcome")
        return _Peer(next(self._numbers), link, grant, caller.pid or hello.pid, trio.current_time())

    def _recognise(self, hello: Hello) -> Grant:
        if hello.version != envelope.VERSION:
            raise _Refused(
                "version",
                f"you speak version {hello.version} of the bus, the supervisor speaks {envelope.VERSION}",
                "use the same release of pannier on both sides; restart what is older",
            )
        grant = self._grants.find(hello.token) if hello.token else Grant(CLI)
        if grant is None:
            raise _Refused("token", f"the token for role `{hello.role}` is not known here", "it may be of an older run")
        if grant.role != hello.role:
            raise _Refused("role", f"this token does not make you `{hello.role}`", "without a token you are `cli`")
        return grant

    async def _converse(self, peer: _Peer, nursery: trio.Nursery) -> None:
        self._enter(peer)
        gone = False
        try:
            with peer.scope:
                await self._welcome(peer)
                async with trio.open_nursery() as tasks:
                    tasks.start_soon(self._write, peer)
                    await self._read(peer, nursery)
                    peer.scope.cancel()
            gone = True
        finally:
            replaced = self._leave(peer)
        if gone and not replaced and peer.role != CLI:
            await self._on_gone(peer.role)
        if peer.verdict is not None:
            raise peer.verdict

    async def _welcome(self, peer: _Peer) -> None:
        """Says Welcome to a peer that others can reach already, so that whoever hears of it finds it."""
        grant = peer.grant
        welcome = Welcome(envelope.VERSION, grant.role, list(grant.fds), grant.config, self._service)
        with trio.move_on_after(PATIENCE_SECONDS) as slow:
            try:
                await peer.link.send_with_descriptors(welcome, list(grant.fds.values()))
            except Unreachable:
                peer.scope.cancel()
        if slow.cancelled_caught:
            peer.scope.cancel()

    def _enter(self, peer: _Peer) -> None:
        self._welcomed += 1
        self._peers[peer.number] = peer
        if peer.role != CLI:
            older = self._roles.get(peer.role)
            self._roles[peer.role] = peer
            if older is not None:
                older.cut(_Refused("replaced", f"a newer process is `{peer.role}` now"))

    def _leave(self, peer: _Peer) -> bool:
        """Forgets the peer; whether another one has its role already."""
        del self._peers[peer.number]
        self._topics.leave(peer.number)
        for call in self._calls.leave(peer.number):
            self._fail(call, Unreachable(f"`{call.to}` went away before it answered", hint="try again in a moment"))
        peer.link.outbox.abandon()
        self._ended += peer.link.outbox.statistics()
        replaced = self._roles.get(peer.role) is not peer
        if not replaced:
            del self._roles[peer.role]
        return replaced

    async def _write(self, peer: _Peer) -> None:
        try:
            await peer.link.pump(patience=PATIENCE_SECONDS)
        except Unreachable:
            peer.scope.cancel()

    async def _read(self, peer: _Peer, nursery: trio.Nursery) -> None:
        try:
            while messages := await peer.link.receive(patience=PATIENCE_SECONDS):
                for message in messages:
                    peer.received += 1
                    await self._handle(peer, message, nursery)
                    if pause := peer.meter.take(trio.current_time()):
                        peer.pauses += 1
                        if peer.meter.flooding(trio.current_time()) >= PATIENCE_SECONDS:
                            raise _Refused(
                                "flood", f"over {MESSAGES_PER_SECOND} messages a second for {PATIENCE_SECONDS:g} s"
                            )
                        await trio.sleep(pause)
        except FramingError as error:
            peer.cut(_Refused("protocol", error.message, error.hint))
        except _Refused as error:
            peer.cut(error)
        except Unreachable:
            pass

    async def _handle(self, peer: _Peer, message: envelope.Envelope, nursery: trio.Nursery) -> None:
        match message:
            case Request():
                self._route(peer, message, nursery)
            case Subscribe(topics=topics):
                self._subscribe(peer, topics)
            case Ready() | Beat() | Publish() | Reply() | Failure() if peer.role == CLI:
                raise _Refused("rights", f"`{CLI}` may ask and listen; {type(message).__name__} is for sidecars")
            case Beat():
                await self._on_beat(peer.role)
            case Ready():
                await self._on_ready(peer.role, peer.pid)
            case Publish(topic=topic, body=body, retain=retain):
                if topic != EVENTS and topic not in peer.grant.topics:
                    raise _Refused("rights", f"`{peer.role}` does not own the topic `{topic}`")
                if len(body) > framing.MAX_BODY:
                    raise _Refused("protocol", f"a body of {len(body)} bytes; at most {framing.MAX_BODY} are allowed")
                self._publish(topic, peer.role, body, retain=retain)
            case Reply(id=number) | Failure(id=number):
                if (call := self._calls.end(number, peer.number)) is not None:
                    self._answer(call.asker, msgspec.structs.replace(message, id=call.asked))
            case _:
                raise _Refused("protocol", f"{type(message).__name__} is not for a broker")

    def _subscribe(self, peer: _Peer, topics: list[str]) -> None:
        peer.topics.update(topics)
        if len(peer.topics) > MAX_TOPICS_A_PEER or any(len(topic) > MAX_NAME for topic in topics):
            raise _Refused("rights", f"at most {MAX_TOPICS_A_PEER} topics with names of {MAX_NAME} characters")
        hears = peer.grant.hears
        if hears is not None and (foreign := set(topics) - hears):
            raise _Refused("rights", f"`{peer.role}` may not listen to `{min(foreign)}`")
        for event in self._topics.subscribe(peer.number, topics):
            peer.link.post_state(event.topic, frame(event))

    def _publish(self, topic: str, sender: str, body: bytes, *, retain: bool) -> None:
        event, readers = self._topics.publish(topic, sender, body, retain=retain)
        if not readers:
            return
        data = frame(event)
        for number in readers:
            link = self._peers[number].link
            if retain:
                link.post_state(topic, data)
            else:
                link.post_event(data)

    def _route(self, peer: _Peer, request: Request, nursery: trio.Nursery) -> None:
        if request.to == SUPERVISOR:
            if self._own_calls >= MAX_OWN_CALLS or peer.own_calls >= MAX_OWN_CALLS_A_PEER:
                busy = Unreachable("the supervisor is answering too many requests", hint="try again in a moment")
                self._answer(peer.number, envelope.failure_of(request.id, busy))
            else:
                self._own_calls += 1
                peer.own_calls += 1
                nursery.start_soon(self._answer_myself, peer, request)
            return
        if request.verb == CONFIGURE or request.to == FUSED:
            what = FUSED if request.to == FUSED else CONFIGURE
            mine = UsageError(f"`{what}` is the supervisor's alone", hint=_INSTEAD[what])
            self._answer(peer.number, envelope.failure_of(request.id, mine))
            return
        self._pass_on(peer.number, request)

    def _pass_on(self, asker: int, request: Request) -> None:
        handler = self._roles.get(request.to)
        if handler is None:
            here = ", ".join(sorted({SUPERVISOR, *self._roles}))
            missing = Unreachable(
                f"`{request.to}` is not connected",
                hint=f"connected now: {here}; `pannier sidecar list` shows more",
            )
            self._answer(asker, envelope.failure_of(request.id, missing))
            return
        verbs = handler.grant.verbs
        if verbs is not None and request.verb not in verbs and request.verb != CONFIGURE:
            hint = f"it serves: {', '.join(sorted(verbs)) or 'none'}"
            unknown = UsageError(f"`{request.to}` serves no verb `{request.verb[:MAX_NAME]}`", hint=hint)
            self._answer(asker, envelope.failure_of(request.id, unknown))
            return
        if handler.link.outbox.control_bytes > MAX_BACKLOG:
            busy = Unreachable(f"`{request.to}` does not read its requests", hint="try again in a moment")
            self._answer(asker, envelope.failure_of(request.id, busy))
            return
        number, displaced = self._calls.begin(Call(asker, request.id, handler.number, request.to))
        if displaced is not None:
            self._fail(displaced, Unreachable(f"`{displaced.to}` has not answered, and newer requests came"))
        handler.link.post(msgspec.structs.replace(request, id=number))

    async def _answer_myself(self, asker: _Peer, request: Request) -> None:
        try:
            self._answer(asker.number, await answer_with(self._handlers, request, owner=SUPERVISOR))
        finally:
            self._own_calls -= 1
            asker.own_calls -= 1

    def _fail(self, call: Call, error: PannierError) -> None:
        self._answer(call.asker, envelope.failure_of(call.asked, error))

    def _answer(self, asker: int, answer: Reply | Failure) -> None:
        if asker == _SUPERVISOR:
            if (awaited := self._awaited.get(answer.id)) is not None:
                awaited.answer = answer
                awaited.answered.set()
            return
        peer = self._peers.get(asker)
        if peer is None:
            return
        if peer.link.outbox.control_bytes > MAX_BACKLOG:
            peer.cut(_Refused("slow", f"{MAX_BACKLOG} bytes of answers wait to be read"))
        else:
            peer.link.post(answer)
