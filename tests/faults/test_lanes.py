"""Rows side by side: how many at a time, what is said, and that nobody is left behind."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from tests.faults.lanes import side_by_side
from tests.faults.row import Row
from tests.faults.run import ROWS
from tests.faults.waiting import wait_until
from tests.system.host import PATIENCE, alive

FOUR = ROWS[:4]
MEETING = """
import sys, time
from pathlib import Path
folder, name = Path(sys.argv[1]), sys.argv[2]
with (folder / "order").open("a") as order:
    print("begun", file=order, flush=True)
    (folder / name).touch()
    end = time.monotonic() + 20
    while len(list(folder.glob("kill-*"))) < 2 and time.monotonic() < end:
        time.sleep(0.01)
    print("over", file=order, flush=True)
print("held ", name)
sys.exit(name == "kill-discovery")
"""
"""A row that waits until another one has begun."""


def test_rows_are_tried_side_by_side_and_no_more_than_there_are_lanes(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def command(row: Row) -> Sequence[str]:
        return [sys.executable, "-c", MEETING, str(tmp_path), row.name]

    assert side_by_side(FOUR, 2, command) == ["kill-discovery"]
    assert sorted(capsys.readouterr().out.splitlines()) == sorted(f"held  {row.name}" for row in FOUR)
    running, most = 0, 0
    for line in (tmp_path / "order").read_text().splitlines():
        running += 1 if line == "begun" else -1
        most = max(most, running)
    assert most == 2


def test_a_row_that_says_nothing_is_lost(capsys: pytest.CaptureFixture[str]) -> None:
    assert side_by_side(FOUR[:1], 2, lambda _: ["sh", "-c", "exit 3"]) == ["kill-traffic"]
    assert capsys.readouterr().out == "LOST  kill-traffic: its process ended with 3\n"


def test_whoever_leaves_early_ends_all_rows(tmp_path: Path) -> None:
    file = tmp_path / "pid"

    def command(row: Row) -> Sequence[str]:
        if row is FOUR[0]:
            return ["sh", "-c", f"echo $$ >{file}.new && mv {file}.new {file}; exec sleep 3600"]
        wait_until(file.exists, "the first row runs", within=PATIENCE)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        side_by_side(FOUR, 2, command)
    assert not alive(int(file.read_text()))
