"""`pannier explain` and `pannier analyze`, as they are typed."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from pannier.supervisor.cli import main as cli


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def run(*arguments: str) -> int:
    with pytest.raises(SystemExit) as caught:
        cli.main(arguments)
    return int(caught.value.code or 0)


def test_a_code_is_explained_with_an_example_and_what_to_do(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("explain", "pan0102") == 0
    shown = capsys.readouterr().out
    assert shown.startswith("PAN0102: an unknown field\n")
    assert "For example:\n  [proxy]\n  wrokers = 2\n" in shown
    assert "What to do: " in shown


def test_codes_are_listed_by_their_beginning(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("explain", "PAN04") == 0
    assert [line.split()[0] for line in capsys.readouterr().out.splitlines()] == [
        "CODE", "PAN0401", "PAN0402", "PAN0403", "PAN0404", "PAN0405", "PAN0406",
    ]  # fmt: skip
    assert run("explain", "PAN9") == 2


def test_a_field_is_explained_with_its_default_its_source_and_the_stages(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("explain", "resilience.services.orders.breaker.consecutive_failures") == 0
    lines = [" ".join(line.split()) for line in capsys.readouterr().out.splitlines()]
    assert lines[:4] == [
        "sidecars.resilience.services.*.breaker.consecutive_failures: a number of failures; 0 = off",
        "type a whole number ≥ 0 and ≤ 60000",
        "default 7",
        "from Breaker in pannier.sidecars.resilience.config",
    ]
    assert lines[5].startswith("Endpoint breaker (Linkerd)")
    assert run("explain", "confirm") == 0
    shown = capsys.readouterr().out
    assert "default  not set" in shown
    assert "Settings in pannier.shared.profile" in shown
    assert 'stage    canary: "60s" (' in shown
    assert 'stage    production: "60s" (' in shown


def test_a_table_is_explained_by_what_is_under_it(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("explain", "proxy") == 0
    shown = capsys.readouterr().out
    assert shown.startswith("proxy: a table\n\n  The data path.")
    assert "proxy.timeouts.request" in shown
    assert run("explain", "sidecars.resilience") == 0
    assert "sidecars.resilience.services.*.rate_limit.max" in capsys.readouterr().out


def test_a_mistyped_field_has_its_near_match(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("explain", "sidecars.resilience.services.*.braker") == 2
    assert "did you mean sidecars.resilience.services.*.breaker?" in capsys.readouterr().err


WRONG = """\
[[sidecars.traffic.routes]]
name = "a"
retries = 2
to = { orders = 90, payments = 20 }
[sidecars.discovery]
"""


def test_findings_of_all_files_are_listed_and_counted(capsys: pytest.CaptureFixture[str]) -> None:
    Path("a.toml").write_text(WRONG)
    Path("b.toml").write_text("[proxy]\nwrokers = 2\n")
    assert run("analyze", "a.toml", "b.toml") == 79
    lines = capsys.readouterr().out.splitlines()
    assert [line.partition(":")[0] + line.partition("PAN")[2][:4] for line in lines[:-1:2]] == [
        "a.toml0401",
        "a.toml0204",
        "b.toml0102",
    ]
    assert lines[0].startswith("a.toml:3:11  PAN0401 warning  sidecars.traffic.routes[0].retries: nobody retries")
    assert lines[-1] == "1 error, 2 warnings in 2 files (exit 79)"


def test_findings_are_data(capsys: pytest.CaptureFixture[str]) -> None:
    Path("a.toml").write_text(WRONG.replace("90, payments = 20", "1"))
    assert run("analyze", "a.toml", "-o", "json") == 79
    (finding,) = json.loads(capsys.readouterr().out)
    assert finding == {
        "file": "a.toml",
        "line": 3,
        "column": 11,
        "code": "PAN0401",
        "severity": "warning",
        "path": "sidecars.traffic.routes[0].retries",
        "message": "nobody retries: resilience is not in this profile",
        "expectation": "expected [sidecars.resilience], or no `retries`",
        "near": "",
    }
    Path("good.toml").write_text("")
    assert run("analyze", "good.toml", "-o", "json") == 0
    assert json.loads(capsys.readouterr().out) == []


def test_a_profile_is_analysed_with_the_project_that_is_here(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("analyze", "--profile", "production") == 0
    assert capsys.readouterr().out == "production: no findings\n"
    Path("pannier.toml").write_text("[apps.web]\n[apps.web.sidecars.traffic.services.db.fault]\nabort = 503\n")
    assert run("analyze", "pannier.toml", "-o", "json") == 79
    assert {one["code"] for one in json.loads(capsys.readouterr().out)} == {"PAN0201"}
    assert run("analyze", "--profile", "production") == 79
    assert "PAN0201" in capsys.readouterr().out
    assert run("analyze", "--profile", "test") == 0


def test_what_cannot_be_analysed_is_a_finding_or_a_mistake_at_the_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("analyze", "absent.toml") == 79
    assert "PAN0100 error" in capsys.readouterr().out
    assert run("analyze", "--profile", "prodution") == 79
    assert 'did you mean "production"?' in capsys.readouterr().out
    assert run("analyze") == 2
    assert run("analyze", "--profile", "dev", "a.toml") == 2


def test_a_warning_does_not_make_a_file_bad(capsys: pytest.CaptureFixture[str]) -> None:
    Path("a.toml").write_text('[sidecars.traffic.services.orders]\nbalance = "maglev"\n')
    assert run("profile", "validate", "a.toml") == 0
    assert capsys.readouterr().out == "a.toml: a good profile\n"
    Path("b.toml").write_text("x = 1\n")
    assert run("profile", "validate", "a.toml", "b.toml") == 65
    assert capsys.readouterr().err.endswith("1 error, 1 warning in 2 files (exit 65)\n")
