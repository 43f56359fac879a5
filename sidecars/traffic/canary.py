"""One canary under way: what follows from its settings, its state, the time, and what was counted. Pure.

| state | bad | absent | early | few | good | last |
| --- | --- | --- | --- | --- | --- | --- |
| running | aborted | paused | running | paused | running | done |
| paused | aborted | paused | running | paused | running | done |
| done, aborted | no step | | | | | |

Rules:
- A step is judged by what was counted since it began, and only from `min_requests` up; with fewer it waits (`paused`).
- Bad is bad at once; good is good only when the step's time is over. The last step is judged like any other.
- A canary without an endpoint gets no calls, and its step's time stands still: a share sent to nobody would be a share
  of failures.
- Time is wall-clock seconds, so that it means the same after a restart. When the clock goes back, the step begins its
  time anew: it can be judged late, never twice. When it leaps ahead, one step is taken early, never two.

Refused: to compare the canary with the rest. With little traffic, which is when a canary is small, the difference of
two rates says nothing for long; a bound that the operator names can be read, and is what `abort_on` says.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from enum import StrEnum
from fractions import Fraction
from typing import Annotated, Final, NamedTuple

import msgspec
from pannier.shared.duration import seconds
from pannier.sidecars.traffic.config import Service, Shift

WHOLE = 100


class State(StrEnum):
    """Where a canary stands; the words of `canary.progress`."""

    RUNNING = "running"
    PAUSED = "paused"
    DONE = "done"
    ABORTED = "aborted"


class Verdict(StrEnum):
    """What is known about a step at one moment."""

    BAD = "bad"
    """The condition to abort holds."""
    ABSENT = "absent"
    """The subset has no endpoint."""
    EARLY = "early"
    """Its time is not over."""
    FEW = "few"
    """Its time is over, and too little was asked to judge it."""
    GOOD = "good"
    LAST = "last"
    """Good, and no step follows."""


HOPELESS: Final = 5
"""Calls without one success, after which a step that is over is bad, however few they are."""
FINAL: Final = frozenset({State.DONE, State.ABORTED})
TRANSITIONS: Final[Mapping[tuple[State, Verdict], State]] = {
    (State.RUNNING, Verdict.BAD): State.ABORTED,
    (State.RUNNING, Verdict.ABSENT): State.PAUSED,
    (State.RUNNING, Verdict.EARLY): State.RUNNING,
    (State.RUNNING, Verdict.FEW): State.PAUSED,
    (State.RUNNING, Verdict.GOOD): State.RUNNING,
    (State.RUNNING, Verdict.LAST): State.DONE,
    (State.PAUSED, Verdict.BAD): State.ABORTED,
    (State.PAUSED, Verdict.ABSENT): State.PAUSED,
    (State.PAUSED, Verdict.EARLY): State.RUNNING,
    (State.PAUSED, Verdict.FEW): State.PAUSED,
    (State.PAUSED, Verdict.GOOD): State.RUNNING,
    (State.PAUSED, Verdict.LAST): State.DONE,
}


class Counts(NamedTuple):
    """Calls that ended, and how many of them failed."""

    calls: int = 0
    failures: int = 0


class Seen(NamedTuple):
    """What a step is judged by: the canary's endpoints that there are, and what was counted since the step began of
    the canary and of the service's other endpoints."""

    endpoints: int
    canary: Counts
    rest: Counts = Counts()


class Canary(msgspec.Struct, frozen=True):
    """One canary. `shift` is the identity of the settings that it is of, `weight` the per cent of the calls that the
    step in force gives it, `since` when that step began."""

    shift: str
    state: State
    weight: Annotated[int, msgspec.Meta(ge=0, le=WHOLE)]
    since: float
    reason: str = ""


def identity(shift: Shift) -> str:
    """What tells one shift from another: settings that differ in anything are a new one."""
    return hashlib.sha256(msgspec.json.encode(shift)).hexdigest()[:16]


def origin(service: Service, to: str) -> dict[str, int]:
    """Where the calls go without the shift to `to`: the service's split, else its other subsets, all alike."""
    if any(service.split.values()):
        return dict(service.split)
    return {name: 1 for name in service.subsets if name != to}


