"""The controller of the Central Mesh on a virtual clock: synthetic hosts, recorded traces, bad ones."""

from __future__ import annotations

import json
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import msgspec
import pytest
from pannier import _native
from pannier.shared.errors import PannierError, UsageError
from pannier.shared.explain import ConfigError
from pannier.supervisor.central_simulation import Host, Moment, Outcome, simulate
from pannier.supervisor.central_synthetic import NAMES, synthetic
from pannier.supervisor.central_trace import recorded
from pannier.supervisor.cli.central_simulate import command

CONTROLLER: dict[str, Any] = {
    "enter": {
        "host_pressure": 25.0,
        "cgroup_pressure": 25.0,
        "throttled": 10.0,
        "queue_wait_ms": 20.0,
        "holds_ms": 2_000,
        "within_ms": 3_000,
    },
    "leave": {"share": 0.5, "calm_ms": 15_000},
    "dwell_ms": 30_000,
    "jitter": 0.2,
    "step_up": 10.0,
    "step_down": 5.0,
}

Trace = Callable[..., str]


def packed(**changed: Any) -> bytes:
    return msgspec.msgpack.encode({**CONTROLLER, **changed})


def of(*moments: Moment) -> Host:
    for moment in moments:
        _weight = yield moment


def states(outcome: Outcome) -> list[str]:
    """The states in their order, each once in a row."""
    found = [change.state for change in outcome.changes]
    return [state for at, state in enumerate(found) if at == 0 or state != found[at - 1]]


@pytest.fixture
def trace(tmp_path: Path) -> Trace:
    """Writes lines to a file; a line that is no text is written as JSON."""

    def write(*lines: Any) -> str:
        path = tmp_path / "trace.jsonl"
        path.write_text("".join((line if isinstance(line, str) else json.dumps(line)) + "\n" for line in lines))
        return str(path)

    return write


def test_the_defaults_are_those_of_the_table() -> None:
    for name in NAMES:
        assert simulate(synthetic(name, 3), None, 3) == simulate(synthetic(name, 3), packed(), 3)


@pytest.mark.parametrize("seed", range(5))
def test_a_step_is_left_within_five_seconds_and_returned_from(seed: int) -> None:
    outcome = simulate(synthetic("step", seed), None, seed)
    assert states(outcome) == ["local", "shifted", "returning", "local"]
    assert outcome.pressed_ms is not None and outcome.starving_ms is not None
    assert outcome.relief_ms is not None and outcome.full_ms is not None
    assert outcome.relief_ms - outcome.starving_ms <= 1_000
    assert outcome.relief_ms - outcome.pressed_ms <= 3_500
    assert outcome.full_ms - outcome.starving_ms <= 5_000
    assert outcome.reversals == 2


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("seed", range(5))
def test_no_host_turns_around_more_than_once_a_dwell(name: str, seed: int) -> None:
    outcome = simulate(synthetic(name, seed), None, seed)
    turned = [change.ms for before, change in pairwise(outcome.changes) if change.state not in {"local", before.state}]
    assert len(turned) == outcome.reversals
    assert all(later - earlier >= 24_000 for earlier, later in pairwise(turned))


def test_a_peak_is_shifted_and_the_host_has_its_work_back_after_it() -> None:
    outcome = simulate(synthetic("peak", 1), None, 1)
    assert states(outcome) == ["local", "shifted", "returning", "local"]
    assert outcome.changes[-1].state == "local" and outcome.changes[-1].weight == 0


def test_while_the_central_is_down_nothing_is_away() -> None:
    outcome = simulate(synthetic("central-down", 1), None, 1)
    down = [change for change in outcome.changes if change.reason == "central-down"]
    assert len(down) >= 4
    assert {change.weight for change in down} == {0.0}
    assert outcome.reversals == 2


def test_a_run_can_be_repeated_and_another_seed_is_another_run() -> None:
    assert simulate(synthetic("peak", 5), None, 5) == simulate(synthetic("peak", 5), None, 5)
    assert simulate(synthetic("peak", 5), None, 5) != simulate(synthetic("peak", 6), None, 6)


def test_other_numbers_give_another_run() -> None:
    slow = {**CONTROLLER["enter"], "holds_ms": 8_000, "within_ms": 8_000}
    outcome = simulate(synthetic("step", 1), packed(enter=slow), 1)
    assert outcome.pressed_ms is not None and outcome.relief_ms is not None
    assert outcome.relief_ms - outcome.pressed_ms == 7_750


def test_what_is_forced_is_obeyed_and_what_cannot_be_read_takes_no_part() -> None:
    moments = [Moment(ms=ms, forced=40.0 if 1_000 <= ms < 2_000 else None) for ms in range(0, 5_000, 250)]
    outcome = simulate(of(*moments), None, 1)
    assert [(change.ms, change.reason, change.weight) for change in outcome.changes] == [
        (0, "off", 0.0),
        (1_000, "forced", 40.0),
        (1_250, "forced", 40.0),
        (2_000, "off", 0.0),
    ]
    assert (outcome.shifted_ms, outcome.reversals) == (1_000, 0)


def test_a_clock_that_jumps_takes_no_time() -> None:
    clock = (0, 250, 10**15, 10**15 + 250, 0, 250)
    outcome = simulate(of(*(Moment(ms=ms, host_pressure=1.0) for ms in clock)), None, 1)
    assert outcome.length_ms == 750


@pytest.mark.parametrize(
    ("changed", "reason"),
    [
        ({"jitter": 0.9}, "jitter = 0.9: a share of the dwell, 0 to 0.5"),
        ({"leave": {"share": 0.9, "calm_ms": 15_000}}, "leave.share = 0.9: "),
        ({"dwell_ms": 1_000}, "dwell = 1000ms, less its jitter, is shorter than"),
        ({"enter": {**CONTROLLER["enter"], "throttled": float("nan")}}, "enter.throttled = NaN"),
        ({"step_up": "much"}, "wrong msgpack marker"),
        ({"leave": {"share": 0.5}}, "missing field"),
    ],
)
def test_numbers_that_are_refused_are_refused_with_the_reason(changed: dict[str, Any], reason: str) -> None:
    for refused in (_native.central_check, lambda config: _native.CentralController(config, 1)):
        with pytest.raises(ValueError) as caught:
            refused(packed(**changed))
        assert reason in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize("garbage", [b"", b"\xc1", b"\x93\x01\x02\x03", packed()[:-1]])
def test_garbage_is_refused(garbage: bytes) -> None:
    with pytest.raises(ValueError):
        _native.central_check(garbage)


def test_the_shipped_numbers_are_accepted() -> None:
    _native.central_check(packed())


def test_a_trace_is_replayed(trace: Trace) -> None:
    lines = [
        {"ms": 1_000_000 + 250 * tick, "host_pressure": 60 if tick < 20 else 1, "idle": 0.5, "returning": 0.1}
        for tick in range(400)
    ]
    outcome = simulate(recorded(trace(*lines)), None, 1)
    assert states(outcome) == ["local", "shifted", "returning", "local"]
    assert (outcome.starving_ms, outcome.reversals) == (2_000, 2)


def state(pressure: float, **more: Any) -> dict[str, Any]:
    """As the proxy writes it, with what is not replayed."""
    inputs = {"host_pressure": pressure, "cgroup_pressure": None, "run_delay_ms": 3.5, "idle": 0.2, "returning": 0}
    return {"state": "local", "limit": 100.0, "reason": "calm", "since_ms": 1, "inputs": inputs, "trouble": [], **more}


def test_what_status_follow_prints_is_replayed(trace: Trace) -> None:
    status = [{"service": "orders", "configured": True, "states": [state(60.0)]}] * 10
    old_and_new = {"states": [state(60.0, since_ms=9), state(1.0, since_ms=3)]}
    nothing = {"service": "orders", "states": []}
    moments = list(recorded(trace(nothing, *status, old_and_new, nothing, state(5.0, ms=99))))
    assert [moment.ms for moment in moments] == [*range(0, 5_500, 500), 99]
    assert [moment.host_pressure for moment in moments] == [60.0] * 11 + [5.0]
    assert simulate(recorded(trace(*status)), None, 1).starving_ms == 2_000
    stamped = [{"ms": 1_000 * second, **line} for second, line in enumerate(status)]
    assert [moment.ms for moment in recorded(trace(*stamped))] == [1_000 * second for second in range(10)]


def test_a_trace_at_the_end_of_time_has_no_line_after_it(trace: Trace) -> None:
    with pytest.raises(ConfigError, match="PAN0104 error  ms: "):
        list(recorded(trace({"ms": 2**63 - 1}, state(1.0))))


