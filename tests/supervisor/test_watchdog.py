from __future__ import annotations

from pannier.supervisor.watchdog import TICK, Watchdog


def run(dog: Watchdog, start: float, end: float) -> list[tuple[float, str]]:
    found, now = [], start
    while now <= end:
        found += [(now, name) for name in dog.tick(now)]
        now += TICK
    return found


def test_the_silent_one_is_named_once_and_the_other_is_not() -> None:
    dog = Watchdog(0.0)
    dog.expect("discovery", 5.0, 0.0)
    dog.expect("observability", 5.0, 0.0)
    assert run(dog, TICK, 4.0) == []
    dog.alive("observability", 4.0)
    assert run(dog, 5.0, 8.0) == [(5.0, "discovery")]


def test_a_supervisor_that_wakes_kills_nobody_and_gives_a_whole_period() -> None:
    dog = Watchdog(0.0)
    dog.expect("discovery", 5.0, 0.0)
    run(dog, TICK, 4.0)
    assert dog.tick(14.0) == ()
    assert run(dog, 15.0, 20.0) == [(19.0, "discovery")]


def test_a_late_tick_under_a_second_is_no_gap() -> None:
    dog = Watchdog(0.0)
    dog.expect("discovery", 1.0, 0.0)
    assert dog.tick(TICK + 0.9) == ("discovery",)


def test_expecting_again_replaces_the_period_and_release_ends_it() -> None:
    dog = Watchdog(0.0)
    dog.expect("discovery", 10.0, 0.0)
    dog.expect("discovery", 1.0, 0.0)
    dog.expect("proxy", 1.0, 0.0)
    dog.release("proxy")
    dog.release("proxy")
    dog.alive("nobody", 0.0)
    assert run(dog, TICK, 3.0) == [(1.0, "discovery")]
