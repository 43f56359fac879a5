from __future__ import annotations

import errno
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import msgspec
import pytest
import trio
from pannier.supervisor.child import Child, accepts, wait_listening
from pannier.supervisor.keeper import Stdio
from pannier.supervisor.plan import Kind, ProcessPlan, Readiness
from pannier.supervisor.restart import Exit, Policy, RestartSettings
from pannier.supervisor.watchdog import Watchdog
from trio.testing import MockClock, wait_all_tasks_blocked

PLAN = ProcessPlan(
    name="discovery",
    kind=Kind.SIDECAR,
    argv=("discovery",),
    environment={},
    cwd="/",
    held=(),
    stdio=(Stdio.NULL, Stdio.NULL, Stdio.NULL),
    own_group=True,
    restart=RestartSettings(Policy.PERMANENT, prompt=True),
    readiness=Readiness.MESSAGE,
    ready_within=10.0,
    silence=5.0,
)
APP = msgspec.structs.replace(
    PLAN, name="app", restart=RestartSettings(Policy.TEMPORARY), readiness=Readiness.SPAWNED, silence=0.0
)


class Holder:
    """Starts nothing: PIDs count up from 1, and a process ends by TERM unless it is `stubborn`."""

    def __init__(self) -> None:
        self.spawned = 0
        self.sent: list[tuple[int, int, bool]] = []
        self.stubborn = False
        self.refuse: OSError | None = None
        self.ends_at_once = False
        self.starting: trio.Event | None = None
        self.child: Child

    async def spawn(self, plan: ProcessPlan) -> int:
        await trio.lowlevel.checkpoint()
        if self.starting is not None:
            await self.starting.wait()
        if self.refuse is not None:
            raise self.refuse
        self.spawned += 1
        if self.ends_at_once:
            self.child.ended(self.spawned, Exit(5))
        return self.spawned

    async def signal(self, name: str, pid: int, number: int, *, group: bool) -> None:
        await trio.lowlevel.checkpoint()
        self.sent.append((pid, number, group))
        if number == signal.SIGKILL or not self.stubborn:
            self.child.ended(pid, Exit.by_signal(number))


@asynccontextmanager
async def governed(holder: Holder, plan: ProcessPlan = PLAN, adopted: int | None = None) -> AsyncIterator[Child]:
    holder.child = child = Child(plan, holder, Watchdog(0.0))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(child.govern, adopted)
        await wait_all_tasks_blocked()
        yield child
        nursery.cancel_scope.cancel()


async def test_a_sidecar_is_ready_when_it_says_so_and_only_for_its_own_pid() -> None:
    async with governed(Holder()) as child:
        assert (child.state, child.pid) == ("starting", 1)
        child.said_ready(99)
        assert not child.ready
        child.said_ready(1)
        assert child.ready


async def test_who_is_ready_before_the_keeper_has_told_his_pid_is_ready() -> None:
    """A forked sidecar is there in milliseconds, and a keeper that waits for a CPU answers after it."""
    holder = Holder()
    holder.starting = trio.Event()
    async with governed(holder) as child:
        assert (child.state, child.pid) == ("pending", 0)
        child.said_ready(1)
        assert not child.ready
        holder.starting.set()
        await wait_all_tasks_blocked()
        assert (child.state, child.pid) == ("ready", 1)


async def test_a_readiness_of_somebody_else_is_not_kept() -> None:
    holder = Holder()
    holder.starting = trio.Event()
    async with governed(holder) as child:
        child.said_ready(99)
        holder.starting.set()
        await wait_all_tasks_blocked()
        assert (child.state, child.pid) == ("starting", 1)


async def test_a_crash_is_followed_by_a_new_life_at_once(autojump_clock: MockClock) -> None:
    async with governed(Holder()) as child:
        child.said_ready(1)
        child.ended(1, Exit.by_signal(9))
        await wait_all_tasks_blocked()
        assert (child.state, child.pid, child.restarts) == ("starting", 2, 1)
        child.ended(1, Exit(0))
        await wait_all_tasks_blocked()
        assert child.pid == 2, "the end of an earlier life means nothing"


async def test_an_end_that_is_told_before_the_start_counts() -> None:
    holder = Holder()
    holder.ends_at_once = True
    async with governed(holder, APP) as child:
        await child.wait_gone()
        assert (child.state, child.last_exit) == ("stopped", Exit(5))


@pytest.mark.parametrize(("error", "code"), [(FileNotFoundError(2, "x"), 127), (PermissionError(13, "x"), 126)])
async def test_what_cannot_be_executed_ends_as_in_a_shell(error: OSError, code: int) -> None:
    holder = Holder()
    holder.refuse = error
    async with governed(holder, APP) as child:
        await child.wait_gone()
        assert child.last_exit == Exit(code)
        assert child.spawn_error is error


async def test_stop_sends_the_signal_and_nothing_starts_again() -> None:
    holder = Holder()
    async with governed(holder) as child:
        await child.stop()
        assert (child.state, holder.sent, holder.spawned) == ("stopped", [(1, signal.SIGTERM, False)], 1)


async def test_who_does_not_end_in_time_is_killed_with_its_group(autojump_clock: MockClock) -> None:
    holder = Holder()
    holder.stubborn = True
    async with governed(holder) as child:
        await child.stop(patience=3.0)
        assert trio.current_time() == pytest.approx(3.0)
        assert holder.sent == [(1, signal.SIGTERM, False), (1, signal.SIGKILL, True)]


async def test_ctrl_c_goes_to_the_group_as_a_terminal_would_send_it() -> None:
    holder = Holder()
    async with governed(holder, APP) as child:
        await child.stop(signal.SIGINT)
        assert holder.sent == [(1, signal.SIGINT, True)]


