"""`pannier` with a time of day that can be set: `python -m tests.model.clocked FILE words...`; FILE has the seconds by
which it is wrong.

Only what tells the time of day is replaced, before anything of ours is imported; the clocks that never jump are as they
are. Refused: libfaketime, under which `clock_nanosleep` of a monotonic time fails, and with it what has nothing to do
with the time of day.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

SECOND_NS = 1_000_000_000


def main() -> None:
    """Replaces the time of day, and goes on as `pannier`."""
    file = Path(sys.argv[1])
    right = time.time_ns

    def time_ns() -> int:
        return right() + int(file.read_text()) * SECOND_NS

    time.time_ns = time_ns
    time.time = lambda: time_ns() / SECOND_NS
    sys.argv[:2] = ["pannier"]
    from pannier.supervisor.cli.main import main as pannier

    pannier()


if __name__ == "__main__":
    main()
