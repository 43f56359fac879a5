"""Sidecars in one process: how they are planned, found again, begun and ended, with a process on paper; real ones are
in `tests/system/test_fused.py`."""

from __future__ import annotations

import errno
import signal
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio
import trio.testing
from pannier.shared import sidecar
from pannier.shared.errors import Unreachable
from pannier.shared.messages import Member, MemberEnd
from pannier.shared.profile import Profile
from pannier.shared.sidecar import Ending
from pannier.supervisor.adoption import Found
from pannier.supervisor.child import Child
from pannier.supervisor.fuse import ASK_AGAIN, Fuse, unfolded
from pannier.supervisor.fused import Members
from pannier.supervisor.plan import Arguments, Place, Plan, ProcessPlan, Said
from pannier.supervisor.planning import Installation, first_plan, next_plan
from pannier.supervisor.restart import Exit
from pannier.supervisor.sidecar_types import sidecar_modules, sidecar_types
from pannier.supervisor.watchdog import TICK, Watchdog

PLACE = Place("/run/orders", {}, "/pannierd", 2, {"inbound": 1, "outbound": 2, "metrics": 3})
ARGUMENTS = Arguments(name="orders", command=("serve",), app="127.0.0.1:8080")
INSIDE = ("traffic", "resilience")


def planned(*, fuse: bool) -> Plan:
    installation = Installation(sidecar_types(), sidecar_modules())
    return first_plan(Profile(fuse=fuse), ARGUMENTS, PLACE, said=Said({"fuse": fuse}), installation=installation)


def test_without_fuse_everybody_has_a_process() -> None:
    plan = planned(fuse=False)
    assert plan.fused is None
    assert not any(sidecar.fused for sidecar in plan.sidecars.values())


def test_our_sidecars_share_one_and_it_has_a_token_of_its_own() -> None:
    plan = planned(fuse=True)
    assert plan.fused is not None and plan.fused.grant is not None
    assert all(sidecar.fused for sidecar in plan.sidecars.values())
    tokens = [each.grant.token for each in (plan.fused, *plan.sidecars.values()) if each.grant is not None]
    assert len(set(tokens)) == 1 + len(plan.sidecars)


@pytest.mark.parametrize("fuse", [True, False])
def test_a_later_plan_keeps_to_what_the_first_one_decided(fuse: bool) -> None:
    first = planned(fuse=fuse)
    said = Said({"fuse": not fuse})
    later = next_plan(first, ARGUMENTS, said, Installation(sidecar_types(), sidecar_modules()))
    assert later.settings["fuse"] is not fuse
    assert later.fused == first.fused
    assert {name: each.fused for name, each in later.sidecars.items()} == dict.fromkeys(first.sidecars, fuse)


def test_who_was_inside_the_process_that_runs_runs() -> None:
    found = Found({"proxy": 5, "fused": 7}, {})
    assert unfolded(found, {"traffic": 7, "resilience": 6, "proxy": 5}, INSIDE) == Found(
        {"proxy": 5, "fused": 7, "traffic": 7}, {}
    ), "resilience was in an earlier one"


def test_who_was_inside_the_process_that_ended_has_ended_as_it_did() -> None:
    killed = (7, Exit.by_signal(9))
    found = unfolded(Found({}, {"fused": killed}), {"traffic": 7, "resilience": 6}, INSIDE)
    assert found == Found({}, {"fused": killed, "traffic": killed})


def test_nobody_was_inside_of_none() -> None:
    assert unfolded(Found({"proxy": 5}, {}), {"traffic": 0}, INSIDE) == Found({"proxy": 5}, {})


class Bus:
    """A broker on paper, and the process `fused` behind it; `lost` as long as that is not connected. Answers wait for
    `late`."""

    def __init__(self, nursery: trio.Nursery) -> None:
        self.members = Members(nursery, Path("/nowhere"))
        self.lost = False
        self.late: trio.Event | None = None
        self.asked: list[str] = []

    async def request(self, _: str, verb: str, member: Member, reply: type[object], *, timeout: float) -> object:
        await trio.lowlevel.checkpoint()
        if self.lost:
            raise Unreachable("not connected")
        self.asked.append(f"{verb} {member.name}")
        answer = await (self.members.run(member) if verb == "run" else self.members.stop(member))
        if self.late is not None:
            await self.late.wait()
        return answer

    def begun(self) -> list[str]:
        return [asked for asked in self.asked if asked.startswith("run")]


class Process:
    """A holder of the process itself, whose PIDs are 100, 101, …"""

    def __init__(self) -> None:
        self.pid = 99
        self.sent: list[int] = []

    async def spawn(self, _: ProcessPlan) -> int:
        await trio.lowlevel.checkpoint()
        self.pid += 1
        return self.pid

    async def signal(self, _: str, pid: int, number: int, *, group: bool) -> None:
        await trio.lowlevel.checkpoint()
        self.sent.append(number)


class Rig:
    def __init__(self, nursery: trio.Nursery) -> None:
        plan = planned(fuse=True)
        assert plan.fused is not None
        self.plan = plan.sidecars["traffic"]
        self.bus, self.holder = Bus(nursery), Process()
        self.ends: list[tuple[str, int, int]] = []
        self.fuse = Fuse(
            plan.fused, self.holder, self.bus, nursery, ended=self._ended, changed=lambda _: None, began=lambda _: None
        )
        self.child = Child(self.plan, self.fuse, Watchdog(trio.current_time()))

    def _ended(self, name: str, pid: int, exit_: Exit) -> None:
        self.ends.append((name, pid, exit_.code))
        self.child.ended(pid, exit_)


