"""What the samples of a host that leans on a Central come to."""

from __future__ import annotations

import dataclasses

import pytest

from tests.bench.central import Run, Sample, falls, first, held_at, home_again, summarise

QUIET = Sample(0.25, 0.0, 2.0, 2.0, None, 1.0, 10.0, 1.0, 0.5, 1.0, 0.0, 0)


def run(name: str, peak: list[tuple[float, float, float]], *, every: float = 0.25) -> Run:
    """Four quiet samples, then those of the peak (weight, requests, CPU of the mesh), then quiet ones at home."""
    samples = [dataclasses.replace(QUIET, t_s=every * number) for number in range(4)]
    for weight, rps, cpu in peak:
        at = samples[-1].t_s + every
        busy = dataclasses.replace(QUIET, t_s=at, weight=weight, host_pressure=80.0, app_rps=rps, mesh_cpu_percent=cpu)
        samples.append(busy)
    over = samples[-1].t_s
    samples += [dataclasses.replace(QUIET, t_s=over + every * (number + 1)) for number in range(4)]
    return Run(name, peak_s=samples[3].t_s, over_s=over, samples=samples)


def test_the_rule_holds_when_it_was_exceeded_for_two_of_three_seconds() -> None:
    found = run("relay", [(0.0, 100.0, 20.0)] * 12)
    assert held_at(found.samples) == pytest.approx(found.peak_s + 2.0)
    assert held_at(found.samples[:8]) is None


def test_a_way_out_is_held_against_staying_local() -> None:
    stays = run("local", [(0.0, 1000.0, 25.0)] * 20)
    leaves = run("redirect", [(0.0, 1000.0, 25.0)] * 8 + [(50.0, 1200.0, 10.0)] * 4 + [(100.0, 1400.0, 0.5)] * 12)
    summary = summarise([stays, leaves], None)
    found = summary["redirect"]
    assert isinstance(found, dict)
    assert found["relief_after_s"] == pytest.approx(0.25)
    assert found["full_after_s"] == pytest.approx(1.25)
    assert found["app_rps"] == {"local": 1000.0, "shifted": 1400.0}
    assert found["mesh_cpu_falls_by_percent"] == 98.0
    assert found["home_again_after_s"] == pytest.approx(0.25)


def test_what_never_left_has_no_time() -> None:
    assert first([QUIET], 0.01) is None
    assert falls(0.0, 1.0) == 0.0
    assert home_again(Run("relay", samples=[dataclasses.replace(QUIET, weight=50.0)])) is None
