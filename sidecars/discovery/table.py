"""The payload of the table `endpoints`, and the little that this sidecar needs of shared memory.

The structs mirror what `pannier._native` validates and builds. They are encoded in a fixed order, so equal tables are
equal bytes: a publication happens only when the bytes differ. Protocols stand in for the native classes, so that
everything above runs without shared memory.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Literal, Protocol, TypeAlias

import msgspec
from pannier.shared.detours import Share

KIND = "endpoints"

Source: TypeAlias = Literal["file", "lease", "registry", "pilot"]


class Endpoint(msgspec.Struct, frozen=True, omit_defaults=True):
    """One endpoint as the proxy sees it. `epoch` is 0 for a static one, `ttl_ms` 0 where nothing expires. By way of
    `centrals` a part of its requests goes."""

    id: str
    address: str
    weight: int
    healthy: bool
    slot: int
    incarnation: int
    epoch: int
    source: Source
    ttl_ms: int
    metadata: Mapping[str, str]
    centrals: tuple[Share, ...] = ()


class Cluster(msgspec.Struct, frozen=True):
    """All endpoints of one service. An empty cluster is a service that is known and has nobody left."""

    name: str
    endpoints: tuple[Endpoint, ...]


class Table(msgspec.Struct, frozen=True):
    """The whole table. `high_water` is this sidecar's own: the highest incarnation ever given (see `slots.py`)."""

    clusters: tuple[Cluster, ...] = ()
    high_water: int = 0


class TableWriter(Protocol):
    def publish(self, payload: bytes) -> int: ...

    def heartbeat(self) -> None: ...


class TableReader(Protocol):
    def read(self) -> bytes | None: ...


def encode(table: Table) -> bytes:
    return msgspec.msgpack.encode(table)


def without_refused(table: Table, validate: Callable[[bytes], None]) -> tuple[Table, list[str]]:
    """`table` less what `validate` refuses (it raises ValueError), and the reasons. Who is refused for his ways by
    Centrals stays without them."""
    reasons: list[str] = []

    def fits(cluster: Cluster) -> bool:
        try:
            validate(encode(Table((cluster,))))
        except ValueError as error:
            reasons.append(str(error))
            return False
        return True

    clusters: list[Cluster] = []
    for cluster in table.clusters:
        if not fits(Cluster(cluster.name, ())):
            continue
        endpoints: list[Endpoint] = []
        for one in cluster.endpoints:
            straight = msgspec.structs.replace(one, centrals=())
            if fits(Cluster(cluster.name, (one,))):
                endpoints.append(one)
            elif one != straight and fits(Cluster(cluster.name, (straight,))):
                endpoints.append(straight)
        clusters.append(Cluster(cluster.name, tuple(endpoints)))
    return Table(tuple(clusters), table.high_water), reasons


def decode(payload: bytes | None) -> Table:
    """The table in `payload`; an empty one for absence, and for what an other version of this sidecar wrote."""
    if payload is None:
        return Table()
    try:
        return msgspec.msgpack.decode(payload, type=Table)
    except msgspec.MsgspecError:
        return Table()


class _Base(msgspec.Struct, frozen=True):
    lifecycle: str = ""


def drains(base: bytes | None) -> bool:
    """Whether the payload of the table `base` says that the service drains."""
    try:
        return base is not None and msgspec.msgpack.decode(base, type=_Base).lifecycle == "draining"
    except msgspec.MsgspecError:
        return False
