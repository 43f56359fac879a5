"""When a request counts as good: one answer for the rate of success that is shown, and the one that judges changes.

It follows Linkerd, where only 5xx and broken exchanges fail: a 404 says nothing about the health of whoever answered.
"""

from __future__ import annotations

from typing import Final

BROKEN: Final = frozenset({"UH", "UF", "UO", "NR", "URX", "UT", "UC", "UPE"})
"""Flags of exchanges that the upstream side did not complete, whatever status was already sent."""


def succeeded(status: int, flag: str) -> bool:
    """Whether a request counts as good in the success rate; status 0 = the caller was given none."""
    return 0 < status < 500 and flag not in BROKEN
