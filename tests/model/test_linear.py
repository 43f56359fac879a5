"""The judge of answers, judged: what one order explains, and what none does."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pytest

from tests.model.history import NEVER, Call
from tests.model.linear import explained

KEY = ("orders", "a")
ONE, TWO = "10.0.0.1:80", "10.0.0.2:80"
FIRST = Call(KEY, "register", 0, 0, 1, ONE, verdict="created", answered=1)
SECOND = Call(KEY, "register", 0, 2, 3, TWO, verdict="accepted", answered=2)
END = Call(KEY, "leave", 1, 4, 5, verdict="accepted")


def renewal(began: float, ended: float) -> Call:
    return Call(KEY, "register", 1, began, ended, ONE, verdict="accepted", answered=1, again=True)


EXPLAINED: dict[str, Sequence[Call]] = {
    "a life and its end": [FIRST, END],
    "a renewal after it was given up creates": [
        FIRST,
        Call(KEY, "register", 1, 8, 9, ONE, verdict="created", answered=1),
    ],
    "two at once that get an epoch each": [FIRST, replace(SECOND, began=0.5, ended=0.9)],
    "a lost registration that has happened": [replace(FIRST, ended=NEVER, verdict=None, answered=0), END],
    "a lost registration that has not": [
        replace(FIRST, ended=NEVER, verdict=None, answered=0),
        replace(END, verdict="unknown"),
    ],
    "a lost end that happens late": [
        FIRST,
        replace(END, began=1.5, ended=NEVER, verdict=None),
        renewal(2, 3),
        replace(renewal(4, 5), verdict="stale", answered=0),
    ],
    "the old one is told that it is stale": [FIRST, SECOND, replace(END, verdict="stale")],
    "an end before its registration": [
        replace(END, began=0, ended=1, verdict="unknown"),
        replace(renewal(2, 3), verdict="stale", answered=0),
    ],
}
UNEXPLAINED: dict[str, Sequence[Call]] = {
    "the end of the old life ends the new one": [FIRST, SECOND, END],
    "the old life renews after the new one was acknowledged": [FIRST, SECOND, renewal(4, 5)],
    "who has left comes back with his epoch": [
        FIRST,
        END,
        Call(KEY, "register", 1, 6, 7, ONE, verdict="created", answered=1),
    ],
    "an epoch is given twice": [FIRST, replace(SECOND, answered=1)],
    "an acknowledged registration is forgotten": [FIRST, replace(SECOND, verdict="created", answered=1)],
    "an end is unknown of whom is called up to then and afterwards": [
        FIRST,
        Call(KEY, "leave", 0, 2, 3, verdict="unknown"),
        renewal(4, 5),
    ],
    "a drain that nobody could accept": [Call(KEY, "drain", 1, 0, 1, verdict="accepted")],
}


@pytest.mark.parametrize("name", EXPLAINED)
def test_what_some_order_explains(name: str) -> None:
    assert explained(EXPLAINED[name])


@pytest.mark.parametrize("name", UNEXPLAINED)
def test_what_no_order_explains(name: str) -> None:
    assert not explained(UNEXPLAINED[name])


def test_a_renewal_may_be_answered_by_what_was_a_while_ago_and_not_longer() -> None:
    assert explained([FIRST, SECOND, renewal(4, 5)], lag=2.0)
    assert not explained([FIRST, SECOND, renewal(4, 5)], lag=0.5)
