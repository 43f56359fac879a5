"""Whoever means harm: says what he likes, byte by byte, and counts what that costs whom.

He is paced. A flood at the speed of a core would take a core away from everybody, whatever Pannier does; what is tried
is what a small effort can do.
"""

from __future__ import annotations

import re
import select
import socket
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Self

PATIENCE_S = 5.0
EVERYBODY = slice(None)
STATUS = re.compile(rb"HTTP/1\.1 (\d{3}) ")


@dataclass
class Toll:
    """Bytes and requests of an attack: what was sent, and what that made others send. `worst` is of one answer."""

    sent: int = 0
    received: int = 0
    forwarded: int = 0

    @property
    def amplification(self) -> float:
        """Bytes towards the attacker and the origins for each of his."""
        return (self.received + self.forwarded) / max(self.sent, 1)


@dataclass(frozen=True)
class Reply:
    """All that came back until the peer ended the connection; `ended` is whether it did."""

    data: bytes
    ended: bool

    @property
    def statuses(self) -> list[int]:
        return [int(status) for status in STATUS.findall(self.data)]


def say(address: str, data: bytes, toll: Toll, *, timeout: float = PATIENCE_S) -> Reply:
    """Sends on a connection of its own and listens to its end. Raises OSError if there is no connection."""
    heard = bytearray()
    with socket.create_connection(split(address), timeout) as sock:
        toll.sent += len(data)
        ended = False
        with suppress(TimeoutError):
            with suppress(ConnectionError):
                sock.sendall(data)
                while more := sock.recv(1 << 16):
                    heard += more
            ended = True
    toll.received += len(heard)
    return Reply(bytes(heard), ended)


def split(address: str) -> tuple[str, int]:
    host, _, port = address.rpartition(":")
    return host, int(port)


def forwarded(ledgers: Path, path: str) -> tuple[int, int]:
    """(requests, bytes) of an attack's path that arrived at the origins."""
    lines = [line.split() for file in ledgers.glob("*.attacks") for line in file.read_bytes().splitlines()]
    sizes = [int(size) for where, size in lines if where == path.encode()]
    return len(sizes), sum(sizes)


@dataclass
class Crowd:
    """Many connections at once, none of which waits for another; leaving the block ends them by reset or in order.

    `window`: bytes that each takes before it has read any, 0 as the system likes it.
    """

    address: str
    count: int
    window: int = 0
    toll: Toll = field(default_factory=Toll)

    def __enter__(self) -> Self:
        self.sockets: list[socket.socket] = []
        self.heard: list[bytearray] = []
        self.over: set[int] = set()
        try:
            self.grow(self.count)
        except BaseException:
            self.leave()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.leave()

    def grow(self, count: int) -> None:
        """So many further connections."""
        for _ in range(count):
            sock = socket.socket()
            self.sockets.append(sock)
            self.heard.append(bytearray())
            if self.window:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, self.window)
            sock.settimeout(PATIENCE_S)
            sock.connect(split(self.address))
            sock.setblocking(False)

    def leave(self) -> None:
        for sock in self.sockets:
            sock.close()
        self.sockets.clear()

    def alive(self, part: slice = EVERYBODY) -> Sequence[int]:
        """The numbers of the connections that the peer has not ended, as far as was listened."""
        return [number for number in range(len(self.sockets))[part] if number not in self.over]

    def say(self, data: bytes, part: slice = EVERYBODY) -> None:
        """The same on each; what the system does not take is not sent."""
        for number in self.alive(part):
            try:
                self.toll.sent += self.sockets[number].send(data)
            except BlockingIOError:
                pass
            except OSError:
                self.over.add(number)

    def listen(self, at_most: int = 1 << 16, part: slice = EVERYBODY) -> None:
        """Takes what has come, on each so many bytes."""
        for number in self.alive(part):
            try:
                data = self.sockets[number].recv(at_most)
            except BlockingIOError:
                continue
            except OSError:
                data = b""
            if not data:
                self.over.add(number)
            self.heard[number] += data
            self.toll.received += len(data)

    def reset(self) -> int:
        """How many the peer has reset, whether or not anything was read."""
        poll = select.poll()
        for sock in self.sockets:
            poll.register(sock, select.POLLERR)
        return len(poll.poll(0))

    def statuses(self) -> list[int]:
        """Of the first answer on each connection; 0 where there is none."""
        found = [STATUS.match(data) for data in self.heard]
        return [int(status[1]) if status else 0 for status in found]
