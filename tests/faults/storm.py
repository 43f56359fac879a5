"""A retry storm: every origin fails, every caller would like to try again, and the origins must not have to bear it."""

from __future__ import annotations

import time
from dataclasses import dataclass

from tests.faults.bed import Bed
from tests.faults.load import Load
from tests.faults.row import Fault
from tests.faults.verdict import Trial
from tests.faults.waiting import pause

SHARE = 0.2
FLOOR_PER_S = 10
WINDOW_S = 10.0  # over which the budget counts
HEALED_S = 3.0  # of the load, after the origins are well again


@dataclass(frozen=True)
class Storm(Fault):
    """All origins answer 503 from `well_s` into the load on, for as long as the load leaves room.

    `retried`: no breaker is open, so the budget is all that holds the storm back. Then it must be seen to be used, and
    what the 10 s before the storm left of it may be spent in the storm.
    """

    well_s: float = 0.0
    retried: bool = False

    def strike(self, bed: Bed, trial: Trial, load: Load) -> None:
        (flow,) = load.flows

        def reached() -> int:
            return bed.ledger.seen(load.path(flow)).total()

        pause(self.well_s)
        before = reached()
        began = time.monotonic()
        bed.fail(True)
        try:
            pause(load.seconds - self.well_s - HEALED_S)
        finally:
            bed.fail(False)
        lasted = time.monotonic() - began
        came, asked = reached() - before, flow.rate * lasted
        counted = lasted + (WINDOW_S if self.retried else 0.0)
        allowed = asked + SHARE * flow.rate * counted + FLOOR_PER_S * counted
        trial.add("asked", round(asked))
        trial.add("came", came)
        trial.require(came <= allowed, f"{came} came to the origins of {asked:.0f}, promised {allowed:.0f}")
        if self.retried:
            trial.require(came > asked * (1 + SHARE / 2), f"the budget was not used: {came} came of {asked:.0f}")
