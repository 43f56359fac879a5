"""The simulated fleet from Python: what goes in and comes out. What it shows is tested beside it, in Rust."""

from __future__ import annotations

import json
from typing import Any

import pytest
from pannier import _native
from pannier.shared.errors import PannierError, UsageError
from pannier.supervisor.central_fleet import simulate
from pannier.supervisor.cli.central_fleet import command

SMALL: dict[str, Any] = {"hosts": 50, "from_h": 19.5, "hours": 1, "central.cores": 10.0}
WORDS = ("--hosts", "20", "--from", "19.5", "--hours", "0.25")


def run(*words: str) -> None:
    command.main([*WORDS, *words], standalone_mode=False)


def test_tokens_keep_a_central_within_what_it_can_do() -> None:
    outcome = simulate(SMALL)
    assert 0.75 * outcome.central.can < outcome.central.most_offered <= outcome.central.can
    assert outcome.central.failed == 0 and outcome.here.starving_s < outcome.alone.starving_s


def test_without_them_it_breaks_down() -> None:
    outcome = simulate(SMALL | {"central.tokens": False, "central.slow_ms": 1e6})
    assert outcome.central.worst_minute < 0.01 and outcome.central.failed > 0.9 * outcome.central.offered


def test_the_controller_of_a_profile_takes_part(capsys: pytest.CaptureFixture[str]) -> None:
    def printed(*words: str) -> dict[str, Any]:
        run("-o", "json", *words)
        found: list[dict[str, Any]] = json.loads(capsys.readouterr().out)
        return found[0]

    assert printed("--set", "central.enter.host_pressure=25")["bouts"] == printed()["bouts"]
    assert printed("--set", "central.enter.host_pressure=95")["bouts"] < printed()["bouts"]


def test_a_sweep_has_a_row_for_each_size(capsys: pytest.CaptureFixture[str]) -> None:
    run("--central-cores", "2", "--central-cores", "20", "--assume", "host.app_us=500", "--peaks", "correlated")
    heading, small, large, _, summary = capsys.readouterr().out.splitlines()
    assert heading.split()[:2] == ["CORES", "USED"]
    assert (float(small.split()[0]), float(large.split()[0])) == (2, 20)
    assert summary.startswith("20 hosts, 0.25 h; with everything at home they starve for ")


def test_json_has_what_was_assumed_and_a_point_for_each_minute(capsys: pytest.CaptureFixture[str]) -> None:
    run("-o", "json", "--no-tokens", "--peaks", "spread", "--seed", "7", "--assume", "load.night=0.5")
    (found,) = json.loads(capsys.readouterr().out)
    assert found["assumed"]["load.night"] == 0.5 and found["assumed"]["seed"] == 7
    assert found["assumed"]["central.tokens"] is False and found["assumed"]["load.peaks"] == "spread"
    assert len(found["minutes"]) == 15


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--assume", "host.app_us=0"], "host.app_us = 0"),
        (["--assume", "host.app_us=nan"], "assumes no number"),
        (["--assume", "host.app_us"], "assumes no number"),
        (["--assume", "host.colour=3"], "colour"),
        (["--central-cores", "0"], "central.cores = 0"),
        (["--set", "central.leave.share=0.9"], "central.leave.share"),
    ],
)
def test_what_no_fleet_can_be_is_refused(words: list[str], said: str) -> None:
    with pytest.raises(PannierError, match=said):
        run(*words)


def test_bytes_that_are_no_parameters_are_refused() -> None:
    for junk in (b"", b"\xc1", b"\x93\x01", b"\x81\xa5hosts\xa4many", b"\xff" * 40):
        with pytest.raises(ValueError):
            _native.simulate_fleet(junk)


def test_usage_errors_have_a_hint() -> None:
    with pytest.raises(UsageError) as caught:
        run("--central-cores", "-3")
    assert "central fleet --help" in caught.value.hint
