"""What the servers of one pilot over gRPC have counted."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

import msgspec
from pannier.sidecars.pilot.grpc.call import Code


class GrpcStatus(msgspec.Struct, frozen=True):
    """`calls` run now; `ended` are counts since this pilot has begun, by code; `sent_away` are connections that were
    ended for what they did, `left` those that did not read or answer."""

    connections: int
    calls: int
    ended: Mapping[str, int]
    sent_away: int
    left: int


class Tally:
    """Counts of all listeners together."""

    def __init__(self) -> None:
        self.connections = self.calls = self.sent_away = self.left = 0
        self._ended: Counter[Code] = Counter()

    def ended(self, code: Code) -> None:
        """A call has ended so, whether its client was there to hear it or not."""
        self.calls -= 1
        self._ended[code] += 1

    def statistics(self) -> GrpcStatus:
        """All of it, as of now."""
        ended = {code.name: count for code, count in sorted(self._ended.items())}
        return GrpcStatus(self.connections, self.calls, ended, self.sent_away, self.left)
