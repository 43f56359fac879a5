"""What the mesh says about itself, asked over each service's bus: readiness, processes, golden figures.

For the eye only; no verdict rests on it. A service whose supervisor does not answer keeps its last word, and its
figures vanish from the table rather than grow old in it.
"""

from __future__ import annotations

import json
from collections.abc import Sequence

import trio
from pannier.shared.bus import Bus, open_bus
from pannier.shared.errors import PannierError
from pannier.shared.messages import StatReply, StatRequest, StatRow, Status
from pannier.shared.runtime import service_dir

STAT_SECONDS = 1.0
STATUS_SECONDS = 5.0  # the supervisor reads the memory of each process for it, which is not cheap
UNTIL_READY_SECONDS = 0.25
WINDOW_SECONDS = 10.0


class Watch:
    """The last word of each service, kept fresh while `run` runs."""

    def __init__(self, services: Sequence[str]) -> None:
        self._services = tuple(services)
        self._ready = trio.Event()
        self._statuses: dict[str, Status] = {}
        self._rows: dict[str, list[StatRow]] = {}

    @property
    def statuses(self) -> list[Status]:
        return [self._statuses[name] for name in self._services if name in self._statuses]

    @property
    def rows(self) -> list[StatRow]:
        return [row for name in self._services for row in self._rows.get(name, ())]

    async def run(self) -> None:
        async with trio.open_nursery() as nursery:
            for name in self._services:
                nursery.start_soon(self._follow, name)

    async def wait_ready(self) -> None:
        """Returns once every process of every service has been ready."""
        await self._ready.wait()

    async def refresh(self) -> None:
        """Ask every service for its status now; who does not answer keeps its last one."""
        async with trio.open_nursery() as nursery:
            for name in self._services:
                nursery.start_soon(self._refresh, name)

    def waiting_for(self) -> list[str]:
        """What is not ready, as `service/process`."""
        missing = [name for name in self._services if name not in self._statuses]
        return missing + [
            f"{status.name}/{process.name}"
            for status in self.statuses
            for process in status.processes
            if not process.ready
        ]

    async def _follow(self, name: str) -> None:
        while True:
            try:
                async with open_bus(service_dir(name, create=False) / "bus.sock") as bus:
                    await self._until_ready(bus, name)
                    await self._keep_asking(bus, name)
            except PannierError:
                self._rows.pop(name, None)
                await trio.sleep(UNTIL_READY_SECONDS)

    async def _until_ready(self, bus: Bus, name: str) -> None:
        while True:
            self._statuses[name] = await bus.request("supervisor", "status", None, Status)
            if not self.waiting_for():
                self._ready.set()
            if all(process.ready for process in self._statuses[name].processes):
                return
            await trio.sleep(UNTIL_READY_SECONDS)

    async def _keep_asking(self, bus: Bus, name: str) -> None:
        asked = trio.current_time()
        while True:
            reply = await bus.request("observability", "stat", StatRequest(WINDOW_SECONDS), StatReply)
            self._rows[name] = reply.rows
            if trio.current_time() - asked >= STATUS_SECONDS:
                asked = trio.current_time()
                self._statuses[name] = await bus.request("supervisor", "status", None, Status)
            await trio.sleep(STAT_SECONDS)

    async def _refresh(self, name: str) -> None:
        try:
            async with open_bus(service_dir(name, create=False) / "bus.sock") as bus:
                self._statuses[name] = await bus.request("supervisor", "status", None, Status)
        except PannierError:
            return


def read_urls(services: Sequence[str]) -> dict[str, dict[str, str]]:
    """Each service's `urls.json`: what it offers, by kind (`inbound`, `metrics` …)."""
    urls: dict[str, dict[str, str]] = {}
    for name in services:
        try:
            urls[name] = json.loads((service_dir(name, create=False) / "urls.json").read_bytes())
        except FileNotFoundError:
            continue
    return urls
