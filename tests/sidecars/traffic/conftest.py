"""A data path in real shared memory, without a proxy."""

from __future__ import annotations

import mmap
import os
import struct
from collections.abc import Iterator
from itertools import count
from pathlib import Path
from typing import Any

import msgspec
import pytest
from pannier import _native

SEGMENTS = ("table.routes", "table.endpoints", "table.base", "counters")
WORD = 8
REGION = 512
LINES = REGION + 4096 + 64 + 1024 * 280
LINE = 8


class DataPath:
    """The first worker of a proxy that counts calls to endpoints, over real segments.

    Knows the layout of counters (`shared/core/table/src/counters.rs`).
    """

    def __init__(self) -> None:
        self.fds = {name: os.memfd_create(name) for name in SEGMENTS}
        for name, descriptor in self.fds.items():
            os.truncate(descriptor, _native.SEGMENTS[name])
            _native.initialise(name, descriptor)
        self._counters = mmap.mmap(self.fds["counters"], (LINES + 4096 * LINE) * WORD)
        self._endpoints = _native.TableWriter("endpoints", self.fds["table.endpoints"])
        start = int(Path("/proc/self/stat").read_text().rsplit(") ", 1)[1].split()[19])
        self._put(REGION, os.getpid() << 32 | start & 0xFFFFFFFF, 1)

    def close(self) -> None:
        self._counters.close()
        for descriptor in self.fds.values():
            os.close(descriptor)

    def discover(self, **services: list[str]) -> None:
        """Publishes an endpoint for each version that is named, in slots from 0 up."""
        slots = count()
        clusters = [
            {
                "name": name,
                "endpoints": [
                    {
                        "id": str(port),
                        "address": f"{name}:{port}",
                        "slot": next(slots),
                        "incarnation": 1,
                        "metadata": {"version": version},
                    }
                    for port, version in enumerate(versions, 1)
                ],
            }
            for name, versions in services.items()
        ]
        self._endpoints.publish(msgspec.msgpack.encode({"clusters": clusters}))

    def calls(self, slot: int, calls: int, failures: int = 0) -> None:
        """Counts calls that have ended."""
        at = LINES + slot * LINE
        _, *before = struct.unpack_from("<3Q", self._counters, at * WORD)
        self._put(at, 1, before[0] + calls, before[1] + failures)

    def routes(self) -> Any:
        """The table in force."""
        payload = _native.TableReader("routes", self.fds["table.routes"]).read()
        return None if payload is None else msgspec.msgpack.decode(payload)

    def split(self) -> dict[str, int]:
        """The split of the service `payments` in force."""
        found: dict[str, int] = self.routes()["services"]["payments"]["split"]
        return found

    def _put(self, word: int, *values: int) -> None:
        struct.pack_into(f"<{len(values)}Q", self._counters, word * WORD, *values)


@pytest.fixture
def data_path() -> Iterator[DataPath]:
    opened = DataPath()
    yield opened
    opened.close()
