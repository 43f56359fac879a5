"""What there is to be told by xDS, from the registry and the policies; made when somebody asks for it, once a version.

- A cluster and its endpoints are the same for all clients of a stage and a kind; listeners and routes for all of a
  `Shape`. Each is encoded when it is first asked for after a change, and then shared.
- A service is there while it has instances, of whatever state. The last of them is gone only if that was meant (the
  registry's rules); then the routes to it are gone, and its cluster with them. What is by way of a Central is none.
- What of a policy does not arrive is listed by `report.py`, which instances do not, by `left_out`.
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Final, Protocol
from weakref import WeakValueDictionary

from google.protobuf import json_format
from pannier.shared.pilot_stream import Instance
from pannier.sidecars.pilot.documents.policy import Policy
from pannier.sidecars.pilot.xds.clusters import clusters
from pannier.sidecars.pilot.xds.endpoints import Client, assignment
from pannier.sidecars.pilot.xds.hosts import Host, Hosts, routes
from pannier.sidecars.pilot.xds.listeners import OUTBOUND, for_grpc, outbound
from pannier.sidecars.pilot.xds.resources import GOOGLE, Resource, Type, encode
from pannier.sidecars.pilot.xds.schema import MESSAGES
from pannier.sidecars.pilot.xds.words import Json, typed

OUTBOUND_PORT: Final = 15001
STAGE: Final = "production"
PANIC_PERCENT: Final = 1
"""Below that many healthy endpoints Envoy calls the others too: if there is none at all."""
NAMES: Final = 20_000
"""Listeners and routes that are remembered for a shape; clients may ask for one listener by many names."""
LISTENERS: Final = 256
"""Ports for which Envoy's listener is remembered."""
HTTP2: Final = frozenset({"h2", "h2c", "grpc"})
"""What an instance's metadata says of its `protocol`, where it takes HTTP/2 without being asked."""

_log = logging.getLogger("pannier.pilot")


class Instances(Protocol):
    """A registry, as far as it matters here."""

    def endpoints(self, service: str) -> Sequence[Instance]: ...


class Policies(Protocol):
    """The policy in force of a stage."""

    def policy(self, stage: str) -> Policy: ...


class NoPolicies:
    """Nothing is said of any stage."""

    def policy(self, stage: str) -> Policy:
        return Policy()


@dataclass(frozen=True, slots=True)
class Shape:
    """What is told to a client depends on this. `services`: all if None; `port` is that of Envoy's listener."""

    client: Client = Client.ENVOY
    stage: str = STAGE
    services: frozenset[str] | None = None
    port: int = OUTBOUND_PORT


class Catalogue:
    """Is told what changes, and asked through the `Offering` of a shape."""

    def __init__(self, instances: Instances, policies: Policies) -> None:
        self.instances = instances
        self.policies = policies
        self.services: dict[str, bool] = {}  # whether they take HTTP/2
        self.made = 0  # resources
        self.hosts = Hosts()
        self._left_out: dict[str, dict[Client, Sequence[str]]] = {}
        self._shared: dict[str, dict[tuple[Type, str, Client, str], Resource | None]] = {}  # by service
        self._offerings: WeakValueDictionary[Shape, Offering] = WeakValueDictionary()

    @property
    def left_out(self) -> Mapping[str, Sequence[str]]:
        """Addresses that some of the clients that there are cannot call, by service."""
        return {
            service: sorted({address for addresses in of.values() for address in addresses})
            for service, of in self._left_out.items()
        }

    def offering(self, shape: Shape) -> Offering:
        """What clients of that shape are told."""
        found = self._offerings.get(shape)
        if found is None:
            found = self._offerings[shape] = Offering(self, shape)
        return found

    def changed(self, service: str) -> bool:
        """The instances of a service have changed. Whether more than its endpoints has: clusters and routes, too."""
        there = self.instances.endpoints(service)
        before = self.services.get(service)
        self._left_out.pop(service, None)
        now = all(one.metadata.get("protocol") in HTTP2 for one in there) if there else None
        if now == before:
            self._forget(service, Type.ENDPOINTS)
            return False
        if now is None:
            del self.services[service]
            self.hosts.drop(service)
        else:
            self.services[service] = now
        self._forget(service, Type.ENDPOINTS)
        self._forget(service, Type.CLUSTER)
        if now is None or before is None:
            for offering in self._offerings.values():
                offering.forget(service)
        return True

    def policy_changed(self, stage: str) -> None:
        """Everything of a stage may have changed but who its instances are."""
        self.forget_stage(stage)
        for offering in self._offerings.values():
            if offering.shape.stage == stage:
                offering.forget_all()

    def forget_stage(self, stage: str) -> None:
        """Nobody is there who is told of it, or it is another now."""
        self.hosts.forget(stage)
        for shared in self._shared.values():
            for key in [key for key in shared if key[1] == stage]:
                del shared[key]

    def cluster_names(self, stage: str, service: str) -> Sequence[str]:
        """The clusters that a service is, or would be."""
        return (service, *(f"{service}/{subset}" for subset in self.policies.policy(stage).subsets(service)))

    def cluster(self, client: Client, stage: str, name: str) -> Resource | None:
        return self._share(Type.CLUSTER, client, stage, name)

    def endpoints(self, client: Client, stage: str, name: str) -> Resource | None:
        return self._share(Type.ENDPOINTS, client, stage, name)

    def _forget(self, service: str, kind: Type) -> None:
        shared = self._shared.get(service, {})
        for key in [key for key in shared if key[0] is kind]:
            del shared[key]
        if not shared:
            self._shared.pop(service, None)

    def _share(self, kind: Type, client: Client, stage: str, name: str) -> Resource | None:
        service, _, subset = name.partition("/")
        policy = self.policies.policy(stage)
        if service not in self.services or (subset and subset not in policy.subsets(service)):
            return None
        shared = self._shared.setdefault(service, {})
        key = (kind, stage, client, name)
        if key not in shared:
            make = self._cluster if kind is Type.CLUSTER else self._endpoints
            shared[key] = make(client, policy, name)
            self.made += 1
        return shared[key]

    def _cluster(self, client: Client, policy: Policy, name: str) -> Resource | None:
        service, _, subset = name.partition("/")
        told, _ = clusters(policy, service, subsets=[subset] if subset else [])
        settings = {"common_lb_config": {"healthy_panic_threshold": {"value": PANIC_PERCENT}}, **told[-1]}
        if self.services[service]:
            settings["typed_extension_protocol_options"] = {HTTP2_OPTIONS["@type"].removeprefix(GOOGLE): HTTP2_OPTIONS}
        return converted(Type.CLUSTER, settings, endpoints=name)

    def _endpoints(self, client: Client, policy: Policy, name: str) -> Resource:
        service, _, subset = name.partition("/")
        wanted = policy.subsets(service)[subset] if subset else {}
        instances = self.instances.endpoints(service)
        chosen = [one for one in instances if all(one.metadata.get(key) == value for key, value in wanted.items())]
        body, left_out = assignment(name, chosen, client)
        if left_out and not subset:
            self._left_out.setdefault(service, {})[client] = left_out
        return encode(Type.ENDPOINTS, name, body)


