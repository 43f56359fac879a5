"""Results of several runs become one file."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.faults.record import accumulate, read, write


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


@pytest.mark.parametrize("text", ["", "[]", '{"rows": 3}', '{"rows": [3]}', "{"])
def test_a_file_that_is_none_of_ours_is_begun_anew(tmp_path: Path, text: str) -> None:
    path = tmp_path / "latest.json"
    path.write_text(text)
    assert list(read(path)) == []
    write([row("a")], path)
    assert list(read(path)) == [row("a")]
