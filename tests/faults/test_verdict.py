"""The void rule, the verdict and the schedule, on numbers that were written by hand."""

from __future__ import annotations

from typing import Any

import pytest

from tests.faults.verdict import (
    Count,
    Trial,
    count,
    due,
    outcome,
    p99,
    repetitions,
    void,
    void_outcome,
    weigh,
    weigh_p99,
)

GOOD = Count(due=200, answered=200, late=0, errors=0, seconds=1.995, slowest_s=0.01)


def report(**changes: Any) -> dict[str, Any]:
    return {"requests": 200, "errors": 0, "seconds": 1.995, "histogram": [[1_000_000, 199], [9_000_000, 1]]} | changes


@pytest.mark.parametrize(
    ("rate", "seconds", "owed"),
    [(100, 2.0, 200), (100, 2.001, 201), (3, 1.0, 3), (3, 0.34, 2), (1000, 0.0005, 1), (7, 13.0, 91)],
)
def test_what_is_due_is_what_the_schedule_says(rate: int, seconds: float, owed: int) -> None:
    assert due(rate, seconds) == owed
    assert (owed - 1) / rate < seconds <= owed / rate + 1e-9


def test_a_report_is_counted_from_when_requests_were_due() -> None:
    found = count(100, 2.0, report())
    assert (found.due, found.answered, found.failed, found.slowest_s) == (200, 200, 0, 0.009)


def test_a_late_answer_has_failed_and_one_in_time_has_not() -> None:
    late = count(100, 2.0, report(histogram=[[1_000_000, 197], [2_000_000_000, 1], [2_000_000_001, 2]]))
    assert (late.late, late.failed) == (2, 2)


def test_what_was_due_and_never_sent_has_failed() -> None:
    held_up = count(100, 2.0, report(requests=150, errors=10, histogram=[[1_000_000, 150]]))
    assert (held_up.unsent, held_up.failed) == (40, 50)


def test_a_clean_window_at_its_rate_is_not_void() -> None:
    assert void({"get": GOOD}, 2.0) == ""
    assert void({"get": Count(due=200, answered=200, late=0, errors=0, seconds=2.1)}, 2.0) == ""


def test_a_window_below_its_rate_is_void() -> None:
    slow = Count(due=200, answered=200, late=0, errors=0, seconds=2.11)
    assert void({"get": GOOD, "post": slow}, 2.0) == "the clean window of post had 95% of its rate"


@pytest.mark.parametrize(
    "bad",
    [
        Count(due=200, answered=199, late=0, errors=1, seconds=1.99, first_error="read: reset"),
        Count(due=200, answered=199, late=0, errors=0, seconds=1.99),
        Count(due=200, answered=200, late=1, errors=0, seconds=1.99),
    ],
)
def test_any_failure_in_the_window_is_void(bad: Count) -> None:
    assert "1 of 200 failed in the clean window of post" in void({"get": GOOD, "post": bad}, 2.0)


def test_a_trial_keeps_what_was_promised_and_what_was_not() -> None:
    trial = Trial(0)
    trial.within("back_s", 0.4, at_most=1.0)
    trial.require(True, "siblings were touched")
    assert trial.broken == []
    trial.within("back_s", 1.25, at_most=1.0)
    trial.within("back_s", 0.5, at_most=1.0)
    trial.require(False, "siblings were touched")
    assert trial.broken == ["back_s 1.250, promised 1", "siblings were touched"]
    assert trial.times == {"back_s": 1.25}


def test_a_failure_breaks_a_trial_unless_it_is_forgiven() -> None:
    bad = Count(due=200, answered=198, late=1, errors=2, seconds=2.0, slowest_s=2.5, first_error="read: reset")
    for forgiven, holds in ((0, False), (2, False), (3, True)):
        trial = Trial(0)
        weigh(trial, {"get": GOOD, "post": bad}, forgiven=forgiven)
        assert (trial.broken == []) is holds
        assert trial.sums == {"requests": 400, "failed": 3}
        assert trial.times == {"slowest_s": 2.5}
    assert "post: 2 wrong, 1 late, 0 unsent (read: reset)" in trial_text(bad)


def trial_text(bad: Count) -> str:
    trial = Trial(0)
    weigh(trial, {"post": bad})
    return trial.broken[0]


def test_a_row_holds_only_if_every_repetition_does() -> None:
    trials = [Trial(number, times={"back_s": 0.1 * (number + 1)}, sums={"failed": 0}) for number in range(3)]
    held = outcome(trials)
    assert (held.held, held.repetitions) == (True, 3)
    assert held.figures == {"held": 3, "failed": 0, "back_s": {"median": 0.2, "worst": 0.3}}
    trials[2].require(False, "a sibling's PID changed")
    lost = outcome(trials)
    assert not lost.held
    assert lost.figures["held"] == 2
    assert lost.figures["broken"] == ["repetition 3: a sibling's PID changed"]


def test_a_row_that_was_never_repeated_or_is_void_has_not_held() -> None:
    assert not outcome([]).held
    assert (void_outcome("slow").held, void_outcome("slow").figures) == (False, {"void": "slow"})


def test_short_rows_are_repeated_more_often() -> None:
    assert [repetitions(seconds) for seconds in (3.0, 9.9, 10.0, 59.0, 60.0, 75.0)] == [20, 20, 5, 5, 1, 1]


def test_the_p99_is_of_all_flows_together() -> None:
    few = Count(due=10, answered=10, late=0, errors=0, seconds=2.0, histogram=[(50_000_000, 10)])
    many = Count(due=990, answered=990, late=0, errors=0, seconds=2.0, histogram=[(1_000_000, 990)])
    assert p99({"get": many, "post": few}) == 0.001
    assert p99({"get": many, "post": few, "put": few}) == 0.05
    assert p99({}) == 0.0


def test_a_load_may_be_slower_by_so_much_and_by_time_slices() -> None:
    def slow(ms: int) -> Count:
        return Count(due=100, answered=100, late=0, errors=0, seconds=2.0, histogram=[(ms * 1_000_000, 100)])

    for clean, beside, under_attack, holds in (
        (1, 1, 25, True),
        (1, 1, 26, False),
        (20, 1, 40, True),
        (20, 1, 41, False),
        (1, 30, 60, True),
        (1, 30, 61, False),
    ):
        trial = Trial(0)
        weigh_p99(trial, {"get": slow(under_attack)}, {"get": slow(clean)}, {"get": slow(beside)}, 2.0)
        assert (trial.broken == []) is holds
        assert trial.times["p99_s"] == under_attack / 1000


def test_the_same_broken_promise_is_said_once() -> None:
    trial = Trial(0)
    for _ in range(3):
        trial.require(False, "the connection lives on")
    assert trial.broken == ["the connection lives on"]


def test_what_was_in_flight_when_its_server_was_killed_is_counted_apart() -> None:
    lost = [(10.0, 10.4), (11.0, 11.2), (15.0, 15.1)]
    report = {"requests": 197, "errors": 3, "seconds": 2.0, "histogram": [], "lost": lost, "repeated": 2}
    posts, gets = (count(100, 2.0, report, idempotent=idempotent) for idempotent in (False, True))
    for found, in_flight in ((posts, 1), (gets, 0)):
        trial = Trial(0, killed=[10.2, 12.0])
        weigh(trial, {"one": found})
        assert (trial.sums["in_flight"], trial.sums["failed"]) == (in_flight, 3 - in_flight)
        assert trial.sums["repeated"] == 2
        assert trial.broken
