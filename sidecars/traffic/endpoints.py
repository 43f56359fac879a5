"""Who can be called, out of the tables that the proxy reads: `endpoints` of discovery, else `base` of the supervisor.

A cluster of `endpoints` wins over one of the same name in `base`, as in the proxy. The tables are read in the form that
they are published in, not by the types of who writes them: what counts here is which labels an endpoint has, and under
which place its calls are counted.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TypeAlias

import msgspec
from pannier.sidecars.traffic.tally import Place


class Endpoint(msgspec.Struct, frozen=True):
    """One endpoint. Without a slot nothing is counted about it."""

    metadata: dict[str, str] = {}
    slot: int | None = None
    incarnation: int | None = None

    def carries(self, labels: Mapping[str, str]) -> bool:
        """Whether it belongs to a subset of these labels."""
        return labels.items() <= self.metadata.items()


class _Cluster(msgspec.Struct, frozen=True):
    name: str
    endpoints: list[Endpoint] = []


class _Table(msgspec.Struct, frozen=True):
    clusters: list[_Cluster] = []


Clusters: TypeAlias = dict[str, list[Endpoint]]


def clusters(endpoints: bytes | None, base: bytes | None) -> Clusters:
    """The endpoints of each service; None stands for an absent table. Raises ValueError for what is no table."""
    found: Clusters = {}
    for payload in (endpoints, base):
        if payload is None:
            continue
        try:
            table = msgspec.msgpack.decode(payload, type=_Table)
        except msgspec.MsgspecError as error:
            raise ValueError(f"no table of clusters: {error}") from error
        for cluster in table.clusters:
            found.setdefault(cluster.name.lower(), cluster.endpoints)
    return found


def places(endpoints: Iterable[Endpoint]) -> list[Place]:
    """Where the calls to them are counted."""
    return [(one.slot, one.incarnation) for one in endpoints if one.slot is not None and one.incarnation is not None]
