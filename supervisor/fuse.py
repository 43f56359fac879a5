"""Starts and ends sidecars inside one process: a `child.Holder`, as `hold.py` is for those with a process of their own.

Rules:
- Each sidecar inside stays a child with a life of its own; only its PID is everybody's. Its end is the answer to `run`,
  or the end of the process, which is the end of all.
- The process is started again like any; until it is ready, whoever is to be started inside waits.
- It cannot be told in part to be gone: a KILL for one of them is for the process.
"""

from __future__ import annotations

import errno
import math
import signal
from collections.abc import Callable, Iterable, Mapping, Sequence

import msgspec
import trio
from pannier.shared.envelope import FUSED
from pannier.shared.errors import PannierError
from pannier.shared.messages import RUN, STOP, Member, MemberEnd, Nothing, SidecarName
from pannier.supervisor.adoption import Found
from pannier.supervisor.broker import Broker
from pannier.supervisor.child import Child
from pannier.supervisor.hold import UNKNOWN_END, Hold
from pannier.supervisor.plan import ProcessPlan
from pannier.supervisor.restart import Exit
from pannier.supervisor.watchdog import Watchdog

STOP_PATIENCE = 5.0  # seconds for the process to take the order; the sidecar itself has what `stop` gives it


class Fuse:
    """The process of `plan` and whom it has inside. `ended(name, pid, exit)` is called for the end of each."""

    def __init__(
        self,
        plan: ProcessPlan,
        hold: Hold,
        broker: Broker,
        nursery: trio.Nursery,
        *,
        ended: Callable[[str, int, Exit], None],
        changed: Callable[[Child], None],
        began: Callable[[Child], None],
    ) -> None:
        self._tell_changed = changed
        self.process = Child(plan, hold, Watchdog(trio.current_time()), changed=self._changed, began=began)
        self._broker = broker
        self._nursery = nursery
        self._ended = ended
        self._renewing = False
        self._news = trio.Event()

    async def spawn(self, plan: ProcessPlan) -> int:
        """The PID of the process, once it is there to be asked. Raises OSError if it is not in time."""
        with trio.move_on_after(plan.ready_within):
            while not self._there():
                await self._news.wait()
            self._nursery.start_soon(self._attend, plan, self.process.pid)
            return self.process.pid
        await self.process.kill()  # nobody else watches it
        raise OSError(errno.ETIMEDOUT, f"the process {FUSED} is not ready")

    async def signal(self, name: str, pid: int, number: int, *, group: bool) -> None:
        await trio.lowlevel.checkpoint()  # so that `run` is asked before, also of one that is just being started
        if pid == self.process.pid:
            if number == signal.SIGKILL:
                await self.process.kill()
            else:
                self._nursery.start_soon(self._stop, name)

    async def govern(self, pid: int | None, inside: Sequence[ProcessPlan]) -> None:
        """Starts the process, or takes over PID `pid` with those who are inside, and starts it again at every end."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self.process.govern, pid)
            if pid is not None:
                while self.process.pid != pid:
                    await self._news.wait()
                for plan in inside:
                    self._nursery.start_soon(self._attend, plan, pid)

    def said_ready(self, pid: int) -> None:
        """The process has a connection to the bus, again maybe."""
        self.process.said_ready(pid)
        self._tell()

    async def renew(self, members: Iterable[Child]) -> None:
        """Ends the process and all who are inside, and starts it anew from what is installed now; they follow."""
        self._renewing = True
        try:
            for member in members:
                await member.restart()
            await self.process.restart()
        finally:
            self._renewing = False
        with trio.move_on_after(self.process.plan.ready_within):
            while not self._there():
                await self._news.wait()
            return
        await self.process.kill()

    def _there(self) -> bool:
        return self.process.ready and not self.process.restarting and not self._renewing

    async def _attend(self, plan: ProcessPlan, pid: int) -> None:
        assert plan.grant is not None, "every sidecar is planned with a grant"
        member = Member(plan.name, plan.argv[-1], plan.grant.token)
        while self.process.pid == pid:
            news = self._news
            try:
                end = await self._broker.request(FUSED, RUN, member, MemberEnd, timeout=math.inf)
            except PannierError:  # the connection is gone; with it maybe the process, and it comes back or ends
                await news.wait()
            else:
                self._ended(plan.name, pid, Exit(end.code))
                return
        self._ended(plan.name, pid, self.process.last_exit or UNKNOWN_END)  # it may be the only one who says so

    async def _stop(self, name: str) -> None:
        try:
            await self._broker.request(FUSED, STOP, SidecarName(name), Nothing, timeout=STOP_PATIENCE)
        except PannierError:
            return  # who does not end is killed by whoever wanted it gone

    def _changed(self, child: Child) -> None:
        self._tell()
        self._tell_changed(child)

    def _tell(self) -> None:
        self._news.set()
        self._news = trio.Event()


def unfolded(found: Found, counted: Mapping[str, int], fused: Iterable[str]) -> Found:
    """What runs and what has ended, with the sidecars that were inside the process when it was last noted that they
    live (`counted`, by name): the keeper knows nothing of them."""
    running, ended = dict(found.running), dict(found.ended)
    for name in fused:
        if counted.get(name) and counted[name] == running.get(FUSED):
            running[name] = counted[name]
        elif FUSED in ended and counted.get(name) == ended[FUSED][0]:
            ended[name] = ended[FUSED]
    return msgspec.structs.replace(found, running=running, ended=ended)
