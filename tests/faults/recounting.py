"""Histories of real pilots under faults that chance chooses, and judged; the long form of `tests/model`."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass

from tests.faults.bed import Bed
from tests.faults.load import Load
from tests.faults.row import Fault
from tests.faults.verdict import Trial
from tests.model.invariants import violations
from tests.model.recording import Fault as Happening
from tests.model.recording import recorded
from tests.model.sites import MEMBERS, Site

SETTLED_S = 3.0
QUIET_S = 20.0


@dataclass(frozen=True)
class Recount(Fault):
    """`site` has the pilots, `happenings` say what becomes of it in so many seconds, by a number; `lag` and `bound` as
    in `violations`."""

    site: Callable[[], AbstractContextManager[Site]]
    happenings: Callable[[random.Random, float], Sequence[Happening]]
    seconds: float
    lag: float
    bound: float

    def strike(self, bed: Bed, trial: Trial, load: Load) -> None:
        seed = random.SystemRandom().randrange(1_000_000)
        with self.site() as site:
            happen = self.happenings(random.Random(seed), self.seconds)
            history = recorded(site, happen, seconds=self.seconds, quiet=QUIET_S, seed=seed)
        for reason in violations(history, lag=self.lag, settled=SETTLED_S, bound=self.bound):
            trial.require(False, f"seed {seed}: {reason}")
        trial.add("asked", len(history.calls))
        trial.add("came", sum(call.verdict is not None for call in history.calls))


def of_one(chance: random.Random, seconds: float) -> Sequence[Happening]:
    """What becomes of one pilot: it is killed, stopped, or given another time of day, again and again."""
    found: list[Happening] = []
    at = 1.0
    while at < seconds - 3.0:
        kind = chance.choice(["kill", "stop", "clock"])
        length = chance.uniform(0.1, 2.5)
        if kind == "kill":
            found += [
                Happening(at, lambda site: site.kill("pilot")),
                Happening(at + 0.1, lambda site: site.start("pilot")),
            ]
        elif kind == "stop":
            found += [Happening(at, lambda site: site.stop("pilot"))]
            found += [Happening(at + length, lambda site: site.go_on("pilot"))]
        else:
            hours = chance.choice([-1, 0, 1])
            found += [Happening(at, lambda site, hours=hours: site.set_clock("pilot", hours))]  # type: ignore[misc]
        at += length + chance.uniform(0.5, 2.0)
    return found


def of_three(chance: random.Random, seconds: float) -> Sequence[Happening]:
    """What becomes of three pilots on an etcd of three: a part is cut off, one of either kind is killed or stopped."""
    found: list[Happening] = []
    at = 1.0
    while at < seconds - 5.0:
        kind = chance.choice(["minority", "nobody", "kill", "kill", "stop", "clock"])
        length = chance.uniform(1.0, 4.0)
        who = chance.choice(MEMBERS)
        rest = [name for name in MEMBERS if name != who]
        name = chance.choice([who, f"pilot-{who}"])
        if kind in {"minority", "nobody"}:
            parts: Sequence[Sequence[str]] = ([who], rest) if kind == "minority" else [[each] for each in MEMBERS]
            found += [Happening(at, lambda site, parts=parts: site.cut(*parts))]  # type: ignore[misc]
            found += [Happening(at + length, lambda site: site.cut())]
        elif kind == "clock":
            hours = chance.choice([-1, 1])
            found += [Happening(at, lambda site, who=who, hours=hours: site.set_clock(f"pilot-{who}", hours))]  # type: ignore[misc]
        else:
            ends: tuple[Callable[[Site, str], None], Callable[[Site, str], None]] = (
                (Site.kill, Site.start) if kind == "kill" else (Site.stop, Site.go_on)
            )
            found += [
                Happening(at, lambda site, end=ends[0], name=name: end(site, name)),  # type: ignore[misc]
                Happening(at + length, lambda site, end=ends[1], name=name: end(site, name)),  # type: ignore[misc]
            ]
        at += length + chance.uniform(0.5, 2.0)
    return found
