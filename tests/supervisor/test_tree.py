"""The tree over a holder that starts nothing: order, watchdog, isolation, adding and removing, the end of the app."""

from __future__ import annotations

import signal
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import msgspec
import pytest
import trio
from pannier.shared.errors import PannierError, TimedOut
from pannier.shared.profile import Profile
from pannier.shared.profile import RestartSettings as AppRestart
from pannier.supervisor.compose import compose
from pannier.supervisor.ending import Cause, Deadline, Ending
from pannier.supervisor.plan import Arguments, Installed, Place, Plan, ProcessPlan
from pannier.supervisor.restart import Exit
from pannier.supervisor.tree import NotReady, Tree
from trio.testing import MockClock, wait_all_tasks_blocked


class Settings(msgspec.Struct, frozen=True):
    pass


def planned(*, app: str | None = None, command: tuple[str, ...] = ("serve",), on_crash: bool = False) -> Plan:
    return compose(
        Profile(sidecars={"discovery": Settings(), "traffic": Settings()}, restart=AppRestart(on_crash=on_crash)),
        Arguments(name="orders", command=command, app=app),
        Place("/run/orders", {}, "/bin/pannierd", 2, {"inbound": 1, "outbound": 2}),
        {name: Installed(name, Settings(), name) for name in ("discovery", "traffic", "spare")},
    )


class Host:
    """Processes that exist on paper: they end by KILL, by TERM unless they are deaf, and never by themselves."""

    def __init__(self) -> None:
        self.tree: Tree
        self.log: list[str] = []
        self.pids: dict[str, int] = {}
        self.silent: set[str] = set()
        self.deaf: set[str] = set()
        self.refused: dict[str, OSError] = {}

    async def spawn(self, plan: ProcessPlan) -> int:
        await trio.lowlevel.checkpoint()
        if (error := self.refused.get(plan.name)) is not None:
            raise error
        self.log.append(plan.name)
        self.pids[plan.name] = pid = 100 + len(self.log)
        return pid

    async def signal(self, name: str, pid: int, number: int, *, group: bool) -> None:
        await trio.lowlevel.checkpoint()
        self.log.append(f"{name}:{signal.Signals(number).name}")
        if number == signal.SIGKILL or name not in self.deaf:
            self.end(name, Exit.by_signal(number))

    def end(self, name: str, exit_: Exit) -> None:
        self.tree.ended(name, self.pids[name], exit_)

    def say_ready(self, *names: str) -> None:
        for name in names or self.tree.children:
            if name not in self.silent:
                self.tree.children[name].said_ready(self.pids.get(name, 0))

    async def keep_ready(self) -> None:
        """Everybody who is not silent says that he is ready, and beats."""
        while True:
            await trio.sleep(0.2)
            self.say_ready()
            for child in self.tree.children.values():
                if child.name not in self.silent:
                    child.beat()


Given = Callable[[Host], None]


@asynccontextmanager
async def governed(plan: Plan | None = None, given: Given = lambda _: None) -> AsyncIterator[tuple[Tree, Host]]:
    host = Host()
    async with trio.open_nursery() as nursery:
        host.tree = tree = Tree(plan or planned(), host, nursery)
        given(host)
        nursery.start_soon(host.keep_ready)
        nursery.start_soon(tree.watch)
        try:
            yield tree, host
        finally:
            nursery.cancel_scope.cancel()


async def test_governance_starts_together_and_the_app_when_it_is_ready(autojump_clock: MockClock) -> None:
    async with governed() as (tree, host):
        assert tree.state == "starting"
        await tree.start({})
        assert sorted(host.log) == ["discovery", "proxy", "traffic"]
        await tree.wait_ready()
        assert host.log[-1] == "app"


async def test_a_sidecar_that_does_not_come_up_costs_readiness_and_not_the_app(autojump_clock: MockClock) -> None:
    async with governed(given=lambda host: host.silent.add("traffic")) as (tree, host):
        await tree.start({})
        assert trio.current_time() == pytest.approx(30.0, abs=1), "as long as the app would be waited for"
        await wait_all_tasks_blocked()
        assert "app" in host.log
        assert tree.state == "starting"


