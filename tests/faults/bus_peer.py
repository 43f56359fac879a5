"""A peer of the bus that says exactly what it is told to, over a plain socket, and listens only when asked."""

from __future__ import annotations

import os
import socket
import time
from array import array
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Self

from pannier.shared import envelope, framing
from pannier.shared.envelope import CLI, Envelope, Hello, Reject, Welcome
from pannier.shared.framing import frame

PATIENCE_S = 10.0
CHUNK = 64 << 10


class Peer:
    """A connection while the block lasts. What comes with descriptors has them counted and closed."""

    def __init__(self, path: Path) -> None:
        self.socket = socket.socket(socket.AF_UNIX)
        self.descriptors = 0
        self.code = ""
        self.message = ""
        self._reader = framing.Reader()
        self._path = path

    def __enter__(self) -> Self:
        self.socket.settimeout(PATIENCE_S)
        self.socket.connect(str(self._path))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.socket.close()

    def say(self, *messages: Envelope) -> None:
        self.send(b"".join(map(frame, messages)))

    def send(self, data: bytes) -> None:
        """All of it, or as much as is taken before the peer closes."""
        with suppress(BrokenPipeError, ConnectionResetError):
            self.socket.sendall(data)

    def enter(self) -> Welcome:
        """Says Hello as a command does. Raises AssertionError unless it is welcome."""
        self.say(Hello(envelope.VERSION, "", os.getpid(), CLI))
        messages = self.hear()
        assert len(messages) == 1 and isinstance(messages[0], Welcome), f"not welcome: {messages}"
        return messages[0]

    def hear(self) -> Sequence[Envelope]:
        """The next messages; none at the end."""
        while True:
            space = socket.CMSG_SPACE(253 * array("i").itemsize)
            try:
                data, ancillary, _, _ = self.socket.recvmsg(CHUNK, space, socket.MSG_CMSG_CLOEXEC)
            except ConnectionResetError:
                return []
            for _, _, content in ancillary:
                for number in array("i", content):
                    self.descriptors += 1
                    os.close(number)
            if not data:
                return []
            if messages := [envelope.parse(body) for body in self._reader.feed(data)]:
                return messages

    def hear_end(self) -> float:
        """Seconds until the connection ends; `code` and `message` are then those of the last Reject.

        Raises TimeoutError after 10 s without a word.
        """
        began = time.monotonic()
        while messages := self.hear():
            for message in messages:
                if isinstance(message, Reject):
                    self.code, self.message = message.code, message.message
        return time.monotonic() - began
