"""A file of static endpoints as a bridge: the one that discovery reads, TOML or JSON (`shared/statics.py`).

A service with an empty list has nobody, in so many words. A file that is broken, gone or suddenly without services
changes nothing.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

import trio
from pannier.shared.errors import Unreachable
from pannier.shared.instances import Key
from pannier.shared.statics import StaticSource
from pannier.sidecars.pilot.bridges.source import Found, Look, id_of

EVERY_SECONDS: Final = 1.0


class FileSource:
    """A `source.Source` that reads one file when it has changed."""

    def __init__(self, path: Path) -> None:
        self.name = f"file:{path}"
        self.every = EVERY_SECONDS
        self._file = StaticSource(path)
        self._trouble = ""

    async def look(self) -> Look:
        look = await trio.to_thread.run_sync(self._file.look)
        self._trouble = look.complaint if look.complaint or look.changed else self._trouble
        if self._trouble:
            raise Unreachable(self._trouble)
        instances: dict[Key, Found] = {}
        for service, endpoints in self._file.services.items():
            for endpoint in endpoints:
                metadata = dict(endpoint.metadata)
                if endpoint.weight != 1:
                    metadata.setdefault("weight", str(endpoint.weight))
                instances[service, id_of(endpoint.address)] = Found(endpoint.address, metadata)
        emptied = {service for service, endpoints in self._file.services.items() if not endpoints}
        return Look(instances, emptied=emptied)

    async def news(self) -> None:
        await trio.sleep_forever()
