"""The processes of one service: started in order, watched, restarted one by one, stopped in the opposite order.

Rules:
- Governance first, all of it at once; the app when the proxy is ready and no sidecar can still be waited for. A sidecar
  that does not come up costs its capability and the service's readiness, never the app.
- Siblings are untouched by each other's crashes (one_for_one).
- Nothing here knows the bus, the tables or the terminal: `service.py` listens to `changed` and `began`, and is told
  by `over` that the app has ended.
"""

from __future__ import annotations

import errno
import signal
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Final

import trio
from pannier.shared.errors import Blame, PannierError, TimedOut
from pannier.shared.ticks import next_tick
from pannier.supervisor.child import KILLED, Child, Holder, wait_listening
from pannier.supervisor.ending import SIDECAR_PATIENCE, Cause, Deadline, Ending
from pannier.supervisor.fuse import Fuse
from pannier.supervisor.lifecycle import SERVICE, ProcessState, ServiceEvent, ServiceState, step
from pannier.supervisor.plan import Kind, Plan, ProcessPlan
from pannier.supervisor.restart import Exit
from pannier.supervisor.watchdog import TICK, Watchdog

EXTERNAL: Final = "app (external)"
OTHER: Final = "proxy.2"
"""The second process of the proxy while one replaces the other: who comes, until he has taken over, then who goes."""
_TOLD: Final = 2.0  # seconds for an app that had Ctrl-C from the terminal, before it gets TERM from us


class NotReady(PannierError):
    """Processes that should have come up and did not; `names` says which."""

    blame = Blame.PEER

    def __init__(self, children: Sequence[Child]) -> None:
        self.names = tuple(child.name for child in children)
        reasons = ", ".join(f"{child.name} {_why(child)}" for child in children)
        super().__init__(f"not ready: {reasons}", hint="`pannier logs` has what was said")


class Tree:
    """`nursery` is where the processes are governed; it lives as long as the service. `fuse` holds the sidecars that
    share one."""

    def __init__(
        self,
        plan: Plan,
        holder: Holder,
        nursery: trio.Nursery,
        *,
        fuse: Fuse | None = None,
        changed: Callable[[Child | None], None] = lambda _: None,
        began: Callable[[Child], None] = lambda _: None,
    ) -> None:
        self.plan = plan
        self.state = ServiceState.STARTING
        self.watchdog = Watchdog(trio.current_time()) if fuse is None else fuse.watchdog
        self.children: dict[str, Child] = {}
        self.keeper_lost = False
        self.ending: Ending | None = None
        self.over = trio.Event()
        self._holder = holder
        self._fuse = fuse
        self._nursery = nursery
        self._tell_changed = changed
        self._began = began
        self._news = trio.Event()
        self._app_was_ready = False  # a later life that does not listen is a crash, not a failed start
        self._external_ready = plan.app is not None or plan.arguments.app is None
        for name in plan.enabled:
            self.plant(plan.sidecars[name])
        self.plant(plan.proxy)
        if plan.app is not None:
            self.plant(plan.app)

    @property
    def proxy(self) -> Child:
        return self.children[self.plan.proxy.name]

    @property
    def app(self) -> Child | None:
        return self.children.get(self.plan.app.name) if self.plan.app is not None else None

    @property
    def sidecars(self) -> list[Child]:
        return [child for child in self.children.values() if child.plan.kind is Kind.SIDECAR]

    @property
    def generation(self) -> list[Child]:
        """Everybody whom the service consists of: a second process of the proxy only comes or goes."""
        return [child for name, child in self.children.items() if name != OTHER]

    def take_over(self, child: Child, pid: int) -> None:
        """Governs a process that is known, runs already, and is no part of the plan."""
        self._nursery.start_soon(child.govern, pid)

    def end(self, ending: Ending) -> None:
        """The service is over; the first reason counts."""
        if self.ending is None:
            self.ending = ending
            self.over.set()
            self._publish(None)

    def ended(self, name: str, pid: int, exit_: Exit) -> None:
        """The process with that PID is gone, and who was in it; by that name it was known when it ended, or when it
        was started."""
        by_pid = [child for child in self.children.values() if child.pid == pid]
        for child in by_pid or filter(None, [self.children.get(name)]):
            child.ended(pid, exit_)

    async def start(self, running: Mapping[str, int]) -> None:
        """Starts what is not in `running` (PIDs by name), takes over the rest, and returns when the app is started, or
        at once when the service is over before.

        Raises TimedOut if the proxy does not become ready, PannierError if it cannot be started.
        """
        for child in [self.proxy, *self.sidecars]:
            self._nursery.start_soon(child.govern, running.get(child.name))
        with trio.move_on_after(self.plan.ready_timeout):
            await self.wait_until(lambda: self._governance_settled() or self.over.is_set())
        if self.over.is_set():
            return
        if (error := self.proxy.spawn_error) is not None and not self.proxy.pid:
            raise PannierError(
                f"cannot start {self.plan.proxy.argv[0]}: {error.strerror}",
                hint="see what is wrong with it: pannier check",
                blame=Blame.PLATFORM,
            )
        if not self.proxy.ready and not running:
            raise TimedOut(
                f"the proxy did not become ready within {self.plan.ready_timeout:g} s", hint="look at its lines above"
            )
        if (app := self.app) is not None:
            self._nursery.start_soon(self._govern_app, app, running.get(app.name))
        elif (address := self.plan.arguments.app) is not None:
            self.watchdog.expect(EXTERNAL, self.plan.ready_timeout, trio.current_time())
            self._nursery.start_soon(self._await_external, address)

    async def watch(self) -> None:
        """Kills whoever is silent for too long and can be started again; runs until cancelled."""
        while True:
            await next_tick(TICK)
            for name in self.watchdog.tick(trio.current_time()):
                shared = self._fuse.process if self._fuse is not None else None
                child = shared if shared is not None and shared.name == name else self.children.get(name)
                if child is None or (child.plan.kind is Kind.APP and not self._app_was_ready):
                    self._not_ready()
                elif not self.keeper_lost:
                    await child.kill()

    async def wait_until(self, condition: Callable[[], bool]) -> None:
        """Returns once `condition` holds; it is looked at after every transition."""
        while not condition():
            await self._news.wait()

    async def wait_ready(self) -> None:
        await self.wait_until(lambda: self.state is ServiceState.READY)

    def drain(self) -> None:
        """The service takes no new work from now on."""
        self._step(ServiceEvent.DRAIN)
        self.proxy.drain()
        if self.app is not None:
            self.app.drain()

    def stopped(self) -> None:
        self._step(ServiceEvent.STOPPED)

    def lose_keeper(self) -> None:
        """The keeper is dead: what runs goes on, nothing can be started."""
        self.keeper_lost = True
        self._changed(None)

    async def stop_app(self, number: int, deadline: Deadline) -> None:
        """Signals the app (0: it has been told already) and returns when it is gone, killed at the deadline."""
        if (app := self.app) is None:
            return
        await app.ask_to_stop(number)
        if number == 0:
            with deadline.scope(within=_TOLD):
                await app.wait_gone()
            await app.signal(signal.SIGTERM)
        with deadline.scope():
            await app.wait_gone()
            return
        await app.kill()
        with trio.move_on_after(KILLED):
            await app.wait_gone()

    async def stop_all(self, children: Iterable[Child], *, patience: float) -> None:
        """TERM to all of them at once, KILL after `patience` seconds."""
        async with trio.open_nursery() as nursery:
            for child in children:
                nursery.start_soon(self._stop_one, child, patience)

    async def add(self, plans: Sequence[ProcessPlan]) -> None:
        """Starts sidecars and returns when all are ready. Raises NotReady; then they have been taken away again."""
        children = [self.plant(plan) for plan in plans]
        for child in children:
            self._nursery.start_soon(child.govern, None)
        try:
            await self.come_up(dict.fromkeys(children, -1))
        except NotReady:
            await self.remove([child.name for child in children])
            raise

    def exchange(self, one: str, other: str) -> None:
        """Two processes go by each other's name from now on; whoever holds them knows."""
        first, second = self.children[one], self.children[other]
        first.rename(other)
        second.rename(one)
        self.children[one], self.children[other] = second, first
        self._changed(None)

    async def remove(self, names: Iterable[str]) -> None:
        """Ends sidecars and forgets them."""
        gone = [self.children[name] for name in names]
        await self.stop_all(gone, patience=SIDECAR_PATIENCE)
        for child in gone:
            del self.children[child.name]
        self._changed(None)

    async def restart(self, name: str) -> None:
        """Gives a process a new life and returns when that is ready; raises NotReady."""
        child = self.children[name]
        before = child.restarts
        await child.restart()
        await self.come_up({child: before})

    def replan(self, plan: Plan) -> None:
        """Another plan is in force: who runs goes on, and his next life is as that says."""
        self.plan = plan
        for child in self.children.values():
            child.plan = plan.sidecars.get(child.name) or child.plan
        if (app := self.app) is not None and plan.app is not None:
            app.plan = plan.app

    async def come_up(self, before: Mapping[Child, int]) -> None:
        """Returns when each child is ready in a life after so many restarts. Raises NotReady, at once for one that ends
        by its own will: it has refused."""

        def up(child: Child) -> bool:
            return child.restarts > before[child] and child.ready and not child.restarting

        def refused(child: Child) -> bool:
            ended = child.last_exit
            return child.history.streak > 0 and ended is not None and ended.signal == 0 and not child.ready

        with trio.move_on_after(max((child.plan.ready_within for child in before), default=0.0)):
            await self.wait_until(lambda: all(map(up, before)) or any(map(refused, before)))
        if late := [child for child in before if not up(child)]:
            raise NotReady([child for child in late if refused(child)] or late)

    def plant(self, plan: ProcessPlan) -> Child:
        """Knows a process from now on, which `start` or somebody else governs."""
        address = self.plan.arguments.app if plan.kind is Kind.APP else None
        holder = self._fuse if self._fuse is not None and plan.fused else self._holder
        child = self.children[plan.name] = Child(
            plan, holder, self.watchdog, address=address, changed=self._changed, began=self._began
        )
        return child

    async def _stop_one(self, child: Child, patience: float) -> None:
        await child.stop(patience=patience)

    async def _govern_app(self, app: Child, pid: int | None) -> None:
        await app.govern(pid)
        if (error := app.spawn_error) is not None and error.errno != errno.EHOSTDOWN:
            reason = "not found" if error.errno == errno.ENOENT else (error.strerror or "cannot be executed")
            self.end(Ending(Cause.APP, message=f"{app.plan.argv[0]}: {reason}", hint="check the command behind `--`"))
        self.end(Ending(Cause.APP))

    async def _await_external(self, address: str) -> None:
        await wait_listening(address)
        self.watchdog.release(EXTERNAL)
        self._app_was_ready = False  # a later life that does not listen is a crash, not a failed start
        self._external_ready = True
        self._changed(None)

    def _governance_settled(self) -> bool:
        waiting = {ProcessState.PENDING, ProcessState.STARTING, ProcessState.BACKOFF}
        proxy = self.proxy.ready or (self.proxy.spawn_error is not None and not self.proxy.pid)
        return proxy and not any(child.state in waiting for child in self.sidecars)

    def _not_ready(self) -> None:
        where = self.plan.arguments.app
        self.end(
            Ending(
                Cause.NOT_READY,
                message=f"nothing listens on {where} after {self.plan.ready_timeout:g} s",
                hint="start the app there, name its port with --app-port, or give it longer with --ready-timeout",
            )
        )

    def _changed(self, child: Child | None) -> None:
        if child is not None and child is self.app and child.ready:
            self._app_was_ready = True
        whole = not self.keeper_lost and self._external_ready and all(c.ready for c in self.generation)
        if self.state is not ServiceState.STOPPED:
            self.state = step(SERVICE, self.state, ServiceEvent.WHOLE if whole else ServiceEvent.IMPAIRED)
        self._publish(child)

    def _step(self, event: ServiceEvent) -> None:
        self.state = step(SERVICE, self.state, event)
        self._publish(None)

    def _publish(self, child: Child | None) -> None:
        self._news.set()
        self._news = trio.Event()
        self._tell_changed(child)


def _why(child: Child) -> str:
    if child.spawn_error is not None:
        return f"cannot start: {child.spawn_error.strerror}"
    if child.last_exit is not None and child.history.streak:
        return f"ended ({child.last_exit})"
    return f"did not say so within {child.plan.ready_within:g} s"
