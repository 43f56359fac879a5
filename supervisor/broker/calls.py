"""Requests on their way through the broker. Pure.

A call ends by its answer, or when one of its two peers leaves, or when its asker has `MAX_OPEN` younger ones: then it
has given up long ago, since only a deadline at the asker's makes it ask on. So nothing here grows, without any clock.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import count
from typing import Final

MAX_OPEN: Final = 64
"""Calls of one asker."""


@dataclass(frozen=True)
class Call:
    """`asker` and `handler` are peers; `asked` is the id that the asker gave, `to` the role that it asked."""

    asker: int
    asked: int
    handler: int
    to: str


class Calls:
    """Open calls by the id that the handler sees."""

    def __init__(self) -> None:
        self._ids = count(1)
        self._open: dict[int, Call] = {}

    def __len__(self) -> int:
        return len(self._open)

    def begin(self, call: Call) -> tuple[int, Call | None]:
        """The id for the second leg, and the call that had to give way."""
        mine = [number for number, other in self._open.items() if other.asker == call.asker]
        displaced = self._open.pop(mine[0]) if len(mine) >= MAX_OPEN else None
        number = next(self._ids)
        self._open[number] = call
        return number, displaced

    def end(self, number: int, handler: int) -> Call | None:
        """The call that `handler` answers; None if it is not open (its asker may have left) or not the handler's."""
        call = self._open.get(number)
        if call is None or call.handler != handler:
            return None
        return self._open.pop(number)

    def leave(self, peer: int) -> list[Call]:
        """Forgets a peer; the calls of others that it can no longer answer."""
        ended = {n: call for n, call in self._open.items() if peer in (call.asker, call.handler)}
        for number in ended:
            del self._open[number]
        return [call for call in ended.values() if call.asker != peer]
