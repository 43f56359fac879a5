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
