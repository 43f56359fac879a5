"""What a bridge asks of a foreign registry: everybody who is there, again and again. Nothing about what follows.

Rules that every source keeps (`tests/sidecars/pilot/bridges/test_source_contract.py`):

- A look has everybody, or raises Unreachable: a part is no answer.
- Who cannot be understood is not there and not gone, either: he is `unclear`, and stays as he was.
- `incarnation` grows with every life of an instance, where the foreign registry knows of lives; else it is 0.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Set
from typing import Final, Protocol

import msgspec
from pannier.shared.instances import Key

MAX_INSTANCES: Final = 10_000
"""Of one bridge; a source that has more is not believed at all."""
_PLAIN: Final = re.compile(r"([A-Za-z0-9][A-Za-z0-9._-]{0,120}):([0-9]+)")


class Found(msgspec.Struct, frozen=True):
    """An instance as the foreign registry has it."""

    address: str
    metadata: Mapping[str, str] = {}
    incarnation: int = 0


class Look(msgspec.Struct, frozen=True):
    """Everybody who was there. `emptied` are services that are said to have nobody, in so many words. `refused` counts
    what cannot be understood and names nobody."""

    instances: Mapping[Key, Found]
    unclear: Set[Key] = frozenset()
    emptied: Set[str] = frozenset()
    refused: int = 0


class Source(Protocol):
    """`name` is who it is among all bridges of all pilots; `every` are the seconds between looks at most."""

    name: str
    every: float

    async def look(self) -> Look:
        """Everybody who is there now. Raises Unreachable."""

    async def news(self) -> None:
        """Returns when something may have changed since the last look; never, if the source cannot tell."""


def id_of(address: str) -> str:
    """The id of an instance that is known by its address alone."""
    found = _PLAIN.fullmatch(address)
    if found is not None:
        return f"{found[1]}-{found[2]}"
    return "x" + hashlib.sha256(address.encode()).hexdigest()[:20]
