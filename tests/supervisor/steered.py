"""A real service with a real bus, to be steered; its sidecars are peers in this process, and end when told to."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec
import trio
from pannier.shared import framing
from pannier.shared.bus import Bus, open_bus
from pannier.shared.errors import PannierError, Unreachable
from pannier.shared.messages import (
    CONFIGURE,
    Changed,
    Configure,
    Configured,
    LiveChange,
    LiveSetting,
    Nothing,
    Revision,
    Revisions,
    Rollback,
    Use,
)
from pannier.shared.rights import needs_of
from pannier.supervisor import adoption
from pannier.supervisor.adoption import Found, Record
from pannier.supervisor.central import CentralMesh
from pannier.supervisor.compose import SEGMENTS
from pannier.supervisor.keeper import Exited
from pannier.supervisor.keeper_protocol import ZYGOTE
from pannier.supervisor.objective import Series
from pannier.supervisor.plan import Arguments, Place, Said
from pannier.supervisor.planning import Installation, plan_for, profile_of
from pannier.supervisor.service import Service
from pannier.supervisor.sidecar_types import sidecar_types
from pannier.supervisor.steering import Steering
from pannier.supervisor.verbs import serve_verbs

from tests.supervisor.on_paper import Keeper, Segments

PATIENCE = 30.0


class Tuned(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The settings of every sidecar here. `ending`: how it behaves, `fine` means that all is well."""

    number: int = 0
    behaviour: str = "fine"
    resource: dict[str, str] = {}
    services: dict[str, Any] = {}
    app: str | None = None
    instance: dict[str, Any] = {}
    stage: str = ""
    vouches: bool = False


NAMES = ("discovery", "observability", "resilience", "traffic")


def ours(name: str) -> type[Tuned]:
    """These settings, as those of the sidecar of that name that comes with Pannier."""
    real = sidecar_types()[name]
    return type(name, (Tuned,), {"needs": needs_of(real), "__module__": real.__module__})


INSTALLATION = Installation({name: ours(name) for name in NAMES}, {name: f"x.{name}" for name in NAMES})
DEV = {"sidecars": {"discovery": {"number": 1}, "observability": {}}}
CANARY = {"sidecars": {"discovery": {"number": 1}, "resilience": {"number": 2}, "traffic": {"number": 3}}}


@dataclass
class Host(Keeper):
    """A keeper whose sidecars live on the bus. `resilience` and `traffic` take a configuration while they run.

    `log` is what happened, in order: `+name`, `-name`, `name=number`.
    """

    bus: Path
    nursery: trio.Nursery
    log: list[str] = field(default_factory=list)
    starts: Counter[str] = field(default_factory=Counter)
    deaf: set[str] = field(default_factory=set)
    told: dict[str, int] = field(default_factory=dict)
    buses: dict[str, Bus] = field(default_factory=dict)
    series: list[Series] = field(default_factory=list)
    looks: int = 0
    service: Service = field(init=False)
    _lives: dict[str, trio.CancelScope] = field(default_factory=dict)

    def __post_init__(self) -> None:
        super().__init__()

    async def spawn(self, name: str, *_: object, **more: Any) -> int:
        pid = await super().spawn(name)
        self.starts[name] += 1
        if name in NAMES:
            self.nursery.start_soon(self._live, name, pid, more["env"]["PANNIER_TOKEN"])
        elif name != ZYGOTE:
            self.nursery.start_soon(self.say_ready, name, pid)
        return pid

    def look(self) -> list[Series]:
        """What requests have come to; `looks` counts how often that was asked."""
        self.looks += 1
        return self.series

    def end(self, name: str, signal: int) -> None:
        if name in self._lives:
            self._lives.pop(name).cancel()
            self.log.append(f"-{name}")
            self._exits.send_nowait(Exited(name, self.spawned[name], code=0))  # in order, as a sidecar does
        else:
            super().end(name, signal)

    async def say_ready(self, name: str, pid: int) -> None:
        children = self.service.tree.children
        while name in self.buses and not self.buses[name].statistics().connected:  # noqa: ASYNC110 - no event says so
            await trio.sleep(0.005)
        await self.service.tree.wait_until(lambda: name in children and children[name].pid == pid)
        children[name].said_ready(pid)
        while name not in NAMES and children[name].pid == pid:  # as one that tells the supervisor itself that it lives
            children[name].beat()
            await trio.sleep(1)

    async def _live(self, name: str, pid: int, token: str) -> None:
        with trio.CancelScope() as self._lives[name]:
            async with open_bus(self.bus, role=name, token=token, reconnect=True) as bus:
                self.buses[name] = bus
                config = framing.decode(bus.config, Tuned)
                if config.behaviour == "never ready":
                    await trio.sleep_forever()
                if config.behaviour == "ends":
                    del self._lives[name]
                    self._exits.send_nowait(Exited(name, pid, code=65))
                    return
                self.log.append(f"+{name}")
                bus.serve(CONFIGURE, Configure, self._taker(name))
                await self.say_ready(name, pid)
                await trio.sleep_forever()

    def _taker(self, name: str) -> Callable[[Configure], Any]:
        async def take(request: Configure) -> Configured:
            config = framing.decode(request.config, Tuned)
            if name in self.deaf:
                raise Unreachable("it does not answer")
            live = name in {"resilience", "traffic"}
            if config.behaviour == "refuses late" and not request.dry_run:
                raise PannierError("not today", hint="tomorrow")
            if config.behaviour == "refuses":
                raise PannierError("not that", hint="this")
            if live and not request.dry_run:
                self.log.append(f"{name}={config.number}")
                self.told[name] = config.number
            return Configured(live)

        return take