async def test_a_crash_loop_is_five_starts_then_failed_and_siblings_keep_their_pids(autojump_clock: MockClock) -> None:
    async with governed() as (tree, host):
        await tree.start({})
        await tree.wait_ready()
        before = dict(host.pids)
        host.silent.add("traffic")
        start = trio.current_time()
        traffic = tree.children["traffic"]
        while traffic.state != "failed":
            if traffic.pid:
                host.end("traffic", Exit(1))
            await trio.sleep(0.01)
        assert trio.current_time() - start < 10
        assert host.log.count("traffic") <= 5
        assert {**host.pids, "traffic": 0} == {**before, "traffic": 0}
        assert tree.state == "degraded"


async def test_no_proxy_is_no_service(autojump_clock: MockClock) -> None:
    async with governed(given=lambda host: host.silent.add("proxy")) as (tree, _):
        with pytest.raises(TimedOut, match="proxy"):
            await tree.start({})


async def test_a_proxy_that_cannot_be_executed_is_said_at_once(autojump_clock: MockClock) -> None:
    def missing(host: Host) -> None:
        host.refused["proxy"] = FileNotFoundError(2, "No such file or directory")

    async with governed(given=missing) as (tree, _):
        with pytest.raises(PannierError, match="cannot start /bin/pannierd"):
            await tree.start({})
        assert trio.current_time() < 1


async def test_who_is_silent_is_killed_and_comes_back(autojump_clock: MockClock) -> None:
    async with governed() as (tree, host):
        await tree.start({})
        await tree.wait_ready()
        host.silent.add("discovery")
        await tree.wait_until(lambda: tree.children["discovery"].restarts == 1)
        assert host.log[-2:] == ["discovery:SIGKILL", "discovery"] or "discovery:SIGKILL" in host.log
        assert not [entry for entry in host.log if entry.endswith("SIGKILL") and not entry.startswith("discovery")]
        host.silent.clear()
        await tree.wait_ready()


async def test_without_a_keeper_nobody_is_killed_for_silence(autojump_clock: MockClock) -> None:
    async with governed() as (tree, host):
        await tree.start({})
        await tree.wait_ready()
        tree.lose_keeper()
        host.silent.add("discovery")
        await trio.sleep(30)
        assert not [entry for entry in host.log if entry.endswith("SIGKILL")]


async def test_the_app_that_ends_ends_the_service(autojump_clock: MockClock) -> None:
    async with governed() as (tree, host):
        await tree.start({})
        await tree.wait_ready()
        host.end("app", Exit(4))
        await tree.over.wait()
        assert tree.ending is not None
        assert tree.ending.cause is Cause.APP
        assert tree.app is not None
        assert tree.app.last_exit == Exit(4)


async def test_the_app_that_crashes_is_restarted_where_the_profile_says_so(autojump_clock: MockClock) -> None:
    async with governed(planned(on_crash=True)) as (tree, host):
        await tree.start({})
        await tree.wait_ready()
        host.end("app", Exit(4))
        await tree.wait_until(lambda: tree.app is not None and tree.app.restarts == 1 and tree.app.ready)
        assert not tree.over.is_set()
        host.end("app", Exit(0))
        await tree.over.wait()


async def test_an_app_that_cannot_be_executed_is_no_crash(autojump_clock: MockClock) -> None:
    def missing(host: Host) -> None:
        host.refused["app"] = FileNotFoundError(2, "No such file or directory")

    async with governed(planned(on_crash=True), missing) as (tree, _):
        await tree.start({})
        await tree.over.wait()
        assert tree.ending is not None
        assert tree.ending.message == "serve: not found"
        assert tree.app is not None
        assert tree.app.last_exit == Exit(127)


async def test_an_app_that_never_listens(autojump_clock: MockClock) -> None:
    async with governed(planned(app="unix:/nowhere/app.sock"), lambda host: host.silent.add("app")) as (tree, _):
        await tree.start({})
        await tree.over.wait()
        assert tree.ending is not None
        assert tree.ending.cause is Cause.NOT_READY
        assert "/nowhere/app.sock" in tree.ending.message


