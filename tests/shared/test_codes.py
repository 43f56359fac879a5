"""Codes are told about in one table: every one that is found, and no other."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from pannier.shared.codes import CODES
from pannier.shared.project import examine
from pannier.supervisor.cli import main as cli
from pannier.supervisor.contradictions import contradictions
from pannier.supervisor.sidecar_types import sidecar_types

ROOT = Path(__file__).resolve().parents[2]
SOURCES = [
    path
    for package in ("shared", "sidecars", "supervisor")
    for path in (ROOT / package).rglob("*.py")
    if path.name != "codes.py"
]


def test_every_code_that_is_used_is_explained_and_every_other_is_gone() -> None:
    defined = re.compile(r'^[A-Z][A-Z_]*(?:: Final)? = "(PAN\d{4})"$', re.MULTILINE)
    used = [code for path in SOURCES for code in defined.findall(path.read_text())]
    assert sorted(used) == sorted(set(used)), "a code has one meaning"
    assert set(used) == CODES.keys()
    mentioned = {code for path in SOURCES for code in re.findall(r"PAN\d{4}", path.read_text())}
    assert mentioned <= CODES.keys()


def test_the_table_is_in_order() -> None:
    assert list(CODES) == sorted(CODES)
    for text in CODES.values():
        assert all((text.title, text.meaning, text.example, text.remedy))


@pytest.mark.parametrize("code", [code for code, text in CODES.items() if not text.example.startswith("#")])
def test_an_example_has_its_code(
    code: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    example = CODES[code].example
    if example.startswith("$"):
        with pytest.raises(SystemExit):
            cli.main(example.split()[2:])
        assert code in capsys.readouterr().out
        return
    Path("example.toml").write_text(f"{example}\n")
    _, problems = examine("example.toml", sidecars=sidecar_types(), look=contradictions)
    assert code in {problem.code for problem in problems}
    # An error hides what is found in what it refuses; a warning's example shows nothing else.
    assert {problem.code for problem in problems} <= {code, "PAN0402", "PAN0403"}
