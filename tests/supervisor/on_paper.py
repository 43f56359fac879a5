"""A keeper and memory that exist on paper, for a service that is real."""

from __future__ import annotations

import errno
import math
from collections.abc import Mapping
from typing import Any

import trio
from pannier.supervisor.central_table import Forced
from pannier.supervisor.keeper import Exited, KeeperError, KeeperGone

NOBODY = 1 << 22  # no PID of Linux is larger


class Keeper:
    """Its processes end by any signal; `lose` ends it unasked. `note`, `graces` and `released` are what it was told."""

    def __init__(self) -> None:
        self.pid = NOBODY
        self.patience = math.inf
        self.zygote_news = trio.Event()
        self.spawned: dict[str, int] = {}
        self.sent: list[str] = []
        self._exits, self._events = trio.open_memory_channel[Exited](math.inf)
        self._gone = False
        self.stopped = False
        self.forbidden: set[str] = set()
        self.note = b""
        self.graces: list[int] = []
        self.released: list[str] = []

    async def spawn(self, name: str, *_: object, **__: object) -> int:
        await self._answer()
        self.spawned[name] = NOBODY + 1 + len(self.spawned)
        return self.spawned[name]

    async def signal(self, name: str, number: int, **_: object) -> None:
        await self._answer()
        if name in self.forbidden:
            raise KeeperError(errno.EPERM, "not yours")
        self.sent.append(name)
        self.end(name, number)

    async def shutdown(self, _: int) -> None:
        await self._answer()
        self.lose()

    async def note_put(self, _: str, note: bytes) -> None:
        await self._answer()
        self.note = note

    async def grace(self, milliseconds: int) -> None:
        await self._answer()
        self.graces.append(milliseconds)

    async def listen(self, name: str, _: str, __: int) -> int:
        await self._answer()
        return 9000

    async def release(self, name: str) -> None:
        await self._answer()
        self.released.append(name)

    async def swap(self, one: str, other: str) -> None:
        await self._answer()
        self.spawned[one], self.spawned[other] = self.spawned[other], self.spawned[one]

    async def forget(self, name: str) -> None:
        await self._answer()
        del self.spawned[name]

    async def fetch(self, _: str) -> int:
        await self._answer()
        raise KeeperGone("no streams here")

    def events(self) -> trio.MemoryReceiveChannel[Exited]:
        return self._events

    def end(self, name: str, signal: int) -> None:
        self._exits.send_nowait(Exited(name, self.spawned[name], signal=signal))

    def lose(self) -> None:
        self._gone = True
        self._exits.close()

    def kill(self) -> None:
        self.lose()

    async def _answer(self) -> None:
        await trio.lowlevel.checkpoint()
        if self.stopped and not self._gone:
            await trio.sleep(self.patience)
            self.lose()
        if self._gone:
            raise KeeperGone("gone")


class Segments:
    """`published` and `withdrawn`, in their order; `central` is what was published last as that table. A base that
    denies and goes round robin is no valid table here."""

    def __init__(self) -> None:
        self.descriptors: dict[str, int] = {}
        self.published: list[Mapping[str, Any]] = []
        self.withdrawn: list[str] = []
        self.central: tuple[Mapping[str, Any] | None, Forced | None] = (None, None)
        self.bulletins: list[bytes] = []

    def central_states(self) -> list[bytes]:
        return self.bulletins

    def publish_central(self, payload: Mapping[str, Any] | None, forced: Forced | None) -> None:
        self.central = (payload, forced)

    def publish_base(self, payload: Mapping[str, Any], *, draining: bool = False) -> None:
        if payload["outbound"] == {"unknown": "deny"} and payload["balance"] == "round_robin":
            raise ValueError("refused by the data path")
        self.published.append(payload)

    def withdraw(self, kind: str) -> None:
        self.withdrawn.append(kind)

    def beat(self) -> None: ...
