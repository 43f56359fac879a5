"""What counts as failed, when a row is void, and when it holds. Pure: what was counted in, verdicts out.

Rules:
- A request has failed if it was refused, reset, answered by anything but the right body with 200, answered later than
  2 s after it was *due*, or not sent at all although it was due. A generator that died has failed all that it owed.
- What may not be repeated and was in flight when its server was killed has ended without an answer, and nobody can know
  whether it happened: it is counted apart, where a row kills a server.
- A number of a method that is not idempotent fails if an origin saw it twice, and one that was answered fails if no
  origin saw it.
- A row is void if its clean window, before anything is broken, is below 95 % of the target rate or has any failure:
  then it says nothing about the fault. A void row has not held.
- A row that promises so keeps the load's p99, of all flows together, within so many times that of the clean window, or
  that of a bystander: a load at the same time to a proxy that nobody attacks, which waits for the same two cores. Below
  25 ms nothing is held against it: a request takes five wake-ups, each maybe a few time slices of 3 ms late.
- A row holds only if every repetition does. There is no majority.
- 20 repetitions of what takes less than 10 s, 5 below a minute, 1 of anything longer.
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

TOO_LATE_S = 2.0
CLEAN_SHARE = 0.95
SECOND = 1_000_000_000
TOLD = 5
SLICES_S = 0.025
KILLING_S = 0.1
"""Several processes are killed one after the other, by somebody who waits for a CPU between two of them."""


@dataclass(frozen=True)
class Count:
    """What became of one flow. `answered` rightly, `late` ones among them; `seconds` from the first request to the last
    answer. `repeated` were sent a second time. `lost`: when those were sent, and found to have failed,
    that may not be repeated, by `time.monotonic()`."""

    due: int
    answered: int
    late: int
    errors: int
    seconds: float
    slowest_s: float = 0.0
    first_error: str = ""
    histogram: Sequence[tuple[int, int]] = ()
    repeated: int = 0
    lost: Sequence[tuple[float, float]] = ()

    @property
    def unsent(self) -> int:
        """Due and neither answered nor an error: the generator was held up for so long that it never sent them."""
        return self.due - self.answered - self.errors

    @property
    def failed(self) -> int:
        return self.errors + self.late + self.unsent

    def in_flight(self, at: Sequence[float]) -> int:
        """How many of those that were lost were under way at one of these times."""
        return sum(any(sent - KILLING_S <= each <= ended + KILLING_S for each in at) for sent, ended in self.lost)


def due(rate: int, seconds: float) -> int:
    """How many requests an open loop of `rate` a second owes in `seconds`: number i is due at i / rate."""
    return -(-round(seconds * SECOND) * rate // SECOND)


def count(rate: int, seconds: float, report: Mapping[str, Any], *, idempotent: bool = True) -> Count:
    """The generator's report on a flow; latencies in it count from when a request was due."""
    histogram: Sequence[tuple[int, int]] = report["histogram"]
    return Count(
        due=due(rate, seconds),
        answered=report["requests"],
        late=sum(many for edge, many in histogram if edge > TOO_LATE_S * SECOND),
        errors=report["errors"],
        seconds=report["seconds"],
        slowest_s=max((edge for edge, _ in histogram), default=0) / SECOND,
        first_error=report.get("first_error", ""),
        histogram=histogram,
        repeated=report.get("repeated", 0),
        lost=[] if idempotent else [(sent, ended) for sent, ended in report.get("lost", [])],
    )


def quantile(counts: Mapping[str, Count], share: float) -> float:
    """Seconds that this share of the answers of all flows took at most, from when they were due; 0 without any."""
    edges = sorted((edge, many) for found in counts.values() for edge, many in found.histogram)
    left = share * sum(many for _, many in edges)
    for edge, many in edges:
        left -= many
        if left <= 0:
            return edge / SECOND
    return 0.0


def p99(counts: Mapping[str, Count]) -> float:
    return quantile(counts, 0.99)


def void(counts: Mapping[str, Count], seconds: float) -> str:
    """Why the clean window of `seconds` makes the row void; empty if it does not."""
    for name, found in counts.items():
        if found.failed:
            return f"{found.failed} of {found.due} failed in the clean window of {name}: {found.first_error or 'late'}"
        share = found.answered / max(found.seconds, seconds) / (found.due / seconds)
        if share < CLEAN_SHARE:
            return f"the clean window of {name} had {share:.0%} of its rate"
    return ""


