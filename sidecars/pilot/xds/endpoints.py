"""The instances of a service as a ClusterLoadAssignment of xDS v3. Pure.

- UP is healthy, whether its renewals are doubted or not; DRAINING is said to drain, which Envoy calls only when nobody
  else is left; STARTING and DOWN are left out. gRPC knows no draining: it is told of those who drain when nobody else
  is left.
- `weight` and `zone` are taken from an instance's metadata; a zone weighs what its instances do, since gRPC calls
  nobody in a zone without a weight.
- An address is an IP and a port, once, however it is spelled; for Envoy also a Unix socket. Neither client resolves
  names that come with endpoints: such an instance is left out, and named.

Each endpoint is encoded once for as long as it is remembered; an assignment is put together from the bytes.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from enum import StrEnum
from functools import lru_cache
from ipaddress import ip_address
from typing import Any, Final, NamedTuple, TypeAlias

from pannier.shared.instances import State
from pannier.shared.pilot_stream import Instance
from pannier.sidecars.pilot.protobuf import delimited
from pannier.sidecars.pilot.xds.schema import MESSAGES

HEALTHY: Final = 1
DRAINING: Final = 3
MAX_WEIGHT: Final = 1_000_000
MAX_TOTAL: Final = 2**32 - 1
"""Of the weights of a locality's endpoints, and of all localities."""
REMEMBERED: Final = 100_000

Place: TypeAlias = tuple[str, int] | str
"""An IP and a port, or the path of a socket."""


class Client(StrEnum):
    """A kind of client, where it makes a difference."""

    ENVOY = "envoy"
    GRPC = "grpc"


class Assignment(NamedTuple):
    """A serialized ClusterLoadAssignment, and the instances that no client could call, by their addresses."""

    body: bytes
    left_out: Sequence[str]


def assignment(name: str, instances: Iterable[Instance], client: Client) -> Assignment:
    """The endpoints of a cluster, those in front first that are healthy."""
    up: dict[Place, Instance] = {}
    draining: dict[Place, Instance] = {}
    left_out = []
    for instance in instances:
        if instance.state not in {State.UP, State.DRAINING}:
            continue
        place = _place(instance.address)
        if place is None or (client is Client.GRPC and isinstance(place, str)):
            left_out.append(instance.address)
        else:
            (up if instance.state is State.UP else draining)[place] = instance
    told = [(one, HEALTHY) for one in up.values()]
    if client is Client.ENVOY:
        told += [(one, DRAINING) for place, one in draining.items() if place not in up]
    elif not told:
        told = [(one, HEALTHY) for one in draining.values()]
    zones: dict[str, list[tuple[Instance, int]]] = {}
    for one, health in told:
        zones.setdefault(one.metadata.get("zone", ""), []).append((one, health))
    parts = [delimited(1, name.encode())]
    for zone, there in sorted(zones.items()):
        most = MAX_TOTAL // len(told)
        weights = [min(_weight(one), most) for one, _ in there]
        head = _locality(zone, sum(weights))
        endpoints = (
            _endpoint(one.address, weight, health) for (one, health), weight in zip(there, weights, strict=True)
        )
        parts.append(delimited(2, b"".join((head, *endpoints))))
    return Assignment(b"".join(parts), left_out)


def _weight(instance: Instance) -> int:
    """1 for what is no weight."""
    text = instance.metadata.get("weight", "")
    return min(max(int(text), 1), MAX_WEIGHT) if text.isascii() and text.isdigit() and len(text) < 10 else 1


@lru_cache(REMEMBERED)
def _locality(zone: str, weight: int) -> bytes:
    """A LocalityLbEndpoints without its endpoints."""
    made = MESSAGES["envoy.config.endpoint.v3.LocalityLbEndpoints"]
    return bytes(made(locality={"zone": zone}, load_balancing_weight={"value": weight}).SerializeToString())


@lru_cache(REMEMBERED)
def _endpoint(address: str, weight: int, health: int) -> bytes:
    """The field of a LocalityLbEndpoints that is one LbEndpoint."""
    made = MESSAGES["envoy.config.endpoint.v3.LbEndpoint"](
        endpoint={"address": _socket(_place(address))}, health_status=health, load_balancing_weight={"value": weight}
    )
    return delimited(2, made.SerializeToString())


@lru_cache(REMEMBERED)
def _place(address: str) -> Place | None:
    """Where that is; None for a name."""
    if address.startswith("unix:"):
        return address.removeprefix("unix:")
    host, _, port = address.rpartition(":")
    try:
        return str(ip_address(host.removeprefix("[").removesuffix("]"))), int(port)
    except ValueError:
        return None


def _socket(place: Place | None) -> dict[str, Any]:
    """An Address."""
    if isinstance(place, tuple):
        return {"socket_address": {"address": place[0], "port_value": place[1]}}
    return {"pipe": {"path": place}}
