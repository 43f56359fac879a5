"""One governed process: the shell around `lifecycle.py` and `restart.py`.

Rules:
- `govern` is one task for as long as the process is wanted, over all of its lives. Everybody else only tells it things:
  that it ended, that it is ready, that it shall stop.
- A life is named by its PID. What is said about another PID is about an earlier life and means nothing.
- Each life after the first is a restart. `counted` names the life that was counted last, so that a supervisor who takes
  over counts one that its predecessor began and had no time to note, and none twice.
- An end may be reported before the start has been: the keeper's answer and its event travel on one socket, and two
  tasks act on them. So ends are kept by PID until somebody waits for them, and so is a readiness.
"""

from __future__ import annotations

import errno
import math
import random
import signal
import socket
import struct
from collections.abc import Callable
from typing import Final, Protocol

import msgspec
import trio
from pannier.supervisor.lifecycle import ALIVE, PROCESS, ProcessEvent, ProcessState, step
from pannier.supervisor.plan import Kind, ProcessPlan, Readiness
from pannier.supervisor.ports import split_address
from pannier.supervisor.restart import LONGEST_WAIT, Exit, History, Verdict, verdict
from pannier.supervisor.watchdog import Watchdog

KILLED: Final = 2.0  # seconds until a process that we may kill is gone; who is not, may be another user's
PROBE_EVERY: Final = 0.05  # seconds between two looks at an address that does not answer yet


class Holder(Protocol):
    """Who starts and signals processes: the keeper, or nobody but us once it is dead."""

    async def spawn(self, plan: ProcessPlan) -> int:
        """The PID; raises OSError as exec would. Cancelled, it has started nothing."""

    async def signal(self, name: str, pid: int, number: int, *, group: bool) -> None:
        """Delivers a signal; to a process that has ended it does nothing."""


