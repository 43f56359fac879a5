"""Tries rows: a clean window, then repetition after repetition, each a load during which something is broken.

- The fault strikes half a second into the load and must be over before the load is.
- A window that is not clean is tried three times in all: it says that the machine was busy, not that a promise broke.
- After a broken promise the next repetition gets a new bed, and what the services wrote is kept in build/faults/logs.
"""

from __future__ import annotations

import contextlib
import shutil
import signal
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import Self

from pannier.shared.errors import PannierError

from tests.faults.bed import CALLEE, SECOND, Bed, Stage
from tests.faults.leant import Leant
from tests.faults.ledger import faults
from tests.faults.load import Flow, Load
from tests.faults.record import LATEST
from tests.faults.row import Row
from tests.faults.spread import Spread
from tests.faults.verdict import Count, Outcome, Trial, outcome, void, void_outcome, weigh, weigh_p99
from tests.faults.waiting import pause

CLEAN_S = 2.0
CLEAN_TRIES = 3
BYSTANDER = Flow(rate=100, connections=8)
LEAD_S = 0.5
PAUSE_S = 2.0
BROKEN = (AssertionError, OSError, PannierError)


class Rig:
    """Keeps a bed from one row to the next that stands under the same stage. Leaving the block ends it."""

    def __init__(self, logs: Path = LATEST.parent / "logs") -> None:
        self._bed: Bed | None = None
        self._loads = 0
        self._clean: Mapping[str, Count] = {}
        self._logs = logs

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._leave()

    def try_row(self, row: Row, times: int, *, short: bool = False, said: Callable[[Trial], None]) -> Outcome:
        """The row's outcome after so many repetitions; `said` is told each of them."""
        shutil.rmtree(self._logs / row.name, ignore_errors=True)
        seconds = row.short_seconds if short and row.short_seconds else row.seconds
        if reason := self._void(row):
            return void_outcome(reason)
        trials = []
        for number in range(times):
            pause(PAUSE_S if number else 0.0)
            trials.append(self._try(row, Trial(number), seconds))
            said(trials[-1])
        return outcome(trials)

    def _void(self, row: Row) -> str:
        """Why the clean window makes the row void; empty if it does not."""
        reason = ""
        for _ in range(CLEAN_TRIES):
            try:
                bed = self._stand(row.stage)
                with self._load(row, bed, CLEAN_S) as load:
                    self._clean = load.wait()
                    reason = void(self._clean, CLEAN_S) or row.how.clean(bed)
            except BROKEN as error:
                reason = f"the bed does not stand: {told(error)}"
            if not reason:
                break
            self._keep_logs(row, "clean")
            self._leave()
            pause(PAUSE_S)
        return reason

    def _try(self, row: Row, trial: Trial, seconds: float) -> Trial:
        try:
            bed = self._stand(row.stage)
            with self._load(row, bed, seconds) as load, self._bystander(row, bed, seconds) as bystander:
                waited, began = cpu_wait(), time.monotonic()
                pause(LEAD_S if row.flows else 0.0)
                self._strike(row, bed, trial, load)
                trial.require(load.goes_on(), "it took longer than its load")
                counts, others = load.wait(), bystander.wait()
                trial.times["cpu_wait"] = (cpu_wait() - waited) / (time.monotonic() - began)
            weigh(trial, counts, forgiven=row.forgiven)
            if row.slower:
                weigh_p99(trial, counts, self._clean, others, row.slower)
            look_up(trial, bed, load, counts)
            row.how.heal(bed)
            bed.settle()
        except BROKEN as error:
            trial.require(False, f"the bed did not come back: {told(error)}")
        if trial.broken:
            self._keep_logs(row, str(trial.number + 1))
            self._leave()
        return trial

    def _strike(self, row: Row, bed: Bed, trial: Trial, load: Load) -> None:
        began = time.monotonic()
        try:
            row.how.strike(bed, trial, load)
        except BROKEN as error:
            trial.require(False, told(error))
        trial.times["strike_s"] = time.monotonic() - began

    def _load(self, row: Row, bed: Bed, seconds: float) -> Load:
        self._loads += 1
        tag = f"{row.name}-{self._loads}"
        return Load(
            row.flows,
            "",
            "",
            seconds=seconds,
            tag=tag,
            body=bed.body,
            aim=lambda flow: bed.aim(flow, flow.to or row.to),
        )

    def _bystander(self, row: Row, bed: Bed, seconds: float) -> Load:
        """A small load to a proxy that nobody strikes, where it is to be compared with."""
        flows = (BYSTANDER,) if row.slower else ()
        tag = f"bystander-{self._loads}"
        address = bed.address(SECOND, "inbound") if flows else ""
        return Load(flows, address, CALLEE, seconds=seconds, tag=tag, body=bed.body)

    def _stand(self, stage: Stage) -> Bed:
        if self._bed is not None and self._bed.stage != stage:
            self._leave()
        if self._bed is None:
            with undisturbed():
                self._bed = Leant(stage) if stage.leaning else Spread(stage) if stage.store else Bed(stage)
            self._bed.make()
        return self._bed

    def _keep_logs(self, row: Row, which: str) -> None:
        if self._bed is not None:
            folder = self._logs / row.name / which
            folder.mkdir(parents=True, exist_ok=True)
            for log in self._bed.folder.glob("*.log"):
                shutil.copy(log, folder)

    def _leave(self) -> None:
        if self._bed is not None:
            with undisturbed():
                bed, self._bed = self._bed, None
                bed.close()


@contextlib.contextmanager
def undisturbed() -> Iterator[None]:
    """Signals that end a run wait until the block is left, so that no half of a bed stays behind."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, (signal.SIGTERM, signal.SIGINT))
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def look_up(trial: Trial, bed: Bed, load: Load, counts: Mapping[str, Count]) -> None:
    """Tells the trial what the ledgers say against its load."""
    for flow in load.flows:
        seen = bed.ledger.seen(load.path(flow))
        for reason in faults(seen, answered=counts[flow.name].answered, idempotent=flow.idempotent):
            trial.require(False, f"{flow.name}: {reason}")


def cpu_wait(pressure: Path = Path("/proc/pressure/cpu")) -> float:
    """Seconds so far in which somebody on this machine waited for a CPU; 0 where the kernel does not count them. No
    verdict depends on it: it tells a reader whether a promise about time was tried on a machine of its own."""
    with contextlib.suppress(OSError):
        return int(pressure.read_text().split("\n")[0].rpartition("=")[2]) / 1e6
    return 0.0


def told(error: BaseException) -> str:
    """An error in one line."""
    return (str(error) or type(error).__name__).splitlines()[0]
