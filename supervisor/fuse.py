"""Starts and ends sidecars inside one process: a `child.Holder`, as `hold.py` is for those with a process of their own.

Rules:
- Each sidecar inside stays a child with lives of its own. Their PID is everybody's, so a life has a number as well, and
  its end is the answer to the `run` with that number, or the end of the process, which is the end of all.
- The process is started again like any; until it is there, whoever is to be started inside waits.
- Orders outlast a connection: what was not answered is asked again, and means the same life.
- Nobody can be killed alone: a KILL for one of them is for the process.
"""

from __future__ import annotations

import errno
import math
import secrets
import signal
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import Final, TypeVar

import msgspec
import trio
from pannier.shared.envelope import FUSED
from pannier.shared.errors import PannierError
from pannier.shared.messages import RUN, STOP, WHOEVER, Member, MemberEnd, Nothing
from pannier.supervisor.adoption import Found
from pannier.supervisor.broker import Broker
from pannier.supervisor.child import Child, Holder
from pannier.supervisor.hold import UNKNOWN_END
from pannier.supervisor.lifecycle import ProcessState
from pannier.supervisor.plan import ProcessPlan
from pannier.supervisor.restart import Exit
from pannier.supervisor.watchdog import Watchdog

STOP_PATIENCE: Final = 5.0  # seconds for the process to answer; the sidecar itself has what its stop gives it
OVER: Final = -1  # no life
ASK_AGAIN: Final = 1.0  # seconds, where no news of the process came meanwhile

Reply = TypeVar("Reply", bound=msgspec.Struct)


class Fuse:
    """The process of `plan` and whom it has inside. `ended(name, pid, exit)` is called for the end of each; `watchdog`
    is for whoever watches them all."""

    def __init__(
        self,
        plan: ProcessPlan,
        hold: Holder,
        broker: Broker,
        nursery: trio.Nursery,
        *,
        ended: Callable[[str, int, Exit], None],
        changed: Callable[[Child], None],
        began: Callable[[Child], None],
    ) -> None:
        self._tell_changed = changed
        self._broker = broker
        self._nursery = nursery
        self._ended = ended
        self._renewing = False
        self._news = trio.Event()
        self._life: dict[str, int] = {}
        self.watchdog = Watchdog(trio.current_time())
        self.process = Child(plan, hold, self.watchdog, changed=self._changed, began=began)

    async def spawn(self, plan: ProcessPlan) -> int:
        """The PID of the process, once it is there to be asked. Raises OSError if it is not in time, or cannot be."""
        with trio.move_on_after(plan.ready_within):
            while not self._there():
                if (error := self.process.spawn_error) is not None and error.errno == errno.EHOSTDOWN:
                    raise OSError(error.errno, error.strerror)
                await self._news.wait()
            self._begin(plan, self.process.pid, 1 + secrets.randbelow(1 << 53))
            return self.process.pid
        raise OSError(errno.ETIMEDOUT, f"the process {FUSED} is not ready")

    async def signal(self, name: str, pid: int, number: int, *, group: bool) -> None:
        """TERM, or whatever asks for an end, goes to the sidecar, KILL to the process."""
        await trio.lowlevel.checkpoint()  # so that `run` is asked before, also of one that is just being started
        if pid != self.process.pid:
            return
        if number == signal.SIGKILL:
            await self.process.kill()
        else:
            member = Member(name, self._life[name])
            self._nursery.start_soon(partial(self._ask, STOP, member, Nothing, pid, patience=STOP_PATIENCE))

    async def govern(self, pid: int | None, inside: Sequence[ProcessPlan]) -> None:
        """Starts the process, or takes over PID `pid` with those who are inside, and starts it again at every end."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self.process.govern, pid)
            if pid is not None:
                for plan in inside:
                    self._begin(plan, pid, WHOEVER)

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

    def _begin(self, plan: ProcessPlan, pid: int, life: int) -> None:
        self._life[plan.name] = life
        self._nursery.start_soon(self._attend, plan, pid, life)

    def _there(self) -> bool:
        return self.process.ready and not self.process.restarting and not self._renewing

    def _lives(self, name: str, pid: int, life: int) -> bool:
        """Whether nothing is known of the end of that life; a process that is taken over may not have begun to us."""
        process = self.process
        return self._life[name] == life and (process.pid == pid or process.state is ProcessState.PENDING)

    async def _attend(self, plan: ProcessPlan, pid: int, life: int) -> None:
        """Has a sidecar run in the process, and reports the end of that life."""
        assert plan.grant is not None, "every sidecar is planned with a grant"
        member = Member(plan.name, life, plan.argv[-1], plan.grant.token)
        end = await self._ask(RUN, member, MemberEnd, pid, patience=math.inf)
        if self._life[plan.name] == life:  # else the next one has begun
            self._life[plan.name] = OVER
        self._ended(plan.name, pid, Exit(end.code) if end is not None else self.process.last_exit or UNKNOWN_END)

    async def _ask(self, verb: str, member: Member, reply: type[Reply], pid: int, *, patience: float) -> Reply | None:
        """The answer; None if that life has ended before there was one."""
        while self._lives(member.name, pid, member.life):
            news = self._news
            try:
                return await self._broker.request(FUSED, verb, member, reply, timeout=patience)
            except PannierError:  # not connected for a moment, or about to end
                with trio.move_on_after(ASK_AGAIN):
                    await news.wait()
        return None

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
