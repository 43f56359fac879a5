"""Which hot words the static endpoints of table `base` own, so that they can be ejected without discovery, too. Pure.

The segment's slots are dealt out once and for all: discovery has 0 to 3583, the service breakers of resilience have
3584 to 3839, and the rest is for these. Their order is that of the names, so a restart finds the same; who moves to
another slot because one was put in before him is told apart by his incarnation, a hash of who he is. Beyond the last
slot an endpoint has no word, and is always in.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterable
from typing import Final, NamedTuple

FIRST: Final = 3840
LAST: Final = 4095


class Word(NamedTuple):
    """A slot of the segment `hot` and the incarnation under which its word is believed, 1 to 65535."""

    slot: int
    incarnation: int


def static_slots(places: Iterable[tuple[str, str]]) -> dict[tuple[str, str], Word]:
    """The words of these endpoints, each a service and an address."""
    owners = sorted(set(places))[: LAST - FIRST + 1]
    return {owner: Word(slot, _incarnation(*owner)) for slot, owner in enumerate(owners, FIRST)}


def _incarnation(service: str, address: str) -> int:
    return (zlib.crc32(f"{service}|{address}".encode()) & 0xFFFF) or 1
