"""Rows side by side: each in a process of its own with a bed of its own, so many at a time.

While a row runs, most of the machine waits; so others can be tried meanwhile, unless they compare times. Whoever is
free takes the next row. Leaving early, by a signal too, ends all of them in order, and their beds with them.
"""

from __future__ import annotations

import subprocess
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from multiprocessing.connection import wait

from tests.faults.row import Row


def side_by_side(rows: Iterable[Row], lanes: int, command: Callable[[Row], Sequence[str]]) -> list[str]:
    """Tries the rows in their order, `command` being what tries one and says a line about it; says each line when its
    row is done. The names of the rows whose command has not ended with 0."""
    waiting = deque(rows)
    running: dict[int, tuple[Row, subprocess.Popen[str]]] = {}
    lost = []
    try:
        while waiting or running:
            while waiting and len(running) < lanes:
                row = waiting.popleft()
                process = subprocess.Popen(command(row), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True)
                assert process.stdout is not None
                running[process.stdout.fileno()] = row, process
            for pipe in wait(running):
                assert isinstance(pipe, int)
                row, process = running[pipe]
                said, _ = process.communicate()
                del running[pipe]
                print(said or f"LOST  {row.name}: its process ended with {process.returncode}\n", end="", flush=True)
                if process.returncode != 0:
                    lost.append(row.name)
    finally:
        for _, process in running.values():
            process.terminate()
        for _, process in running.values():
            process.communicate()
    return lost