@asynccontextmanager
async def rig(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Rig]:
    """The process is ready, and traffic lives in it until it is told to end, whatever it does."""

    async def live(*_: object, ending: Ending) -> None:
        with ending.scope:
            await trio.sleep_forever()

    monkeypatch.setattr(sidecar, "live", live)
    async with trio.open_nursery() as nursery:
        it = Rig(nursery)
        nursery.start_soon(it.fuse.govern, None, ())
        await until(lambda: it.fuse.process.pid == 100)
        it.fuse.said_ready(100)
        nursery.start_soon(it.child.govern, None)
        await until(lambda: it.child.pid == 100 and it.bus.begun() == ["run traffic"])
        it.child.said_ready(100)
        try:
            yield it
        finally:
            nursery.cancel_scope.cancel()
            with trio.CancelScope(shield=True):
                await it.bus.members.stop_all()


async def until(condition: Callable[[], bool]) -> None:
    with trio.fail_after(5):
        while not condition():
            await trio.lowlevel.checkpoint()


async def test_an_end_whose_answer_was_lost_is_reported_once_and_begins_nobody(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with rig(monkeypatch) as it:
        member = Member("traffic", it.fuse._life["traffic"])
        await it.bus.members.stop(member)
        await it.bus.members._lives["traffic"].over.wait()
        assert await it.bus.members.run(member) == MemberEnd(0), "asked again: that life is over"
        await until(lambda: it.ends == [("traffic", 100, 0)])
        await until(lambda: len(it.bus.begun()) == 2)
        assert it.child.restarts == 1


async def test_a_stop_that_finds_nobody_connected_is_asked_again(
    monkeypatch: pytest.MonkeyPatch, autojump_clock: trio.testing.MockClock
) -> None:
    async with rig(monkeypatch) as it:
        it.bus.lost = True
        async with trio.open_nursery() as nursery:
            nursery.start_soon(it.child.stop)
            await trio.sleep(3 * ASK_AGAIN)
            assert it.ends == []
            it.bus.lost = False
        assert it.ends == [("traffic", 100, 0)]
        assert it.holder.sent == [], "and nobody was killed"


async def test_the_end_of_the_process_is_the_end_of_all_and_a_dead_pid_is_given_to_nobody(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with rig(monkeypatch) as it:
        it.bus.lost = True
        it.fuse.process.ended(100, Exit.by_signal(9))
        it.child.ended(100, Exit.by_signal(9))
        await until(lambda: it.fuse.process.pid == 101)
        assert it.child.pid in {0, 100}
        it.bus.lost = False
        it.fuse.said_ready(101)
        await until(lambda: it.child.pid == 101 and len(it.bus.begun()) == 2)
        assert it.child.last_exit == Exit.by_signal(9)


async def test_the_old_life_does_not_end_the_new_one_however_late_it_learns_of_its_end(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with rig(monkeypatch) as it:
        it.bus.late = late = trio.Event()
        await it.fuse.signal("traffic", 100, signal.SIGTERM, group=False)
        await until(it.bus.members._lives["traffic"].over.is_set)
        it.fuse.process.ended(100, Exit.by_signal(9))
        it.child.ended(100, Exit.by_signal(9))
        await until(lambda: it.fuse.process.pid == 101)
        it.fuse.said_ready(101)
        await until(lambda: it.child.pid == 101)
        life = it.fuse._life["traffic"]
        late.set()
        await trio.testing.wait_all_tasks_blocked()
        assert (it.fuse._life["traffic"], it.child.pid) == (life, 101)


async def test_who_waits_for_the_process_can_be_stopped(monkeypatch: pytest.MonkeyPatch) -> None:
    async with rig(monkeypatch) as it:
        it.bus.lost = True
        it.fuse.process.ended(100, Exit.by_signal(9))
        it.child.ended(100, Exit.by_signal(9))
        await until(lambda: it.child.pid == 0 and it.fuse.process.pid == 101)
        await it.child.stop()
        it.fuse.said_ready(101)
        await trio.testing.wait_all_tasks_blocked()
        assert it.bus.begun() == ["run traffic"], "nobody comes after all"


async def test_while_all_end_nobody_begins_and_nobodys_end_is_told_before_that_of_the_process(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with rig(monkeypatch) as it:
        await it.bus.members.stop_all()
        await trio.testing.wait_all_tasks_blocked()
        assert it.ends == []
        with pytest.raises(Unreachable):
            await it.bus.members.run(Member("traffic", 5))


async def test_who_said_that_it_is_ready_before_it_was_known_is(monkeypatch: pytest.MonkeyPatch) -> None:
    async with rig(monkeypatch) as it:
        successor = Child(it.plan, it.fuse, Watchdog(trio.current_time()))
        successor.said_ready(100)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(successor.govern, None)
            await until(lambda: successor.ready)
            nursery.cancel_scope.cancel()
        assert await life_of(it) == it.fuse._life["traffic"], "it is the one that ran"


async def life_of(it: Rig) -> int:
    await trio.testing.wait_all_tasks_blocked()
    return it.bus.members._lives["traffic"].number


async def test_a_hanging_process_has_its_time_and_whoever_waits_for_it_is_told(
    monkeypatch: pytest.MonkeyPatch, autojump_clock: trio.testing.MockClock
) -> None:
    async with rig(monkeypatch) as it:
        it.fuse.process.ended(100, Exit.by_signal(9))
        it.child.ended(100, Exit.by_signal(9))
        await until(lambda: it.fuse.process.pid == 101)
        overdue: list[str] = []
        with trio.fail_after(it.plan.ready_within + 1):
            while not overdue:
                await trio.sleep(TICK)
                overdue += it.fuse.watchdog.tick(trio.current_time())
        assert overdue == ["fused"]
        await trio.sleep(TICK)
        assert it.child.spawn_error is not None and it.child.spawn_error.errno == errno.ETIMEDOUT
