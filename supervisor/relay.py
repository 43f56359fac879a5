"""What the processes print: copied on to our own output, and the last lines kept for `pannier logs`.

Rules:
- The app's bytes are copied raw, each stream to its own: `run CMD | jq` must see what CMD printed and nothing else.
- Governance prints lines, each behind the name of who said it, on our stderr.
- Reading never waits for writing: the keeper takes a pipe that fills up for one that nobody reads, and discards from
  it. So what our own output does not take yet waits here, up to `HELD_BACK`; beyond that it is the keeper's to discard.
- Writes happen in a thread, since our own output may be a pipe that somebody reads slowly or not at all.
- A reader that went away (`run CMD | head -1`) ends the copying, not the app; the last lines are still kept.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Awaitable, Callable, Iterator, Sequence
from typing import Final

import msgspec
import trio

KEPT: Final = 500  # lines
LONGEST: Final = 8192  # bytes of a line; longer ones are cut into several
BATCH: Final = 4 * LONGEST  # characters of the lines in one message
NEWEST: Final = 160 << 10  # bytes of the lines in one answer
CHUNK: Final = 1 << 20  # bytes; what the keeper's pipes hold
HELD_BACK: Final = 64 << 20  # bytes

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
    """One of our own output streams. `run` writes; one write that fails silences the stream for good."""

    def __init__(self, fd: int) -> None:
        self.broken = False
        self._fd = fd
        self._queue: deque[bytes] = deque()
        self._size = 0
        self._changed = trio.Event()

    async def write(self, data: bytes) -> None:
        """Queues `data`, and waits only while more than `HELD_BACK` bytes wait already. Never raises OSError."""
        while self._size > HELD_BACK and not self.broken:
            await self._changed.wait()
        if data and not self.broken:
            self._queue.append(data)
            self._size += len(data)
            self._tell()

    async def run(self) -> None:
        """Writes what is queued, until cancelled."""
        while True:
            while not self._queue:
                await self._changed.wait()
            data = b"".join(self._queue)
            self._queue.clear()
            whole = await trio.to_thread.run_sync(_write_all, self._fd, data, abandon_on_cancel=True)
            self._size -= len(data)
            if not whole:
                self.broken = True
                self._queue.clear()
                self._size = 0
            self._tell()

    async def wait_written(self) -> None:
        """Returns when nothing waits any more; only while `run` runs."""
        while self._size:
            await self._changed.wait()

    def _tell(self) -> None:
        self._changed.set()
        self._changed = trio.Event()


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


def latest(data: bytes) -> bytes:
    """The end of `data`, which holds at most `KEPT` whole lines: older ones of one chunk would be forgotten at once."""
    pieces = data.rsplit(b"\n", KEPT + 1)
    return b"\n".join(pieces[1:]) if len(pieces) == KEPT + 2 else data


def batches(lines: Sequence[Line]) -> Iterator[list[Line]]:
    """The lines in a few messages that fit the bus: characters of at most 4 bytes, and a limit of 256 KiB."""
    batch: list[Line] = []
    size = 0
    for line in lines:
        if size + len(line.text) > BATCH or len(batch) == KEPT:
            yield batch
            batch, size = [], 0
        batch.append(line)
        size += len(line.text)
    if batch:
        yield batch


def newest(lines: Sequence[Line]) -> Sequence[Line]:
    """As many of the last lines as fit one message."""
    size = 0
    for count, line in enumerate(reversed(lines)):
        size += len(line.text.encode())
        if size > NEWEST:
            return lines[len(lines) - count :]
    return lines


async def relay(fd: int, process: str, stream: str, *, sink: Sink, tail: Tail, prefix: bytes | None) -> None:
    """Copies `fd`, which it owns, to `sink` until its end. `prefix` None = raw, else put before every line."""
    splitter = Splitter()
    async with trio.lowlevel.FdStream(fd) as source:
        while True:
            try:
                data = await source.receive_some(CHUNK)
            except (trio.BrokenResourceError, OSError):
                data = b""
            if prefix is None:
                await sink.write(bytes(data))
                data = latest(bytes(data))
            texts = splitter.feed(bytes(data)) if data else splitter.end()
            if prefix is not None:
                await sink.write(b"".join(prefix + text.encode() + b"\n" for text in texts))
            await tail.add(process, stream, texts)
            if not data:
                return
