"""Slots: stable, unique, and never given anew with an incarnation that was seen before."""

from hypothesis import given
from hypothesis import strategies as st
from pannier.sidecars.discovery.slots import Place, Slot, Slots

places = st.sets(st.tuples(st.sampled_from("ab"), st.integers(1, 6).map(str)), max_size=8)


def test_the_lowest_free_slot_first() -> None:
    slots = Slots()
    assert slots.assign([("a", "1"), ("a", "2")]) == {("a", "1"): Slot(0, 1), ("a", "2"): Slot(1, 1)}
    assert slots.assign([("a", "2")]) == {("a", "2"): Slot(1, 1)}
    assert slots.assign([("a", "3"), ("a", "2")]) == {("a", "3"): Slot(0, 2), ("a", "2"): Slot(1, 1)}


def test_what_finds_no_room_is_missing_and_who_was_there_stays() -> None:
    slots = Slots(capacity=2)
    slots.assign([("a", "2"), ("a", "3")])
    assert set(slots.assign([("a", "1"), ("a", "2"), ("a", "3")])) == {("a", "2"), ("a", "3")}


def test_nonsense_in_what_is_read_back_is_skipped() -> None:
    slots = Slots(capacity=4)
    slots.restore(
        [(("a", "1"), Slot(1, 7)), (("a", "2"), Slot(1, 8)), (("a", "3"), Slot(4, 1)), (("a", "4"), Slot(-1, 1))]
    )
    assert slots.assign([("a", "1")]) == {("a", "1"): Slot(1, 7)}


def test_incarnations_go_round_within_16_bits() -> None:
    slots = Slots(capacity=1)
    slots.restore([(("a", "1"), Slot(0, 65535))], 1 << 40)
    slots.assign([])
    assert slots.assign([("a", "2")]) == {("a", "2"): Slot(0, 1)}


@given(st.lists(places | st.none(), max_size=12))
def test_slots_are_stable_and_incarnations_never_return(steps: list[set[Place] | None]) -> None:
    slots = Slots(capacity=5)
    owned: dict[Place, Slot] = {}
    given_before: set[Slot] = set()
    for wanted in steps:
        if wanted is None:
            restarted = Slots(capacity=5)
            restarted.restore(owned.items(), slots.high_water)
            slots = restarted
            continue
        now = slots.assign(sorted(wanted))
        assert set(now) <= wanted
        assert len(now) == min(len(wanted), 5)
        assert len({slot.number for slot in now.values()}) == len(now)
        for place, slot in now.items():
            if place in owned:
                assert slot == owned[place]
            else:
                assert slot not in given_before
        given_before |= set(now.values())
        owned = now
