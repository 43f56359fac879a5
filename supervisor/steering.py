"""What may be changed of a service that runs: its stage, single settings, its sidecars; one change at a time.

Rules:
- A request becomes what was *said*, that a plan, and the difference of two plans is carried out. There is no second way
  to change something: adding a sidecar is saying `sidecars.NAME = true`.
- Who must confirm and does not has his change taken back. The deadline is counted from the moment in which it holds,
  and is noted with the keeper: a successor keeps it. The file of the live layer has only what was confirmed.
- With conditions (`--unless`) it is what requests come to that confirms: taken back as soon as one holds, else it
  stands at the deadline, also if there were too few requests to judge, which is said.
- While a change waits for that, there is no other but the way back: what would it be taken back to?
"""

from __future__ import annotations

import math
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from contextlib import asynccontextmanager, suppress
from typing import Final, TypeAlias

import msgspec
import trio
from pannier.shared.central import Certificates
from pannier.shared.duration import seconds
from pannier.shared.errors import Blame, PannierError, TimedOut, Unreachable, UsageError
from pannier.shared.explain import printable, problem, refuse
from pannier.shared.layers import ENVIRONMENT_PREFIX, Assignments
from pannier.shared.messages import (
    Changed,
    LiveChange,
    LiveReset,
    Nothing,
    ProfileInForce,
    Revisions,
    Rollback,
    SaidInForce,
    Use,
)
from pannier.supervisor import certificates, generations, live, objective, renewal
from pannier.supervisor.adoption import Pending, Record
from pannier.supervisor.change import change, configured
from pannier.supervisor.chronicle import Chronicle
from pannier.supervisor.difference import NOTHING
from pannier.supervisor.ending import Cause, Ending
from pannier.supervisor.judge import Counters, Judge
from pannier.supervisor.judge import counters as counters_of
from pannier.supervisor.objective import Objective
from pannier.supervisor.plan import Arguments, Plan, Said
from pannier.supervisor.planning import Installation, next_plan
from pannier.supervisor.service import Service, now_ms
from pannier.supervisor.sidecar_types import sidecar_modules, sidecar_types
from pannier.supervisor.status import seconds_since_boot
from pannier.supervisor.transition import carry_out, configure, takes_live
from pannier.supervisor.wish import SIDECARS, Wish, count, laid, setting, used

LOOK_EVERY: Final = 0.25
"""Seconds between two looks at what requests come to, while a change is watched."""
_EVENT: Final = 400  # characters of a change in one line of the log

Request: TypeAlias = Use | LiveChange | LiveReset | Rollback


class Steering:
    """`clock` counts seconds since boot, `counters` reads what the data path has counted. Every request raises
    PannierError for what the operator can act on."""

    def __init__(
        self,
        service: Service,
        *,
        clock: Callable[[], float] = seconds_since_boot,
        installation: Callable[[], Installation] = lambda: Installation(sidecar_types(), sidecar_modules()),
        counters: Counters | None = None,
    ) -> None:
        self._service = service
        self._clock = clock
        self._judge = Judge(counters or counters_of(lambda: service.segments.descriptors["counters"]))
        self._chronicle = Chronicle(
            service.plan.service,
            now_ms=now_ms,
            tell=lambda text: service.tell("supervisor", "history", text, "warning"),
        )
        self._installation = installation
        self._one = trio.Lock()
        self._live: set[str] = set()
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
        by = f"sidecar {'add' if on else 'rm'} {name}"
        # Of one that was uninstalled meanwhile no layer can say that it is to go: it is no longer said that it runs.
        value = on if on or name in self._installation().types else NOTHING
        await self._change(LiveChange([], by=by), lambda plan: laid(plan, [((SIDECARS, name), value)]))

    async def roll_back(self, request: Rollback) -> Changed:
        """What held in an earlier revision holds again, as a new one; also while a change waits to be confirmed."""

        def wish(plan: Plan) -> Wish:
            entry = self._chronicle.find(request.revision)
            return Wish(entry.arguments(plan.arguments), self._chronicle.said(entry))

        return await self._change(request, wish)

    @property
    def revision(self) -> int:
        """The number of the revision in force, 0 if it is not known."""
        return self._chronicle.revision

    async def revisions(self, _: Nothing) -> Revisions:
        """What was in force, and what became of it."""
        await trio.lowlevel.checkpoint()
        return self._chronicle.revisions()

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
            await self._stand(self._service.pending)
        self._news.set()
        await self._chronicle.settle(stands=True)
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
            arguments.source,
            arguments.cwd,
        )

    async def said(self, _: Nothing) -> SaidInForce:
        """What the configuration in force was made of."""
        await trio.lowlevel.checkpoint()
        plan = self._service.plan
        below, above = (msgspec.msgpack.encode(layer) for layer in (plan.said.below, plan.said.live))
        return SaidInForce(plan.profile, below, above, self._chronicle.revision)

    async def what_live_changes(self, _: Nothing) -> Changed:
        """What the live layer makes different."""
        plan = self._service.plan
        without = await self._next(plan, plan.arguments, Said(plan.said.below))
        return self._changed(change(without, plan).lines)

    async def watch(self) -> None:
        """Takes back what nobody confirms in time, or what does harm; runs until cancelled."""
        while True:
            self._news = trio.Event()
            pending = self._service.pending
            with trio.move_on_after(self._until_look(pending)):
                await self._news.wait()
                continue
            assert pending is not None, "nobody looks without end"
            found, harm = await self._judge.verdict(pending.trials)
            if not harm and self._clock() < pending.until:
                continue
            async with self._one:
                if self._service.pending != pending:
                    continue
                if pending.trials and not harm:
                    stands = await self._keep(pending, found)
                else:
                    stands = await self._take_back(pending, found or "nobody confirmed")
            await self._chronicle.settle(stands=stands)

    async def begin(self, record: Record | None = None) -> None:
        """From now on the service can be changed; who asked before has waited. The successor of who left `record` first
        brings to an end what that one did not: the plan in force holds for everybody again."""
        async with self._one:
            if record is not None:
                await self._settle(record)
            pending = self._service.pending is not None
            await self._chronicle.begin(self._service.plan, adopted=record is not None, pending=pending)
        self._news.set()
        self._begun.set()
        if record is not None:
            await self._prepare()

    async def _prepare(self) -> None:
        """Compiles what holds and what held before: going back must not take longer because our predecessor died."""
        for entry in self._chronicle.lately:
            plan = self._service.plan
            with suppress(PannierError):
                said = self._chronicle.said(entry)
                self._chronicle.keep(await self._compiled(plan, entry.arguments(plan.arguments), said))

    async def _settle(self, record: Record) -> None:
        service = self._service
        strangers = [plan for plan in service.plan.sidecars.values() if plan.name not in service.plan.enabled]
        await service.tree.remove([plan.name for plan in strangers if plan.name in service.tree.children])
        written = {kind for name in service.plan.enabled for kind in service.plan.sidecars[name].writes}
        for plan in strangers:  # whose table may be that of another one, who runs
            await service.withdraw(msgspec.structs.replace(plan, writes=tuple(set(plan.writes) - written)))
        for name in record.changing:
            if name in service.tree.children:
                try:
                    await configure(service, service.plan.sidecars[name])
                except PannierError as error:
                    service.tell(name, "configure", f"{name}: {error.message}", "error")
        await service.touch(())

    async def renew_supervisor(self, _: Nothing) -> None:
        """This life of the supervisor is over, unless the next one refuses; never amid a change or an end."""
        async with self._exclusively(pending=True):
            self._need_keeper()
            await renewal.check(self._service.record())
            renewal.hold_signals()
            self._service.tree.end(Ending(Cause.RENEWED))

    async def renew_zygote(self, _: Nothing) -> None:
        """What is started from now on is of what is installed; sidecars that share a process are started anew."""
        async with self._exclusively():
            self._need_keeper()
            await self._service.replace_zygote()
            await self._service.renew_fused()

    async def renew_proxy(self, _: Nothing) -> None:
        """Another process of the proxy, of what is installed now, takes over; returns when the old one has gone."""
        service = self._service
        async with self._exclusively(pending=True):
            self._need_keeper()
            plan = await self._compiled(service.plan, service.plan.arguments, service.plan.said)
            leaver = await generations.take_over(service, plan.proxy)
            await service.keep(msgspec.structs.replace(service.plan, proxy=plan.proxy))
        await generations.leave(service, leaver)

    async def _change(self, request: Request, wish: Callable[[Plan], Wish]) -> Changed:
        """`wish` is asked when nobody else changes the plan any more."""
        service = self._service
        unless = [objective.parse(text) for text in request.unless]
        if request.dry_run:
            old = service.plan
            wished = wish(old)
            new = await self._next(old, wished.arguments, wished.said)
            _refuse_handover(old, new)
            await _refuse_central(old, new)
            made = change(old, new, await self._takers(old, new))
            lines = [*made.lines, *wished.notes]
            confirm = self._confirmation(new, request.confirm_s, unless)
            return Changed(lines, confirm, count(wished.said), [each.text for each in unless])
        async with self._exclusively(pending=isinstance(request, Rollback)):
            old, waiting = service.plan, service.pending
            wished = wish(old)
            new = await self._next(old, wished.arguments, wished.said)
            _refuse_handover(old, new)
            await _refuse_central(old, new)
            takers = await self._takers(old, new)
            made = change(old, new, takers)
            if made.start or made.proxy or set(made.configure) - takers:
                self._need_keeper()
            confirm = self._confirmation(new, request.confirm_s, unless) if made.lines else 0.0
            arguments, said = (old.arguments, old.said) if waiting is None else (waiting.arguments, waiting.said)

            def pending() -> Pending | None:
                if not confirm:
                    return None
                return Pending(self._clock() + confirm, arguments, said, self._judge.begin(unless))

            leaver = await carry_out(service, new, made, pending, fits=not confirm and self._chronicle.has(new))
            self._news.set()
            if made.lines:
                text = printable("; ".join(made.lines), _EVENT)
                service.tell("supervisor", "changed", f"{new.profile} holds: {text}", "info")
            trouble = None
            if new.said.live != said.live and not confirm:
                try:
                    live.write_live(old.service, new.said.live)
                except PannierError as error:
                    trouble = error
            holds = service.plan
        if waiting is not None:
            await self._chronicle.settle(stands=False)
        await self._chronicle.add(holds, made.lines, by=request.by or _verb(request), pending=confirm > 0)
        if leaver is not None:  # as long as its requests take; the next change need not wait for them
            await generations.leave(service, leaver)
        if trouble is not None:
            raise trouble
        return self._changed([*made.lines, *wished.notes])

    async def _stand(self, pending: Pending | None) -> None:
        """What was pending is no longer. Raises PannierError if it would not survive us."""
        service = self._service
        if pending is not None and service.plan.said.live != pending.said.live:
            live.write_live(service.plan.service, service.plan.said.live)
        service.settle()
        await service.touch(())

    async def _keep(self, pending: Pending, why: str) -> bool:
        service = self._service
        service.tell("supervisor", "kept", f"the change stands: {why}", "info")
        try:
            await self._stand(pending)
        except PannierError as error:
            service.settle()
            service.tell("supervisor", "kept", f"{error.message}; {error.hint}", "error")
        return True

    async def _take_back(self, pending: Pending, why: str) -> bool:
        """Whether it stands nevertheless."""
        service = self._service
        old = service.plan
        try:
            new = await self._next(old, pending.arguments, pending.said)
            made = change(old, new, await self._takers(old, new))
            leaver = await carry_out(service, new, made, lambda: None)
            if leaver is not None:
                await generations.leave(service, leaver)
        except PannierError as error:
            service.settle()
            service.tell("supervisor", "revert", f"{why}, and it stays: {error.message}", "error")
            return True
        service.tell("supervisor", "revert", f"{why}: {pending.arguments.profile} is as before", "warning")
        return False

    def _until_look(self, pending: Pending | None) -> float:
        """Seconds until the change that is pending has to be looked at."""
        if pending is None:
            return math.inf
        left = max(0.0, pending.until - self._clock())
        return min(left, LOOK_EVERY) if pending.trials else left

    async def _next(self, old: Plan, arguments: Arguments, said: Said) -> Plan:
        """In a thread: a thousand rules take a third of a second to check, in which the bus has to be served. What held
        before is at hand."""
        return self._chronicle.kept(old, arguments, said) or await self._compiled(old, arguments, said)

    async def _compiled(self, old: Plan, arguments: Arguments, said: Said) -> Plan:
        return await trio.to_thread.run_sync(next_plan, old, arguments, said, self._installation())

    async def _takers(self, old: Plan, new: Plan) -> set[str]:
        """Of the sidecars that get another configuration, those that take it while they run. Raises PannierError for
        one that refuses it; one that does not answer gets a new process."""
        service = self._service
        found = set()
        for name in configured(old, new):
            if (child := service.tree.children.get(name)) is not None and child.ready:
                if name in self._live and self._chronicle.has(new):
                    found.add(name)  # it has taken this very configuration before, or can still refuse it
                    continue
                with suppress(Unreachable, TimedOut):
                    if await takes_live(service, new.sidecars[name], dry_run=True):
                        found.add(name)
                        self._live.add(name)
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

    def _confirmation(self, new: Plan, asked: float | None, unless: Sequence[Objective]) -> float:
        """Seconds in which a change has to be confirmed, or is watched: as asked, else as the new profile says, or the
        old one. Raises UsageError if there is no time to watch it."""
        text = new.settings.get("confirm") or self._service.plan.settings.get("confirm")
        found = max(0.0, asked) if asked is not None else seconds(text) if text else 0.0
        if unless and not found:
            raise UsageError(f"{unless[0].text}: for how long is it watched?", hint="add --confirm 60s")
        return found

    def _left(self) -> float:
        pending = self._service.pending
        return max(0.0, pending.until - self._clock()) if pending is not None else 0.0

    def _changed(self, lines: Iterable[str]) -> Changed:
        pending = self._service.pending
        unless = [trial.objective.text for trial in pending.trials] if pending is not None else []
        return Changed(list(lines), self._left(), count(self._service.plan.said), unless, self._chronicle.revision)


