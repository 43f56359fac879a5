"""The supervisor's part of the shared memory.

It lays the segments out, writes the tables `base` and `central`, and publishes the absence of what was removed.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

import msgpack
import msgspec
from pannier import _native
from pannier.supervisor.central_table import Forced
from pannier.supervisor.keeper import Keeper


class TableState(msgspec.Struct, frozen=True):
    """One table.

    `generation` 0 = never published, `absent` = its capability does not exist, `age_s` = seconds since its writer's
    last heartbeat (None: there never was a writer). `writer_pid` and `epoch` say who that is and the how-many-th;
    `length` in bytes; `intact`: its checksum holds; `in_force`: the generation that all workers of the proxy have, None
    where no proxy runs.
    """

    kind: str
    generation: int
    absent: bool
    age_s: float | None
    writer_pid: int = 0
    epoch: int = 0
    length: int = 0
    intact: bool = True
    in_force: int | None = None


class TableStates(msgspec.Struct, frozen=True):
    """The answer of the supervisor's verb `tables`. `revision`: the configuration in force, 0 if that is not known."""

    tables: list[TableState]
    revision: int = 0


class Segments:
    """Descriptors of all segments, by held name; `close` them at the end."""

    def __init__(self, descriptors: Mapping[str, int]) -> None:
        self.descriptors = dict(descriptors)
        self._base = _native.TableWriter("base", self.descriptors["table.base"])
        self._central: _native.TableWriter | None = None
        self._counters = _native.Counters(self.descriptors["counters"])

    def publish_base(self, payload: Mapping[str, Any], *, draining: bool = False) -> None:
        """Publishes table `base`; raises ValueError if that is no valid table."""
        lifecycle = "draining" if draining else "serving"
        packed = msgpack.packb({**payload, "lifecycle": lifecycle})
        try:
            self._base.publish(packed)
        except RuntimeError:  # fenced: by damage or a stranger's hand, for nobody else is the client of this keeper
            self._base = _native.TableWriter("base", self.descriptors["table.base"])
            self._base.publish(packed)

    def publish_central(self, payload: Mapping[str, Any] | None, forced: Forced | None) -> None:
        """Publishes table `central`, with the weight that somebody asked for; None publishes that there is no Central
        Mesh. Raises ValueError if that is no valid table."""
        if payload is None:
            if self._central is not None or _is_there("central", self.descriptors["table.central"]):
                self.withdraw("central")
            self._central = None
            return
        packed = msgpack.packb({**payload, "forced": msgspec.to_builtins(forced)})
        try:
            self._central = self._central or _native.TableWriter("central", self.descriptors["table.central"])
            self._central.publish(packed)
        except RuntimeError:  # fenced, as above
            self._central = _native.TableWriter("central", self.descriptors["table.central"])
            self._central.publish(packed)

    def central_states(self) -> list[bytes]:
        """What each living process of the proxy says of the Central Mesh."""
        return self._counters.central()

    def beat(self) -> None:
        """Says that the writer of `base`, and of `central` if there is one, lives."""
        self._base.heartbeat()
        if self._central is not None:
            self._central.heartbeat()

    def withdraw(self, kind: str) -> None:
        """Publishes the absence of a table whose writer is gone for good."""
        _native.TableWriter(kind, self.descriptors[f"table.{kind}"]).withdraw()

    def states(self, now_ms: int) -> list[TableState]:
        """Where every table stands."""
        return table_states(self.descriptors, now_ms)

    def close(self) -> None:
        for descriptor in self.descriptors.values():
            os.close(descriptor)
        self.descriptors.clear()


def _is_there(kind: str, descriptor: int) -> bool:
    try:
        return _native.TableReader(kind, descriptor).read() is not None
    except RuntimeError:  # damaged: what it was is of no use to anybody
        return True


def table_states(descriptors: Mapping[str, int], now_ms: int) -> list[TableState]:
    """Where every table stands that there is a descriptor of; nothing is written. Raises RuntimeError for memory that
    is none of ours."""
    counted = _native.Counters(descriptors["counters"]).enrolled() if "counters" in descriptors else []
    in_force = [each.in_force for each in counted if each.alive]
    return [
        _state(kind, descriptors[f"table.{kind}"], now_ms, [each[kind] for each in in_force if kind in each])
        for kind in _native.TABLES
        if f"table.{kind}" in descriptors
    ]


def _state(kind: str, descriptor: int, now_ms: int, in_force: list[int]) -> TableState:
    reader = _native.TableReader(kind, descriptor)
    pid, heartbeat = reader.writer()
    try:
        payload, intact = reader.read(), True
    except RuntimeError:
        payload, intact = b"", False
    return TableState(
        kind,
        reader.generation(),
        payload is None,
        max(0, now_ms - heartbeat) / 1000 if heartbeat else None,
        pid,
        reader.epoch(),
        len(payload or b""),
        intact,
        min(in_force, default=None),
    )


async def open_segments(keeper: Keeper) -> Segments:
    """Has the keeper hold every segment, and lays out those that are new."""
    descriptors = {}
    for name, size in _native.SEGMENTS.items():
        await keeper.memfd(name, size)
        descriptors[name] = await keeper.fetch(name)
        _native.initialise(name, descriptors[name])
    return Segments(descriptors)
