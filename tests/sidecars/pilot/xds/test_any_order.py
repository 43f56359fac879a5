"""Both forms of the protocol against a client that does what the specification says, in any order of things.

The client is like Envoy: it wants all clusters and listeners, the endpoints of the clusters it has, and the routes of
its listeners. What it is sent and what it says is under way for as long as hypothesis likes, connections end at any
time, and some of what it is sent it rejects. Whatever happens:

- routes never lead to a cluster whose endpoints are not there, and no cluster goes that routes still lead to;
- once nothing is under way any more, it has exactly what the server has, less what it rejects.
"""

from __future__ import annotations

import math
import os
from collections import deque
from collections.abc import Collection, Iterable
from typing import ClassVar

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule
from pannier.sidecars.pilot.xds.ads import Asked, AskedAll, Delta, StateOfTheWorld
from pannier.sidecars.pilot.xds.resources import Resource, Response, Type

MANY = int(os.environ.get("PANNIER_FUZZ", "60"))
SERVICES = ("orders", "stock", "users")
ONLY = "outbound"


class Server:
    """What there is: services with a version of their cluster and of their endpoints. A `bad` version is rejected."""

    made = 0

    def __init__(self) -> None:
        self.clusters: dict[str, str] = {}
        self.endpoints: dict[str, str] = {}

    def names(self, kind: Type) -> Collection[str]:
        return {Type.CLUSTER: list(self.clusters), Type.LISTENER: [ONLY]}.get(kind, [])

    def get(self, kind: Type, name: str) -> Resource | None:
        match kind:
            case Type.CLUSTER if name in self.clusters:
                return Resource(name, self.clusters[name], endpoints=name)
            case Type.ENDPOINTS if name in self.endpoints:
                return Resource(name, self.endpoints[name])
            case Type.LISTENER if name == ONLY:
                return Resource(name, "1")
            case Type.ROUTES if name == ONLY:
                return Resource(name, " ".join(["to", *sorted(self.clusters)]))
        return None


class Client:
    """What it has, by type; `warm` are clusters that have had endpoints since they came, `cold` those whose last
    version waits for them: the one before is used meanwhile, if there was one."""

    def __init__(self) -> None:
        self.has: dict[Type, dict[str, str]] = {kind: {} for kind in Type}
        self.warm: set[str] = set()
        self.cold: set[str] = set()

    def routes(self) -> Collection[str]:
        """The clusters that its routes lead to."""
        return self.has[Type.ROUTES].get(ONLY, "to").split()[1:]

    def wants(self, kind: Type) -> set[str]:
        """By name."""
        return {
            Type.ENDPOINTS: set(self.has[Type.CLUSTER]),
            Type.ROUTES: set(self.has[Type.LISTENER]),
        }.get(kind, set())

    def take(self, kind: Type, resources: Iterable[Resource], removed: Iterable[str], *, stops: bool) -> str | None:
        """An error, if any of it is bad. Who `stops` takes nothing of what comes after that."""
        bad: list[str] = []
        for one in resources:
            if "bad" in one.version:
                bad.append(one.name)
            if one.name in bad or (bad and stops) or (kind is Type.ENDPOINTS and one.name not in self.wants(kind)):
                continue
            if kind is Type.CLUSTER and self.has[kind].get(one.name) != one.version:
                self.cold.add(one.name)
            if kind is Type.ENDPOINTS:
                self.warm.add(one.name)
                self.cold.discard(one.name)
            self.has[kind][one.name] = one.version
        for name in removed:
            self.has[kind].pop(name, None)
            if kind is Type.CLUSTER:
                self.warm.discard(name)
                self.cold.discard(name)
                self.has[Type.ENDPOINTS].pop(name, None)
        return f"bad: {bad}" if bad else None


