"""The example in which services of a ZooKeeper and of a pilot call each other, run as a person would."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

EXAMPLE = Path(__file__).resolve().parents[2] / "examples" / "registry-bridge" / "run.py"
PATIENCE = 120


def test_both_sides_call_each_other(require_zookeeper: str) -> None:
    done = subprocess.run([sys.executable, EXAMPLE], capture_output=True, text=True, timeout=PATIENCE, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    called = {line for line in done.stdout.splitlines() if " called " in line}
    assert called == {
        f"{one}-{a} called {other}-{b}"
        for one, other in (("orders", "stock"), ("stock", "orders"))
        for a in (1, 2)
        for b in (1, 2)
    }
    assert done.stderr == ""
