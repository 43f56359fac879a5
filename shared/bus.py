"""The bus as one of its clients sees it: a sidecar, or a command.

Rules:

- Nothing here waits for the supervisor except `request`. A stopped or dead supervisor takes control away, not function.
- With `reconnect`, a lost connection is repaired in the background, for ever, with full jitter: the same handlers and
  subscriptions, the last value of every retained topic published again, `Ready` sent again. A descriptor keeps its
  number across reconnects, so whoever holds the number holds the new file.
- A newer connection of the same role ends this one for good: two owners of a role would take turns without end.
- A handler that fails answers `Failure`; a failure that is a bug is logged and stays the handler's.
"""

from __future__ import annotations

import logging
import os
import random
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any, Final, TypeVar

import msgspec
import trio
from pannier.shared import envelope, framing
from pannier.shared.backoff import full_jitter
from pannier.shared.envelope import (
    CLI,
    Beat,
    Event,
    Failure,
    Hello,
    Publish,
    Ready,
    Reject,
    Reply,
    Request,
    Subscribe,
    Welcome,
)
from pannier.shared.errors import Blame, PannierError, TimedOut, Unreachable, UsageError
from pannier.shared.framing import FramingError
from pannier.shared.link import Link
from pannier.shared.subscription import Subscription
from pannier.shared.ticks import BEAT_SECONDS, next_tick
from pannier.shared.unix import connect_unix

T = TypeVar("T")
B = TypeVar("B")

HANDSHAKE_SECONDS: Final = 5.0
RECONNECT_BASE_SECONDS: Final = 0.05
RECONNECT_CAP_SECONDS: Final = 0.5
_FLUSH_SECONDS = 0.2

_log = logging.getLogger("pannier.bus")


class Rejected(PannierError):
    """The broker does not take this peer; `reason` is the code of its `Reject`."""

    blame = Blame.PEER

    def __init__(self, reject: Reject) -> None:
        super().__init__(reject.message, hint=reject.hint)
        self.reason = reject.code


@dataclass(frozen=True)
class BusStatistics:
    """`connects` counts welcomes, the first included; the rest is over the whole life of the bus. `dropped` holds what
    was published while nobody was connected, too; `undecodable` are bodies that were not of the expected type."""

    connected: bool
    connects: int
    sent: int
    received: int
    conflated: int
    dropped: int
    undecodable: int


@asynccontextmanager
async def open_bus(
    path: str | Path, *, role: str = CLI, token: str = "", reconnect: bool = False
) -> AsyncIterator[Bus]:
    """Connects to the supervisor that listens on `path`, and stays connected while the context is open.

    A role other than `cli` needs the token that it was spawned with, and sends a beat every `BEAT_SECONDS`. What was
    posted last is still written on the way out, within 0.2 s. Raises `Unreachable` if nobody answers within 5 s,
    `Rejected` if the supervisor refuses; later losses show as `Unreachable` in `request` and in subscriptions unless
    `reconnect`.
    """
    bus = Bus(Path(path), role=role, token=token, reconnect=reconnect)
    link = await bus._connect()
    failure: Exception | KeyboardInterrupt | None = None
    try:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(bus._run, nursery, link)
            try:
                yield bus
                await bus._flush()
            except (Exception, KeyboardInterrupt) as error:
                failure = error
            nursery.cancel_scope.cancel()
    finally:
        bus._close()
    if failure is not None:
        raise failure