class Conversation(RuleBasedStateMachine):
    """One client, one server, and what is under way between them."""

    form: ClassVar[str]

    def __init__(self) -> None:
        super().__init__()
        self.server = Server()
        self.client = Client()
        self.now = 0.0
        self.version = 0
        self.tainted: set[str] = set()  # had a bad version: nobody promises an order for those
        self.connect()

    # What happens to the server.

    @rule(service=st.sampled_from(SERVICES))
    def appears(self, service: str) -> None:
        if service not in self.server.clusters:
            self.server.clusters[service] = self.next_version()
            self.server.endpoints[service] = self.next_version()
            self.services_changed(service)

    @precondition(lambda self: self.server.clusters)
    @rule(data=st.data())
    def disappears(self, data: st.DataObject) -> None:
        service = data.draw(st.sampled_from(sorted(self.server.clusters)))
        del self.server.clusters[service], self.server.endpoints[service]
        self.services_changed(service)

    @precondition(lambda self: self.server.clusters)
    @rule(data=st.data(), bad=st.sampled_from(["", "", "", "bad "]))
    def is_configured(self, data: st.DataObject, bad: str) -> None:
        service = data.draw(st.sampled_from(sorted(self.server.clusters)))
        self.server.clusters[service] = bad + self.next_version()
        if bad:
            self.tainted.add(service)
        self.services_changed(service)

    @precondition(lambda self: self.server.clusters)
    @rule(data=st.data(), bad=st.sampled_from(["", "", "", "bad "]))
    def scales(self, data: st.DataObject, bad: str) -> None:
        service = data.draw(st.sampled_from(sorted(self.server.clusters)))
        self.server.endpoints[service] = bad + self.next_version()
        if bad:
            self.tainted.add(service)
        self.stream.changed(Type.ENDPOINTS, [service])

    # What happens between the two.

    @rule()
    def server_sends(self) -> None:
        response = self.stream.next(self.now)
        if response is not None:
            self.under_way.append(response)

    @precondition(lambda self: self.under_way)
    @rule()
    def client_reads(self) -> None:
        self.read(self.under_way.popleft())

    @precondition(lambda self: self.said)
    @rule()
    def server_reads(self) -> None:
        self.hear(self.said.popleft())

    @rule(steps=st.integers(2, 30))
    def all_goes_well_for_a_while(self, steps: int) -> None:
        for _ in range(steps):
            self.goes_on()

    @rule()
    def connection_ends(self) -> None:
        self.connect()

    # Both forms.

    def next_version(self) -> str:
        self.version += 1
        return str(self.version)

    def services_changed(self, service: str) -> None:
        self.stream.changed(Type.CLUSTER, [service])
        self.stream.changed(Type.ENDPOINTS, [service])
        self.stream.changed(Type.ROUTES, None)

    def connect(self) -> None:
        self.under_way: deque[Response] = deque()
        self.said: deque[Asked | AskedAll] = deque()
        self.last: dict[Type, str] = {}
        self.asked: dict[Type, set[str]] = {}
        self.stream = self.begin()
        for kind in (Type.CLUSTER, Type.LISTENER, Type.ENDPOINTS, Type.ROUTES):
            self.follow(kind)

    def read(self, response: Response) -> None:
        kind, client = response.type, self.client
        before = set(client.has[kind])
        removed = set(response.removed)
        whole = self.form == "state of the world" and kind.whole
        if whole:
            removed = before - {one.name for one in response.resources}
        if kind is Type.CLUSTER and self.remembers:
            assert not (removed & set(client.routes())), "a cluster goes that is in use"
        error = client.take(kind, response.resources, removed, stops=not whole)
        if kind is Type.ROUTES:
            cold = set(client.routes()) - client.warm - self.tainted
            assert not cold, f"routes lead to {cold}, which have no endpoints yet"
        self.last[kind] = response.nonce
        for dependent in (Type.ENDPOINTS, Type.ROUTES):
            self.follow(dependent)
        self.answer(kind, response.nonce, error)

    def follow(self, kind: Type) -> None:
        """Says what is wanted, where that is not what was said."""
        wants = self.client.wants(kind)
        if (kind in self.asked or wants or kind.whole) and wants != self.asked.get(kind):
            self.ask(kind, wants)
            self.asked[kind] = wants

    def goes_on(self) -> bool:
        """The next thing happens; whether there was one, time aside."""
        response = self.stream.next(self.now)
        if response is not None:
            self.under_way.append(response)
        elif self.under_way:
            self.read(self.under_way.popleft())
        elif self.said:
            self.hear(self.said.popleft())
        else:
            return False
        return True

    def settle(self) -> None:
        """Everything arrives."""
        for _ in range(500):
            if not self.goes_on():
                if self.stream.wake_at == math.inf:
                    return
                self.now = self.stream.wake_at
        raise AssertionError("they never come to an end")

    def teardown(self) -> None:
        self.settle()
        has, server = self.client.has, self.server
        good = {name: version for name, version in server.clusters.items() if "bad" not in version}
        assert {name: version for name, version in has[Type.CLUSTER].items() if name in good} == good
        assert not has[Type.CLUSTER].keys() - server.clusters.keys()
        told = {name: version for name, version in server.endpoints.items() if "bad" not in version}
        wanted = {name: version for name, version in told.items() if name in has[Type.CLUSTER]}
        assert {name: version for name, version in has[Type.ENDPOINTS].items() if name in told} == wanted
        assert not has[Type.ENDPOINTS].keys() - server.endpoints.keys()
        assert not self.client.cold & told.keys(), "a cluster waits for endpoints for ever"
        assert has[Type.ROUTES] == {ONLY: " ".join(["to", *sorted(server.clusters)])}

    @invariant()
    def no_more_than_one_response_of_a_type_is_under_way(self) -> None:
        kinds = [one.type for one in self.under_way]
        assert len(kinds) == len(set(kinds))

    @property
    def remembers(self) -> bool:
        """Whether the server knows what the client has."""
        return True

    def begin(self) -> Delta | StateOfTheWorld:
        raise NotImplementedError

    def ask(self, kind: Type, wants: set[str]) -> None:
        raise NotImplementedError

    def answer(self, kind: Type, nonce: str, error: str | None) -> None:
        raise NotImplementedError

    def hear(self, asked: Asked | AskedAll) -> None:
        raise NotImplementedError


