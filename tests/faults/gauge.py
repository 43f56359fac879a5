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


def descriptors(pid: int) -> int:
    """How many the process has open. Raises OSError if it has ended."""
    return len(os.listdir(f"/proc/{pid}/fd"))


def cpu_s(pid: int) -> float:
    """Seconds of CPU that the process has used. Raises OSError if it has ended."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICKS
