from __future__ import annotations

import errno
import math
import os
import signal
import subprocess
import sys

import msgspec
import pytest
import trio
import trio.testing
from pannier.supervisor.hold import UNKNOWN_END, Hold, reap
from pannier.supervisor.keeper import Exited, KeeperError, KeeperGone, Stdio
from pannier.supervisor.keeper_protocol import Op
from pannier.supervisor.plan import Kind, ProcessPlan, Readiness
from pannier.supervisor.restart import Exit, Policy, RestartSettings

PLAN = ProcessPlan(
    name="app",
    kind=Kind.APP,
    argv=("x",),
    environment={},
    cwd="/",
    held=(),
    stdio=(Stdio.NULL, Stdio.NULL, Stdio.NULL),
    own_group=True,
    restart=RestartSettings(Policy.TEMPORARY),
    readiness=Readiness.SPAWNED,
    ready_within=1.0,
)


class Keeper:
    """Fails every request with `error`, and has `exits` to tell."""

    def __init__(self, error: Exception | None = None, exits: tuple[Exited, ...] = ()) -> None:
        self.error = error
        self.zygote_news = trio.Event()
        self.send, self.receive = trio.open_memory_channel[Exited](10)
        for each in exits:
            self.send.send_nowait(each)
        self.send.close()

    async def spawn(self, *_: object, **__: object) -> int:
        await self._fail()
        return 7

    async def signal(self, *_: object, **__: object) -> None:
        await self._fail()

    def events(self) -> trio.MemoryReceiveChannel[Exited]:
        return self.receive

    async def _fail(self) -> None:
        await trio.lowlevel.checkpoint()
        if self.error is not None:
            raise self.error


@pytest.mark.parametrize(
    ("error", "number"),
    [
        (KeeperError(errno.ENOENT, "no such program"), errno.ENOENT),
        (KeeperError(errno.EACCES, "not for you"), errno.EACCES),
        (KeeperGone("gone"), errno.EHOSTDOWN),
    ],
)
async def test_what_cannot_be_started_fails_as_exec_would(error: Exception, number: int) -> None:
    async with trio.open_nursery() as nursery:
        hold = Hold(Keeper(error), nursery, lambda *_: None)  # type: ignore[arg-type]
        with pytest.raises(OSError) as caught:
            await hold.spawn(PLAN)
        assert caught.value.errno == number


async def test_the_keepers_events_are_passed_on_until_it_is_gone() -> None:
    heard: list[tuple[str, int, Exit]] = []
    exits = (Exited("app", 5, code=3), Exited("proxy", 6, signal=9))
    async with trio.open_nursery() as nursery:
        hold = Hold(Keeper(exits=exits), nursery, lambda *end: heard.append(end))  # type: ignore[arg-type]
        await hold.report()
        assert hold.keeper_lost
    assert heard == [("app", 5, Exit(3)), ("proxy", 6, Exit.by_signal(9))]


def sleeper() -> subprocess.Popen[bytes]:
    return subprocess.Popen(["sleep", "60"], process_group=0)


async def test_without_a_keeper_processes_are_watched_signalled_and_reaped_here() -> None:
    heard: list[tuple[str, int, Exit]] = []
    process = sleeper()
    async with trio.open_nursery() as nursery:
        hold = Hold(Keeper(KeeperGone("gone")), nursery, lambda *end: heard.append(end))  # type: ignore[arg-type]
        hold.watch("app", process.pid)
        await hold.signal("app", process.pid, signal.SIGTERM, group=True)
    assert heard == [("app", process.pid, Exit.by_signal(15))]
    process.returncode = 0  # it has been waited for behind its back
    async with trio.open_nursery() as nursery:
        hold = Hold(Keeper(KeeperGone("gone")), nursery, lambda *end: heard.append(end))  # type: ignore[arg-type]
        await hold.signal("app", process.pid, signal.SIGTERM, group=False)


