"""Table "Central Mesh": what a host may lose by leaning on a Central: nothing that may be repeated, and nothing
twice."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from tests.faults.bed import Stage
from tests.faults.claiming import FalseCentral, Looping, TokenFlood
from tests.faults.load import Flow
from tests.faults.row import Row
from tests.faults.shifting import Away, BothDown, NothingToRead, OutOfTokens, Shifts, Starved
from tests.system.three_hosts import Leaning

TABLE: Final = "Central Mesh"
FLOWS: Final = tuple(
    Flow(method, rate=rate, connections=8, to=to, standard=True)
    for to in ("outbound", "inbound")
    for method, rate in (("GET", 150), ("POST", 75))
)
RELAY: Final = Stage("production", leaning=Leaning("relay"))
REDIRECT: Final = Stage("production", leaning=Leaning("redirect"))
LIVELY: Final = ('central.leave.calm="3s"', 'central.dwell="7s"', "central.step_down=30")
APART: Final = "a GET is repeated once as by any client; a POST that was in flight there is counted apart"
KEPT: Final = "0 lost, none that may not be repeated comes twice"

ROWS: Final[Sequence[Row]] = (
    *(
        Row(
            name=f"central-shifts-{stage.leaning.outbound if stage.leaning else ''}",
            table=TABLE,
            fault=f"100 forced shifts and returns, calls of the app by {how}, calls to it by its callers' proxies",
            promise=KEPT,
            how=Shifts(100),
            stage=stage,
            seconds=105.0,
            short_seconds=3.2,
            flows=FLOWS,
            quick=stage is RELAY,
        )
        for stage, how in ((RELAY, "the relay"), (REDIRECT, "the kernel's redirect"))
    ),
    *(
        Row(
            name=f"central-killed-{stage.leaning.outbound if stage.leaning else ''}",
            table=TABLE,
            fault=f"kill -9 of the Central amid forced shifts, {how}, and another one",
            promise=f"{KEPT}; {APART}; linked again by itself",
            how=Shifts(20, killed=True),
            stage=stage,
            seconds=40.0,
            flows=FLOWS,
        )
        for stage, how in ((RELAY, "by the relay"), (REDIRECT, "by the kernel's redirect"))
    ),
    Row(
        name="central-starved",
        table=TABLE,
        fault="5 times a CPU quota for the app and its suite, and hogs on their core",
        promise=f"{KEPT}; work leaves each time, all of it, and comes back by itself",
        how=Starved(5),
        stage=Stage("production", leaning=Leaning("relay", queue_wait="20ms", app=LIVELY, grouped=True)),
        seconds=120.0,
        flows=FLOWS,
    ),
    Row(
        name="central-slow",
        table=TABLE,
        fault="the Central, which has all calls, stops for 1.2 s",
        promise="0 lost, none in flight either; none that may not be repeated comes twice; home meanwhile",
        how=Away("stopped", seconds=1.2, loses_post=False),
        stage=RELAY,
        seconds=12.0,
        flows=FLOWS,
    ),
    Row(
        name="central-stopped",
        table=TABLE,
        fault="the Central, which has all calls, stops for 2.5 s",
        promise=f"{KEPT}; {APART}; home meanwhile",
        how=Away("stopped", seconds=2.5),
        stage=RELAY,
        seconds=12.0,
        flows=FLOWS,
    ),
    Row(
        name="central-partitioned",
        table=TABLE,
        fault="the Central, which has all calls, and the pilot are cut off for 2 s",
        promise=f"{KEPT}; {APART}; home meanwhile",
        how=Away("cut"),
        stage=RELAY,
        seconds=16.0,
        flows=FLOWS,
    ),
    Row(
        name="central-restarted",
        table=TABLE,
        fault="the Central, which has all calls, ends in order and starts again",
        promise="0 lost, none in flight either; none that may not be repeated comes twice",
        how=Away("restarted", loses_post=False),
        stage=RELAY,
        seconds=16.0,
        flows=FLOWS,
    ),
    Row(
        name="central-overloaded",
        table=TABLE,
        fault="the Central, which has all calls, has 8 % of a core for 4 s",
        promise=KEPT,
        how=Away("squeezed", seconds=4.0),
        stage=RELAY,
        seconds=16.0,
        flows=FLOWS,
    ),
    Row(
        name="central-out-of-tokens",
        table=TABLE,
        fault="a Central that may serve one request a second, and all is to leave",
        promise="0 lost; what has no token stays at home",
        how=OutOfTokens(),
        stage=Stage("production", leaning=Leaning("relay", central=("central.gateway.capacity=1",))),
        seconds=10.0,
        flows=FLOWS,
    ),
    Row(
        name="central-looping",
        table=TABLE,
        fault="calls that have come through a Central already, and strangers, at its door",
        promise="508, and no; 0 lost of others' calls",
        how=Looping(),
        stage=RELAY,
        seconds=10.0,
        flows=FLOWS,
    ),
    Row(
        name="central-token-flood",
        table=TABLE,
        fault="a host of the same network asks for all tokens under many names, as often as it can",
        promise="0 lost; who has left stays there",
        how=TokenFlood(),
        stage=RELAY,
        seconds=10.0,
        flows=FLOWS,
    ),
    Row(
        name="central-false",
        table=TABLE,
        fault="of two Centrals in the profile one is none: it says yes, no, nothing, nonsense",
        promise="0 lost; it is never believed",
        how=FalseCentral(),
        stage=Stage("production", leaning=Leaning("relay", addresses=("10.77.0.3:15091",))),
        seconds=20.0,
        flows=FLOWS,
    ),
    Row(
        name="central-both-down",
        table=TABLE,
        fault="kill -9 of the Central and of whoever is called, while all calls go by way of it",
        promise="a 503 in 100 ms",
        how=BothDown(),
        stage=RELAY,
        seconds=12.0,
        flows=(),
        forgiven=None,
    ),
    Row(
        name="central-nothing-to-read",
        table=TABLE,
        fault="the kernel's files of CPU pressure are empty, broken or nonsense on the app's host",
        promise="0 lost; it says so, nothing leaves by itself, and what is asked for is done",
        how=NothingToRead(),
        stage=RELAY,
        seconds=16.0,
        flows=FLOWS,
    ),
)
