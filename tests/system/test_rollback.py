"""A service under load goes back to what held before, by hand and by itself, and no request fails for it."""

from __future__ import annotations

import json
import subprocess

import pytest

from tests.system.host import Host, free_port, until
from tests.system.load import Load
from tests.system.origin import Origin

CONFIGURED = ("base", "routes", "limits", "telemetry")


@pytest.fixture
def orders(host: Host, origin: Origin) -> subprocess.Popen[str]:
    """A service of `staging` whose app calls `stock`, which is itself; what it was started with is in a file."""
    port = free_port()
    (host.folder / "own.toml").write_text(
        f'extends = "staging"\n[services]\nstock = [{{ address = "127.0.0.1:{port}" }}]\n'
    )
    return origin.serve("orders", "-p", "./own.toml", "--set", "orphan_grace=30s", port=port)


def generations(host: Host) -> dict[str, int]:
    found = json.loads(host.run("diagnostics", "tables", "-o", "json").stdout)["tables"]
    return {table["kind"]: table["generation"] for table in found}


def states(host: Host) -> list[str]:
    return [each["state"] for each in json.loads(host.run("config", "history", "-o", "json").stdout)]


def test_files_read_again_and_rolled_back_under_load(host: Host, orders: subprocess.Popen[str]) -> None:
    own = host.folder / "own.toml"
    with (
        Load(host.urls("orders")["inbound"], "orders") as asked,
        Load(host.urls("orders")["outbound"], "stock") as called,
    ):
        before, tables = host.pids("orders"), generations(host)
        good = own.read_text()
        own.write_text(good + "[sidecars.traffic]\nzone = 3\n")
        done = host.run("config", "reload")
        assert done.returncode == 65 and "own.toml:5:8" in done.stderr
        assert generations(host) == tables and states(host) == ["in force"]

        own.write_text(good + '[outbound]\nunknown = "deny"\n[sidecars.traffic]\nzone = "b"\n')
        rehearsed = host.run("config", "reload", "--dry-run")
        assert "~ tell traffic: zone none → b" in rehearsed.stdout.splitlines()
        assert generations(host) == tables
        done = host.run("config", "reload")
        assert done.returncode == 0 and done.stderr.splitlines() == rehearsed.stdout.splitlines()
        changed = generations(host)
        assert {kind for kind in CONFIGURED if changed[kind] != tables[kind]} == {"base", "routes"}

        done = host.run("config", "rollback", "1")
        assert done.returncode == 0, done.stderr
        back = generations(host)
        assert {kind for kind in CONFIGURED if back[kind] != changed[kind]} == {"base", "routes"}
        assert back["endpoints"] == tables["endpoints"]
        assert host.pids("orders") == before
        assert states(host) == ["replaced", "replaced", "in force"]
    asked.assert_all_answered()
    called.assert_all_answered()


def test_a_change_that_does_harm_is_taken_back_and_one_that_does_none_stands(
    host: Host, orders: subprocess.Popen[str]
) -> None:
    harm = "traffic.services.stock.fault={ abort = 503, percent = 50 }"
    with Load(host.urls("orders")["inbound"], "orders", rate=200) as asked:
        with Load(host.urls("orders")["outbound"], "stock", rate=200) as called:
            words = ("profile", "set", harm, "--confirm", "10m", "--unless", "outbound.success<90%", "--wait")
            done = host.run(*words)
            assert done.returncode == 1
            assert "it is taken back if outbound.success<90% within 600 s, else kept" in done.stderr
            assert "revision 2 was taken back" in done.stderr
            until(lambda: "outbound.success is " in host.run("logs", "--name", "orders").stdout)
        assert called.failed > 0, "the fault was in force"
        with Load(host.urls("orders")["outbound"], "stock", rate=200) as called:
            done = host.run("profile", "set", "traffic.zone=b", "--confirm", "1s", "--unless", "success<99%", "--wait")
            assert (done.returncode, done.stderr.splitlines()[-1]) == (0, "revision 3 stands")
        called.assert_all_answered()
    asked.assert_all_answered()
    assert states(host) == ["replaced", "taken back", "in force"]
