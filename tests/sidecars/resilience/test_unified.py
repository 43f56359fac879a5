"""The endpoint breaker's rate over a window, against Linkerd's rules."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pannier.sidecars.resilience.config import Breaker
from pannier.sidecars.resilience.readings import Counts
from pannier.sidecars.resilience.unified import PARTS, RollingRate, penalty_ms

RULE = Breaker(success_rate=0.8)


@pytest.mark.semantics(
    "resilience",
    "Unified mode: a breaker also opens below a rate of success, where 429 counts as a failure",
    "services.*.breaker.success_rate",
    "services.*.breaker.window",
    "services.*.breaker.min_requests",
)
def test_too_little_success_opens() -> None:
    rate = RollingRate(RULE)
    assert rate.add(0, Counts(4, 4)) == "", "four are too few to judge by"
    assert rate.add(50, Counts(100, 17)) == "success 80 % < 80 % of 104 requests in 10s"


def test_exactly_the_rate_is_enough() -> None:
    assert RollingRate(RULE).add(0, Counts(10, 2)) == ""
    assert RollingRate(RULE).add(0, Counts(10, 3)) == "success 70 % < 80 % of 10 requests in 10s"


@pytest.mark.semantics(
    "resilience", "Unified mode: a breaker also opens below a rate of success, where 429 counts as a failure"
)
def test_a_429_counts() -> None:
    assert RollingRate(RULE).add(0, Counts(10, 1, refused=2)) == "success 70 % < 80 % of 10 requests in 10s"


def test_every_other_failure_opens_what_a_row_never_would() -> None:
    rate = RollingRate(RULE)
    opens = [rate.add(number, Counts(1, number % 2)) for number in range(5)]
    assert opens == ["", "", "", "", "success 60 % < 80 % of 5 requests in 10s"]


def test_the_window_forgets() -> None:
    rate = RollingRate(RULE)
    rate.add(0, Counts(4, 4))
    assert rate.add(10_000, Counts(4, 0)) == ""
    rate = RollingRate(RULE)
    rate.add(0, Counts(4, 4))
    assert rate.add(9_000, Counts(4, 0)) != ""


@given(st.lists(st.tuples(st.integers(0, 3000), st.integers(1, 50), st.floats(0, 1)), max_size=100))
def test_it_judges_what_happened_within_the_window_to_a_part_of_it(steps: list[tuple[int, int, float]]) -> None:
    rate, now = RollingRate(RULE), 0
    history: list[tuple[int, Counts]] = []
    part = 10_000 // PARTS
    for pause, calls, share in steps:
        now += pause
        moved = Counts(calls, int(calls * share))
        history.append((now, moved))
        opens = rate.add(now, moved)
        verdicts = set()
        for length in (10_000 - part, 10_000):
            within = [counts for at, counts in history if at // part > (now - length) // part]
            total, bad = sum(c.calls for c in within), sum(c.failures for c in within)
            verdicts.add(total >= 5 and total - bad < 0.8 * total)
        assert bool(opens) in verdicts


@pytest.mark.parametrize(
    ("times", "chance", "ms"),
    [(0, 0.0, 1000), (1, 0.0, 2000), (5, 0.0, 32_000), (6, 0.0, 60_000), (255, 0.0, 60_000), (0, 0.5, 1250)],
)
def test_the_penalty_doubles_up_to_its_maximum_with_jitter(times: int, chance: float, ms: int) -> None:
    assert penalty_ms(Breaker(), times, chance) == ms
