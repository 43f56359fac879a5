"""Limits on what a process may use, by control groups of either version; who may not make one is told why."""

from __future__ import annotations

import os
import time
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Literal, Self

ROOT = Path("/sys/fs/cgroup")
PERIOD_US = 100_000
EMPTY_S = 2.0
Controller = Literal["cpu", "memory"]


class Group:
    """A group below one controller, entered by `take`; leaving the block puts its processes back and removes it.

    Raises OSError if there is none to be had.
    """

    def __init__(self, controller: Controller) -> None:
        self._first = (ROOT / controller).is_dir()
        self._above = ROOT / controller if self._first else ROOT
        self._folder = self._above / f"pannier-faults-{os.getpid()}"
        self._controller = controller
        self._home: dict[int, Path] = {}

    def __enter__(self) -> Self:
        self._folder.mkdir()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for pid, home in self._home.items():
            with suppress(OSError):
                (home / "cgroup.procs").write_text(str(pid))
        end = time.monotonic() + EMPTY_S
        while time.monotonic() < end:
            try:
                self._folder.rmdir()
            except OSError:
                time.sleep(0.05)
            else:
                break

    def limit_cpu(self, share: float) -> None:
        """At most this share of one core."""
        quota = str(round(share * PERIOD_US))
        if self._first:
            (self._folder / "cpu.cfs_period_us").write_text(str(PERIOD_US))
            (self._folder / "cpu.cfs_quota_us").write_text(quota)
        else:
            (self._folder / "cpu.max").write_text(f"{quota} {PERIOD_US}")

    def limit_memory(self, size: int) -> None:
        """At most so many bytes, those of its sockets and of its page cache included."""
        (self._folder / ("memory.limit_in_bytes" if self._first else "memory.max")).write_text(str(size))

    def take(self, pids: Iterable[int]) -> None:
        """Puts these processes in, with all their threads."""
        for pid in pids:
            home = self._above / self._now(pid)
            (self._folder / "cgroup.procs").write_text(str(pid))
            self._home[pid] = home

    def _now(self, pid: int) -> str:
        for line in Path(f"/proc/{pid}/cgroup").read_text().splitlines():
            _, names, path = line.split(":", 2)
            if self._controller in names.split(",") if self._first else names == "":
                return path.lstrip("/")
        return ""

    def peak(self) -> int:
        """The most bytes that were in use, 0 where the kernel does not say."""
        with suppress(OSError):
            name = "memory.max_usage_in_bytes" if self._first else "memory.peak"
            return int((self._folder / name).read_text())
        return 0


def denied(controller: Controller) -> str:
    """Why this machine lets us limit nothing by that controller; empty if it does."""
    try:
        with Group(controller) as group:
            group.limit_cpu(0.2) if controller == "cpu" else group.limit_memory(1 << 30)
    except OSError as error:
        return f"no control group for {controller}: {error}"
    return ""
