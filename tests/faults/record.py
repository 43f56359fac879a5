"""`build/faults/latest.json`: what is known of every row, over several runs.

A row replaces its older self and leaves the others; so a row that is looked into need not bring the whole table along.
Several runs may write at the same time: each reads and replaces the file while it holds a lock on its folder.
"""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

LATEST = Path(__file__).resolve().parents[2] / "build" / "faults" / "latest.json"
Rows = Sequence[Mapping[str, Any]]


def accumulate(known: Rows, fresh: Rows) -> list[Mapping[str, Any]]:
    """`known` with each fresh row in the place of its older self, new ones at the end."""
    newer = {_key(row): row for row in fresh}
    kept = [newer.pop(_key(row), row) for row in known]
    return [*kept, *newer.values()]


def _key(row: Mapping[str, Any]) -> tuple[str, str]:
    return row["table"], row["fault"]


def read(path: Path = LATEST) -> Rows:
    """The rows of earlier runs; none if there are none, or if the file cannot be understood."""
    try:
        rows = json.loads(path.read_text())["rows"]
        return [row for row in rows if {"table", "fault"} <= row.keys()]
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return []


def write(fresh: Rows, path: Path = LATEST) -> None:
    """Lays the fresh rows over those of the file, in one step; waits for whoever is about to do the same."""
    path.parent.mkdir(parents=True, exist_ok=True)
    folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(folder, fcntl.LOCK_EX)
        new = path.with_suffix(".new")
        new.write_text(json.dumps({"rows": accumulate(read(path), fresh)}, indent=1) + "\n")
        os.replace(new, path)
    finally:
        os.close(folder)
