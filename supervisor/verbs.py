"""What a command can ask the supervisor for, over the bus: the verbs of `to="supervisor"`."""

from __future__ import annotations

import msgspec
from pannier.shared import messages
from pannier.shared.central import CentralForce
from pannier.shared.errors import NoSuchSidecar, UsageError
from pannier.shared.messages import (
    Life,
    LiveChange,
    LiveReset,
    LogLines,
    LogRequest,
    Nothing,
    Rollback,
    Sidecar,
    SidecarList,
    SidecarName,
    Urls,
    Use,
)
from pannier.supervisor import status
from pannier.supervisor.bus_state import BusState, bus_state
from pannier.supervisor.central import CentralMesh
from pannier.supervisor.ending import Cause, Ending
from pannier.supervisor.keeper_birth import keeper_program
from pannier.supervisor.lifecycle import ServiceState
from pannier.supervisor.relay import newest
from pannier.supervisor.service import Service, log_lines, now_ms
from pannier.supervisor.sidecar_types import sidecar_modules
from pannier.supervisor.steering import Steering
from pannier.supervisor.tables import TableStates


def serve_verbs(service: Service, steering: Steering, central: CentralMesh) -> None:
    """Answers the verbs for as long as the broker serves."""
    verbs = Verbs(service, steering)
    broker = service.broker
    broker.serve_verb("status", Nothing, verbs.status)
    broker.serve_verb("stop", Nothing, verbs.stop)
    broker.serve_verb("urls", Nothing, verbs.urls)
    broker.serve_verb("tables", Nothing, verbs.tables)
    broker.serve_verb("diagnostics.bus", Nothing, verbs.bus)
    broker.serve_verb("logs", LogRequest, verbs.logs)
    broker.serve_verb("life", Nothing, verbs.life)
    broker.serve_verb("upgrade.keeper", Nothing, verbs.upgrade_keeper)
    broker.serve_verb("upgrade.supervisor", Nothing, steering.renew_supervisor)
    broker.serve_verb("upgrade.zygote", Nothing, steering.renew_zygote)
    broker.serve_verb("upgrade.proxy", Nothing, steering.renew_proxy)
    broker.serve_verb("central.status", Nothing, central.status)
    broker.serve_verb("central.force", CentralForce, central.force)
    broker.serve_verb("sidecar.list", Nothing, verbs.list_sidecars)
    broker.serve_verb("sidecar.add", SidecarName, verbs.add)
    broker.serve_verb("sidecar.rm", SidecarName, verbs.remove)
    broker.serve_verb("sidecar.restart", SidecarName, verbs.restart)
    broker.serve_verb("profile.use", Use, steering.use)
    broker.serve_verb("profile.confirm", Nothing, steering.confirm)
    broker.serve_verb("profile.in_force", Nothing, steering.in_force)
    broker.serve_verb("config.rollback", Rollback, steering.roll_back)
    broker.serve_verb("config.history", Nothing, steering.revisions)
    broker.serve_verb("config.said", Nothing, steering.said)
    broker.serve_verb("live.set", LiveChange, steering.set_live)
    broker.serve_verb("live.reset", LiveReset, steering.reset_live)
    broker.serve_verb("live.diff", Nothing, steering.what_live_changes)


class Verbs:
    """One method a verb. Each raises PannierError for what the operator can act on."""

    def __init__(self, service: Service, steering: Steering) -> None:
        self._service = service
        self._steering = steering

    async def status(self, _: Nothing) -> messages.Status:
        return await self._service.status()

    async def stop(self, _: Nothing) -> None:
        self._service.tree.end(Ending(Cause.ORDER))

    async def life(self, _: Nothing) -> Life:
        ready = self._service.tree.state is ServiceState.READY
        return msgspec.structs.replace(self._service.life, ready=ready)

    async def upgrade_keeper(self, _: Nothing) -> None:
        await self._service.keeper.renew(keeper_program())

    async def urls(self, _: Nothing) -> Urls:
        return Urls(status.urls(self._service.plan))

    async def tables(self, _: Nothing) -> TableStates:
        return TableStates(self._service.segments.states(now_ms()), self._steering.revision)

    async def bus(self, _: Nothing) -> BusState:
        return bus_state(self._service.broker.statistics())

    async def logs(self, request: LogRequest) -> LogLines:
        return log_lines(newest(self._service.tail.last(request.tail)))

    async def list_sidecars(self, _: Nothing) -> SidecarList:
        children = self._service.tree.children
        found = []
        for name in sorted({*self._service.plan.sidecars, *sidecar_modules()}):
            child = children.get(name)
            if child is None:
                found.append(Sidecar(name, "", 0, 0, ready=False))
            else:
                found.append(Sidecar(name, child.state.value, child.pid, child.restarts, child.ready))
        return SidecarList(found)

    async def add(self, request: SidecarName) -> None:
        name = request.name
        if name not in sidecar_modules():  # also one that was installed a moment ago
            name = self._installed(name)
        if name in self._service.tree.children:
            raise UsageError(f"the sidecar {name} runs already", hint=f"pannier sidecar restart {name}")
        await self._steering.switch(name, on=True)

    async def remove(self, request: SidecarName) -> None:
        await self._steering.switch(self._running(request.name), on=False)

    async def restart(self, request: SidecarName) -> None:
        await self._steering.restart(self._running(request.name))

    def _installed(self, name: str) -> str:
        known = self._service.plan.sidecars
        if name not in known:
            raise NoSuchSidecar(f"no sidecar {name[:80]!r} is installed", hint=f"there are: {', '.join(known)}")
        return name

    def _running(self, name: str) -> str:
        if self._installed(name) not in self._service.tree.children:
            raise NoSuchSidecar(f"the sidecar {name} does not run", hint=f"pannier sidecar add {name}")
        return name
