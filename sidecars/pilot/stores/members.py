"""Where the members of a store are, as an option has them: the same words for a store and for a bridge."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final
from urllib.parse import urlsplit

ETCD_PORT: Final = 2379
ZOOKEEPER_PORT: Final = 2181


def hosts_of(text: str, default: int) -> Sequence[tuple[str, int]]:
    """`10.0.0.1:2181,[::1]` as (host, port). Raises ValueError."""
    found: list[tuple[str, int]] = []
    for place in text.split(","):
        split = urlsplit(f"//{place}")
        if not split.hostname or split.netloc != place or split.username is not None:
            raise ValueError(f"{place!r} is no host")
        found.append((split.hostname, split.port or default))
    return found
