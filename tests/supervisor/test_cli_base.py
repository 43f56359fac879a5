from __future__ import annotations

import json
import os
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import click
import pytest
from pannier.shared.errors import NotRunning, Unreachable
from pannier.supervisor.cli import main as cli
from pannier.supervisor.cli.output import print_json, table

COMMAND = [str(Path(sys.executable).parent / "pannier")]


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in [name for name in os.environ if name.startswith("PANNIER__")]:
        monkeypatch.delenv(name)


def run(*arguments: str) -> int:
    with pytest.raises(SystemExit) as caught:
        cli.main(arguments)
    return int(caught.value.code or 0)


@pytest.fixture
def ends_with(monkeypatch: pytest.MonkeyPatch):  # type: ignore[no-untyped-def]
    """Makes `pannier version` do what the test wants."""

    def install(action) -> None:  # type: ignore[no-untyped-def]
        monkeypatch.setattr("pannier.supervisor.cli.version.command", click.Command("version", callback=action))

    return install


def raising(error: BaseException):  # type: ignore[no-untyped-def]
    def action() -> None:
        raise error

    return action


def test_help_lists_the_verbs_in_their_order_and_imports_none(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("--help") == 0
    lines = capsys.readouterr().out.splitlines()
    listed = [line.split()[0] for line in lines[lines.index("Commands:") + 1 :] if line[2] != " "]
    assert listed == list(cli.COMMANDS)
    probe = "import sys, pannier.supervisor.cli.main as m\ntry: m.main(['--help'])\nexcept SystemExit: pass\n"
    probe += (
        "heavy = {'trio', 'msgspec', 'msgpack', 'opentelemetry', 'prometheus_client', 'tomlkit'} & sys.modules.keys()\n"
    )
    probe += "sys.exit(str(heavy) if heavy else 0)"
    assert subprocess.run([sys.executable, "-c", probe], capture_output=True, check=False).returncode == 0


@pytest.mark.parametrize("name", ["profile", "version"])
def test_verbs_load(name: str) -> None:
    module, _, attribute = cli.COMMANDS[name][0].partition(":")
    assert isinstance(getattr(import_module(f"pannier.supervisor.cli.{module}"), attribute), click.Command)


@pytest.mark.parametrize(
    ("arguments", "near"),
    [
        (["proflie"], "Did you mean 'profile'?"),
        (["profile", "lits"], "Did you mean 'list'?"),
        (["profile", "show", "--orign"], "Did you mean '--origin'?"),
        (["xyzzy"], "No such command 'xyzzy'."),
    ],
)
def test_a_mistyped_word_gets_its_near_match(
    arguments: list[str], near: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(*arguments) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    what, where, tries = captured.err.splitlines()
    assert near in what
    assert where.startswith("   at: pannier ")
    assert tries.startswith("  try: pannier ")


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (NotRunning("nothing runs", hint="pannier run"), 3),
        (Unreachable("gone", hint="pannier run"), 69),
        (BaseExceptionGroup("g", [ExceptionGroup("h", [NotRunning("nothing runs", hint="pannier run")])]), 3),
    ],
)
def test_an_error_is_what_where_and_what_to_try(
    error: BaseException, code: int, ends_with, capsys: pytest.CaptureFixture[str]
) -> None:  # type: ignore[no-untyped-def]
    ends_with(raising(error))
    assert run("version") == code
    captured = capsys.readouterr()
    what, where, tries = captured.err.splitlines()
    assert what.startswith("error: ")
    assert (where, tries, captured.out) == ("   at: pannier version", "  try: pannier run", "")


def test_a_bug_keeps_its_traceback(ends_with) -> None:  # type: ignore[no-untyped-def]
    ends_with(raising(ZeroDivisionError()))
    with pytest.raises(ZeroDivisionError):
        cli.main(["version"])


@pytest.mark.parametrize("error", [KeyboardInterrupt(), BaseExceptionGroup("g", [KeyboardInterrupt()])])
def test_an_interrupt_is_130(error: BaseException, ends_with) -> None:  # type: ignore[no-untyped-def]
    ends_with(raising(error))
    assert run("version") == 130


@pytest.mark.parametrize(("result", "code"), [(None, 0), (7, 7), (137, 137)])
def test_a_command_returns_its_exit_code(result: int | None, code: int, ends_with) -> None:  # type: ignore[no-untyped-def]
    ends_with(lambda: result)
    assert run("version") == code


