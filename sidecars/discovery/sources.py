"""Where endpoints come from, and how each of these places stands: what `pannier discovery stores` shows. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Final

from pannier.shared.endpoints import Endpoint, Source, Sources
from pannier.shared.runtime import REGISTRY
from pannier.sidecars.discovery.config import Config

_OF_PILOT: Final = ("pilot", "pilot.own", "pilot.advertise", "pilot.file")


def sources(
    config: Config,
    api_socket: Path,
    endpoints: Iterable[Endpoint],
    *,
    written: int,
    trouble: Callable[[str], str],
) -> Sources:
    """`written` are the endpoints in the file of static ones; `trouble` is what was said last of a subject."""
    found = Counter(one.source for one in endpoints)
    registry = api_socket.parent.parent / REGISTRY
    rows = [
        Source("lease", str(api_socket), found["lease"], trouble("api")),
        Source("registry", str(registry), found["registry"], trouble("registry") or trouble("registry.own")),
    ]
    if config.pilot is not None:
        said = "; ".join(filter(None, map(trouble, _OF_PILOT)))
        rows.append(Source("pilot", ", ".join(config.pilot.addresses), found["pilot"], said))
    rows.append(Source("profile", "services of the profile", sum(map(len, config.services.values()))))
    if config.file is not None:
        rows.append(Source("file", config.file, written, trouble("file")))
    return Sources(rows)
