"""The controller of one canary, in virtual time."""

from __future__ import annotations

import itertools

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pannier.sidecars.traffic.canary import (
    FINAL,
    TRANSITIONS,
    Canary,
    Counts,
    Seen,
    State,
    Verdict,
    apportioned,
    begun,
    identity,
    origin,
    stepped,
    success,
    weights,
)
from pannier.sidecars.traffic.config import Service, Shift

SHIFT = Shift(to="v2", step=10, every="30s", abort_on="success<99%", min_requests=20)
SPLIT = {"v1": 100, "v2": 0}
GOOD = Seen(1, Counts(1000, 0))
NONE = Seen(1, Counts())


def test_it_begins_with_one_step_at_once() -> None:
    canary = begun(SHIFT, SPLIT, 5.0)
    assert (canary.state, canary.weight, canary.since) == (State.RUNNING, 10, 5.0)


def test_a_share_that_it_has_already_counts() -> None:
    assert begun(SHIFT, {"v1": 80, "v2": 20}, 0.0).weight == 30
    already = begun(msgspec.structs.replace(SHIFT, until=20), {"v1": 3, "v2": 1}, 0.0)
    assert (already.state, already.weight, already.reason) == (State.DONE, 25, "v2 had 25 % already")


@pytest.mark.semantics(
    "traffic",
    "A canary gets `step` points more each `every`, up to `until`, and its last step is judged too",
    "services.*.shift.step",
    "services.*.shift.every",
    "services.*.shift.until",
)
def test_good_steps_lead_to_the_end_and_the_last_one_is_judged_too() -> None:
    shift = msgspec.structs.replace(SHIFT, step=40)
    canary, now, seen = begun(shift, SPLIT, 0.0), 0.0, []
    while canary.state not in FINAL:
        seen.append((now, canary.weight))
        now += 30.0
        canary = stepped(shift, canary, now, GOOD)
    assert seen == [(0.0, 40), (30.0, 80), (60.0, 100)]
    assert (canary.state, canary.weight, now) == (State.DONE, 100, 90.0)


def test_until_is_where_it_stays() -> None:
    shift = msgspec.structs.replace(SHIFT, step=20, until=30)
    canary = begun(shift, SPLIT, 0.0)
    for now in (30.0, 60.0, 90.0, 900.0):
        canary = stepped(shift, canary, now, GOOD)
    assert (canary.state, canary.weight) == (State.DONE, 30)
    assert weights(SPLIT, "v2", canary.weight) == {"v1": 70, "v2": 30}


@pytest.mark.semantics(
    "traffic", "A canary that fails is taken back in the middle of a step, and says why", "services.*.shift.abort_on"
)
def test_bad_is_bad_in_the_middle_of_a_step_and_says_why() -> None:
    canary = stepped(SHIFT, begun(SHIFT, SPLIT, 0.0), 0.1, Seen(1, Counts(212, 15)))
    assert (canary.state, canary.reason) == (State.ABORTED, "success 92.9 % < 99 % over 212 requests")


@pytest.mark.parametrize(
    ("abort_on", "calls", "failures", "reason"),
    [
        ("success<99%", 100, 1, ""),
        ("success<99%", 1000, 11, "success 98.9 % < 99 % over 1000 requests"),
        ("success<99.995%", 100_000, 6, "success 99.994 % < 99.995 % over 100000 requests"),
        ("success<100%", 100_000, 1, "success 99.9 % < 100 % over 100000 requests"),
        ("success<99%", 19, 19, ""),
        ("success<0%", 100, 100, ""),
    ],
)
def test_the_bound_is_exact(abort_on: str, calls: int, failures: int, reason: str) -> None:
    shift = msgspec.structs.replace(SHIFT, abort_on=abort_on)
    canary = stepped(shift, begun(shift, SPLIT, 0.0), 1.0, Seen(1, Counts(calls, failures)))
    assert canary.state is (State.ABORTED if reason else State.RUNNING)
    assert canary.reason == reason


