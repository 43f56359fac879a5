"""The epochs of our own instances: each life of an instance has a greater one, so that an older life always loses.

One counter an instance, below the state folder: it outlives the registry, which a clean stop leaves empty, and it
outlives a wall clock that was set back. Where even the counter is gone, the wall clock decides.
"""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

from pannier.shared.errors import Blame, PannierError
from pannier.shared.instances import Key
from pannier.sidecars.discovery.files import read_own, replace

FORGOTTEN_SECONDS = 30 * 86_400.0


class Epochs:
    """The counters below `root`, which is made when it is needed."""

    def __init__(self, root: Path) -> None:
        self._root = root

    def next(self, key: Key, at_least: int) -> int:
        """An epoch of at least `at_least`, greater than any before. Raises PannierError if it cannot be noted."""
        counter = self._root / f"{key[0]}@{key[1]}"
        noted = 0
        with contextlib.suppress(OSError, ValueError):
            noted = int(read_own(counter))
        epoch = max(noted + 1, at_least)
        try:
            self._root.mkdir(mode=0o700, exist_ok=True)
            replace(counter, b"%d\n" % epoch)
            self._forget(counter.stat().st_mtime)
        except OSError as error:
            raise PannierError(
                f"cannot note the epoch in {counter}: {error.strerror}",
                hint="other services may hold this one for an older life of itself; trying again",
                blame=Blame.PLATFORM,
            ) from error
        return epoch

    def _forget(self, now: float) -> None:
        for entry in list(os.scandir(self._root)):
            with contextlib.suppress(OSError):
                if now - entry.stat(follow_symlinks=False).st_mtime > FORGOTTEN_SECONDS:
                    os.unlink(entry.path)
