"""Looks at the frames of HTTP/2 before h2 does: how long they are, and how many. Pure.

h2 takes in a frame of any announced length before it says that it is too long, and bounds what a header may be
continued by at a megabyte. And it says nothing of frames for calls that are over, which cost as much as any.

A peer that leaves in good order (GOAWAY, NO_ERROR) still waits for its calls; h2 would send nothing any more. So h2 is
not told of it.
"""

from __future__ import annotations

from typing import Final

PREFACE_BYTES: Final = 24
HEAD_BYTES: Final = 9
MAX_FRAME: Final = 16_384
CONTINUED: Final = 5
"""CONTINUATION frames of one header."""
_GOAWAY: Final = 7
_CONTINUATION: Final = 9
_CODE: Final = slice(HEAD_BYTES + 4, HEAD_BYTES + 8)
"""Where a GOAWAY says why."""


class FrameError(Exception):
    """No frame that is taken."""


class Frames:
    """Follows the bytes of one connection. `number` counts the frames that have begun; `leaving`: the peer has said
    that it begins no more calls."""

    def __init__(self) -> None:
        self.number = 0
        self.leaving = False
        self._left = PREFACE_BYTES
        self._head = b""
        self._goodbye: bytearray | None = None
        self._continued = 0

    def feed(self, data: bytes | bytearray) -> bytes:
        """What h2 is to be told of the next bytes, and of those before that were kept back. Raises FrameError."""
        told = bytearray()
        at, end = 0, len(data)
        while True:
            until = min(at + self._left, end)
            (told if self._goodbye is None else self._goodbye).extend(data[at:until])
            self._left -= until - at
            at = until
            if self._left:
                return bytes(told)
            if self._goodbye is not None:
                self._end_goodbye(told)
            head = self._head + data[at : at + HEAD_BYTES - len(self._head)]
            at += len(head) - len(self._head)
            if len(head) < HEAD_BYTES:
                self._head = bytes(head)
                return bytes(told)
            self._head = b""
            self._begin(head)
            if head[3] == _GOAWAY:
                self._goodbye = bytearray(head)
            else:
                told += head

    def _begin(self, head: bytes | bytearray) -> None:
        self._left = int.from_bytes(head[:3])
        self.number += 1
        if self._left > MAX_FRAME:
            raise FrameError(f"a frame of {self._left} bytes, and {MAX_FRAME} are taken")
        self._continued = self._continued + 1 if head[3] == _CONTINUATION else 0
        if self._continued > CONTINUED:
            raise FrameError(f"a header in more than {CONTINUED + 1} frames")

    def _end_goodbye(self, told: bytearray) -> None:
        goodbye, self._goodbye = self._goodbye, None
        assert goodbye is not None, "there is one that ends"
        if goodbye[_CODE] == bytes(4) and not any(goodbye[5:HEAD_BYTES]):
            self.leaving = True
        else:
            told += goodbye