@dataclass
class Trial:
    """One repetition: what was measured, and which promises were broken. `number` counts from 0. `killed`: when a
    server was killed whose requests in flight are lost with it, by `time.monotonic()`."""

    number: int
    times: dict[str, float] = field(default_factory=dict)
    sums: dict[str, int] = field(default_factory=dict)
    broken: list[str] = field(default_factory=list)
    killed: list[float] = field(default_factory=list)

    def within(self, name: str, seconds: float, at_most: float) -> None:
        """Notes a time of this name (it ends in `_s`) that was promised to be at most so long."""
        self.times[name] = max(seconds, self.times.get(name, 0.0))
        self.require(seconds <= at_most, f"{name} {seconds:.3f}, promised {at_most:g}")

    def add(self, name: str, number: int) -> None:
        """Notes a number that is summed up over the repetitions."""
        self.sums[name] = self.sums.get(name, 0) + number

    def require(self, holds: bool, otherwise: str) -> None:
        """Notes a promise, and how it was broken unless it holds; the same is said once."""
        if not holds and otherwise not in self.broken:
            self.broken.append(otherwise)


def weigh(trial: Trial, counts: Mapping[str, Count], *, forgiven: int | None = 0) -> None:
    """Adds what the load found to the trial. `forgiven`: so many failures are within the promise, None: any number."""
    cut = sum(found.in_flight(trial.killed) for found in counts.values())
    failed = sum(found.failed for found in counts.values()) - cut
    if trial.killed:
        trial.add("in_flight", cut)
    if any(found.repeated for found in counts.values()):
        trial.add("repeated", sum(found.repeated for found in counts.values()))
    trial.add("requests", sum(found.due for found in counts.values()))
    trial.add("failed", failed)
    trial.times["slowest_s"] = max((found.slowest_s for found in counts.values()), default=0.0)
    if forgiven is not None and failed > forgiven:
        reasons = "; ".join(
            f"{name}: {found.errors} wrong, {found.late} late, {found.unsent} unsent ({found.first_error or 'late'})"
            for name, found in counts.items()
            if found.failed
        )
        trial.broken.append(f"{failed} failed, promised {forgiven}: {reasons}")


def weigh_p99(
    trial: Trial, counts: Mapping[str, Count], clean: Mapping[str, Count], bystander: Mapping[str, Count], times: float
) -> None:
    """Notes the p99 of the load, promised to be at most so many times that of the clean window or of the bystander."""
    trial.times["clean_p99_s"], trial.times["bystander_p99_s"] = p99(clean), p99(bystander)
    trial.within("p99_s", p99(counts), max(times * p99(clean), times * p99(bystander), SLICES_S))


def repetitions(seconds: float) -> int:
    """How often a row is repeated whose repetition takes so long."""
    return 20 if seconds < 10 else 5 if seconds < 60 else 1


@dataclass(frozen=True)
class Outcome:
    """What is said of a row. `void` is the reason, empty if it counts."""

    repetitions: int
    held: bool
    figures: Mapping[str, Any]
    void: str = ""
    broken: tuple[str, ...] = ()


def outcome(trials: Sequence[Trial]) -> Outcome:
    """The verdict on a row that was not void, with medians and worst of its times and sums of its numbers."""
    figures: dict[str, Any] = {"held": sum(not trial.broken for trial in trials)}
    for name in dict.fromkeys(name for trial in trials for name in trial.sums):
        figures[name] = sum(trial.sums.get(name, 0) for trial in trials)
    for name in dict.fromkeys(name for trial in trials for name in trial.times):
        seen = [trial.times[name] for trial in trials if name in trial.times]
        figures[name] = {"median": round(statistics.median(seen), 3), "worst": round(max(seen), 3)}
    broken = tuple(f"repetition {trial.number + 1}: {reason}" for trial in trials for reason in trial.broken)
    if broken:
        figures["broken"] = list(broken[:TOLD])
    return Outcome(len(trials), bool(trials) and not broken, figures, broken=broken)


def void_outcome(reason: str) -> Outcome:
    return Outcome(0, held=False, figures={"void": reason}, void=reason)
