"""Table "Bus and shared memory": peers that break the rules, and memory that is damaged, resized or written by two.

Where a process of the same user is the culprit, nothing can keep it out; what is promised is that it is noticed, that
the last good state stays in force, and that nobody else pays for it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from tests.faults.bed import Stage
from tests.faults.damaging import FlippedHotWords, FlippedTable
from tests.faults.flooding import BusFlood
from tests.faults.garbling import Garbled
from tests.faults.row import READS, Row
from tests.faults.trespassing import Trespass
from tests.faults.unread import GHOST_SETTING, NeverReads
from tests.faults.writing import KilledSidecar, KilledWriter, Resized, StoppedReader, TwoWriters

TABLE: Final = "Bus and shared memory"
WHOLE: Final = Stage("production", (GHOST_SETTING,))

ROWS: Final[Sequence[Row]] = (
    *(
        Row(
            name=f"bus-flood-{name}",
            table=TABLE,
            fault=f"one peer floods: {what}, over one connection after the other",
            promise="not read above 1 000 msg/s, cut after 5 s; others as with the same CPU hog off the bus; 0 failed",
            how=BusFlood(verb),
            stage=WHOLE,
            seconds=14.0,
            flows=READS,
            compares=True,
        )
        for name, verb, what in (
            ("refused", "nothing", "requests that are refused"),
            ("asking", "status", "the dearest question there is"),
        )
    ),
    Row(
        name="bus-unread",
        table=TABLE,
        fault="a subscriber never reads",
        promise="a bounded queue; published = delivered + conflated + dropped + queued; cut after 5 s; 0 failed",
        how=NeverReads(),
        stage=WHOLE,
        seconds=10.0,
        flows=READS,
    ),
    Row(
        name="bus-trespass",
        table=TABLE,
        fault="foreign uid, wrong role, world-writable path, symlink, pre-created name",
        promise="refused with a clear message; nobody is given a descriptor, nothing is left running; 0 failed",
        how=Trespass(),
        stage=WHOLE,
        seconds=14.0,
    ),
    Row(
        name="bus-garbled",
        table=TABLE,
        fault="msgpack that is cut short, nested, huge, of ext types, no UTF-8; 16 MiB frames; one byte a second",
        promise="closed in 10 ms, drips in 5 s; at most 1 MiB; same PIDs; 0 failed",
        how=Garbled(),
        stage=WHOLE,
        seconds=6.5,
        compares=True,
    ),
    Row(
        name="table-flipped",
        table=TABLE,
        fault="1 to 64 random bytes of a policy table flipped, 10 000 times",
        promise="0 crashes, 0 failed, the last good one kept; alarm in 1 s; the writer goes on",
        how=FlippedTable(),
        stage=WHOLE,
        seconds=12.0,
    ),
    Row(
        name="hot-words-flipped",
        table=TABLE,
        fault="hot words damaged: too far ahead, of no state, of another incarnation, 10 000 random bytes",
        promise="0 failed; damaged reads as closed; who is out is out until its `until`, and called 1 s later",
        how=FlippedHotWords(),
        stage=WHOLE,
        seconds=12.0,
    ),
    Row(
        name="table-writer-killed",
        table=TABLE,
        fault="a writer of a table killed at random moments of publishing, 50 of them",
        promise="0 failed; old or new, never a mix; nothing rejected; the sidecar takes its table over again",
        how=KilledWriter(),
        stage=WHOLE,
        seconds=5.0,
    ),
    Row(
        name="table-sidecar-killed",
        table=TABLE,
        fault="the sidecar that writes a table killed while it publishes change after change",
        promise="0 failed; old or new, never a mix; nothing rejected; back, and its newest table in force",
        how=KilledSidecar(),
        stage=WHOLE,
        seconds=3.0,
    ),
    Row(
        name="table-reader-stopped",
        table=TABLE,
        fault="SIGSTOP of the reading proxy across 1 000 publications, 10 times",
        promise="0 failed; the newest in force, never a mix; nothing rejected",
        how=StoppedReader(),
        stage=WHOLE,
        seconds=2.5,
    ),
    Row(
        name="table-two-writers",
        table=TABLE,
        fault="a second writer of a table, 200 times, the sidecar's own among the first",
        promise="0 failed; the older one is fenced each time; a fenced sidecar is replaced and has its table again",
        how=TwoWriters(),
        stage=WHOLE,
        seconds=4.0,
    ),
    Row(
        name="segment-resized",
        table=TABLE,
        fault="every segment truncated, grown, written past its end, sealed otherwise",
        promise="EPERM each time; 0 failed; same PIDs",
        how=Resized(),
        stage=WHOLE,
        seconds=2.0,
        quick=True,
    ),
)
