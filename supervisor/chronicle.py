"""The history of the service that runs, as its supervisor keeps it: what holds is noted, and its plan is kept at hand.

Rules:
- History follows what has happened. That it cannot be written is said once per trouble, and never stops a change.
- Files are read and written in a thread, in the order of what happened: the bus has to be served meanwhile.
- A plan that was in force before is kept as it was compiled, so that going back to it takes no time. It is used only if
  nothing has changed that a plan is made of besides what was said: ports, tokens, what is installed. The plan that a
  predecessor left is not kept: it may have been of another version, and a change brings what this one makes of it.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Sequence
from functools import partial
from typing import Final, TypeVar

import trio
from pannier.shared.errors import PannierError
from pannier.shared.messages import Revisions
from pannier.supervisor.history import IN_FORCE, PENDING, TAKEN_BACK, Content, Entry, History, State, identify
from pannier.supervisor.plan import Arguments, Plan, Said

T = TypeVar("T")

KEPT: Final = 10
"""Plans at hand: one of a thousand rules takes some megabytes."""
NO_ENTRY: Final = 0


class Chronicle:
    """`now_ms` since the epoch; `tell` says a trouble. Before `begin` there is no history."""

    def __init__(self, service: str, *, now_ms: Callable[[], int], tell: Callable[[str], None]) -> None:
        self._service = service
        self._now_ms = now_ms
        self._tell = tell
        self._history: History | None = None
        self._one = trio.Lock()
        self._trouble = ""
        self._plans: OrderedDict[str, Plan] = OrderedDict()

    async def begin(self, plan: Plan, *, adopted: bool, pending: bool) -> None:
        """What holds now is the newest entry, whatever an earlier supervisor did not come to write."""
        self._history = await self._attempt(partial(History, self._service))
        if self._history is not None and self._history.problems:
            self._say("; ".join(self._history.problems))
        await self._attempt(partial(self._reconcile, plan, adopted=adopted, pending=pending))

    @property
    def revision(self) -> int:
        """The number of the entry in force; NO_ENTRY without one."""
        newest = self._history.newest if self._history is not None else None
        return newest.number if newest is not None else NO_ENTRY

    @property
    def lately(self) -> list[Entry]:
        """The entry that holds, and the one to which one would go back."""
        history = self._history
        newest = history.newest if history is not None else None
        if history is None or newest is None:
            return []
        stood = [each for each in history.entries if each.state != TAKEN_BACK and each.id != newest.id]
        return [newest, *stood[-1:]]

    def revisions(self) -> Revisions:
        if self._history is None:
            return Revisions([], [self._trouble] if self._trouble else [])
        return Revisions(self._history.revisions(), list(self._history.problems))

    def find(self, text: str) -> Entry:
        """Raises UsageError if there is no such revision."""
        if self._history is None:
            raise PannierError("there is no history", hint=self._trouble)
        return self._history.find(text)

    def said(self, entry: Entry) -> Said:
        """What was said then. Raises PannierError if that is lost."""
        if (plan := self._plans.get(entry.id)) is not None:
            return plan.said
        assert self._history is not None, "an entry comes from the history"
        content = self._history.content(entry)
        return Said(content.below, content.live)

    def kept(self, old: Plan, arguments: Arguments, said: Said) -> Plan | None:
        """The plan of what was said as it was compiled before, if it fits the service as it is now."""
        for plan in self._plans.values():
            if plan.arguments == arguments and plan.said == said:
                return plan if (plan.place, _tokens(plan)) == (old.place, _tokens(old)) else None
        return None

    def has(self, plan: Plan) -> bool:
        """Whether this very plan was in force before."""
        return any(plan is kept for kept in self._plans.values())

    async def add(self, plan: Plan, lines: Sequence[str], *, by: str, pending: bool) -> None:
        """The plan that has just been put in force; nothing if its content held before."""
        await self._attempt(partial(self._add, plan, lines, by=by, state=PENDING if pending else IN_FORCE))

    async def settle(self, *, stands: bool) -> None:
        """What became of the entry that was pending."""
        await self._attempt(partial(self._settle, IN_FORCE if stands else TAKEN_BACK))

    def _settle(self, state: State) -> None:
        if self._history is not None and (entry := self._history.pending()) is not None:
            self._history.mark(entry.number, state)

    def _reconcile(self, plan: Plan, *, adopted: bool, pending: bool) -> None:
        history = self._history
        if history is None:
            return
        entry = history.pending()
        if entry is not None and not pending:
            history.mark(entry.number, IN_FORCE if entry.id == identify(_content(plan)) else TAKEN_BACK)
        if not adopted:
            self.keep(plan)
        by = "taken over" if adopted else "run"
        self._note(plan, [f"profile {plan.profile}"], by=by, state=PENDING if pending else IN_FORCE)

    def _add(self, plan: Plan, lines: Sequence[str], *, by: str, state: State) -> None:
        self.keep(plan)
        self._note(plan, lines, by=by, state=state)

    def _note(self, plan: Plan, lines: Sequence[str], *, by: str, state: State) -> None:
        content, history = _content(plan), self._history
        if history is None or (history.newest is not None and history.newest.id == identify(content)):
            return
        said_at = (plan.arguments.source, plan.arguments.assignments)
        history.add(content, said_at, at_ms=self._now_ms(), by=by, lines=lines, state=state)
        self._trouble = ""

    def keep(self, plan: Plan) -> None:
        """Has a plan at hand that this process has compiled."""
        id_ = identify(_content(plan))
        self._plans[id_] = plan
        self._plans.move_to_end(id_)
        while len(self._plans) > KEPT:
            self._plans.popitem(last=False)

    async def _attempt(self, work: Callable[[], T]) -> T | None:
        try:
            async with self._one:
                return await trio.to_thread.run_sync(work)
        except PannierError as error:
            self._say(f"{error.message} ({error.hint})")
        except OSError as error:
            self._say(f"the history of {self._service}: {error}")
        return None

    def _say(self, trouble: str) -> None:
        if trouble != self._trouble:
            self._trouble = trouble
            self._tell(trouble)


def _content(plan: Plan) -> Content:
    return Content(plan.profile, plan.said.below, plan.said.live)


def _tokens(plan: Plan) -> dict[str, str]:
    return {name: each.grant.token for name, each in plan.sidecars.items() if each.grant is not None}
