from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from pannier.sidecars.resilience.readings import Counts, Readings

PLACE = (4, 1)


def test_counting_begins_at_the_first_reading() -> None:
    readings = Readings()
    assert readings.advance({PLACE: Counts(100, 50)}) == {}
    assert readings.advance({PLACE: Counts(100, 50)}) == {}
    assert readings.advance({PLACE: Counts(103, 51, 1, 2)}) == {PLACE: Counts(3, 1, 1, 2)}


def test_a_new_holder_of_a_slot_inherits_nothing() -> None:
    readings = Readings()
    readings.advance({(4, 1): Counts(100, 50)})
    assert readings.advance({(4, 2): Counts(7, 7)}) == {}
    assert readings.advance({(4, 2): Counts(8, 7)}) == {(4, 2): Counts(1)}


def test_one_that_was_away_begins_again() -> None:
    readings = Readings()
    readings.advance({PLACE: Counts(1)})
    readings.advance({})
    assert readings.advance({PLACE: Counts(9)}) == {}


def test_counters_that_go_back_begin_again() -> None:
    readings = Readings()
    readings.advance({PLACE: Counts(100, 50)})
    assert readings.advance({PLACE: Counts(3, 1)}) == {}
    assert readings.advance({PLACE: Counts(4, 2)}) == {PLACE: Counts(1, 1)}


COUNTS = st.builds(Counts, *[st.integers(0, 1000)] * 4)


@given(st.lists(COUNTS))
def test_the_differences_add_up_to_what_was_counted(steps: list[Counts]) -> None:
    readings, total, seen = Readings(), Counts(7, 5, 3, 1), Counts(7, 5, 3, 1)
    readings.advance({PLACE: total})
    for step in steps:
        total = total.plus(step)
        seen = seen.plus(readings.advance({PLACE: total}).get(PLACE, Counts()))
    assert seen == total


@given(st.lists(COUNTS))
def test_nothing_moves_by_less_than_nothing(readings_in_any_order: list[Counts]) -> None:
    readings = Readings()
    for counts in readings_in_any_order:
        for moved in readings.advance({PLACE: counts}).values():
            assert moved.since(Counts()) == moved
