"""The whole sidecar over real shared memory and a real broker; only the proxy is a stand-in."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio
from pannier import _native
from pannier.shared import framing
from pannier.shared.bus import Bus
from pannier.shared.errors import PannierError, UsageError
from pannier.shared.messages import (
    CONFIGURE,
    EJECTIONS,
    EVENTS,
    BreakerStates,
    Configure,
    Configured,
    Ejection,
    Ejections,
    Happening,
    LimitStates,
    Nothing,
    Reset,
    ResetDone,
    TakeOut,
)
from pannier.shared.sidecar import Context
from pannier.sidecars.resilience import service
from pannier.sidecars.resilience.config import Breaker, Bulkhead, Config, Outlier, Service, ServiceBreaker

UNIFIED = Config(services={"*": Service(breaker=Breaker(success_rate=0.8))})
WHOLE = Config(services={"*": Service(service_breaker=ServiceBreaker(open="1s", half_open_calls=2))})
EJECTING = Config(
    services={"*": Service("outlier", outlier=Outlier(interval="300ms", base_ejection="500ms", max_ejection="1s"))}
)


class Told:
    """The newest value of `ejections`, and all events so far."""

    def __init__(self) -> None:
        self.out: list[Ejection] | None = None
        self.events: list[Happening] = []
        self._news = trio.Event()

    async def follow(self, bus: Bus, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        async with (
            bus.subscribe(EJECTIONS, Ejections) as ejections,
            bus.subscribe(EVENTS, Happening) as events,
            trio.open_nursery() as nursery,
        ):
            nursery.start_soon(self._read_ejections, ejections)
            task_status.started()
            async for happening in events:
                self.events.append(happening)
                self._wake()

    async def _read_ejections(self, ejections) -> None:
        async for one in ejections:
            self.out = one.endpoints
            self._wake()

    def _wake(self) -> None:
        self._news.set()
        self._news = trio.Event()

    async def wait_for(self, condition: Callable[[], object]) -> None:
        """Waits until the condition holds of what was told."""
        with trio.fail_after(5):
            while not condition():
                await self._news.wait()

    async def wait_out(self, *addresses: str) -> list[Ejection]:
        """Waits until exactly these are out."""
        await self.wait_for(lambda: self.out is not None and {one.endpoint for one in self.out} == set(addresses))
        return self.out or []

    async def wait_said(self, text: str) -> Happening:
        await self.wait_for(lambda: any(text in one.message for one in self.events))
        return next(one for one in self.events if text in one.message)


class Running:
    """A resilience sidecar of the service `orders`, and who listens to it."""

    def __init__(self, cli: Bus, told: Told, configure: Callable[[Config], Awaitable[Configured]]) -> None:
        self.cli = cli
        self.told = told
        self.configure = configure

    async def breakers(self) -> dict[str, str]:
        """The states that the verb tells, by address."""
        found = await self.cli.request("resilience", "breakers", Nothing(), BreakerStates)
        return {one.endpoint: one.state for one in found.breakers}


async def wait_for(condition: Callable[[], object]) -> None:
    with trio.fail_after(5):
        while not condition():  # noqa: ASYNC110 - shared memory has no event to wait for
            await trio.sleep(0.005)


@pytest.fixture
def start(broker, data_path, short_path: Path) -> Callable[..., object]:
    @asynccontextmanager
    async def started(config: Config) -> AsyncIterator[Running]:
        times = broker.seen.count(("ready", "resilience")) + 1

        async def configure(config: Config) -> Configured:
            return await broker.broker.request(
                "resilience", CONFIGURE, Configure(framing.encode(config)), Configured, timeout=5
            )

        async with (
            broker.join("resilience", topics=[EJECTIONS, EVENTS], fds=data_path.fds) as bus,
            broker.join() as cli,
            trio.open_nursery() as nursery,
        ):
            told = Told()
            await nursery.start(told.follow, cli)
            context = Context("resilience", "orders", short_path, config, bus, bus.fds)
            nursery.start_soon(service.serve, context)
            await broker.wait_seen("ready", "resilience", times)
            yield Running(cli, told, configure)
            nursery.cancel_scope.cancel()

    return started


async def test_ready_means_limits_in_force_and_nobody_out(data_path, start) -> None:
    data_path.discover(payments=2)
    async with start(Config()) as running:
        assert data_path.limits()["services"]["*"]["breaker"]["consecutive_failures"] == 7
        assert await running.told.wait_out() == []
        assert await running.breakers() == {}


async def test_what_the_proxy_does_is_told_with_its_reason(data_path, start) -> None:
    [member, other] = data_path.discover(payments=2)["payments"]
    async with start(Config()) as running:
        data_path.put_word(member.place, "open", 60_000, failures=7, times=1)
        data_path.put_word(other.place, "closed", failures=3)
        data_path.calls(member, 7, 7)
        [ejection] = await running.told.wait_out("payments:1")
        assert (ejection.service, ejection.state, ejection.times) == ("payments", "open", 1)
        assert ejection.reason == "7 failures in a row"
        assert abs(ejection.until_ms - time.time() * 1000 - 60_000) < 2_000
        happening = await running.told.wait_said("payments at payments:1 is out for ")
        assert (happening.source, happening.kind, happening.severity) == ("resilience", "endpoint.out", "warning")
        assert await running.breakers() == {"payments:1": "open", "payments:2": "closed"}
        data_path.put_word(member.place, "closed")
        data_path.calls(member, 1)
        assert await running.told.wait_out() == []
        await running.told.wait_said("payments at payments:1 is back: the request that tried it succeeded")


async def test_a_breaker_opens_when_too_little_succeeds(data_path, start) -> None:
    [good, bad] = data_path.discover(payments=2)["payments"]
    async with start(UNIFIED) as running:
        for member, failures in ((good, 0), (bad, 5)):
            data_path.calls(member, 10, failures)
        [ejection] = await running.told.wait_out("payments:2")
        assert ejection.reason == "success 50 % < 80 % of 10 requests in 10s"
        word = data_path.word(bad.place)
        assert (word.state, word.times) == ("open", 1)
        assert 0 < word.until_ms - _native.monotonic_ms() <= 1500


async def test_an_outlier_is_ejected_for_its_time_and_is_back(data_path, start) -> None:
    members = data_path.discover(payments=10)["payments"]
    async with start(EJECTING) as running:
        for member in members:
            data_path.calls(member, 200, 100 if member is members[9] else 0)
        [ejection] = await running.told.wait_out("payments:10")
        assert ejection.reason.startswith("ejected by success rate: 50.0 % < 66.5 %")
        assert data_path.word(members[9].place).times == 1
        assert await running.told.wait_out() == []
        await running.told.wait_said("payments at payments:10 is back: the time of its ejection is over")


async def test_a_service_breaker_opens_and_closes_by_the_calls_that_try_it(data_path, start) -> None:
    [one, two] = data_path.discover(payments=2)["payments"]
    async with start(WHOLE) as running:
        breaker = data_path.limits()["services"]["payments"]["service_breaker"]
        place = (breaker["slot"], breaker["incarnation"])
        assert place == (3584, 1)
        data_path.calls(one, 60, 60)
        data_path.calls(two, 40, 0)
        [ejection] = await running.told.wait_out("")
        assert (ejection.service, ejection.reason) == ("payments", "failures 60 % ≥ 50 % of 100 calls")
        assert data_path.word(place).state == "open"
        data_path.put_word(place, "half_open", 1000, times=1)
        data_path.calls(one, 2, 2)
        await running.told.wait_said("failures 100 % ≥ 50 % of 2 calls that tried it")
        data_path.put_word(place, "half_open", 1000, times=2)
        data_path.calls(two, 2, 0)
        assert await running.told.wait_out() == []
        await running.told.wait_said("payments is back: failures 0 % < 50 % of 2 calls that tried it")
        assert data_path.word(place).state == "closed"


async def test_services_with_a_breaker_come_and_go(data_path, start) -> None:
    data_path.discover(payments=1)
    async with start(WHOLE):
        data_path.discover(payments=1, stock=1)
        await wait_for(lambda: "stock" in data_path.limits()["services"])
        assert data_path.limits()["services"]["stock"]["service_breaker"]["slot"] == 3585
        data_path.discover(stock=1)
        await wait_for(lambda: "payments" not in data_path.limits()["services"])
        assert data_path.limits()["services"]["stock"]["service_breaker"]["slot"] == 3585


async def test_a_place_that_is_given_anew_starts_closed(data_path, start) -> None:
    data_path.discover(payments=1)
    data_path.put_word((3584, 1), "open", 60_000, times=3)
    async with start(WHOLE) as running:
        assert data_path.word((3584, 1)).state == "closed"
        assert await running.breakers() == {}


async def test_a_restart_keeps_places_and_whoever_is_out(data_path, start) -> None:
    [one] = data_path.discover(payments=1)["payments"]
    async with start(WHOLE) as running:
        data_path.calls(one, 100, 100)
        await running.told.wait_out("")
    place = (3584, 1)
    assert data_path.word(place).state == "open"
    async with start(WHOLE) as running:
        # What the one before has said last is still there until this one has looked.
        foreign = "it was out before resilience was started"
        await running.told.wait_for(lambda: [one.reason for one in running.told.out or []] == [foreign])
        assert data_path.word(place).state == "open"
        assert running.told.events == [], "it is out, and that is no news"
        data_path.put_word(place, "half_open", 1000, times=1)
        data_path.calls(one, 2, 0)
        assert await running.told.wait_out() == []


async def test_a_new_configuration_is_taken_or_refused_as_a_whole(data_path, start) -> None:
    [one] = data_path.discover(payments=1)["payments"]
    async with start(Config()) as running:
        assert await running.configure(UNIFIED) == Configured(live=True)
        data_path.calls(one, 10, 5)
        await running.told.wait_out("payments:1")
        bulkhead = Config(services={"payments": Service(bulkhead=Bulkhead(concurrent=3))})
        await running.configure(bulkhead)
        assert data_path.limits()["services"]["payments"]["bulkhead"]["concurrent"] == 3
        with pytest.raises(PannierError, match="the table of limits is refused"):
            await running.configure(Config(services={"a": Service(breaker=Breaker(penalty_min="2m"))}))
        assert "a" not in data_path.limits()["services"]
        assert list(data_path.limits()["services"]) == ["payments", "*"]


async def test_an_operator_takes_endpoints_out_and_in(data_path, start) -> None:
    data_path.discover(payments=2, stock=1)
    policies = Config(services={"stock": Service("none")})
    async with start(policies) as running:

        async def ask(verb: str, body, reply=Nothing):
            return await running.cli.request("resilience", verb, body, reply)

        await ask("open", TakeOut("payments", "payments:2", 60_000))
        [ejection] = await running.told.wait_out("payments:2")
        assert ejection.reason == "taken out by hand"
        with pytest.raises(PannierError, match="payments at payments:2 is out already"):
            await ask("open", TakeOut("payments", "payments:2", 60_000))
        with pytest.raises(UsageError, match="less than an hour"):
            await ask("open", TakeOut("payments", "payments:1", 3_600_000))
        with pytest.raises(UsageError, match="its failure_policy is none"):
            await ask("open", TakeOut("stock", "stock:1", 60_000))
        with pytest.raises(UsageError, match="no service paymets"):
            await ask("reset", Reset("paymets"), ResetDone)
        assert await ask("reset", Reset("payments", "payments:1"), ResetDone) == ResetDone([])
        assert await ask("reset", Reset("payments"), ResetDone) == ResetDone(["payments:2"])
        assert await running.told.wait_out() == []
        await running.told.wait_said("payments at payments:2 is back: taken in by hand")


async def test_limits_are_what_the_proxy_has_in_use(data_path, start) -> None:
    data_path.gauge("payments", "requests", 1000, 1024)
    data_path.gauge("", "shedding", 3, 200)
    async with start(Config()) as running:
        found = await running.cli.request("resilience", "limits", Nothing(), LimitStates)
        assert [(one.service, one.limit, one.used, one.most) for one in found.limits] == [
            ("", "shedding", 3, 200),
            ("payments", "requests", 1000, 1024),
        ]


async def test_the_heartbeat_moves(data_path, start) -> None:
    async with start(Config()):
        reader = _native.TableReader("limits", data_path.fds["table.limits"])
        pid, first = reader.writer()
        assert pid == os.getpid()
        await wait_for(lambda: reader.writer()[1] > first)


async def test_a_newer_writer_ends_it(data_path, start) -> None:
    with pytest.RaisesGroup(pytest.RaisesExc(PannierError, match="another resilience"), flatten_subgroups=True):
        async with start(Config()) as running:
            _native.TableWriter("limits", data_path.fds["table.limits"])
            with pytest.raises(PannierError, match="another resilience"):
                await running.configure(EJECTING)
            await trio.sleep(5)


async def test_what_was_not_granted_is_said(broker, data_path, short_path: Path) -> None:
    async with broker.join("resilience", fds={"hot": data_path.fds["hot"]}) as bus:
        context = Context("resilience", "orders", short_path, Config(), bus, bus.fds)
        with pytest.raises(PannierError, match=r"granted no table\.limits, counters"):
            await service.serve(context)


@pytest.mark.semantics("resilience", "Who is out stays out while resilience is dead, and after it came back")
async def test_the_process_survives_sigkill_with_whoever_is_out_and_leaves_on_sigterm(broker, data_path) -> None:
    [one] = data_path.discover(payments=1)["payments"]
    environ = {**os.environ, "PANNIER_BUS": str(broker.path)}

    async def spawn(times: int) -> trio.Process:
        token = broker.grants.issue(
            "resilience", topics=[EJECTIONS, EVENTS], fds=data_path.fds, config=framing.encode(WHOLE)
        )
        process = await trio.lowlevel.open_process(
            [sys.executable, "-m", "pannier.sidecars.resilience"], env={**environ, "PANNIER_TOKEN": token}
        )
        await broker.wait_seen("ready", "resilience", times)
        return process

    with trio.fail_after(20):
        process = await spawn(1)
        try:
            data_path.calls(one, 100, 100)
            await wait_for(lambda: data_path.word((3584, 1)).state == "open")
        finally:
            process.kill()
        await process.wait()
        process = await spawn(2)
        try:
            assert data_path.word((3584, 1)).state == "open"
            process.terminate()
            assert await process.wait() == 0
        finally:
            process.kill()
    assert data_path.word((3584, 1)).state == "open"
    assert data_path.limits() is not None
