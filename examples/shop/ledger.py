"""Ledgers: what a service says happened to a numbered request, written before it answers.

The verdict on a run comes from these files and from the load's own notes alone; the mesh is not asked.
Rules: one JSON object a line, one write a line (appends of different threads never mix); a torn last line is no entry.
A failure is *explained* only if it is a plain 503 and some service wrote its number down as injected; a reset, a slow
answer or a wrong body is never explained. A number that an origin saw twice, or never although it was answered as
done, is a failure of its own.
"""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path

INJECTED = "injected"
FOLDER = Path(__file__).resolve().parents[2] / "build" / "run" / "ledgers"


@dataclass(frozen=True, slots=True)
class Entry:
    number: int
    outcome: str


@dataclass(frozen=True, slots=True)
class Failure:
    """Why a request failed. `status` is that of the answer, 0 without one."""

    reason: str
    status: int = 0


@dataclass(frozen=True, slots=True)
class Verdict:
    """All failures by number, and those of them that an injected fault explains."""

    failed: Mapping[int, Failure]
    injected: frozenset[int]

    @property
    def unexplained(self) -> dict[int, Failure]:
        return {number: failure for number, failure in self.failed.items() if number not in self.injected}


def judge(failures: Mapping[int, Failure], done: Iterable[int], ledgers: Mapping[str, Iterable[Entry]]) -> Verdict:
    """Match the load's notes with the origins' ledgers.

    `failures`: what the load saw fail. `done`: numbers of orders that were answered as placed. `ledgers` by instance:
    `payments-v2` is one of payments.
    """
    failed = dict(failures)
    orders, payments = _of("orders", ledgers), _of("payments", ledgers)
    charged = Counter(entry.number for entry in payments if entry.outcome == "charged")
    for origin, entries in (("orders", orders), ("payments", payments)):
        seen = Counter(entry.number for entry in entries if entry.number)
        for number, times in seen.items():
            if times > 1:
                failed[number] = Failure(f"seen {times} times by {origin}")
    for number in done:
        if not charged[number]:
            failed[number] = Failure("answered as placed, but never charged")
    faults = {entry.number for entries in ledgers.values() for entry in entries if entry.outcome == INJECTED}
    explained = frozenset(number for number, failure in failed.items() if failure.status == 503 and number in faults)
    return Verdict(failed, explained)


def _of(service: str, ledgers: Mapping[str, Iterable[Entry]]) -> list[Entry]:
    return [entry for name, entries in ledgers.items() if name.partition("-")[0] == service for entry in entries]


def note(service: str, number: int, outcome: str) -> None:
    """Append an entry to the service's ledger, or to that of the instance that SHOP_INSTANCE names; OSError if it
    cannot be written."""
    os.write(
        _open(os.environ.get("SHOP_INSTANCE", service)),
        json.dumps({"number": number, "outcome": outcome}).encode() + b"\n",
    )


def read(service: str, folder: Path | None = None) -> list[Entry]:
    """All entries of a service's ledger; none if it has not written any."""
    try:
        lines = (folder or _folder()).joinpath(f"{service}.jsonl").read_bytes().split(b"\n")
    except FileNotFoundError:
        return []
    return [Entry(**json.loads(line)) for line in lines[:-1]]


def _folder() -> Path:
    return Path(os.environ.get("SHOP_LEDGERS", FOLDER))


@cache
def _open(service: str) -> int:
    folder = _folder()
    folder.mkdir(parents=True, exist_ok=True)
    return os.open(folder / f"{service}.jsonl", os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o644)
