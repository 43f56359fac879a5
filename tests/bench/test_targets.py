import pytest

from tests.bench.figures import count, paced, result, rows, series
from tests.bench.targets import Target, judge


def verdicts(targets: list[Target]) -> dict[str, bool | None]:
    return {one.what: one.met for one in targets}


@pytest.mark.parametrize(
    ("key", "cost", "met"),
    [
        ("haproxy", 10.0, True),
        ("haproxy", 9.9, False),
        ("envoy", 21.25, True),
        ("envoy", 21.2, False),
        ("relay", 7.4, True),
        ("relay", 7.3, False),
    ],
)
def test_the_cost_of_a_hop_is_held_against_each_peer(key: str, cost: float, met: bool) -> None:
    found = judge(result(*rows(series("pannier", [8.5, 8.5]), series(key, [cost, cost]))))
    (target,) = [one for one in found if one.median is not None]
    assert (target.met, target.layout) == (met, "one-core")


def test_what_was_not_measured_is_neither_met_nor_not() -> None:
    found = judge(result(*rows(series("pannier", [8.5]))))
    assert len(found) == 4
    assert {one.met for one in found} == {None}
    assert judge(result()) == []


def test_the_median_is_judged_and_a_void_figure_is_marked() -> None:
    one, other = series("pannier", [8.0, 8.0, 20.0], void=(0, 1, 2)), series("haproxy", [10.0, 10.0, 10.0])
    target = judge(result(*rows(one, other)))[0]
    assert (target.median, target.low, target.high) == (0.8, 0.8, 2.0)
    assert (target.met, target.void) == (True, True)


@pytest.mark.parametrize(("layout", "met"), [("one-core", False), ("two-cores", True)])
def test_a_hop_may_add_more_where_a_core_must_be_woken(layout: str, met: bool) -> None:
    one, direct = series("pannier", [8.0], layout=layout), series("direct", [1.0], layout=layout)
    found = judge(result(*rows(paced(one, 140.0, 130.0), paced(direct, 100.0, 100.0))))
    target = next(one for one in found if "p50" in one.what)
    assert (target.median, target.met, target.layout) == (35.0, met, layout)


@pytest.mark.parametrize(
    ("layout", "expected"),
    [
        ("one-core", {"CPU of proxy + origin ÷ that over TCP": True}),
        (
            "two-cores",
            {"CPU of proxy + origin ÷ that over TCP": True, "requests a second ÷ direct TCP to the origin": False},
        ),
    ],
)
def test_a_unix_leg_is_held_against_tcp_and_against_no_hop(layout: str, expected: dict[str, bool]) -> None:
    peers = (
        series("pannier", [8.0], scenario="h1-uds-64c", layout=layout, origin_us=4.0, requests=999),
        series("pannier-tcp", [10.0], scenario="h1-uds-64c", layout=layout, origin_us=5.0),
        series("direct", [1.0], scenario="h1-uds-64c", layout=layout, requests=1_000),
    )
    found = verdicts(judge(result(*rows(*peers))))
    assert {what.removeprefix("origin over a Unix socket: "): met for what, met in found.items()} == expected


@pytest.mark.parametrize(
    ("idle", "each", "met"), [(12_000_000, 10_240.0, [True, True]), (12_100_000, 10_300.0, [False, False])]
)
def test_memory_is_held_against_its_limits(idle: int, each: float, met: list[bool]) -> None:
    weight = {"peer": "pannier", "features": "", "connections": 2_000}
    weights = [
        {**weight, "key": "pannier", "idle_bytes": idle, "bytes_per_connection": each},
        {**weight, "key": "envoy", "idle_bytes": 10**9, "bytes_per_connection": 1e6},
    ]
    assert [one.met for one in judge(result(memory=weights))] == met


def test_each_sidecar_is_held_against_what_it_may_add() -> None:
    counts = [
        count(),
        count("discovery", added=200.4),
        count("discovery", "traffic", added=201.0, syscalls=4.04, allocations=0.004),
    ]
    found = judge(result(instructions=counts))
    assert verdicts(found) == {
        "instructions that discovery adds to a request": True,
        "instructions that traffic adds to a request": False,
        "system calls that all four sidecars add to a request": True,
        "allocations a request in steady state, all four": True,
    }
    counts[-1] |= {"syscalls": 5.0, "allocations": 1.0}
    assert [one.met for one in judge(result(instructions=counts))][2:] == [False, False]
    counts[-1]["syscalls"] = None
    assert len(judge(result(instructions=counts))) == 3
