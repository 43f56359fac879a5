"""The main job, short: the shop under governance and load, ended by itself and by Ctrl-C."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
RUN = ROOT / "examples" / "shop" / "run.py"
SUMMARY = ROOT / "build" / "run" / "summary.json"


@pytest.fixture
def environment(short_path: Path) -> dict[str, str]:
    return {**os.environ, "PANNIER_RUNTIME_DIR": str(short_path / "r"), "PANNIER_STATE_DIR": str(short_path / "s")}


def test_it_ends_by_itself_and_every_failure_is_explained(environment: dict[str, str]) -> None:
    run = subprocess.run(
        [sys.executable, RUN, "--for", "6s"], env=environment, capture_output=True, text=True, timeout=120, check=False
    )
    assert run.returncode == 0, run.stdout + run.stderr
    summary = json.loads(SUMMARY.read_text())
    assert (summary["profile"], summary["unexplained"]) == ("dev", 0)
    assert summary["failed"] == summary["injected"] + summary["unexplained"]
    assert summary["requests"] > 1200
    assert {(row["service"], row["name"]) for row in summary["sidecars"]} >= {
        (service, sidecar)
        for service in ("shop", "orders", "payments", "catalog", "httpbin")
        for sidecar in ("discovery", "observability")
    }
    assert not list(Path(environment["PANNIER_RUNTIME_DIR"]).rglob("*"))


def shown(environment: dict[str, str], profile: str, period: str) -> dict[str, Any]:
    """The summary of a run that ended well."""
    words = [sys.executable, RUN, "--profile", profile, "--for", period]
    run = subprocess.run(words, env=environment, capture_output=True, text=True, timeout=120, check=False)
    assert run.returncode == 0, run.stdout[-8000:] + run.stderr
    summary: dict[str, Any] = json.loads(SUMMARY.read_text())
    assert (summary["profile"], summary["unexplained"], summary["missing"]) == (profile, 0, [])
    return summary


def test_a_bad_version_is_aborted_by_itself(environment: dict[str, str]) -> None:
    moments = shown(environment, "canary", "14s")["moments"]

    kinds = [moment["kind"] for moment in moments if moment["service"] in ("operator", "orders")]
    told = [kind for kind in kinds if kind not in {"done", "canary.paused"}]
    assert told == ["command", "canary.running", "canary.aborted"]
    assert "< 99 %" in moments[-1]["text"]


def test_a_failing_instance_is_ejected_and_healed_and_customers_do_not_notice(environment: dict[str, str]) -> None:
    summary = shown(environment, "production", "12s")

    kinds = [moment["kind"] for moment in summary["moments"] if moment["service"] == "shop"]
    assert kinds[0] == "endpoint.out"
    assert kinds[-1] == "endpoint.back"
    assert summary["success_rate"] > 0.98  # payments refuses 2 % of the orders, which are 15 % of the requests


def test_ctrl_c_ends_it_and_leaves_nothing(environment: dict[str, str]) -> None:
    run = subprocess.Popen([sys.executable, RUN], env=environment, stdout=subprocess.PIPE, text=True)
    with run:
        assert run.stdout is not None
        for line in run.stdout:
            if line.startswith("the shop on profile dev"):
                break
        run.send_signal(signal.SIGINT)
        rest = run.stdout.read()
        assert run.wait(60) == 0, rest
    assert "0 unexplained" in rest
    assert "left behind" not in rest
    assert not list(Path(environment["PANNIER_RUNTIME_DIR"]).rglob("*"))
