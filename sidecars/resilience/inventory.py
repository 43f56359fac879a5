"""Who can be called, out of the tables that the proxy reads: `endpoints` of discovery, else `base` of the supervisor.

A cluster of `endpoints` wins over one of the same name in `base`, as in the proxy. The tables are read in the form that
they are published in, not by the types of who writes them: all that counts here is which slot speaks for which address.
An endpoint without a slot has no hot words, so there is nothing to be done about it.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple, TypeAlias

import msgspec

Place: TypeAlias = tuple[int, int]
"""A slot of the hot segment, and the incarnation of who holds it."""


class Member(NamedTuple):
    """One endpoint of a service by its address; with an empty address the service as a whole."""

    service: str
    address: str
    place: Place

    def __str__(self) -> str:
        return f"{self.service} at {self.address}" if self.address else self.service


class _Endpoint(msgspec.Struct, frozen=True):
    address: str
    slot: int | None = None
    incarnation: int | None = None


class _Cluster(msgspec.Struct, frozen=True):
    name: str
    endpoints: list[_Endpoint] = []


class _Table(msgspec.Struct, frozen=True):
    clusters: list[_Cluster] = []


Inventory: TypeAlias = dict[str, tuple[Member, ...]]


def inventory(endpoints: bytes | None, base: bytes | None) -> Inventory:
    """The members of each service, in the order of the tables; None stands for an absent table.

    Raises ValueError if a payload is none of a table.
    """
    found: Inventory = {}
    for payload in (endpoints, base):
        if payload is None:
            continue
        for cluster in _decode(payload):
            name = cluster.name.lower()
            if name not in found:
                found[name] = tuple(_members(name, cluster.endpoints))
    return found


def _decode(payload: bytes) -> list[_Cluster]:
    try:
        return msgspec.msgpack.decode(payload, type=_Table).clusters
    except msgspec.MsgspecError as error:
        raise ValueError(f"no table of clusters: {error}") from error


def _members(service: str, endpoints: Iterable[_Endpoint]) -> Iterable[Member]:
    for one in endpoints:
        if one.slot is not None and one.incarnation is not None:
            yield Member(service, one.address, (one.slot, one.incarnation))
