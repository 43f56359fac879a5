"""The access log for a person: one short line a request, from the JSON that observability writes."""

from __future__ import annotations

import json
import os
import time
from collections import deque
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import TextIO

from pannier.shared.errors import PannierError

POLL_SECONDS = 0.2


def readable(line: str) -> str:
    """`10:07:02.891 inbound  GET /orders/7 -> 200 in 0.659 ms  orders`; a line that is no request stays as it is.

    What a terminal might obey, or what reads in another order than it is written, is escaped: the path is a stranger's.
    """
    return "".join(letter if letter.isprintable() else ascii(letter)[1:-1] for letter in _short(line))


def _short(line: str) -> str:
    try:
        request = json.loads(line)
        flags = "" if request["flags"] == "-" else f" {request['flags']}"
        return (
            f"{request['time'][11:23]} {request['direction']:8} {request['method']} {request['path']}"
            f" -> {request['status']}{flags} in {request['duration_ms']} ms  {request['service']}"
        )
    except (ValueError, KeyError, TypeError):
        return line


def lines(path: Path, *, tail: int, follow: bool) -> Iterator[str]:
    """The last `tail` lines of the log, then, to `follow` it, what is written from now on, over rotations.

    A line counts once it is whole. Raises PannierError if there is no log.
    """
    with _opened(path) as file:
        yield from deque(_rest(path, file), maxlen=tail)
        while follow and not (yield from _rest(path, file)):
            time.sleep(POLL_SECONDS)
    while follow:
        with _opened(path) as file:
            while not (yield from _rest(path, file)):
                time.sleep(POLL_SECONDS)


def _opened(path: Path) -> TextIO:
    try:
        return path.open(encoding="utf-8", errors="replace")
    except OSError as error:
        raise PannierError(
            f"no access log at {path}: {error.strerror}",
            hint="see `pannier sidecar list` for observability; its path is sidecars.observability.access_log.path",
        ) from error


def _rest(path: Path, file: TextIO) -> Generator[str, None, bool]:
    """The whole lines that were written since; returns whether the log goes on in another file."""
    is_last = _was_rotated(path, file.fileno())
    while True:
        begin = file.tell()
        line = file.readline()
        if not line.endswith("\n"):
            file.seek(begin)
            return is_last
        yield line.rstrip("\n")


def _was_rotated(path: Path, descriptor: int) -> bool:
    try:
        return path.stat().st_ino != os.fstat(descriptor).st_ino
    except FileNotFoundError:
        return False
