"""What an operator is told of the Central Mesh, as a table of cases."""

from __future__ import annotations

import pytest
from msgspec.structs import replace
from pannier.shared.central import CentralSeen, CentralState, GatewayState, Inputs
from pannier.supervisor.central_events import happenings, is_news

ONE, OTHER = CentralSeen("10.0.0.1:1", True), CentralSeen("10.0.0.2:1", True)
DOWN = CentralSeen("10.0.0.1:1", False, trouble="connection refused")
LOCAL = CentralState(reason="calm", centrals=[ONE, OTHER])
HOT = Inputs(cgroup_pressure=40.0)
SHIFTED = replace(LOCAL, state="shifted", reason="cgroup-pressure", way="relay", weight=10.0, inputs=HOT)
RETURNING = replace(LOCAL, state="returning", weight=55.0)

CASES = [
    (CentralState(), LOCAL, []),
    (LOCAL, replace(LOCAL, weight=50.0), []),
    (
        LOCAL,
        SHIFTED,
        [
            "warning central.shifted: work leaves this host, by relay: CPU pressure of the control group 40 % "
            "(work leaves above 25 %)"
        ],
    ),
    (
        LOCAL,
        replace(SHIFTED, way="none", inbound=True, reason="forced"),
        ["warning central.shifted: work leaves this host, inbound alone: asked for by hand"],
    ),
    (
        replace(SHIFTED, weight=80.0),
        RETURNING,
        ["info central.returning: work comes back, from 80 of 100 points: all is calm"],
    ),
    (
        RETURNING,
        replace(SHIFTED, reason="forced"),
        ["warning central.shifted: work leaves this host again, by relay: asked for by hand"],
    ),
    (RETURNING, LOCAL, ["info central.returned: all work is done here again: all is calm"]),
    (
        LOCAL,
        replace(LOCAL, centrals=[DOWN, OTHER]),
        ["warning central.down: the Central 10.0.0.1:1 is down (connection refused): another one is up"],
    ),
    (
        replace(LOCAL, centrals=[ONE]),
        replace(LOCAL, centrals=[DOWN]),
        ["error central.down: the Central 10.0.0.1:1 is down (connection refused): all work stays here"],
    ),
    (replace(LOCAL, centrals=[DOWN]), LOCAL, ["info central.up: the Central 10.0.0.1:1 answers"]),
    (
        LOCAL,
        replace(LOCAL, shedding=True),
        [
            "error central.shedding: this host starves and no Central takes its work: what is least critical is "
            "refused (503)"
        ],
    ),
    (
        replace(LOCAL, shedding=True),
        LOCAL,
        ["info central.shedding_over: nothing is refused any more for want of a Central"],
    ),
    (replace(LOCAL, trouble=["a"]), replace(LOCAL, trouble=["a", "b"]), ["warning central.trouble: b"]),
    (
        CentralState(gateway=GatewayState()),
        CentralState(gateway=GatewayState(pressed=True)),
        ["warning central.pressed: this Central is under pressure itself, and grants less"],
    ),
    (
        CentralState(gateway=GatewayState(), shedding=True),
        CentralState(gateway=GatewayState()),
        [],
    ),
    (
        CentralState(gateway=GatewayState(pressed=True)),
        CentralState(gateway=GatewayState(), shedding=True),
        ["info central.relieved: this Central has room again"],
    ),
]


@pytest.mark.parametrize(("before", "now", "expected"), CASES)
def test_what_is_told(before: CentralState, now: CentralState, expected: list[str]) -> None:
    told = happenings(before, now, {"cgroup_pressure": 25.0})
    assert [f"{each.severity} {each.kind}: {each.text}" for each in told] == expected


@pytest.mark.parametrize(
    ("before", "now", "news"),
    [
        (None, LOCAL, True),
        (LOCAL, LOCAL, False),
        (LOCAL, replace(LOCAL, weight=0.9), False),
        (LOCAL, replace(LOCAL, weight=1.0), True),
        (LOCAL, replace(LOCAL, reason="holding"), True),
        (LOCAL, replace(LOCAL, forced=True), True),
        (LOCAL, replace(LOCAL, inputs=HOT, moved_rps=3.0), False),
        (LOCAL, replace(LOCAL, centrals=[DOWN, OTHER]), True),
        (LOCAL, replace(LOCAL, shedding=True), True),
    ],
)
def test_what_is_published(before: CentralState | None, now: CentralState, news: bool) -> None:
    assert is_news(before, now) is news
