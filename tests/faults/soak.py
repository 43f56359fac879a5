"""`make soak`: ten minutes of load under the stage production, in which nothing fails and nothing grows.

    python -m tests.faults.soak [--for 10m]

Every 10 s the memory and the descriptors of each process of all three services are read; the apps, which are ours, are
left out. From the second minute on (a fifth of a shorter run) each series has to be flat:

- memory: the line through it rises by at most 1 MiB, and by at most 10 MiB an hour where the run is long enough to tell
  (half an hour); a Python process touches its arenas for the first time over minutes, and is given 2 MiB;
- descriptors: the line rises by at most 8, a quarter of the load's connections: a pool holds as many as were busy at
  the same time half a minute ago, which on a busy machine comes and goes with chance.

Requests go through the caller's proxy and a callee's, 400 GET and 100 POST a second, in stretches of a minute by the
generator of the fault rows; a stretch opens its connections anew. 0 failed, each number seen as a fault row demands it.
Of the connections to upstreams 99.9 % are ones that were there already.

build/soak/latest.json has it all, also of a run that is under way. Exit code 1: something failed or grew.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import re
import signal
import sys
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, NoReturn

from tests.faults.bed import FRONT, ORDERS, SECOND, SHOP, Bed, Stage
from tests.faults.gauge import MIB, descriptors, resident
from tests.faults.ledger import faults
from tests.faults.load import Flow, Load
from tests.faults.trend import Trend, trend
from tests.faults.verdict import Count, p99
from tests.faults.waiting import pause

LATEST = Path(__file__).resolve().parents[2] / "build" / "soak" / "latest.json"
FLOWS = (Flow(rate=400), Flow("POST", rate=100))
SERVICES = (SHOP, ORDERS, SECOND)
EVERY_S = 10.0
STRETCH_S = 60.0
WARM_S = 60.0
NATIVE = ("proxy", "keeper")
GROWTH_MIB = {"native": 1.0, "python": 2.0}
LONG_S = 1800.0
GROWTH_MIB_PER_HOUR = 10.0
GROWTH_DESCRIPTORS = 8.0
REUSED = 0.999
UNITS_S = {"s": 1.0, "m": 60.0, "h": 3600.0}

Series = list[tuple[float, float]]


@dataclass
class Watched:
    """A process, and what it held when (seconds since the run began)."""

    name: str
    pid: int
    memory: Series = field(default_factory=list)
    descriptors: Series = field(default_factory=list)

    def look(self, at: float) -> None:
        """Takes a sample. Raises OSError if the process has ended."""
        self.memory.append((at, resident(self.pid) / MIB))
        self.descriptors.append((at, float(sum(descriptors(self.pid)))))


@dataclass
class Soak:
    """A run, as far as it went."""

    seconds: float
    began: float = field(default_factory=time.monotonic)
    watched: list[Watched] = field(default_factory=list)
    requests: int = 0
    failed: int = 0
    slowest_p99_s: float = 0.0
    broken: list[str] = field(default_factory=list)

    @property
    def lasted(self) -> float:
        return time.monotonic() - self.began

    @property
    def warm(self) -> float:
        """From when on it has to be flat."""
        return min(WARM_S, self.seconds / 5)

    def require(self, holds: bool, otherwise: str) -> None:
        if not holds and otherwise not in self.broken:
            self.broken.append(otherwise)


def main() -> int:
    """Parse, load, watch, judge."""
    parser = argparse.ArgumentParser(prog="python -m tests.faults.soak", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--for", dest="seconds", type=duration, default=600.0, help="how long: 90s, 10m, 2h")
    signal.signal(signal.SIGTERM, _on_terminate)
    soak = Soak(parser.parse_args().seconds)
    bed = Bed(Stage("production"))
    try:
        bed.make()
        run(soak, bed)
    finally:
        bed.close()
    write(soak)
    for line in [*soak.broken[:10], summary(soak)]:
        print(line, flush=True)
    return 1 if soak.broken else 0


def duration(text: str) -> float:
    """Seconds. Raises ValueError."""
    found = re.fullmatch(r"(\d+(?:\.\d+)?)([smh])", text)
    if found is None:
        raise ValueError
    return float(found[1]) * UNITS_S[found[2]]


def run(soak: Soak, bed: Bed) -> None:
    """Loads and watches; what is broken is noted."""
    soak.watched = [
        Watched(f"{service}/{name}", process.pid)
        for service in SERVICES
        for name, process in bed.processes(service).items()
        if process.pid and process.kind != "app"
    ]
    before = pooled(bed)
    soak.began = time.monotonic()
    for number in range(math.ceil(soak.seconds / STRETCH_S)):
        seconds = min(STRETCH_S, soak.seconds - number * STRETCH_S)
        address = bed.address(SHOP, "outbound")
        with Load(FLOWS, address, FRONT, seconds=seconds, tag=f"soak-{number}", body=bed.body) as load:
            until = time.monotonic() + seconds
            while load.goes_on() and time.monotonic() < until:
                look(soak)
                pause(min(EVERY_S, until - time.monotonic()))
            count(soak, bed, load, load.wait())
        write(soak)
        print(told(soak), flush=True)
    reused, connects = (after - was for after, was in zip(pooled(bed), before, strict=True))
    share = reused / max(reused + connects, 1.0)
    soak.require(share >= REUSED, f"{share:.2%} of the upstream connections were reused, promised {REUSED:.1%}")
    print(f"{share:.3%} of {reused + connects:.0f} upstream connections were reused, {connects:.0f} made", flush=True)
    judge(soak)


def pooled(bed: Bed) -> tuple[float, float]:
    """(reused, made) upstream connections of all proxies up to now."""
    names = ("pannier_proxy_pool_reused_total", "pannier_proxy_connects_total")
    reused, connects = (sum(bed.host.metric(service, name) for service in SERVICES) for name in names)
    return reused, connects


def look(soak: Soak) -> None:
    for each in soak.watched:
        try:
            each.look(soak.lasted)
        except OSError:
            soak.require(False, f"{each.name} has ended")


def count(soak: Soak, bed: Bed, load: Load, counts: Mapping[str, Count]) -> None:
    """What became of a stretch, by the generator and by the origins' ledgers."""
    soak.requests += sum(found.due for found in counts.values())
    failed = sum(found.failed for found in counts.values())
    soak.failed += failed
    soak.slowest_p99_s = max(soak.slowest_p99_s, p99(counts))
    for name, found in counts.items():
        soak.require(found.failed == 0, f"{name}: {found.failed} failed: {found.first_error or 'late'}")
    for flow in load.flows:
        seen = bed.ledger.seen(load.path(flow))
        for reason in faults(seen, answered=counts[flow.name].answered, idempotent=flow.idempotent):
            soak.require(False, f"{flow.name}: {reason}")
        bed.ledger.forget(load.path(flow))


