"""What `pannier ps` and `urls.json` show. Numbers come from /proc; what is gone shows as zero, never as an error."""

from __future__ import annotations

import math
import os
import time
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Final

import msgspec
from pannier.shared.messages import Process
from pannier.supervisor.child import Child
from pannier.supervisor.plan import Kind, Plan

_TICKS: Final = os.sysconf("SC_CLK_TCK")
FRESH_SECONDS: Final = 0.1
"""What was measured so lately is not measured again: whoever asks without pause takes nobody's CPU by it."""


class Usage(msgspec.Struct, frozen=True):
    """`cpu_percent` of one core."""

    pss_bytes: int = 0
    cpu_percent: float = 0.0


class Meter:
    """CPU time between two looks at the same process; the first look covers its whole life."""

    def __init__(self) -> None:
        self._seen: dict[int, tuple[float, float]] = {}
        self._measured: dict[int, Usage] = {}
        self._at = -math.inf

    def cpu_percent(self, pid: int, now: float) -> float:
        """Per cent of one core since the last call for `pid`; `now` in seconds since boot."""
        times = cpu_times(pid)
        if times is None:
            self._seen.pop(pid, None)
            return 0.0
        used, born = times
        before, at = self._seen.get(pid, (0.0, born))
        self._seen[pid] = (used, now)
        return round(100 * (used - before) / (now - at), 1) if now > at and used >= before else 0.0

    def measure(self, pids: Iterable[int]) -> dict[int, Usage]:
        """What each of them takes; all others are forgotten. Reading this may take the kernel milliseconds a process:
        call it in a thread, one call at a time."""
        now = seconds_since_boot()
        wanted = {pid for pid in pids if pid}
        if now - self._at >= FRESH_SECONDS or wanted != self._measured.keys():
            self._measured = {pid: Usage(pss_bytes(pid), self.cpu_percent(pid, now)) for pid in wanted}
            self._seen = {pid: seen for pid, seen in self._seen.items() if pid in wanted}
            self._at = now
        return self._measured


def cpu_times(pid: int) -> tuple[float, float] | None:
    """(seconds of CPU used, start in seconds since boot); None if the process is gone."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text(encoding="ascii", errors="replace")
    except OSError:
        return None
    fields = text.rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / _TICKS, int(fields[19]) / _TICKS


def pss_bytes(pid: int) -> int:
    """The proportional set size: memory that several processes share is counted once among them."""
    try:
        text = Path(f"/proc/{pid}/smaps_rollup").read_text(encoding="ascii", errors="replace")
    except OSError:
        return 0
    for line in text.splitlines():
        if line.startswith("Pss:"):
            return int(line.split()[1]) * 1024
    return 0


def seconds_since_boot() -> float:
    return time.clock_gettime(time.CLOCK_BOOTTIME)


def processes(
    children: Iterable[Child], usage: Mapping[int, Usage], *, supervisor_state: str, keeper_pid: int, keeper_lost: bool
) -> list[Process]:
    """The rows of `ps`: keeper and supervisor first, then in the order of their start. Who shares a process is shown
    with an equal part of what that takes."""
    children = list(children)
    inside = Counter(child.pid for child in children if child.plan.fused)

    def row(name: str, kind: Kind, pid: int, state: str, *, ready: bool) -> Process:
        used = usage.get(pid, Usage())
        return Process(name, kind.value, pid, state, 0, used.pss_bytes, used.cpu_percent, ready)

    def child_row(child: Child) -> Process:
        whole = row(child.name, child.plan.kind, child.pid, child.state.value, ready=child.ready)
        sharers = inside[child.pid] if child.plan.fused else 1
        return msgspec.structs.replace(
            whole,
            restarts=child.restarts,
            pss_bytes=whole.pss_bytes // sharers,
            cpu_percent=round(whole.cpu_percent / sharers, 1),
            fused=child.plan.fused,
        )

    return [
        row("keeper", Kind.KEEPER, 0 if keeper_lost else keeper_pid, _keeper_state(keeper_lost), ready=not keeper_lost),
        row("supervisor", Kind.SUPERVISOR, os.getpid(), supervisor_state, ready=supervisor_state == "ready"),
        *map(child_row, children),
    ]


def _keeper_state(lost: bool) -> str:
    return "failed" if lost else "ready"


def central_addresses(plan: Plan) -> dict[str, str]:
    """Where others reach what only the Central Mesh needs."""
    if plan.central is None:
        return {}
    gateway, passthrough = plan.central["gateway"], plan.central["passthrough"]
    return {"passthrough": passthrough} if gateway is None else {"gateway": gateway["address"]}


def urls(plan: Plan) -> dict[str, str]:
    """Where everything of a service that runs is reached."""
    ports = plan.place.ports
    found = {
        "inbound": plan.place.url("inbound"),
        "outbound": plan.place.url("outbound"),
        "bus": f"unix:{plan.place.inside('bus.sock')}",
    }
    if "discovery" in plan.enabled:
        found["api"] = f"unix:{plan.place.inside('api.sock')}"
    found |= {name: f"tcp://{address}" for name, address in central_addresses(plan).items()}
    if "metrics" in ports:
        base = f"http://127.0.0.1:{ports['metrics']}"
        found |= {name: f"{base}/{name}" for name in ("metrics", "livez", "readyz", "startupz")}
    return found
