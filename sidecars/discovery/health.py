"""When active checks call an endpoint up or down.

Rules: until the first success accept nothing (UNKNOWN counts as not healthy); then `failures` in a row make it DOWN,
and `successes` in a row make it UP again. Pure: one check's outcome in, the next `Health` out; who checks, and when, is
`probes.py`.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class Condition(StrEnum):
    """What the checks so far say."""

    UNKNOWN = "unknown"
    UP = "up"
    DOWN = "down"


@dataclass(frozen=True, slots=True)
class Thresholds:
    """How many outcomes in a row turn the condition."""

    failures: int = 3
    successes: int = 1


@dataclass(frozen=True, slots=True)
class Health:
    """A condition, and the run of outcomes against it."""

    condition: Condition = Condition.UNKNOWN
    run: int = 0

    @property
    def healthy(self) -> bool:
        return self.condition is Condition.UP

    def after(self, success: bool, thresholds: Thresholds) -> Health:
        """The health after one more check. UNKNOWN turns either way, by the threshold of that way."""
        target = Condition.UP if success else Condition.DOWN
        if self.condition is target:
            return Health(target)
        if self.condition is Condition.UNKNOWN:
            run = (max(self.run, 0) + 1) if success else (min(self.run, 0) - 1)
        else:
            run = self.run + 1
        if abs(run) >= (thresholds.successes if success else thresholds.failures):
            return Health(target)
        return Health(self.condition, run)
