"""The service breaker, against resilience4j's rules."""

from __future__ import annotations

from itertools import product

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pannier.sidecars.resilience.config import ServiceBreaker
from pannier.sidecars.resilience.readings import Counts
from pannier.sidecars.resilience.service_breaker import STEPS, Circuit, Step, Verdict

RULE = ServiceBreaker(calls=100, half_open_calls=10)


def test_every_state_has_a_step_for_every_verdict() -> None:
    assert set(STEPS) == set(product(["closed", "open", "half_open"], Verdict))


@pytest.mark.semantics(
    "resilience",
    "A service breaker opens at a rate of failures or of slow calls, over the last calls",
    "services.*.service_breaker.failure_rate",
    "services.*.service_breaker.slow_rate",
    "services.*.service_breaker.calls",
)
def test_nothing_is_judged_before_the_window_is_full() -> None:
    circuit = Circuit(RULE)
    assert circuit.step("closed", Counts(99, 99)) == (Step.STAY, "")
    assert circuit.step("closed", Counts(1, 0)) == (Step.OPEN, "failures 99 % ≥ 50 % of 100 calls")


def test_the_rate_itself_opens() -> None:
    assert Circuit(RULE).step("closed", Counts(100, 50))[0] is Step.OPEN
    assert Circuit(RULE).step("closed", Counts(100, 49))[0] is Step.STAY


@pytest.mark.semantics(
    "resilience",
    "A service breaker opens at a rate of failures or of slow calls, over the last calls",
    "services.*.service_breaker.slow",
)
def test_slow_calls_open_as_failures_do() -> None:
    rule = ServiceBreaker(slow="200ms", slow_rate=40)
    assert Circuit(rule).step("closed", Counts(100, 0, slow=39))[0] is Step.STAY
    assert Circuit(rule).step("closed", Counts(100, 0, slow=40)) == (
        Step.OPEN,
        "slower than 200ms: 40 % ≥ 40 % of 100 calls",
    )


def test_refusals_of_the_service_are_no_failures() -> None:
    assert Circuit(RULE).step("closed", Counts(100, 0, refused=100))[0] is Step.STAY


def test_the_window_is_one_of_the_last_calls() -> None:
    circuit = Circuit(RULE)
    for _ in range(4):
        circuit.step("closed", Counts(10, 10))
    for _ in range(9):
        assert circuit.step("closed", Counts(10, 0))[0] is Step.STAY
    assert circuit.step("closed", Counts(10, 10))[0] is Step.STAY, "the old failures have left the window"


def test_what_comes_back_while_it_is_open_is_ignored() -> None:
    circuit = Circuit(RULE)
    assert circuit.step("closed", Counts(100, 100))[0] is Step.OPEN
    assert circuit.step("open", Counts(50, 50)) == (Step.STAY, "")
    assert circuit.step("half_open", Counts(9, 0)) == (Step.STAY, "")
    assert circuit.step("half_open", Counts(1, 1)) == (Step.CLOSE, "failures 10 % < 50 % of 10 calls that tried it")


@pytest.mark.semantics("resilience", "Half-open it lets so many calls through, which are judged by the same rates")
def test_half_open_is_judged_by_the_same_rates_and_each_time_anew() -> None:
    circuit = Circuit(RULE)
    circuit.step("open", Counts())
    assert circuit.step("half_open", Counts(10, 5))[0] is Step.OPEN
    assert circuit.step("half_open", Counts(9, 0))[0] is Step.STAY
    assert circuit.step("half_open", Counts(1, 0))[0] is Step.CLOSE
    assert circuit.step("closed", Counts(99, 99))[0] is Step.STAY


def test_calls_that_tried_it_within_one_look_are_judged() -> None:
    circuit = Circuit(RULE)
    circuit.step("open", Counts())
    assert circuit.step("half_open", Counts(10, 0))[0] is Step.CLOSE


@given(st.lists(st.tuples(st.integers(1, 40), st.booleans()), min_size=1, max_size=60))
def test_the_window_has_its_calls_and_less_than_one_sample_more(samples: list[tuple[int, bool]]) -> None:
    circuit = Circuit(RULE)
    history: list[Counts] = []
    for calls, fails in samples:
        history.append(Counts(calls, calls if fails else 0))
        step, _ = circuit.step("closed", history[-1])
        window = Counts()
        for sample in reversed(history):
            if window.calls >= RULE.calls:
                break
            window = window.plus(sample)
        expected = window.calls >= RULE.calls and 2 * window.failures >= window.calls
        assert step is (Step.OPEN if expected else Step.STAY)
        if expected:
            history.clear()
