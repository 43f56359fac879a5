"""Durations as people write them in profiles: Gateway API GEP-2257 (`10s`, `500ms`, `1h30m`).

A `Duration` is the text itself, checked by its pattern when a profile is decoded, and turned into a number where it is
used. Refused: a class of its own, since every encoder and decoder on the bus would then need hooks for it; bare
numbers, since nobody knows their unit.
"""

from __future__ import annotations

import re
from typing import Annotated

from msgspec import Meta

# The lookahead refuses a trailing newline, which `$` alone lets pass.
PATTERN = r"^([0-9]{1,5}(h|m|s|ms)){1,4}$(?!\n)"
_PART = re.compile(r"([0-9]{1,5})(ms|h|m|s)")
_UNIT_MS = {"h": 3_600_000, "m": 60_000, "s": 1_000, "ms": 1}

Duration = Annotated[str, Meta(pattern=PATTERN, description='a duration such as "10s", "500ms" or "1h30m"')]


def milliseconds(duration: str) -> int:
    """The length in milliseconds. Raises ValueError if the text is no GEP-2257 duration."""
    if re.match(PATTERN, duration) is None:
        raise ValueError(f'{duration!r} is no duration; write it as "10s", "500ms" or "1h30m"')
    return sum(int(count) * _UNIT_MS[unit] for count, unit in _PART.findall(duration))


def seconds(duration: str) -> float:
    """The length in seconds. Raises ValueError if the text is no GEP-2257 duration."""
    return milliseconds(duration) / 1000


def format_milliseconds(length: int) -> str:
    """The shortest text whose `milliseconds` is `length`: `90000` gives `1m30s`, `0` gives `0s`.

    Raises ValueError for a negative length, or one of more than 99999 hours.
    """
    if length < 0 or length >= 100_000 * _UNIT_MS["h"]:
        raise ValueError(f"{length} ms cannot be written as a duration: 0 to 99999h are possible")
    text = ""
    for unit, size in _UNIT_MS.items():
        count, length = divmod(length, size)
        if count:
            text += f"{count}{unit}"
    return text or "0s"