def judge(soak: Soak) -> None:
    """Whether each series is flat, once it is warm."""
    for each in soak.watched:
        found = trends(soak, each)
        if found is None:
            soak.require(False, f"{each.name} was seen too seldom for a verdict")
            continue
        memory, opened = found
        most = GROWTH_MIB["native" if each.name.rpartition("/")[2] in NATIVE else "python"]
        soak.require(memory.grown <= most, f"{each.name} has grown by {memory.grown:.2f} MiB, promised {most:g}")
        lasting = soak.seconds < LONG_S or memory.per_hour <= GROWTH_MIB_PER_HOUR
        soak.require(lasting, f"{each.name} grows by {memory.per_hour:.1f} MiB/h, promised {GROWTH_MIB_PER_HOUR:g}")
        flat = opened.grown <= GROWTH_DESCRIPTORS
        soak.require(flat, f"{each.name} has {opened.grown:.1f} descriptors more, promised {GROWTH_DESCRIPTORS:g}")


def trends(soak: Soak, each: Watched) -> tuple[Trend, Trend] | None:
    """Of memory (MiB) and descriptors; None if there are too few samples."""
    series = [[sample for sample in one if sample[0] >= soak.warm] for one in (each.memory, each.descriptors)]
    if len(series[0]) < 3:
        return None
    return trend(series[0]), trend(series[1])


def told(soak: Soak) -> str:
    """The line of a minute."""
    now = " ".join(
        f"{each.name} {each.memory[-1][1]:.1f}/{each.descriptors[-1][1]:.0f}"
        for each in soak.watched
        if each.memory and each.name.endswith("/proxy")
    )
    sum_mib = sum(each.memory[-1][1] for each in soak.watched if each.memory)
    return (
        f"{soak.lasted:5.0f} s  {soak.failed} of {soak.requests} failed, all {sum_mib:.0f} MiB, MiB/descriptors: {now}"
    )


def summary(soak: Soak) -> str:
    slopes = [(found[0].per_hour, each.name) for each in soak.watched if (found := trends(soak, each))]
    grows = "".join(f", {name} grows most: {slope:+.2f} MiB/h" for slope, name in sorted(slopes)[-1:])
    verdict = "LOST" if soak.broken else "held"
    return f"{verdict}  soak  {soak.failed} of {soak.requests} failed in {soak.seconds:.0f} s{grows}, {LATEST}"


def write(soak: Soak) -> None:
    """Puts all that is known in the file, in one step."""
    processes: dict[str, Any] = {}
    for each in soak.watched:
        found = trends(soak, each)
        processes[each.name] = {
            "pid": each.pid,
            "mib": [round(value, 2) for _, value in each.memory],
            "descriptors": [int(value) for _, value in each.descriptors],
            "mib_trend": found and asdict(found[0]),
            "descriptors_trend": found and asdict(found[1]),
        }
    known = {
        "seconds": soak.seconds,
        "held": not soak.broken and soak.lasted >= soak.seconds,
        "requests": soak.requests,
        "failed": soak.failed,
        "slowest_p99_s": soak.slowest_p99_s,
        "broken": soak.broken,
        "processes": processes,
    }
    LATEST.parent.mkdir(parents=True, exist_ok=True)
    new = LATEST.with_suffix(".new")
    new.write_text(json.dumps(known, indent=1) + "\n")
    os.replace(new, LATEST)


def _on_terminate(*_: object) -> NoReturn:
    sys.exit(143)


if __name__ == "__main__":
    sys.exit(main())
