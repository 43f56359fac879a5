"""The table as data, and what a reader is told of a row."""

from __future__ import annotations

import argparse
from collections import Counter

import pytest

from tests.faults.row import pick
from tests.faults.run import ROWS, entry, line, times, words
from tests.faults.verdict import Trial, outcome, void_outcome

FIRST = ROWS[0]


def test_a_row_can_be_named_and_is_recorded_apart_from_all_others() -> None:
    assert max(Counter(row.name for row in ROWS).values()) == 1
    assert max(Counter((row.table, row.fault) for row in ROWS).values()) == 1


def test_rows_are_picked_by_pattern_in_their_order() -> None:
    assert pick(ROWS, []) == list(ROWS)
    assert [row.name for row in pick(ROWS, words("kill-t*, kill-resilience"))] == ["kill-traffic", "kill-resilience"]
    with pytest.raises(ValueError, match=r"no row is called 'kil'; there are: kill-traffic"):
        pick(ROWS, ["kill-traffic", "kil"])


def test_few_repetitions_in_a_short_run_and_in_ci(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CI", raising=False)
    options = argparse.Namespace(repeat=None, short=False)
    assert times(FIRST, options) == 20
    monkeypatch.setenv("CI", "true")
    assert times(FIRST, options) == 3
    assert times(FIRST, argparse.Namespace(repeat=None, short=True)) == 3
    assert times(FIRST, argparse.Namespace(repeat=7, short=True)) == 7


def test_what_is_recorded_has_the_fields_that_others_read() -> None:
    found = entry(FIRST, outcome([Trial(0, sums={"failed": 0, "requests": 900}, times={"back_s": 0.5})]))
    assert list(found) == ["table", "fault", "promise", "repetitions", "held", "figures"]
    assert (found["table"], found["repetitions"], found["held"]) == ("Processes", 1, True)


def test_a_row_is_one_line() -> None:
    trials = [Trial(n, sums={"failed": n, "requests": 900}, times={"back_s": 0.5 + n}) for n in range(2)]
    assert line(FIRST, outcome(trials)) == "held  kill-traffic  2/2  1 of 1800 failed, back_s 1 … 1.5"
    trials[1].require(False, "others were touched")
    assert line(FIRST, outcome(trials)).startswith("LOST  kill-traffic  1/2")
    assert line(FIRST, void_outcome("slow")) == "void  kill-traffic: slow"