HTTP2_OPTIONS: Final[Json] = typed(
    "extensions.upstreams.http.v3.HttpProtocolOptions", explicit_http_config={"http2_protocol_options": {}}
)


class Offering:
    """What clients of one shape are told: a `topic.Offer`."""

    def __init__(self, catalogue: Catalogue, shape: Shape) -> None:
        self.shape = shape
        self._catalogue = catalogue
        self._own: dict[tuple[Type, str], Resource] = {}
        self._names: dict[Type, Collection[str]] = {}

    @property
    def made(self) -> int:
        return self._catalogue.made

    def concerns(self, service: str) -> bool:
        """Whether it matters to these clients that there is such a service."""
        return self.shape.services is None or service in self.shape.services

    def forget(self, service: str) -> None:
        """It has come or gone."""
        if self.concerns(service):
            self._names.clear()
            for key in [key for key in self._own if key[1].partition(":")[0] in (service, OUTBOUND)]:
                del self._own[key]

    def forget_all(self) -> None:
        """The policies are others."""
        self._own.clear()
        self._names.clear()

    def names(self, kind: Type) -> Collection[str]:
        if kind not in self._names:
            self._names[kind] = self._all(kind)
        return self._names[kind]

    def get(self, kind: Type, name: str) -> Resource | None:
        shape = self.shape
        if kind is Type.CLUSTER:
            return self._catalogue.cluster(shape.client, shape.stage, name)
        if kind is Type.ENDPOINTS:
            return self._catalogue.endpoints(shape.client, shape.stage, name)
        if (kind, name) not in self._own:
            made = self._listener(name) if kind is Type.LISTENER else self._routes(name)
            if made is None:  # of those there are as many as clients like
                return None
            if len(self._own) >= NAMES:
                self._own.clear()
            self._own[kind, name] = made
            self._catalogue.made += 1
        return self._own[kind, name]

    def _all(self, kind: Type) -> Collection[str]:
        if kind is Type.LISTENER:
            return frozenset([OUTBOUND] if self.shape.client is Client.ENVOY else self._services())
        if kind is not Type.CLUSTER:
            return ()
        names = {name for one in self._services() for name in self._catalogue.cluster_names(self.shape.stage, one)}
        if self.shape.services is not None:  # what its routes lead to besides
            names.update(name for host in self._hosts(self._services()).values() for name in host.targets)
        return names

    def _services(self) -> Sequence[str]:
        wanted = self.shape.services
        return sorted(name for name in self._catalogue.services if wanted is None or name in wanted)

    def _listener(self, name: str) -> Resource | None:
        if self.shape.client is Client.ENVOY and name == OUTBOUND:
            return _outbound_listener(self.shape.port)
        service, _, port = name.partition(":")
        if service not in self._catalogue.services or (":" in name and not port.isdigit()):
            return None
        return converted(Type.LISTENER, for_grpc(name, service))

    def _routes(self, name: str) -> Resource | None:
        if self.shape.client is Client.ENVOY and name == OUTBOUND:
            services = self._services()
        elif name in self._catalogue.services:
            services = [name]
        else:
            return None
        return routes(name, self._hosts(services))

    def _hosts(self, services: Sequence[str]) -> Mapping[str, Host]:
        shape = self.shape
        policy = self._catalogue.policies.policy(shape.stage)
        return self._catalogue.hosts.of(policy, shape.stage, shape.client, services)


@lru_cache(LISTENERS)
def _outbound_listener(port: int) -> Resource | None:
    return converted(Type.LISTENER, outbound(port))


def converted(kind: Type, told: Json, *, endpoints: str = "") -> Resource | None:
    """The resource that proto3's JSON says; None for one that our table lacks a word of: a fault of ours, which is
    logged, and which nobody is told."""
    try:
        message = MESSAGES.from_json(kind.value, told)
    except json_format.ParseError as error:
        _log.error("%s %s is not told: %s", kind.name.lower(), told.get("name"), error)
        return None
    return encode(kind, message.name, message.SerializeToString(deterministic=True), endpoints=endpoints)
