"""What a command can ask the supervisor for, over the bus: the verbs of `to="supervisor"`."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from pannier.shared import messages
from pannier.shared.errors import Blame, NoSuchSidecar, PannierError, UsageError
from pannier.shared.messages import LogLines, LogRequest, Nothing, Sidecar, SidecarList, SidecarName, Urls
from pannier.supervisor import live, status
from pannier.supervisor.ending import Cause, Ending
from pannier.supervisor.relay import newest
from pannier.supervisor.service import Service, log_lines, now_ms
from pannier.supervisor.tables import TableStates


def serve_verbs(service: Service) -> None:
    """Answers the verbs for as long as the broker serves."""
    verbs = Verbs(service)
    broker = service.broker
    broker.serve_verb("status", Nothing, verbs.status)
    broker.serve_verb("stop", Nothing, verbs.stop)
    broker.serve_verb("urls", Nothing, verbs.urls)
    broker.serve_verb("tables", Nothing, verbs.tables)
    broker.serve_verb("logs", LogRequest, verbs.logs)
    broker.serve_verb("sidecar.list", Nothing, verbs.list_sidecars)
    broker.serve_verb("sidecar.add", SidecarName, verbs.add)
    broker.serve_verb("sidecar.rm", SidecarName, verbs.remove)
    broker.serve_verb("sidecar.restart", SidecarName, verbs.restart)


class Verbs:
    """One method a verb. Each raises PannierError for what the operator can act on."""

    def __init__(self, service: Service) -> None:
        self._service = service
        self._changing: set[str] = set()

    async def status(self, _: Nothing) -> messages.Status:
        return await self._service.status()

    async def stop(self, _: Nothing) -> None:
        self._service.tree.end(Ending(Cause.ORDER))

    async def urls(self, _: Nothing) -> Urls:
        return Urls(status.urls(self._service.plan))

    async def tables(self, _: Nothing) -> TableStates:
        return self._service.segments.states(now_ms())

    async def logs(self, request: LogRequest) -> LogLines:
        return log_lines(newest(self._service.tail.last(request.tail)))

    async def list_sidecars(self, _: Nothing) -> SidecarList:
        children = self._service.tree.children
        found = []
        for name in self._service.plan.sidecars:
            child = children.get(name)
            if child is None:
                found.append(Sidecar(name, "", 0, 0, ready=False))
            else:
                found.append(Sidecar(name, child.state.value, child.pid, child.restarts, child.ready))
        return SidecarList(found)

    async def add(self, request: SidecarName) -> None:
        name = self._installed(request.name)
        if name in self._service.tree.children:
            raise UsageError(f"the sidecar {name} runs already", hint=f"pannier sidecar restart {name}")
        self._need_keeper()
        with self._change(name):
            await self._service.add_sidecar(name)
            live.switch_sidecar(self._service.plan.service, name, on=True)

    async def remove(self, request: SidecarName) -> None:
        name = self._running(request.name)
        with self._change(name):
            await self._service.remove_sidecar(name)
            live.switch_sidecar(self._service.plan.service, name, on=False)

    async def restart(self, request: SidecarName) -> None:
        name = self._running(request.name)
        self._need_keeper()
        with self._change(name):
            await self._service.tree.restart(name)

    def _installed(self, name: str) -> str:
        known = self._service.plan.sidecars
        if name not in known:
            raise NoSuchSidecar(f"no sidecar {name[:80]!r} is installed", hint=f"there are: {', '.join(known)}")
        return name

    def _running(self, name: str) -> str:
        if self._installed(name) not in self._service.tree.children:
            raise NoSuchSidecar(f"the sidecar {name} does not run", hint=f"pannier sidecar add {name}")
        return name

    def _need_keeper(self) -> None:
        if self._service.tree.keeper_lost:
            raise PannierError(
                "the keeper is gone, so nothing can be started",
                hint="end the service and start it again: pannier down",
                blame=Blame.PLATFORM,
            )

    @contextmanager
    def _change(self, name: str) -> Iterator[None]:
        """One change of a sidecar at a time."""
        if name in self._changing:
            raise UsageError(f"the sidecar {name} is just being changed", hint="try again in a moment")
        self._changing.add(name)
        try:
            yield
        finally:
            self._changing.discard(name)
