"""What a registry has decided since its pilot has begun, counted for metrics and status.

Bounded: nothing here is named by who asks.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from enum import StrEnum
from typing import Final

from pannier.sidecars.pilot.registry.entries import Verdict

FULL: Final = "full"
UNREACHABLE: Final = "unreachable"


class Action(StrEnum):
    """What was asked of the registry, or what it did by itself."""

    REGISTER = "register"
    MOVE = "move"
    LEAVE = "leave"
    DOUBT = "doubt"
    GIVE_UP = "give_up"
    TAKE_OVER = "take_over"
    RESTORE = "restore"


ASKED: Final[Mapping[Action, Sequence[str]]] = {
    Action.REGISTER: (Verdict.CREATED, Verdict.CHANGED, Verdict.RENEWED, Verdict.STALE, FULL, UNREACHABLE),
    Action.MOVE: (Verdict.CHANGED, Verdict.RENEWED, Verdict.STALE, Verdict.UNKNOWN, UNREACHABLE),
    Action.LEAVE: (Verdict.REMOVED, Verdict.STALE, Verdict.UNKNOWN, FULL, UNREACHABLE),
}
"""What may come of what others ask for; an end that comes before its beginning is kept, if there is room."""


class Tally:
    """`decisions` are by action and verdict, or by what came instead of one (`FULL`, `UNREACHABLE`);
    `watch_errors` says how often the store's watch broke."""

    def __init__(self) -> None:
        self.decisions: Counter[tuple[Action, str]] = Counter()
        self.watch_errors = 0

    def accepted(self, action: Action) -> int:
        """How often that was done, where something came of it."""
        return sum(self.decisions[action, verdict] for verdict in Verdict if verdict.accepted)

    def failed(self) -> int:
        """How often the store could not be asked when something was to be written."""
        return sum(count for (_, came), count in self.decisions.items() if came == UNREACHABLE)
