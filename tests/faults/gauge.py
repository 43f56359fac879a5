"""What a process holds and uses, from /proc."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

MIB = 1 << 20
TICKS = os.sysconf("SC_CLK_TCK")


def resident(pid: int) -> int:
    """Bytes of memory that the process has in use, tables and rings that it shares with others included. Raises OSError
    if it has ended."""
    return _status(pid, "VmRSS:")


@dataclass
class Peak:
    """The most memory that a process had in use, known once the block is over."""

    bytes: int = 0


@contextmanager
def resident_peak(pid: int) -> Iterator[Peak]:
    """The most that the process has in use while the block lasts. Raises OSError if it has ended."""
    found = Peak()
    Path(f"/proc/{pid}/clear_refs").write_text("5")
    yield found
    found.bytes = _status(pid, "VmHWM:")


def _status(pid: int, field: str) -> int:
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith(field):
            return int(line.split()[1]) << 10
    return 0


def descriptors(pid: int) -> list[int]:
    """How many the process has open; of a proxy, whose workers have a table each, for each of them. Raises OSError if
    it has ended."""
    tasks = list(Path(f"/proc/{pid}/task").iterdir())
    workers = [task for task in tasks if (task / "comm").read_text().startswith("worker-")]
    return [len(os.listdir(task / "fd")) for task in workers or [Path(f"/proc/{pid}")]]


def cpu_s(pid: int) -> float:
    """Seconds of CPU that the process has used. Raises OSError if it has ended."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICKS
