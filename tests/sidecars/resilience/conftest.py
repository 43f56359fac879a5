"""A look at a service in virtual time, and a data path in real shared memory."""

from __future__ import annotations

import mmap
import os
import struct
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import Any

import msgspec
import pytest
from pannier import _native
from pannier.sidecars.resilience.inventory import Member, Place
from pannier.sidecars.resilience.readings import Counts
from pannier.sidecars.resilience.rules import Look


@dataclass
class Word:
    state: str = "closed"
    until_ms: int = 0
    failures: int = 0
    times: int = 0


@dataclass
class Scene:
    """One service `payments` with `hosts` endpoints, and the hot word of the service as a whole."""

    hosts: int = 1
    now_ms: int = 1_000_000
    words: dict[Place, Word] = field(default_factory=dict)

    @property
    def members(self) -> tuple[Member, ...]:
        return tuple(Member("payments", f"h:{number}", (number, 1)) for number in range(self.hosts))

    @property
    def whole(self) -> Member:
        return Member("payments", "", (3584, 1))

    def word(self, member: Member) -> Word:
        return self.words.setdefault(member.place, Word())

    def look(self, *moved: Counts, after_ms: int = 0) -> Look:
        """`moved` by endpoint, in their order."""
        self.now_ms += after_ms
        for member in (*self.members, self.whole):
            self.word(member)
        happened = {member.place: counts for member, counts in zip(self.members, moved, strict=False)}
        return Look(self.now_ms, {"payments": self.members}, {"payments": self.whole.place}, happened, dict(self.words))


@pytest.fixture
def scene() -> type[Scene]:
    return Scene


SEGMENTS = ("table.limits", "table.endpoints", "table.base", "hot", "counters")
WORD = 8
REGION = 512
WORKER = REGION + 4096
LINES = WORKER + 64 + 1024 * 280
GAUGES = REGION + 64
HOT = 64


class DataPath:
    """The first worker of a proxy that counts and changes hot words, over real segments.

    Knows the layouts of counters and hot words (`shared/core/table/src/{counters,gauges,hot}.rs`).
    """

    def __init__(self) -> None:
        self.fds = {name: os.memfd_create(name) for name in SEGMENTS}
        for name, descriptor in self.fds.items():
            os.truncate(descriptor, _native.SEGMENTS[name])
            _native.initialise(name, descriptor)
        self._counters = mmap.mmap(self.fds["counters"], (LINES + 4096 * 8) * WORD)
        self._hot = mmap.mmap(self.fds["hot"], _native.SEGMENTS["hot"])
        self._endpoints = _native.TableWriter("endpoints", self.fds["table.endpoints"])
        self._gauges = 0
        start = int(Path("/proc/self/stat").read_text().rsplit(") ", 1)[1].split()[19])
        self._put(self._counters, REGION, os.getpid() << 32 | start & 0xFFFFFFFF, 1)

    def close(self) -> None:
        self._counters.close()
        self._hot.close()
        for descriptor in self.fds.values():
            os.close(descriptor)

    def discover(self, **services: int) -> dict[str, list[Member]]:
        """Publishes so many endpoints of each service, in slots from 0 up; returns them."""
        slots = count()
        members = {
            name: [Member(name, f"{name}:{port + 1}", (next(slots), 1)) for port in range(number)]
            for name, number in services.items()
        }
        clusters = [
            {
                "name": name,
                "endpoints": [
                    {"id": one.address, "address": one.address, "slot": one.place[0], "incarnation": one.place[1]}
                    for one in found
                ],
            }
            for name, found in members.items()
        ]
        self._endpoints.publish(msgspec.msgpack.encode({"clusters": clusters}))
        return members

    def calls(self, member: Member, calls: int, failures: int = 0, refused: int = 0, slow: int = 0) -> None:
        """Counts calls that have ended."""
        slot, incarnation = member.place
        line = (LINES + slot * 8) * WORD
        before = struct.unpack_from("<6Q", self._counters, line)
        added = (calls, failures, 0, refused, slow)
        cells = [a + b for a, b in zip(before[1:], added, strict=True)] if before[0] == incarnation else added
        self._put(self._counters, LINES + slot * 8, incarnation, *cells)

    def put_word(self, place: Place, state: str, in_ms: int = 0, *, failures: int = 0, times: int = 0) -> None:
        """Writes what the proxy would."""
        slot, incarnation = place
        until = _native.monotonic_ms() + in_ms if state != "closed" else 0
        number = {"closed": 0, "open": 1, "half_open": 2}[state]
        self._put(
            self._hot,
            HOT + slot * 4,
            number << 56 | incarnation << 40 | until,
            incarnation << 48 | failures << 32,
            incarnation << 48 | times << 40 | until,
        )

    def word(self, place: Place) -> _native.HotWord:
        return _native.HotWords(self.fds["hot"]).read(*place)

    def gauge(self, service: str, limit: str, used: int, most: int) -> None:
        """Says how much of a limit is in use."""
        at = (GAUGES + self._gauges * 16) * WORD
        struct.pack_into("<64s16sQQ", self._counters, at, service.encode(), limit.encode(), used, most)
        self._gauges += 1

    def limits(self) -> Any:
        """The table in force."""
        payload = _native.TableReader("limits", self.fds["table.limits"]).read()
        return None if payload is None else msgspec.msgpack.decode(payload)

    @staticmethod
    def _put(memory: mmap.mmap, word: int, *values: int) -> None:
        struct.pack_into(f"<{len(values)}Q", memory, word * WORD, *values)


@pytest.fixture
def data_path() -> Iterator[DataPath]:
    opened = DataPath()
    yield opened
    opened.close()
