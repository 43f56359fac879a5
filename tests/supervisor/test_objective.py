"""Conditions under which a change is taken back: what can be written, from when they are judged, what they measure."""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest
from pannier.shared.errors import UsageError
from pannier.supervisor.objective import Counted, Objective, counted, holds, measured, parse, spelt

BOUNDS = [0.01, 0.1, 0.25, 1.0]


@dataclass
class Series:
    direction: str = "inbound"
    status: int = 200
    flag: str = ""
    count: int = 0
    fine: list[int] = field(default_factory=lambda: [0] * 5)


@pytest.mark.parametrize(
    ("text", "direction", "metric", "value"),
    [
        ("success<99%", "inbound", "success", 0.99),
        (" SUCCESS < 99.95 % ", "inbound", "success", 0.9995),
        ("outbound.success<50%", "outbound", "success", 0.5),
        ("p99>250ms", "inbound", "p99", 0.25),
        ("inbound.p50>1s", "inbound", "p50", 1.0),
        ("p95>1s500ms", "inbound", "p95", 1.5),
    ],
)
def test_what_can_be_written(text: str, direction: str, metric: str, value: float) -> None:
    found = parse(text)
    assert (found.direction, found.metric, found.value) == (direction, metric, value)
    assert parse(found.text) == found


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "is no condition"),
        ("success", "is no condition"),
        ("success<", "is no condition"),
        ("sucess<99%", "no metric 'sucess'"),
        ("p90>5ms", "no metric 'p90'"),
        ("success>99%", "success is bad when it falls"),
        ("success<=99%", "written with <"),
        ("p99<250ms", "p99 is bad when it grows"),
        ("success<99", "'99' is no percentage"),
        ("success<0%", "no percentage above 0"),
        ("success<101%", "no percentage above 0"),
        ("success<1e2%", "no percentage"),
        ("success<NaN%", "no percentage"),
        ("p99>250", "is no duration"),
        ("p99>0ms", "no time above 0"),
        ("p99>-5ms", "is no duration"),
        ("sideways.success<99%", "is no condition"),
        ("success<99%;rm -rf /", "no percentage"),
        ("success<" + "9" * 5000 + "%", "no percentage"),
    ],
)
def test_what_cannot_says_why(text: str, why: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse(text)
    assert why in caught.value.message
    assert "success<99%" in caught.value.hint
    assert len(caught.value.message) < 12_000


def test_only_one_direction_counts_and_broken_exchanges_have_failed() -> None:
    series = [
        Series(status=200, count=5, fine=[5, 0, 0, 0, 0]),
        Series(status=404, count=2, fine=[0, 2, 0, 0, 0]),
        Series(status=404, flag="NR", count=1, fine=[1, 0, 0, 0, 0]),
        Series(status=503, count=1, fine=[0, 0, 0, 0, 1]),
        Series(status=0, count=1, fine=[0, 0, 1, 0, 0]),
        Series(direction="outbound", status=500, count=100),
    ]
    assert counted(series, "inbound") == Counted(10, 7, (6, 2, 1, 0, 1))


def test_only_what_came_since_counts() -> None:
    before = Counted(100, 50, (100, 0))
    assert Counted(130, 75, (110, 10, 10)).since(before) == Counted(30, 25, (10, 10, 10))
    assert before.since(Counted()) == before
    assert Counted().since(before) == Counted(0, 0, (0, 0)), "counters never go back; a new segment is no harm"


@pytest.mark.parametrize(
    ("text", "found", "value"),
    [
        ("success<99%", Counted(19, 0, (19,)), None),
        ("success<99%", Counted(20, 19, (20,)), 0.95),
        ("success<99%", Counted(), None),
        ("p50>20ms", Counted(19, 19, (0, 19)), None),
        ("p50>20ms", Counted(20, 20, (0, 20)), 0.01),
        ("p95>20ms", Counted(20, 20, (18, 2)), 0.01),
        ("p99>20ms", Counted(99, 99, (0, 0, 99)), None),
        ("p99>20ms", Counted(100, 100, (98, 0, 2)), 0.1),
        ("p99>20ms", Counted(100, 100, (99, 0, 1)), 0.0),
        ("p50>20ms", Counted(20, 20, (0, 0, 0, 0, 20)), 1.0),
    ],
)
def test_what_is_measured_and_from_when(text: str, found: Counted, value: float | None) -> None:
    assert measured(parse(text), found, BOUNDS) == value


@pytest.mark.parametrize(
    ("text", "value", "bad"),
    [
        ("success<99%", 0.9899, True),
        ("success<99%", 0.99, False),
        ("p99>250ms", 0.25, False),
        ("p99>250ms", 0.26, True),
    ],
)
def test_a_bound_that_is_just_reached_is_not_violated(text: str, value: float, bad: bool) -> None:
    assert holds(parse(text), value) is bad


def test_what_was_found_in_words() -> None:
    rate: Objective = parse("success<99%")
    assert spelt(rate, None, 3) == "3 requests are too few to judge success<99%"
    assert spelt(rate, 0.9, 20) == "success is 90% over 20 requests"
    assert spelt(parse("outbound.p99>250ms"), 0.3, 100) == "outbound.p99 is 300ms over 100 requests"
