"""Whether anything can have changed in folders since they were read, without reading them again.

Rules:
- Who makes, renames or removes a file changes its folder's time. A file that is written in place does not, so this is
  for folders whose files are put in place by renaming alone.
- The mark of a folder is taken before it is read, so what happens meanwhile is a change.
- File times are coarse (a tick of the kernel, 10 ms at most): a folder that changed just now may change again without
  showing it, so its mark says nothing. Neither does one of whole seconds: such a file system has no finer times.
"""

from __future__ import annotations

import os
import time
from pathlib import Path

MARGIN_NS = 100_000_000
_SECOND_NS = 1_000_000_000


class Marks:
    """The folders that one reading took in."""

    def __init__(self) -> None:
        self._marks: dict[str, tuple[int, ...]] = {}
        self._sound = True

    def take(self, folder: str | Path) -> None:
        """Marks a folder; call it before the folder is read."""
        mark = _mark(folder)
        changed_ns = mark[-1] if mark else 0
        if changed_ns % _SECOND_NS == 0 or time.time_ns() - changed_ns < MARGIN_NS:
            self.spoil()
        self._marks[os.fspath(folder)] = mark

    def spoil(self) -> None:
        """The reading missed something: it must be done again in any case."""
        self._sound = False

    def hold(self) -> bool:
        """Whether all folders are as they were; never without a folder."""
        return self._sound and bool(self._marks) and all(_mark(path) == was for path, was in self._marks.items())


def _mark(folder: str | Path) -> tuple[int, ...]:
    """What tells a folder from another one in its place, from what it was, and from one that is not ours alone."""
    try:
        found = os.lstat(folder)
    except OSError:
        return ()
    return (found.st_dev, found.st_ino, found.st_mode, found.st_uid, found.st_mtime_ns)
