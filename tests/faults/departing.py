"""An instance or a pilot goes: on purpose, at once, or by a signal that nobody can catch."""

from __future__ import annotations

import time

from tests.faults.bed import ORDERS, SECOND, Bed
from tests.faults.load import Load
from tests.faults.row import Fault
from tests.faults.spread import PILOT, spread
from tests.faults.verdict import Trial
from tests.faults.victims import kill
from tests.faults.waiting import pause, wait_until

GONE_S = 15.0
GIVEN_UP_S = 25.0
AWAY_S = 4.0


class Crash(Fault):
    """`kill -9` of everything on one of two hosts: who is gone is given up, since he does not renew."""

    def __init__(self) -> None:
        self._struck = SECOND

    def strike(self, bed: Bed, trial: Trial, load: Load) -> None:
        found = spread(bed)
        self._struck = (SECOND, ORDERS)[trial.number % 2]
        kill(found.host_of(self._struck).survivors())
        began = time.monotonic()
        bed.running.pop(self._struck).wait()
        wait_until(lambda: len(found.told()) == 1, "the pilot has given it up", within=GIVEN_UP_S)
        wait_until(lambda: bed.known() == 1, "the caller knows", within=GIVEN_UP_S)
        trial.within("gone_s", time.monotonic() - began, GONE_S)

    def heal(self, bed: Bed) -> None:
        bed.start(self._struck)


class Leaves(Fault):
    """SIGTERM of one of two: it is out of the pilot before its listener closes, or a call would be refused."""

    def __init__(self) -> None:
        self._struck = SECOND

    def strike(self, bed: Bed, trial: Trial, load: Load) -> None:
        found = spread(bed)
        self._struck = (SECOND, ORDERS)[trial.number % 2]
        process = bed.running.pop(self._struck)
        process.terminate()
        began = time.monotonic()
        wait_until(
            lambda: sum(row["state"] == "UP" for row in found.told().values()) == 1,
            "the pilot has been told",
            within=GIVEN_UP_S,
        )
        trial.times["said_s"] = time.monotonic() - began
        trial.require(process.poll() is None, "it had ended before that was said")
        wait_until(lambda: process.poll() is not None, "it has ended", within=GIVEN_UP_S)
        trial.require(len(found.told()) == 1, f"the pilot tells {found.told()}")
        wait_until(lambda: bed.known() == 1, "the caller knows", within=GIVEN_UP_S)

    def heal(self, bed: Bed) -> None:
        bed.start(self._struck)


class PilotKilled(Fault):
    """`kill -9`, and another one after a while."""

    def strike(self, bed: Bed, trial: Trial, load: Load) -> None:
        found = spread(bed)
        before = set(found.told())
        found.site.kill(PILOT)
        pause(AWAY_S)
        trial.require(bed.known() == 2, f"the caller knows {bed.known()} of 2 without a pilot")
        found.site.start(PILOT)
        found.wait_pilot()
        trial.require(set(found.told()) == before, f"it tells {set(found.told())}, and told {before}")
        trial.require(bed.known() == 2, f"the caller knows {bed.known()} of 2")
