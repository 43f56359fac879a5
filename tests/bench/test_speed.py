import os

import pytest

from tests.bench import speed
from tests.bench.speed import Speedometer


def test_a_core_is_held_against_its_own_best(monkeypatch: pytest.MonkeyPatch) -> None:
    spent = iter([100, 150, 90, 90])
    monkeypatch.setattr(speed, "fixed_work", lambda: next(spent))
    cpu = min(os.sched_getaffinity(0))
    meter = Speedometer()
    assert [meter.slowdown([cpu]) for _ in range(4)] == [1.0, 1.5, 1.0, 1.0]


def test_the_work_takes_time_and_leaves_the_affinity() -> None:
    before = os.sched_getaffinity(0)
    assert Speedometer().slowdown(before) == 1.0
    assert os.sched_getaffinity(0) == before
    assert speed.fixed_work() > 0
