from __future__ import annotations

import itertools

import pytest
from pannier.supervisor.lifecycle import ProcessEvent
from pannier.supervisor.restart import Exit, History, Policy, RestartSettings, verdict, wait_before

FINE, BAD, KILLED = Exit(0), Exit(3), Exit.by_signal(9)
RAN_BEFORE = History(starts=(0.0,))


@pytest.mark.parametrize(
    ("policy", "exit_", "restarts"),
    [
        (Policy.PERMANENT, FINE, True),
        (Policy.PERMANENT, BAD, True),
        (Policy.PERMANENT, KILLED, True),
        (Policy.TRANSIENT, FINE, False),
        (Policy.TRANSIENT, BAD, True),
        (Policy.TRANSIENT, KILLED, True),
        (Policy.TEMPORARY, FINE, False),
        (Policy.TEMPORARY, BAD, False),
        (Policy.TEMPORARY, KILLED, False),
    ],
)
def test_which_ends_are_restarted(policy: Policy, exit_: Exit, restarts: bool) -> None:
    decided = verdict(RestartSettings(policy), RAN_BEFORE, exit_, ready_for=0.0, now=1.0, random=0.0)
    assert (decided.after is not None) is restarts
    assert decided.event is (ProcessEvent.CRASHED if restarts else ProcessEvent.ENDED)


def crash_loop(settings: RestartSettings, *, life: float, until: float) -> list[tuple[float, ProcessEvent]]:
    """Starts, crashes after `life`, obeys the verdict: the time of each start and what its crash led to."""
    now, history, starts = 0.0, History(), []
    while now < until:
        history = history.started(now, settings)
        decided = verdict(settings, history, BAD, ready_for=0.0, now=now + life, random=0.0)
        starts.append((now, decided.event))
        history = decided.history
        assert decided.after is not None
        now += life + decided.after
    return starts


def test_a_crash_loop_is_five_starts_then_failed_then_one_a_minute() -> None:
    starts = crash_loop(RestartSettings(Policy.PERMANENT, prompt=True), life=0.1, until=200)
    events = [event for _, event in starts]
    assert events[:5] == [ProcessEvent.CRASHED] * 4 + [ProcessEvent.GAVE_UP]
    assert len([at for at, _ in starts if at < 10]) == 5
    assert set(events[4:]) == {ProcessEvent.GAVE_UP}
    later = [at for at, _ in starts[4:]]
    assert [round(b - a, 1) for a, b in itertools.pairwise(later)] == [60.1] * (len(later) - 1)


def test_the_first_restart_of_governance_is_immediate_that_of_an_app_is_not() -> None:
    for prompt, after in ((True, 0.0), (False, 0.5)):
        settings = RestartSettings(Policy.PERMANENT, prompt=prompt)
        assert verdict(settings, RAN_BEFORE, BAD, ready_for=0.0, now=0.2, random=0.0).after == after


def test_a_life_that_was_ready_long_enough_clears_the_record() -> None:
    settings = RestartSettings(Policy.PERMANENT, settles=1.0, prompt=True)
    bad = History(starts=(100.0,), streak=9, failed=True)
    decided = verdict(settings, bad, BAD, ready_for=1.0, now=101.2, random=0.0)
    assert (decided.event, decided.after, decided.history.streak) == (ProcessEvent.CRASHED, 0.0, 1)


def test_a_failed_process_stays_failed_until_a_life_has_settled() -> None:
    settings = RestartSettings(Policy.PERMANENT, settles=1.0)
    bad = History(starts=(100.0,), streak=9, failed=True)
    assert verdict(settings, bad, BAD, ready_for=0.9, now=200.0, random=0.0).event is ProcessEvent.GAVE_UP


def test_who_is_killed_every_two_seconds_is_back_at_once_every_time() -> None:
    settings = RestartSettings(Policy.PERMANENT, settles=1.0, prompt=True)
    history = History()
    for number in range(20):
        history = history.started(number * 2.0, settings)
        decided = verdict(settings, history, KILLED, ready_for=1.5, now=number * 2.0 + 1.9, random=0.0)
        assert (decided.event, decided.after) == (ProcessEvent.CRASHED, 0.0)
        history = decided.history


def test_slow_crashes_back_off_to_a_minute_without_failing() -> None:
    starts = crash_loop(RestartSettings(Policy.PERMANENT), life=4.0, until=600)
    assert {event for _, event in starts} == {ProcessEvent.CRASHED}
    gaps = [b[0] - a[0] for a, b in itertools.pairwise(starts)]
    assert gaps == sorted(gaps)
    assert gaps[-1] == 64.0


def test_waits_double_and_jitter_takes_at_most_half() -> None:
    assert [wait_before(n, 0.0) for n in (0, 1, 2, 3, 8, 1000)] == [0.0, 0.5, 1.0, 2.0, 60.0, 60.0]
    assert wait_before(3, 0.999) == pytest.approx(1.0, abs=0.01)


def test_only_recent_starts_are_remembered() -> None:
    settings = RestartSettings(Policy.PERMANENT)
    history = History()
    for at in range(0, 100, 5):
        history = history.started(float(at), settings)
    assert history.starts == (90.0, 95.0)


def test_exit_in_a_shells_words() -> None:
    assert (KILLED.code, str(KILLED), str(BAD)) == (137, "signal 9", "code 3")
