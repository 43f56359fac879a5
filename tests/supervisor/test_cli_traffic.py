"""`pannier traffic` over a real broker; the supervisor's verbs and the sidecar that answers are stand-ins."""

from __future__ import annotations

import json
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec
import pytest
import trio
from pannier.shared.bus import Bus
from pannier.shared.errors import PannierError
from pannier.shared.messages import (
    Canaries,
    CanaryProgress,
    Changed,
    LiveChange,
    LiveReset,
    Nothing,
    Sidecar,
    SidecarList,
    TrafficFault,
    TrafficMirror,
    TrafficService,
    TrafficStatus,
)
from pannier.supervisor.cli import main as cli
from pannier.supervisor.cli.traffic_rows import experiment_rows, subset_rows

RUNNING = CanaryProgress("payments", "v2", 20, 100, "running", "", 0.9951, 12.4)
STATUS = TrafficStatus(
    services=[
        TrafficService("payments", {"v1": 3, "v2": 1}, {"v1": 80, "v2": 20}),
        TrafficService("stock", {"a": 1, "b": 1}, {}),
        TrafficService("mail", {"b": 1}, {}),
    ],
    canaries=[RUNNING],
    mirrors=[TrafficMirror("", "slow", "stock/b", 5.0)],
    faults=[TrafficFault("stock", "", "2s", 503, 10.0, 1060.0), TrafficFault("mail", "", None, 500, 100.0, 990.0)],
)

Run = Callable[..., Awaitable[tuple[int, str, str]]]


@dataclass
class StandIn:
    """What was asked of the supervisor, and what traffic answers: one list of canaries after the other."""

    changes: list[LiveChange | LiveReset] = field(default_factory=list)
    canaries: list[list[CanaryProgress]] = field(default_factory=lambda: [[RUNNING]])
    lines: list[str] = field(default_factory=lambda: ["~ traffic takes its new settings"])
    refusal: PannierError | None = None

    async def live_set(self, request: LiveChange) -> Changed:
        if self.refusal is not None:
            raise self.refusal
        self.changes.append(request)
        return Changed(self.lines)

    async def live_reset(self, request: LiveReset) -> Changed:
        self.changes.append(request)
        return Changed(self.lines)

    async def status(self, _: Nothing) -> TrafficStatus:
        return STATUS

    async def progress(self, _: Nothing) -> Canaries:
        return Canaries(self.canaries.pop(0) if len(self.canaries) > 1 else self.canaries[0])

    def settings(self) -> list[tuple[str, Any]]:
        """Path and value of each setting of the one change."""
        [change] = self.changes
        assert isinstance(change, LiveChange)
        return [
            (".".join(one.path), None if one.value is None else msgspec.msgpack.decode(one.value))
            for one in change.changes
        ]


