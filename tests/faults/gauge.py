"""What a process holds and uses, from /proc."""

from __future__ import annotations

import os
from pathlib import Path

MIB = 1 << 20
TICKS = os.sysconf("SC_CLK_TCK")


def resident(pid: int) -> int:
    """Bytes of memory that the process has in use, tables and rings that it shares with others included. Raises OSError
    if it has ended."""
    kib = 0
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            kib = int(line.split()[1])
    return kib << 10


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
