"""What held before holds again, and what does harm does not hold for long: history, rollback, changes on trial."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import pytest
import trio
from pannier.shared.errors import PannierError, UsageError
from pannier.shared.messages import Changed, LiveReset, Nothing, ProfileInForce, SidecarName
from pannier.shared.runtime import state_dir
from pannier.supervisor import adoption
from pannier.supervisor.adoption import Found
from pannier.supervisor.live import read_live

from tests.supervisor.steered import CANARY, DEV, PATIENCE, Host, Running, running

ALL = {"sidecars": {**DEV["sidecars"], **CANARY["sidecars"]}}
RESILIENCE = "sidecars.resilience.number"


@pytest.fixture(autouse=True)
def no_orphans(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pannier.supervisor.service.kill_orphans", lambda: None)


@pytest.fixture
def host(short_path: Path, nursery: trio.Nursery) -> Host:
    return Host(short_path / "bus.sock", nursery)


@dataclass
class Requests:
    """Inbound requests of one status, as the counters have them."""

    status: int
    count: int
    direction: str = "inbound"
    flag: str = ""
    fine: list[int] = field(default_factory=list)


async def states(it: Running) -> list[str]:
    return [each.state for each in await it.revisions()]


async def noted(it: Running, before: list[str], after: list[str]) -> None:
    """Waits until the history says what became of a change; it is written a moment after that."""
    with trio.fail_after(PATIENCE):
        while (found := await states(it)) != after:
            assert found == before


async def looked(it: Running, times: int) -> None:
    """Waits until requests were judged so often."""
    end = it.host.looks + times
    await it.wait_until(lambda: it.host.looks >= end)


async def test_every_change_is_noted_with_what_made_it(host: Host) -> None:
    async with running(host, **ALL) as it:
        await it.set((RESILIENCE, 7), by="resilience tune")
        await it.use("canary", CANARY)
        await it.ask("sidecar.add", SidecarName("observability"), Nothing)
        await it.ask("live.reset", LiveReset([["sidecars", "observability"]]), Changed)
        assert (await it.set((RESILIENCE, 7))).lines == []
        assert (await it.set((RESILIENCE, 8), dry_run=True)).revision == 0
        found = await it.revisions()
        assert [(each.number, each.by, each.profile, each.state) for each in found] == [
            (1, "run", "dev", "replaced"),
            (2, "resilience tune", "dev", "replaced"),
            (3, "profile use canary", "canary", "replaced"),
            (4, "sidecar add observability", "canary", "replaced"),
            (5, "profile reset", "canary", "in force"),
        ]
        assert found[1].summary == "~ tell resilience: number 2 → 7"
        assert found[2].id == found[4].id, "the same content has the same name"
        assert found[4].at_ms >= found[0].at_ms > 0


async def test_what_held_before_holds_again_as_a_new_revision(host: Host) -> None:
    async with running(host, **ALL) as it:
        before = it.pids()
        await it.set((RESILIENCE, 7), ("proxy.balance", "round_robin"))
        made = await it.roll_back("1", by="config rollback 1")
        assert made.lines == [
            "~ tell resilience: number 7 → 2",
            "~ publish base: proxy.balance round_robin → p2c_ewma",
        ]
        assert (made.revision, made.confirm_s, read_live("orders")) == (3, 0.0, {})
        assert host.told["resilience"] == 2
        assert it.segments.published[-1]["balance"] == "p2c_ewma"
        assert it.pids() == before
        first, second, third = await it.revisions()
        assert (first.id, third.state, third.by) == (third.id, "in force", "config rollback 1")
        made = await it.roll_back(second.id[:6])
        assert (host.told["resilience"], read_live("orders")["proxy"]) == (7, {"balance": "round_robin"})
        assert (await it.roll_back("4")).lines == []
        assert made.revision == 4


async def test_going_back_compiles_nothing(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    async with running(host, **ALL) as it:
        plan = it.service.plan
        await it.set((RESILIENCE, 7))
        monkeypatch.setattr("pannier.supervisor.steering.next_plan", None)
        await it.roll_back("1")
        assert it.service.plan == plan


async def test_a_stage_is_gone_back_to_with_its_sidecars_and_assignments(host: Host) -> None:
    async with running(host) as it:
        await it.use("canary", CANARY, assignments=["b=2"], source="/elsewhere/canary.toml")
        assert (await it.roll_back("1", dry_run=True)).lines[0] == "+ start observability"
        assert it.service.plan.profile == "canary"
        await it.roll_back("1")
        found = await it.ask("profile.in_force", Nothing(), ProfileInForce)
        assert (found.profile, found.source, found.assignments) == ("dev", None, ["a=1"])
        assert it.enabled() == {"discovery", "observability"}
        await it.roll_back("2")
        found = await it.ask("profile.in_force", Nothing(), ProfileInForce)
        assert (found.profile, found.source, found.assignments) == ("canary", "/elsewhere/canary.toml", ["b=2"])


async def test_a_revision_that_cannot_be_found_changes_nothing(host: Host) -> None:
    async with running(host) as it:
        plan = it.service.plan
        with pytest.raises(UsageError, match="there is no revision '7'"):
            await it.roll_back("7")
        assert it.service.plan == plan


async def test_a_rollback_that_fails_is_taken_back_as_a_whole(host: Host) -> None:
    async with running(host, **ALL) as it:
        await it.set((RESILIENCE, 7))
        host.deaf.add("resilience")
        host.lose()
        it.service.tree.keeper_lost = True
        with pytest.raises(PannierError):
            await it.roll_back("1")
        assert it.service.plan.said.live == {"sidecars": {"resilience": {"number": 7}}}
        assert await states(it) == ["replaced", "in force"]


async def test_the_history_is_there_for_the_next_run_and_the_next_supervisor(host: Host) -> None:
    async with running(host, **ALL) as it:
        await it.set((RESILIENCE, 7))
        found = Found(it.pids(), {})
    async with running(host, found) as it:
        assert await states(it) == ["replaced", "in force"]
        await it.roll_back("1")
        assert host.told["resilience"] == 2
    host.told.clear()


async def test_a_history_that_cannot_be_written_stops_no_change(host: Host) -> None:
    async with running(host, **ALL) as it:
        folder = state_dir() / "history" / "orders"
        for path in folder.iterdir():
            path.unlink()
        folder.rmdir()
        folder.write_text("in the way")
        made = await it.set((RESILIENCE, 7))
        assert (made.lines, host.told["resilience"]) == (["~ tell resilience: number 2 → 7"], 7)
        assert await states(it) == ["replaced", "in force"]
        await it.roll_back("1")
        assert host.told["resilience"] == 2, "its plan is at hand"


async def test_what_became_of_a_change_that_waited_is_noted(host: Host) -> None:
    async with running(host, **ALL) as it:
        assert (await it.set((RESILIENCE, 7), confirm_s=600.0)).revision == 2
        assert await states(it) == ["replaced", "pending"]
        await it.ask("profile.confirm", Nothing(), Changed)
        assert await states(it) == ["replaced", "in force"]
        await it.set((RESILIENCE, 8), confirm_s=0.3)
        await it.wait_until(lambda: it.service.pending is None)
        await noted(it, ["replaced", "replaced", "pending"], ["replaced", "in force", "taken back"])


async def test_one_goes_back_also_while_a_change_waits(host: Host) -> None:
    async with running(host, **ALL) as it:
        await it.set((RESILIENCE, 5))
        await it.set((RESILIENCE, 7), confirm_s=60.0)
        await it.roll_back("2")
        assert (it.service.pending, host.told["resilience"]) == (None, 5)
        assert await states(it) == ["replaced", "in force", "taken back"]
        await it.set((RESILIENCE, 7), confirm_s=60.0)
        await it.roll_back("1", confirm_s=0.3)
        await it.wait_until(lambda: it.service.pending is None)
        assert host.told["resilience"] == 5, "what was confirmed last, not what waited"
        assert read_live("orders") == {"sidecars": {"resilience": {"number": 5}}}


async def test_what_does_harm_is_taken_back_at_once(host: Host) -> None:
    host.series = [Requests(200, 1000), Requests(500, 1000)]
    async with running(host, **ALL) as it:
        made = await it.set((RESILIENCE, 7), confirm_s=600.0, unless=["success<99%", "p99>1s"])
        assert (made.unless, 590 < made.confirm_s <= 600) == (["success<99%", "p99>1s"], True)
        host.series = [Requests(200, 1018), Requests(500, 1001)]
        await looked(it, 3)
        assert it.service.pending is not None, "19 requests are no evidence"
        host.series = [Requests(200, 1019), Requests(500, 1001)]
        await it.wait_until(lambda: it.service.pending is None)
        assert host.told["resilience"] == 2
        await noted(it, ["replaced", "pending"], ["in force", "taken back"])


@pytest.mark.parametrize("asked", [0, 100])
async def test_what_does_no_harm_stands_by_itself(host: Host, asked: int) -> None:
    async with running(host, **ALL) as it:
        await it.set((RESILIENCE, 7), confirm_s=0.5, unless=["success<99%"])
        host.series = [Requests(200, asked)]
        await it.wait_until(lambda: it.service.pending is None)
        assert host.told["resilience"] == 7
        await noted(it, ["replaced", "pending"], ["replaced", "in force"])
        assert read_live("orders") == {"sidecars": {"resilience": {"number": 7}}}


async def test_who_confirms_ends_the_watch(host: Host) -> None:
    async with running(host, **ALL) as it:
        await it.set((RESILIENCE, 7), confirm_s=60.0, unless=["success<99%"])
        await it.ask("profile.confirm", Nothing(), Changed)
        host.series = [Requests(500, 100)]
        await it.set((RESILIENCE, 8), confirm_s=60.0, unless=["p99>1s"])
        await looked(it, 3)
        assert host.told["resilience"] == 8, "the first condition is not watched any more"


@pytest.mark.parametrize(
    ("unless", "confirm_s", "text"),
    [
        (["success"], 60.0, "is no condition"),
        (["success<99%"], 0.0, "for how long"),
        (["success<99%"], None, "how long"),
    ],
)
async def test_conditions_that_cannot_be_watched_change_nothing(
    host: Host, unless: list[str], confirm_s: float | None, text: str
) -> None:
    async with running(host, **ALL) as it:
        for dry_run in (True, False):
            with pytest.raises(UsageError, match=text):
                await it.set((RESILIENCE, 7), confirm_s=confirm_s, unless=unless, dry_run=dry_run)
        assert host.log == []


async def test_a_successor_watches_from_where_its_predecessor_began(host: Host) -> None:
    host.series = [Requests(200, 1000)]
    async with running(host, **ALL) as it:
        await it.set((RESILIENCE, 7), confirm_s=600.0, unless=["success<99%"])
        found = Found(it.pids(), {})
    host.series = [Requests(200, 1000), Requests(503, 40)]
    assert adoption.decode(host.note).pending is not None
    async with running(host, found) as it:
        await it.wait_until(lambda: it.service.pending is None)
        assert host.told["resilience"] == 2
        await noted(it, ["replaced", "pending"], ["in force", "taken back"])


def test_the_types_are_those_of_the_data_path() -> None:
    from pannier import _native

    assert {"direction", "status", "flag", "count", "fine"} <= set(dir(_native.Series))
