"""The subscription that standard clients know: xDS v3 over one aggregated stream, incremental or state of the world.

Rules:
- What is told is decided in `ads.py` and made in `catalogue.py`; here are streams, wakes and bounds.
- A stream is woken by what it follows and by nothing else. Who is still sending is told the newest state next.
- Who does not read, asks too often or says what cannot be understood costs nobody else: it is waited for, for a bounded
  time, slowed down, or let go with an error that says why.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, TypeVar

import msgspec
import trio
from google.protobuf.message import DecodeError
from pannier.shared.instances import EVERY
from pannier.sidecars.pilot.grpc.call import Call, Code, GrpcError, Handler
from pannier.sidecars.pilot.registry.fanout import Change, Fanout
from pannier.sidecars.pilot.registry.registry import Registry
from pannier.sidecars.pilot.xds.ads import Asked, AskedAll, Delta, Refused, StateOfTheWorld, Stream
from pannier.sidecars.pilot.xds.catalogue import Catalogue, NoPolicies, Policies
from pannier.sidecars.pilot.xds.listeners import OUTBOUND
from pannier.sidecars.pilot.xds.node import Node, node_of
from pannier.sidecars.pilot.xds.resources import Response, Type
from pannier.sidecars.pilot.xds.schema import MESSAGES
from pannier.sidecars.pilot.xds.topic import Offer, Topic

SERVICE: Final = "/envoy.service.discovery.v3.AggregatedDiscoveryService/"
MAX_STREAMS: Final = 8192
FIRST_SECONDS: Final = 10.0
"""Within which a client has to say what it wants."""
SEND_SECONDS: Final = 30.0
"""That a client may take to read a response."""
REQUESTS_PER_SECOND: Final = 100.0
REQUESTS_AT_ONCE: Final = 1000.0
"""An Envoy that begins asks for each cluster's endpoints, perhaps one by one."""

_Error = TypeVar("_Error", bound=BaseException)

_log = logging.getLogger("pannier.pilot")


class TypeStatus(msgspec.Struct, frozen=True):
    """What a client has to do with a type. `names` counts those that it follows, `everything` says that it follows all;
    `version` was accepted last, `error` is why it rejects something, if it does; `waiting_s`: it has not answered for
    that long, 0 if there is nothing to answer. `ignored` answers were to no response that was under way."""

    type: str
    everything: bool
    names: int
    version: str
    sent: int
    accepted: int
    rejected: int
    ignored: int
    error: str
    waiting_s: float


class ClientStatus(msgspec.Struct, frozen=True):
    """A connected client. `form` is `delta` or `state-of-the-world`."""

    node: str
    peer: str
    agent: str
    form: str
    stage: str
    connected_s: float
    types: Sequence[TypeStatus]


class Answers(msgspec.Struct, frozen=True):
    """How many responses of a type were accepted, and how many rejected."""

    accepted: int = 0
    rejected: int = 0


class XdsStatus(msgspec.Struct, frozen=True):
    """Counts are of this pilot since it has begun; `left_out` are addresses that no client could call, by service;
    `answers` are by type, of all clients that there have been."""

    clients: Sequence[ClientStatus]
    streams: int
    sent: int
    accepted: int
    rejected: int
    refused: Mapping[str, int]
    left_out: Mapping[str, Sequence[str]]
    answers: Mapping[str, Answers] = {}


class Xds:
    """All streams of a pilot, and what they share."""

    def __init__(
        self,
        registry: Registry,
        fanout: Fanout,
        policies: Policies | None = None,
        *,
        clock: Callable[[], float] = trio.current_time,
    ) -> None:
        self.catalogue = Catalogue(registry, policies or NoPolicies())
        self.clock = clock
        self.streams = self.sent = self.accepted = self.rejected = 0
        self.answers = {kind: Answers() for kind in Type}
        self.refused: dict[str, int] = {}
        self.followers: dict[str, dict[_Session, None]] = {}  # by service, of its endpoints
        self._registry = registry
        self._sessions: dict[_Session, None] = {}
        self._begun = False
        fanout.join(EVERY, self)

    def handlers(self) -> dict[str, Handler]:
        """Calls, by their path."""
        return {
            f"{SERVICE}DeltaAggregatedResources": self._delta,
            f"{SERVICE}StreamAggregatedResources": self._state_of_the_world,
        }

    def changed(self, change: Change) -> None:
        """A `fanout.Subscriber` of everything, to which nothing is news before there was a stream."""
        if not self._begun:
            return
        view = self._registry.view
        services = {change.service}
        if change.instances is None:  # some may be gone of which nothing is left
            services.update(name for name in self.catalogue.services if not view.alive(name))
        for service in services:
            if self.catalogue.changed(service):
                for session in tuple(self._sessions):
                    session.services_changed(service)
            for session in tuple(self.followers.get(service, ())):
                session.endpoints_changed(service)

    def policy_changed(self, stage: str) -> None:
        """The policy of that stage is another."""
        self.catalogue.policy_changed(stage)
        for session in tuple(self._sessions):
            if session.stage == stage:
                session.everything_changed()

    def statistics(self) -> Sequence[ClientStatus]:
        """Who is connected, by node."""
        return sorted((one for session in self._sessions if (one := session.status())), key=lambda one: one.node)

    def status(self) -> XdsStatus:
        """All of it."""
        return XdsStatus(
            self.statistics(),
            self.streams,
            self.sent,
            self.accepted,
            self.rejected,
            dict(self.refused),
            dict(self.catalogue.left_out),
            {kind.name.lower(): answers for kind, answers in self.answers.items()},
        )

    async def _delta(self, call: Call) -> None:
        await self._converse(_Session(self, call, _DELTA))

    async def _state_of_the_world(self, call: Call) -> None:
        await self._converse(_Session(self, call, _STATE_OF_THE_WORLD))

    async def _converse(self, session: _Session) -> None:
        if len(self._sessions) >= MAX_STREAMS:
            self._count("streams")
            raise GrpcError(Code.RESOURCE_EXHAUSTED, f"this pilot has {MAX_STREAMS} streams and takes no more")
        if not self._begun:
            self._begun = True
            for service in self._registry.view.services():
                self.catalogue.changed(service)
        self.streams += 1
        self._sessions[session] = None
        try:
            await session.run()
        except* Refused as group:
            refused = _first(group)
            self._count("exhausted" if refused.exhausted else "asked")
            _log.warning("the xDS stream of %s ends: %s", session.name, refused)
            code = Code.RESOURCE_EXHAUSTED if refused.exhausted else Code.INVALID_ARGUMENT
            raise GrpcError(code, str(refused)) from None
        except* DecodeError as errors:
            self._count("understood")
            raise GrpcError(Code.INVALID_ARGUMENT, f"this is no such request: {_first(errors)}") from None
        finally:
            del self._sessions[session]
            session.follow(())
            if all(other.stage != session.stage for other in self._sessions):
                self.catalogue.forget_stage(session.stage)

    def _count(self, why: str) -> None:
        self.refused[why] = self.refused.get(why, 0) + 1


@dataclass(frozen=True, slots=True)
class _Form:
    """One of the two that the protocol has: how a request is read, and a response written."""

    name: str
    request: str
    begin: Callable[[Offer], Stream]
    asked: Callable[[Any], Asked | AskedAll]
    encode: Callable[[Response], bytes]


def _asked(request: Any) -> Asked:
    return Asked(
        request.type_url,
        request.resource_names_subscribe,
        request.resource_names_unsubscribe,
        request.initial_resource_versions,
        request.response_nonce,
        _error(request),
    )


def _asked_all(request: Any) -> AskedAll:
    return AskedAll(request.type_url, request.resource_names, request.response_nonce, _error(request))


def _error(request: Any) -> str | None:
    return request.error_detail.message if request.HasField("error_detail") else None


_DELTA: Final = _Form("delta", "DeltaDiscoveryRequest", Delta, _asked, Response.as_delta)
_STATE_OF_THE_WORLD: Final = _Form(
    "state-of-the-world", "DiscoveryRequest", StateOfTheWorld, _asked_all, Response.as_state_of_the_world
)


class _Session:
    """One stream. What is asked for is read while something is sent."""

    def __init__(self, xds: Xds, call: Call, form: _Form) -> None:
        self._xds = xds
        self._call = call
        self._form = form
        self._since = xds.clock()
        self._wake = trio.Event()
        self._node = Node()
        self._stream: Stream | None = None
        self._following: dict[str, set[str]] = {}  # names of endpoints by service
        self._edition = 0  # of those names
        self._allowance = REQUESTS_AT_ONCE
        self._allowed_at = self._since

    @property
    def name(self) -> str:
        return f"{self._node.id or 'a client without an id'} ({self._call.peer})"

    @property
    def stage(self) -> str:
        return self._node.shape.stage

    async def run(self) -> None:
        """Until the client sends no more."""
        with trio.move_on_after(FIRST_SECONDS) as deadline:
            wire = await self._call.receive()
        if deadline.cancelled_caught:
            raise Refused(f"no request came within {FIRST_SECONDS:g} s")
        if wire is None:
            return
        request = self._decode(wire)
        self._node = node_of(request.node)
        stream = self._stream = self._form.begin(self._xds.catalogue.offering(self._node.shape))
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._write, stream)
            while True:
                self._receive(stream, request)
                self._wake.set()
                await self._slow_down()
                wire = await self._call.receive()
                if wire is None:
                    break
                request = self._decode(wire)
            nursery.cancel_scope.cancel()

    def services_changed(self, service: str) -> None:
        """It has come or gone, or is spoken to in another way."""
        stream, catalogue = self._stream, self._xds.catalogue
        if stream is None:
            return
        stream.changed(Type.CLUSTER, catalogue.cluster_names(self.stage, service))
        if catalogue.offering(self._node.shape).concerns(service):
            listeners = stream.topics.get(Type.LISTENER)
            names = () if listeners is None else listeners.names
            stream.changed(Type.LISTENER, [name for name in names if name.partition(":")[0] == service])
            stream.changed(Type.ROUTES, [service, OUTBOUND])
        self._wake.set()

    def endpoints_changed(self, service: str) -> None:
        """Some of its instances are others."""
        if self._stream is not None and self._stream.changed(Type.ENDPOINTS, self._following[service]):
            self._wake.set()

    def everything_changed(self) -> None:
        """The policy is another."""
        if self._stream is not None:
            for kind in Type:
                self._stream.changed(kind, None)
            self._wake.set()

    def follow(self, names: Collection[str]) -> None:
        """These endpoints, and no others."""
        wanted: dict[str, set[str]] = {}
        for name in names:
            wanted.setdefault(name.partition("/")[0], set()).add(name)
        followers = self._xds.followers
        for service in self._following.keys() - wanted.keys():
            del followers[service][self]
            if not followers[service]:
                del followers[service]
        for service in wanted.keys() - self._following.keys():
            followers.setdefault(service, {})[self] = None
        self._following = wanted

    def status(self) -> ClientStatus | None:
        """None before its first request."""
        stream, now = self._stream, self._xds.clock()
        if stream is None:
            return None
        types = [_type_status(topic, now) for topic in stream.topics.values()]
        node, shape = self._node, self._node.shape
        return ClientStatus(
            node.id, self._call.peer, node.agent, self._form.name, shape.stage, round(now - self._since, 3), types
        )

    def _decode(self, wire: bytes) -> Any:
        return MESSAGES.parse(f"envoy.service.discovery.v3.{self._form.request}", wire)

    async def _write(self, stream: Stream) -> None:
        while True:
            with trio.CancelScope(deadline=stream.wake_at):
                await self._wake.wait()
            self._wake = trio.Event()
            while (response := stream.next(self._xds.clock())) is not None:
                self._xds.sent += 1
                with trio.move_on_after(SEND_SECONDS) as deadline:
                    await self._call.send(self._form.encode(response))
                if deadline.cancelled_caught:
                    raise Refused(f"a response was not read within {SEND_SECONDS:g} s", exhausted=True)

    async def _slow_down(self) -> None:
        now = self._xds.clock()
        self._allowance = min(self._allowance + (now - self._allowed_at) * REQUESTS_PER_SECOND, REQUESTS_AT_ONCE) - 1
        self._allowed_at = now
        if self._allowance < 0:
            await trio.sleep(-self._allowance / REQUESTS_PER_SECOND)

    def _receive(self, stream: Stream, request: Any) -> None:
        before = {kind: (topic.acked, topic.nacked) for kind, topic in stream.topics.items()}
        stream.receive(self._form.asked(request), self._xds.clock())
        for kind, topic in stream.topics.items():
            acked, nacked = before.get(kind, (0, 0))
            accepted, rejected = topic.acked - acked, topic.nacked - nacked
            self._xds.accepted += accepted
            self._xds.rejected += rejected
            if accepted or rejected:
                counted = self._xds.answers[kind]
                self._xds.answers[kind] = Answers(counted.accepted + accepted, counted.rejected + rejected)
            if topic.nacked > nacked:
                _log.warning("%s rejects %s: %s", self.name, kind.name.lower(), topic.error)
        endpoints = stream.topics.get(Type.ENDPOINTS)
        if endpoints is not None and endpoints.edition != self._edition:
            self._edition = endpoints.edition
            self.follow(endpoints.names)


def _first(group: BaseExceptionGroup[_Error]) -> _Error:
    """One of them."""
    error = group.exceptions[0]
    return _first(error) if isinstance(error, BaseExceptionGroup) else error


def _type_status(topic: Topic, now: float) -> TypeStatus:
    return TypeStatus(
        topic.kind.name.lower(),
        topic.wildcard,
        len(topic.names),
        topic.version,
        topic.sent,
        topic.acked,
        topic.nacked,
        topic.ignored,
        topic.error,
        round(now - topic.since, 3) if topic.outstanding is not None else 0.0,
    )