@pytest.mark.semantics(
    "traffic", "A canary with too few requests to judge waits, and goes on by itself", "services.*.shift.min_requests"
)
def test_too_little_traffic_waits_and_goes_on_by_itself() -> None:
    canary = begun(SHIFT, SPLIT, 0.0)
    canary = stepped(SHIFT, canary, 30.0, Seen(1, Counts(19, 0)))
    assert (canary.state, canary.weight) == (State.PAUSED, 10)
    assert canary.reason == "too little asked to judge: 19 of 20 requests"
    canary = stepped(SHIFT, canary, 31.0, Seen(1, Counts(), Counts(340, 0)))
    assert canary.reason == "v2 got none of 340 requests"
    canary = stepped(SHIFT, canary, 500.0, Seen(1, Counts(20, 0)))
    assert (canary.state, canary.weight, canary.since, canary.reason) == (State.RUNNING, 20, 500.0, "")


def test_a_paused_one_is_aborted_as_soon_as_it_is_known_to_be_bad() -> None:
    canary = stepped(SHIFT, begun(SHIFT, SPLIT, 0.0), 30.0, NONE)
    assert canary.state is State.PAUSED
    assert stepped(SHIFT, canary, 30.1, Seen(1, Counts(20, 1))).state is State.ABORTED


@pytest.mark.semantics(
    "traffic", "A canary none of whose calls succeeds is aborted at its step's end, however few they are"
)
def test_one_that_always_fails_does_not_wait_for_calls_that_a_breaker_keeps_away() -> None:
    canary = begun(SHIFT, SPLIT, 0.0)
    assert stepped(SHIFT, canary, 29.9, Seen(1, Counts(11, 11))).state is State.RUNNING, "not before its step is over"
    assert stepped(SHIFT, canary, 30.0, Seen(1, Counts(4, 4))).state is State.PAUSED
    assert stepped(SHIFT, canary, 30.0, Seen(1, Counts(11, 10))).state is State.PAUSED
    ended = stepped(SHIFT, canary, 30.0, Seen(1, Counts(11, 11)))
    assert (ended.state, ended.reason) == (State.ABORTED, "success 0.0 % < 99 % over 11 requests")


def test_without_an_endpoint_its_time_stands_still() -> None:
    canary = stepped(SHIFT, begun(SHIFT, SPLIT, 0.0), 100.0, Seen(0, Counts()))
    assert (canary.state, canary.weight, canary.reason) == (State.PAUSED, 10, "v2 has no endpoint")
    canary = stepped(SHIFT, canary, 129.0, GOOD)
    assert (canary.state, canary.weight) == (State.RUNNING, 10)
    assert stepped(SHIFT, canary, 130.0, GOOD).weight == 20


def test_a_clock_that_goes_back_begins_the_steps_time_anew() -> None:
    canary = stepped(SHIFT, begun(SHIFT, SPLIT, 1000.0), 10.0, GOOD)
    assert (canary.weight, canary.since) == (10, 10.0)
    assert stepped(SHIFT, canary, 39.9, GOOD).weight == 10
    assert stepped(SHIFT, canary, 40.0, GOOD).weight == 20


def test_a_clock_that_leaps_ahead_is_one_step() -> None:
    canary = stepped(SHIFT, begun(SHIFT, SPLIT, 0.0), 1e9, GOOD)
    assert canary.weight == 20
    assert stepped(SHIFT, canary, 1e9, GOOD).weight == 20


def test_every_state_and_verdict_is_listed() -> None:
    open_states = [state for state in State if state not in FINAL]
    assert set(TRANSITIONS) == set(itertools.product(open_states, Verdict))


def test_settings_that_differ_are_another_shift() -> None:
    others = [msgspec.structs.replace(SHIFT, started=started) for started in (None, 1.0, 1.5)]
    assert len({identity(shift) for shift in [*others, msgspec.structs.replace(SHIFT, min_requests=21)]}) == 4
    assert identity(SHIFT) == identity(msgspec.json.decode(msgspec.json.encode(SHIFT), type=Shift))


