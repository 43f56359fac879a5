"""What `config` and `diagnostics` can say without a service that runs; the rest is in tests/system."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from pannier.supervisor.cli import main as cli
from pannier.supervisor.history import Content, History


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PANNIER_RUNTIME_DIR", str(tmp_path / "r"))
    return tmp_path


def run(*arguments: str) -> int:
    with pytest.raises(SystemExit) as caught:
        cli.main(arguments)
    return int(caught.value.code or 0)


@pytest.mark.parametrize(
    ("words", "code", "text"),
    [
        (["config", "history"], 3, "no service runs here"),
        (["config", "history", "-n", "gone"], 3, "it has no history"),
        (["config", "history", "-n", "../x"], 2, "is no service name"),
        (["config", "effective", "-n", "gone"], 3, "it has no history"),
        (["config", "rollback"], 2, "Missing argument"),
        (["config", "rollback", "1", "-n", "gone"], 3, "no service gone runs here"),
        (["config", "reload"], 3, "no service runs here"),
        (["diagnostics", "bus"], 3, "no service runs here"),
        (["diagnostics", "tables", "-n", "gone"], 3, "no service gone runs here"),
        (["diagnostics", "dump", "-n", "gone"], 3, "no service gone runs here"),
    ],
)
def test_what_cannot_be_done_says_why(
    words: list[str], code: int, text: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(*words) == code
    assert text in capsys.readouterr().err


def test_the_history_of_who_is_gone_is_read_from_its_files(capsys: pytest.CaptureFixture[str]) -> None:
    history = History("orders")
    for workers in (1, 2):
        said = Content("dev", {"proxy": {"workers": workers}, "sidecars": {}}, {"proxy": {"balance": "round_robin"}})
        history.add(said, at_ms=1000 * workers, by="profile set", lines=[f"workers → {workers}"])
    assert run("config", "history", "-n", "orders", "-o", "json") == 0
    found = json.loads(capsys.readouterr().out)
    assert [(each["number"], each["state"]) for each in found] == [(1, "replaced"), (2, "in force")]
    assert run("config", "history", "-n", "orders") == 0
    assert capsys.readouterr().out.splitlines()[1].split()[0] == "2", "the newest first"
    assert run("config", "effective", "-n", "orders", "-o", "json") == 0
    said, talk = capsys.readouterr()
    assert json.loads(said)["proxy"]["workers"] == 2
    assert json.loads(said)["proxy"]["balance"] == "round_robin"
    assert "this is revision 2, the last that is known" in talk


def test_what_is_damaged_is_said_and_hides_nothing(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for number in (1, 2):
        History("orders").add(Content("dev", {"a": number}, {}), at_ms=0, by="run", lines=[])
    (folder / "state" / "history" / "orders" / "00000002.entry").write_text("torn")
    assert run("config", "history", "-n", "orders") == 0
    found = capsys.readouterr()
    assert len(found.out.splitlines()) == 2
    assert "00000002.entry is left out" in found.err
