"""The judge of histories, judged: one that is well, and one for each way in which it would not be."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace

import pytest
from pannier.shared.instances import State

from tests.model.history import Call, History, Telling, Told
from tests.model.invariants import violations

KEY, OTHER = ("orders", "a"), ("orders", "b")
TTL = 3.0
A1, B1 = Told(1, 10, State.UP, "10.0.0.1:80"), Told(1, 11, State.UP, "10.0.0.2:80")


def said(key: tuple[str, str], at: float, address: str, verdict: str = "accepted", **more: object) -> Call:
    call = Call(key, "register", 1, at, at + 0.1, address, None, TTL, verdict, 1, verdict == "accepted")  # type: ignore[arg-type]
    return replace(call, **more)  # type: ignore[arg-type]


def told(at: float, revision: int = 11, **instances: Told) -> Telling:
    return Telling("w", "p", at, "orders", revision, instances)


def well() -> History:
    """Two that renew each second, from 0 to 20, with a watcher."""
    found = History(quiet=5.0, ended=20.0)
    for key, address in ((KEY, A1.address), (OTHER, B1.address)):
        found.calls += [said(key, at, address, "accepted" if at else "created") for at in range(20)]
    found.tellings += [told(1.0, a=A1, b=B1), told(19.9, a=A1, b=B1)]
    return found


def falls_silent(history: History, key: tuple[str, str], at: float) -> None:
    history.calls = [call for call in history.calls if call.key != key or call.began < at]


def second_life(history: History) -> None:
    falls_silent(history, KEY, 2.0)
    history.calls.append(said(KEY, 2.5, "10.0.0.9:80", epoch=2, answered=2, again=False))


def old_end_wins(history: History) -> None:
    second_life(history)
    history.calls.append(Call(KEY, "leave", 1, 4, 4.1, verdict="accepted"))


def goes_back(history: History) -> None:
    second_life(history)
    history.tellings[1:] = [told(3, 12, a=replace(A1, epoch=2, revision=12), b=B1), told(4, 13, a=A1, b=B1)]


def comes_back(history: History) -> None:
    falls_silent(history, KEY, 2.0)
    history.calls.append(Call(KEY, "leave", 1, 2, 2.1, verdict="accepted"))
    history.tellings[1:] = [told(3, 12, b=B1), told(4, 13, a=A1, b=B1)]


def given_up(history: History) -> None:
    history.tellings[1:] = [told(9, 12, b=B1), told(19.9, 13, a=replace(A1, revision=13), b=B1)]


def emptied(history: History) -> None:
    falls_silent(history, KEY, 2.0)
    falls_silent(history, OTHER, 2.0)
    history.tellings[1:] = [told(19.9, 12)]


def lost(history: History) -> None:
    history.tellings[:] = [told(1.0, b=B1), told(19.9, b=B1)]


def corpse(history: History) -> None:
    falls_silent(history, KEY, 2.0)


def revision_goes_back(history: History) -> None:
    history.tellings[1] = told(19.9, 5, a=A1, b=B1)


def disagree(history: History) -> None:
    history.tellings.append(replace(told(19.95, a=A1, b=replace(B1, state=State.DRAINING)), watcher="v"))


BROKEN: Mapping[Callable[[History], None], str] = {
    old_end_wins: "was accepted although",
    goes_back: "went from",
    comes_back: "again, which had left on purpose",
    given_up: "renews in time",
    emptied: "to none",
    lost: "was acknowledged",
    corpse: "has been silent",
    revision_goes_back: "came late",
    disagree: "different things",
}


def test_a_history_that_is_well_is_found_so() -> None:
    assert violations(well(), lag=0.0, settled=3.0, bound=5.0) == []


@pytest.mark.parametrize("broken", BROKEN, ids=lambda broken: broken.__name__)
def test_what_is_broken_is_said(broken: Callable[[History], None]) -> None:
    history = well()
    broken(history)
    found = violations(history, lag=0.0, settled=3.0, bound=5.0)
    assert any(BROKEN[broken] in each for each in found), found


def test_a_silent_one_may_be_given_up_replaced_or_doubted() -> None:
    for instance in (None, replace(A1, suspect=True)):
        history = well()
        falls_silent(history, KEY, 2.0)
        left = {} if instance is None else {"a": instance}
        history.tellings[1:] = [told(19.9, 12, b=B1, **left)]
        assert violations(history, lag=0.0, settled=3.0, bound=5.0) == []
    history = well()
    second_life(history)
    history.tellings[1:] = [
        told(3, 12, a=replace(A1, epoch=2, revision=12, address="10.0.0.9:80"), b=B1),
        told(19.9, 13, b=B1),
    ]
    assert violations(history, lag=0.0, settled=3.0, bound=5.0) == []
