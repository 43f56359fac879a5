"""`pannier profile list|show`, as they are typed; the service that is asked is a real broker with one verb."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import trio
from pannier.shared.messages import Nothing, ProfileInForce
from pannier.shared.profile_files import builtin_profiles
from pannier.supervisor.cli import main as cli
from pannier.supervisor.live import write_live

from tests.conftest import RunningBroker


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def run(*arguments: str) -> int:
    with pytest.raises(SystemExit) as caught:
        cli.main(arguments)
    return int(caught.value.code or 0)


def test_stages_are_listed_in_their_order_with_what_tells_them_apart(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("profile", "list", "-o", "json") == 0
    rows = json.loads(capsys.readouterr().out)
    assert [row["name"] for row in rows] == builtin_profiles()
    assert [row["name"] for row in rows if row["confirm"]] == ["canary", "production"]
    assert [row["name"] for row in rows if row["outbound_unknown"] == "deny"] == ["canary", "production", "central"]
    assert run("profile", "list") == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split() == [
        "NAME", "SIDECARS", "ORPHAN", "GRACE", "UNKNOWN", "NAMES", "CONFIRM", "WHERE", "DESCRIPTION",
    ]  # fmt: skip
    assert len(lines) == 1 + len(rows)


@pytest.fixture
def project(folder: None) -> str:
    path = Path("pannier.toml").absolute()
    path.write_text("[apps.orders]\nproxy.timeouts.request = '3s'\n")
    return str(path)


async def test_what_holds_for_a_running_service_is_shown_with_its_live_layer(
    project: str,
    short_path: Path,
    nursery: trio.Nursery,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("PANNIER_RUNTIME_DIR", str(short_path))
    (short_path / "orders").mkdir()
    service = RunningBroker(short_path / "orders" / "bus.sock", nursery)
    service.start()
    write_live("orders", {"sidecars": {"traffic": {"services": {"stock": {"split": {"v2": 10}}}}}})

    async def in_force(_: Nothing) -> ProfileInForce:
        return ProfileInForce("test", project, "orders", {"PANNIER__PROXY__WORKERS": "3"}, ["proxy.seed=7"])

    service.broker.serve_verb("profile.in_force", Nothing, in_force)
    command = ("profile", "show", "-n", "orders", "--origin", "-o", "json", "--set", "x=1")
    assert await trio.to_thread.run_sync(lambda: run(*command)) == 2
    capsys.readouterr()
    assert await trio.to_thread.run_sync(lambda: run(*command[:-2])) == 65
    assert "live layer  PAN0202 error" in capsys.readouterr().err
    write_live("orders", {"sidecars": {"traffic": {"zone": "b"}}})
    assert await trio.to_thread.run_sync(lambda: run(*command[:-2])) == 0
    origins = json.loads(capsys.readouterr().out)["origins"]
    assert {path: found["layer"] for path, found in origins.items() if found["layer"] != "default"} == {
        "description": "profile test",
        "orphan_grace": "profile test",
        "outbound.unknown": "profile test",
        "proxy.seed": "--set",
        "proxy.timeouts.request": "apps.orders",
        "proxy.workers": "environment",
        "sidecars.observability.access_log.enabled": "profile test",
        "sidecars.observability.traces.sample_ratio": "profile test",
        "sidecars.traffic.allow": "profile test",
        "sidecars.traffic.zone": "live",
    }