@pytest.fixture
def pannier(broker, short_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """Runs a command against the broker, whose service is `orders`; returns its exit code and what it printed."""
    runtime = short_path / "run"
    (runtime / "orders").mkdir(parents=True, mode=0o700)
    runtime.chmod(0o700)
    (runtime / "orders" / "bus.sock").symlink_to(broker.path)
    monkeypatch.setenv("PANNIER_RUNTIME_DIR", str(runtime))

    def run(*arguments: str) -> int:
        with pytest.raises(SystemExit) as caught:
            cli.main(["traffic", *arguments])
        return int(caught.value.code or 0)

    async def call(*arguments: str) -> tuple[int, str, str]:
        with trio.fail_after(10):
            code = await trio.to_thread.run_sync(run, *arguments)
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return call


@pytest.fixture
def supervisor(broker) -> StandIn:
    stand_in = StandIn()
    broker.broker.serve_verb("live.set", LiveChange, stand_in.live_set)
    broker.broker.serve_verb("live.reset", LiveReset, stand_in.live_reset)
    return stand_in


@pytest.fixture
async def asked(broker, supervisor: StandIn, nursery: trio.Nursery) -> StandIn:
    async def traffic(task_status: trio.TaskStatus[Bus] = trio.TASK_STATUS_IGNORED) -> None:
        async with broker.join("traffic") as bus:
            bus.serve("status", Nothing, supervisor.status)
            bus.serve("canaries", Nothing, supervisor.progress)
            task_status.started(bus)
            await trio.sleep_forever()

    await nursery.start(traffic)
    return supervisor


async def test_a_split_names_every_subset_and_ends_a_shift(pannier: Run, asked: StandIn) -> None:
    code, out, err = await pannier("split", "stock", "b=1")
    assert (code, out, err) == (0, "", "~ traffic takes its new settings\n")
    assert asked.settings() == [
        ("sidecars.traffic.services.stock.split", {"a": 0, "b": 1}),
        ("sidecars.traffic.services.stock.shift", None),
    ]


async def test_a_split_says_that_the_profiles_own_shift_goes_on(pannier: Run, asked: StandIn) -> None:
    code, _, err = await pannier("split", "payments", "v1=90", "v2=10")
    assert code == 0
    assert "the profile has a shift of its own, which is running: payments/v2 keeps its weight" in err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("split", "payment", "v1=1"), "did you mean payments?"),
        (("split", "payments", "v3=1"), "there are: v1, v2"),
        (("split", "payments", "v1"), "write each as SUBSET=WEIGHT"),
        (("split", "payments", "v1=-1"), "write each as SUBSET=WEIGHT"),
        (("split", "payments"), "Missing argument"),
        (("shift", "payments/v3", "+10"), "there are: v1, v2"),
        (("shift", "unheard-of/v2", "+10"), "there are: payments, stock, mail"),
        (("shift", "v3", "+10"), "no service has a subset v3"),
        (("shift", "b", "+10"), "write one of: stock/b, mail/b"),
        (("shift", "v2", "10"), "as +10"),
        (("shift", "v2", "+10", "--wait", "--timeout", "soon"), "--timeout"),
        (("fault", "stock", "--for", "60s"), "give --delay, --abort, or both"),
        (("fault", "stock", "--abort", "503"), "Missing option '--for'"),
        (("fault", "stock", "--abort", "503", "--for", "ever"), "--for"),
        (("fault", "stock", "--delay", "2", "--for", "1m"), "--delay"),
        (("mirror", "stock"), "Missing option '--to'"),
    ],
)
async def test_what_cannot_be_done_as_written(
    arguments: tuple[str, ...], message: str, pannier: Run, asked: StandIn
) -> None:
    code, out, err = await pannier(*arguments)
    assert (code, out) == (2, "")
    assert message in err
    assert asked.changes == []


async def test_a_shift_has_all_its_fields(pannier: Run, asked: StandIn) -> None:
    before = time.time()
    code, _, _ = await pannier("shift", "v2", "+10", "--every", "5s", "--abort-on", "success < 99.5 %", "--until", "50")
    assert code == 0
    [(path, value)] = asked.settings()
    assert path == "sidecars.traffic.services.payments.shift"
    assert before <= value.pop("started") <= time.time()
    assert value == {
        "to": "v2",
        "step": 10,
        "every": "5s",
        "until": 50,
        "abort_on": "success<99.5%",
        "min_requests": 20,
    }


async def test_mirror_and_fault(pannier: Run, asked: StandIn) -> None:
    assert (await pannier("mirror", "stock", "--to", "stock/b", "--percent", "10"))[0] == 0
    assert asked.settings() == [("sidecars.traffic.services.stock.mirror", {"to": "stock/b", "percent": 10.0})]
    asked.changes.clear()
    before = time.time()
    assert (await pannier("fault", "stock", "--abort", "503", "--percent", "10", "--for", "60s"))[0] == 0
    [(path, value)] = asked.settings()
    assert path == "sidecars.traffic.services.stock.fault"
    assert before + 60 <= value.pop("until") <= time.time() + 60
    assert value == {"abort": 503, "percent": 10.0}


async def test_a_dry_run_prints_the_difference(pannier: Run, asked: StandIn) -> None:
    for command in (("shift", "v2", "+10", "--wait"), ("fault", "stock", "--delay", "1s", "--for", "1m"), ("undo",)):
        assert await pannier(*command, "--dry-run") == (0, "~ traffic takes its new settings\n", "")
    assert [change.dry_run for change in asked.changes] == [True] * 3
    asked.lines = []
    assert await pannier("undo", "stock", "--dry-run") == (0, "nothing would change\n", "")


async def test_undo_takes_back_what_these_commands_set(pannier: Run, asked: StandIn) -> None:
    assert (await pannier("undo", "stock"))[0] == 0
    assert (await pannier("undo"))[0] == 0
    one, every = asked.changes
    kinds = ("split", "shift", "mirror", "fault")
    assert isinstance(one, LiveReset)
    assert isinstance(every, LiveReset)
    assert one.paths == [["sidecars", "traffic", "services", "stock", kind] for kind in kinds]
    assert [path[3] for path in every.paths[::4]] == ["payments", "stock", "mail"]


async def test_what_the_supervisor_refuses_is_said(pannier: Run, asked: StandIn) -> None:
    asked.refusal = PannierError("this stage injects no faults", hint='allow = ["fault"]', code="PAN0201")
    code, _, err = await pannier("fault", "stock", "--abort", "503", "--for", "1s")
    assert code == 1
    assert "PAN0201: this stage injects no faults" in err


def canary(state: str, weight: float, reason: str = "") -> list[CanaryProgress]:
    return [CanaryProgress("payments", "v2", weight, 100, state, reason)]


async def test_waiting_for_the_end(pannier: Run, asked: StandIn) -> None:
    asked.canaries = [canary("running", 50), canary("running", 50), canary("running", 100), canary("done", 100)]
    code, out, err = await pannier("shift", "v2", "+50", "--wait")
    assert (code, out) == (0, "")
    assert err.splitlines()[1:] == [
        "payments/v2 running at 50 %",
        "payments/v2 running at 100 %",
        "payments/v2 done at 100 %",
    ]


async def test_waiting_for_an_end_that_is_none_to_wish_for(pannier: Run, asked: StandIn) -> None:
    asked.canaries = [canary("running", 50), canary("aborted", 0, "success 93.1 % < 99 % over 212 requests")]
    code, _, err = await pannier("shift", "v2", "+50", "--wait")
    assert code == 1
    assert "error: the shift to payments/v2 was aborted: success 93.1 % < 99 % over 212 requests" in err
    asked.canaries = [canary("paused", 50), []]
    code, _, err = await pannier("shift", "v2", "+50", "--wait")
    assert code == 1
    assert "taken back" in err
    asked.canaries = [canary("paused", 50)]
    code, _, err = await pannier("shift", "v2", "+50", "--wait", "--timeout", "300ms")
    assert code == 75
    assert "not over within 0.3 s" in err


async def test_status(pannier: Run, asked: StandIn) -> None:
    code, out, _ = await pannier("status")
    assert code == 0
    assert out.splitlines()[0].split() == ["SERVICE", "SUBSET", "ENDPOINTS", "WEIGHT", "CANARY", "WHY"]
    assert "running, 20 of 100 %" in out
    assert json.loads((await pannier("status", "-o", "json"))[1]) == msgspec.to_builtins(STATUS)


def test_rows_of_the_status() -> None:
    assert subset_rows(STATUS) == [
        ("payments", "v1", 3, 80, None, None),
        ("payments", "v2", 1, 20, "running, 20 of 100 %", "success 99.5% so far, next step in 12 s"),
        ("stock", "a", 1, None, None, None),
        ("stock", "b", 1, None, None, None),
        ("mail", "b", 1, None, None, None),
    ]
    assert experiment_rows(STATUS, 1000.0) == [
        ("route slow", "mirror", "to stock/b", 5.0, None),
        ("stock", "fault", "delay 2s, abort 503", 10.0, "60 s"),
        ("mail", "fault", "abort 500", 100.0, "over"),
    ]


async def test_without_the_sidecar_nothing_is_set(broker, pannier: Run, supervisor: StandIn) -> None:
    running = [Sidecar("traffic", "", 0, 0, ready=False)]

    async def sidecars(_: Nothing) -> SidecarList:
        return SidecarList(running)

    broker.broker.serve_verb("sidecar.list", Nothing, sidecars)
    for command in (("fault", "stock", "--abort", "503", "--for", "1s"), ("status",), ("undo",)):
        code, _, err = await pannier(*command)
        assert code == 4
        assert "try: pannier sidecar add traffic --name orders" in err
    running[0] = Sidecar("traffic", "starting", 7, 1, ready=False)
    assert (await pannier("status"))[0] == 69
    assert supervisor.changes == []
