"""A resource of xDS as it is told, and the responses that carry it. Pure.

A resource is encoded once a version, for all who are told it and for both forms of the protocol: a response is a
concatenation of bytes that are there already, with its own nonce. That is what protobuf allows for: fields may come in
any order, and a repeated one in as many pieces as there are.

A version is a hash of the content. So it is the same at every pilot, and who reconnects, also to another one, is told
only what has changed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from hashlib import blake2b
from typing import Final

from pannier.sidecars.pilot.protobuf import delimited, pack
from pannier.sidecars.pilot.xds.schema import MESSAGES

GOOGLE: Final = "type.googleapis.com/"


class Type(Enum):
    """What there is, in the order in which additions are told: who refers to something comes after it."""

    CLUSTER = "envoy.config.cluster.v3.Cluster"
    ENDPOINTS = "envoy.config.endpoint.v3.ClusterLoadAssignment"
    LISTENER = "envoy.config.listener.v3.Listener"
    ROUTES = "envoy.config.route.v3.RouteConfiguration"

    def __init__(self, message: str) -> None:
        self.url = f"{GOOGLE}{message}"

    @property
    def whole(self) -> bool:
        """Whether the state of the world is the whole set each time, so that what is missing is gone; and whether
        somebody may ask for all there is."""
        return self in {Type.CLUSTER, Type.LISTENER}


BY_URL: Final = {one.url: one for one in Type}


@dataclass(frozen=True, slots=True)
class Resource:
    """`endpoints` is what a cluster needs before it can be used: the name of its endpoints. `as_any` and `as_delta` are
    the field of a response that carries it, whole."""

    name: str
    version: str
    as_any: bytes = b""
    as_delta: bytes = b""
    endpoints: str = ""


def encode(kind: Type, name: str, body: bytes, *, endpoints: str = "") -> Resource:
    """The resource whose serialized message that is."""
    version = blake2b(body, digest_size=8).hexdigest()
    packed = pack(kind.url, body)
    told = delimited(3, name.encode()) + delimited(1, version.encode()) + delimited(2, packed)
    return Resource(name, version, delimited(2, packed), delimited(2, told), endpoints)


def version_of(resources: Sequence[Resource]) -> str:
    """The version of a set."""
    hashed = blake2b(digest_size=8)
    for one in sorted(resources, key=lambda one: one.name):
        hashed.update(f"{one.name}\0{one.version}\n".encode())
    return hashed.hexdigest()


@dataclass(frozen=True, slots=True)
class Response:
    """What is sent next: of one type, with these resources, whose common version is `version`. `removed` is used by the
    incremental form only."""

    type: Type
    nonce: str
    version: str
    resources: Sequence[Resource]
    removed: Sequence[str] = ()

    def as_delta(self) -> bytes:
        """A DeltaDiscoveryResponse."""
        head = MESSAGES["envoy.service.discovery.v3.DeltaDiscoveryResponse"](
            system_version_info=self.version, type_url=self.type.url, nonce=self.nonce, removed_resources=self.removed
        )
        return b"".join((head.SerializeToString(), *(one.as_delta for one in self.resources)))

    def as_state_of_the_world(self) -> bytes:
        """A DiscoveryResponse."""
        head = MESSAGES["envoy.service.discovery.v3.DiscoveryResponse"](
            version_info=self.version, type_url=self.type.url, nonce=self.nonce
        )
        return b"".join((head.SerializeToString(), *(one.as_any for one in self.resources)))


def no_endpoints(name: str) -> Resource:
    """The endpoints of what has none."""
    return encode(Type.ENDPOINTS, name, delimited(1, name.encode()))