def apportioned(shares: Mapping[str, int], whole: int) -> dict[str, int]:
    """`whole` in the proportions of `shares` by largest remainder, so that the parts sum to it; nothing of nothing."""
    total = sum(shares.values())
    if not total:
        return dict.fromkeys(shares, 0)
    parts = {name: share * whole // total for name, share in shares.items()}
    remainders = sorted(shares, key=lambda name: -(shares[name] * whole % total))
    for name in remainders[: whole - sum(parts.values())]:
        parts[name] += 1
    return parts


def weights(before: Mapping[str, int], to: str, weight: int) -> dict[str, int]:
    """`weight` per cent for `to`; the others keep their proportions of what remains."""
    others = {name: share for name, share in before.items() if name != to}
    return {**apportioned(others, WHOLE - weight), to: weight}


def begun(shift: Shift, before: Mapping[str, int], now: float) -> Canary:
    """The first step: `step` points more than the subset has in `before`, at once. Done if it has `until` already."""
    share = apportioned(before, WHOLE).get(shift.to, 0)
    if share >= shift.until:
        return Canary(identity(shift), State.DONE, share, now, f"{shift.to} had {share} % already")
    return Canary(identity(shift), State.RUNNING, min(shift.until, share + shift.step), now)


def stepped(shift: Shift, canary: Canary, now: float, seen: Seen) -> Canary:
    """The canary after a look at `now`."""
    if canary.state in FINAL:
        return canary
    if now < canary.since:
        canary = msgspec.structs.replace(canary, since=now)
    verdict = judged(shift, canary, now, seen)
    state = TRANSITIONS[canary.state, verdict]
    weight, since = canary.weight, canary.since
    if verdict is Verdict.GOOD:
        weight, since = min(shift.until, weight + shift.step), now
    elif verdict is Verdict.ABSENT:
        since = now
    return Canary(canary.shift, state, weight, since, _reason(shift, verdict, seen))


def judged(shift: Shift, canary: Canary, now: float, seen: Seen) -> Verdict:
    """What is known about the step in force."""
    calls, failures = seen.canary
    enough = calls >= shift.min_requests
    if enough and 100 * Fraction(calls - failures, calls) < Fraction(bound(shift)):
        return Verdict.BAD
    if not seen.endpoints:
        return Verdict.ABSENT
    if now - canary.since < seconds(shift.every):
        return Verdict.EARLY
    if not enough:
        return Verdict.BAD if _is_hopeless(shift, seen.canary) else Verdict.FEW
    return Verdict.LAST if canary.weight >= shift.until else Verdict.GOOD


def _is_hopeless(shift: Shift, counts: Counts) -> bool:
    """Whether a step that is over has seen calls, all of which failed: a breaker then keeps further ones away, and
    `min_requests` would never be reached."""
    return counts.calls >= HOPELESS and counts.failures == counts.calls and Fraction(bound(shift)) > 0


def bound(shift: Shift) -> str:
    """The per cent in `abort_on`, as written."""
    return shift.abort_on.removeprefix("success<").removesuffix("%")


def success(counts: Counts) -> float | None:
    """Successful calls of all, in 0…1; None of none."""
    return (counts.calls - counts.failures) / counts.calls if counts.calls else None


def _reason(shift: Shift, verdict: Verdict, seen: Seen) -> str:
    calls, failures = seen.canary
    match verdict:
        case Verdict.BAD:
            # Rounded down, so that the text never says `99.0 % < 99 %`.
            digits = 10 ** max(1, len(bound(shift).partition(".")[2]))
            rate = (calls - failures) * 100 * digits // calls / digits
            return f"success {rate} % < {bound(shift)} % over {calls} requests"
        case Verdict.ABSENT:
            return f"{shift.to} has no endpoint"
        case Verdict.FEW if not calls and seen.rest.calls:
            return f"{shift.to} got none of {seen.rest.calls} requests"
        case Verdict.FEW:
            return f"too little asked to judge: {calls} of {shift.min_requests} requests"
        case _:
            return ""
