from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from pannier.sidecars.traffic.canary import Counts
from pannier.sidecars.traffic.tally import Tally

A, B = (0, 1), (1, 1)


def test_counting_begins_where_the_counters_stand() -> None:
    tally = Tally()
    assert tally.see({A: Counts(100, 50)}) == Counts(0, 0)
    assert tally.see({A: Counts(103, 51), B: Counts(7, 7)}) == Counts(3, 1)
    assert tally.see({A: Counts(103, 51), B: Counts(9, 8)}) == Counts(5, 2)


def test_what_is_gone_keeps_what_it_had_and_what_comes_back_is_not_counted_twice() -> None:
    tally = Tally()
    tally.see({A: Counts(), B: Counts()})
    assert tally.see({A: Counts(5, 1), B: Counts(3, 0)}) == Counts(8, 1)
    assert tally.see({B: Counts(4, 0)}) == Counts(9, 1)
    assert tally.see({A: Counts(6, 1), B: Counts(4, 0)}) == Counts(9, 1)
    assert tally.see({A: Counts(8, 1), B: Counts(4, 0)}) == Counts(11, 1)


def test_a_new_moment_forgets_what_was() -> None:
    tally = Tally()
    tally.see({A: Counts()})
    tally.see({A: Counts(5, 5)})
    tally.begin()
    assert tally.see({A: Counts(5, 5)}) == Counts()
    assert tally.see({A: Counts(6, 5)}) == Counts(1, 0)


def test_a_moment_that_was_written_down_is_taken_up_again() -> None:
    first = Tally()
    first.see({A: Counts(10, 1), B: Counts(1, 1)})
    second = Tally(first.mark())
    assert second.mark() == first.mark()
    assert second.see({A: Counts(15, 2)}) == Counts(5, 1)
    assert second.mark() == first.mark()


def test_counters_lower_than_written_down_are_new() -> None:
    tally = Tally({A: Counts(1000, 10)})
    assert tally.see({A: Counts(4, 1)}) == Counts(4, 1)
    assert tally.see({A: Counts(6, 1)}) == Counts(6, 1)


@given(st.lists(st.dictionaries(st.sampled_from([A, B, (2, 1)]), st.tuples(st.integers(0, 9), st.integers(0, 9)))))
def test_the_sum_never_goes_back(history: list[dict[tuple[int, int], tuple[int, int]]]) -> None:
    tally, last = Tally(), Counts()
    for seen in history:
        now = tally.see({place: Counts(*counts) for place, counts in seen.items()})
        assert now.calls >= last.calls and now.failures >= last.failures
        last = now
