"""How processes are held: by the keeper, and once that is dead, by nobody but us.

While the keeper lives it spawns, signals and reports ends. When it dies its children become ours (the supervisor is a
subreaper), so they are watched by pidfd, signalled by PID and reaped here; nothing is started any more, since the
listeners died with the keeper's list. The service is `degraded` until the next start brings a new keeper.
"""

from __future__ import annotations

import ctypes
import errno
import os
import signal
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Final

import trio
from pannier.shared.errors import Blame, PannierError
from pannier.supervisor.keeper import Exited, Keeper, KeeperError, KeeperGone
from pannier.supervisor.keeper_protocol import Op
from pannier.supervisor.plan import ProcessPlan
from pannier.supervisor.restart import Exit
from pannier.supervisor.zygote_plan import how

_PR_SET_CHILD_SUBREAPER: Final = 36
_LOADING: Final = 5.0  # seconds
UNKNOWN_END: Final = Exit(1)  # somebody else was its parent, and only that one was told


def become_subreaper() -> None:
    """From now on orphans of our descendants become our children. Raises PannierError where the kernel refuses."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) != 0:
        raise PannierError(
            f"this process may not take over orphans: prctl: {os.strerror(ctypes.get_errno())}",
            hint="allow prctl(PR_SET_CHILD_SUBREAPER) in the container's seccomp profile",
            blame=Blame.PLATFORM,
        )


class Hold:
    """A `child.Holder`. `ended(name, pid, exit)` is called for every end, whoever noticed it; `refused(name, pid)` once
    for a process that may not be signalled, such as one under sudo."""

    def __init__(
        self,
        keeper: Keeper,
        nursery: trio.Nursery,
        ended: Callable[[str, int, Exit], None],
        refused: Callable[[str, int], None] = lambda *_: None,
    ) -> None:
        self.keeper_lost = False
        self._refused = refused
        self._told: set[int] = set()
        self._started: set[str] = set()
        self._keeper = keeper
        self._nursery = nursery
        self._ended = ended

    async def spawn(self, plan: ProcessPlan) -> int:
        try:
            return await self._start(plan)
        except KeeperError as error:
            raise OSError(error.errno, error.message) from error
        except KeeperGone as error:
            raise OSError(errno.EHOSTDOWN, error.message) from error

    async def _start(self, plan: ProcessPlan) -> int:
        """Who starts for the first time waits for a zygote that loads; who has lived is wanted back at once."""
        deadline = trio.current_time() + (0 if plan.name in self._started else _LOADING)
        self._started.add(plan.name)
        way = how(plan)
        while way is Op.FORK:
            news = self._keeper.zygote_news
            try:
                return await self._ask(plan, way)
            except KeeperError as error:
                if error.errno != errno.EAGAIN:
                    raise
            with trio.move_on_at(deadline) as waiting:
                await news.wait()
            if waiting.cancelled_caught:
                way = Op.SPAWN
        return await self._ask(plan, way)

    async def _ask(self, plan: ProcessPlan, way: Op) -> int:
        stdin, stdout, stderr = plan.stdio
        with trio.CancelScope(shield=True):  # who has asked has to know whom he started
            pid = await self._keeper.spawn(
                plan.name,
                plan.argv,
                env=plan.environment,
                cwd=plan.cwd,
                own_group=plan.own_group,
                stdin=stdin,
                stdout=stdout,
                stderr=stderr,
                held=plan.held,
                how=way,
            )
        return pid  # noqa: RET504 - to mypy the scope might swallow a return

    async def signal(self, name: str, pid: int, number: int, *, group: bool) -> None:
        try:
            await self._keeper.signal(name, number, whole_group=group)
        except KeeperError as error:
            if error.errno == errno.EPERM:
                self._refuse(name, pid)
            elif error.errno != errno.ESRCH:
                raise
        except KeeperGone:
            try:
                (os.killpg if group else os.kill)(pid, signal.Signals(number))
            except ProcessLookupError:
                pass
            except PermissionError:
                self._refuse(name, pid)

    def _refuse(self, name: str, pid: int) -> None:
        if pid not in self._told:
            self._told.add(pid)
            self._refused(name, pid)

    async def report(self) -> None:
        """Passes the keeper's events on; returns when the keeper is gone."""
        async for exited in self._keeper.events():
            self._ended(exited.name, exited.pid, exit_of(exited))
        self.keeper_lost = True

    def watch(self, name: str, pid: int) -> None:
        """Watches a process that the keeper no longer does."""
        try:
            descriptor = os.pidfd_open(pid)
        except ProcessLookupError:
            self._ended(name, pid, reap(pid))
            return
        self._nursery.start_soon(self._watch, name, pid, descriptor)

    async def _watch(self, name: str, pid: int, descriptor: int) -> None:
        try:
            await trio.lowlevel.wait_readable(descriptor)
        finally:
            os.close(descriptor)
        self._ended(name, pid, reap(pid))


def exit_of(exited: Exited) -> Exit:
    """The end of a process as the keeper tells it."""
    return Exit(exited.code or 0) if exited.signal is None else Exit.by_signal(exited.signal)


def kill_orphans() -> None:
    """Ends what the dead keeper's processes have left to us. Only at the very end: it asks nobody whose they are."""
    with suppress(OSError):
        text = Path(f"/proc/self/task/{os.getpid()}/children").read_text(encoding="ascii")
        for pid in map(int, text.split()):
            with suppress(OSError):  # gone already, or another user's
                os.kill(pid, signal.SIGKILL)
                os.waitpid(pid, 0)


def reap(pid: int) -> Exit:
    """How the process ended, if it was ours to know."""
    try:
        _, status = os.waitpid(pid, os.WNOHANG)
    except ChildProcessError:
        return UNKNOWN_END
    return Exit.by_signal(os.WTERMSIG(status)) if os.WIFSIGNALED(status) else Exit(os.WEXITSTATUS(status))
