"""The whole sidecar over real shared memory and a real broker; only the proxy is a stand-in."""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import msgspec
import pytest
import trio
from pannier import _native
from pannier.shared import framing
from pannier.shared.bus import Bus
from pannier.shared.errors import PannierError
from pannier.shared.messages import (
    CANARY,
    CONFIGURE,
    EVENTS,
    Canaries,
    CanaryProgress,
    Configure,
    Configured,
    Happening,
    Nothing,
    TrafficFault,
    TrafficMirror,
    TrafficService,
    TrafficStatus,
)
from pannier.shared.runtime import state_dir
from pannier.shared.sidecar import Context
from pannier.sidecars.traffic import service
from pannier.sidecars.traffic.config import Config, Injected, Match, Mirror, Route, Service, Shift

PAYMENTS = Service(subsets={"v1": {"version": "1"}, "v2": {"version": "2"}}, split={"v1": 100, "v2": 0})
SHIFT = Shift(to="v2", step=50, every="200ms", min_requests=10)
SLOW = msgspec.structs.replace(SHIFT, every="1m")
STABLE, CANARY_SLOT = 0, 1


def payments(shift: Shift | None = None, **changes: Any) -> Config:
    return Config(services={"payments": msgspec.structs.replace(PAYMENTS, shift=shift, **changes)})


class Running:
    """A traffic sidecar of the service `orders`, and who listens to it."""

    def __init__(self, cli: Bus, events: list[Happening], configure: Callable[[Config], Awaitable[Configured]]) -> None:
        self.cli = cli
        self.events = events
        self.configure = configure

    async def canary(self) -> CanaryProgress:
        [found] = (await self.cli.request("traffic", "canaries", Nothing(), Canaries)).canaries
        return found

    async def wait_canary(self, state: str) -> CanaryProgress:
        with trio.fail_after(5):
            while True:
                if (found := await self.canary()).state == state:
                    return found
                await trio.sleep(0.005)

    def said(self) -> list[tuple[str, str]]:
        return [(one.kind, one.severity) for one in self.events]


async def wait_for(condition: Callable[[], object]) -> None:
    with trio.fail_after(5):
        while not condition():  # noqa: ASYNC110 - shared memory has no event to wait for
            await trio.sleep(0.005)


