"""The load side: an open loop of numbered requests at a steady rate, and the notes that it keeps of them.

Request k is due at `start + (k - 1) / rate` whatever became of the ones before it, and its latency counts from that
moment: a server that stalls cannot slow the load down and so hide the stall.
Failed = no answer (refused, reset), an answer after 2 s, a wrong status, or a wrong body. Each is failed once.
"""

from __future__ import annotations

import itertools
from array import array
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field

import mix
import trio
from client import Broken, Response
from ledger import Failure

RATE = 300.0
TOO_LATE_SECONDS = 2.0
WINDOW_SECONDS = 10.0
Exchange = Callable[[mix.Ask], Awaitable[Response]]


@dataclass(slots=True)
class Notes:
    """What the load saw: the latency (seconds) of every request, why some failed, which orders were placed.

    `seconds` is for how long it sent; 0 until it has ended.
    """

    latencies: array[float] = field(default_factory=lambda: array("d"))
    failures: dict[int, Failure] = field(default_factory=dict)
    placed: array[int] = field(default_factory=lambda: array("q"))
    recent: deque[tuple[float, float, bool]] = field(default_factory=deque)
    seconds: float = 0.0

    def take(self, ask: mix.Ask, now: float, latency: float, failure: Failure | None) -> None:
        self.latencies.append(latency)
        self.recent.append((now, latency, failure is None))
        while self.recent[0][0] < now - WINDOW_SECONDS:
            self.recent.popleft()
        if failure is not None:
            self.failures[ask.number] = failure
        elif not ask.idempotent:
            self.placed.append(ask.number)

    def window(self, now: float) -> list[tuple[float, bool]]:
        """(latency, good) of the requests that ended in the last 10 s."""
        return [(latency, good) for at, latency, good in self.recent if at >= now - WINDOW_SECONDS]


async def drive(
    exchange: Exchange,
    notes: Notes,
    *,
    until: trio.CancelScope,
    rate: float = RATE,
    ask: Callable[[int, Sequence[int]], mix.Ask] = mix.ask,
) -> None:
    """Send until the scope `until` is cancelled or its deadline passes, then wait for what is in flight."""
    start = trio.current_time()
    async with trio.open_nursery() as nursery:
        with until:
            for number in itertools.count(1):
                due = start + (number - 1) / rate
                await trio.sleep_until(due)
                nursery.start_soon(_one, exchange, notes, ask(number, notes.placed), due)
        notes.seconds = trio.current_time() - start


async def _one(exchange: Exchange, notes: Notes, ask: mix.Ask, due: float) -> None:
    failure: Failure | None = Failure(f"no answer in {TOO_LATE_SECONDS:g} s")
    with trio.move_on_at(due + TOO_LATE_SECONDS):
        try:
            response = await exchange(ask)
        except Broken as error:
            failure = Failure(str(error))
        else:
            wrong = ask.wrong(response)
            failure = Failure(f"{ask.kind}: {wrong}", response.status) if wrong else None
    now = trio.current_time()
    notes.take(ask, now, now - due, failure)
