from __future__ import annotations

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pannier.sidecars.resilience.circuit_slots import FIRST, INCARNATION_MAX, LAST, Given, assign, read_back
from pannier.sidecars.resilience.config import Config, Service, ServiceBreaker
from pannier.sidecars.resilience.table import limits_table


def test_a_service_keeps_its_place_and_newcomers_fill_the_gaps() -> None:
    first = assign(["a", "b", "c"], {})
    assert first.places == {"a": (FIRST, 1), "b": (FIRST + 1, 2), "c": (FIRST + 2, 3)}
    assert first.fresh == {"a", "b", "c"}
    second = assign(["a", "c", "d"], first.places)
    assert second.places == {"a": (FIRST, 1), "c": (FIRST + 2, 3), "d": (FIRST + 1, 4)}
    assert second.fresh == {"d"}


def test_there_is_room_for_256_and_the_others_are_named() -> None:
    given_places = assign([f"s{number:03}" for number in range(258)], {})
    assert len(given_places.places) == 256
    assert given_places.without == ("s256", "s257")


def test_incarnations_go_round_without_zero() -> None:
    assert assign(["a", "b"], {"b": (LAST, INCARNATION_MAX)}).places == {"b": (LAST, INCARNATION_MAX), "a": (FIRST, 1)}


@given(st.lists(st.sets(st.integers(0, 300).map(str)), max_size=6))
def test_no_place_is_given_twice_or_taken_away(rounds: list[set[str]]) -> None:
    now = Given({}, frozenset(), ())
    for wanted in rounds:
        before, now = now.places, assign(wanted, now.places)
        slots = [slot for slot, _ in now.places.values()]
        assert len(set(slots)) == len(slots)
        assert all(FIRST <= slot <= LAST for slot in slots)
        assert set(now.places) | set(now.without) == wanted
        assert all(now.places[name] == before[name] for name in wanted & before.keys())
        assert now.fresh == now.places.keys() - before.keys()


def test_a_restart_reads_back_what_is_in_force() -> None:
    config = Config(services={"*": Service(service_breaker=ServiceBreaker())})
    places = assign(["payments", "stock"], {}).places
    assert read_back(limits_table(config, places)) == places


@pytest.mark.parametrize(
    ("payload", "found"),
    [
        (None, {}),
        (b"\xc1", {}),
        (msgspec.msgpack.encode({"services": {"a": {"service_breaker": {"slot": 3, "incarnation": 1}}}}), {}),
        (msgspec.msgpack.encode({"services": {"a": {"service_breaker": {"slot": FIRST, "incarnation": 0}}}}), {}),
        (
            msgspec.msgpack.encode(
                {"services": {name: {"service_breaker": {"slot": FIRST, "incarnation": 7}} for name in "ab"}}
            ),
            {"a": (FIRST, 7)},
        ),
    ],
)
def test_nonsense_is_skipped(payload: bytes | None, found: dict[str, tuple[int, int]]) -> None:
    assert read_back(payload) == found
