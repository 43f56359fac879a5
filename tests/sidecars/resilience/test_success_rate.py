"""Ejection over an interval, against Envoy's rules."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pannier.sidecars.resilience.config import Outlier
from pannier.sidecars.resilience.success_rate import Host, allowance, ejection_ms, lately, outliers

DEFAULTS = Outlier()
OFF = Outlier(enforcing_success_rate=0)


def always() -> float:
    return 0.0


def ejected(hosts: list[Host], rule: Outlier = DEFAULTS) -> list[int]:
    return [found.number for found in outliers(hosts, rule, always) if found.consequence == "ejected"]


@pytest.mark.semantics(
    "resilience",
    "An endpoint far below its siblings' success rate is ejected, where enough of them have enough requests",
    "services.*.outlier.interval",
    "services.*.outlier.stdev_factor",
    "services.*.outlier.success_rate_hosts",
    "services.*.outlier.success_rate_requests",
)
def test_one_that_fails_more_than_its_siblings_is_an_outlier() -> None:
    hosts = [Host(200, 2) for _ in range(9)] + [Host(200, 60)]
    [found] = outliers(hosts, DEFAULTS, always)
    assert found.number == 9
    assert found.consequence == "ejected"
    # mean 96.1, population standard deviation 8.7: 96.1 - 1.9 * 8.7 = 79.57
    assert found.why == "ejected by success rate: 70.0 % < 79.6 %, from a mean of 96.1 %"


def test_all_that_fail_alike_are_no_outliers() -> None:
    assert ejected([Host(200, 150) for _ in range(10)]) == []


@pytest.mark.semantics(
    "resilience",
    "An endpoint far below its siblings' success rate is ejected, where enough of them have enough requests",
)
@pytest.mark.parametrize(("hosts", "requests", "found"), [(5, 100, True), (4, 100, False), (5, 99, False)])
def test_too_few_hosts_or_requests_are_not_judged(hosts: int, requests: int, found: bool) -> None:
    rule = msgspec.structs.replace(DEFAULTS, stdev_factor=1.0)
    each = [Host(requests, 0)] * (hosts - 1) + [Host(requests, 60)]
    assert bool(ejected(each, rule)) is found


def test_who_is_out_is_neither_judged_nor_compared_with() -> None:
    rule = msgspec.structs.replace(DEFAULTS, max_ejected_percent=100)
    hosts = [Host(200, 2) for _ in range(9)] + [Host(200, 200, out=True)]
    assert outliers(hosts, rule, always) == []


@pytest.mark.semantics(
    "resilience", "Ejection by a percentage of failures is off", "services.*.outlier.failure_percentage"
)
def test_failure_percentage_is_absolute_and_off_by_default() -> None:
    rule = Outlier(failure_percentage=85, enforcing_success_rate=0, max_ejected_percent=100)
    hosts = [Host(50, 43)] * 5 + [Host(50, 42), Host(49, 49)]
    assert ejected(hosts, rule) == [0, 1, 2, 3, 4]
    assert outliers(hosts, rule, always)[0].why == "ejected by failure percentage: 86.0 % ≥ 85 %"
    assert ejected(hosts, Outlier(enforcing_success_rate=0, max_ejected_percent=100)) == []
    assert ejected([*hosts[:4], Host(1, 1)], rule) == [], "four hosts with enough requests are not five"


def test_the_worst_goes_first_and_the_others_are_told() -> None:
    rule = Outlier(failure_percentage=10, enforcing_success_rate=0)
    found = outliers([Host(100, 20), Host(100, 90), Host(100, 0), Host(100, 0), Host(100, 30)], rule, always)
    assert [(one.number, one.consequence) for one in found] == [
        (1, "ejected"),
        (4, "too many out"),
        (0, "too many out"),
    ]


def test_enforcement_is_by_chance_and_its_bound_is_asked_first() -> None:
    hosts = [Host(200, 2) for _ in range(9)] + [Host(200, 60)]
    rule = Outlier(enforcing_success_rate=30)
    assert outliers(hosts, rule, lambda: 0.29)[0].consequence == "ejected"
    assert outliers(hosts, rule, lambda: 0.30)[0].consequence == "not enforced"
    full = [*hosts, Host(0, 0, out=True)]
    assert outliers(full, rule, lambda: 0.30)[0].consequence == "too many out"


@pytest.mark.parametrize(
    ("hosts", "percent", "most"), [(1, 10, 0), (1, 100, 1), (2, 10, 1), (19, 10, 1), (20, 10, 2), (2, 0, 1), (0, 10, 0)]
)
def test_how_many_may_be_out(hosts: int, percent: float, most: int) -> None:
    assert allowance(hosts, percent) == most


@given(
    st.lists(st.builds(Host, st.integers(0, 300), st.integers(0, 300), st.booleans())).map(
        lambda hosts: [host._replace(failures=min(host.failures, host.calls)) for host in hosts]
    ),
    st.floats(0, 100),
    st.floats(0, 100),
    st.floats(0, 3),
)
def test_never_more_are_ejected_than_are_allowed(
    hosts: list[Host], percent: float, failing: float, factor: float
) -> None:
    rule = Outlier(
        max_ejected_percent=percent,
        failure_percentage=failing,
        stdev_factor=factor,
        success_rate_hosts=2,
        success_rate_requests=1,
        failure_percentage_hosts=1,
        failure_percentage_requests=1,
    )
    numbers = ejected(hosts, rule)
    assert len(numbers) == len(set(numbers))
    assert not any(hosts[number].out for number in numbers)
    if numbers:
        assert len(numbers) + sum(host.out for host in hosts) <= allowance(len(hosts), percent)
    if len(hosts) > 1 and percent <= 50:
        assert len(numbers) < len(hosts)


@pytest.mark.parametrize(
    ("times", "quiet_ms", "seconds"),
    [
        (0, 0, 30),
        (1, 0, 60),
        (2, 9_999, 90),
        (2, 10_000, 60),
        (2, 25_000, 30),
        (2, 10**9, 30),
        (9, 0, 300),
        (99, 0, 300),
    ],
)
def test_an_ejection_lasts_longer_each_time_and_that_is_forgotten_by_the_interval(
    times: int, quiet_ms: int, seconds: int
) -> None:
    assert ejection_ms(DEFAULTS, lately(DEFAULTS, times, quiet_ms)) == seconds * 1000
