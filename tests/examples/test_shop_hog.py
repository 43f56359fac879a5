"""The shop beside hogs, as somebody would run it; and what is said of a run of which nothing was seen."""

from __future__ import annotations

import os
import re
import subprocess
import sys

import pytest
from hog import Look, bar, stretch, unseen
from mesh import HERE
from pannier.shared.central import CentralState


def looks(*weights: float) -> list[Look]:
    return [Look(5.0 * number, CentralState(weight=weight), False) for number, weight in enumerate(weights)]


def test_work_has_to_leave_and_to_come_back() -> None:
    phases = stretch(40.0)
    assert unseen(looks(0, 0, 30, 80, 100, 100, 60, 0), phases) == []
    assert unseen(looks(0, 0, 30, 80, 100, 100, 100, 100), phases) == ["no work came back"]
    assert unseen(looks(0, 0, 0, 10, 0, 0, 0, 0), phases) == ["no work left while the host starved"]


def test_a_bar_is_as_long_as_what_it_shows() -> None:
    assert [bar(percent, 4) for percent in (-1, 0, 50, 100, 170)] == ["░░░░", "░░░░", "██░░", "████", "████"]


@pytest.mark.skipif("PANNIER_FAULTS" not in os.environ, reason="takes a minute: `make faults` has it")
def test_nothing_fails_while_hogs_come_and_go() -> None:
    if os.geteuid() != 0:
        pytest.skip("hosts are network namespaces, which only root can make")
    words = [sys.executable, str(HERE / "hog.py"), "--for", "50s"]
    done = subprocess.run(words, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=200, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    [(requests, unexplained)] = re.findall(r"^(\d+) requests, .* (\d+) unexplained$", done.stdout, re.M)
    assert int(requests) > 2000
    assert int(unexplained) == 0
