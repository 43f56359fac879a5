"""`pannier resilience` over a real broker; only the sidecar that answers is a stand-in."""

from __future__ import annotations

import json
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
import trio
from pannier.shared.bus import Bus
from pannier.shared.errors import UsageError
from pannier.shared.messages import (
    BreakerState,
    BreakerStates,
    LimitState,
    LimitStates,
    Nothing,
    Reset,
    ResetDone,
    Sidecar,
    SidecarList,
    TakeOut,
)
from pannier.supervisor.cli import main as cli

UNTIL_MS = round(time.time() * 1000) + 3_600_000
BREAKERS = [
    BreakerState("payments", "h:1", "open", "7 failures in a row", UNTIL_MS, 2, 7),
    BreakerState("payments", "", "half_open", "failures 60 % ≥ 50 % of 100 calls", 1000, 1, 0),
    BreakerState("stock", "h:2", "closed", "3 failures in a row, opens at 7", 0, 0, 3),
]
LIMITS = [
    LimitState("", "rate_limit", None, 100, "inbound.rate_limit: 100 more every 1s"),
    LimitState("payments", "requests", 1000, 1024, "the default of resources.requests"),
]

Run = Callable[..., Awaitable[tuple[int, str, str]]]


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
            cli.main(["resilience", *arguments])
        return int(caught.value.code or 0)

    async def call(*arguments: str) -> tuple[int, str, str]:
        with trio.fail_after(10):
            code = await trio.to_thread.run_sync(run, *arguments)
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return call


@pytest.fixture
async def asked(broker, nursery: trio.Nursery) -> list[object]:
    """What a resilience sidecar was asked, which answers with the above."""
    seen: list[object] = []

    async def breakers(request: Nothing) -> BreakerStates:
        return BreakerStates(BREAKERS)

    async def limits(request: Nothing) -> LimitStates:
        return LimitStates(LIMITS)

    async def reset(request: Reset) -> ResetDone:
        seen.append(request)
        return ResetDone(["h:1", ""] if request.endpoint is None else [])

    async def take_out(request: TakeOut) -> None:
        seen.append(request)
        if request.endpoint == "h:9":
            raise UsageError("payments has no endpoint h:9", hint="did you mean h:1?")

    async def stand_in(task_status: trio.TaskStatus[Bus] = trio.TASK_STATUS_IGNORED) -> None:
        async with broker.join("resilience") as bus:
            bus.serve("breakers", Nothing, breakers)
            bus.serve("limits", Nothing, limits)
            bus.serve("reset", Reset, reset)
            bus.serve("open", TakeOut, take_out)
            task_status.started(bus)
            await trio.sleep_forever()

    await nursery.start(stand_in)
    return seen


async def test_breakers_say_what_is_out_for_how_long_and_why(pannier: Run, asked: list[object]) -> None:
    code, out, _ = await pannier("breakers")
    assert code == 0
    lines = out.splitlines()
    assert lines[0].split("  ")[0] == "SERVICE"
    assert lines[0].endswith("WHY")
    assert lines[1].split()[:3] == ["payments", "h:1", "open"]
    left_s = UNTIL_MS / 1000 - time.time()
    assert left_s - 10 < float(lines[1].split()[3]) < left_s + 30
    assert lines[1].endswith("  7 failures in a row")
    assert "(all of it)  half_open           0.0      1         0  failures 60 %" in lines[2]
    assert lines[3].split()[:4] == ["stock", "h:2", "closed", "-"]


async def test_limits_say_what_room_is_left_and_where_they_are_set(pannier: Run, asked: list[object]) -> None:
    code, out, _ = await pannier("limits")
    assert code == 0
    assert [line.split()[:5] for line in out.splitlines()] == [
        ["SERVICE", "LIMIT", "USED", "OF", "ROOM"],
        ["(inbound)", "rate_limit", "-", "100", "-"],
        ["payments", "requests", "1000", "1024", "24"],
    ]


async def test_json_is_the_rows_as_they_are(pannier: Run, asked: list[object]) -> None:
    _, out, _ = await pannier("breakers", "-o", "json")
    assert json.loads(out)[0] == {
        "service": "payments",
        "endpoint": "h:1",
        "state": "open",
        "reason": "7 failures in a row",
        "until_ms": UNTIL_MS,
        "times": 2,
        "failures": 7,
    }
    _, out, _ = await pannier("limits", "--output", "json")
    assert [row["used"] for row in json.loads(out)] == [None, 1000]


async def test_reset_takes_back_in_one_or_all(pannier: Run, asked: list[object]) -> None:
    assert await pannier("reset", "payments") == (0, "", "payments: h:1, (all of it) back in\n")
    assert await pannier("reset", "payments", "h:2") == (0, "", "payments: nothing was out\n")
    assert asked == [Reset("payments"), Reset("payments", "h:2")]


async def test_open_takes_an_endpoint_out_for_a_while(pannier: Run, asked: list[object]) -> None:
    assert await pannier("open", "payments", "h:1") == (0, "", "payments: h:1 is out for 60s\n")
    assert (await pannier("open", "payments", "h:1", "--for", "1m30s"))[0] == 0
    assert asked == [TakeOut("payments", "h:1", 60_000), TakeOut("payments", "h:1", 90_000)]


async def test_what_the_sidecar_refuses_is_printed_with_the_next_step(pannier: Run, asked: list[object]) -> None:
    code, out, err = await pannier("open", "payments", "h:9")
    assert (code, out) == (2, "")
    assert "payments has no endpoint h:9" in err
    assert "try: did you mean h:1?" in err
    assert (await pannier("open", "payments", "h:1", "--for", "soon"))[0] == 2


async def test_a_service_without_resilience_says_how_to_add_it(pannier: Run, broker) -> None:
    running: list[Sidecar] = []

    async def sidecars(_: Nothing) -> SidecarList:
        return SidecarList(running)

    broker.broker.serve_verb("sidecar.list", Nothing, sidecars)
    code, _, err = await pannier("breakers")
    assert code == 4
    assert "try: pannier sidecar add resilience --name orders" in err
    running.append(Sidecar("resilience", "starting", 1, 0, False))
    assert (await pannier("breakers"))[0] == 69
