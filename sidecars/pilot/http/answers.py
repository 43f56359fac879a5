"""What the pilot tells over HTTP about services and instances."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
from pannier.shared.pilot_stream import Instance


class Service(msgspec.Struct, frozen=True):
    """A service at a revision, from which a watch can go on."""

    revision: int
    service: str
    instances: Sequence[Instance]


class Everything(msgspec.Struct, frozen=True):
    """All services at a revision."""

    revision: int
    services: dict[str, Sequence[Instance]]
