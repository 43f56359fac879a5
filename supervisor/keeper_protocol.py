"""What the supervisor and the keeper say to each other. Pure: values in, bytes out, and back.

The layout is documented where the keeper decodes it (`shared/core/keeper/src/protocol.rs`): fixed little-endian frames,
so that a supervisor can be replaced under a keeper that stays. Texts of the operating system (arguments, environment,
paths) cross as the bytes they are.
"""

from __future__ import annotations

import errno
import os
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum

from pannier.shared.errors import Blame, PannierError

MESSAGE_MAX = 192 * 1024
NOTE_MAX = 180 * 1024
REPLY = 0x80
PROTOCOL = 1


class Op(IntEnum):
    HELLO = 1
    LIST = 2
    SPAWN = 3
    SIGNAL = 4
    LISTEN = 5
    MEMFD = 6
    FETCH = 7
    RELEASE = 8
    NOTE_PUT = 9
    NOTE_GET = 10
    GRACE = 11
    FORGET = 12
    SHUTDOWN = 13
    LISTEN_UNIX = 14
    SWAP = 15
    RENEW = 16
    EXITED = 64


class KeeperError(PannierError):
    """The keeper refused a request; `errno` says why."""

    blame = Blame.PLATFORM

    def __init__(self, errno_: int, message: str, *, hint: str = "") -> None:
        super().__init__(message, hint=hint)
        self.errno = errno_


class KeeperGone(PannierError):
    """The keeper ended, or there is none."""

    blame = Blame.PLATFORM


class Stdio(IntEnum):
    """Where a standard stream of a process leads: nowhere, to the keeper's own, or into a pipe to `Keeper.fetch`."""

    NULL = 0
    INHERIT = 1
    PIPE = 2


@dataclass(frozen=True, slots=True)
class Greeting:
    """Who the keeper is: its pid, and its start in milliseconds since the epoch."""

    pid: int
    started_ms: int


@dataclass(frozen=True, slots=True)
class Exited:
    """A process that ended, by `code` or by `signal`; the other one is None."""

    name: str
    pid: int
    code: int | None = None
    signal: int | None = None

    @property
    def exit_code(self) -> int:
        """As a shell says it: the code, or 128 + the signal."""
        return 128 + self.signal if self.signal is not None else self.code or 0


@dataclass(frozen=True, slots=True)
class Process:
    """An entry of the keeper's list. `start_time` is in clock ticks since boot: with the pid it names one process."""

    name: str
    pid: int
    start_time: int
    exited: Exited | None

    @property
    def running(self) -> bool:
        return self.exited is None


@dataclass(frozen=True, slots=True)
class Listing:
    """What a keeper has: processes, names of held descriptors, keys of notes."""

    processes: tuple[Process, ...]
    held: tuple[str, ...]
    notes: tuple[str, ...]


def request(op: Op, sequence: int, body: bytes) -> bytes:
    message = struct.pack("<BI", op, sequence) + body
    if len(message) > MESSAGE_MAX:
        raise KeeperError(errno.EMSGSIZE, f"{op.name} needs {len(message)} bytes; a message has {MESSAGE_MAX} at most")
    return message


def hello() -> bytes:
    return struct.pack("<II", PROTOCOL, os.getpid())


def text(text: str) -> bytes:
    """Text as the operating system has it: what was no UTF-8 there is none here either."""
    encoded = os.fsencode(text)
    if len(encoded) > 0xFFFF:
        raise KeeperError(errno.EMSGSIZE, f"a text of {len(encoded)} bytes, where 65535 are the most")
    return struct.pack("<H", len(encoded)) + encoded


def texts(texts: Sequence[str]) -> bytes:
    if len(texts) > 0xFFFF:
        raise KeeperError(errno.EMSGSIZE, f"a list of {len(texts)} texts, where 65535 are the most")
    return struct.pack("<H", len(texts)) + b"".join(map(text, texts))


class Reader:
    """Takes fields off the front of a reply. Raises KeeperError EBADMSG where one is missing."""

    def __init__(self, body: bytes) -> None:
        self._body = body
        self._at = 0

    def _unpack(self, layout: str) -> int:
        end = self._at + struct.calcsize(layout)
        if end > len(self._body):
            raise KeeperError(errno.EBADMSG, "the keeper's answer is cut off")
        (value,) = struct.unpack_from(layout, self._body, self._at)
        self._at = end
        return int(value)

    def u8(self) -> int:
        return self._unpack("<B")

    def u16(self) -> int:
        return self._unpack("<H")

    def u32(self) -> int:
        return self._unpack("<I")

    def i32(self) -> int:
        return self._unpack("<i")

    def u64(self) -> int:
        return self._unpack("<Q")

    def blob(self) -> bytes:
        return self._take(self.u32())

    def text(self) -> str:
        return os.fsdecode(self._take(self.u16()))

    def texts(self) -> tuple[str, ...]:
        return tuple(self.text() for _ in range(self.u16()))

    def _take(self, length: int) -> bytes:
        taken = self._body[self._at : self._at + length]
        if len(taken) < length:
            raise KeeperError(errno.EBADMSG, "the keeper's answer is cut off")
        self._at += length
        return taken


def read_greeting(body: bytes) -> Greeting:
    reader = Reader(body)
    return Greeting(pid=reader.u32(), started_ms=reader.u64())


def _read_exit(reader: Reader, name: str, pid: int) -> Exited:
    by_signal, value = reader.u8(), reader.i32()
    return Exited(name, pid, signal=value) if by_signal else Exited(name, pid, code=value)


def read_exited(reader: Reader) -> Exited:
    return _read_exit(reader, reader.text(), reader.u32())


def _read_process(reader: Reader) -> Process:
    name, pid, ended = reader.text(), reader.u32(), reader.u8()
    exited = _read_exit(reader, name, pid)
    return Process(name, pid, reader.u64(), exited if ended else None)


def read_listing(body: bytes) -> Listing:
    reader = Reader(body)
    processes = tuple(_read_process(reader) for _ in range(reader.u16()))
    return Listing(processes, held=reader.texts(), notes=reader.texts())
