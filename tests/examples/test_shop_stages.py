"""What a stage of the shop has to show: the demands on what a run leaves behind, and how it is laid out."""

from __future__ import annotations

import tomllib

import board
import pytest
import trio
from ledger import Entry
from mesh import HERE
from pannier.shared.messages import (
    BreakerState,
    CanaryProgress,
    Happening,
    TrafficFault,
    TrafficService,
    TrafficStatus,
)
from stages import STAGES, Evidence, Moment, Stage, stage
from story import Story
from summary import shown_lines

RATE = 100.0


def missing(profile: str, moments: list[Moment], ledgers: dict[str, list[Entry]], counted: int = 0) -> list[str]:
    return stage(profile).missing(Evidence(moments, ledgers, RATE, counted))


def at(seconds: float, outcome: str = "injected") -> Entry:
    """The ledger's entry for the request that was due then."""
    return Entry(round(seconds * RATE), outcome)


def test_a_stage_that_shows_nothing_demands_nothing() -> None:
    for profile in ("dev", "central", "profiles/mine.toml"):
        assert stage(profile) == Stage()
        assert missing(profile, [], {}) == []
        assert shown_lines(stage(profile), []) == []


def test_a_canary_must_abort_and_then_get_no_calls() -> None:
    aborted = Moment(7.0, "orders", "canary.aborted", "")

    assert missing("canary", [aborted], {"payments-v2": [at(4, "charged"), at(6.9), at(7.5, "charged")]}) == []
    assert missing("canary", [], {"payments-v2": [at(4)]}) == ["payments/v2 was not aborted"]
    assert missing("canary", [aborted], {}) == ["payments/v2 was never called"]
    late = missing("canary", [aborted], {"payments-v2": [at(6), at(8.1), at(9, "charged")]})
    assert late == ["payments/v2 was called 2 times after it was aborted"]


def test_an_instance_must_fail_go_out_and_come_back_after_that() -> None:
    out, back = Moment(5.1, "shop", "endpoint.out", ""), Moment(13.0, "shop", "endpoint.back", "")
    failed = {"catalog-2": [at(5)]}

    assert missing("production", [out, back], failed) == []
    assert missing("production", [], failed) == ["no instance of catalog was ejected"]
    assert missing("production", [Moment(1.0, "shop", "endpoint.back", ""), out], failed) == [
        "the ejected instance of catalog did not come back"
    ]
    assert missing("production", [out, back], {}) == ["it was ejected, but never failed"]


def test_a_fault_must_strike_and_end_by_itself() -> None:
    done = Moment(3.5, "operator", "done", "done")

    assert missing("test", [done], {"shop": [at(3.4), at(7.4)]}) == []
    assert missing("test", [], {}) == ["no fault was injected"]
    assert missing("test", [done], {}) == ["the fault struck no call"]
    assert missing("test", [done], {"shop": [at(4), at(8.6)]}) == [
        "the fault did not end by itself: calls that it struck after 8.5 s: 1"
    ]


def test_a_shadow_limit_must_count() -> None:
    assert missing("staging", [], {}, counted=3) == []
    assert missing("staging", [], {}) == ["the limit of the front was never exceeded"]


def test_only_where_the_mesh_injects_faults_does_the_ledger_of_the_front_explain() -> None:
    written = Evidence([], {"shop": [at(1)], "payments": [at(2)]}, RATE)

    assert Story(stage("test")).explaining(written) == {"shop": [at(1)], "payments": [at(2)]}
    assert Story(stage("canary")).explaining(written) == {"payments": [at(2)]}


def test_the_end_says_whether_it_was_shown() -> None:
    assert shown_lines(stage("canary"), []) == ["shown: a bad v2 of payments is aborted by itself"]
    assert shown_lines(stage("canary"), ["payments/v2 was not aborted"]) == [
        "not shown: payments/v2 was not aborted (give it FOR=20s)"
    ]


@pytest.mark.parametrize("profile", STAGES)
def test_further_instances_are_known_to_the_stage_and_have_ports_of_their_own(profile: str) -> None:
    apps = tomllib.loads((HERE / "pannier.toml").read_text())["apps"]
    taken = {app[kind] for app in apps.values() for kind in ("port", "app_port")}
    for instance in stage(profile).instances:
        services = tomllib.loads((HERE / "profiles" / f"{profile}.toml").read_text())["services"]
        known = [endpoint["address"] for endpoint in services[instance.service]]
        assert known == [f"127.0.0.1:{apps[instance.service]['port']}", f"127.0.0.1:{instance.port}"]
        assert instance.port not in taken


async def test_what_happens_counts_from_the_begin_of_the_load(autojump_clock: trio.abc.Clock) -> None:
    story = Story(stage("production"))
    story.heed("shop", Happening("resilience", "endpoint.out", "before", "warning", 0))
    story.begin()
    await trio.sleep(5.12)
    story.heed("shop", Happening("resilience", "endpoint.out", "catalog is out", "warning", 0))

    assert story.moments == [Moment(5.1, "shop", "endpoint.out", "catalog is out")]


# the view


def test_a_canary_is_shown_with_the_shares_and_its_reason() -> None:
    canary = CanaryProgress("payments", "v2", 0.0, 100.0, "aborted", "success 85.0 % < 99 %")
    services = [TrafficService("payments", {"v1": 1, "v2": 1}, {"v1": 3, "v2": 1}), TrafficService("other", {}, {})]

    shown = board.split_lines({"orders": TrafficStatus(services, [canary]), "shop": TrafficStatus(services)})
    assert [line.split() for line in shown] == [
        ["CALLS", "SHARE", "CANARY"],
        ["orders", "→", "payments/v1", "75%"],
        ["orders", "→", "payments/v2", "25%", "aborted", *canary.reason.split()],
    ]
    assert board.split_lines({"shop": TrafficStatus(services)}) == []


def test_who_is_out_is_shown_with_the_time_left_and_why() -> None:
    states = [
        BreakerState("catalog", "127.0.0.1:1", "open", "7 failures in a row", 12_500, 1, 7),
        BreakerState("catalog", "127.0.0.1:2", "closed", "1 failure in a row, opens at 7", 0, 0, 1),
    ]

    shown = [line.split("  ") for line in board.breaker_lines({"shop": states, "orders": []}, 10.0)]
    assert [[cell.strip() for cell in line if cell] for line in shown] == [
        ["CALLS", "STATE", "SECONDS LEFT", "WHY"],
        ["shop → catalog 127.0.0.1:1", "open", "2.5", "7 failures in a row"],
        ["shop → catalog 127.0.0.1:2", "closed", "-", "1 failure in a row, opens at 7"],
    ]
    assert board.breaker_lines({"shop": []}, 10.0) == []


def test_faults_are_shown_with_the_time_left() -> None:
    faults = [TrafficFault("catalog", "", None, 503, 10.0, 12.5)]

    shown = board.fault_lines({"shop": TrafficStatus(faults=faults), "orders": TrafficStatus()}, 10.0)
    assert shown[1].split() == ["shop", "→", "catalog", "10%", "503", "2.5"]
    assert board.fault_lines({"shop": TrafficStatus()}, 10.0) == []


def test_only_the_latest_moments_are_shown() -> None:
    lines = board.moment_lines([Moment(float(second), "shop", "endpoint.out", f"{second}") for second in range(20)])

    assert lines[0].strip() == "12.0 s  shop: 12"
    assert len(lines) == board.LATEST