async def test_stop_during_a_back_off_ends_it() -> None:
    holder = Holder()
    slow = msgspec.structs.replace(PLAN, restart=RestartSettings(Policy.PERMANENT))
    async with governed(holder, slow) as child:
        child.ended(1, Exit(1))
        await wait_all_tasks_blocked()
        assert child.state == "backoff"
        await child.stop()
        assert (child.state, holder.spawned, holder.sent) == ("stopped", 1, [])


async def test_who_waits_for_its_restart_is_not_started_while_the_service_drains(autojump_clock: MockClock) -> None:
    holder = Holder()
    slow = msgspec.structs.replace(PLAN, restart=RestartSettings(Policy.PERMANENT))
    async with governed(holder, slow) as child:
        child.ended(1, Exit(1))
        await wait_all_tasks_blocked()
        child.drain()
        await child.wait_gone()
        assert (child.state, holder.spawned) == ("stopped", 1)


async def test_stop_before_the_start() -> None:
    child = Child(PLAN, Holder(), Watchdog(0.0))
    await child.stop()
    assert child.state == "stopped"


async def test_restart_is_a_new_life_whatever_the_policy_says() -> None:
    holder = Holder()
    async with governed(holder, APP) as child:
        await child.restart()
        await wait_all_tasks_blocked()
        assert (child.state, child.pid, child.restarts) == ("ready", 2, 1)


async def test_a_new_life_that_cannot_be_started_is_a_crash_and_not_a_bug(autojump_clock: MockClock) -> None:
    holder = Holder()
    async with governed(holder) as child:
        holder.refuse = OSError(errno.EAGAIN, "no more processes just now")
        await child.restart()
        await wait_all_tasks_blocked()
        assert child.state == "backoff"
        holder.refuse = None
        await trio.sleep(5)
        assert (child.state, child.pid) == ("starting", 2)


async def test_restart_ends_a_wait() -> None:
    holder = Holder()
    slow = msgspec.structs.replace(PLAN, restart=RestartSettings(Policy.PERMANENT))
    async with governed(holder, slow) as child:
        child.ended(1, Exit(1))
        await wait_all_tasks_blocked()
        await child.restart()
        await wait_all_tasks_blocked()
        assert (child.state, child.pid) == ("starting", 2)


async def test_restart_ends_a_life_that_is_just_being_started() -> None:
    holder = Holder()
    async with governed(holder) as child:
        holder.starting = trio.Event()
        child.ended(1, Exit(1))
        await wait_all_tasks_blocked()
        await child.restart()
        holder.starting.set()
        await wait_all_tasks_blocked()
        assert holder.sent == [(2, signal.SIGTERM, False)]
        assert (child.state, child.pid) == ("starting", 3)


async def test_an_adopted_process_is_not_started_again() -> None:
    holder = Holder()
    async with governed(holder, adopted=77) as child:
        assert (child.pid, holder.spawned, child.restarts) == (77, 0, 0)
        child.said_ready(77)
        assert child.ready


@pytest.mark.parametrize("ended_before", [True, False])
async def test_who_is_taken_over_to_go_is_waited_for_and_never_started_again(ended_before: bool) -> None:
    holder = Holder()
    child = Child(PLAN, holder, Watchdog(0.0))
    child.drain()
    async with trio.open_nursery() as nursery:
        if ended_before:
            child.ended(77, Exit(0))
        nursery.start_soon(child.govern, 77)
        await wait_all_tasks_blocked()
        if not ended_before:
            assert (child.state, child.pid) == ("draining", 77)
            child.ended(77, Exit(0))
        await child.wait_gone()
    assert (child.state, child.pid, holder.spawned) == ("stopped", 0, 0)


@pytest.mark.parametrize(("counted", "restarts"), [(77, 4), (70, 5)])
async def test_a_life_that_was_begun_and_not_noted_is_counted_by_who_takes_over(counted: int, restarts: int) -> None:
    child = Child(PLAN, Holder(), Watchdog(0.0))
    child.restarts, child.counted = 4, counted
    async with trio.open_nursery() as nursery:
        nursery.start_soon(child.govern, 77)
        await wait_all_tasks_blocked()
        assert (child.restarts, child.counted) == (restarts, 77)
        child.ended(77, Exit(1))
        await wait_all_tasks_blocked()
        assert (child.restarts, child.counted) == (restarts + 1, 1)
        nursery.cancel_scope.cancel()


async def test_a_beat_before_readiness_does_not_move_its_deadline() -> None:
    holder = Holder()
    watchdog = Watchdog(0.0)
    holder.child = child = Child(PLAN, holder, watchdog)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(child.govern)
        await wait_all_tasks_blocked()
        child.beat()
        start = trio.current_time()
        watchdog.tick(start)
        for number in range(1, 20):
            assert watchdog.tick(start + number / 2) == ()
        assert watchdog.tick(start + 10.1) == ("discovery",)
        nursery.cancel_scope.cancel()


async def test_listening_is_seen_on_tcp_and_on_unix_sockets(tmp_path: trio.Path) -> None:
    async with trio.open_nursery() as nursery:
        listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
        address = f"127.0.0.1:{listeners[0].socket.getsockname()[1]}"
        await wait_listening(address)
        for listener in listeners:
            await listener.aclose()
        assert not await accepts(address)
        path = f"{tmp_path}/app.sock"
        assert not await accepts(f"unix:{path}")
        with trio.socket.socket(trio.socket.AF_UNIX) as listener_:
            await listener_.bind(path)
            listener_.listen()
            await wait_listening(f"unix:{path}")
        nursery.cancel_scope.cancel()