async def test_an_external_app_that_never_listens(autojump_clock: MockClock) -> None:
    async with governed(planned(app="unix:/nowhere/app.sock", command=())) as (tree, host):
        await tree.start({})
        await tree.over.wait()
        assert tree.ending is not None
        assert tree.ending.cause is Cause.NOT_READY
        assert "app" not in host.log
        assert tree.state != "ready"


async def test_what_runs_already_is_taken_over(autojump_clock: MockClock) -> None:
    running = {"discovery": 1, "traffic": 2, "proxy": 3, "app": 4}

    async with governed(given=lambda host: host.pids.update(running)) as (tree, host):
        await tree.start(running)
        await tree.wait_ready()
        assert host.log == []
        assert {name: child.pid for name, child in tree.children.items()} == running


async def test_what_ended_without_a_supervisor_is_handled_by_its_policy(autojump_clock: MockClock) -> None:
    running = {"discovery": 1, "traffic": 2, "proxy": 3, "app": 4}

    def before(host: Host) -> None:
        host.pids.update(running)
        host.tree.children["traffic"].ended(2, Exit.by_signal(9))
        host.tree.children["app"].ended(4, Exit(6))

    async with governed(given=before) as (tree, host):
        await tree.start(running)
        await tree.over.wait()
        assert host.log == ["traffic"]
        assert tree.app is not None
        assert tree.app.last_exit == Exit(6)


async def test_add_and_remove_touch_nobody_else(autojump_clock: MockClock) -> None:
    async with governed() as (tree, host):
        await tree.start({})
        await tree.wait_ready()
        before = dict(host.pids)
        await tree.add([tree.plan.sidecars["spare"]])
        assert list(tree.children) == ["discovery", "traffic", "proxy", "app", "spare"]
        await tree.remove(["spare", "discovery"])
        assert list(tree.children) == ["traffic", "proxy", "app"]
        assert tree.state == "ready"
        for name in ("traffic", "proxy", "app"):
            assert tree.children[name].pid == before[name]


async def test_an_added_sidecar_that_is_not_ready_in_time_is_taken_away_again(autojump_clock: MockClock) -> None:
    async with governed(given=lambda host: host.silent.add("spare")) as (tree, host):
        await tree.start({})
        await tree.wait_ready()
        start = trio.current_time()
        with pytest.raises(NotReady, match="spare did not say so within 10 s") as caught:
            await tree.add([tree.plan.sidecars["spare"]])
        assert trio.current_time() - start == pytest.approx(10, abs=1)
        assert caught.value.names == ("spare",)
        assert "spare" not in tree.children
        assert tree.state == "ready"
        log = list(host.log)
        await trio.sleep(60)
        assert host.log == log, "nobody starts it again"


async def test_of_several_that_are_added_one_that_refuses_is_named_at_once(autojump_clock: MockClock) -> None:
    async with governed(given=lambda host: host.silent.add("spare")) as (tree, host):
        await tree.start({})
        await tree.wait_ready()
        await tree.remove(["traffic"])
        start = trio.current_time()
        async with trio.open_nursery() as nursery:

            @nursery.start_soon
            async def refuse() -> None:
                await tree.wait_until(lambda: "spare" in tree.children and tree.children["spare"].state == "starting")
                host.end("spare", Exit(65))

            with pytest.raises(NotReady, match="spare ended") as caught:
                await tree.add([tree.plan.sidecars[name] for name in ("traffic", "spare")])
        assert trio.current_time() - start < 1
        assert caught.value.names == ("spare",)
        assert set(tree.children) == {"discovery", "proxy", "app"}


async def test_one_that_is_killed_while_it_comes_up_is_started_again(autojump_clock: MockClock) -> None:
    async with governed(given=lambda host: host.silent.add("spare")) as (tree, host):
        await tree.start({})
        await tree.wait_ready()
        async with trio.open_nursery() as nursery:

            @nursery.start_soon
            async def kill() -> None:
                await tree.wait_until(lambda: "spare" in tree.children and tree.children["spare"].state == "starting")
                host.silent.clear()
                host.end("spare", Exit.by_signal(9))

            await tree.add([tree.plan.sidecars["spare"]])
        assert tree.children["spare"].restarts == 1


