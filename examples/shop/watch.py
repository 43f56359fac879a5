"""What the mesh says about itself, asked over each service's bus: readiness, processes, golden figures, who is out.

Whether a request failed is never asked here. A service whose supervisor does not answer keeps its last word, and its
figures vanish from the table rather than grow old in it.
"""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Sequence

import trio
from pannier.shared.bus import Bus, open_bus
from pannier.shared.errors import PannierError
from pannier.shared.messages import (
    EVENTS,
    BreakerState,
    BreakerStates,
    Happening,
    StatReply,
    StatRequest,
    StatRow,
    Status,
    TrafficStatus,
)
from pannier.shared.runtime import service_dir

STAT_SECONDS = 1.0
STATUS_SECONDS = 5.0  # the supervisor reads the memory of each process for it, which is not cheap
UNTIL_READY_SECONDS = 0.25
WINDOW_SECONDS = 10.0
TOLD_BY = ("traffic", "resilience")


class Watch:
    """The last word of each service, kept fresh while `run` runs. `heed` is told what traffic and resilience have to
    say, with the name of the service that they are beside."""

    def __init__(
        self, services: Sequence[str], *, heed: Callable[[str, Happening], None] = lambda _service, _happening: None
    ) -> None:
        self._services = tuple(services)
        self._heed = heed
        self._ready = trio.Event()
        self._statuses: dict[str, Status] = {}
        self._rows: dict[str, list[StatRow]] = {}
        self._traffic: dict[str, TrafficStatus] = {}
        self._breakers: dict[str, BreakerStates] = {}

    @property
    def statuses(self) -> list[Status]:
        return [self._statuses[name] for name in self._services if name in self._statuses]

    @property
    def rows(self) -> list[StatRow]:
        return [row for name in self._services for row in self._rows.get(name, ())]

    @property
    def traffic(self) -> dict[str, TrafficStatus]:
        """What is done with the calls of each caller."""
        return dict(self._traffic)

    @property
    def breakers(self) -> dict[str, list[BreakerState]]:
        """What each caller holds against an endpoint."""
        return {name: found.breakers for name, found in self._breakers.items()}

    async def run(self) -> None:
        async with trio.open_nursery() as nursery:
            for name in self._services:
                nursery.start_soon(self._stay, name, self._follow)
                nursery.start_soon(self._stay, name, self._listen)

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

    async def _stay(self, name: str, converse: Callable[[Bus, str], Awaitable[None]]) -> None:
        while True:
            try:
                async with open_bus(service_dir(name, create=False) / "bus.sock") as bus:
                    await converse(bus, name)
            except PannierError:
                await trio.sleep(UNTIL_READY_SECONDS)

    async def _listen(self, bus: Bus, name: str) -> None:
        async with bus.subscribe(EVENTS, Happening) as events:
            async for happening in events:
                if happening.source in TOLD_BY:
                    self._heed(name, happening)

    async def _follow(self, bus: Bus, name: str) -> None:
        try:
            await self._until_ready(bus, name)
            await self._keep_asking(bus, name)
        finally:
            for figures in (self._rows, self._traffic, self._breakers):
                figures.pop(name, None)

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
            present = {process.name for process in self._statuses[name].processes}
            if "traffic" in present:
                self._traffic[name] = await bus.request("traffic", "status", None, TrafficStatus)
            if "resilience" in present:
                self._breakers[name] = await bus.request("resilience", "breakers", None, BreakerStates)
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
