"""The epoch rules: whatever two lives of an instance say, in whatever order it arrives, the older one loses."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TypeAlias

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pannier.shared.instances import State
from pannier.sidecars.pilot.registry.entries import (
    Decision,
    Entry,
    Verdict,
    give_up,
    instance_of,
    key_of,
    leave,
    move,
    next_epoch,
    register,
)

OLD, NEW = Entry(1, "10.0.0.1:80"), Entry(2, "10.0.0.2:80")
GONE, FALLEN = Entry(1, gone=True, final=True), Entry(1, gone=True)


@pytest.mark.parametrize(
    ("held", "asked", "expected"),
    [
        (None, OLD, Decision(Verdict.CREATED, OLD)),
        (OLD, OLD, Decision(Verdict.RENEWED)),
        (
            OLD,
            Entry(1, OLD.address, metadata={"v": "2"}),
            Decision(Verdict.CHANGED, Entry(1, OLD.address, metadata={"v": "2"})),
        ),
        (OLD, NEW, Decision(Verdict.CHANGED, NEW)),
        (NEW, OLD, Decision(Verdict.STALE)),
        (OLD, Entry(1, NEW.address), Decision(Verdict.STALE)),
        (GONE, OLD, Decision(Verdict.STALE)),
        (GONE, NEW, Decision(Verdict.CREATED, NEW)),
        (FALLEN, OLD, Decision(Verdict.CREATED, OLD)),
    ],
)
def test_registering(held: Entry | None, asked: Entry, expected: Decision) -> None:
    assert register(held, asked) == expected


@pytest.mark.parametrize(
    ("held", "epoch", "verdict"),
    [
        (None, 1, Verdict.UNKNOWN),
        (OLD, 1, Verdict.CHANGED),
        (NEW, 1, Verdict.STALE),
        (OLD, 2, Verdict.UNKNOWN),
        (GONE, 1, Verdict.UNKNOWN),
        (Entry(2, gone=True), 1, Verdict.STALE),
    ],
)
def test_draining(held: Entry | None, epoch: int, verdict: Verdict) -> None:
    decision = move(held, epoch, State.DRAINING)
    assert decision.verdict is verdict
    assert (decision.write is not None) == (verdict is Verdict.CHANGED)


def test_draining_twice_is_once() -> None:
    draining = move(OLD, 1, State.DRAINING).write
    assert move(draining, 1, State.DRAINING) == Decision(Verdict.RENEWED)


@pytest.mark.parametrize(
    ("held", "epoch", "expected"),
    [
        (OLD, 1, Decision(Verdict.REMOVED, GONE)),
        (NEW, 1, Decision(Verdict.STALE)),
        (None, 1, Decision(Verdict.UNKNOWN, GONE)),
        (FALLEN, 1, Decision(Verdict.UNKNOWN, GONE)),
    ],
)
def test_leaving(held: Entry | None, epoch: int, expected: Decision) -> None:
    assert leave(held, epoch) == expected


def test_an_end_that_arrives_before_its_registration_holds() -> None:
    held = leave(None, 1).write
    assert register(held, OLD).verdict is Verdict.STALE


def test_who_is_given_up_is_the_life_that_was_meant() -> None:
    assert give_up(OLD, 1, "") == Decision(Verdict.REMOVED, FALLEN)
    assert give_up(NEW, 1, "") == Decision(Verdict.UNKNOWN)
    assert give_up(GONE, 1, "") == Decision(Verdict.UNKNOWN)
    assert give_up(OLD, 1, "another pilot") == Decision(Verdict.UNKNOWN)


def test_keys() -> None:
    assert instance_of(key_of(("orders", "host-18080"))) == ("orders", "host-18080")


Word: TypeAlias = tuple[str, int]
SAID: Mapping[str, Callable[[Entry | None, int], Decision]] = {
    "register": lambda held, epoch: register(held, Entry(epoch, f"10.0.0.{epoch}:80")),
    "drain": lambda held, epoch: move(held, epoch, State.DRAINING),
    "leave": leave,
    "give up": lambda held, epoch: give_up(held, epoch, ""),
}
words = st.lists(st.tuples(st.sampled_from(sorted(SAID)), st.integers(1, 3)), max_size=20)


@given(words)
def test_an_epoch_never_goes_back_and_nothing_older_changes_anything(said: list[Word]) -> None:
    held: Entry | None = None
    for word, epoch in said:
        decision = SAID[word](held, epoch)
        if held is not None and epoch < held.epoch:
            assert decision.write is None
        if decision.write is not None:
            assert decision.write.epoch >= (held.epoch if held else 0)
            held = decision.write
        assert held is None or held.gone or held.address == f"10.0.0.{held.epoch}:80"


@given(words)
def test_who_has_left_on_purpose_is_never_seen_again(said: list[Word]) -> None:
    held: Entry | None = None
    left: set[int] = set()
    for word, epoch in said:
        decision = SAID[word](held, epoch)
        held = decision.write or held
        if word == "leave" and decision.verdict is not Verdict.STALE:
            left.add(epoch)
        assert held is None or held.gone or held.epoch not in left


@given(words)
def test_what_is_said_twice_in_a_row_is_said_once(said: list[Word]) -> None:
    held: Entry | None = None
    for word, epoch in said:
        held = SAID[word](held, epoch).write or held
        again = SAID[word](held, epoch)
        assert again.write is None or again.write == held


def test_the_next_life_has_the_next_epoch() -> None:
    assert (next_epoch(None), next_epoch(OLD), next_epoch(GONE)) == (1, 2, 2)
