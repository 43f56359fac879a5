"""The supervisor's part of the shared memory.

It lays the segments out, writes table `base`, and publishes the absence of what was removed.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

import msgpack
import msgspec
from pannier import _native
from pannier.supervisor.keeper import Keeper


class TableState(msgspec.Struct, frozen=True):
    """One table.

    `generation` 0 = never published, `absent` = its capability does not exist, `age_s` = seconds since its writer's
    last heartbeat (None: there never was a writer).
    """

    kind: str
    generation: int
    absent: bool
    age_s: float | None


class TableStates(msgspec.Struct, frozen=True):
    """The answer of the supervisor's verb `tables`."""

    tables: list[TableState]


class Segments:
    """Descriptors of all segments, by held name; `close` them at the end."""

    def __init__(self, descriptors: Mapping[str, int]) -> None:
        self.descriptors = dict(descriptors)
        self._base = _native.TableWriter("base", self.descriptors["table.base"])

    def publish_base(self, payload: Mapping[str, Any], *, draining: bool = False) -> None:
        """Publishes table `base`; raises ValueError if that is no valid table."""
        lifecycle = "draining" if draining else "serving"
        self._base.publish(msgpack.packb({**payload, "lifecycle": lifecycle}))

    def beat(self) -> None:
        """Says that the writer of `base` lives."""
        self._base.heartbeat()

    def withdraw(self, kind: str) -> None:
        """Publishes the absence of a table whose writer is gone for good."""
        _native.TableWriter(kind, self.descriptors[f"table.{kind}"]).withdraw()

    def states(self, now_ms: int) -> TableStates:
        """Where every table stands."""
        return TableStates([self._state(kind, now_ms) for kind in _native.TABLES])

    def _state(self, kind: str, now_ms: int) -> TableState:
        reader = _native.TableReader(kind, self.descriptors[f"table.{kind}"])
        _, heartbeat = reader.writer()
        age = max(0, now_ms - heartbeat) / 1000 if heartbeat else None
        return TableState(kind, reader.generation(), reader.read() is None, age)

    def close(self) -> None:
        for descriptor in self.descriptors.values():
            os.close(descriptor)
        self.descriptors.clear()


async def open_segments(keeper: Keeper) -> Segments:
    """Has the keeper hold every segment, and lays out those that are new."""
    descriptors = {}
    for name, size in _native.SEGMENTS.items():
        await keeper.memfd(name, size)
        descriptors[name] = await keeper.fetch(name)
        _native.initialise(name, descriptors[name])
    return Segments(descriptors)
