"""The file of the access log: opened, rotated, given up and taken up again.

The lines themselves are formatted and written natively, by the drain; this is only about the descriptor. Whatever is
wrong with the disk costs lines, never requests: a file that refuses one is closed; the next `check` cuts off its torn
last line and opens it again; `descriptor` is -1 until then. One warning says that lines are being lost, one that it is
over.

Opened without blocking: a FIFO whose reader stalls refuses lines (they are counted) and never holds the drain.
"""

from __future__ import annotations

import logging
import os
import stat
from pathlib import Path
from typing import Final

_LONGEST_LINE: Final = 64 * 1024
_log = logging.getLogger(__name__)
_FLAGS: Final = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC | os.O_NOCTTY | os.O_NONBLOCK


class AccessLogFile:
    """An append-only file at `path`, renamed to `<path>.1` when a check finds `max_bytes` or more in it (0 = never).

    Not thread-safe: `check` and `close` must not run while another thread writes to `descriptor`.
    """

    def __init__(self, path: Path, max_bytes: int) -> None:
        self._path = path
        self._max_bytes = max_bytes
        self._troubled = False
        self._stuck = False
        self.descriptor = -1
        self.rotations = 0

    def note(self, lost: int, reason: str | None = None) -> None:
        """Learns how many lines the last drain lost, of those it had to write. Any loss closes the file."""
        if lost:
            self.close()
        if lost and not self._troubled:
            self._troubled = True
            why = f": {reason}" if reason else "; is the disk full?"
            _log.warning("access log %s cannot be written%s; lines are lost and counted until it can", self._path, why)
        elif not lost and self._troubled:
            self._troubled = False
            _log.warning("access log %s is being written again", self._path)

    def check(self) -> None:
        """Opens what is not open or was replaced; rotates what grew too large. Never raises."""
        if self.descriptor >= 0 and (self._outgrown() or self._moved()):
            self.close()
        if self.descriptor < 0:
            try:
                _cut_torn_line(self._path)
                self.descriptor = os.open(self._path, _FLAGS, 0o600)
            except OSError as error:
                self.note(1, error.strerror)

    def close(self) -> None:
        if self.descriptor >= 0:
            os.close(self.descriptor)
            self.descriptor = -1

    def _outgrown(self) -> bool:
        now = os.fstat(self.descriptor)
        if not self._max_bytes or not stat.S_ISREG(now.st_mode) or now.st_size < self._max_bytes:
            return False
        try:
            self._path.replace(f"{self._path}.1")
        except OSError as error:
            if not self._stuck:
                self._stuck = True
                _log.warning("access log %s cannot be renamed: %s; it grows on", self._path, error.strerror)
            return False
        self._stuck = False
        self.rotations += 1
        return True

    def _moved(self) -> bool:
        ours = os.fstat(self.descriptor)
        try:
            there = self._path.stat()
        except OSError:
            return True
        return (ours.st_dev, ours.st_ino) != (there.st_dev, there.st_ino)


def _cut_torn_line(path: Path) -> None:
    """Truncates a regular file to its last whole line: what a full disk or a crash left of one would spoil the next."""
    try:
        if not stat.S_ISREG(path.stat().st_mode):
            return
    except FileNotFoundError:
        return
    with path.open("r+b", buffering=0) as file:
        start = max(file.seek(0, os.SEEK_END) - _LONGEST_LINE, 0)
        file.seek(start)
        tail = file.read(_LONGEST_LINE)
        if tail and not tail.endswith(b"\n"):
            file.truncate(start + tail.rfind(b"\n") + 1)
