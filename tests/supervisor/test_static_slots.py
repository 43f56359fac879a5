from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from pannier.supervisor.static_slots import FIRST, LAST, static_slots

PLACES = st.sets(st.tuples(st.sampled_from("abc"), st.integers(0, 200).map(str)))


@given(PLACES)
def test_each_has_a_slot_of_its_own_and_the_same_after_a_restart(places: set[tuple[str, str]]) -> None:
    words = static_slots(places)
    assert len(words) == min(len(places), LAST - FIRST + 1)
    assert len({word.slot for word in words.values()}) == len(words)
    for word in words.values():
        assert FIRST <= word.slot <= LAST
        assert 1 <= word.incarnation <= 65535
    assert static_slots(sorted(places, reverse=True)) == words


@given(PLACES, st.tuples(st.sampled_from("abc"), st.integers(0, 200).map(str)))
def test_who_is_moved_by_another_keeps_what_tells_him_apart(
    places: set[tuple[str, str]], another: tuple[str, str]
) -> None:
    before, after = static_slots(places), static_slots({*places, another})
    assert all(after[place].incarnation == word.incarnation for place, word in before.items() if place in after)
