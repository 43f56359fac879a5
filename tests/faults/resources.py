"""Table "Configuration and resources": what somebody writes down wrongly, and what runs out."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from tests.faults.bed import Stage
from tests.faults.configuring import InvalidFiles, OversizedFiles
from tests.faults.exhausting import CpuQuota, Descriptors, DiskFull, IdleConnections, MemoryLimit
from tests.faults.row import Row

TABLE: Final = "Configuration and resources"
WHOLE: Final = Stage("production")
SPARED: Final = "at most 0.2 of a core more; a new caller is served 5 s after there is room"
DISK: Final = Stage("production", disk_mib=48)  # the access logs of five repetitions are half of that

ROWS: Final[Sequence[Row]] = (
    Row(
        name="config-invalid",
        table=TABLE,
        fault="profiles with errors, at a start and live; a file of endpoints that breaks, whose reader is killed",
        promise="rejected with file, line and field; 0 failed; the last good one stays in force, also across restarts",
        how=InvalidFiles(),
        stage=WHOLE,
        seconds=24.0,
    ),
    Row(
        name="config-oversized",
        table=TABLE,
        fault="2 x and 1 000 x the size, 100 000 levels, aliases of aliases; names that leave the folder",
        promise="a rejection in 10 s each, no panic; nothing changes",
        how=OversizedFiles(),
        stage=WHOLE,
        seconds=20.0,
        flows=(),
    ),
    Row(
        name="resources-descriptors",
        table=TABLE,
        fault="256 descriptors for each process, and 400 callers",
        promise=f"0 failed; {SPARED}",
        how=Descriptors(callers=400),
        stage=Stage("production", descriptors=256),
        seconds=10.0,
        short_seconds=6.5,
        to="inbound",
        quick=True,
    ),
    Row(
        name="resources-descriptors-lowered",
        table=TABLE,
        fault="the proxy may open 8 descriptors more than it holds, from one moment to the next, and 200 callers come",
        promise=f"0 failed; {SPARED}",
        how=Descriptors(callers=200, lowered=True),
        stage=WHOLE,
        seconds=10.0,
        to="inbound",
    ),
    Row(
        name="resources-disk",
        table=TABLE,
        fault="the disks of runtime and state folder are full for 12 s",
        promise="0 failed; no PID changes; nothing is truncated; log and registry go on in 5 s",
        how=DiskFull(),
        stage=DISK,
        seconds=18.0,
    ),
    Row(
        name="resources-memory",
        table=TABLE,
        fault="64 MiB for the proxy, with 4 MiB bodies each way and a thousand connections",
        promise="0 failed; not ended; serves afterwards",
        how=MemoryLimit(),
        stage=WHOLE,
        seconds=11.0,
        to="inbound",
    ),
    Row(
        name="resources-cpu",
        table=TABLE,
        fault="a fifth of a core for proxy, sidecars, supervisor and keeper together",
        promise="0 failed; ready all the time; nobody is started anew; serves afterwards",
        how=CpuQuota(),
        stage=WHOLE,
        seconds=11.0,
        to="inbound",
    ),
    Row(
        name="resources-idle",
        table=TABLE,
        fault="10 000 idle connections, or as many as the limit of descriptors leaves",
        promise="0 failed; at most 100 MiB (10.24 KiB each); a further caller is served; they are let go",
        how=IdleConnections(),
        stage=WHOLE,
        seconds=11.0,
        to="inbound",
    ),
)