class Incremental(Conversation):
    form = "incremental"

    def begin(self) -> Delta:
        return Delta(self.server)

    def ask(self, kind: Type, wants: set[str]) -> None:
        before = self.asked.get(kind)
        known = dict(self.client.has[kind]) if before is None else {}
        self.said.append(Asked(kind.url, sorted(wants - (before or set())), sorted((before or set()) - wants), known))

    def answer(self, kind: Type, nonce: str, error: str | None) -> None:
        self.said.append(Asked(kind.url, nonce=nonce, error=error))

    def hear(self, asked: Asked | AskedAll) -> None:
        assert isinstance(asked, Asked) and isinstance(self.stream, Delta)
        self.stream.receive(asked, self.now)


class Whole(Conversation):
    form = "state of the world"

    def __init__(self) -> None:
        self.reconnected = -1
        super().__init__()

    @property
    def remembers(self) -> bool:
        return self.reconnected == 0

    def begin(self) -> StateOfTheWorld:
        self.reconnected += 1
        return StateOfTheWorld(self.server)

    def ask(self, kind: Type, wants: set[str]) -> None:
        self.said.append(AskedAll(kind.url, sorted(wants), self.last.get(kind, "")))

    def answer(self, kind: Type, nonce: str, error: str | None) -> None:
        self.said.append(AskedAll(kind.url, sorted(self.client.wants(kind)), nonce, error))

    def hear(self, asked: Asked | AskedAll) -> None:
        assert isinstance(asked, AskedAll) and isinstance(self.stream, StateOfTheWorld)
        self.stream.receive(asked, self.now)


TestIncremental = Incremental.TestCase
TestIncremental.settings = settings(max_examples=MANY, stateful_step_count=40, deadline=None)
TestWhole = Whole.TestCase
TestWhole.settings = settings(max_examples=MANY, stateful_step_count=40, deadline=None)
