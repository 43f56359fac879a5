"""Replays what a host measured, or could have measured, through the data path's own controller, on a virtual clock.

The controller is the compiled one, so what a replay shows is what a host does. A recorded trace is an open loop: its
inputs are what they were, whatever weight the replay comes to. A synthetic host is a closed one: it is told each
weight, and its next inputs follow from it.
"""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass
from typing import Annotated, Any, Final, TypeAlias

from msgspec import Meta, Struct
from pannier import _native

GAP_MS: Final = 2_000
"""Of a longer gap nobody knows what was in it; the controller takes it for a clock that jumped."""

LATEST_MS: Final = 2**63 - 1

Number = Annotated[float, Meta(ge=0, description="a number, 0 or above")]


class Inputs(Struct, frozen=True, forbid_unknown_fields=True):
    """What was measured: pressure and `throttled` in percent, waits in milliseconds, `idle` and `returning` in 0…1 of
    the CPU that there is. None could not be read."""

    host_pressure: Number | None = None
    cgroup_pressure: Number | None = None
    throttled: Number | None = None
    run_delay_ms: Number | None = None
    queue_wait_ms: Number | None = None
    idle: Number | None = None
    returning: Number | None = None


class Moment(Inputs, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One line of a trace: what was measured at `ms`, and what the way out allowed: `limit` and `forced` in points."""

    ms: Annotated[int, Meta(ge=0, le=LATEST_MS, description="milliseconds, 0 to 2^63 - 1")]
    usable: bool = True
    limit: Number = 100.0
    forced: Number | None = None


Host: TypeAlias = Generator[Moment, float, None]
"""Yields moments, and is sent the weight that followed from each."""


@dataclass(frozen=True, slots=True)
class Change:
    """From `ms` after the beginning on it is another state or reason, or the weight begins or ends to rise."""

    ms: int
    state: str
    reason: str
    weight: float
    moment: Moment


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of it; times in milliseconds after the beginning, None if it never happened.

    `pressed_ms` is when the inputs grew hot that first made the enter rule hold, at `starving_ms`; `relief_ms` and
    `full_ms` are the first weight above 0, and the first at all that may leave.
    """

    length_ms: int
    pressed_ms: int | None
    starving_ms: int | None
    relief_ms: int | None
    full_ms: int | None
    reversals: int
    shifted_ms: int
    changes: list[Change]


def simulate(host: Host, controller: bytes | None, seed: int) -> Outcome:
    """Drives the controller with every moment of `host`.

    `controller` is the map of that name in table `central`, in msgpack; None has the defaults. Raises ValueError if its
    numbers are refused, and what `host` raises.
    """
    replay = _Replay(_native.CentralController(controller, seed))
    moment = next(host, None)
    while moment is not None:
        weight = replay.take(moment)
        try:
            moment = host.send(weight)
        except StopIteration:
            break
    return replay.outcome()


class _Replay:
    def __init__(self, controller: _native.CentralController) -> None:
        self._controller = controller
        self._began: int | None = None
        self._last = 0
        self._now = 0
        self._weight = 0.0
        self._seen: tuple[Any, ...] = ()
        self._times: dict[str, int] = {}
        self._reversals = 0
        self._shifted = 0
        self._changes: list[Change] = []

    def take(self, moment: Moment) -> float:
        """The weight that follows."""
        if self._began is None:
            self._began = self._last = moment.ms
        passed = moment.ms - self._last
        self._last = moment.ms
        if 0 < passed <= GAP_MS:
            self._now += passed
            self._shifted += passed * (self._weight > 0)
        decision = self._controller.step(
            moment.ms,
            host_pressure=moment.host_pressure,
            cgroup_pressure=moment.cgroup_pressure,
            throttled=moment.throttled,
            queue_wait_ms=moment.queue_wait_ms,
            idle=moment.idle,
            returning=moment.returning or 0.0,
            usable=moment.usable,
            limit=moment.limit,
            forced=moment.forced,
        )
        self._note(decision, moment)
        return decision.weight

    def _note(self, decision: _native.CentralDecision, moment: Moment) -> None:
        weight = decision.weight
        seen = (decision.state, decision.reason, weight > self._weight)
        if seen != self._seen:
            self._changes.append(Change(self._now, decision.state, decision.reason, weight, moment))
        self._seen, self._weight, self._reversals = seen, weight, decision.reversals
        hot = decision.starving or (decision.state, decision.reason) == ("local", "holding")
        if not hot and "starving" not in self._times:
            self._times.pop("pressed", None)
        for name, happened in (
            ("pressed", hot),
            ("starving", decision.starving),
            ("relief", weight > 0),
            ("full", weight > 0 and weight >= min(100.0, moment.limit)),
        ):
            if happened:
                self._times.setdefault(name, self._now)

    def outcome(self) -> Outcome:
        time = self._times.get
        return Outcome(
            length_ms=self._now,
            pressed_ms=time("pressed"),
            starving_ms=time("starving"),
            relief_ms=time("relief"),
            full_ms=time("full"),
            reversals=self._reversals,
            shifted_ms=self._shifted,
            changes=self._changes,
        )
