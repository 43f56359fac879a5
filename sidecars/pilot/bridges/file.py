"""A file of static endpoints as a bridge: the one that discovery reads, TOML or JSON (`shared/statics.py`).

A service with an empty list has nobody, in so many words. A file that is broken or gone says nothing. It is
read when it has changed, by (inode, size, mtime).
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

import trio
from pannier.shared.errors import Unreachable
from pannier.shared.explain import ConfigError
from pannier.shared.instances import Key
from pannier.shared.profile import Endpoint
from pannier.shared.statics import read
from pannier.sidecars.pilot.bridges.source import Found, Look, id_of

EVERY_SECONDS: Final = 1.0


class FileSource:
    """A `source.Source` that reads one file."""

    def __init__(self, path: Path) -> None:
        self.name = f"file:{path}"
        self.every = EVERY_SECONDS
        self._path = path
        self._seen: tuple[int, int, int] | None = None
        self._look: Look | None = None
        self._trouble = ""

    async def look(self) -> Look:
        try:
            found = os.stat(self._path)
            seen = (found.st_ino, found.st_size, found.st_mtime_ns)
            if seen != self._seen:
                self._look, self._trouble = None, ""
                try:
                    self._look = _looked(await trio.to_thread.run_sync(read, self._path))
                except ConfigError as error:
                    self._trouble = str(error)
                self._seen = seen
        except OSError as error:
            self._seen = None
            raise Unreachable(f"cannot read {self._path}: {error.strerror}") from error
        await trio.lowlevel.checkpoint()
        if self._look is None:
            raise Unreachable(self._trouble)
        return self._look

    async def news(self) -> None:
        await trio.sleep_forever()


def _looked(services: Mapping[str, Sequence[Endpoint]]) -> Look:
    instances: dict[Key, Found] = {}
    for service, endpoints in services.items():
        for endpoint in endpoints:
            metadata = dict(endpoint.metadata)
            if endpoint.weight != 1:
                metadata.setdefault("weight", str(endpoint.weight))
            instances[service, id_of(endpoint.address)] = Found(endpoint.address, metadata)
    return Look(instances, emptied={service for service, endpoints in services.items() if not endpoints})