def _verb(request: Request) -> str:
    """What has changed something, for the history, if the command does not say it."""
    match request:
        case Use():
            return f"profile use {request.profile}"
        case LiveChange():
            return "profile set"
        case LiveReset():
            return "profile reset"
        case Rollback():
            return f"config rollback {request.revision}"


def _refuse_handover(old: Plan, new: Plan) -> None:
    """Who comes is there before anybody goes, so a table cannot go from one to another in one change: its old writer
    would be fenced while he still counts, and the withdrawal of his table would be that of the new one's."""
    going = {kind: name for name in old.enabled if name not in new.enabled for kind in old.sidecars[name].writes}
    for name in new.enabled:
        for kind in new.sidecars[name].writes if name not in old.enabled else ():
            if kind in going:
                raise UsageError(
                    f"table {kind} cannot go from {going[kind]} to {name} in one step",
                    hint=f"pannier sidecar rm {going[kind]}, then this again",
                )


async def _refuse_central(old: Plan, new: Plan) -> None:
    """Hosts lean on a Central, and a port is bound once: who is one is it from start to end. And certificates have to
    be there before anybody is to use them."""

    def gateway(plan: Plan) -> str | None:
        found = (plan.settings.get("central") or {}).get("gateway")
        return None if found is None else str(found["host"])

    if gateway(old) != gateway(new):
        raise UsageError(
            "central.gateway cannot come, go or move while the service runs: whether it is a Central is read at the "
            "start",
            hint=f"pannier down --name {old.service}, then pannier run or pannier central again",
        )
    tls = None if new.central is None else new.central["tls"]
    if tls is not None and (old.central is None or tls != old.central["tls"]):
        found = await trio.to_thread.run_sync(certificates.findings, msgspec.convert(tls, Certificates))
        source = Assignments({}, f"profile {new.profile}")
        refuse(problem(source, finding) for finding in found)