class Child:
    """`changed` is called after every transition, `began` after each start (with this child); neither may block."""

    def __init__(
        self,
        plan: ProcessPlan,
        holder: Holder,
        watchdog: Watchdog,
        *,
        address: str | None = None,
        changed: Callable[[Child], None] = lambda _: None,
        began: Callable[[Child], None] = lambda _: None,
    ) -> None:
        self.plan = plan
        self.state = ProcessState.PENDING
        self.pid = 0
        self.restarts = 0
        self.counted = 0
        self.last_exit: Exit | None = None
        self.spawn_error: OSError | None = None
        self.history = History()
        self._holder = holder
        self._watchdog = watchdog
        self._address = address
        self._changed = changed
        self._began = began
        self._governed = False
        self._stop_signal = 0
        self._draining = False
        self._again = False
        self._ready_at: float | None = None
        self._ends: dict[int, Exit] = {}
        self._early = 0  # the PID of who said that it is ready and is not known to run
        self._news = trio.Event()
        self._done = trio.Event()
        self._pause = trio.CancelScope()
        self._pausing = False

    def __repr__(self) -> str:
        return f"<Child {self.plan.name} {self.state} pid={self.pid} restarts={self.restarts}>"

    @property
    def name(self) -> str:
        return self.plan.name

    @property
    def ready(self) -> bool:
        return self.state is ProcessState.READY

    @property
    def restarting(self) -> bool:
        """Whether the end of this life was asked for, so that another one begins."""
        return self._again

    async def govern(self, adopted: int | None = None) -> None:
        """Starts the process (or takes over PID `adopted`) and restarts it, until it has ended for good."""
        self._governed = True
        pid = adopted
        while pid is not None or not self._leaving():  # who is taken over runs, and his end is waited for at least
            exit_ = await self._live(pid)
            pid = None
            if self._leaving():
                break
            if self.spawn_error is not None and self.plan.kind is Kind.APP:
                break  # a command that cannot be executed is no crash
            if self._again:
                self._move(ProcessEvent.CRASHED)
                self._again = False
            else:
                now = trio.current_time()
                ready_for = 0.0 if self._ready_at is None else now - self._ready_at
                decided = verdict(
                    self.plan.restart, self.history, exit_, ready_for=ready_for, now=now, random=random.random()
                )
                if self.spawn_error is not None and self.spawn_error.errno == errno.EHOSTDOWN:
                    decided = Verdict(ProcessEvent.GAVE_UP, LONGEST_WAIT, decided.history)  # nobody can start it
                self.history = decided.history
                self._move(decided.event)
                if decided.after is None:
                    break
                with trio.CancelScope() as self._pause:
                    self._pausing = True
                    await trio.sleep(decided.after)
                self._pausing = False
        if self.state is not ProcessState.STOPPED:
            self._move(ProcessEvent.ENDED)
        self._done.set()

    def ended(self, pid: int, exit_: Exit) -> None:
        """The process with that PID is gone."""
        self._ends[pid] = exit_
        self._news.set()

    def said_ready(self, pid: int) -> None:
        if self.pid == 0:
            self._early = pid
        if pid == self.pid and self.state in ALIVE:
            if self.plan.silence:
                self._watchdog.expect(self.name, self.plan.silence, trio.current_time())
            else:
                self._watchdog.release(self.name)
            if self._ready_at is None:
                self._ready_at = trio.current_time()
            self._move(ProcessEvent.READY)

    def beat(self) -> None:
        """A sign of life. It does not count before readiness, whose deadline it would move."""
        if self.state in {ProcessState.READY, ProcessState.DRAINING}:
            self._watchdog.alive(self.name, trio.current_time())

    def drain(self) -> None:
        """It is asked to take no new work (how, is the caller's business), and nobody starts it again."""
        self._draining = True
        self._pause.cancel()
        if self.state is not ProcessState.PENDING:
            self._move(ProcessEvent.DRAIN)

    def rename(self, name: str) -> None:
        """It goes by that name from now on; whoever holds the process knows. Nobody watches it by the old one."""
        self._watchdog.release(self.name)
        self.plan = msgspec.structs.replace(self.plan, name=name)
        if self.ready and self.plan.silence:
            self._watchdog.expect(name, self.plan.silence, trio.current_time())

    async def restart(self) -> None:
        """Ends this life, one that is just being started included, and begins the next at once, whatever the policy
        says."""
        self.history = History()
        if self._pausing:
            self._pause.cancel()
            return
        self._again = True
        if self.state in ALIVE:
            await self.signal(signal.SIGTERM)
            self._watchdog.expect(self.name, self.plan.ready_within, trio.current_time())

    async def stop(self, number: int = signal.SIGTERM, *, patience: float = math.inf) -> None:
        """Sends `number`, KILL after `patience` seconds, and returns when it is gone for good, or cannot be killed."""
        await self.ask_to_stop(number)
        with trio.move_on_after(patience):
            await self._done.wait()
            return
        await self.kill()
        with trio.move_on_after(KILLED):
            await self._done.wait()

    async def ask_to_stop(self, number: int) -> None:
        """Sends `number` (0: it has been told already), and lets nobody start it again."""
        self._stop_signal = number or signal.SIGTERM
        self._watchdog.release(self.name)
        self._pause.cancel()
        alive = self.state in ALIVE
        self._move(ProcessEvent.STOP)
        if alive and number:
            await self.signal(number)
        if not self._governed:
            self._done.set()

    async def wait_gone(self) -> None:
        await self._done.wait()

    async def kill(self) -> None:
        await self.signal(signal.SIGKILL)

    async def signal(self, number: int) -> None:
        """To the process alone; Ctrl-C and KILL go to its group, as a terminal and a janitor would send them."""
        if self.pid:
            group = self.plan.own_group and number in {signal.SIGINT, signal.SIGKILL}
            await self._holder.signal(self.name, self.pid, number, group=group)

    async def _live(self, pid: int | None) -> Exit:
        self.history = self.history.started(trio.current_time(), self.plan.restart)
        self._ready_at = None
        known = pid == self.counted
        if pid is None:
            try:
                with trio.CancelScope() as self._pause:  # the holder may have to wait: a stop ends that
                    pid = await self._holder.spawn(self.plan)
            except OSError as error:
                self.spawn_error = error
                self.last_exit = Exit(127 if error.errno == errno.ENOENT else 126)
                return self.last_exit
            if pid is None:
                return Exit(0)
        self.pid, self.spawn_error = pid, None
        if self.counted and not known:
            self.restarts += 1
        self.counted = pid
        self._move(ProcessEvent.SPAWNED)
        self._watchdog.expect(self.name, self.plan.ready_within, trio.current_time())
        self._began(self)
        if self._early == pid:
            self.said_ready(pid)
        self._early = 0
        if self._draining:
            self._move(ProcessEvent.DRAIN)
        if self._stop_signal:
            await self.ask_to_stop(self._stop_signal)
        elif self._again:
            await self.signal(signal.SIGTERM)
        async with trio.open_nursery() as life:
            if self.plan.readiness is Readiness.LISTENING:
                life.start_soon(self._probe, pid)
            elif self.plan.readiness is Readiness.SPAWNED:
                self.said_ready(pid)
            while pid not in self._ends:
                self._news = trio.Event()
                await self._news.wait()
            life.cancel_scope.cancel()
        self._watchdog.release(self.name)
        self.last_exit = self._ends.pop(pid)
        self._ends.clear()
        self.pid = 0
        return self.last_exit

    async def _probe(self, pid: int) -> None:
        if self._address is not None:
            await wait_listening(self._address)
        self.said_ready(pid)

    def _leaving(self) -> bool:
        return self._stop_signal != 0 or self._draining

    def _move(self, event: ProcessEvent) -> None:
        self.state = step(PROCESS, self.state, event)
        self._changed(self)


async def wait_listening(address: str) -> None:
    """Returns once `address` (`127.0.0.1:80` or `unix:/path`) accepts a connection. A foreign program has no event for
    that, so it is asked again and again."""
    while not await accepts(address):  # noqa: ASYNC110  # nobody of ours could set an event
        await trio.sleep(PROBE_EVERY)


async def accepts(address: str) -> bool:
    """Whether somebody listens at `address`."""
    path = address.removeprefix("unix:")
    unix = path != address
    target: object = path if unix else split_address(address)
    ipv6 = not unix and address.startswith("[")
    family = socket.AF_UNIX if unix else socket.AF_INET6 if ipv6 else socket.AF_INET
    with trio.socket.socket(family, socket.SOCK_STREAM) as probe, trio.move_on_after(1.0):
        try:
            await probe.connect(target)
        except OSError:
            return False
        if unix or probe.getsockname() != probe.getpeername():
            return True
        # Nobody listens, and the kernel took that very port for our end: TCP then connects a socket to itself.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    return False
