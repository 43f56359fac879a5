"""An instance E "by way of a Central": what such a registration says, and how it is told from an instance's own.

A Central that serves a part of what is meant for E registers in E's service, at its own gateway, with
`pannier-central-of` and `pannier-central-weight` in the metadata. It is no endpoint: it says that of a hundred requests
for E so many go by way of that address. Whoever knows E may fold it into E (`shares`); everybody else leaves it out.

Rules:
- It is of use only while it is renewed: where it is gone, requests go straight, and nobody is lost. So it ends at once,
  is never doubted nor probed, and counts in no rule that keeps instances (`leases.py`).
- A weight is 0 to 100 points; 0 is none. Those of one E by way of several Centrals are together 100 at most.
- A Central says of itself, in the metadata of its own registration, how many requests a second it has
  left: `pannier-central-headroom`.
- What carries one of these keys is announced to others by the discovery with which it registers, if that is beside a
  Central (`vouching.py`): nobody else speaks for the fleet.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Final, NamedTuple, Protocol

import msgspec
from pannier.shared.instances import INSTANCE_PATTERN, Key, State, check_ip_address

OF: Final = "pannier-central-of"
WEIGHT: Final = "pannier-central-weight"
HEADROOM: Final = "pannier-central-headroom"
WHOLE: Final = 100.0
"""Points: all that is meant for an instance."""

_NUMBER = re.compile(r"[0-9]{1,9}(\.[0-9]{1,32})?", re.ASCII)
_INSTANCE = re.compile(INSTANCE_PATTERN)


class Share(msgspec.Struct, frozen=True, order=True):
    """Of a hundred requests for an instance so many go by way of the Central at that address."""

    address: str
    weight: float


class Detour(NamedTuple):
    """What a registration says: by way of it the instance `of` gets `weight` points."""

    of: str
    weight: float


class Registered(Protocol):
    """An instance, or a detour, as whoever knows of it keeps it."""

    @property
    def service(self) -> str: ...
    @property
    def id(self) -> str: ...
    @property
    def address(self) -> str: ...
    @property
    def state(self) -> State: ...
    @property
    def metadata(self) -> Mapping[str, str]: ...


def is_detour(metadata: Mapping[str, str]) -> bool:
    """Whether what registers with that metadata is an instance by way of a Central, and no instance itself."""
    return OF in metadata


def is_announced(metadata: Mapping[str, str]) -> bool:
    """Whether what registers with it is to be known beyond the discovery with which it does."""
    return OF in metadata or HEADROOM in metadata


def detour(metadata: Mapping[str, str]) -> Detour:
    """What is said of a detour. Raises ValueError for what nobody can go by."""
    of, weight = metadata.get(OF, ""), _number(metadata.get(WEIGHT, ""))
    if _INSTANCE.match(of) is None:
        raise ValueError(f"{OF} is {of[:80]!r}, which is no instance")
    if weight is None or weight > WHOLE:
        raise ValueError(f"{WEIGHT} is {metadata.get(WEIGHT, '')[:80]!r}, and not 0 to 100")
    return Detour(of, weight)


def headroom(metadata: Mapping[str, str]) -> float | None:
    """Requests a second that a Central has left; None if it does not say, or what it says is no number."""
    return _number(metadata.get(HEADROOM, ""))


def shares(detours: Iterable[Registered]) -> tuple[Mapping[Key, Sequence[Share]], Sequence[str]]:
    """What goes by way of Centrals, by the instance that is meant and in the order of addresses; and what of `detours`
    is ignored since it cannot be read. Only who is UP is gone by; an address that is there twice counts once."""
    found: dict[Key, dict[str, float]] = {}
    refused: list[str] = []
    for one in detours:
        try:
            of, weight = detour(one.metadata)
            check_ip_address(one.address)
        except ValueError as error:
            refused.append(f"{one.service}/{one.id}: {error}")
            continue
        if weight > 0 and one.state is State.UP:
            weights = found.setdefault((one.service, of), {})
            weights[one.address] = max(weight, weights.get(one.address, 0.0))
    return {key: _scaled(weights) for key, weights in found.items()}, sorted(refused)


def _scaled(weights: Mapping[str, float]) -> tuple[Share, ...]:
    total = math.fsum(weights.values())
    scale = WHOLE / total if total > WHOLE else 1.0
    return tuple(Share(address, weights[address] * scale) for address in sorted(weights))


def _number(text: str) -> float | None:
    return float(text) if _NUMBER.fullmatch(text) else None
