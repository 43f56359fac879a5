"""Results of several runs become one file."""

from __future__ import annotations

import json
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from tests.faults.record import accumulate, read, write

REPOSITORY = Path(__file__).resolve().parents[2]
WRITERS, ROWS_EACH = 4, 25
WRITER = """
import sys
from pathlib import Path
from tests.faults.record import write
path, name, count = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])
print("up", flush=True)
sys.stdin.readline()
for number in range(count):
    write([{"table": name, "fault": str(number)}], path)
"""


def row(fault: str, *, held: bool = True, table: str = "Processes") -> dict[str, object]:
    return {"table": table, "fault": fault, "promise": "0 failed", "repetitions": 20, "held": held, "figures": {}}


def test_a_row_replaces_its_older_self_and_no_other() -> None:
    known = [row("a"), row("b"), row("a", table="Discovery")]
    fresh = [row("c"), row("a", held=False)]
    assert accumulate(known, fresh) == [row("a", held=False), row("b"), row("a", table="Discovery"), row("c")]


def test_results_add_up_over_runs(tmp_path: Path) -> None:
    path = tmp_path / "faults" / "latest.json"
    write([row("a", held=False), row("b")], path)
    write([row("a")], path)
    assert json.loads(path.read_text()) == {"rows": [row("a"), row("b")]}
    assert [entry.name for entry in path.parent.iterdir()] == ["latest.json"]


def test_no_row_is_lost_when_several_processes_write(tmp_path: Path) -> None:
    path = tmp_path / "latest.json"
    names = [f"writer {number}" for number in range(WRITERS)]
    words = [sys.executable, "-c", WRITER, str(path)]
    pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "cwd": REPOSITORY}
    with ExitStack() as stack:
        writers = [stack.enter_context(subprocess.Popen([*words, name, str(ROWS_EACH)], **pipes)) for name in names]
        assert [writer.stdout.readline() for writer in writers] == WRITERS * [b"up\n"]
        for writer in writers:
            writer.stdin.close()  # all begin at once
        assert [writer.wait(60) for writer in writers] == WRITERS * [0]
    found = sorted((each["table"], int(each["fault"])) for each in read(path))
    assert found == [(name, number) for name in names for number in range(ROWS_EACH)]


@pytest.mark.parametrize("text", ["", "[]", '{"rows": 3}', '{"rows": [3]}', "{"])
def test_a_file_that_is_none_of_ours_is_begun_anew(tmp_path: Path, text: str) -> None:
    path = tmp_path / "latest.json"
    path.write_text(text)
    assert list(read(path)) == []
    write([row("a")], path)
    assert list(read(path)) == [row("a")]
