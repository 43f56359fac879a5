"""What may be changed of a service that runs: its stage, single settings, its sidecars; one change at a time.

Rules:
- A request becomes what was *said*, that a plan, and the difference of two plans is carried out. There is no second way
  to change something: adding a sidecar is saying `sidecars.NAME = true`.
- Who must confirm and does not has his change taken back. The deadline is counted from the moment in which it holds,
  and is noted with the keeper: a successor keeps it. The file of the live layer has only what was confirmed.
- While a change waits for that, there is no other: what would it be taken back to?
"""

from __future__ import annotations

import math
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager, suppress
from typing import Final

import msgspec
import trio
from pannier.shared.duration import seconds
from pannier.shared.errors import Blame, PannierError, TimedOut, Unreachable, UsageError
from pannier.shared.explain import printable
from pannier.shared.layers import ENVIRONMENT_PREFIX
from pannier.shared.messages import (
    Changed,
    LiveChange,
    LiveReset,
    Nothing,
    ProfileInForce,
    Use,
)
from pannier.supervisor import generations, live
from pannier.supervisor.adoption import Pending, Record
from pannier.supervisor.change import change, configured
from pannier.supervisor.difference import NOTHING
from pannier.supervisor.plan import Arguments, Plan, Said
from pannier.supervisor.planning import Installation, next_plan
from pannier.supervisor.service import Service
from pannier.supervisor.sidecar_types import sidecar_modules, sidecar_types
from pannier.supervisor.status import seconds_since_boot
from pannier.supervisor.transition import carry_out, configure, takes_live
from pannier.supervisor.wish import SIDECARS, Wish, count, laid, setting, used

_EVENT: Final = 400  # characters of a change in one line of the log


class Steering:
    """`clock` counts seconds since boot. Every request raises PannierError for what the operator can act on."""

    def __init__(
        self,
        service: Service,
        *,
        clock: Callable[[], float] = seconds_since_boot,
        installation: Callable[[], Installation] = lambda: Installation(sidecar_types(), sidecar_modules()),
    ) -> None:
        self._service = service
        self._clock = clock
        self._installation = installation
        self._one = trio.Lock()
        self._begun = trio.Event()
        self._news = trio.Event()

    async def use(self, request: Use) -> Changed:
        """Another profile, or the same one as its files are now."""
        return await self._change(request, lambda plan: used(plan, request))

    async def set_live(self, request: LiveChange) -> Changed:
        """Single settings over everything that the profile says."""
        return await self._change(request, lambda plan: laid(plan, [setting(plan, each) for each in request.changes]))

    async def reset_live(self, request: LiveReset) -> Changed:
        """What was set is taken back, all of it or some paths."""
        paths = [tuple(path) for path in request.paths if path]
        if request.paths:
            return await self._change(request, lambda plan: laid(plan, [(path, NOTHING) for path in paths]))
        return await self._change(request, lambda plan: Wish(plan.arguments, Said(plan.said.below)))

    async def switch(self, name: str, *, on: bool) -> None:
        """Adds a sidecar to what runs, or takes it away."""
        await self._change(LiveChange([]), lambda plan: laid(plan, [((SIDECARS, name), on)]))

    async def restart(self, name: str) -> None:
        """Gives a sidecar a new process and returns when that is ready."""
        async with self._exclusively():
            self._need_keeper()
            await self._service.tree.restart(name)

    async def confirm(self, _: Nothing) -> Changed:
        """The change that waits for it stands from now on."""
        if self._service.pending is None:
            raise UsageError("no change waits to be confirmed", hint="pannier profile diff live shows what was changed")
        async with self._exclusively(pending=True):
            plan = self._service.plan
            if plan.said.live != self._service.pending.said.live:
                live.write_live(plan.service, plan.said.live)
            self._service.pending = None
            await self._service.touch(())
        self._news.set()
        return self._changed([])

    async def in_force(self, _: Nothing) -> ProfileInForce:
        plan = self._service.plan
        arguments = plan.arguments
        return ProfileInForce(
            plan.profile,
            arguments.project,
            arguments.entry,
            {key: text for key, text in plan.place.environment.items() if key.startswith(ENVIRONMENT_PREFIX)},
            list(arguments.assignments),
            self._left(),
        )

    async def what_live_changes(self, _: Nothing) -> Changed:
        """What the live layer makes different."""
        plan = self._service.plan
        without = await self._next(plan, plan.arguments, Said(plan.said.below))
        return self._changed(change(without, plan).lines)

    async def watch(self) -> None:
        """Takes back what nobody confirms in time; runs until cancelled."""
        while True:
            self._news = trio.Event()
            pending = self._service.pending
            with trio.move_on_after(math.inf if pending is None else max(0.0, pending.until - self._clock())):
                await self._news.wait()
                continue
            async with self._one:
                if pending is not None and self._service.pending == pending:
                    await self._take_back(pending)

    async def begin(self, record: Record | None = None) -> None:
        """From now on the service can be changed; who asked before has waited. The successor of who left `record` first
        brings to an end what that one did not: the plan in force holds for everybody again."""
        if record is not None:
            self._news.set()
            async with self._one:
                await self._settle(record)
        self._begun.set()

    async def _settle(self, record: Record) -> None:
        service = self._service
        strangers = [plan for plan in service.plan.sidecars.values() if plan.name not in service.plan.enabled]
        await service.tree.remove([plan.name for plan in strangers if plan.name in service.tree.children])
        for plan in strangers:
            await service.withdraw(plan)
        for name in record.changing:
            if name in service.tree.children:
                try:
                    await configure(service, service.plan.sidecars[name])
                except PannierError as error:
                    service.tell(name, "configure", f"{name}: {error.message}", "error")
        await service.touch(())

    async def renew_proxy(self, _: Nothing) -> None:
        """Another process of the proxy, of what is installed now, takes over; returns when the old one has gone."""
        service = self._service
        async with self._exclusively(pending=True):
            self._need_keeper()
            plan = await self._next(service.plan, service.plan.arguments, service.plan.said)
            leaver = await generations.take_over(service, plan.proxy)
            await service.keep(msgspec.structs.replace(service.plan, proxy=plan.proxy))
        await generations.leave(service, leaver)

    async def _change(self, request: Use | LiveChange | LiveReset, wish: Callable[[Plan], Wish]) -> Changed:
        """`wish` is asked when nobody else changes the plan any more."""
        service = self._service
        if request.dry_run:
            old = service.plan
            wished = wish(old)
            new = await self._next(old, wished.arguments, wished.said)
            made = change(old, new, await self._takers(old, new))
            lines = [*made.lines, *wished.notes]
            return Changed(lines, self._confirmation(new, request.confirm_s), count(wished.said))
        async with self._exclusively():
            old = service.plan
            wished = wish(old)
            new = await self._next(old, wished.arguments, wished.said)
            takers = await self._takers(old, new)
            made = change(old, new, takers)
            if made.start or made.proxy or set(made.configure) - takers:
                self._need_keeper()
            confirm = self._confirmation(new, request.confirm_s) if made.lines else 0.0
            before = (old.arguments, old.said)
            await carry_out(service, new, made, lambda: Pending(self._clock() + confirm, *before) if confirm else None)
            self._news.set()
            if made.lines:
                text = printable("; ".join(made.lines), _EVENT)
                service.tell("supervisor", "changed", f"{new.profile} holds: {text}", "info")
            if new.said.live != old.said.live and not confirm:
                live.write_live(old.service, new.said.live)
        return self._changed([*made.lines, *wished.notes])

    async def _take_back(self, pending: Pending) -> None:
        service = self._service
        old = service.plan
        try:
            new = await self._next(old, pending.arguments, pending.said)
            made = change(old, new, await self._takers(old, new))
            await carry_out(service, new, made, lambda: None)
        except PannierError as error:
            service.pending = None
            service.tell("supervisor", "revert", f"nobody confirmed, and it stays: {error.message}", "error")
        else:
            service.tell(
                "supervisor", "revert", f"nobody confirmed: {pending.arguments.profile} is as before", "warning"
            )

    async def _next(self, old: Plan, arguments: Arguments, said: Said) -> Plan:
        """In a thread: a thousand rules take a third of a second to check, in which the bus has to be served."""
        return await trio.to_thread.run_sync(next_plan, old, arguments, said, self._installation())

    async def _takers(self, old: Plan, new: Plan) -> set[str]:
        """Of the sidecars that get another configuration, those that take it while they run. Raises PannierError for
        one that refuses it; one that does not answer gets a new process."""
        service = self._service
        found = set()
        for name in configured(old, new):
            if (child := service.tree.children.get(name)) is not None and child.ready:
                with suppress(Unreachable, TimedOut):
                    if await takes_live(service, new.sidecars[name], dry_run=True):
                        found.add(name)
        return found

    @asynccontextmanager
    async def _exclusively(self, *, pending: bool = False) -> AsyncIterator[None]:
        """One change at a time; with `pending` also while one waits to be confirmed."""
        await self._begun.wait()
        if self._service.tree.ending is not None:
            raise UsageError(f"{self._service.plan.service} is ending", hint="start it again: pannier run")
        if self._service.pending is not None and not pending:
            raise UsageError(
                f"a change waits to be confirmed ({self._left():.0f} s left)",
                hint="pannier profile confirm, or wait until it is taken back",
            )
        try:
            self._one.acquire_nowait()
        except trio.WouldBlock:
            raise UsageError("another change is under way", hint="try again in a moment") from None
        try:
            yield
        finally:
            self._one.release()

    def _need_keeper(self) -> None:
        if self._service.tree.keeper_lost:
            raise PannierError(
                "the keeper is gone, so nothing can be started",
                hint="end the service and start it again: pannier down",
                blame=Blame.PLATFORM,
            )

    def _confirmation(self, new: Plan, asked: float | None) -> float:
        """Seconds in which a change has to be confirmed: as asked, else as the new profile says, or the old one."""
        if asked is not None:
            return max(0.0, asked)
        text = new.settings.get("confirm") or self._service.plan.settings.get("confirm")
        return seconds(text) if text else 0.0

    def _left(self) -> float:
        pending = self._service.pending
        return max(0.0, pending.until - self._clock()) if pending is not None else 0.0

    def _changed(self, lines: Iterable[str]) -> Changed:
        return Changed(list(lines), self._left(), count(self._service.plan.said))
