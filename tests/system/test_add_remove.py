"""`examples/add-remove`: what it shows is so, and it says when it is not."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLE = Path(__file__).resolve().parents[2] / "examples" / "add-remove"


def python(*words: str | Path) -> subprocess.CompletedProcess[str]:
    environment = {key: value for key, value in os.environ.items() if not key.lower().endswith("proxy")}
    return subprocess.run(
        [sys.executable, *words], cwd=EXAMPLE, env=environment, capture_output=True, text=True, timeout=90, check=False
    )


def test_each_sidecar_goes_and_comes_back_and_nobody_notices() -> None:
    done = python("run.py")
    assert done.returncode == 0, done.stdout + done.stderr
    lines = done.stdout.splitlines()
    assert [line.split()[:3] for line in lines[1:-1]] == [
        ["sidecar", verb, name]
        for name in ("traffic", "resilience", "observability", "discovery")
        for verb in ("rm", "add")
    ]
    assert lines[-1].startswith("good: ")


@pytest.mark.parametrize(
    ("load", "touched"),
    [
        ("Load([], answered=1, failures=['/a: 503'])", "[]"),
        ("Load([], answered=1)", "['rm x touched y']"),
        ("Load([])", "[]"),
    ],
)
def test_a_failed_request_a_touched_process_and_no_load_at_all_are_bad(load: str, touched: str) -> None:
    done = python("-c", f"import run; from load import Load; raise SystemExit(run.judge({load}, {touched}))")
    assert done.returncode == 1, done.stderr
    assert done.stdout.splitlines()[-1].startswith("BAD: ")