async def test_another_plan_is_for_the_next_life(autojump_clock: MockClock) -> None:
    async with governed() as (tree, host):
        await tree.start({})
        await tree.wait_ready()
        before = dict(host.pids)
        other = planned(on_crash=True)
        tree.replan(other)
        assert host.pids == before
        assert tree.children["app"].plan == other.app
        host.end("app", Exit(1))
        await tree.wait_until(lambda: tree.app is not None and tree.app.restarts == 1)
        assert not tree.over.is_set()


async def test_restart_gives_a_new_life_and_waits_for_it(autojump_clock: MockClock) -> None:
    async with governed() as (tree, host):
        await tree.start({})
        await tree.wait_ready()
        old = host.pids["traffic"]
        await tree.restart("traffic")
        assert tree.children["traffic"].pid != old
        assert tree.children["traffic"].ready


async def test_the_app_is_killed_at_the_deadline_and_not_restarted(autojump_clock: MockClock) -> None:
    async with governed(planned(on_crash=True), lambda host: host.deaf.add("app")) as (tree, host):
        await tree.start({})
        await tree.wait_ready()
        tree.drain()
        start = trio.current_time()
        await tree.stop_app(signal.SIGTERM, Deadline(start + 3))
        assert trio.current_time() - start == pytest.approx(3)
        assert host.log[-2:] == ["app:SIGTERM", "app:SIGKILL"]


async def test_an_app_that_had_ctrl_c_from_the_terminal_gets_term_only_if_it_stays(autojump_clock: MockClock) -> None:
    async with governed() as (tree, host):
        await tree.start({})
        await tree.wait_ready()
        tree.drain()
        await tree.stop_app(0, Deadline(trio.current_time() + 10))
        assert host.log[-1] == "app:SIGTERM"


async def test_the_app_that_ends_while_draining_is_not_restarted(autojump_clock: MockClock) -> None:
    async with governed(planned(on_crash=True)) as (tree, host):
        await tree.start({})
        await tree.wait_ready()
        tree.drain()
        host.end("app", Exit(9))
        await trio.sleep(60)
        assert host.log.count("app") == 1


async def test_all_are_stopped_at_once_and_the_deaf_are_killed(autojump_clock: MockClock) -> None:
    async with governed(given=lambda host: host.deaf.add("traffic")) as (tree, _):
        await tree.start({})
        await tree.wait_ready()
        start = trio.current_time()
        await tree.stop_all(tree.sidecars, patience=2)
        assert trio.current_time() - start == pytest.approx(2)
        assert {child.state for child in tree.sidecars} == {"stopped"}


async def test_without_a_keeper_the_service_is_degraded_and_stays_so(autojump_clock: MockClock) -> None:
    async with governed() as (tree, _):
        await tree.start({})
        await tree.wait_ready()
        tree.lose_keeper()
        assert tree.state == "degraded"
        await trio.sleep(5)
        assert tree.state == "degraded"


async def test_a_later_life_of_the_app_that_does_not_listen_is_a_crash(autojump_clock: MockClock) -> None:
    plan = planned(app="unix:/nowhere/app.sock", on_crash=True)
    async with governed(plan) as (tree, host):
        await tree.start({})
        await tree.wait_ready()
        host.silent.add("app")
        host.end("app", Exit(1))
        await tree.wait_until(lambda: tree.app is not None and tree.app.restarts == 2)
        assert host.log.count("app:SIGKILL") == 1
        assert not tree.over.is_set()


async def test_an_end_during_the_start_is_an_end_at_once(autojump_clock: MockClock) -> None:
    async with governed(given=lambda host: host.silent.add("proxy")) as (tree, host):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(tree.start, {})
            await trio.sleep(1)
            tree.end(Ending(Cause.SIGNAL))
        assert trio.current_time() < 2
        tree.drain()
        await tree.stop_app(signal.SIGTERM, Deadline(trio.current_time() + 3))
        await tree.stop_all(tree.sidecars, patience=1)
        assert "app" not in host.log