@pytest.mark.parametrize(
    ("split", "subsets", "expected"),
    [
        ({"v1": 95, "v2": 5}, ("v1", "v2"), {"v1": 95, "v2": 5}),
        ({}, ("v1", "v2", "v3"), {"v1": 1, "v3": 1}),
        ({"v1": 0}, ("v1", "v2"), {"v1": 1}),
        ({}, ("v2",), {}),
    ],
)
def test_where_calls_go_without_it(split: dict[str, int], subsets: tuple[str, ...], expected: dict[str, int]) -> None:
    service = Service(split=split, subsets={name: {"version": name} for name in subsets}, shift=SHIFT)
    assert origin(service, "v2") == expected


def test_the_success_of_nothing_is_unknown() -> None:
    assert success(Counts()) is None
    assert success(Counts(4, 1)) == 0.75


names = st.sampled_from(["v1", "v2", "v3", "v4", "v5"])
shares = st.dictionaries(names, st.integers(0, 10_000), max_size=5)


@given(shares, st.integers(0, 1000))
def test_parts_sum_to_the_whole_and_are_off_by_less_than_one(split: dict[str, int], whole: int) -> None:
    parts = apportioned(split, whole)
    total = sum(split.values())
    assert parts.keys() == split.keys()
    assert sum(parts.values()) == (whole if total else 0)
    for name, part in parts.items():
        assert not total or abs(part - split[name] * whole / total) < 1


@given(shares, st.integers(0, 100))
def test_weights_sum_to_100_with_the_canarys_own_as_asked(split: dict[str, int], weight: int) -> None:
    split["v1"] = split.get("v1", 0) + 1
    found = weights(split, "v2", weight)
    assert sum(found.values()) == 100
    assert found["v2"] == weight


looks = st.lists(
    st.tuples(
        st.floats(-100, 100),
        st.builds(
            Seen,
            st.integers(0, 2),
            st.tuples(st.integers(0, 60), st.integers(0, 60)).map(lambda two: Counts(max(two), min(two))),
        ),
    ),
    max_size=60,
)
shifts = st.builds(
    Shift,
    to=st.just("v2"),
    step=st.integers(1, 100),
    every=st.sampled_from(["0s", "1s", "30s", "1m"]),
    until=st.integers(1, 100),
    min_requests=st.integers(1, 40),
)


@given(shifts, looks)
def test_no_history_breaks_the_promises(shift: Shift, history: list[tuple[float, Seen]]) -> None:
    now = 1000.0
    canary = begun(shift, SPLIT, now)
    for passed, seen in history:
        now += passed
        before, canary = canary, stepped(shift, canary, now, seen)
        assert before.weight <= canary.weight <= min(shift.until, before.weight + shift.step)
        assert canary.since <= now or canary == before
        if before.state in FINAL:
            assert canary == before
        if canary.weight > before.weight:
            assert seen.canary.calls >= shift.min_requests
            assert canary.since == now
        if canary.state is State.ABORTED and before.state is not State.ABORTED:
            assert seen.canary.failures
            assert canary.weight == before.weight
    assert stepped(shift, canary, now, Seen(1, Counts())).weight == canary.weight


@given(shifts, st.lists(st.floats(-1000, 1000), max_size=40))
def test_a_good_canary_always_arrives_whatever_the_clock_does(shift: Shift, leaps: list[float]) -> None:
    now, canary = 0.0, begun(shift, SPLIT, 0.0)
    for leap in leaps:
        now += leap
        canary = stepped(shift, canary, now, GOOD)
    for _ in range(102):
        now += 60.0
        canary = stepped(shift, canary, now, GOOD)
    assert canary == Canary(identity(shift), State.DONE, shift.until, canary.since)