def test_a_reader_that_went_away_is_no_error_message() -> None:
    reading, writing = os.pipe()
    os.close(reading)
    try:
        done = subprocess.run([*COMMAND, "profile", "list"], stdout=writing, stderr=subprocess.PIPE, check=False)
    finally:
        os.close(writing)
    assert done.stderr == b""
    assert done.returncode == 1


def test_configuration_errors_are_printed_as_they_are(capsys: pytest.CaptureFixture[str]) -> None:
    Path("pannier.toml").write_text('profile = "dev"\n[proxy]\nwrkers = 1\nbalance = "p2c"\n')
    assert run("profile", "show") == 65
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err == (
        "pannier.toml:3:1  PAN0102 error  proxy.wrkers: unknown field\n"
        '    3 | wrkers = 1     did you mean "workers"?\n'
        'pannier.toml:4:11  PAN0104 error  proxy.balance: bad value: "p2c"\n'
        '    4 | balance = "p2c"     expected "p2c_ewma" or "round_robin"\n'
        "2 errors in 1 file (exit 65)\n"
    )


def test_profiles_are_listed(capsys: pytest.CaptureFixture[str]) -> None:
    Path("profiles").mkdir()
    Path("profiles/mine.toml").write_text('extends = "dev"\ndescription = "My own."\n')
    Path("profiles/worse.toml").write_text("nonsense = 1\n")
    assert run("profile", "list", "-o", "json") == 0
    rows = {row["name"]: row for row in json.loads(capsys.readouterr().out)}
    assert rows["dev"]["where"] == "built in"
    assert rows["mine"]["sidecars"] == ["discovery", "observability"]
    assert rows["mine"]["description"] == "My own."
    assert rows["worse"]["description"] == "broken: unknown field"


def test_show_says_where_values_come_from(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    Path("pannier.toml").write_text("[proxy]\nworkers = 3\n")
    monkeypatch.setenv("PANNIER__OUTBOUND__PORT", "5")
    assert run("profile", "show", "--origin", "-o", "json", "--set", "restart.max_restarts=9") == 0
    shown = json.loads(capsys.readouterr().out)
    assert shown["profile"]["proxy"]["workers"] == 3
    origins = shown["origins"]
    assert origins["proxy.workers"] == {"layer": "pannier.toml", "place": "pannier.toml:2:11"}
    assert origins["outbound.port"] == {"layer": "environment", "place": "PANNIER__OUTBOUND__PORT"}
    assert origins["restart.max_restarts"] == {"layer": "--set", "place": "--set restart.max_restarts"}
    assert origins["orphan_grace"]["layer"] == "profile dev"
    assert origins["proxy.balance"] == {"layer": "default", "place": ""}
    assert run("profile", "show", "--origin") == 0
    assert "proxy.workers" in capsys.readouterr().out


def test_validate_collects_over_all_files(capsys: pytest.CaptureFixture[str]) -> None:
    Path("a.toml").write_text("x = 1\n")
    Path("b.toml").write_text("[proxy]\nworkers = -1\n")
    Path("c.toml").write_text("")
    assert run("profile", "validate", "a.toml", "b.toml", "c.toml") == 65
    captured = capsys.readouterr()
    assert captured.out == "c.toml: a good profile\n"
    assert "a.toml:1:1" in captured.err
    assert "b.toml:2:11" in captured.err
    assert captured.err.endswith("2 errors in 2 files (exit 65)\n")


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("version", "-o", "json") == 0
    version = json.loads(capsys.readouterr().out)["version"]
    assert run("--version") == 0
    assert capsys.readouterr().out == f"pannier {version}\n"


def test_tables_are_aligned_and_never_cut() -> None:
    rows = [("a", 1, None, True), ("b" * 300, 200, "x\x1b", False)]
    lines = table(("NAME", "N", "NOTE", "READY"), rows).splitlines()
    assert lines[0].split() == ["NAME", "N", "NOTE", "READY"]
    assert lines[1].split() == ["a", "1", "-", "yes"]
    assert lines[2].startswith("b" * 300 + "  200  x\N{REPLACEMENT CHARACTER}")
    assert lines[1].index(" 1 ") + 1 == lines[2].index("200") + 2
    assert table(("NAME",), []) == "NAME"


def test_structs_print_as_json(capsys: pytest.CaptureFixture[str]) -> None:
    from pannier.shared.profile import Endpoint

    print_json([Endpoint("a:1")])
    assert json.loads(capsys.readouterr().out) == [{"address": "a:1", "weight": 1, "health": None, "metadata": {}}]
