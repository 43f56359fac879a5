"""What waits to be sent on one connection, and who does not read.

- What one is told at once is sent at once, as far as his socket takes it, without waking anybody for it: a task is
  there for who reads slowly alone. That, and not the encoding, was what a change cost.
- Frames that many are told are one object, however many they wait for.
- What he is told may be dropped, since he can be told everything anew when he has read the rest. Answers never are; who
  asks on and on and reads none of them is let go.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Sequence
from itertools import islice
from typing import Final

import trio
from pannier.shared.pilot_stream import StreamError

WAITING_BYTES: Final = 8 * 1024 * 1024
"""That wait for one who reads slowly; beyond that he is told everything anew, which may be more."""
WAITING_ANSWERS: Final = 10_000
WRITE_SECONDS: Final = 10.0
"""In which he has to read something."""
_PARTS: Final = 256


class Outgoing:
    """The sending side of a connection. `unsent` collects those that have something to send; `everything` is what one
    is told who has fallen `behind`."""

    def __init__(
        self, descriptor: int, unsent: dict[Outgoing, None], everything: Callable[[], Sequence[bytes]]
    ) -> None:
        self.behind = False
        self.frames = 0
        self._descriptor: int | None = descriptor
        self._unsent = unsent
        self._everything = everything
        self._begun = memoryview(b"")  # the rest of a frame of which something has been sent
        self._answers: deque[bytes] = deque()
        self._told: deque[bytes] = deque()
        self._size = 0
        self._anew = 0  # frames of those told, which were told anew and are not counted
        self._full = self._ending = False
        self._blocked = trio.Event()

    def answer(self, frame: bytes) -> None:
        """To what he has asked. Raises StreamError if he reads none of them."""
        if len(self._answers) >= WAITING_ANSWERS:
            raise StreamError(f"{WAITING_ANSWERS} answers wait to be read")
        self._answers.append(frame)
        self._unsent[self] = None

    def tell(self, frame: bytes) -> None:
        """What he follows."""
        if self.behind:
            return
        self._told.append(frame)
        self._size += len(frame)
        self._unsent[self] = None
        if self._size > WAITING_BYTES and len(self._told) > 1:
            self.tell_everything()

    def tell_everything(self) -> None:
        """As soon as he has read what has begun."""
        self.behind = True
        self._told.clear()
        self._size = self._anew = 0
        self._unsent[self] = None

    def send(self) -> None:
        """What waits, as much of it as the socket takes at once."""
        self._unsent.pop(self, None)
        while self._descriptor is not None and not self._full:
            if self.behind and not self._begun:
                self.behind = False
                self._told.extend(self._everything())
                self._anew = len(self._told)
            parts: list[bytes | memoryview] = [self._begun, *islice(self._answers, _PARTS)]
            parts += islice(self._told, max(0, _PARTS - len(self._answers)))
            try:
                sent = os.writev(self._descriptor, parts)
            except BlockingIOError:
                self._full = True
                self._blocked.set()
            except OSError:  # he has gone, which whoever reads from him will see
                self.end()
            else:
                self._has_sent(sent, parts)
                if not self._waits:
                    return

    async def run(self) -> bool:
        """Sends what the socket has not taken at once; until `end`. False if he does not read."""
        while self._waits or not self._ending:
            await self._blocked.wait()
            self._blocked = trio.Event()
            if self._descriptor is None or not self._waits:
                continue
            with trio.move_on_after(WRITE_SECONDS) as deadline:
                await trio.lowlevel.wait_writable(self._descriptor)
            if deadline.cancelled_caught:
                return False
            self._full = False
            self.send()
        return True

    def end(self, *, after_all: bool = False) -> None:
        """Nothing is sent any more, or nothing else than what waits (`after_all`)."""
        self._ending = True
        if not after_all:
            self._descriptor = None
            self._answers.clear()
            self._told.clear()
            self._begun = memoryview(b"")
        self._unsent.pop(self, None)
        self._blocked.set()

    @property
    def _waits(self) -> bool:
        return bool(self._begun or self._answers or self._told or self.behind) and self._descriptor is not None

    def _has_sent(self, sent: int, parts: Sequence[bytes | memoryview]) -> None:
        waiting = len(self._answers) + len(self._told)
        if len(parts) == waiting + 1 and sent == sum(map(len, parts)):  # all of it, as nearly always
            self.frames += waiting
            self._answers.clear()
            self._told.clear()
            self._size = 0
            self._begun = memoryview(b"")
            return
        for position, part in enumerate(parts):
            if position:
                self._take_first()
            if sent < len(part):
                self._begun = memoryview(part)[sent:]
                return
            sent -= len(part)
        self._begun = memoryview(b"")

    def _take_first(self) -> None:
        """The first frame that waits is under way."""
        self.frames += 1
        if self._answers:
            self._answers.popleft()
            return
        told = self._told.popleft()
        if self._anew:
            self._anew -= 1
        else:
            self._size -= len(told)
