import os
import signal
import sys
from pathlib import Path

import pytest

from tests.bench.processes import BenchmarkError, Processes, command_line, descendants, start_time, wait_until

CPUS = {min(os.sched_getaffinity(0))}
SLEEPER = "import signal; signal.pause()"
STUBBORN = "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('up', flush=True); signal.pause()"
PARENT = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {SLEEPER!r}])"


def test_what_was_started_ends_with_the_block_and_all_below_it_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tests.bench.processes.GRACE", 0.1)
    with Processes(tmp_path / "log") as processes:
        parent = processes.start([sys.executable, "-c", PARENT], CPUS)
        wait_until(lambda: any(SLEEPER in command_line(pid) for pid in descendants(parent.pid)), "no child")
        below = descendants(parent.pid)
    assert parent.returncode == -signal.SIGTERM
    assert [start_time(pid) for pid in below] == [None]


def test_one_that_does_not_listen_is_killed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tests.bench.processes.PATIENCE", 0.05)
    with Processes(tmp_path / "log") as processes:
        process = processes.start([sys.executable, "-c", STUBBORN], CPUS)
        wait_until(lambda: processes.last_words() == "up", "not up")
        processes.stop(process)
        assert process.returncode == -signal.SIGKILL


def test_waiting_has_an_end() -> None:
    with pytest.raises(BenchmarkError, match="nothing within 0 s"):
        wait_until(lambda: False, "nothing", seconds=0)
