from dataclasses import replace

import pytest

from tests.bench import run
from tests.bench.peers import PEERS
from tests.bench.processes import BenchmarkError
from tests.bench.rounds import Notes, attempt


@pytest.mark.parametrize(("ci", "failures"), [("true", ["not here"]), ("", [])])
def test_what_could_be_installed_is_a_failure_in_ci_alone(
    monkeypatch: pytest.MonkeyPatch, ci: str, failures: list[str]
) -> None:
    monkeypatch.setenv("CI", ci)
    notes = Notes(repeating=0.0)
    notes.miss("not here")
    notes.skip("the kernel refuses it")
    assert (notes.failures, notes.skipped) == (failures, ["not here", "the kernel refuses it"])


def test_a_thing_is_skipped_once(capsys: pytest.CaptureFixture[str]) -> None:
    notes = Notes(repeating=0.0)
    for _ in range(2):
        notes.skip("the kernel refuses it")
    assert notes.skipped == ["the kernel refuses it"]
    assert capsys.readouterr().err == "the kernel refuses it\n"


def test_a_step_that_fails_is_noted_and_no_end() -> None:
    def fail() -> int:
        raise BenchmarkError("it broke")

    notes = Notes(repeating=0.0)
    assert (attempt(notes, fail), attempt(notes, lambda: 3)) == (None, 3)
    assert notes.failures == ["it broke"]


def test_peers_that_are_not_installed_are_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    here, missing = replace(PEERS[0], binary=lambda: "x"), replace(PEERS[1], binary=lambda: None)
    monkeypatch.setattr(run, "PEERS", (here, missing))
    notes = Notes(repeating=0.0)
    assert run.present_peers(None, notes) == [here]
    assert notes.skipped == ["skipped relay: not installed; run `make peers`"]
    assert run.present_peers(["relay"], notes) == []