@dataclass
class Running:
    """A service that runs, and a command line beside it."""

    host: Host
    service: Service
    segments: Segments
    cli: Bus

    def enabled(self) -> set[str]:
        return {child.name for child in self.service.tree.sidecars}

    def pids(self) -> dict[str, int]:
        return {child.name: child.pid for child in self.service.tree.children.values()}

    def granted(self, name: str) -> Tuned:
        """The configuration that the next life gets."""
        grant = self.service.grants.find(f"token of {name}")
        assert grant is not None
        return framing.decode(grant.config, Tuned)

    async def use(self, profile: str, settings: Mapping[str, Any], **more: Any) -> Changed:
        return await self.ask("profile.use", Use(profile, msgspec.msgpack.encode(settings), **more), Changed)

    async def set(self, *settings: tuple[str, Any], **more: Any) -> Changed:
        changes = [
            LiveSetting(path.split("."), None if value is ... else msgspec.msgpack.encode(value))
            for path, value in settings
        ]
        return await self.ask("live.set", LiveChange(changes, **more), Changed)

    async def roll_back(self, revision: str, **more: Any) -> Changed:
        return await self.ask("config.rollback", Rollback(revision, **more), Changed)

    async def revisions(self) -> list[Revision]:
        return (await self.ask("config.history", Nothing(), Revisions)).revisions

    async def wait_until(self, condition: Callable[[], bool]) -> None:
        """Of what a task does by the clock; there is no event for it."""
        with trio.fail_after(PATIENCE):
            while not condition():  # noqa: ASYNC110
                await trio.sleep(0.01)

    async def ask(self, verb: str, body: msgspec.Struct, reply: type[Any]) -> Any:
        return await self.cli.request("supervisor", verb, body, reply, timeout=PATIENCE)


@asynccontextmanager
async def running(host: Host, found: Found | None = None, **settings: Any) -> AsyncIterator[Running]:
    """A service of the profile `dev`; with `found`, one that goes on where another supervisor died."""
    async with trio.open_nursery() as nursery:
        if found is None:
            said = Said({**DEV, **settings})
            environment = {"PANNIER__PROXY__WORKERS": "1", "A": "b"}
            ports = {"inbound": 1, "outbound": 2, "metrics": 3}
            record = Record(
                plan_for(
                    profile_of("dev", said, INSTALLATION),
                    Arguments(name="orders", command=("serve",), assignments=("a=1",)),
                    Place(str(host.bus.parent), environment, "/bin/pannierd", 2, ports),
                    said=said,
                    installation=INSTALLATION,
                    token=lambda name: f"token of {name}",
                )
            )
        else:
            record = adoption.decode(host.note)
        segments = Segments()
        with open(os.devnull) as nothing:  # noqa: ASYNC230 - it does not wait
            segments.descriptors = {name: nothing.fileno() for name in SEGMENTS}
            service = host.service = Service(host, record.plan, segments, nursery)  # type: ignore[arg-type]
            steering = Steering(service, clock=trio.current_time, installation=lambda: INSTALLATION, counters=host.look)
            central = CentralMesh(service, adopted=found is not None)
            serve_verbs(service, steering, central)
            nursery.start_soon(steering.watch)
            nursery.start_soon(central.watch)
            for name, pid in (found.running if found is not None else {}).items():
                nursery.start_soon(host.say_ready, name, pid)
            await service.start(found, record)
            await steering.begin(record if found is not None else None)
            await service.tree.wait_ready()
            host.log.clear()
            async with open_bus(host.bus) as cli:
                yield Running(host, service, segments, cli)
        nursery.cancel_scope.cancel()
