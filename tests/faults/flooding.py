"""A peer that says as much as it can: what it is let say, and what everybody else has of it.

The same process with the same loop runs off the bus, then on it, then off it again. Whatever the second takes from the
others beyond what the others do is the bus's doing.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pannier.supervisor.broker.server import BURST, MESSAGES_PER_SECOND, PATIENCE_SECONDS

from tests.faults import flooder
from tests.faults.bed import FRONT, SHOP, Bed
from tests.faults.killing import pids
from tests.faults.load import Flow, Load
from tests.faults.row import Fault
from tests.faults.verdict import SLICES_S, Trial, p99, weigh
from tests.faults.waiting import pause

WINDOW = Flow(rate=200)
TIMES = 2.0
ASKED_S = 0.1
SLACK_S = 0.5
ASK_EVERY_S = 0.05
WINDOWS = (("hog", 3.0), ("bus", PATIENCE_SECONDS + 1.0), ("hog", 3.0))


@dataclass
class Seen:
    """What the others had of a hog: of the load the p99, of questions to the supervisor what nine of ten took."""

    p99_s: float
    asked_s: float
    said: dict[str, Any]


@dataclass(frozen=True)
class BusFlood(Fault):
    """Requests for a verb, over and over, for so long that a connection is cut."""

    verb: str

    def strike(self, bed: Bed, trial: Trial, load: Load) -> None:
        before = bed.processes(SHOP)
        path = bed.host.runtime / SHOP / "bus.sock"
        earlier, on, later = (self._window(bed, trial, mode, path, seconds) for mode, seconds in WINDOWS)
        off = Seen(max(earlier.p99_s, later.p99_s), max(earlier.asked_s, later.asked_s), {})
        trial.within("p99_s", on.p99_s, max(TIMES * off.p99_s, SLICES_S))
        trial.times["hog_p99_s"] = off.p99_s
        trial.within("asked_s", on.asked_s, max(TIMES * off.asked_s, ASKED_S))
        trial.times["hog_asked_s"] = off.asked_s
        first = on.said["connections"][0]
        for each in on.said["connections"]:
            read = each["answers"] - BURST
            trial.add("answers", each["answers"])
            allowed = MESSAGES_PER_SECOND * each["lasted_s"] + 1
            trial.require(read <= allowed, f"{each['answers']} were read in {each['lasted_s']:.2f} s")
        trial.require(first["code"] == "flood", f"it was cut for {first['code']!r}")
        trial.within("cut_s", first["lasted_s"], PATIENCE_SECONDS + SLACK_S)
        trial.require(first["lasted_s"] >= PATIENCE_SECONDS, f"it was cut after {first['lasted_s']:.1f} s already")
        after = bed.processes(SHOP)
        trial.require(pids(after) == pids(before), f"somebody was started anew: {pids(before)} became {pids(after)}")
        trial.require(all(process.ready for process in after.values()), "not all are ready")

    def _window(self, bed: Bed, trial: Trial, mode: str, path: Path, seconds: float) -> Seen:
        words = [sys.executable, str(Path(flooder.__file__)), mode, str(seconds), self.verb]
        words += [str(path)] if mode == "bus" else []
        tag = f"{self.verb}-{trial.number}-{mode}-{time.monotonic_ns()}"
        address = bed.address(SHOP, "outbound")
        asked = []
        with (
            subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as process,
            Load((WINDOW,), address, FRONT, seconds=seconds, tag=tag, body=bed.body) as window,
        ):
            while window.goes_on():
                began = time.monotonic()
                bed.sidecars(SHOP)
                asked.append(time.monotonic() - began)
                pause(ASK_EVERY_S)
            counts = window.wait()
            said, _ = process.communicate(timeout=seconds)
        weigh(trial, counts)
        return Seen(p99(counts), sorted(asked)[int(0.9 * len(asked))], json.loads(said))
