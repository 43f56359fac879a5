"""System calls a request, counted by strace in runs of their own: a traced process is far too slow to time.

Two runs of different length, and their difference: what opening the connections costs falls out.
"""

import shutil
import signal
import subprocess
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

from tests.bench.processes import BenchmarkError, end, unhurried, wait_until

MEASURED = 2_000


def total_calls(summary: str) -> int:
    """Calls in the `total` line of `strace -c`: % time, seconds, usecs/call, calls, [errors], "total".

    Raises BenchmarkError when there is no such line.
    """
    for line in reversed(summary.splitlines()):
        words = line.split()
        if words and words[-1] == "total":
            return int(words[3])
    raise BenchmarkError("strace wrote no summary")


def per_request(
    pids: Sequence[int], load: Callable[[int], object], folder: Path, *, connections: int = 1
) -> float | None:
    """System calls of `pids` a request, or None when strace is missing or may not attach.

    `load` sends as many requests as it is told, over so many connections.
    """
    strace = shutil.which("strace")
    if strace is None:
        return None
    command = [strace, "-c", "-f", *(word for pid in pids for word in ("-p", str(pid)))]
    short = 500 + 2 * connections  # it, too, uses each of them, more than once
    try:
        few, many = (_count(command, pids, partial(load, n), folder) for n in (short, short + MEASURED))
    except BenchmarkError:
        return None
    return (many - few) / MEASURED


def _count(command: Sequence[str], pids: Sequence[int], load: Callable[[], object], folder: Path) -> int:
    summary = folder / "strace"
    tracer = subprocess.Popen(
        [*command, "-o", str(summary)],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        wait_until(lambda: tracer.poll() is not None or all(map(_is_traced, pids)), "strace did not attach", seconds=5)
        load()
        tracer.send_signal(signal.SIGINT)
        tracer.wait(10)
    except subprocess.TimeoutExpired as error:
        raise BenchmarkError("strace did not end") from error
    finally:
        with unhurried():
            end(tracer)
    return total_calls(summary.read_text())


def _is_traced(pid: int) -> bool:
    tasks = Path(f"/proc/{pid}/task").iterdir()
    return all("TracerPid:\t0" not in (task / "status").read_text() for task in tasks)
