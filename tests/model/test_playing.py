"""Whatever lives say to pilots that share a store, and whatever becomes of the pilots: the promises hold.

`make test` plays the same few hundred each time; PANNIER_FAULTS=1 plays many others.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Sequence
from pathlib import Path

import trio
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pannier.shared.instances import State
from pannier.sidecars.pilot.stores.sqlite import open_sqlite

from tests.model.history import History
from tests.model.invariants import violations
from tests.model.playing import KEYS, WHATS, Happen, Say, Step, Wait, play

PILOTS = 3
TTL = 4
LONG_TTL = 14
"""A pilot may be 10 s behind before it is blind. What is renewed with such a one lasts only if its TTL is longer."""
LAG = 10.0 + LONG_TTL
BOUND = 40.0
QUIET = 60
LONG = bool(os.environ.get("PANNIER_FAULTS"))
PLAYS = 20_000 if LONG else 100

pilots = st.integers(0, PILOTS - 1)
keys = st.sampled_from(KEYS)
says = st.builds(
    Say,
    pilots,
    st.sampled_from(["register", "register", "register", "leave"]),
    keys,
    st.integers(0, 3),
    st.integers(1, 3),
    st.sampled_from([None, None, None, State.STARTING, State.UP]),
)
drains = st.builds(Say, pilots, st.just("drain"), keys, st.integers(1, 3), st.just(0))
waits = st.builds(Wait, st.integers(1, 20), st.lists(st.tuples(keys, pilots), max_size=4).map(tuple))
happens = st.builds(Happen, st.sampled_from(WHATS), pilots)
steps: st.SearchStrategy[Step] = st.one_of(says, says, waits, happens, drains)


@settings(max_examples=PLAYS, deadline=None, derandomize=not LONG, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(steps, max_size=25))
def test_several_pilots_keep_what_is_promised(played: list[Step]) -> None:
    history = trio.run(lambda: play(PILOTS, played, ttl=LONG_TTL, quiet=QUIET))
    assert violations(history, lag=LAG, settled=3.0, bound=BOUND) == []


@settings(max_examples=PLAYS, deadline=None, derandomize=not LONG, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(steps, max_size=25))
def test_a_single_pilot_answers_as_if_one_thing_happened_after_the_other(played: list[Step]) -> None:
    alone = [step for step in played if not isinstance(step, Happen) or step.what != "crashes"]
    history = trio.run(lambda: play(1, [_by_the_first(step) for step in alone], ttl=TTL, quiet=QUIET))
    assert violations(history, lag=0.0, settled=3.0, bound=BOUND) == []


async def _over_a_file(played: Sequence[Step]) -> History:
    with tempfile.TemporaryDirectory(prefix="play-") as folder:
        async with open_sqlite(Path(folder) / "store") as file:
            return await play(1, [_by_the_first(step) for step in played], ttl=TTL, quiet=QUIET, file=file)


@settings(max_examples=PLAYS // 10, deadline=None, derandomize=not LONG, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(steps, max_size=25))
def test_a_pilot_over_a_file_keeps_what_is_promised_also_when_it_crashes(played: list[Step]) -> None:
    history = trio.run(_over_a_file, played)
    assert violations(history, lag=0.0, settled=3.0, bound=BOUND) == []


def _by_the_first(step: Step) -> Step:
    match step:
        case Say(_, kind, key, epoch, life, state):
            return Say(0, kind, key, epoch, life, state)
        case Happen(what, _):
            return Happen(what, 0)
        case Wait(seconds, renewing):
            return Wait(seconds, tuple((key, 0) for key, _ in renewing))
