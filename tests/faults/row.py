"""A row of a table of faults, as data: what is broken, what is promised, and how it is tried.

A further row is an entry in a table, a further table a module with a tuple of rows; the rig knows none of them.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Literal

from tests.faults.bed import Bed, Stage
from tests.faults.load import Flow, Load
from tests.faults.verdict import Trial, repetitions

BOTH = (Flow(), Flow("POST", rate=100))
READS = (Flow(rate=300),)


class Fault(ABC):
    """How a row is tried."""

    def clean(self, bed: Bed) -> str:
        """Why what is promised could not be kept here even if nothing were broken; empty if it could."""
        return ""

    @abstractmethod
    def strike(self, bed: Bed, trial: Trial, load: Load) -> None:
        """Breaks something under load and tells the trial what came of it; an AssertionError breaks a promise too."""

    def heal(self, bed: Bed) -> None:  # noqa: B027 - most of what is struck comes back by itself
        """Brings the bed back to where it was, after the load."""


@dataclass(frozen=True)
class Row:
    """`name` is what ROWS= picks. A repetition has `seconds` of load, `short_seconds` in a short run.

    `to`: the load goes through the caller, or directly to the public port of `orders`. `forgiven`: so many failed
    requests a repetition are within the promise; None where the load is meant to fail. `slower`: the load's p99 may be
    so many times that of the clean window, or of a bystander's load. `compares`: its verdict compares times in another
    way, or holds against the clock what is mostly work of a CPU (a start in 1 s, an end in 10 ms), which would tell who
    else has work. `quick` rows make the short run.
    """

    name: str
    table: str
    fault: str
    promise: str
    how: Fault
    stage: Stage
    seconds: float
    short_seconds: float | None = None
    flows: Sequence[Flow] = BOTH
    to: Literal["outbound", "inbound"] = "outbound"
    forgiven: int | None = 0
    slower: float | None = None
    compares: bool = False
    quick: bool = False

    @property
    def repetitions(self) -> int:
        return repetitions(self.seconds)

    @property
    def exclusive(self) -> bool:
        """Whether the machine must do nothing else meanwhile."""
        return self.compares or self.slower is not None


def pick(rows: Sequence[Row], patterns: Sequence[str]) -> list[Row]:
    """The rows whose names match one of the patterns (`kill-*`), in their order. Raises ValueError for one that none
    matches."""
    for pattern in patterns:
        if not any(fnmatchcase(row.name, pattern) for row in rows):
            raise ValueError(f"no row is called {pattern!r}; there are: {', '.join(row.name for row in rows)}")
    return [row for row in rows if not patterns or any(fnmatchcase(row.name, pattern) for pattern in patterns)]
