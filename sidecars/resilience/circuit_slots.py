"""Which hot word is a service's own, for its service breaker.

Discovery gives slots to endpoints from 0 up; `FIRST` to `LAST` are this sidecar's to give. Rules:

- A service keeps its slot while it has a service breaker, also across a restart: the assignment is read back from the
  table `limits` that is in force.
- A slot that is given anew gets an incarnation above all that are known. One of a slot that was free at a restart is
  not known: so the word of a slot that is given is closed first (`Given.fresh`), and its former holder's state is gone.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Final, NamedTuple

import msgspec
from pannier.sidecars.resilience.inventory import Place

FIRST: Final = 3584
LAST: Final = 3839
INCARNATION_MAX: Final = (1 << 16) - 1


class Given(NamedTuple):
    """The place of each service that has one; `fresh` are those which did not hold theirs before, `without` those for
    which there was no room."""

    places: dict[str, Place]
    fresh: frozenset[str]
    without: tuple[str, ...]


def assign(services: Iterable[str], before: Mapping[str, Place]) -> Given:
    """Places for exactly these services, where `before` is what held until now."""
    wanted = sorted(set(services))
    places = {name: before[name] for name in wanted if name in before}
    taken = {slot for slot, _ in places.values()}
    free = (slot for slot in range(FIRST, LAST + 1) if slot not in taken)
    incarnation = max((incarnation for _, incarnation in before.values()), default=0)
    fresh, without = [], []
    for name in wanted:
        if name in places:
            continue
        if (slot := next(free, None)) is None:
            without.append(name)
            continue
        incarnation = incarnation % INCARNATION_MAX + 1
        places[name] = (slot, incarnation)
        fresh.append(name)
    return Given(places, frozenset(fresh), tuple(without))


class _Breaker(msgspec.Struct, frozen=True):
    slot: int
    incarnation: int


class _Service(msgspec.Struct, frozen=True):
    service_breaker: _Breaker | None = None


class _Limits(msgspec.Struct, frozen=True):
    services: dict[str, _Service] = {}


def read_back(payload: bytes | None) -> dict[str, Place]:
    """The places that a table `limits` in force assigns; none for absence. Nonsense in it is skipped."""
    if payload is None:
        return {}
    try:
        services = msgspec.msgpack.decode(payload, type=_Limits).services
    except msgspec.MsgspecError:
        return {}
    found: dict[str, Place] = {}
    taken: set[int] = set()
    for name, service in services.items():
        breaker = service.service_breaker
        if breaker is None or breaker.slot in taken:
            continue
        if FIRST <= breaker.slot <= LAST and 1 <= breaker.incarnation <= INCARNATION_MAX:
            taken.add(breaker.slot)
            found[name] = (breaker.slot, breaker.incarnation)
    return found
