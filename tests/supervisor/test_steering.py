"""Changes of a real service with a real bus; its sidecars are peers in this process and end when they are told to."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import pytest
import trio
from pannier.shared import framing
from pannier.shared.errors import NoSuchSidecar, PannierError, UsageError
from pannier.shared.messages import (
    CONFIG_REVISION,
    Changed,
    ConfigRevision,
    LiveReset,
    Nothing,
    ProfileInForce,
    SidecarName,
    Status,
)
from pannier.shared.rights import Needs
from pannier.supervisor import adoption
from pannier.supervisor.adoption import Found
from pannier.supervisor.live import read_live
from pannier.supervisor.planning import Installation
from pannier.supervisor.steering import Steering

from tests.supervisor import steered
from tests.supervisor.steered import CANARY, DEV, INSTALLATION, Host, Tuned, running


@pytest.fixture(autouse=True)
def no_orphans(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pannier.supervisor.service.kill_orphans", lambda: None)


@pytest.fixture
def host(short_path: Path, nursery: trio.Nursery) -> Host:
    return Host(short_path / "bus.sock", nursery)


async def test_another_stage_comes_in_an_order_without_a_gap(host: Host) -> None:
    async with running(host) as it, it.cli.subscribe(CONFIG_REVISION, ConfigRevision) as revisions:
        before = it.pids()
        assert await anext(revisions) == ConfigRevision(1, "dev")
        made = await it.use("canary", {**CANARY, "outbound": {"unknown": "deny"}, "orphan_grace": "never"})
        assert made.lines == [
            "+ start resilience",
            "+ start traffic",
            "~ publish base: outbound.unknown passthrough → deny",
            "~ orphan_grace 0s → never",
            "- stop observability",
        ]
        assert sorted(host.log[:2]) == ["+resilience", "+traffic"]
        assert host.log[2:] == ["-observability"]
        assert it.segments.published[-1]["outbound"] == {"unknown": "deny"}
        assert it.segments.withdrawn == ["telemetry"]
        assert (host.graces[-1], host.released) == (-1, ["metrics"])
        assert it.enabled() == {"discovery", "resilience", "traffic"}
        assert {name: it.pids()[name] for name in ("discovery", "proxy", "app")} == {
            name: before[name] for name in ("discovery", "proxy", "app")
        }
        assert (await it.ask("status", Nothing(), Status)).profile == "canary"
        assert await anext(revisions) == ConfigRevision(2, "canary")
        assert adoption.decode(host.note).plan.enabled == ("discovery", "resilience", "traffic")
        await it.use("dev", DEV)
        assert it.enabled() == {"discovery", "observability"}
        assert it.pids()["discovery"] == before["discovery"]
        assert it.service.plan.place.ports["metrics"] == 9000


async def test_a_setting_is_told_to_who_takes_it_and_another_process_is_given_to_who_does_not(host: Host) -> None:
    async with running(host, sidecars=CANARY["sidecars"]) as it:
        before = it.pids()
        made = await it.set(("sidecars.resilience.number", 7))
        assert made == Changed(["~ tell resilience: number 2 → 7"], 0.0, 1, revision=2)
        assert host.log == ["resilience=7"]
        assert it.pids() == before
        made = await it.set(("sidecars.discovery.number", 8))
        assert made.lines == ["~ restart discovery: number 1 → 8"]
        assert host.log == ["resilience=7", "-discovery", "+discovery"]
        after = it.pids()
        assert {**after, "discovery": 0} == {**before, "discovery": 0}
        assert read_live("orders") == {"sidecars": {"resilience": {"number": 7}, "discovery": {"number": 8}}}
        assert (await it.ask("live.diff", Nothing(), Changed)).lines == [
            "~ change discovery: number 1 → 8",
            "~ change resilience: number 2 → 7",
        ]
        made = await it.ask("live.reset", LiveReset([["sidecars", "discovery"]]), Changed)
        assert made.lines == ["~ restart discovery: number 8 → 1"]
        await it.ask("live.reset", LiveReset(), Changed)
        assert host.log[-1] == "resilience=2"
        assert read_live("orders") == {}


async def test_a_life_that_is_restarted_gets_the_new_configuration(host: Host) -> None:
    async with running(host, sidecars=CANARY["sidecars"]) as it:
        await it.set(("sidecars.resilience.number", 7))
        await it.ask("sidecar.restart", SidecarName("resilience"), Nothing)
        assert (
            it.service.grants.find("token of resilience").config == it.service.plan.sidecars["resilience"].grant.config
        )  # type: ignore[union-attr]
        assert framing.decode(it.service.plan.sidecars["resilience"].grant.config, Tuned).number == 7  # type: ignore[union-attr]


async def test_one_that_does_not_answer_gets_a_new_process(host: Host) -> None:
    async with running(host, sidecars=CANARY["sidecars"]) as it:
        host.deaf.add("resilience")
        made = await it.set(("sidecars.resilience.number", 7))
        assert made.lines == ["~ restart resilience: number 2 → 7"]
        assert host.log == ["-resilience", "+resilience"]


@pytest.mark.parametrize(
    ("path", "value", "error", "text"),
    [
        ("sidecars.traffic.number", 1, NoSuchSidecar, "traffic does not run here"),
        ("sidecars.nobody.number", 1, PannierError, "unknown sidecar"),
        ("sidecars.discovery.number", "x", PannierError, "sidecars.discovery.number"),
        ("sidecars.discovery.nmuber", 1, PannierError, 'did you mean "number"'),
        ("proxy.timeouts.request", "soon", PannierError, "proxy.timeouts.request"),
        ("proxy", 3, PannierError, "proxy"),
        ("", 3, PannierError, "unknown"),
    ],
)
async def test_what_cannot_hold_changes_nothing(
    host: Host, path: str, value: Any, error: type[PannierError], text: str
) -> None:
    async with running(host) as it:
        plan, before = it.service.plan, it.pids()
        with pytest.raises(error, match=text) as caught:
            await it.set(("proxy.balance", "round_robin"), (path, value))
        if error is NoSuchSidecar:
            assert caught.value.hint == "pannier sidecar add traffic"
        assert (it.service.plan, it.pids(), host.log, read_live("orders")) == (plan, before, [], {})


async def test_a_dry_run_says_it_and_does_nothing(host: Host) -> None:
    async with running(host, confirm="60s") as it:
        plan, before = it.service.plan, it.pids()
        made = await it.use("canary", CANARY, dry_run=True)
        assert made.lines == [
            "+ start resilience",
            "+ start traffic",
            "~ confirm 60s → none",
            "- stop observability",
        ]
        assert made.confirm_s == 60
        assert (await it.set(("sidecars.discovery.number", 5), dry_run=True)).lines == [
            "~ restart discovery: number 1 → 5"
        ]
        with pytest.raises(PannierError, match="discovery refuses"):
            await it.set(("sidecars.discovery.behaviour", "refuses"), dry_run=True)
        assert (it.service.plan, it.pids(), host.log, read_live("orders")) == (plan, before, [], {})


@pytest.mark.parametrize(
    ("trouble", "text"),
    [
        ({"resilience": {"number": 2, "behaviour": "ends"}}, r"not ready: resilience ended \(code 65\)"),
        ({"discovery": {"number": 9, "behaviour": "refuses"}}, "discovery refuses its new configuration: not that"),
        ({"discovery": {"number": 9, "behaviour": "refuses late"}}, "discovery refuses .*: not today"),
        ({"discovery": {"number": 9, "behaviour": "ends"}}, r"not ready: discovery ended \(code 65\)"),
    ],
)
async def test_a_change_that_fails_is_taken_back_as_a_whole(host: Host, trouble: dict[str, Any], text: str) -> None:
    async with running(host) as it:
        plan, before = it.service.plan, it.pids()
        with pytest.raises(PannierError, match=text):
            await it.use("canary", {"sidecars": {**CANARY["sidecars"], **trouble}, "orphan_grace": "never"})
        assert it.service.plan == plan
        after = it.pids()
        assert {**after, "discovery": 0} == {**before, "discovery": 0}
        assert it.service.tree.children["discovery"].ready
        assert host.graces == []
        assert it.granted("discovery").number == 1
        assert adoption.decode(host.note) == it.service.record()
        assert it.service.record().changing == ()
        assert (await it.use("canary", CANARY)).lines


async def test_a_table_that_the_data_path_refuses_takes_back_what_was_told(host: Host) -> None:
    async with running(host, sidecars=CANARY["sidecars"]) as it:
        published = list(it.segments.published)
        with pytest.raises(PannierError, match="refused by the data path; everything is as it was"):
            await it.set(
                ("sidecars.resilience.number", 7), ("outbound.unknown", "deny"), ("proxy.balance", "round_robin")
            )
        assert host.log == ["resilience=7", "resilience=2"]
        assert it.segments.published[-1] == published[-1]


async def test_sidecars_come_and_go_as_any_other_change(host: Host) -> None:
    async with running(host) as it:
        await it.ask("sidecar.add", SidecarName("traffic"), Nothing)
        assert it.enabled() == {"discovery", "observability", "traffic"}
        with pytest.raises(UsageError, match="runs already"):
            await it.ask("sidecar.add", SidecarName("traffic"), Nothing)
        await it.ask("sidecar.rm", SidecarName("discovery"), Nothing)
        assert it.segments.withdrawn[-1] == "endpoints"
        assert read_live("orders") == {"sidecars": {"traffic": True, "discovery": False}}
        made = await it.use("canary", CANARY)
        assert made.lines == ["+ start resilience", "~ tell traffic: number 0 → 3", "- stop observability"]
        assert it.enabled() == {"resilience", "traffic"}, "what was done by hand is the topmost layer"


async def test_what_was_tuned_in_a_stage_does_not_make_its_sidecar_run_in_another(host: Host) -> None:
    async with running(host, sidecars=CANARY["sidecars"]) as it:
        await it.set(("sidecars.resilience.number", 7), ("proxy.balance", "round_robin"))
        made = await it.use("dev", DEV)
        assert made.lines[-1] == "- drop the live settings of resilience"
        assert it.enabled() == {"discovery", "observability"}
        assert read_live("orders") == {"proxy": {"balance": "round_robin"}}


async def test_who_does_not_confirm_has_his_change_taken_back(host: Host) -> None:
    async with running(host) as it:
        plan = it.service.plan
        made = await it.use("canary", CANARY, confirm_s=0.5)
        assert 0 < made.confirm_s <= 0.5
        for refused in (it.set(("proxy.balance", "round_robin")), it.use("dev", DEV)):
            with pytest.raises(UsageError, match="waits to be confirmed") as caught:
                await refused
            assert "pannier profile confirm" in caught.value.hint
        with trio.fail_after(10):
            await it.service.tree.wait_until(
                lambda: it.service.plan.profile == "dev" and it.enabled() == set(plan.enabled)
            )
        with pytest.raises(UsageError, match="no change waits"):
            await it.ask("profile.confirm", Nothing(), Changed)
        assert it.service.plan.said == plan.said
        await it.set(("proxy.balance", "round_robin"))


async def test_who_confirms_keeps_his_change(host: Host) -> None:
    async with running(host, confirm="1h") as it:
        made = await it.set(("proxy.balance", "round_robin"), confirm_s=None)
        assert 3500 < made.confirm_s <= 3600
        assert (await it.ask("profile.in_force", Nothing(), ProfileInForce)).confirm_s > 3500
        assert read_live("orders") == {}, "the next run must not take up what nobody confirmed"
        await it.ask("profile.confirm", Nothing(), Changed)
        assert read_live("orders") == {"proxy": {"balance": "round_robin"}}
        assert adoption.decode(host.note).pending is None
        assert (await it.set(("proxy.balance", "p2c_ewma"))).confirm_s == 0.0, "unless it is asked for"


async def test_nothing_needs_no_confirmation(host: Host) -> None:
    async with running(host) as it:
        assert await it.use("dev", DEV, confirm_s=60.0) == Changed([], revision=1)


async def test_one_change_at_a_time(host: Host) -> None:
    async with running(host) as it:
        results: list[str] = []

        async def add(name: str) -> None:
            try:
                await it.ask("sidecar.add", SidecarName(name), Nothing)
                results.append(name)
            except UsageError as error:
                results.append(error.message)

        async with trio.open_nursery() as nursery:
            for name in ("traffic", "resilience"):
                nursery.start_soon(add, name)
        assert sorted(results)[0] == "another change is under way"
        assert len(it.enabled()) == 3


async def test_what_another_profile_is_laid_under(host: Host) -> None:
    async with running(host) as it:
        variables = {"PANNIER__PROXY__WORKERS": "1"}
        assert await it.ask("profile.in_force", Nothing(), ProfileInForce) == ProfileInForce(
            "dev", None, None, variables, ["a=1"], folder="/"
        )
        await it.use("canary", CANARY, assignments=["a=1", "b=2"])
        found = await it.ask("profile.in_force", Nothing(), ProfileInForce)
        assert (found.profile, found.assignments) == ("canary", ["a=1", "b=2"])


async def test_who_asks_before_the_service_has_begun_waits(host: Host) -> None:
    async with running(host) as it:
        steering = Steering(it.service, installation=lambda: INSTALLATION)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(partial(steering.switch, "traffic", on=True))
            await trio.testing.wait_all_tasks_blocked()
            assert "traffic" not in it.enabled()
            await steering.begin()
        assert "traffic" in it.enabled()


async def test_without_a_keeper_who_runs_is_told_and_nothing_is_started(host: Host) -> None:
    async with running(host, sidecars=CANARY["sidecars"]) as it:
        it.service.tree.keeper_lost = True
        for refused in (
            it.ask("sidecar.add", SidecarName("observability"), Nothing),
            it.ask("sidecar.restart", SidecarName("discovery"), Nothing),
            it.set(("sidecars.discovery.number", 7)),
        ):
            with pytest.raises(PannierError, match="keeper is gone"):
                await refused
        await it.set(("sidecars.resilience.number", 7))
        assert host.log == ["resilience=7"]


async def test_a_successor_ends_who_is_no_part_of_the_plan_and_sets_back_what_was_being_changed(host: Host) -> None:
    async with running(host, sidecars=CANARY["sidecars"]) as it:
        spare = it.service.plan.sidecars["observability"]
        await it.service.admission.admit(spare)
        await it.service.touch(("observability", "resilience"))
        stranger = await host.spawn("observability", env=spare.environment)
        found = Found({**it.pids(), "observability": stranger}, {})
        before = it.pids()
    async with running(host, found) as it:
        assert it.pids() == before
        assert it.segments.withdrawn == ["telemetry"]
        assert "observability" in host.sent
        assert host.told["resilience"] == 2
        assert it.service.record().changing == ()


async def test_the_table_of_who_runs_is_not_withdrawn_with_another_one_that_could_write_it(
    host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    double = type("Double", (Tuned,), {"needs": Needs(writes=("routes",))})
    types = {**INSTALLATION.types, "double": double}
    monkeypatch.setattr(steered, "INSTALLATION", Installation(types, {name: f"x.{name}" for name in types}))
    grants = {"double": {"writes": ["routes"]}}
    async with running(host, sidecars=CANARY["sidecars"], grants=grants) as it:
        before = it.pids()
        for dry_run in (True, False):
            with pytest.raises(UsageError, match="table routes cannot go from traffic to double in one step"):
                await it.use("mine", {"sidecars": {"discovery": {}, "double": {}}, "grants": grants}, dry_run=dry_run)
        assert it.pids() == before
        found = Found(before, {})
    async with running(host, found) as it:
        assert it.service.plan.sidecars["double"].writes == ("routes",)
        assert "routes" not in it.segments.withdrawn


async def test_who_was_uninstalled_while_he_ran_can_still_be_removed(
    host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with running(host) as it:
        await it.ask("sidecar.add", SidecarName("traffic"), Nothing)
        left = {name: type_ for name, type_ in INSTALLATION.types.items() if name != "traffic"}
        monkeypatch.setattr(steered, "INSTALLATION", Installation(left, {name: f"x.{name}" for name in left}))
        await it.ask("sidecar.rm", SidecarName("traffic"), Nothing)
        assert it.enabled() == {"discovery", "observability"}
        assert it.segments.withdrawn == ["routes"]


async def test_a_successor_takes_back_what_nobody_confirmed(host: Host) -> None:
    async with running(host) as it:
        await it.use("canary", CANARY, confirm_s=0.5)
        found = Found(it.pids(), {})
    async with running(host, found) as it:
        with trio.fail_after(10):
            await it.service.tree.wait_until(lambda: it.enabled() == {"discovery", "observability"})
        with pytest.raises(UsageError, match="no change waits"):
            await it.ask("profile.confirm", Nothing(), Changed)
        assert it.service.plan.profile == "dev"
