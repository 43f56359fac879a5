"""The page of promises: what it says of a row, what is taken over, and that nobody mended it by hand."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

from tests.faults.promises import KEPT, PAGE, figures, held, merged, one_a_line, page
from tests.faults.run import ROWS, entry
from tests.faults.verdict import Trial, outcome, void_outcome

ROW = ROWS[0]
KEY = {"table": ROW.table, "fault": ROW.fault, "promise": ROW.promise}


def result(times: int, *, broken: int = 0) -> dict[str, Any]:
    trials = [Trial(n, {"back_s": 0.5 + n / 100}, {"failed": 0, "requests": 900}) for n in range(times)]
    for trial in trials[:broken]:
        trial.require(False, "it is not back")
    return dict(entry(ROW, outcome(trials)))


VOID = dict(entry(ROW, void_outcome("the clean window had 80% of its rate")))


def test_the_page_in_docs_is_what_its_results_come_to() -> None:
    text = KEPT.read_text()
    assert len(text) < 150_000
    assert PAGE.read_text() == page(ROWS, json.loads(text)), "stale: run `make docs`"


def test_every_row_is_on_the_page_with_its_command_tried_or_not() -> None:
    text = page(ROWS, {"machine": "Model, 2 CPUs.", "rows": [result(20)]})
    for row in ROWS:
        [line] = [line for line in text.splitlines() if f"`make faults ROWS={row.name}`" in line]
        assert ("**never run**" in line) == (row is not ROW)
    assert f"Model, 2 CPUs. {len(ROWS)} rows: 1 held, 0 did not, {len(ROWS) - 1} have no result." in text


def test_what_is_said_of_a_row() -> None:
    assert held(ROW, result(20)) == "20/20"
    assert held(ROW, result(3)) == "3/3 (a whole run has 20)"
    assert held(ROW, result(20, broken=2)) == "**not held** 18/20: repetition 1: it is not back"
    assert held(ROW, VOID) == "**void**: the clean window had 80% of its rate"
    assert held(ROW, None) == "**never run**"
    assert figures(result(3)) == "0 of 2700 failed, back 0.51 ... 0.52 s"


def test_the_better_tried_result_is_kept_and_a_failure_is_never_hidden() -> None:
    whole, few, lost = result(20), result(3), result(3, broken=1)
    assert merged(ROWS, [whole], [few]) == [whole]
    assert merged(ROWS, [few], [whole]) == [whole]
    assert merged(ROWS, [whole], [lost]) == [lost]
    assert merged(ROWS, [lost], [few]) == [few]
    assert merged(ROWS, [whole], [VOID]) == [whole]
    assert merged(ROWS, [], [VOID]) == [VOID]


def test_a_whole_run_of_one_long_repetition_is_more_than_three_short_ones() -> None:
    long = dataclasses.replace(ROW, seconds=640.0)
    assert long.repetitions == 1
    for short in (result(3), result(3, broken=1)):
        assert merged([long], [short], [result(1)]) == [result(1)]


def test_a_result_of_another_promise_goes() -> None:
    changed = dataclasses.replace(ROW, promise="more")
    assert merged([changed], [result(20)], []) == []
    assert merged([changed], [result(20)], [result(3) | {"promise": "more"}]) == [result(3) | {"promise": "more"}]
    assert merged(ROWS, [result(20) | {"fault": "of former times"}], []) == []


def test_a_kept_result_has_a_line_of_its_own() -> None:
    kept = {"machine": "Model.", "rows": [result(3), VOID]}
    assert json.loads(one_a_line(kept)) == kept
    assert sum(line.startswith('  {"table"') for line in one_a_line(kept).splitlines()) == 2
