"""How long a run takes: what a row costs, and what it comes to when several are tried side by side. Pure.

Rows whose verdict compares times have the machine for themselves, after all others: see `Row.exclusive`.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Sequence

from tests.faults.rig import CLEAN_S, PAUSE_S
from tests.faults.row import Row

SETTLED_S = 0.2
"""After each load, as measured: the ledgers are read, the bed is looked at."""
BED_S = 4.0
"""A process and a bed for a row, and their end: 3.0 where nothing else runs."""

Tried = Sequence[tuple[Row, int]]
"""Rows, and how often each is repeated."""


def seconds(row: Row, times: int, *, short: bool = False) -> float:
    """How long a row takes that is repeated so often, on a bed: a clean window, loads and the pauses between them."""
    each = row.short_seconds if short and row.short_seconds else row.seconds
    return CLEAN_S + times * (each + SETTLED_S) + (times - 1) * PAUSE_S


def apart(rows: Iterable[Row], lanes: int) -> tuple[list[Row], list[Row]]:
    """Which rows are tried side by side, and which one after the other when those are done."""
    rows = list(rows)
    beside = [row for row in rows if not row.exclusive]
    if min(lanes, len(beside)) < 2:
        return [], rows
    return beside, [row for row in rows if row.exclusive]


def longest(durations: Iterable[float], lanes: int) -> float:
    """When the last lane is done, if whoever is free takes the longest that is left."""
    done = [0.0] * lanes
    for each in sorted(durations, reverse=True):
        heapq.heapreplace(done, done[0] + each)
    return max(done)


def whole(tried: Tried, lanes: int, *, short: bool = False) -> float:
    """Seconds until all rows have been tried: in a lane each has a bed, afterwards they share one under one stage."""
    took = {row.name: seconds(row, times, short=short) for row, times in tried}
    beside, alone = apart((row for row, _ in tried), lanes)
    beds = sum(before is None or before.stage != row.stage for before, row in zip([None, *alone], alone, strict=False))
    return (
        longest((BED_S + took[row.name] for row in beside), lanes) + sum(took[row.name] for row in alone) + beds * BED_S
    )


def plan(tried: Tried, lanes: int, *, short: bool = False) -> str:
    """What is about to be tried, in a line."""
    tables = {row.table: [each for each in tried if each[0].table == row.table] for row, _ in tried}
    taken = ", ".join(f"{table} {whole(rows, 1, short=short) / 60:.0f}" for table, rows in tables.items())
    beside, alone = apart((row for row, _ in tried), lanes)
    how = f" in {lanes} lanes, {len(alone)} of them alone; in one lane" if beside else ""
    return f"{len(tried)} rows, about {whole(tried, lanes, short=short) / 60:.0f} min{how}: {taken}"
