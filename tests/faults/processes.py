"""Table "Processes": whoever dies or hangs, and what that may cost."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from tests.faults.bed import Stage
from tests.faults.crashing import CrashLoop
from tests.faults.draining import DRAIN_S, Terminate
from tests.faults.hanging import StopSidecar, StopSupervisor
from tests.faults.killing import (
    KillKeeper,
    KillProxy,
    KillProxyOfCallee,
    KillSidecars,
    KillSupervisor,
)
from tests.faults.load import Flow
from tests.faults.row import BOTH, READS, Row
from tests.faults.starting import FOREIGN, STALE, RuntimeFiles
from tests.faults.storm import Storm
from tests.faults.transitions import Transitions
from tests.faults.upgrading import FewerWorkers, OtherLayout, Upgrades

TABLE: Final = "Processes"
WHOLE: Final = Stage("production")
SIDECARS: Final = ("traffic", "resilience", "discovery", "observability")
BUSY: Final = (Flow(connections=1), Flow("POST", rate=100, connections=1))
CONNECTIONS: Final = sum(flow.connections for flow in BOTH)

ROWS: Final[Sequence[Row]] = (
    *(
        Row(
            name=f"kill-{name}",
            table=TABLE,
            fault=f"kill -9 of {name}",
            promise="0 failed; back in 1 s; the gap is visible in a metric",
            how=KillSidecars((name,)),
            stage=WHOLE,
            seconds=2.5,
        )
        for name in SIDECARS
    ),
    Row(
        name="kill-sidecars",
        table=TABLE,
        fault="kill -9 of all four sidecars at once",
        promise="0 failed; back in 1 s; the gap is visible in a metric",
        how=KillSidecars(SIDECARS),
        stage=WHOLE,
        seconds=3.0,
    ),
    Row(
        name="kill-fused",
        table=TABLE,
        fault="kill -9 of the one process that all four sidecars share",
        promise="0 failed; back in 1 s; the gap is visible in a metric",
        how=KillSidecars(SIDECARS),
        stage=Stage("production", ("fuse=true",)),
        seconds=3.0,
    ),
    Row(
        name="kill-supervisor",
        table=TABLE,
        fault="kill -9 of the supervisor, then start it again",
        promise="0 failed; taken over in 2 s after 3 s alone; same PIDs, no duplicate",
        how=KillSupervisor(),
        stage=WHOLE,
        seconds=6.5,
    ),
    Row(
        name="kill-sidecars-and-supervisor",
        table=TABLE,
        fault="kill -9 of all four sidecars and of the supervisor at once",
        promise="0 failed; taken over in 2 s; everybody else keeps his PID",
        how=KillSidecars(SIDECARS, supervisor=True),
        stage=WHOLE,
        seconds=3.5,
        quick=True,
    ),
    Row(
        name="kill-keeper",
        table=TABLE,
        fault="kill -9 of the keeper",
        promise="0 failed; shown as degraded in 1 s; children are listed with their PIDs, and ended with the service",
        how=KillKeeper(),
        stage=WHOLE,
        seconds=2.5,
    ),
    Row(
        name="kill-proxy",
        table=TABLE,
        fault="kill -9 of the proxy",
        promise="at most what was in flight fails; 0 refused connects; accepting again in 100 ms",
        how=KillProxy(),
        stage=WHOLE,
        seconds=2.5,
        to="inbound",
        forgiven=CONNECTIONS,
        compares=True,
        quick=True,
    ),
    Row(
        name="kill-proxy-of-callee",
        table=TABLE,
        fault="kill -9 of a callee's proxy, seen by a caller that repeats idempotent requests",
        promise="0 failed; back in 1 s",
        how=KillProxyOfCallee(),
        stage=WHOLE,
        seconds=2.5,
        flows=READS,
    ),
    *(
        Row(
            name=f"stop-{name}",
            table=TABLE,
            fault=f"SIGSTOP of {name} for 10 s",
            promise="0 failed; it is replaced by the watchdog meanwhile",
            how=StopSidecar(name),
            stage=WHOLE,
            seconds=12.0,
        )
        for name in SIDECARS
    ),
    Row(
        name="stop-supervisor",
        table=TABLE,
        fault="SIGSTOP of the supervisor for 10 s",
        promise="0 failed; when it wakes it kills nobody",
        how=StopSupervisor(),
        stage=WHOLE,
        seconds=14.0,
    ),
    Row(
        name="crash-loop",
        table=TABLE,
        fault="a sidecar ends at once whenever it is started",
        promise="5 starts in 10 s, then failed; siblings' PIDs unchanged; readiness stays false; 0 failed elsewhere",
        how=CrashLoop(),
        stage=WHOLE,
        seconds=11.0,
    ),
    Row(
        name="crash-loop-again",
        table=TABLE,
        fault="a sidecar that is failed, for a minute",
        promise="it is tried again after 60 s; siblings' PIDs unchanged",
        how=CrashLoop(again=True),
        stage=WHOLE,
        seconds=80.0,
    ),
    Row(
        name="terminate",
        table=TABLE,
        fault="SIGTERM of one of two instances",
        promise="0 failed; Connection: close; a stream lives until the deadline; it ends with its app's code",
        how=Terminate(),
        stage=Stage("production", (f"proxy.timeouts.drain={DRAIN_S:g}s",)),
        seconds=5.0,
    ),
    Row(
        name="runtime-left",
        table=TABLE,
        fault="files of the runtime folder stale or missing at start, all processes of the last life killed at once",
        promise="ready in 1 s, or over with the file's name; never half captured",
        how=RuntimeFiles(STALE, after_a_life=True),
        stage=WHOLE,
        flows=(),
        seconds=20.0,
        compares=True,
    ),
    Row(
        name="runtime-foreign",
        table=TABLE,
        fault="files of the runtime folder foreign at start",
        promise="ready in 1 s, or over with the file's name; nothing is written through; never half captured",
        how=RuntimeFiles(FOREIGN, after_a_life=False),
        stage=WHOLE,
        flows=(),
        seconds=30.0,
        compares=True,
    ),
    Row(
        name="storm",
        table=TABLE,
        fault="all origins answer 503 for 60 s",
        promise="1.2 x the requests + 10/s reach the origins",
        how=Storm(),
        stage=WHOLE,
        seconds=64.0,
        short_seconds=10.0,
        flows=READS,
        forgiven=None,
    ),
    Row(
        name="storm-without-breakers",
        table=TABLE,
        fault="all origins answer 503 for 60 s, and no breaker opens",
        promise="1.2 x the requests + 10/s reach the origins, the 10 s before included, and the budget is used",
        how=Storm(well_s=10.0, retried=True),
        stage=Stage("production", ('sidecars.resilience.services={"*" = {failure_policy = "none"}}',)),
        seconds=74.0,
        short_seconds=20.0,
        flows=READS,
        forgiven=None,
    ),
    Row(
        name="transitions",
        table=TABLE,
        fault="50 random profile transitions of a callee",
        promise="0 failed; whoever is not concerned keeps his PID",
        how=Transitions(50),
        stage=WHOLE,
        seconds=14.0,
        to="inbound",
    ),
    Row(
        name="upgrade-proxy",
        table=TABLE,
        fault="hot upgrade of the proxy, 100 in a row, while no connection idles",
        promise="0 failed; a new PID each time, and one proxy afterwards; everybody else keeps his PID",
        how=Upgrades(100),
        stage=WHOLE,
        seconds=80.0,
        short_seconds=30.0,
        flows=BUSY,
        to="inbound",
    ),
    Row(
        name="upgrade-refused",
        table=TABLE,
        fault="an upgrade of the proxy whose table layout is one major apart",
        promise="0 failed; refused with a reason; the old one keeps serving, same PIDs",
        how=OtherLayout(),
        stage=WHOLE,
        seconds=2.5,
        to="inbound",
    ),
    Row(
        name="upgrade-workers",
        table=TABLE,
        fault="the proxy goes from two workers to one and back",
        promise="0 failed; as many workers as were asked for; everybody else keeps his PID",
        how=FewerWorkers(),
        stage=WHOLE,
        seconds=16.0,
        to="inbound",
    ),
)
