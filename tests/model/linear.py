"""Whether what was answered about one instance can be explained by one thing happening after the other.

The search is that of Wing and Gong: of the calls that may be the next one (no other was over before they began), try
each whose answer fits what is in force, and go on from there; who has been here before with the same calls done and the
same state in force need not try again. A call without an answer may happen at any time after it began, or never.

`Slot` says in a few lines what one item of the registry is. It is written from docs/pilot.md, not from the code: what a
life may do, and what comes of it. Between any two calls a life may be given up, since time is not part of it; whether
that was right is for `invariants.py` to say.

`lag`: a registration that changes nothing (a renewal, a refusal) may be answered by what was so many seconds ago:
pilots that share a store hear of each other by its watch, and ask it only before they write.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from pannier.shared.instances import Key

from tests.model.history import NEVER, Call, History

MAX_STATES = 200_000


class Slot(NamedTuple):
    """What is in force of one instance. `phase`: never seen, in force, given up for dead, ended on purpose."""

    epoch: int = 0
    phase: str = "none"
    address: str = ""

    def after(self, call: Call) -> Slot | None:
        """What is in force after that call, if its answer fits; None if it does not."""
        return {"register": self._registered, "drain": self._drained, "leave": self._left}[call.kind](call)

    def given_up(self) -> Slot | None:
        return self._replace(phase="fallen") if self.phase == "alive" else None

    def _registered(self, call: Call) -> Slot | None:
        alive = self.phase == "alive"
        epoch = call.epoch or (self.epoch if alive and self.address == call.address else self.epoch + 1)
        second = epoch == self.epoch and (self.phase == "final" or (alive and self.address != call.address))
        if self.phase != "none" and (epoch < self.epoch or second):
            return self if call.verdict in {"stale", None} else None
        fits = call.verdict is None or (call.answered == epoch and call.verdict == ("accepted" if alive else "created"))
        return Slot(epoch, "alive", call.address) if fits else None

    def _drained(self, call: Call) -> Slot | None:
        if call.epoch < self.epoch:
            expected = "stale"
        else:
            expected = "accepted" if self.phase == "alive" and call.epoch == self.epoch else "unknown"
        return self if call.verdict in {expected, None} else None

    def _left(self, call: Call) -> Slot | None:
        alive = self.phase == "alive"
        if not call.epoch:
            expected, after = ("accepted", Slot(self.epoch, "final")) if alive else ("unknown", self)
        elif call.epoch < self.epoch:
            expected, after = "stale", self
        else:
            expected = "accepted" if alive and call.epoch == self.epoch else "unknown"
            after = Slot(call.epoch, "final")
        return after if call.verdict in {expected, None} else None


def explained(calls: Sequence[Call], *, lag: float = 0.0) -> bool:
    """Whether calls about one instance have an order that explains them. Raises OverflowError if that is not found out
    within `MAX_STATES` steps."""
    began = [call.began - (lag if _changed_nothing(call) else 0.0) for call in calls]
    whole = sum(1 << number for number, call in enumerate(calls) if call.ended < NEVER)
    seen: set[tuple[int, Slot]] = set()
    waiting = [(0, Slot())]
    while waiting:
        done, slot = waiting.pop()
        if done & whole == whole:
            return True
        if (done, slot) in seen:
            continue
        seen.add((done, slot))
        if len(seen) > MAX_STATES:
            raise OverflowError(f"{len(calls)} calls overlap too much to be told apart")
        possible = [(number, slot.after(calls[number])) for number in _next(calls, began, done)]
        idle = [number for number, after in possible if after == slot and calls[number].verdict is not None]
        if idle:  # whatever changes nothing may as well happen now: then it is in nobody's way
            waiting.append((done | sum(1 << number for number in idle), slot))
        else:
            waiting += [(done | 1 << number, after) for number, after in possible if after not in {None, slot}]
            if (fallen := slot.given_up()) is not None:
                waiting.append((done, fallen))
    return False


def unexplained(history: History, *, lag: float = 0.0) -> list[Key]:
    """The instances whose calls no order explains."""
    return [key for key in history.instances() if not explained(history.of(key), lag=lag)]


def _next(calls: Sequence[Call], began: Sequence[float], done: int) -> Iterator[int]:
    left = [number for number in range(len(calls)) if not done >> number & 1]
    first_end = min(calls[number].ended for number in left)
    lost: set[tuple[str, int, str]] = set()  # of those that say the same, whichever came first will do
    for number in left:
        call = calls[number]
        said = call.kind, call.epoch, call.address
        if began[number] <= first_end and not (call.verdict is None and said in lost):
            yield number
        if call.verdict is None:
            lost.add(said)


def _changed_nothing(call: Call) -> bool:
    return call.kind == "register" and (call.verdict == "stale" or (call.again and call.verdict == "accepted"))
