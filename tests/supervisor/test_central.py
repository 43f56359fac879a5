"""The Central Mesh of a real service on a real bus; the data path says what the test writes."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Any

import msgspec
import pytest
import trio
from pannier.shared.central import CENTRAL_STATE, CentralForce, CentralState, CentralStatus, Inputs
from pannier.shared.errors import PannierError, UsageError
from pannier.shared.messages import EVENTS, Changed, Happening, LiveChange, Nothing
from pannier.supervisor import adoption
from pannier.supervisor.adoption import Found
from pannier.supervisor.central import CentralMesh
from pannier.supervisor.central_table import Forced
from pannier.supervisor.cli.profile_change import live_settings
from pannier.supervisor.tree import OTHER

from tests.supervisor.steered import DEV, Host, Running, running

LEANS: dict[str, Any] = {
    "outbound": {"unknown": "deny"},
    "central": {"addresses": ["127.0.0.1:15090"]},
}


@pytest.fixture(autouse=True)
def no_orphans(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pannier.supervisor.service.kill_orphans", lambda: None)


@pytest.fixture
def host(short_path: Path, nursery: trio.Nursery) -> Host:
    return Host(short_path / "bus.sock", nursery)


def forced(it: Running) -> Forced | None:
    return it.segments.central[1]


async def force(it: Running, weight: float | None) -> CentralStatus:
    found: CentralStatus = await it.ask("central.force", CentralForce(weight), CentralStatus)
    return found


async def test_it_is_published_at_the_start_and_taken_back_with_its_section(host: Host) -> None:
    async with running(host, **LEANS) as it:
        payload, _ = it.segments.central
        assert payload is not None
        assert payload["addresses"] == ["127.0.0.1:15090"]
        await it.set(("central.dwell", "40s"))
        payload, _ = it.segments.central
        assert payload is not None
        assert payload["controller"]["dwell_ms"] == 40000
        await force(it, 40.0)
        made = await it.use("dev", DEV)
        assert made.lines[-1] == "- drop the live settings of central"
        assert it.segments.central[0] is None
        assert it.service.forced is None
        assert not (await it.ask("central.status", Nothing(), CentralStatus)).configured
        with pytest.raises(UsageError, match="orders has no Central Mesh"):
            await force(it, 40.0)


async def test_what_the_hint_says_gives_a_service_a_central_mesh(host: Host) -> None:
    async with running(host) as it:
        with pytest.raises(UsageError, match="orders has no Central Mesh") as caught:
            await force(it, 40.0)
        words = shlex.split(caught.value.hint.partition("pannier profile set ")[2].partition(" (")[0])
        await it.ask("live.set", LiveChange(live_settings(words)), Changed)
        assert (await force(it, 40.0)).configured


async def test_it_comes_to_a_service_that_runs_with_a_listener_and_another_proxy(host: Host) -> None:
    async with running(host) as it:
        assert it.segments.central == (None, None)
        proxy = it.pids()["proxy"]
        made = await it.set(("outbound.unknown", "deny"), ("central", LEANS["central"]))
        assert "~ replace proxy: it listens for passthrough, too" in made.lines
        await it.wait_until(lambda: OTHER not in it.service.tree.children)
        assert it.pids()["proxy"] != proxy
        assert it.service.plan.place.ports["passthrough"] == 9000
        payload, _ = it.segments.central
        assert payload is not None
        assert payload["passthrough"] == "127.0.0.1:9000"
        assert payload == adoption.decode(host.note).plan.central


async def test_a_change_that_is_refused_leaves_neither_table_nor_listener(host: Host) -> None:
    async with running(host) as it:
        refused = {**LEANS, "sidecars": {**DEV["sidecars"], "traffic": {"behaviour": "ends"}}}
        with pytest.raises(PannierError):
            await it.use("central", refused)
        assert it.segments.central == (None, None)
        assert "passthrough" not in it.service.plan.place.ports


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ({"outbound": {"unknown": "deny"}}, {"central.gateway": {}}),
        ({"outbound": {"unknown": "deny"}, "central": {"gateway": {}}}, {"central.gateway.host": "127.0.0.1"}),
    ],
)
async def test_who_is_a_central_is_it_from_start_to_end(host: Host, before: Any, after: dict[str, Any]) -> None:
    async with running(host, **before) as it:
        was = it.segments.central
        with pytest.raises(UsageError, match=r"central\.gateway cannot come, go or move") as caught:
            await it.set(*after.items())
        assert "pannier down" in caught.value.hint
        assert it.segments.central == was


async def test_certificates_that_cannot_be_read_are_refused_before_anything_changes(host: Host) -> None:
    tls = {"certificate": "/nowhere/c.pem", "key": "/nowhere/k.pem", "authority": "/nowhere/a.pem"}
    async with running(host, **LEANS) as it:
        was = it.segments.central
        with pytest.raises(PannierError, match=r"central\.tls\.certificate: cannot read /nowhere/c\.pem"):
            await it.set(("central.tls", tls))
        assert it.segments.central == was


async def test_each_asking_for_a_weight_is_another_one_and_a_successor_publishes_the_same(host: Host) -> None:
    async with running(host, **LEANS) as it:
        assert (await force(it, 40.0)).forced is None
        first = forced(it)
        assert first == Forced(40.0, 1)
        assert (await force(it, 40.0)).forced == 40.0
        assert forced(it) == Forced(40.0, 2)
        with pytest.raises(PannierError):
            await force(it, 101.0)
        assert forced(it) == Forced(40.0, 2)
        found = Found({**it.pids(), "keeper": 1}, {})
    async with running(host, found) as it:
        assert forced(it) == Forced(40.0, 2)
        assert (await it.ask("central.status", Nothing(), CentralStatus)).forced == 40.0
        await force(it, None)
        assert forced(it) is None
        await force(it, 5.0)
        assert forced(it) == Forced(5.0, 4)


async def test_a_weight_that_is_asked_for_amid_a_change_is_laid_into_the_new_table(
    host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with running(host, **LEANS) as it:

        async def grace(_: int) -> None:
            await it.service.force(40.0)

        monkeypatch.setattr(host, "grace", grace)
        await it.set(("central.dwell", "40s"))
        payload, asked = it.segments.central
        assert payload is not None
        assert (payload["controller"]["dwell_ms"], asked) == (40000, Forced(40.0, 1))


async def test_a_weight_outlives_a_change_that_is_taken_back(host: Host) -> None:
    async with running(host, **LEANS) as it:
        await force(it, 40.0)
        await it.use("dev", DEV, confirm_s=0.3)
        await it.wait_until(lambda: it.service.pending is None)
        assert (forced(it), it.service.plan.central is None) == (Forced(40.0, 1), False)


async def test_a_weight_does_not_outlive_a_change_that_stands(host: Host) -> None:
    async with running(host, **LEANS) as it:
        await force(it, 40.0)
        await it.use("dev", DEV, confirm_s=60.0)
        assert it.service.forced == Forced(40.0, 1)
        await it.ask("profile.confirm", Nothing(), Changed)
        assert it.service.forced is None


async def test_what_the_data_path_says_is_told(host: Host) -> None:
    async with (
        running(host, **LEANS) as it,
        it.cli.subscribe(EVENTS, Happening) as events,
        it.cli.subscribe(CENTRAL_STATE, CentralState) as states,
    ):
        shifted = CentralState(
            "shifted", 60.0, 100.0, "host-pressure", way="relay", inputs=Inputs(host_pressure=61.2), since_ms=9
        )
        leaving = CentralState("local", reason="calm", since_ms=3)  # of the proxy that is just replaced
        it.segments.bulletins = [msgspec.msgpack.encode(each) for each in (shifted, leaving)]
        with trio.fail_after(30):
            assert await anext(states) == shifted
            happening = await anext(events)
        assert (happening.source, happening.kind, happening.severity) == ("central", "central.shifted", "warning")
        assert "CPU pressure of the host 61 % (work leaves above 25 %)" in happening.message
        found: CentralStatus = await it.ask("central.status", Nothing(), CentralStatus)
        assert (found.state, found.states) == (shifted, [shifted, leaving])
        assert found.thresholds["queue_wait_ms"] == 20.0
        assert (found.identity, found.instance, found.passthrough) == ("loopback", "host-orders", "127.0.0.1:0")


async def test_who_comes_after_another_supervisor_tells_nothing_that_was_so_before(
    host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with running(host, **LEANS) as it:
        told: list[str] = []
        monkeypatch.setattr(it.service, "tell", lambda _, kind, *__: told.append(kind))
        shifted = CentralState("shifted", 60.0, 100.0, "host-pressure", way="relay", since_ms=9)
        it.segments.bulletins = [msgspec.msgpack.encode(shifted)]
        await it.wait_until(lambda: told == ["central.shifted"])
        await CentralMesh(it.service, adopted=True).look()
        assert len(told) == 1
        await CentralMesh(it.service).look()
        assert len(told) == 2
