"""What the shop's live view asks a mesh for: real buses with stand-in supervisors behind them."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import trio
from mesh import leftovers
from pannier.shared.bus import Bus, open_bus
from pannier.shared.messages import (
    EVENTS,
    Happening,
    Nothing,
    Process,
    StatReply,
    StatRequest,
    StatRow,
    Status,
    TrafficFault,
    TrafficStatus,
)
from pannier.shared.runtime import service_dir
from pannier.shared.unix import listen_unix
from pannier.supervisor.broker import Broker, Grants
from watch import Watch, read_urls


@dataclass
class StandIn:
    """A supervisor with an app that becomes `ready` when the test says so, and a traffic sidecar if it has `faults`."""

    name: str
    ready: bool = True
    faults: list[TrafficFault] = field(default_factory=list)
    asked: trio.Event = field(default_factory=trio.Event)

    async def status(self, _: Nothing) -> Status:
        self.asked.set()
        state = "ready" if self.ready else "starting"
        processes = [Process("app", "app", 0, state, 0, 1 << 20, 0.0, self.ready)]
        if self.faults:
            processes.append(Process("traffic", "sidecar", 0, "ready", 0, 1 << 20, 0.0, True))
        return Status(self.name, "dev", 1, processes)

    async def stat(self, asked: StatRequest) -> StatReply:
        return StatReply(asked.window_s, [StatRow(self.name, "/orders", "inbound", 5, 1.0, 0.5, 1.0, 2.0, 3.0)])

    async def traffic(self, _: Nothing) -> TrafficStatus:
        return TrafficStatus(faults=self.faults)


@asynccontextmanager
async def running(stand_in: StandIn) -> AsyncIterator[Bus]:
    """The bus as the observability sidecar has it."""
    path = service_dir(stand_in.name) / "bus.sock"
    grants = Grants()
    tokens = {role: grants.issue(role) for role in ("observability", "traffic")}
    broker = Broker(service=stand_in.name, grants=grants)
    broker.serve_verb("status", Nothing, stand_in.status)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(broker.serve, listen_unix(path))
        async with (
            open_bus(path, role="observability", token=tokens["observability"]) as bus,
            open_bus(path, role="traffic", token=tokens["traffic"]) as traffic,
        ):
            bus.serve("stat", StatRequest, stand_in.stat)
            traffic.serve("status", Nothing, stand_in.traffic)
            yield bus
        nursery.cancel_scope.cancel()
    path.unlink()


@pytest.fixture(autouse=True)
def runtime(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("PANNIER_RUNTIME_DIR", str(tmp_path / "run"))
    return tmp_path / "run"


async def test_ready_is_when_every_process_of_every_service_is() -> None:
    shop, orders = StandIn("shop"), StandIn("orders", ready=False)
    watch = Watch(["shop", "orders"])
    assert watch.waiting_for() == ["shop", "orders"]

    with trio.fail_after(5):
        async with trio.open_nursery() as nursery, running(shop), running(orders):
            nursery.start_soon(watch.run)
            await shop.asked.wait()
            await orders.asked.wait()
            while watch.waiting_for() != ["orders/app"]:
                await trio.lowlevel.checkpoint()
            orders.ready = True
            await watch.wait_ready()
            assert [status.name for status in watch.statuses] == ["shop", "orders"]
            nursery.cancel_scope.cancel()


async def test_figures_of_a_supervisor_that_went_away_vanish_and_its_last_status_stays() -> None:
    watch = Watch(["shop"])

    with trio.fail_after(5):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(watch.run)
            async with running(StandIn("shop")):
                while not watch.rows:
                    await trio.lowlevel.checkpoint()
                assert watch.rows[0].route == "/orders"
            while watch.rows:
                await trio.lowlevel.checkpoint()
            nursery.cancel_scope.cancel()
        await watch.refresh()

    assert [status.name for status in watch.statuses] == ["shop"]


async def test_what_traffic_and_resilience_say_is_heeded_and_what_others_say_is_not() -> None:
    heard: list[tuple[str, str]] = []
    told = trio.Event()

    def heed(service: str, happening: Happening) -> None:
        heard.append((service, happening.message))
        told.set()

    with trio.fail_after(5):
        async with trio.open_nursery() as nursery, running(StandIn("orders")) as bus:
            nursery.start_soon(Watch(["orders"], heed=heed).run)
            while not told.is_set():
                for source in ("discovery", "traffic"):
                    await bus.publish(EVENTS, Happening(source, "canary.aborted", source, "warning", 0))
            nursery.cancel_scope.cancel()

    assert set(heard) == {("orders", "traffic")}


async def test_a_service_with_traffic_is_asked_what_is_done_with_its_calls() -> None:
    faults = [TrafficFault("catalog", "", None, 503, 10.0, None)]
    watch = Watch(["shop"])

    with trio.fail_after(5):
        async with trio.open_nursery() as nursery, running(StandIn("shop", faults=faults)):
            nursery.start_soon(watch.run)
            while not watch.traffic:
                await trio.lowlevel.checkpoint()
            assert (watch.traffic["shop"].faults, watch.breakers) == (faults, {})
            nursery.cancel_scope.cancel()


async def test_urls_are_those_of_the_services_that_have_some(runtime: Path) -> None:
    urls = {"inbound": "http://127.0.0.1:18080"}
    (service_dir("shop") / "urls.json").write_text(json.dumps(urls))

    assert read_urls(["shop", "orders"]) == {"shop": urls}


async def test_what_is_left_behind_is_named(runtime: Path) -> None:
    folder = service_dir("shop")
    gone = Status("orders", "dev", 1, [Process("app", "app", 0, "stopped", 0, 0, 0.0, False)])
    alive = Status("orders", "dev", 1, [Process("app", "app", 1, "ready", 0, 0, 0.0, True)])

    assert leftovers(["shop", "orders"], [gone]) == [str(folder)]
    assert leftovers(["orders"], [alive]) == ["orders/app (pid 1)"]