async def test_a_signal_to_who_has_ended_does_nothing() -> None:
    async with trio.open_nursery() as nursery:
        hold = Hold(Keeper(KeeperError(errno.ESRCH, "ended")), nursery, lambda *_: None)  # type: ignore[arg-type]
        await hold.signal("app", 1, signal.SIGTERM, group=False)
        refused = Hold(Keeper(KeeperError(errno.EINVAL, "no")), nursery, lambda *_: None)  # type: ignore[arg-type]
        with pytest.raises(KeeperError):
            await refused.signal("app", 1, signal.SIGTERM, group=False)


@pytest.mark.parametrize("error", [KeeperError(errno.EPERM, "no"), KeeperGone("gone")])
async def test_who_may_not_be_signalled_is_told_once(error: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    def forbidden(pid: int, number: int) -> None:
        raise PermissionError(errno.EPERM, "no")

    monkeypatch.setattr(os, "kill", forbidden)
    told: list[tuple[str, int]] = []
    async with trio.open_nursery() as nursery:
        hold = Hold(Keeper(error), nursery, lambda *_: None, lambda *who: told.append(who))  # type: ignore[arg-type]
        for number in (signal.SIGTERM, signal.SIGKILL):
            await hold.signal("app", 1, number, group=False)
    assert told == [("app", 1)]


def test_the_end_of_somebody_elses_child_is_unknown() -> None:
    assert reap(os.getppid()) == UNKNOWN_END
    process = subprocess.Popen([sys.executable, "-c", "raise SystemExit(3)"])
    os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
    assert reap(process.pid) == Exit(3)
    process.returncode = 3


class Loading(Keeper):
    """Has a zygote that can be used from `loaded` seconds on; `ways` is how it was asked to start."""

    def __init__(self, loaded: float) -> None:
        super().__init__()
        self.loaded = trio.current_time() + loaded
        self.ways: list[Op] = []

    async def spawn(self, *_: object, how: Op = Op.SPAWN, **__: object) -> int:
        await trio.lowlevel.checkpoint()
        self.ways.append(how)
        if how is Op.FORK and trio.current_time() < self.loaded:
            raise KeeperError(errno.EAGAIN, "the zygote is loading")
        return 7

    async def load(self) -> None:
        await trio.sleep_until(self.loaded)
        self.zygote_news.set()


@pytest.mark.parametrize(
    ("loaded", "ways", "within"),
    [
        (0.0, [Op.FORK], 0.0),
        (2.0, [Op.FORK, Op.FORK], 2.0),
        (60.0, [Op.FORK, Op.SPAWN], 5.0),
    ],
)
async def test_who_starts_for_the_first_time_waits_for_a_zygote_that_loads(
    autojump_clock: trio.testing.MockClock, loaded: float, ways: list[Op], within: float
) -> None:
    keeper = Loading(loaded)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(keeper.load)
        began = trio.current_time()
        hold = Hold(keeper, nursery, lambda *_: None)  # type: ignore[arg-type]
        assert await hold.spawn(msgspec.structs.replace(PLAN, kind=Kind.SIDECAR)) == 7
        assert (keeper.ways, trio.current_time() - began) == (ways, within)
        nursery.cancel_scope.cancel()


async def test_who_has_lived_is_executed_when_the_zygote_loads(autojump_clock: trio.testing.MockClock) -> None:
    plan = msgspec.structs.replace(PLAN, kind=Kind.SIDECAR)
    keeper = Loading(0.0)
    async with trio.open_nursery() as nursery:
        hold = Hold(keeper, nursery, lambda *_: None)  # type: ignore[arg-type]
        await hold.spawn(plan)
        keeper.loaded = math.inf
        began = trio.current_time()
        await hold.spawn(plan)
        assert (keeper.ways, trio.current_time()) == ([Op.FORK, Op.FORK, Op.SPAWN], began)
