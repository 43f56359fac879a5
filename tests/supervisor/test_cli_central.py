"""`pannier central` over a real broker; only the supervisor's answers are stand-ins. And how what it shows looks."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
import trio
from msgspec.structs import replace
from pannier.shared.central import CentralForce, CentralSeen, CentralState, CentralStatus, GatewayState, Inputs
from pannier.shared.errors import UsageError
from pannier.shared.messages import Nothing, StatReply, StatRequest
from pannier.supervisor.cli import main as cli
from pannier.supervisor.cli.central_view import lines

THRESHOLDS = {"host_pressure": 25.0, "cgroup_pressure": 25.0, "throttled": 10.0, "queue_wait_ms": 20.0}
SHIFTED = CentralState(
    "shifted",
    60.0,
    80.0,
    "host-pressure",
    way="redirect",
    inbound=True,
    since_ms=1000,
    inputs=Inputs(host_pressure=61.2, throttled=12.0, run_delay_ms=3.44, queue_wait_ms=22.1, idle=0.02, returning=0.3),
    moved_rps=420.0,
    saved_cores=0.81,
    centrals=[
        CentralSeen("10.77.0.2:15090", True, 1200.0, 0.412),
        CentralSeen("10.77.0.3:15090", False, trouble="connection refused"),
    ],
    reversals=1,
)
LOCAL = CentralState(reason="calm", limit=100.0, since_ms=1000)
STATUS = CentralStatus(
    "orders",
    True,
    [SHIFTED],
    "central",
    ["10.77.0.2:15090"],
    "plain",
    "best",
    True,
    "host-18080",
    "10.77.0.1:19000",
    thresholds=THRESHOLDS,
    share=0.5,
)
GATEWAY = GatewayState(1, 20000.0, 10000.0, 900.0, 7, True, 3)
CENTRAL = CentralStatus("central", True, [], "central", identity="plain", gateway="10.77.0.2:15090")

Run = Callable[..., Awaitable[tuple[int, str, str]]]


def shown(status: CentralStatus) -> list[str]:
    return "\n".join(lines(status, now_ms=75_000)).splitlines()


def test_what_has_left_and_why() -> None:
    assert shown(STATUS) == [
        "orders: work has left this host",
        "  weight   ███████████████░░░░░░░░░░ 60 of 100 points, tokens allow 80",
        "  why      CPU pressure of the host 61 % (work leaves above 25 %)",
        "  since    1 min 14 s; turned round 1 time",
        "  ways     the app's calls: redirected by the kernel; calls to it: come in by way of the Central",
        "  saving   420 requests/s are served elsewhere, which saves 0.81 cores",
        "",
        "INPUT                                    NOW  LEAVES ABOVE  COMES BACK BELOW",
        "CPU pressure of the host              61.2 %        25.0 %            12.5 %",
        "CPU pressure of the control group          -        25.0 %            12.5 %",
        "throttled periods                     12.0 %        10.0 %             5.0 %",
        "run delay of the proxy                3.4 ms             -                 -",
        "queue wait in the proxy              22.1 ms       20.0 ms           10.0 ms",
        "idle CPU                                 2 %             -                 -",
        "CPU that would come back                30 %             -                 -",
        "",
        "CENTRAL           UP  RTT MS  GRANTED RPS  TROUBLE",
        "10.77.0.2:15090  yes    0.41         1200  -",
        "10.77.0.3:15090   no       -            0  connection refused",
    ]


@pytest.mark.parametrize(
    ("status", "line"),
    [
        (CentralStatus("orders", False), "orders has no Central Mesh: add [central] to its profile"),
        (replace(STATUS, states=[]), "orders: the proxy has said nothing of its Central Mesh yet"),
        (replace(STATUS, states=[LOCAL]), "orders: all work is done here"),
        (replace(STATUS, states=[LOCAL]), "  weight   ░░░░░░░░░░░░░░░░░░░░░░░░░ 0 of 100 points"),
        (replace(STATUS, states=[LOCAL]), "  ways     the app's calls: they stay here; calls to it: come in here"),
        (
            replace(STATUS, states=[LOCAL]),
            'no Central is known: discovery knows no service "central", and those named: 10.77.0.2:15090',
        ),
        (replace(STATUS, forced=40.0), "  by hand  40 points, until `pannier central return`"),
        (
            replace(STATUS, states=[replace(SHIFTED, shedding=True)]),
            "  shedding what is least critical is refused with 503: no Central takes it",
        ),
        (replace(STATUS, states=[replace(SHIFTED, trouble=["nft: no right"])]), "  trouble  nft: no right"),
        (CENTRAL, "central is a Central, at 10.77.0.2:15090 (hosts in the networks that its profile names)"),
        (CENTRAL, "  nothing is known yet: the proxy has said nothing"),
        (
            replace(CENTRAL, states=[CentralState(gateway=GATEWAY)]),
            "  granted  ████████████░░░░░░░░░░░░░ 10000 of 20000 requests/s",
        ),
        (
            replace(CENTRAL, states=[CentralState(gateway=replace(GATEWAY, granted_rps=-1e-13))]),
            "  granted  ░░░░░░░░░░░░░░░░░░░░░░░░░ 0 of 20000 requests/s",
        ),
        (
            replace(CENTRAL, states=[CentralState(gateway=GATEWAY)]),
            "  served   900 requests/s for 1 host",
        ),
        (
            replace(CENTRAL, states=[CentralState(gateway=GATEWAY)]),
            "  refused  3 connections of whoever is no host of this Central",
        ),
        (
            replace(CENTRAL, states=[CentralState(gateway=GATEWAY)]),
            "  pressed  it has too little itself, and grants less",
        ),
    ],
)
def test_everything_else_has_its_line(status: CentralStatus, line: str) -> None:
    assert line in shown(status)


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
            cli.main(list(arguments))
        return int(caught.value.code or 0)

    async def call(*arguments: str) -> tuple[int, str, str]:
        with trio.fail_after(20):
            code = await trio.to_thread.run_sync(run, *arguments)
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return call


class Supervisor:
    """Has one state at a time; what is forced holds at once, as far as `limit` allows, or after `late` answers."""

    def __init__(self) -> None:
        self.status = replace(STATUS, states=[LOCAL])
        self.limit, self.why = 100.0, "forced"
        self.asked: list[float | None] = []
        self.late: list[CentralStatus] = []

    async def answer(self, _: Nothing) -> CentralStatus:
        return self.late.pop(0) if self.late else self.status

    async def force(self, request: CentralForce) -> CentralStatus:
        self.asked.append(request.weight)
        before, weight = self.status, request.weight
        now = replace(
            LOCAL,
            state="local" if weight is None else "shifted",
            weight=min(weight or 0.0, self.limit),
            reason="calm" if weight is None else self.why,
            forced=weight is not None,
        )
        self.status = replace(before, states=[now], forced=weight)
        if weight == 99:
            raise UsageError("orders is a Central, which keeps its work", hint="name the service that leans on it")
        return before


@pytest.fixture
def supervisor(broker) -> Supervisor:
    one = Supervisor()
    broker.broker.serve_verb("central.status", Nothing, one.answer)
    broker.broker.serve_verb("central.force", CentralForce, one.force)
    return one


async def test_status_for_people_and_as_data(pannier: Run, supervisor: Supervisor) -> None:
    supervisor.status = STATUS
    code, out, _ = await pannier("central", "status")
    assert (code, out.splitlines()[0]) == (0, "orders: work has left this host")
    code, out, _ = await pannier("central", "status", "-o", "json", "-n", "orders")
    found = json.loads(out)
    assert (code, found["service"], found["thresholds"]) == (0, "orders", THRESHOLDS)
    assert (found["states"][0]["weight"], found["states"][0]["inputs"]["cgroup_pressure"]) == (60.0, None)


async def test_each_line_that_is_followed_says_when_it_was(
    pannier: Run, supervisor: Supervisor, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def interrupted(_: float) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(trio, "sleep", interrupted)
    code, out, _ = await pannier("central", "status", "-o", "json", "--follow")
    (line,) = out.splitlines()
    assert (code, json.loads(line)["service"], json.loads(line)["ms"] > 1_500_000_000_000) == (0, "orders", True)


async def test_shift_and_return_say_what_happened(pannier: Run, supervisor: Supervisor) -> None:
    before = ", 0 of 100 points before"
    told = f"orders: 40 of 100 points are elsewhere{before}: asked for by hand\n"
    assert await pannier("central", "shift", "40") == (0, "", told)
    back = "orders: 0 of 100 points are elsewhere, 40 of 100 points before: all is calm\n"
    assert await pannier("central", "return") == (0, "", back)
    nothing = "orders: nothing was asked for by hand; 0 of 100 points are elsewhere: all is calm\n"
    assert await pannier("central", "return") == (0, "", nothing)
    assert supervisor.asked == [40.0, None, None]


async def test_a_second_shift_is_told_when_the_proxy_has_heard_of_it(pannier: Run, supervisor: Supervisor) -> None:
    await pannier("central", "shift", "40")
    supervisor.late = [supervisor.status]
    told = "orders: 70 of 100 points are elsewhere, 40 of 100 points before: asked for by hand\n"
    assert await pannier("central", "shift", "70") == (0, "", told)


async def test_a_shift_that_cannot_be_is_an_error(pannier: Run, supervisor: Supervisor) -> None:
    supervisor.limit, supervisor.why = 0.0, "no-central"
    code, _, err = await pannier("central", "shift", "40")
    assert (code, err.splitlines()[0]) == (
        1,
        "orders: 0 of 100 points instead of 40 are elsewhere, 0 of 100 points before: no Central is known",
    )
    code, _, err = await pannier("central", "shift", "99")
    assert (code, err.splitlines()[0]) == (2, "error: orders is a Central, which keeps its work")
    code, _, err = await pannier("central", "shift", "101")
    assert code == 2
    assert "101" in err


async def test_options_of_a_central_that_starts_are_not_for_one_that_is_asked(pannier: Run) -> None:
    code, _, err = await pannier("central", "--capacity", "7", "status")
    assert (code, err.splitlines()[0]) == (2, "error: these options are for a Central that starts")


async def test_stat_has_a_line_of_it_and_json_a_key(pannier: Run, supervisor: Supervisor, broker) -> None:
    async def stat(_: StatRequest) -> StatReply:
        return StatReply(10.0, [])

    async with broker.join("observability") as bus:
        bus.serve("stat", StatRequest, stat)
        supervisor.status = STATUS
        _, out, _ = await pannier("stat")
        assert out.splitlines()[-1] == (
            "Central Mesh: 60 of 100 points are elsewhere; CPU pressure of the host 61 % (work leaves above 25 %); "
            "420 requests/s are served elsewhere, which saves 0.81 cores"
        )
        _, out, _ = await pannier("stat", "-o", "json")
        assert json.loads(out)["central"]["weight"] == 60.0
        supervisor.status = CentralStatus("orders", False)
        _, out, _ = await pannier("stat", "-o", "json")
        assert list(json.loads(out)) == ["window_s", "rows"]


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ([], ["central.gateway={}"]),
        (
            ["--listen", "10.77.0.2:7", "--advertise", "10.78.0.2", "--capacity", "9", "--set", "a=1"],
            [
                "central.gateway={}",
                'central.gateway.host="10.77.0.2"',
                "central.gateway.port=7",
                'central.advertise="10.78.0.2"',
                "central.gateway.capacity=9",
                "a=1",
            ],
        ),
        (
            ["--listen", "[fd00::1]:7"],
            ["central.gateway={}", 'central.gateway.host="[fd00::1]"', "central.gateway.port=7"],
        ),
    ],
)
async def test_a_central_is_a_service_of_the_profile_central(
    pannier: Run, monkeypatch: pytest.MonkeyPatch, options: list[str], expected: list[str]
) -> None:
    asked: list[dict[str, object]] = []

    def run(options: dict[str, object]) -> int:
        asked.append(options)
        return 0

    monkeypatch.setattr("pannier.supervisor.cli.run.run", run)
    assert await pannier("central", *options) == (0, "", "")
    assert list(asked[0]["assignments"]) == expected  # type: ignore[call-overload]
    assert (asked[0]["name"], asked[0]["profile"], asked[0]["alone"]) == ("central", "central", True)
