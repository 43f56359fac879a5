"""A service over a keeper and memory that exist on paper: what it does at its end, and what it tells."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import msgspec
import pytest
import trio
from pannier.shared.messages import LOGS
from pannier.shared.profile import Profile
from pannier.supervisor.compose import compose
from pannier.supervisor.ending import Cause, Ending
from pannier.supervisor.keeper_birth import SOCKET_NAME
from pannier.supervisor.plan import Arguments, Place
from pannier.supervisor.restart import Exit
from pannier.supervisor.service import Service
from trio.testing import MockClock

from tests.supervisor.on_paper import Keeper, Segments


@pytest.fixture(autouse=True)
def no_orphans(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pannier.supervisor.service.kill_orphans", lambda: None)


def is_there(path: Path) -> bool:
    return os.path.exists(path)


@pytest.fixture
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("s")
    (directory / SOCKET_NAME).touch()
    return directory


@asynccontextmanager
async def served(directory: Path) -> AsyncIterator[tuple[Service, Keeper]]:
    """A service whose proxy and app are ready."""
    keeper = Keeper()
    place = Place(str(directory), {}, "/bin/pannierd", 2, {"inbound": 1, "outbound": 2})
    plan = compose(Profile(), Arguments(name="orders", command=("serve",)), place, {})
    async with trio.open_nursery() as nursery:
        service = Service(keeper, plan, Segments(), nursery)  # type: ignore[arg-type]
        nursery.start_soon(_say_ready, service)
        await service.start()
        await service.tree.wait_ready()
        yield service, keeper
        nursery.cancel_scope.cancel()


async def _say_ready(service: Service) -> None:
    while True:
        await trio.sleep(0.1)
        proxy = service.tree.proxy
        proxy.said_ready(proxy.pid)
        proxy.beat()


async def test_what_a_lost_keeper_could_not_clear_away_is_cleared_away(
    directory: Path, autojump_clock: MockClock
) -> None:
    async with served(directory) as (service, keeper):
        keeper.lose()
        await service.keeper_gone.wait()
        await service.shut_down()
    assert not is_there(directory)


async def test_the_files_of_a_successor_are_left_alone(directory: Path, autojump_clock: MockClock) -> None:
    async with served(directory) as (service, keeper):
        keeper.lose()
        await service.keeper_gone.wait()
        (directory / SOCKET_NAME).unlink()
        (directory / SOCKET_NAME).touch()
        await service.shut_down()
    assert is_there(directory / SOCKET_NAME)


async def test_a_keeper_that_ends_in_order_clears_away_itself(directory: Path, autojump_clock: MockClock) -> None:
    async with served(directory) as (service, _):
        await service.shut_down()
    assert is_there(directory / SOCKET_NAME), "this one did not, and then the folder may be a successor's"


async def test_a_keeper_that_is_stopped_does_not_keep_the_service_from_ending(
    directory: Path, autojump_clock: MockClock
) -> None:
    async with served(directory) as (service, keeper):
        keeper.stopped = True
        start = trio.current_time()
        await service.stop(Ending(Cause.APP))
        assert trio.current_time() - start < 5
    assert not is_there(directory)


async def test_a_proxy_that_dies_while_it_drains_is_not_waited_for(directory: Path, autojump_clock: MockClock) -> None:
    async with served(directory) as (service, keeper):
        start = trio.current_time()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(service.stop, Ending(Cause.ORDER))
            await trio.sleep(1)
            assert keeper.sent == [], "the app goes on while the proxy drains"
            keeper.end("proxy", 9)
        assert trio.current_time() - start < 2


async def test_an_app_that_may_not_be_signalled_does_not_keep_the_service_from_ending(
    directory: Path, autojump_clock: MockClock
) -> None:
    async with served(directory) as (service, keeper):
        keeper.forbidden.add("app")
        start = trio.current_time()
        await service.stop(Ending(Cause.TIME))
        assert trio.current_time() - start < service.plan.drain + 5
        said = [line.text for line in service.tail.last(10)]
        assert len([text for text in said if "runs as another user" in text]) == 1


async def test_lines_are_told_to_who_listens_and_to_nobody_else(
    directory: Path, monkeypatch: pytest.MonkeyPatch, autojump_clock: MockClock
) -> None:
    async with served(directory) as (service, _):
        told: list[str] = []

        async def publish(topic: str, body: msgspec.Struct, *, retain: bool = False) -> None:
            await trio.lowlevel.checkpoint()
            told.append(topic)

        monkeypatch.setattr(service.broker, "publish", publish)
        await service.tail.add("app", "stdout", ["one", "two"])
        assert LOGS not in told
        monkeypatch.setattr(service.broker, "read", lambda topic: topic == LOGS)
        await service.tail.add("app", "stdout", ["three", "four"])
        assert told.count(LOGS) == 1


async def test_a_proxy_that_says_that_it_is_ready_before_the_keeper_says_that_it_runs_is_ready(
    directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with served(directory) as (service, keeper):
        spawn, proxy = keeper.spawn, service.tree.proxy

        async def late(name: str, *words: object, **more: object) -> int:
            pid = await spawn(name, *words, **more)
            service._notified(pid, {"READY": "1"})
            return pid

        monkeypatch.setattr(keeper, "spawn", late)
        before = proxy.pid
        service.tree.ended(proxy.name, before, Exit.by_signal(9))
        with trio.fail_after(5):
            while proxy.pid in {0, before}:
                await trio.lowlevel.checkpoint()
        assert proxy.ready
