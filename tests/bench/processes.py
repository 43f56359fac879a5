"""Starts the benchmark's processes on their cores and ends every one of them, also on Ctrl-C.

Rules: a process is ended by its own pid and what hangs below it, never by name; each has its own session, so that a
Ctrl-C reaches the harness alone and the order of the end is ours.
"""

import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

PROC = Path("/proc")
PATIENCE = 15.0
GRACE = 3.0


class BenchmarkError(Exception):
    """A peer that does not start, or a run that cannot count; the text is for the reader."""


@contextlib.contextmanager
def pinned(cpus: Collection[int]) -> Iterator[None]:
    """Runs the block, and what it starts, on `cpus`."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, cpus)
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


class Processes:
    """Long-running processes that end with the block."""

    def __init__(self, log: Path) -> None:
        self._log = log
        self._running: list[subprocess.Popen[bytes]] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with unhurried():
            while self._running:
                end(self._running.pop())

    def start(
        self, argv: Sequence[str], cpus: Collection[int], environment: Mapping[str, str] | None = None
    ) -> subprocess.Popen[bytes]:
        """Starts `argv` on `cpus` with `environment` added; its output goes to the log."""
        with self._log.open("ab") as log, pinned(cpus):
            process = subprocess.Popen(
                argv,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=os.environ | dict(environment or {}),
                start_new_session=True,
            )
        self._running.append(process)
        return process

    def stop(self, process: subprocess.Popen[bytes]) -> None:
        """Ends one of them before the others."""
        self._running.remove(process)
        with unhurried():
            end(process)

    def last_words(self, lines: int = 5) -> str:
        """The end of the log, for an error's text."""
        return "\n".join(self._log.read_text(errors="replace").splitlines()[-lines:])


@contextlib.contextmanager
def unhurried() -> Iterator[None]:
    """Holds Ctrl-C back while processes are ended."""
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def end(process: subprocess.Popen[bytes]) -> None:
    """Asks the process to end, then makes it and its descendants."""
    started = {pid: start_time(pid) for pid in descendants(process.pid)}
    process.terminate()
    try:
        process.wait(PATIENCE)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    if not _gone(started):
        for pid, began in started.items():
            if began is not None and start_time(pid) == began:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
        _gone(started)


def _gone(started: Mapping[int, int | None]) -> bool:
    """Whether the processes, told by when they began, end within the grace."""
    try:
        wait_until(
            lambda: all(start_time(pid) is None or start_time(pid) != began for pid, began in started.items()),
            "processes are left",
            seconds=GRACE,
        )
    except BenchmarkError:
        return False
    return True


def wait_until(ready: Callable[[], bool], what: str, *, seconds: float = 30.0) -> None:
    """Polls `ready`.

    Raises BenchmarkError after `seconds`, naming `what`.
    """
    deadline = time.monotonic() + seconds
    while not ready():
        if time.monotonic() > deadline:
            raise BenchmarkError(f"{what} within {seconds:.0f} s")
        time.sleep(0.02)


def descendants(pid: int) -> list[int]:
    """All processes below `pid`, parents first."""
    children: dict[int, list[int]] = {}
    for entry in PROC.iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError):
                fields = (entry / "stat").read_text().rpartition(")")[2].split()
                children.setdefault(int(fields[1]), []).append(int(entry.name))
    found: list[int] = []
    level = [pid]
    while level:
        level = [child for parent in level for child in children.get(parent, [])]
        found.extend(level)
    return found


def start_time(pid: int) -> int | None:
    """When the process began, in ticks since boot; tells it from a later one with its pid. None if it is gone."""
    try:
        fields = (PROC / str(pid) / "stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    return None if fields[0] == "Z" else int(fields[19])


def command_line(pid: int) -> list[str]:
    """The process's argv; empty if it is gone."""
    try:
        return (PROC / str(pid) / "cmdline").read_bytes().decode(errors="replace").split("\0")[:-1]
    except OSError:
        return []
