"""Looks at the frames of HTTP/2 before h2 does: how long they are, and how many. Pure.

h2 takes in a frame of any announced length before it says that it is too long, and bounds what a header may be
continued by at a megabyte. And it says nothing of frames for calls that are over, which cost as much as any.
"""

from __future__ import annotations

from typing import Final

PREFACE_BYTES: Final = 24
HEAD_BYTES: Final = 9
MAX_FRAME: Final = 16_384
CONTINUED: Final = 5
"""CONTINUATION frames of one header."""
_CONTINUATION: Final = 9


class FrameError(Exception):
    """No frame that is taken."""


class FrameCounter:
    """Follows the bytes of one connection."""

    def __init__(self) -> None:
        self._left = PREFACE_BYTES
        self._head = b""
        self._continued = 0

    def count(self, data: bytes | bytearray) -> int:
        """How many frames begin in the next bytes. Raises FrameError."""
        at, end, frames = 0, len(data), 0
        while True:
            at += self._left
            if at >= end:
                self._left = at - end
                return frames
            head = self._head + bytes(data[at : at + HEAD_BYTES - len(self._head)])
            at += len(head) - len(self._head)
            if len(head) < HEAD_BYTES:
                self._head, self._left = head, 0
                return frames
            self._head = b""
            self._left = int.from_bytes(head[:3])
            frames += 1
            if self._left > MAX_FRAME:
                raise FrameError(f"a frame of {self._left} bytes, and {MAX_FRAME} are taken")
            self._continued = self._continued + 1 if head[3] == _CONTINUATION else 0
            if self._continued > CONTINUED:
                raise FrameError(f"a header in more than {CONTINUED + 1} frames")
