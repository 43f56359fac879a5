"""What can be asked without a service that runs; the rest is in tests/system/test_change.py."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest
from pannier.shared.explain import ConfigError
from pannier.shared.messages import LiveSetting
from pannier.supervisor.cli import main as cli
from pannier.supervisor.cli.profile_change import live_settings


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PANNIER_RUNTIME_DIR", str(tmp_path / "r"))
    return tmp_path


def run(*arguments: str) -> int:
    with pytest.raises(SystemExit) as caught:
        cli.main(arguments)
    return int(caught.value.code or 0)


def test_what_differs_between_two_stages(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("profile", "diff", "dev", "production") == 0
    lines = capsys.readouterr().out.splitlines()
    assert {"+ start traffic", "+ start resilience"} <= set(lines)
    assert "~ change observability: traces.sample_ratio 1.0 → 0.01" in lines
    assert "~ publish base: outbound.unknown passthrough → deny" in lines
    assert "~ orphan_grace 0s → never" in lines
    assert run("profile", "diff", "production", "dev") == 0
    assert "- stop resilience" in capsys.readouterr().out.splitlines()
    assert run("profile", "diff", "dev", "dev") == 0
    assert capsys.readouterr() == ("", "nothing differs\n")


def test_a_project_is_laid_over_both(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "pannier.toml").write_text('orphan_grace = "5s"\n[sidecars]\nobservability = false\n')
    assert run("profile", "diff", "dev", "test") == 0
    lines = capsys.readouterr().out.splitlines()
    assert not [line for line in lines if "observability" in line or "orphan_grace" in line]


@pytest.mark.parametrize(
    ("words", "code", "text"),
    [
        (["diff", "dev"], 2, "name two profiles"),
        (["diff", "dev", "prodution"], 65, 'did you mean "production"'),
        (["diff", "live"], 3, "no service runs here"),
        (["use", "canary"], 3, "no service runs here"),
        (["promote", "a"], 2, "Missing argument 'B'"),
        (["set"], 2, "Missing argument"),
        (["confirm", "--name", "x"], 3, "no service x runs here"),
    ],
)
def test_what_cannot_be_done_says_why(
    words: list[str], code: int, text: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("profile", *words) == code
    assert text in capsys.readouterr().err


def test_settings_are_sent_as_they_are_written() -> None:
    assert live_settings(["traffic.zone=b", "proxy.timeouts={ idle = '5s' }", "outbound.unknown=deny"]) == [
        LiveSetting(["sidecars", "traffic", "zone"], msgspec.msgpack.encode("b")),
        LiveSetting(["proxy", "timeouts"], msgspec.msgpack.encode({"idle": "5s"})),
        LiveSetting(["outbound", "unknown"], msgspec.msgpack.encode("deny")),
    ]
    with pytest.raises(ConfigError) as caught:
        live_settings(["traffic.zone=3", "proxy.wrokers=1", "nothing"])
    assert caught.value.exit_code == 65
