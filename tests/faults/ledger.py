"""What the origins say they were asked: one line a request, written before it is answered.

The verdict comes from here and from the load's own report; the mesh is not asked. A line is `METHOD PATH NUMBER`, where
the path names the flow and is used once, so that numbers of another repetition cannot be mistaken for ours. A torn last
line is no entry.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path


@dataclass
class Ledger:
    """How often each number of each path was seen, by all origins of a folder together."""

    folder: Path
    _seen: dict[str, Counter[int]] = field(default_factory=dict)
    _read: dict[Path, int] = field(default_factory=dict)

    def seen(self, path: str) -> Counter[int]:
        """Times that each number of that path arrived at an origin, up to now."""
        for file in self.folder.glob("*.ledger"):
            with file.open("rb") as stream:
                stream.seek(self._read.get(file, 0))
                whole, newline, _ = stream.read().rpartition(b"\n")
            self._read[file] = self._read.get(file, 0) + len(whole) + len(newline)
            for where, number in entries(whole.split(b"\n") if whole else ()):
                self._seen.setdefault(where, Counter())[number] += 1
        return self._seen.get(path, Counter())

    def forget(self, path: str) -> None:
        """Lets go what is known of a path, once it is judged."""
        self._seen.pop(path, None)


def entries(lines: Iterable[bytes]) -> Iterable[tuple[str, int]]:
    """(path, number) of each line."""
    for line in lines:
        _, path, number = line.decode("latin-1").split(" ")
        yield path, int(number)


def faults(seen: Counter[int], *, answered: int, idempotent: bool) -> list[str]:
    """What the ledger says against a flow of which so many requests were answered."""
    found = []
    twice = sorted(number for number, times in seen.items() if times > 1)
    if twice and not idempotent:
        found.append(f"{len(twice)} numbers that may come once came twice, the first is {twice[0]}")
    if len(seen) < answered:
        found.append(f"{answered} requests were answered, {len(seen)} came to an origin")
    return found