@pytest.fixture
def start(broker, data_path, short_path: Path) -> Callable[..., object]:
    @asynccontextmanager
    async def started(config: Config) -> AsyncIterator[Running]:
        times = broker.seen.count(("ready", "traffic")) + 1
        events: list[Happening] = []

        async def configure(config: Config) -> Configured:
            request = Configure(framing.encode(config))
            return await broker.broker.request("traffic", CONFIGURE, request, Configured, timeout=5)

        async def listen(bus: Bus, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
            async with bus.subscribe(EVENTS, Happening) as happenings:
                task_status.started()
                async for happening in happenings:
                    events.append(happening)

        async with (
            broker.join("traffic", topics=[CANARY, EVENTS], fds=data_path.fds) as bus,
            broker.join() as cli,
            trio.open_nursery() as nursery,
        ):
            await nursery.start(listen, cli)
            context = Context("traffic", "orders", short_path, config, bus, bus.fds)
            nursery.start_soon(service.serve, context)
            await broker.wait_seen("ready", "traffic", times)
            yield Running(cli, events, configure)
            nursery.cancel_scope.cancel()

    return started


async def test_ready_means_routes_in_force(data_path, start) -> None:
    route = Route(name="old", hosts=["payments"], matches=[Match(prefix="/v1")], to={"payments/v1": 1})
    config = msgspec.structs.replace(payments(), routes=[route])
    async with start(config):
        assert data_path.split() == {"v1": 100, "v2": 0}
        assert [rule["name"] for rule in data_path.routes()["rules"]] == ["old"]
    assert data_path.split() == {"v1": 100, "v2": 0}


async def test_a_new_configuration_is_taken_or_refused_as_a_whole(data_path, start) -> None:
    async with start(Config()) as running:
        assert await running.configure(payments()) == Configured(live=True)
        assert data_path.split() == {"v1": 100, "v2": 0}
        broken = msgspec.structs.replace(
            payments(SHIFT), routes=[Route(name="a", matches=[Match(regex="(")]), Route(name="b")]
        )
        with pytest.raises(PannierError, match="the table of routes is refused") as caught:
            await running.configure(broken)
        assert "stays" in caught.value.hint
        assert data_path.routes()["rules"] == []
        assert (await running.cli.request("traffic", "canaries", Nothing(), Canaries)).canaries == []


async def test_configurations_that_come_again_are_what_they_were(data_path, start) -> None:
    data_path.discover(payments=["1", "2"])
    async with start(payments()) as running:
        for zone in ("a", "b", "a", "c", "d", "e", "b", "a", "a"):
            for split in ({"v1": 100, "v2": 0}, {"v1": 0, "v2": 100}):
                await running.configure(msgspec.structs.replace(payments(split=split), zone=zone))
                assert (data_path.routes()["zone"], data_path.split()) == (zone, split)
        for _ in range(2):
            await running.configure(msgspec.structs.replace(payments(SLOW), zone="a"))
            await wait_for(lambda: data_path.split() == {"v1": 50, "v2": 50})
            await running.configure(msgspec.structs.replace(payments(split={"v1": 0, "v2": 100}), zone="a"))
            assert data_path.split() == {"v1": 0, "v2": 100}, "the weights of a canary are no part of a configuration"


async def test_a_good_canary_arrives(data_path, start) -> None:
    data_path.discover(payments=["1", "2"])
    async with start(payments(SHIFT)) as running:
        assert data_path.split() == {"v1": 50, "v2": 50}
        data_path.calls(CANARY_SLOT, 100)
        await wait_for(lambda: data_path.split() == {"v1": 0, "v2": 100})
        assert (await running.canary()).state == "running"
        data_path.calls(CANARY_SLOT, 100)
        assert (await running.wait_canary("done")).weight == 100
        assert running.said() == [("canary.running", "info"), ("canary.running", "info"), ("canary.done", "info")]
        assert running.events[0].message == "payments/v2: running at 50 % of the calls"
    assert data_path.split() == {"v1": 0, "v2": 100}


async def test_a_bad_canary_is_taken_back_at_once_and_stays_so(data_path, start) -> None:
    data_path.discover(payments=["1", "2"])
    data_path.calls(STABLE, 1000, 1000)
    async with start(payments(SLOW)) as running:
        data_path.calls(STABLE, 1000, 1000)
        data_path.calls(CANARY_SLOT, 30, 2)
        await wait_for(lambda: data_path.split() == {"v1": 100, "v2": 0})
        found = await running.canary()
        assert (found.state, found.weight, found.step_success) == ("aborted", 0, pytest.approx(28 / 30))
        assert found.reason == "success 93.3 % < 99 % over 30 requests"
        await wait_for(lambda: running.said()[-1] == ("canary.aborted", "warning"))
        assert running.events[-1].message.endswith(
            "aborted at 0 % of the calls: success 93.3 % < 99 % over 30 requests"
        )
    async with start(payments(SLOW)) as running:
        assert data_path.split() == {"v1": 100, "v2": 0}
        assert (await running.canary()).reason == "success 93.3 % < 99 % over 30 requests"
        assert await running.configure(payments(msgspec.structs.replace(SLOW, started=time.time())))
        assert data_path.split() == {"v1": 50, "v2": 50}


async def test_a_restart_goes_on_in_the_middle_of_a_step(data_path, start) -> None:
    data_path.discover(payments=["1", "2"])
    async with start(payments(SLOW)) as running:
        first = await running.canary()
        data_path.calls(CANARY_SLOT, 9, 9)
    async with start(payments(SLOW)) as running:
        second = await running.canary()
        assert second.next_step_in_s < first.next_step_in_s
        assert second.state == "running"
        data_path.calls(CANARY_SLOT, 1)
        assert (await running.wait_canary("aborted")).reason == "success 10.0 % < 99 % over 10 requests"


async def test_a_shift_that_is_undone_is_over_and_forgotten(data_path, start) -> None:
    data_path.discover(payments=["1", "2"])
    file = state_dir() / "canary" / "orders.json"
    async with start(payments(SLOW)) as running:
        assert json.loads(file.read_bytes())["canaries"].keys() == {"payments"}
        await running.configure(payments())
        assert data_path.split() == {"v1": 100, "v2": 0}
        assert not file.exists()


async def test_without_an_endpoint_it_waits(data_path, start) -> None:
    data_path.discover(payments=["1"])
    async with start(payments(SLOW)) as running:
        assert data_path.split() == {"v1": 100, "v2": 0}
        assert (await running.wait_canary("paused")).reason == "v2 has no endpoint"
        data_path.discover(payments=["1", "2"])
        await wait_for(lambda: data_path.split() == {"v1": 50, "v2": 50})
        assert (await running.canary()).state == "running"


async def test_static_endpoints_of_the_profile_are_enough(data_path, start) -> None:
    base = {
        "service": "orders",
        "lifecycle": "serving",
        "app": None,
        "clusters": [
            {
                "name": "payments",
                "endpoints": [
                    {"address": f"h:{n}", "slot": n, "incarnation": 1, "metadata": {"version": str(n + 1)}}
                    for n in (STABLE, CANARY_SLOT)
                ],
            }
        ],
    }
    _native.TableWriter("base", data_path.fds["table.base"]).publish(msgspec.msgpack.encode(base))
    async with start(payments(SLOW)) as running:
        assert data_path.split() == {"v1": 50, "v2": 50}
        data_path.calls(CANARY_SLOT, 10, 10)
        await running.wait_canary("aborted")


async def test_progress_is_retained_and_goes_on(data_path, start) -> None:
    data_path.discover(payments=["1", "2"])
    async with start(payments(SLOW)) as running:
        async with running.cli.subscribe(CANARY, Canaries) as told:
            with trio.fail_after(5):
                [one] = (await anext(told)).canaries
                [two] = (await anext(told)).canaries
        assert (one.service, one.subset, one.weight, one.target, one.state) == ("payments", "v2", 50, 100, "running")
        assert two.next_step_in_s < one.next_step_in_s


async def test_the_status_tells_what_is_done_with_calls(data_path, start) -> None:
    data_path.discover(payments=["1", "2", "2"])
    fault = Injected(delay="1s", percent=5.0, until=99.0)
    config = msgspec.structs.replace(
        payments(SLOW, fault=fault), routes=[Route(name="all", mirror=Mirror("stock", 10.0))], allow=["fault", "mirror"]
    )
    async with start(config) as running:
        found = await running.cli.request("traffic", "status", Nothing(), TrafficStatus)
        assert found.services == [TrafficService("payments", {"v1": 1, "v2": 2}, {"v1": 50, "v2": 50})]
        assert [one.state for one in found.canaries] == ["running"]
        assert found.mirrors == [TrafficMirror("", "all", "stock", 10.0)]
        assert found.faults == [TrafficFault("payments", "", "1s", None, 5.0, 99.0)]


async def test_a_torn_file_is_said_and_ignored(data_path, start) -> None:
    folder = state_dir() / "canary"
    folder.mkdir()
    (folder / "orders.json").write_bytes(b'{"service":')
    data_path.discover(payments=["1", "2"])
    async with start(payments(SLOW)) as running:
        assert (await running.canary()).state == "running"
        assert running.said()[0] == ("store", "error")
        assert "cannot be used" in running.events[0].message
    async with start(payments(SLOW)) as running:
        assert running.events == []


async def test_a_file_that_cannot_be_written_stops_nothing_and_is_tried_again(data_path, start) -> None:
    data_path.discover(payments=["1", "2"])
    draft = state_dir() / "canary" / "orders.new"
    draft.mkdir(parents=True)
    async with start(payments(SLOW)) as running:
        data_path.calls(CANARY_SLOT, 10, 10)
        await running.wait_canary("aborted")
        assert [kind for kind, _ in running.said()] == ["canary.running", "store", "canary.aborted"]
        draft.rmdir()
        await wait_for((state_dir() / "canary" / "orders.json").exists)


async def test_the_heartbeat_moves(data_path, start) -> None:
    async with start(Config()):
        reader = _native.TableReader("routes", data_path.fds["table.routes"])
        pid, first = reader.writer()
        assert pid == os.getpid()
        await wait_for(lambda: reader.writer()[1] > first)


async def test_a_newer_writer_ends_it(data_path, start) -> None:
    with pytest.RaisesGroup(pytest.RaisesExc(PannierError, match="another traffic"), flatten_subgroups=True):
        async with start(Config()) as running:
            _native.TableWriter("routes", data_path.fds["table.routes"])
            with pytest.raises(PannierError, match="another traffic"):
                await running.configure(payments())
            await trio.sleep(5)


async def test_what_was_not_granted_is_said(broker, data_path, short_path: Path) -> None:
    async with broker.join("traffic", fds={"counters": data_path.fds["counters"]}) as bus:
        context = Context("traffic", "orders", short_path, Config(), bus, bus.fds)
        with pytest.raises(PannierError, match=r"granted no table\.routes"):
            await service.serve(context)


async def test_a_first_table_that_is_refused_ends_it_and_leaves_what_was_in_force(data_path, start) -> None:
    async with start(payments()):
        pass
    broken = Config(routes=[Route(name="a", matches=[Match(regex="(")])])
    with pytest.RaisesGroup(pytest.RaisesExc(PannierError, match="is refused"), flatten_subgroups=True):
        async with start(broken):
            pass
    assert data_path.split() == {"v1": 100, "v2": 0}


async def test_the_process_survives_sigkill_in_the_middle_of_a_step_and_leaves_on_sigterm(broker, data_path) -> None:
    data_path.discover(payments=["1", "2"])
    environ = {**os.environ, "PANNIER_BUS": str(broker.path)}

    async def spawn(times: int) -> trio.Process:
        token = broker.grants.issue(
            "traffic", topics=[CANARY, EVENTS], fds=data_path.fds, config=framing.encode(payments(SLOW))
        )
        process = await trio.lowlevel.open_process(
            [sys.executable, "-m", "pannier.sidecars.traffic"], env={**environ, "PANNIER_TOKEN": token}
        )
        await broker.wait_seen("ready", "traffic", times)
        return process

    with trio.fail_after(20):
        process = await spawn(1)
        try:
            assert data_path.split() == {"v1": 50, "v2": 50}
            data_path.calls(CANARY_SLOT, 9, 9)
        finally:
            process.kill()
        await process.wait()
        process = await spawn(2)
        try:
            data_path.calls(CANARY_SLOT, 1)
            await wait_for(lambda: data_path.split() == {"v1": 100, "v2": 0})
            process.terminate()
            assert await process.wait() == 0
        finally:
            process.kill()
    assert data_path.split() == {"v1": 100, "v2": 0}