class Bus:
    """One connection to the broker. Made by `open_bus` alone."""

    def __init__(self, path: Path, *, role: str, token: str, reconnect: bool) -> None:
        self.peer = ""
        self.service = ""
        self.config = b""
        self.fds: dict[str, int] = {}
        self._path = path
        self._role = role
        self._token = token
        self._reconnect = reconnect
        self._link: Link | None = None
        self._closed = trio.Event()
        self._ready = False
        self._ids = count(1)
        self._waiting: dict[int, _Answer] = {}
        self._handlers: dict[str, tuple[type[Any], Callable[[Any], Awaitable[msgspec.Struct | None]]]] = {}
        self._subscriptions: dict[str, list[Subscription[Any]]] = {}
        self._latest: dict[str, Event] = {}
        self._retained: dict[str, bytes] = {}
        self._counts: Counter[str] = Counter()

    def __repr__(self) -> str:
        state = "closed" if self._closed.is_set() else "connected" if self._link else "reconnecting"
        return f"<Bus {self._role} at {self._path} {state}>"

    async def ready(self) -> None:
        """Tells the supervisor that this process does its job, now and after each reconnect."""
        self._ready = True
        if self._link is not None:
            self._link.post(Ready())
        await trio.lowlevel.checkpoint()

    async def publish(self, topic: str, body: msgspec.Struct, *, retain: bool = False) -> None:
        """Publishes on a topic that this role owns (or `events`), without waiting for anybody.

        `retain`: state; the last value survives the supervisor's death. Without it, an event: lost if nobody is
        connected. Raises `FramingError` if it is over a frame, `Unreachable` if the bus is closed for good.
        """
        if self._closed.is_set():
            raise _closed()
        data = framing.frame(Publish(topic, framing.encode(body), retain))
        if retain:
            self._retained[topic] = data
        if self._link is None:
            self._counts["dropped"] += not retain
        elif retain:
            self._link.post_state(topic, data)
        else:
            self._link.post_event(data)
        await trio.lowlevel.checkpoint()

    @asynccontextmanager
    async def subscribe(self, topic: str, type_: type[T]) -> AsyncIterator[Subscription[T]]:
        """Reads a topic: the retained value first, then what comes.

        For a slow reader, state conflates to the newest value, and of events the oldest of 256 is dropped and counted.
        After a reconnect the retained value comes again. Iterating raises `Unreachable` once the bus is closed for
        good.
        """
        subscription = Subscription(topic, type_)
        readers = self._subscriptions.get(topic)
        if readers is None:
            readers = self._subscriptions[topic] = []
            if self._link is not None:
                self._link.post(Subscribe([topic]))
        elif (latest := self._latest.get(topic)) is not None:
            subscription.offer(latest)
        readers.append(subscription)
        if self._closed.is_set():
            subscription.close()
        try:
            await trio.lowlevel.checkpoint()
            yield subscription
        finally:
            readers.remove(subscription)
            self._counts["conflated"] += subscription.conflated
            self._counts["dropped"] += subscription.dropped
            self._counts["undecodable"] += subscription.undecodable

    async def request(
        self, to: str, verb: str, body: msgspec.Struct | None, reply: type[T], *, timeout: float = 5
    ) -> T:
        """Asks the role `to` and returns its answer; `body` None is for a verb without argument.

        Raises what the handler raised (as the same kind of `PannierError`), `Unreachable` if there is no such peer or
        the connection is lost meanwhile, `TimedOut` after `timeout` seconds, `FramingError` for an odd answer.
        """
        link = self._link
        if link is None:
            await trio.lowlevel.checkpoint()
            raise _closed() if self._closed.is_set() else _disconnected()
        request_id = next(self._ids)
        answer = self._waiting[request_id] = _Answer()
        try:
            link.post(Request(request_id, to, verb, framing.encode(body)))
            with trio.move_on_after(timeout):
                await answer.arrived.wait()
        finally:
            del self._waiting[request_id]
        if answer.error is not None:
            raise answer.error
        if answer.body is None:
            raise TimedOut(f"`{to}` did not answer `{verb}` within {timeout:g} s", hint="`pannier ps` shows its state")
        return framing.decode(answer.body, reply)

    def serve(self, verb: str, type_: type[B], handler: Callable[[B], Awaitable[msgspec.Struct | None]]) -> None:
        """Answers requests for `verb`, one task each. A `PannierError` of the handler reaches the asker as it is; any
        other error is logged here and reaches the asker as a failure without details. Raises `ValueError` if the verb
        has a handler."""
        if verb in self._handlers:
            raise ValueError(f"verb {verb!r} has a handler")
        self._handlers[verb] = (type_, handler)

    async def wait_closed(self) -> None:
        """Returns when the bus is closed for good: with `reconnect`, only when a newer connection took the role."""
        await self._closed.wait()

    def statistics(self) -> BusStatistics:
        open_ = [subscription for readers in self._subscriptions.values() for subscription in readers]
        outbox = self._link.outbox.statistics() if self._link is not None else None
        return BusStatistics(
            connected=self._link is not None,
            connects=self._counts["connects"],
            sent=self._counts["sent"] + (outbox.delivered if outbox else 0),
            received=self._counts["received"],
            conflated=self._counts["conflated"] + sum(s.conflated for s in open_) + (outbox.conflated if outbox else 0),
            dropped=self._counts["dropped"] + sum(s.dropped for s in open_) + (outbox.dropped if outbox else 0),
            undecodable=self._counts["undecodable"] + sum(s.undecodable for s in open_),
        )

    async def _connect(self) -> Link:
        with trio.move_on_after(HANDSHAKE_SECONDS):
            link = Link(await connect_unix(self._path))
            try:
                welcome, descriptors = await self._shake_hands(link)
            except BaseException:
                await trio.aclose_forcefully(link)
                raise
            self._adopt(welcome, descriptors)
            self._link = link
            self._counts["connects"] += 1
            for topic in self._subscriptions:
                link.post(Subscribe([topic]))
            for topic, data in self._retained.items():
                link.post_state(topic, data)
            if self._ready:
                link.post(Ready())
            return link
        raise Unreachable(f"the supervisor behind {self._path} does not answer", hint="it may be stopped: `pannier ps`")

    async def _shake_hands(self, link: Link) -> tuple[Welcome, list[int]]:
        with suppress(Unreachable):  # who is refused at sight may find the door closed, and the reason behind it
            await link.send_with_descriptors(Hello(envelope.VERSION, self._token, os.getpid(), self._role), [])
        messages, descriptors = await link.receive_with_descriptors()
        match messages:
            case [Welcome(fds=names) as welcome] if len(names) == len(descriptors):
                return welcome, descriptors
        for descriptor in descriptors:
            os.close(descriptor)
        match messages:
            case [Reject() as reject, *_]:
                raise Rejected(reject)
            case []:
                raise Unreachable("the supervisor closed the connection", hint="try again; it may be starting")
        raise FramingError("the supervisor did not begin with a welcome")

    def _adopt(self, welcome: Welcome, descriptors: list[int]) -> None:
        self.peer, self.service, self.config = welcome.peer, welcome.service, welcome.config
        arrived = dict(zip(welcome.fds, descriptors, strict=True))
        for name in self.fds.keys() - arrived.keys():
            os.close(self.fds.pop(name))
        for name, descriptor in arrived.items():
            if name in self.fds:
                os.dup2(descriptor, self.fds[name], inheritable=False)
                os.close(descriptor)
            else:
                self.fds[name] = descriptor

    async def _run(self, nursery: trio.Nursery, link: Link) -> None:
        attempt = 0
        while True:
            began = trio.current_time()
            final = await self._converse(nursery, link)
            if final or not self._reconnect:
                break
            if trio.current_time() - began > RECONNECT_CAP_SECONDS:
                attempt = 0
            link, attempt = await self._connect_again(attempt)
        self._closed.set()
        for readers in self._subscriptions.values():
            for subscription in readers:
                subscription.close()

    async def _connect_again(self, first: int) -> tuple[Link, int]:
        """A new connection, and the attempt to go on with should it be lost as soon as it is made."""
        for attempt in count(first):
            await trio.sleep(
                full_jitter(attempt, base=RECONNECT_BASE_SECONDS, cap=RECONNECT_CAP_SECONDS, random=random.random())
            )
            try:
                return await self._connect(), attempt + 1
            except PannierError as error:
                _log.debug("%s is still away: %s", self._path, error.message)
        raise AssertionError("count() does not end")

    async def _converse(self, nursery: trio.Nursery, link: Link) -> bool:
        """Runs one connection to its end; whether another one makes no sense."""
        final = False
        try:
            async with trio.open_nursery() as tasks:
                tasks.start_soon(_until_lost, link.pump, tasks.cancel_scope)
                if self._role != CLI:
                    tasks.start_soon(_beat, link)
                try:
                    while messages := await link.receive():
                        for message in messages:
                            self._handle(message, nursery, link)
                except Rejected as error:
                    _log.warning("the supervisor ended the connection: %s", error.message)
                    final = error.reason == "replaced"
                except (Unreachable, FramingError) as error:
                    _log.debug("connection to %s lost: %s", self._path, error.message)
                tasks.cancel_scope.cancel()
        finally:
            self._lost(link)
            with trio.CancelScope(shield=True):
                await trio.aclose_forcefully(link)
        return final

    def _lost(self, link: Link) -> None:
        self._link = None
        link.outbox.abandon()
        ended = link.outbox.statistics()
        self._counts["sent"] += ended.delivered
        self._counts["conflated"] += ended.conflated
        self._counts["dropped"] += ended.dropped
        for answer in self._waiting.values():
            answer.error = _disconnected()
            answer.arrived.set()

    def _handle(self, message: envelope.Envelope, nursery: trio.Nursery, link: Link) -> None:
        self._counts["received"] += 1
        match message:
            case Event(topic=topic):
                if message.retained:
                    self._latest[topic] = message
                for subscription in self._subscriptions.get(topic, ()):
                    subscription.offer(message)
            case Reply(id=request_id, body=body):
                if (answer := self._waiting.get(request_id)) is not None:
                    answer.body = body
                    answer.arrived.set()
            case Failure(id=request_id):
                if (answer := self._waiting.get(request_id)) is not None:
                    answer.error = envelope.error_of(message)
                    answer.arrived.set()
            case Request():
                nursery.start_soon(self._answer, message, link)
            case Reject():
                raise Rejected(message)
            case _:
                raise FramingError(f"{type(message).__name__} is not for a client")

    async def _answer(self, request: Request, link: Link) -> None:
        link.post(await answer_with(self._handlers, request, owner=self._role))

    async def _flush(self) -> None:
        if self._link is not None:
            with trio.move_on_after(_FLUSH_SECONDS):
                await self._link.wait_written()

    def _close(self) -> None:
        self._closed.set()
        for descriptor in self.fds.values():
            os.close(descriptor)
        self.fds.clear()


