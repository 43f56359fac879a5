"""A file of static endpoints as a bridge: the one that discovery reads, TOML or JSON (`shared/statics.py`).

A service with an empty list has nobody, in so many words. A file that is broken or gone says nothing.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

import trio
from pannier.shared.errors import Unreachable
from pannier.shared.explain import ConfigError
from pannier.shared.instances import Key
from pannier.shared.statics import read
from pannier.sidecars.pilot.bridges.source import Found, Look, id_of

EVERY_SECONDS: Final = 1.0


class FileSource:
    """A `source.Source` that reads one file."""

    def __init__(self, path: Path) -> None:
        self.name = f"file:{path}"
        self.every = EVERY_SECONDS
        self._path = path

    async def look(self) -> Look:
        try:
            services = await trio.to_thread.run_sync(read, self._path)
        except ConfigError as error:
            raise Unreachable(str(error)) from error
        except OSError as error:
            raise Unreachable(f"cannot read {self._path}: {error.strerror}") from error
        instances: dict[Key, Found] = {}
        for service, endpoints in services.items():
            for endpoint in endpoints:
                metadata = dict(endpoint.metadata)
                if endpoint.weight != 1:
                    metadata.setdefault("weight", str(endpoint.weight))
                instances[service, id_of(endpoint.address)] = Found(endpoint.address, metadata)
        emptied = {service for service, endpoints in services.items() if not endpoints}
        return Look(instances, emptied=emptied)

    async def news(self) -> None:
        await trio.sleep_forever()
