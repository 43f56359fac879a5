"""Static endpoints, leases and the host's registry become one list of clusters.

Rules:
- An address appears once in a service. Who registered wins over who was only written down, UP over any other
  state, then the greater epoch: a file knows where a service should be, a lease knows that it is there.
- At an address that is both, weight and metadata were written down by whoever runs the place; what the instance says of
  itself is laid over that metadata.
- STARTING and DOWN instances are not in the table; a DRAINING one is, not healthy, so that it is used only when nobody
  else is left. A static endpoint whose instance says that it is not UP is not healthy either.
- A service that was ever in the table keeps its cluster, empty if need be: "nobody is there" must not read as "never
  heard of it", which the proxy would pass through to DNS. Only its static definition going away ends a static cluster.
- An instance by way of a Central (`detours.py`) is no endpoint: it becomes a share of the instance that it is of, if
  that one is UP, and else nothing.
- The order is that of names and addresses, so that equal inputs give equal tables.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import TypeAlias

import msgspec
from pannier.shared.detours import Share, shares
from pannier.shared.instances import Key, State
from pannier.shared.leases import Registration
from pannier.shared.profile import Endpoint as StaticEndpoint
from pannier.sidecars.discovery.slots import Place, Slot
from pannier.sidecars.discovery.table import Cluster, Endpoint

Statics: TypeAlias = Mapping[str, Sequence[StaticEndpoint]]
_BEST_FIRST = {State.UP: 0, State.DRAINING: 1, State.STARTING: 2, State.DOWN: 3}


def merge(
    statics: Statics,
    registrations: Iterable[Registration],
    *,
    known: Collection[str],
    healthy: Callable[[str, StaticEndpoint], bool],
    assign: Callable[[Iterable[Place]], Mapping[Place, Slot]],
) -> tuple[tuple[Cluster, ...], Sequence[str]]:
    """The clusters, and what is wrong with detours that are ignored. `known` are services that keep an empty cluster;
    an endpoint that gets no slot is left out."""
    registered: dict[str, dict[str, Registration]] = {}
    detours: list[Registration] = []
    for registration in registrations:
        if registration.is_detour:
            detours.append(registration)
            continue
        by_address = registered.setdefault(registration.service, {})
        held = by_address.get(registration.address)
        if held is None or _precedence(registration) < _precedence(held):
            by_address[registration.address] = registration
    names = sorted({*statics, *registered, *known})
    rows = {name: _rows(name, statics.get(name, ()), registered.get(name, {}), healthy) for name in names}
    slots = assign((name, row.address) for name in names for row in rows[name])
    by_way, refused = shares(detours)
    return tuple(Cluster(name, tuple(_completed(name, rows[name], slots, by_way))) for name in names), refused


def join_statics(*layers: Statics) -> dict[str, tuple[StaticEndpoint, ...]]:
    """Several static definitions as one; in a service that two define, the first to name an address describes it.

    Names become lower case, as host names do.
    """
    joined: dict[str, dict[str, StaticEndpoint]] = {}
    for layer in layers:
        for name, endpoints in layer.items():
            by_address = joined.setdefault(name.lower(), {})
            for endpoint in endpoints:
                by_address.setdefault(endpoint.address, endpoint)
    return {name: tuple(by_address.values()) for name, by_address in joined.items()}


def _precedence(registration: Registration) -> tuple[int, int, str]:
    return (_BEST_FIRST[registration.state], -registration.epoch, registration.id)


def _rows(
    name: str,
    statics: Sequence[StaticEndpoint],
    registered: Mapping[str, Registration],
    healthy: Callable[[str, StaticEndpoint], bool],
) -> list[Endpoint]:
    rows = {
        endpoint.address: Endpoint(
            id=endpoint.address,
            address=endpoint.address,
            weight=endpoint.weight,
            healthy=healthy(name, endpoint) and endpoint.address not in registered,
            slot=0,
            incarnation=0,
            epoch=0,
            source="file",
            ttl_ms=0,
            metadata=dict(sorted(endpoint.metadata.items())),
        )
        for endpoint in statics
    }
    written = {endpoint.address: endpoint for endpoint in statics}
    for address, registration in registered.items():
        if registration.state in (State.UP, State.DRAINING):
            static = written.get(address, StaticEndpoint(address))
            rows[address] = Endpoint(
                id=registration.id,
                address=address,
                weight=static.weight,
                healthy=registration.state is State.UP,
                slot=0,
                incarnation=0,
                epoch=registration.epoch,
                source=registration.source,
                ttl_ms=round(registration.ttl * 1000),
                metadata=dict(sorted({**static.metadata, **registration.metadata}.items())),
            )
    return [rows[address] for address in sorted(rows)]


def _completed(
    name: str, rows: Iterable[Endpoint], slots: Mapping[Place, Slot], by_way: Mapping[Key, Sequence[Share]]
) -> Iterable[Endpoint]:
    for row in rows:
        if (slot := slots.get((name, row.address))) is not None:
            centrals = tuple(by_way.get((name, row.id), ())) if row.healthy else ()
            yield msgspec.structs.replace(row, slot=slot.number, incarnation=slot.incarnation, centrals=centrals)