def test_what_a_recorded_state_says_of_the_way_out_holds(trace: Trace) -> None:
    cases = [
        (state(1.0), (True, 100.0, None)),
        (state(1.0, reason="central-slow"), (False, 100.0, None)),
        (state(1.0, limit=30.0, reason="no-tokens"), (True, 30.0, None)),
        (state(1.0, forced=True, weight=40.0), (True, 100.0, 40.0)),
    ]
    moments = recorded(trace(*(line for line, _ in cases)))
    assert [(moment.usable, moment.limit, moment.forced) for moment in moments] == [said for _, said in cases]


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ({"ms": 0, "host_presure": 3}, 'PAN0102 error  host_presure: .*\n.*did you mean "host_pressure"'),
        ({"ms": 0, "idle": "half"}, "PAN0103 error  idle: "),
        ({"ms": 0, "throttled": -1}, "PAN0104 error  throttled: "),
        ({"ms": -5}, "PAN0104 error  ms: "),
        ({"ms": 2**63}, "PAN0104 error  ms: "),
        ({"ms": 10**30}, "PAN010. error  "),
        ({"ms": 2**63, **state(1.0)}, "PAN0104 error  ms: "),
        ({"ms": "now", **state(1.0)}, "PAN0103 error  ms: "),
        ({"ms": 1.5}, "PAN0103 error  ms: "),
        ({"ms": 0, "usable": "yes"}, "PAN0103 error  usable: "),
        ({"host_pressure": 3}, "PAN0106 error  ms: "),
        ({"inputs": {"idle": "half"}}, "PAN0103 error  inputs.idle: "),
        ({"inputs": []}, "PAN0103 error  inputs: "),
        ({"states": [state(1.0), {"inputs": {"idle": True}}]}, r"PAN0103 error  states\[1\].inputs.idle: "),
        ({"states": ["x"]}, r"PAN0103 error  states\[0\]: "),
        ({"states": 7}, "PAN0103 error  states is no list"),
        ("[1]", "PAN0103 error  no object"),
        ("{'ms': 0}", "PAN0101 error  JSON is malformed"),
        ('{"ms": 0, "idle": NaN}', "PAN0101 error  JSON is malformed"),
        ('{"ms": 0', "PAN0101 error  "),
        ("[" * 60_000, "PAN0101 error  "),
        ("x" * 70_000, "PAN0101 error  a line of more than 65536 bytes"),
        ("\udcff", "PAN0101 error  "),
    ],
)
def test_a_bad_line_is_named_with_file_line_and_field(tmp_path: Path, line: Any, said: str) -> None:
    text = line if isinstance(line, str) else json.dumps(line)
    path = tmp_path / "bad.jsonl"
    path.write_bytes(b'{"ms": 0}\n\n' + text.encode(errors="surrogateescape") + b"\n")
    with pytest.raises(ConfigError, match=rf"(?s)bad\.jsonl:3:1  {said}"):
        simulate(recorded(str(path)), None, 1)


@pytest.mark.parametrize("make", [Path.touch, Path.mkdir, lambda path: None], ids=["empty", "folder", "missing"])
def test_a_file_that_is_no_trace_is_named(tmp_path: Path, make: Callable[[Path], None]) -> None:
    make(path := tmp_path / "none.jsonl")
    with pytest.raises(ConfigError, match=r"none\.jsonl  PAN010"):
        simulate(recorded(str(path)), None, 1)


def run(*words: str) -> None:
    command.main([*words], standalone_mode=False)


def test_the_command_prints_changes_and_what_came_of_it(capsys: pytest.CaptureFixture[str]) -> None:
    run("synthetic:step")
    printed = capsys.readouterr().out
    heading, first, *_ = printed.splitlines()
    assert heading.split()[:4] == ["TIME", "STATE", "WEIGHT", "REASON"]
    assert first.split()[:4] == ["0.00s", "local", "0.0", "calm"]
    assert "first relief: 0.00s after that" in printed and "2 reversals" in printed


def test_the_command_prints_json(capsys: pytest.CaptureFixture[str]) -> None:
    run("synthetic:central-down", "-o", "json")
    printed = json.loads(capsys.readouterr().out)
    assert printed["reversals"] == 2
    assert {"ms", "state", "reason", "weight", "moment"} <= printed["changes"][0].keys()


def test_noise_at_a_threshold_is_left_out_of_the_table(trace: Trace, capsys: pytest.CaptureFixture[str]) -> None:
    lines = [{"ms": 250 * tick, "host_pressure": 30 if tick % 2 else 1} for tick in range(400)]
    run(trace(*lines))
    printed = capsys.readouterr().out
    assert len(printed.splitlines()) < 8 and "the enter rule never held" in printed


@pytest.mark.parametrize(("words", "said"), [("synthetic:", "synthetic:peak"), ("synthetic:tsunami", "synthetic:step")])
def test_a_synthetic_host_that_nobody_knows_is_refused(words: str, said: str) -> None:
    with pytest.raises(UsageError) as caught:
        run(words)
    assert said in caught.value.hint


def test_a_bad_trace_ends_the_command_with_its_own_code(trace: Trace) -> None:
    with pytest.raises(PannierError) as caught:
        run(trace({"ms": "now"}))
    assert caught.value.exit_code == 65


def test_a_profile_and_settings_give_the_numbers(capsys: pytest.CaptureFixture[str]) -> None:
    def full(*words: str) -> int:
        run("synthetic:step", "-o", "json", *words)
        printed = json.loads(capsys.readouterr().out)
        return int(printed["full_ms"] - printed["starving_ms"])

    assert full() == full("--set", "central.step_up=10") == 2_250
    assert full("--set", "central.step_up=50") == full("-p", "production", "--set", "central.step_up=50") == 250


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["-p", "production"], r"profile production has no \[central\]"),
        (["--set", "central.leave.share=0.9"], "central.leave.share: 0.9: "),
        (["--set", "central.enter.host_presure=3"], "did you mean"),
        (["-p", "nosuch"], "unknown profile"),
    ],
)
def test_numbers_that_cannot_be_meant_are_refused(words: list[str], said: str) -> None:
    with pytest.raises(PannierError, match=said):
        run("synthetic:step", *words)
