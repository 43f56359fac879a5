"""Hot upgrades of the proxy: a new generation takes over from the old one, which ends when its last request has.

The rows are void where this installation has no `pannier upgrade`.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path

from pannier.shared.messages import Changed, LiveReset

from tests.faults.bed import ORDERS, Bed
from tests.faults.killing import pids
from tests.faults.load import Load
from tests.faults.row import Fault
from tests.faults.segment import mapped
from tests.faults.verdict import Trial
from tests.faults.waiting import wait_until

UPGRADED_S = 10.0
LAYOUT = 1
"""The word of a segment whose upper half is the major version of its layout."""
RESERVE_S = 3.0  # of a load, to look at what the last upgrade has left
EACH_S = 1.15  # of a load, for an upgrade; it takes 5 s where a caller keeps a connection that idles


def missing(bed: Bed) -> str:
    """Why nothing can be upgraded here; empty if it can."""
    known = bed.host.run("upgrade", "--help").returncode == 0
    return "" if known else "this installation has no `pannier upgrade` yet"


@dataclass(frozen=True)
class Upgrades(Fault):
    """So many in a row, or as many as the load leaves room for in a short run."""

    wanted: int

    def clean(self, bed: Bed) -> str:
        return missing(bed)

    def strike(self, bed: Bed, trial: Trial, load: Load) -> None:
        until = time.monotonic() + load.seconds - RESERVE_S
        wanted = min(self.wanted, int((load.seconds - RESERVE_S) / EACH_S))
        before = bed.processes(ORDERS)
        seen = [before["proxy"].pid]
        while len(seen) <= wanted and time.monotonic() < until:
            began = time.monotonic()
            done = bed.host.run("upgrade", "--name", ORDERS, "--only", "proxy")
            trial.within("upgraded_s", time.monotonic() - began, UPGRADED_S)
            trial.require(done.returncode == 0, f"upgrade ended with {done.returncode}: {done.stderr[-200:]!r}")
            seen.append(bed.processes(ORDERS)["proxy"].pid)
            trial.require(seen[-1] not in seen[:-1], f"after an upgrade the proxy is {seen[-1]}, as it was")
            trial.add("upgrades", 1)
        trial.require(len(seen) > wanted, f"{len(seen) - 1} upgrades in {load.seconds:g} s, {wanted} were to be made")
        after = bed.processes(ORDERS)
        trial.require(
            pids(after, less=("proxy",)) == pids(before, less=("proxy",)),
            f"others were touched: {pids(before)} became {pids(after)}",
        )
        left = {pid for pid in bed.host.survivors() if pid in seen[:-1]}
        trial.require(not left, f"older generations live on: {left}")


class OtherLayout(Fault):
    """The memory is of another major version, as after a downgrade: a new proxy cannot read it, the old one stays."""

    def clean(self, bed: Bed) -> str:
        return missing(bed)

    def strike(self, bed: Bed, trial: Trial, load: Load) -> None:
        before = bed.processes(ORDERS)
        with mapped(bed, ORDERS, "counters") as memory:
            layout = memory.word(LAYOUT)
            memory.put(LAYOUT, layout + (1 << 32))
            try:
                done = bed.host.run("upgrade", "--name", ORDERS, "--only", "proxy")
            finally:
                memory.put(LAYOUT, layout)
        trial.require(done.returncode > 0, "an upgrade to a proxy that cannot read the memory succeeded")
        trial.require(bool(done.stderr.strip()) and "Traceback" not in done.stderr, f"it said {done.stderr[-200:]!r}")
        after = bed.processes(ORDERS)
        trial.require(pids(after) == pids(before), f"somebody was touched: {pids(before)} became {pids(after)}")
        trial.require(all(process.ready for process in after.values()), "not all are ready")


class FewerWorkers(Fault):
    """Two workers, one, two again: each a new generation of the proxy."""

    def clean(self, bed: Bed) -> str:
        return missing(bed)

    def strike(self, bed: Bed, trial: Trial, load: Load) -> None:
        before = bed.processes(ORDERS)
        had = workers(before["proxy"].pid)
        for wanted in (1, had):
            done = bed.host.run("profile", "set", "--name", ORDERS, "--confirm", "0s", f"proxy.workers={wanted}")
            trial.require(done.returncode == 0, f"set ended with {done.returncode}: {done.stderr[-200:]!r}")
            wait_until(lambda: self._has(bed, wanted), f"the proxy has {wanted} workers", within=UPGRADED_S)  # noqa: B023
        after = bed.processes(ORDERS)
        trial.require(
            pids(after, less=("proxy",)) == pids(before, less=("proxy",)),
            f"others were touched: {pids(before)} became {pids(after)}",
        )

    def _has(self, bed: Bed, wanted: int) -> bool:
        proxy = bed.processes(ORDERS)["proxy"]
        return proxy.ready and workers(proxy.pid) == wanted

    def heal(self, bed: Bed) -> None:
        bed.host.ask(ORDERS, "live.reset", LiveReset(), Changed)


def workers(pid: int) -> int:
    """How many threads of the proxy serve. 0 if it has ended."""
    try:
        names = [(task / "comm").read_text() for task in Path(f"/proc/{pid}/task").iterdir()]
    except OSError:
        return 0
    return sum(name.startswith("worker-") for name in names)
