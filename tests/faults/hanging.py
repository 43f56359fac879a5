"""SIGSTOP: who hangs is replaced, and who has been asleep takes nobody else for dead."""

from __future__ import annotations

import signal
import time
from collections.abc import Mapping
from dataclasses import dataclass

from pannier.shared.messages import Process

from tests.faults.bed import Bed
from tests.faults.killing import alternating, pids
from tests.faults.load import Load
from tests.faults.row import Fault
from tests.faults.verdict import Trial
from tests.faults.victims import Victims
from tests.faults.waiting import pause, wait_until


@dataclass(frozen=True)
class StopSidecar(Fault):
    """It hangs for 10 s, and is replaced meanwhile by the watchdog."""

    name: str
    seconds: float = 10.0

    def strike(self, bed: Bed, trial: Trial, load: Load) -> None:
        service = alternating(trial)
        before = bed.processes(service)
        with Victims([before[self.name].pid]) as victims:
            victims.send(signal.SIGSTOP)
            began = time.monotonic()
            wait_until(lambda: self._replaced(bed, service, before), "it is replaced", within=self.seconds)
            trial.within("replaced_s", time.monotonic() - began, self.seconds)
            pause(began + self.seconds - time.monotonic())
            trial.require(victims.gone(), "who hung has not been ended")
        after = bed.processes(service)
        trial.require(
            pids(after, less=(self.name,)) == pids(before, less=(self.name,)),
            f"others were touched: {pids(before)} became {pids(after)}",
        )

    def _replaced(self, bed: Bed, service: str, before: Mapping[str, Process]) -> bool:
        pid, ready = bed.sidecars(service)[self.name]
        return ready and pid != before[self.name].pid


@dataclass(frozen=True)
class StopSupervisor(Fault):
    """It sleeps for 10 s, longer than a sidecar may be silent, and takes nobody for dead when it wakes."""

    seconds: float = 10.0
    awake: float = 2.0

    def strike(self, bed: Bed, trial: Trial, load: Load) -> None:
        service = alternating(trial)
        before = bed.processes(service)
        with Victims([bed.running[service].pid]) as victims:
            victims.send(signal.SIGSTOP)
            pause(self.seconds)
        pause(self.awake)
        after = bed.processes(service)
        trial.require(pids(after) == pids(before), f"somebody was ended: {pids(before)} became {pids(after)}")
        trial.require(all(process.ready for process in after.values()), "not all are ready")