async def answer_with(
    handlers: dict[str, tuple[type[Any], Callable[[Any], Awaitable[msgspec.Struct | None]]]],
    request: Request,
    *,
    owner: str,
) -> Reply | Failure:
    """The answer to `request` by the handler of its verb; every failure is an answer, too."""
    try:
        known = handlers.get(request.verb)
        if known is None:
            raise UsageError(
                f"`{owner}` has no verb `{request.verb}`",
                hint=f"it knows: {', '.join(sorted(handlers)) or 'none'}",
            )
        type_, handler = known
        return Reply(request.id, framing.encode(await handler(framing.decode(request.body, type_))))
    except PannierError as error:
        return envelope.failure_of(request.id, error)
    except Exception as error:
        _log.exception("the handler of `%s` failed", request.verb)
        return envelope.failure_of(
            request.id,
            PannierError(
                f"`{owner}` failed to answer `{request.verb}` ({type(error).__name__})",
                hint="its log has the details",
            ),
        )


class _Answer:
    def __init__(self) -> None:
        self.arrived = trio.Event()
        self.body: bytes | None = None
        self.error: PannierError | None = None


async def _until_lost(pump: Callable[[], Awaitable[None]], scope: trio.CancelScope) -> None:
    try:
        await pump()
    except Unreachable:
        scope.cancel()


async def _beat(link: Link) -> None:
    while True:
        if not len(link.outbox):  # the last one still waits, so the supervisor is not reading: do not pile them up
            link.post(Beat())
        await next_tick(BEAT_SECONDS)


def _disconnected() -> Unreachable:
    return Unreachable("the connection to the supervisor is lost", hint="it comes back by itself; try again")


def _closed() -> Unreachable:
    return Unreachable("the bus is closed", hint="the supervisor, or this process's role, is gone")
