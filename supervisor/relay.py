"""What the processes print: copied on to our own output, and the last lines kept for `pannier logs`.

Rules:
- The app's bytes are copied raw, each stream to its own: `run CMD | jq` must see what CMD printed and nothing else.
- Governance prints lines, each behind the name of who said it, on our stderr.
- Nothing here may block: our own output can be a pipe that nobody reads, so writes happen in a thread, one at a time a
  stream. The keeper discards what we are too slow for, and the app never notices.
- A reader that went away (`run CMD | head -1`) ends the copying, not the app; the last lines are still kept.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Awaitable, Callable
from typing import Final

import msgspec
import trio

KEPT: Final = 500  # lines
LONGEST: Final = 8192  # bytes of a line; longer ones are cut into several
CHUNK: Final = 65536

_LEAVE_OUT: Final = dict.fromkeys(i for i in (*range(32), 127) if i not in {9, 27})


class Line(msgspec.Struct, frozen=True):
    """One line without its end; `at` in milliseconds since the epoch."""

    at: int
    process: str
    stream: str
    text: str


class Splitter:
    """Bytes in, whole lines out. Pure."""

    def __init__(self) -> None:
        self._rest = b""

    def feed(self, data: bytes) -> list[str]:
        *whole, rest = (self._rest + data).split(b"\n")
        while len(rest) > LONGEST:
            whole.append(rest[:LONGEST])
            rest = rest[LONGEST:]
        self._rest = rest
        return [piece for line in whole for piece in _pieces(line)]

    def end(self) -> list[str]:
        """The last line, if it was not ended."""
        rest, self._rest = self._rest, b""
        return _pieces(rest) if rest else []


def _pieces(line: bytes) -> list[str]:
    line = line.removesuffix(b"\r")
    cuts = range(0, max(1, len(line)), LONGEST)
    return [line[cut : cut + LONGEST].decode(errors="replace").translate(_LEAVE_OUT) for cut in cuts]


class Sink:
    """One of our own output streams; a write that fails silences it for good."""

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._lock = trio.Lock()
        self.broken = False

    async def write(self, data: bytes) -> None:
        """Writes all of `data`, or nothing once the reader is gone; never raises OSError."""
        async with self._lock:
            if not self.broken:
                self.broken = not await trio.to_thread.run_sync(_write_all, self._fd, data, abandon_on_cancel=True)


def _write_all(fd: int, data: bytes) -> bool:
    view = memoryview(data)
    try:
        while view:
            view = view[os.write(fd, view) :]
    except OSError:
        return False
    return True


class Tail:
    """The last `KEPT` lines of all processes, and whoever wants to hear of new ones."""

    def __init__(self, now_ms: Callable[[], int], listener: Callable[[list[Line]], Awaitable[None]]) -> None:
        self._now_ms = now_ms
        self._listener = listener
        self._lines: deque[Line] = deque(maxlen=KEPT)

    async def add(self, process: str, stream: str, texts: list[str]) -> None:
        if texts:
            at = self._now_ms()
            lines = [Line(at, process, stream, text) for text in texts]
            self._lines.extend(lines)
            await self._listener(lines)

    def last(self, count: int) -> list[Line]:
        return list(self._lines)[-count:] if count > 0 else []


async def relay(fd: int, process: str, stream: str, *, sink: Sink, tail: Tail, prefix: bytes | None) -> None:
    """Copies `fd`, which it owns, to `sink` until its end. `prefix` None = raw, else put before every line."""
    splitter = Splitter()
    async with trio.lowlevel.FdStream(fd) as source:
        while True:
            try:
                data = await source.receive_some(CHUNK)
            except (trio.BrokenResourceError, OSError):
                data = b""
            texts = splitter.feed(data) if data else splitter.end()
            if prefix is None:
                if data:
                    await sink.write(bytes(data))
            elif texts:
                await sink.write(b"".join(prefix + text.encode() + b"\n" for text in texts))
            await tail.add(process, stream, texts)
            if not data:
                return
