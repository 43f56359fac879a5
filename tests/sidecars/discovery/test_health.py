"""Thresholds of active checks."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pannier.sidecars.discovery.health import Condition, Health, Thresholds


def after(outcomes: str, thresholds: Thresholds | None = None, start: Health | None = None) -> Health:
    health = start or Health()
    for outcome in outcomes:
        health = health.after(outcome == "+", thresholds or Thresholds())
    return health


@pytest.mark.semantics(
    "discovery",
    "So many failed checks take an endpoint out, so many good ones bring it back",
    "health.failures",
    "health.successes",
)
@pytest.mark.parametrize(
    ("outcomes", "condition"),
    [
        ("", Condition.UNKNOWN),
        ("+", Condition.UP),
        ("-", Condition.UNKNOWN),
        ("--", Condition.UNKNOWN),
        ("---", Condition.DOWN),
        ("--+", Condition.UP),
        ("+--", Condition.UP),
        ("+--+--", Condition.UP),
        ("+---", Condition.DOWN),
        ("+---+", Condition.UP),
    ],
)
def test_three_failures_take_down_and_one_success_brings_up(outcomes: str, condition: Condition) -> None:
    assert after(outcomes).condition is condition
    assert after(outcomes).healthy == (condition is Condition.UP)


@given(st.text("+-", max_size=30), st.integers(1, 5), st.integers(1, 5))
def test_the_condition_follows_from_the_last_decisive_run(outcomes: str, failures: int, successes: int) -> None:
    expected = Condition.UNKNOWN
    for end in range(1, len(outcomes) + 1):
        if outcomes[:end].endswith("+" * successes):
            expected = Condition.UP
        elif outcomes[:end].endswith("-" * failures):
            expected = Condition.DOWN
    assert after(outcomes, Thresholds(failures, successes)).condition is expected
